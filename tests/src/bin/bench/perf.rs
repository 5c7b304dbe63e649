//! perf while it records: started, known to have begun, ended in time and never left behind.
//!
//! What is to be recorded, and what becomes of it, is said by who calls: profile.rs for flame graphs,
//! `why/trace.rs` for requests.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentfs_tests::wait;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::{Fallible, stop};

/// To write what is still in memory.
const LONGEST_END: Duration = Duration::from_secs(60);
/// How perf is had.
const FIX: &str =
    "fix: apt-get install linux-perf (Debian), linux-tools-generic (Ubuntu), perf (Fedora)";

/// Why perf cannot be used at all.
pub fn is_there() -> Result<(), String> {
    let out = match Command::new("perf").arg("--version").output() {
        Ok(out) => out,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!("perf is not installed; {FIX}"));
        }
        Err(e) => return Err(format!("perf: {e}; {FIX}")),
    };
    // A wrapper may stand there that has no perf for this kernel.
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("perf: {}; {FIX}", first_words(&out.stderr))),
    }
}

/// perf, recording.
#[derive(Debug)]
pub struct Perf {
    child: Child,
    said: PathBuf,
    is_ended: bool,
}

impl Perf {
    /// `perf record` with `args` into `data`; returns once it records.
    pub fn record<S: AsRef<OsStr>>(args: &[S], data: &Path) -> Fallible<Self> {
        let said = data.with_extension("log");
        let log = File::create(&said)?;
        let line = Line::open(data)?;
        // Never left behind: one that records the whole machine would go on for ever.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "perf", "record", "--quiet"])
            .arg("--output")
            .arg(data)
            // Everything is made ready first, and begins when it is told to.
            .args(["--delay", "-1", "--control", &line.words])
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("setpriv: {e}"))?;
        let mut perf = Perf {
            child,
            said,
            is_ended: false,
        };
        perf.begin(line)?;
        Ok(perf)
    }

    /// Until it says that all of its events count.
    fn begin(&mut self, mut line: Line) -> Fallible<()> {
        let end = Instant::now() + Duration::from_secs(20);
        line.tell.write_all(b"enable\n")?;
        let mut heard = [0; 16];
        loop {
            stop::check()?;
            match line.hear.read(&mut heard) {
                Ok(read) if heard[..read].starts_with(b"ack") => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
            if let Some(status) = self.child.try_wait()? {
                self.is_ended = true;
                return Err(format!("perf did not begin ({status}): {}", self.words()).into());
            }
            if Instant::now() > end {
                return Err(format!("perf did not begin within 20 s: {}", self.words()).into());
            }
            wait::pause(Duration::from_millis(10));
        }
    }

    /// Ends the recording: what it wrote is complete.
    pub fn stop(mut self) -> Fallible<()> {
        // Whom it watched may have ended, and it with them.
        let mut ended = self.child.try_wait()?;
        if ended.is_none() {
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        }
        let latest = Instant::now() + LONGEST_END;
        let status = loop {
            match ended {
                Some(status) => break status,
                None if Instant::now() > latest => {
                    return Err(format!("perf did not end within {LONGEST_END:?}").into());
                }
                None => wait::pause(Duration::from_millis(10)),
            }
            ended = self.child.try_wait()?;
        };
        self.is_ended = true;
        // It passes on the signal that ended it.
        let is_told = status.signal() == Some(Signal::SIGINT as i32);
        if !status.success() && !is_told {
            return Err(format!("perf ended with {status}: {}", self.words()).into());
        }
        if self.words().is_empty() {
            fs::remove_file(&self.said)?;
        }
        Ok(())
    }

    fn words(&self) -> String {
        first_words(&fs::read(&self.said).unwrap_or_default())
    }
}

/// What perf is told to do by, and answers by: two named pipes beside the data.
struct Line {
    words: String,
    tell: File,
    hear: File,
    paths: [PathBuf; 2],
}

impl Line {
    fn open(data: &Path) -> Fallible<Self> {
        let paths = ["tell", "hear"].map(|name| data.with_extension(name));
        let open = |path: &Path| -> Fallible<File> {
            // One that was killed has left it.
            let _ = fs::remove_file(path);
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            // For both, so that no open waits for perf's, and no end of it ends the pipe.
            let mut options = File::options();
            options.read(true).write(true);
            let flags = OFlag::O_NONBLOCK.bits();
            Ok(options.custom_flags(flags).open(path)?)
        };
        Ok(Line {
            words: format!("fifo:{},{}", paths[0].display(), paths[1].display()),
            tell: open(&paths[0])?,
            hear: open(&paths[1])?,
            paths,
        })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Perf {
    fn drop(&mut self) {
        if !self.is_ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The first lines with something in them, as one: perf's usage and hints follow its reasons.
fn first_words(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.take(4).collect::<Vec<_>>().join(" ")
}
