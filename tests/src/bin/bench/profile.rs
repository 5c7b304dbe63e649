//! perf attached to a daemon while a row runs, and the flame graph of that. See
//! scripts/perf-profile.sh, which installs what draws.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentfs_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Fallible, RunArgs, stop};

/// Where the programs that fold and draw are.
const TOOLS: &str = "AGENTFS_PROFILE_TOOLS";

/// perf, recording.
#[derive(Debug)]
pub struct Profile {
    perf: Child,
    data: PathBuf,
    graph: PathBuf,
}

impl Profile {
    /// Records the daemon that serves the store below `dir` while `row` runs; returns once perf does.
    pub fn start(args: &RunArgs, unwind: &str, row: &str, dir: &Path) -> Fallible<Self> {
        let store = dir.join("store");
        let daemons = agentfs_tests::leak::processes_of("none", &store);
        let daemon = daemons.iter().find(|process| process.name == "agentfs-fsd");
        let daemon = daemon.ok_or_else(|| format!("no daemon serves {}", store.display()))?;
        let data = args.logs.join(format!("perf-{row}.data"));
        let log = File::create(args.logs.join("perf.log"))?;
        let perf = Command::new("perf")
            .args(["record", "--quiet", "--call-graph", unwind])
            .args(["--freq", &args.profile_hz.to_string()])
            .args(["--pid", &daemon.pid.to_string(), "--output"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("perf: {e}"))?;
        let mut profile = Profile {
            perf,
            data,
            graph: args.logs.join(format!("flame-{row}.svg")),
        };
        profile.await_events()?;
        Ok(profile)
    }

    /// Until its events are open: before, it records nothing.
    fn await_events(&mut self) -> Fallible<()> {
        let end = Instant::now() + Duration::from_secs(20);
        let fds = PathBuf::from(format!("/proc/{}/fd", self.perf.id()));
        let is_event = |entry: fs::DirEntry| {
            let link = fs::read_link(entry.path()).unwrap_or_default();
            link.to_string_lossy().contains("perf_event")
        };
        while !fs::read_dir(&fds)?.flatten().any(is_event) {
            stop::check()?;
            if self.perf.try_wait()?.is_some() || Instant::now() > end {
                return Err("perf did not begin; perf.log tells why".into());
            }
            wait::pause(Duration::from_millis(10));
        }
        // It still maps its buffers.
        wait::pause(Duration::from_millis(200));
        Ok(())
    }

    /// Ends the recording and draws it.
    pub fn draw(mut self) -> Fallible<()> {
        kill(Pid::from_raw(self.perf.id().cast_signed()), Signal::SIGINT)?;
        self.perf.wait()?;
        let tools = std::env::var_os(TOOLS).map(PathBuf::from);
        let tools =
            tools.ok_or_else(|| format!("{TOOLS} is not set: run scripts/perf-profile.sh"))?;
        let (script, folded) = (
            self.data.with_extension("script"),
            self.data.with_extension("folded"),
        );
        let mut perf = Command::new("perf");
        step(
            perf.args(["script", "--input"]).arg(&self.data),
            None,
            &script,
        )?;
        step(
            &mut Command::new(tools.join("inferno-collapse-perf")),
            Some(&script),
            &folded,
        )?;
        step(
            &mut Command::new(tools.join("inferno-flamegraph")),
            Some(&folded),
            &self.graph,
        )?;
        fs::remove_file(&script)?;
        eprintln!("bench: {}", self.graph.display());
        Ok(())
    }
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
