//! [`Timings`]: how long each step of a run took, for `--timings`.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The steps so far, in order. Each lasts from the end of the one before it, so that nothing between
/// two of them goes uncounted: what the set-up does side by side shows where it is waited for.
#[derive(Debug)]
pub struct Timings {
    last: RefCell<Instant>,
    steps: RefCell<Vec<(&'static str, Duration)>>,
}

/// The step that is the caller's own: all others are ours.
pub const COMMAND: &str = "command";

impl Timings {
    /// The first step begins now.
    pub fn begin() -> Self {
        Self {
            last: RefCell::new(Instant::now()),
            steps: RefCell::default(),
        }
    }

    /// `step` has ended. One that was there before is added to: a start that had to be tried again.
    pub fn done(&self, step: &'static str) {
        let now = Instant::now();
        let took = now.duration_since(self.last.replace(now));
        let mut steps = self.steps.borrow_mut();
        match steps.iter_mut().find(|(name, _)| *name == step) {
            Some((_, sum)) => *sum += took,
            None => steps.push((step, took)),
        }
    }

    /// What all steps but the command took.
    fn ours(&self) -> Duration {
        let steps = self.steps.borrow();
        let ours = steps.iter().filter(|(name, _)| *name != COMMAND);
        ours.map(|(_, took)| *took).sum()
    }

    /// One line for each step, and one for the sum of ours; milliseconds.
    pub fn lines(&self) -> String {
        let line = |name: &str, took: Duration| format!("  {name:<8} {:>8.2} ms\n", millis(took));
        let steps = self.steps.borrow();
        let mut text: String = steps.iter().map(|(name, took)| line(name, *took)).collect();
        text.push_str(&line("agentfs", self.ours()));
        format!("agentfs: the run by step (the last line is all but the command)\n{text}")
    }

    /// The same as an object: steps in order, milliseconds.
    pub fn json(&self) -> Value {
        let steps = self.steps.borrow();
        let step = |(name, took): &(&str, Duration)| json!({ "step": name, "ms": millis(*took) });
        json!({
            "steps": steps.iter().map(step).collect::<Vec<_>>(),
            "agentfs_ms": millis(self.ours()),
        })
    }
}

/// Milliseconds, to the microsecond.
fn millis(took: Duration) -> f64 {
    took.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_stay_in_order_and_add_up_without_the_command() {
        let timings = Timings::begin();
        for step in ["plan", COMMAND, "plan", "close"] {
            timings.done(step);
        }
        let shown = timings.json();
        let names: Vec<_> = shown["steps"].as_array().expect("a list").iter().collect();
        let name = |at: usize| names[at]["step"].as_str().expect("a name");
        assert_eq!([name(0), name(1), name(2)], ["plan", COMMAND, "close"]);
        assert_eq!(names.len(), 3);
        let sum = timings.steps.borrow();
        assert_eq!(timings.ours(), sum[0].1 + sum[2].1);
        assert_eq!(timings.lines().lines().count(), 5);
    }
}
