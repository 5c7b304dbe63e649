//! Why a bar was missed: the row once more with perf on the daemon, once more with the kernel's
//! tracepoints of FUSE, apart from each other and from what was measured.
//!
//! It gives figures and draws no conclusion. What cannot be had here is named, with what to do about
//! it. Who calls: the runner, after the rounds of `--profile-missed`.

pub mod report;
mod trace;

use std::fs;

use serde::{Deserialize, Serialize};

use crate::perf::{self, Perf};
use crate::profile::{self, Files};
use crate::report::{Cell, Summary};
use crate::rows::{Done, Group, Row, Unit};
use crate::runner::Table;
use crate::session::Session;
use crate::subject::{Kind, Subject};
use crate::{Fallible, launch, stop};

/// Something that was looked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding<T> {
    Made(T),
    /// And why.
    Missing(String),
}

impl<T> Finding<T> {
    fn of(made: Fallible<T>) -> Self {
        match made {
            Ok(made) => Finding::Made(made),
            Err(e) => Finding::Missing(e.to_string()),
        }
    }
}

/// What is known of one bar that was missed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Missed {
    pub row: String,
    pub title: String,
    pub subject: String,
    /// The figures in a sentence.
    pub sentence: String,
    #[serde(flatten)]
    pub found: Found,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Found {
    /// A start: its daemon lives no longer than it, so its steps are told.
    Start { steps: Finding<Steps> },
    /// Any other row.
    Row {
        /// The file in the logs.
        flame_graph: Finding<String>,
        requests: Finding<Requests>,
    },
}

/// Where the time of one run went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    pub unit: Unit,
    /// How many of these the run did.
    pub units: u64,
    /// The row's time while it was traced, and that of the rounds (their median).
    pub seconds: f64,
    pub untraced_seconds: f64,
    /// The host's for the same, in the rounds.
    pub host_seconds: Option<f64>,
    /// While at least one request that is waited for was under way.
    pub served_seconds: f64,
    /// What is left over: waking the caller, and the caller's own work.
    pub left_seconds: f64,
    /// Those that took the most time first.
    pub kinds: Vec<OfKind>,
    /// Records that the kernel had no room for: with any, the figures are too low.
    pub lost_records: u64,
}

/// The requests of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfKind {
    pub kind: String,
    pub is_waited_for: bool,
    pub requests: u64,
    pub requests_per_unit: f64,
    /// From sending to ending, being picked up and served; nothing when no end was seen.
    pub mean_us: Option<f64>,
    /// All of them beside the row's time; at once they can be more than all of it.
    pub share: f64,
}

/// The steps of a start, as `run --timings` tells them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// All of it, from outside.
    pub ms: f64,
    pub steps: Vec<StepTime>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTime {
    pub step: String,
    pub ms: f64,
}

/// What can be had on this machine, else why not.
#[derive(Debug)]
pub struct Means {
    flame_graph: Result<(), String>,
    requests: Result<(), String>,
}

impl Means {
    /// Looks, and says at once what is missing: rounds take long.
    pub fn here() -> Self {
        let means = Means {
            flame_graph: profile::is_possible(),
            requests: perf::is_there().and_then(|()| trace::is_possible()),
        };
        for (what, lack) in [
            ("flame graphs", &means.flame_graph),
            ("counts of requests", &means.requests),
        ] {
            if let Err(why) = lack {
                eprintln!("bench: there will be no {what} of missed bars: {why}");
            }
        }
        means
    }
}

/// Looks into each bar that `summary` says was missed.
pub fn explain(table: &Table<'_>, summary: &Summary, means: &Means) -> Vec<Missed> {
    let is_missed = |cell: &&Cell| cell.verdict.as_ref().is_some_and(|v| !v.is_met);
    let cells: Vec<&Cell> = summary.cells.iter().filter(is_missed).collect();
    let mut all = Vec::new();
    for (n, cell) in cells.iter().enumerate() {
        let row = table.rows.iter().find(|row| row.id == cell.row);
        let subject = table.subjects.iter().find(|s| s.name == cell.subject);
        let (Some(row), Some(subject)) = (row, subject) else {
            continue;
        };
        eprintln!(
            "bench: missed bar {} of {}: {} on {subject}",
            n + 1,
            cells.len(),
            row.id
        );
        let one = One {
            table,
            row,
            subject,
        };
        let found = match row.group {
            Group::Launch => Found::Start {
                steps: Finding::of(one.steps()),
            },
            _ => Found::Row {
                flame_graph: Finding::of(one.flame_graph(means)),
                requests: Finding::of(one.requests(means, summary, cell)),
            },
        };
        all.push(Missed {
            row: cell.row.clone(),
            title: cell.title.clone(),
            subject: cell.subject.clone(),
            sentence: report::sentence(&found),
            found,
        });
    }
    all
}

/// One of them.
struct One<'a> {
    table: &'a Table<'a>,
    row: &'a Row,
    subject: &'a Subject,
}

impl One<'_> {
    /// Runs the row on a new branch, as the first of a round does.
    fn run(&self, begin: impl FnOnce(&Session) -> Fallible<Perf>) -> Fallible<Done> {
        stop::check()?;
        let mut session = Session::open(self.table.common, self.subject)?;
        let begin = |session: &Session| begin(session).map(Some);
        let done = self
            .table
            .measure_with(self.row, self.subject, &mut session, begin);
        let closed = session.close();
        let done = done?;
        closed?;
        Ok(done)
    }

    fn flame_graph(&self, means: &Means) -> Fallible<String> {
        means.flame_graph.clone()?;
        let args = self.table.args;
        let files = Files::of(&args.logs, self.row.id, &self.subject.slug());
        let done = self.run(|session| profile::record(args, &files, &session.dir));
        let drawn = done.and_then(|done| profile::draw(&files, &done.elapsed));
        // Very large, and of no use once it is drawn.
        let _ = fs::remove_file(&files.data);
        drawn?;
        let name = files.graph.file_name().unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    fn requests(&self, means: &Means, summary: &Summary, cell: &Cell) -> Fallible<Requests> {
        means.requests.clone()?;
        let name = format!("requests-{}-{}.data", self.row.id, self.subject.slug());
        let data = self.table.args.logs.join(name);
        let done = self.run(|session| trace::record(session.worker.device(), &data));
        let traced = done.and_then(|done| Ok((trace::read(&data, &done.elapsed.spans)?, done)));
        let _ = fs::remove_file(&data);
        let (traced, done) = traced?;
        // Figures of the table are those of one operation in some rows, and of all in others.
        let each = match self.row.is_micro() {
            true => done.ops.max(1) as f64,
            false => 1.0,
        };
        let of = |cell: &Cell| cell.seconds.as_ref().map(|s| s.median * each);
        let host = summary.cell(self.row.id, "host");
        let untraced = of(cell).ok_or("no figure of the rounds")?;
        Ok(requests(
            self.row.unit,
            &done,
            &traced,
            untraced,
            host.and_then(of),
        ))
    }

    fn steps(&self) -> Fallible<Steps> {
        stop::check()?;
        if !matches!(self.subject.kind, Kind::Agentfs(_)) {
            return Err("only agentfs tells its steps".into());
        }
        let start = launch::middle(self.table.common, self.subject, &["--timings", "--json"])?;
        let told: serde_json::Value = serde_json::from_slice(&start.said)
            .map_err(|e| format!("agentfs run --timings --json: {e}"))?;
        Ok(Steps {
            ms: start.took.total().as_secs_f64() * 1e3,
            steps: serde_json::from_value(told["timings"]["steps"].clone())?,
        })
    }
}

/// Beside the time of the run and that of the rounds.
fn requests(
    unit: Unit,
    done: &Done,
    traced: &trace::Traced,
    untraced: f64,
    host: Option<f64>,
) -> Requests {
    let seconds = done.elapsed.total().as_secs_f64();
    let served_seconds = traced.waited_ns as f64 / 1e9;
    let units = done.ops.max(1);
    let of_kind = |(kind, sum): (&String, &trace::Kind)| OfKind {
        kind: kind.clone(),
        is_waited_for: trace::is_waited_for(kind),
        requests: sum.requests,
        requests_per_unit: sum.requests as f64 / units as f64,
        mean_us: (sum.ended > 0).then(|| sum.took_ns as f64 / sum.ended as f64 / 1e3),
        share: sum.took_ns as f64 / 1e9 / seconds,
    };
    let mut kinds: Vec<_> = traced.kinds.iter().map(of_kind).collect();
    kinds.sort_by(|a, b| b.share.total_cmp(&a.share));
    Requests {
        unit,
        units,
        seconds,
        untraced_seconds: untraced,
        host_seconds: host,
        served_seconds,
        left_seconds: (seconds - served_seconds).max(0.0),
        kinds,
        lost_records: traced.lost,
    }
}
