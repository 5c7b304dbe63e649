//! Opening and closing files.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;

use crate::backstore::ObjectFile;
use crate::core::access::Want;
use crate::core::base::{replaced, state};
use crate::core::copy_up;
use crate::core::handle::Handle;
use crate::core::inode::Native;
use crate::core::ops::attr::has_privileges;
use crate::core::ops::create::{NewEntry, plain};
use crate::core::record::{Content, ObjectId};
use crate::core::stream::{Bytes, Stream};
use crate::core::superblock::Tree;
use crate::core::types::{Caller, Entry, Fh, Ino, Kind, Name, NewMode, SetAttr};
use crate::core::{FsCore, FsError};
use crate::sync::{Arc, MutexGuard};

/// An open file.
#[derive(Debug)]
pub struct Opened {
    /// Its handle.
    pub fh: Fh,
    /// How its bytes move.
    pub io: OpenIo,
    /// The host has changed the file: what the kernel keeps of it is old.
    pub is_changed: bool,
}

/// How the bytes of an open file move.
#[derive(Debug)]
pub enum OpenIo {
    /// Through the page cache and requests; the cache stays valid over opens.
    Cached,
    /// By the kernel itself, to and from `fd`. Opens of one file with the same `token` share
    /// one registered backing file, until the last of them is released.
    Passthrough {
        /// Identifies the backing of this file.
        token: u64,
        /// The object, open for reading and writing.
        fd: OwnedFd,
    },
}

/// The access an open(2) asks for.
#[derive(Clone, Copy)]
pub(in crate::core) struct Access {
    reads: bool,
    writes: bool,
    truncates: bool,
    /// With O_EXCL.
    exclusive: bool,
    executes: bool,
    /// With O_DIRECT, which a program may take back by fcntl(2).
    direct: bool,
}

/// The kernel's own mark of an open by execve(2), which reaches us among the flags of open(2).
/// A program cannot set it. Source: __FMODE_EXEC of the kernel's fs.h.
const OPEN_EXEC: u32 = 0x20;

impl Access {
    pub(in crate::core) fn of(flags: i32) -> Self {
        let flags = OFlags::from_bits_retain(flags as u32);
        let mode = flags & OFlags::RWMODE;
        Self {
            reads: mode != OFlags::WRONLY,
            writes: mode == OFlags::WRONLY || mode == OFlags::RDWR,
            truncates: flags.contains(OFlags::TRUNC),
            exclusive: flags.contains(OFlags::EXCL),
            executes: flags.bits() & OPEN_EXEC != 0,
            direct: flags.contains(OFlags::DIRECT),
        }
    }

    /// The rights that it takes. Who executes a file need not be able to read it.
    pub(in crate::core) fn want(flags: i32) -> Want {
        let access = Self::of(flags);
        Want {
            read: access.reads && !access.executes,
            write: access.writes || access.truncates,
            execute: access.executes,
        }
    }
}

impl FsCore {
    /// Opens a regular file. `flags` are those of open(2), O_TRUNC among them.
    ///
    /// Opening copies nothing up, truncating does. Errors: `Stale`, `IsADirectory`, `InExecution`,
    /// `NotSupported` for devices, FIFOs and sockets (the kernel opens those itself), `Base`,
    /// `Store`.
    pub fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<Opened, FsError> {
        let access = Access::of(flags);
        {
            let mut tree = crate::sync::lock(&self.tree);
            let node = tree.node(ino)?;
            match node.kind {
                Kind::File => {}
                Kind::Dir => return Err(FsError::IsADirectory(ino)),
                _ => {
                    return Err(FsError::NotSupported(
                        "opening a special file through the branch",
                    ));
                }
            }
            // The kernel keeps writers off a running program by itself, but looks at O_TRUNC without
            // write access only after we have truncated.
            if access.truncates && !access.writes && node.executors > 0 {
                return Err(FsError::InExecution(ino));
            }
            if access.writes || access.truncates || node.nameless {
                self.check_name(&mut tree, ino)?;
            }
        }
        if access.truncates {
            let set = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            self.setattr(caller, ino, None, &set)?;
        }
        let mut tree = crate::sync::lock(&self.tree);
        let is_held = tree.node(ino)?.stream().is_some();
        let stream = copy_up::stream_of(self, &mut tree, ino)?;
        match self.meet_host(&mut tree, ino, &stream, is_held, access) {
            Ok(is_changed) => Ok(Opened {
                is_changed,
                ..self.open_locked(tree, ino, stream, access)?
            }),
            Err(e) => {
                if !is_held {
                    tree.let_go(ino);
                }
                Err(e)
            }
        }
    }

    /// Sees whether a file that is to be changed by its name still has that name on the host, where the
    /// branch has nothing to say of it: what is written to one that is open, but gone from there, would
    /// not be found under the name that the writer has used.
    ///
    /// Errors: ESTALE inside `Base`, of an open file once: who names it by its descriptor has no other.
    pub(in crate::core) fn check_name(&self, tree: &mut Tree, ino: Ino) -> Result<(), FsError> {
        let node = tree.node_mut(ino)?;
        let was_asked = node.known().asked && node.stream().is_some();
        if node.nameless && was_asked {
            node.known_mut().asked = false;
        }
        if was_asked || !node.nameless && (node.record.is_some() || node.unlinked) {
            return Ok(());
        }
        let checked = match node.unlinked {
            true => Err(replaced()),
            false => tree.check_place(&self.base, ino),
        };
        if checked.is_err() {
            tree.node_mut(ino)?.known_mut().asked = true;
        }
        checked
    }

    /// Whether the host has changed a file of which the bytes are still its own since the kernel came
    /// to know it. `is_held`: the stream was open before.
    ///
    /// Errors: ESTALE inside `Base`, once, for who may append: the kernel takes the place from the
    /// size it knows, and comes to know a new one only by looking the file up again.
    fn meet_host(
        &self,
        tree: &mut Tree,
        ino: Ino,
        stream: &Stream,
        is_held: bool,
        access: Access,
    ) -> Result<bool, FsError> {
        let now = match stream.bytes.try_read().as_deref() {
            Ok(Bytes::Base { file, .. }) if is_held => {
                state(&self.base.stat_open(file)?.fingerprint)
            }
            Ok(Bytes::Base { state, .. }) => *state,
            _ => return Ok(false),
        };
        let known = tree.node_mut(ino)?.known_mut();
        let is_known = known.attributes == now;
        if !is_known && access.writes && !known.asked {
            known.asked = true;
            return Err(replaced());
        }
        let was_asked = std::mem::take(&mut known.asked);
        let pages = std::mem::replace(&mut known.pages, now);
        Ok(!is_known || was_asked || (pages != 0 && pages != now))
    }

    /// Makes the regular file `name` in `parent` and opens it.
    ///
    /// The caller owes a forget for the entry and a release. Errors: as [`FsCore::mknod`]; but ESTALE
    /// inside `Base` for a name that is there and need not be new. The kernel did not know of it, since
    /// the host has made it meanwhile; it looks again then, and asks who may open it.
    pub fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &Name,
        mode: impl Into<NewMode>,
        flags: i32,
    ) -> Result<(Entry, Opened), FsError> {
        let access = Access::of(flags);
        let mut tree = match self.lock_absent(parent, name) {
            Err(FsError::Exists { .. }) if !access.exclusive => return Err(replaced()),
            locked => locked?,
        };
        let (content, bytes, staged) = if access.writes {
            let (id, file) = tree.branch.new_object()?;
            let file = Arc::from(file);
            (
                Content::Object(id),
                Bytes::Object {
                    id,
                    file,
                    own: true,
                },
                Some(id),
            )
        } else {
            (Content::Empty, Bytes::Empty, None)
        };
        let new = NewEntry {
            content,
            dirty: staged.is_some(),
            ..plain(parent, name, Kind::File, mode.into())
        };
        let ino = match self.make_locked(&mut tree, caller, &new) {
            Ok(ino) => ino,
            Err(e) => {
                if let Some(id) = staged {
                    tree.branch.remove_object(id);
                }
                return Err(e);
            }
        };
        let stream = Arc::new(Stream::new(bytes, staged.is_some()));
        tree.hold(ino, stream.clone())?;
        tree.node_mut(ino)?.lookups += 1;
        let attr = tree.attr(&self.base, ino)?;
        let opened = match self.open_locked(tree, ino, stream, access) {
            Ok(opened) => opened,
            Err(e) => {
                // The kernel never hears of the entry, so nobody else would take it away.
                if let Err(undo) = self.unlink(caller, parent, name) {
                    tracing::warn!(%ino, error = %undo, "cannot remove a file that was not opened");
                }
                self.forget(ino, 1);
                return Err(e);
            }
        };
        Ok((
            Entry {
                attr,
                generation: 0,
            },
            opened,
        ))
    }

    fn open_locked(
        &self,
        mut tree: MutexGuard<'_, Tree>,
        ino: Ino,
        stream: Arc<Stream>,
        access: Access,
    ) -> Result<Opened, FsError> {
        let backing = self.backing(&tree, ino, &stream, access)?;
        let node = tree.node_mut(ino)?;
        node.opens += 1;
        node.writers += u32::from(access.writes);
        node.executors += u32::from(access.executes);
        let io = match backing {
            Some((token, file, fd)) => {
                node.native = Some(Box::new(Native { token, file }));
                OpenIo::Passthrough { token, fd }
            }
            None => OpenIo::Cached,
        };
        drop(tree);
        let passthrough_writer = access.writes && matches!(io, OpenIo::Passthrough { .. });
        let maps = passthrough_writer && access.reads;
        let handle = Handle {
            ino,
            stream,
            writes: access.writes,
            executes: access.executes,
            maps,
        };
        let opened = Opened {
            fh: self.handles.add(handle.clone()),
            io,
            is_changed: false,
        };
        if passthrough_writer
            // These writes never come by here: say beforehand that the object is the truth.
            && let Err(e) = copy_up::mark_dirty(self, ino, &handle.stream)
        {
            self.release(opened.fh);
            return Err(e);
        }
        Ok(opened)
    }

    /// The object to hand to the kernel, if this open may bypass us.
    ///
    /// The kernel allows one way at a time: while cached handles are open, a further one is cached
    /// too, and the other way round. A file that carries privileges is never written behind our
    /// back: they must go with the first write. O_DIRECT goes through us because the kernel opens
    /// the object with the flags of this open: a program that takes O_DIRECT back for the last,
    /// partial block (dd does) would still be held to whole blocks there.
    fn backing(
        &self,
        tree: &Tree,
        ino: Ino,
        stream: &Stream,
        access: Access,
    ) -> Result<Option<Backing>, FsError> {
        let node = tree.node(ino)?;
        if !self.passthrough {
            return Ok(None);
        }
        let (token, file) = match node.native.as_deref() {
            // Whoever holds the bytes now (a truncation, say) must not turn this open into a
            // cached one: the kernel would answer EIO.
            Some(Native { token, file }) if node.opens > 0 => (*token, file.clone()),
            _ if node.opens > 0 || node.record.as_deref().is_some_and(has_privileges) => {
                return Ok(None);
            }
            _ if access.direct => return Ok(None),
            _ => match stream.bytes.try_read().as_deref() {
                Ok(Bytes::Object {
                    id,
                    file,
                    own: true,
                }) => (token_of(*id), file.clone()),
                _ => return Ok(None),
            },
        };
        let Some(fd) = file.as_fd() else {
            return Ok(None);
        };
        let fd = fd
            .try_clone_to_owned()
            .map_err(|source| FsError::Base { op: "dup", source })?;
        Ok(Some((token, file, fd)))
    }

    /// Closes a handle. After the last writer the object's stamps become the record's.
    pub fn release(&self, fh: Fh) {
        let Some(handle) = self.handles.remove(fh) else {
            return;
        };
        let ino = handle.ino;
        if handle.maps
            && let Some(object) = crate::sync::read(&handle.stream.bytes).object_id()
        {
            self.mappings.closed(ino, object);
        }
        drop(handle.stream);
        {
            let mut tree = crate::sync::lock(&self.tree);
            let Ok(node) = tree.node_mut(ino) else { return };
            node.opens = node.opens.saturating_sub(1);
            node.writers = node.writers.saturating_sub(u32::from(handle.writes));
            node.executors = node.executors.saturating_sub(u32::from(handle.executes));
            if node.opens == 0 {
                node.native = None;
            }
        }
        if let Err(e) = self.settle(ino) {
            // Nothing is lost: the record says `dirty`, the object keeps the stamps.
            tracing::warn!(%ino, error = %e, "cannot record the size of a closed file yet");
        }
        crate::sync::lock(&self.tree).drop_if_idle(ino);
    }
}

/// What a passthrough open is given: token, object, and the object's descriptor for the kernel.
type Backing = (u64, Arc<dyn ObjectFile>, OwnedFd);

fn token_of(id: ObjectId) -> u64 {
    id.number
}
