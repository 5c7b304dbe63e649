//! What a test must not leave behind: processes and mounts. `scripts/leaks.sh` asks the same of
//! the whole suite, and of loop devices and temporary files too.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::sandbox::MARKER;

/// A live process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// Its name, as the kernel has it.
    pub name: String,
    /// Its command line, words split by spaces.
    pub command: String,
}

/// All live processes (zombies are not) that carry `marker` in their environment or name `path`
/// in their command line; this one excepted.
pub fn processes_of(marker: &str, path: &Path) -> Vec<Process> {
    let marked = format!("{MARKER}={marker}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        if pid == std::process::id().cast_signed() {
            continue;
        }
        // A process may end at any moment: what cannot be read is gone or nobody's business.
        let proc = entry.path();
        let Ok(status) = fs::read_to_string(proc.join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let line = status
                .lines()
                .find(|l| l.starts_with(name))
                .unwrap_or_default();
            line[name.len().min(line.len())..].trim().to_owned()
        };
        if field("State:").starts_with(['Z', 'X']) {
            continue;
        }
        let command = fs::read(proc.join("cmdline")).unwrap_or_default();
        let environ = fs::read(proc.join("environ")).unwrap_or_default();
        let is_marked = environ.split(|b| *b == 0).any(|v| v == marked.as_bytes());
        if is_marked || contains(&command, path.as_os_str().as_bytes()) {
            found.push(Process {
                pid,
                name: field("Name:"),
                command: String::from_utf8_lossy(&command).replace('\0', " "),
            });
        }
    }
    found
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|w| w == needle)
}

/// Mount points of this namespace at or below `dir`, and FUSE mounts of agentfs anywhere.
pub fn mounts_below(dir: &Path) -> Vec<String> {
    // Another test's mount may have a name that is not UTF-8.
    let table = fs::read("/proc/self/mountinfo").expect("mountinfo");
    let table = String::from_utf8_lossy(&table);
    let dir = dir.to_str().expect("a UTF-8 sandbox path");
    table
        .lines()
        .filter(|line| {
            let point = line.split(' ').nth(4).unwrap_or_default();
            point == dir || point.starts_with(&format!("{dir}/"))
        })
        .map(str::to_owned)
        .collect()
}
