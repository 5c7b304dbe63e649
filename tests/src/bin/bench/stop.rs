//! Ctrl-C and SIGTERM: told to the runner, which then takes everything down in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::Fallible;

static STOPPED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on these signals end nothing by themselves. Children get them as usual.
pub fn watch() -> Fallible<()> {
    let flag = STOPPED.get_or_init(Arc::default);
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(())
}

/// Whether there was one.
pub fn is_stopped() -> bool {
    STOPPED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// An error once there was one.
pub fn check() -> Fallible<()> {
    match is_stopped() {
        false => Ok(()),
        true => Err("stopped by a signal".into()),
    }
}
