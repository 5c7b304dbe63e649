//! Compares the branch's tree with the base's, path by path, from the records down.
//!
//! A directory that shows the base's own directory at the same path ("in place") is compared by
//! its recorded names only. Every other pair of directories (one side missing, opaque, or moved)
//! is compared by all its names: that is the subtree which the branch itself replaced.
//! A worklist, not recursion: depth costs neither stack nor open directories.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::ReviewError;
use super::base::{Base, BaseDir, BaseEntry, join};
use super::content::ContentReader;
use super::node::{Change, Difference, Node, Source};
use crate::backstore::Records;
use crate::core::record::{Dentry, InodeRec};
use crate::core::types::{Ino, Kind, Name, Time};

mod drift;
mod links;
mod shown;

use links::Visited;
use shown::{Shown, attributes};

/// How much a review may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Whatever it takes: for a diff.
    Exact,
    /// Bounded, for counting. Files of equal size count as modified once `compare_bytes` have been
    /// compared; after `base_entries` listed in replaced or moved directories the set is incomplete.
    Bounded {
        /// Bytes to compare, in all.
        compare_bytes: u64,
        /// Entries of the base to list, in all.
        base_entries: u64,
    },
}

/// What a branch changed.
#[derive(Debug)]
pub struct ChangeSet {
    /// By path, ascending; no path twice. Directories are there too, when one side lacks them or
    /// their own attributes differ.
    pub changes: Vec<Change>,
    /// What the branch has, by path, where its runs could not see what the host has, or of which
    /// the contents are the host's at such a place, or in place of a directory with such places.
    /// Not among the changes: what they would do to the host's files there, nobody looks at.
    pub hidden: Vec<Change>,
    /// Directories that both sides have and that the branch emptied.
    pub emptied: Vec<Vec<u8>>,
    /// Changed files of the base whose written name is gone, while hard links to them remain
    /// under names that no one has used, where no one looked for them: they show the change.
    pub strays: Vec<Stray>,
    /// What could not be looked at.
    pub problems: Vec<Problem>,
    /// False: [`Effort::Bounded`] ran out, and there are more changes than these.
    pub complete: bool,
    /// The clock was set back since the branch changed something, and has not come by again: what the
    /// host changed since cannot be told there from what it had before, and counts as changed.
    pub clock_set_back: bool,
}

/// A changed file of the base with no name that the branch has a word on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Absolute host path under which it was changed, in bytes.
    pub path: Vec<u8>,
    /// Names that it still has.
    pub links: u32,
}

/// A path that could not be looked at, and why.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Absolute host path, in bytes.
    pub path: Vec<u8>,
    /// What failed.
    pub what: String,
}

/// What the branch of `records` changed of `base`, as the base is now.
///
/// A change shows under all hard links of a file, also under those that the branch has no word on.
/// `links_below` says in which host paths (absolute, in bytes) to look for these; elsewhere they are
/// only counted.
///
/// Errors: the store cannot be read. A path of the base that cannot is a [`Problem`] instead.
pub fn changes(
    records: &dyn Records,
    base: &Base,
    effort: Effort,
    links_below: &[Vec<u8>],
) -> Result<ChangeSet, ReviewError> {
    let mut walk = Walk::load(records, base, effort)?;
    walk.run();
    Ok(walk.finish(links_below))
}

/// A directory as the branch shows it.
#[derive(Clone, Debug)]
struct Tree {
    /// Its number, if the branch has a record of it.
    ino: Option<Ino>,
    /// The host directory it merges with.
    origin: Option<Arc<[u8]>>,
}

/// Two directories to compare, or one that the other side lacks.
struct Pair {
    path: Vec<u8>,
    before: bool,
    after: Option<Tree>,
    /// No later than this the branch last added or removed a name here, if known.
    since: Option<Time>,
    /// Where the host has a directory of this name, by the host's names of those above.
    own: Option<Arc<[u8]>>,
}

/// Names that the walk has met of one inode.
#[derive(Default)]
struct Links {
    met: u32,
    /// Position of the first change among them.
    change: Option<usize>,
}

struct Walk<'a> {
    records: &'a dyn Records,
    base: &'a Base,
    exact: bool,
    compare_bytes: u64,
    base_entries: u64,
    names: HashMap<Ino, Vec<(Name, Dentry)>>,
    inodes: HashMap<Ino, Arc<InodeRec>>,
    /// Indexes in the numbers of inodes, by device key; several for copies of one file system.
    devices: HashMap<u64, Vec<u16>>,
    /// Numbers that a dentry leads to.
    placed: HashSet<Ino>,
    /// Recorded directories that some path led to.
    reached: HashSet<Ino>,
    todo: Vec<Pair>,
    links: HashMap<Ino, Links>,
    visited: Visited,
    /// Records by where they come from; no directories.
    origins: HashMap<Arc<[u8]>, Arc<InodeRec>>,
    /// [`Pair::since`] of the pair that is looked at.
    since: Option<Time>,
    /// When the review began.
    now: Time,
    /// The host directory that it merges with.
    merged: Option<Arc<[u8]>>,
    set: ChangeSet,
}

impl<'a> Walk<'a> {
    fn load(records: &'a dyn Records, base: &'a Base, effort: Effort) -> Result<Self, ReviewError> {
        let mut names: HashMap<Ino, Vec<(Name, Dentry)>> = HashMap::new();
        let mut placed = HashSet::new();
        records.each_dentry(&mut |parent, name, dentry| {
            if let Dentry::Present { ino, .. } = dentry {
                placed.insert(ino);
            }
            names
                .entry(parent)
                .or_default()
                .push((name.clone(), dentry));
            Ok(())
        })?;
        let (mut inodes, mut origins) = (HashMap::new(), HashMap::new());
        records.each_inode(&mut |ino, record| {
            if let Some(origin) = record.origin.as_ref().filter(|_| record.kind != Kind::Dir) {
                origins.insert(origin.path.clone(), record.clone());
            }
            inodes.insert(ino, record.clone());
            Ok(())
        })?;
        let mut devices: HashMap<u64, Vec<u16>> = HashMap::new();
        for (index, key) in records.devices() {
            devices.entry(key).or_default().push(index);
        }
        let (exact, compare_bytes, base_entries) = match effort {
            Effort::Exact => (true, u64::MAX, u64::MAX),
            Effort::Bounded {
                compare_bytes,
                base_entries,
            } => (false, compare_bytes, base_entries),
        };
        let set = ChangeSet {
            changes: Vec::new(),
            hidden: Vec::new(),
            emptied: Vec::new(),
            strays: Vec::new(),
            problems: Vec::new(),
            complete: true,
            clock_set_back: false,
        };
        Ok(Walk {
            records,
            base,
            exact,
            compare_bytes,
            base_entries,
            names,
            inodes,
            devices,
            placed,
            visited: Visited::default(),
            reached: HashSet::from([Ino::ROOT]),
            todo: Vec::new(),
            links: HashMap::new(),
            origins,
            since: None,
            now: Time::now(),
            merged: None,
            set,
        })
    }

    fn run(&mut self) {
        let top: Arc<[u8]> = b"/".as_slice().into();
        if let Some(record) = self.inodes.get(&Ino::ROOT).cloned() {
            let before = match self.base.dir(b"/") {
                Ok(Some(dir)) => dir.own(),
                Ok(None) => Err(ReviewError::base(
                    "open",
                    b"/",
                    io::ErrorKind::NotFound.into(),
                )),
                Err(e) => Err(ReviewError::base("open", b"/", e)),
            };
            match before {
                Ok(before) => {
                    let after = attributes(&record);
                    self.push_if_different(b"/".to_vec(), before, after);
                }
                Err(e) => self.problem(b"/", &e),
            }
        }
        let tree = Tree {
            ino: Some(Ino::ROOT),
            origin: Some(top),
        };
        self.todo.push(Pair {
            path: b"/".to_vec(),
            before: true,
            since: self.since_of(&tree),
            after: Some(tree),
            own: None,
        });
        while let Some(pair) = self.todo.pop() {
            if let Err(e) = self.visit(&pair) {
                self.problem(&pair.path, &e);
            }
        }
    }

    fn finish(mut self, links_below: &[Vec<u8>]) -> ChangeSet {
        if self.set.complete {
            self.find_links(links_below);
        }
        self.set.changes.sort_by(|a, b| a.path.cmp(&b.path));
        self.set_hidden_apart();
        self.set.emptied.sort();
        self.set.strays.sort_by(|a, b| a.path.cmp(&b.path));
        self.set
    }

    /// Takes out of the changes what lies at hidden places or has its contents there, and what
    /// takes the place of a directory in which something was hidden.
    fn set_hidden_apart(&mut self) {
        let base = self.base;
        let is_hidden = |change: &mut Change| {
            let source = change.after.as_ref().map(|after| &after.source);
            let origin = match source {
                Some(Source::Base(origin)) => Some(origin),
                Some(Source::Extents { base, .. }) => base.as_ref(),
                _ => None,
            };
            let gave_way = match (&change.before, &change.after) {
                (Some(before), Some(after)) => before.kind == Kind::Dir && after.kind != Kind::Dir,
                _ => false,
            };
            base.is_hidden(&change.path)
                || origin.is_some_and(|origin| base.is_hidden(origin))
                || gave_way && base.hides_below(&change.path)
        };
        let hidden = self.set.changes.extract_if(.., is_hidden).collect();
        self.set.hidden = hidden;
        self.set.emptied.retain(|path| !base.is_hidden(path));
        self.set.strays.retain(|stray| !base.is_hidden(&stray.path));
    }

    fn problem(&mut self, path: &[u8], error: &dyn std::fmt::Display) {
        self.set.problems.push(Problem {
            path: path.to_vec(),
            what: error.to_string(),
        });
    }

    fn visit(&mut self, pair: &Pair) -> Result<(), ReviewError> {
        self.since = pair.since;
        let open = |path: &[u8]| {
            self.base
                .dir(path)
                .map_err(|e| ReviewError::base("open", path, e))
        };
        let before = if pair.before { open(&pair.path)? } else { None };
        let recorded = pair.after.as_ref().and_then(|tree| tree.ino);
        let recorded = recorded
            .and_then(|ino| self.names.remove(&ino))
            .unwrap_or_default();
        let mut origin = pair.after.as_ref().and_then(|tree| tree.origin.clone());
        // What the host has moved away may have come to this place, as by the landing of the branch.
        if let (Some(path), Some(own)) = (&origin, &pair.own)
            && path != own
            && open(path)?.is_none()
            && open(own)?.is_some()
        {
            origin = Some(own.clone());
        }
        self.merged = origin.clone();
        if let Some(before) = &before
            && origin.as_deref() == Some(pair.path.as_slice())
        {
            let names = recorded.iter().map(|(name, _)| name.clone()).collect();
            self.visited.in_place.insert(pair.path.clone(), names);
            return self.visit_in_place(pair, before, &recorded);
        }
        self.visited.whole.insert(pair.path.clone());
        let origin = match &origin {
            Some(path) => {
                let dir = open(path)?;
                // What an earlier run moved away from a place that is hidden now.
                let is_hidden = self.base.is_hidden(path);
                if dir.is_none() && path.as_ref() != pair.path && !is_hidden {
                    // What it showed of that is lost, which is not the same as deleted.
                    self.problem(&pair.path, &gone(path));
                    for (name, dentry) in &recorded {
                        let old = before.as_ref().map(|dir| dir.entry(self.base, name));
                        let old = old.transpose()?.flatten();
                        self.compare_recorded(&pair.path, name, old, *dentry);
                    }
                    return Ok(());
                }
                dir
            }
            None => None,
        };
        self.visit_whole(pair, before.as_ref(), origin.as_ref(), &recorded)
    }

    /// The branch shows the base's own directory: only recorded names can differ.
    fn visit_in_place(
        &mut self,
        pair: &Pair,
        before: &BaseDir,
        recorded: &[(Name, Dentry)],
    ) -> Result<(), ReviewError> {
        let (mut present, mut gone) = (0_usize, BTreeSet::new());
        for (name, dentry) in recorded {
            let old = match before.entry(self.base, name) {
                Ok(old) => old,
                Err(e) => {
                    self.problem(&join(&pair.path, name.as_bytes()), &e);
                    continue;
                }
            };
            match dentry {
                Dentry::Whiteout if old.is_some() => {
                    gone.insert(name.clone());
                }
                Dentry::Whiteout => {}
                Dentry::Present { .. } => present += 1,
            }
            self.compare_recorded(&pair.path, name, old, *dentry);
        }
        if present == 0 && !gone.is_empty() {
            let mut left = false;
            before.each_name(&mut |name| {
                left = !gone.contains(&name);
                !left
            })?;
            if !left {
                self.set.emptied.push(pair.path.clone());
            }
        }
        Ok(())
    }

    /// The branch replaced, moved, made or removed the directory: any name can differ.
    fn visit_whole(
        &mut self,
        pair: &Pair,
        before: Option<&BaseDir>,
        origin: Option<&BaseDir>,
        recorded: &[(Name, Dentry)],
    ) -> Result<(), ReviewError> {
        let mut names = BTreeMap::new();
        for (name, dentry) in recorded {
            names.insert(name.clone(), Some(*dentry));
        }
        for dir in [before, origin].into_iter().flatten() {
            let mut room = self.base_entries;
            dir.each_name(&mut |name| {
                if room == 0 {
                    return false;
                }
                room -= 1;
                names.entry(name).or_insert(None);
                true
            })?;
            self.base_entries = room;
            self.set.complete &= room > 0;
        }
        let (mut any_before, mut any_after) = (false, false);
        for (name, dentry) in names {
            let path = join(&pair.path, name.as_bytes());
            let entry = |dir: Option<&BaseDir>| match dir {
                Some(dir) => dir.entry(self.base, &name),
                None => Ok(None),
            };
            let (old, inherited) = match (entry(before), dentry) {
                (Ok(old), Some(_)) => (old, None),
                (Ok(old), None) => match entry(origin) {
                    Ok(inherited) => (old, inherited),
                    Err(e) => {
                        self.problem(&path, &e);
                        continue;
                    }
                },
                (Err(e), _) => {
                    self.problem(&path, &e);
                    continue;
                }
            };
            any_before |= old.is_some();
            if let Some(dentry) = dentry {
                any_after |= dentry != Dentry::Whiteout;
                self.compare_recorded(&pair.path, &name, old, dentry);
            } else {
                let shown = inherited.map(|entry| self.shown_of_base(entry));
                any_after |= shown.is_some();
                self.compare(path, old, shown);
            }
        }
        if pair.before && pair.after.is_some() && any_before && !any_after {
            self.set.emptied.push(pair.path.clone());
        }
        Ok(())
    }

    fn compare_recorded(&mut self, dir: &[u8], name: &Name, old: Option<BaseEntry>, new: Dentry) {
        let path = join(dir, name.as_bytes());
        let shown = match new {
            Dentry::Whiteout => None,
            Dentry::Present { ino, .. } => match self.shown_of_record(ino, &path, old.as_ref()) {
                Ok(shown) => Some(shown),
                Err(e) => return self.problem(&path, &e),
            },
        };
        self.compare(path, old, shown);
    }

    /// Records how `path` differs, and what to look into below it.
    fn compare(&mut self, path: Vec<u8>, old: Option<BaseEntry>, new: Option<Shown>) {
        let old_is_dir = old.as_ref().is_some_and(|old| old.node.kind == Kind::Dir);
        let tree = new.as_ref().and_then(|new| new.tree.clone());
        // Untouched: the base's own directory, with no record at all.
        if let Some(Tree { ino: None, origin }) = &tree
            && old_is_dir
            && origin.as_deref() == Some(path.as_slice())
        {
            return;
        }
        if let Some(shown) = &new
            && shown.lost
            && !shown.is_base_at(&path)
            && let Source::Base(origin) = &shown.node.source
            && !self.base.is_hidden(origin)
        {
            if let Some(ino) = shown.recorded {
                self.links.entry(ino).or_default().met += 1;
            }
            return self.problem(&path, &gone(origin));
        }
        // The host has lost it meanwhile: the branch did not make it.
        let lost = old.is_none() && new.as_ref().is_some_and(|new| new.is_base_at(&path));
        if let Some(ino) = tree.as_ref().and_then(|tree| tree.ino)
            && !self.reached.insert(ino)
        {
            return self.problem(&path, &"the branch records this directory at two places");
        }
        if old_is_dir || tree.is_some() {
            self.todo.push(Pair {
                path: path.clone(),
                before: old_is_dir,
                since: tree.as_ref().map_or(self.since, |tree| self.since_of(tree)),
                after: tree,
                own: self.own_place(&path),
            });
        }
        let recorded = new.as_ref().and_then(|new| new.recorded);
        let host_changed = self.drifted(&path, old.as_ref(), new.as_ref());
        let attributes_changed = self.attributes_drifted(&path, old.as_ref(), new.as_ref());
        let at = self.set.changes.len();
        match (old.map(|old| old.node), new.map(|new| new.node)) {
            (None, None) => {}
            _ if lost => {}
            (Some(before), Some(after)) if before.kind == after.kind => {
                self.push_if_different(path, before, after);
            }
            (before, after) => self.push(path, before, after, Difference::default()),
        }
        if let Some(change) = self.set.changes.get_mut(at) {
            change.host_changed = host_changed && change.touches_bytes()
                || attributes_changed && change.changes_what_executes();
        }
        if let Some(ino) = recorded {
            let links = self.links.entry(ino).or_default();
            links.met += 1;
            if self
                .set
                .changes
                .get(at)
                .is_some_and(|change| change.after.is_some())
            {
                links.change.get_or_insert(at);
            }
        }
    }

    /// Where the host has an object of the name that `path` ends with, if it has the directory.
    fn own_place(&self, path: &[u8]) -> Option<Arc<[u8]>> {
        let (_, name) = split(path);
        Some(join(self.merged.as_deref()?, name).into())
    }

    fn push_if_different(&mut self, path: Vec<u8>, before: Node, after: Node) {
        let mut difference = Difference::of_metadata(&before, &after);
        match self.same_content(&before, &after) {
            Ok(same) => difference.content |= !same,
            Err(e) => {
                // A file that cannot be compared counts as changed; reading it again will tell why.
                difference.content = true;
                if !self.exact {
                    self.problem(&path, &e);
                }
            }
        }
        if difference.any() {
            self.push(path, Some(before), Some(after), difference);
        }
    }

    fn push(
        &mut self,
        path: Vec<u8>,
        before: Option<Node>,
        after: Option<Node>,
        difference: Difference,
    ) {
        self.set.changes.push(Change {
            path,
            before,
            after,
            difference,
            unlisted_links: 0,
            host_changed: false,
        });
    }

    fn same_content(&mut self, before: &Node, after: &Node) -> io::Result<bool> {
        let reader = ContentReader::new(self.base, self.records);
        reader.same(before, after, &mut self.compare_bytes)
    }
}

/// Directory and name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(0) | None => (b"/", path.strip_prefix(b"/").unwrap_or(path)),
        Some(at) => (&path[..at], &path[at + 1..]),
    }
}

fn gone(path: &[u8]) -> String {
    format!(
        "the host's {}, which the branch shows there, is gone",
        path.escape_ascii()
    )
}
