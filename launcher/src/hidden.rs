//! What a run will not see of the host below its copy-on-write roots, read off its plan. Pure.
//!
//! A command that moves or removes a directory takes along what it could not see in it, so a
//! review has to know. Called before the command may run.

use std::path::{Path, PathBuf};

use agentfs_fsd::backstore::Hidden;

use crate::plan::{Plan, SetupOp};

/// The hidden places of a run.
pub fn of(plan: &Plan) -> Vec<Hidden> {
    let mut hidden: Vec<Hidden> = plan.conceal.iter().map(Hidden::whole).collect();
    for op in &plan.steps {
        let (at, shown) = match op {
            SetupOp::Hide { at, keep } => (at, keep.iter().map(|(path, _)| path.clone()).collect()),
            SetupOp::Tmpfs { at, .. } => (at, shown_in(at, plan)),
            _ => continue,
        };
        let is_below = |root: &PathBuf| at.starts_with(root) && at != root;
        if plan.roots.iter().any(is_below) {
            hidden.push(Hidden {
                path: at.clone(),
                shown,
            });
        }
    }
    hidden
}

/// What of the host or the branch is laid over the new, empty place `tmpfs`.
fn shown_in(tmpfs: &Path, plan: &Plan) -> Vec<PathBuf> {
    let shown = plan.steps.iter().filter_map(|op| match op {
        SetupOp::Branch { at, .. } => Some(at),
        SetupOp::Host { at, from, .. } if at == from => Some(at),
        _ => None,
    });
    shown.filter(|at| at.starts_with(tmpfs)).cloned().collect()
}
