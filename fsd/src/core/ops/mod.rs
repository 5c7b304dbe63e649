//! The operations of a branch, one family per file: `impl FsCore` blocks.

mod attr;
mod create;
mod data;
pub mod freeze;
pub mod host;
mod implicit;
mod link;
mod lookup;
pub mod open;
pub(super) mod readdir;
pub mod rename;
mod sync;
mod unlink;
mod xattr;
