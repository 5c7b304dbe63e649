//! Making things durable, looking after the journal, and the end of a branch's life.

use crate::backstore::{Chore, ChoreDone, StoreError};
use crate::core::inode::Node;
use crate::core::record::Content;
use crate::core::stream::Stream;
use crate::core::types::{Fh, FsStat, Ino};
use crate::core::{FsCore, FsError, quota};
use crate::sync::Arc;

impl FsCore {
    /// Makes a file's bytes (and, unless `data_only`, its record) durable.
    ///
    /// The journal is one stream, so everything recorded before becomes durable with it.
    /// Errors: `Stale`, `Store`. Locks: none while it waits for the disk.
    pub fn fsync(&self, ino: Ino, data_only: bool) -> Result<(), FsError> {
        self.guard_replaced();
        let (stream, is_closed, journal) = {
            let tree = crate::sync::lock(&self.tree);
            let node = tree.node(ino)?;
            let is_closed = node.stream().is_none() && has_object(node);
            let journal = tree.branch.journal_sync()?;
            (node.stream().cloned(), is_closed, journal)
        };
        // Whoever syncs a file has it open. Where nobody tells us so, it may be closed here.
        let stream = match is_closed && self.implicit.is_regime() {
            true => Some(self.handle(ino, Fh::NONE)?.stream),
            false => stream,
        };
        if let Some(stream) = stream {
            self.sync_bytes(ino, stream, data_only)?;
        }
        journal.sync()?;
        Ok(())
    }

    /// Waits until the bytes of a file are on the disk, without any lock.
    fn sync_bytes(&self, ino: Ino, stream: Arc<Stream>, data_only: bool) -> Result<(), FsError> {
        let synced = stream.sync(data_only);
        drop(stream);
        // A last close meanwhile has left the stream open for our sake.
        let settled = self.settle(ino);
        synced?;
        settled
    }

    /// Makes the records durable, and the bytes that must be before them.
    ///
    /// Errors: `Store`.
    pub fn sync_records(&self) -> Result<(), FsError> {
        self.guard_replaced();
        let journal = crate::sync::lock(&self.tree).branch.journal_sync()?;
        Ok(journal.sync()?)
    }

    /// Makes everything acknowledged so far durable.
    ///
    /// Errors: `Store`.
    pub fn sync_all(&self) -> Result<(), FsError> {
        self.guard_replaced();
        let (open, journal) = {
            let tree = crate::sync::lock(&self.tree);
            (tree.open(), tree.branch.journal_sync()?)
        };
        // One at a time: a stream that is held here cannot be closed.
        for ino in open {
            let stream = {
                let tree = crate::sync::lock(&self.tree);
                tree.node(ino).ok().and_then(|n| n.stream().cloned())
            };
            if let Some(stream) = stream {
                self.sync_bytes(ino, stream, true)?;
            }
        }
        // Objects of files that are closed by now: nobody keeps a list of those.
        let path = crate::sync::lock(&self.tree).branch.location()?;
        let synced = std::fs::File::open(&path).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
        synced.map_err(|source| StoreError::Io {
            op: "syncfs",
            path,
            source,
        })?;
        journal.sync()?;
        Ok(())
    }

    /// Called every few seconds: syncs the journal, and checkpoints it once it has grown.
    ///
    /// Errors: `Store`; the branch goes on, the next call tries again.
    pub fn maintain(&self) -> Result<(), FsError> {
        // Keeps the list short, so that a snapshot has little to ask.
        self.mappings.left(&self.tree);
        self.close_idle();
        self.guard_replaced();
        let journal = crate::sync::lock(&self.tree).branch.journal_sync()?;
        if let Err(e) = journal.sync() {
            // A journal whose sync failed once never syncs again; a checkpoint leaves it behind.
            tracing::error!(error = %e, "cannot sync the journal, a checkpoint takes its place");
        }
        let mut tree = crate::sync::lock(&self.tree);
        tree.branch.follow_snapshots()?;
        if tree.branch.needs_checkpoint() {
            tree.branch.checkpoint()?;
        }
        let has_shrunk = tree.try_shrink();
        drop(tree);
        if has_shrunk {
            crate::sys::give_back_memory();
        }
        Ok(())
    }

    /// The next work on frozen layers that is due. It is done outside of the core, which nobody
    /// waits for meanwhile; what it leads to goes to [`take`](Self::take).
    pub fn next_chore(&self) -> Option<Chore> {
        crate::sync::lock(&self.tree).branch.next_chore()
    }

    /// Takes over what a chore led to.
    pub fn take(&self, done: ChoreDone) {
        crate::sync::lock(&self.tree).branch.take(done);
    }

    /// Space and inodes, as the store's file system has them and the limit of the branch allows.
    ///
    /// Errors: `Store`.
    pub fn statfs(&self) -> Result<FsStat, FsError> {
        let path = crate::sync::lock(&self.tree).branch.location()?;
        let stat = rustix::fs::statvfs(&path).map_err(|e| StoreError::Io {
            op: "statfs",
            path,
            source: e.into(),
        })?;
        let mut shown = FsStat {
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            block_bytes: stat.f_frsize as u32,
            name_max: 255,
        };
        if let Some(account) = &self.account {
            quota::limit_stat(account, &mut shown);
        }
        Ok(shown)
    }

    /// Ends the branch's life in this process: records what open files still owe, checkpoints,
    /// gives the branch free.
    ///
    /// Errors: `Store`; everything acknowledged is safe even then.
    pub fn close(self) -> Result<(), FsError> {
        let inos: Vec<Ino> = {
            let mut tree = crate::sync::lock(&self.tree);
            self.implicit.clear();
            for node in tree.nodes.values_mut() {
                (node.opens, node.writers, node.implicit) = (0, 0, false);
            }
            tree.open()
        };
        for ino in inos {
            self.settle(ino)?;
        }
        let orphans: Vec<Ino> = {
            let mut tree = crate::sync::lock(&self.tree);
            tree.nodes.values_mut().for_each(|node| node.lookups = 0);
            tree.nodes
                .iter()
                .filter(|(_, n)| n.unlinked)
                .map(|(ino, _)| *ino)
                .collect()
        };
        let mut tree = self
            .tree
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for ino in orphans {
            tree.drop_if_idle(ino);
        }
        tree.branch.close()?;
        Ok(())
    }
}

/// Whether an object has bytes of the file.
fn has_object(node: &Node) -> bool {
    let is_object =
        |content: &Content| matches!(content, Content::Object(_) | Content::Extents { .. });
    node.record.as_ref().is_some_and(|r| is_object(&r.content))
}
