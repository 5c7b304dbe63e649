//! What the suites run inside a branch. One subcommand per duty; a failure is a message on
//! standard error and exit 1.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use agentfs_tests::crash::work;
use agentfs_tests::manifest::Scope;
use agentfs_tests::ops::Op;
use agentfs_tests::realfs::RealTree;
use agentfs_tests::{Manifest, gate, seeds};

fn main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let text = |i: usize| {
        args.get(i)
            .and_then(|a| a.to_str())
            .unwrap_or_default()
            .to_owned()
    };
    let path = |i: usize| PathBuf::from(args.get(i).cloned().unwrap_or_default());
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let result = match text(0).as_str() {
        "diff" => diff(&path(1), &path(2), &path(3)),
        "crash-write" => json(&path(1)).and_then(|part| work::write(&part, &path(2), &path(3))),
        "crash-check" => crash_check(&path(1)),
        "fds" => fds(),
        "fuzz-seeds" => seeds::write(&path(1), &path(2)),
        "gate" => gate::stand_between(&args[1..]).map(|status| std::process::exit(status)),
        "manifest" => {
            print!("{}", Manifest::of(&path(1)).lines());
            Ok(())
        }
        other => Err(format!("no subcommand {other:?}")),
    };
    if let Err(message) = result {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

/// Does the operations of the JSON file `ops` to two directories that start out equal, and
/// compares every answer and every tree.
fn diff(ops: &Path, branch: &Path, plain: &Path) -> Result<(), String> {
    let ops: Vec<Op> = json(ops)?;
    let (mut ours, mut theirs) = (RealTree::new(branch), RealTree::new(plain));
    let mut done = Vec::new();
    for op in ops {
        let Some(step) = op.resolve(&theirs.listing()) else {
            continue;
        };
        let (expected, got) = (theirs.apply(&step), ours.apply(&step));
        done.push(step);
        if expected != got {
            return Err(format!(
                "step {}: the plain directory said {expected:?}, the branch {got:?}\n{done:#?}",
                done.len()
            ));
        }
        let wrong = Manifest::of(plain).differences(&Manifest::of(branch), Scope::Copy);
        if !wrong.is_empty() {
            return Err(format!(
                "after step {}: (plain, then branch)\n  {}\n{done:#?}",
                done.len(),
                wrong.join("\n  ")
            ));
        }
    }
    Ok(())
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}

/// Prints how much of each part of a plan is in the working directory.
fn crash_check(plan: &Path) -> Result<(), String> {
    let found = work::check(&json(plan)?)?;
    println!(
        "{}",
        serde_json::to_string(&found).map_err(|e| e.to_string())?
    );
    Ok(())
}

/// Prints the open descriptors (this listing's own not) and where they lead, one per line.
fn fds() -> Result<(), String> {
    let dir = rustix::fs::open(
        "/proc/self/fd",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .map_err(|e| e.to_string())?;
    let own = std::os::fd::AsRawFd::as_raw_fd(&dir).to_string();
    for entry in rustix::fs::Dir::read_from(&dir)
        .map_err(|e| e.to_string())?
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{name}")) else {
            continue;
        };
        let is_listing = name == own || target.ends_with("fd");
        if !is_listing {
            println!("{name} {}", target.display());
        }
    }
    Ok(())
}
