//! [`Shell`]: a shell that is told what to do line by line, and stays: what it is bound to, where it is
//! and what it has open last from one line to the next.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running bash; ended when dropped.
#[derive(Debug)]
pub struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// What a line came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its exit status.
    pub code: i32,
    /// What it wrote, to standard error too.
    pub text: String,
}

/// Stands before the exit status, where no program's output begins a line with it.
const MARK: &str = "\u{1}status ";

impl Shell {
    /// Starts one; `command` brings environment and directory, and must be bash.
    pub fn start(mut command: Command) -> Self {
        let serve = format!(
            "while IFS= read -r line; do eval \"$line\" 2>&1; printf '\\n{MARK}%s\\n' $?; done"
        );
        command.args(["-c", &serve]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start bash");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Self {
            child,
            input,
            output,
        }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Does one line and waits for it.
    #[track_caller]
    pub fn does(&mut self, line: &str) -> Said {
        let input = self.input.as_mut().expect("a shell that is not ended");
        writeln!(input, "{line}").expect("tell the shell");
        let mut text = Vec::new();
        loop {
            let mut part = Vec::new();
            let got = self.output.read_until(b'\n', &mut part).expect("read");
            let said = String::from_utf8_lossy(&text).into_owned();
            assert!(got > 0, "the shell ended at {line:?}, having said {said:?}");
            if let Some(code) = String::from_utf8_lossy(&part).strip_prefix(MARK) {
                let code = code.trim().parse().expect("a status");
                // The mark has a line of its own.
                let text = said.strip_suffix('\n').unwrap_or(&said).to_owned();
                return Said { code, text };
            }
            text.extend(part);
        }
    }

    /// Does a line that must succeed; gives what it wrote, without the last line's end.
    #[track_caller]
    pub fn ok(&mut self, line: &str) -> String {
        let Said { code, text } = self.does(line);
        assert_eq!(code, 0, "{line:?} said {text:?}");
        text.trim_end_matches('\n').to_owned()
    }

    /// Does a line that must fail and say `word`.
    #[track_caller]
    pub fn fails(&mut self, line: &str, word: &str) {
        let Said { code, text } = self.does(line);
        assert!(
            code != 0 && text.contains(word),
            "{line:?}: {code} {text:?}"
        );
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It ends with its input.
        self.input = None;
        let _ = self.child.wait();
    }
}
