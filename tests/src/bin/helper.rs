//! What the suites run inside a branch. One subcommand per duty; a failure is a message on
//! standard error and exit 1.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use agentfs_tests::load::Load;
use agentfs_tests::manifest::Scope;
use agentfs_tests::model::Model;
use agentfs_tests::ops::Op;
use agentfs_tests::realfs::RealTree;
use agentfs_tests::{Manifest, gate, load};

fn main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let text = |i: usize| {
        args.get(i)
            .and_then(|a| a.to_str())
            .unwrap_or_default()
            .to_owned()
    };
    let path = |i: usize| PathBuf::from(args.get(i).cloned().unwrap_or_default());
    let number = |i: usize| text(i).parse::<u64>().expect("a number");
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let result = match text(0).as_str() {
        "diff" => diff(&path(1), &path(2), &path(3)),
        "load" => run_load(&path(1), &path(2), number(3)),
        "verify" => verify(&path(1), number(2), number(3)),
        "fds" => fds(),
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
    let json = std::fs::read(ops).map_err(|e| format!("{}: {e}", ops.display()))?;
    let ops: Vec<Op> = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
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

/// Runs the endless load of `seed` in `dir`; each done step adds one byte to the file `acks`.
fn run_load(dir: &Path, acks: &Path, seed: u64) -> Result<(), String> {
    let mut acks = OpenOptions::new()
        .append(true)
        .create(true)
        .open(acks)
        .map_err(|e| format!("{}: {e}", acks.display()))?;
    let mut tree = RealTree::new(dir);
    for (step, expected) in Load::new(seed, Model::of(dir)) {
        let got = tree.apply(&step);
        if got != expected {
            return Err(format!("{step:?}: expected {expected:?}, got {got:?}"));
        }
        acks.write_all(b".").map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Checks that `dir`, once empty, is in the state after `acked` steps of `seed`, or one more.
fn verify(dir: &Path, acked: u64, seed: u64) -> Result<(), String> {
    load::verify(&Model::of(dir), acked, seed)
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
