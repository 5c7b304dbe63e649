//! Facts about processes, read from procfs: when one started, which groups it has.
//!
//! A leaf. A pid alone never names a process here: the start time goes with it, and both are read
//! through one directory handle, so that a reused pid cannot lend its groups to a dead process.

use std::io;

use procfs::ProcError as Source;
use procfs::process::Process;

/// Why a process could not be described.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// There is no such process, or no longer.
    #[error("no process {0}")]
    Gone(u32),
    /// The pid belongs to another process than the one meant.
    #[error("pid {pid} started at tick {found}, not {expected}: it was reused")]
    Reused {
        /// The pid.
        pid: u32,
        /// The start time the caller knows, in clock ticks since boot.
        expected: u64,
        /// The start time found.
        found: u64,
    },
    /// procfs did not answer.
    #[error("/proc/{pid}: {source}")]
    Io {
        /// The pid.
        pid: u32,
        /// The cause.
        source: io::Error,
    },
}

/// When process (or thread) `pid` started, in clock ticks since boot: field 22 of its `stat`.
pub fn start_ticks(pid: u32) -> Result<u64, ProcError> {
    ticks_of(pid, &open(pid)?)
}

/// The supplementary groups of `pid`, provided it is the process that started at `start_ticks`.
///
/// Errors: `Gone` when it ended, `Reused` when the pid is another process now.
pub fn groups(pid: u32, start_ticks: u64) -> Result<Vec<u32>, ProcError> {
    let process = open(pid)?;
    let found = ticks_of(pid, &process)?;
    if found != start_ticks {
        return Err(ProcError::Reused {
            pid,
            expected: start_ticks,
            found,
        });
    }
    let status = process.status().map_err(|e| wrap(pid, e))?;
    Ok(status.groups)
}

/// Whether `pid` holds the capability with this number, in effect and in its own user namespace.
pub fn has_capability(pid: u32, number: u8) -> Result<bool, ProcError> {
    let status = open(pid)?.status().map_err(|e| wrap(pid, e))?;
    Ok(status.capeff & 1 << number != 0)
}

/// Whether `pid` is in the user namespace of this process; not, if that cannot be seen.
pub fn shares_user_namespace(pid: u32) -> bool {
    let namespace = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/user"));
    match (namespace("self"), namespace(&pid.to_string())) {
        (Ok(own), Ok(other)) => own == other,
        _ => false,
    }
}

/// What is known of a process by one of its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its pid.
    pub process: u32,
    /// The pid of its parent; 0: none that can be seen.
    pub parent: u32,
    /// Start time of the process, in clock ticks since boot.
    pub start_ticks: u64,
    /// Its real user.
    pub uid: u32,
    /// The user whose rights it has.
    pub effective_uid: u32,
}

/// The process that the thread `id` belongs to.
///
/// Errors: `Gone`, `Io`.
pub fn facts(id: u32) -> Result<Facts, ProcError> {
    let status = open(id)?.status().map_err(|e| wrap(id, e))?;
    let process = status.tgid.cast_unsigned();
    Ok(Facts {
        process,
        parent: status.ppid.cast_unsigned(),
        start_ticks: start_ticks(process)?,
        uid: status.ruid,
        effective_uid: status.euid,
    })
}

/// The threads of a process; none, once it is gone.
pub fn threads(process: u32) -> Vec<u32> {
    numbers(&format!("/proc/{process}/task"))
}

/// The pids of all processes that can be seen.
pub fn all() -> Vec<u32> {
    numbers("/proc")
}

/// The entries of a directory that are numbers.
fn numbers(dir: &str) -> Vec<u32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The time since boot, in the clock ticks of [`start_ticks`].
pub fn now_ticks() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ticks = procfs::ticks_per_second();
    now.tv_sec.cast_unsigned() * ticks + now.tv_nsec.cast_unsigned() * ticks / 1_000_000_000
}

/// Whether the process that started at `start_ticks` still has `pid`.
pub fn is_alive(pid: u32, start_ticks: u64) -> bool {
    self::start_ticks(pid).is_ok_and(|found| found == start_ticks)
}

fn open(pid: u32) -> Result<Process, ProcError> {
    let signed = i32::try_from(pid).map_err(|_| ProcError::Gone(pid))?;
    Process::new(signed).map_err(|e| wrap(pid, e))
}

fn ticks_of(pid: u32, process: &Process) -> Result<u64, ProcError> {
    Ok(process.stat().map_err(|e| wrap(pid, e))?.starttime)
}

/// A process that ends while it is read answers ESRCH; before that, ENOENT.
fn wrap(pid: u32, error: Source) -> ProcError {
    match error {
        Source::NotFound(_) => ProcError::Gone(pid),
        Source::Io(source, _) if source.raw_os_error() == Some(nix::libc::ESRCH) => {
            ProcError::Gone(pid)
        }
        Source::Io(source, _) => ProcError::Io { pid, source },
        Source::PermissionDenied(_) => ProcError::Io {
            pid,
            source: io::ErrorKind::PermissionDenied.into(),
        },
        other => ProcError::Io {
            pid,
            source: io::Error::other(other.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_this_process() {
        let pid = std::process::id();
        let ticks = start_ticks(pid).expect("own start time");
        assert!(ticks > 0);
        let mut found = groups(pid, ticks).expect("own groups");
        let mut own: Vec<u32> = nix::unistd::getgroups()
            .expect("getgroups")
            .iter()
            .map(|g| g.as_raw())
            .collect();
        found.sort_unstable();
        own.sort_unstable();
        assert_eq!(found, own);
        assert!(is_alive(pid, ticks));
        assert!(shares_user_namespace(pid));
    }

    #[test]
    fn a_thread_leads_to_its_process() {
        let pid = std::process::id();
        let (id, found) = std::thread::spawn(|| {
            let id = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            (id, facts(id).expect("facts of a thread"))
        })
        .join()
        .expect("join");
        assert_ne!(id, pid);
        assert_eq!(
            (found.process, found.start_ticks),
            (pid, start_ticks(pid).expect("start"))
        );
        assert_eq!(found.parent, std::os::unix::process::parent_id());
        assert!(found.start_ticks <= now_ticks());
        assert!(threads(pid).contains(&pid) && all().contains(&pid));
    }

    #[test]
    fn refuses_a_reused_pid() {
        let pid = std::process::id();
        let ticks = start_ticks(pid).expect("own start time");
        assert!(matches!(
            groups(pid, ticks + 1),
            Err(ProcError::Reused { .. })
        ));
        assert!(!is_alive(pid, ticks + 1));
    }

    #[test]
    fn tells_an_ended_process() {
        let mut child = std::process::Command::new("true")
            .spawn()
            .expect("spawn true");
        let pid = child.id();
        child.wait().expect("wait");
        assert!(matches!(start_ticks(pid), Err(ProcError::Gone(_))));
        assert!(matches!(start_ticks(u32::MAX), Err(ProcError::Gone(_))));
        assert!(!shares_user_namespace(pid));
    }
}
