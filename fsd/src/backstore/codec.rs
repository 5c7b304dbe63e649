//! The bytes of records and deltas. FORMAT.md says the same in words.
//!
//! Decoding is total: any input gives a value or a [`CodecError`], never a panic and never an
//! allocation larger than the input. Encoding and decoding are inverse, byte for byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::record::{
    Content, Delta, Dentry, ExtentMap, ExtentSource, Fingerprint, InodeRec, LayerId, ObjectId,
    Origin,
};
use crate::core::types::{Ino, Kind, Name, NameError, Time};

/// Version byte that opens every inode record.
const INODE_VERSION: u8 = 1;

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ends inside a value.
    #[error("ends inside {0}")]
    Truncated(&'static str),
    /// Bytes are left after the value.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A tag or flag this version does not know.
    #[error("unknown {what} {tag}")]
    BadTag {
        /// What the tag selects.
        what: &'static str,
        /// The tag.
        tag: u64,
    },
    /// A number outside of what the field can hold.
    #[error("{0} out of range")]
    OutOfRange(&'static str),
    /// Entries that must ascend do not.
    #[error("{0} out of order")]
    OutOfOrder(&'static str),
    /// A name that cannot be one.
    #[error(transparent)]
    BadName(#[from] NameError),
}

type Result<T> = std::result::Result<T, CodecError>;

/// One item of a journal frame: a delta of the branch, or the store's own note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A state change.
    Delta(Delta),
    /// Object numbers below this one may have been given out.
    NextObject(u64),
}

/// Takes values off the front of a byte slice.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(n)
            .ok_or(CodecError::Truncated(what))?;
        self.rest = rest;
        Ok(head)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8> {
        Ok(self.take(1, what)?[0])
    }

    fn u64_le(&mut self, what: &'static str) -> Result<u64> {
        let bytes = self.take(8, what)?;
        let mut out = [0; 8];
        out.copy_from_slice(bytes);
        Ok(u64::from_le_bytes(out))
    }

    /// Little-endian base 128, shortest form only, so that equal values have equal bytes.
    fn varint(&mut self, what: &'static str) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(CodecError::OutOfRange(what));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(CodecError::OutOfRange(what));
                }
                return Ok(value);
            }
        }
        Err(CodecError::OutOfRange(what))
    }

    fn varint_u32(&mut self, what: &'static str) -> Result<u32> {
        u32::try_from(self.varint(what)?).map_err(|_| CodecError::OutOfRange(what))
    }

    fn bytes(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let len = self.varint(what)?;
        let len = usize::try_from(len).map_err(|_| CodecError::Truncated(what))?;
        self.take(len, what)
    }

    /// A count of entries that take at least `least` bytes each.
    fn count(&mut self, least: usize, what: &'static str) -> Result<usize> {
        let count = self.varint(what)?;
        match usize::try_from(count) {
            Ok(count) if count <= self.rest.len() / least => Ok(count),
            _ => Err(CodecError::Truncated(what)),
        }
    }

    fn time(&mut self, what: &'static str) -> Result<Time> {
        let raw = self.varint(what)?;
        let sec = (raw >> 1) as i64 ^ -((raw & 1) as i64);
        let nsec = self.varint_u32(what)?;
        if nsec >= 1_000_000_000 {
            return Err(CodecError::OutOfRange(what));
        }
        Ok(Time { sec, nsec })
    }

    fn kind(&mut self) -> Result<Kind> {
        Ok(match self.u8("a file type")? {
            1 => Kind::File,
            2 => Kind::Dir,
            3 => Kind::Symlink,
            4 => Kind::Fifo,
            5 => Kind::Socket,
            6 => Kind::Char,
            7 => Kind::Block,
            tag => {
                return Err(CodecError::BadTag {
                    what: "file type",
                    tag: tag.into(),
                });
            }
        })
    }

    fn ino(&mut self) -> Result<Ino> {
        Ok(Ino(self.varint("an inode number")?))
    }

    fn object(&mut self) -> Result<ObjectId> {
        let layer = LayerId(self.u64_le("a layer id")?);
        Ok(ObjectId {
            layer,
            number: self.varint("an object number")?,
        })
    }

    fn end(&self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing(self.rest.len()))
        }
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_time(out: &mut Vec<u8>, time: Time) {
    put_varint(out, ((time.sec << 1) ^ (time.sec >> 63)) as u64);
    put_varint(out, time.nsec.into());
}

fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::File => 1,
        Kind::Dir => 2,
        Kind::Symlink => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::Char => 6,
        Kind::Block => 7,
    }
}

fn put_object(out: &mut Vec<u8>, id: ObjectId) {
    out.extend_from_slice(&id.layer.0.to_le_bytes());
    put_varint(out, id.number);
}

const FLAG_DIRTY: u8 = 1;
const FLAG_OBJECT_MTIME: u8 = 2;
const FLAG_ORIGIN: u8 = 4;
const FLAG_SYMLINK: u8 = 8;
const FLAG_XATTRS: u8 = 16;
const FLAGS_KNOWN: u8 = 31;

/// Appends the bytes of `rec`.
pub fn encode_inode(out: &mut Vec<u8>, rec: &InodeRec) {
    let mut flags = 0;
    for (is_set, flag) in [
        (rec.dirty, FLAG_DIRTY),
        (rec.object_mtime.is_some(), FLAG_OBJECT_MTIME),
        (rec.origin.is_some(), FLAG_ORIGIN),
        (rec.symlink.is_some(), FLAG_SYMLINK),
        (!rec.xattrs.is_empty(), FLAG_XATTRS),
    ] {
        if is_set {
            flags |= flag;
        }
    }
    out.extend_from_slice(&[INODE_VERSION, kind_code(rec.kind), flags]);
    for value in [rec.perm, rec.uid, rec.gid, rec.nlink] {
        put_varint(out, value.into());
    }
    for value in [rec.rdev, rec.size, rec.generation] {
        put_varint(out, value);
    }
    for time in [rec.atime, rec.mtime, rec.ctime, rec.btime] {
        put_time(out, time);
    }
    if let Some(time) = rec.object_mtime {
        put_time(out, time);
    }
    if let Some(origin) = &rec.origin {
        let print = &origin.fingerprint;
        put_bytes(out, &origin.path);
        for value in [print.dev, print.ino, print.size] {
            put_varint(out, value);
        }
        for time in [print.mtime, print.ctime, print.btime] {
            put_time(out, time);
        }
    }
    match rec.content {
        Content::Empty => out.push(0),
        Content::Base => out.push(1),
        Content::Object(id) => {
            out.push(2);
            put_object(out, id);
        }
        Content::Extents { own, base_bytes } => {
            out.push(3);
            put_object(out, own);
            put_varint(out, base_bytes);
        }
    }
    if let Some(target) = &rec.symlink {
        put_bytes(out, target);
    }
    if !rec.xattrs.is_empty() {
        put_varint(out, rec.xattrs.len() as u64);
        for (name, value) in &rec.xattrs {
            put_bytes(out, name);
            put_bytes(out, value);
        }
    }
}

/// Reads one inode record that fills `bytes`.
pub fn decode_inode(bytes: &[u8]) -> Result<InodeRec> {
    let mut input = Input { rest: bytes };
    let version = input.u8("a record's version")?;
    if version != INODE_VERSION {
        return Err(CodecError::BadTag {
            what: "inode record version",
            tag: version.into(),
        });
    }
    let kind = input.kind()?;
    let flags = input.u8("flags")?;
    if flags & !FLAGS_KNOWN != 0 {
        return Err(CodecError::BadTag {
            what: "inode flags",
            tag: flags.into(),
        });
    }
    let perm = input.varint_u32("permissions")?;
    if perm > 0o7777 {
        return Err(CodecError::OutOfRange("permissions"));
    }
    let rec = InodeRec {
        kind,
        perm,
        uid: input.varint_u32("uid")?,
        gid: input.varint_u32("gid")?,
        nlink: input.varint_u32("nlink")?,
        rdev: input.varint("rdev")?,
        size: input.varint("size")?,
        generation: input.varint("generation")?,
        atime: input.time("atime")?,
        mtime: input.time("mtime")?,
        ctime: input.time("ctime")?,
        btime: input.time("btime")?,
        dirty: flags & FLAG_DIRTY != 0,
        object_mtime: match flags & FLAG_OBJECT_MTIME {
            0 => None,
            _ => Some(input.time("object mtime")?),
        },
        origin: match flags & FLAG_ORIGIN {
            0 => None,
            _ => Some(decode_origin(&mut input)?),
        },
        content: decode_content(&mut input)?,
        symlink: match flags & FLAG_SYMLINK {
            0 => None,
            _ => Some(input.bytes("a symlink target")?.into()),
        },
        xattrs: match flags & FLAG_XATTRS {
            0 => BTreeMap::new(),
            _ => decode_xattrs(&mut input)?,
        },
    };
    input.end()?;
    Ok(rec)
}

fn decode_origin(input: &mut Input<'_>) -> Result<Origin> {
    let path = input.bytes("an origin path")?;
    if path.first() != Some(&b'/') || path.contains(&0) {
        return Err(CodecError::OutOfRange("origin path"));
    }
    Ok(Origin {
        path: path.into(),
        fingerprint: Fingerprint {
            dev: input.varint("origin dev")?,
            ino: input.varint("origin ino")?,
            size: input.varint("origin size")?,
            mtime: input.time("origin mtime")?,
            ctime: input.time("origin ctime")?,
            btime: input.time("origin btime")?,
        },
    })
}

fn decode_content(input: &mut Input<'_>) -> Result<Content> {
    Ok(match input.u8("content")? {
        0 => Content::Empty,
        1 => Content::Base,
        2 => Content::Object(input.object()?),
        3 => Content::Extents {
            own: input.object()?,
            base_bytes: input.varint("base bytes")?,
        },
        tag => {
            return Err(CodecError::BadTag {
                what: "content",
                tag: tag.into(),
            });
        }
    })
}

type Xattrs = BTreeMap<Arc<[u8]>, Arc<[u8]>>;

fn decode_xattrs(input: &mut Input<'_>) -> Result<Xattrs> {
    let count = input.count(2, "attributes")?;
    if count == 0 {
        return Err(CodecError::OutOfRange("attributes"));
    }
    let mut out = Xattrs::new();
    for _ in 0..count {
        let name = input.bytes("an attribute name")?;
        if out
            .last_key_value()
            .is_some_and(|(last, _)| **last >= *name)
        {
            return Err(CodecError::OutOfOrder("attributes"));
        }
        out.insert(name.into(), input.bytes("an attribute value")?.into());
    }
    Ok(out)
}

/// Appends the bytes of `dentry`.
pub fn encode_dentry(out: &mut Vec<u8>, dentry: Dentry) {
    match dentry {
        Dentry::Whiteout => out.push(0),
        Dentry::Present { ino, kind } => {
            out.extend_from_slice(&[1, kind_code(kind)]);
            put_varint(out, ino.0);
        }
    }
}

fn take_dentry(input: &mut Input<'_>) -> Result<Dentry> {
    Ok(match input.u8("a dentry")? {
        0 => Dentry::Whiteout,
        1 => {
            let kind = input.kind()?;
            Dentry::Present {
                kind,
                ino: input.ino()?,
            }
        }
        tag => {
            return Err(CodecError::BadTag {
                what: "dentry",
                tag: tag.into(),
            });
        }
    })
}

/// Reads one dentry that fills `bytes`.
pub fn decode_dentry(bytes: &[u8]) -> Result<Dentry> {
    let mut input = Input { rest: bytes };
    let dentry = take_dentry(&mut input)?;
    input.end()?;
    Ok(dentry)
}

fn put_source(out: &mut Vec<u8>, source: ExtentSource) {
    match source {
        ExtentSource::Zero => out.push(0),
        ExtentSource::Object(id) => {
            out.push(1);
            put_object(out, id);
        }
    }
}

fn take_source(input: &mut Input<'_>) -> Result<ExtentSource> {
    Ok(match input.u8("an extent source")? {
        0 => ExtentSource::Zero,
        1 => ExtentSource::Object(input.object()?),
        tag => {
            return Err(CodecError::BadTag {
                what: "extent source",
                tag: tag.into(),
            });
        }
    })
}

/// Appends the bytes of `map`: a count, then per extent the gap since the end of the one before,
/// the length and the source.
pub fn encode_extents(out: &mut Vec<u8>, map: &ExtentMap) {
    put_varint(out, map.len() as u64);
    let mut end = 0u64;
    for (offset, (len, source)) in map {
        put_varint(out, offset.saturating_sub(end));
        put_varint(out, *len);
        put_source(out, *source);
        end = offset.saturating_add(*len);
    }
}

fn take_extents(input: &mut Input<'_>) -> Result<ExtentMap> {
    let count = input.count(3, "extents")?;
    let mut out = ExtentMap::new();
    let mut end = 0u64;
    for _ in 0..count {
        let gap = input.varint("an extent's offset")?;
        let offset = end
            .checked_add(gap)
            .ok_or(CodecError::OutOfRange("an extent's offset"))?;
        let len = input.varint("an extent's length")?;
        end = checked_extent_end(offset, len)?;
        out.insert(offset, (len, take_source(input)?));
    }
    Ok(out)
}

fn checked_extent_end(offset: u64, len: u64) -> Result<u64> {
    match offset.checked_add(len) {
        Some(end) if len > 0 => Ok(end),
        _ => Err(CodecError::OutOfRange("an extent's length")),
    }
}

/// Reads one extent map that fills `bytes`.
pub fn decode_extents(bytes: &[u8]) -> Result<ExtentMap> {
    let mut input = Input { rest: bytes };
    let map = take_extents(&mut input)?;
    input.end()?;
    Ok(map)
}

/// Appends the bytes of one delta.
pub fn encode_delta(out: &mut Vec<u8>, delta: &Delta) {
    match delta {
        Delta::PutInode(ino, rec) => {
            out.push(1);
            put_varint(out, ino.0);
            let mut bytes = Vec::with_capacity(128);
            encode_inode(&mut bytes, rec);
            put_bytes(out, &bytes);
        }
        Delta::DelInode(ino) => {
            out.push(2);
            put_varint(out, ino.0);
        }
        Delta::PutDentry(parent, name, dentry) => {
            out.push(3);
            put_varint(out, parent.0);
            put_bytes(out, name.as_bytes());
            encode_dentry(out, *dentry);
        }
        Delta::DelDentry(parent, name) => {
            out.push(4);
            put_varint(out, parent.0);
            put_bytes(out, name.as_bytes());
        }
        Delta::PutExtent(ino, offset, len, source) => {
            out.push(5);
            for value in [ino.0, *offset, *len] {
                put_varint(out, value);
            }
            put_source(out, *source);
        }
        Delta::SetExtents(ino, map) => {
            out.push(6);
            put_varint(out, ino.0);
            encode_extents(out, map);
        }
        Delta::Orphan(id) => {
            out.push(7);
            put_object(out, *id);
        }
        Delta::PutDevice { index, dev } => {
            out.push(8);
            put_varint(out, (*index).into());
            put_varint(out, *dev);
        }
    }
}

/// Appends the bytes of one item of a frame.
pub fn encode_item(out: &mut Vec<u8>, item: &Item) {
    match item {
        Item::Delta(delta) => encode_delta(out, delta),
        Item::NextObject(number) => {
            out.push(9);
            put_varint(out, *number);
        }
    }
}

/// Reads the items of a frame's payload.
pub fn decode_items(payload: &[u8]) -> Result<Vec<Item>> {
    let mut input = Input { rest: payload };
    let mut out = Vec::new();
    while !input.rest.is_empty() {
        out.push(take_item(&mut input)?);
    }
    Ok(out)
}

fn take_item(input: &mut Input<'_>) -> Result<Item> {
    let delta = match input.u8("a delta")? {
        1 => {
            let ino = input.ino()?;
            Delta::PutInode(
                ino,
                Arc::new(decode_inode(input.bytes("an inode record")?)?),
            )
        }
        2 => Delta::DelInode(input.ino()?),
        3 => {
            let parent = input.ino()?;
            let name = Name::new(input.bytes("a name")?)?;
            Delta::PutDentry(parent, name, take_dentry(input)?)
        }
        4 => Delta::DelDentry(input.ino()?, Name::new(input.bytes("a name")?)?),
        5 => {
            let (ino, offset, len) = (
                input.ino()?,
                input.varint("an offset")?,
                input.varint("a length")?,
            );
            checked_extent_end(offset, len)?;
            Delta::PutExtent(ino, offset, len, take_source(input)?)
        }
        6 => Delta::SetExtents(input.ino()?, Arc::new(take_extents(input)?)),
        7 => Delta::Orphan(input.object()?),
        8 => {
            let index = u16::try_from(input.varint("a device index")?)
                .map_err(|_| CodecError::OutOfRange("a device index"))?;
            Delta::PutDevice {
                index,
                dev: input.varint("a device")?,
            }
        }
        9 => return Ok(Item::NextObject(input.varint("an object number")?)),
        tag => {
            return Err(CodecError::BadTag {
                what: "delta",
                tag: tag.into(),
            });
        }
    };
    Ok(Item::Delta(delta))
}

#[cfg(test)]
mod tests;
