//! The bench in its tiniest form: every row works, and the report has a figure for each. No figure
//! decides anything.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use agentfs_tests::sandbox::SYSTEM_PATH;
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
        let report = std::fs::read_to_string(sandbox.out().join("report.md")).expect("report.md");
        let is_missed = bar.ends_with("=0.000001");
        assert_eq!(report.contains(NOT_ASKED), is_missed, "{report}");
    }
}

/// What the report says of missed bars that nobody looked into.
const NOT_ASKED: &str = "No profile was made: `--profile-missed` makes one of each.";

/// Misses two bars, and has that looked into; the report, and what the summary says of a row.
fn look_into(sandbox: &Sandbox, with: impl FnOnce(&mut Command)) -> (String, Value, Value) {
    let bars = "chmod=0.000001,run-true=0.000001";
    let more = ["--subjects", subject(), "--bar", bars, "--profile-missed"];
    // Often enough to be seen by a profiler.
    let more = [&more[..], &["--ops", "5000"]].concat();
    let mut command = bench(sandbox, &["chmod", "run-true"], &more);
    with(&mut command);
    cmd::run(&mut command).ok();
    let report = std::fs::read_to_string(sandbox.out().join("report.md")).expect("report.md");
    let summary = json(&sandbox.out().join("summary.json"));
    let of = |row: &str| {
        let all = summary["why"]["made"].as_array().expect("what was missed");
        let mut all = all.iter().filter(|one| one["row"] == row);
        let found = all.next().unwrap_or_else(|| panic!("{row}: {summary:#}"));
        found.clone()
    };
    (report, of("chmod"), of("run-true"))
}

#[test]
fn a_missed_bar_is_profiled() {
    if !need("fuse") {
        return;
    }
    let sandbox = Sandbox::new();
    const TOOLS: &str = "AGENTFS_PROFILE_TOOLS";
    let tools = std::env::var_os(TOOLS);
    let (report, chmod, start) = look_into(&sandbox, |command| {
        if let Some(tools) = &tools {
            command.env(TOOLS, tools);
        }
    });
    for one in [&chmod, &start] {
        let sentence = one["sentence"].as_str().expect("a sentence");
        assert!(report.contains(sentence), "{sentence}\n{report}");
    }
    // The machine decides which of both is to be seen, not what came of it.
    let graph = &chmod["flame_graph"];
    // As an ordinary user it cannot be had: the daemon lets only root watch it.
    let lacks = need::lack("root").or_else(|| need::lack("perf"));
    match lacks.or_else(|| tools.is_none().then(|| format!("{TOOLS} is not set"))) {
        None => {
            let file = graph["made"].as_str().unwrap_or_else(|| panic!("{graph}"));
            assert_eq!(file, format!("flame-chmod-{}.svg", subject()));
            let svg = std::fs::read_to_string(sandbox.out().join(file)).expect("a graph");
            assert!(svg.contains("<svg") && svg.contains("setattr"), "{svg}");
            assert!(report.contains(&format!("]({file})")), "{report}");
        }
        Some(lack) => {
            eprintln!("note: no flame graph can be made here: {lack}");
            let why = graph["missing"].as_str().expect("a reason");
            assert!(
                report.contains(&format!("No flame graph: {why}")),
                "{report}"
            );
        }
    }
    let requests = &chmod["requests"];
    match need::lack("perf-requests") {
        None => {
            let made = &requests["made"];
            let kinds = made["kinds"]
                .as_array()
                .unwrap_or_else(|| panic!("{requests}"));
            let setattr = kinds
                .iter()
                .find(|kind| kind["kind"] == "SETATTR")
                .expect("SETATTR");
            // One for each chmod of the row: none was lost.
            assert_eq!(
                (&setattr["requests"], &made["units"]),
                (&5000.into(), &5000.into()),
                "{requests}"
            );
            let seconds = |name: &str| made[name].as_f64().expect("seconds");
            let (all, served) = (seconds("seconds"), seconds("served_seconds"));
            assert!(served > 0.0 && served <= all, "{made}");
            assert!(
                (served + seconds("left_seconds") - all).abs() < 1e-6,
                "{made}"
            );
            assert!(report.contains("| SETATTR | 5000 | 1.00 |"), "{report}");
        }
        Some(lack) => {
            eprintln!("note: no requests can be counted here: {lack}");
            let why = requests["missing"].as_str().expect("a reason");
            assert!(
                report.contains(&format!("No requests were counted: {why}")),
                "{report}"
            );
        }
    }
    let steps = start["steps"]["made"]["steps"].as_array();
    let steps = steps.unwrap_or_else(|| panic!("{start}"));
    assert!(steps.iter().any(|step| step["step"] == "mount"), "{start}");
}

#[test]
fn what_a_profile_lacks_is_in_the_report() {
    if !need("fuse") {
        return;
    }
    let refuses = "#!/bin/sh\n[ $1 = --version ] || { echo no rights to do that >&2; exit 1; }\n";
    // No perf at all; and one that may not record, beside something that would draw.
    for (perf, said) in [
        (None, "perf is not installed; fix: "),
        (Some(refuses), "no rights to do that"),
    ] {
        let sandbox = Sandbox::new();
        let dir = sandbox.out().join("programs");
        all_but_perf(&dir);
        if let Some(text) = perf {
            for name in ["perf", "inferno-collapse-perf", "inferno-flamegraph"] {
                let path = dir.join(name);
                std::fs::write(&path, text).expect("a program");
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a mode");
            }
        }
        let (report, chmod, start) = look_into(&sandbox, |command| {
            command.env("PATH", &dir).env("AGENTFS_PROFILE_TOOLS", &dir);
        });
        for what in ["flame_graph", "requests"] {
            let why = chmod[what]["missing"].as_str().expect("a reason");
            let is_known = match (perf, need::is_root()) {
                (Some(_), false) => {
                    why.contains("root; fix: ") || why.contains("root watch it; fix: ")
                }
                // A kernel without the tracepoints is told before perf is asked.
                (Some(_), true) => {
                    why.contains(said) || why.contains("this kernel has no tracepoint")
                }
                (None, _) => why.contains(said),
            };
            assert!(is_known && report.contains(why), "{why}\n{report}");
        }
        assert!(start["steps"]["made"]["ms"].as_f64().is_some(), "{start}");
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

/// Links to the system's programs, without those that profile.
fn all_but_perf(dir: &Path) {
    std::fs::create_dir(dir).expect("a directory");
    for from in SYSTEM_PATH.split(':') {
        let entries = std::fs::read_dir(from).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let is_ours = name == "perf" || name.as_bytes().starts_with(b"inferno-");
            let link = dir.join(&name);
            // The first directory of the search path wins.
            if !is_ours && std::fs::symlink_metadata(&link).is_err() {
                symlink(entry.path(), &link).expect("a link");
            }
        }
    }
}
