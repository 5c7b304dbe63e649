//! What the host does while the branch is live: which directories are watched for it, and what the
//! kernel must be told of a change so that it does not go on with what it knows.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::backstore::Records;
use crate::core::FsCore;
use crate::core::base::{BaseDir, BaseLoc, BaseStat, state};
use crate::core::found::is_same;
use crate::core::inode::Node;
use crate::core::number;
use crate::core::ops::readdir::is_settled;
use crate::core::record::{Content, Dentry, Fingerprint};
use crate::core::superblock::Tree;
use crate::core::types::{Ino, Kind, Name};
use crate::core::watch::{Touch, Watch};
use crate::sync::{Arc, lock};

/// Names that are dealt with at a time, so that requests come in between.
const CHUNK: usize = 256;

/// Something that the kernel is to do, since the host has changed what it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Look this name up again before it is used.
    Name {
        /// The directory.
        dir: Ino,
        /// The name in it.
        name: Name,
        /// It is likely to lead to the directory that it led to: not to be taken away for nothing.
        stays: bool,
    },
    /// Drop the listing of this directory, and its attributes.
    Listing(Ino),
    /// Ask for the attributes of this inode.
    Attributes(Ino),
    /// Drop the bytes of this file, and its attributes.
    Bytes(Ino),
}

/// Places of the view that something else is mounted on. The kernel takes a mount away with the name
/// that it is on, so these names are left alone, and those above them.
#[derive(Debug, Default)]
pub struct Covered {
    /// Those places and all above them, as bytes.
    paths: HashSet<PathBuf>,
    /// The last parts of all of these.
    names: HashSet<Vec<u8>>,
}

impl Covered {
    /// Of these mounts, by absolute paths of the host.
    pub fn new(places: &[PathBuf]) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let mut covered = Self::default();
        for path in places.iter().flat_map(|place| place.ancestors()) {
            let name = path.file_name().unwrap_or_default();
            covered.names.insert(name.as_bytes().to_vec());
            covered.paths.insert(path.to_owned());
        }
        covered
    }

    /// Whether `name` in `dir` may be one of them. The branch may have moved one of the directories
    /// above it; the name itself, or one above, is the same then.
    fn has(&self, tree: &Tree, dir: &BaseDir, name: &Name) -> bool {
        use std::os::unix::ffi::OsStrExt;
        if !self.names.contains(name.as_bytes()) {
            return false;
        }
        let mut at = Some(dir.ino);
        while let Some(node) = at.and_then(|ino| tree.nodes.get(&ino)) {
            if node.record.is_some() {
                return true;
            }
            at = node.parent;
        }
        let dir = dir.loc().path();
        let path = Path::new(std::ffi::OsStr::from_bytes(&dir));
        let name = std::ffi::OsStr::from_bytes(name.as_bytes());
        self.paths.contains(&path.join(name))
    }
}

/// By what the host's changes are told of.
#[derive(Debug)]
pub struct Watching {
    /// Takes the events.
    pub watch: Arc<Watch>,
    /// Readable when there are some.
    pub events: Arc<OwnedFd>,
    /// What was looked at before, as [`FsCore::watched_names`].
    pub waiting: Vec<(Ino, Vec<Name>)>,
}

/// A name that the host has touched, and what it has there now.
struct Seen {
    name: Name,
    touch: Touch,
    now: Option<BaseStat>,
}

impl FsCore {
    /// Says that what the host does in the directories that are looked at from now on is to be told of,
    /// once [`FsCore::begin_watch`] is called.
    pub fn want_watch(&self) {
        self.watch.want();
    }

    /// Begins to watch, `most` directories at once. Returns by what events are taken, what is readable
    /// then, and the directories to look through that were looked at before.
    ///
    /// Errors: there is no inotify to be had. Nothing is watched then.
    pub fn begin_watch(&self, most: usize) -> io::Result<Watching> {
        let (events, waiting) = self.watch.begin(most)?;
        let waiting = self.watch_anew(waiting.into_iter().collect());
        Ok(Watching {
            watch: self.watch.clone(),
            events,
            waiting,
        })
    }

    /// Watches nothing any more.
    pub fn end_watch(&self) {
        self.watch.end();
    }

    /// Watches a directory of the base in which something is about to be looked at.
    pub(in crate::core) fn watch_dir(&self, dir: &BaseDir) {
        if !self.watch.is_wanted() || !dir.ask_for_watch() {
            return;
        }
        match self.base.held_dir(dir) {
            Ok((fd, stat)) => {
                self.watch.add(dir.ino, &fd);
                dir.set_watched_in(settled_state(&stat));
            }
            // There may be one again.
            Err(_) => dir.watch_ended(),
        }
    }

    /// Watches directories that wait for it, or that the host has moved or removed, where they are to be
    /// found: the same elsewhere, or another that is known by that place. Returns those that are
    /// watched, with the names of [`FsCore::watched_names`]: they are to be looked through.
    pub fn watch_anew(&self, dirs: HashSet<Ino>) -> Vec<(Ino, Vec<Name>)> {
        let anew = |dir: &Ino| {
            let Some(base_dir) = self.merged_dir(*dir) else {
                return false;
            };
            base_dir.watch_ended();
            match self.base.held_dir(&base_dir) {
                Ok((fd, _)) => base_dir.ask_for_watch() && self.watch.add(*dir, &fd),
                Err(_) => false,
            }
        };
        self.names_in(dirs.into_iter().filter(anew).collect())
    }

    /// What the kernel is to be told, now that the host has touched these names in `dir`.
    ///
    /// Locks: takes rank 2, not while the base is asked.
    pub fn host_changed(
        &self,
        dir: Ino,
        names: HashMap<Name, Touch>,
        covered: &Covered,
    ) -> Vec<Notice> {
        let Some(base_dir) = self.merged_dir(dir) else {
            return Vec::new();
        };
        self.notices_of(&base_dir, names, false, covered)
    }

    /// What the kernel is to be told of these names; with `found`, those that lead where they were
    /// found to lead are taken for unchanged.
    fn notices_of(
        &self,
        dir: &Arc<BaseDir>,
        names: HashMap<Name, Touch>,
        found: bool,
        covered: &Covered,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut names = names.into_iter();
        loop {
            let mut seen = self.look_at(dir, names.by_ref().take(CHUNK));
            if seen.is_empty() {
                return notices;
            }
            let mut tree = lock(&self.tree);
            if found {
                for seen in &mut seen {
                    seen.touch.is_named &= !tree.leads_to(dir, &seen.name, seen.now.as_ref());
                }
            }
            tree.host_notices(dir, seen, covered, &mut notices);
        }
    }

    /// What the kernel is to be told of a directory of which the host has changed the attributes.
    pub fn host_changed_dir(&self, dir: Ino) -> Vec<Notice> {
        let tree = lock(&self.tree);
        let is_hosts = |node: &Node| node.record.is_none();
        let notice = tree.nodes.get(&dir).filter(|node| is_hosts(node));
        notice
            .map(|_| Notice::Attributes(dir))
            .into_iter()
            .collect()
    }

    /// The watched directories, and the names in each by which base objects were found. For when it is
    /// not known what the host has done.
    pub fn watched_names(&self) -> Vec<(Ino, Vec<Name>)> {
        self.names_in(self.watch.watched())
    }

    fn names_in(&self, dirs: Vec<Ino>) -> Vec<(Ino, Vec<Name>)> {
        let dirs = dirs.into_iter().map(|dir| (dir, Vec::new()));
        let mut names: HashMap<Ino, Vec<Name>> = dirs.collect();
        if names.is_empty() {
            return Vec::new();
        }
        let tree = lock(&self.tree);
        for node in tree.nodes.values() {
            for (dir, name) in node.unplaced() {
                if let Some(names) = names.get_mut(&dir.ino) {
                    names.push(name.clone());
                }
            }
        }
        names.into_iter().collect()
    }

    /// As [`FsCore::host_changed`], for a watched directory of which it is not known what the host has
    /// done in it; the `known` names are those of [`FsCore::watched_names`].
    pub fn host_may_have_changed(
        &self,
        dir: Ino,
        known: Vec<Name>,
        covered: &Covered,
    ) -> Vec<Notice> {
        let Some(base_dir) = self.merged_dir(dir) else {
            return Vec::new();
        };
        let Ok((_, now)) = self.base.held_dir(&base_dir) else {
            return Vec::new();
        };
        let now = settled_state(&now);
        let is_changed = base_dir.set_watched_in(now) || now == 0;
        let touch = Touch {
            is_named: is_changed,
        };
        let mut names: HashMap<Name, Touch> = known.into_iter().map(|name| (name, touch)).collect();
        if is_changed {
            // A name that the kernel has for none may be among them.
            for entry in self.base.list(&base_dir).unwrap_or_default() {
                names.insert(entry.name, touch);
            }
        }
        let mut notices = self.notices_of(&base_dir, names, true, covered);
        if is_changed {
            base_dir.set_changed(true);
            notices.push(Notice::Listing(dir));
        }
        notices
    }

    /// A directory of which the base has a part, all of it shown.
    fn merged_dir(&self, dir: Ino) -> Option<Arc<BaseDir>> {
        let tree = lock(&self.tree);
        let node = tree.nodes.get(&dir)?;
        let is_whole = node.exposed.is_none() && !node.unlinked;
        node.base_dir.clone().filter(|_| is_whole)
    }

    fn look_at(&self, dir: &Arc<BaseDir>, names: impl Iterator<Item = (Name, Touch)>) -> Vec<Seen> {
        let look = |(name, touch): (Name, Touch)| {
            let loc = BaseLoc::Child(dir.clone(), name.clone());
            let now = self.base_stat(&loc).ok().flatten();
            Seen { name, touch, now }
        };
        names.map(look).collect()
    }
}

/// [`state`] of a directory; 0 if a change that comes within one tick of the clock would not show in it.
fn settled_state(stat: &BaseStat) -> u64 {
    match is_settled(stat.fingerprint.ctime) {
        true => state(&stat.fingerprint),
        false => 0,
    }
}

impl Tree {
    fn host_notices(
        &mut self,
        dir: &BaseDir,
        seen: Vec<Seen>,
        covered: &Covered,
        notices: &mut Vec<Notice>,
    ) {
        let mut are_others = false;
        for Seen { name, touch, now } in seen {
            if touch.is_named {
                let Ok(dentry) = self.branch.dentry(dir.ino, &name) else {
                    continue;
                };
                are_others |= dentry.is_none();
                if self.goes_by_host(dentry.as_ref()) && !covered.has(self, dir, &name) {
                    let is_dir = now.as_ref().is_some_and(|stat| stat.kind == Kind::Dir);
                    let stays = is_dir && self.leads_to(dir, &name, now.as_ref());
                    let dir = dir.ino;
                    notices.push(Notice::Name { dir, name, stays });
                }
            }
            if let Some(stat) = now {
                notices.extend(self.changed_object(&stat));
            }
        }
        let listing = Notice::Listing(dir.ino);
        if are_others && !notices.contains(&listing) {
            // Before the kernel is told: who is just listing it is not to have it kept.
            dir.set_changed(true);
            notices.push(listing);
        }
    }

    /// Whether what the branch has of a name leaves it to the host what that leads to.
    fn goes_by_host(&self, dentry: Option<&Dentry>) -> bool {
        match dentry {
            None => true,
            Some(Dentry::Whiteout) => false,
            // Of which only the attributes are the branch's: it goes by its name.
            Some(Dentry::Present { ino, .. }) => (self.nodes.get(ino))
                .and_then(|node| node.record.as_ref())
                .is_some_and(|r| r.kind == Kind::File && r.content == Content::Base),
        }
    }

    /// What the kernel is to be told of a base object, if it knows another state of it.
    fn changed_object(&mut self, stat: &BaseStat) -> Option<Notice> {
        let ino = self.known_object(stat)?;
        let node = self.nodes.get_mut(&ino)?;
        let has_bytes = |content: &Content| *content == Content::Base;
        match &node.record {
            None if node.kind != Kind::File => return Some(Notice::Attributes(ino)),
            None => {}
            Some(record) if node.kind == Kind::File && has_bytes(&record.content) => {}
            // The branch's own.
            Some(_) => return None,
        }
        let now = state(&stat.fingerprint);
        let known = node.known();
        let is_old = |then: u64| then != 0 && then != now;
        if !is_old(known.attributes) && !is_old(known.pages) {
            return None;
        }
        if is_old(known.attributes) {
            // Once: until it has asked there is nothing more to tell.
            node.known_mut().attributes = 0;
        }
        if is_old(known.pages) {
            node.known_mut().pages = now;
            return Some(Notice::Bytes(ino));
        }
        Some(Notice::Attributes(ino))
    }

    /// The live inode of a base object.
    fn known_object(&self, stat: &BaseStat) -> Option<Ino> {
        let print = &stat.fingerprint;
        let index = *self.devices.get(&print.dev)?;
        let plain = number::of_base(index, print.ino);
        let is_it = |ino: &Ino| {
            let seen = self.nodes.get(ino).and_then(|node| node.seen());
            seen.is_some_and(|seen: &Fingerprint| is_same(seen, print))
        };
        [plain, number::hashed(plain, print.btime)]
            .into_iter()
            .find(is_it)
    }

    /// Whether a name was found to lead to what is there now.
    fn leads_to(&self, dir: &BaseDir, name: &Name, now: Option<&BaseStat>) -> bool {
        let node = now
            .and_then(|stat| self.known_object(stat))
            .and_then(|ino| self.nodes.get(&ino));
        node.is_some_and(|node| {
            let mut places = node.unplaced().iter();
            places.any(|(d, n)| d.ino == dir.ino && n == name)
        })
    }
}
