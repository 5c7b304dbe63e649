//! The clock that stamps inodes.
//!
//! Object files are stamped by the host kernel, everything else by us. Both must agree, or a build
//! tool sees a later file as older. So the kernel makes our stamps too, on a file in memory that
//! only this clock knows, just looked at: since 6.13 that makes it a stamp as fine as the clock, and
//! none that the kernel puts on any file afterwards is earlier. (Multigrain timestamps; a finer clock
//! of our own would run ahead of the objects' ticks.) An older kernel stamps by the tick, objects
//! and this file alike. And no stamp is behind one that was already seen on an object or handed out.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::fs::{MemfdFlags, Timespec, Timestamps, UTIME_NOW};

use crate::core::types::Time;

const NSEC_PER_SEC: i64 = 1_000_000_000;

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
        let kernel_ns = self.kernel_ns().unwrap_or_else(|| {
            let t = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
            t.tv_sec * NSEC_PER_SEC + t.tv_nsec
        });
        let before = self.floor_ns.load(Ordering::Relaxed);
        // A clock set back by hours is the administrator's doing, not granularity: follow it.
        let ns = if before - kernel_ns > NSEC_PER_SEC {
            kernel_ns
        } else {
            before.max(kernel_ns)
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
