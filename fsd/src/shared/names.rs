//! The operations on names: finding, making, removing, moving.

use crate::core::types::{Attr, Caller, Ino, Kind, Name, NewMode, RenameMode};
use crate::core::{FsError, Opened};
use crate::shared::nodes::{NodeId, Place};
use crate::shared::route::{Seen, Shared};
use crate::sync::lock;

impl Shared {
    /// Finds `name` in `parent` on the caller's branch; the kernel owes a forget.
    ///
    /// Errors: `NoEntry`, `AccessDenied`, `Stale`, `UnknownCaller`.
    pub fn lookup(&self, caller: &Caller, parent: NodeId, name: &Name) -> Result<Attr, FsError> {
        let seen = self.seen_by(caller)?;
        let dir = self.dir(&seen, parent)?;
        let entry = seen.ask(|core| core.lookup(dir, name))?;
        Ok(self.entered(&seen, parent, name, entry))
    }

    /// The branch and the directory in which a name is to change. Errors: `ReadOnly`, `Stale`.
    fn changing(&self, caller: &Caller, parent: NodeId) -> Result<(Seen, Ino), FsError> {
        let seen = self.seen_by(caller)?.if_writable()?;
        let dir = self.dir(&seen, parent)?;
        Ok((seen, dir))
    }

    /// Errors: `ReadOnly`, as `Checked::mknod`.
    pub fn mknod(
        &self,
        caller: &Caller,
        (parent, name): (NodeId, &Name),
        kind: Kind,
        mode: NewMode,
        rdev: u64,
    ) -> Result<Attr, FsError> {
        let (seen, dir) = self.changing(caller, parent)?;
        let entry = seen.ask(|core| core.mknod(dir, name, kind, mode, rdev))?;
        Ok(self.entered(&seen, parent, name, entry))
    }

    /// Errors: `ReadOnly`, as `Checked::mkdir`.
    pub fn mkdir(
        &self,
        caller: &Caller,
        (parent, name): (NodeId, &Name),
        mode: NewMode,
    ) -> Result<Attr, FsError> {
        let (seen, dir) = self.changing(caller, parent)?;
        let entry = seen.ask(|core| core.mkdir(dir, name, mode))?;
        Ok(self.entered(&seen, parent, name, entry))
    }

    /// Errors: `ReadOnly`, as `Checked::symlink`.
    pub fn symlink(
        &self,
        caller: &Caller,
        (parent, name): (NodeId, &Name),
        target: &[u8],
    ) -> Result<Attr, FsError> {
        let (seen, dir) = self.changing(caller, parent)?;
        let entry = seen.ask(|core| core.symlink(dir, name, target))?;
        Ok(self.entered(&seen, parent, name, entry))
    }

    /// Errors: `ReadOnly`, `AcrossBranches` for a file of another branch, as `Checked::link`.
    pub fn link(
        &self,
        caller: &Caller,
        node: NodeId,
        (parent, name): (NodeId, &Name),
    ) -> Result<Attr, FsError> {
        let (seen, dir) = self.changing(caller, parent)?;
        let ino = self.inode(&seen, node).map_err(|e| match e {
            FsError::Stale(_) => FsError::AcrossBranches("link"),
            e => e,
        })?;
        let entry = seen.ask(|core| core.link(ino, dir, name))?;
        Ok(self.entered(&seen, parent, name, entry))
    }

    /// Errors: `ReadOnly`, as `Checked::create`.
    pub fn create(
        &self,
        caller: &Caller,
        (parent, name): (NodeId, &Name),
        mode: NewMode,
        flags: i32,
    ) -> Result<(Attr, Opened), FsError> {
        let (seen, dir) = self.changing(caller, parent)?;
        let (entry, opened) = seen.ask(|core| core.create(dir, name, mode, flags))?;
        Ok((self.entered(&seen, parent, name, entry), opened))
    }

    /// Errors: `ReadOnly`, as `Checked::unlink`.
    pub fn unlink(&self, caller: &Caller, parent: NodeId, name: &Name) -> Result<(), FsError> {
        let (seen, dir) = self.changing(caller, parent)?;
        seen.ask(|core| core.unlink(dir, name))
    }

    /// Removes a directory. Where other branches know its node the kernel would mark theirs dead with
    /// it: `Stale` makes the kernel look it up again, and find a node that is this branch's alone.
    ///
    /// Errors: `ReadOnly`, `Stale`, as `Checked::rmdir`.
    pub fn rmdir(&self, caller: &Caller, parent: NodeId, name: &Name) -> Result<(), FsError> {
        let (seen, dir) = self.changing(caller, parent)?;
        let place = (parent, name.clone());
        let found = seen.ask(|core| core.may_remove(dir, name))?;
        // Nobody comes to share the node while it is being removed.
        let dirs = [(place.clone(), found.ino)];
        let mut spare = Vec::new();
        let taken = lock(&self.nodes).take_all(seen.view(), &dirs, &mut spare);
        let Some(taken) = taken else {
            // What must fail does so without a new node.
            let is_empty = found.kind != Kind::Dir || seen.with(|core| core.is_empty(found.ino))?;
            if !is_empty {
                return Err(FsError::NotEmpty(found.ino));
            }
            return Err(self.set_apart(&seen, &dirs));
        };
        let taken = taken.into_iter().flatten().next();
        let removed = seen.ask(|core| core.rmdir(dir, name));
        {
            let mut nodes = lock(&self.nodes);
            match (&removed, taken) {
                (Ok(()), _) => spare.extend(nodes.removed(seen.view(), &place)),
                (Err(_), Some(node)) => nodes.put(node, place),
                (Err(_), None) => {}
            }
        }
        self.give_back(spare);
        removed
    }

    /// Gives the branch nodes of its own for these directories; the answer to the kernel's request.
    fn set_apart(&self, seen: &Seen, dirs: &[(Place, Ino)]) -> FsError {
        let mut answer = FsError::Stale(Ino(0));
        for (place, ino) in dirs {
            answer = FsError::Stale(*ino);
            if let Err(e) = seen.with(|core| core.hold(*ino)) {
                return e;
            }
            let spare = lock(&self.nodes).split(seen.view(), place, *ino);
            self.give_back(spare);
        }
        answer
    }

    /// Moves a name. Directories that other branches know are set apart first, as in `rmdir`.
    ///
    /// Errors: `ReadOnly`, `Stale`, as `Checked::rename`.
    pub fn rename(
        &self,
        caller: &Caller,
        from: (NodeId, &Name),
        to: (NodeId, &Name),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let (seen, dir) = self.changing(caller, from.0)?;
        let to_dir = self.dir(&seen, to.0)?;
        let (old, new) = ((dir, from.1), (to_dir, to.1));
        let (moved, there) = seen.ask(|core| core.may_rename(old, new, mode))?;
        let (old_place, new_place) = ((from.0, from.1.clone()), (to.0, to.1.clone()));
        let (view, mut dirs) = (seen.view(), Vec::new());
        for (place, attr) in [(&old_place, Some(moved)), (&new_place, there)] {
            if let Some(attr) = attr.filter(|attr| attr.kind == Kind::Dir) {
                dirs.push((place.clone(), attr.ino));
            }
        }
        // Nobody comes to share the nodes meanwhile.
        let mut spare = Vec::new();
        let taken = lock(&self.nodes).take_all(view, &dirs, &mut spare);
        let Some(taken) = taken else {
            self.would_move(&seen, &moved, there.as_ref(), mode)?;
            // All of them: the kernel tries once more only.
            return Err(self.set_apart(&seen, &dirs));
        };
        let mut taken = taken.into_iter();
        let mut next = |is_dir: bool| if is_dir { taken.next().flatten() } else { None };
        let first = next(moved.kind == Kind::Dir);
        let taken = (
            first,
            next(there.is_some_and(|there| there.kind == Kind::Dir)),
        );
        let done = seen.ask(|core| core.rename(old, new, mode));
        {
            let mut nodes = lock(&self.nodes);
            let mut put = |first: Place, second: Place| {
                for (node, place) in [(taken.0, first), (taken.1, second)] {
                    if let Some(node) = node {
                        nodes.put(node, place);
                    }
                }
            };
            match (&done, mode) {
                (Err(_), _) => put(old_place, new_place),
                (Ok(_), RenameMode::Exchange) => put(new_place, old_place),
                (Ok(_), _) => {
                    // What was replaced is dead, and no place for anybody.
                    if there.is_some_and(|there| there.kind == Kind::Dir) {
                        spare.extend(nodes.removed(view, &new_place));
                    }
                    if let Some(node) = taken.0 {
                        nodes.put(node, new_place);
                    }
                }
            }
        }
        self.give_back(spare);
        done.map(drop)
    }

    /// Refuses early what the core would refuse, as far as the directories in question tell.
    fn would_move(
        &self,
        seen: &Seen,
        moved: &Attr,
        there: Option<&Attr>,
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let Some(there) = there.filter(|_| mode != RenameMode::Exchange) else {
            return Ok(());
        };
        match (moved.kind == Kind::Dir, there.kind == Kind::Dir) {
            (true, false) => Err(FsError::NotADirectory(there.ino)),
            (false, true) => Err(FsError::IsADirectory(there.ino)),
            (true, true) if !seen.with(|core| core.is_empty(there.ino))? => {
                Err(FsError::NotEmpty(there.ino))
            }
            _ => Ok(()),
        }
    }
}
