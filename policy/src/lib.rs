//! What an agentfs run may read, write and hide.
//!
//! Text in, values out: parses policy files ([`profile`]), merges the sources ([`resolve`]), answers
//! which rule decides over a path and where it was written ([`rule`]), and filters an environment
//! ([`env`]). Does no I/O and knows no system calls; the launcher reads files and enforces.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod builtin;
pub mod env;
mod error;
pub mod limits;
pub mod profile;
pub mod resolve;
pub mod rule;

pub use env::EnvPolicy;
pub use error::PolicyError;
pub use limits::Disk;
pub use profile::{Context, Profile};
pub use resolve::{Policy, merge};
pub use rule::{Access, Origin, Rule, Source};
