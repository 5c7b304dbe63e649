//! When a row did its work: by the clock that perf can stamp its records with too, so that what was
//! recorded can be cut to what was measured.

use std::ops::AddAssign;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// perf's `--clockid` for [`Watch`].
pub const CLOCK: &str = "CLOCK_MONOTONIC";

/// Something that is being timed.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    from_ns: u64,
}

/// From when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub from_ns: u64,
    pub to_ns: u64,
}

/// What was timed: one span, or several where something lay in between.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    pub spans: Vec<Span>,
}

impl Watch {
    pub fn start() -> Self {
        Self { from_ns: now_ns() }
    }

    /// The time since.
    pub fn elapsed(self) -> Timing {
        Timing {
            spans: vec![Span {
                from_ns: self.from_ns,
                to_ns: now_ns(),
            }],
        }
    }
}

impl Timing {
    /// All of it.
    pub fn total(&self) -> Duration {
        let long = |span: &Span| span.to_ns.saturating_sub(span.from_ns);
        Duration::from_nanos(self.spans.iter().map(long).sum())
    }
}

impl AddAssign for Timing {
    fn add_assign(&mut self, other: Self) {
        self.spans.extend(other.spans);
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
