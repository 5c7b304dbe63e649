//! What the runs of a branch could not see: the file `hidden.json` in its directory, written
//! before a command may run. A review takes nothing at these places for the branch's doing.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::media::read_small;
use super::meta;
use super::store::{Store, branch_dir};
use crate::core::types::BranchName;
use crate::escaped;

/// The file of a branch that lists what was hidden.
pub(super) const HIDDEN_FILE: &str = "hidden.json";
/// Newest version of it.
pub(super) const HIDDEN_VERSION: u32 = 1;
/// What is lost with the file itself.
pub(super) const LIST_ITSELF: &str = "the list of what was hidden from its runs";

/// A place that a run could not see, with what it could see below.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hidden {
    /// Absolute host path: neither it nor anything below it was there.
    #[serde(with = "escaped::path")]
    pub path: PathBuf,
    /// Places below it that were there all the same.
    #[serde(with = "escaped::list")]
    pub shown: Vec<PathBuf>,
}

impl Hidden {
    /// A place of which nothing was there.
    pub fn whole(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            shown: Vec::new(),
        }
    }

    /// Whether `path` was not there. The directories between the place and what was shown below
    /// it were.
    pub fn covers(&self, path: &[u8]) -> bool {
        let is_below = |path: &[u8], top: &Path| {
            let top = top.as_os_str().as_bytes();
            let top = top.strip_suffix(b"/").unwrap_or(top);
            path.strip_prefix(top)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let is_on_the_way = |shown: &Path| {
            is_below(
                shown.as_os_str().as_bytes(),
                Path::new(OsStr::from_bytes(path)),
            )
        };
        let is_shown = |shown: &PathBuf| is_below(path, shown) || is_on_the_way(shown);
        is_below(path, &self.path) && !self.shown.iter().any(is_shown)
    }

    fn bytes(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }
}

/// `hidden.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HiddenFile {
    version: u32,
    hidden: Vec<Hidden>,
}

fn hidden_path(name: &BranchName) -> PathBuf {
    branch_dir(name).join(HIDDEN_FILE)
}

impl Store {
    /// What was hidden from the runs on the branch, and on those that it was made from.
    ///
    /// Errors: `Damaged`, `NewerFormat`, `Io`; then something was, and it is not known what.
    pub fn hidden(&self, name: &BranchName) -> Result<Vec<Hidden>, StoreError> {
        let path = hidden_path(name);
        let bytes = match read_small(&*self.media, &path, meta::LIMIT_BYTES) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| self.io("read", &path, e))?,
        };
        let at = self.media.describe(&path);
        let file: HiddenFile = meta::unseal(&at, &bytes, HIDDEN_VERSION)?;
        Ok(file.hidden)
    }

    /// Notes, durably, what a run on the branch will not see. Writes nothing if that is known. The
    /// caller serves the branch.
    ///
    /// Errors: those of [`hidden`](Self::hidden) and of writing; then no command may run.
    pub fn add_hidden(&self, name: &BranchName, more: &[Hidden]) -> Result<(), StoreError> {
        let known = self.hidden(name)?;
        let all = union(&known, more);
        match all == known {
            true => Ok(()),
            false => self.replace(&hidden_path(name), &seal(all)?, true),
        }
    }

    /// Writes what was hidden from a branch into the directory of one that is made from it.
    pub(super) fn pass_hidden_on(&self, from: &BranchName, to: &Path) -> Result<(), StoreError> {
        let hidden = self.hidden(from)?;
        match hidden.is_empty() {
            true => Ok(()),
            false => self.replace(&to.join(HIDDEN_FILE), &seal(hidden)?, true),
        }
    }
}

/// All that one of the two hides, without what goes without saying.
fn union(known: &[Hidden], more: &[Hidden]) -> Vec<Hidden> {
    let mut all: Vec<Hidden> = Vec::new();
    let mut found: Vec<Hidden> = known.iter().chain(more).cloned().collect();
    for place in &mut found {
        place.shown.sort();
    }
    // A place comes before those below it. As bytes: to compare paths part by part takes long.
    found.sort_by(|a, b| (a.bytes(), &a.shown).cmp(&(b.bytes(), &b.shown)));
    for place in found {
        let is_there = (all.last())
            .is_some_and(|last| last.bytes() == place.bytes() && last.shown == place.shown);
        let hides_it = |known: &Hidden| known.shown.is_empty() && known.covers(place.bytes());
        if !is_there && !all.iter().any(hides_it) {
            all.push(place);
        }
    }
    all
}

fn seal(hidden: Vec<Hidden>) -> Result<Vec<u8>, StoreError> {
    meta::seal(&HiddenFile {
        version: HIDDEN_VERSION,
        hidden,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(path: &str, shown: &[&str]) -> Hidden {
        Hidden {
            path: path.into(),
            shown: shown.iter().map(PathBuf::from).collect(),
        }
    }

    #[test]
    fn a_place_hides_all_below_but_what_is_shown_and_the_way_there() {
        let place = part("/h/.config", &["/h/.config/a/b"]);
        for hidden in [
            "/h/.config/x",
            "/h/.config/a/x",
            "/h/.config/a/bb",
            "/h/.config/a/x/b",
        ] {
            assert!(place.covers(hidden.as_bytes()), "{hidden}");
        }
        for shown in [
            "/h/.config",
            "/h/.config/a",
            "/h/.config/a/b",
            "/h/.config/a/b/c",
            "/h/.configs",
            "/h",
            "/",
        ] {
            assert!(!place.covers(shown.as_bytes()), "{shown}");
        }
        let whole = Hidden::whole("/h/.ssh");
        assert!(whole.covers(b"/h/.ssh") && whole.covers(b"/h/.ssh/id"));
        assert!(!whole.covers(b"/h/.sshd"));
        assert!(Hidden::whole("/").covers(b"/anything"));
    }

    #[test]
    fn the_union_keeps_no_more_than_is_needed() {
        let known = [Hidden::whole("/h/b"), part("/h/c", &["/h/c/d"])];
        let more = [
            Hidden::whole("/h/b/below"),
            Hidden::whole("/h/a"),
            part("/h/c", &["/h/c/d"]),
        ];
        let all = union(&known, &more);
        let expected = [
            Hidden::whole("/h/a"),
            Hidden::whole("/h/b"),
            part("/h/c", &["/h/c/d"]),
        ];
        assert_eq!(all, expected);
        assert_eq!(union(&all, &more), all, "nothing new");
        // Hidden as a whole in one run: what another one saw there does not count.
        let all = union(&all, &[Hidden::whole("/h/c")]);
        assert!(all.iter().any(|place| place.covers(b"/h/c/d")), "{all:?}");
    }
}
