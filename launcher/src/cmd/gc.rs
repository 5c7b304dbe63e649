//! `agentfs gc`: removes what no branch and no snapshot reaches, and says what and why.

use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use agentfs_fsd::backstore::Store;
use agentfs_fsd::backstore::gc::{Collected, Garbage, Kept, Reason, Removed, Space, Used};
use agentfs_fsd::core::types::BranchName;

use crate::cli::GcArgs;
use crate::cmd::Globals;
use crate::error::CmdError;
use crate::progress::{Bar, Unit};
use crate::review::json::{self, put_bytes};
use crate::review::style::escape_word;
use crate::review::table;
use crate::say::{self, say};

/// Exit status when something stays that should not.
const EXIT_LEFT: u8 = 1;

/// Runs the subcommand.
pub fn run(args: &GcArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    let collected = match Store::open(&globals.store_path)? {
        Some(store) => {
            let mut bar = Bar::new(Unit::Pieces);
            store.gc(args.dry_run, &mut |what, done, total| {
                bar.show(what, done, total)
            })?
        }
        None => {
            let path = escape_word(globals.store_path.as_os_str().as_bytes());
            say!("agentfs: there is no store at {path}; the first run makes one");
            Collected::default()
        }
    };
    let text = match args.json {
        true => format!("{:#}\n", to_json(&collected, args.dry_run)),
        false => to_text(&collected, args.dry_run),
    };
    say::answer(&text)?;
    Ok(match is_left(&collected) {
        false => ExitCode::SUCCESS,
        true => ExitCode::from(EXIT_LEFT),
    })
}

fn is_left(collected: &Collected) -> bool {
    let is_trouble = |kept: &Kept| matches!(kept.reason, Reason::Unreadable | Reason::Failed);
    collected.kept.iter().any(is_trouble)
}

fn counted(n: u64, what: &str) -> String {
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

fn space_words(space: &Space) -> String {
    let mut out = format!("{}, {}", counted(space.files, "file"), size(space.bytes));
    if space.shared_bytes > 0 {
        out += &format!(
            ", {} of them shared with files that stay",
            size(space.shared_bytes)
        );
    }
    out
}

fn of_words(branches: &[BranchName]) -> String {
    let names: Vec<&str> = branches.iter().map(BranchName::as_str).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" of {}", names.join(", ")),
    }
}

fn what_words(what: Garbage) -> &'static str {
    match what {
        Garbage::Layer => "a layer that nothing names",
        Garbage::Objects => "files that nothing shows",
        Garbage::Trash => "left of a removal",
        Garbage::Stage => "left of something that was never finished",
        Garbage::Leftover => "left of a write that was cut short",
        Garbage::Merged => "a merged table that no branch stands on",
    }
}

fn to_text(collected: &Collected, dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut out = String::new();
    for Removed {
        what,
        path,
        branches,
        space,
    } in &collected.removed
    {
        let path = escape_word(path.as_os_str().as_bytes());
        let (words, of) = (what_words(*what), of_words(branches));
        out += &format!("{verb} {path}: {words}{of}: {}\n", space_words(space));
    }
    for compacted in &collected.compacted {
        let verb = if dry_run {
            "would compact"
        } else {
            "compacted"
        };
        let layers = counted(compacted.layers, "layer");
        out += &format!("{verb} the {layers} below branch {}\n", compacted.branch);
    }
    for Kept {
        reason,
        path,
        branches,
        space,
        what,
    } in &collected.kept
    {
        let path = escape_word(path.as_os_str().as_bytes());
        let what = escape_word(what.as_bytes());
        let space = match space.files {
            0 => String::new(),
            _ => format!(": {}", space_words(space)),
        };
        out += &format!(
            "kept ({}) {path}{}: {what}{space}\n",
            reason.as_str(),
            of_words(branches)
        );
    }
    for used in &collected.used {
        out += &used_line(used);
    }
    let all = collected.space();
    out += &match (dry_run, all.files) {
        (_, 0) => "nothing to remove\n".to_owned(),
        (true, _) => format!("would free {}\n", size(all.free_bytes())),
        (false, _) => format!("freed {}\n", size(all.free_bytes())),
    };
    if collected
        .kept
        .iter()
        .any(|kept| kept.reason == Reason::Unreadable)
    {
        out += "  fix: `agentfs fsck` tells what cannot be read; nothing that it may need was removed\n";
    }
    out
}

/// What a branch needs, which therefore stays.
fn used_line(used: &Used) -> String {
    let mut out = format!(
        "branch {}: needs {}",
        used.branch,
        counted(used.layers, "layer")
    );
    if used.snapshots > 0 {
        out += &format!(
            ", {} of them only for its {}",
            used.only_snapshots,
            counted(used.snapshots, "snapshot")
        );
    }
    if used.live {
        out += ", live";
    }
    out + "\n"
}

/// `agentfs gc --json`:
///
/// ```text
/// version     1
/// dry_run     whether --dry-run was given: then nothing was removed
/// freed       space: of all that goes, together
/// removed     [{ what, path, branches: [name], space }] that goes
/// compacted   [{ branch, layers }] of which lookups got cheaper
/// kept        [{ reason, path, branches, space, what: in words }] that stays though nothing shows it
/// branches    [{ name, live, layers, snapshots, only_snapshots: layers that only these need }]
///
/// space       { files, bytes: allocated, shared_bytes: of these, also of files that stay }
/// what        layer | objects | trash | stage | leftover | merged-table
/// reason      live | unreadable | lost+found | foreign | failed
/// ```
fn to_json(collected: &Collected, dry_run: bool) -> Value {
    let removed = collected.removed.iter().map(|gone| {
        let mut object = about(&gone.path, &gone.branches, &gone.space);
        object.insert("what".into(), gone.what.as_str().into());
        Value::Object(object)
    });
    let kept = collected.kept.iter().map(|kept| {
        let mut object = about(&kept.path, &kept.branches, &kept.space);
        object.insert("reason".into(), kept.reason.as_str().into());
        object.insert("what".into(), kept.what.as_str().into());
        Value::Object(object)
    });
    let compacted = collected.compacted.iter();
    let compacted = compacted.map(|c| json!({ "branch": c.branch.as_str(), "layers": c.layers }));
    let used = collected.used.iter().map(|used| {
        json!({
            "name": used.branch.as_str(), "live": used.live, "layers": used.layers,
            "snapshots": used.snapshots, "only_snapshots": used.only_snapshots,
        })
    });
    json!({
        "version": json::VERSION,
        "dry_run": dry_run,
        "freed": space(&collected.space()),
        "removed": removed.collect::<Vec<_>>(),
        "compacted": compacted.collect::<Vec<_>>(),
        "kept": kept.collect::<Vec<_>>(),
        "branches": used.collect::<Vec<_>>(),
    })
}

fn space(space: &Space) -> Value {
    json!({ "files": space.files, "bytes": space.bytes, "shared_bytes": space.shared_bytes })
}

fn about(path: &std::path::Path, branches: &[BranchName], of: &Space) -> Map<String, Value> {
    let mut object = Map::new();
    put_bytes(&mut object, "path", path.as_os_str().as_bytes());
    let names = branches.iter().map(|name| Value::from(name.as_str()));
    object.insert("branches".into(), names.collect());
    object.insert("space".into(), space(of));
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_and_what_stays_is_told() {
        let space = Space {
            files: 2,
            bytes: 8192,
            shared_bytes: 4096,
        };
        let branches = vec![BranchName::new("b").unwrap()];
        let collected = Collected {
            removed: vec![Removed {
                what: Garbage::Objects,
                path: "/s/layers/1/objects".into(),
                branches: branches.clone(),
                space,
            }],
            kept: vec![Kept {
                reason: Reason::Live,
                path: "/s/layers/2/ob\x1bjects".into(),
                branches,
                space,
                what: "it may be open".into(),
            }],
            ..Collected::default()
        };
        let text = to_text(&collected, true);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "would remove /s/layers/1/objects: files that nothing shows of b: 2 files, 8.0K, \
             4.0K of them shared with files that stay"
        );
        assert!(
            lines[1].starts_with("kept (live) ") && !text.contains('\x1b'),
            "{text}"
        );
        assert_eq!(lines[2], "would free 4.0K");
        assert!(!is_left(&collected));
        let object = to_json(&collected, true);
        assert_eq!(object["removed"][0]["what"], "objects");
        assert_eq!(object["freed"]["shared_bytes"], 4096);
    }
}
