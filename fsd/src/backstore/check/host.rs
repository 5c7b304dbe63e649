//! What the host has where a branch lost its word: a repair puts that back rather than nothing, so
//! that no loss looks like a deletion.

use std::collections::{BTreeMap, HashMap};

use crate::backstore::branch::LiveBranch;
use crate::backstore::error::StoreError;
use crate::backstore::stack::Records;
use crate::core::record::{Delta, InodeRec};
use crate::core::types::{Ino, Kind, Name};

/// The host's files, as a repair asks for them.
pub trait Host {
    /// The object at an absolute path; `None`: nothing, or nothing that can be looked at.
    fn look(&self, path: &[u8]) -> Option<HostObject>;

    /// The numbers that a branch gives an object whose device it has under `index`, the usual first.
    fn numbers(&self, index: u16, object: &HostObject) -> [Ino; 2];
}

/// One object of the host.
#[derive(Clone, Debug)]
pub struct HostObject {
    /// What a branch would record that took it over now.
    pub record: InodeRec,
    /// What tells its file system from others.
    pub device: u64,
}

/// Finds for one round of a repair what the host has at the places of a branch.
pub struct Below<'h> {
    host: Option<&'h dyn Host>,
    /// Host paths of directories.
    dirs: HashMap<Ino, Option<Vec<u8>>>,
    /// What the host has where the branch has a word of its own, by number: what it moved is there.
    moved: Option<HashMap<Ino, HostObject>>,
    /// Devices, known and new.
    devices: BTreeMap<u16, u64>,
}

impl<'h> Below<'h> {
    pub fn new(host: Option<&'h dyn Host>, live: &LiveBranch) -> Self {
        Self {
            host,
            dirs: HashMap::new(),
            moved: None,
            devices: live.devices().into_iter().collect(),
        }
    }

    /// Where `name` of a directory is on the host; `None` if the directory has nothing of the host.
    pub fn path(
        &mut self,
        live: &LiveBranch,
        dir: Ino,
        name: &Name,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        if let std::collections::hash_map::Entry::Vacant(place) = self.dirs.entry(dir) {
            let record = live.inode(dir)?.filter(|rec| rec.kind == Kind::Dir);
            place.insert(match (dir, record) {
                (Ino::ROOT, _) => Some(b"/".to_vec()),
                (_, Some(rec)) => rec.origin.as_ref().map(|origin| origin.path.to_vec()),
                (_, None) => None,
            });
        }
        let above = self.dirs.get(&dir).cloned().flatten();
        Ok(above.map(|mut path| {
            if !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            path
        }))
    }

    /// What the host has at the place of a name.
    pub fn at(
        &mut self,
        live: &LiveBranch,
        dir: Ino,
        name: &Name,
    ) -> Result<Option<HostObject>, StoreError> {
        let path = self.path(live, dir, name)?;
        Ok(path
            .zip(self.host)
            .and_then(|(path, host)| host.look(&path)))
    }

    /// Whether a branch knows the object by this number.
    pub fn is_numbered(&self, object: &HostObject, ino: Ino) -> bool {
        let Some(host) = self.host else { return false };
        let same = |(_, device): &(&u16, &u64)| **device == object.device;
        (self.devices.iter().filter(same))
            .any(|(index, _)| host.numbers(*index, object).contains(&ino))
    }

    /// The host's object with this number, if the branch moved it away from where it still is there.
    pub fn moved(&mut self, live: &LiveBranch, ino: Ino) -> Result<Option<HostObject>, StoreError> {
        let Some(host) = self.host else {
            return Ok(None);
        };
        if self.moved.is_none() {
            // Where it was, the branch says that nothing is, or has put something else.
            let mut words = Vec::new();
            live.each_dentry(&mut |dir, name, _| {
                words.push((dir, name.clone()));
                Ok(())
            })?;
            let mut moved = HashMap::new();
            for (dir, name) in words {
                if let Some(object) = self.at(live, dir, &name)? {
                    for (index, device) in &self.devices {
                        if *device == object.device {
                            let numbers = host.numbers(*index, &object);
                            moved.extend(numbers.map(|number| (number, object.clone())));
                        }
                    }
                }
            }
            self.moved = Some(moved);
        }
        let known = self.moved.as_ref().and_then(|moved| moved.get(&ino));
        Ok(known.cloned())
    }

    /// A number for an object that the branch has no word on, and what must be said for it first;
    /// `None` if all of its numbers are in use.
    pub fn number(
        &mut self,
        object: &HostObject,
        is_free: &dyn Fn(Ino) -> Result<bool, StoreError>,
    ) -> Result<Option<(Ino, Option<Delta>)>, StoreError> {
        let Some(host) = self.host else {
            return Ok(None);
        };
        let known = self.devices.iter().find(|(_, dev)| **dev == object.device);
        let (index, delta) = match known {
            Some((index, _)) => (*index, None),
            None => {
                let last = self.devices.keys().next_back().copied().unwrap_or(0);
                let Some(index) = last.checked_add(1) else {
                    return Ok(None);
                };
                self.devices.insert(index, object.device);
                let dev = object.device;
                (index, Some(Delta::PutDevice { index, dev }))
            }
        };
        for ino in host.numbers(index, object) {
            if is_free(ino)? {
                return Ok(Some((ino, delta)));
            }
        }
        Ok(None)
    }
}
