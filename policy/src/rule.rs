//! One rule: a path, what may be done below it, and where that was written.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// What a run may do at a path and below it, until a more specific rule says otherwise.
///
/// Ordered from tightest to widest; what no rule names is [`Access::ReadOnly`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Not there: looks empty or absent.
    Hide,
    /// The host's files, read-only.
    ReadOnly,
    /// The branch's files, read-only.
    DenyWrite,
    /// The branch's files; writes go to the branch.
    Cow,
    /// The host's files; writes go to the host.
    SharedRw,
}

impl Access {
    /// Every access, tightest first.
    pub const ALL: [Access; 5] = [
        Access::Hide,
        Access::ReadOnly,
        Access::DenyWrite,
        Access::Cow,
        Access::SharedRw,
    ];

    /// The key of `[filesystem]` that grants it.
    pub fn key(self) -> &'static str {
        match self {
            Access::Hide => "hide",
            Access::ReadOnly => "read_only",
            Access::DenyWrite => "deny_write",
            Access::Cow => "cow",
            Access::SharedRw => "shared_rw",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// Which of the sources a rule comes from. Later ones win; [`Source::Repository`] only tightens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Compiled in.
    Builtin,
    /// The user's own file.
    User,
    /// A file in the workspace, written by whoever writes there.
    Repository,
    /// The command line.
    Flag,
}

/// Where a rule was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Which source.
    pub source: Source,
    /// The file's name or the flag, for people.
    pub name: String,
    /// Line in the file, from 1; `None` for flags.
    pub line: Option<usize>,
}

impl Origin {
    /// A flag of the command line.
    pub fn flag(name: &str) -> Self {
        Self {
            source: Source::Flag,
            name: name.to_owned(),
            line: None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.line {
            // Nobody can look at the lines of what is compiled in.
            Some(line) if self.source != Source::Builtin => write!(f, ":{line}"),
            _ => Ok(()),
        }
    }
}

/// A path and what may be done below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Absolute, without `.`, `..` or a trailing slash.
    pub path: PathBuf,
    /// What may be done.
    pub access: Access,
    /// Where it was written.
    pub origin: Origin,
    /// Whether the source names this very path: not by way of `$WORKSPACE`, which is wherever the
    /// caller happens to stand, nor of a symbolic link, which anybody may have made.
    pub named: bool,
}
