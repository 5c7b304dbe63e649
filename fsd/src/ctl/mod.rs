//! The control socket: message types, framing and the client (built without fuser), and the
//! daemon's server.
//!
//! `wire` moves one message with its descriptors, `client` is what the launcher calls, `server`
//! runs in the daemon and hands each request to a [`server::Service`].

pub mod client;
mod error;
pub mod msg;
#[cfg(feature = "fuse")]
pub mod server;
pub mod wire;

pub use error::CtlError;
