//! The host's files for a repair: what a branch would record of them now.

use std::sync::Arc;

use super::base::{Base, BaseEntry};
use super::node::Source;
use crate::backstore::check::{Host, HostObject};
use crate::core::number;
use crate::core::record::{Content, InodeRec, Origin};
use crate::core::types::{Ino, Kind, Name};

impl Host for Base {
    fn look(&self, path: &[u8]) -> Option<HostObject> {
        let at = path.iter().rposition(|byte| *byte == b'/')?;
        let name = Name::new(&path[at + 1..]).ok()?;
        let dir = self.dir(if at == 0 { b"/" } else { &path[..at] }).ok()??;
        let entry = dir.entry(self, &name).ok()??;
        Some(HostObject {
            device: entry.device,
            record: record(entry),
        })
    }

    fn numbers(&self, index: u16, object: &HostObject) -> [Ino; 2] {
        let Some(origin) = &object.record.origin else {
            return [Ino::ROOT; 2];
        };
        let plain = number::of_base(index, origin.fingerprint.ino);
        [plain, number::hashed(plain, origin.fingerprint.btime)]
    }
}

fn record(entry: BaseEntry) -> InodeRec {
    let (node, print) = (entry.node, entry.fingerprint);
    InodeRec {
        kind: node.kind,
        perm: node.perm,
        uid: node.uid,
        gid: node.gid,
        rdev: node.rdev,
        nlink: node.nlink.max(1),
        size: print.size,
        atime: print.mtime,
        mtime: print.mtime,
        ctime: print.ctime,
        btime: print.btime,
        object_mtime: None,
        blocks: None,
        dirty: false,
        generation: 0,
        origin: Some(Box::new(Origin {
            path: entry.path,
            fingerprint: print,
        })),
        content: match node.kind {
            Kind::File => Content::Base,
            _ => Content::Empty,
        },
        symlink: match node.source {
            Source::Symlink(target) => Some(Arc::from(&target[..])),
            _ => None,
        },
        xattrs: node.xattrs,
    }
}
