//! What is on disk: branches, layers, journals, tables and objects. FORMAT.md gives the bytes.

mod error;
pub use error::StoreError;
