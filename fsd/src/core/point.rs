//! [`Point`]: a branch as it is, or a snapshot of it; written `BRANCH` or `BRANCH@SNAPSHOT`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::core::types::{BranchName, BranchNameError};

/// The name of a snapshot, unique in its branch. As a branch's: 1 to 64 letters, digits, `.`, `_`
/// and `-`, the first a letter or digit. It is a path component nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(BranchName);

impl SnapshotName {
    /// Checks `name` against the rule.
    pub fn new(name: &str) -> Result<Self, PointError> {
        match BranchName::new(name) {
            Ok(name) => Ok(Self(name)),
            Err(BranchNameError(name)) => Err(PointError::Snapshot(name)),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = PointError;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> String {
        name.0.into()
    }
}

impl std::str::FromStr for SnapshotName {
    type Err = PointError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// A state that a branch can be made from, or that can be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// The branch.
    pub branch: BranchName,
    /// One of its snapshots; `None`: as it is now.
    pub snapshot: Option<SnapshotName>,
}

/// A text that names no point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointError {
    /// The part before `@`.
    #[error(transparent)]
    Branch(#[from] BranchNameError),
    /// The part behind it.
    #[error(
        "invalid snapshot name '{}': use 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit",
        .0.escape_default()
    )]
    Snapshot(String),
}

impl From<BranchName> for Point {
    fn from(branch: BranchName) -> Self {
        Self {
            branch,
            snapshot: None,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.branch),
            None => self.branch.fmt(f),
        }
    }
}

impl std::str::FromStr for Point {
    type Err = PointError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (branch, snapshot) = match text.split_once('@') {
            Some((branch, snapshot)) => (branch, Some(SnapshotName::new(snapshot)?)),
            None => (text, None),
        };
        Ok(Self {
            branch: BranchName::new(branch)?,
            snapshot,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_written_as_they_are_read() {
        for text in ["feature", "feature@1", "a.b-c_d@before-restore"] {
            assert_eq!(text.parse::<Point>().unwrap().to_string(), text);
        }
        for bad in ["", "@", "a@", "@a", "a@b@c", "a@../b", "a b@c", "a@-b"] {
            assert!(bad.parse::<Point>().is_err(), "{bad}");
        }
    }
}
