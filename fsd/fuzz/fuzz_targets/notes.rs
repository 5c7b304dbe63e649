//! The sealed JSON files of a store and the mark of a sound journal: any bytes, and any text under a
//! right seal.

#![no_main]

use std::path::PathBuf;

use agentfs_fsd::backstore::Hidden;
use agentfs_fuzz::{Bytes, branch, commits, dump, fresh, layer_file, look_at_all, on, put};
use libfuzzer_sys::fuzz_target;

const FILES: [&str; 6] = [
    "format",
    "branch.json",
    "run.json",
    "lost.json",
    "hidden.json",
    "sound",
];

fuzz_target!(|data: &[u8]| {
    let mut input = Bytes(data);
    let (which, is_sealed) = (input.byte(), input.byte() % 4 != 0);
    let file = FILES[usize::from(which) % FILES.len()];
    let (mem, store) = fresh();
    let made = store.open_live(&branch()).and_then(|mut live| {
        commits(&mut Bytes(b"\x03abcdefghijklmnopqrstuvw"), &mut live, 3);
        live.close()
    });
    made.unwrap_or_else(|e| unreachable!("{e}"));
    let path = match file {
        "format" => PathBuf::from(file),
        "sound" => layer_file(&mem, &store, "sound").0,
        _ => PathBuf::from("branches/b").join(file),
    };
    let bytes = match (file, is_sealed) {
        ("sound", true) => with_crc(input.0),
        (_, true) => sealed(input.0),
        (_, false) => input.0.to_vec(),
    };
    // It may not be there yet.
    let hidden = [Hidden::whole("/h")];
    if file == "hidden.json" {
        let added = store.add_hidden(&branch(), &hidden);
        added.unwrap_or_else(|e| unreachable!("{e}"));
    }
    if mem.set_file_bytes(&path, &bytes).is_err() {
        make(&mem, &path, &bytes);
    }
    look_at_all(&mem);
    let Ok(store) = on(&mem) else { return };
    // What writes by what was read.
    let _ = store.add_hidden(&branch(), &hidden);
    if let Ok(mut live) = store.open_live(&branch()) {
        let _ = dump(&live);
        let _ = store
            .hold()
            .and_then(|held| live.snapshot(&held, None, &[]));
        let _ = live.close();
    }
    let _ = store.create_snapshot(&branch(), None);
    let _ = store.remove_branch(&branch());
});

fn sealed(text: &[u8]) -> Vec<u8> {
    let line: Vec<u8> = text
        .iter()
        .copied()
        .filter(|b| *b != b'\n')
        .chain([b'\n'])
        .collect();
    let crc = format!("{:08x}\n", crc32c::crc32c(&line));
    [line, crc.into_bytes()].concat()
}

/// Numbers, a space, and the checksum of what stands before it.
fn with_crc(text: &[u8]) -> Vec<u8> {
    [text, format!(" {:08x}", crc32c::crc32c(text)).as_bytes()].concat()
}

fn make(mem: &agentfs_fsd::backstore::mem::MemMedia, path: &std::path::Path, bytes: &[u8]) {
    use agentfs_fsd::backstore::media::{Media, OpenMode};
    let made = mem.open(path, OpenMode::CreateNew);
    made.map(drop).unwrap_or_else(|e| unreachable!("{e}"));
    put(mem, path, bytes);
}
