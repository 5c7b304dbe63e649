//! Takes back a branch that a failed call made, and nobody else can have used.

use agentfs_fsd::backstore::{BranchInfo, Store, StoreError};

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
        // What lies below is the parent's. No stamp tells: the clock may have been set back.
        Ok(reader.own_records() == 0)
    }
}

impl Drop for BranchGuard<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.try_remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use agentfs_fsd::backstore::NewBranch;
    use agentfs_fsd::core::record::{Content, Delta, InodeRec};
    use agentfs_fsd::core::types::{BranchName, Ino, Kind, Time};

    use super::*;

    fn record(ctime: Time) -> Delta {
        let record = InodeRec {
            kind: Kind::Dir,
            perm: 0o755,
            uid: 0,
            gid: 0,
            rdev: 0,
            nlink: 2,
            size: 0,
            blocks: None,
            atime: ctime,
            mtime: ctime,
            ctime,
            btime: ctime,
            object_mtime: None,
            dirty: false,
            generation: 0,
            origin: None,
            content: Content::Empty,
            symlink: None,
            xattrs: BTreeMap::new(),
        };
        Delta::PutInode(Ino::ROOT, Arc::new(record))
    }

    /// A branch of a branch that has something, guarded.
    fn guarded(store: &Store) -> BranchGuard<'_> {
        let name = |text| BranchName::new(text).unwrap();
        let new = || NewBranch {
            workspace: "/w".into(),
        };
        let parent = store.create_branch(&name("parent"), None, new()).unwrap();
        let mut live = store.open_live(&parent.name).unwrap();
        live.commit(vec![record(Time::now())]).unwrap();
        live.close().unwrap();
        let from = parent.name.into();
        let made = store.create_branch(&name("child"), Some(&from), new());
        BranchGuard::new(store, made.unwrap())
    }

    #[test]
    fn a_branch_as_it_was_made_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        assert!(guarded(&store).remove());
    }

    #[test]
    fn what_was_done_on_a_branch_keeps_it_though_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        let guard = guarded(&store);
        let created = guard.made.created;
        let a_day_before = Time {
            sec: created.sec - 86_400,
            ..created
        };
        let mut live = store.open_live(&guard.made.name).unwrap();
        live.commit(vec![record(a_day_before)]).unwrap();
        live.close().unwrap();
        assert!(!guard.remove());
    }
}
