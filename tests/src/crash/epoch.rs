//! [`Epoch`]: one store over many rounds of kills, and what it must hold.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::work::{Part, Plan};
use crate::base::pattern;
use crate::chance::Chance;
use crate::cmd::{self, Done};
use crate::{Manifest, Sandbox, bins};

/// The branch that everything happens on.
pub(super) const BRANCH: &str = "b";

/// What was done, and how often.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Processes or groups of them that were killed, by what they were.
    pub kills: BTreeMap<&'static str, u64>,
    /// Operations that were acknowledged before a kill, and were there after it.
    pub operations: u64,
    /// Operations under way at a kill that were there after it.
    pub done_unacknowledged: u64,
    /// Operations under way at a kill that were not there after it.
    pub not_done: u64,
    /// Writes under way at a kill of which a part was there after it.
    pub done_in_part: u64,
    /// Looks at what a snapshot, or a branch made meanwhile, holds.
    pub points_checked: u64,
    /// Commands under way at a kill that turned out to be done, and those that did not.
    pub commands: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// All kills.
    pub fn all_kills(&self) -> u64 {
        self.kills.values().sum()
    }

    /// Adds another one's.
    pub fn add(&mut self, other: &Tally) {
        for (what, n) in &other.kills {
            *self.kills.entry(what).or_default() += n;
        }
        for (what, n) in &other.commands {
            *self.commands.entry(what).or_default() += n;
        }
        self.operations += other.operations;
        self.done_unacknowledged += other.done_unacknowledged;
        self.not_done += other.not_done;
        self.done_in_part += other.done_in_part;
        self.points_checked += other.points_checked;
    }
}

/// A store over some rounds.
#[derive(Debug)]
pub struct Epoch {
    pub(super) sandbox: Sandbox,
    pub(super) chance: Chance,
    pub(super) round: u64,
    /// What the branch holds.
    pub(super) parts: Vec<Part>,
    /// What each of its snapshots holds.
    pub(super) snapshots: BTreeMap<String, Vec<Part>>,
    /// Most operations before a kill.
    pub(super) longest: u64,
    /// What was done so far.
    pub tally: Tally,
    before: Manifest,
    seed: u64,
    plans: u64,
    keep: Option<PathBuf>,
}

impl Epoch {
    /// A new store for at most `rounds` rounds, which all follow from `seed`. Of a round that fails the
    /// store is copied to `keep`.
    pub fn new(seed: u64, rounds: u64, longest: u64, keep: Option<PathBuf>) -> Self {
        let sandbox = Sandbox::new();
        let start = sandbox.out().join("start");
        start_tree(&start);
        for round in 0..rounds {
            let copy = sandbox.work().join(format!("base-{round}"));
            let mut cp = sandbox.host("cp");
            cmd::run(cp.arg("-a").arg(&start).arg(copy)).ok();
        }
        let before = Manifest::of(&sandbox.work());
        Epoch {
            sandbox,
            chance: Chance::from(seed),
            round: 0,
            parts: Vec::new(),
            snapshots: BTreeMap::new(),
            longest,
            tally: Tally::default(),
            before,
            seed,
            plans: 0,
            keep,
        }
    }

    /// The tree that some writers begin with.
    pub(super) fn start(&self) -> PathBuf {
        self.sandbox.out().join("start")
    }

    /// One round: load, kill, look.
    pub fn round(&mut self) {
        match self.chance.below(100) {
            0..=74 => self.kill_a_load(),
            _ => self.kill_a_command(),
        }
        self.round += 1;
    }

    /// The last look: at all that ever was and should still be there.
    pub fn end(mut self) -> Tally {
        self.look_at_all();
        self.before.assert_still();
        self.tally.clone()
    }

    fn look_at_all(&mut self) {
        self.fsck();
        let parts = self.parts.clone();
        self.pinned(BRANCH, &parts, true);
        for (name, parts) in self.snapshots.clone() {
            self.look_at_snapshot(&name, &parts, true);
        }
    }

    /// The store must be sound.
    #[track_caller]
    pub(super) fn fsck(&self) {
        self.sandbox.call(&["fsck"]).ok();
    }

    /// A run on `branch`, which also sees the place outside and the programs.
    pub(super) fn run_args(&self, branch: &str, from: Option<&str>) -> Vec<String> {
        let (out, bin) = (self.sandbox.out(), bins::bin_dir());
        let mut args = vec!["run".into(), "-q".into(), "--branch".into(), branch.into()];
        if let Some(from) = from {
            args.extend(["--from".into(), from.to_owned()]);
        }
        let show = |path: &Path| path.display().to_string();
        args.extend(["--rw".into(), show(&out), "--ro".into(), show(bin)]);
        args.push("--".into());
        args
    }

    /// Whether `branch` (made `from` a point, if need be) holds `parts`. `all`: looks at each of them,
    /// else at the newest and one of the others. Gives the parts with what was found.
    pub(super) fn holds(
        &mut self,
        branch: &str,
        from: Option<&str>,
        parts: &[Part],
        all: bool,
    ) -> Result<Vec<Part>, Done> {
        let newest = format!("r{}w", self.round);
        let one = self.chance.below(parts.len().max(1) as u64) as usize;
        let is_looked_at =
            |at: usize, part: &Part| all || at == one || part.dir.starts_with(&newest);
        let mut plan = Plan::default();
        for (at, part) in parts.iter().enumerate() {
            match is_looked_at(at, part) {
                true => plan.parts.push(part.clone()),
                false => plan.others.push(part.dir.clone()),
            }
        }
        self.plans += 1;
        let path = self.sandbox.out().join(format!("plan{}", self.plans));
        let json = serde_json::to_vec(&plan).expect("JSON");
        fs::write(&path, json).expect("the plan");
        let mut args = self.run_args(branch, from);
        let helper = bins::helper().display().to_string();
        args.extend([helper, "crash-check".into(), path.display().to_string()]);
        let done = self.sandbox.call(&args);
        if done.code() != 0 {
            return Err(done);
        }
        let found: Vec<Option<u64>> = serde_json::from_slice(&done.stdout).expect("JSON");
        let mut known = parts.to_vec();
        for (part, found) in plan.parts.iter().zip(found) {
            let part = known.iter_mut().find(|p| p.dir == part.dir);
            if let (Some(part), Some(found)) = (part, found) {
                (part.least, part.most) = (found, found);
            }
        }
        Ok(known)
    }

    /// As [`holds`](Self::holds), which it must.
    #[track_caller]
    pub(super) fn pinned(&mut self, branch: &str, parts: &[Part], all: bool) -> Vec<Part> {
        self.holds(branch, None, parts, all)
            .unwrap_or_else(|done| panic!("round {}: {}", self.round, done.report()))
    }

    /// A snapshot must hold `parts`.
    #[track_caller]
    pub(super) fn look_at_snapshot(&mut self, name: &str, parts: &[Part], all: bool) {
        let point = format!("{BRANCH}@{name}");
        let found = self.holds("look", Some(&point), parts, all);
        let found =
            found.unwrap_or_else(|done| panic!("round {}: {point}: {}", self.round, done.report()));
        self.sandbox.call(&["rm", "look"]).ok();
        self.snapshots.insert(name.to_owned(), found);
        self.tally.points_checked += 1;
    }

    /// The names of the snapshots there are.
    #[track_caller]
    pub(super) fn listed(&self) -> Vec<String> {
        let done = self.sandbox.call(&["snapshot", "list", BRANCH, "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&done.ok().stdout).expect("JSON");
        let list = json["snapshots"].as_array().expect("a list");
        let name = |row: &serde_json::Value| row["name"].as_str().expect("a name").to_owned();
        list.iter().map(name).collect()
    }

    /// Keeps what the kill left as it is, as long as this round is not through.
    pub(super) fn save(&self) {
        if self.keep.is_none() {
            return;
        }
        let root = self.sandbox.root();
        self.sandbox.host_sh(&format!(
            "rm -rf '{0}/killed'; cp -a '{0}/store' '{0}/killed'",
            root.display()
        ));
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let (seed, kills) = (self.seed, self.tally.all_kills() + 1);
        eprintln!(
            "round {} failed; as far as timing lets it, this repeats it:\n  \
             AGENTFS_TEST_SEED={seed} AGENTFS_CRASH_KILLS={kills} AGENTFS_CRASH_LANES=1",
            self.round
        );
        match &self.keep {
            Some(keep) => {
                let to = keep.join(format!("failed-{seed}-{}", self.round));
                let mut cp = std::process::Command::new("cp");
                let _ = cp.arg("-a").arg(self.sandbox.root()).arg(&to).status();
                eprintln!("kept {}", to.display());
            }
            None => eprintln!("AGENTFS_TEST_KEEP=1 keeps the store; so does `just crash`"),
        }
    }
}

/// What is copied up: small and big files, a hard link, a symlink, an attribute.
fn start_tree(dir: &Path) {
    let at = |path: &str| dir.join(path);
    fs::create_dir_all(at("dir/sub")).expect("mkdir");
    let files = [
        ("file", 12),
        ("dir/sub/two", 5_000),
        ("big", 70_000),
        ("huge", 1_200_000),
    ];
    for (i, (path, len)) in files.into_iter().enumerate() {
        fs::write(at(path), pattern(i as u8, len)).expect("write");
    }
    fs::hard_link(at("file"), at("dir/link")).expect("link");
    symlink("dir/sub", at("sym")).expect("symlink");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at("file"), "user.a", b"base value", flags).expect("setxattr");
}
