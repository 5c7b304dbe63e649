//! The checkpoint table of a layer: immutable, sorted, looked up on demand.
//!
//! [`build`] writes one into a stage file and leaves publishing it to the layer; [`Table`] reads
//! one. The records sit in a redb database inside the file; [`image`] checks what redb reads.

mod image;
mod salvage;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use redb::{
    Builder, ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase, StorageError, TableDefinition,
    TableError,
};

pub use image::TableFacts;
use image::{Cause, CheckedImage, StageBackend, StageImage};
pub use salvage::{Salvaged, salvage, salvage_facts};

use super::codec;
use super::delta::InodeWord;
use super::error::StoreError;
use super::media::{Media, MediaFile, OpenMode};
use crate::core::record::{Dentry, ExtentMap, LayerId};
use crate::core::types::{Ino, Name};

const INODES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("inodes");
const DENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("dentries");
const EXTENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("extents");
const DEVICES: TableDefinition<'_, u64, u64> = TableDefinition::new("devices");
const ORPHANS: TableDefinition<'_, u64, ()> = TableDefinition::new("orphans");
/// Only in merged tables.
const MERGES: TableDefinition<'_, u64, u64> = TableDefinition::new("merges");

/// Pages an open table keeps in memory, in bytes: it counts for every layer of every live branch.
const READ_CACHE_BYTES: usize = 2 << 20;
/// Pages kept while a table is built, in bytes.
const BUILD_CACHE_BYTES: usize = 16 << 20;

/// A boxed walk over records, ascending by key.
pub type Walk<'a, K, V> = Box<dyn Iterator<Item = Result<(K, V), StoreError>> + 'a>;

/// The file name of a layer's table of `generation`.
pub fn file_name(generation: u64) -> PathBuf {
    PathBuf::from(format!("table.{generation}"))
}

/// What goes into a table. The walks ascend.
pub struct TableContent<'a> {
    /// Inodes.
    pub inodes: Walk<'a, Ino, InodeWord>,
    /// Names.
    pub dentries: Walk<'a, (Ino, Name), Dentry>,
    /// Whole extent maps.
    pub extents: Walk<'a, Ino, Arc<ExtentMap>>,
    /// Device index to device.
    pub devices: &'a BTreeMap<u16, u64>,
    /// Objects to remove on recovery unless the journal names them again.
    pub orphans: &'a BTreeSet<u64>,
    /// The layers it stands for, lowest first, where it is a merged one.
    pub merges: &'a [LayerId],
}

/// Builds a table in the stage file `stage` and syncs it. `facts.inodes` and `facts.dentries` are
/// counted here. On an error the stage file is left for the caller to remove.
pub fn build(
    media: &dyn Media,
    stage: &Path,
    mut facts: TableFacts,
    content: TableContent<'_>,
) -> Result<(), StoreError> {
    let path = media.describe(stage);
    let file: Arc<dyn MediaFile> = media
        .open(stage, OpenMode::CreateNew)
        .map_err(|e| StoreError::io("create", &path, e))?
        .into();
    let image = StageImage::new(file.clone());
    let engine = |e: redb::Error| engine_error(&path, "write", e, None);
    let db = Builder::new()
        .set_cache_size(BUILD_CACHE_BYTES)
        .create_with_backend(StageBackend(image.clone()))
        .map_err(|e| engine(e.into()))?;
    let txn = db.begin_write().map_err(|e| engine(e.into()))?;
    {
        let mut bytes = Vec::new();
        let mut inodes = txn.open_table(INODES).map_err(|e| engine(e.into()))?;
        for item in content.inodes {
            let (ino, word) = item?;
            bytes.clear();
            if let InodeWord::Is(rec) = &word {
                codec::encode_inode(&mut bytes, rec);
            }
            inodes
                .insert(ino.0, bytes.as_slice())
                .map_err(|e| engine(e.into()))?;
            facts.inodes += 1;
        }
        let mut dentries = txn.open_table(DENTRIES).map_err(|e| engine(e.into()))?;
        let mut key = Vec::new();
        for item in content.dentries {
            let ((parent, name), dentry) = item?;
            dentry_key(&mut key, parent, name.as_bytes());
            bytes.clear();
            codec::encode_dentry(&mut bytes, dentry);
            dentries
                .insert(key.as_slice(), bytes.as_slice())
                .map_err(|e| engine(e.into()))?;
            facts.dentries += 1;
        }
        let mut extents = txn.open_table(EXTENTS).map_err(|e| engine(e.into()))?;
        for item in content.extents {
            let (ino, map) = item?;
            bytes.clear();
            codec::encode_extents(&mut bytes, &map);
            extents
                .insert(ino.0, bytes.as_slice())
                .map_err(|e| engine(e.into()))?;
        }
        let mut devices = txn.open_table(DEVICES).map_err(|e| engine(e.into()))?;
        for (index, dev) in content.devices {
            devices
                .insert(u64::from(*index), *dev)
                .map_err(|e| engine(e.into()))?;
        }
        let mut orphans = txn.open_table(ORPHANS).map_err(|e| engine(e.into()))?;
        for number in content.orphans {
            orphans.insert(*number, ()).map_err(|e| engine(e.into()))?;
        }
        if !content.merges.is_empty() {
            let mut merges = txn.open_table(MERGES).map_err(|e| engine(e.into()))?;
            for (at, id) in (0..).zip(content.merges) {
                merges.insert(at, id.0).map_err(|e| engine(e.into()))?;
            }
        }
    }
    txn.commit().map_err(|e| engine(e.into()))?;
    db.close().map_err(|e| engine(e.into()))?;
    image::seal(&*file, image.len_bytes(), &facts)
        .map_err(|e| StoreError::io("write", &path, e))?;
    file.sync(true)
        .map_err(|e| StoreError::io("sync", &path, e))
}

/// Ascends like (parent, name).
fn dentry_key(out: &mut Vec<u8>, parent: Ino, name: &[u8]) {
    out.clear();
    out.extend_from_slice(&parent.0.to_be_bytes());
    out.extend_from_slice(name);
}

fn engine_error(
    path: &Path,
    op: &'static str,
    error: redb::Error,
    cause: Option<&OnceLock<Cause>>,
) -> StoreError {
    let io = |e| StoreError::io(op, path, e);
    match (cause.and_then(OnceLock::get), error) {
        (Some(Cause::BadBlock(block)), _) => {
            StoreError::damaged(path, format!("bad checksum of block {block}"))
        }
        (Some(Cause::Io(_, Some(code), _)), _) => io(io::Error::from_raw_os_error(*code)),
        (Some(Cause::Io(kind, None, what)), _) => io(io::Error::new(*kind, what.clone())),
        (None, redb::Error::Io(e)) => io(e),
        (None, redb::Error::PreviousIo) => io(io::Error::other("an earlier access failed")),
        (None, other) => StoreError::damaged(path, other.to_string()),
    }
}

/// Reads all of a table, also what no lookup touches, and says which of its blocks are bad. Calls
/// `each` with the bytes read at a time.
///
/// Errors: those of opening it: then header or block list are bad.
pub fn bad_blocks(
    media: &dyn Media,
    name: &Path,
    layer: LayerId,
    generation: u64,
    each: &mut dyn FnMut(u64),
) -> Result<Vec<u64>, StoreError> {
    let path = media.describe(name);
    let file = media
        .open(name, OpenMode::Read)
        .map_err(|e| StoreError::io("open", &path, e))?;
    let (image, _) = CheckedImage::open(file, path, layer, generation)?;
    Ok(image.bad_blocks(each))
}

/// A published table, open for lookups.
pub struct Table {
    path: PathBuf,
    facts: TableFacts,
    stored_bytes: u64,
    cause: Arc<OnceLock<Cause>>,
    inodes: ReadOnlyTable<u64, &'static [u8]>,
    dentries: ReadOnlyTable<&'static [u8], &'static [u8]>,
    extents: ReadOnlyTable<u64, &'static [u8]>,
    devices: ReadOnlyTable<u64, u64>,
    orphans: ReadOnlyTable<u64, ()>,
    merges: Option<ReadOnlyTable<u64, u64>>,
    _db: ReadOnlyDatabase,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("path", &self.path)
            .field("facts", &self.facts)
            .finish()
    }
}

impl Table {
    /// Opens the table of `generation` in the layer directory `media`.
    pub fn open(media: &dyn Media, layer: LayerId, generation: u64) -> Result<Self, StoreError> {
        Self::open_as(media, &file_name(generation), layer, generation)
    }

    /// As [`open`](Self::open), under another name.
    pub fn open_as(
        media: &dyn Media,
        name: &Path,
        layer: LayerId,
        generation: u64,
    ) -> Result<Self, StoreError> {
        let path = media.describe(name);
        let file = media
            .open(name, OpenMode::Read)
            .map_err(|e| StoreError::io("open", &path, e))?;
        let (image, facts) = CheckedImage::open(file, path.clone(), layer, generation)?;
        let cause = image.cause();
        let stored_bytes = image.stored_bytes();
        let engine = |e: redb::Error| engine_error(&path, "read", e, Some(&cause));
        let db = Builder::new()
            .set_cache_size(READ_CACHE_BYTES)
            .open_read_only_with_backend(image)
            .map_err(|e| engine(e.into()))?;
        let txn = db.begin_read().map_err(|e| engine(e.into()))?;
        Ok(Self {
            facts,
            stored_bytes,
            inodes: txn.open_table(INODES).map_err(|e| engine(e.into()))?,
            dentries: txn.open_table(DENTRIES).map_err(|e| engine(e.into()))?,
            extents: txn.open_table(EXTENTS).map_err(|e| engine(e.into()))?,
            devices: txn.open_table(DEVICES).map_err(|e| engine(e.into()))?,
            orphans: txn.open_table(ORPHANS).map_err(|e| engine(e.into()))?,
            merges: match txn.open_table(MERGES) {
                Ok(table) => Some(table),
                Err(TableError::TableDoesNotExist(_)) => None,
                Err(e) => return Err(engine(e.into())),
            },
            _db: db,
            cause: cause.clone(),
            path,
        })
    }

    /// What it says besides its records.
    pub fn facts(&self) -> &TableFacts {
        &self.facts
    }

    /// Bytes of the blocks that it stores.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    fn engine(&self, e: StorageError) -> StoreError {
        engine_error(&self.path, "read", e.into(), Some(&self.cause))
    }

    fn bad_record(&self, what: &str, e: impl std::fmt::Display) -> StoreError {
        StoreError::damaged(&self.path, format!("{what}: {e}"))
    }

    fn inode_word(&self, ino: u64, bytes: &[u8]) -> Result<InodeWord, StoreError> {
        if bytes.is_empty() {
            return Ok(InodeWord::Gone);
        }
        match codec::decode_inode(bytes) {
            Ok(rec) => Ok(InodeWord::Is(Arc::new(rec))),
            Err(e) => Err(self.bad_record(&format!("inode {ino}"), e)),
        }
    }

    fn dentry_word(&self, bytes: &[u8]) -> Result<Dentry, StoreError> {
        codec::decode_dentry(bytes).map_err(|e| self.bad_record("dentry", e))
    }

    fn extent_map(&self, ino: u64, bytes: &[u8]) -> Result<Arc<ExtentMap>, StoreError> {
        match codec::decode_extents(bytes) {
            Ok(map) => Ok(Arc::new(map)),
            Err(e) => Err(self.bad_record(&format!("extents of inode {ino}"), e)),
        }
    }

    /// What it says of an inode.
    pub fn inode(&self, ino: Ino) -> Result<Option<InodeWord>, StoreError> {
        let found = self.inodes.get(ino.0).map_err(|e| self.engine(e))?;
        found
            .map(|bytes| self.inode_word(ino.0, bytes.value()))
            .transpose()
    }

    /// What it says of a name.
    pub fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
        let mut key = Vec::with_capacity(8 + name.as_bytes().len());
        dentry_key(&mut key, parent, name.as_bytes());
        let found = self
            .dentries
            .get(key.as_slice())
            .map_err(|e| self.engine(e))?;
        found
            .map(|bytes| self.dentry_word(bytes.value()))
            .transpose()
    }

    /// What it says of a file's extents.
    pub fn extents(&self, ino: Ino) -> Result<Option<Arc<ExtentMap>>, StoreError> {
        let found = self.extents.get(ino.0).map_err(|e| self.engine(e))?;
        found
            .map(|bytes| self.extent_map(ino.0, bytes.value()))
            .transpose()
    }

    /// The devices it names.
    pub fn devices(&self) -> Result<BTreeMap<u16, u64>, StoreError> {
        let mut out = BTreeMap::new();
        for item in self.devices.range::<u64>(..).map_err(|e| self.engine(e))? {
            let (index, dev) = item.map_err(|e| self.engine(e))?;
            let index = u16::try_from(index.value()).map_err(|e| self.bad_record("device", e))?;
            out.insert(index, dev.value());
        }
        Ok(out)
    }

    /// The objects to remove on recovery.
    pub fn orphans(&self) -> Result<BTreeSet<u64>, StoreError> {
        let mut out = BTreeSet::new();
        for item in self.orphans.range::<u64>(..).map_err(|e| self.engine(e))? {
            out.insert(item.map_err(|e| self.engine(e))?.0.value());
        }
        Ok(out)
    }

    /// The layers that a merged table stands for, lowest first.
    pub fn merges(&self) -> Result<Vec<LayerId>, StoreError> {
        let mut out = Vec::new();
        if let Some(merges) = &self.merges {
            for item in merges.range::<u64>(..).map_err(|e| self.engine(e))? {
                out.push(LayerId(item.map_err(|e| self.engine(e))?.1.value()));
            }
        }
        Ok(out)
    }

    /// Walks all inodes.
    pub fn walk_inodes(&self) -> Result<Walk<'_, Ino, InodeWord>, StoreError> {
        let range = self.inodes.range::<u64>(..).map_err(|e| self.engine(e))?;
        Ok(Box::new(range.map(|item| {
            let (ino, bytes) = item.map_err(|e| self.engine(e))?;
            Ok((
                Ino(ino.value()),
                self.inode_word(ino.value(), bytes.value())?,
            ))
        })))
    }

    /// Walks the names in one directory, or all.
    pub fn walk_dentries(
        &self,
        parent: Option<Ino>,
    ) -> Result<Walk<'_, (Ino, Name), Dentry>, StoreError> {
        let range = match parent {
            None => self.dentries.range::<&[u8]>(..),
            Some(parent) => {
                let low = parent.0.to_be_bytes();
                match parent.0.checked_add(1) {
                    Some(next) => {
                        let high = next.to_be_bytes();
                        self.dentries
                            .range::<&[u8]>(low.as_slice()..high.as_slice())
                    }
                    None => self.dentries.range::<&[u8]>(low.as_slice()..),
                }
            }
        };
        Ok(Box::new(range.map_err(|e| self.engine(e))?.map(|item| {
            let (key, bytes) = item.map_err(|e| self.engine(e))?;
            let (parent, name) = match key.value().split_first_chunk::<8>() {
                Some((parent, name)) => (Ino(u64::from_be_bytes(*parent)), name),
                None => return Err(self.bad_record("dentry", "key too short")),
            };
            let name = Name::new(name).map_err(|e| self.bad_record("dentry", e))?;
            Ok(((parent, name), self.dentry_word(bytes.value())?))
        })))
    }

    /// Walks all extent maps.
    pub fn walk_extents(&self) -> Result<Walk<'_, Ino, Arc<ExtentMap>>, StoreError> {
        let range = self.extents.range::<u64>(..).map_err(|e| self.engine(e))?;
        Ok(Box::new(range.map(|item| {
            let (ino, bytes) = item.map_err(|e| self.engine(e))?;
            Ok((
                Ino(ino.value()),
                self.extent_map(ino.value(), bytes.value())?,
            ))
        })))
    }
}
