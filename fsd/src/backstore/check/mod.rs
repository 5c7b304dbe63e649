//! Checking a store: every checksum and every rule that the core and the store keep, read-only;
//! and, when asked to, mending what is broken.
//!
//! [`Store::check`] and [`Store::repair`] are the ways in. `layer` looks at the files of a layer,
//! `records` at what the layers of a branch say together, `objects` at the files that hold bytes,
//! `places` at the store around them,
//! `whereabouts` finds the paths to tell. `repair`, `rebuild`, `mend` and `keep` change things; nothing
//! else here does. A check refuses to look at the base: what the host has now proves nothing about a
//! branch. A repair asks it, through `host`, what to show where the branch lost its own word.

mod host;
mod keep;
mod layer;
mod mend;
mod objects;
mod places;
mod points;
mod rebuild;
mod records;
mod repair;
#[cfg(test)]
mod tests;
mod whereabouts;

use std::path::{Path, PathBuf};

use super::dir::DirMedia;
use super::error::StoreError;
use super::loss::Loss;
use super::store::Store;
use crate::core::point::Point;
use crate::core::types::{BranchName, Ino};

pub use host::{Host, HostObject};
pub use places::LOST_FOUND;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Normal after a crash, or merely good to know. A store with notes only is clean.
    Note,
    /// A rule is broken.
    Damage,
}

/// What rule a finding is about. The words of [`Code::as_str`] stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The file `format` is missing or damaged.
    Format,
    /// The metadata of a branch is missing, damaged or of a newer format.
    BranchMetadata,
    /// The note of the last run is damaged.
    RunNote,
    /// A layer that a branch names is not there.
    LayerMissing,
    /// A table has bad checksums, or records that make no sense.
    Table,
    /// A merged table is damaged, or does not say what its layers do.
    Merged,
    /// What a table's header says does not fit its records.
    TableFacts,
    /// A journal ends in a torn append.
    JournalTail,
    /// A journal is damaged.
    Journal,
    /// A name leads to an inode without a record.
    DanglingName,
    /// Names in something that is no directory any more.
    StrayName,
    /// A name and the record behind it disagree about the type.
    NameKind,
    /// A directory has two names.
    DirectoryNames,
    /// A directory cannot be reached from the root.
    DirectoryLoop,
    /// A record that no name leads to.
    OrphanInode,
    /// A link count that is not the number of names.
    LinkCount,
    /// A record that contradicts itself or its inode number.
    Record,
    /// Extents that reach beyond the file or the object they lie in.
    Extents,
    /// An object that a record needs is not there.
    ObjectMissing,
    /// An object of another length than its record says.
    ObjectSize,
    /// An object with a foreign owner or mode.
    ObjectAccess,
    /// Two records with one object.
    ObjectShared,
    /// An object that no record uses.
    ObjectLeak,
    /// A number that a later file could be given again.
    NumberReuse,
    /// The list of devices contradicts itself or the inode numbers.
    Devices,
    /// What a repair could not save, now or earlier.
    Lost,
    /// The list of what was hidden from the runs of a branch.
    Hidden,
    /// Rubbish of something that was cut short.
    Leftover,
    /// A layer that no branch uses.
    UnusedLayer,
    /// Things kept by an earlier repair or opening.
    Kept,
    /// A part of the check that was left out.
    LeftOut,
    /// The clock was set back since.
    Clock,
    /// Something could not be read.
    Unreadable,
}

impl Code {
    /// The word for it, in a vocabulary that stays.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Format => "format",
            Code::BranchMetadata => "branch-metadata",
            Code::RunNote => "run-note",
            Code::LayerMissing => "layer-missing",
            Code::Table => "table",
            Code::Merged => "merged",
            Code::TableFacts => "table-facts",
            Code::JournalTail => "journal-tail",
            Code::Journal => "journal",
            Code::DanglingName => "dangling-name",
            Code::StrayName => "stray-name",
            Code::NameKind => "name-kind",
            Code::DirectoryNames => "directory-names",
            Code::DirectoryLoop => "directory-loop",
            Code::OrphanInode => "orphan-inode",
            Code::LinkCount => "link-count",
            Code::Record => "record",
            Code::Extents => "extents",
            Code::ObjectMissing => "object-missing",
            Code::ObjectSize => "object-size",
            Code::ObjectAccess => "object-access",
            Code::ObjectShared => "object-shared",
            Code::ObjectLeak => "object-leak",
            Code::NumberReuse => "number-reuse",
            Code::Devices => "devices",
            Code::Lost => "lost",
            Code::Hidden => "hidden",
            Code::Leftover => "leftover",
            Code::UnusedLayer => "unused-layer",
            Code::Kept => "kept",
            Code::LeftOut => "left-out",
            Code::Clock => "clock",
            Code::Unreadable => "unreadable",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub code: Code,
    /// How bad.
    pub level: Level,
    /// The branches it is about; none: the store.
    pub branches: Vec<BranchName>,
    /// The snapshots it is about, where the branches themselves do not show it.
    pub points: Vec<Point>,
    /// The file of the store it is in.
    pub file: Option<PathBuf>,
    /// The path in the branch it is about, as bytes.
    pub place: Option<Vec<u8>>,
    /// The inode it is about.
    pub ino: Option<Ino>,
    /// What is wrong.
    pub what: String,
    /// Whether a repair can mend it.
    pub repairable: bool,
}

impl Finding {
    fn new(code: Code, level: Level, what: impl Into<String>) -> Self {
        Self {
            code,
            level,
            branches: Vec::new(),
            points: Vec::new(),
            file: None,
            place: None,
            ino: None,
            what: what.into(),
            repairable: !matches!(code, Code::Kept | Code::LeftOut | Code::Clock),
        }
    }

    fn damage(code: Code, what: impl Into<String>) -> Self {
        Self::new(code, Level::Damage, what)
    }

    fn note(code: Code, what: impl Into<String>) -> Self {
        Self::new(code, Level::Note, what)
    }

    fn file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    fn ino(mut self, ino: Ino) -> Self {
        self.ino = Some(ino);
        self
    }

    fn branch(mut self, branch: &BranchName) -> Self {
        self.branches = vec![branch.clone()];
        self
    }

    fn point(mut self, point: Point) -> Self {
        self.points.push(point);
        self
    }

    fn beyond_repair(mut self) -> Self {
        self.repairable = false;
        self
    }

    /// What an error says, as a finding.
    fn of_error(code: Code, e: &StoreError) -> Self {
        match e {
            StoreError::Damaged { path, what } => Self::damage(code, what).file(path),
            StoreError::NewerFormat { path, found, known } => Self::damage(
                code,
                format!("has format {found}, this agentfs knows up to {known}"),
            )
            .file(path)
            .beyond_repair(),
            StoreError::Io { op, path, source } => {
                Self::damage(Code::Unreadable, format!("{op}: {source}"))
                    .file(path)
                    .beyond_repair()
            }
            other => Self::damage(Code::Unreadable, other.to_string()).beyond_repair(),
        }
    }
}

/// What was looked at of one branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The branch.
    pub branch: BranchName,
    /// Somebody holds it: what can only be said of an idle branch was left out.
    pub live: bool,
    /// Records of inodes seen.
    pub inodes: u64,
    /// Names seen.
    pub names: u64,
    /// Objects that its records use.
    pub objects: u64,
}

/// One thing that a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The branch; none: the store, or a layer of several branches.
    pub branch: Option<BranchName>,
    /// What was done, on what.
    pub what: String,
}

/// The answer of a check or a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was found; after a repair: before it.
    pub findings: Vec<Finding>,
    /// What a repair did.
    pub repaired: Vec<Repaired>,
    /// What a repair had to leave as it is, and why.
    pub skipped: Vec<Repaired>,
    /// What this repair could not save, by branch.
    pub lost: Vec<(BranchName, Loss)>,
    /// What is left after a repair; as `findings` without one.
    pub left: Vec<Finding>,
    /// What was looked at.
    pub branches: Vec<Checked>,
    /// Bytes of tables and journals whose checksums were verified.
    pub verified_bytes: u64,
}

impl Report {
    /// Whether nothing is damaged (any more).
    pub fn is_clean(&self) -> bool {
        self.left.iter().all(|finding| finding.level == Level::Note)
    }
}

/// Called now and then with what is being done and how much of it: done, total (0: not known).
pub type Progress<'a> = dyn FnMut(&str, u64, u64) + 'a;

impl Store {
    /// The store at `path` for a check: opened whatever state it is in; `None` if there is none.
    ///
    /// Errors: `Io` and `NotWritable`; `Damaged` when the directory holds other things than a store.
    pub fn open_for_check(path: &Path) -> Result<Option<Store>, StoreError> {
        let path = std::path::absolute(path).map_err(|e| StoreError::io("find", path, e))?;
        match DirMedia::open(&path) {
            Ok(media) => Self::for_check(std::sync::Arc::new(media), &path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("open", &path, e)),
        }
    }

    /// Looks at the whole store, or at some branches of it and what they stand on. Changes nothing.
    ///
    /// Errors: `NoBranch`, `NewerFormat` of the store as a whole, `Io` on the store's directories.
    /// Whatever is wrong deeper down is a finding.
    pub fn check(
        &self,
        names: &[BranchName],
        progress: &mut Progress<'_>,
    ) -> Result<Report, StoreError> {
        let mut report = places::Checker::new(self, progress).run(names)?;
        report.left = report.findings.clone();
        Ok(report)
    }

    /// As [`check`](Self::check), then mends what can be mended of branches that nobody holds, and
    /// looks again. What is taken out of a layer is kept below `lost+found/` of the store; what is
    /// lost of a branch is noted with it, see [`losses`](Self::losses). `host` tells what to show
    /// where a branch lost its word; without it some names are whited out that only were lost.
    ///
    /// Errors: as `check`, and those of writing.
    pub fn repair(
        &self,
        names: &[BranchName],
        host: Option<&dyn Host>,
        progress: &mut Progress<'_>,
    ) -> Result<Report, StoreError> {
        repair::run(self, names, host, progress)
    }
}
