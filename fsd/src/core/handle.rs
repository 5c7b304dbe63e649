//! [`Handles`]: the open files of a mount. Directories need none, their streams are stateless.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::FsError;
use crate::core::stream::Stream;
use crate::core::types::{Fh, Ino};
use crate::sync::{Arc, RwLock};

/// One open(2) of a file.
#[derive(Clone, Debug)]
pub struct Handle {
    /// The file.
    pub ino: Ino,
    /// Its bytes; the same object for all handles of the file.
    pub stream: Arc<Stream>,
    /// Opened for writing.
    pub writes: bool,
    /// Opened by execve(2).
    pub executes: bool,
    /// A shared mapping for writing can come from it that we are not told of.
    pub maps: bool,
}

/// The handle table. Rank 3.
#[derive(Debug, Default)]
pub struct Handles {
    open: RwLock<HashMap<u64, Handle>>,
    last: AtomicU64,
}

impl Handles {
    /// Adds a handle.
    pub fn add(&self, handle: Handle) -> Fh {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        crate::sync::write(&self.open).insert(id, handle);
        Fh(id)
    }

    /// The handle `fh`.
    ///
    /// Errors: `BadHandle`.
    pub fn get(&self, fh: Fh) -> Result<Handle, FsError> {
        crate::sync::read(&self.open)
            .get(&fh.0)
            .cloned()
            .ok_or(FsError::BadHandle(fh))
    }

    /// Takes the handle out of the table.
    pub fn remove(&self, fh: Fh) -> Option<Handle> {
        crate::sync::write(&self.open).remove(&fh.0)
    }
}
