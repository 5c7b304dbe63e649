//! [`Processes`]: who runs on this branch, with the supplementary groups procfs tells.
//!
//! Keyed by (pid, start time): a pid alone may be somebody else's by now.

use std::collections::HashMap;

use crate::core::FsError;
use crate::proc;
use crate::sync::Mutex;

/// Registered processes. Rank 3.
#[derive(Debug, Default)]
pub struct Processes {
    groups: Mutex<HashMap<(u32, u64), Vec<u32>>>,
}

/// Registered processes kept at most before the dead ones are dropped.
const SWEEP_AT: usize = 1024;

impl Processes {
    /// Registers the process and returns its supplementary groups.
    ///
    /// Errors: `UnknownCaller` if no such process runs, or it started at another time.
    pub fn register(&self, pid: u32, start_ticks: u64) -> Result<Vec<u32>, FsError> {
        let groups = groups_of(pid, start_ticks)?;
        let mut table = crate::sync::lock(&self.groups);
        if table.len() >= SWEEP_AT {
            table.retain(|(pid, start), _| start_of(*pid) == Some(*start));
        }
        table.insert((pid, start_ticks), groups.clone());
        Ok(groups)
    }

    /// Registers a process that has these supplementary groups, for where procfs does not show it.
    pub fn register_with_groups(&self, pid: u32, start_ticks: u64, groups: Vec<u32>) {
        crate::sync::lock(&self.groups).insert((pid, start_ticks), groups);
    }

    /// The supplementary groups of a caller, as procfs says now: a process may give groups back
    /// between two requests, and what hinges on them is seldom asked. Of one that procfs does not
    /// show, those it was registered with.
    ///
    /// Errors: `UnknownCaller`.
    pub fn groups(&self, pid: u32) -> Result<Vec<u32>, FsError> {
        match start_of(pid) {
            Some(start) => groups_of(pid, start),
            None => self.registered(pid).ok_or(FsError::UnknownCaller(pid)),
        }
    }

    fn registered(&self, pid: u32) -> Option<Vec<u32>> {
        let table = crate::sync::lock(&self.groups);
        let of_pid = table.iter().filter(|((known, _), _)| *known == pid);
        // The newest, of several that had the number.
        of_pid
            .max_by_key(|((_, start), _)| *start)
            .map(|(_, groups)| groups.clone())
    }

    /// Registered pids that still run.
    pub fn live(&self) -> Vec<u32> {
        let mut table = crate::sync::lock(&self.groups);
        table.retain(|(pid, start), _| start_of(*pid) == Some(*start));
        table.keys().map(|(pid, _)| *pid).collect()
    }
}

fn groups_of(pid: u32, start_ticks: u64) -> Result<Vec<u32>, FsError> {
    proc::groups(pid, start_ticks).map_err(|error| {
        tracing::debug!(%error, "cannot tell who asks");
        FsError::UnknownCaller(pid)
    })
}

/// Start time in clock ticks since boot.
fn start_of(pid: u32) -> Option<u64> {
    proc::start_ticks(pid).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_pid_and_start_time() {
        let table = Processes::default();
        let pid = std::process::id();
        let start = start_of(pid).unwrap();
        assert!(table.register(pid, start).is_ok());
        assert_eq!(table.live(), vec![pid]);
        assert!(matches!(
            table.register(pid, start + 1),
            Err(FsError::UnknownCaller(_))
        ));
        assert!(matches!(table.groups(0), Err(FsError::UnknownCaller(0))));
    }

    #[test]
    fn groups_given_count_where_procfs_shows_nothing() {
        let table = Processes::default();
        // No number that Linux gives out.
        let unseen = u32::MAX - 1;
        table.register_with_groups(unseen, 7, vec![4, 5]);
        table.register_with_groups(unseen, 9, vec![6]);
        assert_eq!(table.groups(unseen).unwrap(), [6]);
        let own = std::process::id();
        table.register_with_groups(own, start_of(own).unwrap(), vec![u32::MAX]);
        assert!(!table.groups(own).unwrap().contains(&u32::MAX));
    }
}
