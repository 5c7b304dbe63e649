//! A command on a real pseudo terminal, driven as a person would: type, watch, wait.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wait::PATIENCE;

/// A running command whose controlling terminal we hold the other end of.
#[derive(Debug)]
pub struct Pty {
    master: File,
    child: Child,
    /// Everything it printed so far.
    seen: Vec<u8>,
    /// How much of `seen` earlier calls of [`Pty::expect`] have used up.
    used: usize,
}

impl Pty {
    /// Starts `command` as leader of a new session on a new terminal of 24 by 80.
    pub fn spawn(command: &Command) -> Pty {
        let size = nix::pty::Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = nix::pty::openpty(&size, None).expect("openpty");
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("dup"));
        // setsid(1) takes the terminal as the controlling one, so this file needs no unsafe.
        let mut leader = Command::new("setsid");
        leader
            .arg("--ctty")
            .arg("--wait")
            .arg(command.get_program())
            .args(command.get_args());
        leader.env_clear();
        leader.envs(command.get_envs().filter_map(|(k, v)| v.map(|v| (k, v))));
        if let Some(dir) = command.get_current_dir() {
            leader.current_dir(dir);
        }
        let child = leader
            .stdin(end(&pair.slave))
            .stdout(end(&pair.slave))
            .stderr(end(&pair.slave))
            .spawn()
            .expect("setsid");
        Pty {
            master: File::from(pair.master),
            child,
            seen: Vec::new(),
            used: 0,
        }
    }

    /// Types `keys`.
    pub fn send(&mut self, keys: &str) {
        self.master
            .write_all(keys.as_bytes())
            .expect("type into the terminal");
    }

    /// Waits until `text` shows up after whatever was expected before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let new = &self.seen[self.used..];
            if let Some(at) = new.windows(text.len()).position(|w| w == text.as_bytes()) {
                self.used += at + text.len();
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the terminal never showed {text:?}:\n{}",
                self.text()
            );
            let was = self.seen.len();
            assert!(
                self.read_some(left.min(Duration::from_millis(100))) || self.is_open(),
                "the terminal closed before it showed {text:?}:\n{}",
                String::from_utf8_lossy(&self.seen[..was])
            );
        }
    }

    /// Everything printed so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// The pid of the session's leader.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The terminal itself, for questions about its modes.
    pub fn master(&self) -> &File {
        &self.master
    }

    /// Reads until the session ends, and returns how its leader ended and all output.
    #[track_caller]
    pub fn finish(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.read_some(Duration::from_millis(10));
            if let Some(status) = self.child.try_wait().expect("wait") {
                while self.read_some(Duration::from_millis(10)) {}
                return (status, self.text());
            }
            assert!(
                Instant::now() < end,
                "the session never ended:\n{}",
                self.text()
            );
        }
    }

    /// Whether somebody still holds the other end.
    fn is_open(&self) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).expect("poll");
        !fds[0]
            .revents()
            .is_some_and(|r| r.contains(PollFlags::POLLHUP))
    }

    /// Reads what is there, waiting at most `within`; false at the end of the stream or when
    /// nothing came.
    fn read_some(&mut self, within: Duration) -> bool {
        let millis = u16::try_from(within.as_millis()).unwrap_or(u16::MAX);
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(millis)).expect("poll");
        if ready == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        // EIO is how Linux says that the last holder of the other end has closed it.
        match self.master.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.seen.extend_from_slice(&buffer[..n]);
                true
            }
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
