//! A journal: any bytes at all; any payloads in sound frames; and good ones that were damaged, which
//! must be refused, or show the state after one of their frames.

#![no_main]

use agentfs_fuzz::{Bytes, branch, commits, damage, dump, fresh, layer_file, look_at_all, on, put};
use libfuzzer_sys::fuzz_target;

const HEADER_BYTES: usize = 40;

fuzz_target!(|data: &[u8]| {
    let mut input = Bytes(data);
    match input.byte() % 4 {
        0 => raw(input.0, 0),
        1 => raw(input.0, HEADER_BYTES),
        2 => sound_frames(&mut input),
        _ => damaged(&mut input),
    }
});

/// The file is what the input says, behind `keep` bytes of a good one.
fn raw(bytes: &[u8], keep: usize) {
    let (mem, store) = fresh();
    let (path, good) = layer_file(&mem, &store, "journal.");
    put(&mem, &path, &[&good[..keep], bytes].concat());
    look_at_all(&mem);
    if let Ok(live) = store.open_live(&branch()) {
        let _ = dump(&live);
    }
}

/// Frames with right checksums around payloads of the input: what opens is the same after a
/// checkpoint and another opening.
fn sound_frames(input: &mut Bytes<'_>) {
    let (mem, store) = fresh();
    let (path, mut file) = layer_file(&mem, &store, "journal.");
    let mut seq = u64::from_le_bytes([file[28], file[29], file[30], file[31], 0, 0, 0, 0]);
    while !input.is_empty() {
        let len = usize::from(input.short()) % 600 + 1;
        let payload = input.take(len);
        let len = (payload.len() as u32).to_le_bytes();
        let rest = [&seq.to_le_bytes(), payload].concat();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&len), &rest);
        file.extend([&len[..], &crc.to_le_bytes(), &rest].concat());
        seq += 1;
    }
    put(&mem, &path, &file);
    look_at_all(&mem);
    let Ok(mut live) = store.open_live(&branch()) else {
        return;
    };
    let Ok(before) = dump(&live) else { return };
    if live.checkpoint().is_err() {
        return;
    }
    assert_eq!(dump(&live).ok().as_ref(), Some(&before));
    drop(live);
    let again = store.read(&branch()).and_then(|reader| dump(&reader));
    assert_eq!(again.ok(), Some(before));
}

fn damaged(input: &mut Bytes<'_>) {
    let (mem, store) = fresh();
    let Ok(mut live) = store.open_live(&branch()) else {
        unreachable!("a good branch opens")
    };
    let states = commits(input, &mut live, 12);
    drop(live);
    let (path, mut bytes) = layer_file(&mem, &store, "journal.");
    damage(input, &mut bytes);
    put(&mem, &path, &bytes);
    look_at_all(&mem);
    let Ok(store) = on(&mem) else { return };
    if let Ok(found) = store.read(&branch()).and_then(|reader| dump(&reader)) {
        assert!(states.contains(&found), "read: {found:#?}");
    }
    if let Ok(found) = store.open_live(&branch()).and_then(|live| dump(&live)) {
        assert!(states.contains(&found), "opened: {found:#?}");
    }
}
