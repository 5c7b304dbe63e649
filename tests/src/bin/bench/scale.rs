//! Many runs at once on one base, and one run on a base of very many files: what starts, throughput
//! and memory come to. See scripts/bench-scale.sh.

mod memory;
mod million;
mod report;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::disk::Disk;
use crate::fixture::{self, Sizes};
use crate::machine::{self, Machine};
use crate::session::{self, Common, Session};
use crate::subject::{Form, Kind, Subject};
use crate::worker::Step;
use crate::{Fallible, stats, stop};
use memory::Memory;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct ScaleArgs {
    /// Where summary.json and report.md go
    #[arg(long)]
    logs: PathBuf,
    /// Where the fixture is made
    #[arg(long)]
    scratch: PathBuf,
    /// Use the scratch directory's own file system, no disk in memory
    #[arg(long)]
    no_disk: bool,
    /// Size of the disk in memory
    #[arg(long, default_value_t = 14)]
    disk_gib: u64,
    /// How many runs at once
    #[arg(long, value_delimiter = ',', default_value = "1,10,50")]
    live: Vec<usize>,
    /// Files of the large base; 0 leaves it out
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Tiny sizes: to see that everything works, not to measure
    #[arg(long)]
    tiny: bool,
    /// The form of agentfs that is measured
    #[arg(long, default_value = "agentfs", help = crate::subject::HELP)]
    subject: String,
    /// The ordinary user of `agentfs-user`
    #[arg(long)]
    user: Option<String>,
}

/// What became of so many runs at once.
#[derive(Clone, Debug, Serialize)]
pub struct Crowd {
    pub live: usize,
    /// From the call to a command that answers, one after the other.
    pub start_ms: stats::Spread,
    /// A start of `true` beside all of them.
    pub start_beside_ms: stats::Spread,
    /// What an idle branch takes, on average: its daemon, and all of its processes but the command.
    pub daemon: Memory,
    pub branch: Memory,
    /// CPU time of all daemons together, when they have nothing to do.
    pub idle_cpu_ms_a_second: f64,
    /// Files made, written, read and removed a second, all runs together.
    pub operations_per_second: f64,
    /// The same on the plain directory, by as many processes.
    pub host_operations_per_second: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Scale {
    pub version: u32,
    pub started: String,
    pub machine: Machine,
    pub disk: String,
    pub subject: String,
    pub load: f64,
    pub crowds: Vec<Crowd>,
    pub million: Option<million::Million>,
    /// What could not be measured, and why.
    pub failed: Vec<String>,
}

const LIMIT: Duration = Duration::from_secs(600);
/// Starts of `true` that make one figure.
const STARTS: usize = 5;

/// Measures and reports.
pub fn run(args: &ScaleArgs) -> Fallible<()> {
    fs::create_dir_all(&args.logs)?;
    let subject = Subject::parse(&args.subject)?;
    let Kind::Agentfs(form) = &subject.kind else {
        return Err("only agentfs is measured here".into());
    };
    let disk = match rustix::process::geteuid().is_root() && !args.no_disk {
        true => Disk::in_memory(&args.scratch, args.disk_gib)?,
        false => Disk::in_directory(&args.scratch)?,
    };
    let mut scale = Scale {
        version: 1,
        started: machine::now(),
        machine: Machine::here(),
        disk: disk.what.clone(),
        subject: subject.name.clone(),
        load: machine::load(),
        crowds: Vec::new(),
        million: None,
        failed: Vec::new(),
    };
    let sizes = sizes(args.tiny);
    let fixture = fixture::make(&disk.top, &sizes, true)?;
    let common = session::common(
        &session::Wanted {
            scratch: &args.scratch,
            logs: &args.logs,
            user: args.user.as_deref(),
            sizes: &sizes,
            has_user: subject.is_user(),
            has_toolchain: false,
        },
        &disk,
        &fixture,
    )?;
    for live in &args.live {
        eprintln!("bench: {live} at once");
        match crowd(&common, &subject, form, *live) {
            Ok(crowd) => scale.crowds.push(crowd),
            Err(e) => scale.failed.push(format!("{live} at once: {e}")),
        }
        stop::check()?;
    }
    drop(disk);
    if args.files > 0 {
        let asked = million::Asked {
            args,
            form,
            common: &common,
        };
        match million::measure(&asked) {
            Ok(million) => scale.million = Some(million),
            Err(e) => scale
                .failed
                .push(format!("a base of {} files: {e}", args.files)),
        }
        stop::check()?;
    }
    report::write(&args.logs, &scale)?;
    match scale.failed.is_empty() {
        true => Ok(()),
        false => Err(scale.failed.join("; ").into()),
    }
}

fn sizes(is_tiny: bool) -> Sizes {
    let tiny = Sizes::tiny();
    match is_tiny {
        true => tiny,
        false => Sizes {
            files: 2_000,
            ops: 400,
            ..tiny
        },
    }
}

fn crowd(common: &Common, subject: &Subject, form: &Form, live: usize) -> Fallible<Crowd> {
    let mut sessions = Vec::new();
    let mut starts = Vec::new();
    for n in 0..live {
        stop::check()?;
        let start = Instant::now();
        sessions.push(Session::open_as(
            common,
            subject,
            &format!("{}-{n}", subject.slug()),
        )?);
        starts.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let (daemon, branch) = memory::of_branches(&sessions)?;
    let idle_cpu_ms_a_second = memory::idle_cpu(&sessions)?;
    let beside = starts_beside(common, form)?;
    let ours = throughput(&mut sessions)?;
    for session in sessions {
        session.close()?;
    }
    let host = Subject::parse("host")?;
    let mut hosts = Vec::new();
    for n in 0..live {
        hosts.push(Session::open_as(common, &host, &format!("host-{n}"))?);
    }
    let theirs = throughput(&mut hosts)?;
    for session in hosts {
        session.close()?;
    }
    Ok(Crowd {
        live,
        start_ms: stats::Spread::of(&starts).ok_or("nothing was started")?,
        start_beside_ms: beside,
        daemon,
        branch,
        idle_cpu_ms_a_second,
        operations_per_second: ours,
        host_operations_per_second: theirs,
    })
}

/// Starts of `true` on new branches, while others live.
fn starts_beside(common: &Common, form: &Form) -> Fallible<stats::Spread> {
    let dir = common.top.join("subjects/beside");
    fs::create_dir_all(dir.join("home"))?;
    let mut times = Vec::new();
    for n in 0..STARTS {
        let mut command = session::launcher(common, form, &dir)?;
        let branch = format!("beside-{n}");
        command.args([
            "run", "--quiet", "--fresh", "--branch", &branch, "--", "true",
        ]);
        times.push(start_of(command.current_dir(common.base_of(form)))?);
    }
    agentfs_tests::sandbox::remove_tree(&dir)?;
    stats::Spread::of(&times).ok_or_else(|| "nothing was started".into())
}

/// Milliseconds of a call that must succeed.
fn start_of(command: &mut Command) -> Fallible<f64> {
    stop::check()?;
    let start = Instant::now();
    let out = command.stdin(Stdio::null()).output()?;
    let elapsed = start.elapsed();
    match out.status.success() {
        true => Ok(elapsed.as_secs_f64() * 1e3),
        false => Err(format!(
            "{}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        )
        .into()),
    }
}

/// All workers at once, each making, changing, listing and removing small files.
fn throughput(sessions: &mut [Session]) -> Fallible<f64> {
    const ROW: &str = "perf-metadata";
    for session in sessions.iter_mut() {
        session.worker.step(ROW, Step::Prepare, LIMIT)?;
    }
    let start = Instant::now();
    for session in sessions.iter_mut() {
        session.worker.ask(ROW, Step::Run)?;
    }
    let mut ops = 0;
    for session in sessions.iter_mut() {
        let done = session.worker.outcome(LIMIT)?.ok_or("no figure")?;
        ops += done.ops;
    }
    Ok(ops as f64 / start.elapsed().as_secs_f64())
}
