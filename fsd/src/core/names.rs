//! [`NameCounts`]: how many names the branch itself has for each file that came from the base.
//!
//! A record counts its links, but the host adds and takes away others. Which of them the branch
//! has by itself only its dentries tell, and to walk all of them for one file is paid once.

use std::cell::OnceCell;
use std::collections::HashMap;

use crate::backstore::{Records, StoreError};
use crate::core::record::{Delta, Dentry};
use crate::core::types::{Ino, Kind, Name};

/// The counts. Guarded by the tree lock.
#[derive(Debug, Default)]
pub struct NameCounts {
    /// Names by inode; none is left out, and none is 0. Empty until somebody asks.
    by_ino: OnceCell<HashMap<Ino, u32>>,
    /// Times that all dentries were walked.
    #[cfg(test)]
    walks: std::cell::Cell<u32>,
}

/// A name that a frame changes, and the counted file that it led to before.
#[derive(Debug)]
pub struct Renamed {
    dir: Ino,
    name: Name,
    before: Option<Ino>,
}

/// The file behind a dentry, if its names are counted: not of one that the branch made, whose
/// record says it, and which the host cannot link; nor of a directory.
fn counted(dentry: Option<Dentry>) -> Option<Ino> {
    match dentry {
        Some(Dentry::Present { ino, kind }) if kind != Kind::Dir && ino < Ino::FIRST_NEW => {
            Some(ino)
        }
        _ => None,
    }
}

impl NameCounts {
    /// The names that `branch` has for the file `ino`.
    ///
    /// Errors: `Store`. Walks all dentries the first time.
    pub fn of(&self, branch: &impl Records, ino: Ino) -> Result<u32, StoreError> {
        let by_ino = match self.by_ino.get() {
            Some(by_ino) => by_ino,
            None => {
                let counts = self.walk(branch)?;
                self.by_ino.get_or_init(|| counts)
            }
        };
        Ok(by_ino.get(&ino).copied().unwrap_or(0))
    }

    fn walk(&self, branch: &impl Records) -> Result<HashMap<Ino, u32>, StoreError> {
        #[cfg(test)]
        self.walks.set(self.walks.get() + 1);
        let mut counts = HashMap::new();
        branch.each_dentry(&mut |_, _, dentry| {
            if let Some(ino) = counted(Some(dentry)) {
                *counts.entry(ino).or_default() += 1;
            }
            Ok(())
        })?;
        Ok(counts)
    }

    /// What the names in `deltas` lead to, before they are committed. For [`NameCounts::after`].
    ///
    /// Errors: `Store`.
    pub fn before(
        &self,
        branch: &impl Records,
        deltas: &[Delta],
    ) -> Result<Vec<Renamed>, StoreError> {
        let mut renamed: Vec<Renamed> = Vec::new();
        if self.by_ino.get().is_none() {
            return Ok(renamed);
        }
        for delta in deltas {
            let (Delta::PutDentry(dir, name, _) | Delta::DelDentry(dir, name)) = delta else {
                continue;
            };
            if renamed.iter().any(|r| r.dir == *dir && r.name == *name) {
                continue;
            }
            renamed.push(Renamed {
                dir: *dir,
                name: name.clone(),
                before: counted(branch.dentry(*dir, name)?),
            });
        }
        Ok(renamed)
    }

    /// Brings the counts in line with a frame that was committed. Cannot fail: where the branch
    /// cannot be read, the names are counted anew when somebody asks.
    pub fn after(&mut self, branch: &impl Records, renamed: Vec<Renamed>) {
        let Some(by_ino) = self.by_ino.get_mut() else {
            return;
        };
        for Renamed { dir, name, before } in renamed {
            let Ok(now) = branch.dentry(dir, &name) else {
                self.by_ino.take();
                return;
            };
            let now = counted(now);
            if now == before {
                continue;
            }
            if let Some(ino) = now {
                *by_ino.entry(ino).or_default() += 1;
            }
            if let Some(ino) = before
                && let Some(names) = by_ino.get_mut(&ino)
            {
                *names = names.saturating_sub(1);
                if *names == 0 {
                    by_ino.remove(&ino);
                }
            }
        }
    }

    /// Checks the counts against the dentries, and says how often those were walked before.
    #[cfg(test)]
    pub fn check(&self, branch: &impl Records) -> u32 {
        let walks = self.walks.get();
        assert_eq!(self.by_ino.get(), Some(&self.walk(branch).unwrap()));
        walks
    }
}
