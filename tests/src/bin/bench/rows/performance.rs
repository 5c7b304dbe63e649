//! The four figures of `just test-fuse-performance`: bytes written and read, metadata, and several
//! programs at once. Sizes are those of the call; see scripts/fuse-performance.sh.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::timing::Watch;
use super::tool::remove;
use super::{Bar, Done, Group, Place, Row, Unit, data, nothing};
use crate::Fallible;

pub const ROWS: &[Row] = &[
    Row {
        id: "perf-write",
        title: "sequential write + fdatasync, large",
        group: Group::Performance,
        is_cold: false,
        bar: Some(Bar::Ratio(1.1)),
        unit: Unit::Mib,
        prepare: |place| {
            data::own_directory(place)?;
            remove(&place.own("written"))
        },
        run: data::write_once,
        clean: nothing,
    },
    Row {
        id: "perf-read",
        title: "sequential read of what was written, cold",
        group: Group::Performance,
        is_cold: true,
        bar: Some(Bar::Ratio(1.1)),
        unit: Unit::Mib,
        prepare: |place| match place.own("written").exists() {
            true => Ok(()),
            false => {
                data::own_directory(place)?;
                data::write_once(place).map(drop)
            }
        },
        run: |place| data::read_all(&place.own("written")),
        clean: |place| remove(&place.own("written")),
    },
    Row {
        id: "perf-metadata",
        title: "mkdir, create, stat, chmod, rename, list, unlink, rmdir",
        group: Group::Performance,
        is_cold: false,
        bar: Some(Bar::Ratio(3.0)),
        unit: Unit::Operation,
        prepare: |place| {
            data::own_directory(place)?;
            remove(&place.own("metadata"))
        },
        run: |place| {
            let start = Watch::start();
            let seen = metadata(&place.own("metadata"), place.sizes.ops / 100 + 1)?;
            Ok(Done {
                elapsed: start.elapsed(),
                ops: seen * 6,
                proof: format!("{seen} files seen"),
            })
        },
        clean: nothing,
    },
    Row {
        id: "perf-concurrent",
        title: "four threads at once: 64 MiB and 200 small files each",
        group: Group::Performance,
        is_cold: false,
        bar: Some(Bar::Ratio(2.0)),
        unit: Unit::File,
        prepare: |place| {
            data::own_directory(place)?;
            remove(&place.own("concurrent"))
        },
        run: concurrent,
        clean: |place| remove(&place.own("concurrent")),
    },
];

/// What programs do to many small files: `dirs` directories of a hundred. Gives how many it saw.
fn metadata(top: &Path, dirs: u64) -> Fallible<u64> {
    let mut seen = 0;
    fs::create_dir_all(top)?;
    for d in 0..dirs {
        let dir = top.join(format!("d{d}"));
        fs::create_dir(&dir)?;
        for f in 0..100 {
            let (path, moved) = (dir.join(format!("f{f}")), dir.join(format!("m{f}")));
            File::create_new(&path)?;
            fs::metadata(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            fs::rename(&path, moved)?;
        }
        for entry in fs::read_dir(&dir)? {
            fs::remove_file(entry?.path())?;
            seen += 1;
        }
        fs::remove_dir(&dir)?;
    }
    fs::remove_dir(top)?;
    Ok(seen)
}

fn concurrent(place: &Place) -> Fallible<Done> {
    let top = place.own("concurrent");
    fs::create_dir(&top)?;
    let mib = place.sizes.writer_mib;
    let start = Watch::start();
    let seen = std::thread::scope(|scope| {
        let one = |n: u64| -> Result<u64, String> {
            let top = top.join(format!("t{n}"));
            fs::create_dir(&top).map_err(|e| e.to_string())?;
            data::write_to(&top.join("data"), mib, n).map_err(|e| e.to_string())?;
            metadata(&top.join("small"), 2).map_err(|e| e.to_string())
        };
        let all: Vec<_> = (0..4).map(|n| scope.spawn(move || one(n))).collect();
        let mut seen = 0;
        for one in all {
            seen += one.join().map_err(|_| "a thread panicked")??;
        }
        Fallible::Ok(seen)
    })?;
    let elapsed = start.elapsed();
    let (files, bytes) = super::tool::count(&top)?;
    Ok(Done {
        elapsed,
        ops: seen,
        proof: format!("{seen} files seen, {files} left with {bytes} bytes"),
    })
}
