//! Files that the kernel uses without having opened them with us: which stream serves a request
//! that comes without a handle, and what is done where an open or a close would have done it.

use crate::core::base::{replaced, state};
use crate::core::copy_up;
use crate::core::handle::Handle;
use crate::core::implicit::Outdated;
use crate::core::inode::Node;
use crate::core::record::ObjectId;
use crate::core::stream::{Bytes, Stream};
use crate::core::superblock::Tree;
use crate::core::types::{Fh, Ino, Kind};
use crate::core::{FsCore, FsError};
use crate::sync::{Arc, lock};

impl FsCore {
    /// Takes requests for a file's bytes without a handle from now on ([`Fh::NONE`]).
    pub fn serve_unopened(&self) {
        self.implicit.begin();
    }

    /// What the kernel has of files and must not keep, since the host has changed them. Found where
    /// an open would have found it: at the first request for the bytes of a file that was closed here.
    pub fn take_outdated(&self) -> Vec<Outdated> {
        self.implicit.take_outdated()
    }

    /// The handle that a request names, or one for the moment where it names none.
    ///
    /// Errors: `BadHandle`, `Stale`, `Base`, `Store`. Locks: takes rank 2.
    pub(in crate::core) fn handle(&self, ino: Ino, fh: Fh) -> Result<Handle, FsError> {
        if fh != Fh::NONE {
            return self.handles.get(fh);
        }
        let stream = match self.implicit.get(ino) {
            Some(stream) => stream,
            None => self.open_unopened(ino)?,
        };
        Ok(Handle {
            ino,
            stream,
            // The kernel has seen to it that who writes may.
            writes: true,
            executes: false,
            maps: false,
        })
    }

    fn open_unopened(&self, ino: Ino) -> Result<Arc<Stream>, FsError> {
        if !self.implicit.is_regime() {
            return Err(FsError::BadHandle(Fh::NONE));
        }
        let mut tree = lock(&self.tree);
        let node = tree.node(ino)?;
        if node.kind != Kind::File {
            return Err(FsError::BadHandle(Fh::NONE));
        }
        let is_held = node.stream().is_some();
        let stream = match copy_up::stream_of(self, &mut tree, ino) {
            Ok(stream) => stream,
            Err(e) => {
                self.note_outdated(&tree, ino, matches!(e, FsError::Base { .. }));
                return Err(e);
            }
        };
        self.see_host(&mut tree, ino, &stream, is_held)?;
        self.keep(&mut tree, ino, &stream)?;
        Ok(stream)
    }

    /// Notes it if the host has changed a file of which the bytes are still its own since the kernel
    /// came to know it.
    fn see_host(
        &self,
        tree: &mut Tree,
        ino: Ino,
        stream: &Stream,
        is_held: bool,
    ) -> Result<(), FsError> {
        let now = match stream.bytes.try_read().as_deref() {
            Ok(Bytes::Base { file, .. }) if is_held => {
                state(&self.base.stat_open(file)?.fingerprint)
            }
            Ok(Bytes::Base { state, .. }) => *state,
            _ => return Ok(()),
        };
        let known = tree.node_mut(ino)?.known_mut();
        let pages = std::mem::replace(&mut known.pages, now);
        if known.attributes != now || (pages != 0 && pages != now) {
            self.note_outdated(tree, ino, false);
        }
        Ok(())
    }

    /// Notes that what the kernel has of a file is old; with `names`, that it is not the one that its
    /// names lead to.
    fn note_outdated(&self, tree: &Tree, ino: Ino, names: bool) {
        let names = match tree.node(ino) {
            Ok(node) if names => {
                let places = node.unplaced().iter();
                places.map(|(dir, name)| (dir.ino, name.clone())).collect()
            }
            _ => Vec::new(),
        };
        self.implicit.note_outdated(Outdated { ino, names });
    }

    /// Keeps a file open until nobody uses it any more. Locks: the caller holds the tree.
    fn keep(&self, tree: &mut Tree, ino: Ino, stream: &Arc<Stream>) -> Result<(), FsError> {
        let node = tree.node_mut(ino)?;
        if !node.implicit {
            (node.opens, node.writers) = (node.opens + 1, node.writers + 1);
            node.implicit = true;
        }
        self.implicit.keep(ino, stream.clone());
        Ok(())
    }

    /// Turns the handle of a file that was just made into none: the kernel will not release it.
    pub fn keep_unopened(&self, fh: Fh) {
        let Some(handle) = self.handles.remove(fh) else {
            return;
        };
        let ino = handle.ino;
        {
            let mut tree = lock(&self.tree);
            if self.keep(&mut tree, ino, &handle.stream).is_err() {
                return;
            }
            if let Ok(node) = tree.node_mut(ino) {
                node.opens = node.opens.saturating_sub(1);
                node.writers = node.writers.saturating_sub(u32::from(handle.writes));
                node.executors = node.executors.saturating_sub(u32::from(handle.executes));
            }
        }
    }

    /// Closes some files if too many are kept open. To be called when nobody waits for an answer.
    pub fn close_surplus(&self) {
        for ino in self.implicit.too_many() {
            self.let_go(ino);
        }
    }

    /// A file that loses its last name, and of which not all is in one object. Where the host has it,
    /// and which layer has what of it, is known nowhere from then on; and who has it open may not have
    /// read or written it yet.
    pub(in crate::core) fn keep_removed(&self, tree: &mut Tree, ino: Ino) {
        let needs = |n: &Node| n.kind == Kind::File && !n.implicit && n.lookups > 0;
        if !self.implicit.is_regime() || !tree.node(ino).is_ok_and(needs) {
            return;
        }
        let kept =
            copy_up::stream_of(self, tree, ino).and_then(|stream| self.keep(tree, ino, &stream));
        if let Err(e) = kept {
            // Removing it must not fail for that.
            tracing::debug!(%ino, error = %e, "a removed file cannot be kept open");
        }
    }

    /// Closes a file that nobody is at, unless only its being open keeps its bytes.
    fn let_go(&self, ino: Ino) {
        {
            let mut tree = lock(&self.tree);
            let Ok(node) = tree.node_mut(ino) else {
                self.implicit.remove(ino);
                return;
            };
            if node.unlinked {
                // Counts as used, so that others are found first.
                self.implicit.get(ino);
                return;
            }
            if !self.implicit.remove_if_free(ino) {
                return;
            }
            node.closed();
        }
        self.settle_closed(ino);
    }

    /// Closes a file of which the kernel gives up its last reference.
    pub(in crate::core) fn close_forgotten(&self, ino: Ino, count: u64) {
        if !self.implicit.is_regime() {
            return;
        }
        {
            let mut tree = lock(&self.tree);
            let Ok(node) = tree.node_mut(ino) else { return };
            if !node.implicit || node.unlinked || node.lookups > count {
                return;
            }
            self.implicit.remove(ino);
            node.closed();
        }
        self.settle_closed(ino);
    }

    fn settle_closed(&self, ino: Ino) {
        if let Err(e) = self.settle(ino) {
            // Nothing is lost: the record says `dirty`, the object keeps the stamps.
            tracing::warn!(%ino, error = %e, "cannot record the size of a closed file yet");
        }
        lock(&self.tree).drop_if_idle(ino);
    }

    /// Closes the files that nobody has used for a while.
    pub(in crate::core) fn close_idle(&self) {
        for ino in self.implicit.idle() {
            self.let_go(ino);
        }
    }

    /// Sees to it that what took the place of other bytes is on the disk before the records that say
    /// so. A close would have done that; where none is told, whoever is about to sync does.
    pub(in crate::core) fn guard_replaced(&self) {
        for stream in self.implicit.replacing() {
            // Before the tree's lock, by the order of locks.
            let object: Option<ObjectId> = crate::sync::read(&stream.bytes).object_id();
            let tree = lock(&self.tree);
            if let Some(object) = object.filter(|id| tree.branch.is_top(*id)) {
                tree.branch.sync_before_records(object);
            }
        }
    }

    /// What an open for writing would have found out: whether the file is still the one that the
    /// kernel takes it for. To be asked before bytes are written without a handle; `appends` says
    /// that the kernel has put `offset` where it takes the end of the file to be.
    ///
    /// Errors: ESTALE inside `Base`, of a file whose bytes are still the host's: once, if the host has
    /// another in its place by now; and as long as `offset` is not its end. The kernel looks again
    /// when the file is opened next.
    pub fn meet_unopened(&self, ino: Ino, offset: u64, appends: bool) -> Result<(), FsError> {
        let handle = self.handle(ino, Fh::NONE)?;
        {
            let Ok(bytes) = handle.stream.bytes.try_read() else {
                return Ok(());
            };
            let Bytes::Base { file, .. } = &*bytes else {
                return Ok(());
            };
            let grew = || -> Result<bool, FsError> {
                Ok(self.base.stat_open(file)?.fingerprint.size != offset)
            };
            if appends && grew()? {
                self.note_outdated(&lock(&self.tree), ino, false);
                return Err(replaced());
            }
        }
        let mut tree = lock(&self.tree);
        let checked = self.check_name(&mut tree, ino);
        if checked.is_err() {
            self.note_outdated(&tree, ino, true);
        }
        checked
    }
}
