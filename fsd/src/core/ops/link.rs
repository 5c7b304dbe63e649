//! Hard links.

use crate::core::change::Change;
use crate::core::ops::attr::touch;
use crate::core::record::{Delta, Dentry};
use crate::core::types::{Caller, Entry, Ino, Kind, Name};
use crate::core::{FsCore, FsError};

/// Links a file can have, as on ext4.
const LINKS_MAX: u32 = 65_000;

impl FsCore {
    /// Gives `ino` the further name `name` in `parent`. The caller owes a forget for the entry.
    ///
    /// Errors: `Exists`, `NotPermitted` for a directory, `TooManyLinks`, `Stale` for a file whose
    /// last link is gone, `ReadOnly`, `Base`, `Store`.
    pub fn link(
        &self,
        _caller: &Caller,
        ino: Ino,
        parent: Ino,
        name: &Name,
    ) -> Result<Entry, FsError> {
        let mut tree = self.lock_absent(parent, name)?;
        let node = tree.node(ino)?;
        let kind = node.kind;
        if kind == Kind::Dir {
            return Err(FsError::NotPermitted("hard links to directories"));
        }
        if node.unlinked {
            return Err(FsError::Removed(ino));
        }
        let now = self.clock.now();
        let mut change = Change::default();
        let record = tree.edit(&self.base, &mut change, ino)?;
        if record.nlink == 0 {
            // The host has removed it meanwhile.
            return Err(FsError::Removed(ino));
        }
        if record.nlink >= LINKS_MAX {
            return Err(FsError::TooManyLinks(ino));
        }
        record.nlink += 1;
        record.ctime = now;
        touch(tree.edit(&self.base, &mut change, parent)?, now);
        change.push(Delta::PutDentry(
            parent,
            name.clone(),
            Dentry::Present { ino, kind },
        ));
        tree.commit(change)?;
        let node = tree.node_mut(ino)?;
        node.lookups += 1;
        let generation = node.record.as_ref().map_or(0, |r| r.generation);
        Ok(Entry {
            attr: tree.attr(&self.base, ino)?,
            generation,
        })
    }
}
