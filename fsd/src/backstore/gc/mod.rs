//! Collecting garbage: what no branch and no snapshot reaches goes.
//!
//! [`Store::gc`] looks first, at a store that others go on using, and removes then. What it removes
//! could not come back meanwhile: only what a stack shows can be reached by stacks made of it. A
//! daemon may have files open that its branch no longer shows, so the layers of live branches keep
//! their objects. All that was read is made durable before anything goes, so that a power cut brings
//! no older state back that needs it. It can be killed at any time, and run again.

mod forest;
mod space;
mod sweep;

use std::path::PathBuf;

use super::error::StoreError;
use super::store::Store;
use crate::core::types::BranchName;

pub(super) use forest::{Forest, Shown};
pub use space::Space;

/// The lock of whoever collects garbage or repairs.
pub(super) const GC_LOCK: &str = "gc.lock";

/// What kind of thing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Garbage {
    /// A layer that no branch and no snapshot names.
    Layer,
    /// Objects of a frozen layer that no branch and no snapshot shows.
    Objects,
    /// What is left of removals that were cut short.
    Trash,
    /// What is left of branches that were never finished.
    Stage,
    /// Files of writes that were cut short, and tables and journals that no longer count.
    Leftover,
    /// A merged table that no branch stands on.
    Merged,
}

impl Garbage {
    /// The word for it, in a vocabulary that stays.
    pub fn as_str(self) -> &'static str {
        match self {
            Garbage::Layer => "layer",
            Garbage::Objects => "objects",
            Garbage::Trash => "trash",
            Garbage::Stage => "stage",
            Garbage::Leftover => "leftover",
            Garbage::Merged => "merged-table",
        }
    }
}

/// Something that was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// What it is.
    pub what: Garbage,
    /// Where.
    pub path: PathBuf,
    /// The branches whose stacks, or whose snapshots' stacks, it was part of.
    pub branches: Vec<BranchName>,
    /// What it took.
    pub space: Space,
}

/// Why something stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Of what a live branch stands on, its daemon may have more open than the branch shows.
    Live,
    /// A branch or a layer cannot be read, so it is not known what it needs.
    Unreadable,
    /// An earlier repair kept it for people to look through.
    LostFound,
    /// It is no file of a store.
    Foreign,
    /// It is needed, and to put it better takes space that is not there.
    NoSpace,
    /// It resisted.
    Failed,
}

impl Reason {
    /// The word for it, in a vocabulary that stays.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Live => "live",
            Reason::Unreadable => "unreadable",
            Reason::LostFound => "lost+found",
            Reason::Foreign => "foreign",
            Reason::NoSpace => "no-space",
            Reason::Failed => "failed",
        }
    }
}

/// Something that stays though nothing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Why.
    pub reason: Reason,
    /// Where.
    pub path: PathBuf,
    /// The branches it is about.
    pub branches: Vec<BranchName>,
    /// What it takes, where that is known.
    pub space: Space,
    /// In words.
    pub what: String,
}

/// Frozen layers of a branch that got tables, so that lookups cost less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The branch.
    pub branch: BranchName,
    /// Its frozen layers.
    pub layers: u64,
}

/// What needs its place, for each branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// The branch.
    pub branch: BranchName,
    /// Its layers and those of its snapshots.
    pub layers: u64,
    /// Those of them that only its snapshots need.
    pub only_snapshots: u64,
    /// Its snapshots.
    pub snapshots: u64,
    /// Somebody holds it.
    pub live: bool,
}

/// What was collected, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// What goes.
    pub removed: Vec<Removed>,
    /// What stays though nothing shows it.
    pub kept: Vec<Kept>,
    /// Stacks that were made quicker to look into.
    pub compacted: Vec<Compacted>,
    /// What stays because it is needed.
    pub used: Vec<Used>,
}

impl Collected {
    /// What all that goes took.
    pub fn space(&self) -> Space {
        let mut all = Space::default();
        self.removed.iter().for_each(|gone| all.add(&gone.space));
        all
    }
}

impl Store {
    /// Removes what no branch and no snapshot reaches, and compacts deep stacks of branches that
    /// nobody holds. With `dry_run` only says what it would; then nothing is locked or written.
    ///
    /// Errors: those of listing the store, of locking and of syncing. Whatever cannot be read or
    /// removed by itself is told among what stays.
    pub fn gc(
        &self,
        dry_run: bool,
        progress: &mut super::check::Progress<'_>,
    ) -> Result<Collected, StoreError> {
        sweep::run(self, dry_run, progress)
    }
}
