//! `agentfs rm`: drops branches. Looks at all of them before it touches the first.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use agentfs_fsd::backstore::{BranchInfo, Listed, Store, StoreError};
use agentfs_fsd::core::types::BranchName;

use crate::cli::RmArgs;
use crate::cmd::{Globals, ls};
use crate::error::CmdError;
use crate::review::style::escape_word;
use crate::say::say;

/// Runs the subcommand.
pub fn run(args: &RmArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    let names: BTreeSet<&BranchName> = args.branches.iter().collect();
    match Store::open(&globals.store_path)? {
        Some(store) => remove(&store, &names)?,
        None => {
            return Err(unknown(
                &names.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes all of `names`, or none if one of them is unknown or live.
fn remove(store: &Store, names: &BTreeSet<&BranchName>) -> Result<(), CmdError> {
    let known: BTreeMap<String, Option<BranchInfo>> = (store.list()?.into_iter())
        .map(|listed| match listed {
            Listed::Branch(info) => (info.name.to_string(), Some(info)),
            Listed::Damaged { name, .. } => (name, None),
        })
        .collect();
    let missing: Vec<&str> = (names.iter())
        .map(|name| name.as_str())
        .filter(|name| !known.contains_key(*name))
        .collect();
    if !missing.is_empty() {
        return Err(unknown(&missing));
    }
    for name in names {
        if let Some(pid) = store.live_owner(name)? {
            let info = known.get(name.as_str()).and_then(Option::as_ref);
            return Err(live(name, pid, info));
        }
    }
    for name in names {
        match store.remove_branch(name) {
            Ok(()) => say!("agentfs: removed branch {name}"),
            // It came to life since we looked.
            Err(StoreError::Locked { pid, .. }) => return Err(live(name, pid, None)),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn unknown(names: &[&str]) -> CmdError {
    CmdError::refused(
        format!("rm {}", names.join(" ")),
        if names.len() == 1 {
            "no such branch"
        } else {
            "no such branches"
        },
        "`agentfs ls` lists them; nothing was removed",
    )
}

fn live(name: &BranchName, pid: u32, info: Option<&BranchInfo>) -> CmdError {
    if let Some(path) = info.and_then(|info| ls::mounted_at(info, pid)) {
        let path = escape_word(path.as_os_str().as_bytes());
        return CmdError::refused(
            format!("rm {name}"),
            format!("the branch is mounted at {path}"),
            format!("`agentfs umount {path}`, then try again"),
        );
    }
    let owner = match pid {
        0 => "a process is".to_owned(),
        pid => format!("pid {pid} is"),
    };
    CmdError::refused(
        format!("rm {name}"),
        format!("the branch is live, {owner} serving it"),
        "end the commands that run on it (`agentfs ls` shows them), then try again",
    )
}

#[cfg(test)]
mod tests {
    use agentfs_fsd::backstore::{NewBranch, RunRecord};
    use agentfs_fsd::core::types::Time;

    use super::*;

    #[test]
    fn one_that_cannot_go_keeps_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        let name = |text| BranchName::new(text).unwrap();
        let (a, b, none) = (name("a"), name("b"), name("none"));
        for name in [&a, &b] {
            let workspace = "/".into();
            store
                .create_branch(name, None, NewBranch { workspace })
                .unwrap();
        }
        let error = remove(&store, &BTreeSet::from([&a, &none]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("none") && error.contains("no such branch"),
            "{error}"
        );
        let held = store.open_live(&b).unwrap();
        let error = remove(&store, &BTreeSet::from([&a, &b]))
            .unwrap_err()
            .to_string();
        let pid = format!("pid {}", std::process::id());
        assert!(error.contains("rm b") && error.contains(&pid), "{error}");
        assert_eq!(store.list().unwrap().len(), 2);
        let record = RunRecord {
            command: vec!["mount".into(), "/mnt/x".into()],
            cwd: "/".into(),
            pid: std::process::id(),
            start_ticks: 0,
            started: Time::now(),
            ended: None,
            exit: None,
        };
        store.put_run(&b, &record).unwrap();
        let error = remove(&store, &BTreeSet::from([&b]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("`agentfs umount /mnt/x`"), "{error}");
        drop(held);
        remove(&store, &BTreeSet::from([&a, &b])).unwrap();
        assert!(store.list().unwrap().is_empty());
    }
}
