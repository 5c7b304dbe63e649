//! Waiting for conditions with a deadline. The only place of the suites where time passes idly.

use std::time::{Duration, Instant};

/// How long a condition may take before the test fails. Generous: a loaded CI machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Lets `pause` pass without spinning, by a poll on nothing.
pub fn pause(pause: Duration) {
    let millis = u16::try_from(pause.as_millis()).unwrap_or(u16::MAX);
    let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::from(millis));
}

/// Asks `probe` again and again until it gives a value; panics with `what` after `within`.
pub fn eventually_in<T>(within: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(
            Instant::now() < end,
            "waited {within:?} in vain for: {what}"
        );
        pause(Duration::from_millis(5));
    }
}

/// [`eventually_in`] with [`PATIENCE`].
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    eventually_in(PATIENCE, what, probe)
}

/// Returns when the file system that holds `dir` gives changes another time than all before: its
/// clock goes in steps, and what changes twice within one looks unchanged.
pub fn next_tick(dir: &std::path::Path) {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    let mut probe = tempfile::tempfile_in(dir).expect("a file without a name");
    let mut stamp = || {
        probe.write_all(b".").expect("write");
        let meta = probe.metadata().expect("stat");
        (meta.ctime(), meta.ctime_nsec())
    };
    let first = stamp();
    until("the clock of the file system goes on", || stamp() != first);
}

/// Waits until `probe` holds, with [`PATIENCE`].
pub fn until(what: &str, mut probe: impl FnMut() -> bool) {
    eventually(what, || probe().then_some(()));
}
