//! Runs the table: rounds, in each round every row, for each row every subject in turn.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::fixture::{self, Sizes};
use crate::machine::{self, Machine, Ticks};
use crate::perf::Perf;
use crate::profile::{self, Files};
use crate::report::{self, Told};
use crate::rows::{self, Done, Group, Row};
use crate::session::{self, Common, Session, Wanted};
use crate::subject::{Kind, Subject};
use crate::why::{self, Finding, Means};
use crate::worker::Step;
use crate::{Fallible, RunArgs, called, compare, launch, stop};

/// One measurement, as a line of results.jsonl.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Result1 {
    pub round: u32,
    pub row: String,
    pub subject: String,
    /// For one operation where the row counts operations; for all of it elsewhere.
    pub seconds: Option<f64>,
    pub ops: u64,
    /// Why there is no figure.
    pub failed: Option<String>,
}

/// Those of a round, by their subjects; or why there is none.
type Sessions<'a> = HashMap<&'a str, Fallible<Session>>;

/// Measures and reports. Whether agentfs met all its bars.
pub fn run(args: &RunArgs) -> Fallible<bool> {
    let sizes = sizes(args);
    let subjects = subjects(args)?;
    let rows = chosen(&args.rows)?;
    let means = args.profile_missed.then(Means::here);
    fs::create_dir_all(&args.logs)?;
    let is_root = rustix::process::geteuid().is_root();
    let disk = match is_root && !args.no_disk {
        true => Disk::in_memory(&args.scratch, args.disk_gib)?,
        false => Disk::in_directory(&args.scratch)?,
    };
    eprintln!("bench: making the fixture on {}", disk.what);
    let fixture = fixture::make(&disk.top, &sizes, args.synthetic)?;
    let wanted = Wanted {
        scratch: &args.scratch,
        logs: &args.logs,
        user: args.user.as_deref(),
        sizes: &sizes,
        has_user: subjects.iter().any(Subject::is_user),
        has_toolchain: rows.iter().any(|row| row.id == "cargo-build"),
    };
    let common = session::common(&wanted, &disk, &fixture)?;
    let mut told = Told {
        started: machine::now(),
        machine: Machine::here(),
        disk: disk.what.clone(),
        origin: fixture.origin.clone(),
        files: fixture.files,
        bytes: fixture.bytes,
        sizes: sizes.clone(),
        runs: args.runs,
        subjects: subjects.iter().map(|s| s.name.clone()).collect(),
        versions: versions(&common, &subjects),
        knobs: session::knobs().collect(),
        loads: Vec::new(),
        stolen_percent: 0.0,
        seconds: 0.0,
        stopped: None,
    };
    let (start, ticks) = (Instant::now(), Ticks::now());
    let mut table = Table {
        args,
        common: &common,
        disk: &disk,
        subjects: &subjects,
        rows: &rows,
        is_root,
        results: Vec::new(),
        out: File::create(args.logs.join("results.jsonl"))?,
    };
    if let Err(e) = table.rounds(&mut told.loads) {
        told.stopped = Some(e.to_string());
    }
    told.stolen_percent = ticks.stolen_percent();
    told.seconds = start.elapsed().as_secs_f64();
    let mut summary = report::summary(told, &rows, &subjects, &table.results, &args.bars);
    let compared = match &args.compare {
        Some(old) => Some(compare::with(old, &summary)?),
        None => None,
    };
    if let Some(means) = &means {
        // Whatever comes of the rest, this took long.
        report::save(&args.logs, &summary, compared.as_deref())?;
        summary.why = match &summary.told.stopped {
            None => Finding::Made(why::explain(&table, &summary, means)),
            Some(_) => Finding::Missing("the run ended early".to_owned()),
        };
        if stop::is_stopped() && summary.told.stopped.is_none() {
            summary.told.stopped = Some("stopped while it looked into missed bars".to_owned());
        }
    }
    let text = report::save(&args.logs, &summary, compared.as_deref())?;
    println!("{text}");
    let is_good = summary.is_good();
    match summary.told.stopped {
        Some(why) => Err(why.into()),
        None => Ok(is_good),
    }
}

/// A table that is being measured.
pub struct Table<'a> {
    pub args: &'a RunArgs,
    pub common: &'a Common,
    disk: &'a Disk,
    pub subjects: &'a [Subject],
    pub rows: &'a [&'static Row],
    is_root: bool,
    results: Vec<Result1>,
    out: File,
}

impl Table<'_> {
    /// All rounds: first those of the cold rows, then those of the warm ones. Whatever is dropped from
    /// the caches for a cold row, nobody has to read again in the middle of a warm one.
    fn rounds(&mut self, loads: &mut Vec<f64>) -> Fallible<()> {
        for is_cold in [true, false] {
            let rows: Vec<_> = self
                .rows
                .iter()
                .copied()
                .filter(|row| row.is_cold == is_cold)
                .collect();
            if rows.is_empty() {
                continue;
            }
            for round in 0..self.args.runs {
                let load = machine::load();
                loads.push(load);
                let what = if is_cold { "cold" } else { "warm" };
                eprintln!(
                    "bench: {what} round {} of {}, load {load:.1}",
                    round + 1,
                    self.args.runs
                );
                self.round(round, &rows)?;
            }
        }
        Ok(())
    }

    /// Each of `rows` on every subject, each subject beginning anew.
    fn round(&mut self, round: u32, rows: &[&'static Row]) -> Fallible<()> {
        let mut sessions = Sessions::new();
        let subjects = self.subjects;
        for subject in subjects {
            stop::check()?;
            if subject.kind != Kind::Bwrap {
                sessions.insert(&subject.name, Session::open(self.common, subject));
            }
        }
        for (n, &row) in rows.iter().enumerate() {
            if round == 0
                && row.group == Group::Real
                && let Some(Ok(host)) = sessions.get_mut("host")
            {
                // Programs and their libraries are read once, at nobody's cost.
                let _ = self.measure(row, &self.subjects[0], host);
            }
            self.in_turn(round, n, row, &mut sessions)?;
        }
        for (name, session) in sessions {
            if let Ok(session) = session {
                session.close().map_err(|e| format!("ending {name}: {e}"))?;
            }
        }
        Ok(())
    }

    /// One row on every subject. Who begins changes from row to row and from round to round: the first
    /// one pays for what the row before has left to do.
    fn in_turn(
        &mut self,
        round: u32,
        place: usize,
        row: &Row,
        sessions: &mut Sessions<'_>,
    ) -> Fallible<()> {
        let mut subjects: Vec<&Subject> = self.subjects.iter().filter(|s| s.does(row)).collect();
        if !subjects.is_empty() {
            let turn = (round as usize + place) % subjects.len();
            subjects.rotate_left(turn);
        }
        let mut measured = Vec::new();
        for subject in subjects {
            stop::check()?;
            let done = match row.group {
                Group::Launch => self.launch(subject),
                _ => match sessions.get_mut(subject.name.as_str()) {
                    Some(Ok(session)) => self.measure(row, subject, session),
                    Some(Err(e)) => Err(e.to_string().into()),
                    None => Err("only starts commands".into()),
                },
            };
            measured.push((subject, done));
        }
        let is_host = |subject: &Subject| subject.kind == Kind::Host;
        let proof = measured.iter().find_map(|(subject, done)| match done {
            Ok(done) if is_host(subject) => Some(done.proof.clone()),
            _ => None,
        });
        for (subject, done) in measured {
            let done = done.and_then(|done| checked(done, proof.as_deref()));
            self.note(round, row, subject, done)?;
        }
        Ok(())
    }

    fn measure(&self, row: &Row, subject: &Subject, session: &mut Session) -> Fallible<Done> {
        if !self.args.profile || !matches!(subject.kind, Kind::Agentfs(_)) {
            return self.measure_with(row, subject, session, |_| Ok(None));
        }
        let files = Files::of(&self.args.logs, row.id, &subject.slug());
        let done = self.measure_with(row, subject, session, |session| {
            profile::record(self.args, &files, &session.dir).map(Some)
        })?;
        profile::draw(&files, &done.elapsed)?;
        Ok(done)
    }

    /// With what `begin` gives recording while the row runs, and no longer.
    pub fn measure_with(
        &self,
        row: &Row,
        subject: &Subject,
        session: &mut Session,
        begin: impl FnOnce(&Session) -> Fallible<Option<Perf>>,
    ) -> Fallible<Done> {
        if row.id == "append-huge" && matches!(subject.kind, Kind::Overlayfs | Kind::FuseOverlayfs)
        {
            return Err("not tried: it copies the whole file".into());
        }
        if row.is_cold && !self.is_root {
            return Err("needs root, to drop caches".into());
        }
        if !session.worker.is_alive() {
            return Err("has ended in an earlier row".into());
        }
        let limit = Duration::from_secs(self.args.limit_seconds);
        session.worker.step(row.id, Step::Prepare, limit)?;
        self.disk.settle()?;
        if row.is_cold {
            self.disk.drop_caches()?;
            // The tool's own pages come from another disk: not what is measured.
            warm_tools(row);
        }
        let perf = begin(session)?;
        let done = session.worker.step(row.id, Step::Run, limit);
        let stopped = perf.map_or(Ok(()), Perf::stop);
        let cleaned = session.worker.step(row.id, Step::Clean, limit);
        let done = done?.ok_or("no figure")?;
        stopped?;
        cleaned.map_err(|e| format!("cleaning up: {e}"))?;
        Ok(done)
    }

    /// Starts of `true`, each on a new branch.
    fn launch(&self, subject: &Subject) -> Fallible<Done> {
        Ok(Done {
            elapsed: launch::middle(self.common, subject, &[])?.took,
            ops: 1,
            proof: "ended with 0".to_owned(),
        })
    }

    fn note(
        &mut self,
        round: u32,
        row: &Row,
        subject: &Subject,
        measured: Fallible<Done>,
    ) -> Fallible<()> {
        let (seconds, ops, failed) = match measured {
            Ok(done) => {
                let each = if row.is_micro() { done.ops.max(1) } else { 1 };
                (
                    Some(done.elapsed.total().as_secs_f64() / each as f64),
                    done.ops,
                    None,
                )
            }
            Err(e) => (None, 0, Some(e.to_string())),
        };
        let result = Result1 {
            round,
            row: row.id.to_owned(),
            subject: subject.name.clone(),
            seconds,
            ops,
            failed,
        };
        serde_json::to_writer(&mut self.out, &result)?;
        self.out.write_all(b"\n")?;
        self.results.push(result);
        Ok(())
    }
}

/// An error when it did not do what the host did.
fn checked(done: Done, proof: Option<&str>) -> Fallible<Done> {
    match proof {
        Some(proof) if proof != done.proof => {
            Err(format!("did other work: {}, not {proof}", done.proof).into())
        }
        _ => Ok(done),
    }
}

/// Reads the tools of a cold row, after caches were dropped.
fn warm_tools(row: &Row) {
    let program = row.id.split('-').next().unwrap_or_default();
    if matches!(program, "find" | "grep") {
        let _ = called(Command::new(program).arg("--version"));
    }
}

fn sizes(args: &RunArgs) -> Sizes {
    let mut sizes = match args.tiny {
        true => Sizes::tiny(),
        false => Sizes::full(),
    };
    if let Some(files) = args.files {
        sizes.files = files;
    }
    if let Some(mib) = args.base_mib {
        sizes.big_mib = mib;
    }
    if let Some(mib) = args.write_mib {
        sizes.write_mib = mib;
    }
    if let Some(mib) = args.writer_mib {
        sizes.writer_mib = mib;
    }
    if let Some(ops) = args.ops {
        sizes.ops = ops.max(2);
    }
    sizes
}

/// The subjects asked for, and always the host.
fn subjects(args: &RunArgs) -> Fallible<Vec<Subject>> {
    let mut subjects = vec![Subject::parse("host")?];
    let words: Vec<&str> = match (args.subjects.is_empty(), args.user.is_some()) {
        (false, _) => args.subjects.iter().map(String::as_str).collect(),
        (true, true) => vec!["agentfs", "agentfs-user"],
        (true, false) if rustix::process::geteuid().is_root() => vec!["agentfs"],
        (true, false) => vec!["agentfs-user"],
    };
    for word in words {
        let subject = Subject::parse(word)?;
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    Ok(subjects)
}

fn chosen(words: &[String]) -> Fallible<Vec<&'static Row>> {
    for word in words {
        if !rows::all().any(|row| row.id == word || row.group.word() == word) {
            return Err(format!("no row and no group {word}; `list` prints them").into());
        }
    }
    let is_chosen = |row: &&Row| {
        words.is_empty() && row.group != Group::Performance
            || words.iter().any(|w| row.id == w || row.group.word() == w)
    };
    Ok(rows::all().filter(is_chosen).collect())
}

fn versions(common: &Common, subjects: &[Subject]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for subject in subjects {
        let program = match &subject.kind {
            Kind::Agentfs(form) => {
                let bin = form.bin.as_ref().unwrap_or(&common.bin);
                bin.join("agentfs")
            }
            Kind::FuseOverlayfs => PathBuf::from("fuse-overlayfs"),
            Kind::Bwrap => PathBuf::from("bwrap"),
            Kind::Host | Kind::Overlayfs => continue,
        };
        let version = machine::version(&program);
        found.push((
            subject.name.clone(),
            version.unwrap_or_else(|| "not installed".to_owned()),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::timing::Timing;

    #[test]
    fn other_work_than_the_hosts_is_no_figure() {
        let done = |proof: &str| Done {
            elapsed: Timing::default(),
            ops: 1,
            proof: proof.to_owned(),
        };
        assert!(checked(done("12 lines"), Some("12 lines")).is_ok());
        // Where the host failed there is nothing to compare with.
        assert!(checked(done("12 lines"), None).is_ok());
        let wrong = checked(done("11 lines"), Some("12 lines")).expect_err("fewer lines");
        assert_eq!(wrong.to_string(), "did other work: 11 lines, not 12 lines");
    }
}
