//! What is known of a branch besides its records: the files `branch.json` and `run.json`.
//!
//! Each is one line of JSON with a `version` and one line with the CRC-32C of the first, so that
//! `head -1` gives plain JSON and a flipped bit is seen. Paths and words are [`escaped`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::usage::Limit;
use crate::core::point::{Point, SnapshotName};
use crate::core::record::LayerId;
use crate::core::types::{BranchName, Time};
use crate::escaped;

/// Newest version of `branch.json` and of a branch as a whole.
pub const BRANCH_VERSION: u32 = 3;
/// Newest version of `run.json`.
pub const RUN_VERSION: u32 = 1;
/// No snapshot gets a number from here on by itself.
const NUMBERS_END: u64 = 1 << 40;
/// Largest such file, in bytes.
pub const LIMIT_BYTES: u64 = 16 << 20;

/// A branch, as `ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchInfo {
    /// Its name.
    pub name: BranchName,
    /// Its id: random, never reused, stays when the name changes.
    pub id: u64,
    /// What it was made from; `None`: the base.
    pub parent: Option<Parent>,
    /// When it was made.
    pub created: Time,
    /// The workspace it was made for.
    pub workspace: PathBuf,
    /// The newest run on it.
    pub last_run: Option<RunRecord>,
    /// Its layers, lowest first; the last one is its own.
    pub layers: Vec<LayerId>,
    /// How many of the lowest layers came from what it was made from.
    pub inherited: usize,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// What it may take up.
    pub limit: Limit,
}

impl BranchInfo {
    /// The layers that count as the branch's own: those that it did not begin with, and those that
    /// only its snapshots need; some more than once.
    pub fn own_layers(&self) -> impl Iterator<Item = LayerId> {
        let inherited = &self.layers[..self.inherited.min(self.layers.len())];
        self.all_layers().filter(|id| !inherited.contains(id))
    }

    /// The snapshot of this name.
    pub fn snapshot(&self, name: &SnapshotName) -> Option<&Snapshot> {
        self.snapshots.iter().find(|s| s.name == *name)
    }

    /// Every layer that the branch or one of its snapshots needs; some more than once.
    pub fn all_layers(&self) -> impl Iterator<Item = LayerId> {
        let of_snapshots = self.snapshots.iter().flat_map(|s| &s.layers);
        self.layers.iter().chain(of_snapshots).copied()
    }

    /// The name for a snapshot that was given none: the number after the highest there is, names
    /// that only look like a number aside.
    pub fn next_snapshot_name(&self) -> Result<SnapshotName, StoreError> {
        let numbers = self
            .snapshots
            .iter()
            .map(|s| s.name.as_str().parse::<u64>());
        let numbers = numbers.filter_map(Result::ok);
        let highest = numbers.filter(|n| *n < NUMBERS_END).max().unwrap_or(0);
        SnapshotName::new(&(highest + 1).to_string())
            .map_err(|_| StoreError::Invalid("a number that is no name"))
    }
}

/// What a branch was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The branch or snapshot; the branch by the name it has, or had when it was last known.
    pub point: Point,
    /// The id of the branch; `None` where an older agentfs made this one.
    pub id: Option<u64>,
}

impl std::fmt::Display for Parent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.point.fmt(f)
    }
}

/// A frozen point of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name in the branch.
    pub name: SnapshotName,
    /// Its id: random, never reused.
    pub id: u64,
    /// When it was made.
    pub created: Time,
    /// Its layers, lowest first; none of them is ever written. None: the base as it is.
    pub layers: Vec<LayerId>,
}

/// What the caller knows of a new branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBranch {
    /// The workspace it is made for.
    pub workspace: PathBuf,
}

/// One run on a branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The command and its arguments.
    #[serde(with = "escaped::list")]
    pub command: Vec<OsString>,
    /// Where it was started.
    #[serde(with = "escaped::path")]
    pub cwd: PathBuf,
    /// The pid of the launcher, in the host's pid namespace.
    pub pid: u32,
    /// Its start time in clock ticks since boot.
    pub start_ticks: u64,
    /// When it started.
    pub started: Time,
    /// When it ended; `None` while it runs, or if nobody saw the end.
    pub ended: Option<Time>,
    /// How it ended.
    pub exit: Option<RunExit>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunExit {
    /// With this exit status.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

/// `branch.json`. The name is the directory's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BranchFile {
    pub version: u32,
    pub id: HexId,
    pub parent: Option<ParentFile>,
    pub created: Time,
    #[serde(with = "escaped::path")]
    pub workspace: PathBuf,
    /// Lowest first.
    pub layers: Vec<HexId>,
    /// Since version 2.
    #[serde(default)]
    pub snapshots: Vec<SnapshotFile>,
    /// Since version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherited: Option<usize>,
    /// Since version 3; none: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

/// What a branch was made from, in its `branch.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum ParentFile {
    /// Version 1.
    Name(BranchName),
    /// Since version 2.
    Point {
        branch: BranchName,
        id: Option<HexId>,
        snapshot: Option<SnapshotName>,
    },
}

/// A snapshot in its branch's `branch.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotFile {
    pub name: SnapshotName,
    pub id: HexId,
    pub created: Time,
    pub layers: LayersFile,
}

/// The layers of a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum LayersFile {
    /// That many of the branch's own, from the lowest: as a rule, so that many snapshots stay short.
    First(usize),
    /// These, lowest first: the branch was moved back since.
    These(Vec<HexId>),
}

impl BranchFile {
    /// The file that says what `info` does.
    pub fn of(info: &BranchInfo) -> Self {
        let ids = |layers: &[LayerId]| layers.iter().map(|id| HexId(id.0)).collect();
        let snapshots = info.snapshots.iter().map(|s| SnapshotFile {
            name: s.name.clone(),
            id: HexId(s.id),
            created: s.created,
            layers: match info.layers.starts_with(&s.layers) {
                true => LayersFile::First(s.layers.len()),
                false => LayersFile::These(ids(&s.layers)),
            },
        });
        Self {
            version: BRANCH_VERSION,
            id: HexId(info.id),
            parent: info.parent.as_ref().map(|parent| ParentFile::Point {
                branch: parent.point.branch.clone(),
                id: parent.id.map(HexId),
                snapshot: parent.point.snapshot.clone(),
            }),
            created: info.created,
            workspace: info.workspace.clone(),
            layers: ids(&info.layers),
            snapshots: snapshots.collect(),
            // The last one is always its own, wherever it was moved back to.
            inherited: Some(info.inherited.min(info.layers.len().saturating_sub(1))),
            limit: Some(info.limit).filter(|limit| !limit.is_none()),
        }
    }

    /// What it says of the branch `name`. `Err`: what no such file can say.
    pub fn into_info(
        self,
        name: &BranchName,
        last_run: Option<RunRecord>,
    ) -> Result<BranchInfo, &'static str> {
        let ids = |ids: &[HexId]| ids.iter().map(|id| LayerId(id.0)).collect::<Vec<_>>();
        let layers = ids(&self.layers);
        if layers.is_empty() {
            return Err("names no layer");
        }
        let mut snapshots = Vec::with_capacity(self.snapshots.len());
        for s in self.snapshots {
            let layers = match &s.layers {
                // The last layer is still written to.
                LayersFile::First(n) if *n < layers.len() => layers[..*n].to_vec(),
                LayersFile::First(_) => return Err("a snapshot has more layers than the branch"),
                LayersFile::These(these) => ids(these),
            };
            snapshots.push(Snapshot {
                name: s.name,
                id: s.id.0,
                created: s.created,
                layers,
            });
        }
        let inherited = match (self.inherited, &self.parent) {
            (Some(count), _) => count.min(layers.len() - 1),
            // Before version 3 nobody noted it: what it lacks a count of is not held against it.
            (None, Some(_)) => layers.len() - 1,
            (None, None) => 0,
        };
        let parent = self.parent.map(|parent| match parent {
            ParentFile::Name(branch) => Parent {
                point: branch.into(),
                id: None,
            },
            ParentFile::Point {
                branch,
                id,
                snapshot,
            } => Parent {
                point: Point { branch, snapshot },
                id: id.map(|id| id.0),
            },
        });
        Ok(BranchInfo {
            name: name.clone(),
            id: self.id.0,
            parent,
            created: self.created,
            workspace: self.workspace,
            last_run,
            layers,
            inherited,
            snapshots,
            limit: self.limit.unwrap_or_default(),
        })
    }
}

/// `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunFile {
    pub version: u32,
    pub run: RunRecord,
}

/// 64 bits as 16 hex digits: JSON numbers do not hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct HexId(pub u64);

impl From<HexId> for String {
    fn from(id: HexId) -> String {
        format!("{:016x}", id.0)
    }
}

impl TryFrom<String> for HexId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match u64::from_str_radix(&text, 16) {
            Ok(id) if text.len() == 16 => Ok(HexId(id)),
            _ => Err(format!("'{}' is no id", text.escape_default())),
        }
    }
}

/// The bytes of a metadata file.
pub(super) fn seal<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut out = serde_json::to_vec(value)
        .map_err(|_| StoreError::Invalid("metadata that JSON cannot hold"))?;
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(format!("\n{crc:08x}\n").as_bytes());
    Ok(out)
}

/// Reads the bytes of a metadata file: checksum first, then version, then the rest.
pub(super) fn unseal<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
    known: u32,
) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let damaged = |what: String| StoreError::damaged(path, what);
    let mut lines = bytes.split(|b| *b == b'\n');
    let (json, sum) = match (lines.next(), lines.next(), lines.next(), lines.next()) {
        (Some(json), Some(sum), Some(b""), None) => (json, sum),
        _ => return Err(damaged("is not two lines".into())),
    };
    if sum != format!("{:08x}", crc32c::crc32c(json)).as_bytes() {
        return Err(damaged("bad checksum".into()));
    }
    let Versioned { version: found } =
        serde_json::from_slice(json).map_err(|e| damaged(e.to_string()))?;
    if found > known {
        return Err(StoreError::NewerFormat {
            path: path.into(),
            found,
            known,
        });
    }
    serde_json::from_slice(json).map_err(|e| damaged(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_metadata_file_is_seen() {
        let file = BranchFile {
            version: BRANCH_VERSION,
            id: HexId(7),
            parent: None,
            created: Time { sec: 5, nsec: 6 },
            workspace: "/w".into(),
            layers: vec![HexId(u64::MAX)],
            snapshots: Vec::new(),
            inherited: Some(0),
            limit: None,
        };
        let bytes = seal(&file).unwrap();
        let path = Path::new("branch.json");
        assert!(unseal::<BranchFile>(path, &bytes, BRANCH_VERSION).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let answer = unseal::<BranchFile>(path, &bad, BRANCH_VERSION);
            assert!(
                matches!(answer, Err(StoreError::Damaged { .. })),
                "bit {bit}: {answer:?}"
            );
        }
        for cut in 0..bytes.len() {
            assert!(unseal::<BranchFile>(path, &bytes[..cut], BRANCH_VERSION).is_err());
        }
    }

    #[test]
    fn a_newer_version_with_unknown_fields_is_told_apart() {
        #[derive(Serialize)]
        struct Newer {
            version: u32,
            surprise: bool,
        }
        let bytes = seal(&Newer {
            version: 9,
            surprise: true,
        })
        .unwrap();
        let answer = unseal::<BranchFile>(Path::new("b"), &bytes, BRANCH_VERSION);
        assert!(matches!(
            answer,
            Err(StoreError::NewerFormat {
                found: 9,
                known: BRANCH_VERSION,
                ..
            })
        ));
    }
}
