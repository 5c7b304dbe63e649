//! Measures the store: what a snapshot, a branch, an opening cost with many changed files.
//!
//!   agentfs-test-figures DIR ROUNDS FILES..
//!
//! Works in DIR, with a store and a base of its own for each number of files. Writes one line of
//! JSON for each number, times in milliseconds, medians of ROUNDS. Each timed step has a partner in
//! the same round: one fdatasync of a file in DIR that 4 KiB were appended to, since that is what
//! the disk asks for anything durable.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentfs_fsd::backstore::{NewBranch, Store};
use agentfs_fsd::core::point::Point;
use agentfs_fsd::core::types::{BranchName, Caller, Ino, Name};
use agentfs_fsd::core::{CoreConfig, FreezeFor, FsCore};
use nix::libc::O_RDWR;
use serde_json::{Value, json};

type Fallible<T> = Result<T, Box<dyn Error>>;

const FILES_PER_DIR: usize = 100;
const FILE_BYTES: usize = 100;
const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

fn main() -> Fallible<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: agentfs-test-figures DIR ROUNDS FILES..";
    let dir = PathBuf::from(args.next().ok_or(usage)?);
    let rounds: usize = args.next().ok_or(usage)?.parse()?;
    for files in args {
        let files: usize = files.parse()?;
        println!("{}", Bench::new(&dir, files)?.measure(files, rounds)?);
    }
    Ok(())
}

/// One store with one branch.
struct Bench {
    store: Store,
    base: PathBuf,
    branch: BranchName,
    /// The file that is synced for comparison.
    partner: File,
}

impl Bench {
    fn new(dir: &Path, files: usize) -> Fallible<Self> {
        let dir = dir.join(files.to_string());
        let base = dir.join("base");
        fs::create_dir_all(&base)?;
        let store = Store::open_or_create(&dir.join("store"))?;
        let branch = BranchName::new("b")?;
        store.create_branch(&branch, None, new())?;
        let partner = File::create(dir.join("partner"))?;
        Ok(Self {
            store,
            base,
            branch,
            partner,
        })
    }

    fn open(&self) -> Fallible<FsCore> {
        let live = self.store.open_live(&self.branch)?;
        let config = CoreConfig {
            base: self.base.clone(),
            roots: vec!["/".into()],
            conceal: Vec::new(),
            mountpoint: None,
            passthrough: false,
        };
        Ok(FsCore::new(live, config)?)
    }

    /// The time `step` takes, and that of one fdatasync just before it.
    fn beside<T>(&mut self, step: impl FnOnce(&mut Self) -> Fallible<T>) -> Fallible<(T, Pair)> {
        self.partner.write_all(&[0; 4096])?;
        let start = Instant::now();
        self.partner.sync_data()?;
        let sync = start.elapsed();
        let start = Instant::now();
        let done = step(self)?;
        let step = start.elapsed();
        Ok((done, Pair { step, sync }))
    }

    fn measure(mut self, files: usize, rounds: usize) -> Fallible<Value> {
        let before = rss_bytes()?;
        let mut core = self.open()?;
        fill(&core, files)?;
        // As the daemon does every few seconds.
        core.maintain()?;
        core.sync_all()?;
        let rss = rss_bytes()?.saturating_sub(before);

        // The layer that is frozen first holds all files, the others one each.
        let mut first = None;
        let mut snapshots = Vec::new();
        for round in 0..=rounds {
            make(&core, Ino::ROOT, &format!("s{round}"))?;
            let (frozen, pair) = self.beside(|b| {
                let held = b.store.hold()?;
                Ok(core.freeze(&held, FreezeFor::Snapshot(None))?)
            })?;
            let made = frozen.snapshot.ok_or("no snapshot was made")?.name;
            if first.is_none() {
                first = Some((summary(&[pair]), made));
            } else {
                snapshots.push(pair);
            }
        }
        let (first, snapshot) = first.ok_or("no snapshot was made")?;
        let mut branches = Vec::new();
        for round in 0..rounds {
            let name = BranchName::new(&format!("of{round}"))?;
            let from = Point {
                branch: self.branch.clone(),
                snapshot: Some(snapshot.clone()),
            };
            let made = self.beside(|b| Ok(b.store.create_branch(&name, Some(&from), new())?))?;
            branches.push(made.1);
        }
        core.close()?;
        let mut after_clean_end = Vec::new();
        for _ in 0..rounds {
            let (core, pair) = self.beside(|b| b.open())?;
            after_clean_end.push(pair);
            core.close()?;
        }
        let mut after_kill = Vec::new();
        // The journal as a killed daemon may leave it: as long as it ever gets.
        let core = self.open()?;
        fill_journal(&core, files)?;
        drop(core);
        for _ in 0..rounds {
            let (core, pair) = self.beside(|b| b.open())?;
            after_kill.push(pair);
            drop(core);
        }
        Ok(json!({
            "files": files,
            "rounds": rounds,
            "rss_mib": rss as f64 / f64::from(1 << 20),
            "first_snapshot": first,
            "snapshot": summary(&snapshots),
            "branch": summary(&branches),
            "open_after_clean_end": summary(&after_clean_end),
            "open_after_kill": summary(&after_kill),
        }))
    }
}

/// A step and its partner.
struct Pair {
    step: Duration,
    sync: Duration,
}

fn summary(pairs: &[Pair]) -> Value {
    let median = |of: &dyn Fn(&Pair) -> Duration| {
        let mut all: Vec<f64> = pairs.iter().map(|p| of(p).as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    json!({"ms": median(&|p| p.step), "fdatasync_ms": median(&|p| p.sync)})
}

fn new() -> NewBranch {
    NewBranch {
        workspace: "/".into(),
    }
}

/// Makes one small file. Nobody holds it afterwards.
fn make(core: &FsCore, dir: Ino, name: &str) -> Fallible<()> {
    let name = Name::new(name.as_bytes())?;
    let (entry, opened) = core.create(&CALLER, dir, &name, 0o644, O_RDWR)?;
    core.write(entry.attr.ino, opened.fh, 0, &[b'x'; FILE_BYTES], false)?;
    core.release(opened.fh);
    core.forget(entry.attr.ino, 1);
    Ok(())
}

/// Makes `files` small files, with the regular work of a daemon in between.
fn fill(core: &FsCore, files: usize) -> Fallible<()> {
    let mut dir = Ino::ROOT;
    for n in 0..files {
        if n % FILES_PER_DIR == 0 {
            let name = Name::new(format!("d{}", n / FILES_PER_DIR).as_bytes())?;
            dir = core.mkdir(&CALLER, Ino::ROOT, &name, 0o755)?.attr.ino;
            core.maintain()?;
        }
        make(core, dir, &format!("f{n}"))?;
    }
    Ok(())
}

/// Changes the modes of all files, with no regular work in between.
fn fill_journal(core: &FsCore, files: usize) -> Fallible<()> {
    let set = agentfs_fsd::core::types::SetAttr {
        perm: Some(0o600),
        ..Default::default()
    };
    let mut dir = Ino::ROOT;
    for n in 0..files {
        if n % FILES_PER_DIR == 0 {
            let name = Name::new(format!("d{}", n / FILES_PER_DIR).as_bytes())?;
            dir = core.lookup(Ino::ROOT, &name)?.attr.ino;
        }
        let name = Name::new(format!("f{n}").as_bytes())?;
        let ino = core.lookup(dir, &name)?.attr.ino;
        core.setattr(&CALLER, ino, None, &set)?;
        core.forget(ino, 1);
    }
    Ok(())
}

/// Resident memory of this process. Source: proc(5), statm.
fn rss_bytes() -> Fallible<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .ok_or("statm has no second field")?
        .parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}
