//! [`PolicyError`]: why a policy cannot be used. Each names the file and the line.

use std::path::PathBuf;

use crate::rule::{Access, Origin};

/// Why a policy was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not TOML, a wrong type, or a key that the schema does not know.
    #[error("{at}: {why}")]
    Syntax {
        /// Where.
        at: Origin,
        /// What is wrong; for an unknown key also the known ones.
        why: String,
    },
    /// A section that this version cannot enforce.
    #[error("{at}: section [{section}] is not enforced by this version of agentfs; remove it")]
    NotEnforced {
        /// Where.
        at: Origin,
        /// The section.
        section: &'static str,
    },
    /// A path that is not one.
    #[error("{at}: {path:?} {why}")]
    BadPath {
        /// Where.
        at: Origin,
        /// As written.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two rules of one source on one path.
    #[error("{second}: {} is {second_access} here but {first_access} at {first}", .path.display())]
    Contradiction {
        /// The path.
        path: PathBuf,
        /// The first rule's place.
        first: Origin,
        /// The first rule's access.
        first_access: Access,
        /// The second rule's place.
        second: Origin,
        /// The second rule's access.
        second_access: Access,
    },
    /// The repository's file asks for more than the user's own policy gives.
    #[error(
        "{at}: a repository's policy can only tighten: {} is {have} by {have_from}, this asks for {want}",
        .path.display()
    )]
    Widens {
        /// Where.
        at: Origin,
        /// The path.
        path: PathBuf,
        /// What the other sources give.
        have: Access,
        /// Where they say so.
        have_from: String,
        /// What the repository asks for.
        want: Access,
    },
    /// The repository's file wants to keep or set environment variables.
    #[error("{at}: a repository's policy can only tighten: it may drop variables, not {verb} them")]
    WidensEnv {
        /// Where.
        at: Origin,
        /// `keep` or `set`.
        verb: &'static str,
    },
}
