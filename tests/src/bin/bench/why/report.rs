//! The section of report.md about missed bars: sentences and tables made of figures.

use std::fmt::Write;

use super::{Finding, Found, Missed, Requests, Steps};
use crate::Fallible;
use crate::report::{Summary, reached, time};
use crate::rows::Unit;

/// Steps that are named in a sentence.
const STEPS_TOLD: usize = 3;

/// The whole section; nothing where no bar was missed.
pub fn section(out: &mut String, summary: &Summary) -> Fallible<()> {
    let is_missed = |v: &crate::report::Verdict| !v.is_met;
    let mut cells = summary.cells.iter();
    if !cells.any(|cell| cell.verdict.as_ref().is_some_and(is_missed)) {
        return Ok(());
    }
    writeln!(out, "\n## Why the missed bars are missed\n")?;
    let all = match &summary.why {
        Finding::Made(all) => all,
        Finding::Missing(why) => {
            writeln!(out, "No profile was made: {why}.")?;
            return Ok(());
        }
    };
    writeln!(
        out,
        "After the rounds each was run again on new branches: once with perf on the daemon, for a flame graph, and once with the \
         kernel's tracepoints of FUSE, for the requests. A request takes from its sending to its end: being picked up and served. \
         *Served* is the time in which at least one was under way that is waited for; what is left over is waking the caller, and \
         the caller's own work. The host's own time is that of the rounds."
    )?;
    for missed in all {
        one(out, summary, missed)?;
    }
    Ok(())
}

fn one(out: &mut String, summary: &Summary, missed: &Missed) -> Fallible<()> {
    write!(out, "\n### {}, {}", missed.title, missed.subject)?;
    let cell = summary.cell(&missed.row, &missed.subject);
    if let Some(verdict) = cell.and_then(|cell| cell.verdict.as_ref()) {
        write!(out, ": {}, bar {}", reached(verdict), verdict.bar)?;
    }
    writeln!(out, "\n\n{}\n", missed.sentence)?;
    match &missed.found {
        Found::Start { steps } => {
            if let Finding::Made(steps) = steps {
                table_of_steps(out, steps)?;
            }
        }
        Found::Row {
            flame_graph,
            requests,
        } => {
            match flame_graph {
                Finding::Made(file) => writeln!(out, "[Flame graph of the daemon]({file})")?,
                Finding::Missing(why) => writeln!(out, "No flame graph: {}.", plain(why))?,
            }
            if let Finding::Made(requests) = requests {
                table(out, requests)?;
            }
        }
    }
    Ok(())
}

fn table(out: &mut String, requests: &Requests) -> Fallible<()> {
    let is_counted = requests.unit != Unit::Run;
    let column = |text: String| match is_counted {
        true => format!(" {text} |"),
        false => String::new(),
    };
    let of = match requests.unit {
        Unit::Operation => requests.unit.one(),
        _ => "in the run",
    };
    writeln!(
        out,
        "\n| request | in the run |{} each takes | {of} | of the row's time |\n|---|---|{}---|---|---|",
        column(requests.unit.one().to_owned()),
        if is_counted { "---|" } else { "" }
    )?;
    let mut line = |what: &str, count: Option<u64>, each_us: Option<f64>, seconds: f64, share| {
        let per_unit = count.map(|count| count as f64 / requests.units as f64);
        writeln!(
            out,
            "| {what} | {} |{} {} | {} | {share} |",
            count.map(|count| count.to_string()).unwrap_or_default(),
            column(per_unit.map(|per| format!("{per:.2}")).unwrap_or_default()),
            each_us.map(|us| time(us / 1e6)).unwrap_or_default(),
            time(seconds / parts(requests)),
        )
    };
    for kind in &requests.kinds {
        let share = match kind.is_waited_for {
            true => percent(kind.share),
            false => "not waited for".to_owned(),
        };
        let seconds = kind.share * requests.seconds;
        line(
            &kind.kind,
            Some(kind.requests),
            kind.mean_us,
            seconds,
            share,
        )?;
    }
    let share = |seconds: f64| percent(seconds / requests.seconds);
    let (served, left) = (requests.served_seconds, requests.left_seconds);
    let all = Some(count(requests));
    line("*served*", all, None, served, share(served))?;
    line("*left over*", None, None, left, share(left))?;
    if let Some(host) = requests.host_seconds {
        line("*the host's own work*", None, None, host, share(host))?;
    }
    if requests.lost_records > 0 {
        writeln!(
            out,
            "\n{} records were lost: the figures are too low.",
            requests.lost_records
        )?;
    }
    Ok(())
}

fn table_of_steps(out: &mut String, steps: &Steps) -> Fallible<()> {
    writeln!(out, "| step | time | of the start |\n|---|---|---|")?;
    for step in &steps.steps {
        writeln!(
            out,
            "| {} | {} | {} |",
            step.step,
            time(step.ms / 1e3),
            percent(step.ms / steps.ms)
        )?;
    }
    Ok(())
}

/// What was found, in figures.
pub fn sentence(found: &Found) -> String {
    match found {
        Found::Start { steps } => match steps {
            Finding::Made(steps) => of_start(steps),
            Finding::Missing(why) => format!("No steps: {}.", plain(why)),
        },
        Found::Row { requests, .. } => match requests {
            Finding::Made(requests) => of_row(requests),
            Finding::Missing(why) => format!("No requests were counted: {}.", plain(why)),
        },
    }
}

fn of_start(steps: &Steps) -> String {
    let mut longest: Vec<_> = steps.steps.iter().collect();
    longest.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    longest.truncate(STEPS_TOLD);
    let sum: f64 = longest.iter().map(|step| step.ms).sum();
    let named: Vec<_> = longest
        .iter()
        .map(|step| format!("{} {}", step.step, time(step.ms / 1e3)))
        .collect();
    format!(
        "Of {} the longest steps are {}: together {}.",
        time(steps.ms / 1e3),
        named.join(", "),
        percent(sum / steps.ms)
    )
}

fn of_row(requests: &Requests) -> String {
    let each = parts(requests);
    let all = count(requests);
    let per_unit = all as f64 / requests.units as f64;
    let in_run = format!(
        "{all} {} a run",
        if all == 1 { "request" } else { "requests" }
    );
    let counted = match requests.unit {
        _ if all == 0 => "No request".to_owned(),
        Unit::Run => in_run,
        Unit::Operation => format!("{per_unit:.1} requests an operation"),
        Unit::File | Unit::Mib => {
            format!(
                "{all} requests a run, {per_unit:.1} {}",
                requests.unit.one()
            )
        }
    };
    let served = requests.served_seconds;
    let mut text = format!(
        "{counted}, {} served, of {} ({} untraced)",
        time(served / each),
        time(requests.seconds / each),
        time(requests.untraced_seconds / each)
    );
    if let Some(host) = requests.host_seconds {
        let left = requests.left_seconds - host;
        match left >= 0.0 {
            true => text.push_str(&format!(
                ": {} is neither served nor the host's own work ({})",
                percent(left / requests.seconds),
                time(host / each)
            )),
            false => text.push_str(&format!(
                ": that and the host's own work ({}) are {} of it, so nothing is left",
                time(host / each),
                percent((served + host) / requests.seconds)
            )),
        }
    }
    text + "."
}

/// Into how many parts times are told: rows of one operation tell that of one.
fn parts(requests: &Requests) -> f64 {
    match requests.unit {
        Unit::Operation => requests.units as f64,
        Unit::File | Unit::Mib | Unit::Run => 1.0,
    }
}

/// Of what is waited for, as the time beside it is.
fn count(requests: &Requests) -> u64 {
    let waited_for = requests.kinds.iter().filter(|kind| kind.is_waited_for);
    waited_for.map(|kind| kind.requests).sum()
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A reason as the end of a line.
fn plain(why: &str) -> String {
    why.replace('\n', " ").trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{OfKind, StepTime};
    use super::*;

    fn row(unit: Unit, units: u64, served: f64, host: Option<f64>) -> Requests {
        Requests {
            unit,
            units,
            seconds: 0.29,
            untraced_seconds: 0.28,
            host_seconds: host,
            served_seconds: served,
            left_seconds: 0.29 - served,
            kinds: vec![OfKind {
                kind: "LOOKUP".to_owned(),
                is_waited_for: true,
                requests: 9400,
                requests_per_unit: 9400.0 / units as f64,
                mean_us: Some(11.7),
                share: served / 0.29,
            }],
            lost_records: 0,
        }
    }

    #[test]
    fn sentences_are_made_of_figures() {
        assert_eq!(
            of_row(&row(Unit::Operation, 1000, 0.11, Some(0.05))),
            "9.4 requests an operation, 110 us served, of 290 us (280 us untraced): 45 % is neither served nor the host's \
             own work (50.0 us)."
        );
        assert_eq!(
            of_row(&row(Unit::File, 4700, 0.28, Some(0.05))),
            "9400 requests a run, 2.0 a file, 280 ms served, of 290 ms (280 ms untraced): that and the host's own work \
             (50.0 ms) are 114 % of it, so nothing is left."
        );
        assert_eq!(
            of_row(&row(Unit::Run, 1, 0.11, None)),
            "9400 requests a run, 110 ms served, of 290 ms (280 ms untraced)."
        );
        let mut none = row(Unit::File, 100, 0.0, Some(0.145));
        none.kinds.clear();
        assert_eq!(
            of_row(&none),
            "No request, 0.00 us served, of 290 ms (280 ms untraced): 50 % is neither served nor the host's own work (145 ms)."
        );
    }

    #[test]
    fn what_was_written_can_be_read() {
        let row = Found::Row {
            flame_graph: Finding::Missing("no perf".to_owned()),
            requests: Finding::Made(row(Unit::Mib, 10, 0.11, None)),
        };
        let start = Found::Start {
            steps: Finding::Made(Steps {
                ms: 1.5,
                steps: Vec::new(),
            }),
        };
        for found in [row, start] {
            let missed = Missed {
                row: "a".to_owned(),
                title: "A".to_owned(),
                subject: "agentfs".to_owned(),
                sentence: sentence(&found),
                found,
            };
            let text = serde_json::to_string(&missed).expect("JSON");
            let read: Missed = serde_json::from_str(&text).expect(&text);
            assert_eq!(read, missed);
        }
    }

    #[test]
    fn a_start_tells_its_longest_steps() {
        let steps = [
            ("plan", 1.0),
            ("branch", 5.0),
            ("mount", 2.0),
            ("view", 0.5),
        ];
        let steps = steps.map(|(step, ms)| StepTime {
            step: step.to_owned(),
            ms,
        });
        let steps = Steps {
            ms: 10.0,
            steps: steps.to_vec(),
        };
        assert_eq!(
            of_start(&steps),
            "Of 10.0 ms the longest steps are branch 5.00 ms, mount 2.00 ms, plan 1.00 ms: together 80 %."
        );
    }

    #[test]
    fn a_table_has_every_kind_and_what_is_left() {
        let mut out = String::new();
        table(&mut out, &row(Unit::Operation, 1000, 0.11, Some(0.05))).expect("a table");
        for line in [
            "| request | in the run | an operation | each takes | an operation | of the row's time |",
            "| LOOKUP | 9400 | 9.40 | 11.7 us | 110 us | 38 % |",
            "| *served* | 9400 | 9.40 |  | 110 us | 38 % |",
            "| *left over* |  |  |  | 180 us | 62 % |",
            "| *the host's own work* |  |  |  | 50.0 us | 17 % |",
        ] {
            assert!(out.lines().any(|l| l == line), "{line}\n{out}");
        }
    }
}
