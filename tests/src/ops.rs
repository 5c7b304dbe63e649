//! The vocabulary of the model and the diff suite: random [`Op`]s, whose indexes are taken modulo
//! what exists (so that shrinking keeps them valid), and the concrete [`Step`]s they stand for.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::base::{ODD, pattern};

/// How many files can be open at once.
pub const SLOTS: usize = 4;

/// One random operation. Every number is an index into something, taken modulo its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Op {
    Create {
        dir: u16,
        name: u8,
        perm: u8,
        slot: u8,
    },
    Mkdir {
        dir: u16,
        name: u8,
        perm: u8,
    },
    Fifo {
        dir: u16,
        name: u8,
        perm: u8,
    },
    Symlink {
        dir: u16,
        name: u8,
        target: u8,
    },
    Link {
        from: u16,
        dir: u16,
        name: u8,
    },
    Unlink {
        path: u16,
    },
    Rmdir {
        path: u16,
    },
    Rename {
        from: u16,
        dir: u16,
        name: u8,
        how: u8,
    },
    RenameOnto {
        from: u16,
        to: u16,
        how: u8,
    },
    Chmod {
        path: u16,
        perm: u8,
    },
    Chown {
        path: u16,
        owner: u8,
    },
    Utimens {
        path: u16,
        time: u8,
    },
    Truncate {
        file: u16,
        size: u8,
    },
    Open {
        file: u16,
        how: u8,
        slot: u8,
    },
    Close {
        slot: u8,
    },
    Write {
        slot: u8,
        at: u8,
        len: u8,
        fill: u8,
    },
    Read {
        slot: u8,
        at: u8,
        len: u8,
    },
    Ftruncate {
        slot: u8,
        size: u8,
    },
    Allocate {
        slot: u8,
        how: u8,
        at: u8,
        len: u8,
    },
    Sync {
        slot: u8,
    },
    SetXattr {
        path: u16,
        name: u8,
        value: u8,
        how: u8,
    },
    RemoveXattr {
        path: u16,
        name: u8,
    },
    List {
        dir: u16,
    },
    DropCaches,
    Remount,
    Crash,
    Snapshot,
    Restore {
        which: u8,
    },
}

/// The type of an entry, as far as resolving needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EntryKind {
    File,
    Dir,
    Other,
}

/// What renameat2(2) is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum How {
    Replace,
    NoReplace,
    Exchange,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
    Truncate,
}

/// What fallocate(2) is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Allocate {
    Extend,
    KeepSize,
    Punch,
}

/// What setxattr(2) is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SetHow {
    Any,
    Create,
    Replace,
}

/// Path below the tree's root: names joined by `/`; empty for the root itself.
pub type RelPath = Vec<u8>;

/// A concrete operation: what a program would call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    Create {
        path: RelPath,
        perm: u32,
        slot: usize,
    },
    Mkdir {
        path: RelPath,
        perm: u32,
    },
    Fifo {
        path: RelPath,
        perm: u32,
    },
    Symlink {
        path: RelPath,
        target: Vec<u8>,
    },
    Link {
        from: RelPath,
        to: RelPath,
    },
    Unlink {
        path: RelPath,
    },
    Rmdir {
        path: RelPath,
    },
    Rename {
        from: RelPath,
        to: RelPath,
        how: How,
    },
    Chmod {
        path: RelPath,
        perm: u32,
    },
    Chown {
        path: RelPath,
        uid: u32,
        gid: u32,
    },
    Utimens {
        path: RelPath,
        time: (i64, u32),
    },
    Truncate {
        path: RelPath,
        size: u64,
    },
    Open {
        path: RelPath,
        access: Access,
        slot: usize,
    },
    Close {
        slot: usize,
    },
    Write {
        slot: usize,
        offset: u64,
        data: Vec<u8>,
    },
    Read {
        slot: usize,
        offset: u64,
        len: usize,
    },
    Ftruncate {
        slot: usize,
        size: u64,
    },
    Allocate {
        slot: usize,
        how: Allocate,
        offset: u64,
        len: u64,
    },
    Sync {
        slot: usize,
    },
    SetXattr {
        path: RelPath,
        name: Vec<u8>,
        value: Vec<u8>,
        how: SetHow,
    },
    RemoveXattr {
        path: RelPath,
        name: Vec<u8>,
    },
    List {
        path: RelPath,
    },
    DropCaches,
    Remount,
    Crash,
    /// Freezes the state, at most [`MOST_SNAPSHOTS`] times.
    Snapshot,
    /// Goes back to one of the snapshots, if there are any; always also a clean end and a new start.
    Restore {
        which: usize,
    },
}

/// Snapshots kept of one history.
pub const MOST_SNAPSHOTS: usize = 4;

/// What a step gives back, besides an errno.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Answer {
    Done,
    Bytes(Vec<u8>),
    Names(Vec<Vec<u8>>),
}

/// The answer, or an errno.
pub type Outcome = Result<Answer, i32>;

/// Everything below the root, sorted by path; the root is not in it.
pub type Listing = BTreeMap<RelPath, EntryKind>;

const PERMS: [u32; 8] = [0o644, 0o755, 0o600, 0o777, 0o700, 0o4755, 0o2775, 0o444];
const OFFSETS: [u64; 9] = [0, 1, 100, 4_095, 4_096, 5_000, 65_536, 69_999, 200_001];
const LENGTHS: [usize; 6] = [1, 10, 512, 4_096, 5_000, 20_000];
const SIZES: [u64; 8] = [0, 1, 11, 4_096, 4_097, 60_000, 70_000, 250_000];
const TARGETS: [&[u8]; 4] = [b"file", b"dir/sub", b"../out", b"/etc/hostname"];
const XATTRS: [&[u8]; 3] = [b"user.a", b"user.b", b"user.c"];
const OWNERS: [(u32, u32); 4] = [(0, 0), (1000, 1000), (0, 4242), (70_000, 100)];

fn name(index: u8) -> Vec<u8> {
    let names: [&[u8]; 14] = [
        b"file",
        b"dir",
        b"sub",
        b"two",
        b"link",
        b"new",
        b"a",
        b"b",
        b"c",
        b"-rf",
        b"sp ace\n",
        ODD,
        b".hid",
        &[b'x'; 255],
    ];
    names[usize::from(index) % names.len()].to_vec()
}

fn pick<T: Copy>(from: &[T], index: u8) -> T {
    from[usize::from(index) % from.len()]
}

/// Joins a directory and a name.
pub fn join(dir: &[u8], name: &[u8]) -> RelPath {
    match dir.is_empty() {
        true => name.to_vec(),
        false => [dir, b"/", name].concat(),
    }
}

/// Splits a path below the root into its directory and its name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

impl Op {
    /// The step that this stands for in a tree with `listing`; `None` when it holds nothing to
    /// work on.
    pub fn resolve(self, listing: &Listing) -> Option<Step> {
        let nth = |index: u16, wanted: &dyn Fn(EntryKind) -> bool| -> Option<RelPath> {
            let count = listing.values().filter(|k| wanted(**k)).count();
            let at = usize::from(index).checked_rem(count)?;
            let mut paths = listing.iter().filter(|(_, k)| wanted(**k));
            paths.nth(at).map(|(path, _)| path.clone())
        };
        let any = |index| nth(index, &|_| true);
        let file = |index| nth(index, &|k| k == EntryKind::File);
        let no_link = |index| nth(index, &|k| k != EntryKind::Other);
        // The root counts as a directory too.
        let dir = |index: u16| match index % 4 {
            0 => Vec::new(),
            _ => nth(index / 4, &|k| k == EntryKind::Dir).unwrap_or_default(),
        };
        let place = |d: u16, n: u8| join(&dir(d), &name(n));
        let slot = |s: u8| usize::from(s) % SLOTS;
        let how = |h: u8| {
            pick(
                &[How::Replace, How::Replace, How::NoReplace, How::Exchange],
                h,
            )
        };
        Some(match self {
            Op::Create {
                dir,
                name,
                perm,
                slot: s,
            } => Step::Create {
                path: place(dir, name),
                perm: pick(&PERMS, perm),
                slot: slot(s),
            },
            Op::Mkdir { dir, name, perm } => Step::Mkdir {
                path: place(dir, name),
                perm: pick(&PERMS, perm) & 0o1777,
            },
            Op::Fifo { dir, name, perm } => Step::Fifo {
                path: place(dir, name),
                perm: pick(&PERMS, perm) & 0o777,
            },
            Op::Symlink { dir, name, target } => Step::Symlink {
                path: place(dir, name),
                target: pick(&TARGETS, target).to_vec(),
            },
            Op::Link { from, dir, name } => Step::Link {
                from: any(from)?,
                to: place(dir, name),
            },
            Op::Unlink { path } => Step::Unlink { path: any(path)? },
            Op::Rmdir { path } => Step::Rmdir { path: any(path)? },
            Op::Rename {
                from,
                dir,
                name,
                how: h,
            } => Step::Rename {
                from: any(from)?,
                to: place(dir, name),
                how: how(h),
            },
            Op::RenameOnto { from, to, how: h } => Step::Rename {
                from: any(from)?,
                to: any(to)?,
                how: how(h),
            },
            Op::Chmod { path, perm } => Step::Chmod {
                path: no_link(path)?,
                perm: pick(&PERMS, perm),
            },
            Op::Chown { path, owner } => {
                let (uid, gid) = pick(&OWNERS, owner);
                Step::Chown {
                    path: any(path)?,
                    uid,
                    gid,
                }
            }
            Op::Utimens { path, time } => {
                let sec =
                    900_000_000 + i64::from(time) * 1_000_003 - 450_000_000 * i64::from(time % 3);
                Step::Utimens {
                    path: any(path)?,
                    time: (sec, u32::from(time) * 3_999_999 % 1_000_000_000),
                }
            }
            Op::Truncate { file: f, size } => Step::Truncate {
                path: file(f)?,
                size: pick(&SIZES, size),
            },
            Op::Open {
                file: f,
                how,
                slot: s,
            } => {
                let kinds = [
                    Access::Read,
                    Access::Write,
                    Access::ReadWrite,
                    Access::Truncate,
                ];
                Step::Open {
                    path: file(f)?,
                    access: pick(&kinds, how),
                    slot: slot(s),
                }
            }
            Op::Close { slot: s } => Step::Close { slot: slot(s) },
            Op::Write {
                slot: s,
                at,
                len,
                fill,
            } => Step::Write {
                slot: slot(s),
                offset: pick(&OFFSETS, at),
                data: pattern(fill, pick(&LENGTHS, len)),
            },
            Op::Read { slot: s, at, len } => Step::Read {
                slot: slot(s),
                offset: pick(&OFFSETS, at),
                len: pick(&LENGTHS, len),
            },
            Op::Ftruncate { slot: s, size } => Step::Ftruncate {
                slot: slot(s),
                size: pick(&SIZES, size),
            },
            Op::Allocate {
                slot: s,
                how,
                at,
                len,
            } => Step::Allocate {
                slot: slot(s),
                how: pick(
                    &[Allocate::Extend, Allocate::KeepSize, Allocate::Punch],
                    how,
                ),
                offset: pick(&OFFSETS, at),
                len: pick(&LENGTHS, len) as u64,
            },
            Op::Sync { slot: s } => Step::Sync { slot: slot(s) },
            Op::SetXattr {
                path,
                name,
                value,
                how,
            } => Step::SetXattr {
                path: no_link(path)?,
                name: pick(&XATTRS, name).to_vec(),
                value: pattern(value, usize::from(value)),
                how: pick(&[SetHow::Any, SetHow::Create, SetHow::Replace], how),
            },
            Op::RemoveXattr { path, name } => Step::RemoveXattr {
                path: no_link(path)?,
                name: pick(&XATTRS, name).to_vec(),
            },
            Op::List { dir: d } => Step::List { path: dir(d) },
            Op::DropCaches => Step::DropCaches,
            Op::Remount => Step::Remount,
            Op::Crash => Step::Crash,
            Op::Snapshot => Step::Snapshot,
            Op::Restore { which } => Step::Restore {
                which: usize::from(which),
            },
        })
    }
}

/// Lists of 1 to `most` operations. `restarts`: with remounts, crashes and dropped caches.
pub fn ops(most: usize, restarts: bool) -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(restarts), 1..=most)
}

fn op(restarts: bool) -> impl Strategy<Value = Op> {
    // Two raw numbers more than any operation needs, mapped: cheap to make and to shrink.
    let kinds = if restarts { 64_u8 } else { 56 };
    let raw = (0..kinds, any::<u16>(), any::<u16>(), any::<[u8; 3]>());
    raw.prop_map(|(kind, p, q, [x, y, z])| match kind {
        0..=4 => Op::Create {
            dir: p,
            name: x,
            perm: y,
            slot: z,
        },
        5..=7 => Op::Mkdir {
            dir: p,
            name: x,
            perm: y,
        },
        8 => Op::Fifo {
            dir: p,
            name: x,
            perm: y,
        },
        9..=10 => Op::Symlink {
            dir: p,
            name: x,
            target: y,
        },
        11..=13 => Op::Link {
            from: p,
            dir: q,
            name: x,
        },
        14..=17 => Op::Unlink { path: p },
        18..=19 => Op::Rmdir { path: p },
        20..=24 => Op::Rename {
            from: p,
            dir: q,
            name: x,
            how: y,
        },
        25..=28 => Op::RenameOnto {
            from: p,
            to: q,
            how: y,
        },
        29..=30 => Op::Chmod { path: p, perm: x },
        31 => Op::Chown { path: p, owner: x },
        32 => Op::Utimens { path: p, time: x },
        33..=34 => Op::Truncate { file: p, size: x },
        35..=39 => Op::Open {
            file: p,
            how: x,
            slot: y,
        },
        40..=41 => Op::Close { slot: x },
        42..=46 => Op::Write {
            slot: x,
            at: y,
            len: z,
            fill: (p & 0xff) as u8,
        },
        47..=48 => Op::Read {
            slot: x,
            at: y,
            len: z,
        },
        49 => Op::Ftruncate { slot: x, size: y },
        50 => Op::Allocate {
            slot: x,
            how: y,
            at: z,
            len: (p & 0xff) as u8,
        },
        51 => Op::Sync { slot: x },
        52..=53 => Op::SetXattr {
            path: p,
            name: x,
            value: y,
            how: z,
        },
        54 => Op::RemoveXattr { path: p, name: x },
        55 => Op::List { dir: p },
        56..=57 => Op::DropCaches,
        58..=59 => Op::Remount,
        60..=61 => Op::Crash,
        62 => Op::Snapshot,
        _ => Op::Restore { which: x },
    })
}
