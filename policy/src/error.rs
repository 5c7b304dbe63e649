//! [`PolicyError`]: why a policy cannot be used. Each names the file and the line.

use std::path::PathBuf;

use crate::limits::BadDisk;
use crate::rule::{Access, Origin, Rule};

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
    /// A limit of `[limits]` that this version cannot enforce.
    #[error("{at}: the limit '{limit}' is not enforced by this version of agentfs; remove it")]
    LimitNotEnforced {
        /// Where.
        at: Origin,
        /// The key.
        limit: &'static str,
    },
    /// A limit that is none.
    #[error("{at}: {why}")]
    BadLimit {
        /// Where.
        at: Origin,
        /// What is wrong with it.
        why: BadDisk,
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
    /// The repository's file would show host files whose secrets the branch alone can hide for good.
    #[error(
        "{at}: a repository's policy can only tighten: {want} at {} would show what comes to be at {}, hide by {}",
        .path.display(), .hidden.path.display(), .hidden.origin
    )]
    Unveils {
        /// Where.
        at: Origin,
        /// The path.
        path: PathBuf,
        /// What the repository asks for.
        want: Access,
        /// What hides a path below it.
        hidden: Box<Rule>,
    },
    /// The repository's file wants copies of files that belong to others.
    #[error("{at}: a repository's policy can only tighten: `own` is not for it to say")]
    WidensOwn {
        /// Where.
        at: Origin,
    },
    /// A rule would show a hidden path without naming it.
    #[error(
        "{at}: this is {}, hide by {hidden_by}; only a rule that names that very path can show it as {want}",
        .path.display()
    )]
    Uncovers {
        /// Where.
        at: Origin,
        /// The real path.
        path: PathBuf,
        /// What the rule asks for.
        want: Access,
        /// Where it is hidden.
        hidden_by: String,
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
