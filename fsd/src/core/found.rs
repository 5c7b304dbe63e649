//! How objects of the base become inodes of the branch, and stay them: their numbers, the records
//! that are about them, and where they are found again when the host has replaced or moved them.

use std::fs::File;
use std::sync::Arc;

use crate::backstore::Records;
use crate::core::FsError;
use crate::core::base::{self, BaseDir, BaseLoc, BaseStat, BaseTree};
use crate::core::change::Change;
use crate::core::inode::Node;
use crate::core::number;
use crate::core::record::{Content, Delta, Dentry, Fingerprint, InodeRec};
use crate::core::superblock::{Tree, node_of_record};
use crate::core::types::{Ino, Kind, Name};

impl Tree {
    /// The inode number of a base object: `dev` and `host_ino` as stat(2) shows them at `loc`.
    ///
    /// Errors: `Store` when a device is met for the first time and cannot be recorded.
    pub fn base_ino(
        &mut self,
        base: &BaseTree,
        loc: &BaseLoc,
        dev: u64,
        host_ino: u64,
    ) -> Result<Ino, FsError> {
        let index = match self.devices.get(&dev) {
            Some(index) => *index,
            None => self.meet_device(base.device_key(loc, dev), dev)?,
        };
        Ok(number::of_base(index, host_ino))
    }

    /// Gives a device that was not seen since the branch was opened its index: the one recorded for
    /// its key, unless another device of this session has it already (a copied file system image).
    fn meet_device(&mut self, key: u64, dev: u64) -> Result<u16, FsError> {
        let recorded = self.branch.devices();
        let free = |index: &u16| !self.devices.values().any(|used| used == index);
        let known = recorded
            .iter()
            .filter(|(_, k)| *k == key)
            .map(|(index, _)| *index)
            .find(free);
        let index = match known {
            Some(index) => index,
            None => {
                let last = recorded.iter().map(|(index, _)| *index).max().unwrap_or(0);
                let index = last.saturating_add(1);
                self.branch
                    .commit(vec![Delta::PutDevice { index, dev: key }])?;
                index
            }
        };
        self.devices.insert(dev, index);
        Ok(index)
    }

    /// Brings the base object found as `name` in `dir` into the table and returns its inode.
    ///
    /// A record of the branch for that object (made under another of its names) is used, if it
    /// is of the same object: an inode number that the host has reused gets a number of its own.
    pub fn load_base(
        &mut self,
        base: &BaseTree,
        dir: &Arc<BaseDir>,
        name: &Name,
        stat: &BaseStat,
    ) -> Result<Ino, FsError> {
        let print = &stat.fingerprint;
        let loc = BaseLoc::Child(dir.clone(), name.clone());
        let is_only = stat.kind == Kind::Dir || stat.nlink <= 1;
        let mut ino = self.base_ino(base, &loc, print.dev, print.ino)?;
        loop {
            match self.number_holds(ino, stat)? {
                Holds::This => break,
                Holds::Another => ino = number::hashed(ino, print.btime),
                Holds::Nothing => {
                    // Recorded under its further number, while this one was another object's?
                    let further = number::hashed(ino, print.btime);
                    if is_only || !matches!(self.number_holds(further, stat)?, Holds::This) {
                        break;
                    }
                    ino = further;
                }
            }
        }
        if !self.nodes.contains_key(&ino)
            && let Some(record) = self.branch.inode(ino)?
        {
            self.nodes
                .insert(ino, Box::new(node_of_record(ino, record)));
        }
        if stat.kind == Kind::Dir && self.nodes.contains_key(&ino) {
            self.follow_dir(base, ino, &loc)?;
        }
        let node = self.nodes.entry(ino).or_insert_with(|| {
            let mut node = Node::new(stat.kind);
            if stat.kind == Kind::Dir {
                node.base_dir = Some(Arc::new(BaseDir::new(ino, loc.clone(), Some(print))));
            }
            node.set_seen(*print);
            Box::new(node)
        });
        // Of several names, the one seen last is the likeliest to be there still.
        if node.base().is_none() || node.kind != Kind::Dir {
            node.set_base(loc);
            node.reached_by(dir, name, is_only);
        }
        Ok(ino)
    }

    /// Goes after a live base directory that was found at `loc`, if the host has moved it there.
    ///
    /// Errors: ESTALE inside `Base` where it would come to be below itself: what is above it has
    /// moved too, and must be looked up first.
    fn follow_dir(&mut self, base: &BaseTree, ino: Ino, loc: &BaseLoc) -> Result<(), FsError> {
        let node = self.node(ino)?;
        let (BaseLoc::Child(dir, name), Some(BaseLoc::Child(old_dir, old_name))) =
            (loc, node.base())
        else {
            return Ok(());
        };
        if (dir.ino, name) == (old_dir.ino, old_name) {
            return Ok(());
        }
        if dir.is_by_way_of(ino) || self.is_below(dir.ino, ino) {
            return Err(base::replaced());
        }
        // The host may also show it at two places.
        let stays = match (node.base(), node.seen()) {
            (Some(old), Some(seen)) => base
                .stat(old)
                .is_ok_and(|now| is_same(seen, &now.fingerprint)),
            _ => true,
        };
        if stays {
            return Ok(());
        }
        let (dir, name) = (dir.clone(), name.clone());
        let node = self.node_mut(ino)?;
        if let Some(base_dir) = &node.base_dir {
            base_dir.move_to(loc.clone());
        }
        node.set_base(loc.clone());
        node.reached_by(&dir, &name, true);
        Ok(())
    }

    /// What the branch has under a number that the base object with this `stat` could have.
    fn number_holds(&self, ino: Ino, stat: &BaseStat) -> Result<Holds, FsError> {
        let print = &stat.fingerprint;
        let (node, record) = match self.nodes.get(&ino) {
            // One that the branch has unlinked and still holds open takes no name again: what is
            // written by that name would be lost with the last close.
            Some(node) if node.unlinked => return Ok(Holds::Another),
            Some(node) => (Some(node), node.record.clone()),
            None => (None, self.branch.inode(ino)?),
        };
        if let Some(record) = record {
            let origin = record.origin.as_ref();
            let same = origin.is_some_and(|origin| is_same(&origin.fingerprint, print));
            return Ok(
                match same && !self.is_placed_for_good(ino, &record, stat)? {
                    true => Holds::This,
                    false => Holds::Another,
                },
            );
        }
        Ok(match node {
            Some(node) => {
                let is_older = |seen: &Fingerprint| seen.btime != print.btime;
                match node.kind != stat.kind || node.seen().is_some_and(is_older) {
                    true => Holds::Another,
                    false => Holds::This,
                }
            }
            // Whiteouts are left of a directory that the branch removed. The number is the same where
            // the host gives it out again, or moved the directory: they are not about this one.
            None if stat.kind == Kind::Dir && !self.branch.dentries(ino)?.is_empty() => {
                Holds::Another
            }
            None => Holds::Nothing,
        })
    }

    /// Whether a recorded base object has its place in the branch, so that a name which only the
    /// base has for it cannot be one more link: the host has moved the object (or shows it at two
    /// places). The branch's changes stay where they were made, and are counted as links there.
    fn is_placed_for_good(
        &self,
        ino: Ino,
        record: &InodeRec,
        stat: &BaseStat,
    ) -> Result<bool, FsError> {
        if record.kind == Kind::Dir {
            return Ok(true);
        }
        if stat.nlink > 1 {
            return Ok(false);
        }
        // Nearly always it is where it came from.
        let mut at = Some(Ino::ROOT);
        let path = record.origin.as_ref().map_or(&[][..], |o| &o.path[..]);
        for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            let (Some(dir), Ok(name)) = (at, Name::new(part)) else {
                break;
            };
            at = match self.branch.dentry(dir, &name)? {
                Some(Dentry::Present { ino, .. }) => Some(ino),
                Some(Dentry::Whiteout) | None => None,
            };
        }
        if at == Some(ino) {
            return Ok(true);
        }
        Ok(self.names.of(&self.branch, ino)? > 0)
    }

    /// Stats the base object of an inode that the branch has no record of: the one that was seen.
    ///
    /// Errors: `Base`; ESTALE inside it when something else stands there now.
    pub fn seen_stat(&self, base: &BaseTree, ino: Ino) -> Result<BaseStat, FsError> {
        Ok(self.seen_object(base, ino)?.0)
    }

    /// As [`Tree::seen_stat`], with the file itself if it is open: whoever has it goes on with what he
    /// opened, wherever that is by now. Else it is at its place.
    pub fn seen_object(&self, base: &BaseTree, ino: Ino) -> Result<SeenObject, FsError> {
        let node = self.node(ino)?;
        if let Some(file) = node.stream().and_then(|s| s.base_file()) {
            return Ok((base.stat_open(&file)?, Some(file)));
        }
        let stat = base.stat(node.base().ok_or(FsError::Stale(ino))?)?;
        let same = |seen: &Fingerprint| is_same(seen, &stat.fingerprint);
        if stat.kind != node.kind || !node.seen().is_none_or(same) {
            return Err(base::replaced());
        }
        Ok((stat, None))
    }

    /// Sees whether a base object that the branch has no record of is where it was found last, and the
    /// directories above it too.
    ///
    /// Errors: `Base`; ESTALE inside it when others stand there now.
    pub fn check_place(&self, base: &BaseTree, ino: Ino) -> Result<(), FsError> {
        let node = self.node(ino)?;
        let (Some(loc), Some(seen)) = (node.base(), node.seen()) else {
            return Ok(());
        };
        if !is_same(seen, &base.stat(loc)?.fingerprint) {
            return Err(base::replaced());
        }
        match loc {
            BaseLoc::Child(dir, _) => self.pin(base, &mut Change::default(), dir),
            BaseLoc::Path(_) => Ok(()),
        }
    }

    /// Finds the base object of a recorded inode again, if the host has replaced it (as editors,
    /// git and the landing of a branch do). `name` in `dir` is its place on the host by its name on
    /// the branch. A file of which the branch has no bytes of its own goes by its name: to the place
    /// where the file has the length that it had, else to where it came from. A directory goes to
    /// its place if the one it came from is no more. A file of which the host has a part goes where
    /// that very file is: by another of its names.
    pub fn anchor(
        &mut self,
        base: &BaseTree,
        dir: Option<&Arc<BaseDir>>,
        name: &Name,
        ino: Ino,
    ) -> Result<(), FsError> {
        let node = self.node(ino)?;
        let Some((record, origin)) = node
            .record
            .as_ref()
            .and_then(|record| Some((record, record.origin.as_ref()?)))
        else {
            return Ok(());
        };
        let is_dir = node.kind == Kind::Dir;
        let is_partly = matches!(
            record.content,
            Content::Extents {
                base_bytes: 1..,
                ..
            }
        );
        if !(is_dir || is_partly || record.content == Content::Base) || node.stream().is_some() {
            return Ok(());
        }
        let at = |loc: BaseLoc| {
            let stat = base.stat(&loc).ok()?;
            (stat.kind == node.kind && !base.is_concealed(&stat)).then_some((loc, stat))
        };
        if let Some((_, now)) = node.base().cloned().and_then(at) {
            let same = |seen: &Fingerprint| is_same(seen, &now.fingerprint);
            if is_dir || node.seen().is_none_or(same) {
                return Ok(());
            }
        }
        let here = dir.and_then(|dir| at(BaseLoc::Child(dir.clone(), name.clone())));
        let there = at(BaseLoc::Path(origin.path.clone()));
        let as_long = |found: &(BaseLoc, BaseStat)| {
            !is_dir && found.1.fingerprint.size == origin.fingerprint.size
        };
        let is_it =
            |found: &(BaseLoc, BaseStat)| is_same(&origin.fingerprint, &found.1.fingerprint);
        let found = match here {
            here if is_partly => here.filter(is_it).or(there.filter(is_it)),
            Some(here) if as_long(&here) => Some(here),
            here => there.or(here),
        };
        let Some((loc, stat)) = found else {
            return Ok(());
        };
        let node = self.node_mut(ino)?;
        node.set_seen(stat.fingerprint);
        if is_dir {
            let loc = loc.clone();
            node.base_dir = Some(Arc::new(BaseDir::new(ino, loc, None)));
            base.forget_dir(ino);
        }
        node.set_base(loc);
        Ok(())
    }
}

/// A base object: what stat(2) says of it, and the file if it is open.
pub type SeenObject = (BaseStat, Option<Arc<File>>);

/// What the branch has under an inode number, as seen from one base object.
enum Holds {
    /// That object.
    This,
    /// Another one, to which the number belongs.
    Another,
    /// None that it knows.
    Nothing,
}

/// Whether the two are of one object. The device number may be another since the last boot.
pub(super) fn is_same(seen: &Fingerprint, now: &Fingerprint) -> bool {
    (seen.ino, seen.btime) == (now.ino, now.btime)
}
