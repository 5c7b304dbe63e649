//! The clock that stamps inodes.
//!
//! Object files are stamped by the host kernel, everything else by us. Both must agree, or a build
//! tool sees a later file as older: so this is the kernel's coarse clock (what file systems use),
//! never behind a stamp that was already seen on an object or handed out.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::core::types::Time;

const NSEC_PER_SEC: i64 = 1_000_000_000;

/// A coarse real-time clock with a floor.
#[derive(Debug, Default)]
pub struct StampClock {
    /// Nanoseconds since the epoch; no stamp handed out is below it.
    floor_ns: AtomicI64,
}

impl StampClock {
    /// The stamp for a change made now.
    pub fn now(&self) -> Time {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let coarse_ns = t.tv_sec * NSEC_PER_SEC + t.tv_nsec;
        let before = self.floor_ns.load(Ordering::Relaxed);
        // A clock set back by hours is the administrator's doing, not granularity: follow it.
        let ns = if before - coarse_ns > NSEC_PER_SEC {
            coarse_ns
        } else {
            before.max(coarse_ns)
        };
        Time {
            sec: ns.div_euclid(NSEC_PER_SEC),
            nsec: ns.rem_euclid(NSEC_PER_SEC) as u32,
        }
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
