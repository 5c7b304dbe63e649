//! The branch core: inode based, transport free. Everything a branch answers is decided here.

pub mod error;
pub mod record;
pub mod types;

pub use error::FsError;
