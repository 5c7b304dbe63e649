//! [`Store`]: a store directory with its branches and layers.
//!
//! ```text
//! format                 version of the layout
//! room                   kept for the day the disk is full
//! store.lock             held while the set of branches or layers changes
//! branches/NAME/         branch.json run.json hidden.json branch.lock control.sock fsd.log
//! layers/ID/             journal.G table.G objects/
//! stage/ trash/          branches not yet, and what is no longer, part of the store
//! ```
//! A branch comes into being and goes by one rename of its directory. Layers are made before and
//! removed after the branches that name them.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::branch::{self, LiveBranch};
use super::dir::DirMedia;
use super::error::StoreError;
use super::layer;
use super::load::Floor;
use super::media::{
    LockGuard, LockWait, Media, OpenMode, random_u64, read_small, replace_file, write_all_at,
};
use super::meta::{self, BRANCH_VERSION, BranchFile, BranchInfo, RUN_VERSION, RunFile, RunRecord};
use super::reader::BranchReader;
use super::snapshot::Held;
use crate::core::record::LayerId;
use crate::core::types::BranchName;

/// Newest layout of the store directory.
pub const STORE_VERSION: u32 = 1;

pub(super) const FORMAT: &str = "format";
pub(super) const STORE_LOCK: &str = "store.lock";
pub(super) const BRANCHES: &str = "branches";
pub(super) const LAYERS: &str = "layers";
pub(super) const STAGE: &str = "stage";
pub(super) const TRASH: &str = "trash";
pub(super) const BRANCH_FILE: &str = "branch.json";
pub(super) const BRANCH_LOCK: &str = "branch.lock";
pub(super) const RUN_FILE: &str = "run.json";
/// Room for the note of a run's end, while it runs.
pub(super) const RUN_ROOM: &str = "run.json.room.stage";
/// Bytes by which the note of an end is longer than that of the beginning, at the most.
const RUN_END_BYTES: usize = 256;
pub(super) const CONTROL_SOCKET: &str = "control.sock";

/// A store directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) media: Arc<dyn Media>,
    path: Arc<Path>,
}

/// One line of [`Store::list`].
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all of a list are of the large kind"
)]
pub enum Listed {
    /// A branch in order.
    Branch(BranchInfo),
    /// A branch that cannot be used.
    Damaged {
        /// The name of its directory.
        name: String,
        /// Why.
        why: StoreError,
    },
}

/// The file `format`.
#[derive(Serialize, Deserialize)]
pub(super) struct FormatFile {
    pub version: u32,
}

impl Store {
    /// Where the store is by default: `$AGENTFS_STORE`, else `$XDG_DATA_HOME/agentfs`, else
    /// `~/.local/share/agentfs`. Relative without a home.
    pub fn default_path() -> PathBuf {
        let var = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        if let Some(path) = var("AGENTFS_STORE") {
            return path;
        }
        // The specification says to ignore a relative one.
        if let Some(data) = var("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
            return data.join("agentfs");
        }
        let home = env::home_dir().unwrap_or_default();
        home.join(".local/share/agentfs")
    }

    /// Opens the store at `path`, made with mode 0700 if there is none.
    ///
    /// Errors: `NewerFormat`, `NotWritable`, `NoSpace`, `NoStore`; `Damaged` if only the file that
    /// says what it is was lost.
    pub fn open_or_create(path: &Path) -> Result<Store, StoreError> {
        let path = absolute(path)?;
        make_dirs(&path)?;
        let media = DirMedia::open(&path).map_err(|e| StoreError::io("open", &path, e))?;
        Self::on_media(Arc::new(media), &path, true)?.ok_or(StoreError::Invalid("no store made"))
    }

    /// Opens the store at `path`; `None` when there is none yet.
    pub fn open(path: &Path) -> Result<Option<Store>, StoreError> {
        let path = absolute(path)?;
        match DirMedia::open(&path) {
            Ok(media) => Self::on_media(Arc::new(media), &path, false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("open", &path, e)),
        }
    }

    /// Opens or makes the store on any media; `path` is for messages and sockets.
    pub fn on_media(
        media: Arc<dyn Media>,
        path: &Path,
        create: bool,
    ) -> Result<Option<Store>, StoreError> {
        let store = Store {
            media,
            path: path.into(),
        };
        let has_format = match store.has_format() {
            Err(e @ StoreError::Damaged { .. }) => {
                store.must_have_parts()?;
                return Err(e);
            }
            other => other?,
        };
        if !has_format {
            // Looked at again: somebody else may just have made the store.
            if !store.is_fresh()? && !store.has_format()? {
                store.must_have_parts()?;
                let at = store.media.describe(Path::new(FORMAT));
                return Err(StoreError::damaged(at, "it is missing"));
            }
            if !create && !store.has_format()? {
                return Ok(None);
            }
            let _lock = store.lock_store()?;
            if !store.has_format()? {
                let bytes = meta::seal(&FormatFile {
                    version: STORE_VERSION,
                })?;
                store.replace(Path::new(FORMAT), &bytes, true)?;
            }
        }
        if create {
            let mut made = false;
            for dir in [BRANCHES, LAYERS, STAGE, TRASH] {
                made |= store.mkdir_if_missing(Path::new(dir))?;
            }
            store.media.spread(Path::new(LAYERS));
            if made {
                store.sync_dir(Path::new(""))?;
            }
            store.keep_room(0);
        }
        Ok(Some(store))
    }

    /// The store on `media` for a check, in whatever state it is; `None` if nothing is there.
    pub(super) fn for_check(
        media: Arc<dyn Media>,
        path: &Path,
    ) -> Result<Option<Store>, StoreError> {
        let store = Store {
            media,
            path: path.into(),
        };
        match store.has_format() {
            Ok(true) => return Ok(Some(store)),
            Ok(false) if store.is_fresh()? => return Ok(None),
            Err(e @ StoreError::NewerFormat { .. }) => return Err(e),
            Ok(false) | Err(_) => {}
        }
        store.must_have_parts()?;
        Ok(Some(store))
    }

    /// Refuses what has not the directories of a store: without a good `format` it is none then.
    fn must_have_parts(&self) -> Result<(), StoreError> {
        for dir in [BRANCHES, LAYERS].map(Path::new) {
            self.media.sub(dir).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StoreError::NoStore {
                    path: self.path.to_path_buf(),
                },
                _ => self.io("open", dir, e),
            })?;
        }
        Ok(())
    }

    /// Whether the store has said which format it is of, and it is one we know.
    pub(super) fn has_format(&self) -> Result<bool, StoreError> {
        let path = Path::new(FORMAT);
        let bytes = match read_small(&*self.media, path, meta::LIMIT_BYTES) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(|e| self.io("read", path, e))?,
        };
        meta::unseal::<FormatFile>(&self.media.describe(path), &bytes, STORE_VERSION)?;
        Ok(true)
    }

    /// Whether nothing but rubbish of a first creation is in the directory.
    fn is_fresh(&self) -> Result<bool, StoreError> {
        let here = Path::new("");
        let entries = self
            .media
            .list(here)
            .map_err(|e| self.io("list", here, e))?;
        Ok(entries
            .iter()
            .all(|entry| entry.name == STORE_LOCK || is_stage(&entry.name)))
    }

    /// The store directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn io(&self, op: &'static str, path: &Path, e: io::Error) -> StoreError {
        StoreError::io(op, self.media.describe(path), e)
    }

    pub(super) fn mkdir(&self, path: &Path) -> Result<(), StoreError> {
        self.media
            .mkdir(path)
            .map_err(|e| self.io("create", path, e).while_writing())
    }

    /// Whether it had to be made.
    pub(super) fn mkdir_if_missing(&self, path: &Path) -> Result<bool, StoreError> {
        if self.media.sub(path).is_ok() {
            return Ok(false);
        }
        match self.media.mkdir(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(self.io("create", path, e).while_writing()),
        }
    }

    pub(super) fn replace(
        &self,
        path: &Path,
        data: &[u8],
        durable: bool,
    ) -> Result<(), StoreError> {
        replace_file(&*self.media, path, data, durable)
            .map_err(|e| self.io("write", path, e).while_writing())
    }

    pub(super) fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        self.media
            .sync_dir(path)
            .map_err(|e| self.io("sync", path, e))
    }

    pub(super) fn random(&self) -> Result<u64, StoreError> {
        random_u64().map_err(|e| self.io("make a name in", Path::new(""), e))
    }

    /// All branches, by name, with their parents by the names these have now. A damaged one hides
    /// no other.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let dir = Path::new(BRANCHES);
        let entries = match self.media.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|e| self.io("list", dir, e))?,
        };
        let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
        names.sort();
        let mut out = Vec::new();
        for name in names {
            let text = name.to_string_lossy().into_owned();
            let info = match BranchName::new(&text) {
                Ok(name) => self.branch(&name).and_then(|info| self.check_layers(info)),
                Err(e) => Err(StoreError::damaged(
                    self.media.describe(&dir.join(&name)),
                    e.to_string(),
                )),
            };
            match info {
                Ok(info) => out.push(Listed::Branch(info)),
                // Removed while we looked.
                Err(StoreError::NoBranch(_)) => {}
                Err(why) => out.push(Listed::Damaged { name: text, why }),
            }
        }
        name_parents(&mut out);
        Ok(out)
    }

    fn check_layers(&self, info: BranchInfo) -> Result<BranchInfo, StoreError> {
        self.must_have(&info.layers).map(|()| info)
    }

    /// Refuses layers of which one is not there.
    pub(super) fn must_have(&self, layers: &[LayerId]) -> Result<(), StoreError> {
        for id in layers {
            let dir = layer_dir(*id);
            self.media.sub(&dir).map_err(|e| self.no_layer(&dir, e))?;
        }
        Ok(())
    }

    /// What is known of one branch.
    ///
    /// Errors: `NoBranch`, `Damaged`, `NewerFormat`.
    pub fn branch(&self, name: &BranchName) -> Result<BranchInfo, StoreError> {
        let path = branch_dir(name).join(BRANCH_FILE);
        let bytes = match read_small(&*self.media, &path, meta::LIMIT_BYTES) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // The directory comes and goes with its contents, in one rename.
                return match self.media.list(&branch_dir(name)) {
                    Ok(_) => Err(StoreError::damaged(
                        self.media.describe(&path),
                        "is missing",
                    )),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        Err(StoreError::NoBranch(name.to_string()))
                    }
                    Err(e) => Err(self.io("list", &branch_dir(name), e)),
                };
            }
            other => other.map_err(|e| self.io("read", &path, e))?,
        };
        let at = self.media.describe(&path);
        let file: BranchFile = meta::unseal(&at, &bytes, BRANCH_VERSION)?;
        file.into_info(name, self.last_run(name)?)
            .map_err(|what| StoreError::damaged(at, what))
    }

    /// Holds the set of branches, snapshots and layers still for others; waits for who holds it.
    pub fn hold(&self) -> Result<Held<'_>, StoreError> {
        Ok(Held::new(self, self.lock_store()?))
    }

    /// As [`hold`](Self::hold), but `None` at once where somebody else holds it.
    pub(super) fn try_hold(&self) -> Result<Option<Held<'_>>, StoreError> {
        let path = Path::new(STORE_LOCK);
        let lock = self.media.lock(path, LockWait::Try, note().as_bytes());
        let lock = lock.map_err(|e| self.io("lock", path, e).while_writing())?;
        Ok(lock.map(|lock| Held::new(self, lock)))
    }

    pub(super) fn lock_store(&self) -> Result<Box<dyn LockGuard>, StoreError> {
        let path = Path::new(STORE_LOCK);
        match self.media.lock(path, LockWait::Block, note().as_bytes()) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(self.io("lock", path, io::ErrorKind::WouldBlock.into())),
            Err(e) => Err(self.io("lock", path, e).while_writing()),
        }
    }

    pub(super) fn lock_branch(&self, name: &BranchName) -> Result<Box<dyn LockGuard>, StoreError> {
        let path = branch_dir(name).join(BRANCH_LOCK);
        match self.media.lock(&path, LockWait::Try, note().as_bytes()) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(StoreError::Locked {
                branch: name.to_string(),
                pid: self.noted_pid(name),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::NoBranch(name.to_string()))
            }
            Err(e) => Err(self.io("lock", &path, e).while_writing()),
        }
    }

    fn noted_pid(&self, name: &BranchName) -> u32 {
        let path = branch_dir(name).join(BRANCH_LOCK);
        let bytes = read_small(&*self.media, &path, 64).unwrap_or_default();
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Takes the branch's lock and opens it for writing: cuts a torn tail, removes orphans.
    ///
    /// Errors: `Locked`, `NoBranch`, `Damaged`, `NewerFormat` and those of writing.
    pub fn open_live(&self, name: &BranchName) -> Result<LiveBranch, StoreError> {
        self.open_live_by(name, Floor::Merged)
    }

    /// As [`open_live`](Self::open_live), from what `floor` says.
    pub(super) fn open_live_by(
        &self,
        name: &BranchName,
        floor: Floor,
    ) -> Result<LiveBranch, StoreError> {
        // First without the lock, so that no lock file is made where there is no branch.
        self.branch(name)?;
        let lock = self.lock_branch(name)?;
        let info = self.branch(name)?;
        let (stack, tail) = self.load_stack(&info, floor)?;
        LiveBranch::recover(self.clone(), info, stack, tail, lock)
            .map_err(StoreError::while_writing)
    }

    /// Opens a branch for reading, live or not.
    pub fn read(&self, name: &BranchName) -> Result<BranchReader, StoreError> {
        let mut info = self.branch(name)?;
        loop {
            // Again before it is taken for damage: a clean end in between notes more than was read.
            let sound = || {
                let (stack, tail) = self.load_stack(&info, Floor::Merged)?;
                stack
                    .layers
                    .last()
                    .map_or(Ok(()), |top| branch::check_sound(&*top.media, &tail))
                    .map(|()| stack)
            };
            match sound().or_else(|_| sound()) {
                Ok(stack) => return Ok(BranchReader::new(info, stack)),
                Err(e) => {
                    // The stack itself may have changed meanwhile, or the branch may be gone.
                    let now = self.branch(name)?;
                    if now.layers == info.layers {
                        return Err(e);
                    }
                    info = now;
                }
            }
        }
    }

    /// The pid that holds the branch; 0 if its owner did not say; `None` if it is not live.
    pub fn live_owner(&self, name: &BranchName) -> Result<Option<u32>, StoreError> {
        let path = branch_dir(name).join(BRANCH_LOCK);
        match self.media.is_locked(&path) {
            Ok(true) => Ok(Some(self.noted_pid(name))),
            Ok(false) => Ok(None),
            Err(e) => Err(self.io("ask for the lock of", &path, e)),
        }
    }

    /// The branch's directory: for its log.
    pub fn branch_path(&self, name: &BranchName) -> PathBuf {
        self.path.join(branch_dir(name))
    }

    /// Where the branch's daemon listens.
    pub fn control_path(&self, name: &BranchName) -> PathBuf {
        self.branch_path(name).join(CONTROL_SOCKET)
    }

    /// Notes a run on the branch, over the one before. A run that begins gets room for the note of
    /// its end, which then fits on a disk that it has filled.
    pub fn put_run(&self, name: &BranchName, run: &RunRecord) -> Result<(), StoreError> {
        let path = branch_dir(name).join(RUN_FILE);
        let bytes = meta::seal(&RunFile {
            version: RUN_VERSION,
            run: run.clone(),
        })?;
        let room = branch_dir(name).join(RUN_ROOM);
        let mut put = replace_file(&*self.media, &path, &bytes, false);
        if run.ended.is_none() && put.is_ok() {
            let zeros = vec![0; bytes.len() + RUN_END_BYTES];
            if let Err(e) = replace_file(&*self.media, &room, &zeros, false) {
                tracing::debug!(error = %e, "no room for the note of the run's end");
            }
        } else if run.ended.is_some() {
            if put.is_err() {
                put = self.put_into(&room, &path, &bytes);
            }
            // What stays is rubbish by its name.
            let _ = self.media.unlink(&room);
        }
        put.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => StoreError::NoBranch(name.to_string()),
            _ => self.io("write", &path, e).while_writing(),
        })
    }

    /// Writes `bytes` into the file at `room`, which has space for them, and puts it at `path`.
    fn put_into(&self, room: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.media.open(room, OpenMode::ReadWrite)?;
        if file.stat()?.len < bytes.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        write_all_at(&*file, bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        self.media.rename(room, path, true)
    }

    /// The newest run on the branch. A note that cannot be read is as good as none: it is not
    /// synced, so a power cut may take it.
    pub fn last_run(&self, name: &BranchName) -> Result<Option<RunRecord>, StoreError> {
        let path = branch_dir(name).join(RUN_FILE);
        let bytes = match read_small(&*self.media, &path, meta::LIMIT_BYTES) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| self.io("read", &path, e))?,
        };
        match meta::unseal::<RunFile>(&self.media.describe(&path), &bytes, RUN_VERSION) {
            Ok(file) => Ok(Some(file.run)),
            Err(e) => {
                tracing::warn!(error = %e, "the note of the last run cannot be read");
                Ok(None)
            }
        }
    }
}

/// Gives the parents of all branches the names that they have now.
fn name_parents(all: &mut [Listed]) {
    let names: HashMap<u64, BranchName> = all
        .iter()
        .filter_map(|listed| match listed {
            Listed::Branch(info) => Some((info.id, info.name.clone())),
            Listed::Damaged { .. } => None,
        })
        .collect();
    for listed in all {
        if let Listed::Branch(info) = listed
            && let Some(parent) = &mut info.parent
            && let Some(name) = parent.id.and_then(|id| names.get(&id))
        {
            parent.point.branch = name.clone();
        }
    }
}

/// Whether a name is that of a stage file.
pub(super) fn is_stage(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(b".stage")
}

/// What a lock file says: the pid of its owner. Always as long, so that it covers the one before.
fn note() -> String {
    format!("{:<10}\n", std::process::id())
}

pub(super) fn branch_dir(name: &BranchName) -> PathBuf {
    Path::new(BRANCHES).join(name.as_str())
}

pub(super) fn layer_dir(id: LayerId) -> PathBuf {
    Path::new(LAYERS).join(layer::dir_name(id))
}

fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(|e| StoreError::io("find", path, e))
}

/// Makes `path` with mode 0700, and what is missing above it.
fn make_dirs(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| StoreError::io("create", path, e).while_writing())
}
