//! Measures agentfs beside the host and its peers; see scripts/bench.sh and the README's "Measuring".
//!
//!   agentfs-test-bench run --logs DIR [options]    the table
//!   agentfs-test-bench scale --logs DIR [options]  many runs at once, very many files
//!   agentfs-test-bench list                        its rows
//!   agentfs-test-bench worker PLACE                what it starts inside each mount
//!
//! Everything is measured in rounds, in each of which every subject does every row once, one after
//! the other: what the machine does besides hits all of them, and ratios within a round hold.

mod compare;
mod disk;
mod fixture;
mod launch;
mod machine;
mod perf;
mod plot;
mod profile;
mod report;
mod rows;
mod runner;
mod scale;
mod session;
mod stats;
mod stop;
mod subject;
mod why;
mod worker;

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};

pub type Fallible<T> = Result<T, Box<dyn Error>>;

#[derive(Debug, Parser)]
#[command(about = "Measures agentfs beside the host and its peers")]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Measure the table
    Run(RunArgs),
    /// Measure many runs at once, and a base of very many files
    Scale(scale::ScaleArgs),
    /// Print the rows
    List,
    /// Run rows on request, inside a mount
    #[command(hide = true)]
    Worker { place: String },
}

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Where results.jsonl, summary.json, report.md and plot.svg go
    #[arg(long)]
    logs: PathBuf,
    /// Where the fixture is made: below it a disk in memory as root, else files
    #[arg(long)]
    scratch: PathBuf,
    /// Use the scratch directory's own file system, no disk in memory
    #[arg(long)]
    no_disk: bool,
    /// Size of the disk in memory
    #[arg(long, default_value_t = 14, overrides_with = "disk_gib")]
    disk_gib: u64,
    #[arg(long, value_delimiter = ',', overrides_with = "subjects", help = subject::HELP)]
    subjects: Vec<String>,
    /// Rows or groups (tree, data, micro, launch, real, performance) to measure [default: all but performance]
    #[arg(long, value_delimiter = ',', overrides_with = "rows")]
    rows: Vec<String>,
    /// Rounds: in each, every subject does every row once
    #[arg(long, default_value_t = 5, overrides_with = "runs")]
    runs: u32,
    /// Tiny sizes: to see that everything works, not to measure
    #[arg(long)]
    tiny: bool,
    /// Files below `crates/` [default: 12500]
    #[arg(long, overrides_with = "files")]
    files: Option<u64>,
    /// Size of the large base file [default: 1024]
    #[arg(long, overrides_with = "base_mib")]
    base_mib: Option<u64>,
    /// Size of the file that is written [default: 1024]
    #[arg(long, overrides_with = "write_mib")]
    write_mib: Option<u64>,
    /// Times that one operation is done [default: 2000]
    #[arg(long, overrides_with = "ops")]
    ops: Option<u64>,
    /// Make the crates up even where cargo's registry has sources
    #[arg(long)]
    synthetic: bool,
    /// The ordinary user of `agentfs-user`
    #[arg(long)]
    user: Option<String>,
    /// Record each row on agentfs with perf, and draw it
    #[arg(long)]
    profile: bool,
    /// After the rounds, run each row that missed its bar once more with perf on the daemon, for a flame
    /// graph, and once more counting its requests: report.md tells of both. As root; a start tells its steps
    #[arg(long)]
    profile_missed: bool,
    /// How perf finds the callers: fp, for programs with frame pointers, or dwarf,8192
    #[arg(long, default_value = "dwarf,8192", overrides_with = "profile_unwind")]
    profile_unwind: String,
    /// Samples a second of both
    #[arg(long, default_value_t = 1999, overrides_with = "profile_hz")]
    profile_hz: u32,
    /// Ends a step that takes longer, and counts it as failed
    #[arg(long, default_value_t = 180, overrides_with = "limit_seconds")]
    limit_seconds: u64,
    /// Size of what one of four writers writes [default: 64]
    #[arg(long, overrides_with = "writer_mib")]
    writer_mib: Option<u64>,
    /// Another bar for agentfs, as a ratio to the host: ROW=RATIO
    #[arg(long = "bar", value_name = "ROW=RATIO", value_delimiter = ',', value_parser = bar)]
    bars: Vec<(String, f64)>,
    /// Exit with 2 when agentfs misses a bar, or a row of it fails
    #[arg(long)]
    judge: bool,
    /// The summary.json of an earlier run; what got slower beyond the noise is told
    #[arg(long)]
    compare: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Cmd::Run(args) => match stop::watch().and_then(|()| runner::run(&args)) {
            Ok(false) if args.judge => return ExitCode::from(2),
            other => other.map(drop),
        },
        Cmd::Scale(args) => stop::watch().and_then(|()| scale::run(&args)),
        Cmd::List => {
            for row in rows::all() {
                println!("{:14} {:7} {}", row.id, row.group.word(), row.title);
            }
            Ok(())
        }
        Cmd::Worker { place } => serde_json::from_str(&place)
            .map_err(Into::into)
            .and_then(|place| worker::serve(&place)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn bar(text: &str) -> Result<(String, f64), String> {
    let (row, ratio) = text.split_once('=').ok_or("ROW=RATIO is wanted")?;
    rows::named(row).map_err(|e| e.to_string())?;
    match ratio.parse() {
        Ok(ratio) if ratio > 0.0 => Ok((row.to_owned(), ratio)),
        _ => Err(format!("{ratio} is no ratio above 0")),
    }
}

/// Runs a program to its end; anything but success is an error that says what it said.
pub fn called(command: &mut Command) -> Fallible<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|e| format!("{name}: {e}"))?;
    match out.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&out.stderr);
            Err(format!("{name}: {}: {}", out.status, said.trim()).into())
        }
    }
}
