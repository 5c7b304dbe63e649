//! Reads the bytes of a reviewed object, wherever they are: base, object, or a map of both.
//!
//! Never follows a link, never opens anything but regular files, never writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::base::Base;
use super::node::{Node, Source};
use crate::backstore::{ObjectFile, Records, StoreError};
use crate::core::record::{ExtentMap, ExtentSource, ObjectId};
use crate::core::types::Kind;

/// Opens the contents of nodes.
#[derive(Clone, Copy)]
pub struct ContentReader<'a> {
    base: &'a Base,
    records: &'a dyn Records,
    others: Option<&'a dyn Records>,
}

/// The bytes of one file, at the length that its node gave.
#[derive(Debug)]
pub struct Blob {
    len: u64,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    Zeros,
    Memory(Arc<[u8]>),
    File(File),
    Object(Box<dyn ObjectFile>),
    Extents {
        base: Option<File>,
        base_bytes: u64,
        map: Arc<ExtentMap>,
        objects: BTreeMap<ObjectId, Box<dyn ObjectFile>>,
    },
}

impl<'a> ContentReader<'a> {
    /// A reader over the branch's records and the base below them.
    pub fn new(base: &'a Base, records: &'a dyn Records) -> Self {
        ContentReader {
            base,
            records,
            others: None,
        }
    }

    /// The same, which also opens the objects of other records above the same base.
    pub fn and(self, others: &'a dyn Records) -> Self {
        ContentReader {
            others: Some(others),
            ..self
        }
    }

    /// Whether two objects of one kind have the same bytes. Reads only where they may differ, and
    /// takes what it reads from `budget_bytes`; what that does not allow for counts as different.
    ///
    /// Errors: one of them cannot be read.
    pub fn same(&self, a: &Node, b: &Node, budget_bytes: &mut u64) -> io::Result<bool> {
        if a.source == b.source && a.size == b.size {
            return Ok(true);
        }
        if a.kind != Kind::File || a.size != b.size {
            return Ok(false);
        }
        let ranges = ranges_apart(a, b);
        let cost = ranges.iter().map(|(_, len)| len).sum::<u64>();
        if cost > *budget_bytes {
            return Ok(false);
        }
        *budget_bytes -= cost;
        same_bytes(&self.open(a)?, &self.open(b)?, &ranges)
    }

    /// Opens the contents of `node`. A link's contents are its target.
    ///
    /// Errors: the file is gone or unreadable, or no regular file any more.
    pub fn open(&self, node: &Node) -> io::Result<Blob> {
        let (len, parts) = match &node.source {
            Source::None => (node.size, Parts::Zeros),
            Source::Symlink(target) => (target.len() as u64, Parts::Memory(target.clone())),
            Source::Base(path) => (node.size, Parts::File(self.base.file(path)?)),
            Source::Object(id) => (node.size, Parts::Object(self.object(*id)?)),
            Source::Extents {
                base,
                base_bytes,
                map,
                ..
            } => {
                let mut objects = BTreeMap::new();
                for (_, source) in map.values() {
                    if let ExtentSource::Object(id) = source
                        && !objects.contains_key(id)
                    {
                        objects.insert(*id, self.object(*id)?);
                    }
                }
                let base = match base {
                    Some(path) if *base_bytes > 0 => Some(self.base.file(path)?),
                    _ => None,
                };
                let parts = Parts::Extents {
                    base,
                    base_bytes: *base_bytes,
                    map: map.clone(),
                    objects,
                };
                (node.size, parts)
            }
        };
        Ok(Blob { len, parts })
    }

    fn object(&self, id: ObjectId) -> io::Result<Box<dyn ObjectFile>> {
        let opened = self.records.open_object(id, false);
        let opened = match (opened, self.others) {
            // Only one of the two may have the object's layer; that one's word counts.
            (Err(first), Some(others)) => match others.open_object(id, false) {
                Err(StoreError::Invalid(_)) => Err(first),
                other => other,
            },
            (opened, _) => opened,
        };
        opened.map_err(store_error)
    }
}

impl Blob {
    /// The blob of bytes in memory.
    pub fn of_bytes(bytes: Arc<[u8]>) -> Self {
        Blob {
            len: bytes.len() as u64,
            parts: Parts::Memory(bytes),
        }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buf` from `offset`; fewer bytes only at the end of the blob.
    ///
    /// Errors: `UnexpectedEof` if the file has become shorter than its node said.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(offset);
        let want = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buf = &mut buf[..want];
        match &self.parts {
            Parts::Zeros => buf.fill(0),
            Parts::Memory(bytes) => {
                let at = offset as usize;
                buf.copy_from_slice(&bytes[at..at + want]);
            }
            Parts::File(file) => file.read_exact_at(buf, offset)?,
            Parts::Object(object) => object_exact(object.as_ref(), buf, offset)?,
            Parts::Extents {
                base,
                base_bytes,
                map,
                objects,
            } => {
                read_extents(base.as_ref(), *base_bytes, map, objects, buf, offset)?;
            }
        }
        Ok(want)
    }

    /// All bytes in memory. The caller has looked at [`Blob::len`].
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len)
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "too large for memory"))?;
        let mut all = vec![0; len];
        self.read_at(0, &mut all)?;
        Ok(all)
    }

    /// Calls `each` with the bytes in order, in pieces of at most 1 MiB.
    pub fn each_piece<E: From<io::Error>>(
        &self,
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buf = vec![0; usize::try_from(self.len.min(PIECE_BYTES)).unwrap_or(0)];
        let mut at = 0;
        while at < self.len {
            let got = self.read_at(at, &mut buf)?;
            each(&buf[..got])?;
            at += got as u64;
        }
        Ok(())
    }
}

/// Where the bytes of a part of a file lie, at the same offset there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    Zero,
    Base(&'a [u8]),
    Object(ObjectId),
}

/// The parts of a regular file in order: where each ends, and where it lies.
fn places(node: &Node) -> Vec<(u64, Place<'_>)> {
    let (base, base_bytes, map) = match &node.source {
        Source::None | Source::Symlink(_) => return vec![(node.size, Place::Zero)],
        Source::Base(path) => return vec![(node.size, Place::Base(path))],
        Source::Object(id) => return vec![(node.size, Place::Object(*id))],
        Source::Extents {
            base,
            base_bytes,
            map,
            ..
        } => (base, *base_bytes, map),
    };
    let mut all = Vec::new();
    let mut at = 0;
    let gap = |all: &mut Vec<_>, from: u64, to: u64| {
        let visible = base_bytes.clamp(from, to);
        if let Some(path) = base.as_deref().filter(|_| visible > from) {
            all.push((visible, Place::Base(path)));
        }
        all.push((to, Place::Zero));
    };
    for (start, (len, source)) in map.iter() {
        gap(&mut all, at, (*start).max(at));
        at = start.saturating_add(*len);
        let place = match source {
            ExtentSource::Object(id) => Place::Object(*id),
            ExtentSource::Zero => Place::Zero,
        };
        all.push((at, place));
    }
    gap(&mut all, at, node.size.max(at));
    all
}

/// The ranges (offset, length) in which two files of one size do not lie in the same place.
fn ranges_apart(a: &Node, b: &Node) -> Vec<(u64, u64)> {
    let (left, right) = (places(a), places(b));
    let (mut i, mut j, mut at) = (0, 0, 0);
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    while let (Some((left_end, left)), Some((right_end, right))) = (left.get(i), right.get(j)) {
        let end = (*left_end).min(*right_end);
        if left != right && end > at {
            match ranges.last_mut() {
                Some((start, len)) if *start + *len == at => *len += end - at,
                _ => ranges.push((at, end - at)),
            }
        }
        at = at.max(end);
        i += usize::from(*left_end <= end);
        j += usize::from(*right_end <= end);
    }
    ranges
}

const PIECE_BYTES: u64 = 1 << 20;

/// Whether two blobs hold the same bytes within `ranges` (offset, length).
///
/// Errors: one of them cannot be read.
fn same_bytes(a: &Blob, b: &Blob, ranges: &[(u64, u64)]) -> io::Result<bool> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for &(start, len) in ranges {
        let end = start.saturating_add(len).min(a.len());
        let mut at = start;
        while at < end {
            let step = (end - at).min(PIECE_BYTES) as usize;
            left.resize(step, 0);
            right.resize(step, 0);
            let (got_a, got_b) = (a.read_at(at, &mut left)?, b.read_at(at, &mut right)?);
            if got_a != got_b || left != right {
                return Ok(false);
            }
            at += step as u64;
        }
    }
    Ok(true)
}

fn read_extents(
    base: Option<&File>,
    base_bytes: u64,
    map: &ExtentMap,
    objects: &BTreeMap<ObjectId, Box<dyn ObjectFile>>,
    buf: &mut [u8],
    offset: u64,
) -> io::Result<()> {
    let end = offset + buf.len() as u64;
    let mut at = offset;
    while at < end {
        let covering = map
            .range(..=at)
            .next_back()
            .filter(|(start, (len, _))| *start + len > at);
        let (stop, source) = match covering {
            Some((start, (len, source))) => (start + len, Some(*source)),
            None => (
                map.range(at..).next().map_or(end, |(start, _)| *start),
                None,
            ),
        };
        let stop = stop.min(end);
        let part = &mut buf[(at - offset) as usize..(stop - offset) as usize];
        match (source, base) {
            (Some(ExtentSource::Zero), _) => part.fill(0),
            (Some(ExtentSource::Object(id)), _) => {
                let object = objects.get(&id).ok_or(io::ErrorKind::NotFound)?;
                object_padded(object.as_ref(), part, at)?;
            }
            (None, Some(file)) if at < base_bytes => {
                let visible = part.len().min((base_bytes - at) as usize);
                let (from_base, beyond) = part.split_at_mut(visible);
                file_padded(file, from_base, at)?;
                beyond.fill(0);
            }
            (None, _) => part.fill(0),
        }
        at = stop;
    }
    Ok(())
}

/// Fills `buf`; an object that ends before is an error.
fn object_exact(object: &dyn ObjectFile, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if object_up_to(object, buf, offset)? < buf.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Fills `buf`; zeros stand for what lies beyond the object's end.
fn object_padded(object: &dyn ObjectFile, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let got = object_up_to(object, buf, offset)?;
    buf[got..].fill(0);
    Ok(())
}

fn object_up_to(object: &dyn ObjectFile, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match object
            .read_at(&mut buf[got..], offset + got as u64)
            .map_err(store_error)?
        {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

/// Fills `buf`; zeros stand for what lies beyond the file's end.
fn file_padded(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let mut got = 0;
    while got < buf.len() {
        match file.read_at(&mut buf[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buf[got..].fill(0);
    Ok(())
}

fn store_error(e: StoreError) -> io::Error {
    match e {
        StoreError::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}
