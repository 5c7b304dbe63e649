//! Saving records out of a table of which some blocks are bad.
//!
//! The engine stops at the first bad block it meets. Here the good blocks are gone through one by
//! one for leaves of its trees, whose layout its file format fixes, and every record in them is
//! decoded as strictly as ever. Each key is put once into a table, so a leaf that the engine left
//! behind says nothing else than the one in use. Holds the layer's records in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::image::{BLOCK_BYTES, CheckedImage};
use super::{Table, TableFacts, file_name};
use crate::backstore::codec;
use crate::backstore::delta::InodeWord;
use crate::backstore::journal::le_u32;
use crate::backstore::media::{Media, OpenMode};
use crate::core::record::{Dentry, ExtentMap, LayerId};
use crate::core::types::{Ino, Name};

/// First byte of a leaf page.
const LEAF: u8 = 1;
/// Bytes before the offsets of a leaf.
const LEAF_HEADER_BYTES: usize = 4;
/// Largest leaf that is believed, in bytes: a record of all extended attributes a file can have.
const LEAF_MAX_BYTES: usize = 1 << 24;

/// What could be read.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// Inodes.
    pub inodes: BTreeMap<Ino, InodeWord>,
    /// Names.
    pub dentries: BTreeMap<(Ino, Name), Dentry>,
    /// Extent maps.
    pub extents: BTreeMap<Ino, Arc<ExtentMap>>,
    /// Devices; `None` if they could not be read.
    pub devices: Option<BTreeMap<u16, u64>>,
    /// Orphans; none if they could not be read.
    pub orphans: BTreeSet<u64>,
    /// The header's facts, if it is sound.
    pub facts: Option<TableFacts>,
}

/// Reads what is readable of the table of `generation`; `None` if nothing is.
pub fn salvage(media: &dyn Media, layer: LayerId, generation: u64) -> Option<Salvaged> {
    let name = file_name(generation);
    let path: PathBuf = media.describe(&name);
    let file = media.open(&name, OpenMode::Read).ok()?;
    let (image, facts) = CheckedImage::open_damaged(file, path)?;
    let mut out = Salvaged {
        facts,
        ..Salvaged::default()
    };
    let mut block = 0;
    let mut first = vec![0u8; BLOCK_BYTES as usize];
    while block < image.blocks() {
        let taken = if image.read_good(block, &mut first) && first[0] == LEAF {
            take_leaf(&image, block, &first, &mut out)
        } else {
            0
        };
        block += taken.max(1);
    }
    // These two are single leaves that hold no record of their own kind: only the engine tells them.
    if let Ok(table) = Table::open(media, layer, generation) {
        out.devices = table.devices().ok();
        out.orphans = table.orphans().unwrap_or_default();
    }
    Some(out)
}

/// The facts of a table's header, if that is sound.
pub fn salvage_facts(media: &dyn Media, generation: u64) -> Option<TableFacts> {
    let name = file_name(generation);
    let path = media.describe(&name);
    let file = media.open(&name, OpenMode::Read).ok()?;
    CheckedImage::open_damaged(file, path)?.1
}

/// Takes the records of the leaf at `block`, if there is one; says how many blocks it covers.
fn take_leaf(image: &CheckedImage, block: u64, first: &[u8], out: &mut Salvaged) -> u64 {
    for has_long_keys in [false, true] {
        let Some(len) = leaf_len(first, has_long_keys) else {
            continue;
        };
        let blocks = (len as u64).div_ceil(BLOCK_BYTES);
        let mut page = first.to_vec();
        let whole = (1..blocks).all(|next| {
            let at = page.len();
            page.resize(at + BLOCK_BYTES as usize, 0);
            image.read_good(block + next, &mut page[at..])
        });
        if !whole {
            continue;
        }
        let Some(pairs) = pairs(&page[..len], has_long_keys) else {
            continue;
        };
        let taken = if has_long_keys {
            take_dentries(&pairs, out)
        } else {
            take_by_ino(&pairs, out)
        };
        if taken {
            return blocks;
        }
    }
    0
}

/// How long a leaf says it is.
fn leaf_len(first: &[u8], has_long_keys: bool) -> Option<usize> {
    let count = usize::from(u16::from_le_bytes([first[2], first[3]]));
    let last = LEAF_HEADER_BYTES + 4 * (count * (1 + usize::from(has_long_keys))).checked_sub(1)?;
    if count == 0 || last + 4 > first.len() {
        return None;
    }
    let len = le_u32(first, last) as usize;
    (last + 4..=LEAF_MAX_BYTES).contains(&len).then_some(len)
}

/// The keys and values of a leaf, if its offsets make sense.
fn pairs(page: &[u8], has_long_keys: bool) -> Option<Vec<(&[u8], &[u8])>> {
    let count = usize::from(u16::from_le_bytes([page[2], page[3]]));
    let offset = |i: usize| le_u32(page, LEAF_HEADER_BYTES + 4 * i) as usize;
    let lists = 1 + usize::from(has_long_keys);
    let keys_at = LEAF_HEADER_BYTES + 4 * count * lists;
    let key_end = |i: usize| match has_long_keys {
        true => offset(i),
        false => keys_at + 8 * (i + 1),
    };
    let value_end = |i: usize| offset(count * (lists - 1) + i);
    let mut key_start = keys_at;
    let mut value_start = key_end(count - 1);
    let mut out: Vec<(&[u8], &[u8])> = Vec::with_capacity(count);
    for i in 0..count {
        let key = page.get(key_start..key_end(i))?;
        let value = page.get(value_start..value_end(i))?;
        (key_start, value_start) = (key_end(i), value_end(i));
        out.push((key, value));
    }
    (value_start == page.len()).then_some(out)
}

fn take_by_ino(pairs: &[(&[u8], &[u8])], out: &mut Salvaged) -> bool {
    let inos: Option<Vec<Ino>> = pairs
        .iter()
        .map(|(key, _)| Some(Ino(u64::from_le_bytes((*key).try_into().ok()?))))
        .collect();
    let Some(inos) = inos.filter(|inos| inos.is_sorted_by(|a, b| a < b)) else {
        return false;
    };
    let records: Option<Vec<InodeWord>> = pairs
        .iter()
        .map(|(_, value)| match value {
            [] => Some(InodeWord::Gone),
            bytes => Some(InodeWord::Is(Arc::new(codec::decode_inode(bytes).ok()?))),
        })
        .collect();
    let maps: Option<Vec<Arc<ExtentMap>>> = pairs
        .iter()
        .map(|(_, value)| Some(Arc::new(codec::decode_extents(value).ok()?)))
        .collect();
    match (records, maps) {
        (Some(records), None) => out.inodes.extend(inos.into_iter().zip(records)),
        (None, Some(maps)) => out.extents.extend(inos.into_iter().zip(maps)),
        _ => return false,
    }
    true
}

fn take_dentries(pairs: &[(&[u8], &[u8])], out: &mut Salvaged) -> bool {
    let found: Option<Vec<((Ino, Name), Dentry)>> = pairs
        .iter()
        .map(|(key, value)| {
            let (parent, name) = key.split_first_chunk::<8>()?;
            let key = (Ino(u64::from_be_bytes(*parent)), Name::new(name).ok()?);
            Some((key, codec::decode_dentry(value).ok()?))
        })
        .collect();
    let Some(found) = found.filter(|found| found.is_sorted_by(|a, b| a.0 < b.0)) else {
        return false;
    };
    out.dentries.extend(found);
    true
}
