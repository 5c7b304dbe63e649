//! A table: any bytes at all; a good one that was damaged, which must be refused or say the same; and
//! one whose header and block list say anything under right checksums.

#![no_main]

use agentfs_fsd::backstore::Store;
use agentfs_fsd::backstore::mem::MemMedia;
use agentfs_fsd::core::record::Delta;
use agentfs_fuzz::{
    Bytes, Dump, branch, commits, damage, dump, fresh, layer_file, look_at_all, put,
};
use libfuzzer_sys::fuzz_target;

const HEADER_BYTES: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let mut input = Bytes(data);
    match input.byte() % 4 {
        0 => raw(input.0),
        1 => lying_header(&mut input),
        _ => damaged(&mut input),
    }
});

/// A store whose branch has a table, and what it says.
fn prepared(input: &mut Bytes<'_>) -> (MemMedia, Store, Dump) {
    let (mem, store) = fresh();
    let made = store.open_live(&branch()).and_then(|mut live| {
        // Of a layer that says nothing no table is made.
        live.commit(vec![Delta::PutDevice { index: 0, dev: 7 }])?;
        let state = commits(input, &mut live, 12).pop().unwrap_or_default();
        live.checkpoint()?;
        Ok(state)
    });
    let state = made.unwrap_or_else(|e| unreachable!("{e}"));
    (mem, store, state)
}

fn raw(bytes: &[u8]) {
    let (mem, store, _) = prepared(&mut Bytes(&[0, 0, 0, 0, 0]));
    let (path, _) = layer_file(&mem, &store, "table.");
    put(&mem, &path, bytes);
    look_at_all(&mem);
}

fn damaged(input: &mut Bytes<'_>) {
    let (mem, store, state) = prepared(input);
    let (path, mut bytes) = layer_file(&mem, &store, "table.");
    damage(input, &mut bytes);
    put(&mem, &path, &bytes);
    look_at_all(&mem);
    if let Ok(found) = store.read(&branch()).and_then(|reader| dump(&reader)) {
        assert_eq!(found, state);
    }
    if let Ok(found) = store.open_live(&branch()).and_then(|live| dump(&live)) {
        assert_eq!(found, state);
    }
}

fn lying_header(input: &mut Bytes<'_>) {
    let (mem, store, _) = prepared(&mut Bytes(&[2, 5, 0, 9, 1, 7, 7, 7, 3, 0, 1, 2]));
    let (path, mut bytes) = layer_file(&mem, &store, "table.");
    let stored = u64::from_le_bytes([bytes[40], bytes[41], bytes[42], 0, 0, 0, 0, 0]) as usize;
    for _ in 0..=input.byte() % 3 {
        let at = 16 + usize::from(input.byte()) % 72;
        bytes[at] ^= input.byte();
    }
    let list = HEADER_BYTES * (stored + 1);
    if let Some(list) = bytes.get_mut(list..) {
        let mut list = list.to_vec();
        damage(input, &mut list);
        bytes.truncate(HEADER_BYTES * (stored + 1));
        bytes.extend(list);
    }
    let list = crc32c::crc32c(bytes.get(list..).unwrap_or_default());
    bytes[12..16].copy_from_slice(&list.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..88]), &bytes[92..HEADER_BYTES]);
    bytes[88..92].copy_from_slice(&crc.to_le_bytes());
    put(&mem, &path, &bytes);
    look_at_all(&mem);
    if let Ok(live) = store.open_live(&branch()) {
        let _ = dump(&live);
    }
}
