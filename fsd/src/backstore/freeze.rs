//! Freezing: a live branch's own layer becomes one of those that are shared and never written, and
//! the branch goes on in a new one. Costs the files that are open, whatever the layer holds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::branch::{LiveBranch, note_sound};
use super::create::NewLayer;
use super::delta::DeltaMap;
use super::dirty::Dirty;
use super::error::StoreError;
use super::journal::Journal;
use super::layer::{JournalEnd, LayerView, Ledger};
use super::media::Media;
use super::meta::Snapshot;
use super::objects;
use super::snapshot::Held;
use super::store::layer_dir;
use super::within::Within;
use crate::core::record::{Content, Delta, InodeRec, LayerId, ObjectId};
use crate::core::types::Ino;

/// A file that is written to from outside, past the daemon, and so keeps its object: the frozen
/// layer gets a copy under the old number.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The file.
    pub ino: Ino,
    /// Its record for the new layer, with the content as it was.
    pub record: InodeRec,
}

/// Objects that moved to the new layer: old and new name.
pub type Moved = Vec<(ObjectId, ObjectId)>;

/// What freezing led to.
#[derive(Debug)]
pub struct Frozen {
    /// The frozen layers, lowest first: the state at that moment, for others to share.
    pub shared: Vec<LayerId>,
    /// The kept objects first, then those that no name leads to and that may be open.
    pub moved: Moved,
    /// The snapshot, if one was asked for.
    pub snapshot: Option<Snapshot>,
}

/// The state of the live branch that one layer more replaces.
struct Before {
    journal: Journal,
    dirty: Dirty,
    unnamed: BTreeSet<u64>,
    born_from: u64,
}

impl LiveBranch {
    /// Freezes the present state. A branch without changes of its own stays as it is.
    ///
    /// No object may be half made, and nobody may write to any but those of `kept` before this
    /// returns. Errors: the branch is as before.
    pub fn freeze(&mut self, held: &Held<'_>, kept: &[Kept]) -> Result<Frozen, StoreError> {
        self.freeze_as(held, None, kept)
    }

    /// As [`freeze`](Self::freeze); what was frozen becomes `snapshot`, whose layers are filled in.
    pub(super) fn freeze_as(
        &mut self,
        held: &Held<'_>,
        snapshot: Option<Snapshot>,
        kept: &[Kept],
    ) -> Result<Frozen, StoreError> {
        // Others may have changed the list of snapshots since the branch was opened.
        let known = held.store.branch(&self.info().name)?;
        let mut info = known.clone();
        let mut frozen = Frozen {
            shared: info.layers.clone(),
            moved: Vec::new(),
            snapshot,
        };
        if self.top_is_blank() {
            frozen.shared.pop();
            if let Some(snapshot) = &mut frozen.snapshot {
                snapshot.layers.clone_from(&frozen.shared);
                info.snapshots.push(snapshot.clone());
                held.put_branch(&known, &info)?;
            }
            self.set_info(info);
            return Ok(frozen);
        }
        self.drop_spares()?;
        self.make_whole()?;
        let old = *info
            .layers
            .last()
            .ok_or(StoreError::Invalid("a branch without layers"))?;
        let new = held.store.new_layer()?;
        let new_dir = layer_dir(new.id);
        info.layers.push(new.id);
        if let Some(snapshot) = &mut frozen.snapshot {
            snapshot.layers.clone_from(&frozen.shared);
            info.snapshots.push(snapshot.clone());
        }
        let root = &*held.store.media;
        let end = self.journal_end();
        let old_media = self.top_media()?;
        let within = Within::new(&held.store.media, layer_dir(old));
        let unnamed = self.unnamed.clone();
        let top = self.top_mut()?;
        // From now on it is only read, and need not be held.
        (top.end, top.media) = (end, Arc::new(within));
        let orphans: BTreeSet<u64> = top.ledger.orphans.union(&unnamed).copied().collect();
        let before = self.push_layer(new);
        let result = self
            .keep_objects(
                root,
                (old, info.layers[info.layers.len() - 1]),
                kept,
                &orphans,
                &mut frozen.moved,
            )
            .and_then(|()| self.make_whole())
            .and_then(|()| sync_left(root, &frozen.moved[..kept.len()]))
            .and_then(|()| sync_new(root, &new_dir))
            .and_then(|()| held.put_branch(&known, &info));
        if let Err(e) = result {
            self.pop_layer(before);
            if matches!(e, StoreError::Unsettled(_)) {
                // The layer may be frozen from now on: it takes no more writes.
                self.journal.poison();
                self.is_unsettled = true;
                return Err(e);
            }
            give_back(root, &frozen.moved);
            held.store.remove_tree(&new_dir);
            return Err(e);
        }
        // What goes bad in it from here on is damage.
        note_sound(&*old_media, end.generation, end.bytes);
        if let Some(account) = self.account() {
            account.moved(&frozen.moved[kept.len()..]);
        }
        self.set_info(info);
        Ok(frozen)
    }

    /// Makes the new layer the top one.
    fn push_layer(&mut self, new: NewLayer) -> Before {
        let before = Before {
            journal: std::mem::replace(&mut self.journal, new.journal),
            dirty: std::mem::take(&mut self.dirty),
            unnamed: std::mem::take(&mut self.unnamed),
            born_from: std::mem::replace(&mut self.born_from, self.next_ino),
        };
        self.stack.layers.push(Arc::new(LayerView {
            id: new.id,
            media: new.media,
            table: None,
            delta: DeltaMap::default(),
            ledger: Ledger::default(),
            end: JournalEnd::default(),
        }));
        before
    }

    fn pop_layer(&mut self, before: Before) {
        self.stack.layers.pop();
        self.journal = before.journal;
        self.dirty = before.dirty;
        self.unnamed = before.unnamed;
        self.born_from = before.born_from;
    }

    /// Moves the objects of `kept` from the old layer to the new one, which is the top already; and
    /// `orphans`, of which nothing that is frozen tells: in the old layer they would stay for ever.
    fn keep_objects(
        &mut self,
        root: &dyn Media,
        (old, new): (LayerId, LayerId),
        kept: &[Kept],
        orphans: &BTreeSet<u64>,
        moved: &mut Moved,
    ) -> Result<(), StoreError> {
        let mut deltas = Vec::with_capacity(kept.len());
        for file in kept {
            let Content::Object(from) = file.record.content else {
                return Err(StoreError::Invalid("only a whole object can be kept"));
            };
            if from.layer != old {
                return Err(StoreError::Invalid(
                    "an object of a frozen layer is not kept",
                ));
            }
            let to = self.take_number()?;
            debug_assert_eq!(to.layer, new);
            self.move_object(root, from, to)?;
            moved.push((from, to));
            let mut record = file.record.clone();
            record.content = Content::Object(to);
            record.dirty = true;
            deltas.push(Delta::PutInode(file.ino, Arc::new(record)));
        }
        for number in orphans {
            let (layer, number) = (old, *number);
            let from = ObjectId { layer, number };
            let old = object_path(from);
            // It may be gone already, and only the note of it left: no number is spent on that.
            if matches!(root.facts(&old), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
                continue;
            }
            let to = self.take_number()?;
            self.make_bucket(to.number)?;
            let new = object_path(to);
            match root.rename(&old, &new, false) {
                Ok(()) => {
                    moved.push((from, to));
                    deltas.push(Delta::Orphan(to));
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(StoreError::io("rename", root.describe(&old), e)),
            }
        }
        self.commit(deltas)
    }

    /// Gives the file of object `from` the name `to`, and leaves an equal copy under the old name.
    fn move_object(
        &mut self,
        root: &dyn Media,
        from: ObjectId,
        to: ObjectId,
    ) -> Result<(), StoreError> {
        let (old, new) = (object_path(from), object_path(to));
        let io = |op, path: &Path, e| StoreError::io(op, root.describe(path), e);
        self.make_bucket(to.number)?;
        let copy = objects::stage_copy(root, from, &old)?;
        let moved = root
            .link(&old, &new)
            .map_err(|e| io("link", &new, e))
            .and_then(|()| {
                let renamed = root.rename(&copy, &old, true);
                renamed.map_err(|e| {
                    // The new name is no object of anybody's.
                    let _ = root.unlink(&new);
                    io("rename", &old, e)
                })
            });
        if moved.is_err() {
            let _ = root.unlink(&copy);
        }
        moved
    }
}

/// Where an object is, from the store's directory.
fn object_path(id: ObjectId) -> PathBuf {
    layer_dir(id.layer).join(objects::path_of(id.number))
}

/// Makes durable that copies have taken the place of what was moved: the frozen layer must not be
/// found to share a file with the one that goes on.
fn sync_left(root: &dyn Media, moved: &[(ObjectId, ObjectId)]) -> Result<(), StoreError> {
    let buckets: BTreeSet<PathBuf> = moved
        .iter()
        .map(|(from, _)| layer_dir(from.layer).join(objects::bucket_of(from.number)))
        .collect();
    for dir in buckets {
        root.sync_dir(&dir)
            .map_err(|e| StoreError::io("sync", root.describe(&dir), e))?;
    }
    Ok(())
}

/// Makes the entry of a new layer durable.
fn sync_new(root: &dyn Media, dir: &Path) -> Result<(), StoreError> {
    for dir in [dir, Path::new(super::store::LAYERS)] {
        root.sync_dir(dir)
            .map_err(|e| StoreError::io("sync", root.describe(dir), e))?;
    }
    Ok(())
}

/// Takes the moves of a freezing that failed back.
fn give_back(root: &dyn Media, moved: &Moved) {
    for (from, to) in moved {
        if let Err(e) = root.rename(&object_path(*to), &object_path(*from), true) {
            // The copy that lies there is equal so far; later writes would be lost.
            tracing::error!(?from, error = %e, "cannot take back the move of an open file");
        }
    }
}
