//! A round with a load: writers at work, snapshots meanwhile, and a kill.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::epoch::{BRANCH, Epoch};
use super::work::{Part, Work, progress};
use crate::bins;
use crate::cmd::Running;
use crate::load::Kind;
use crate::wait::{PATIENCE, pause};

/// How long a round waits for its moment.
const LONG_ENOUGH: Duration = Duration::from_secs(5);
/// Operations before most kills, at most.
const SOON: u64 = 700;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Daemon,
    Monitor,
    /// Every process of the run, in any order.
    All,
    /// The daemon, while it closes the branch.
    Closing,
}

/// A command on the live branch.
#[derive(Debug)]
struct Meanwhile {
    /// As the tally has it.
    what: &'static str,
    /// The snapshot or the branch that it makes.
    name: String,
    args: Vec<String>,
}

/// The writers of a round.
struct Load {
    run: Running,
    parts: Vec<Part>,
    logs: Vec<PathBuf>,
}

impl Load {
    /// Operations acknowledged so far.
    fn acknowledged(&self) -> u64 {
        self.logs.iter().map(|log| progress(log).0).sum()
    }

    /// The parts, with what must be there by now.
    fn at_least(&self) -> Vec<Part> {
        let mut parts = self.parts.clone();
        for (part, log) in parts.iter_mut().zip(&self.logs) {
            part.least = progress(log).0;
            part.most = part.least;
        }
        parts
    }

    /// Takes note of what may be there by now.
    fn at_most(&self, parts: &mut [Part]) {
        for (part, log) in parts.iter_mut().zip(&self.logs) {
            let (done, begun) = progress(log);
            part.most = done + begun.saturating_sub(done);
        }
    }

    /// Waits for so many acknowledged operations; on a busy machine for fewer.
    fn wait_for(&mut self, moment: u64) {
        let begun = Instant::now();
        let (mut seen, mut end) = (0, begun + PATIENCE);
        loop {
            let now = self.acknowledged();
            if now >= moment || now > 0 && begun.elapsed() > LONG_ENOUGH {
                return;
            }
            if now > seen {
                (seen, end) = (now, Instant::now() + PATIENCE);
            }
            let ended = self.run.child.try_wait().expect("wait");
            assert!(
                ended.is_none(),
                "the load ended by itself: {ended:?} {}",
                self.run.stderr_now()
            );
            assert!(Instant::now() < end, "no operation after {now} of {moment}");
            pause(Duration::from_millis(1));
        }
    }
}

fn shoot(pid: i32) {
    // It may have ended by itself a moment ago.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

impl Epoch {
    /// Up to `most` milliseconds: which of them is up to the dice, and what happens then to the machine.
    pub(super) fn moment(&mut self, most: u64) {
        let millis = self.chance.below(most + 1);
        pause(Duration::from_millis(millis));
    }

    pub(super) fn kill_a_load(&mut self) {
        let victim = match self.chance.below(100) {
            0..=54 => Victim::Daemon,
            55..=67 => Victim::Monitor,
            68..=81 => Victim::All,
            _ => Victim::Closing,
        };
        let mut load = self.start_load();
        let longest = match self.chance.below(10) {
            0 => self.longest,
            _ => SOON,
        };
        let moment = 20 + self.chance.below(longest);
        let mut made = Vec::new();
        for i in 0..self.chance.below(3) {
            load.wait_for(1 + self.chance.below(moment));
            made.push(self.meanwhile(&mut load, i));
        }
        load.wait_for(moment);
        let late = (self.chance.below(3) == 0).then(|| {
            let command = self.command(9);
            let parts = [self.parts.clone(), load.at_least()].concat();
            let running = self.sandbox.start(&command.args);
            self.moment(60);
            (command, parts, running)
        });
        self.kill(&load, victim);
        let late = late.map(|(command, parts, running)| {
            running.wait();
            (command, parts)
        });
        let done = load.run.wait();
        if victim != Victim::Closing {
            assert_ne!(
                done.code(),
                0,
                "a load whose run was killed failed\n{}",
                done.report()
            );
        }
        self.sandbox.assert_quiet();
        self.save();
        *self.tally.kills.entry(victim.name()).or_default() += 1;
        while self.chance.below(3) == 0 {
            self.kill_an_opening();
        }
        self.fsck();

        let old = self.parts.len();
        let mut fresh = load.parts.clone();
        for (part, log) in fresh.iter_mut().zip(&load.logs) {
            let (done, begun) = progress(log);
            (part.least, part.most) = (done, begun);
        }
        self.parts.extend(fresh.clone());
        let parts = self.parts.clone();
        self.parts = self.pinned(BRANCH, &parts, false);
        for (asked, is) in fresh.iter().zip(&self.parts[old..]) {
            self.tally.operations += asked.least;
            match () {
                () if asked.most == asked.least => {}
                () if is.least != is.most => self.tally.done_in_part += 1,
                () if is.least == asked.most => self.tally.done_unacknowledged += 1,
                () => self.tally.not_done += 1,
            }
        }
        let listed = self.listed();
        for (command, parts) in made {
            self.look_at_made(&command, &parts, &listed, true);
        }
        if let Some((command, mut parts)) = late {
            let new = parts.len() - load.parts.len();
            for (part, now) in parts[new..].iter_mut().zip(&self.parts[old..]) {
                part.most = now.most;
            }
            self.look_at_made(&command, &parts, &listed, false);
        }
        self.thin_out();
    }

    fn start_load(&mut self) -> Load {
        let round = self.round;
        let out = self.sandbox.out();
        let stop = out.join(format!("stop{round}"));
        let (mut parts, mut logs) = (Vec::new(), Vec::new());
        let mut script = String::from("set -e\n");
        let mut begin = String::new();
        for w in 0..2 + self.chance.below(3) {
            let work = match (w, self.chance.below(10)) {
                (0, 0..=6) | (_, 0..=2) => Work::Load(Kind::Tree),
                (_, 3..=4) => Work::Load(Kind::Crowd),
                (_, 5..=6) => Work::Load(Kind::Database),
                _ => Work::Sqlite,
            };
            let dir = format!("r{round}w{w}");
            let over_base = w == 0 && work == Work::Load(Kind::Tree);
            match over_base {
                true => script += &format!("mv base-{round} {dir}\n"),
                false => script += &format!("mkdir {dir}\n"),
            }
            let part = Part {
                dir,
                work,
                seed: self.chance.below(1 << 40),
                start: over_base.then(|| self.start()),
                least: 0,
                most: 0,
            };
            let log = out.join(format!("log-{}", part.dir));
            let json = out.join(format!("part-{}", part.dir));
            std::fs::write(&json, serde_json::to_vec(&part).expect("JSON")).expect("the part");
            begin += &format!(
                "'{}' crash-write '{}' '{}' '{}' &\npids+=($!)\n",
                bins::helper().display(),
                json.display(),
                log.display(),
                stop.display()
            );
            parts.push(part);
            logs.push(log);
        }
        script += &begin;
        script += "for pid in \"${pids[@]}\"; do wait $pid; done\n";
        let mut args = self.run_args(BRANCH, None);
        args.extend(["bash".into(), "-c".into(), script]);
        Load {
            run: self.sandbox.start(&args),
            parts,
            logs,
        }
    }

    fn command(&mut self, number: u64) -> Meanwhile {
        let round = self.round;
        if self.chance.below(4) == 0 {
            let name = format!("from-{round}-{number}");
            let args = ["branch", "create", &name, "--from", BRANCH];
            return Meanwhile {
                what: "branch create",
                args: args.map(str::to_owned).to_vec(),
                name,
            };
        }
        let name = format!("s{round}-{number}");
        let args = ["snapshot", "create", BRANCH, "--name", &name];
        Meanwhile {
            what: "snapshot create",
            args: args.map(str::to_owned).to_vec(),
            name,
        }
    }

    /// A snapshot or a branch of the live branch, and what it may hold.
    fn meanwhile(&mut self, load: &mut Load, number: u64) -> (Meanwhile, Vec<Part>) {
        let command = self.command(number);
        let end = Instant::now() + PATIENCE;
        loop {
            let mut parts = [self.parts.clone(), load.at_least()].concat();
            let done = self.sandbox.call(&command.args);
            let is_busy = done.stderr.contains("try again");
            if is_busy && Instant::now() < end {
                continue;
            }
            done.ok();
            let new = parts.len() - load.parts.len();
            load.at_most(&mut parts[new..]);
            return (command, parts);
        }
    }

    fn kill(&mut self, load: &Load, victim: Victim) {
        let daemons = self.sandbox.daemons();
        assert_eq!(daemons.len(), 1, "one daemon per live branch");
        match victim {
            Victim::Daemon => shoot(daemons[0]),
            Victim::Monitor => shoot(load.run.pid()),
            Victim::All => {
                let mut all: Vec<i32> = self.sandbox.processes().iter().map(|p| p.pid).collect();
                while !all.is_empty() {
                    let at = self.chance.below(all.len() as u64) as usize;
                    shoot(all.swap_remove(at));
                }
            }
            Victim::Closing => {
                let stop = self.sandbox.out().join(format!("stop{}", self.round));
                std::fs::write(stop, "").expect("stop");
                self.moment(120);
                shoot(daemons[0]);
            }
        }
    }

    /// Kills the daemon while it opens what the kill before has left.
    fn kill_an_opening(&mut self) {
        let mut run = self
            .sandbox
            .start(&["run", "-q", "--branch", BRANCH, "--", "true"]);
        let daemon = loop {
            if let Some(pid) = self.sandbox.daemons().first() {
                break Some(*pid);
            }
            if run.child.try_wait().expect("wait").is_some() {
                break None;
            }
        };
        self.moment(40);
        if let Some(pid) = daemon {
            shoot(pid);
            *self.tally.kills.entry("opening").or_default() += 1;
        }
        run.wait();
        self.sandbox.assert_quiet();
    }

    /// What a command on the live branch made. `surely`: it said that it did.
    fn look_at_made(
        &mut self,
        command: &Meanwhile,
        parts: &[Part],
        listed: &[String],
        surely: bool,
    ) {
        let is_snapshot = command.what == "snapshot create";
        let is_there = match is_snapshot {
            true => listed.contains(&command.name),
            false => self.is_branch(&command.name),
        };
        assert!(is_there || !surely, "{command:?} is gone");
        if !surely {
            self.count(command.what, is_there);
        }
        if !is_there {
            return;
        }
        if is_snapshot {
            self.look_at_snapshot(&command.name, parts, false);
        } else {
            self.pinned(&command.name, parts, false);
            self.tally.points_checked += 1;
            self.sandbox.call(&["rm", &command.name]).ok();
        }
    }

    /// Whether there is such a branch.
    pub(super) fn is_branch(&self, name: &str) -> bool {
        self.sandbox.rows().iter().any(|row| row["name"] == name)
    }

    /// Takes note of how a command under way at a kill turned out.
    pub(super) fn count(&mut self, what: &'static str, is_done: bool) {
        let key: &'static str = match (what, is_done) {
            ("snapshot create", true) => "snapshot create: done",
            ("snapshot create", false) => "snapshot create: not done",
            ("branch create", true) => "branch create: done",
            ("branch create", false) => "branch create: not done",
            ("restore", true) => "restore: done",
            ("restore", false) => "restore: not done",
            ("snapshot rm", true) => "snapshot rm: done",
            ("snapshot rm", false) => "snapshot rm: not done",
            ("rm", true) => "rm: done",
            ("rm", false) => "rm: not done",
            ("gc", true) => "gc: done",
            ("gc", false) => "gc: not done",
            (_, true) => "other: done",
            (_, false) => "other: not done",
        };
        *self.tally.commands.entry(key).or_default() += 1;
    }

    /// Lets no more snapshots pile up than a round can look at.
    fn thin_out(&mut self) {
        while self.snapshots.len() > 4 {
            let at = self.chance.below(self.snapshots.len() as u64) as usize;
            let name = self.snapshots.keys().nth(at).cloned().expect("a snapshot");
            let point = format!("{BRANCH}@{name}");
            self.sandbox.call(&["snapshot", "rm", &point]).ok();
            self.snapshots.remove(&name);
        }
    }
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Victim::Daemon => "daemon",
            Victim::Monitor => "monitor",
            Victim::All => "whole run",
            Victim::Closing => "daemon at the end of a run",
        }
    }
}
