//! Reading directories: the branch's names over the base's, in an order that survives changes.

use std::time::Duration;

use crate::backstore::Records;
use crate::core::base::{BaseLoc, state};
use crate::core::inode::{Listed, Node};
use crate::core::listing::{DOT_COOKIE, DOTDOT_COOKIE, Listing};
use crate::core::ops::lookup::is_missing;
use crate::core::record::Dentry;
use crate::core::superblock::Tree;
use crate::core::types::{DirEnt, Entry, Ino, Kind, Name, StreamName, Time};
use crate::core::{FsCore, FsError};

/// Entries taken out of a listing at a time.
const BATCH: usize = 128;
/// A host that stamps by the tick of its clock does so at least this often.
const TICK: Duration = Duration::from_millis(20);

/// What the kernel may do with the listing that it has of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldListing {
    /// Go by it.
    Yes,
    /// Have us list it anew, and keep that.
    No,
    /// Ask for it each time, and keep none: see [`Listed`].
    Never,
}

/// Whether a change from now on gives another time than this one.
pub(in crate::core) fn is_settled(changed: Time) -> bool {
    let nanos = |t: Time| i128::from(t.sec) * 1_000_000_000 + i128::from(t.nsec);
    nanos(Time::now()) - nanos(changed) > TICK.as_nanos() as i128
}

impl FsCore {
    /// Gives the entries after `cookie` (0: from the start) to `each` until it returns false.
    ///
    /// Errors: `NotADirectory`, `Stale`, `Base`, `Store`.
    pub fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        each: &mut dyn FnMut(&DirEnt) -> bool,
    ) -> Result<(), FsError> {
        self.stream_entries(ino, cookie, &mut |entry| Ok(each(entry)))
    }

    /// As [`FsCore::readdir`], with the attributes of each entry that is not one of the dots.
    ///
    /// For every entry that `each` takes with attributes, the caller owes a forget.
    pub fn readdirplus(
        &self,
        ino: Ino,
        cookie: u64,
        each: &mut dyn FnMut(&DirEnt, Option<&Entry>) -> bool,
    ) -> Result<(), FsError> {
        self.stream_entries(ino, cookie, &mut |dirent| {
            let StreamName::Entry(name) = &dirent.name else {
                return Ok(each(dirent, None));
            };
            match self.lookup(ino, name) {
                Ok(entry) => {
                    let dirent = DirEnt {
                        ino: entry.attr.ino,
                        ..dirent.clone()
                    };
                    let taken = each(&dirent, Some(&entry));
                    if !taken {
                        self.forget(entry.attr.ino, 1);
                    }
                    Ok(taken)
                }
                // Gone since the listing was made.
                Err(FsError::NoEntry { .. }) => Ok(true),
                // Listed, but cannot be looked at: the name is still there to be seen.
                Err(FsError::Base { .. }) => Ok(each(dirent, None)),
                Err(e) => Err(e),
            }
        })
    }

    fn stream_entries(
        &self,
        ino: Ino,
        mut cookie: u64,
        each: &mut dyn FnMut(&DirEnt) -> Result<bool, FsError>,
    ) -> Result<(), FsError> {
        if cookie <= DOTDOT_COOKIE {
            // Nobody need have asked to open it.
            self.check_dir(ino)?;
            self.list_anew(ino)?;
        }
        let parent = crate::sync::lock(&self.tree)
            .dir(ino)?
            .parent
            .unwrap_or(Ino::ROOT);
        for (at, dot, ino) in [
            (DOT_COOKIE, StreamName::Dot, ino),
            (DOTDOT_COOKIE, StreamName::DotDot, parent),
        ] {
            if cookie < at {
                if !each(&DirEnt {
                    ino,
                    kind: Kind::Dir,
                    name: dot,
                    cookie: at,
                })? {
                    return Ok(());
                }
                cookie = at;
            }
        }
        loop {
            let batch = {
                let mut tree = crate::sync::lock(&self.tree);
                self.load_listing(&mut tree, ino)?;
                tree.listings
                    .get(ino)
                    .map(|l| l.after(cookie, BATCH))
                    .unwrap_or_default()
            };
            if batch.is_empty() {
                return Ok(());
            }
            for (at, name, ino, kind) in batch {
                let name = StreamName::Entry(name);
                if !each(&DirEnt {
                    ino,
                    kind,
                    name,
                    cookie: at,
                })? {
                    return Ok(());
                }
                cookie = at;
            }
        }
    }

    /// Opens a directory to be listed, as [`FsCore::check_dir`], and tells whether the kernel may go by
    /// what it has of the listing.
    pub fn open_dir(&self, ino: Ino) -> Result<OldListing, FsError> {
        self.check_dir(ino)?;
        let tree = crate::sync::lock(&self.tree);
        let dir = tree.dir(ino)?;
        Ok(match (dir.listed, &dir.base_dir) {
            (Listed::Changing, _) => OldListing::Never,
            (Listed::Never, _) => OldListing::No,
            (Listed::Steady, None) => OldListing::Yes,
            (Listed::Steady, Some(base_dir)) => {
                let now = self.base_state(&tree, ino)?;
                match now != 0 && now == base_dir.listed_in() {
                    true => OldListing::Yes,
                    false => OldListing::No,
                }
            }
        })
    }

    /// The state of what the base has of the directory `ino`; 0: it has none, or it is too young to
    /// tell a change that comes within one tick of the clock.
    fn base_state(&self, tree: &Tree, ino: Ino) -> Result<u64, FsError> {
        let dir = tree.dir(ino)?;
        // Of one that is shown in part it is what is in others that counts.
        let (Some(base_dir), None) = (&dir.base_dir, &dir.exposed) else {
            return Ok(0);
        };
        match self.base.stat(&base_dir.loc()) {
            Ok(stat) if is_settled(stat.fingerprint.ctime) => Ok(state(&stat.fingerprint)),
            Ok(_) => Ok(0),
            Err(e) if is_missing(&e) => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// Whether the kernel may keep the listing of `ino` that it was just given all of.
    pub fn may_keep_listing(&self, ino: Ino) -> bool {
        let tree = crate::sync::lock(&self.tree);
        let may_keep = |node: &Node| {
            let is_old = node.base_dir.as_ref().is_some_and(|dir| dir.has_changed());
            node.listed == Listed::Steady && !is_old
        };
        tree.node(ino).is_ok_and(may_keep)
    }

    /// Builds the listing of `ino` anew: a new pass over the directory sees what the host has now.
    fn list_anew(&self, ino: Ino) -> Result<(), FsError> {
        let mut tree = crate::sync::lock(&self.tree);
        // Before it is read: what comes meanwhile makes it another one.
        let dir = tree.dir(ino)?;
        if let (Some(base_dir), None) = (&dir.base_dir, &dir.exposed) {
            self.watch_dir(base_dir);
            base_dir.set_changed(false);
        }
        let state = self.base_state(&tree, ino)?;
        if let Some(base_dir) = &tree.dir(ino)?.base_dir {
            base_dir.set_listed_in(state);
        }
        let old = tree.listings.forget(ino);
        self.load_listing(&mut tree, ino)?;
        let is_same = match (old, tree.listings.get(ino)) {
            (Some(old), Some(new)) => old.has_names_of(new),
            // Nobody knows any more what was seen before.
            _ => tree.node(ino)?.listed == Listed::Never,
        };
        tree.is_listed(ino);
        if !is_same {
            tree.names_changed(ino);
        }
        Ok(())
    }

    /// Sees to it that the merged listing of `ino` is kept. Locks: the caller holds the tree.
    pub(in crate::core) fn load_listing(&self, tree: &mut Tree, ino: Ino) -> Result<(), FsError> {
        if tree.listings.get(ino).is_some() {
            return Ok(());
        }
        let dir = tree.dir(ino)?;
        let mut listing = Listing::default();
        if dir.unlinked {
            tree.listings.keep(ino, listing);
            return Ok(());
        }
        let (base_dir, exposed) = (dir.base_dir.clone(), dir.exposed.clone());
        let recorded = tree.branch.dentries(ino)?;
        if let Some(base_dir) = &base_dir
            && exposed.is_none()
        {
            let found = self.base.list(base_dir);
            let (entries, dev) = match found.and_then(|list| Ok((list, self.base_dev(tree, ino)?)))
            {
                Ok(found) => found,
                // The host removed the directory: what the branch holds in it is still there.
                Err(e) if crate::core::ops::lookup::is_missing(&e) => (Vec::new(), 0),
                Err(e) => return Err(e),
            };
            let here = base_dir.loc();
            for entry in entries {
                if recorded.contains_key(&entry.name) {
                    continue;
                }
                if self.base.may_conceal(entry.host_ino) {
                    let loc = BaseLoc::Child(base_dir.clone(), entry.name.clone());
                    if self.base_stat(&loc)?.is_none() {
                        continue;
                    }
                }
                let child = tree.base_ino(&self.base, &here, dev, entry.host_ino)?;
                listing.insert(entry.name, child, entry.kind);
            }
        }
        if let Some(exposed) = &exposed {
            self.list_skeleton(tree, ino, exposed.names(), &mut listing)?;
        }
        for (name, dentry) in recorded {
            if exposed
                .as_ref()
                .is_some_and(|e| !e.names().any(|n| *n == name))
            {
                continue;
            }
            if let Dentry::Present { ino, kind } = dentry {
                listing.insert(name, ino, kind);
            }
        }
        tree.listings.keep(ino, listing);
        Ok(())
    }

    fn list_skeleton<'a>(
        &self,
        tree: &mut Tree,
        dir: Ino,
        names: impl Iterator<Item = &'a Name>,
        listing: &mut Listing,
    ) -> Result<(), FsError> {
        let Some(base_dir) = tree.dir(dir)?.base_dir.clone() else {
            return Ok(());
        };
        for name in names {
            let loc = BaseLoc::Child(base_dir.clone(), name.clone());
            if let Some(stat) = self.base_stat(&loc)? {
                let print = &stat.fingerprint;
                let ino = tree.base_ino(&self.base, &loc, print.dev, print.ino)?;
                listing.insert(name.clone(), ino, stat.kind);
            }
        }
        Ok(())
    }

    /// The number that the host device of a merged directory's base has now: the one in a record may
    /// be another device's since.
    fn base_dev(&self, tree: &Tree, ino: Ino) -> Result<u64, FsError> {
        let node = tree.node(ino)?;
        match node.seen() {
            Some(seen) if node.record.is_none() => Ok(seen.dev),
            _ => {
                let loc = node.base().ok_or(FsError::Stale(ino))?;
                Ok(self.base.stat(loc)?.fingerprint.dev)
            }
        }
    }
}
