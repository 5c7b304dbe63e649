//! Writes the id maps of a new user namespace, from outside.

use std::fs::OpenOptions;
use std::io::{self, Write};

use agentfs_fsd::ctl::msg::OnlyIds;
use nix::libc::EPERM;
use nix::unistd::Pid;
use serde::Serialize;

use crate::error::{SetupError, step};

/// Which ids exist inside, each the same as outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "map")]
pub enum IdMap {
    /// All that exist outside: the caller is root. Root of a user namespace with few of them, as in
    /// a rootless container, gets those, or at the least its own.
    Full,
    /// The caller's own; everyone else looks like the overflow id, and setgroups(2) is denied.
    Own {
        /// The caller's effective uid.
        uid: u32,
        /// The caller's effective gid.
        gid: u32,
    },
}

impl IdMap {
    /// What a run of the caller gets.
    pub fn of_caller() -> Self {
        let (uid, gid) = own_ids();
        match uid {
            0 => Self::Full,
            _ => Self::Own { uid, gid },
        }
    }
}

fn own_ids() -> (u32, u32) {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    (uid.as_raw(), gid.as_raw())
}

/// Writes the maps of `pid`'s user namespace, and gives the only ids that it knows: none if it knows
/// more than one user or group.
pub fn write(pid: Pid, map: IdMap) -> Result<Option<OnlyIds>, SetupError> {
    match map {
        IdMap::Full => write_outer(pid),
        IdMap::Own { uid, gid } => write_own(pid, uid, gid),
    }
}

/// All that the caller's own namespace knows, each as itself.
fn write_outer(pid: Pid) -> Result<Option<OnlyIds>, SetupError> {
    let [users, groups] = ["uid_map", "gid_map"].map(known);
    let (users, groups) = (users?, groups?);
    let (uid, gid) = own_ids();
    if let (Some(uid), Some(gid)) = (single(&users), single(&groups)) {
        return write_own(pid, uid, gid);
    }
    match put(pid, "uid_map", &lines(&users)).and_then(|()| put(pid, "gid_map", &lines(&groups))) {
        // Root without the capabilities for ids has what everybody has.
        Err(e) if e.errno == Some(EPERM) => write_own(pid, uid, gid).map_err(|_| e),
        other => other.map(|()| None),
    }
}

fn write_own(pid: Pid, uid: u32, gid: u32) -> Result<Option<OnlyIds>, SetupError> {
    put(pid, "setgroups", "deny")?;
    put(pid, "uid_map", &format!("{uid} {uid} 1"))?;
    put(pid, "gid_map", &format!("{gid} {gid} 1"))?;
    Ok(Some(OnlyIds { uid, gid }))
}

/// Ids that exist in a user namespace: the first, and how many.
type Range = (u32, u32);

/// The ids of the caller's own namespace. Source: user_namespaces(7).
fn known(file: &str) -> Result<Vec<Range>, SetupError> {
    let path = format!("/proc/self/{file}");
    let text = std::fs::read_to_string(&path);
    text.and_then(|text| parse(&text).ok_or_else(|| io::Error::other("no id map")))
        .map_err(|e| SetupError::other("read the id map", &path, e))
}

/// Whether all ids exist in this process's user namespace, so that its root may be the host's: what
/// the kernel gives to that one alone is not worth asking for otherwise.
pub fn all_exist() -> bool {
    known("uid_map").is_ok_and(|ranges| ranges == [(0, u32::MAX)])
}

/// Whether this process's user namespace knows the group.
pub fn has_group(gid: u32) -> bool {
    let knows = |(first, count): &Range| gid.checked_sub(*first).is_some_and(|n| n < *count);
    known("gid_map").is_ok_and(|ranges| ranges.iter().any(knows))
}

fn parse(text: &str) -> Option<Vec<Range>> {
    let range = |line: &str| {
        let mut words = line.split_whitespace().map(str::parse);
        match (words.next(), words.next(), words.next()) {
            (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => Some((first, count)),
            _ => None,
        }
    };
    text.lines().map(range).collect()
}

fn single(ranges: &[Range]) -> Option<u32> {
    match ranges {
        [(id, 1)] => Some(*id),
        _ => None,
    }
}

fn lines(ranges: &[Range]) -> String {
    let line = |(first, count): &Range| format!("{first} {first} {count}\n");
    ranges.iter().map(line).collect()
}

fn put(pid: Pid, file: &str, text: &str) -> Result<(), SetupError> {
    let path = format!("/proc/{pid}/{file}");
    let written: io::Result<()> = OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| f.write_all(text.as_bytes()));
    written.map_err(|e| SetupError::other(step::ID_MAP, &path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_that_exists_outside_exists_inside_as_itself() {
        for (outer, inner) in [
            (
                "         0          0 4294967295\n",
                Some("0 0 4294967295\n"),
            ),
            ("0 1000 1\n1 100000 65536\n", Some("0 0 1\n1 1 65536\n")),
            ("", Some("")),
            ("0 0\n", None),
            ("0 0 x\n", None),
        ] {
            let mapped = parse(outer).map(|ranges| lines(&ranges));
            assert_eq!(mapped.as_deref(), inner, "{outer:?}");
        }
        assert_eq!(single(&[(7, 1)]), Some(7));
        assert_eq!(single(&[(7, 2)]), None);
        assert_eq!(single(&[(0, 1), (7, 1)]), None);
    }
}
