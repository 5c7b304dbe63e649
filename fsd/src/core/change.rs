//! [`Change`]: one operation's effect on the records, built up first, then committed whole.
//!
//! Nothing in memory moves before the journal has the frame, so an operation that fails (a full
//! disk, a base that vanished) leaves the branch as it was.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::sync::Arc;

use crate::backstore::Records;
use crate::core::FsError;
use crate::core::base::{self, BaseDir, BaseLoc, BaseStat, BaseTree};
use crate::core::found::is_same;
use crate::core::inode::Node;
use crate::core::record::{Content, Delta, Dentry, Fingerprint, InodeRec};
use crate::core::superblock::Tree;
use crate::core::types::{Ino, Kind, Name};

/// Deltas being collected.
#[derive(Debug, Default)]
pub struct Change {
    /// Inodes as they will be.
    records: BTreeMap<Ino, InodeRec>,
    /// Everything that is no inode record, in order.
    others: Vec<Delta>,
    /// Inodes whose base names get their dentries by this change.
    placed: Vec<Ino>,
    /// Base directories that get records by this change.
    pinned: Vec<Arc<BaseDir>>,
    /// Names that this change takes away.
    forsaken: Vec<(Ino, Name)>,
    /// Inodes that lose their last link.
    unlinked: Vec<Ino>,
    /// Inodes that get a record by this change, and no name.
    nameless: Vec<Ino>,
    /// No limit of the branch refuses it.
    frees: bool,
}

impl Change {
    /// Adds the record of an inode that this change makes.
    pub fn create(&mut self, ino: Ino, record: InodeRec) {
        self.records.insert(ino, record);
    }

    /// Adds any delta that is no inode record.
    pub fn push(&mut self, delta: Delta) {
        self.others.push(delta);
    }

    /// Notes that this gives room back, or records what has happened already: it needs no room by the
    /// limit of the branch.
    pub fn frees_room(&mut self) {
        self.frees = true;
    }

    /// Notes that `ino` loses its last link: its record goes, the inode stays for its users.
    pub fn unlink(&mut self, ino: Ino) {
        self.unlinked.push(ino);
    }

    /// Notes that `name` in `dir` needs no dentry, whatever was reached by it: it is going away.
    pub fn forsake_place(&mut self, dir: Ino, name: &Name) {
        self.forsaken.push((dir, name.clone()));
    }
}

impl Tree {
    /// The record of a live inode as it is: the branch's, or one made from its base object.
    pub fn record_of(&self, base: &BaseTree, ino: Ino) -> Result<InodeRec, FsError> {
        let node = self.node(ino)?;
        match &node.record {
            Some(record) => Ok(InodeRec::clone(record)),
            None => {
                let (stat, file) = self.seen_object(base, ino)?;
                let loc = node.base().ok_or(FsError::Stale(ino))?;
                record_from_base(base, loc, stat, file.as_deref())
            }
        }
    }

    /// The record of `ino` to be edited within `change`; made from the base if need be.
    ///
    /// Also sees to it that the inode will be found under the branch's own dentries. A file that is
    /// open, and of which the host has no name left, is unlinked by that: nothing could lead to its
    /// record. One that the host has moved is found by its record, where it is looked at there.
    /// Errors: `Stale`, `Base`, `Store`.
    pub fn edit<'c>(
        &self,
        base: &BaseTree,
        change: &'c mut Change,
        ino: Ino,
    ) -> Result<&'c mut InodeRec, FsError> {
        if let Entry::Vacant(slot) = change.records.entry(ino) {
            slot.insert(self.record_of(base, ino)?);
            let names = self.place(base, change, ino)?;
            let node = self.node(ino)?;
            if let Some(record) = change.records.get_mut(&ino)
                && record.kind != Kind::Dir
            {
                if node.record.is_none() && !node.unlinked && names == 0 {
                    change.nameless.push(ino);
                    if record.nlink == 0 {
                        change.unlinked.push(ino);
                    }
                }
                // Links that the host has made or removed since: none may outlive the record.
                record.nlink = record.nlink.max(names);
            }
        }
        change.records.get_mut(&ino).ok_or(FsError::Stale(ino))
    }

    /// Puts the dentries an inode still lacks, and pins the directories above them. Returns the
    /// number of its dentries then, or 0 if it lacked none.
    ///
    /// Of several names, those are left out that the host has given to something else meanwhile.
    fn place(&self, base: &BaseTree, change: &mut Change, ino: Ino) -> Result<u32, FsError> {
        let node = self.node(ino)?;
        if node.unplaced().is_empty() || node.unlinked || change.placed.contains(&ino) {
            return Ok(0);
        }
        change.placed.push(ino);
        let is_open = node.stream().is_some_and(|s| s.base_file().is_some());
        let mut names = 0;
        for (dir, name) in node.unplaced() {
            if change
                .forsaken
                .iter()
                .any(|(d, n)| *d == dir.ino && n == name)
            {
                continue;
            }
            // The record was made by this one just now, of what is there.
            let is_origin = node.record.is_none()
                && !is_open
                && matches!(node.base(), Some(BaseLoc::Child(d, n)) if d.ino == dir.ino && n == name);
            if is_origin && self.branch.dentry(dir.ino, name)?.is_none() {
                self.pin(base, change, dir)?;
            } else if !self.still_leads_to(base, node, dir, name)? {
                continue;
            } else {
                match self.pin(base, change, dir) {
                    Err(FsError::Base { .. }) => continue,
                    pinned => pinned?,
                }
            }
            let present = Dentry::Present {
                ino,
                kind: node.kind,
            };
            let put = Delta::PutDentry(dir.ino, name.clone(), present);
            change.others.push(put);
            names += 1;
        }
        if names > 0 && node.record.is_some() {
            names += self.names.of(&self.branch, ino)?;
        }
        Ok(names)
    }

    /// The names that the branch itself will have for `ino` once `change` is committed and the name
    /// `gone`, which leads there now, is taken away. Counts none for what the branch has made and for
    /// directories: the records of those say it.
    ///
    /// Errors: `Store`.
    pub(super) fn names_left(
        &self,
        change: &Change,
        ino: Ino,
        gone: (Ino, &Name),
    ) -> Result<u32, FsError> {
        if ino >= Ino::FIRST_NEW || self.node(ino)?.kind == Kind::Dir {
            return Ok(0);
        }
        let leads_there =
            |dentry: &Dentry| matches!(dentry, Dentry::Present { ino: to, .. } if *to == ino);
        let is_put =
            |d: &&Delta| matches!(d, Delta::PutDentry(_, _, dentry) if leads_there(dentry));
        let put = change.others.iter().filter(is_put).count();
        let names = self.names.of(&self.branch, ino)?.saturating_add(put as u32);
        let has_gone = self.branch.dentry(gone.0, gone.1)?;
        Ok(names.saturating_sub(u32::from(has_gone.is_some_and(|d| leads_there(&d)))))
    }

    /// Whether the base has the object of `node` as `name` in `dir` still, and the branch does not
    /// say anything of that name.
    fn still_leads_to(
        &self,
        base: &BaseTree,
        node: &Node,
        dir: &Arc<BaseDir>,
        name: &Name,
    ) -> Result<bool, FsError> {
        if self.branch.dentry(dir.ino, name)?.is_some() {
            return Ok(false);
        }
        let now = base.stat(&BaseLoc::Child(dir.clone(), name.clone()));
        let same = |seen: &Fingerprint| {
            let is_seen = |now: &BaseStat| is_same(seen, &now.fingerprint);
            now.as_ref().is_ok_and(is_seen)
        };
        Ok(node.seen().is_some_and(same))
    }

    /// Records `dir` and the directories above it, up to the first that is recorded already: from
    /// now on the branch finds them by itself, whatever the host does to them.
    ///
    /// Errors: `Base`, `Store`; then `change` is as it was.
    pub fn pin(
        &self,
        base: &BaseTree,
        change: &mut Change,
        dir: &Arc<BaseDir>,
    ) -> Result<(), FsError> {
        let mut dir = dir.clone();
        let mut pinned = Vec::new();
        loop {
            let loc = dir.loc();
            let BaseLoc::Child(parent, name) = &loc else {
                break;
            };
            if change.records.contains_key(&dir.ino) || self.is_recorded(dir.ino)? {
                break;
            }
            let stat = base.stat(&loc)?;
            if !dir.is(&stat) {
                return Err(base::replaced());
            }
            let record = record_from_base(base, &loc, stat, None)?;
            let present = Dentry::Present {
                ino: dir.ino,
                kind: Kind::Dir,
            };
            let put = Delta::PutDentry(parent.ino, name.clone(), present);
            let parent = parent.clone();
            pinned.push((std::mem::replace(&mut dir, parent), record, put));
        }
        for (dir, record, put) in pinned {
            change.records.insert(dir.ino, record);
            change.placed.push(dir.ino);
            change.pinned.push(dir);
            change.others.push(put);
        }
        Ok(())
    }

    fn is_recorded(&self, ino: Ino) -> Result<bool, FsError> {
        Ok(match self.nodes.get(&ino) {
            Some(node) => node.record.is_some(),
            None => self.branch.inode(ino)?.is_some(),
        })
    }

    fn is_unlinked(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|n| n.unlinked)
    }

    /// Commits `change` as one frame, then makes it visible.
    ///
    /// Errors: `Store`; ESTALE inside `Base` where a name is to be given to a file that the host has
    /// removed meanwhile; then nothing has changed.
    pub fn commit(&mut self, change: Change) -> Result<(), FsError> {
        let Change {
            records,
            mut others,
            placed,
            pinned,
            unlinked,
            nameless,
            frees,
            forsaken: _,
        } = change;
        let leads_nowhere = |delta: &Delta| match delta {
            Delta::PutDentry(_, _, Dentry::Present { ino, .. }) => unlinked.contains(ino),
            _ => false,
        };
        if !unlinked.is_empty() && others.iter().any(leads_nowhere) {
            return Err(base::replaced());
        }
        let mut deltas = Vec::with_capacity(records.len() + others.len() + 2 * unlinked.len());
        let mut new_records = Vec::with_capacity(records.len());
        for (ino, record) in records {
            let gone = unlinked.contains(&ino) || self.is_unlinked(ino);
            let record = Arc::new(record);
            if !gone {
                deltas.push(Delta::PutInode(ino, record.clone()));
            }
            new_records.push((ino, record));
        }
        for &ino in &unlinked {
            if self.is_recorded(ino)? {
                deltas.push(Delta::DelInode(ino));
            }
            let record = match new_records.iter().find(|(i, _)| *i == ino) {
                Some((_, record)) => Some(record.clone()),
                None => self.nodes.get(&ino).and_then(|n| n.record.clone()),
            };
            if let Some(Content::Object(id) | Content::Extents { own: id, .. }) =
                record.map(|r| r.content.clone())
                && self.branch.is_top(id)
            {
                deltas.push(Delta::Orphan(id));
            }
        }
        others.retain(|delta| match delta {
            // Of a file that lives on without a name nothing is recorded.
            Delta::PutExtent(ino, ..) | Delta::SetExtents(ino, _) => {
                !self.is_unlinked(*ino) && !unlinked.contains(ino)
            }
            _ => true,
        });
        let names: Vec<Delta> = others
            .iter()
            .filter(|d| matches!(d, Delta::PutDentry(..) | Delta::DelDentry(..)))
            .cloned()
            .collect();
        deltas.extend(others);
        if !deltas.is_empty() {
            let renamed = self.names.before(&self.branch, &names)?;
            match frees {
                true => self.branch.commit(deltas)?,
                false => self.branch.commit_within(deltas)?,
            }
            self.names.after(&self.branch, renamed);
        }
        // What is recorded goes by its place, whatever directory the host puts there.
        for dir in pinned {
            dir.go_by_name();
        }
        for ino in nameless {
            if let Some(node) = self.nodes.get_mut(&ino) {
                node.nameless = true;
            }
        }
        self.show(new_records, &names, &placed, &unlinked);
        Ok(())
    }

    /// Brings the tables in line with a frame that was just committed. Cannot fail.
    fn show(
        &mut self,
        records: Vec<(Ino, Arc<InodeRec>)>,
        names: &[Delta],
        placed: &[Ino],
        unlinked: &[Ino],
    ) {
        for (ino, record) in records {
            if let Some(node) = self.nodes.get_mut(&ino) {
                if let (Some(dir), None) = (&node.base_dir, &node.record) {
                    dir.go_by_name();
                }
                node.record = Some(record);
            }
        }
        for ino in placed {
            if let Some(node) = self.nodes.get_mut(ino) {
                node.is_placed();
            }
        }
        for ino in unlinked {
            let is_born_here = self.branch.is_born_here(*ino);
            if let Some(node) = self.nodes.get_mut(ino) {
                node.unlinked = true;
                self.busy.insert(*ino);
                if let Some(account) = self.branch.account() {
                    account.unlinked(*ino, node.is_open(), is_born_here);
                }
            }
        }
        for delta in names {
            match delta {
                Delta::PutDentry(dir, name, Dentry::Present { ino, kind }) => {
                    if self.listings.added(*dir, name, *ino, *kind) {
                        self.names_changed(*dir);
                    }
                    if let Some(node) = self.nodes.get_mut(ino) {
                        node.nameless = false;
                    }
                }
                Delta::PutDentry(dir, name, Dentry::Whiteout) | Delta::DelDentry(dir, name) => {
                    self.listings.removed(*dir, name);
                    self.names_changed(*dir);
                }
                _ => {}
            }
        }
    }
}

/// A record that says of the base object at `loc`, of which `stat` was had, what the base says of it.
/// `file`: it is open, and may be elsewhere by now.
fn record_from_base(
    base: &BaseTree,
    loc: &BaseLoc,
    stat: BaseStat,
    file: Option<&File>,
) -> Result<InodeRec, FsError> {
    let print = stat.fingerprint;
    let symlink = match stat.kind {
        Kind::Symlink => Some(base.readlink(loc)?),
        _ => None,
    };
    Ok(InodeRec {
        kind: stat.kind,
        perm: stat.perm,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        nlink: stat.nlink,
        size: print.size,
        atime: stat.atime,
        mtime: print.mtime,
        ctime: print.ctime,
        btime: print.btime,
        object_mtime: None,
        blocks: None,
        dirty: false,
        generation: 0,
        origin: Some(Box::new(base.origin(loc, &stat))),
        content: if stat.kind == Kind::File {
            Content::Base
        } else {
            Content::Empty
        },
        symlink,
        xattrs: match file {
            Some(file) => base.xattrs_open(file)?,
            None => base.xattrs(loc)?,
        },
    })
}
