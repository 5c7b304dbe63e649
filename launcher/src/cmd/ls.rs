//! `agentfs ls`: the branches, what runs on them, and how much they changed; and so for snapshots, by name.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};

use agentfs_fsd::backstore::{BranchInfo, Listed, RunExit, Snapshot, Store, StoreError};
use agentfs_fsd::core::point::Point;
use agentfs_fsd::core::types::Time;

use crate::cli::LsArgs;
use crate::cmd::{Globals, branch, mount, snapshot};
use crate::error::CmdError;
use crate::limit;
use crate::review::json::{self, put_bytes, put_words};
use crate::review::loss::lost_words;
use crate::review::style::escape_word;
use crate::review::{Summary, summary, table};
use crate::say::{self, say};

/// What a branch is doing.
enum State {
    /// It never ran anything.
    New,
    /// Someone holds it: the launcher's pid if known, else the owner's.
    Running(u32),
    /// It is mounted, by the daemon with this pid.
    Mounted(u32, OsString),
    /// The last run ended so.
    Ended(RunExit),
    /// The last run ended unseen: its launcher was killed, or the machine went down.
    Interrupted,
    /// What is stored of it is not what was written.
    Damaged(String),
    /// It is a snapshot, which does nothing.
    Snapshot,
    /// It cannot be looked at, which says nothing of what it holds: a word for why, and the reason.
    Unreadable(&'static str, String),
}

impl Row {
    fn created(&self) -> Option<Time> {
        match (&self.snapshot, &self.info) {
            (Some((snapshot, _)), _) => Some(snapshot.created),
            (None, info) => info.as_ref().map(|info| info.created),
        }
    }
}

impl State {
    /// What keeps a branch from being read, or its owner from being known.
    fn of_store(e: &StoreError) -> Self {
        let why = e.to_string();
        match e {
            StoreError::Damaged { .. } => Self::Damaged(why),
            StoreError::NewerFormat { .. } => Self::Unreadable("newer format", why),
            StoreError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                Self::Unreadable("no permission", why)
            }
            _ => Self::Unreadable("unreadable", why),
        }
    }
}

/// One branch, or one snapshot.
struct Row {
    name: String,
    /// Of a snapshot, its branch.
    info: Option<BranchInfo>,
    /// The snapshot, and what `agentfs snapshot show --json` has of it.
    snapshot: Option<(Snapshot, Value)>,
    state: State,
    summary: Option<Summary>,
    /// What a repair could not save of it, in words.
    lost: Option<String>,
}

/// Runs the subcommand.
pub fn run(args: &LsArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    let mut rows = Vec::new();
    if let Some(store) = Store::open(&globals.store_path)? {
        let all = store.list()?;
        rows = match args.points.is_empty() {
            true => all.iter().map(|listed| row(&store, listed)).collect(),
            false => asked(&store, &all, &args.points)?,
        };
    } else if let Some(point) = args.points.first() {
        return Err(StoreError::NoBranch(point.branch.to_string()).into());
    } else {
        let path = escape_word(globals.store_path.as_os_str().as_bytes());
        say!("agentfs: there is no store at {path}; the first run makes one");
    }
    for row in &rows {
        if let State::Damaged(why) | State::Unreadable(_, why) = &row.state {
            let (name, why) = (
                escape_word(row.name.as_bytes()),
                escape_word(why.as_bytes()),
            );
            let what = match row.snapshot {
                Some(_) => "snapshot",
                None => "branch",
            };
            say!("agentfs: {what} {name}: {why}");
        }
    }
    let text = if args.json {
        let (snapshots, branches): (Vec<&Row>, Vec<&Row>) =
            rows.iter().partition(|row| row.snapshot.is_some());
        let branches: Vec<Value> = branches.into_iter().map(to_json).collect();
        let snapshots: Vec<Value> = snapshots.into_iter().map(to_json).collect();
        let mut answer = json!({ "version": json::VERSION, "branches": branches });
        if !args.points.is_empty() {
            answer["snapshots"] = snapshots.into();
        }
        format!("{answer:#}\n")
    } else {
        columns(&rows, Time::now())
    };
    say::answer(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The rows of just these points, in their order.
///
/// Errors: `NoBranch`, `NoSnapshot`, or that of a damaged branch whose snapshot is asked for.
fn asked(store: &Store, all: &[Listed], points: &[Point]) -> Result<Vec<Row>, CmdError> {
    let infos: Vec<BranchInfo> = (all.iter())
        .filter_map(|listed| match listed {
            Listed::Branch(info) => Some(info.clone()),
            Listed::Damaged { .. } => None,
        })
        .collect();
    let mut rows = Vec::new();
    for point in points {
        let of_branch = |listed: &&Listed| match listed {
            Listed::Branch(info) => info.name == point.branch,
            Listed::Damaged { name, .. } => name == point.branch.as_str(),
        };
        let listed = all.iter().find(of_branch);
        let listed = listed.ok_or_else(|| StoreError::NoBranch(point.branch.to_string()))?;
        let Some(name) = &point.snapshot else {
            rows.push(row(store, listed));
            continue;
        };
        let info = match listed {
            Listed::Branch(info) => info.clone(),
            Listed::Damaged { .. } => store.branch(&point.branch)?,
        };
        let snapshot = info.snapshot(name).cloned();
        let snapshot = snapshot.ok_or_else(|| snapshot::none(&point.branch, name))?;
        let told = snapshot::to_json(&info, &snapshot, &infos);
        rows.push(Row {
            snapshot: Some((snapshot, told)),
            ..row_of(store, point, info, &|_| State::Snapshot)
        });
    }
    Ok(rows)
}

fn row(store: &Store, listed: &Listed) -> Row {
    match listed {
        Listed::Branch(info) => {
            let point = Point::from(info.name.clone());
            row_of(store, &point, info.clone(), &|info| state(store, info))
        }
        Listed::Damaged { name, why } => Row {
            name: name.clone(),
            info: None,
            snapshot: None,
            state: State::of_store(why),
            summary: None,
            lost: None,
        },
    }
}

fn row_of(
    store: &Store,
    point: &Point,
    info: BranchInfo,
    state: &dyn Fn(&BranchInfo) -> State,
) -> Row {
    // One that cannot be counted must not hide the others.
    let (state, summary) = match summary(store, point, &info.workspace) {
        Ok(summary) => (state(&info), Some(summary)),
        Err(CmdError::Store(e)) => (State::of_store(&e), None),
        Err(e) => (State::Unreadable("unreadable", e.to_string()), None),
    };
    let lost = match store.losses(&info.name) {
        Ok(losses) if losses.is_empty() => None,
        Ok(losses) => Some(lost_words(losses.listed.iter())),
        Err(e) => Some(e.to_string()),
    };
    Row {
        name: point.to_string(),
        info: Some(info),
        snapshot: None,
        state,
        summary,
        lost,
    }
}

fn state(store: &Store, info: &BranchInfo) -> State {
    let owner = match store.live_owner(&info.name) {
        Ok(owner) => owner,
        Err(e) => return State::of_store(&e),
    };
    if let Some(owner) = owner
        && let Some(path) = mounted_at(info, owner)
    {
        return State::Mounted(owner, path.into());
    }
    match (owner, &info.last_run) {
        (Some(_), Some(run)) if run.exit.is_none() && run.pid != 0 => State::Running(run.pid),
        (Some(owner), _) => State::Running(owner),
        (None, None) => State::New,
        (None, Some(run)) => run.exit.map_or(State::Interrupted, State::Ended),
    }
}

/// Where a live branch is mounted, if its owner serves a mount: a run's record has another pid.
pub fn mounted_at(info: &BranchInfo, owner: u32) -> Option<&Path> {
    let run = info.last_run.as_ref()?;
    match &run.command[..] {
        [word, path] if word == mount::RECORD_WORD && run.exit.is_none() && run.pid == owner => {
            Some(Path::new(path))
        }
        _ => None,
    }
}

fn columns(rows: &[Row], now: Time) -> String {
    const RIGHT: [usize; 2] = [4, 5];
    const WORKSPACE: usize = 6;
    const LIMIT: usize = 7;
    let heading = [
        "NAME",
        "PARENT",
        "STATE",
        "CHANGES",
        "SIZE",
        "AGE",
        "WORKSPACE",
        "LIMIT",
        "COMMAND",
    ];
    let mut cells = vec![heading.map(str::to_owned).to_vec()];
    let infos = rows.iter().filter_map(|row| row.info.as_ref());
    let workspaces: BTreeSet<_> = infos.map(|info| &info.workspace).collect();
    for row in rows {
        let info = row.info.as_ref();
        let is_snapshot = row.snapshot.is_some();
        let parent = match is_snapshot {
            true => info.map(|info| info.name.to_string()),
            false => info.and_then(|info| info.parent.as_ref().map(ToString::to_string)),
        };
        // What it may take up and what ran on it are the branch's.
        let of_branch = info.filter(|_| !is_snapshot);
        let run = of_branch.and_then(|info| info.last_run.as_ref());
        cells.push(vec![
            escape_word(row.name.as_bytes()),
            parent.unwrap_or_else(|| "-".into()),
            match row.lost {
                Some(_) => format!("{}, lost files", state_words(&row.state)),
                None => state_words(&row.state),
            },
            row.summary.as_ref().map_or_else(|| "-".into(), counts),
            row.summary
                .as_ref()
                .map_or_else(|| "-".into(), |sum| table::size(sum.bytes)),
            row.created().map_or_else(
                || "-".into(),
                |created| table::age(now.sec.saturating_sub(created.sec)),
            ),
            info.map_or_else(
                || "-".into(),
                |info| escape_word(info.workspace.as_os_str().as_bytes()),
            ),
            of_branch.map_or_else(|| "-".into(), |info| limit::text(info.limit)),
            run.map_or_else(
                || "-".into(),
                |run| table::command(run.command.iter().map(|word| word.as_bytes())),
            ),
        ]);
    }
    let is_limited =
        |row: &Row| row.snapshot.is_none() && row.info.as_ref().is_some_and(|i| !i.limit.is_none());
    if !rows.iter().any(is_limited) {
        for row in &mut cells {
            row.remove(LIMIT);
        }
    }
    if workspaces.len() < 2 {
        for row in &mut cells {
            row.remove(WORKSPACE);
        }
    }
    table::render(&cells, &RIGHT, table::terminal_columns())
}

fn state_words(state: &State) -> String {
    match state {
        State::New => "new".into(),
        State::Running(0) => "running".into(),
        State::Running(pid) => format!("running pid {pid}"),
        State::Mounted(_, path) => format!("mounted {}", escape_word(path.as_bytes())),
        State::Ended(RunExit::Code(code)) => format!("exit {code}"),
        State::Ended(RunExit::Signal(number)) => format!("killed by {}", signal(*number)),
        State::Interrupted => "interrupted".into(),
        State::Snapshot => "snapshot".into(),
        State::Damaged(_) => "damaged".into(),
        State::Unreadable(word, _) => (*word).into(),
    }
}

fn signal(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("signal {number}"),
    }
}

/// The three counts; a `>` in front says that counting stopped before the end. Where they are all
/// zero, what there is elsewhere.
fn counts(sum: &Summary) -> String {
    let more = if sum.complete { "" } else { ">" };
    let mut text = format!("{more}+{} ~{} -{}", sum.added, sum.modified, sum.deleted);
    let elsewhere = [(".git", sum.git_dir), ("outside", sum.outside)];
    let elsewhere: Vec<String> = (elsewhere.iter())
        .filter(|(_, count)| *count > 0)
        .map(|(place, count)| format!("{place} {count}"))
        .collect();
    if (sum.added, sum.modified, sum.deleted) == (0, 0, 0) && !elsewhere.is_empty() {
        text = format!("{text} ({})", elsewhere.join(", "));
    }
    text
}

/// One branch of `agentfs ls --json`:
///
/// ```text
/// name, parent (null: the base), workspace, created (RFC 3339)
/// limit       null, or { bytes, inodes: null where that is not limited }
/// snapshots   beside the branches, where points were named: { branch, workspace, state: snapshot|damaged|unreadable,
///             why, lost, changes, bytes } as of a branch, and what `agentfs snapshot show --json` has
/// state       new|running|exited|killed|interrupted|damaged|unreadable
/// pid         while running; mounted_at: where, if what runs is a mount; exit_code if exited; signal,
///             signal_number if killed; why if damaged or unreadable
/// lost        null, or what a repair could not save of it, in words
/// changes     null if they cannot be counted, else { added, modified, deleted: in the workspace outside .git;
///             git_dir: in a .git of it; outside: elsewhere; complete: false if there is more }
/// bytes       that the store spends on contents of changed files (holes are none)
/// command     of the last run, or null; with started and ended
/// ```
fn to_json(row: &Row) -> Value {
    let mut object = Map::new();
    object.insert("name".into(), row.name.as_str().into());
    if let Some(info) = &row.info {
        put_bytes(
            &mut object,
            "workspace",
            info.workspace.as_os_str().as_bytes(),
        );
    }
    if let Some((_, Value::Object(told))) = &row.snapshot {
        object.extend(told.clone());
        let branch = row.info.as_ref().map(|info| info.name.as_str());
        object.insert("branch".into(), branch.into());
    } else if let Some(info) = &row.info {
        object.insert(
            "parent".into(),
            info.parent.as_ref().map(ToString::to_string).into(),
        );
        object.insert("created".into(), json::time(info.created).into());
        object.insert("limit".into(), branch::limit_json(info.limit));
    }
    let state = match &row.state {
        State::New => "new",
        State::Running(pid) => {
            object.insert("pid".into(), (*pid).into());
            "running"
        }
        State::Mounted(pid, path) => {
            object.insert("pid".into(), (*pid).into());
            put_bytes(&mut object, "mounted_at", path.as_bytes());
            "running"
        }
        State::Ended(RunExit::Code(code)) => {
            object.insert("exit_code".into(), (*code).into());
            "exited"
        }
        State::Ended(RunExit::Signal(number)) => {
            object.insert("signal".into(), signal(*number).into());
            object.insert("signal_number".into(), (*number).into());
            "killed"
        }
        State::Interrupted => "interrupted",
        State::Snapshot => "snapshot",
        State::Damaged(why) => {
            object.insert("why".into(), why.as_str().into());
            "damaged"
        }
        State::Unreadable(_, why) => {
            object.insert("why".into(), why.as_str().into());
            "unreadable"
        }
    };
    object.insert("state".into(), state.into());
    object.insert("lost".into(), row.lost.clone().into());
    let changes = row.summary.as_ref().map(|sum| {
        json!({
            "added": sum.added, "modified": sum.modified, "deleted": sum.deleted,
            "git_dir": sum.git_dir, "outside": sum.outside, "complete": sum.complete,
        })
    });
    object.insert("changes".into(), changes.unwrap_or(Value::Null));
    object.insert("bytes".into(), row.summary.map(|sum| sum.bytes).into());
    if row.snapshot.is_some() {
        return Value::Object(object);
    }
    match row.info.as_ref().and_then(|info| info.last_run.as_ref()) {
        Some(run) => {
            let words: Vec<&[u8]> = run.command.iter().map(|word| word.as_bytes()).collect();
            put_words(&mut object, "command", &words);
            object.insert("started".into(), json::time(run.started).into());
            object.insert("ended".into(), run.ended.map(json::time).into());
        }
        None => {
            object.insert("command".into(), Value::Null);
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use agentfs_fsd::backstore::{NewBranch, RunRecord};
    use agentfs_fsd::core::types::BranchName;

    use super::*;

    #[test]
    fn counts_of_work_elsewhere_only_are_shown() {
        let sum = Summary {
            git_dir: 5,
            outside: 1,
            complete: true,
            ..Summary::default()
        };
        assert_eq!(counts(&sum), "+0 ~0 -0 (.git 5, outside 1)");
        assert_eq!(counts(&Summary { added: 1, ..sum }), "+1 ~0 -0");
        let none = Summary {
            complete: true,
            ..Summary::default()
        };
        assert_eq!(counts(&none), "+0 ~0 -0");
    }

    #[test]
    fn mounts_and_workspaces_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        let name = BranchName::new("b").unwrap();
        let new = |workspace: &str| NewBranch {
            workspace: workspace.into(),
        };
        store.create_branch(&name, None, new("/one")).unwrap();
        let held = store.open_live(&name).unwrap();
        let record = RunRecord {
            command: vec![mount::RECORD_WORD.into(), "/mnt/x".into()],
            cwd: "/one".into(),
            pid: std::process::id(),
            start_ticks: 0,
            started: Time::now(),
            ended: None,
            exit: None,
        };
        store.put_run(&name, &record).unwrap();
        let table = |store: &Store| {
            let rows: Vec<Row> = (store.list().unwrap().into_iter())
                .map(|listed| row(store, &listed))
                .collect();
            columns(&rows, Time::now())
        };
        let text = table(&store);
        assert!(
            text.contains("mounted /mnt/x") && !text.contains("WORKSPACE"),
            "{text}"
        );
        // A command of that name is no mount: its record has the launcher's pid.
        store
            .put_run(&name, &RunRecord { pid: 1, ..record })
            .unwrap();
        assert!(table(&store).contains("running pid 1"));
        drop(held);
        let other = BranchName::new("c").unwrap();
        store.create_branch(&other, None, new("/two")).unwrap();
        let text = table(&store);
        assert!(
            text.contains("WORKSPACE") && text.contains("/two"),
            "{text}"
        );
    }
}
