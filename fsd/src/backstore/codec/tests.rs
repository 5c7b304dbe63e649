//! Round trips of random records, and random damage to their bytes.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::core::record::{LayerId, ObjectId};
use crate::core::types::{Ino, Kind, Time};

fn any_time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(sec, nsec)| Time { sec, nsec })
}

fn any_kind() -> impl Strategy<Value = Kind> {
    use Kind::*;
    prop::sample::select(vec![File, Dir, Symlink, Fifo, Socket, Char, Block])
}

fn any_object() -> impl Strategy<Value = ObjectId> {
    (any::<u64>(), any::<u64>()).prop_map(|(layer, number)| ObjectId {
        layer: LayerId(layer),
        number,
    })
}

fn any_bytes(most: usize) -> impl Strategy<Value = Arc<[u8]>> {
    vec(any::<u8>(), 0..most).prop_map(Into::into)
}

fn any_origin() -> impl Strategy<Value = Origin> {
    let path = vec(1..=255u8, 0..40).prop_map(|mut path| {
        path.insert(0, b'/');
        path.into()
    });
    (
        path,
        any::<(u64, u64, u64)>(),
        (any_time(), any_time(), any_time()),
    )
        .prop_map(|(path, (dev, ino, size), (mtime, ctime, btime))| Origin {
            path,
            fingerprint: Fingerprint {
                dev,
                ino,
                size,
                mtime,
                ctime,
                btime,
            },
        })
}

fn any_content() -> impl Strategy<Value = Content> {
    prop_oneof![
        Just(Content::Empty),
        Just(Content::Base),
        any_object().prop_map(Content::Object),
        (any_object(), any::<u64>())
            .prop_map(|(own, base_bytes)| Content::Extents { own, base_bytes }),
    ]
}

pub(crate) fn any_inode() -> impl Strategy<Value = InodeRec> {
    let ids = (
        any_kind(),
        0..=0o7777u32,
        any::<(u32, u32, u32)>(),
        any::<(u64, u64, u64)>(),
    );
    let times = (
        any_time(),
        any_time(),
        any_time(),
        any_time(),
        option::of(any_time()),
        option::of(any::<u64>()),
    );
    let rest = (
        any::<bool>(),
        option::of(any_origin()),
        any_content(),
        option::of(any_bytes(40)),
        btree_map(any_bytes(12), any_bytes(30), 0..4),
    );
    (ids, times, rest).prop_map(
        |(
            (kind, perm, (uid, gid, nlink), (rdev, size, generation)),
            (atime, mtime, ctime, btime, object_mtime, blocks),
            (dirty, origin, content, symlink, xattrs),
        )| InodeRec {
            kind,
            perm,
            uid,
            gid,
            rdev,
            nlink,
            size,
            atime,
            mtime,
            ctime,
            btime,
            object_mtime,
            blocks,
            dirty,
            generation,
            origin: origin.map(Box::new),
            content,
            symlink,
            xattrs,
        },
    )
}

fn any_name() -> impl Strategy<Value = Name> {
    vec(any::<u8>(), 1..=255).prop_filter_map("no name", |bytes| Name::new(&bytes).ok())
}

fn any_dentry() -> impl Strategy<Value = Dentry> {
    prop_oneof![
        Just(Dentry::Whiteout),
        (any::<u64>(), any_kind()).prop_map(|(ino, kind)| Dentry::Present {
            ino: Ino(ino),
            kind
        }),
    ]
}

fn any_source() -> impl Strategy<Value = ExtentSource> {
    prop_oneof![
        Just(ExtentSource::Zero),
        any_object().prop_map(ExtentSource::Object)
    ]
}

fn any_extents() -> impl Strategy<Value = ExtentMap> {
    vec((0..1u64 << 40, 1..1u64 << 40, any_source()), 0..6).prop_map(|list| {
        let mut map = ExtentMap::new();
        let mut at = 0;
        for (gap, len, source) in list {
            at += gap;
            map.insert(at, (len, source));
            at += len;
        }
        map
    })
}

fn any_item() -> impl Strategy<Value = Item> {
    let ino = || any::<u64>().prop_map(Ino);
    let delta = prop_oneof![
        (ino(), any_inode()).prop_map(|(ino, rec)| Delta::PutInode(ino, Arc::new(rec))),
        ino().prop_map(Delta::DelInode),
        (ino(), any_name(), any_dentry()).prop_map(|(p, n, d)| Delta::PutDentry(p, n, d)),
        (ino(), any_name()).prop_map(|(p, n)| Delta::DelDentry(p, n)),
        (ino(), 0..1u64 << 62, 1..1u64 << 62, any_source())
            .prop_map(|(ino, offset, len, s)| Delta::PutExtent(ino, offset, len, s)),
        (ino(), any_extents()).prop_map(|(ino, map)| Delta::SetExtents(ino, Arc::new(map))),
        any_object().prop_map(Delta::Orphan),
        any::<(u16, u64)>().prop_map(|(index, dev)| Delta::PutDevice { index, dev }),
    ];
    prop_oneof![9 => delta.prop_map(Item::Delta), 1 => any::<u64>().prop_map(Item::NextObject)]
}

fn encode(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    items.iter().for_each(|item| encode_item(&mut out, item));
    out
}

proptest! {
    #[test]
    fn items_come_back(items in vec(any_item(), 0..8)) {
        prop_assert_eq!(decode_items(&encode(&items)), Ok(items));
    }

    /// What decodes has exactly one encoding: the bytes it was decoded from.
    #[test]
    fn damaged_bytes_give_an_error_or_other_items(
        items in vec(any_item(), 1..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = encode(&items);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(items) = decode_items(&bytes) {
            prop_assert_eq!(encode(&items), bytes);
        }
    }

    #[test]
    fn noise_is_never_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode_items(&bytes);
        let _ = decode_inode(&bytes);
        let _ = decode_dentry(&bytes);
        let _ = decode_extents(&bytes);
    }
}

#[test]
fn a_record_is_of_the_lowest_version_that_can_say_it() {
    // What an agentfs wrote that knew no blocks: a file of 5 bytes in object 3 of layer 7.
    let old = [
        vec![1, 1, 1, 0xa4, 3, 0, 0, 1, 0, 5, 0],
        vec![2, 0, 2, 0, 2, 0, 2, 0],
        vec![2, 7, 0, 0, 0, 0, 0, 0, 0, 3],
    ]
    .concat();
    let mut rec = decode_inode(&old).unwrap();
    assert_eq!((rec.size, rec.blocks), (5, None));
    let bytes = |rec: &InodeRec| {
        let mut out = Vec::new();
        encode_inode(&mut out, rec);
        out
    };
    assert_eq!(bytes(&rec), old);
    rec.blocks = Some(300);
    let mut new = [&old[..], &[0xac, 2]].concat();
    (new[0], new[2]) = (2, 1 | 32);
    assert_eq!(bytes(&rec), new);
    assert_eq!(decode_inode(&new), Ok(rec));
    // Neither version says what belongs to the other, and there is none above.
    for (version, flags) in [(1, 1 | 32), (2, 1), (3, 1 | 32), (0, 1)] {
        (new[0], new[2]) = (version, flags);
        assert!(matches!(decode_inode(&new), Err(CodecError::BadTag { .. })));
    }
}

#[test]
fn a_claimed_length_is_checked_against_what_remains() {
    // SetExtents of inode 1 with 2^60 extents, a name of 2^40 bytes, an attribute list of 2^50.
    for (head, count) in [(vec![6, 1], 1u64 << 60), (vec![3, 1], 1 << 40)] {
        let mut bytes = head;
        put_varint(&mut bytes, count);
        assert!(matches!(
            decode_items(&bytes),
            Err(CodecError::Truncated(_))
        ));
    }
}

#[test]
fn extents_that_overflow_are_refused() {
    let mut bytes = Vec::new();
    encode_delta(
        &mut bytes,
        &Delta::PutExtent(Ino(1), u64::MAX, 1, ExtentSource::Zero),
    );
    assert!(matches!(
        decode_items(&bytes),
        Err(CodecError::OutOfRange(_))
    ));
    let mut bytes = Vec::new();
    encode_delta(
        &mut bytes,
        &Delta::PutExtent(Ino(1), 5, 0, ExtentSource::Zero),
    );
    assert!(matches!(
        decode_items(&bytes),
        Err(CodecError::OutOfRange(_))
    ));
}

#[test]
fn numbers_have_one_form_only() {
    // DelInode 1, written in two bytes.
    assert_eq!(
        decode_items(&[2, 0x81, 0x00]),
        Err(CodecError::OutOfRange("an inode number"))
    );
    assert_eq!(
        decode_items(&[2, 1]),
        Ok(vec![Item::Delta(Delta::DelInode(Ino(1)))])
    );
}
