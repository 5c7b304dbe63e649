//! Prints a plan for people.

use std::fmt::Write;

use super::{Plan, SetupOp};
use crate::idmap::IdMap;
use crate::limit;

/// The plan as text, one step a line.
pub fn readable(plan: &Plan, branch: &str, command: &str) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "branch     {branch}");
    let _ = writeln!(out, "command    {command}");
    let _ = writeln!(out, "directory  {}", plan.cwd.display());
    let ids = match plan.ids {
        IdMap::Full => "every id as on the host, no capability over it".to_owned(),
        IdMap::Own { uid, gid } => format!("uid {uid} and gid {gid} as on the host, no others"),
    };
    let _ = writeln!(out, "ids        {ids}");
    for root in &plan.roots {
        let _ = writeln!(out, "copy-on-write  {}", root.display());
    }
    if !plan.limit.is_none() {
        let _ = writeln!(out, "limit      {}", limit::text(plan.limit));
    }
    let _ = writeln!(out, "steps");
    for (number, op) in (1..).zip(&plan.steps) {
        let _ = writeln!(out, "{number:>4}. {}", line(op));
    }
    let mut number = plan.steps.len();
    for last in [
        "new pid namespace with an init",
        "mount a new /proc",
        "no_new_privs, every capability set emptied, descriptors above 2 closed",
        "bind the command to the branch and execute it",
    ] {
        number += 1;
        let _ = writeln!(out, "{number:>4}. {last}");
    }
    if !plan.proc_read_only.is_empty() {
        let _ = writeln!(out, "read-only in /proc  {}", plan.proc_read_only.join(" "));
    }
    let concealed: Vec<_> = plan
        .conceal
        .iter()
        .map(|p| p.display().to_string())
        .collect();
    let _ = writeln!(out, "absent on the branch  {}", concealed.join(" "));
    if !plan.env_dropped.is_empty() {
        let _ = writeln!(out, "variables dropped  {}", plan.env_dropped.join(" "));
    }
    out
}

fn line(op: &SetupOp) -> String {
    match op {
        SetupOp::PrivatePropagation => "make all mounts private".into(),
        SetupOp::Fuse { source } => format!("mount FUSE ({source}) aside, hand it to the daemon"),
        SetupOp::HostRoot => "new root: the host's tree, read-only".into(),
        SetupOp::BranchRoot => "new root: the branch".into(),
        SetupOp::Tmpfs { at, mode } => format!("private, empty  {} (mode {mode:o})", at.display()),
        SetupOp::Dir { at, mode } => format!("directory       {} (mode {mode:o})", at.display()),
        SetupOp::Link { at, to } => format!("link            {} -> {}", at.display(), to.display()),
        SetupOp::Device { at } => format!("device          {}", at.display()),
        SetupOp::Pts { at, .. } => format!("new terminals   {}", at.display()),
        SetupOp::Host {
            at, from, write, ..
        } => {
            let how = if *write {
                "HOST, writable "
            } else {
                "host, read-only"
            };
            match at == from {
                true => format!("{how} {}", at.display()),
                false => format!("{how} {} (from {})", at.display(), from.display()),
            }
        }
        SetupOp::Own { at, .. } => format!("owned copy      {}", at.display()),
        SetupOp::AwaitBranch => "wait for the daemon to serve the branch".into(),
        SetupOp::Branch { at, .. } => format!("branch          {}", at.display()),
        SetupOp::Hide { at, .. } => format!("hidden          {}", at.display()),
        SetupOp::DenyWrite { at } => format!("branch, no writes {}", at.display()),
        SetupOp::Freeze { at } => format!("make read-only  {}", at.display()),
        SetupOp::Pivot => "pivot to the new root, let go of the host's".into(),
    }
}
