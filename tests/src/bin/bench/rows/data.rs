//! Bytes: large files, several writers, and what a small change of a large file costs.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::timing::Watch;
use super::tool::remove;
use super::{Bar, Done, Group, Place, Row, Unit, nothing};
use crate::Fallible;
use crate::fixture::{MIB, block};

pub const ROWS: &[Row] = &[
    Row {
        id: "seq-write",
        title: "sequential write + fdatasync",
        group: Group::Data,
        is_cold: false,
        bar: Some(Bar::Ratio(1.1)),
        unit: Unit::Mib,
        prepare: own_directory,
        run: write_once,
        clean: |place| remove(&place.own("written")),
    },
    Row {
        id: "seq-read-cold",
        title: "sequential read, cold",
        group: Group::Data,
        is_cold: true,
        bar: Some(Bar::Ratio(1.1)),
        unit: Unit::Mib,
        prepare: nothing,
        run: |place| read_all(&place.top.join("big")),
        clean: nothing,
    },
    Row {
        id: "seq-read-warm",
        title: "sequential read, warm",
        group: Group::Data,
        is_cold: false,
        bar: Some(Bar::Ratio(1.1)),
        unit: Unit::Mib,
        prepare: |place| read_all(&place.top.join("big")).map(drop),
        run: |place| read_all(&place.top.join("big")),
        clean: nothing,
    },
    Row {
        id: "four-writers",
        title: "4 writers at once",
        group: Group::Data,
        is_cold: false,
        bar: Some(Bar::Ratio(1.1)),
        unit: Unit::Mib,
        prepare: own_directory,
        run: four_writers,
        clean: |place| {
            for n in 0..4 {
                remove(&place.own(&format!("writer{n}")))?;
            }
            Ok(())
        },
    },
    Row {
        id: "dirs-files",
        title: "20 dirs x 100 files",
        group: Group::Data,
        is_cold: false,
        bar: Some(Bar::Ratio(2.0)),
        unit: Unit::File,
        prepare: own_directory,
        run: directories,
        clean: |place| remove(&place.own("dirs")),
    },
    Row {
        id: "append-big",
        title: "append 2 bytes to the large base file",
        group: Group::Data,
        is_cold: false,
        bar: Some(Bar::Millis(10.0)),
        unit: Unit::Operation,
        prepare: nothing,
        run: |place| append(&place.top.join("big")),
        clean: |place| cut(&place.top.join("big")),
    },
    Row {
        id: "append-huge",
        title: "append 2 bytes to the huge base file",
        group: Group::Data,
        is_cold: false,
        bar: Some(Bar::Millis(10.0)),
        unit: Unit::Operation,
        prepare: nothing,
        run: |place| append(&place.top.join("huge")),
        clean: |place| cut(&place.top.join("huge")),
    },
];

pub(super) fn own_directory(place: &Place) -> Fallible<()> {
    Ok(fs::create_dir_all(place.own(""))?)
}

pub(super) fn write_once(place: &Place) -> Fallible<Done> {
    let path = place.own("written");
    let data = block(1);
    let start = Watch::start();
    let mut file = File::create_new(&path)?;
    for _ in 0..place.sizes.write_mib {
        file.write_all(&data)?;
    }
    file.sync_data()?;
    drop(file);
    let elapsed = start.elapsed();
    same_ends(&path, &data)?;
    Ok(Done {
        elapsed,
        ops: place.sizes.write_mib,
        proof: format!("{} bytes", fs::metadata(&path)?.len()),
    })
}

/// The first and the last block are what was written.
fn same_ends(path: &Path, data: &[u8]) -> Fallible<()> {
    let mut file = File::open(path)?;
    let mut found = vec![0; data.len()];
    for at in [SeekFrom::Start(0), SeekFrom::End(-(data.len() as i64))] {
        file.seek(at)?;
        file.read_exact(&mut found)?;
        if found != data {
            return Err(format!("{}: other bytes than were written", path.display()).into());
        }
    }
    Ok(())
}

pub(super) fn read_all(path: &Path) -> Fallible<Done> {
    let mut buffer = vec![0u8; MIB];
    let (mut bytes, mut sum) = (0u64, 0u64);
    let start = Watch::start();
    let mut file = File::open(path)?;
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        bytes += got as u64;
        sum += u64::from(buffer[0]) + u64::from(buffer[got - 1]);
    }
    drop(file);
    Ok(Done {
        elapsed: start.elapsed(),
        ops: bytes / MIB as u64,
        proof: format!("{bytes} bytes, {sum}"),
    })
}

/// A new file of `mib`.
pub(super) fn write_to(path: &Path, mib: u64, seed: u64) -> std::io::Result<()> {
    let data = block(seed);
    let mut file = File::create_new(path)?;
    for _ in 0..mib {
        file.write_all(&data)?;
    }
    Ok(())
}

fn four_writers(place: &Place) -> Fallible<Done> {
    let mib = place.sizes.writer_mib;
    let data = &block(2);
    let paths: Vec<_> = (0..4).map(|n| place.own(&format!("writer{n}"))).collect();
    let start = Watch::start();
    std::thread::scope(|scope| {
        let write = |path: &Path| -> std::io::Result<()> {
            let mut file = File::create_new(path)?;
            for _ in 0..mib {
                file.write_all(data)?;
            }
            Ok(())
        };
        let all: Vec<_> = paths
            .iter()
            .map(|path| scope.spawn(move || write(path)))
            .collect();
        for one in all {
            one.join().map_err(|_| "a writer panicked")??;
        }
        Fallible::Ok(())
    })?;
    let elapsed = start.elapsed();
    let mut bytes = 0;
    for path in &paths {
        same_ends(path, data)?;
        bytes += fs::metadata(path)?.len();
    }
    Ok(Done {
        elapsed,
        ops: 4 * mib,
        proof: format!("{bytes} bytes"),
    })
}

fn directories(place: &Place) -> Fallible<Done> {
    let top = place.own("dirs");
    fs::create_dir(&top)?;
    let data = [b'd'; 2048];
    let files = place.sizes.ops.min(100);
    let start = Watch::start();
    for d in 0..20 {
        let dir = top.join(format!("d{d}"));
        fs::create_dir(&dir)?;
        for f in 0..files {
            File::create_new(dir.join(format!("f{f}")))?.write_all(&data)?;
        }
    }
    let elapsed = start.elapsed();
    let (files, bytes) = super::tool::count(&top)?;
    Ok(Done {
        elapsed,
        ops: files,
        proof: format!("{files} files, {bytes} bytes"),
    })
}

fn append(path: &Path) -> Fallible<Done> {
    let before = fs::metadata(path)?.len();
    let start = Watch::start();
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(b"+\n")?;
    drop(file);
    let elapsed = start.elapsed();
    let mut file = File::open(path)?;
    let after = file.seek(SeekFrom::End(-2))? + 2;
    let mut end = [0; 2];
    file.read_exact(&mut end)?;
    Ok(Done {
        elapsed,
        ops: 1,
        proof: format!("{} bytes more: {end:?}", after - before),
    })
}

/// Takes the two bytes away again.
fn cut(path: &Path) -> Fallible<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len();
    Ok(file.set_len(length - 2)?)
}
