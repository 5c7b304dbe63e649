//! Torn tails at every byte, flipped bits, and appends that fail.

use super::*;
use crate::backstore::fault::{Fault, FaultMedia};
use crate::backstore::mem::MemMedia;

const LAYER: LayerId = LayerId(0xfeed);

fn header() -> JournalHeader {
    JournalHeader {
        layer: LAYER,
        generation: 3,
        first_seq: 10,
    }
}

fn payload(i: u8) -> Vec<u8> {
    vec![i; 1 + 37 * usize::from(i)]
}

/// A journal of five frames, its bytes, and where each frame ends.
fn filled() -> (MemMedia, Vec<u8>, Vec<u64>) {
    let mem = MemMedia::new();
    let mut journal = Journal::create(&mem, header()).unwrap();
    let mut ends = vec![HEADER_BYTES];
    for i in 0..5 {
        journal.append(|out| out.extend(payload(i))).unwrap();
        ends.push(HEADER_BYTES + journal.bytes());
    }
    assert_eq!(journal.next_seq(), 15);
    let bytes = mem.file_bytes(&file_name(3)).unwrap();
    assert_eq!(bytes.len() as u64, ends[5]);
    (mem, bytes, ends)
}

/// The payloads, where the good part ends, and why it does not go on.
type Content = (Vec<Vec<u8>>, u64, Option<Break>);

fn read(mem: &MemMedia) -> Result<Content, StoreError> {
    let file = mem.open(&file_name(3), OpenMode::Read).unwrap();
    let mut frames = Frames::open(&*file, file_name(3), LAYER, 3)?;
    let mut out = Vec::new();
    while let Some(payload) = frames.next_payload()? {
        out.push(payload.to_vec());
    }
    Ok((out, frames.offset(), frames.broken().cloned()))
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_at_the_last_whole_frame() {
    let (mem, bytes, ends) = filled();
    for cut in 0..=bytes.len() {
        mem.set_file_bytes(&file_name(3), &bytes[..cut]).unwrap();
        if cut < HEADER_BYTES as usize {
            assert!(matches!(read(&mem), Err(StoreError::Damaged { .. })));
            continue;
        }
        let whole = ends.iter().filter(|end| **end <= cut as u64).count() - 1;
        let (payloads, end, broken) = read(&mem).unwrap();
        assert_eq!(payloads, (0..whole as u8).map(payload).collect::<Vec<_>>());
        assert_eq!(end, ends[whole]);
        assert_eq!(broken.is_none(), ends[whole] == cut as u64, "cut at {cut}");
        // Going on from there gives a sound journal again.
        let mut journal = Journal::resume(&mem, header(), end, 10 + whole as u64).unwrap();
        journal.append(|out| out.extend(b"new")).unwrap();
        let (payloads, _, broken) = read(&mem).unwrap();
        assert_eq!((payloads.len(), broken), (whole + 1, None));
        assert_eq!(payloads[whole], b"new");
    }
}

#[test]
fn every_flipped_bit_is_seen() {
    let (mem, bytes, ends) = filled();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        mem.set_file_bytes(&file_name(3), &bad).unwrap();
        if bit / 8 < HEADER_BYTES as usize {
            assert!(read(&mem).is_err(), "bit {bit}");
            continue;
        }
        let hit = ends.iter().filter(|end| **end <= (bit / 8) as u64).count() - 1;
        let (payloads, end, broken) = read(&mem).unwrap();
        assert_eq!((payloads.len(), end), (hit, ends[hit]), "bit {bit}");
        let broken = broken.unwrap();
        assert_eq!(broken.cut_bytes, ends[5] - ends[hit]);
        // Where the length is whole, what follows is found: this was no torn append.
        let in_length = bit as u64 / 8 < ends[hit] + 4;
        assert_eq!(broken.frames_follow, hit < 4 && !in_length, "bit {bit}");
    }
}

#[test]
fn zeros_and_old_frames_behind_the_end_are_no_frames() {
    let (mem, mut bytes, ends) = filled();
    let first = bytes[ends[0] as usize..ends[1] as usize].to_vec();
    let sound = bytes.len() as u64;
    bytes.extend(first);
    mem.set_file_bytes(&file_name(3), &bytes).unwrap();
    let (payloads, end, broken) = read(&mem).unwrap();
    assert_eq!((payloads.len(), end), (5, sound));
    assert_eq!(broken.map(|b| b.why), Some("break in the sequence"));
    bytes.truncate(sound as usize);
    bytes.extend([0; 5000]);
    mem.set_file_bytes(&file_name(3), &bytes).unwrap();
    assert_eq!(read(&mem).unwrap().1, sound);
}

#[test]
fn a_claimed_length_costs_no_memory() {
    let (mem, mut bytes, ends) = filled();
    let at = ends[2] as usize;
    bytes[at..at + 4].copy_from_slice(&(MAX_PAYLOAD_BYTES as u32).to_le_bytes());
    mem.set_file_bytes(&file_name(3), &bytes).unwrap();
    let file = mem.open(&file_name(3), OpenMode::Read).unwrap();
    let mut frames = Frames::open(&*file, file_name(3), LAYER, 3).unwrap();
    while frames.next_payload().unwrap().is_some() {}
    assert_eq!(frames.offset(), ends[2]);
    assert!(frames.buf.capacity() <= 2 * READ_AHEAD_BYTES);
}

#[test]
fn a_journal_of_another_layer_is_refused() {
    let (mem, ..) = filled();
    let file = mem.open(&file_name(3), OpenMode::Read).unwrap();
    for (layer, generation) in [(LayerId(1), 3), (LAYER, 4)] {
        let answer = Frames::open(&*file, file_name(3), layer, generation).map(|_| ());
        assert!(matches!(answer, Err(StoreError::Damaged { .. })));
    }
}

#[test]
fn frames_of_no_bytes_are_refused() {
    let mem = MemMedia::new();
    let mut journal = Journal::create(&mem, header()).unwrap();
    assert!(matches!(
        journal.append(|_| ()),
        Err(StoreError::Invalid(_))
    ));
    journal.append(|out| out.push(1)).unwrap();
    assert_eq!(read(&mem).unwrap().0, [[1]]);
}

#[test]
fn a_torn_append_is_taken_back() {
    let mem = MemMedia::new();
    drop(Journal::create(&mem, header()).unwrap());
    let media = FaultMedia::new(Arc::new(mem.clone()), 1, Fault::Once(nix::libc::ENOSPC));
    let mut journal = Journal::resume(&media, header(), HEADER_BYTES, 10).unwrap();
    journal.append(|out| out.push(1)).unwrap();
    let before = mem.file_bytes(&file_name(3)).unwrap();
    let answer = journal.append(|out| out.push(2));
    assert!(matches!(answer, Err(StoreError::NoSpace { .. })));
    assert_eq!(mem.file_bytes(&file_name(3)).unwrap(), before);
    journal.append(|out| out.push(3)).unwrap();
    assert_eq!(read(&mem).unwrap().0, [[1], [3]]);
}
