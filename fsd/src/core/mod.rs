//! The branch core: inode based, transport free. Everything a branch answers is decided here.
//!
//! Lock order, ascending: a file's `Stream::bytes` (rank 1) < the tree (rank 2) < the handle tables,
//! the process table and the removals (rank 3). Bytes are moved under rank 1 alone; under rank 2
//! only records are changed and base metadata is read.

pub mod access;
pub(crate) mod acl;
mod base;
mod change;
mod clock;
mod copy_up;
pub mod error;
mod exposed;
pub mod extents;
mod found;
mod handle;
pub mod implicit;
mod inode;
mod listing;
mod mappings;
mod names;
pub(crate) mod number;
mod ops;
mod place;
pub mod point;
mod process;
mod quota;
pub mod record;
mod removals;
mod stream;
mod superblock;
#[cfg(test)]
mod tests;
pub mod types;
pub mod watch;

use std::path::PathBuf;

pub use error::FsError;
pub use ops::freeze::FreezeFor;
pub use ops::host::{Covered, Notice, Watching};
pub use ops::open::{OpenIo, Opened};
pub use ops::readdir::OldListing;
pub use ops::rename::Moved;

use crate::backstore::{Account, LiveBranch};
use crate::core::base::BaseTree;
use crate::core::clock::StampClock;
use crate::core::exposed::Exposed;
use crate::core::handle::Handles;
use crate::core::implicit::Implicit;
use crate::core::mappings::Mappings;
use crate::core::process::Processes;
use crate::core::removals::Removals;
use crate::core::superblock::Tree;
use crate::core::watch::Watch;
use crate::sync::{Arc, Mutex};

/// What a core shows and how.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The directory that plays the host's `/`.
    pub base: PathBuf,
    /// Directories shown copy-on-write, absolute as seen from `base`.
    pub roots: Vec<PathBuf>,
    /// Paths answered with "no such entry", absolute as seen from `base`.
    pub conceal: Vec<PathBuf>,
    /// Where our own mount will be, absolute as seen from `base`, if the base can hold it.
    pub mountpoint: Option<PathBuf>,
    /// Whether files may be opened with [`OpenIo::Passthrough`].
    pub passthrough: bool,
}

/// One live branch: every operation a transport can ask of it. Shared by all request threads.
#[derive(Debug)]
pub struct FsCore {
    tree: Mutex<Tree>,
    base: BaseTree,
    clock: StampClock,
    handles: Handles,
    implicit: Arc<Implicit>,
    watch: Arc<Watch>,
    mappings: Mappings,
    processes: Processes,
    removals: Removals,
    passthrough: bool,
    /// Of a branch with a limit.
    account: Option<Arc<Account>>,
}

impl FsCore {
    /// Takes a branch over and shows it as `config` says.
    ///
    /// Errors: `Base` when the base or a concealed path cannot be opened, `BadName` for a root
    /// with an impossible component, `Store`.
    pub fn new(mut branch: LiveBranch, config: CoreConfig) -> Result<Self, FsError> {
        let base = BaseTree::open(&config)?;
        let exposed = Exposed::new(&config.roots)?;
        let account = branch.open_account()?;
        // What the kernel writes by itself nobody could hold to a limit.
        let limits_bytes = account.as_ref().is_some_and(|a| a.counts_bytes());
        let tree = Tree::new(branch, exposed)?;
        Ok(Self {
            implicit: tree.implicit.clone(),
            watch: tree.watch.clone(),
            tree: Mutex::new(tree),
            base,
            clock: StampClock::default(),
            handles: Handles::default(),
            mappings: Mappings::default(),
            processes: Processes::default(),
            removals: Removals::default(),
            passthrough: config.passthrough && !limits_bytes,
            account,
        })
    }

    /// Whether files may be opened past the daemon: asked for, and not held to a limit of bytes.
    pub fn opens_natively(&self) -> bool {
        self.passthrough
    }

    /// Has the objects of new files made ahead, by a thread of its own. For a daemon with a CPU to spare.
    pub fn make_objects_ahead(&self) {
        crate::sync::lock(&self.tree).branch.make_objects_ahead();
    }

    /// What the branch may take up and what it does, if it has a limit.
    pub fn account(&self) -> Option<&Account> {
        self.account.as_deref()
    }

    /// Removed links that the kernel may not have heard of.
    pub fn removals(&self) -> &Removals {
        &self.removals
    }

    /// Registers a process of a run, so that its groups are known without asking procfs again.
    ///
    /// Returns its supplementary groups. Errors: `UnknownCaller` if it is not that process.
    pub fn register_process(&self, pid: u32, start_ticks: u64) -> Result<Vec<u32>, FsError> {
        self.processes.register(pid, start_ticks)
    }

    /// As [`FsCore::register_process`], for a process whose supplementary groups the caller knows:
    /// they count wherever procfs does not show it (an API user, another pid namespace).
    pub fn register_process_with_groups(&self, pid: u32, start_ticks: u64, groups: Vec<u32>) {
        self.processes
            .register_with_groups(pid, start_ticks, groups);
    }

    /// Registered processes that still run.
    pub fn live_processes(&self) -> Vec<u32> {
        self.processes.live()
    }
}
