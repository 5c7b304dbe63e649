//! Write-heavy loads that can be computed again: from a seed, an endless list of steps, each one
//! system call, and the state that the tree must be in after any number of them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::base::pattern;
use crate::model::Model;
use crate::ops::{Access, Allocate, How, Op, Outcome, SetHow, Step};

/// What a load is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// All kinds of operations on a small tree.
    Tree,
    /// Pages of one file, each change first noted in a journal; a log; a file replaced by rename.
    Database,
    /// Thousands of entries in one directory.
    Crowd,
}

/// The steps of a seed with what each must answer.
#[derive(Debug)]
pub struct Load {
    kind: Kind,
    random: u64,
    model: Model,
    queue: VecDeque<Step>,
    /// Transactions of a database, entries ever made of a crowd.
    made: u64,
    log_bytes: u64,
    crowd: Vec<Vec<u8>>,
}

impl Load {
    /// The load of `seed` over the tree `start`; only [`Kind::Tree`] may find something there.
    pub fn new(kind: Kind, seed: u64, start: Model) -> Self {
        Load {
            kind,
            random: seed.wrapping_mul(2).wrapping_add(1),
            model: start,
            queue: VecDeque::new(),
            made: 0,
            log_bytes: 0,
            crowd: Vec::new(),
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
        match self.random() % 32 {
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
            19 => Op::RemoveXattr { path: p, name: x },
            20 => Op::Sync { slot: z },
            21 => Op::Ftruncate { slot: z, size: x },
            22 => Op::Allocate {
                slot: z,
                how: x,
                at: y,
                len: (q & 0xff) as u8,
            },
            23 => Op::Close { slot: z },
            24..=25 => Op::Open {
                file: p,
                how: x,
                slot: z,
            },
            _ => Op::Write {
                slot: z,
                at: x,
                len: y,
                fill: (p & 0xff) as u8,
            },
        }
    }
}

/// Bytes of a database's page.
const DB_PAGE_BYTES: u64 = 4096;

impl Load {
    fn below(&mut self, bound: u64) -> u64 {
        self.random() % bound
    }

    /// One transaction as databases do it: what the pages held goes to a journal first.
    fn transaction(&mut self) {
        const PAGES: u64 = 60;
        let (db, journal, log) = (0, 1, 2);
        let write = |slot, offset, seed: u64, len: u64| Step::Write {
            slot,
            offset,
            data: pattern((seed & 0xff) as u8, len as usize),
        };
        let create = |path: &[u8], slot| Step::Create {
            path: path.to_vec(),
            perm: 0o644,
            slot,
        };
        if self.made == 0 {
            self.queue.push_back(create(b"db", db));
            self.queue.push_back(create(b"log", log));
        }
        self.made += 1;
        let n = self.made;
        self.queue.push_back(create(b"db-journal", journal));
        self.queue.push_back(write(journal, 0, n, 512));
        let pages: Vec<u64> = (0..=self.below(4)).map(|_| self.below(PAGES)).collect();
        for (i, page) in pages.iter().enumerate() {
            let at = 512 + i as u64 * (DB_PAGE_BYTES + 8);
            let step = write(journal, at, n ^ page, DB_PAGE_BYTES + 8);
            self.queue.push_back(step);
        }
        self.queue.push_back(Step::Sync { slot: journal });
        for page in &pages {
            let step = write(db, page * DB_PAGE_BYTES, n + page, DB_PAGE_BYTES);
            self.queue.push_back(step);
        }
        self.queue.push_back(Step::Sync { slot: db });
        self.queue.push_back(Step::Close { slot: journal });
        let path = b"db-journal".to_vec();
        self.queue.push_back(Step::Unlink { path });
        let line = 20 + self.below(200);
        self.queue.push_back(write(log, self.log_bytes, n, line));
        self.log_bytes += line;
        if self.below(8) == 0 {
            self.replace(n);
        }
        if self.below(12) == 0 {
            let size = self.below(PAGES) * DB_PAGE_BYTES;
            self.queue.push_back(Step::Ftruncate { slot: db, size });
            let (how, len) = (Allocate::Punch, 2 * DB_PAGE_BYTES);
            let offset = self.below(PAGES) * DB_PAGE_BYTES;
            self.queue.push_back(Step::Allocate {
                slot: db,
                how,
                offset,
                len,
            });
        }
        if self.below(20) == 0 {
            let (path, access) = (b"db".to_vec(), Access::ReadWrite);
            self.queue.push_back(Step::Close { slot: db });
            self.queue.push_back(Step::Open {
                path,
                access,
                slot: db,
            });
        }
    }

    /// A file is made anew and takes the place of the old one.
    fn replace(&mut self, n: u64) {
        let slot = 3;
        let (stage, path) = (b"config.new".to_vec(), b"config".to_vec());
        let data = pattern((n & 0xff) as u8, 1 + self.below(30_000) as usize);
        self.queue.push_back(Step::Create {
            path: stage.clone(),
            perm: 0o600,
            slot,
        });
        let offset = 0;
        self.queue.push_back(Step::Write { slot, offset, data });
        self.queue.push_back(Step::Sync { slot });
        self.queue.push_back(Step::Close { slot });
        self.queue.push_back(Step::Rename {
            from: stage,
            to: path,
            how: How::Replace,
        });
    }

    /// One change of a crowded directory.
    fn mill(&mut self) {
        let dir = b"crowd/";
        if self.made == 0 {
            self.queue.push_back(Step::Mkdir {
                path: b"crowd".to_vec(),
                perm: 0o755,
            });
        }
        self.made += 1;
        let fresh = [&dir[..], format!("entry-{:06}", self.made).as_bytes()].concat();
        let some = self.below(self.crowd.len().max(1) as u64) as usize;
        let what = self.below(20);
        if self.crowd.is_empty() || what < 11 {
            let slot = 0;
            let path = fresh.clone();
            let perm = 0o644;
            self.queue.push_back(Step::Create { path, perm, slot });
            if what < 3 {
                let data = pattern((self.made & 0xff) as u8, self.below(3000) as usize + 1);
                let offset = 0;
                self.queue.push_back(Step::Write { slot, offset, data });
            }
            self.crowd.push(fresh);
            return;
        }
        let old = self.crowd[some].clone();
        match what {
            11 | 12 => {
                self.crowd.swap_remove(some);
                self.queue.push_back(Step::Unlink { path: old });
            }
            13 | 14 => {
                self.crowd[some].clone_from(&fresh);
                let how = How::NoReplace;
                let (from, to) = (old, fresh);
                self.queue.push_back(Step::Rename { from, to, how });
            }
            15 => {
                let other = self.below(self.crowd.len() as u64) as usize;
                let (from, to, how) = (old, self.crowd[other].clone(), How::Exchange);
                self.queue.push_back(Step::Rename { from, to, how });
            }
            16 | 17 => {
                self.crowd.push(fresh.clone());
                let (from, to) = (old, fresh);
                self.queue.push_back(Step::Link { from, to });
            }
            18 => {
                self.crowd.push(fresh.clone());
                let target = b"entry".to_vec();
                let path = fresh;
                self.queue.push_back(Step::Symlink { path, target });
            }
            _ => {
                let path = b"crowd".to_vec();
                let value = self.made.to_string().into_bytes();
                let (name, how) = (b"user.count".to_vec(), SetHow::Any);
                self.queue.push_back(Step::SetXattr {
                    path,
                    name,
                    value,
                    how,
                });
            }
        }
    }
}

impl Iterator for Load {
    type Item = (Step, Outcome);

    fn next(&mut self) -> Option<Self::Item> {
        while self.queue.is_empty() {
            match self.kind {
                Kind::Tree => {
                    let op = self.op();
                    self.queue.extend(op.resolve(&self.model.listing()));
                }
                Kind::Database => self.transaction(),
                Kind::Crowd => self.mill(),
            }
        }
        let step = self.queue.pop_front()?;
        let outcome = self.model.apply(&step);
        Some((step, outcome))
    }
}

/// Where the kernel may cut one write(2) into several requests, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Which number of steps, between `least` and `most`, the load of `seed` must have done on `start`
/// for what was found; else why none of them will do. `None`: it has a part of a write that was under
/// way, up to a page boundary.
pub fn find(load: Load, found: &Model, least: u64, most: u64) -> Result<Option<u64>, String> {
    let mut load = load;
    let mut last = None;
    for _ in 0..least {
        last = load.next();
    }
    let mut why = Vec::new();
    for n in least..=most {
        let Some(wrong) = found.difference_but_owners(&load.model) else {
            return Ok(Some(n));
        };
        // The beginning of a pattern tells it apart.
        let told: String = format!("{last:?}").chars().take(160).collect();
        why.push(format!("not the state after {n} steps ({told}): {wrong}"));
        if n < most {
            let before = load.model.clone();
            last = load.next();
            if is_cut_write(found, &before, last.as_ref().map(|(step, _)| step)) {
                return Ok(None);
            }
        }
    }
    why.truncate(8);
    Err(why.join("\n"))
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
