//! The workloads: what each row of the table does, how it is measured, what it must reach.
//!
//! A row runs inside a subject's tree, in a process that stands in the mount's namespaces (see
//! `worker.rs`). It takes its own time, checks afterwards that the work was done, and gives a proof
//! that must be the same on every subject. Who calls: the worker, and the reports for the table.

mod data;
mod micro;
mod performance;
mod real;
pub mod timing;
mod tool;
mod tree;

use std::cell::RefCell;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Fallible;
use crate::fixture::Sizes;
use timing::Timing;

/// Rows of one kind, chosen together by `--rows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Whole trees, with the usual tools.
    Tree,
    /// Bytes.
    Data,
    /// One operation, many times.
    Micro,
    /// The start of a command.
    Launch,
    /// What people do all day.
    Real,
    /// The rows of a recipe of its own: only when they are named.
    Performance,
}

impl Group {
    /// As `--rows` names it.
    pub fn word(self) -> &'static str {
        match self {
            Group::Tree => "tree",
            Group::Data => "data",
            Group::Micro => "micro",
            Group::Launch => "launch",
            Group::Real => "real",
            Group::Performance => "performance",
        }
    }
}

/// What agentfs, run by root, has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// At most so many times the host's own time.
    Ratio(f64),
    /// At most so many milliseconds.
    Millis(f64),
}

/// What a row does many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Operation,
    File,
    Mib,
    /// Nothing that could be counted: all of it is one.
    Run,
}

impl Unit {
    /// One of it, in words.
    pub fn one(self) -> &'static str {
        match self {
            Unit::Operation => "an operation",
            Unit::File => "a file",
            Unit::Mib => "a MiB",
            Unit::Run => "a run",
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// How long all of it took, and when that was.
    pub elapsed: Timing,
    /// How many of the row's [`Unit`] that were.
    pub ops: u64,
    /// What was done, in words that are the same wherever it was done right.
    pub proof: String,
}

type Step = fn(&Place) -> Fallible<()>;

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// As `--rows` and the JSON name it.
    pub id: &'static str,
    /// As the report names it.
    pub title: &'static str,
    pub group: Group,
    /// Whether the host's caches are dropped first.
    pub is_cold: bool,
    pub bar: Option<Bar>,
    /// What [`Done::ops`] counts.
    pub unit: Unit,
    /// Before the measurement, and not part of it.
    pub prepare: Step,
    pub run: fn(&Place) -> Fallible<Done>,
    /// Leaves the tree as it was.
    pub clean: Step,
}

impl Row {
    /// Whether figures are microseconds for one operation, and not seconds for all.
    pub fn is_micro(&self) -> bool {
        self.group == Group::Micro
    }
}

/// How fast a start has to be; it is measured from outside, by the runner.
pub const LAUNCH: Row = Row {
    id: "run-true",
    title: "`run -- true`",
    group: Group::Launch,
    is_cold: false,
    bar: Some(Bar::Millis(15.0)),
    unit: Unit::Run,
    prepare: nothing,
    run: |_| Err("measured from outside".into()),
    clean: nothing,
};

/// All rows, in the order in which they are run.
pub fn all() -> impl Iterator<Item = &'static Row> {
    let rows = [
        tree::ROWS,
        data::ROWS,
        micro::ROWS,
        real::ROWS,
        performance::ROWS,
    ];
    rows.into_iter().flatten().chain([&LAUNCH])
}

/// The row of that name.
pub fn named(id: &str) -> Fallible<&'static Row> {
    let found = all().find(|row| row.id == id);
    found.ok_or_else(|| format!("no row {id}; `list` prints them").into())
}

/// Where a row works.
#[derive(Debug, Serialize, Deserialize)]
pub struct Place {
    /// The tree of the fixture, as the subject shows it.
    pub top: PathBuf,
    /// Archives and packages, outside of the tree.
    pub share: PathBuf,
    /// The home directory there.
    pub home: PathBuf,
    /// The Rust toolchain.
    pub sysroot: Option<PathBuf>,
    pub sizes: Sizes,
    /// Files that a row chose while it prepared.
    #[serde(skip)]
    pub chosen: RefCell<Vec<PathBuf>>,
}

impl Place {
    /// Where rows make things: a directory that is the branch's own.
    pub fn own(&self, name: &str) -> PathBuf {
        self.top.join("work").join(name)
    }
}

fn nothing(_: &Place) -> Fallible<()> {
    Ok(())
}
