//! One file per subcommand. Each takes its arguments and the globals, and answers an exit status.

pub mod diff;
pub mod ls;
pub mod rm;

use std::path::PathBuf;

/// What every subcommand gets besides its own arguments.
#[derive(Clone, Debug)]
pub struct Globals {
    /// The directory of the store: `--store`, or the default.
    pub store_path: PathBuf,
}
