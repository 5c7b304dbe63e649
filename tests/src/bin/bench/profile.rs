//! Flame graphs: perf attached to the daemons of a session while a row runs, and what is drawn of
//! that. Programs that draw are installed by scripts/profile-tools.sh.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::perf::{self, Perf};
use crate::rows::timing::{self, Timing};
use crate::{Fallible, RunArgs};

/// Names the directory of the programs that fold and draw.
const TOOLS: &str = "AGENTFS_PROFILE_TOOLS";
const FOLD: &str = "inferno-collapse-perf";
const DRAW: &str = "inferno-flamegraph";

/// Why no flame graph can be had here.
pub fn is_possible() -> Result<(), String> {
    perf::is_there()?;
    if !rustix::process::geteuid().is_root() {
        // It is not dumpable, not even for its own user.
        return Err("the daemon lets only root watch it; fix: run the bench as root".into());
    }
    tools().map(drop)
}

/// Where the programs that fold and draw are, or what to do about it.
fn tools() -> Result<PathBuf, String> {
    let fix = "fix: scripts/bench.sh --profile-missed and scripts/perf-profile.sh install it";
    let Some(dir) = std::env::var_os(TOOLS).map(PathBuf::from) else {
        return Err(format!(
            "inferno, which draws, is not there ({TOOLS} is not set); {fix}"
        ));
    };
    match [FOLD, DRAW].iter().find(|name| !dir.join(name).is_file()) {
        None => Ok(dir),
        Some(name) => Err(format!("{}/{name} does not exist; {fix}", dir.display())),
    }
}

/// The files of a profile in the logs: a row on a subject.
#[derive(Clone, Debug)]
pub struct Files {
    pub data: PathBuf,
    pub graph: PathBuf,
}

impl Files {
    pub fn of(logs: &Path, row: &str, slug: &str) -> Self {
        Files {
            data: logs.join(format!("perf-{row}-{slug}.data")),
            graph: logs.join(format!("flame-{row}-{slug}.svg")),
        }
    }
}

/// Records the daemons that serve the store below `dir`.
pub fn record(args: &RunArgs, files: &Files, dir: &Path) -> Fallible<Perf> {
    let store = dir.join("store");
    let mut daemons = agentfs_tests::leak::processes_of("none", &store);
    daemons.retain(|process| process.name == "agentfs-fsd");
    if daemons.is_empty() {
        return Err(format!("no daemon serves {}", store.display()).into());
    }
    let pids: Vec<_> = daemons
        .iter()
        .map(|daemon| daemon.pid.to_string())
        .collect();
    let hz = args.profile_hz.to_string();
    let unwind = args.profile_unwind.as_str();
    let words = [
        "--clockid",
        timing::CLOCK,
        "--call-graph",
        unwind,
        "--freq",
        &hz,
        "--pid",
    ];
    Perf::record(&[&words[..], &[&pids.join(",")]].concat(), &files.data)
}

/// Draws what was recorded while the row did its work, not what its proof took; the folded stacks
/// stay beside it.
pub fn draw(files: &Files, while_it_ran: &Timing) -> Fallible<()> {
    let tools = tools()?;
    let script = files.data.with_extension("script");
    let folded = files.data.with_extension("folded");
    let mut perf = Command::new("perf");
    perf.args(["script", "--time", &range(while_it_ran)?, "--input"]);
    step(perf.arg(&files.data), None, &script)?;
    step(&mut Command::new(tools.join(FOLD)), Some(&script), &folded)?;
    fs::remove_file(&script)?;
    if fs::metadata(&folded)?.len() == 0 {
        fs::remove_file(&folded)?;
        return Err("the daemon was never seen working: it had nothing to do, or too little for the samples taken".into());
    }
    step(
        &mut Command::new(tools.join(DRAW)),
        Some(&folded),
        &files.graph,
    )?;
    eprintln!("bench: {}", files.graph.display());
    Ok(())
}

/// From the first to the last, as perf wants it.
fn range(timing: &Timing) -> Fallible<String> {
    let (first, last) = (timing.spans.first(), timing.spans.last());
    let (first, last) = first.zip(last).ok_or("no time was taken")?;
    let seconds = |ns: u64| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    Ok(format!(
        "{},{}",
        seconds(first.from_ns),
        seconds(last.to_ns)
    ))
}

/// One program of the chain, from a file into a file.
fn step(command: &mut Command, from: Option<&Path>, to: &Path) -> Fallible<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    match from {
        Some(path) => command.stdin(File::open(path)?),
        None => command.stdin(Stdio::null()),
    };
    let out = command
        .stdout(File::create(to)?)
        .stderr(Stdio::piped())
        .output();
    let out = out.map_err(|e| format!("{name}: {e}"))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{name}: {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        )
        .into()),
    }
}
