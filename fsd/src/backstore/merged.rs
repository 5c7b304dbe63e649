//! [`Merged`]: the table of a frozen layer that says what it and all layers below say together, so
//! that a lookup costs the same however deep the stack is.
//!
//! What lies below a frozen layer never changes, so the table holds for every stack on that layer.
//! Nothing hangs on it: without it the layers themselves are asked. Objects stay where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::delta::InodeWord;
use super::error::StoreError;
use super::media::Media;
use super::snapshot::Held;
use super::stack::Lower;
use super::store::{Listed, Store, layer_dir};
use super::table::{self, Table, TableContent, TableFacts, Walk};
use super::within::Within;
use crate::core::record::LayerId;

/// Its file in the directory of the layer.
pub(super) const FILE: &str = "merged";
/// What its header gives as its generation: no layer's own table has that one.
pub(super) const GENERATION: u64 = 0;

/// An open merged table.
#[derive(Debug)]
pub struct Merged {
    ids: Vec<LayerId>,
    root: Arc<dyn Media>,
    pub(super) table: Table,
}

impl Merged {
    /// Opens the merged table of the top one of `ids`, lowest first. `None`: there is none, or none
    /// of these layers.
    pub(super) fn open(root: &Arc<dyn Media>, ids: &[LayerId]) -> Result<Option<Self>, StoreError> {
        let Some(top) = ids.last() else {
            return Ok(None);
        };
        let media = Within::new(root, layer_dir(*top));
        let table = match Table::open_as(&media, Path::new(FILE), *top, GENERATION) {
            Err(e) if e.is_not_found() => return Ok(None),
            other => other?,
        };
        Ok((table.merges()? == ids).then(|| Self {
            ids: ids.to_vec(),
            root: root.clone(),
            table,
        }))
    }

    /// The directory of one of its layers.
    pub(super) fn layer(&self, id: LayerId) -> Option<Within> {
        (self.ids.contains(&id)).then(|| Within::new(&self.root, layer_dir(id)))
    }

    /// The layers it stands for, lowest first.
    pub(super) fn ids(&self) -> &[LayerId] {
        &self.ids
    }

    /// Records in it.
    pub(super) fn records(&self) -> u64 {
        let facts = self.table.facts();
        facts.inodes + facts.dentries
    }
}

/// Ends a walk with an error once `stop` is set.
fn until<'a, K: 'a, V: 'a>(walk: Walk<'a, K, V>, stop: &'a AtomicBool) -> Walk<'a, K, V> {
    Box::new(walk.map(move |item| match stop.load(Ordering::Relaxed) {
        true => Err(stopped()),
        false => item,
    }))
}

/// What a build that was told to stop ends with.
pub(super) fn stopped() -> StoreError {
    let why = std::io::ErrorKind::Interrupted;
    StoreError::io("finish", "a table", why.into())
}

/// Builds the merged table of the layers `ids`, which `stack` shows, in a stage file of the topmost;
/// says which. Reads frozen layers only and holds no lock.
pub(super) fn stage(
    store: &Store,
    ids: &[LayerId],
    stack: Lower<'_>,
    stop: &AtomicBool,
) -> Result<PathBuf, StoreError> {
    let top = *ids
        .last()
        .ok_or(StoreError::Invalid("no layers to merge"))?;
    let media = Within::new(&store.media, layer_dir(top));
    let stage = PathBuf::from(format!("{FILE}.{:016x}.stage", store.random()?));
    let facts = TableFacts {
        layer: top,
        generation: GENERATION,
        next_ino: stack.next_ino(),
        next_object: 1,
        next_seq: 0,
        inodes: 0,
        dentries: 0,
    };
    let content = content(stack, ids, stop)?;
    let built = table::build(
        &media,
        &stage,
        facts,
        TableContent {
            devices: &stack.devices()?,
            ..content
        },
    );
    if built.is_err() {
        let _ = media.unlink(&stage);
    }
    built.map(|()| stage)
}

static NO_DEVICES: BTreeMap<u16, u64> = BTreeMap::new();
static NO_ORPHANS: BTreeSet<u64> = BTreeSet::new();

/// What a merged table of these layers holds, devices aside. Below it is only the base: what is
/// gone, and empty extents, need no saying; whiteouts do.
pub(super) fn content<'a>(
    stack: Lower<'a>,
    ids: &'a [LayerId],
    stop: &'a AtomicBool,
) -> Result<TableContent<'a>, StoreError> {
    let inodes = until(stack.walk_inodes()?, stop);
    let extents = until(stack.walk_extents()?, stop);
    Ok(TableContent {
        inodes: Box::new(inodes.filter(|item| !matches!(item, Ok((_, InodeWord::Gone))))),
        dentries: until(stack.walk_dentries()?, stop),
        extents: Box::new(extents.filter(|item| !matches!(item, Ok((_, map)) if map.is_empty()))),
        devices: &NO_DEVICES,
        orphans: &NO_ORPHANS,
        merges: ids,
    })
}

/// Makes a staged merged table the one that counts.
pub(super) fn publish(
    held: &Held<'_>,
    ids: &[LayerId],
    stage: &Path,
) -> Result<Merged, StoreError> {
    let store = held.store;
    let top = *ids
        .last()
        .ok_or(StoreError::Invalid("no layers to merge"))?;
    let media = Within::new(&store.media, layer_dir(top));
    let path = Path::new(FILE);
    media.rename(stage, path, true).map_err(|e| {
        let _ = media.unlink(stage);
        StoreError::io("rename", media.describe(path), e)
    })?;
    let here = Path::new("");
    media
        .sync_dir(here)
        .map_err(|e| StoreError::io("sync", media.describe(here), e))?;
    Merged::open(&store.media, ids)?
        .ok_or_else(|| StoreError::damaged(media.describe(path), "is not what was just written"))
}

/// The merged tables that no branch stands on: those of its snapshots' stacks serve nobody as long
/// as no branch is made of them. None while a branch cannot be read.
pub(super) fn unneeded(store: &Store) -> Result<Vec<LayerId>, StoreError> {
    let has = |id: &LayerId| {
        let path = layer_dir(*id).join(FILE);
        store.media.facts(&path).is_ok()
    };
    let (mut needed, mut all) = (BTreeSet::new(), BTreeSet::new());
    for listed in store.list()? {
        let Listed::Branch(info) = listed else {
            return Ok(Vec::new());
        };
        all.extend(info.all_layers());
        needed.extend(info.layers.iter().rev().find(|id| has(id)).copied());
    }
    all.retain(|id| !needed.contains(id) && has(id));
    Ok(all.into_iter().collect())
}

impl Held<'_> {
    /// Removes the merged tables that no branch stands on. Who has one open goes on with it.
    pub(super) fn remove_unneeded_merged(&self) -> Result<(), StoreError> {
        for id in unneeded(self.store)? {
            let path = layer_dir(id).join(FILE);
            if let Err(e) = self.store.media.unlink(&path) {
                tracing::warn!(path = %self.store.media.describe(&path).display(), error = %e, "cannot remove a leftover");
            }
        }
        Ok(())
    }
}
