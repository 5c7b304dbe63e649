//! The bench in its tiniest form: every row works, and the report has a figure for each. No figure
//! decides anything.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use agentfs_tests::{Sandbox, bins, cmd, need};
use serde_json::Value;

/// Rows whose figures need more than this machine may have, and what their cells say then.
const OF_OTHERS: [(&str, &str); 4] = [
    ("ripgrep", "rg is not installed"),
    ("npm-install", "npm is not installed"),
    ("cargo-build", "not in the local registry"),
    ("find-cold grep-cold seq-read-cold perf-read", "needs root"),
];

fn bench(sandbox: &Sandbox, rows: &[&str], more: &[&str]) -> Command {
    let mut command = sandbox.host(bins::bench());
    command
        .arg("run")
        .arg("--logs")
        .arg(sandbox.out())
        .arg("--scratch")
        .arg(sandbox.work())
        .args(["--no-disk", "--tiny", "--runs", "1"])
        .args(more);
    if !rows.is_empty() {
        command.args(["--rows", &rows.join(",")]);
    }
    command.env("AGENTFS_BIN_DIR", bins::bin_dir());
    command.env("AGENTFS_TEST_SYSROOT", bins::sysroot());
    command
}

fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Row and subject of each cell, with the reason where there is no figure.
fn cells(summary: &Value) -> BTreeMap<(String, String), Option<String>> {
    let cells = summary["cells"].as_array().expect("cells");
    cells
        .iter()
        .map(|cell| {
            let word = |name: &str| cell[name].as_str().expect("a word").to_owned();
            let failed = match cell["seconds"]["median"].as_f64() {
                Some(seconds) if seconds > 0.0 => None,
                _ => Some(cell["failed"].as_str().unwrap_or("no reason").to_owned()),
            };
            ((word("row"), word("subject")), failed)
        })
        .collect()
}

fn subject() -> &'static str {
    if need::is_root() {
        "agentfs"
    } else {
        "agentfs-user"
    }
}

#[test]
fn every_row_has_a_figure() {
    if !need("fuse") {
        return;
    }
    let sandbox = Sandbox::new();
    let list = cmd::run(sandbox.host(bins::bench()).arg("list")).ok();
    let list = String::from_utf8(list.stdout).expect("UTF-8");
    let rows: Vec<&str> = list.lines().filter_map(|l| l.split(' ').next()).collect();
    assert!(rows.len() > 30, "{list}");
    // A virtual environment takes longer than all the rest.
    let wanted: Vec<&str> = rows.iter().copied().filter(|row| *row != "venv").collect();
    cmd::run(&mut bench(&sandbox, &wanted, &["--subjects", subject()])).ok();

    let cells = cells(&json(&sandbox.out().join("summary.json")));
    let report = std::fs::read_to_string(sandbox.out().join("report.md")).expect("report.md");
    assert_eq!(cells.len(), wanted.len() * 2, "{cells:#?}");
    let mut wrong = Vec::new();
    for ((row, subject), failed) in &cells {
        let may_lack = |why: &String| {
            let mut of_others = OF_OTHERS.iter();
            of_others.any(|(rows, what)| rows.split(' ').any(|r| r == row) && why.contains(what))
        };
        if let Some(why) = failed
            && !may_lack(why)
        {
            wrong.push(format!("{row} on {subject}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{report}");
    let lines = std::fs::read_to_string(sandbox.out().join("results.jsonl")).expect("results");
    assert_eq!(lines.lines().count(), cells.len());
    let plot = std::fs::read_to_string(sandbox.out().join("plot.svg")).expect("plot.svg");
    assert!(
        plot.starts_with("<svg") && plot.contains("unlink"),
        "{plot}"
    );
}

#[test]
fn a_subject_that_fails_is_told_and_the_others_go_on() {
    if !need("fuse") {
        return;
    }
    let sandbox = Sandbox::new();
    let lost = format!("{}@/nowhere", subject());
    let both = format!("{lost},{}", subject());
    cmd::run(&mut bench(
        &sandbox,
        &["mkdir", "run-true"],
        &["--subjects", &both],
    ))
    .ok();
    let cells = cells(&json(&sandbox.out().join("summary.json")));
    for ((row, name), failed) in &cells {
        assert_eq!(
            failed.is_some(),
            *name == lost,
            "{row} on {name}: {failed:?}"
        );
    }
    let report = std::fs::read_to_string(sandbox.out().join("report.md")).expect("report.md");
    let told = report
        .split("Not measured")
        .nth(1)
        .expect("a list of failures");
    assert!(
        told.contains(&lost) && told.contains("/nowhere/agentfs"),
        "{report}"
    );
}

#[test]
fn an_earlier_run_is_compared() {
    if !need("fuse") {
        return;
    }
    let sandbox = Sandbox::new();
    let rows = ["chmod", "stat-negative"];
    cmd::run(&mut bench(
        &sandbox,
        &rows,
        &["--runs", "5", "--subjects", subject()],
    ))
    .ok();
    let path = sandbox.out().join("summary.json");
    // As if chmod had been slower than any machine can be: by how much a figure rises in noise, nobody knows.
    let mut old = json(&path);
    for cell in old["cells"].as_array_mut().expect("cells") {
        if cell["row"] == "chmod" && cell["subject"] != "host" {
            for name in ["ratio", "seconds"] {
                cell[name] = serde_json::json!({
                    "median": 1e9, "min": 1e9, "max": 1e9, "all": [1e9, 1e9, 1e9, 1e9, 1e9]
                });
            }
        }
    }
    let before = sandbox.out().join("before.json");
    std::fs::write(&before, old.to_string()).expect("write");
    let compare = ["--runs", "5", "--subjects", subject(), "--compare"];
    let more = [&compare[..], &[before.to_str().expect("UTF-8")]].concat();
    cmd::run(&mut bench(&sandbox, &rows, &more)).ok();
    let report = std::fs::read_to_string(sandbox.out().join("report.md")).expect("report.md");
    let faster = report
        .split("Faster beyond")
        .nth(1)
        .expect("what got faster");
    let faster = faster.split("## Bars").next().unwrap_or_default();
    assert!(faster.contains("| chmod |"), "{report}");
}

#[test]
fn a_judged_run_ends_with_2_when_a_bar_is_missed() {
    if !need("fuse") {
        return;
    }
    let sandbox = Sandbox::new();
    let lost = format!("{}@/nowhere", subject());
    // Bars that nothing can meet, that nothing can miss, and no figure at all.
    for (subject, bar, code) in [
        (subject(), "chmod=0.000001", 2),
        (subject(), "chmod=1000000", 0),
        (&lost, "chmod=1000000", 2),
    ] {
        let more = ["--subjects", subject, "--judge", "--bar", bar];
        cmd::run(&mut bench(&sandbox, &["chmod"], &more)).expect(code);
    }
}

#[test]
fn wrong_words_are_refused() {
    let sandbox = Sandbox::new();
    for more in [
        ["--subjects", "agentfs:quick"],
        ["--subjects", "zfs"],
        ["--rows", "walk"],
    ] {
        let done = cmd::run(&mut bench(&sandbox, &[], &more));
        done.expect(1);
    }
}
