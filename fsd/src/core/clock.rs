//! The clock that stamps inodes.
//!
//! Object files are stamped by the host kernel, everything else by us. Both must agree, or a build
//! tool sees a later file as older. So the kernel makes our stamps too, on a file in memory that
//! only this clock knows, just looked at: since 6.13 that makes it a stamp as fine as the clock, and
//! none that the kernel puts on any file afterwards is earlier. (Multigrain timestamps; a finer clock
//! of our own would run ahead of the objects' ticks.) An older kernel stamps by the tick, objects
//! and this file alike. And no stamp is behind one that was already seen on an object, but where the
//! host's clock was set back: then stamps go on from there, as the host's own do. Waiting for the clock
//! to come by again would give all changes until then one stamp.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::fs::{MemfdFlags, Timespec, Timestamps, UTIME_NOW};

use crate::core::types::Time;

const NSEC_PER_SEC: i64 = 1_000_000_000;
/// The kernel's clock is behind what it has put on a file by a tick at the most: 10 ms, twice that for
/// good measure. What is further behind was set back.
const TICKS_NS: i64 = 20_000_000;

/// The kernel's clock for files, with a floor.
#[derive(Debug)]
pub struct StampClock {
    /// Nanoseconds since the epoch; no stamp handed out is below it.
    floor_ns: AtomicI64,
    /// What the kernel stamps for us; without it the clock is as coarse as the tick.
    stamped: Option<OwnedFd>,
}

impl Default for StampClock {
    fn default() -> Self {
        Self {
            floor_ns: AtomicI64::new(0),
            stamped: rustix::fs::memfd_create("agentfs clock", MemfdFlags::CLOEXEC).ok(),
        }
    }
}

impl StampClock {
    /// The stamp for a change made now.
    pub fn now(&self) -> Time {
        self.stamp(|| {
            self.kernel_ns().unwrap_or_else(|| {
                let t = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
                t.tv_sec * NSEC_PER_SEC + t.tv_nsec
            })
        })
    }

    fn stamp(&self, kernel_ns: impl FnOnce() -> i64) -> Time {
        // Looked at first: whatever the floor rises to meanwhile is no older than what the kernel says.
        let floor_ns = self.floor_ns.load(Ordering::Relaxed);
        let kernel_ns = kernel_ns();
        let is_set_back = floor_ns.saturating_sub(kernel_ns) > TICKS_NS;
        if is_set_back {
            let _ = self.floor_ns.compare_exchange(
                floor_ns,
                kernel_ns,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        let ns = match is_set_back {
            true => kernel_ns,
            false => floor_ns.max(kernel_ns),
        };
        Time {
            sec: ns.div_euclid(NSEC_PER_SEC),
            nsec: ns.rem_euclid(NSEC_PER_SEC) as u32,
        }
    }

    /// The stamp of a change that the kernel itself makes now.
    fn kernel_ns(&self) -> Option<i64> {
        let file = self.stamped.as_ref()?;
        // Whoever has looked at a stamp is to see that the next change is a later one.
        rustix::fs::fstat(file).ok()?;
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let both = Timestamps {
            last_access: now,
            last_modification: now,
        };
        rustix::fs::futimens(file, &both).ok()?;
        let stat = rustix::fs::fstat(file).ok()?;
        i64::try_from(stat.st_ctime_nsec)
            .ok()
            .map(|nsec| stat.st_ctime * NSEC_PER_SEC + nsec)
    }

    /// Raises the floor to a stamp that the host's kernel put on an object.
    pub fn saw(&self, stamp: Time) {
        let ns = stamp
            .sec
            .saturating_mul(NSEC_PER_SEC)
            .saturating_add(i64::from(stamp.nsec));
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        // Only what the host stamped just now counts: utimens may have put any date on a file.
        if ns <= t.tv_sec * NSEC_PER_SEC + t.tv_nsec {
            self.floor_ns.fetch_max(ns, Ordering::Relaxed);
        }
    }
}

/// The later of two stamps of a file, of which `stamp` is of its newest change. A `known` one that is
/// still to come is from before the clock was set back, and gives way: the change must show.
pub fn later(known: Time, stamp: Time, now: Time) -> Time {
    match known > now {
        true => stamp,
        false => known.max(stamp),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn on_disk(file: &std::fs::File) -> Time {
        let meta = file.metadata().expect("stat");
        Time {
            sec: meta.mtime(),
            nsec: meta.mtime_nsec() as u32,
        }
    }

    fn ns(time: Time) -> i64 {
        time.sec * NSEC_PER_SEC + i64::from(time.nsec)
    }

    #[test]
    fn stamps_and_those_of_files_are_in_the_order_of_the_changes() {
        let clock = StampClock::default();
        let dir = tempfile::tempdir().expect("tempdir");
        for i in 0..500 {
            let before = clock.now();
            let mut file = std::fs::File::create(dir.path().join(i.to_string())).expect("create");
            file.write_all(b"x").expect("write");
            let stamp = on_disk(&file);
            clock.saw(stamp);
            let after = clock.now();
            assert!(ns(before) <= ns(stamp), "{before:?} then {stamp:?}");
            assert!(ns(stamp) <= ns(after), "{stamp:?} then {after:?}");
        }
    }

    const DAY_NS: i64 = 86_400 * NSEC_PER_SEC;

    #[test]
    fn a_clock_that_was_set_back_goes_on_from_there() {
        for back_ns in [NSEC_PER_SEC / 2, 2 * NSEC_PER_SEC, DAY_NS] {
            let clock = StampClock::default();
            let start = 100 * DAY_NS;
            clock.floor_ns.store(start, Ordering::Relaxed);
            // All along until it has passed the time that it was set back at.
            let steps = (0..=300).map(|i| start - back_ns + back_ns / 200 * i);
            let stamps: Vec<i64> = steps.clone().map(|at| ns(clock.stamp(|| at))).collect();
            let true_ones: Vec<i64> = steps.collect();
            assert_eq!(stamps, true_ones, "each change has a stamp of its own");
        }
    }

    #[test]
    fn what_is_late_by_a_tick_is_held_at_the_floor() {
        let clock = StampClock::default();
        let at = 100 * DAY_NS;
        clock.floor_ns.store(at, Ordering::Relaxed);
        assert_eq!(ns(clock.stamp(|| at - TICKS_NS / 2)), at);
        assert_eq!(ns(clock.stamp(|| at + 1)), at + 1);
    }

    #[test]
    fn a_change_shows_though_the_stamp_before_it_is_still_to_come() {
        let at = |sec| Time { sec, nsec: 5 };
        assert_eq!(later(at(10), at(20), at(30)), at(20));
        assert_eq!(later(at(20), at(10), at(30)), at(20));
        assert_eq!(later(at(90), at(10), at(30)), at(10));
    }

    #[test]
    fn stamps_are_as_fine_as_those_of_a_file_that_is_looked_at() {
        let clock = StampClock::default();
        let file = tempfile::tempfile().expect("tempfile");
        let mut host_moved = 0;
        let mut moved = 0;
        for _ in 0..100 {
            let before = on_disk(&file);
            (&file).write_all(b"x").expect("write");
            host_moved += u32::from(on_disk(&file) != before);
            moved += u32::from(clock.now() != clock.now());
        }
        // All or, before Linux 6.13, the few that a tick fell between.
        assert!(host_moved < 100 || moved == 100, "{moved} of {host_moved}");
    }
}
