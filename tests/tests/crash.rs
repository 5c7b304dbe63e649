//! SIGKILL at random moments of real loads on real mounts: of the daemon, of the monitor, of the whole
//! run, and of commands on branches. Whatever was acknowledged is there afterwards, of what was under
//! way all or nothing, and every snapshot holds what it held.
//!
//! AGENTFS_CRASH_KILLS: how many; AGENTFS_CRASH_LANES: how many stores at once; AGENTFS_CRASH_LOGS:
//! where the figures and the store of a round that failed go. `just crash` sets them.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agentfs_tests::chance::Chance;
use agentfs_tests::crash::{Epoch, Tally};
use agentfs_tests::need::{is_root, need, need_run};

/// Rounds that one store goes through.
const ROUNDS: u64 = 10;

fn knob(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => default,
    }
}

#[test]
fn all_that_was_acknowledged_outlives_any_kill() {
    if !need_run() || !need("program:python3") {
        return;
    }
    let logs = std::env::var_os("AGENTFS_CRASH_LOGS").map(PathBuf::from);
    let wanted = knob("AGENTFS_CRASH_KILLS", if is_root() { 50 } else { 25 });
    // A long run has time for a journal that grows until it becomes a table.
    let longest = if logs.is_some() { 6_000 } else { 2_000 };
    let first_seed = Chance::seed_told();
    let (kills, epochs) = (AtomicU64::new(0), AtomicU64::new(0));
    let has_failed = AtomicBool::new(false);
    let total = Mutex::new(Tally::default());
    let lane = || {
        while kills.load(Ordering::SeqCst) < wanted && !has_failed.load(Ordering::SeqCst) {
            let seed = match epochs.fetch_add(1, Ordering::SeqCst) {
                0 => first_seed,
                n => Chance::from(first_seed.wrapping_add(n)).below(u64::MAX),
            };
            let failed = OnPanic(&has_failed);
            let mut epoch = Epoch::new(seed, ROUNDS, longest, logs.clone());
            for _ in 0..ROUNDS {
                let before = epoch.tally.all_kills();
                epoch.round();
                let new = epoch.tally.all_kills() - before;
                if kills.fetch_add(new, Ordering::SeqCst) + new >= wanted {
                    break;
                }
            }
            let tally = epoch.end();
            drop(failed);
            let mut total = total.lock().expect("no lane has failed");
            total.add(&tally);
            if logs.is_some() {
                eprintln!("{} of {wanted} kills", total.all_kills());
            }
        }
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..knob("AGENTFS_CRASH_LANES", 2))
            .map(|_| scope.spawn(lane))
            .collect();
        for lane in lanes {
            if let Err(panic) = lane.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let total = total.into_inner().expect("no lane has failed");
    println!("{}", serde_json::to_string(&total).expect("JSON"));
    if let Some(logs) = logs {
        let json = serde_json::to_vec_pretty(&total).expect("JSON");
        std::fs::write(logs.join("figures.json"), json).expect("the figures");
    }
    assert!(total.all_kills() >= wanted && total.operations > wanted);
}

/// Tells the other lanes.
struct OnPanic<'a>(&'a AtomicBool);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}
