//! One file per subcommand. Each takes its arguments and the globals, and answers an exit status.

pub mod branch;
pub mod control;
pub mod diff;
pub mod doctor;
pub mod exec;
pub mod fsck;
pub mod gc;
pub mod ls;
pub mod mount;
pub mod report;
pub mod rm;
pub mod run;
pub mod snapshot;

use std::path::PathBuf;

use agentfs_fsd::backstore::Store;

/// What every subcommand gets besides its own arguments.
#[derive(Clone, Debug)]
pub struct Globals {
    /// The directory of the store: `--store`, or the default.
    pub store_path: PathBuf,
}

impl Globals {
    /// From the flag, if it was given.
    pub fn new(store: Option<PathBuf>) -> Self {
        Self {
            store_path: store.unwrap_or_else(Store::default_path),
        }
    }
}
