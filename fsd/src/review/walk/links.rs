//! Further names of changed files: hard links of the base that show a change made under another
//! name, so that the branch has no word on them. Only a search finds those.
//!
//! The search lists directories that the branch shows as the base has them, looks at entries with
//! a wanted inode number alone, stays on the file systems of the wanted files, and ends with the
//! last name. It is made only when a changed file has more links than the walk has met.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustix::fs::FileType;

use super::{Problem, Stray, Walk, split};
use crate::core::record::InodeRec;
use crate::core::types::{Ino, Kind, Name};
use crate::review::ReviewError;
use crate::review::base::{BaseEntry, is_at_or_below, join};
use crate::review::node::Difference;

/// Where the walk has been, for the search to go where it has not.
#[derive(Debug, Default)]
pub(super) struct Visited {
    /// Directories that the branch shows in place, and the names in them that it has a word on.
    pub in_place: HashMap<Vec<u8>, HashSet<Name>>,
    /// Directories of which the walk looked at every name.
    pub whole: HashSet<Vec<u8>>,
}

impl Visited {
    /// Whether the branch shows the base's own object at `path`, and the walk has not looked at it
    /// as an entry; or it is a directory shown in place.
    fn is_shown(&self, path: &[u8]) -> bool {
        let (mut at, mut below): (_, Option<&[u8]>) = (path, None);
        loop {
            if let Some(names) = self.in_place.get(at) {
                let known = |name| Name::new(name).is_ok_and(|name| names.contains(&name));
                return !below.is_some_and(known);
            }
            if self.whole.contains(at) || at == b"/" {
                return false;
            }
            let (dir, name) = split(at);
            (at, below) = (dir, Some(name));
        }
    }
}

/// A changed file with names that the walk has not met.
struct Missing {
    ino: Ino,
    origin: Arc<[u8]>,
    host_ino: u64,
    links: u32,
}

/// What the search is for.
struct Wanted {
    inos: HashSet<Ino>,
    host_inos: HashSet<u64>,
    /// Keys of their file systems.
    devices: HashSet<u64>,
    /// Paths they were changed under.
    origins: Vec<Arc<[u8]>>,
    /// Names still to be found.
    left: u32,
}

impl Walk<'_> {
    /// Looks below `tops` for the other names of changed files; says how many remain elsewhere.
    pub(super) fn find_links(&mut self, tops: &[Vec<u8>]) {
        let missing = self.missing_links();
        if !missing.is_empty() && !tops.is_empty() {
            self.search(&missing, tops);
        }
        for file in self.missing_links() {
            match self.links.get(&file.ino).and_then(|links| links.change) {
                Some(at) => self.set.changes[at].unlisted_links = file.links,
                None => self.set.strays.push(Stray {
                    path: file.origin.to_vec(),
                    links: file.links,
                }),
            }
        }
    }

    fn missing_links(&mut self) -> Vec<Missing> {
        let linked = |(ino, record): (&Ino, &Arc<InodeRec>)| {
            let origin = record.origin.as_ref()?;
            let met = self.links.get(ino).map_or(0, |links| links.met);
            let links = record.nlink.saturating_sub(met);
            (record.kind != Kind::Dir && links > 0).then(|| Missing {
                ino: *ino,
                origin: origin.path.clone(),
                host_ino: origin.fingerprint.ino,
                links,
            })
        };
        let mut found: Vec<_> = self.inodes.iter().filter_map(linked).collect();
        found.retain(|file| self.is_changed(file));
        found
    }

    fn is_changed(&mut self, file: &Missing) -> bool {
        let old = self.base_entry(&file.origin);
        // What cannot be compared is taken for changed: better one remark too many.
        match (
            &old,
            self.shown_of_record(file.ino, &file.origin, old.as_ref()),
        ) {
            (Some(old), Ok(shown)) if old.node.kind == shown.node.kind => {
                Difference::of_metadata(&old.node, &shown.node).any()
                    || !self.same_content(&old.node, &shown.node).unwrap_or(false)
            }
            _ => true,
        }
    }

    pub(super) fn base_entry(&self, path: &[u8]) -> Option<BaseEntry> {
        let (dir, name) = split(path);
        let dir = self.base.dir(dir).ok()??;
        dir.entry(self.base, &Name::new(name).ok()?).ok()?
    }

    fn search(&mut self, missing: &[Missing], tops: &[Vec<u8>]) {
        let mut wanted = Wanted {
            inos: missing.iter().map(|file| file.ino).collect(),
            host_inos: missing.iter().map(|file| file.host_ino).collect(),
            devices: missing.iter().flat_map(|file| self.keys(file)).collect(),
            origins: missing.iter().map(|file| file.origin.clone()).collect(),
            left: missing.iter().map(|file| file.links).sum(),
        };
        let mut todo: Vec<Vec<u8>> = Vec::new();
        for top in tops {
            if !self.visited.is_shown(top) {
                continue;
            }
            match self.base_entry(top) {
                Some(entry) if entry.node.kind != Kind::Dir => self.meet(&mut wanted, entry),
                _ => todo.push(top.clone()),
            }
        }
        let dirs = self.visited.in_place.keys();
        todo.extend(dirs.filter(|dir| is_wanted(dir, tops)).cloned());
        let mut seen = HashSet::new();
        while let Some(dir) = todo.pop() {
            if wanted.left == 0 {
                return;
            }
            if !seen.insert(dir.clone()) {
                continue;
            }
            if let Err(e) = self.search_dir(&dir, &mut wanted, &mut todo) {
                // Who may not list it has no use for the names in it: they stay uncounted.
                if !e.is_denied() {
                    self.set.problems.push(Problem {
                        path: dir,
                        what: e.to_string(),
                    });
                }
            }
        }
    }

    fn search_dir(
        &mut self,
        path: &[u8],
        wanted: &mut Wanted,
        todo: &mut Vec<Vec<u8>>,
    ) -> Result<(), ReviewError> {
        let dir = self.base.dir(path);
        let Some(dir) = dir.map_err(|e| ReviewError::base("open", path, e))? else {
            return Ok(());
        };
        let on_the_way = |origin: &Arc<[u8]>| is_at_or_below(origin, path);
        let device = dir.device(self.base)?;
        if !wanted.devices.contains(&device) && !wanted.origins.iter().any(on_the_way) {
            return Ok(());
        }
        let known = self.visited.in_place.get(path);
        let mut names = Vec::new();
        dir.each_entry(&mut |name, host_ino, kind| {
            if known.is_some_and(|known| known.contains(&name)) {
                return true;
            }
            if kind == FileType::Directory {
                todo.push(join(path, name.as_bytes()));
            } else if kind == FileType::Unknown || wanted.host_inos.contains(&host_ino) {
                names.push(name);
            }
            true
        })?;
        for name in names {
            match dir.entry(self.base, &name)? {
                Some(entry) if entry.node.kind == Kind::Dir => todo.push(entry.path.to_vec()),
                Some(entry) => self.meet(wanted, entry),
                None => {}
            }
        }
        Ok(())
    }

    /// Compares what the branch shows for `entry` if it is a wanted file.
    fn meet(&mut self, wanted: &mut Wanted, entry: BaseEntry) {
        let shown = self.shown_of_base(entry.clone());
        let is_wanted = |ino: Ino| wanted.inos.contains(&ino);
        if shown.recorded.is_some_and(is_wanted) {
            wanted.left = wanted.left.saturating_sub(1);
            self.compare(entry.path.to_vec(), Some(entry), Some(shown));
        }
    }

    /// Keys of the file systems that `file` may be on: of its own, or of all that are known.
    fn keys(&self, file: &Missing) -> Vec<u64> {
        let of_file = |indexes: &Vec<u16>| indexes.iter().any(|index| file.is_on(*index));
        let own: Vec<_> = (self.devices.iter())
            .filter(|(_, indexes)| of_file(indexes))
            .map(|(key, _)| *key)
            .collect();
        if own.is_empty() {
            return self.devices.keys().copied().collect();
        }
        own
    }
}

impl Missing {
    fn is_on(&self, index: u16) -> bool {
        crate::core::number::of_base(index, self.host_ino) == self.ino
    }
}

fn is_wanted(dir: &[u8], tops: &[Vec<u8>]) -> bool {
    tops.iter().any(|top| is_at_or_below(dir, top))
}
