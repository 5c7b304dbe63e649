//! The store around the records: its files, its branches, which layers they name. Puts the parts of
//! a check together.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::layer::{self, Physical, Role};
use super::objects::{self, counted};
use super::points::point_of;
use super::{Checked, Code, Finding, Level, Progress, Report, records};
use crate::backstore::error::StoreError;
use crate::backstore::gc::GC_LOCK;
use crate::backstore::hidden::HIDDEN_FILE;
use crate::backstore::journal;
use crate::backstore::layer::Files;
use crate::backstore::load::Floor;
use crate::backstore::loss::LOST_FILE;
use crate::backstore::media::read_small;
use crate::backstore::meta::{self, BranchInfo, RUN_VERSION, RunFile};
use crate::backstore::room::ROOM;
use crate::backstore::store::{
    BRANCH_FILE, BRANCH_LOCK, BRANCHES, CONTROL_SOCKET, FORMAT, LAYERS, RUN_FILE, RUN_ROOM, STAGE,
    STORE_LOCK, Store, TRASH, branch_dir, is_stage, layer_dir,
};
use crate::core::point::Point;
use crate::core::record::LayerId;
use crate::core::types::{BranchName, Time};

/// Where a repair keeps what it takes out of the store's own files.
pub const LOST_FOUND: &str = "lost+found";
/// What the daemon logs into.
const LOG_FILE: &str = "fsd.log";
/// Times a check of one branch starts anew because it changed meanwhile.
const ATTEMPTS: u32 = 5;
/// By so much the clocks of machines that share a store may differ.
const CLOCK_SKEW_SEC: i64 = 60;

/// One check of a store.
pub struct Checker<'a, 'p> {
    pub(super) store: &'a Store,
    pub(super) progress: &'a mut Progress<'p>,
    report: Report,
    /// Every branch with readable metadata.
    infos: BTreeMap<BranchName, BranchInfo>,
    /// Some branch's metadata cannot be read: what it names is not known.
    some_unknown: bool,
    /// Frozen layers looked at.
    layers: BTreeMap<LayerId, Frozen>,
    /// Layers whose merged tables were looked at.
    pub(super) merged: BTreeSet<LayerId>,
}

/// What is known of a frozen layer by now.
#[derive(Clone, Copy, Debug)]
struct Frozen {
    /// Its files are as they were written.
    readable: bool,
    /// Its objects were counted.
    counted: bool,
}

/// What tells whether an idle branch was touched meanwhile.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    metadata: Vec<u8>,
    live: bool,
    files: Option<Files>,
    journal_bytes: u64,
}

impl<'a, 'p> Checker<'a, 'p> {
    pub fn new(store: &'a Store, progress: &'a mut Progress<'p>) -> Self {
        Self {
            store,
            progress,
            report: Report::default(),
            infos: BTreeMap::new(),
            some_unknown: false,
            layers: BTreeMap::new(),
            merged: BTreeSet::new(),
        }
    }

    /// Checks `names`, or everything.
    pub fn run(mut self, names: &[BranchName]) -> Result<Report, StoreError> {
        self.format()?;
        let (known, odd) = self.branch_names()?;
        if let Some(none) = names.iter().find(|name| !known.contains(name)) {
            return Err(StoreError::NoBranch(none.to_string()));
        }
        self.report.findings.extend(odd);
        for name in &known {
            match self.store.branch(name) {
                Ok(info) => drop(self.infos.insert(name.clone(), info)),
                Err(StoreError::NoBranch(_)) => {}
                Err(e) => {
                    self.some_unknown = true;
                    if names.is_empty() || names.contains(name) {
                        let finding = Finding::of_error(Code::BranchMetadata, &e);
                        let finding = finding.branch(name).beyond_repair();
                        self.report.findings.push(finding);
                    }
                }
            }
        }
        let wanted: Vec<BranchInfo> = self
            .infos
            .values()
            .filter(|info| names.is_empty() || names.contains(&info.name))
            .cloned()
            .collect();
        for info in wanted {
            self.branch(info)?;
        }
        if names.is_empty() {
            self.surroundings()?;
        }
        Ok(self.report)
    }

    /// The files and directories of the store that nothing uses and a repair may remove.
    pub fn rubbish(mut self) -> Vec<PathBuf> {
        let listed = self.store.list().unwrap_or_default();
        self.some_unknown = listed
            .iter()
            .any(|listed| matches!(listed, crate::backstore::Listed::Damaged { .. }));
        if self.surroundings().is_err() {
            return Vec::new();
        }
        let findings = self.report.findings.into_iter();
        findings
            .filter(|finding| {
                finding.repairable && matches!(finding.code, Code::Leftover | Code::UnusedLayer)
            })
            .filter_map(|finding| finding.file)
            .collect()
    }

    pub(super) fn found(&mut self, finding: Finding) {
        self.report.findings.push(finding);
    }

    fn describe(&self, path: &Path) -> PathBuf {
        self.store.media.describe(path)
    }

    fn format(&mut self) -> Result<(), StoreError> {
        match self.store.has_format() {
            Ok(true) => {}
            Ok(false) => {
                let at = self.describe(Path::new(FORMAT));
                self.found(Finding::damage(Code::Format, "is missing").file(at));
            }
            Err(e @ StoreError::NewerFormat { .. }) => return Err(e),
            Err(e) => self.found(Finding::of_error(Code::Format, &e)),
        }
        Ok(())
    }

    /// The names of the branch directories, and what else is among them.
    fn branch_names(&self) -> Result<(BTreeSet<BranchName>, Vec<Finding>), StoreError> {
        let dir = Path::new(BRANCHES);
        let (mut names, mut odd) = (BTreeSet::new(), Vec::new());
        let entries = match self.store.media.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|e| self.store.io("list", dir, e))?,
        };
        for entry in entries {
            match entry.name.to_str().map(BranchName::new) {
                Some(Ok(name)) if entry.is_dir => drop(names.insert(name)),
                _ => odd.push(
                    Finding::damage(Code::BranchMetadata, "is no branch")
                        .file(self.describe(&dir.join(&entry.name)))
                        .beyond_repair(),
                ),
            }
        }
        Ok((names, odd))
    }

    fn stamp(&self, name: &BranchName) -> Result<Stamp, StoreError> {
        let path = branch_dir(name).join(BRANCH_FILE);
        let metadata = read_small(&*self.store.media, &path, meta::LIMIT_BYTES).unwrap_or_default();
        // Where the lock cannot be asked for, on a read-only file system, nobody can hold it.
        let live = matches!(self.store.live_owner(name), Ok(Some(_)));
        let top = self
            .store
            .branch(name)
            .ok()
            .and_then(|info| info.layers.last().copied());
        let media = top.and_then(|top| self.store.media.sub(&layer_dir(top)).ok());
        let files = media.as_ref().and_then(|media| Files::list(&**media).ok());
        let newest = files
            .as_ref()
            .and_then(|files| files.journals.last().copied());
        let journal_bytes = match (media, newest) {
            (Some(media), Some(newest)) => media
                .facts(&journal::file_name(newest))
                .map_or(0, |facts| facts.len),
            _ => 0,
        };
        Ok(Stamp {
            metadata,
            live,
            files,
            journal_bytes,
        })
    }

    /// Checks one branch; again, if somebody opened or changed it meanwhile and it looked bad.
    fn branch(&mut self, mut info: BranchInfo) -> Result<(), StoreError> {
        for attempt in 1..=ATTEMPTS {
            let before = self.stamp(&info.name)?;
            let (findings, bytes) = (self.report.findings.len(), self.report.verified_bytes);
            let layers = self.layers.clone();
            let merged = self.merged.clone();
            let checked = self.branch_once(&info, before.live)?;
            self.snapshots(&info)?;
            let is_bad = self.report.findings[findings..]
                .iter()
                .any(|finding| finding.level == Level::Damage);
            let now = match self.store.branch(&info.name) {
                Ok(now) => now,
                // Removed while we looked, and with it all that was found.
                Err(StoreError::NoBranch(_)) => {
                    self.report.findings.truncate(findings);
                    return Ok(());
                }
                Err(_) => info.clone(),
            };
            let is_still = before == self.stamp(&info.name)?;
            if is_still || !is_bad || attempt == ATTEMPTS {
                if before.live {
                    let what = "somebody holds the branch: the objects it may be writing, and \
                                what an end leaves behind, were not looked at";
                    self.found(Finding::note(Code::LeftOut, what).branch(&info.name));
                }
                self.report.branches.push(checked);
                return Ok(());
            }
            self.report.findings.truncate(findings);
            self.report.verified_bytes = bytes;
            self.layers = layers;
            self.merged = merged;
            info = now;
        }
        Ok(())
    }

    fn branch_once(&mut self, info: &BranchInfo, live: bool) -> Result<Checked, StoreError> {
        let name = &info.name;
        let mut checked = Checked {
            branch: name.clone(),
            live,
            inodes: 0,
            names: 0,
            objects: 0,
        };
        self.branch_files(name, live);
        let is_sound = self.check_claims(info);
        if let Some(what) = ahead_of(info, Time::now()) {
            self.found(Finding::note(Code::Clock, what).branch(name));
        }
        let mut readable = is_sound;
        for (i, id) in info.layers.iter().enumerate() {
            let role = match (i + 1 == info.layers.len(), live) {
                (false, _) => Role::Frozen,
                (true, false) => Role::Top,
                (true, true) => Role::Live,
            };
            readable &= self.layer(*id, role)?;
        }
        if !readable {
            let what = "its records were not looked at, since a layer of it cannot be read";
            self.found(Finding::note(Code::LeftOut, what).branch(name));
            return Ok(checked);
        }
        let loaded = self
            .store
            .load_stack(info, Floor::None)
            .and_then(|(stack, _)| {
                let outcome = records::check(&stack, live, self.progress)?;
                Ok((stack, outcome))
            });
        let (stack, outcome) = match loaded {
            Ok(loaded) => loaded,
            Err(e) => {
                self.found(Finding::of_error(Code::Table, &e).branch(name));
                return Ok(checked);
            }
        };
        self.merged_tables(&stack, info.layers.split_last().map_or(&[], |(_, ids)| ids));
        (checked.inodes, checked.names, checked.objects) =
            (outcome.inodes, outcome.names, outcome.objects);
        for problem in outcome.problems {
            if let Some(finding) = problem.finding {
                self.found(finding.branch(name));
            }
        }
        for (i, view) in stack.layers.iter().enumerate() {
            let is_top = i + 1 == stack.layers.len();
            // Of a frozen layer the answer is the same for all branches on it.
            let known = self.layers.get_mut(&view.id);
            if (is_top && live)
                || known.is_some_and(|known| std::mem::replace(&mut known.counted, true))
            {
                continue;
            }
            let role = if is_top { Role::Top } else { Role::Frozen };
            match objects::accounts(view) {
                Ok(accounts) => {
                    for mut finding in objects::findings(view, role, &accounts) {
                        finding.branches = self.users(view.id);
                        self.found(finding);
                    }
                }
                Err(e) => self.found(Finding::of_error(Code::Unreadable, &e).branch(name)),
            }
        }
        Ok(checked)
    }

    /// The branches that stand on a layer, or have snapshots that do.
    pub(super) fn users(&self, id: LayerId) -> Vec<BranchName> {
        self.infos
            .values()
            .filter(|info| info.all_layers().any(|layer| layer == id))
            .map(|info| info.name.clone())
            .collect()
    }

    /// The snapshots that stand on a layer, unless a branch does.
    fn points(&self, id: LayerId) -> Vec<Point> {
        if self.infos.values().any(|info| info.layers.contains(&id)) {
            return Vec::new();
        }
        let all = self.infos.values().flat_map(|info| {
            let on_it = info.snapshots.iter().filter(|s| s.layers.contains(&id));
            on_it
                .map(|snapshot| point_of(info, snapshot))
                .collect::<Vec<_>>()
        });
        all.collect()
    }

    /// What lies in a branch's directory besides its metadata.
    fn branch_files(&mut self, name: &BranchName, live: bool) {
        let dir = branch_dir(name);
        let run = dir.join(RUN_FILE);
        if let Ok(bytes) = read_small(&*self.store.media, &run, meta::LIMIT_BYTES) {
            let at = self.describe(&run);
            match meta::unseal::<RunFile>(&at, &bytes, RUN_VERSION) {
                Ok(_) => {}
                // It is not synced: a power cut may leave its length without its bytes.
                Err(_) if bytes.iter().all(|byte| *byte == 0) => {
                    let what = "is empty: a power cut took the note of the last run";
                    self.found(Finding::note(Code::Leftover, what).file(at).branch(name));
                }
                Err(e) => self.found(Finding::of_error(Code::RunNote, &e).branch(name)),
            }
        }
        match self.store.losses(name) {
            Ok(losses) if losses.is_empty() => {}
            Ok(losses) => {
                let n = losses.listed.len() as u64 + losses.unlisted;
                let what = format!(
                    "a repair could not save {} of the branch; remove this file once you have \
                     seen to it",
                    counted(n, "thing")
                );
                let at = self.describe(&dir.join(LOST_FILE));
                let finding = Finding::note(Code::Lost, what).file(at).branch(name);
                self.found(finding.beyond_repair());
            }
            Err(e) => self.found(Finding::of_error(Code::Lost, &e).branch(name)),
        }
        if let Err(e) = self.store.hidden(name) {
            self.found(Finding::of_error(Code::Hidden, &e).branch(name));
        }
        for entry in self.store.media.list(&dir).unwrap_or_default() {
            let at = self.describe(&dir.join(&entry.name));
            let known = [
                BRANCH_FILE,
                BRANCH_LOCK,
                RUN_FILE,
                RUN_ROOM,
                LOST_FILE,
                HIDDEN_FILE,
                CONTROL_SOCKET,
                LOG_FILE,
            ];
            if known.iter().any(|known| entry.name == *known) {
                continue;
            }
            // Somebody may be at it while the branch is live, or a run is being noted.
            if is_stage(&entry.name) {
                if !live {
                    let what = "is left of a write that was cut short";
                    self.found(Finding::note(Code::Leftover, what).file(at).branch(name));
                }
            } else {
                let finding = Finding::note(Code::Leftover, "is no file of a branch");
                self.found(finding.file(at).branch(name).beyond_repair());
            }
        }
    }

    /// Whether the layers that a branch names can be its layers.
    fn check_claims(&mut self, info: &BranchInfo) -> bool {
        let at = self.describe(&branch_dir(&info.name).join(BRANCH_FILE));
        let mut complaints = Vec::new();
        let unique: BTreeSet<&LayerId> = info.layers.iter().collect();
        if unique.len() < info.layers.len() {
            complaints.push("names a layer twice".to_owned());
        }
        let top = info.layers.last();
        for other in self.infos.values().filter(|other| other.name != info.name) {
            if top.is_some_and(|top| other.all_layers().any(|id| id == *top)) {
                complaints.push(format!(
                    "its own layer is also one of branch {}: was it copied by hand?",
                    other.name
                ));
            }
        }
        let is_sound = complaints.is_empty();
        for what in complaints {
            let finding = Finding::damage(Code::BranchMetadata, what).file(&at);
            self.found(finding.branch(&info.name).beyond_repair());
        }
        is_sound
    }

    /// Checks the files of a layer, unless that was done; whether it can be read.
    pub(super) fn layer(&mut self, id: LayerId, role: Role) -> Result<bool, StoreError> {
        if let Some(known) = self.layers.get(&id) {
            return Ok(known.readable);
        }
        let dir = layer_dir(id);
        let users = self.users(id);
        let media = match self.store.media.sub(&dir) {
            Ok(media) => media,
            Err(e) => {
                let mut finding = match e.kind() {
                    io::ErrorKind::NotFound => Finding::damage(Code::LayerMissing, "is missing"),
                    _ => Finding::damage(Code::Unreadable, e.to_string()),
                };
                finding.branches = users;
                finding.points = self.points(id);
                let at = self.describe(&dir);
                self.found(finding.file(at).beyond_repair());
                self.layers.insert(
                    id,
                    Frozen {
                        readable: false,
                        counted: true,
                    },
                );
                return Ok(false);
            }
        };
        let Physical {
            findings,
            harm,
            bytes,
            ..
        } = layer::check(&*media, id, role, self.progress)?;
        let readable = layer::is_readable(&harm);
        self.report.verified_bytes += bytes;
        let points = self.points(id);
        for mut finding in findings {
            finding.branches.clone_from(&users);
            finding.points.clone_from(&points);
            self.found(finding);
        }
        if role == Role::Frozen {
            self.layers.insert(
                id,
                Frozen {
                    readable,
                    counted: false,
                },
            );
        }
        Ok(readable)
    }

    /// What lies in the store besides branches that are in use.
    fn surroundings(&mut self) -> Result<(), StoreError> {
        let busy = self
            .store
            .media
            .is_locked(Path::new(STORE_LOCK))
            .unwrap_or(false);
        if busy {
            let what =
                "somebody is making or removing a branch: what that leaves was not looked at";
            self.found(Finding::note(Code::LeftOut, what));
            return Ok(());
        }
        self.unused_layers();
        for (dir, what) in [
            (STAGE, "is left of a branch that was never finished"),
            (TRASH, "is left of a branch that was removed"),
        ] {
            for entry in self.store.media.list(Path::new(dir)).unwrap_or_default() {
                let at = self.describe(&Path::new(dir).join(&entry.name));
                self.found(Finding::note(Code::Leftover, what).file(at));
            }
        }
        let here = Path::new("");
        let entries = self.store.media.list(here);
        for entry in entries.map_err(|e| self.store.io("list", here, e))? {
            let at = self.describe(Path::new(&entry.name));
            let known = [
                FORMAT, STORE_LOCK, GC_LOCK, ROOM, BRANCHES, LAYERS, STAGE, TRASH,
            ];
            if known.iter().any(|known| entry.name == *known) {
                continue;
            }
            if entry.name == LOST_FOUND {
                let n = self
                    .store
                    .media
                    .list(Path::new(LOST_FOUND))
                    .map_or(0, |list| list.len());
                if n > 0 {
                    let what = format!(
                        "keeps what earlier repairs took out of {}: look through it, then remove it",
                        counted(n as u64, "layer")
                    );
                    self.found(Finding::note(Code::Kept, what).file(at));
                }
            } else if is_stage(&entry.name) {
                let what = "is left of a write that was cut short";
                self.found(Finding::note(Code::Leftover, what).file(at));
            } else {
                let finding = Finding::note(Code::Leftover, "is no file of a store");
                self.found(finding.file(at).beyond_repair());
            }
        }
        Ok(())
    }

    fn unused_layers(&mut self) {
        let dir = Path::new(LAYERS);
        // Listed first, so that a layer made meanwhile by a new branch is not among them.
        let entries = self.store.media.list(dir).unwrap_or_default();
        let mut used: BTreeSet<PathBuf> = BTreeSet::new();
        for listed in self.store.list().unwrap_or_default() {
            match listed {
                crate::backstore::Listed::Branch(info) => {
                    used.extend(info.all_layers().map(layer_dir));
                }
                crate::backstore::Listed::Damaged { .. } => {}
            }
        }
        for info in self.infos.values() {
            used.extend(info.all_layers().map(layer_dir));
        }
        for entry in entries {
            let path = dir.join(&entry.name);
            if used.contains(&path) {
                continue;
            }
            let mut finding = Finding::note(Code::UnusedLayer, "no branch uses this layer");
            if self.some_unknown {
                finding.what = "no branch that can be read uses this layer".into();
                finding = finding.beyond_repair();
            }
            let at = self.describe(&path);
            self.found(finding.file(at));
        }
    }
}

/// What of a branch is still to come by the clock, in words: it was set back.
fn ahead_of(info: &BranchInfo, now: Time) -> Option<String> {
    let snapshots = info.snapshots.iter();
    let mut stamps = vec![("the branch was made", info.created)];
    stamps.extend(snapshots.map(|s| ("a snapshot of it was made", s.created)));
    if let Some(run) = &info.last_run {
        stamps.push(("its last run began", run.started));
        stamps.extend(run.ended.map(|ended| ("its last run ended", ended)));
    }
    let ahead = |at: Time| at.sec.saturating_sub(now.sec);
    let (what, at) = stamps.into_iter().max_by_key(|(_, at)| *at)?;
    (ahead(at) > CLOCK_SKEW_SEC).then(|| {
        format!(
            "{what} {} s ahead of what the clock says: it was set back, so ages are too small, and a diff \
             cannot tell by times what the host changed since",
            ahead(at)
        )
    })
}
