//! Mending the files of a layer: a table from what is readable of it, a journal up to its first bad
//! frame. What is cut or replaced is kept aside first. The caller holds every branch on the layer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keep::Keeper;
use super::layer::Harm;
use crate::backstore::branch::{note_sound, read_sound};
use crate::backstore::delta::{DeltaMap, InodeWord};
use crate::backstore::error::StoreError;
use crate::backstore::journal::{self, HEADER_BYTES, Journal, JournalHeader};
use crate::backstore::layer::Files;
use crate::backstore::media::{Media, OpenMode, random_u64};
use crate::backstore::objects;
use crate::backstore::table::{self, Salvaged, TableContent, TableFacts};
use crate::core::record::{Content, Dentry, LayerId};
use crate::core::types::Ino;

/// Inode numbers left out where nobody knows how many of the highest ones were lost.
const NUMBERS_LEFT_OUT: u64 = 1 << 20;
/// Bits of a base inode number below the device index; numbers from the second on carry none.
const HOST_INO_BITS: u32 = 48;
const FIRST_HASHED: u64 = 1 << 60;

/// What came of it.
#[derive(Debug)]
pub enum Mended {
    /// This was done.
    Done(String),
    /// Nothing can be done, for this reason.
    Cannot(String),
}

/// Called with what will be lost, before it is.
pub type Note<'a> = dyn FnMut(String) -> Result<(), StoreError> + 'a;

/// Mends one harm.
pub fn mend(
    media: &Arc<dyn Media>,
    id: LayerId,
    keeper: &Keeper<'_>,
    harm: &Harm,
    lose: &mut Note<'_>,
) -> Result<Mended, StoreError> {
    match harm {
        Harm::Hopeless => Ok(Mended::Cannot("it cannot be mended".into())),
        Harm::Table(generation) | Harm::Facts(generation) => {
            rebuild_table(&**media, id, keeper, *generation, lose)
        }
        Harm::JournalHeader(generation, seq) | Harm::JournalMissing(generation, seq) => {
            let Some(first_seq) = *seq else {
                return Ok(Mended::Cannot(
                    "the table before the journal does not tell where it begins".into(),
                ));
            };
            let header = JournalHeader {
                layer: id,
                generation: *generation,
                first_seq,
            };
            if matches!(harm, Harm::JournalMissing(..)) {
                let at = media.describe(&journal::file_name(*generation));
                lose(format!("what {} held, which is missing", at.display()))?;
            }
            remake_header(&**media, keeper, header)
        }
        Harm::JournalCut(generation, offset) => {
            let at = media.describe(&journal::file_name(*generation));
            lose(format!("what {} holds from byte {offset} on", at.display()))?;
            cut(&**media, keeper, *generation, *offset)
        }
    }
}

fn words(kept: Option<PathBuf>) -> String {
    match kept {
        Some(path) => format!("; the old bytes are in {}", path.display()),
        None => String::new(),
    }
}

fn remake_header(
    media: &dyn Media,
    keeper: &Keeper<'_>,
    header: JournalHeader,
) -> Result<Mended, StoreError> {
    let name = journal::file_name(header.generation);
    let at = media.describe(&name);
    let kept = keeper.copy(&name, 0, &name.to_string_lossy())?;
    if kept.is_none() {
        Journal::create(media, header)?.sync_handle().sync()?;
        media
            .sync_dir(Path::new(""))
            .map_err(|e| StoreError::io("sync", media.describe(Path::new("")), e))?;
        forget_sound(media, header.generation, 0);
        return Ok(Mended::Done(format!("made {} anew, empty", at.display())));
    }
    Journal::write_header(media, header)?;
    let kept = words(kept);
    Ok(Mended::Done(format!(
        "wrote the header of {} anew{kept}",
        at.display()
    )))
}

/// Takes back a note that more than this was sound.
fn forget_sound(media: &dyn Media, generation: u64, frame_bytes: u64) {
    if read_sound(media).is_some_and(|(of, bytes)| of == generation && bytes > frame_bytes) {
        note_sound(media, generation, frame_bytes);
    }
}

fn cut(
    media: &dyn Media,
    keeper: &Keeper<'_>,
    generation: u64,
    offset: u64,
) -> Result<Mended, StoreError> {
    let name = journal::file_name(generation);
    let at = media.describe(&name);
    let kept = keeper.copy(&name, offset, &format!("{}.cut.{offset}", name.display()))?;
    let file = media
        .open(&name, OpenMode::ReadWrite)
        .map_err(|e| StoreError::io("open", &at, e).while_writing())?;
    file.set_len(offset)
        .and_then(|()| file.sync(true))
        .map_err(|e| StoreError::io("truncate", &at, e))?;
    // What later journals say builds on what was cut.
    let mut more = String::new();
    for later in Files::list(media)?.journals.range(generation + 1..) {
        let name = journal::file_name(*later);
        let path = keeper.take(&name, &name.to_string_lossy())?;
        more.push_str(&format!("; {} is in {}", name.display(), path.display()));
    }
    forget_sound(media, generation, offset.saturating_sub(HEADER_BYTES));
    let kept = words(kept);
    Ok(Mended::Done(format!(
        "cut {} at byte {offset}{kept}{more}",
        at.display()
    )))
}

fn rebuild_table(
    media: &dyn Media,
    id: LayerId,
    keeper: &Keeper<'_>,
    generation: u64,
    lose: &mut Note<'_>,
) -> Result<Mended, StoreError> {
    let name = table::file_name(generation);
    let at = media.describe(&name);
    let Some(saved) = table::salvage(media, id, generation) else {
        let why = "its header does not tell where its blocks are".to_owned();
        return Ok(Mended::Cannot(why));
    };
    let before = saved
        .facts
        .filter(|facts| (facts.layer, facts.generation) == (id, generation));
    let first_seq = match before {
        Some(facts) => Some(facts.next_seq),
        None => Journal::first_seq(media, id, generation),
    };
    let Some(next_seq) = first_seq else {
        let why = "neither its header nor its journal tell where it ends".to_owned();
        return Ok(Mended::Cannot(why));
    };
    let facts = facts_of(media, id, generation, next_seq, before, &saved)?;
    let missing = before.map(|facts| {
        let inodes = facts.inodes.saturating_sub(saved.inodes.len() as u64);
        let names = facts.dentries.saturating_sub(saved.dentries.len() as u64);
        (inodes, names)
    });
    let lost =
        missing.map(|(inodes, names)| format!(", {inodes} records and {names} names are lost"));
    // Nothing counts the maps; a file of extents without one may be right, or have lost it.
    let unmapped = maps_missing(&saved);
    match missing {
        None => lose(format!("an unknown part of {}", at.display()))?,
        Some((0, 0)) if unmapped == 0 => {}
        Some((0, 0)) => lose(format!(
            "maybe the extents of {unmapped} files in {}",
            at.display()
        ))?,
        Some((inodes, names)) => lose(format!(
            "{inodes} records and {names} names of {}",
            at.display()
        ))?,
    }
    let counts = format!(
        "wrote {} anew with {} records and {} names{}",
        at.display(),
        saved.inodes.len(),
        saved.dentries.len(),
        lost.unwrap_or_default()
    );
    let stage = PathBuf::from(format!(
        "table.{:016x}.stage",
        random_u64().map_err(|e| StoreError::io("name", media.describe(Path::new("")), e))?
    ));
    let devices = devices_of(&saved);
    let content = TableContent {
        merges: &[],
        inodes: Box::new(saved.inodes.into_iter().map(Ok)),
        dentries: Box::new(saved.dentries.into_iter().map(Ok)),
        extents: Box::new(saved.extents.into_iter().map(Ok)),
        devices: &devices,
        orphans: &saved.orphans,
    };
    let built = table::build(media, &stage, facts, content)
        .and_then(|()| keeper.copy(&name, 0, &name.to_string_lossy()));
    let published = built.and_then(|kept| {
        media
            .rename(&stage, &name, true)
            .and_then(|()| media.sync_dir(Path::new("")))
            .map_err(|e| StoreError::io("rename", &at, e))?;
        Ok(kept)
    });
    match published {
        Ok(kept) => Ok(Mended::Done(format!("{counts}{}", words(kept)))),
        Err(e) => {
            let _ = media.unlink(&stage);
            Err(e)
        }
    }
}

/// How many files of extents have no map.
fn maps_missing(saved: &Salvaged) -> usize {
    let files = saved.inodes.iter().filter(|(ino, word)| {
        let InodeWord::Is(rec) = word else {
            return false;
        };
        matches!(rec.content, Content::Extents { .. }) && !saved.extents.contains_key(ino)
    });
    files.count()
}

/// The facts of a table with what was saved: no number that was in use is given out again.
fn facts_of(
    media: &dyn Media,
    id: LayerId,
    generation: u64,
    next_seq: u64,
    before: Option<TableFacts>,
    saved: &Salvaged,
) -> Result<TableFacts, StoreError> {
    let mut seen = DeltaMap::default();
    for (ino, word) in &saved.inodes {
        if let InodeWord::Is(rec) = word {
            seen.apply(crate::core::record::Delta::PutInode(*ino, rec.clone()));
        }
    }
    for (ino, map) in &saved.extents {
        seen.apply(crate::core::record::Delta::SetExtents(*ino, map.clone()));
    }
    let next = |n: Option<u64>| n.map_or(0, |n| n.saturating_add(1));
    let targets = saved.dentries.values().filter_map(|dentry| match dentry {
        Dentry::Present { ino, .. } => Some(ino.0),
        Dentry::Whiteout => None,
    });
    let mut next_ino = next(saved.inodes.keys().map(|ino| ino.0).chain(targets).max());
    let mut next_object = next(seen.named_objects(id).last().copied())
        .max(next(saved.orphans.last().copied()))
        .max(1);
    next_ino = next_ino.max(Ino::FIRST_NEW.0);
    match before {
        Some(facts) => {
            next_ino = next_ino.max(facts.next_ino);
            next_object = next_object.max(facts.next_object);
        }
        None => {
            next_ino = next_ino.saturating_add(NUMBERS_LEFT_OUT);
            // Files tell which numbers were given out, even where their records are lost.
            next_object = next_object.max(next(objects::list_from(media, 0)?.last().copied()));
        }
    }
    Ok(TableFacts {
        layer: id,
        generation,
        next_ino,
        next_object,
        next_seq,
        inodes: 0,
        dentries: 0,
    })
}

/// The devices; where they are lost, each index that is in use stays taken, by no device there is.
fn devices_of(saved: &Salvaged) -> BTreeMap<u16, u64> {
    if let Some(devices) = &saved.devices {
        return devices.clone();
    }
    // Of what names lead to, the records may be lost.
    let named = saved.dentries.values();
    let targets: Vec<Ino> = named
        .filter_map(|dentry| match dentry {
            Dentry::Present { ino, .. } => Some(*ino),
            Dentry::Whiteout => None,
        })
        .collect();
    let indexes = saved
        .inodes
        .keys()
        .chain(targets.iter())
        .filter(|ino| ino.0 < FIRST_HASHED && **ino != Ino::ROOT)
        .filter_map(|ino| u16::try_from(ino.0 >> HOST_INO_BITS).ok());
    indexes
        .map(|index| (index, u64::MAX - u64::from(index)))
        .collect()
}
