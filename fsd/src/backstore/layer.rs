//! One layer: its directory, the generation that counts, and what it says.
//!
//! A layer is its newest table and the journals that go on from it. A checkpoint from generation
//! G makes `journal.G+1`, then publishes `table.G+1` with one rename; only then do the files of G
//! go. So whatever is there after a crash, the newest table with the journals from its own number
//! on is the state before the checkpoint or the one after, which are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::codec::{self, Item};
use super::delta::{DeltaMap, InodeWord, each_object};
use super::error::StoreError;
use super::journal::{self, Frames, HEADER_BYTES, JournalHeader};
use super::media::{Media, OpenMode};
use super::merged;
use super::stack::{Lower, merge};
use super::table::{self, Table, Walk};
use crate::core::record::{Delta, Dentry, ExtentMap, LayerId, ObjectId};
use crate::core::types::{Ino, Name};

/// Times a reader starts again because a checkpoint moved the files beneath it.
const READ_ATTEMPTS: u32 = 50;

/// The name of a layer's directory.
pub fn dir_name(id: LayerId) -> String {
    format!("{:016x}", id.0)
}

/// What a layer says, and where.
#[derive(Debug)]
pub struct LayerView {
    pub(super) id: LayerId,
    pub(super) media: Arc<dyn Media>,
    pub(super) table: Option<Table>,
    pub(super) delta: DeltaMap,
    pub(super) ledger: Ledger,
    /// Where the journal of a frozen layer ends. The top one's is the live branch's to know.
    pub(super) end: JournalEnd,
}

/// What is made of the frames of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// They are applied.
    Apply,
    /// They are read, and that is all: whether they could be.
    Skim,
}

/// Where a journal ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalEnd {
    /// Its generation.
    pub generation: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Sequence number of the next frame.
    pub next_seq: u64,
}

/// What a layer has given out and may have to take back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// No inode number from here on was given out.
    pub next_ino: u64,
    /// No object number from here on was given out.
    pub next_object: u64,
    /// Objects to remove on recovery.
    pub orphans: BTreeSet<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            next_ino: Ino::FIRST_NEW.0,
            next_object: 1,
            orphans: BTreeSet::new(),
        }
    }
}

impl Ledger {
    fn saw_ino(&mut self, ino: Ino) {
        if ino >= Ino::FIRST_NEW {
            self.next_ino = self.next_ino.max(ino.0.saturating_add(1));
        }
    }

    fn saw_object(&mut self, layer: LayerId, id: ObjectId) {
        if id.layer == layer {
            self.next_object = self.next_object.max(id.number.saturating_add(1));
            self.orphans.remove(&id.number);
        }
    }

    /// Takes note of what a delta of `layer` names.
    pub fn saw(&mut self, layer: LayerId, delta: &Delta) {
        match delta {
            Delta::PutInode(ino, _)
            | Delta::DelInode(ino)
            | Delta::PutDentry(_, _, Dentry::Present { ino, .. }) => self.saw_ino(*ino),
            _ => {}
        }
        each_object(delta, &mut |id| self.saw_object(layer, id));
        if let Delta::Orphan(id) = delta
            && id.layer == layer
        {
            self.orphans.insert(id.number);
        }
    }
}

/// Where a layer's journal ends.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The header of the journal to go on with.
    pub header: JournalHeader,
    /// End of its last good frame, in bytes.
    pub len: u64,
    /// Sequence number of the next frame.
    pub next_seq: u64,
    /// What is behind that end, if anything.
    pub broken: Option<journal::Break>,
    /// Files that no longer count.
    pub leftovers: Vec<PathBuf>,
}

/// The files of a layer directory, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub tables: BTreeSet<u64>,
    pub journals: BTreeSet<u64>,
    pub stages: Vec<OsString>,
    /// There is a merged table.
    pub merged: bool,
    /// Everything else.
    pub others: Vec<OsString>,
}

impl Files {
    pub fn list(media: &dyn Media) -> Result<Self, StoreError> {
        let here = Path::new("");
        let mut out = Files {
            tables: BTreeSet::new(),
            journals: BTreeSet::new(),
            stages: Vec::new(),
            merged: false,
            others: Vec::new(),
        };
        let entries = media
            .list(here)
            .map_err(|e| StoreError::io("list", media.describe(here), e))?;
        for entry in entries {
            let Some(text) = entry.name.to_str() else {
                out.others.push(entry.name);
                continue;
            };
            let number = |prefix: &str| text.strip_prefix(prefix)?.parse::<u64>().ok();
            if text.ends_with(".stage") {
                out.stages.push(entry.name);
            } else if let Some(n) = number("table.") {
                out.tables.insert(n);
            } else if let Some(n) = number("journal.") {
                out.journals.insert(n);
            } else if text == merged::FILE {
                out.merged = true;
            } else {
                out.others.push(entry.name);
            }
        }
        Ok(out)
    }
}

impl LayerView {
    /// Loads a layer. `below` is what lies under it. A layer that is being written by someone else
    /// gives a prefix of what was committed.
    pub fn load(
        media: Arc<dyn Media>,
        id: LayerId,
        below: Lower<'_>,
    ) -> Result<(Self, Tail), StoreError> {
        Self::load_as(media, id, below, Content::Apply)
    }

    /// As [`load`](Self::load), or only as much of it as finds out whether it can be.
    pub fn load_as(
        media: Arc<dyn Media>,
        id: LayerId,
        below: Lower<'_>,
        content: Content,
    ) -> Result<(Self, Tail), StoreError> {
        let mut files = Files::list(&*media)?;
        for _ in 1..READ_ATTEMPTS {
            match Self::load_files(&media, id, (below, content), &files) {
                Ok(done) => return Ok(done),
                // The owner may have published a newer table meanwhile: then look again.
                Err(e @ (StoreError::Damaged { .. } | StoreError::Io { .. })) => {
                    let now = Files::list(&*media)?;
                    if now == files {
                        return Err(e);
                    }
                    files = now;
                }
                Err(e) => return Err(e),
            }
        }
        Self::load_files(&media, id, (below, content), &files)
    }

    fn load_files(
        media: &Arc<dyn Media>,
        id: LayerId,
        below: (Lower<'_>, Content),
        files: &Files,
    ) -> Result<(Self, Tail), StoreError> {
        let newest = files.tables.last().copied();
        let table = match newest {
            Some(generation) => Some(missing_is_damage(
                Table::open(&**media, id, generation),
                &media.describe(&table::file_name(generation)),
            )?),
            None => None,
        };
        let mut ledger = Ledger::default();
        let mut next_seq = 1;
        if let Some(table) = &table {
            let facts = table.facts();
            ledger.next_ino = facts.next_ino;
            ledger.next_object = facts.next_object;
            ledger.orphans = table.orphans()?;
            next_seq = facts.next_seq;
        }
        let mut view = LayerView {
            id,
            media: media.clone(),
            table,
            delta: DeltaMap::default(),
            ledger,
            end: JournalEnd::default(),
        };
        let first = newest.unwrap_or(0);
        let mut tail = view.replay(first, next_seq, below)?;
        for generation in first + 1.. {
            if !files.journals.contains(&generation) {
                break;
            }
            if view.is_empty_journal(generation)? {
                tail.leftovers.push(journal::file_name(generation));
                break;
            }
            if let Some(broken) = &tail.broken {
                let what = format!(
                    "{} at byte {}, and later journals follow",
                    broken.why, broken.offset
                );
                let name = journal::file_name(tail.header.generation);
                return Err(StoreError::damaged(media.describe(&name), what));
            }
            tail = view.replay(generation, tail.next_seq, below)?;
        }
        let counts = |n: &u64| (first..=tail.header.generation).contains(n);
        tail.leftovers.extend(
            files
                .tables
                .iter()
                .filter(|n| **n != first)
                .map(|n| table::file_name(*n)),
        );
        tail.leftovers.extend(
            files
                .journals
                .iter()
                .filter(|n| !counts(n))
                .map(|n| journal::file_name(*n)),
        );
        tail.leftovers
            .extend(files.stages.iter().map(PathBuf::from));
        tail.leftovers.sort();
        tail.leftovers.dedup();
        view.end = JournalEnd {
            generation: tail.header.generation,
            bytes: tail.len.saturating_sub(HEADER_BYTES),
            next_seq: tail.next_seq,
        };
        Ok((view, tail))
    }

    /// Whether a journal without a table of its number has no frames: then a checkpoint made it
    /// and never finished.
    pub(super) fn is_empty_journal(&self, generation: u64) -> Result<bool, StoreError> {
        let name = journal::file_name(generation);
        let path = self.media.describe(&name);
        let file = missing_is_damage(
            self.media
                .open(&name, OpenMode::Read)
                .map_err(|e| StoreError::io("open", &path, e)),
            &path,
        )?;
        Ok(file
            .stat()
            .map_err(|e| StoreError::io("stat", &path, e))?
            .len
            <= HEADER_BYTES)
    }

    /// Applies the frames of one journal.
    fn replay(
        &mut self,
        generation: u64,
        first_seq: u64,
        (below, content): (Lower<'_>, Content),
    ) -> Result<Tail, StoreError> {
        let name = journal::file_name(generation);
        let path = self.media.describe(&name);
        let file = missing_is_damage(
            self.media
                .open(&name, OpenMode::Read)
                .map_err(|e| StoreError::io("open", &path, e)),
            &path,
        )?;
        let mut frames = Frames::open(&*file, path.clone(), self.id, generation)?;
        if first_seq != frames.next_seq() {
            return Err(StoreError::damaged(
                path,
                "does not go on where the one before ended",
            ));
        }
        loop {
            let at = frames.offset();
            let Some(payload) = frames.next_payload()? else {
                break;
            };
            if content == Content::Skim {
                continue;
            }
            let items = codec::decode_items(payload)
                .map_err(|e| StoreError::damaged(&path, format!("frame at byte {at}: {e}")))?;
            for item in items {
                self.apply(item, below)?;
            }
        }
        Ok(Tail {
            header: frames.header(),
            len: frames.offset(),
            next_seq: frames.next_seq(),
            broken: frames.broken().cloned(),
            leftovers: Vec::new(),
        })
    }

    /// Applies one item.
    fn apply(&mut self, item: Item, below: Lower<'_>) -> Result<(), StoreError> {
        match item {
            Item::NextObject(number) => {
                self.ledger.next_object = self.ledger.next_object.max(number);
            }
            Item::Delta(delta) => {
                self.prepare(&delta, below)?;
                self.apply_prepared(delta);
            }
        }
        Ok(())
    }

    /// Loads what applying `delta` needs from the table and the layers below. Changes nothing
    /// that a reader sees.
    pub fn prepare(&mut self, delta: &Delta, below: Lower<'_>) -> Result<(), StoreError> {
        if let Some(ino) = self.delta.needs_extents(delta) {
            let found = match self.extents(ino)? {
                None => below.extents(ino)?,
                found => found,
            };
            self.delta.load_extents(ino, found.unwrap_or_default());
        }
        Ok(())
    }

    /// Applies a delta that was prepared. Cannot fail.
    pub fn apply_prepared(&mut self, delta: Delta) {
        self.ledger.saw(self.id, &delta);
        self.delta.apply(delta);
    }

    /// Records it has.
    pub fn records(&self) -> u64 {
        let facts = self.table.as_ref().map(Table::facts);
        let in_table = facts.map_or(0, |facts| facts.inodes + facts.dentries);
        in_table + self.delta.records()
    }

    /// What it says of an inode.
    pub fn inode(&self, ino: Ino) -> Result<Option<InodeWord>, StoreError> {
        match (self.delta.inode(ino), &self.table) {
            (Some(word), _) => Ok(Some(word.clone())),
            (None, Some(table)) => table.inode(ino),
            (None, None) => Ok(None),
        }
    }

    /// What it says of a name.
    pub fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
        match (self.delta.dentry(parent, name), &self.table) {
            (Some(word), _) => Ok(word),
            (None, Some(table)) => table.dentry(parent, name),
            (None, None) => Ok(None),
        }
    }

    /// Puts what it says of the names in a directory over `out`.
    pub fn dentries_over(
        &self,
        parent: Ino,
        out: &mut BTreeMap<Name, Dentry>,
    ) -> Result<(), StoreError> {
        let delta = self.delta.dentries_of(parent);
        if let Some(table) = &self.table {
            for item in table.walk_dentries(Some(parent))? {
                let ((_, name), dentry) = item?;
                if !delta.is_some_and(|names| names.contains_key(&name)) {
                    out.insert(name, dentry);
                }
            }
        }
        for (name, dentry) in delta.into_iter().flatten() {
            if let Some(dentry) = dentry {
                out.insert(name.clone(), *dentry);
            }
        }
        Ok(())
    }

    /// What it says of a file's extents: a whole map.
    pub fn extents(&self, ino: Ino) -> Result<Option<Arc<ExtentMap>>, StoreError> {
        match (self.delta.extents(ino), &self.table) {
            (Some(map), _) => Ok(Some(map.clone())),
            (None, Some(table)) => table.extents(ino),
            (None, None) => Ok(None),
        }
    }

    /// The devices it names.
    pub fn devices(&self) -> Result<BTreeMap<u16, u64>, StoreError> {
        let mut out = match &self.table {
            Some(table) => table.devices()?,
            None => BTreeMap::new(),
        };
        out.extend(self.delta.devices());
        Ok(out)
    }

    /// Walks all it says of inodes.
    pub fn walk_inodes(&self) -> Result<Walk<'_, Ino, InodeWord>, StoreError> {
        let mut walks: Vec<Walk<'_, Ino, InodeWord>> =
            vec![Box::new(self.delta.iter_inodes().map(Ok))];
        if let Some(table) = &self.table {
            walks.push(table.walk_inodes()?);
        }
        Ok(merge(walks))
    }

    /// Walks all it says of names.
    pub fn walk_dentries(&self) -> Result<Walk<'_, (Ino, Name), Dentry>, StoreError> {
        let mut walks: Vec<Walk<'_, (Ino, Name), Option<Dentry>>> =
            vec![Box::new(self.delta.iter_dentries().map(Ok))];
        if let Some(table) = &self.table {
            walks.push(Box::new(
                table
                    .walk_dentries(None)?
                    .map(|item| item.map(|(key, dentry)| (key, Some(dentry)))),
            ));
        }
        Ok(Box::new(merge(walks).filter_map(|item| match item {
            Ok((key, Some(dentry))) => Some(Ok((key, dentry))),
            Ok((_, None)) => None,
            Err(e) => Some(Err(e)),
        })))
    }

    /// Walks all it says of extents.
    pub fn walk_extents(&self) -> Result<Walk<'_, Ino, Arc<ExtentMap>>, StoreError> {
        let mut walks: Vec<Walk<'_, Ino, Arc<ExtentMap>>> =
            vec![Box::new(self.delta.iter_extents().map(Ok))];
        if let Some(table) = &self.table {
            walks.push(table.walk_extents()?);
        }
        Ok(merge(walks))
    }

    /// Whether it says nothing at all and never held an object.
    pub fn is_blank(&self) -> bool {
        self.table.is_none() && self.delta.is_empty() && self.ledger.next_object == 1
    }
}

/// A file that the layer must have and has not is damage, not an ordinary "no such file".
fn missing_is_damage<T>(result: Result<T, StoreError>, path: &Path) -> Result<T, StoreError> {
    result.map_err(|e| {
        if e.is_not_found() {
            StoreError::damaged(path, "is missing")
        } else {
            e
        }
    })
}
