//! Stops the processes of a run for the moment in which its state is frozen.
//!
//! Only what programs write past the daemon needs it. Who is stopped cannot tell afterwards, but by
//! the time: parents are stopped before their children and go on after them, so that nobody is
//! there to see a child stopped. Nobody who was stopped already is made to go on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use agentfs_fsd::sys::{RESUMED, queue_signal};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::{ProcState, Stat, all_processes};

/// How long processes may take to stop. One that waits for a disk takes that long.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// Passes over the table of processes, for those that fork meanwhile.
const PASSES: u32 = 20;

/// The processes that are stopped; they go on when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Paused {
    /// Parents first.
    pids: Vec<Pid>,
}

/// A run that would not stand still.
#[derive(Debug, thiserror::Error)]
pub(super) enum PauseError {
    /// One of its processes did not stop in time.
    #[error("process {0} of the run did not stop within {PATIENCE:?}; try again")]
    Running(i32),
    /// It forks faster than it can be stopped.
    #[error("the run starts processes faster than they can be stopped; try again")]
    Forking,
    /// The table of processes cannot be read.
    #[error("read the table of processes: {0}")]
    Procfs(#[from] procfs::ProcError),
}

impl Paused {
    /// Stops every process of the runs that `bound` belong to, their init processes included.
    pub(super) fn runs_of(bound: &[u32]) -> Result<Self, PauseError> {
        let mut paused = Self::default();
        for _ in 0..PASSES {
            let found = paused.stop_more(bound)?;
            if found == 0 {
                return Ok(paused);
            }
        }
        Err(PauseError::Forking)
    }

    /// Stops what is not stopped yet, and waits until it is; says how many that were.
    fn stop_more(&mut self, bound: &[u32]) -> Result<usize, PauseError> {
        let table = table()?;
        let mut found = 0;
        for pid in family(&table, bound) {
            let here = Pid::from_raw(pid);
            if self.pids.contains(&here) || are_all_still(pid) {
                continue;
            }
            // One that has ended meanwhile writes no more.
            if kill(here, Signal::SIGSTOP).is_ok() {
                self.pids.push(here);
                found += 1;
                await_stop(pid)?;
            }
        }
        Ok(found)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        for pid in self.pids.iter().rev() {
            // By its value a run's init tells it from one that is meant for the command.
            let _ = queue_signal(*pid, Signal::SIGCONT, RESUMED);
        }
    }
}

/// Processes by pid.
type Table = HashMap<i32, Stat>;

fn table() -> Result<Table, PauseError> {
    let stats = all_processes()?.filter_map(|process| process.ok()?.stat().ok());
    Ok(stats.map(|stat| (stat.pid, stat)).collect())
}

/// The processes of the runs that `bound` belong to, parents before children.
fn family(table: &Table, bound: &[u32]) -> Vec<i32> {
    let roots = bound.iter().filter_map(|pid| i32::try_from(*pid).ok());
    let mut out: Vec<i32> = Vec::new();
    for pid in roots {
        // All of a pid namespace are children of its init. Without one it is no run of ours.
        if let Some(init) = init_of(table, pid)
            && !out.contains(&init)
        {
            out.push(init);
        }
    }
    let mut at = 0;
    while let Some(parent) = out.get(at).copied() {
        let children = table.values().filter(|stat| stat.ppid == parent);
        let new: Vec<i32> = children
            .map(|stat| stat.pid)
            .filter(|pid| !out.contains(pid))
            .collect();
        out.extend(new);
        at += 1;
    }
    out
}

/// The init process of the pid namespace that `pid` is in, if that is not ours.
fn init_of(table: &Table, pid: i32) -> Option<i32> {
    let mut at = pid;
    // No family is deeper than the table is long.
    for _ in 0..table.len() {
        if is_init(at) {
            return Some(at);
        }
        at = table.get(&at)?.ppid;
    }
    None
}

/// Whether a process is pid 1 of a namespace below ours: the last number of `NSpid` in its status.
fn is_init(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    pids.is_some_and(|pids| {
        let pids: Vec<&str> = pids.split_ascii_whitespace().collect();
        pids.len() > 1 && pids.last() == Some(&"1")
    })
}

/// Whether no thread of a process can run: each is stopped, traced to a stop, or dead. The first
/// one may have ended long before the others.
fn are_all_still(pid: i32) -> bool {
    let Ok(tasks) = procfs::process::Process::new(pid).and_then(|p| p.tasks()) else {
        return true;
    };
    let is_still = |stat: Stat| {
        matches!(
            stat.state(),
            Ok(ProcState::Stopped | ProcState::Tracing | ProcState::Zombie | ProcState::Dead)
        )
    };
    // One that cannot be looked at has ended.
    tasks
        .filter_map(|task| task.ok()?.stat().ok())
        .all(is_still)
}

fn await_stop(pid: i32) -> Result<(), PauseError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if are_all_still(pid) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(PauseError::Running(pid));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
