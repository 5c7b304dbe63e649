//! One run on a base of very many files, a git repository: its start, the first `git status`, and the
//! daemon's memory before and after a full walk and after the kernel had to give memory back.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentfs_tests::wait;
use serde::Serialize;

use super::memory::{self, Memory};
use super::{STARTS, ScaleArgs, start_of};
use crate::disk::Disk;
use crate::session::{self, Common};
use crate::subject::Form;
use crate::{Fallible, called, stats};

/// Files to a directory.
const PER_DIR: u64 = 250;

#[derive(Debug)]
pub struct Asked<'a> {
    pub args: &'a ScaleArgs,
    pub form: &'a Form,
    pub common: &'a Common,
}

#[derive(Clone, Debug, Serialize)]
pub struct Million {
    pub files: u64,
    pub disk: String,
    pub start_ms: stats::Spread,
    /// On a new branch, with the host's caches warm.
    pub first_status_s: f64,
    pub second_status_s: f64,
    pub host_status_s: f64,
    pub walk_s: f64,
    pub host_walk_s: f64,
    pub memory_at_start: Memory,
    pub memory_after_walk: Memory,
    /// After caches were dropped: the kernel forgets what it held, and tells the daemon.
    pub memory_after_pressure: Option<Memory>,
}

pub fn measure(asked: &Asked<'_>) -> Fallible<Million> {
    let (args, files) = (asked.args, asked.args.files);
    let is_root = rustix::process::geteuid().is_root();
    eprintln!("bench: making a base of {files} files");
    let disk = match is_root && !args.no_disk {
        true => Disk::of_many(&args.scratch, files)?,
        false => Disk::in_directory(&args.scratch)?,
    };
    let base = disk.top.join("million");
    make(&base, files)?;
    if let (true, Some(user)) = (asked.form.is_user && is_root, &args.user) {
        called(
            Command::new("chown")
                .arg("-R")
                .arg(format!("{user}:"))
                .arg(&base),
        )?;
    }
    let dir = disk.top.join("subject");
    fs::create_dir_all(dir.join("home"))?;
    fs::write(
        dir.join("home/.gitconfig"),
        "[safe]\n\tdirectory = *\n[gc]\n\tauto = 0\n",
    )?;
    // The host first, which warms its own caches.
    timed(&base, &dir, &STATUS)?;
    let host_status_s = timed(&base, &dir, &STATUS)?;
    timed(&base, &dir, &WALK)?;
    let host_walk_s = timed(&base, &dir, &WALK)?;

    let mut starts = Vec::new();
    for n in 0..STARTS {
        let mut command = session::launcher(asked.common, asked.form, &dir)?;
        let branch = format!("start-{n}");
        command.args([
            "run", "--quiet", "--fresh", "--branch", &branch, "--", "true",
        ]);
        starts.push(start_of(command.current_dir(&base))?);
    }
    // One branch that stays live; commands join it.
    let mut holder = run_on(asked, &dir, &base, &["cat"])?;
    let mut held = holder
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let measured = live(asked, &dir, &base, &disk, &mut held);
    // At its end of input it ends.
    drop(held.stdin.take());
    held.wait()?;
    let live = measured?;
    Ok(Million {
        files,
        disk: disk.what.clone(),
        start_ms: stats::Spread::of(&starts).ok_or("nothing was started")?,
        first_status_s: live.statuses[0],
        second_status_s: live.statuses[1],
        host_status_s,
        walk_s: live.walk_s,
        host_walk_s,
        memory_at_start: live.at_start,
        memory_after_walk: live.after_walk,
        memory_after_pressure: live.after_pressure,
    })
}

const STATUS: [&str; 3] = ["git", "status", "--porcelain"];
const WALK: [&str; 5] = ["find", ".", "-size", "+1G", "-print"];

struct Live {
    statuses: [f64; 2],
    walk_s: f64,
    at_start: Memory,
    after_walk: Memory,
    after_pressure: Option<Memory>,
}

fn live(
    asked: &Asked<'_>,
    dir: &Path,
    base: &Path,
    disk: &Disk,
    held: &mut std::process::Child,
) -> Fallible<Live> {
    // It echoes once it runs.
    use std::io::Read;
    let mut byte = [0];
    held.stdin.as_mut().ok_or("no input")?.write_all(b"x")?;
    held.stdout
        .as_mut()
        .ok_or("no output")?
        .read_exact(&mut byte)?;
    let daemon = memory::daemon_of(dir)?;
    let at_start = Memory::of(daemon)?;
    let status = || {
        Ok::<_, Box<dyn std::error::Error>>(
            start_of(&mut run_on(asked, dir, base, &STATUS)?)? / 1e3,
        )
    };
    let statuses = [status()?, status()?];
    let walk_s = start_of(&mut run_on(asked, dir, base, &WALK)?)? / 1e3;
    let after_walk = Memory::of(daemon)?;
    let mut after_pressure = None;
    if rustix::process::geteuid().is_root() {
        disk.drop_caches()?;
        after_pressure = Some(settled(daemon)?);
    }
    Ok(Live {
        statuses,
        walk_s,
        at_start,
        after_walk,
        after_pressure,
    })
}

/// The daemon's memory once it is idle: it is told of a million inodes, and takes a while.
fn settled(daemon: i32) -> Fallible<Memory> {
    let end = Instant::now() + Duration::from_secs(120);
    let mut before = memory::cpu_ns(daemon);
    loop {
        wait::pause(Duration::from_secs(2));
        let now = memory::cpu_ns(daemon);
        if now.saturating_sub(before) < 20_000_000 || Instant::now() > end {
            return Memory::of(daemon);
        }
        before = now;
    }
}

fn run_on(asked: &Asked<'_>, dir: &Path, base: &Path, words: &[&str]) -> Fallible<Command> {
    let mut command = session::launcher(asked.common, asked.form, dir)?;
    command
        .args(["run", "--quiet", "--branch", session::BRANCH, "--"])
        .args(words);
    command.current_dir(base);
    Ok(command)
}

fn timed(base: &Path, dir: &Path, words: &[&str]) -> Fallible<f64> {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .current_dir(base)
        .env("HOME", dir.join("home"));
    Ok(start_of(&mut command)? / 1e3)
}

/// All files are one blob, so the repository is small; git itself writes them out, index included.
fn make(base: &Path, files: u64) -> Fallible<()> {
    fs::create_dir(base)?;
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(base).args(args);
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
    };
    called(&mut git(&["init", "-q", "--initial-branch=main"]))?;
    let stream: PathBuf = base.join(".git/stream");
    let mut out = BufWriter::new(File::create_new(&stream)?);
    write!(out, "blob\nmark :1\ndata 21\none of a great many\n\n")?;
    writeln!(
        out,
        "commit refs/heads/main\ncommitter Bench <bench@example.com> 1600000000 +0000"
    )?;
    write!(out, "data 5\nmany\n")?;
    for n in 0..files {
        let dir = n / PER_DIR;
        writeln!(out, "M 100644 :1 a{}/b{dir}/file{n}.txt", dir / 64)?;
    }
    out.flush()?;
    drop(out);
    let mut import = git(&["fast-import", "--quiet"]);
    called(import.stdin(File::open(&stream)?))?;
    fs::remove_file(&stream)?;
    called(&mut git(&["checkout", "-q", "-f", "main"]))
}
