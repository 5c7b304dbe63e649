//! [`Bar`]: one line on a terminal that says how far long work is; nothing anywhere else.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::review::table;

/// Time between two pictures.
const EVERY: Duration = Duration::from_millis(100);
/// Work that is over before that shows no bar.
const QUIET: Duration = Duration::from_millis(200);

/// What `done` and `total` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things.
    Pieces,
}

/// The line. It goes when this does.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    unit: Unit,
    begun: Instant,
    last: Option<Instant>,
}

impl Bar {
    /// Nothing to see yet.
    pub fn new(unit: Unit) -> Self {
        // Hidden where stderr is no terminal, or a dumb one.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Self {
            bar,
            unit,
            begun: Instant::now(),
            last: None,
        }
    }

    /// So much of `what` is done; `total` 0: nobody knows of how much.
    pub fn show(&mut self, what: &str, done: u64, total: u64) {
        let is_early = self.begun.elapsed() < QUIET;
        if self.bar.is_hidden() || is_early || self.last.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let (template, words) = match (total, self.unit) {
            (0, _) if done == 0 => ("{msg}", what.to_owned()),
            (0, Unit::Bytes) => ("{msg}", format!("{what}: {}", table::size(done))),
            (0, Unit::Pieces) => ("{msg}", format!("{what}: {done}")),
            (_, Unit::Bytes) => (
                "{prefix}: [{bar:30}] {msg}",
                format!("{} of {}", table::size(done), table::size(total)),
            ),
            (_, Unit::Pieces) => ("{prefix}: [{bar:30}] {msg}", format!("{done} of {total}")),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("#>."));
        }
        self.bar.set_prefix(what.to_owned());
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(words);
        self.bar.force_draw();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
