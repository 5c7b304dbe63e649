//! What writes inside a branch, and how its tree is told to be what was acknowledged.
//!
//! A writer appends `(` to its log, which lies outside of the branch, before each operation and `)`
//! after it. What it does is known from its seed. So the log says how many operations must be there,
//! and whether one more may.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::load::{self, Load};
use crate::model::Model;
use crate::realfs::RealTree;

/// What a writer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// One of the computed loads.
    Load(load::Kind),
    /// SQLite, one transaction after the other.
    Sqlite,
}

/// What one writer left, and how much of it there must be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Its directory, in the workspace.
    pub dir: String,
    /// What it did.
    pub work: Work,
    /// From which its operations follow.
    pub seed: u64,
    /// A copy of what its directory held before, if anything.
    pub start: Option<PathBuf>,
    /// Operations that must be there.
    pub least: u64,
    /// Operations that may be there.
    pub most: u64,
}

/// What a branch must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// What to look at.
    pub parts: Vec<Part>,
    /// Directories of writers that are there too.
    pub others: Vec<String>,
}

/// Whether a name of the workspace is a writer's directory.
fn is_writers(name: &str) -> bool {
    let mut words = name.strip_prefix('r').unwrap_or_default().split('w');
    let is_number = |word: Option<&str>| word.is_some_and(|w| w.parse::<u64>().is_ok());
    is_number(words.next()) && is_number(words.next()) && words.next().is_none()
}

/// A writer's log, as it is.
pub fn progress(log: &Path) -> (u64, u64) {
    let bytes = fs::read(log).unwrap_or_default();
    let done = bytes.iter().filter(|b| **b == b')').count() as u64;
    (done, bytes.len() as u64 - done)
}

/// Works in `part.dir` until `stop` exists.
pub fn write(part: &Part, log: &Path, stop: &Path) -> Result<(), String> {
    let open = OpenOptions::new().append(true).create(true).open(log);
    let mut log_file = open.map_err(|e| format!("{}: {e}", log.display()))?;
    match part.work {
        Work::Load(_) => steps(part, &mut log_file, stop),
        Work::Sqlite => sqlite(&["write", &part.dir, &text(log), &text(stop)], part.seed).map(drop),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn load_of(part: &Part, kind: load::Kind, root: &Model) -> Load {
    let start = match &part.start {
        Some(dir) => Model::of(dir),
        None => root.emptied(),
    };
    Load::new(kind, part.seed, start)
}

fn steps(part: &Part, log: &mut File, stop: &Path) -> Result<(), String> {
    let Work::Load(kind) = part.work else {
        return Err("no computed load".into());
    };
    let dir = Path::new(&part.dir);
    let mut tree = RealTree::new(dir);
    let note = |log: &mut File, byte: &[u8]| log.write_all(byte).map_err(|e| e.to_string());
    for (step, expected) in load_of(part, kind, &Model::of(dir)) {
        if stop.exists() {
            return Ok(());
        }
        note(log, b"(")?;
        let got = tree.apply(&step);
        if got != expected {
            return Err(format!("{step:?}: expected {expected:?}, got {got:?}"));
        }
        note(log, b")")?;
    }
    Ok(())
}

/// Looks at the branch in the working directory. Gives the operations found of each part; none where
/// one is there in part.
pub fn check(plan: &Plan) -> Result<Vec<Option<u64>>, String> {
    let listed = fs::read_dir(".").map_err(|e| e.to_string())?;
    let names = listed.flatten().map(|e| e.file_name());
    let found: BTreeSet<String> = (names.filter_map(|n| n.into_string().ok()))
        .filter(|name| is_writers(name))
        .collect();
    let parts = plan.parts.iter().map(|part| &part.dir);
    let wanted: BTreeSet<String> = parts.chain(&plan.others).cloned().collect();
    if found != wanted {
        return Err(format!("has {found:?}, should have {wanted:?}"));
    }
    let one = |part: &Part| check_part(part).map_err(|why| format!("{part:?}: {why}"));
    plan.parts.iter().map(one).collect()
}

fn check_part(part: &Part) -> Result<Option<u64>, String> {
    match part.work {
        Work::Load(kind) => {
            let found = Model::of(Path::new(&part.dir));
            let load = load_of(part, kind, &found);
            load::find(load, &found, part.least, part.most)
        }
        Work::Sqlite => {
            let out = sqlite(&["check", &part.dir], part.seed)?;
            let rows = out.trim().parse::<u64>();
            let rows = rows.map_err(|e| format!("{out:?}: {e}"))?;
            let range = part.least..=part.most;
            (range.contains(&rows))
                .then_some(Some(rows))
                .ok_or(format!("{rows} transactions, should be {range:?}"))
        }
    }
}

/// Row N is there with what it must hold, or no row N; each transaction also changes row N/2.
const SQLITE: &str = r#"
import os, sqlite3, sys
what, dir, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = sqlite3.connect(dir + "/sqlite", isolation_level=None, timeout=60)
def blob(n, times): return bytes((n * 7 + times * 13 + i * 3 + seed) % 256 for i in range(n * 37 % 900))
if what == "write":
    log = open(sys.argv[4], "ab", 0)
    db.execute("pragma journal_mode = " + ["delete", "truncate", "persist", "wal"][seed % 4])
    db.execute("pragma synchronous = " + ["normal", "full"][seed // 4 % 2])
    db.execute("create table t (n integer primary key, times integer, v blob)")
    n = 0
    while not os.path.exists(sys.argv[5]):
        n += 1
        log.write(b"(")
        db.execute("begin immediate")
        db.execute("insert into t values (?, 0, ?)", (n, blob(n, 0)))
        for (half, times) in db.execute("select n, times from t where n = ?", (n // 2,)).fetchall():
            db.execute("update t set times = ?, v = ? where n = ?", (times + 1, blob(half, times + 1), half))
        db.execute("commit")
        log.write(b")")
else:
    (sound,) = db.execute("pragma integrity_check").fetchone()
    if sound != "ok": sys.exit(sound)
    tables = db.execute("select count(*) from sqlite_master").fetchone()[0]
    rows = db.execute("select n, times, v from t order by n").fetchall() if tables else []
    most = len(rows)
    for at, (n, times, v) in enumerate(rows, 1):
        changed = (2 * n <= most) + (2 * n + 1 <= most)
        if n != at or times != changed or v != blob(n, times):
            sys.exit(f"row {at} of {most}: {n} {times} {len(v)}")
    print(most)
"#;

fn sqlite(args: &[&str], seed: u64) -> Result<String, String> {
    let seed = seed % 1000;
    let mut command = std::process::Command::new("python3");
    command.arg("-c").arg(SQLITE).args(&args[..2]);
    command.arg(seed.to_string()).args(&args[2..]);
    let out = command.output().map_err(|e| format!("python3: {e}"))?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Kind;
    use crate::ops::Step;

    /// Runs `steps` of a load on a plain directory.
    fn done(kind: Kind, steps: u64) -> (tempfile::TempDir, Model) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut tree = RealTree::new(dir.path());
        let load = Load::new(kind, 5, Model::of(dir.path()));
        for (step, expected) in load.take(steps as usize) {
            assert_eq!(tree.apply(&step), expected, "{step:?}");
        }
        let found = Model::of(dir.path());
        (dir, found)
    }

    #[test]
    fn states_are_found_and_others_are_not() {
        for kind in [Kind::Tree, Kind::Database, Kind::Crowd] {
            let (_dir, found) = done(kind, 300);
            let load = || Load::new(kind, 5, found.emptied());
            assert_eq!(load::find(load(), &found, 300, 300), Ok(Some(300)));
            // Steps that change nothing lead to the same state under a lower number.
            assert!(load::find(load(), &found, 290, 310).is_ok());
            assert!(load::find(load(), &found, 0, 200).is_err());
            assert!(load::find(load(), &found, 400, 450).is_err());
        }
    }

    #[test]
    fn a_write_may_be_cut_at_a_page_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut tree = RealTree::new(dir.path());
        let load = || Load::new(Kind::Database, 1, Model::of(dir.path()).emptied());
        let is_big = |step: &Step| matches!(step, Step::Write { data, .. } if data.len() > 4096);
        let at = load().position(|(step, _)| is_big(&step)).expect("a write");
        let mut steps = load();
        for (step, _) in steps.by_ref().take(at) {
            tree.apply(&step).expect("a step");
        }
        let Some((Step::Write { slot, offset, data }, _)) = steps.next() else {
            panic!("a write");
        };
        let to_page = (4096 - offset % 4096) as usize;
        for (len, is_right) in [(to_page, true), (to_page - 1, false)] {
            let data = data[..len].to_vec();
            let size = offset + len as u64;
            tree.apply(&Step::Write { slot, offset, data })
                .expect("write");
            tree.apply(&Step::Ftruncate { slot, size })
                .expect("truncate");
            let (found, at) = (Model::of(dir.path()), at as u64);
            let answer = load::find(load(), &found, at, at + 1);
            assert_eq!(answer == Ok(None), is_right, "{answer:?}");
        }
    }
}
