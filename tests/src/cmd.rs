//! Running a command to its end with a deadline, and saying what was expected of it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::wait::pause;

/// Longest run of one command before it counts as hung.
pub const LIMIT: Duration = Duration::from_secs(240);

/// A finished command.
#[derive(Debug)]
pub struct Done {
    /// How it was called, for messages.
    pub call: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error, for people.
    pub stderr: String,
}

/// A started command whose output goes to files, so that no leftover process can hold a pipe.
#[derive(Debug)]
pub struct Running {
    call: String,
    /// The process.
    pub child: Child,
    stdout: File,
    stderr: File,
}

/// Starts `command`: standard input empty unless set before, output into files.
pub fn start(command: &mut Command) -> Running {
    start_onto(command, None, None)
}

/// As [`start`], but a stream that is given goes there, and nothing of it is seen.
pub fn start_onto(
    command: &mut Command,
    stdout_to: Option<Stdio>,
    stderr_to: Option<Stdio>,
) -> Running {
    let file = || tempfile::tempfile().expect("a temporary file for output");
    let (stdout, stderr) = (file(), file());
    let dup = |file: &File| Stdio::from(file.try_clone().expect("dup"));
    command.stdout(stdout_to.unwrap_or_else(|| dup(&stdout)));
    command.stderr(stderr_to.unwrap_or_else(|| dup(&stderr)));
    let call = format!("{:?}", command);
    let child = command
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {call}: {e}"));
    Running {
        call,
        child,
        stdout,
        stderr,
    }
}

/// Runs `command` with empty standard input and waits for it.
pub fn run(command: &mut Command) -> Done {
    command.stdin(Stdio::null());
    start(command).wait_in(LIMIT)
}

fn content(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("seek in output");
    file.read_to_end(&mut bytes).expect("read output");
    bytes
}

impl Running {
    /// The process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// What it wrote to standard output so far.
    pub fn stdout_now(&self) -> Vec<u8> {
        // A separate description would be needed to seek freely; pread keeps the writer's offset.
        read_all_at(&self.stdout)
    }

    /// What it wrote to standard error so far.
    pub fn stderr_now(&self) -> String {
        String::from_utf8_lossy(&read_all_at(&self.stderr)).into_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("kill");
    }

    /// Waits for the end.
    pub fn wait(self) -> Done {
        self.wait_in(LIMIT)
    }

    /// Waits for the end; a command that is still there after `limit` is killed and fails the test.
    pub fn wait_in(mut self, limit: Duration) -> Done {
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the command") {
                break status;
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!(
                    "{} hung for {limit:?}\nstdout: {}\nstderr: {}",
                    self.call,
                    String::from_utf8_lossy(&content(&self.stdout)),
                    String::from_utf8_lossy(&content(&self.stderr)),
                );
            }
            pause(Duration::from_millis(2));
        };
        Done {
            call: self.call,
            status,
            stdout: content(&self.stdout),
            stderr: String::from_utf8_lossy(&content(&self.stderr)).into_owned(),
        }
    }
}

fn read_all_at(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let len = file.metadata().expect("stat of output").len();
    let mut bytes = vec![0; usize::try_from(len).expect("output size")];
    file.read_exact_at(&mut bytes, 0).expect("read output");
    bytes
}

impl Done {
    /// The exit code, or 128 + the signal as a shell would say.
    pub fn code(&self) -> i32 {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => panic!("{} neither exited nor died: {:?}", self.call, self.status),
        }
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails the test unless the exit code is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert!(
            self.code() == code,
            "expected exit {code}\n{}",
            self.report()
        );
        self
    }

    /// Fails the test unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.expect(0)
    }

    /// Fails the test unless standard error holds every one of `words` (case does not matter).
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let said = self.stderr.to_lowercase();
        for word in words {
            assert!(
                said.contains(&word.to_lowercase()),
                "standard error should say {word:?}\n{}",
                self.report()
            );
        }
        self
    }

    /// Everything about it, for a failure message.
    pub fn report(&self) -> String {
        format!(
            "{}\nended with {}\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.call,
            self.status,
            self.out(),
            self.stderr
        )
    }
}
