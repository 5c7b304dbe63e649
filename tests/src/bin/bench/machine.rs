//! What figures depend on besides the programs: the machine, its kernel's settings, its load.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// As found when the run began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub cpus: usize,
    pub cpu: String,
    pub memory_mib: u64,
    /// Whether the kernel lets FUSE use io_uring.
    pub fuse_io_uring: String,
    /// How long an idle virtual CPU polls before it halts.
    pub guest_halt_poll_ns: String,
}

impl Machine {
    pub fn here() -> Self {
        let line = |path: &str| {
            let text = fs::read_to_string(path).ok()?;
            Some(text.trim().to_owned())
        };
        let field = |path: &str, name: &str| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let absent = || "not there".to_owned();
        Machine {
            kernel: line("/proc/sys/kernel/osrelease").unwrap_or_else(absent),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(absent),
            memory_mib: meminfo_mib("MemTotal:"),
            fuse_io_uring: line("/sys/module/fuse/parameters/enable_uring").unwrap_or_else(absent),
            guest_halt_poll_ns: line("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
                .unwrap_or_else(absent),
        }
    }
}

/// A figure of proc(5), meminfo; 0 where there is none.
pub fn meminfo_mib(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kib.unwrap_or_default() / 1024
}

/// Time that all CPUs together have spent, in ticks. Source: proc(5), stat.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    total: u64,
    steal: u64,
}

impl Ticks {
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let figures: Vec<u64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|figure| figure.parse().ok())
            .collect();
        Ticks {
            total: figures.iter().take(8).sum(),
            steal: figures.get(7).copied().unwrap_or_default(),
        }
    }

    /// The share of the time since then, in percent, that the hypervisor gave to others.
    pub fn stolen_percent(&self) -> f64 {
        let now = Ticks::now();
        let total = now.total.saturating_sub(self.total).max(1);
        now.steal.saturating_sub(self.steal) as f64 * 100.0 / total as f64
    }
}

/// Processes that could run, on average over the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().and_then(|load| load.parse().ok());
    first.unwrap_or_default()
}

/// What a program says of its version: the line that names it.
pub fn version(program: &Path) -> Option<String> {
    let out = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let name = program.file_name()?.to_string_lossy().into_owned();
    let line = said.lines().find(|line| line.contains(&name));
    line.or(said.lines().next())
        .map(|line| line.trim().to_owned())
}

/// The time, in UTC.
pub fn now() -> String {
    let out = Command::new("date").args(["-u", "+%F %T UTC"]).output();
    let said = out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    said.unwrap_or_default()
}
