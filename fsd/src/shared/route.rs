//! [`Shared`]: the branches of a shared mount, and which of them a caller sees.

use std::collections::HashMap;

use crate::bind::{Lineage, View};
use crate::core::access::Checked;
use crate::core::types::{BranchName, Caller, Ino, Kind};
use crate::core::{FsCore, FsError};
use crate::shared::nodes::{Held, Known, NodeId, Nodes};
use crate::shared::ops::DirHandle;
use crate::sync::{Arc, Gate, Mutex, RwLock, lock, read, write};

/// The view of whoever is bound to none: to look at only.
const DEFAULT: View = 0;

/// One branch of the mount.
#[derive(Debug)]
pub struct Member {
    /// Its number.
    pub view: View,
    /// Its name.
    pub name: BranchName,
    pub(super) core: Arc<Gate<FsCore>>,
}

impl Member {
    /// Its core, closed when the mount ends.
    pub fn core(&self) -> &Arc<Gate<FsCore>> {
        &self.core
    }

    pub(super) fn with<T>(
        &self,
        call: impl FnOnce(&FsCore) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.core.with(call).unwrap_or(Err(FsError::Closed))
    }
}

/// What one caller sees.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub member: Arc<Member>,
    pub caller: Caller,
    pub writable: bool,
}

impl Seen {
    pub fn view(&self) -> View {
        self.member.view
    }

    pub fn with<T>(&self, call: impl FnOnce(&FsCore) -> Result<T, FsError>) -> Result<T, FsError> {
        self.member.with(call)
    }

    /// Calls the core as this caller may use it.
    pub fn ask<T>(
        &self,
        call: impl FnOnce(&Checked<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.with(|core| call(&Checked::new(core, self.caller)))
    }

    /// Errors: `ReadOnly` for who is bound to no branch.
    pub fn if_writable(self) -> Result<Self, FsError> {
        match self.writable {
            true => Ok(self),
            false => Err(FsError::ReadOnly),
        }
    }
}

/// Several branches as one mount. Shared by all request threads.
#[derive(Debug)]
pub struct Shared {
    members: RwLock<Vec<Arc<Member>>>,
    pub(super) nodes: Mutex<Nodes>,
    pub(super) dirs: Mutex<HashMap<u64, Arc<DirHandle>>>,
    lineage: Arc<Lineage>,
}

impl Shared {
    /// A mount without a branch; the first one that is added is its default.
    pub fn new(lineage: Arc<Lineage>) -> Self {
        Self {
            members: RwLock::default(),
            nodes: Mutex::default(),
            dirs: Mutex::default(),
            lineage,
        }
    }

    /// Who is bound to which view.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Adds a branch with this id, whose core shows the mount's root as the directory `root`.
    pub fn add(
        &self,
        name: BranchName,
        id: u64,
        core: Arc<Gate<FsCore>>,
        root: Ino,
    ) -> Arc<Member> {
        let mut members = write(&self.members);
        let view = members.len() as View;
        let member = Arc::new(Member { view, name, core });
        lock(&self.nodes).add_view(view, id, root);
        members.push(Arc::clone(&member));
        member
    }

    /// The branches, the default one first.
    pub fn members(&self) -> Vec<Arc<Member>> {
        read(&self.members).clone()
    }

    pub(super) fn member(&self, view: View) -> Result<Arc<Member>, FsError> {
        let members = read(&self.members);
        members.get(view as usize).cloned().ok_or(FsError::Closed)
    }

    /// What `caller` sees.
    ///
    /// Errors: `UnknownCaller`.
    pub(super) fn seen_by(&self, caller: &Caller) -> Result<Seen, FsError> {
        let bound = self.lineage.view_of(caller.pid);
        let bound = bound.map_err(|_| FsError::UnknownCaller(caller.pid))?;
        Ok(Seen {
            member: self.member(bound.unwrap_or(DEFAULT))?,
            caller: *caller,
            writable: bound.is_some(),
        })
    }

    /// The directory that `node` is for who sees `seen`.
    ///
    /// Errors: `Stale` where his branch has no directory there, `NotADirectory`.
    pub(super) fn dir(&self, seen: &Seen, node: NodeId) -> Result<Ino, FsError> {
        let known = lock(&self.nodes).get(seen.view(), node);
        match known {
            Some(Known::Dir(ino)) => Ok(ino),
            Some(Known::File(_)) => Err(FsError::NotADirectory(Ino(node))),
            Some(Known::Unseen(mut at, way)) => {
                for (step, name) in way {
                    let entry = seen
                        .with(|core| core.lookup(at, &name))
                        .map_err(|e| match e {
                            FsError::NoEntry { .. } => FsError::Stale(Ino(node)),
                            e => e,
                        })?;
                    if entry.attr.kind != Kind::Dir {
                        self.give_back(Some((seen.view(), entry.attr.ino)));
                        return Err(FsError::Stale(Ino(node)));
                    }
                    at = entry.attr.ino;
                    let spare = lock(&self.nodes).learn(seen.view(), step, at);
                    self.give_back(spare);
                }
                Ok(at)
            }
            None => Err(FsError::Stale(Ino(node))),
        }
    }

    /// The inode that `node` is for who sees `seen`: a directory, or a file of his branch.
    ///
    /// Errors: `Stale`, also for a file of another branch.
    pub(super) fn inode(&self, seen: &Seen, node: NodeId) -> Result<Ino, FsError> {
        let known = lock(&self.nodes).get(seen.view(), node);
        match known {
            Some(Known::File((view, ino))) if view == seen.view() => Ok(ino),
            Some(Known::File(_)) => Err(FsError::Stale(Ino(node))),
            _ => self.dir(seen, node),
        }
    }

    /// The file that `node` is, whoever asks. Errors: `Stale`, `IsADirectory`.
    pub(super) fn file(&self, node: NodeId) -> Result<(Arc<Member>, Ino), FsError> {
        let known = lock(&self.nodes).file(node);
        match known {
            Some(Some((view, ino))) => Ok((self.member(view)?, ino)),
            Some(None) => Err(FsError::IsADirectory(Ino(node))),
            None => Err(FsError::Stale(Ino(node))),
        }
    }

    /// Gives references back to the cores they are of.
    pub(super) fn give_back(&self, held: impl IntoIterator<Item = Held>) {
        for (view, ino) in held {
            if let Ok(member) = self.member(view) {
                member.core.with(|core| core.forget(ino, 1));
            }
        }
    }
}
