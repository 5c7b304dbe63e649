//! `agentfs run`: decides on a branch, plans, launches, reports.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentfs_fsd::backstore::{BranchInfo, Limit, Store, StoreError};
use agentfs_fsd::core::point::Point;
use agentfs_fsd::core::types::BranchName;
use agentfs_policy::Disk;
use serde::Serialize;

use crate::cli::{CmdArgs, ReportArgs, RunArgs, ViewArgs};
use crate::cmd::{Globals, report};
use crate::error::CmdError;
use crate::launch::{self, Order};
use crate::limit::Wanted;
use crate::plan;
use crate::say::{self, say};
use crate::timings::Timings;
use crate::view::View;
use crate::{names, probe};

/// Runs the subcommand.
pub fn run(args: &RunArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    let here = Here::look(globals)?;
    let store = Store::open(&here.store)?;
    let known = |name: &BranchName| match &store {
        Some(store) => find(store, name),
        None => Ok(None),
    };
    let branch = match &args.branch {
        Some(name) => name.clone(),
        // One that cannot be read is not taken for free.
        None => names::fresh(|name| !matches!(known(name), Ok(None)))?,
    };
    let info = known(&branch)?;
    if let Some(info) = &info {
        refuse_existing(args, info)?;
    } else if let Some(point) = &args.from {
        let parent = known(&point.branch)?;
        let parent = parent.ok_or_else(|| StoreError::NoBranch(point.branch.to_string()))?;
        if let Some(name) = &point.snapshot {
            parent
                .snapshot(name)
                .ok_or_else(|| StoreError::NoSnapshot {
                    branch: parent.name.to_string(),
                    snapshot: name.to_string(),
                })?;
        }
    }
    let workspace = probe::workspace(&here.cwd);
    check_workspace(&workspace)?;
    if let Some(info) = info.as_ref().filter(|info| info.workspace != workspace) {
        say!(
            "agentfs: branch {branch} belongs to {}, you are in {}",
            info.workspace.display(),
            here.cwd.display()
        );
    }
    Job {
        here: &here,
        store: store.as_ref(),
        branch: &branch,
        info: info.as_ref(),
        from: args.from.as_ref(),
        // A name that was made up is for a branch of this run's own.
        must_be_new: args.fresh || args.from.is_some() || args.branch.is_none(),
        workspace: &workspace,
        disk: args.disk,
        view: &args.view,
        report: args.report,
        cmd: &args.cmd,
        dry_run: args.dry_run,
    }
    .execute()
}

/// Refuses a workspace that a run cannot show as it is, and warns of one that is everything.
fn check_workspace(workspace: &Path) -> Result<(), CmdError> {
    if plan::is_private(workspace) {
        return Err(CmdError::refused(
            format!("the workspace {}", workspace.display()),
            "is private inside a run: a command gets a new, empty one",
            "run from a directory of your project, or make one below it: mkdir DIR && cd DIR",
        ));
    }
    if workspace == Path::new("/") {
        say!(
            "agentfs: the workspace is /: everything on the host becomes copy-on-write; run from a \
             directory of your project for less"
        );
    }
    Ok(())
}

fn refuse_existing(args: &RunArgs, info: &BranchInfo) -> Result<(), CmdError> {
    let what = format!("branch {}", info.name);
    if args.fresh {
        let fix = format!(
            "choose another name, or drop it first: agentfs rm {}",
            info.name
        );
        return Err(CmdError::refused(
            what,
            "exists, and --fresh asks for a new one",
            fix,
        ));
    }
    if args.from.is_some() {
        let fix = "choose a new name for the branch, or leave out --from";
        return Err(CmdError::refused(
            what,
            "exists, and --from is for a new one",
            fix,
        ));
    }
    Ok(())
}

/// The branch called `name`; `None` if there is none.
pub fn find(store: &Store, name: &BranchName) -> Result<Option<BranchInfo>, CmdError> {
    match store.branch(name) {
        Ok(info) => Ok(Some(info)),
        Err(StoreError::NoBranch(_)) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Where the caller is and where the store is, as real paths.
#[derive(Debug)]
pub struct Here {
    pub cwd: PathBuf,
    pub store: PathBuf,
}

impl Here {
    /// Looks, and refuses what cannot work from here.
    pub fn look(globals: &Globals) -> Result<Self, CmdError> {
        let cwd = std::env::current_dir().map_err(|e| {
            let fix = "change to a directory that exists, and that you may enter";
            CmdError::refused("the current directory", e.to_string(), fix)
        })?;
        let store = std::path::absolute(&globals.store_path)
            .map_err(|e| CmdError::io("resolve", &globals.store_path, e))?;
        Ok(Self {
            cwd,
            store: probe::real_path(&store),
        })
    }
}

/// A command to run on a branch, found or to be made.
#[derive(Debug)]
pub struct Job<'a> {
    pub here: &'a Here,
    /// The store, if there is one yet.
    pub store: Option<&'a Store>,
    pub branch: &'a BranchName,
    pub info: Option<&'a BranchInfo>,
    pub from: Option<&'a Point>,
    /// A branch of the name that turns up meanwhile will not do.
    pub must_be_new: bool,
    pub workspace: &'a Path,
    pub disk: Option<Disk>,
    pub view: &'a ViewArgs,
    pub report: ReportArgs,
    pub cmd: &'a CmdArgs,
    pub dry_run: bool,
}

impl Job<'_> {
    /// Plans and, unless it is a dry run, launches and reports.
    pub fn execute(&self) -> Result<ExitCode, CmdError> {
        let timings = Timings::begin();
        if !self.dry_run {
            probe::preflight()?;
        }
        let view = View::load(self.view, self.workspace, &self.also_cow())?;
        let wanted = Wanted {
            asked: self.disk,
            policy: view.disk(),
        };
        let plan = view
            .plan(self.branch.as_str(), &self.here.store, &self.here.cwd)?
            .limited(wanted.over(self.limit_before()?));
        if self.dry_run {
            return self.print(&plan);
        }
        // The last moment at which nothing has been touched.
        let store = match self.store {
            Some(store) => store.clone(),
            None => Store::open_or_create(&self.here.store)?,
        };
        let done = launch::run(&Order {
            store: &store,
            branch: self.branch,
            create: if self.info.is_none() {
                Some(self.from)
            } else {
                None
            },
            must_be_new: self.must_be_new,
            workspace: self.workspace,
            plan: &plan,
            wanted,
            policy: view.standing(),
            own_view: self.view.asks_for_something(),
            argv: &self.cmd.argv,
            env: view.environment(self.branch.as_str()),
            quiet: self.report.quiet,
            timings: &timings,
        })?;
        let scope = self.info.map_or(self.workspace, |info| &info.workspace);
        let created = self.info.is_none();
        let run = report::Run {
            store: &store,
            branch: self.branch,
            scope,
            created,
            done,
            timings: &timings,
        };
        Ok(report::after(&run, self.cmd, self.report))
    }

    /// The limit that the branch has, or inherits.
    fn limit_before(&self) -> Result<Limit, CmdError> {
        let parent = self
            .from
            .zip(self.store)
            .map(|(from, store)| store.branch(&from.branch));
        Ok(match (self.info, parent) {
            (Some(info), _) => info.limit,
            (None, Some(parent)) => parent?.limit,
            (None, None) => Limit::default(),
        })
    }

    /// Further places that are copy-on-write whatever the policy says: the workspace that the branch
    /// was made for, and the git directory that a linked worktree shares.
    fn also_cow(&self) -> Vec<(PathBuf, &'static str)> {
        let mut list = Vec::new();
        let recorded = self.info.map(|info| info.workspace.clone());
        if let Some(path) = recorded.filter(|p| p != self.workspace && p.is_dir()) {
            list.push((path, "the branch's workspace"));
        }
        let git_dir = probe::linked_git_dir(self.workspace);
        list.extend(git_dir.map(|path| (path, "the worktree's git directory")));
        list
    }

    fn print(&self, plan: &plan::Plan) -> Result<ExitCode, CmdError> {
        if self.report.json {
            let version = crate::review::json::VERSION;
            let text = serde_json::to_string_pretty(&Versioned { version, plan }).map_err(|e| {
                CmdError::refused("print the plan as JSON", e.to_string(), "leave out --json")
            })?;
            say::answer(&(text + "\n"))?;
        } else {
            let argv: Vec<_> = self.cmd.argv.iter().map(|a| a.to_string_lossy()).collect();
            let text = plan::readable(plan, self.branch.as_str(), &argv.join(" "));
            say::answer(&text)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A plan as JSON for programs.
#[derive(Serialize)]
struct Versioned<'a> {
    version: u32,
    #[serde(flatten)]
    plan: &'a plan::Plan,
}
