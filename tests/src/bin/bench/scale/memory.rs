//! What processes take of memory and, when they have nothing to do, of the CPUs; as the kernel counts it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use agentfs_tests::wait;
use serde::Serialize;

use crate::Fallible;
use crate::session::Session;

/// How long idle daemons are watched.
const IDLE: Duration = Duration::from_secs(5);

/// Resident, and with what is shared divided among those who share it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    pub rss_mib: f64,
    pub pss_mib: f64,
}

impl Memory {
    /// Of one process. Source: proc(5), smaps_rollup.
    pub fn of(pid: i32) -> Fallible<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let mib = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let kib: Option<f64> = line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok());
            kib.unwrap_or_default() / 1024.0
        };
        Ok(Memory {
            rss_mib: mib("Rss:"),
            pss_mib: mib("Pss:"),
        })
    }

    fn plus(self, other: Memory) -> Memory {
        Memory {
            rss_mib: self.rss_mib + other.rss_mib,
            pss_mib: self.pss_mib + other.pss_mib,
        }
    }

    fn divided(self, by: usize) -> Memory {
        Memory {
            rss_mib: self.rss_mib / by.max(1) as f64,
            pss_mib: self.pss_mib / by.max(1) as f64,
        }
    }
}

/// The daemon that serves the store below `dir`.
pub fn daemon_of(dir: &Path) -> Fallible<i32> {
    let store = dir.join("store");
    let found = agentfs_tests::leak::processes_of("none", &store);
    let daemon = found.iter().find(|process| process.name == "agentfs-fsd");
    let daemon = daemon.ok_or_else(|| format!("no daemon serves {}", store.display()))?;
    Ok(daemon.pid)
}

/// Of the daemons, and of all processes of a branch but the command itself; each on average.
pub fn of_branches(sessions: &[Session]) -> Fallible<(Memory, Memory)> {
    let children = children();
    let (mut daemons, mut branches) = (Memory::default(), Memory::default());
    for session in sessions {
        let daemon = Memory::of(daemon_of(&session.dir)?)?;
        daemons = daemons.plus(daemon);
        branches = branches.plus(daemon);
        let mut todo = vec![session.worker.pid().cast_signed()];
        while let Some(pid) = todo.pop() {
            todo.extend(children.get(&pid).into_iter().flatten());
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            // The command is the bench's own worker; the daemon is counted.
            if name.trim() != "agentfs-test-be" && name.trim() != "agentfs-fsd" {
                // One that has ended, and waits to be reaped, has no memory.
                branches = branches.plus(Memory::of(pid).unwrap_or_default());
            }
        }
    }
    Ok((
        daemons.divided(sessions.len()),
        branches.divided(sessions.len()),
    ))
}

/// CPU time of all the daemons together while nobody asks them anything, in milliseconds a second.
pub fn idle_cpu(sessions: &[Session]) -> Fallible<f64> {
    let mut daemons = Vec::new();
    for session in sessions {
        daemons.push(daemon_of(&session.dir)?);
    }
    let spent = || daemons.iter().map(|pid| cpu_ns(*pid)).sum::<u64>();
    let (start, before) = (Instant::now(), spent());
    wait::pause(IDLE);
    let ms = spent().saturating_sub(before) as f64 / 1e6;
    Ok(ms / start.elapsed().as_secs_f64())
}

/// CPU time of all threads of a process. Source: Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat.
pub fn cpu_ns(pid: i32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    threads
        .flatten()
        .filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        })
        .sum()
}

/// Pids by their parents.
fn children() -> HashMap<i32, Vec<i32>> {
    let mut found: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // "pid (name) state ppid ..": the name may hold anything, also a bracket.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            found.entry(parent).or_default().push(pid);
        }
    }
    found
}
