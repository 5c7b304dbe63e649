//! The FUSE side: everything that knows the kernel's protocol, and the only users of `fuser`.
//!
//! `transport` has what requests and answers are to the rest; `device` (reads of /dev/fuse) and `ring`
//! (io_uring) bring and take them in the form that `wire` knows, and `session` negotiates with the kernel, by
//! fuser, and chooses. `adapter` turns one request
//! into one call of the core by one of the ways in `calls` (`opening`, `listing` and `xattr` have
//! families of their own; `regime` says whether the kernel
//! tells of opens, and `unopened` does what else is to be done if not), `shared` does so for a mount of several branches, `convert` maps the two sides' types, `backing` keeps what passthrough
//! needs, `stale` takes back what the kernel was told, `mapped` knows what it must not keep, `keepers` which listings it gathers,
//! `fresh` tells it what the host has changed,
//! `awake` keeps CPUs from halting meanwhile, `workers` runs what would block a reader. Nothing here decides what a branch answers, and
//! nothing here touches the mount from a thread that serves it.

mod adapter;
mod awake;
mod backing;
mod calls;
mod convert;
mod device;
mod fresh;
mod keepers;
mod listing;
mod mapped;
mod opening;
mod regime;
mod request;
mod ring;
mod session;
mod shared;
mod stale;
mod sys;
mod transport;
mod unopened;
mod wire;
mod workers;
mod xattr;

pub use awake::{Asleep, keeps_awake};
pub use convert::OneUser;
pub use regime::Regime;
pub use session::{BadKnob, Face, FuseSession, Options};
