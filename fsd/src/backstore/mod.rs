//! What is on disk: branches, layers, journals, tables and objects. FORMAT.md gives the bytes.
//!
//! [`Store`] is the way in. All access to the disk goes through [`media`].

mod branch;
mod codec;
mod delta;
mod dir;
mod error;
mod extents;
mod journal;
mod layer;
pub mod media;
mod meta;
mod objects;
mod stack;
mod store;
mod table;

pub use branch::{BranchReader, LiveBranch, SyncHandle};
pub use dir::DirMedia;
pub use error::StoreError;
pub use media::{ObjectStat, SeekFor};
pub use meta::{BranchInfo, NewBranch, RunExit, RunRecord};
pub use objects::{CopySource, ObjectFile};
pub use stack::Records;
pub use store::{Listed, Store};
