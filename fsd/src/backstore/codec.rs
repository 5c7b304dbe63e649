//! The bytes of records and deltas. FORMAT.md says the same in words.
//!
//! Decoding is total: any input gives a value or a [`CodecError`], never a panic and never an
//! allocation larger than the input. Encoding and decoding are inverse, byte for byte.

mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use wire::CodecError;
use wire::{Input, Result, kind_code, put_bytes, put_object, put_time, put_varint};

use crate::core::record::{
    Content, Delta, Dentry, ExtentMap, ExtentSource, Fingerprint, InodeRec, Origin,
};
use crate::core::types::Name;

/// Version byte that opens every inode record without blocks of its own.
const INODE_VERSION_PLAIN: u8 = 1;
/// Version byte that opens every inode record with them.
const INODE_VERSION_BLOCKS: u8 = 2;

/// One item of a journal frame: a delta of the branch, or the store's own note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A state change.
    Delta(Delta),
    /// Object numbers below this one may have been given out.
    NextObject(u64),
}

const FLAG_DIRTY: u8 = 1;
const FLAG_OBJECT_MTIME: u8 = 2;
const FLAG_ORIGIN: u8 = 4;
const FLAG_SYMLINK: u8 = 8;
const FLAG_XATTRS: u8 = 16;
const FLAG_BLOCKS: u8 = 32;
const FLAGS_KNOWN: u8 = 63;

/// Appends the bytes of `rec`.
pub fn encode_inode(out: &mut Vec<u8>, rec: &InodeRec) {
    let mut flags = 0;
    for (is_set, flag) in [
        (rec.dirty, FLAG_DIRTY),
        (rec.object_mtime.is_some(), FLAG_OBJECT_MTIME),
        (rec.origin.is_some(), FLAG_ORIGIN),
        (rec.symlink.is_some(), FLAG_SYMLINK),
        (!rec.xattrs.is_empty(), FLAG_XATTRS),
        (rec.blocks.is_some(), FLAG_BLOCKS),
    ] {
        if is_set {
            flags |= flag;
        }
    }
    let version = match rec.blocks {
        None => INODE_VERSION_PLAIN,
        Some(_) => INODE_VERSION_BLOCKS,
    };
    out.extend_from_slice(&[version, kind_code(rec.kind), flags]);
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
    if let Some(blocks) = rec.blocks {
        put_varint(out, blocks);
    }
}

/// Reads one inode record that fills `bytes`.
pub fn decode_inode(bytes: &[u8]) -> Result<InodeRec> {
    let mut input = Input { rest: bytes };
    let version = input.u8("a record's version")?;
    if !matches!(version, INODE_VERSION_PLAIN | INODE_VERSION_BLOCKS) {
        return Err(CodecError::BadTag {
            what: "inode record version",
            tag: version.into(),
        });
    }
    let kind = input.kind()?;
    let flags = input.u8("flags")?;
    let has_blocks = flags & FLAG_BLOCKS != 0;
    if flags & !FLAGS_KNOWN != 0 || has_blocks != (version == INODE_VERSION_BLOCKS) {
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
            _ => Some(Box::new(decode_origin(&mut input)?)),
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
        blocks: match has_blocks {
            false => None,
            true => Some(input.varint("blocks")?),
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
