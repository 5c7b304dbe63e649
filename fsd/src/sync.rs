//! The crate's locks. Poison is decided here, once: a thread that panicked while it changed shared
//! state leaves nothing that could be trusted, so the process ends and recovery starts afresh.

pub use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

fn poisoned() -> ! {
    tracing::error!("a thread panicked while it held a lock; the branch stops here and recovers");
    std::process::abort()
}

/// Locks `mutex`.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| poisoned())
}

/// Locks `lock` for reading.
pub fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|_| poisoned())
}

/// Locks `lock` for writing.
pub fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|_| poisoned())
}
