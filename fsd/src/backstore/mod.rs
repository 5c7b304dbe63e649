//! What is on disk: branches, layers, journals, tables and objects. FORMAT.md gives the bytes.
//!
//! [`Store`] is the way in. All access to the disk goes through [`media`].

mod account;
mod branch;
pub mod check;
mod checkpoint;
mod chore;
mod codec;
mod create;
mod delta;
mod dir;
mod dirty;
mod error;
mod extents;
#[cfg(any(test, feature = "fault"))]
pub mod fault;
mod freeze;
pub mod gc;
mod hidden;
mod journal;
mod layer;
mod load;
mod loss;
mod making;
pub mod media;
#[cfg(any(test, feature = "fault"))]
pub mod mem;
mod merged;
mod meta;
mod objects;
mod pace;
mod reader;
mod remove;
mod room;
mod snapshot;
mod spares;
mod stack;
mod store;
mod table;
mod usage;
mod weigh;
mod within;

pub use account::{Account, BLOCK_BYTES, Reservation};
pub use branch::LiveBranch;
pub use chore::{Chore, ChoreDone};
pub use dir::DirMedia;
pub use dirty::SyncHandle;
pub use error::StoreError;
pub use freeze::{Frozen, Kept, Moved};
pub use hidden::Hidden;
pub use loss::{Loss, Losses};
pub use media::{ObjectStat, SeekFor};
pub use meta::{BranchInfo, NewBranch, Parent, RunExit, RunRecord, Snapshot};
pub use objects::{CopySource, ObjectFile};
pub use reader::BranchReader;
pub use snapshot::Held;
pub use stack::{EachDentry, EachInode, Records};
pub use store::{Listed, Store};
pub use usage::{Limit, Usage};

#[cfg(test)]
mod tests;
