//! What a branch lost: the file `lost.json` in its directory, written by a repair before it gives
//! anything up. Whoever would take the branch's word for what it deleted asks here first.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::media::read_small;
use super::meta;
use super::store::{Store, branch_dir};
use crate::core::types::{BranchName, Ino};
use crate::escaped;

/// The file of a branch that says what it lost.
pub(super) const LOST_FILE: &str = "lost.json";
/// Newest version of it.
pub(super) const LOST_VERSION: u32 = 1;
/// What is lost with the file itself.
pub(super) const LIST_ITSELF: &str = "the list of what the branch had lost";
/// Things listed; what comes after them is only counted.
const LISTED_MAX: usize = 1000;

/// One thing that a branch lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Its path in the branch, as far as that is known.
    #[serde(with = "escaped::bytes")]
    pub path: Option<Vec<u8>>,
    /// Its inode; with no path either, the loss is of something that only `what` tells.
    #[serde(with = "number")]
    pub ino: Option<Ino>,
    /// What of it was lost, and what was done.
    pub what: String,
    /// It is a directory that the repair made again: what may be wrong are its attributes.
    pub remade: bool,
}

impl Loss {
    /// A loss of which only this is known.
    pub(super) fn of(what: impl Into<String>) -> Self {
        Self {
            path: None,
            ino: None,
            what: what.into(),
            remade: false,
        }
    }
}

/// All that a branch lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The first of them.
    pub listed: Vec<Loss>,
    /// How many there are besides.
    pub unlisted: u64,
}

impl Losses {
    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.unlisted == 0
    }
}

/// `lost.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LostFile {
    version: u32,
    lost: Vec<Loss>,
    unlisted: u64,
}

/// An inode as digits in a string: JSON numbers do not hold it.
mod number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::core::types::Ino;

    pub fn serialize<S: Serializer>(ino: &Option<Ino>, to: S) -> Result<S::Ok, S::Error> {
        ino.map(|ino| ino.0.to_string()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Ino>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map(Ino).map_err(D::Error::custom))
            .transpose()
    }
}

fn lost_path(name: &BranchName) -> PathBuf {
    branch_dir(name).join(LOST_FILE)
}

impl Store {
    /// What the branch lost in repairs, or one that it was made from; nothing, as a rule.
    ///
    /// Errors: `Damaged`, `NewerFormat`, `Io`; then it lost something, and it is not known what.
    pub fn losses(&self, name: &BranchName) -> Result<Losses, StoreError> {
        let path = lost_path(name);
        let bytes = match read_small(&*self.media, &path, meta::LIMIT_BYTES) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Losses::default()),
            other => other.map_err(|e| self.io("read", &path, e))?,
        };
        let file: LostFile = meta::unseal(&self.media.describe(&path), &bytes, LOST_VERSION)?;
        Ok(Losses {
            listed: file.lost,
            unlisted: file.unlisted,
        })
    }

    /// Notes more losses, durably. The caller holds the branch, or it is not published yet.
    pub(super) fn add_losses(&self, name: &BranchName, more: &[Loss]) -> Result<(), StoreError> {
        let mut all = match self.losses(name) {
            Err(StoreError::Damaged { .. }) => Losses {
                listed: vec![Loss::of(LIST_ITSELF)],
                unlisted: 0,
            },
            other => other?,
        };
        for loss in more {
            if all.listed.contains(loss) {
                continue;
            }
            match all.listed.len() < LISTED_MAX {
                true => all.listed.push(loss.clone()),
                false => all.unlisted += 1,
            }
        }
        self.replace(&lost_path(name), &seal(&all)?, true)
    }
}

/// The bytes of the file that says so.
pub(super) fn seal(losses: &Losses) -> Result<Vec<u8>, StoreError> {
    meta::seal(&LostFile {
        version: LOST_VERSION,
        lost: losses.listed.clone(),
        unlisted: losses.unlisted,
    })
}
