//! What is said after a run, on stderr and nowhere else: its command's output is on stdout.

use std::path::Path;
use std::process::ExitCode;

use agentfs_fsd::backstore::Store;
use agentfs_fsd::core::types::BranchName;
use serde_json::json;

use crate::cli::{CmdArgs, ReportArgs};
use crate::launch::Done;
use crate::limit;
use crate::proc::msg::End;
use crate::review::{self, Summary, table};
use crate::say::{self, say};
use crate::timings::Timings;

/// A run that is over.
#[derive(Debug)]
pub struct Run<'a> {
    /// The store.
    pub store: &'a Store,
    /// The branch it was on.
    pub branch: &'a BranchName,
    /// Whose changes to count: the workspace.
    pub scope: &'a Path,
    /// The branch was made for it.
    pub created: bool,
    /// How it went.
    pub done: Done,
    /// How long its steps took.
    pub timings: &'a Timings,
}

/// Reports the run and gives the exit status.
pub fn after(run: &Run<'_>, cmd: &CmdArgs, how: ReportArgs) -> ExitCode {
    let outcome = &run.done.outcome;
    let name = cmd
        .argv
        .first()
        .map(|a| a.to_string_lossy().escape_debug().to_string());
    if let Some(errno) = outcome.not_executed {
        let gone = if run.done.removed {
            "; no branch was made"
        } else {
            ""
        };
        say!(
            "agentfs: {}: {}{gone}",
            name.unwrap_or_default(),
            errno.desc()
        );
    }
    if outcome.daemon_lost {
        say!(
            "agentfs: the daemon of branch {} ended before the command; what it had acknowledged is kept",
            run.branch
        );
    }
    let timings = how.timings.then_some(run.timings);
    if !how.quiet && !run.done.removed {
        let summary = review::summary(run.store, &run.branch.clone().into(), run.scope);
        match (how.json, summary) {
            (true, summary) => say!("{}", object(run, summary.ok(), timings)),
            (false, Ok(summary)) => {
                say::raw(&(limit_words(run) + &lines(run, &summary)));
            }
            (false, Err(e)) => say!("agentfs: count the changes of {}: {e}", run.branch),
        }
    } else if how.json {
        say!("{}", object(run, None, timings));
    }
    if let (Some(timings), false) = (timings, how.json) {
        say::raw(&timings.lines());
    }
    ExitCode::from(outcome.end.status())
}

fn object(run: &Run<'_>, summary: Option<Summary>, timings: Option<&Timings>) -> serde_json::Value {
    let outcome = &run.done.outcome;
    let exit = match outcome.end {
        End::Code(code) => json!({ "code": code }),
        End::Signal(signal) => json!({ "signal": signal }),
    };
    let mut object = json!({
        "version": review::json::VERSION,
        "branch": run.branch,
        "created": run.created && !run.done.removed,
        "joined": run.done.joined,
        "status": outcome.end.status(),
        "exit": exit,
        "executed": outcome.not_executed.is_none(),
        "limit": run.done.used.map(|used| json!({
            "bytes": used.limit.bytes,
            "inodes": used.limit.inodes,
            "used_bytes": used.bytes,
            "used_inodes": used.inodes,
            "hit": used.refused > 0,
        })),
        "changes": summary.map(|s| json!({
            "added": s.added,
            "modified": s.modified,
            "deleted": s.deleted,
            "git_dir": s.git_dir,
            "outside": s.outside,
            "bytes": s.bytes,
            "complete": s.complete,
        })),
    });
    if let Some(timings) = timings {
        object["timings"] = timings.json();
    }
    object
}

/// What is said of a limit that was in the way.
fn limit_words(run: &Run<'_>) -> String {
    let Some(used) = run.done.used.filter(|used| used.refused > 0) else {
        return String::new();
    };
    let name = run.branch;
    format!(
        "agentfs: branch {name} reached its limit {}: {} and {} inodes are used, and what went beyond \
         failed (ENOSPC)\n  fix: remove files, or give it more: agentfs run --branch {name} --disk \
         LIMIT -- CMD\n",
        limit::text(used.limit),
        table::size(used.bytes),
        used.inodes
    )
}

fn lines(run: &Run<'_>, s: &Summary) -> String {
    let more = if s.complete { "" } else { " or more" };
    let mut text = format!("agentfs: branch {}: ", run.branch);
    if s.added + s.modified + s.deleted + s.git_dir + s.outside == 0 && s.complete {
        text.push_str("no changes\n");
        return text;
    }
    text.push_str(&format!(
        "+{} ~{} -{}{more}",
        s.added, s.modified, s.deleted
    ));
    if s.git_dir > 0 {
        text.push_str(&format!(", {} in .git", s.git_dir));
    }
    if s.outside > 0 {
        text.push_str(&format!(", {} outside the workspace", s.outside));
    }
    text.push('\n');
    let name = run.branch;
    for (command, what) in [
        (format!("agentfs diff {name}"), "see it"),
        (format!("agentfs diff {name} | git apply"), "land it"),
        (format!("agentfs exec {name} -- CMD"), "go on"),
        (format!("agentfs rm {name}"), "drop it"),
    ] {
        text.push_str(&format!("  {command:<40} {what}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::monitor::Outcome;

    fn run<'a>(store: &'a Store, branch: &'a BranchName, timings: &'a Timings) -> Run<'a> {
        let outcome = Outcome {
            end: End::Signal(9),
            not_executed: None,
            daemon_lost: false,
        };
        let done = Done {
            outcome,
            joined: false,
            removed: false,
            used: None,
        };
        Run {
            store,
            branch,
            scope: Path::new("/w"),
            created: true,
            done,
            timings,
        }
    }

    #[test]
    fn the_summary_counts_and_names_the_next_commands() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        let branch = BranchName::new("b").unwrap();
        let timings = Timings::begin();
        let run = run(&store, &branch, &timings);
        let none = Summary {
            complete: true,
            ..Summary::default()
        };
        assert_eq!(lines(&run, &none), "agentfs: branch b: no changes\n");
        let some = Summary {
            added: 1,
            deleted: 2,
            outside: 3,
            complete: true,
            ..none
        };
        let text = lines(&run, &some);
        assert!(
            text.starts_with("agentfs: branch b: +1 ~0 -2, 3 outside the workspace\n"),
            "{text}"
        );
        let next: Vec<_> = text.lines().skip(1).map(str::trim_start).collect();
        assert_eq!(next.len(), 4, "{text}");
        for (line, start) in next.iter().zip([
            "agentfs diff b ",
            "agentfs diff b | git apply",
            "agentfs exec b -- CMD",
            "agentfs rm b",
        ]) {
            assert!(line.starts_with(start), "{line}");
        }
        let json = object(&run, Some(some), None);
        assert_eq!(json["status"], 137);
        assert_eq!(json["exit"]["signal"], 9);
        assert_eq!(json["changes"]["outside"], 3);
    }
}
