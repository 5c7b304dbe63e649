//! Harness of the agentfs suites: fixtures, guards, manifests, a pty driver, the reference model.
//!
//! Nothing here decides what agentfs must do; the suites under `tests/` do. Helpers panic with a
//! readable message, since a panic is how a test reports.

pub mod base;
pub mod bins;
pub mod chance;
pub mod cmd;
pub mod crash;
pub mod driver;
pub mod gate;
pub mod leak;
pub mod load;
pub mod manifest;
pub mod model;
pub mod mounted;
pub mod need;
pub mod ops;
pub mod pty;
pub mod realfs;
pub mod regime;
pub mod sandbox;
pub mod seeds;
pub mod several;
pub mod shell;
pub mod wait;

pub use cmd::Done;
pub use manifest::Manifest;
pub use mounted::Mounted;
pub use need::need;
pub use sandbox::Sandbox;
pub use several::Several;
pub use shell::Shell;
