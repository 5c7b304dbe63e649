//! The daemon's answers to control requests: holds the branch, the core and the run's namespaces.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::mpsc::Sender;
use std::thread;

use agentfs_fsd::backstore::{Frozen, Held, LiveBranch, NewBranch, Store};
use agentfs_fsd::core::point::SnapshotName;
use agentfs_fsd::core::types::BranchName;
use agentfs_fsd::core::{CoreConfig, FreezeFor, FsCore};
use agentfs_fsd::ctl::client::Bindings;
use agentfs_fsd::ctl::msg::{ErrorCode, MountSpec, Transport, Used};
use agentfs_fsd::ctl::server::{Refusal, Service, not_shared};
use agentfs_fsd::fuse::{Face, FuseSession, OneUser, Options, Regime};
use agentfs_fsd::sync::{Arc, Gate, Mutex, lock};
use rustix::fs::FileType;
use tracing::{info, warn};

use crate::daemon::chores::Chores;
use crate::daemon::pause::Paused;
use crate::daemon::shared::{Setting, SharedMount};
use crate::daemon::{Event, refusal};

/// `statfs` type of an overlayfs, which counts as one level of stacking. Source: statfs(2).
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
/// Character device 10:229. Source: the kernel's list of devices.
const FUSE_DEVICE: (u32, u32) = (10, 229);

/// One branch, from its opening to its close.
#[derive(Debug)]
pub(super) struct Daemon {
    name: BranchName,
    store: Store,
    events: Sender<Event>,
    /// How a mount is served, but for passthrough.
    options: Options,
    /// The open branch until it is attached, that is, until the core takes it over.
    waiting: Mutex<Option<LiveBranch>>,
    core: Arc<Gate<FsCore>>,
    mount: Mutex<Mount>,
    /// Held while the state is frozen, and while a command is bound.
    freezing: Mutex<()>,
    chores: Chores,
    /// The mount of several branches that this is one of.
    shared: OnceLock<Arc<SharedMount>>,
    /// Opened beside the branch that the daemon was started for.
    is_beside: bool,
}

/// What is known of the mount.
#[derive(Debug, Default)]
struct Mount {
    served: bool,
    /// By which way, if by this one.
    transport: Option<Transport>,
    /// A command was bound, so the view inside is complete: before that the mount namespace still
    /// shows the host, and nobody may join it.
    complete: bool,
    /// The processes that were bound, with their start times.
    bound: Vec<(u32, u64)>,
    /// The user and the mount namespace. They keep the mount alive, so they go with the last
    /// session.
    namespaces: Option<[OwnedFd; 2]>,
    /// Digest of the policy that the view was made by.
    policy: Option<String>,
}

impl Daemon {
    pub(super) fn new(
        name: BranchName,
        live: LiveBranch,
        store: Store,
        events: Sender<Event>,
        options: Options,
    ) -> Self {
        Self {
            name,
            store,
            events,
            options,
            waiting: Mutex::new(Some(live)),
            core: Arc::default(),
            mount: Mutex::default(),
            freezing: Mutex::default(),
            chores: Chores::default(),
            shared: OnceLock::new(),
            is_beside: false,
        }
    }

    /// A further branch of a shared mount, attached already.
    pub(super) fn beside(
        name: BranchName,
        core: FsCore,
        store: Store,
        events: Sender<Event>,
        options: Options,
        mount: Arc<SharedMount>,
    ) -> Self {
        let gate = Gate::default();
        gate.open(core);
        Self {
            name,
            store,
            events,
            options,
            waiting: Mutex::default(),
            core: Arc::new(gate),
            mount: Mutex::new(Mount {
                served: true,
                ..Mount::default()
            }),
            freezing: Mutex::default(),
            chores: Chores::default(),
            shared: OnceLock::from(mount),
            is_beside: true,
        }
    }

    /// The core, once there is one.
    pub(super) fn core(&self) -> Arc<Gate<FsCore>> {
        Arc::clone(&self.core)
    }

    /// The shared mount that this daemon was started for.
    fn own_shared(&self) -> Option<&Arc<SharedMount>> {
        self.shared.get().filter(|_| !self.is_beside)
    }

    /// Whether a mount is served, whose end will end the daemon.
    pub(super) fn is_mounted(&self) -> bool {
        lock(&self.mount).served
    }

    /// Lets the core do its regular work, and what takes long on a thread of its own.
    pub(super) fn maintain(&self) {
        self.core.with(FsCore::maintain);
        if self.chores.is_idle()
            && let Some(chore) = self.core.with(FsCore::next_chore).flatten()
        {
            self.chores.start(chore, Arc::clone(&self.core));
        }
        if let Some(shared) = self.own_shared() {
            shared.maintain();
        }
    }

    /// Closes the branch. From here on every request finds it gone.
    pub(super) fn close(&self) -> Result<(), Refusal> {
        lock(&self.mount).namespaces = None;
        // The end does it itself, or leaves it to the next one.
        self.chores.stop();
        // The default branch last: who unmounts waits for it.
        let others = self.own_shared().map_or(Ok(()), |s| s.close_others());
        let waiting = lock(&self.waiting).take();
        let own = match (self.core.close(), waiting) {
            (Some(core), _) => core.close().map_err(|e| refusal::of_core(&e)),
            (None, Some(live)) => live.close().map_err(|e| refusal::of_store(&e)),
            (None, None) => Ok(()),
        };
        own.and(others)
    }

    /// How deep passthrough may stack: one level, or two where the store itself lies on an
    /// overlay. (Two is the kernel's maximum, and forbids an overlay on top of our mount.)
    fn passthrough_depth(&self) -> u32 {
        match rustix::fs::statfs(self.store.path()) {
            Ok(stat) if stat.f_type == OVERLAYFS_MAGIC => 2,
            _ => 1,
        }
    }

    /// Freezes the core's state. Where programs write past us they are stopped meanwhile.
    fn freeze(&self, held: &Held<'_>, what: FreezeFor) -> Result<Frozen, Refusal> {
        // No command is bound meanwhile: it would not be stopped.
        let _alone = lock(&self.freezing);
        // What can be made durable while the run goes on need not be while it stands still. A journal
        // that cannot be synced is left behind by a checkpoint then.
        if let Err(error) = (self.core.with(FsCore::sync_records)).ok_or_else(not_mounted)? {
            warn!(%error, "cannot sync the journal before the freezing");
        }
        let mut paused = None;
        loop {
            let natively = self.core.with(FsCore::has_native_writers);
            // Before the gate closes: who waits for an answer of ours cannot be stopped.
            if natively.ok_or_else(not_mounted)? && paused.is_none() {
                if lock(&self.mount).namespaces.is_none() {
                    let message = "files are open for writing on its mount, whose programs cannot be \
                         stopped for that moment; close them and try again";
                    return Err(Refusal::new(ErrorCode::Busy, message));
                }
                let mut bound = lock(&self.mount).bound.clone();
                bound.retain(|(pid, start)| agentfs_fsd::proc::is_alive(*pid, *start));
                let pids: Vec<u32> = bound.iter().map(|(pid, _)| *pid).collect();
                let stopped = Paused::runs_of(&pids);
                paused = Some(stopped.map_err(|e| Refusal::new(ErrorCode::Busy, e))?);
            }
            let frozen = self.core.alone(|core| {
                // A file may just have been opened.
                let late = paused.is_none() && core.has_native_writers();
                (!late).then(|| core.freeze(held, what.clone()))
            });
            if let Some(frozen) = frozen.ok_or_else(not_mounted)? {
                return frozen.map_err(|e| refusal::of_core(&e));
            }
        }
    }

    fn serve(
        &self,
        face: Face,
        device: OwnedFd,
        passthrough: bool,
        regime: Regime,
    ) -> Result<(), Refusal> {
        let failed = |e: std::io::Error| Refusal::new(ErrorCode::Io, format!("serve FUSE: {e}"));
        let options = Options {
            passthrough_depth: passthrough.then(|| self.passthrough_depth()),
            regime: Some(regime),
            ..self.options
        };
        let session = match self.own_shared() {
            Some(mount) => FuseSession::start_shared(mount.shared(), device, options),
            None => FuseSession::start(Arc::clone(&self.core), face, device, options),
        };
        let session = session.map_err(failed)?;
        let mut mount = lock(&self.mount);
        mount.served = true;
        mount.transport = Some(match session.is_by_ring() {
            true => Transport::IoUring,
            false => Transport::Device,
        });
        drop(mount);
        let events = self.events.clone();
        let spawned = thread::Builder::new().name("fuse".into()).spawn(move || {
            // Fails only when the daemon is ending anyway.
            let _ = events.send(Event::Unmounted(session.run()));
        });
        spawned.map(drop).map_err(failed)
    }
}

impl Service for Daemon {
    fn branch(&self) -> &BranchName {
        &self.name
    }

    fn attach(
        &self,
        mount: MountSpec,
        device: OwnedFd,
        namespaces: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let namespaces = match <[OwnedFd; 2]>::try_from(namespaces) {
            Ok(both) => Some(both),
            Err(none) if none.is_empty() => None,
            Err(_) => {
                let message = "attach takes no namespaces, or a user and a mount namespace";
                return Err(Refusal::new(ErrorCode::Malformed, message));
            }
        };
        check_device(&device)?;
        let live = lock(&self.waiting).take().ok_or_else(|| {
            Refusal::new(
                ErrorCode::NotAllowed,
                "the branch was handed to a mount already",
            )
        })?;
        // Where pages are one branch's, the kernel must not write past us to another's.
        let natively = mount.passthrough && !mount.shared;
        // Who is at the limit wants the room of a removed file with its last close, not soon after it.
        let by_opens = natively || !live.info().limit.is_none();
        let regime = match (mount.shared, self.options.regime) {
            (true, _) => Regime::Passthrough,
            (false, asked) => asked.unwrap_or(Regime::default_for(by_opens)),
        };
        let passthrough = natively && regime == Regime::Passthrough;
        info!(roots = ?mount.roots, %regime, passthrough, mount.shared, "attach");
        let id = live.info().id;
        let shown = mount.root.unwrap_or_else(|| PathBuf::from("/"));
        let config = CoreConfig {
            roots: mount.roots,
            conceal: mount.conceal,
            mountpoint: mount.mountpoint,
            base: PathBuf::from("/"),
            passthrough,
        };
        let setting = Setting {
            store: self.store.clone(),
            config: config.clone(),
            shown: shown.clone(),
            events: self.events.clone(),
            options: self.options,
        };
        let core = FsCore::new(live, config).map_err(|e| refusal::of_core(&e))?;
        if thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) {
            core.make_objects_ahead();
        }
        let passthrough = core.opens_natively();
        let root = core.enter(&shown).map_err(|e| refusal::of_core(&e))?;
        self.core.open(core);
        if mount.shared {
            let default = (self.name.clone(), id);
            let several = SharedMount::new(setting, default, self.core(), root)?;
            // Set once, as the branch is attached once.
            let _ = self.shared.set(Arc::new(several));
        }
        let one_user = match mount.only_ids {
            Some(ids) => Some(OneUser {
                uid: ids.uid,
                gid: ids.gid,
                groups: own_groups()?,
            }),
            None => None,
        };
        let face = Face {
            root,
            one_user,
            covered: mount.covered,
        };
        self.serve(face, device, passthrough, regime)?;
        let mut kept = lock(&self.mount);
        kept.namespaces = namespaces;
        kept.policy = mount.policy;
        Ok(())
    }

    fn bind(&self, pid: u32, start_ticks: u64) -> Result<Vec<u32>, Refusal> {
        let _alone = lock(&self.freezing);
        self.core
            .with(|core| core.register_process(pid, start_ticks))
            .ok_or_else(not_mounted)?
            .map_err(|e| refusal::of_core(&e))
            .inspect(|_| {
                let mut mount = lock(&self.mount);
                mount.complete = true;
                mount.bound.push((pid, start_ticks));
            })
    }

    fn join(&self) -> Result<([OwnedFd; 2], Option<String>), Refusal> {
        let mount = lock(&self.mount);
        let Some([user, mnt]) = mount.namespaces.as_ref().filter(|_| mount.complete) else {
            return Err(not_mounted());
        };
        let copy = |fd: &OwnedFd| {
            fd.as_fd()
                .try_clone_to_owned()
                .map_err(|e| Refusal::new(ErrorCode::Io, e))
        };
        Ok(([copy(user)?, copy(mnt)?], mount.policy.clone()))
    }

    fn status(&self) -> (Vec<u32>, bool, Option<Transport>) {
        let alive = self.core.with(FsCore::live_processes).unwrap_or_default();
        let mount = lock(&self.mount);
        (alive, mount.served, mount.transport)
    }

    fn used(&self) -> Option<Used> {
        let used = |core: &FsCore| {
            let account = core.account()?;
            let usage = account.usage();
            Some(Used {
                limit: account.limit(),
                bytes: usage.bytes,
                inodes: usage.inodes,
                refused: account.refused(),
            })
        };
        self.core.with(used).flatten()
    }

    fn sync(&self) -> Result<(), Refusal> {
        // A branch that was never mounted has nothing that is not durable.
        self.core
            .with(FsCore::sync_all)
            .unwrap_or(Ok(()))
            .map_err(|e| refusal::of_core(&e))
    }

    fn snapshot(&self, name: Option<SnapshotName>) -> Result<SnapshotName, Refusal> {
        let held = self.store.hold().map_err(|e| refusal::of_store(&e))?;
        let frozen = self.freeze(&held, FreezeFor::Snapshot(name))?;
        let made = frozen
            .snapshot
            .ok_or_else(|| Refusal::new(ErrorCode::Io, "no snapshot was made"))?;
        info!(snapshot = %made.name, "snapshot");
        Ok(made.name)
    }

    fn branch_off(&self, name: &BranchName, workspace: PathBuf) -> Result<(), Refusal> {
        let failed = |e| refusal::of_store(&e);
        let held = self.store.hold().map_err(failed)?;
        let live = self.store.branch(&self.name).map_err(failed)?;
        // Before the run is stopped for nothing.
        self.store.must_be_free(name).map_err(failed)?;
        let frozen = self.freeze(&held, FreezeFor::Sharing)?;
        let new = NewBranch { workspace };
        (self.store)
            .branch_off(&held, name, &live, &frozen.shared, new)
            .map(|_| info!(branch = %name, "branched off"))
            .map_err(failed)
    }

    fn bind_to(
        &self,
        branch: &BranchName,
        pid: u32,
        start_ticks: u64,
    ) -> Result<(u32, Vec<u32>), Refusal> {
        match self.shared.get() {
            Some(shared) => shared.bind_to(branch, pid, start_ticks),
            None => Err(not_shared(&self.name)),
        }
    }

    fn unbind(&self, pid: u32) -> Result<(), Refusal> {
        match self.shared.get() {
            Some(shared) => shared.unbind(pid),
            None => Err(not_shared(&self.name)),
        }
    }

    fn bindings(&self) -> Result<Bindings, Refusal> {
        match self.shared.get() {
            Some(shared) => Ok(shared.bindings()),
            None => Err(not_shared(&self.name)),
        }
    }

    fn sessions_over(&self) {
        info!("the last session ended");
        lock(&self.mount).namespaces = None;
    }

    fn idle(&self) {
        // A launcher that was killed between Attach and Session leaves nobody else to do it.
        lock(&self.mount).namespaces = None;
        if self.events.send(Event::Idle).is_err() {
            warn!("the daemon is ending already");
        }
    }
}

/// The supplementary groups of the daemon, which are those of the user it serves.
fn own_groups() -> Result<Vec<u32>, Refusal> {
    let groups = nix::unistd::getgroups()
        .map_err(|e| Refusal::new(ErrorCode::Io, format!("read the groups: {e}")))?;
    Ok(groups.into_iter().map(nix::unistd::Gid::as_raw).collect())
}

fn not_mounted() -> Refusal {
    Refusal::new(
        ErrorCode::NotMounted,
        "the branch is not mounted yet, or its run is ending",
    )
}

/// A read of something else could block for good.
fn check_device(device: &OwnedFd) -> Result<(), Refusal> {
    let stat = rustix::fs::fstat(device).map_err(|e| Refusal::new(ErrorCode::Io, e))?;
    let number = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if is_device && number == FUSE_DEVICE {
        Ok(())
    } else {
        Err(Refusal::new(
            ErrorCode::Malformed,
            "the descriptor to attach is not /dev/fuse",
        ))
    }
}
