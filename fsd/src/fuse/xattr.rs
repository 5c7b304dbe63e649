//! The calls about extended attributes, for the adapter: decode, call the core, say what the kernel
//! must not keep. Decides nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Errno, INodeNo};

use crate::core::FsCore;
use crate::fuse::adapter::Adapter;
use crate::fuse::convert::caller;
use crate::fuse::request::op;
use crate::fuse::transport::{Asker, XattrReply};
use crate::sync::Arc;

impl Adapter {
    pub(super) fn set_attribute(
        &self,
        req: &Asker,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        self.call(op::SETXATTR, req, ino, |core| {
            core.setxattr(&caller(req), self.ino(ino), name.as_bytes(), value, flags)?;
            self.after_change(core, req, ino);
            Ok(())
        })
    }

    /// The value as the mount can show it.
    pub(super) fn attribute(
        &self,
        req: &Asker,
        ino: INodeNo,
        name: &OsStr,
    ) -> Result<Arc<[u8]>, Errno> {
        self.call(op::GETXATTR, req, ino, |core| {
            let value = core.getxattr(self.ino(ino), name.as_bytes())?;
            Ok(match &self.face.one_user {
                Some(user) => user.show_xattr(name.as_bytes(), value),
                None => value,
            })
        })
    }

    pub(super) fn attribute_names(&self, req: &Asker, ino: INodeNo) -> Result<Vec<u8>, Errno> {
        let call = |core: &FsCore| core.listxattr_for(&caller(req), self.ino(ino));
        self.call(op::LISTXATTR, req, ino, call)
    }

    pub(super) fn remove_attribute(
        &self,
        req: &Asker,
        ino: INodeNo,
        name: &OsStr,
    ) -> Result<(), Errno> {
        self.call(op::REMOVEXATTR, req, ino, |core| {
            core.removexattr(&caller(req), self.ino(ino), name.as_bytes())?;
            self.after_change(core, req, ino);
            Ok(())
        })
    }
}

/// Answers an xattr query of `size` bytes: 0 asks for the length. Source: getxattr(2).
pub(super) fn answer_query(
    reply: impl XattrReply,
    size: u32,
    result: Result<impl AsRef<[u8]>, Errno>,
) {
    match result {
        Ok(value) => match (size, value.as_ref()) {
            (0, bytes) => reply.size(bytes.len() as u32),
            (room, bytes) if bytes.len() > room as usize => reply.error(Errno::ERANGE),
            (_, bytes) => reply.data(bytes),
        },
        Err(errno) => reply.error(errno),
    }
}
