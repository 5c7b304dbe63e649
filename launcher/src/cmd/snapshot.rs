//! `agentfs snapshot` and `agentfs restore`: frozen points of a branch, and the way back to them.

use std::process::ExitCode;

use agentfs_fsd::backstore::{BranchInfo, Listed, Snapshot, Store, StoreError};
use agentfs_fsd::core::point::{Point, SnapshotName};
use agentfs_fsd::core::types::{BranchName, Time};
use serde_json::{Value, json};

use crate::cli::{RestoreArgs, SnapshotCommand};
use crate::cmd::Globals;
use crate::error::CmdError;
use crate::live;
use crate::review::{json, table};
use crate::say::{self, say};

/// Runs the subcommand.
pub fn run(command: &SnapshotCommand, globals: &Globals) -> Result<ExitCode, CmdError> {
    match command {
        SnapshotCommand::Create(args) => {
            let store = open(globals, &args.branch)?;
            let name = live::create_snapshot(&store, &args.branch, args.name.as_ref())?;
            let point = format!("{}@{name}", args.branch);
            if args.json {
                say::answer(&format!(
                    "{:#}\n",
                    json!({ "version": json::VERSION, "snapshot": point })
                ))?;
            } else {
                say::answer(&format!("{point}\n"))?;
            }
        }
        SnapshotCommand::List(args) => {
            let store = open(globals, &args.branch)?;
            let info = store.branch(&args.branch)?;
            let all = infos(&store)?;
            let text = if args.json {
                let list: Vec<Value> = (info.snapshots.iter())
                    .map(|s| to_json(&info, s, &all))
                    .collect();
                let branch = info.name.as_str();
                let value =
                    json!({ "version": json::VERSION, "branch": branch, "snapshots": list });
                format!("{value:#}\n")
            } else {
                columns(&info, &all, Time::now())
            };
            say::answer(&text)?;
        }
        SnapshotCommand::Show(args) => show(&args.point, args.json, globals)?,
        SnapshotCommand::Rm(args) => {
            for point in &args.points {
                let (branch, name) = snapshot_of(point)?;
                open(globals, branch)?.remove_snapshot(branch, name)?;
                say!("agentfs: removed snapshot {point}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `agentfs snapshot show`.
pub fn show(point: &Point, as_json: bool, globals: &Globals) -> Result<(), CmdError> {
    let (branch, name) = snapshot_of(point)?;
    let store = open(globals, branch)?;
    let info = store.branch(branch)?;
    let snapshot = info.snapshot(name).ok_or_else(|| none(branch, name))?;
    let value = to_json(&info, snapshot, &infos(&store)?);
    say::answer(&match as_json {
        true => format!(
            "{:#}\n",
            json!({ "version": json::VERSION, "snapshot": value })
        ),
        false => shown(point, snapshot, &value),
    })?;
    Ok(())
}

/// `agentfs restore`.
pub fn restore(args: &RestoreArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    let (branch, snapshot) = way_back(args)?;
    let store = open(globals, branch)?;
    let saved = store.restore(branch, snapshot)?;
    say!("agentfs: branch {branch} holds again what {branch}@{snapshot} does");
    match saved {
        Some(saved) => say!("agentfs: what it held before is {branch}@{}", saved.name),
        None => say!("agentfs: what it held before is in a snapshot already"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The branch that goes back, and where to: given as `BRANCH@SNAPSHOT`, or in two words.
fn way_back(args: &RestoreArgs) -> Result<(&BranchName, &SnapshotName), CmdError> {
    let branch = &args.point.branch;
    let Some(word) = &args.snapshot else {
        return snapshot_of(&args.point);
    };
    let refused = |word: String, why: &str, fix: String| {
        let what = format!("restore {} {word}", args.point);
        Err(CmdError::refused(what, why, fix))
    };
    match (&args.point.snapshot, &word.branch) {
        (None, Some(other)) if other != branch => refused(
            format!("{other}@{}", word.name),
            "a branch goes back to snapshots of its own",
            format!(
                "`agentfs branch create NEW --from {other}@{}` makes a branch of that one",
                word.name
            ),
        ),
        (None, _) => Ok((branch, &word.name)),
        (Some(_), _) => refused(
            word.name.to_string(),
            "names two snapshots to go back to",
            format!("`agentfs restore {}`, or the other one", args.point),
        ),
    }
}

/// The store, which must hold `branch`.
fn open(globals: &Globals, branch: &BranchName) -> Result<Store, CmdError> {
    let store = Store::open(&globals.store_path)?;
    Ok(store.ok_or_else(|| StoreError::NoBranch(branch.to_string()))?)
}

pub fn infos(store: &Store) -> Result<Vec<BranchInfo>, CmdError> {
    let infos = store.list()?.into_iter().filter_map(|listed| match listed {
        Listed::Branch(info) => Some(info),
        Listed::Damaged { .. } => None,
    });
    Ok(infos.collect())
}

pub fn none(branch: &BranchName, name: &SnapshotName) -> StoreError {
    StoreError::NoSnapshot {
        branch: branch.to_string(),
        snapshot: name.to_string(),
    }
}

/// The parts of `BRANCH@SNAPSHOT`.
fn snapshot_of(point: &Point) -> Result<(&BranchName, &SnapshotName), CmdError> {
    let name = point.snapshot.as_ref().ok_or_else(|| {
        let fix = format!(
            "write BRANCH@SNAPSHOT; `agentfs snapshot list {}` names them",
            point.branch
        );
        CmdError::refused(format!("'{point}'"), "names a branch and no snapshot", fix)
    })?;
    Ok((&point.branch, name))
}

/// The branches that were made from a snapshot.
fn made_from<'a>(info: &BranchInfo, snapshot: &Snapshot, all: &'a [BranchInfo]) -> Vec<&'a str> {
    let is_child = |other: &&BranchInfo| {
        other.parent.as_ref().is_some_and(|parent| {
            parent.id == Some(info.id) && parent.point.snapshot.as_ref() == Some(&snapshot.name)
        })
    };
    let children = all.iter().filter(is_child);
    children.map(|child| child.name.as_str()).collect()
}

fn columns(info: &BranchInfo, all: &[BranchInfo], now: Time) -> String {
    let mut cells = vec![
        ["SNAPSHOT", "AGE", "LAYERS", "BRANCHES"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for snapshot in &info.snapshots {
        let children = made_from(info, snapshot, all);
        cells.push(vec![
            format!("{}@{}", info.name, snapshot.name),
            table::age(now.sec.saturating_sub(snapshot.created.sec)),
            snapshot.layers.len().to_string(),
            match children.is_empty() {
                true => "-".to_owned(),
                false => children.join(" "),
            },
        ]);
    }
    table::render(&cells, &[2], table::terminal_columns())
}

/// One snapshot of `agentfs snapshot list --json`:
///
/// ```text
/// name, point (BRANCH@NAME), id (16 hex digits), created (RFC 3339)
/// layers      how many it is made of
/// branches    names of those made from it
/// ```
pub fn to_json(info: &BranchInfo, snapshot: &Snapshot, all: &[BranchInfo]) -> Value {
    json!({
        "name": snapshot.name.as_str(),
        "point": format!("{}@{}", info.name, snapshot.name),
        "id": format!("{:016x}", snapshot.id),
        "created": json::time(snapshot.created),
        "layers": snapshot.layers.len(),
        "branches": made_from(info, snapshot, all),
    })
}

fn shown(point: &Point, snapshot: &Snapshot, value: &Value) -> String {
    let children: Vec<&str> = (value["branches"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    let children = match children.is_empty() {
        true => "none".to_owned(),
        false => children.join(" "),
    };
    format!(
        "snapshot   {point}\nid         {:016x}\ncreated    {}\nlayers     {}\nbranches   {children}\n",
        snapshot.id,
        json::time(snapshot.created),
        snapshot.layers.len(),
    )
}
