//! Review of a branch: patch, counts, tables, JSON. All output of a branch's names passes `style`.
//!
//! ```text
//! open (store -> records, base, changes) -> plan (what goes where) -> patch | stat | json | table
//! ```
//! Read-only; runs no program, least of all one that the branch could configure.

pub mod attributes;
pub mod convert;
pub mod git;
pub mod hunk;
pub mod json;
pub mod loss;
pub mod open;
pub mod patch;
pub mod plan;
pub mod stat;
pub mod style;
pub mod table;

pub use open::{Review, Summary, summary};

#[cfg(test)]
mod tests;
