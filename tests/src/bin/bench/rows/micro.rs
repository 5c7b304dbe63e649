//! One operation, many times in a row, without a tool in between.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::timing::Watch;
use super::tool::remove;
use super::{Bar, Done, Group, Place, Row, Unit, nothing};
use crate::Fallible;
use crate::fixture::SMALL_BYTES;

const fn row(
    id: &'static str,
    title: &'static str,
    bar: f64,
    prepare: super::Step,
    run: fn(&Place) -> Fallible<Done>,
) -> Row {
    Row {
        id,
        title,
        group: Group::Micro,
        is_cold: false,
        bar: if bar > 0.0 {
            Some(Bar::Ratio(bar))
        } else {
            None
        },
        unit: Unit::Operation,
        prepare,
        run,
        clean: |place| remove(&place.own("micro")),
    }
}

/// A row without a bar of its own: it tells where time goes.
const NO_BAR: f64 = 0.0;

pub const ROWS: &[Row] = &[
    row("create", "create + write 2 KB + close", 2.0, empty, create),
    row(
        "open-read",
        "open + read + close, warm",
        3.0,
        choose,
        open_read,
    ),
    row(
        "open-append",
        "open + append + close",
        6.0,
        one_file,
        open_append,
    ),
    Row {
        clean: restore_small,
        ..row(
            "first-append",
            "open + append + close, first of a base file",
            NO_BAR,
            nothing,
            first_append,
        )
    },
    row("chmod", "chmod", 6.0, one_file, chmod),
    row("rename", "rename", 3.0, one_file, rename),
    row("unlink", "unlink", 3.0, files, unlink),
    row("mkdir", "mkdir", 3.0, empty, mkdir),
    row("rmdir", "rmdir", 3.0, directories, rmdir),
    row(
        "stat-negative",
        "negative stat, first time",
        5.0,
        nothing,
        stat_negative,
    ),
    row("write-4k", "write(2) of 4 KiB", 1.2, one_file, write_4k),
    row("fsync", "write + fsync of 4 KiB", NO_BAR, one_file, fsync),
];

fn dir(place: &Place) -> PathBuf {
    place.own("micro")
}

fn names(place: &Place, count: u64) -> Vec<PathBuf> {
    let dir = dir(place);
    (0..count).map(|n| dir.join(format!("n{n}"))).collect()
}

fn empty(place: &Place) -> Fallible<()> {
    remove(&dir(place))?;
    Ok(fs::create_dir_all(dir(place))?)
}

fn one_file(place: &Place) -> Fallible<()> {
    empty(place)?;
    Ok(fs::write(dir(place).join("file"), b"first\n")?)
}

fn files(place: &Place) -> Fallible<()> {
    empty(place)?;
    create(place).map(drop)
}

fn directories(place: &Place) -> Fallible<()> {
    empty(place)?;
    mkdir(place).map(drop)
}

/// Small files of the base, read once so that they are warm.
fn choose(place: &Place) -> Fallible<()> {
    let mut found = Vec::new();
    let mut todo = vec![place.top.join("crates")];
    while let Some(dir) = todo.pop() {
        let mut entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let meta = entry.metadata()?;
            if meta.is_dir() {
                todo.push(entry.path());
            } else if meta.is_file() && (1..=16384).contains(&meta.len()) && found.len() < 100 {
                fs::read(entry.path())?;
                found.push(entry.path());
            }
        }
        if found.len() == 100 {
            break;
        }
    }
    place.chosen.replace(found);
    Ok(())
}

fn left(dir: &Path) -> Fallible<usize> {
    Ok(fs::read_dir(dir)?.count())
}

fn create(place: &Place) -> Fallible<Done> {
    let names = names(place, place.sizes.ops);
    let data = [b'c'; 2048];
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let start = Watch::start();
    for name in &names {
        let file = rustix::fs::open(name, flags, Mode::from_raw_mode(0o644))?;
        rustix::io::write(&file, &data)?;
    }
    let elapsed = start.elapsed();
    let (files, bytes) = super::tool::count(&dir(place))?;
    Ok(Done {
        elapsed,
        ops: place.sizes.ops,
        proof: format!("{files} files, {bytes} bytes"),
    })
}

fn open_read(place: &Place) -> Fallible<Done> {
    let chosen = place.chosen.borrow();
    let mut buffer = vec![0u8; 16384];
    let (mut ops, mut bytes) = (0, 0);
    let start = Watch::start();
    while ops < place.sizes.ops {
        for path in chosen.iter() {
            let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            bytes += rustix::io::read(&file, &mut buffer)?;
            ops += 1;
        }
    }
    Ok(Done {
        elapsed: start.elapsed(),
        ops,
        proof: format!("{ops} reads, {bytes} bytes"),
    })
}

fn append_to(path: &Path) -> Fallible<()> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::io::write(&file, b"0123456789abcde\n")?;
    Ok(())
}

fn open_append(place: &Place) -> Fallible<Done> {
    let path = dir(place).join("file");
    let start = Watch::start();
    for _ in 0..place.sizes.ops {
        append_to(&path)?;
    }
    Ok(Done {
        elapsed: start.elapsed(),
        ops: place.sizes.ops,
        proof: format!("{} bytes", fs::metadata(&path)?.len()),
    })
}

fn smalls(place: &Place) -> Vec<PathBuf> {
    let dir = place.top.join("small");
    (0..place.sizes.small_files)
        .map(|n| dir.join(format!("s{n}")))
        .collect()
}

fn first_append(place: &Place) -> Fallible<Done> {
    let paths = smalls(place);
    let start = Watch::start();
    for path in &paths {
        append_to(path)?;
    }
    let elapsed = start.elapsed();
    let mut bytes = 0;
    for path in &paths {
        bytes += fs::metadata(path)?.len();
    }
    Ok(Done {
        elapsed,
        ops: paths.len() as u64,
        proof: format!("{bytes} bytes"),
    })
}

fn restore_small(place: &Place) -> Fallible<()> {
    for path in smalls(place) {
        File::options()
            .write(true)
            .open(path)?
            .set_len(SMALL_BYTES)?;
    }
    Ok(())
}

fn chmod(place: &Place) -> Fallible<Done> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir(place).join("file");
    let modes = [Mode::from_raw_mode(0o600), Mode::from_raw_mode(0o644)];
    let start = Watch::start();
    for n in 0..place.sizes.ops {
        rustix::fs::chmod(&path, modes[usize::from(n % 2 == 0)])?;
    }
    Ok(Done {
        elapsed: start.elapsed(),
        ops: place.sizes.ops,
        proof: format!("mode {:o}", fs::metadata(&path)?.permissions().mode()),
    })
}

fn rename(place: &Place) -> Fallible<Done> {
    let names = [dir(place).join("file"), dir(place).join("other")];
    let ops = place.sizes.ops / 2 * 2;
    let start = Watch::start();
    for n in 0..ops {
        let from = usize::from(n % 2 == 1);
        rustix::fs::rename(&names[from], &names[1 - from])?;
    }
    Ok(Done {
        elapsed: start.elapsed(),
        ops,
        proof: format!("{:?}", String::from_utf8_lossy(&fs::read(&names[0])?)),
    })
}

fn unlink(place: &Place) -> Fallible<Done> {
    let names = names(place, place.sizes.ops);
    let start = Watch::start();
    for name in &names {
        rustix::fs::unlink(name)?;
    }
    Ok(Done {
        elapsed: start.elapsed(),
        ops: place.sizes.ops,
        proof: format!("{} left", left(&dir(place))?),
    })
}

fn mkdir(place: &Place) -> Fallible<Done> {
    let names = names(place, place.sizes.ops);
    let start = Watch::start();
    for name in &names {
        rustix::fs::mkdir(name, Mode::from_raw_mode(0o755))?;
    }
    Ok(Done {
        elapsed: start.elapsed(),
        ops: place.sizes.ops,
        proof: format!("{} made", left(&dir(place))?),
    })
}

fn rmdir(place: &Place) -> Fallible<Done> {
    let names = names(place, place.sizes.ops);
    let start = Watch::start();
    for name in &names {
        rustix::fs::rmdir(name)?;
    }
    Ok(Done {
        elapsed: start.elapsed(),
        ops: place.sizes.ops,
        proof: format!("{} left", left(&dir(place))?),
    })
}

fn stat_negative(place: &Place) -> Fallible<Done> {
    let dir = place.top.join("crates");
    let names: Vec<_> = (0..place.sizes.ops)
        .map(|n| dir.join(format!("nothing{n}")))
        .collect();
    let mut missing = 0;
    let start = Watch::start();
    for name in &names {
        let found = rustix::fs::statat(CWD, name, AtFlags::empty());
        if found.is_err_and(|e| e == Errno::NOENT) {
            missing += 1;
        }
    }
    Ok(Done {
        elapsed: start.elapsed(),
        ops: place.sizes.ops,
        proof: format!("{missing} missing"),
    })
}

fn write_4k(place: &Place) -> Fallible<Done> {
    let path = dir(place).join("file");
    let data = [b'w'; 4096];
    let ops = place.sizes.ops * 2;
    let file = rustix::fs::open(
        &path,
        OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let start = Watch::start();
    for _ in 0..ops {
        rustix::io::write(&file, &data)?;
    }
    let elapsed = start.elapsed();
    drop(file);
    Ok(Done {
        elapsed,
        ops,
        proof: format!("{} bytes", fs::metadata(&path)?.len()),
    })
}

fn fsync(place: &Place) -> Fallible<Done> {
    let path = dir(place).join("file");
    let ops = (place.sizes.ops / 20).max(2);
    let mut file = File::create(&path)?;
    let start = Watch::start();
    for _ in 0..ops {
        file.write_all(&[b's'; 4096])?;
        file.sync_all()?;
    }
    let elapsed = start.elapsed();
    Ok(Done {
        elapsed,
        ops,
        proof: format!("{} bytes", fs::metadata(&path)?.len()),
    })
}
