//! Branches and snapshots as they are given on a command line: `BRANCH`, `BRANCH@SNAPSHOT`.
//!
//! The parsers speak for themselves, because clap's own message shows the value unescaped. Where only a
//! branch will do, a snapshot is known for what it is, and the answer says what does it instead.

use std::ffi::OsStr;
use std::fmt;

use agentfs_fsd::core::point::{Point, PointError, SnapshotName};
use agentfs_fsd::core::types::BranchName;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;

/// What a branch is named for, where a snapshot cannot take its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// To run a command on it, making it when it is new.
    Run,
    /// To run a command on it, if it is there.
    Exec,
    /// To mount it.
    Mount,
    /// To drop it.
    Remove,
    /// To freeze what it holds.
    Freeze,
    /// To list its snapshots.
    ListSnapshots,
    /// To make it.
    Make,
    /// To give it another name.
    Rename,
    /// As that other name.
    NewName,
}

/// A snapshot was named where a branch is needed.
#[derive(Debug, thiserror::Error)]
#[error("{point} is a snapshot: {}\n  fix: {}", .wanted.why(), .wanted.fix(point))]
pub struct NoBranchButSnapshot {
    point: Point,
    wanted: For,
}

impl For {
    fn why(self) -> &'static str {
        match self {
            For::Run | For::Exec => "it is frozen, and a command runs on a branch",
            For::Mount => "it is frozen, and what is mounted is a branch",
            For::Remove => "this drops whole branches",
            For::Freeze => "it is frozen already",
            For::ListSnapshots => "the snapshots of a branch are listed",
            For::Make | For::NewName => "the name of a branch has no '@'",
            For::Rename => "it keeps its name as long as it is there",
        }
    }

    fn fix(self, point: &Point) -> String {
        let branch = &point.branch;
        match self {
            For::Run | For::Exec => {
                format!(
                    "`agentfs run --from {point} -- CMD` runs it on a new branch of the snapshot"
                )
            }
            For::Mount => {
                format!("`agentfs branch create NEW --from {point}` makes a branch of it to mount")
            }
            For::Remove => format!("`agentfs snapshot rm {point}` drops the snapshot alone"),
            For::Freeze => format!(
                "`agentfs snapshot create {branch}` freezes what the branch holds now, `agentfs \
                 branch create NEW --from {point}` makes a branch of the snapshot"
            ),
            For::ListSnapshots => format!(
                "`agentfs snapshot show {point}` shows this one, `agentfs snapshot list {branch}` all"
            ),
            For::Make | For::Rename => {
                format!("`agentfs branch create NEW --from {point}` makes a branch of it")
            }
            For::NewName => "choose one of letters, digits, '.', '_' and '-'".into(),
        }
    }
}

/// Takes the name of a branch.
#[derive(Clone, Copy, Debug)]
pub struct NameParser(pub For);

impl TypedValueParser for NameParser {
    type Value = BranchName;

    fn parse_ref(
        &self,
        _command: &clap::Command,
        _arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<BranchName, clap::Error> {
        let text = value.to_string_lossy();
        match text.parse::<Point>() {
            Ok(point) if point.snapshot.is_some() => Err(refusal(&NoBranchButSnapshot {
                point,
                wanted: self.0,
            })),
            _ => BranchName::new(&text).map_err(|e| refusal(&e)),
        }
    }
}

/// Takes a branch or a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct PointParser;

impl TypedValueParser for PointParser {
    type Value = Point;

    fn parse_ref(
        &self,
        _command: &clap::Command,
        _arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Point, clap::Error> {
        value.to_string_lossy().parse().map_err(|e| refusal(&e))
    }
}

/// A snapshot of a branch that was named before, alone or written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOf {
    /// The branch, where it is written out.
    pub branch: Option<BranchName>,
    /// The snapshot.
    pub name: SnapshotName,
}

/// Takes a snapshot as `SNAPSHOT` or `BRANCH@SNAPSHOT`.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotParser;

impl TypedValueParser for SnapshotParser {
    type Value = SnapshotOf;

    fn parse_ref(
        &self,
        _command: &clap::Command,
        _arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<SnapshotOf, clap::Error> {
        let text = value.to_string_lossy();
        let parsed = || -> Result<SnapshotOf, PointError> {
            Ok(match text.split_once('@') {
                Some((branch, name)) => SnapshotOf {
                    branch: Some(BranchName::new(branch)?),
                    name: SnapshotName::new(name)?,
                },
                None => SnapshotOf {
                    branch: None,
                    name: SnapshotName::new(&text)?,
                },
            })
        };
        parsed().map_err(|e| refusal(&e))
    }
}

fn refusal(e: &dyn fmt::Display) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{e}\n"))
}
