//! A shared mount, transport free: one tree of nodes that shows several branches, to each caller his.
//!
//! `nodes` says which node stands for what on which branch, `route` which branch a caller sees, `ops`
//! and `names` are the operations. Every check of permissions is `core::access::Checked`'s: a kernel
//! that keeps one set of attributes for a directory of several branches cannot make it.
//!
//! Lock order: the members, then the nodes; neither is held while a core is called.

mod names;
mod nodes;
mod ops;
mod route;

pub use nodes::NodeId;
pub use ops::DirHandle;
pub use route::{Member, Shared};
