//! A mount of several branches: opens each when a process is first bound to it, with a control socket of
//! its own, and closes them all with the mount.

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::thread;

use agentfs_fsd::backstore::{Hidden, LiveBranch, RunRecord, Store};
use agentfs_fsd::bind::{Connector, Lineage};
use agentfs_fsd::core::types::{BranchName, Ino, Time};
use agentfs_fsd::core::{CoreConfig, FsCore};
use agentfs_fsd::ctl::client::Bindings;
use agentfs_fsd::ctl::msg::{BoundProcess, ErrorCode, MOUNT_WORD};
use agentfs_fsd::ctl::server::{self, Refusal, Server};
use agentfs_fsd::fuse::Options;
use agentfs_fsd::shared::{Member, Shared};
use agentfs_fsd::sync::{Arc, Gate, Mutex, lock};
use agentfs_fsd::{bind, proc};
use tracing::{error, info, warn};

use crate::daemon::service::Daemon;
use crate::daemon::{Event, refusal};

/// How the branches of a mount are opened.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub store: Store,
    pub config: CoreConfig,
    /// The directory that the mount shows.
    pub shown: PathBuf,
    pub events: Sender<Event>,
    pub options: Options,
}

/// The mount, and the branches that were opened beside the default one.
#[derive(Debug)]
pub(super) struct SharedMount {
    setting: Setting,
    shared: Arc<Shared>,
    default: BranchName,
    /// Held while one is opened.
    others: Mutex<Vec<Other>>,
}

#[derive(Debug)]
struct Other {
    member: Arc<Member>,
    daemon: Arc<Daemon>,
    socket: PathBuf,
    _server: Arc<Server<Daemon>>,
}

impl SharedMount {
    /// The mount of the branch `default`, whose core shows the mount's root as `root`.
    pub(super) fn new(
        setting: Setting,
        default: (BranchName, u64),
        core: Arc<Gate<FsCore>>,
        root: Ino,
    ) -> Result<Self, Refusal> {
        let events = Connector::open().map_err(|reason| {
            warn!(%reason, "no events of forks: children are known by their parents");
        });
        let lineage = Arc::new(Lineage::new(events.ok()));
        let listening = Arc::clone(&lineage);
        let spawned = thread::Builder::new()
            .name("forks".into())
            .spawn(move || listening.listen());
        spawned.map_err(|e| Refusal::new(ErrorCode::Io, format!("listen to forks: {e}")))?;
        let shared = Arc::new(Shared::new(lineage));
        let (name, id) = default;
        shared.add(name.clone(), id, core, root);
        Ok(Self {
            setting,
            shared,
            default: name,
            others: Mutex::default(),
        })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Lets the cores but the default one do their regular work.
    pub(super) fn maintain(&self) {
        for other in lock(&self.others).iter() {
            other.daemon.maintain();
        }
        self.shared.lineage().maintain();
    }

    /// Closes all branches but the default one.
    pub(super) fn close_others(&self) -> Result<(), Refusal> {
        let mut result = Ok(());
        for other in lock(&self.others).iter() {
            if let Err(refusal) = other.daemon.close() {
                let message = refusal.message.as_str();
                error!(branch = %other.member.name, message, "was not closed cleanly");
                result = Err(refusal);
            }
            if let Err(error) = std::fs::remove_file(&other.socket) {
                warn!(%error, "remove a control socket");
            }
        }
        result
    }

    pub(super) fn bind_to(
        self: &Arc<Self>,
        branch: &BranchName,
        pid: u32,
        start_ticks: u64,
    ) -> Result<(u32, Vec<u32>), Refusal> {
        let lineage = self.shared.lineage();
        let own = nix::unistd::geteuid().as_raw();
        let failed = |e| refusal::of_bind(&e);
        // Before a branch is opened for nothing.
        lineage.check(pid, start_ticks, own).map_err(failed)?;
        let member = self.member(branch)?;
        let pid = lineage
            .bind(pid, start_ticks, member.view, own)
            .map_err(failed)?;
        let groups = proc::groups(pid, start_ticks).unwrap_or_default();
        member.core().with(|core| {
            core.register_process_with_groups(pid, start_ticks, groups.clone());
        });
        info!(pid, %branch, "bound");
        Ok((pid, groups))
    }

    pub(super) fn unbind(&self, pid: u32) -> Result<(), Refusal> {
        let unbound = self.shared.lineage().unbind(pid);
        unbound.map_err(|e: bind::BindError| refusal::of_bind(&e))
    }

    pub(super) fn bindings(&self) -> Bindings {
        let members = self.shared.members();
        let name = |view| {
            let member = members.iter().find(|member| member.view == view);
            member.map_or_else(|| self.default.clone(), |member| member.name.clone())
        };
        let lineage = self.shared.lineage();
        let bound = lineage.bound().into_iter().map(|bound| BoundProcess {
            pid: bound.pid,
            branch: name(bound.view),
        });
        Bindings {
            default: self.default.clone(),
            bound: bound.collect(),
            open: members.iter().map(|member| member.name.clone()).collect(),
            hears_forks: lineage.hears_forks(),
        }
    }

    /// The branch, opened if it is not yet.
    fn member(self: &Arc<Self>, name: &BranchName) -> Result<Arc<Member>, Refusal> {
        let mut others = lock(&self.others);
        let members = self.shared.members();
        if let Some(open) = members.iter().find(|member| member.name == *name) {
            return Ok(Arc::clone(open));
        }
        let store = &self.setting.store;
        let live = store.open_live(name).map_err(|e| refusal::of_store(&e))?;
        let other = self.open(name, live)?;
        let member = Arc::clone(&other.member);
        others.push(other);
        info!(branch = %name, "opened for the mount");
        Ok(member)
    }

    fn open(self: &Arc<Self>, name: &BranchName, live: LiveBranch) -> Result<Other, Refusal> {
        let Setting {
            store,
            config,
            shown,
            events,
            options,
        } = self.setting.clone();
        let of_store = |e| refusal::of_store(&e);
        let of_core = |e| refusal::of_core(&e);
        let id = live.info().id;
        store
            .add_hidden(name, &[Hidden::whole(store.path())])
            .map_err(of_store)?;
        let socket = store.control_path(name);
        let listener = server::listen(&socket).map_err(refusal::of_ctl)?;
        let core = FsCore::new(live, config).map_err(of_core)?;
        let root = core.enter(&shown).map_err(of_core)?;
        store.put_run(name, &self.record()).map_err(of_store)?;
        let daemon = Daemon::beside(name.clone(), core, store, events, options, Arc::clone(self));
        let daemon = Arc::new(daemon);
        let server = Server::start(Arc::clone(&daemon), None, Some(listener))
            .map_err(|e| Refusal::new(ErrorCode::Io, format!("serve the control socket: {e}")))?;
        let member = self.shared.add(name.clone(), id, daemon.core(), root);
        Ok(Other {
            member,
            daemon,
            socket,
            _server: server,
        })
    }

    /// What is noted on a branch while it is mounted, as `agentfs mount` does.
    fn record(&self) -> RunRecord {
        let pid = std::process::id();
        let mountpoint = self.setting.config.mountpoint.clone().unwrap_or_default();
        RunRecord {
            command: vec![MOUNT_WORD.into(), mountpoint.into()],
            cwd: self.setting.shown.clone(),
            pid,
            start_ticks: proc::start_ticks(pid).unwrap_or_default(),
            started: Time::now(),
            ended: None,
            exit: None,
        }
    }
}
