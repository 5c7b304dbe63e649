//! `agentfs branch`: making, naming and showing branches without running anything on them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use agentfs_fsd::backstore::{BranchInfo, Limit, Listed, NewBranch, Store, StoreError, Usage};
use serde_json::{Value, json};

use crate::cli::{BranchCommand, BranchCreateArgs};
use crate::cmd::run::Here;
use crate::cmd::{Globals, rm, snapshot};
use crate::error::CmdError;
use crate::review::json::{self, put_bytes};
use crate::review::style::escape_word;
use crate::review::table;
use crate::say::{self, say};
use crate::{limit, live, probe};

/// Runs the subcommand.
pub fn run(command: &BranchCommand, globals: &Globals) -> Result<ExitCode, CmdError> {
    match command {
        BranchCommand::Create(args) => create(args, globals)?,
        BranchCommand::Rename(args) => {
            let store = Store::open(&globals.store_path)?
                .ok_or_else(|| StoreError::NoBranch(args.from.to_string()))?;
            store.rename_branch(&args.from, &args.to)?;
            say!("agentfs: branch {} is {} now", args.from, args.to);
        }
        BranchCommand::Rm(args) => return rm::run(args, globals),
        BranchCommand::Show(args) if args.point.snapshot.is_some() => {
            snapshot::show(&args.point, args.json, globals)?;
        }
        BranchCommand::Show(args) => {
            let name = &args.point.branch;
            let store = Store::open(&globals.store_path)?
                .ok_or_else(|| StoreError::NoBranch(name.to_string()))?;
            // By the list: that one knows the parent by its present name.
            let info = infos(&store)?.into_iter().find(|i| i.name == *name);
            let info = match info {
                Some(info) => info,
                None => store.branch(name)?,
            };
            let text = match args.json {
                true => {
                    let mut branch = to_json(&info);
                    branch["used"] = used_json(usage(&store, &info));
                    format!(
                        "{:#}\n",
                        json!({ "version": json::VERSION, "branch": branch })
                    )
                }
                false => shown(&info, usage(&store, &info)),
            };
            say::answer(&text)?;
        }
        BranchCommand::Tree(args) => {
            let all = match Store::open(&globals.store_path)? {
                Some(store) => infos(&store)?,
                None => Vec::new(),
            };
            let text = match args.json {
                true => {
                    let branches: Vec<Value> = all.iter().map(to_json).collect();
                    format!(
                        "{:#}\n",
                        json!({ "version": json::VERSION, "branches": branches })
                    )
                }
                false => Tree::of(&all).drawn(),
            };
            say::answer(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(args: &BranchCreateArgs, globals: &Globals) -> Result<(), CmdError> {
    let here = Here::look(globals)?;
    let store = Store::open_or_create(&here.store)?;
    // A branch of a branch is for the same workspace, wherever this is called.
    let workspace = match &args.from {
        Some(from) => store.branch(&from.branch)?.workspace,
        None => probe::workspace(&here.cwd),
    };
    let new = NewBranch { workspace };
    let info = live::create_branch(&store, &args.branch, args.from.as_ref(), &new)?;
    if let Some(disk) = args.disk {
        store.set_limit(&info.name, limit::of_disk(disk))?;
    }
    let from = match &info.parent {
        Some(parent) => format!(" from {parent}"),
        None => String::new(),
    };
    say!(
        "agentfs: made branch {}{from}, for {}",
        info.name,
        escape_word(info.workspace.as_os_str().as_bytes())
    );
    Ok(())
}

pub fn infos(store: &Store) -> Result<Vec<BranchInfo>, CmdError> {
    let mut infos = Vec::new();
    for listed in store.list()? {
        match listed {
            Listed::Branch(info) => infos.push(info),
            Listed::Damaged { name, why } => {
                say!("agentfs: branch {}: {why}", escape_word(name.as_bytes()));
            }
        }
    }
    Ok(infos)
}

/// One branch of `agentfs branch tree --json`:
///
/// ```text
/// name, id (16 hex digits), created (RFC 3339), workspace
/// parent      BRANCH or BRANCH@SNAPSHOT; null: the base
/// layers      how many it is made of
/// snapshots   their names, oldest first
/// limit       null, or { bytes, inodes: null where that is not limited }
/// ```
pub fn to_json(info: &BranchInfo) -> Value {
    let snapshots: Vec<&str> = info.snapshots.iter().map(|s| s.name.as_str()).collect();
    let mut value = json!({
        "name": info.name.as_str(),
        "id": format!("{:016x}", info.id),
        "created": json::time(info.created),
        "parent": info.parent.as_ref().map(ToString::to_string),
        "layers": info.layers.len(),
        "snapshots": snapshots,
        "limit": limit_json(info.limit),
    });
    if let Value::Object(object) = &mut value {
        put_bytes(object, "workspace", info.workspace.as_os_str().as_bytes());
    }
    value
}

/// What a branch with a limit takes up. One that cannot be counted is shown all the same.
fn usage(store: &Store, info: &BranchInfo) -> Option<Usage> {
    if info.limit.is_none() {
        return None;
    }
    let usage = store.usage(&info.name);
    usage
        .inspect_err(|e| say!("agentfs: count what branch {} takes up: {e}", info.name))
        .ok()
}

fn used_json(usage: Option<Usage>) -> Value {
    usage.map_or(
        Value::Null,
        |usage| json!({ "bytes": usage.bytes, "inodes": usage.inodes }),
    )
}

/// A limit in JSON; null: none.
pub fn limit_json(limit: Limit) -> Value {
    match limit.is_none() {
        true => Value::Null,
        false => json!({ "bytes": limit.bytes, "inodes": limit.inodes }),
    }
}

fn shown(info: &BranchInfo, usage: Option<Usage>) -> String {
    let used = usage.map_or_else(String::new, |usage| {
        let bytes = table::size(usage.bytes);
        format!(", {bytes} and {} inodes used", usage.inodes)
    });
    let snapshots: Vec<&str> = info.snapshots.iter().map(|s| s.name.as_str()).collect();
    let parent = info.parent.as_ref();
    format!(
        "branch      {}\nid          {:016x}\nparent      {}\ncreated     {}\nworkspace   {}\nlayers      {}\nlimit       {}{used}\nsnapshots   {}\n",
        info.name,
        info.id,
        parent.map_or_else(|| "the host's files".into(), ToString::to_string),
        json::time(info.created),
        escape_word(info.workspace.as_os_str().as_bytes()),
        info.layers.len(),
        limit::text(info.limit),
        match snapshots.is_empty() {
            true => "none".to_owned(),
            false => snapshots.join(" "),
        }
    )
}

/// Branches below what they were made from.
struct Tree<'a> {
    /// Those of the base, and those whose parent is gone.
    roots: Vec<&'a BranchInfo>,
    /// By the id of the parent.
    children: BTreeMap<u64, Vec<&'a BranchInfo>>,
}

impl<'a> Tree<'a> {
    fn of(all: &'a [BranchInfo]) -> Self {
        let ids: BTreeSet<u64> = all.iter().map(|info| info.id).collect();
        let mut tree = Self {
            roots: Vec::new(),
            children: BTreeMap::new(),
        };
        for info in all {
            let parent = info.parent.as_ref().and_then(|parent| parent.id);
            match parent.filter(|id| ids.contains(id)) {
                Some(id) => tree.children.entry(id).or_default().push(info),
                None => tree.roots.push(info),
            }
        }
        tree
    }

    /// A line per branch and per snapshot, children below their parents.
    fn drawn(&self) -> String {
        let mut out = String::new();
        for root in &self.roots {
            let gone = match &root.parent {
                Some(parent) => format!("  (from {parent}, which is gone)"),
                None => String::new(),
            };
            out.push_str(&format!("{}{gone}\n", root.name));
            self.draw_below(root, "", &mut out);
        }
        out
    }

    fn draw_below(&self, info: &BranchInfo, indent: &str, out: &mut String) {
        let children = self.children.get(&info.id).map_or(&[][..], Vec::as_slice);
        let of = |snapshot: Option<&str>| -> Vec<&BranchInfo> {
            let made_of = |child: &BranchInfo| {
                let parent = child.parent.as_ref();
                let point = parent.and_then(|p| p.point.snapshot.as_ref());
                point.map(|name| name.as_str().to_owned())
            };
            let matching = children
                .iter()
                .filter(|child| made_of(child).as_deref() == snapshot);
            matching.copied().collect()
        };
        let mut lines: Vec<(String, Vec<&BranchInfo>, Option<&BranchInfo>)> = Vec::new();
        for snapshot in &info.snapshots {
            let name = snapshot.name.as_str();
            lines.push((format!("@{name}"), of(Some(name)), None));
        }
        for child in of(None) {
            lines.push((child.name.to_string(), Vec::new(), Some(child)));
        }
        let count = lines.len();
        for (at, (text, made, child)) in lines.into_iter().enumerate() {
            let last = at + 1 == count;
            let (mark, more) = if last {
                ("`-- ", "    ")
            } else {
                ("|-- ", "|   ")
            };
            out.push_str(&format!("{indent}{mark}{text}\n"));
            let indent = format!("{indent}{more}");
            let inner = made.len();
            for (at, info) in made.into_iter().enumerate() {
                let (mark, more) = match at + 1 == inner {
                    true => ("`-- ", "    "),
                    false => ("|-- ", "|   "),
                };
                out.push_str(&format!("{indent}{mark}{}\n", info.name));
                self.draw_below(info, &format!("{indent}{more}"), out);
            }
            if let Some(child) = child {
                self.draw_below(child, &indent, out);
            }
        }
    }
}
