//! Writes the id maps of a new user namespace, from outside.

use std::fs::OpenOptions;
use std::io::{self, Write};

use agentfs_fsd::ctl::msg::OnlyIds;
use nix::unistd::Pid;
use serde::Serialize;

use crate::error::SetupError;

/// Which ids exist inside, each the same as outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "map")]
pub enum IdMap {
    /// All of them: the caller is root.
    Full,
    /// The caller's own; everyone else looks like the overflow id, and setgroups(2) is denied.
    Own {
        /// The caller's effective uid.
        uid: u32,
        /// The caller's effective gid.
        gid: u32,
    },
}

/// The only ids that a namespace with this map knows; none: it knows all.
pub fn only(map: IdMap) -> Option<OnlyIds> {
    match map {
        IdMap::Full => None,
        IdMap::Own { uid, gid } => Some(OnlyIds { uid, gid }),
    }
}

/// Writes the maps of `pid`'s user namespace.
pub fn write(pid: Pid, map: IdMap) -> Result<(), SetupError> {
    match map {
        IdMap::Full => {
            put(pid, "uid_map", "0 0 4294967295")?;
            put(pid, "gid_map", "0 0 4294967295")
        }
        IdMap::Own { uid, gid } => {
            put(pid, "setgroups", "deny")?;
            put(pid, "uid_map", &format!("{uid} {uid} 1"))?;
            put(pid, "gid_map", &format!("{gid} {gid} 1"))
        }
    }
}

fn put(pid: Pid, file: &str, text: &str) -> Result<(), SetupError> {
    let path = format!("/proc/{pid}/{file}");
    let written: io::Result<()> = OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| f.write_all(text.as_bytes()));
    written.map_err(|e| SetupError::other("write the id map", &path, e))
}
