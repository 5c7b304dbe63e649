//! The control socket: message types (built without fuser) and the daemon's server.

pub mod msg;
