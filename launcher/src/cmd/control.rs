//! `agentfs-control-cli`: the branches of a mount, and which process sees which.
//!
//! What concerns snapshots and branches goes the same way as `agentfs snapshot` and `agentfs branch`:
//! by the daemon that has the branch, if one has. Binding is the mount's daemon's alone.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentfs_fsd::backstore::{BranchInfo, NewBranch, Snapshot, Store};
use agentfs_fsd::core::point::{Point, SnapshotName};
use agentfs_fsd::core::types::{BranchName, Time};
use agentfs_fsd::ctl::CtlError;
use agentfs_fsd::ctl::client::{Bindings, Client};
use agentfs_fsd::ctl::msg::{ErrorCode, Transport};
use agentfs_fsd::proc::{self, ProcError};
use serde_json::{Value, json};

use crate::cli::{ControlCli, ControlCommand};
use crate::cmd::run::Here;
use crate::cmd::{Globals, branch, mount, snapshot};
use crate::error::CmdError;
use crate::review::json::{self, put_bytes};
use crate::review::style::escape_word;
use crate::review::table;
use crate::{hostmount, live, say};

/// A mount that is served.
struct Mount {
    store: Store,
    /// Where it is.
    target: PathBuf,
    /// The directory that it shows.
    base: PathBuf,
    /// The branch that it shows, or shows to whoever is bound to none.
    branch: BranchName,
    client: Client,
    /// `None`: it shows one branch to everybody.
    bindings: Option<Bindings>,
    /// All branches of the store.
    all: Vec<BranchInfo>,
}

/// Runs the command.
pub fn run(cli: &ControlCli, globals: &Globals) -> Result<ExitCode, CmdError> {
    let dir = cli.mount.as_deref().ok_or_else(|| {
        let fix = "name it with --mount DIR; `agentfs ls` shows what is mounted";
        CmdError::refused("the mount", "was not named", fix)
    })?;
    let mount = Mount::find(dir, globals)?;
    let (value, text) = match &cli.command {
        ControlCommand::SnapshotList { branch } => mount.list_snapshots(branch.as_deref())?,
        ControlCommand::SnapshotCreate { name, branch } => {
            mount.create_snapshot(branch.as_deref(), name.as_ref())?
        }
        ControlCommand::BranchCreate { snapshot, name } => mount.create_branch(snapshot, name)?,
        ControlCommand::BranchList => mount.list_branches(),
        ControlCommand::BranchBind { branch, pid } => mount.bind(branch, *pid)?,
        ControlCommand::BranchUnbind { pid } => {
            let done = mount.client.unbind(*pid);
            done.map_err(|e| mount.daemon(e))?;
            (json!({ "pid": pid }), String::new())
        }
        ControlCommand::Status => mount.status()?,
    };
    say::answer(&match cli.json {
        true => {
            let mut object = json!({ "version": json::VERSION });
            if let (Value::Object(object), Value::Object(more)) = (&mut object, value) {
                object.extend(more);
            }
            format!("{object:#}\n")
        }
        false => text,
    })?;
    Ok(ExitCode::SUCCESS)
}

impl Mount {
    fn find(dir: &Path, globals: &Globals) -> Result<Self, CmdError> {
        let fix = "`agentfs ls` shows what is mounted";
        let what = || format!("mount point {}", dir.display());
        let target = std::fs::canonicalize(dir)
            .map_err(|e| CmdError::refused(what(), e.to_string(), fix))?;
        if hostmount::ours_at(&target)?.is_none() {
            return Err(mount::not_ours(&target));
        }
        let here = Here::look(globals)?;
        let elsewhere = || {
            let why = format!("no daemon of the store {} serves it", here.store.display());
            let fix = "name its store with --store DIR, or unmount it if its daemon was killed";
            CmdError::refused(what(), why, fix)
        };
        let store = Store::open(&here.store)?.ok_or_else(elsewhere)?;
        let served = mount::served_at(&store, &target)?;
        let (info, run) = served.into_iter().next().ok_or_else(elsewhere)?;
        let client = Client::connect(&store.control_path(&info.name));
        let client = client.map_err(|e| CmdError::daemon(&info.name, e))?;
        let bindings = match client.bindings() {
            Ok(bindings) => Some(bindings),
            Err(CtlError::Refused {
                code: ErrorCode::NotShared,
                ..
            }) => None,
            Err(e) => return Err(CmdError::daemon(&info.name, e)),
        };
        let default = bindings.as_ref().map(|b| b.default.clone());
        Ok(Self {
            target,
            base: run.cwd,
            branch: default.unwrap_or(info.name),
            client,
            bindings,
            all: branch::infos(&store)?,
            store,
        })
    }

    fn daemon(&self, e: CtlError) -> CmdError {
        CmdError::daemon(&self.branch, e)
    }

    /// The branch with this name or id. `instead`: what does it where a snapshot is named.
    fn branch(
        &self,
        word: &str,
        instead: impl Fn(&Point) -> String,
    ) -> Result<&BranchInfo, CmdError> {
        let by_name = self.all.iter().find(|info| info.name.as_str() == word);
        let by_id = || self.all.iter().find(|info| hex(info.id) == word);
        by_name.or_else(by_id).ok_or_else(|| {
            if let Ok((info, snapshot)) = self.snapshot(word) {
                let point = Point {
                    branch: info.name.clone(),
                    snapshot: Some(snapshot.name.clone()),
                };
                let what = format!("'{}'", escape_word(word.as_bytes()));
                let why = "is a snapshot, and this is for branches";
                return CmdError::refused(what, why, instead(&point));
            }
            let fix = "branch-list lists the branches";
            let what = format!("branch '{}'", escape_word(word.as_bytes()));
            CmdError::refused(what, "there is none of that name or id", fix)
        })
    }

    /// The snapshot written so, or with this id.
    fn snapshot(&self, word: &str) -> Result<(&BranchInfo, &Snapshot), CmdError> {
        let all = || {
            let of = |info| move |snapshot| (info, snapshot);
            self.all
                .iter()
                .flat_map(move |info: &BranchInfo| info.snapshots.iter().map(of(info)))
        };
        let by_name = all().find(|(info, s)| format!("{}@{}", info.name, s.name) == word);
        let by_id = || all().find(|(_, s)| hex(s.id) == word);
        by_name.or_else(by_id).ok_or_else(|| {
            let fix = "snapshot-list lists the snapshots; write one as BRANCH@SNAPSHOT";
            let what = format!("snapshot '{}'", escape_word(word.as_bytes()));
            CmdError::refused(what, "there is none of that name or id", fix)
        })
    }

    /// Whether the branch is one of the mount's: made for its base, or open.
    fn has(&self, info: &BranchInfo) -> bool {
        info.workspace == self.base || self.is_open(&info.name)
    }

    fn is_open(&self, name: &BranchName) -> bool {
        match &self.bindings {
            Some(bindings) => bindings.open.contains(name),
            None => *name == self.branch,
        }
    }

    fn list_snapshots(&self, branch: Option<&str>) -> Result<(Value, String), CmdError> {
        let instead = |point: &Point| {
            let branch = &point.branch;
            format!("snapshot-list --branch {branch} lists it, and the others of that branch")
        };
        let only = branch.map(|word| self.branch(word, instead)).transpose()?;
        let wanted = |info: &&BranchInfo| match only {
            Some(only) => info.id == only.id,
            None => self.has(info),
        };
        let found = by_age(
            (self.all.iter().filter(wanted))
                .flat_map(|info| info.snapshots.iter().map(move |s| (info, s))),
        );
        let now = Time::now();
        let mut cells = vec![["SNAPSHOT", "ID", "AGE"].map(str::to_owned).to_vec()];
        for (info, s) in &found {
            let age = table::age(now.sec.saturating_sub(s.created.sec));
            cells.push(vec![format!("{}@{}", info.name, s.name), hex(s.id), age]);
        }
        let list: Vec<Value> = (found.iter())
            .map(|(info, s)| snapshot::to_json(info, s, &self.all))
            .collect();
        let text = table::render(&cells, &[], table::terminal_columns());
        Ok((json!({ "snapshots": list }), text))
    }

    fn create_snapshot(
        &self,
        branch: Option<&str>,
        name: Option<&SnapshotName>,
    ) -> Result<(Value, String), CmdError> {
        let branch = match branch {
            Some(word) => {
                let instead = |point: &Point| {
                    let branch = &point.branch;
                    format!(
                        "snapshot-create --branch {branch} freezes what that branch holds now, \
                         branch-create --snapshot {point} --name NEW makes a branch of the snapshot"
                    )
                };
                &self.branch(word, instead)?.name
            }
            None => &self.branch,
        };
        let name = live::create_snapshot(&self.store, branch, name)?;
        let made = self.store.branch(branch)?;
        let id = made.snapshot(&name).map(|s| hex(s.id));
        let point = format!("{branch}@{name}");
        Ok((json!({ "snapshot": point, "id": id }), format!("{point}\n")))
    }

    fn create_branch(&self, word: &str, name: &BranchName) -> Result<(Value, String), CmdError> {
        let (info, snapshot) = self.snapshot(word)?;
        let from = Point {
            branch: info.name.clone(),
            snapshot: Some(snapshot.name.clone()),
        };
        let new = NewBranch {
            workspace: info.workspace.clone(),
        };
        let made = live::create_branch(&self.store, name, Some(&from), &new)?;
        let parent = from.to_string();
        Ok((
            json!({ "branch": name.as_str(), "id": hex(made.id), "parent": parent }),
            format!("{name}\n"),
        ))
    }

    /// Pids of the bound processes, by branch.
    fn pids(&self) -> BTreeMap<&BranchName, Vec<u32>> {
        let mut pids: BTreeMap<&BranchName, Vec<u32>> = BTreeMap::new();
        for bound in self.bindings.iter().flat_map(|b| &b.bound) {
            pids.entry(&bound.branch).or_default().push(bound.pid);
        }
        pids
    }

    fn list_branches(&self) -> (Value, String) {
        let pids = self.pids();
        let mut cells = vec![
            ["BRANCH", "ID", "FROM", "STATE", "PIDS"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let mut list = Vec::new();
        for info in self.all.iter().filter(|info| self.has(info)) {
            let bound = pids.get(&info.name).cloned().unwrap_or_default();
            let is_default = info.name == self.branch;
            let state = match (is_default, self.is_open(&info.name)) {
                (true, _) => "default",
                (false, true) => "open",
                (false, false) => "-",
            };
            let from = info.parent.as_ref().map(ToString::to_string);
            cells.push(vec![
                info.name.to_string(),
                hex(info.id),
                from.unwrap_or_else(|| "-".into()),
                state.to_owned(),
                numbers(&bound),
            ]);
            let mut value = branch::to_json(info);
            value["default"] = is_default.into();
            value["open"] = self.is_open(&info.name).into();
            value["pids"] = bound.into();
            list.push(value);
        }
        let text = table::render(&cells, &[], table::terminal_columns());
        (json!({ "branches": list }), text)
    }

    fn bind(&self, word: &str, pid: u32) -> Result<(Value, String), CmdError> {
        // The mount says what it is before the branch or the process is looked at.
        if self.bindings.is_none() {
            let refused = self.client.unbind(pid);
            refused.map_err(|e| self.daemon(e))?;
        }
        let instead = |point: &Point| {
            format!("branch-create --snapshot {point} --name NEW, then bind the process to NEW")
        };
        let branch = self.branch(word, instead)?.name.clone();
        let facts = proc::facts(pid).map_err(|e| match e {
            ProcError::Gone(pid) => {
                let fix = "name a process that is alive, by its pid on the host";
                CmdError::refused(format!("process {pid}"), "there is none", fix)
            }
            e => CmdError::refused(format!("process {pid}"), e.to_string(), ""),
        })?;
        let (pid, groups) = self
            .client
            .bind_to(branch.clone(), pid, facts.start_ticks)
            .map_err(|e| self.daemon(e))?;
        let value = json!({ "pid": pid, "branch": branch.as_str(), "groups": groups });
        Ok((value, String::new()))
    }

    fn status(&self) -> Result<(Value, String), CmdError> {
        let served = self.client.status().map_err(|e| self.daemon(e))?;
        let requests = match served.transport {
            Some(Transport::IoUring) => "by io_uring, on the CPU of who asks",
            _ => "by /dev/fuse",
        };
        let open: Vec<&str> = match &self.bindings {
            Some(bindings) => bindings.open.iter().map(BranchName::as_str).collect(),
            None => vec![self.branch.as_str()],
        };
        let hears_forks = self.bindings.as_ref().map(|b| b.hears_forks);
        let children = match hears_forks {
            None => "the mount is not shared: all processes see its branch",
            Some(true) => "known by the kernel's events of forks",
            Some(false) => {
                "known by their parents: a daemon that was not seen before counts as unbound"
            }
        };
        let pid = self.client.pid();
        let mut text = format!(
            "mount       {}\nbase        {}\nbranch      {}\ndaemon      {pid}\nopen        {}\nchildren    {children}\nrequests    {requests}\n",
            escape_word(self.target.as_os_str().as_bytes()),
            escape_word(self.base.as_os_str().as_bytes()),
            self.branch,
            open.join(" "),
        );
        let mut bound = Vec::new();
        for (branch, pids) in self.pids() {
            text.push_str(&format!("bound       {branch}: {}\n", numbers(&pids)));
            let of = |pid: &u32| json!({ "pid": pid, "branch": branch.as_str() });
            bound.extend(pids.iter().map(of));
        }
        let mut value = json!({
            "shared": self.bindings.is_some(),
            "branch": self.branch.as_str(),
            "daemon": pid,
            "open": open,
            "bound": bound,
            "hears_forks": hears_forks,
            "transport": served.transport,
        });
        if let Value::Object(object) = &mut value {
            put_bytes(object, "mount", self.target.as_os_str().as_bytes());
            put_bytes(object, "base", self.base.as_os_str().as_bytes());
        }
        Ok((value, text))
    }
}

/// Oldest first. Those of one branch stay in the order that they were made in, also where the clock was
/// set back between them; each then counts as no older than the one before.
fn by_age<'a>(
    found: impl Iterator<Item = (&'a BranchInfo, &'a Snapshot)>,
) -> Vec<(&'a BranchInfo, &'a Snapshot)> {
    let mut newest: BTreeMap<u64, Time> = BTreeMap::new();
    let mut keyed = Vec::new();
    for (info, snapshot) in found {
        let newest = newest.entry(info.id).or_insert(snapshot.created);
        *newest = snapshot.created.max(*newest);
        keyed.push((*newest, (info, snapshot)));
    }
    keyed.sort_by_key(|(at, _)| *at);
    keyed.into_iter().map(|(_, found)| found).collect()
}

/// An id as it is printed.
fn hex(id: u64) -> String {
    format!("{id:016x}")
}

fn numbers(pids: &[u32]) -> String {
    match pids.is_empty() {
        true => "-".to_owned(),
        false => pids
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    }
}

#[cfg(test)]
mod tests {
    use agentfs_fsd::backstore::Limit;

    use super::*;

    fn branch(id: u64, created_sec: &[i64]) -> BranchInfo {
        let snapshots = created_sec.iter().zip(1u64..).map(|(sec, n)| Snapshot {
            name: SnapshotName::new(&n.to_string()).unwrap(),
            id: n,
            created: Time { sec: *sec, nsec: 0 },
            layers: Vec::new(),
        });
        BranchInfo {
            name: BranchName::new(&format!("b{id}")).unwrap(),
            id,
            parent: None,
            created: Time::default(),
            workspace: "/".into(),
            last_run: None,
            layers: Vec::new(),
            inherited: 0,
            snapshots: snapshots.collect(),
            limit: Limit::default(),
        }
    }

    #[test]
    fn snapshots_of_a_branch_stay_in_their_order_whatever_the_clock_said() {
        // The clock went back by 50 before the third one.
        let (one, other) = (branch(1, &[100, 110, 60, 70]), branch(2, &[90, 105, 120]));
        let of = |info| move |snapshot| (info, snapshot);
        let found = by_age(
            [&one, &other]
                .into_iter()
                .flat_map(|info| info.snapshots.iter().map(of(info))),
        );
        let order: Vec<_> = (found.iter())
            .map(|(info, s)| format!("{}@{}", info.name, s.name))
            .collect();
        assert_eq!(
            order,
            ["b2@1", "b1@1", "b2@2", "b1@2", "b1@3", "b1@4", "b2@3"]
        );
    }
}
