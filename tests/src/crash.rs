//! Kills in the middle of real loads, and whether all that was acknowledged is there afterwards.
//!
//! [`work`] is what happens inside a branch: writers that note each operation outside of it, and the
//! check of what they left. [`Epoch`] is a store over many rounds: loads, snapshots meanwhile, a kill,
//! and the look at what is there.

mod epoch;
mod round;
mod tools;
pub mod work;

pub use epoch::{Epoch, Tally};
