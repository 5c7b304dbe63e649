//! A write-heavy load that can be computed again: from a seed, an endless list of steps, each one
//! system call, and the state that the tree must be in after any number of them.

use crate::model::Model;
use crate::ops::{Op, Outcome, Step};

/// The steps of a seed with what each must answer.
#[derive(Debug)]
pub struct Load {
    random: u64,
    model: Model,
}

impl Load {
    /// The load of `seed` over the tree `start`, which must be empty.
    pub fn new(seed: u64, start: Model) -> Self {
        Load {
            random: seed.wrapping_mul(2).wrapping_add(1),
            model: start,
        }
    }

    fn random(&mut self) -> u64 {
        // A 64-bit linear congruential generator; its upper half is random enough for a load.
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn op(&mut self) -> Op {
        let (p, q) = (
            (self.random() & 0xffff) as u16,
            (self.random() & 0xffff) as u16,
        );
        let (x, y, z) = (
            (self.random() & 0xff) as u8,
            (self.random() & 0xff) as u8,
            (self.random() & 3) as u8,
        );
        match self.random() % 24 {
            // Modes that an ordinary owner can go on working with.
            0..=4 => Op::Create {
                dir: p,
                name: x,
                perm: 0,
                slot: z,
            },
            5..=6 => Op::Mkdir {
                dir: p,
                name: x,
                perm: 1,
            },
            7 => Op::Symlink {
                dir: p,
                name: x,
                target: y,
            },
            8 => Op::Link {
                from: p,
                dir: q,
                name: x,
            },
            9..=10 => Op::Unlink { path: p },
            11 => Op::Rmdir { path: p },
            12..=13 => Op::Rename {
                from: p,
                dir: q,
                name: x,
                how: y,
            },
            14 => Op::RenameOnto {
                from: p,
                to: q,
                how: y,
            },
            15 => Op::Chmod {
                path: p,
                perm: [1, 3, 4][usize::from(x % 3)],
            },
            16 => Op::Truncate { file: p, size: x },
            17 => Op::SetXattr {
                path: p,
                name: x,
                value: y,
                how: 0,
            },
            18 => Op::Utimens { path: p, time: x },
            _ => Op::Write {
                slot: z,
                at: x,
                len: y,
                fill: (p & 0xff) as u8,
            },
        }
    }
}

impl Iterator for Load {
    type Item = (Step, Outcome);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let op = self.op();
            let Some(step) = op.resolve(&self.model.listing()) else {
                continue;
            };
            let outcome = self.model.apply(&step);
            return Some((step, outcome));
        }
    }
}

/// Where the kernel may cut one write(2) into several requests, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Checks that `found` is the state after `acked` steps of `seed` on an empty tree, or after one
/// more: the step under way at the kill may have been done, a write also up to a page boundary.
pub fn verify(found: &Model, acked: u64, seed: u64) -> Result<(), String> {
    let mut load = Load::new(seed, found.emptied());
    for _ in 0..acked {
        load.next();
    }
    let Some(why) = found.difference_but_owners(&load.model) else {
        return Ok(());
    };
    let before = load.model.clone();
    let next = load.next();
    match found.difference_but_owners(&load.model) {
        None => Ok(()),
        Some(_) if is_cut_write(found, &before, next.as_ref().map(|(step, _)| step)) => Ok(()),
        Some(also) => Err(format!(
            "not the state after {acked} steps: {why}\nnor after the next, {next:?}: {also}"
        )),
    }
}

/// Whether `found` is `before` with a part of the write `step`, cut at a page boundary.
fn is_cut_write(found: &Model, before: &Model, step: Option<&Step>) -> bool {
    let Some(Step::Write { slot, offset, data }) = step else {
        return false;
    };
    let end = offset + data.len() as u64;
    let cuts = (offset + 1..end).filter(|at| at % PAGE_BYTES == 0);
    cuts.into_iter().any(|at| {
        let mut model = before.clone();
        let part = Step::Write {
            slot: *slot,
            offset: *offset,
            data: data[..(at - offset) as usize].to_vec(),
        };
        model.apply(&part).is_ok() && found.difference_but_owners(&model).is_none()
    })
}
