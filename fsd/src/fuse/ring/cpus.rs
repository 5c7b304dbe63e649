//! Which thread serves which of the kernel's queues. There is one queue for each CPU that the
//! machine may ever have, and a request goes to the queue of the CPU it is made on.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Most threads: with more CPUs than this, each serves several.
const MAX_THREADS: usize = 64;
/// Requests that a queue can have under way. Those that wait for a disk leave their thread to the
/// others, but keep their slot.
const DEPTH: usize = 16;
/// The same for CPUs that are off, or that this process may not use: their work comes seldom.
const DEPTH_ELSEWHERE: usize = 4;

/// What one thread serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    /// The CPU it stays on.
    pub(super) cpu: Option<usize>,
    /// The queue of each of its slots.
    pub(super) slots: Vec<u16>,
}

/// How many queues the kernel has for a mount.
pub(super) fn queues() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    count(&text).ok_or_else(|| io::Error::other(format!("possible CPUs: {}", text.trim())))
}

/// Counts the members of a list such as `0-3,8-11`.
fn count(list: &str) -> Option<usize> {
    let mut members = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        members += last.checked_sub(first)? + 1;
    }
    Some(members)
}

/// The CPUs that this process may use.
pub(super) fn usable() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect()
}

/// Keeps the calling thread on `cpu`.
pub(super) fn stay_on(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// A thread for each usable CPU, on it; the other queues are shared out among them.
pub(super) fn lanes(queues: usize, usable: &[usize]) -> Vec<Lane> {
    let own = usable.iter().filter(|cpu| **cpu < queues).take(MAX_THREADS);
    let mut lanes: Vec<Lane> = own
        .map(|cpu| Lane {
            cpu: Some(*cpu),
            slots: vec![*cpu as u16; DEPTH],
        })
        .collect();
    if lanes.is_empty() {
        lanes.push(Lane {
            cpu: None,
            slots: Vec::new(),
        });
    }
    let served: Vec<usize> = lanes.iter().filter_map(|lane| lane.cpu).collect();
    let rest = (0..queues).filter(|queue| !served.contains(queue));
    let threads = lanes.len();
    for (n, queue) in rest.enumerate() {
        let depth = match usable.contains(&queue) {
            true => DEPTH,
            false => DEPTH_ELSEWHERE,
        };
        lanes[n % threads].slots.extend(vec![queue as u16; depth]);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        let cases = [("0\n", 1), ("0-1\n", 2), ("0-3,8-11,64\n", 9)];
        for (list, members) in cases {
            assert_eq!(count(list), Some(members), "{list}");
        }
        for bad in ["", "a", "3-1", "0-", "-"] {
            assert_eq!(count(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_queue_is_served_and_each_by_one_thread() {
        let many: Vec<usize> = (0..200).collect();
        let cases: [(usize, &[usize], usize); 6] = [
            (2, &[0, 1], 2),
            (240, &[0, 1], 2),
            (4, &[3], 1),
            (2, &[], 1),
            (200, &many, MAX_THREADS),
            // A CPU beyond the last queue.
            (2, &[0, 5], 1),
        ];
        for (queues, usable, threads) in cases {
            let lanes = lanes(queues, usable);
            assert_eq!(lanes.len(), threads);
            for queue in 0..queues as u16 {
                let serving = lanes.iter().filter(|lane| lane.slots.contains(&queue));
                assert_eq!(serving.count(), 1, "queue {queue} of {queues}");
            }
            for lane in lanes.iter().filter(|lane| lane.cpu.is_some()) {
                assert_eq!(lane.cpu, lane.slots.first().map(|queue| *queue as usize));
            }
        }
    }
}
