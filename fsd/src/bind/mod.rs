//! Which process sees which branch of a shared mount: bindings by process, which children inherit.
//!
//! `connector` hears of every fork from the kernel, `lineage` keeps who descends from whom. A process
//! whose descent from a bound one cannot be shown is not bound. Knows nothing of branches: a view is
//! a number. Called by `shared` for each request and by the control server to bind.

mod connector;
mod lineage;

pub use connector::{Connector, Unheard};
pub use lineage::{BindError, Lineage, ProcessView, Unidentified, View};
