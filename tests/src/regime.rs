//! Which promises a test may hold the mount to: where files are used without being opened (the default
//! but for root, or `AGENTFS_FUSE_REGIME=zero-open`), some are not made. fsd/SEMANTICS.md says so in
//! words.

/// The variable, as the daemon reads it.
pub const VARIABLE: &str = "AGENTFS_FUSE_REGIME";

/// What zero-open does not promise, and why. Each is left out by one test, which says so.
const NOT_IN_ZERO_OPEN: &[(&str, &str)] = &[
    (
        "S2: a file that grew is at once opened as long as it is",
        "nobody is asked when it is opened, so the kernel goes by the size that it was told of last",
    ),
    (
        "S2: an open file outlives its name on the host",
        "nobody is told who has it open, so it may not be open here either",
    ),
    (
        "S22: a chown of nothing by who may write is refused",
        "it is the kernel's word for a write by an open file, too, and who has one is not known",
    ),
];

/// Whether the runs and mounts of this test run are such: by what is asked for, else by who runs it.
pub fn is_zero_open() -> bool {
    match std::env::var(VARIABLE).as_deref() {
        Ok("zero-open") => true,
        Ok("passthrough") => false,
        _ => !crate::need::is_root(),
    }
}

/// Whether the mount promises this; if not, says so. A test that gets `false` leaves that part out.
///
/// Panics: `what` is in no list, so that none is left out by mistake.
#[must_use]
pub fn promises(what: &str) -> bool {
    let found = NOT_IN_ZERO_OPEN.iter().find(|(name, _)| *name == what);
    let (_, why) = found.unwrap_or_else(|| panic!("promises({what:?}): no such promise"));
    if !is_zero_open() {
        return true;
    }
    eprintln!("skipped: zero-open does not promise {what}: {why}");
    false
}
