//! Where the launcher speaks: the only place that writes to its standard output and standard error.
//!
//! What cannot be said on stderr is lost, for there is nowhere to complain, and never changes the exit
//! status. A reader of stdout that has gone away has seen enough; any other failed write there is an
//! error, since an answer that was cut short must not look like a whole one.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use crate::error::CmdError;

/// Says a line on stderr, formatted as by `format!`.
macro_rules! say {
    ($($part:tt)*) => { $crate::say::line(format_args!($($part)*)) };
}
pub(crate) use say;

/// Says a line on stderr, in one write: a neighbour's words do not get into it.
pub fn line(text: impl Display) {
    raw(&format!("{text}\n"));
}

/// Writes `text` to stderr as it is.
pub fn raw(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

/// Writes a whole answer to stdout.
///
/// Errors: stdout does not take it, for another reason than that its reader is gone.
pub fn answer(text: &str) -> Result<(), CmdError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    taken(written.and_then(|()| stdout.flush())).map(drop)
}

/// What came of writing to stdout: `None`, its reader is gone, which is its right.
///
/// Errors: as [`answer`].
pub fn taken<T>(written: io::Result<T>) -> Result<Option<T>, CmdError> {
    match written {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(None),
        Err(e) => {
            let fix = match e.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "free space where it is written to, or write it elsewhere"
                }
                _ => "write it elsewhere; what came before is not all of it",
            };
            Err(CmdError::refused(
                "write the answer to stdout",
                e.to_string(),
                fix,
            ))
        }
    }
}
