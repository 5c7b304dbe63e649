//! The ways a request gets to the core, by what it shows of the kernel's own state; and what the
//! kernel is told of attributes before it has the answer.

use fuser::{Errno, INodeNo};

use crate::core::FsCore;
use crate::core::error::FsError;
use crate::core::types::Attr;
use crate::fuse::adapter::Adapter;
use crate::fuse::request::Meta;
use crate::fuse::transport::Asker;
use crate::sync::Arc;

impl Adapter {
    /// Serves a request whose thread waits for the answer: it has those to its earlier ones.
    pub(super) fn call<T>(
        &self,
        op: &'static str,
        request: &Asker,
        ino: INodeNo,
        call: impl FnOnce(&FsCore) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        self.call_unawaited(op, request, ino, |core| {
            core.removals().thread_goes_on(request.pid());
            call(core)
        })
    }

    /// As [`Adapter::call`], for a request that the kernel makes under the lock of `ino`.
    pub(super) fn call_locked<T>(
        &self,
        op: &'static str,
        request: &Asker,
        ino: INodeNo,
        call: impl FnOnce(&FsCore) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        self.call(op, request, ino, |core| {
            core.removals().lock_was_free(self.ino(ino));
            call(core)
        })
    }

    /// Serves a request that comes when it comes, whatever its thread has asked since.
    pub(super) fn call_unawaited<T>(
        &self,
        op: &'static str,
        request: &Asker,
        ino: INodeNo,
        call: impl FnOnce(&FsCore) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        Meta::of(op, request, ino).serve(&self.core, call)
    }

    /// Serves a request that changes what is in the directory `dir`, made under its lock.
    pub(super) fn call_naming<T>(
        &self,
        op: &'static str,
        request: &Asker,
        dir: INodeNo,
        call: impl FnOnce(&FsCore) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        self.call_locked(op, request, dir, |core| {
            let done = call(core)?;
            self.after_change(core, request, dir);
            Ok(done)
        })
    }

    /// Sees to it that the kernel does not come to keep attributes of `ino` from before the change
    /// that is about to be answered, if it was sent some. Not needed where the kernel itself
    /// numbers the change: SETATTR, WRITE, and what a removal or a link does to the file.
    pub(super) fn after_change(&self, core: &FsCore, request: &Asker, ino: INodeNo) {
        if core.take_shown(request.pid(), self.ino(ino)) {
            self.stale.attributes(ino);
        }
    }

    /// Sees to it that the kernel does not keep the attributes that are about to be sent,
    /// if it still has to take a link off them by itself (not needed where it asked under the lock
    /// of the inode), or if stores may follow that nobody tells it of.
    pub(super) fn before_attributes(&self, core: &FsCore, attr: &Attr) {
        let may_store = attr.may_fill || self.mapped.may_be(attr.ino);
        if may_store || core.removals().is_under_way(attr.ino) {
            self.stale.attributes(INodeNo(attr.ino.0));
        }
        self.take_back_outdated(core);
    }

    /// Runs a call that may block for long on a worker, which gives the answer.
    pub(super) fn call_aside<T>(
        &self,
        op: &'static str,
        request: &Asker,
        ino: INodeNo,
        call: impl FnOnce(&FsCore) -> Result<T, FsError> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let meta = Meta::of(op, request, ino);
        let core = Arc::clone(&self.core);
        self.workers.run(move || answer(meta.serve(&core, call)));
    }
}
