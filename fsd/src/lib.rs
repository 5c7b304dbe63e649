//! The agentfs branch core, its store and its control messages.
//!
//! Layers, each importing only what stands right of it: `fuse, ctl -> shared -> core -> backstore ->
//! sys`. `bind` says which process sees which branch of a shared mount.
//! `core::types` and `core::record` are leaves that all of them share;
//! so are `escaped`, `proc` and `sync`.
#![warn(missing_docs)]

pub mod backstore;
pub mod bind;
pub mod core;
pub mod ctl;
#[cfg(feature = "fuse")]
pub mod errno;
pub mod escaped;
#[cfg(feature = "fuse")]
pub mod fuse;
pub mod proc;
pub mod review;
#[cfg(feature = "fuse")]
pub mod shared;
pub mod sync;
pub mod sys;
