//! Takes back a branch that a failed call made, and nobody else can have used.

use agentfs_fsd::backstore::{BranchInfo, Records, Store, StoreError};

use crate::say::say;

/// Removes a branch that this call made, unless it is told to keep it or somebody else used it.
#[derive(Debug)]
pub struct BranchGuard<'a> {
    store: &'a Store,
    made: BranchInfo,
    armed: bool,
}

impl<'a> BranchGuard<'a> {
    /// Guards `made`, as `Store::create_branch` gave it.
    pub fn new(store: &'a Store, made: BranchInfo) -> Self {
        Self {
            store,
            made,
            armed: true,
        }
    }

    /// Leaves the branch where it is.
    pub fn keep(mut self) {
        self.armed = false;
    }

    /// Removes it; whether it is gone.
    pub fn remove(mut self) -> bool {
        self.armed = false;
        self.try_remove()
    }

    fn try_remove(&self) -> bool {
        let name = &self.made.name;
        let removed = self.is_unused().and_then(|unused| match unused {
            true => self.store.remove_branch(name).map(|()| true),
            false => Ok(false),
        });
        match removed {
            Ok(removed) => removed,
            // Whoever holds it now works on it.
            Err(StoreError::Locked { .. }) => false,
            // Another one took the name, or dropped the branch.
            Err(StoreError::NoBranch(_)) => true,
            Err(e) => {
                say!("agentfs: remove branch {name}: {e}");
                false
            }
        }
    }

    /// Whether the branch is the one made, nobody else noted a run on it, and it is as it was made.
    fn is_unused(&self) -> Result<bool, StoreError> {
        let reader = self.store.read(&self.made.name)?;
        let info = reader.info();
        let others = info.last_run.as_ref();
        if info.id != self.made.id
            || others.is_some_and(|run| run.pid != std::process::id())
            || self.store.live_owner(&info.name)?.is_some()
        {
            return Ok(false);
        }
        let mut changed = false;
        // What lies below is the parent's, all of it older than this branch.
        let inherits = info.parent.is_some();
        reader.each_inode(&mut |_, rec| {
            changed |= !inherits || rec.dirty || rec.ctime >= info.created;
            Ok(())
        })?;
        reader.each_dentry(&mut |parent, name, word| {
            changed |= reader.lower_dentry(parent, name)? != Some(word);
            Ok(())
        })?;
        Ok(!changed)
    }
}

impl Drop for BranchGuard<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.try_remove();
        }
    }
}
