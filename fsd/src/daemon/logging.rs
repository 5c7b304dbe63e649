//! The daemon's log: `fsd.log` in the branch's directory, filtered by `AGENTFS_LOG`.
//!
//! File contents and environments are never logged; names and numbers are.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

const NAME: &str = "fsd.log";
/// The log of the runs before, one generation.
const OLD_NAME: &str = "fsd.log.old";
/// A log that has grown larger than this is put aside at the next start, in bytes.
const PUT_ASIDE_BYTES: u64 = 1 << 20;
const FILTER: &str = "AGENTFS_LOG";
const DEFAULT_FILTER: &str = "info";

/// `AGENTFS_LOG` asks for what cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{FILTER} is '{}': {why}; it takes error, warn, info, debug or trace", .text.escape_debug())]
pub(super) struct BadFilter {
    text: String,
    why: String,
}

/// What is to be logged, as `AGENTFS_LOG` says.
pub(super) fn filter() -> Result<EnvFilter, BadFilter> {
    let text = std::env::var_os(FILTER).unwrap_or_default();
    let text = match text.to_str() {
        Some("") => DEFAULT_FILTER,
        Some(text) => text,
        None => {
            return Err(BadFilter {
                text: text.to_string_lossy().into_owned(),
                why: "not UTF-8".into(),
            });
        }
    };
    EnvFilter::try_new(text).map_err(|e| BadFilter {
        text: text.to_owned(),
        why: e.to_string(),
    })
}

/// Starts logging in `directory`. Panics and whatever else writes to stderr go there too.
pub(super) fn start(directory: &Path, filter: EnvFilter) -> io::Result<()> {
    let log = open(directory)?;
    nix::unistd::dup2_stderr(&log)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Mutex::new(log))
        .try_init()
        .map_err(io::Error::other)?;
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        tracing::error!(thread = thread.name().unwrap_or("?"), "{panic}");
    }));
    Ok(())
}

fn open(directory: &Path) -> io::Result<File> {
    let path = directory.join(NAME);
    if std::fs::symlink_metadata(&path).is_ok_and(|m| m.len() > PUT_ASIDE_BYTES) {
        std::fs::rename(&path, directory.join(OLD_NAME))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
}
