//! Whose home directories a run is about: the rules over secrets hold in each of them.
//!
//! `$HOME` alone would not do: it is unset in services, `/` in containers, and root's under sudo,
//! while the secrets lie where they always do.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

/// Homes, all of them real paths of directories other than `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Homes {
    /// `$HOME`: what `~` stands for.
    pub home: Option<PathBuf>,
    /// The caller's by the user database, and those that hold the workspace.
    pub others: Vec<PathBuf>,
}

impl Homes {
    /// Looks at the environment and the user database.
    pub fn look(workspace: &Path) -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let home = home.and_then(|path| directory(&path));
        let mut others: BTreeSet<PathBuf> = of(Uid::effective()).into_iter().collect();
        // Not every database is a file, and not every one can be listed: ask for the owners too.
        let owners: BTreeSet<u32> = workspace
            .ancestors()
            .filter_map(|dir| Some(dir.metadata().ok()?.uid()))
            .collect();
        let listed = std::fs::read("/etc/passwd").unwrap_or_default();
        let around = owners
            .into_iter()
            .filter_map(|uid| of(Uid::from_raw(uid)))
            .chain(listed_homes(&listed).filter(|dir| workspace.starts_with(dir)))
            .filter_map(|dir| directory(&dir))
            .filter(|dir| workspace.starts_with(dir));
        others.extend(around);
        if let Some(home) = &home {
            others.remove(home);
        }
        Self {
            home,
            others: others.into_iter().collect(),
        }
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.home.is_none() && self.others.is_empty()
    }
}

/// The home of a user.
fn of(uid: Uid) -> Option<PathBuf> {
    directory(&User::from_uid(uid).ok()??.dir)
}

/// The real path of a home, if it can be one.
fn directory(path: &Path) -> Option<PathBuf> {
    let real = std::fs::canonicalize(path).ok()?;
    (path.is_absolute() && real.is_dir() && real != Path::new("/")).then_some(real)
}

/// The sixth field of each line. Source: passwd(5).
fn listed_homes(text: &[u8]) -> impl Iterator<Item = PathBuf> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b':').nth(5))
        .map(|dir| PathBuf::from(OsStr::from_bytes(dir)))
        .filter(|dir| dir.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_the_sixth_field() {
        let text =
            b"root:x:0:0:root:/root:/bin/sh\nbad\n#\nu:x:7:7:::/bin/sh\nv:x:8:8:V, W:/home/v:";
        let homes: Vec<_> = listed_homes(text).collect();
        assert_eq!(homes, [Path::new("/root"), Path::new("/home/v")]);
    }

    #[test]
    fn a_home_is_a_directory_below_the_root() {
        assert_eq!(directory(Path::new("/")), None);
        assert_eq!(directory(Path::new("/..")), None);
        assert_eq!(directory(Path::new("/dev/null")), None);
        assert_eq!(directory(Path::new("/nonexistent")), None);
        assert_eq!(directory(Path::new("/usr")), Some("/usr".into()));
    }
}
