//! `agentfs-fsd`: the daemon of one live branch. Started by the launcher, never by hand.
//!
//! Exit status: 0 when the branch was closed cleanly, 125 for everything else.

mod daemon;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Serves one agentfs branch to one mount. The launcher starts it; there is no need to.
///
/// It speaks the control protocol on the given descriptor and on a socket in the branch's
/// directory, and writes its log beside that. It ends with the mount it serves. SIGTERM makes it
/// save the branch and end at once.
#[derive(Debug, Parser)]
#[command(name = "agentfs-fsd", version)]
struct Args {
    /// The store's directory.
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The branch to serve.
    #[arg(long, value_name = "NAME")]
    branch: String,
    /// An open descriptor: one end of the socket pair whose other end is the first client.
    #[arg(long, value_name = "N")]
    control_fd: i32,
}

fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => daemon::run(args),
        Err(error) => {
            // To stderr for a mistake, to stdout for --help; nothing is left to do if it fails.
            let _ = error.print();
            if error.use_stderr() {
                daemon::FAILED.into()
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}
