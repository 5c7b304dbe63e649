//! The process chain: monitor, set-up child, init, command.
//!
//! `clone` makes processes, `guard` ends one, `msg` are the words between them, `child` sets up the view and leaves,
//! `init` is pid 1 inside, `monitor` waits outside, `tty` hands the terminal back and forth.

pub mod child;
pub mod clone;
pub mod guard;
pub mod init;
pub mod monitor;
pub mod msg;
pub mod tty;
