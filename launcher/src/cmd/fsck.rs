//! `agentfs fsck`: checks the store and its branches, and mends them when asked to.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use agentfs_fsd::backstore::check::{Finding, Host, Level, Repaired, Report};
use agentfs_fsd::backstore::{Loss, Store, StoreError};
use agentfs_fsd::core::point::Point;
use agentfs_fsd::core::types::BranchName;
use agentfs_fsd::review::Base;

use crate::cli::FsckArgs;
use crate::cmd::{Globals, snapshot};
use crate::error::CmdError;
use crate::progress::{Bar, Unit};
use crate::review::json::{self, put_bytes};
use crate::review::loss::lost_words;
use crate::review::style::escape_word;
use crate::review::table;
use crate::say::{self, say};

/// Exit status when damage was found, or is left after a repair, or something was lost in one.
const EXIT_DAMAGED: u8 = 1;
/// Runs the subcommand.
pub fn run(args: &FsckArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    let report = match Store::open_for_check(&globals.store_path)? {
        Some(store) => look(&store, args)?,
        None => match args.points.first() {
            Some(point) => return Err(StoreError::NoBranch(point.branch.to_string()).into()),
            None => {
                let path = escape_word(globals.store_path.as_os_str().as_bytes());
                say!("agentfs: there is no store at {path}; the first run makes one");
                Report::default()
            }
        },
    };
    let text = match args.json {
        true => format!("{:#}\n", to_json(&report, args.repair)),
        false => to_text(&report, args.repair),
    };
    say::answer(&text)?;
    Ok(match report.is_clean() && report.lost.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_DAMAGED),
    })
}

fn look(store: &Store, args: &FsckArgs) -> Result<Report, CmdError> {
    let branches = branches_of(store, &args.points)?;
    // Without it a repair does what it can.
    let host = Base::new(Path::new("/"), &[store.path().to_path_buf()]).ok();
    let mut bar = Bar::new(Unit::Bytes);
    let mut show = |what: &str, done: u64, total: u64| bar.show(what, done, total);
    let report = match args.repair {
        true => store.repair(
            &branches,
            host.as_ref().map(|host| host as &dyn Host),
            &mut show,
        ),
        false => store.check(&branches, &mut show),
    };
    drop(bar);
    Ok(report?)
}

/// The branches of the points. A snapshot must be one, unless its branch cannot tell.
fn branches_of(store: &Store, points: &[Point]) -> Result<Vec<BranchName>, CmdError> {
    for point in points {
        if let Some(name) = &point.snapshot
            && let Ok(info) = store.branch(&point.branch)
            && info.snapshot(name).is_none()
        {
            return Err(snapshot::none(&point.branch, name).into());
        }
    }
    let branches: BTreeSet<_> = points.iter().map(|point| point.branch.clone()).collect();
    Ok(branches.into_iter().collect())
}

fn counted(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

fn size(bytes: u64) -> String {
    let text = table::size(bytes);
    match text.ends_with(|c: char| c.is_ascii_digit()) {
        true => text + " bytes",
        false => text,
    }
}

fn path_word(path: &Path) -> String {
    escape_word(path.as_os_str().as_bytes())
}

/// One line: how bad, of which branches, where, what.
fn line(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Note => "note",
        Level::Damage => "damage",
    };
    let mut out = format!("{level} {}", finding.code.as_str());
    let names: Vec<String> = match finding.points.is_empty() {
        true => finding.branches.iter().map(ToString::to_string).collect(),
        false => finding.points.iter().map(ToString::to_string).collect(),
    };
    if !names.is_empty() {
        out += &format!(" in {}", names.join(", "));
    }
    out.push(':');
    if let Some(place) = finding.place.as_ref().filter(|place| !place.is_empty()) {
        out += &format!(" {}:", escape_word(place));
    } else if let Some(ino) = finding.ino {
        out += &format!(" inode {ino}:");
    }
    if let Some(file) = &finding.file {
        out += &format!(" {}:", path_word(file));
    }
    out + " " + &escape_word(finding.what.as_bytes())
}

fn did(word: &str, done: &Repaired) -> String {
    let of = match &done.branch {
        Some(branch) => format!(" in {branch}"),
        None => String::new(),
    };
    format!("{word}{of}: {}\n", escape_word(done.what.as_bytes()))
}

fn to_text(report: &Report, repair: bool) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        out += &line(finding);
        out.push('\n');
    }
    for done in &report.repaired {
        out += &did("repaired", done);
    }
    for skipped in &report.skipped {
        out += &did("not repaired", skipped);
    }
    let is_damage = |finding: &&Finding| finding.level == Level::Damage;
    let left: Vec<&Finding> = report.left.iter().filter(is_damage).collect();
    if repair {
        for finding in &left {
            out += &format!("left: {}\n", line(finding));
        }
    }
    for branch in &report.branches {
        let live = if branch.live { ", live" } else { "" };
        out += &format!(
            "branch {}: {}, {}, {}{live}\n",
            branch.branch,
            counted(branch.inodes as usize, "record"),
            counted(branch.names as usize, "name"),
            counted(branch.objects as usize, "object"),
        );
    }
    let verdict = match left.len() {
        0 if !report.lost.is_empty() => "mended, not without loss".to_owned(),
        0 => "clean".to_owned(),
        n => counted(n, "problem"),
    };
    out += &format!(
        "{} checked, checksums of {} verified: {verdict}\n",
        match report.branches.len() {
            1 => "1 branch".to_owned(),
            n => format!("{n} branches"),
        },
        size(report.verified_bytes)
    );
    if !repair && left.iter().any(|finding| finding.repairable) {
        out += "  fix: `agentfs fsck --repair` mends what can be mended, and keeps what it takes out\n";
    }
    let of_snapshots = |finding: &&Finding| !finding.repairable && !finding.points.is_empty();
    if left.iter().any(of_snapshots) {
        out += "  fix: of a snapshot, what cannot be mended stays: `agentfs snapshot rm BRANCH@SNAPSHOT` \
                drops it; the branch itself is not affected\n";
    }
    if left
        .iter()
        .any(|finding| !finding.repairable && finding.points.is_empty())
    {
        out += "  fix: what cannot be mended stays: take what you need out of the branch, then \
                `agentfs rm NAME`; no other branch is affected\n";
    }
    for (branch, words) in losses(report) {
        out += &format!("branch {branch} lost {words}\n");
    }
    if !report.lost.is_empty() {
        out += "  fix: look at what is below lost+found/ in the store; a patch of these branches is \
                refused unless `agentfs diff NAME --despite-loss` asks for it\n";
    }
    out
}

/// What was lost in a repair, a line for each branch.
fn losses(report: &Report) -> Vec<(&BranchName, String)> {
    let mut branches: Vec<&BranchName> = report.lost.iter().map(|(name, _)| name).collect();
    branches.sort();
    branches.dedup();
    let words = |branch: &BranchName| {
        let of = report.lost.iter().filter(|(name, _)| name == branch);
        lost_words(of.map(|(_, loss)| loss))
    };
    branches.into_iter().map(|b| (b, words(b))).collect()
}

/// `agentfs fsck --json`:
///
/// ```text
/// version     1
/// clean       whether no damage was found; with --repair: whether none is left
/// repair      whether --repair was given
/// verified_bytes  of tables and journals whose checksums were verified
/// branches    [{ name, live, records, names, objects }] that were looked at
/// findings    [finding]; with --repair: before the repair
/// repaired    [{ branch: name or null, what }]
/// skipped     [{ branch, what }] that a repair had to leave, and why
/// lost        [{ branch, path and inode where known, what }] that the repair could not save
/// left        [finding] after a repair; without one the same as findings
///
/// finding     { code, level: note|damage, branches: [name], repairable, what }, and where known
///             file: of the store, path: in the branch, inode: a string of digits,
///             snapshots: [BRANCH@SNAPSHOT] where the branches themselves do not show it
/// ```
/// The codes are those of [`agentfs_fsd::backstore::check::Code`]; FORMAT.md lists them.
fn to_json(report: &Report, repair: bool) -> Value {
    let branches: Vec<Value> = report
        .branches
        .iter()
        .map(|branch| {
            json!({
                "name": branch.branch.as_str(), "live": branch.live, "records": branch.inodes,
                "names": branch.names, "objects": branch.objects,
            })
        })
        .collect();
    json!({
        "version": json::VERSION,
        "clean": report.is_clean(),
        "repair": repair,
        "verified_bytes": report.verified_bytes,
        "branches": branches,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "repaired": report.repaired.iter().map(done).collect::<Vec<_>>(),
        "skipped": report.skipped.iter().map(done).collect::<Vec<_>>(),
        "lost": report.lost.iter().map(lost).collect::<Vec<_>>(),
        "left": report.left.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn done(done: &Repaired) -> Value {
    json!({ "branch": done.branch.as_ref().map(BranchName::as_str), "what": done.what })
}

fn lost((branch, loss): &(BranchName, Loss)) -> Value {
    let mut object = Map::new();
    object.insert("branch".into(), branch.as_str().into());
    object.insert("what".into(), loss.what.as_str().into());
    if let Some(path) = &loss.path {
        put_bytes(&mut object, "path", path);
    }
    if let Some(ino) = loss.ino {
        object.insert("inode".into(), ino.to_string().into());
    }
    Value::Object(object)
}

fn finding(finding: &Finding) -> Value {
    let mut object = Map::new();
    object.insert("code".into(), finding.code.as_str().into());
    let level = match finding.level {
        Level::Note => "note",
        Level::Damage => "damage",
    };
    object.insert("level".into(), level.into());
    let names = finding
        .branches
        .iter()
        .map(|name| Value::from(name.as_str()));
    object.insert("branches".into(), names.collect());
    if !finding.points.is_empty() {
        let points = finding
            .points
            .iter()
            .map(|point| Value::from(point.to_string()));
        object.insert("snapshots".into(), points.collect());
    }
    object.insert("repairable".into(), finding.repairable.into());
    object.insert("what".into(), finding.what.as_str().into());
    if let Some(file) = &finding.file {
        put_bytes(&mut object, "file", file.as_os_str().as_bytes());
    }
    if let Some(place) = &finding.place {
        put_bytes(&mut object, "path", place);
    }
    if let Some(ino) = finding.ino {
        object.insert("inode".into(), ino.to_string().into());
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use agentfs_fsd::backstore::NewBranch;

    use super::*;

    fn args(repair: bool) -> FsckArgs {
        FsckArgs {
            points: Vec::new(),
            repair,
            json: false,
        }
    }

    #[test]
    fn damage_is_told_with_its_place_and_cure() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path()).unwrap();
        let name = BranchName::new("b").unwrap();
        let workspace = "/".into();
        store
            .create_branch(&name, None, NewBranch { workspace })
            .unwrap();
        let report = look(&store, &args(false)).unwrap();
        let text = to_text(&report, false);
        assert!(
            text.ends_with("1 branch checked, checksums of 40 bytes verified: clean\n"),
            "{text}"
        );
        let journal = |entry: &std::fs::DirEntry| entry.path().join("journal.0");
        let layer = std::fs::read_dir(dir.path().join("layers"))
            .unwrap()
            .next()
            .unwrap();
        let path = journal(&layer.unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let report = look(&store, &args(false)).unwrap();
        let text = to_text(&report, false);
        assert!(text.starts_with("damage journal in b: "), "{text}");
        assert!(
            text.contains("journal.0: bad checksum of the header\n"),
            "{text}"
        );
        assert!(
            text.contains("1 problem\n  fix: `agentfs fsck --repair`"),
            "{text}"
        );
        let object = to_json(&report, false);
        assert_eq!(object["clean"], false);
        assert_eq!(object["findings"][0]["code"], "journal");
        assert_eq!(object["findings"][0]["branches"][0], "b");
        let report = look(&store, &args(true)).unwrap();
        let text = to_text(&report, true);
        assert!(
            text.contains("repaired in b: wrote the header of "),
            "{text}"
        );
        assert!(text.ends_with("verified: clean\n"), "{text}");
    }
}
