//! Starts a branch's daemon, and talks to it.

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agentfs_fsd::backstore::Store;
use agentfs_fsd::core::types::BranchName;
use agentfs_fsd::ctl::CtlError;
use rustix::fs::MemfdFlags;

use crate::error::{CmdError, START_DAEMON};
use crate::line::{Line, PATIENCE};

/// Names the daemon's program, for tests and unusual installations.
pub const PROGRAM_ENV: &str = "AGENTFS_FUSE_HOST_BIN";
const PROGRAM: &str = "agentfs-fsd";
/// How long a daemon that nobody is connected to may take to end.
const GRACE_SECONDS: i64 = 10;
/// The same, when the run is broken off.
const SHORT_GRACE_SECONDS: i64 = 1;
/// The kernel takes no longer to let go of all that a killed daemon held.
const SETTLED: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(2);

/// A daemon that this process started.
#[derive(Debug)]
pub struct Daemon {
    branch: BranchName,
    child: Child,
    stderr: std::fs::File,
    log: PathBuf,
}

/// Where the daemon's program is.
///
/// Errors: a refusal with the fix when it is not there.
pub fn program() -> Result<PathBuf, CmdError> {
    if let Some(path) = std::env::var_os(PROGRAM_ENV).filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        let fix = format!("unset {PROGRAM_ENV}, or let it name the {PROGRAM} program");
        let why = format!("no such file, but {PROGRAM_ENV} names it");
        return usable(path, &why, &fix);
    }
    let me = std::env::current_exe().map_err(|e| CmdError::io("find", "/proc/self/exe", e))?;
    let path = me.with_file_name(PROGRAM);
    let fix = format!(
        "install {PROGRAM} beside agentfs (cargo build builds both), or let {PROGRAM_ENV} name it"
    );
    usable(path, "no such file", &fix)
}

/// `path`, if it is a file that the caller may execute; `fix` is what to do if it is `missing`.
fn usable(path: PathBuf, missing: &str, fix: &str) -> Result<PathBuf, CmdError> {
    use rustix::fs::{Access, AtFlags, CWD};
    let what = || format!("the daemon {}", path.display());
    if !path.is_file() {
        return Err(CmdError::refused(what(), missing, fix));
    }
    rustix::fs::accessat(CWD, &path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|e| {
        let mode = format!("chmod +x {}, or {fix}", path.display());
        CmdError::refused(what(), format!("cannot be executed: {e}"), mode)
    })?;
    Ok(path)
}

impl Daemon {
    /// Starts it for `branch`, which need not be there yet, and gives our end of its first control
    /// connection: it opens the branch at the first word there, and ends if there is none.
    pub fn start(
        program: &Path,
        store: &Store,
        branch: &BranchName,
    ) -> Result<(Self, OwnedFd), CmdError> {
        let fail = |e: std::io::Error| CmdError::io(START_DAEMON, program, e);
        let (ours, theirs) = UnixStream::pair().map_err(fail)?;
        let flags = rustix::io::FdFlags::empty();
        rustix::io::fcntl_setfd(&theirs, flags).map_err(|e| fail(e.into()))?;
        // What it says before it has its log would be lost, or would hold the caller's pipe open.
        let stderr = rustix::fs::memfd_create("agentfs-fsd.stderr", MemfdFlags::CLOEXEC)
            .map_err(|e| fail(e.into()))?;
        let stderr = std::fs::File::from(stderr);
        let child = Command::new(program)
            .arg("--store")
            .arg(store.path())
            .args(["--branch", branch.as_str()])
            .args(["--control-fd", &theirs.as_raw_fd().to_string()])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.try_clone().map_err(fail)?)
            .spawn()
            .map_err(fail)?;
        Ok((
            Self {
                branch: branch.clone(),
                child,
                stderr,
                log: store.branch_path(branch).join("fsd.log"),
            },
            ours.into(),
        ))
    }

    /// Adds this daemon's last words to an error of it.
    pub fn error(&mut self, error: CmdError) -> CmdError {
        let CmdError::Daemon { branch, source, .. } = error else {
            return error;
        };
        let mut ended = None;
        // It is on its way out; its words are complete when it is gone. One that refused something stays
        // as long as we are connected.
        if matches!(source, CtlError::Closed) {
            ended = self.reap(GRACE_SECONDS).ok();
        }
        CmdError::Daemon {
            branch,
            source,
            said: self.said(ended),
            log: self.log(),
        }
    }

    /// Waits for the end of a daemon that was not spoken to, whose connection is closed.
    pub fn dismiss(mut self) {
        self.end();
    }

    /// Ends a daemon that could not be talked to, so that it holds the branch no longer.
    pub fn end(&mut self) {
        // Killed at the worst, which it recovers from; what stays is an orphan.
        let _ = self.reap(SHORT_GRACE_SECONDS);
    }

    /// Waits for its end. One that lingers without a connection is asked to end (it closes the branch
    /// first), then made to.
    fn reap(&mut self, grace_seconds: i64) -> std::io::Result<ExitStatus> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pidfd_open(
            pid.ok_or(std::io::ErrorKind::InvalidInput)?,
            PidfdFlags::empty(),
        )?;
        let grace = Timespec {
            tv_sec: grace_seconds,
            tv_nsec: 0,
        };
        for signal in [Signal::TERM, Signal::KILL] {
            let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&grace))?;
            if ended > 0 {
                break;
            }
            pidfd_send_signal(&pidfd, signal)?;
        }
        self.child.wait()
    }

    /// Its log, if it got as far as that.
    fn log(&self) -> Option<PathBuf> {
        Some(self.log.clone()).filter(|log| log.exists())
    }

    /// How it ended, if it has, and the last that it said.
    fn said(&mut self, ended: Option<ExitStatus>) -> String {
        let ended = ended.map(|status| format!("it ended with {status}"));
        let mut text = String::new();
        let read = self
            .stderr
            .seek(SeekFrom::Start(0))
            .and_then(|_| (&self.stderr).take(4096).read_to_string(&mut text));
        let said = match (read, text.trim()) {
            (Ok(_), said) if !said.is_empty() => Some(format!("it said: {said}")),
            _ => None,
        };
        let words: Vec<_> = ended.into_iter().chain(said).collect();
        words.join("; ")
    }

    /// Ends our part of the session; if it was the last, waits until the branch is closed and reaps
    /// the daemon. Others' sessions keep it alive, and are not waited for. `broken_off`: the run
    /// did not come to its end, so a daemon that does not answer is not worth a wait.
    pub fn finish(
        mut self,
        line: Line<'_>,
        store: &Store,
        broken_off: bool,
    ) -> Result<(), CmdError> {
        let patience = broken_off.then_some(PATIENCE);
        if let Err(e) = line.wait_closed(patience) {
            if broken_off {
                self.end();
            }
            return Err(self.error(e));
        }
        let ended = Instant::now();
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(e) => return Err(CmdError::io("wait for", PROGRAM, e)),
            }
            std::thread::sleep(PAUSE);
            // The lock is let go of before the connection is, but for a daemon that was killed.
            let owner = store.live_owner(&self.branch).ok().flatten();
            if owner == Some(self.child.id()) && ended.elapsed() > SETTLED
                || ended.elapsed() > PATIENCE
            {
                return Ok(());
            }
        };
        if status.success() {
            return Ok(());
        }
        Err(CmdError::Daemon {
            branch: self.branch.to_string(),
            source: CtlError::Closed,
            said: self.said(Some(status)),
            log: self.log(),
        })
    }
}
