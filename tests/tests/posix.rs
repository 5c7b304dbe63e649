//! What a local file system gives, on a branch at a path of the host (`agentfs mount`): compared
//! with a plain directory wherever that has an answer. The recipes run it by module.

#[path = "posix/basic.rs"]
mod basic;
#[path = "posix/listings.rs"]
mod listings;
#[path = "posix/negative.rs"]
mod negative;
#[path = "posix/overlay.rs"]
mod overlay;
#[path = "posix/owners.rs"]
mod owners;
#[path = "posix/races.rs"]
mod races;
#[path = "posix/space.rs"]
mod space;
