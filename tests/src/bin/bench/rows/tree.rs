//! Whole trees, with the tools that people use.

use super::timing::Timing;
use super::tool::{call, count, digest, remove, run, tool, word};
use super::{Bar, Done, Group, Place, Row, Unit, nothing};
use crate::Fallible;

pub const ROWS: &[Row] = &[
    Row {
        id: "find-cold",
        title: "find, cold caches",
        group: Group::Tree,
        is_cold: true,
        bar: Some(Bar::Ratio(3.0)),
        unit: Unit::File,
        prepare: |place| warm_tool(place, "find"),
        run: find,
        clean: nothing,
    },
    Row {
        id: "find-warm",
        title: "find, warm (third pass)",
        group: Group::Tree,
        is_cold: false,
        bar: Some(Bar::Ratio(1.1)),
        unit: Unit::File,
        prepare: |place| twice(place, find),
        run: find,
        clean: nothing,
    },
    Row {
        id: "grep-cold",
        title: "grep -r, cold",
        group: Group::Tree,
        is_cold: true,
        bar: Some(Bar::Ratio(1.3)),
        unit: Unit::File,
        prepare: |place| warm_tool(place, "grep"),
        run: grep,
        clean: nothing,
    },
    Row {
        id: "grep-warm",
        title: "grep -r, warm",
        group: Group::Tree,
        is_cold: false,
        bar: Some(Bar::Ratio(2.0)),
        unit: Unit::File,
        prepare: |place| twice(place, grep),
        run: grep,
        clean: nothing,
    },
    Row {
        id: "git-status",
        title: "git status, warm",
        group: Group::Tree,
        is_cold: false,
        bar: Some(Bar::Ratio(1.3)),
        unit: Unit::Run,
        prepare: |place| twice(place, status),
        run: status,
        clean: nothing,
    },
    Row {
        id: "git-checkout",
        title: "git checkout HEAD~200",
        group: Group::Tree,
        is_cold: false,
        bar: Some(Bar::Ratio(2.0)),
        unit: Unit::Run,
        prepare: |place| twice(place, status),
        run: checkout,
        clean: |place| {
            run(
                place,
                &["git", "-C", "repo", "checkout", "-q", "-f", "main"],
            )?;
            Ok(())
        },
    },
    Row {
        id: "tar-x",
        title: "tar x, the crates",
        group: Group::Tree,
        is_cold: false,
        bar: Some(Bar::Ratio(3.0)),
        unit: Unit::File,
        prepare: |place| {
            // The archive is warm.
            std::fs::read(place.share.join("crates.tar"))?;
            fresh(place, "tar")
        },
        run: extract,
        clean: nothing,
    },
    Row {
        id: "cp-a",
        title: "cp -a of the same",
        group: Group::Tree,
        is_cold: false,
        bar: Some(Bar::Ratio(3.0)),
        unit: Unit::File,
        prepare: |place| {
            fresh(place, "copy")?;
            // Its source is warm.
            grep(place).map(drop)
        },
        run: copy,
        clean: nothing,
    },
    Row {
        id: "rm-rf",
        title: "rm -rf of it",
        group: Group::Tree,
        is_cold: false,
        bar: Some(Bar::Ratio(3.0)),
        unit: Unit::File,
        prepare: |place| match place.own("copy/crates").is_dir() {
            true => Ok(()),
            false => {
                fresh(place, "copy")?;
                copy(place).map(drop)
            }
        },
        run: remove_copy,
        clean: nothing,
    },
];

/// The program itself, which dropping caches takes away too.
fn warm_tool(place: &Place, program: &str) -> Fallible<()> {
    run(place, &[program, "--version"]).map(drop)
}

fn twice(place: &Place, pass: fn(&Place) -> Fallible<Done>) -> Fallible<()> {
    pass(place)?;
    pass(place)?;
    Ok(())
}

fn fresh(place: &Place, name: &str) -> Fallible<()> {
    let dir = place.own(name);
    remove(&dir)?;
    Ok(std::fs::create_dir_all(&dir)?)
}

fn find(place: &Place) -> Fallible<Done> {
    let called = run(place, &["find", "crates"])?;
    Ok(Done {
        elapsed: called.elapsed.clone(),
        ops: called.lines() as u64,
        proof: format!("{} names, {:x}", called.lines(), digest(&called.stdout)),
    })
}

fn grep(place: &Place) -> Fallible<Done> {
    let called = run(place, &["grep", "-r", "-F", "license", "crates"])?;
    Ok(Done {
        elapsed: called.elapsed.clone(),
        ops: place.sizes.files,
        proof: format!("{} lines, {:x}", called.lines(), digest(&called.stdout)),
    })
}

fn status(place: &Place) -> Fallible<Done> {
    let called = run(place, &["git", "-C", "repo", "status", "--porcelain"])?;
    Ok(Done {
        elapsed: called.elapsed.clone(),
        ops: 1,
        proof: format!("{} changes", called.lines()),
    })
}

fn checkout(place: &Place) -> Fallible<Done> {
    let back = format!("HEAD~{}", place.sizes.commits_back());
    let called = run(place, &["git", "-C", "repo", "checkout", "-q", &back])?;
    let id = run(place, &["git", "-C", "repo", "rev-parse", "HEAD"])?;
    let dirty = status(place)?;
    Ok(Done {
        elapsed: called.elapsed.clone(),
        ops: 1,
        proof: format!(
            "{}, {}",
            String::from_utf8_lossy(&id.stdout).trim(),
            dirty.proof
        ),
    })
}

fn extract(place: &Place) -> Fallible<Done> {
    let archive = place.share.join("crates.tar");
    let mut command = tool(place, &["tar", "-x", "-f", word(&archive)?]);
    let called = call(command.current_dir(place.own("tar")))?;
    tree_done(called.elapsed, place, "tar/crates")
}

fn copy(place: &Place) -> Fallible<Done> {
    let called = run(place, &["cp", "-a", "crates", "work/copy/crates"])?;
    tree_done(called.elapsed, place, "copy/crates")
}

fn remove_copy(place: &Place) -> Fallible<Done> {
    let called = run(place, &["rm", "-rf", "work/copy/crates"])?;
    let is_there = place.own("copy/crates").exists();
    Ok(Done {
        elapsed: called.elapsed.clone(),
        ops: place.sizes.files,
        proof: format!("still there: {is_there}"),
    })
}

fn tree_done(elapsed: Timing, place: &Place, name: &str) -> Fallible<Done> {
    let (files, bytes) = count(&place.own(name))?;
    Ok(Done {
        elapsed,
        ops: files,
        proof: format!("{files} files, {bytes} bytes"),
    })
}
