//! A round without a load: commands on branches that nobody runs on, killed on their way.

use nix::sys::signal::Signal;

use super::epoch::{BRANCH, Epoch};
use super::work::Part;
use crate::cmd::Done;

impl Epoch {
    pub(super) fn kill_a_command(&mut self) {
        if self.parts.is_empty() {
            // There is no branch yet.
            return self.kill_a_load();
        }
        let round = self.round;
        let name = format!("t{round}");
        let before = self.parts.clone();
        let mut after = before.clone();
        let mut goal = None;
        let any = self.any_snapshot();
        let (what, args): (&'static str, Vec<String>) = match (self.chance.below(8), any) {
            (0, _) => (
                "snapshot create",
                words(&["snapshot", "create", BRANCH, "--name", &name]),
            ),
            (1, _) => (
                "branch create",
                words(&["branch", "create", &name, "--from", BRANCH]),
            ),
            (2, _) => {
                let create = ["branch", "create", &name, "--from", BRANCH];
                self.sandbox.call(&create).ok();
                ("rm", words(&["rm", &name]))
            }
            (3, Some((snapshot, _))) => {
                let args = words(&["snapshot", "rm", &format!("{BRANCH}@{snapshot}")]);
                goal = Some(snapshot);
                ("snapshot rm", args)
            }
            (4 | 5, Some((snapshot, parts))) => {
                after = parts;
                ("restore", words(&["restore", BRANCH, &snapshot]))
            }
            (6 | 7, _) => ("gc", words(&["gc"])),
            _ => ("rename", words(&["branch", "rename", BRANCH, &name])),
        };
        let done = self.call_and_kill(what, &args);
        self.save();
        self.fsck();
        let is_done = match what {
            "branch create" => self.is_branch(&name),
            "rm" => !self.is_branch(&name),
            "rename" => {
                let found = [self.is_branch(BRANCH), self.is_branch(&name)];
                assert!(found[0] != found[1], "one of two names: {found:?}");
                if found[1] {
                    self.sandbox.call(&["branch", "rename", &name, BRANCH]).ok();
                }
                found[1]
            }
            "snapshot create" => self.listed().contains(&name),
            "snapshot rm" => !self.listed().contains(goal.as_ref().unwrap_or(&name)),
            "gc" => done.code() == 0,
            _ => false,
        };
        let made_branch = matches!(what, "branch create" | "rm") && self.is_branch(&name);
        if made_branch {
            self.pinned(&name, &before, false);
            self.tally.points_checked += 1;
            self.sandbox.call(&["rm", &name]).ok();
        }
        if what == "gc" {
            self.collect_after_all();
        }
        let is_done = match what {
            "restore" => self.settle_restore(&before, &after, done.code() == 0),
            _ => {
                self.settle_snapshots(&before, is_done.then_some(goal).flatten());
                self.parts = self.pinned(BRANCH, &before, false);
                is_done
            }
        };
        assert!(
            is_done || done.code() != 0,
            "said to be done: {}",
            done.report()
        );
        self.count(what, is_done);
    }

    /// What a killed collection has left, the next one finishes; no snapshot has lost anything by it.
    fn collect_after_all(&mut self) {
        self.sandbox.call(&["gc"]).ok();
        self.fsck();
        let left = self.sandbox.call(&["gc", "--dry-run", "--json"]).ok();
        let left: serde_json::Value = serde_json::from_slice(&left.stdout).expect("JSON");
        assert_eq!(left["removed"], serde_json::json!([]), "{left:#}");
        for (name, parts) in self.snapshots.clone() {
            self.look_at_snapshot(&name, &parts, true);
        }
    }

    fn any_snapshot(&mut self) -> Option<(String, Vec<Part>)> {
        let at = self.chance.below(self.snapshots.len().max(1) as u64) as usize;
        let found = self.snapshots.iter().nth(at)?;
        Some((found.0.clone(), found.1.clone()))
    }

    /// Starts a command and kills it, if it is not done before.
    fn call_and_kill(&mut self, what: &'static str, args: &[String]) -> Done {
        let run = self.sandbox.start(args);
        let most = [20, 80, 250][self.chance.below(3) as usize];
        self.moment(most);
        run.signal(Signal::SIGKILL);
        let done = run.wait();
        match done.status.code() {
            None => *self.tally.kills.entry(what).or_default() += 1,
            Some(code) => assert_eq!(code, 0, "{}", done.report()),
        }
        self.sandbox.assert_quiet();
        done
    }

    /// The snapshots must be those that are known, but for `gone`; a new one holds `parts`.
    fn settle_snapshots(&mut self, parts: &[Part], gone: Option<String>) {
        if let Some(gone) = gone {
            self.snapshots.remove(&gone);
        }
        let listed = self.listed();
        for name in self.snapshots.keys() {
            assert!(listed.contains(name), "snapshot {name} is gone: {listed:?}");
        }
        for name in listed {
            if !self.snapshots.contains_key(&name) {
                self.look_at_snapshot(&name, parts, false);
            }
        }
    }

    /// The branch holds either what it held or what the snapshot holds. What it held is made a
    /// snapshot first, which a kill may leave alone.
    fn settle_restore(&mut self, before: &[Part], after: &[Part], surely: bool) -> bool {
        self.settle_snapshots(before, None);
        // All of it: the two may differ in little.
        if !surely && let Ok(found) = self.holds(BRANCH, None, before, true) {
            self.parts = found;
            return false;
        }
        self.parts = self.pinned(BRANCH, after, true);
        true
    }
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}
