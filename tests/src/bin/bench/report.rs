//! What is made of the measurements: summary.json for programs, report.md for people.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Fallible;
use crate::fixture::Sizes;
use crate::machine::Machine;
use crate::rows::{Bar, Row};
use crate::runner::Result1;
use crate::stats::Spread;
use crate::subject::{Kind, Subject};
use crate::why::{self, Finding, Missed};

/// Under which conditions it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    pub started: String,
    pub machine: Machine,
    pub disk: String,
    pub origin: String,
    pub files: u64,
    pub bytes: u64,
    pub sizes: Sizes,
    pub runs: u32,
    pub subjects: Vec<String>,
    pub versions: Vec<(String, String)>,
    /// What the environment told agentfs.
    pub knobs: Vec<(String, String)>,
    /// The load at the begin of each round.
    pub loads: Vec<f64>,
    pub stolen_percent: f64,
    pub seconds: f64,
    /// Why it ended early.
    pub stopped: Option<String>,
}

/// One cell of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub row: String,
    pub title: String,
    pub subject: String,
    pub seconds: Option<Spread>,
    /// To the host in the same round.
    pub ratio: Option<Spread>,
    /// For the ordinary user: to agentfs as root in the same round.
    pub ratio_to_root: Option<Spread>,
    pub verdict: Option<Verdict>,
    pub failed: Option<String>,
}

/// A bar, and what was reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// In words: `<= 1.1x host`.
    pub bar: String,
    /// In the bar's own unit.
    pub reached: f64,
    pub is_met: bool,
}

impl Verdict {
    /// The bar, where it is a ratio to the host.
    pub fn ratio_to_host(&self) -> Option<f64> {
        self.bar.ends_with("x host").then(|| number(&self.bar))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    pub version: u32,
    #[serde(flatten)]
    pub told: Told,
    pub cells: Vec<Cell>,
    /// Of each bar that was missed.
    #[serde(default = "not_asked")]
    pub why: Finding<Vec<Missed>>,
}

/// `--profile-missed` was not given.
fn not_asked() -> Finding<Vec<Missed>> {
    Finding::Missing("`--profile-missed` makes one of each".to_owned())
}

impl Summary {
    /// Whether agentfs has a figure in each of its rows, and met each bar.
    pub fn is_good(&self) -> bool {
        let mut ours = self
            .cells
            .iter()
            .filter(|cell| cell.subject.starts_with("agentfs"));
        ours.all(|cell| cell.failed.is_none() && cell.verdict.as_ref().is_none_or(|v| v.is_met))
    }

    pub fn cell(&self, row: &str, subject: &str) -> Option<&Cell> {
        let mut cells = self.cells.iter();
        cells.find(|cell| cell.row == row && cell.subject == subject)
    }
}

/// An ordinary user's bar: so many times that of root's.
const USER_BAR: f64 = 1.5;
/// But for the row that has one of its own, to the host.
const USER_WRITE: (&str, f64) = ("seq-write", 1.6);

pub fn summary(
    told: Told,
    rows: &[&Row],
    subjects: &[Subject],
    results: &[Result1],
    bars: &[(String, f64)],
) -> Summary {
    let of = |row: &Row, subject: &str| -> Vec<(u32, f64)> {
        let mine = results
            .iter()
            .filter(|r| r.row == row.id && r.subject == subject);
        mine.filter_map(|r| Some((r.round, r.seconds?))).collect()
    };
    let mut cells = Vec::new();
    for row in rows {
        for subject in subjects {
            let mine = of(row, &subject.name);
            let against = |other: &str| {
                let others = of(row, other);
                let ratios: Vec<f64> = mine
                    .iter()
                    .filter_map(|(round, seconds)| {
                        let (_, other) = others.iter().find(|(r, _)| r == round)?;
                        Some(seconds / other)
                    })
                    .collect();
                Spread::of(&ratios)
            };
            let seconds: Vec<f64> = mine.iter().map(|(_, seconds)| *seconds).collect();
            let failed = results
                .iter()
                .filter(|r| r.row == row.id && r.subject == subject.name)
                .find_map(|r| r.failed.clone());
            let mut cell = Cell {
                row: row.id.to_owned(),
                title: row.title.to_owned(),
                subject: subject.name.clone(),
                seconds: Spread::of(&seconds),
                ratio: against("host"),
                ratio_to_root: subject
                    .is_user()
                    .then(|| against(&subject.name.replacen("agentfs-user", "agentfs", 1)))
                    .flatten(),
                verdict: None,
                failed,
            };
            let own = bars
                .iter()
                .find(|(name, _)| name == row.id)
                .map(|(_, bar)| *bar);
            cell.verdict = verdict(row, subject, &cell, own);
            cells.push(cell);
        }
    }
    Summary {
        version: 1,
        told,
        cells,
        why: not_asked(),
    }
}

/// `own` is a ratio that the caller gave.
fn verdict(row: &Row, subject: &Subject, cell: &Cell, own: Option<f64>) -> Option<Verdict> {
    let Kind::Agentfs(form) = &subject.kind else {
        return None;
    };
    let bar = match (own, row.bar) {
        (Some(own), _) => Bar::Ratio(own),
        (None, _) if form.is_user && row.id == USER_WRITE.0 => Bar::Ratio(USER_WRITE.1),
        (None, None) => return None,
        (None, Some(Bar::Ratio(most))) if form.is_user => Bar::Ratio(most * USER_BAR),
        (None, Some(Bar::Millis(most))) if form.is_user => Bar::Millis(most * USER_BAR),
        (None, Some(bar)) => bar,
    };
    let (bar, reached, most) = match bar {
        Bar::Ratio(most) => (
            format!("<= {}x host", short(most)),
            cell.ratio.as_ref()?.median,
            most,
        ),
        Bar::Millis(most) => (
            format!("<= {} ms", short(most)),
            cell.seconds.as_ref()?.median * 1e3,
            most,
        ),
    };
    Some(Verdict {
        bar,
        reached,
        is_met: reached <= most,
    })
}

/// Writes all of it; gives the text of report.md.
pub fn save(logs: &Path, summary: &Summary, compared: Option<&str>) -> Fallible<String> {
    fs::write(
        logs.join("summary.json"),
        serde_json::to_vec_pretty(summary)?,
    )?;
    crate::plot::write(&logs.join("plot.svg"), summary)?;
    let text = text(summary, compared)?;
    fs::write(logs.join("report.md"), &text)?;
    Ok(text)
}

fn text(summary: &Summary, compared: Option<&str>) -> Fallible<String> {
    let mut out = String::new();
    head(&mut out, &summary.told)?;
    if let Some(compared) = compared {
        writeln!(out, "\n## Compared\n\n{compared}")?;
    }
    bars(&mut out, summary)?;
    table(&mut out, summary)?;
    why::report::section(&mut out, summary)?;
    failures(&mut out, summary)?;
    Ok(out)
}

fn head(out: &mut String, told: &Told) -> Fallible<()> {
    let machine = &told.machine;
    writeln!(out, "# Measured {}\n", told.started)?;
    if let Some(why) = &told.stopped {
        writeln!(out, "**Ended early: {why}.**\n")?;
    }
    writeln!(
        out,
        "{} rounds asked for, {:.0} s; in each, every subject did every row, one after the other. Times are medians; a ratio is \
         the median of the ratios to the host in the same round. Each round begins with new branches.\n",
        told.runs, told.seconds
    )?;
    writeln!(
        out,
        "- Linux {}, {} x {}, {} MiB",
        machine.kernel, machine.cpus, machine.cpu, machine.memory_mib
    )?;
    writeln!(
        out,
        "- FUSE over io_uring (`enable_uring`): {}; `guest_halt_poll_ns`: {}",
        machine.fuse_io_uring, machine.guest_halt_poll_ns
    )?;
    writeln!(
        out,
        "- on {}; {} files ({}, {} MiB), large file {} MiB, huge file {} GiB, {} operations of each kind",
        told.disk,
        told.files,
        told.origin,
        told.bytes >> 20,
        told.sizes.big_mib,
        told.sizes.huge_gib,
        told.sizes.ops
    )?;
    for (name, version) in &told.versions {
        writeln!(out, "- {name}: {version}")?;
    }
    for (name, value) in &told.knobs {
        writeln!(out, "- {name}={value}")?;
    }
    let loads: Vec<_> = told.loads.iter().map(|load| format!("{load:.1}")).collect();
    let busy = told.loads.iter().any(|load| *load > machine.cpus as f64);
    let remark = if busy {
        ": other work was going on, so trust ratios more than times"
    } else {
        ""
    };
    writeln!(
        out,
        "- load at the begin of each round: {}; stolen by the hypervisor: {:.1} %{remark}",
        loads.join(", "),
        told.stolen_percent
    )?;
    Ok(())
}

/// Every bar, what was reached, and in how many of the rounds.
fn bars(out: &mut String, summary: &Summary) -> Fallible<()> {
    let cells = summary.cells.iter();
    let mut judged: Vec<(&Cell, &Verdict)> = cells
        .filter_map(|c| Some((c, c.verdict.as_ref()?)))
        .collect();
    if judged.is_empty() {
        return Ok(());
    }
    let excess = |v: &Verdict| v.reached / number(&v.bar);
    judged.sort_by(|a, b| excess(b.1).total_cmp(&excess(a.1)));
    let met = judged.iter().filter(|(_, v)| v.is_met).count();
    writeln!(
        out,
        "\n## Bars\n\n{met} of {} met. The farthest from its bar first; the range is that of all rounds.\n",
        judged.len()
    )?;
    writeln!(
        out,
        "| row | subject | bar | reached | range | |\n|---|---|---|---|---|---|"
    )?;
    for (cell, verdict) in judged {
        let mark = if verdict.is_met { "met" } else { "**missed**" };
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {mark} |",
            cell.title,
            cell.subject,
            verdict.bar,
            reached(verdict),
            range(cell, verdict)
        )?;
    }
    Ok(())
}

/// From the least to the most, in the bar's own unit.
fn range(cell: &Cell, verdict: &Verdict) -> String {
    let (spread, by) = match verdict.ratio_to_host() {
        Some(_) => (&cell.ratio, 1.0),
        None => (&cell.seconds, 1e3),
    };
    let text = |s: &Spread| format!("{:.2} to {:.2}", s.min * by, s.max * by);
    spread.as_ref().map(text).unwrap_or_default()
}

/// Without the noise of binary fractions: 1.65, not 1.6500000000000001.
fn short(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

/// The figure in a bar's words.
fn number(bar: &str) -> f64 {
    let digits: String = bar
        .chars()
        .filter(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    digits.parse().unwrap_or(1.0)
}

/// In the unit of the bar.
pub fn reached(verdict: &Verdict) -> String {
    match verdict.bar.ends_with("ms") {
        true => format!("{:.1} ms", verdict.reached),
        false => format!("{:.2}x", verdict.reached),
    }
}

fn table(out: &mut String, summary: &Summary) -> Fallible<()> {
    let subjects = &summary.told.subjects;
    writeln!(
        out,
        "\n## Table\n\nA figure that misses its bar is bold.\n\n| workload | {} | bar |",
        subjects.join(" | ")
    )?;
    writeln!(out, "|{}", "---|".repeat(subjects.len() + 2))?;
    let mut seen = Vec::new();
    for cell in &summary.cells {
        if seen.contains(&&cell.row) {
            continue;
        }
        seen.push(&cell.row);
        let mut bars: Vec<&str> = Vec::new();
        write!(out, "| {} ", cell.title)?;
        for subject in subjects {
            let cell = summary.cell(&cell.row, subject);
            write!(out, "| {} ", cell.map(figure).unwrap_or_default())?;
            let verdict = cell.and_then(|cell| cell.verdict.as_ref());
            bars.extend(verdict.map(|verdict| verdict.bar.as_str()));
        }
        bars.dedup();
        writeln!(out, "| {} |", bars.join("; "))?;
    }
    Ok(())
}

fn figure(cell: &Cell) -> String {
    let Some(seconds) = &cell.seconds else {
        return if cell.failed.is_some() {
            "-".to_owned()
        } else {
            String::new()
        };
    };
    let time = time(seconds.median);
    let some = if cell.failed.is_some() {
        " (some failed)"
    } else {
        ""
    };
    let is_missed = cell.verdict.as_ref().is_some_and(|v| !v.is_met);
    let bold = if is_missed { "**" } else { "" };
    match &cell.ratio {
        Some(ratio) if cell.subject != "host" => {
            format!("{bold}{:.2}x{bold} ({time}){some}", ratio.median)
        }
        _ => format!("{time}{some}"),
    }
}

/// A time with its unit, three figures long.
pub fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "us"),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

fn failures(out: &mut String, summary: &Summary) -> Fallible<()> {
    let failed: Vec<_> = summary
        .cells
        .iter()
        .filter(|cell| cell.failed.is_some())
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n## Not measured, or failed\n")?;
    for cell in failed {
        let why = cell.failed.as_deref().unwrap_or_default();
        writeln!(
            out,
            "- {}, {}: {}",
            cell.title,
            cell.subject,
            why.replace('\n', " ")
        )?;
    }
    Ok(())
}
