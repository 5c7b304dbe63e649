//! [`Chore`]: work on frozen layers that makes later lookups and openings cheap, done beside
//! everything else: a table for a layer that has only its journal, a merged table for a deep stack.
//!
//! A chore reads what never changes and holds the store's lock only to publish what it built, so it
//! can run on a thread of its own; its owner then takes the result over. Nothing hangs on it: it can
//! be stopped, killed or left out at any time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::branch::{LiveBranch, SHORT_JOURNAL_BYTES};
use super::checkpoint::{publish, write_table};
use super::delta::DeltaMap;
use super::error::StoreError;
use super::journal;
use super::layer::{Files, JournalEnd, LayerView};
use super::merged::{self, Merged};
use super::snapshot::Held;
use super::stack::Lower;
use super::store::Store;
use super::table::{self, TableFacts};
use crate::core::record::LayerId;

/// What a lookup in a layer with a table costs, against one in a layer that is in memory.
const TABLE_COST: u64 = 4;
/// Lookups in so many layers in memory beside a merged table are worth a new one.
pub(super) const MERGE_AT_COST: u64 = 8;
/// As much as [`MERGE_AT_COST`], for who has time.
pub(super) const MERGE_AT_COST_IDLE: u64 = 4;
/// A merged table is written anew for less than this part of its records only at twice that cost.
const MERGE_PART: u64 = 16;
/// How long a finished table waits for its turn to be published.
const PUBLISH_WAIT: Duration = Duration::from_secs(5);
/// Between two looks whether it is its turn.
const PUBLISH_POLL: Duration = Duration::from_millis(5);

/// Something to be done about frozen layers.
#[derive(Debug)]
pub struct Chore {
    store: Store,
    /// All frozen layers of the stack, lowest first.
    ids: Vec<LayerId>,
    floor: Option<Arc<Merged>>,
    /// Those of them that are above the floor.
    layers: Vec<Arc<LayerView>>,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Give the layer at this index its table.
    Tabulate(usize),
    /// Merge all.
    Merge,
}

/// What a chore led to.
#[derive(Debug)]
pub struct ChoreDone(Option<Outcome>);

impl ChoreDone {
    /// Whether it led to anything.
    pub(super) fn is_something(&self) -> bool {
        self.0.is_some()
    }
}

#[derive(Debug)]
enum Outcome {
    Tabulated(LayerView),
    Merged(Merged),
}

impl Chore {
    /// What is to be done about these frozen layers, `layers` being those of `ids` above `floor`.
    pub(super) fn next(
        store: &Store,
        ids: &[LayerId],
        floor: Option<&Arc<Merged>>,
        layers: &[Arc<LayerView>],
        merge_at_cost: u64,
    ) -> Option<Self> {
        let long = |layer: &Arc<LayerView>| layer.end.bytes > SHORT_JOURNAL_BYTES;
        let what = match layers.iter().position(long) {
            Some(at) => What::Tabulate(at),
            None if is_worth_merging(floor, layers, merge_at_cost) => What::Merge,
            None => return None,
        };
        Some(Self {
            store: store.clone(),
            ids: ids.to_vec(),
            floor: floor.cloned(),
            layers: layers.to_vec(),
            what,
        })
    }

    /// Does it. Ends with an error soon after `stop` is set.
    pub fn run(&self, stop: &AtomicBool) -> Result<ChoreDone, StoreError> {
        let below = |at: usize| Lower {
            floor: self.floor.as_deref(),
            layers: &self.layers[..at],
        };
        match self.what {
            What::Tabulate(at) => {
                let layer = &self.layers[at];
                let done = tabulate(&self.store, layer, below(at))?;
                Ok(ChoreDone(done.map(Outcome::Tabulated)))
            }
            What::Merge => {
                let stack = below(self.layers.len());
                let stage = merged::stage(&self.store, &self.ids, stack, stop)?;
                let Some(held) = hold_soon(&self.store, stop)? else {
                    self.forget(&stage);
                    return Ok(ChoreDone(None));
                };
                let merged = merged::publish(&held, &self.ids, &stage)?;
                held.remove_unneeded_merged()?;
                Ok(ChoreDone(Some(Outcome::Merged(merged))))
            }
        }
    }

    fn forget(&self, stage: &std::path::Path) {
        if let Some(top) = self.layers.last() {
            let _ = top.media.unlink(stage);
        }
    }
}

/// Whether lookups get so much cheaper that it pays to write a merged table.
fn is_worth_merging(
    floor: Option<&Arc<Merged>>,
    layers: &[Arc<LayerView>],
    merge_at_cost: u64,
) -> bool {
    let cost = |layer: &Arc<LayerView>| match layer.table {
        Some(_) => TABLE_COST,
        None => 1,
    };
    let mut all: u64 = layers.iter().map(cost).sum();
    if floor.is_none() {
        // One has to be asked in any case.
        all -= layers.first().map_or(0, cost);
    }
    let above: u64 = layers.iter().map(|layer| layer.records()).sum();
    let large = floor.is_some_and(|floor| above.saturating_mul(MERGE_PART) < floor.records());
    all >= if large {
        2 * merge_at_cost
    } else {
        merge_at_cost
    }
}

/// Takes the store's lock, which others hold only for moments; `None` if this one does not let go,
/// or `stop` is set.
fn hold_soon<'a>(store: &'a Store, stop: &AtomicBool) -> Result<Option<Held<'a>>, StoreError> {
    let until = Instant::now() + PUBLISH_WAIT;
    loop {
        if let Some(held) = store.try_hold()? {
            return Ok(Some(held));
        }
        if stop.load(Ordering::Relaxed) || Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(PUBLISH_POLL);
    }
}

/// Gives a frozen layer its table; if somebody else did, the layer as that left it. `None`: not now.
pub(super) fn tabulate(
    store: &Store,
    layer: &LayerView,
    below: Lower<'_>,
) -> Result<Option<LayerView>, StoreError> {
    let media = &*layer.media;
    let facts = TableFacts {
        layer: layer.id,
        generation: layer.end.generation + 1,
        next_ino: layer.ledger.next_ino,
        next_object: layer.ledger.next_object,
        next_seq: layer.end.next_seq,
        inodes: 0,
        dentries: 0,
    };
    let is_done = || -> Result<bool, StoreError> {
        let files = Files::list(media)?;
        Ok(files.tables.last().is_some_and(|n| *n >= facts.generation))
    };
    let reload = || LayerView::load(layer.media.clone(), layer.id, below).map(|(view, _)| view);
    if is_done()? {
        return reload().map(Some);
    }
    let stage = PathBuf::from(format!("table.{:016x}.stage", store.random()?));
    let forget = || drop(media.unlink(&stage));
    let orphans = &layer.ledger.orphans;
    write_table(media, &stage, facts, layer, below, orphans).map_err(|e| {
        forget();
        e.error
    })?;
    // Nobody publishes another one meanwhile, and nobody removes the layer.
    let Some(_held) = hold_soon(store, &AtomicBool::new(false))? else {
        forget();
        return Ok(None);
    };
    if is_done()? {
        forget();
        return reload().map(Some);
    }
    let (table, journal) = match publish(media, &stage, facts) {
        Ok(made) => made,
        Err(e) => {
            if !e.published {
                forget();
                let _ = media.unlink(&journal::file_name(facts.generation));
            }
            return Err(e.error);
        }
    };
    let old = layer.end.generation;
    let old_table = layer.table.is_some().then(|| table::file_name(old));
    for name in old_table.into_iter().chain([journal::file_name(old)]) {
        if let Err(e) = media.unlink(&name) {
            tracing::warn!(path = %media.describe(&name).display(), error = %e, "cannot remove a leftover");
        }
    }
    Ok(Some(LayerView {
        id: layer.id,
        media: layer.media.clone(),
        table: Some(table),
        delta: DeltaMap::default(),
        ledger: layer.ledger.clone(),
        end: JournalEnd {
            generation: facts.generation,
            bytes: 0,
            next_seq: journal.next_seq(),
        },
    }))
}

impl LiveBranch {
    /// The next work on the frozen layers that is due, if any. Cheap; the result of
    /// [`Chore::run`] goes to [`take`](Self::take).
    pub fn next_chore(&self) -> Option<Chore> {
        let lower = self.stack.lower();
        let ids = self.frozen_ids();
        let floor = self.stack.floor.as_ref();
        Chore::next(&self.store, ids, floor, lower.layers, MERGE_AT_COST)
    }

    /// Takes over what a chore led to, and says whether it led to anything. Cheap.
    pub fn take(&mut self, done: ChoreDone) -> bool {
        let lower = self.stack.layers.len().saturating_sub(1);
        let layers = &mut self.stack.layers[..lower];
        match done.0 {
            None => return false,
            Some(Outcome::Tabulated(view)) => {
                if let Some(layer) = layers.iter_mut().find(|layer| layer.id == view.id) {
                    *layer = Arc::new(view);
                }
            }
            Some(Outcome::Merged(merged)) => {
                let top = merged.ids().last();
                if let Some(at) = layers.iter().position(|layer| Some(&layer.id) == top) {
                    self.stack.layers.drain(..=at);
                    self.stack.floor = Some(Arc::new(merged));
                }
            }
        }
        true
    }

    /// Does all that is due, at a clean end. What cannot be done now is done at the next one.
    pub(super) fn do_chores(&mut self) {
        let go_on = AtomicBool::new(false);
        // A table for each, and a merged one.
        for _ in 0..=self.stack.layers.len() {
            let Some(chore) = self.next_chore() else {
                return;
            };
            match chore.run(&go_on).map(|done| self.take(done)) {
                Ok(true) => tracing::debug!(what = ?chore.what, "done"),
                Ok(false) => return tracing::debug!("somebody holds the store"),
                Err(e) => {
                    return tracing::warn!(error = %e, "frozen layers stay as they are for now");
                }
            }
        }
    }
}
