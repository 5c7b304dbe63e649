//! Requests as the kernel lays them out, and answers as it reads them. Source: linux/fuse.h.

mod notes;

use std::time::{Duration, Instant};

use fuser::FopenFlags;
use proptest::prelude::*;

use crate::core::types::SetAttr;
use crate::fuse::device::message;
use crate::fuse::ring::HEADER_BYTES;
use crate::fuse::ring::slot;
use crate::fuse::wire::answer::{Answer, Sent, Way};
use crate::fuse::wire::tests::notes::{ATTR, ENTRY, Notes, ROOM};
use crate::sync::{Arc, Mutex, lock};

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A request of user 1000 about inode 5.
fn header(opcode: u32, operation: &[u32], payload: usize) -> [u8; HEADER_BYTES] {
    let operation = bytes(operation);
    let length = (40 + operation.len() + payload) as u32;
    let mut header = [0xee; HEADER_BYTES];
    let head = [length, opcode, 42, 0, 5, 0, 1000, 100, 7, 0];
    header[..40].copy_from_slice(&bytes(&head));
    header[128..128 + operation.len()].copy_from_slice(&operation);
    header[272..276].copy_from_slice(&(payload as u32).to_ne_bytes());
    header
}

/// What was answered: the payload, or the errno.
type Answered = Result<Vec<u8>, i32>;

/// Keeps the one answer that is given.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<Answered>>>);

impl Way for Kept {
    fn send(self, answer: Sent<'_>) {
        let answer = match answer {
            Sent::Error(errno) => Err(errno),
            Sent::Short(words) => Ok(words.bytes().to_vec()),
            Sent::InPlace(bytes) => Ok(bytes.to_vec()),
        };
        lock(&self.0).push(answer);
    }
}

impl Kept {
    /// Waits for the answer: some come from another thread.
    fn only(&self) -> Answered {
        let deadline = Instant::now() + Duration::from_secs(20);
        while lock(&self.0).is_empty() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let mut all = std::mem::take(&mut *lock(&self.0));
        assert_eq!(all.len(), 1, "one answer");
        all.remove(0)
    }
}

/// What is asked of whom, and what is answered, where the request comes by the ring.
fn by_slot(header: &[u8; HEADER_BYTES], sent: &[u8]) -> (Vec<String>, Answered) {
    let (notes, kept) = (Notes::default(), Kept::default());
    let mut payload = vec![0xee; ROOM];
    payload[..sent.len()].copy_from_slice(sent);
    slot::serve(&notes, header, &mut payload, Answer::new(kept.clone()));
    let asked = std::mem::take(&mut *lock(&notes.0));
    (asked, kept.only())
}

/// The same, where it comes by the device.
fn by_device(
    header: &[u8; HEADER_BYTES],
    operation: usize,
    sent: &[u8],
) -> (Vec<String>, Answered) {
    let (notes, kept) = (Notes::default(), Kept::default());
    let mut buffer = [&header[..40], &header[128..128 + operation], sent].concat();
    let bytes = buffer.len();
    buffer.resize(bytes + ROOM, 0xee);
    let mut asked_by = None;
    let way = |unique| {
        asked_by = Some(unique);
        kept.clone()
    };
    assert!(message::serve(&notes, &mut buffer, bytes, way));
    assert_eq!(asked_by, Some(42));
    let asked = std::mem::take(&mut *lock(&notes.0));
    (asked, kept.only())
}

/// Serves one request, by both ways, which must not differ.
fn serve(opcode: u32, operation: &[u32], sent: &[u8]) -> (String, Answered) {
    let header = header(opcode, operation, sent.len());
    let (asked, answer) = by_slot(&header, sent);
    let other = by_device(&header, operation.len() * 4, sent);
    assert_eq!(other, (asked.clone(), answer.clone()), "by the device");
    (asked.join(", "), answer)
}

fn words(parts: &[&[u32]]) -> Answered {
    Ok(bytes(&parts.concat()))
}

#[test]
fn names_in_directories() {
    let asked = |text: &str, answer| (text.to_owned(), answer);
    let entry = words(&[&ENTRY, &ATTR]);
    assert_eq!(serve(1, &[], b"n\xff\0").0, "lookup 5 \"n\\xFF\"");
    assert_eq!(serve(1, &[], b"n\0").1, entry);
    let made = serve(8, &[0o100_644, 259, 0o22, 0], b"n\0");
    assert_eq!(made, asked("mknod 5 \"n\" 100644 22 259", Err(1)));
    let made = serve(9, &[0o755, 0o22], b"n\0");
    assert_eq!(made, asked("mkdir 5 \"n\" 755 22", Err(17)));
    let made = serve(6, &[], b"n\0to\0");
    assert_eq!(made, asked("symlink 5 \"n\" \"to\"", Err(17)));
    let made = serve(13, &[6, 0], b"n\0");
    assert_eq!(made, asked("link 6 5 \"n\"", Err(31)));
    assert_eq!(serve(10, &[], b"n\0"), asked("unlink 5 \"n\"", Ok(vec![])));
    assert_eq!(serve(11, &[], b"n\0"), asked("rmdir 5 \"n\"", Err(39)));
    let moved = serve(12, &[6, 0], b"a\0b\0");
    assert_eq!(moved, asked("rename 5 \"a\" 6 \"b\" 0", Ok(vec![])));
    let moved = serve(45, &[6, 0, 2, 0], b"a\0b\0");
    assert_eq!(moved, asked("rename 5 \"a\" 6 \"b\" 2", Ok(vec![])));
    let made = serve(35, &[0x8241, 0o100_644, 0o22, 0], b"n\0");
    let open = [77, 0, FopenFlags::FOPEN_NOFLUSH.bits(), 0];
    assert_eq!(
        made,
        asked(
            "create 5 \"n\" 100644 22 0x8241",
            words(&[&ENTRY, &ATTR, &open])
        )
    );
}

#[test]
fn attributes() {
    let attr_out = words(&[&[9, 0, 8, 0], &ATTR]);
    assert_eq!(
        serve(3, &[0; 4], b""),
        ("getattr 5".into(), attr_out.clone())
    );
    let set = |valid: u32| {
        let mut words = [0; 22];
        words[..8].copy_from_slice(&[valid, 0, 7, 0, 9, 1, 0, 0]);
        // Three times, of which the second lies before 1970; then their nanoseconds, and the mode.
        words[8..18].copy_from_slice(&[1, 0, !1, !0, 3, 0, 11, 12, 13, 0o104_711]);
        words[18..].copy_from_slice(&[0, 20, 21, 0]);
        serve(4, &words, b"")
    };
    let (asked, answer) = set(0);
    let none = SetAttr::default();
    assert_eq!(asked, format!("setattr 5 None {none:?}"));
    assert_eq!(answer, attr_out);
    // All but "now", and who holds which lock.
    let all = "setattr 5 Some(FileHandle(7)) SetAttr { perm: Some(2505), uid: Some(20), \
               gid: Some(21), size: Some(4294967305), \
               atime: Some(At(Time { sec: 1, nsec: 11 })), \
               mtime: Some(At(Time { sec: -2, nsec: 12 })), \
               ctime: Some(Time { sec: 3, nsec: 13 }) }";
    assert_eq!(set(0x47f).0, all);
    let now = SetAttr {
        atime: Some(crate::core::types::TimeSet::Now),
        mtime: Some(crate::core::types::TimeSet::Now),
        ..SetAttr::default()
    };
    assert_eq!(set(0x1b0).0, format!("setattr 5 None {now:?}"));
    let stat = words(&[&[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 7, 6, 0], &[0; 6]]);
    assert_eq!(serve(17, &[], b""), ("statfs 5".into(), stat));
    assert_eq!(serve(34, &[4, 0], b""), ("access 5 4".into(), Ok(vec![])));
}

#[test]
fn files() {
    let keep = FopenFlags::FOPEN_KEEP_CACHE.bits();
    let opened = serve(14, &[0x8002, 0], b"");
    assert_eq!(
        opened,
        ("open 5 0x8002".into(), words(&[&[77, 0, keep, 0]]))
    );
    let read = [77, 0, 4096, 1, 512, 0, 0, 0, 0, 0];
    let got = serve(15, &read, b"");
    assert_eq!(
        got,
        ("read 5 77 4294971392 512".into(), Ok(b"abc".to_vec()))
    );
    let write = [77, 0, 4096, 1, 3, 4, 0, 0, 0x401, 0];
    let put = serve(16, &write, b"abc");
    let asked = "write 5 77 4294971392 [97, 98, 99] 4 0x401";
    assert_eq!(put, (asked.into(), words(&[&[3, 0]])));
    let closed = serve(18, &[77, 0, 0, 0, 0, 0], b"");
    assert_eq!(closed, ("release 5 77".into(), Ok(vec![])));
    let synced = serve(20, &[77, 0, 1, 0], b"");
    assert_eq!(synced, ("fsync 5 77 true".into(), Ok(vec![])));
    // Whoever forgets to answer has failed.
    let synced = serve(30, &[77, 0, 0, 0], b"");
    assert_eq!(synced, ("fsyncdir 5 77 false".into(), Err(5)));
    let made = serve(43, &[77, 0, 1, 0, 2, 0, 3, 0], b"");
    assert_eq!(made, ("fallocate 5 77 1 2 3".into(), Err(28)));
    let found = serve(46, &[77, 0, !0, !0, 4, 0], b"");
    assert_eq!(found, ("lseek 5 77 -1 4".into(), words(&[&[2, 1]])));
    let copied = serve(47, &[77, 0, 1, 0, 6, 0, 78, 0, 2, 0, 3, 0, 0, 0], b"");
    let asked = "copy (INodeNo(5), FileHandle(77), 1) (INodeNo(6), FileHandle(78), 2) 3";
    assert_eq!(copied, (asked.into(), words(&[&[12, 0]])));
    let asked = serve(39, &[77, 0, 0, 0x6601, 0, 0, 2, 9], b"ab");
    let mut answer = bytes(&[!0, 0, 0, 0]);
    answer.extend(b"data");
    assert_eq!(asked, ("ioctl 5 26113 [97, 98] 9".into(), Ok(answer)));
    // An ioctl without bounds, as only CUSE has it.
    assert_eq!(
        serve(39, &[77, 0, 2, 1, 0, 0, 0, 0], b""),
        (String::new(), Err(38))
    );
    assert_eq!(
        serve(5, &[], b""),
        ("readlink 5".into(), Ok(b"target".to_vec()))
    );
}

#[test]
fn directories() {
    assert_eq!(
        serve(27, &[0, 0], b""),
        ("opendir 5".into(), words(&[&[0; 4]]))
    );
    // Room for two entries and not for a third.
    let read = [77, 0, 6, 0, 32 + 32 + 24, 0, 0, 0, 0, 0];
    let (asked, answer) = serve(28, &read, b"");
    assert_eq!(asked, "readdir 5 77 6");
    let mut listing = bytes(&[8, 0, 9, 0, 4, 4]);
    listing.extend(b"name\0\0\0\0");
    listing.extend(bytes(&[10, 0, 11, 0, 8, 10]));
    listing.extend(b"12345678");
    assert_eq!(answer, Ok(listing));
    // Nothing more, said elsewhere.
    let read = [77, 0, 99, 0, 4096, 0, 0, 0, 0, 0];
    assert_eq!(serve(28, &read, b"").1, Ok(vec![]));
    let read = [77, 0, 6, 0, 4096, 0, 0, 0, 0, 0];
    let (asked, answer) = serve(44, &read, b"");
    assert_eq!(asked, "readdirplus 5 77 6");
    let mut listing = bytes(&[&ENTRY[..], &ATTR, &[5, 0, 9, 0, 4, 8]].concat());
    listing.extend(b"name\0\0\0\0");
    assert_eq!(answer, Ok(listing));
    assert_eq!(serve(29, &[77, 0, 0, 0, 0, 0], b"").1, Ok(vec![]));
}

#[test]
fn extended_attributes() {
    let set = serve(21, &[3, 1], b"user.a\0xyz");
    assert_eq!(
        set,
        ("setxattr 5 \"user.a\" [120, 121, 122] 1".into(), Ok(vec![]))
    );
    let got = serve(22, &[100, 0], b"user.a\0");
    assert_eq!(
        got,
        ("getxattr 5 \"user.a\" 100".into(), Ok(b"value".to_vec()))
    );
    assert_eq!(serve(22, &[0, 0], b"user.a\0").1, words(&[&[300, 0]]));
    // More than was asked for can only be a mistake.
    assert_eq!(serve(22, &[4, 0], b"user.a\0").1, Err(5));
    assert_eq!(serve(23, &[9, 0], b""), ("listxattr 5 9".into(), Err(34)));
    let gone = serve(24, &[], b"user.a\0");
    assert_eq!(gone, ("removexattr 5 \"user.a\"".into(), Ok(vec![])));
}

#[test]
fn what_is_not_here_is_not_here() {
    // FLUSH, GETLK, BMAP, POLL, TMPFILE, STATX, and one that nobody knows.
    for opcode in [25, 31, 37, 40, 51, 52, 4000] {
        assert_eq!(serve(opcode, &[0; 8], b""), (String::new(), Err(38)));
    }
    // DESTROY waits for no more than an answer.
    assert_eq!(serve(38, &[], b""), (String::new(), Ok(vec![])));
}

/// What came by the device and is not to be answered.
fn unanswered(opcode: u32, operation: &[u32], sent: &[u8]) -> (bool, String) {
    let notes = Notes::default();
    let mut buffer = header(opcode, operation, sent.len())[..40].to_vec();
    buffer.extend(bytes(operation));
    buffer.extend(sent);
    let bytes = buffer.len();
    let way = |_| -> Kept { panic!("it is answered") };
    let served = message::serve(&notes, &mut buffer, bytes, way);
    (served, std::mem::take(&mut *lock(&notes.0)).join(", "))
}

#[test]
fn what_the_kernel_forgets_is_not_answered() {
    let one = unanswered(2, &[3, 0], b"");
    assert_eq!(one, (true, "forget 5 3".into()));
    let list = bytes(&[7, 0, 1, 0, 8, 1, 2, 3, 9, 9]);
    // Two, whatever lies behind them.
    let two = unanswered(42, &[2, 0], &list);
    let second = format!("forget {} {}", 8 + (1u64 << 32), 2 + (3u64 << 32));
    assert_eq!(two, (true, format!("forget 7 1, {second}")));
    // More are announced than there are.
    let two = unanswered(42, &[!0, 0], &list);
    assert_eq!(two, (true, format!("forget 7 1, {second}")));
    assert_eq!(unanswered(2, &[3], b""), (true, String::new()));
}

#[test]
fn what_is_no_request_is_left_alone() {
    let way = |_| -> Kept { panic!("it is answered") };
    for bytes in [0, 1, 35] {
        let mut buffer = vec![0; 64];
        assert!(!message::serve(&Notes::default(), &mut buffer, bytes, way));
    }
}

#[test]
fn what_is_cut_short_on_the_device_is_refused() {
    let header = header(15, &[77, 0, 4096, 1, 512, 0, 0, 0, 0, 0], 0);
    let whole = [&header[..40], &header[128..168]].concat();
    for bytes in [40, 41, 79] {
        let (notes, kept) = (Notes::default(), Kept::default());
        let mut buffer = whole.clone();
        assert!(message::serve(&notes, &mut buffer, bytes, |_| kept.clone()));
        assert_eq!(kept.only(), Err(5), "{bytes}");
        assert!(lock(&notes.0).is_empty());
    }
}

#[test]
fn what_moves_much_has_weight() {
    let weight = |opcode, operation: &[u32]| {
        let mut message = header(opcode, operation, 0)[..40].to_vec();
        message.extend(bytes(operation));
        message::weight(&message)
    };
    assert_eq!(weight(15, &[77, 0, 4096, 1, 512, 0, 0, 0, 0, 0]), 512);
    assert_eq!(weight(15, &[77, 0, 0, 0, 1 << 20, 0, 0, 0, 0, 0]), 1 << 20);
    assert_eq!(weight(16, &[0; 10]), 80);
    assert_eq!(weight(20, &[0; 4]), 56);
    assert_eq!(weight(15, &[]), 0);
    assert_eq!(message::weight(b"short"), 0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = (Vec::new(), Err(5));
    let cases: [(u32, &[u32], &[u8]); 6] = [
        (1, &[], b"without an end"),
        (12, &[6, 0], b"one\0other"),
        (15, &[77, 0, 4096], b""),
        (16, &[77, 0, 0, 0, 4, 0], b"abc"),
        (21, &[4, 0], b"user.a\0xyz"),
        (39, &[77, 0, 0, 1, 0, 0, 3, 0], b"ab"),
    ];
    for (opcode, operation, sent) in cases {
        assert_eq!(
            by_slot(&header(opcode, operation, sent.len()), sent),
            refused
        );
    }
    // Lengths that contradict each other: of all, and of the payload.
    for (at, length) in [
        (0, 39u32),
        (0, 0),
        (0, 40 + 129),
        (0, !0),
        (272, 1),
        (272, !0),
    ] {
        let mut bad = header(3, &[0; 4], 0);
        bad[at..at + 4].copy_from_slice(&length.to_ne_bytes());
        let fits = at == 272 && length == 1;
        let (asked, answer) = by_slot(&bad, b"");
        assert_eq!(asked.is_empty(), !fits, "{at} {length}");
        assert_eq!(answer.is_err(), !fits, "{at} {length}");
    }
    let mut bad = header(3, &[], ROOM + 1);
    assert_eq!(by_slot(&bad, b""), refused);
    bad[0] = 0;
    assert_eq!(by_slot(&bad, b""), refused);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// One answer to each, and no panic, whatever comes.
    #[test]
    fn any_bytes_are_answered(
        opcode in 0u32..60,
        junk in proptest::collection::vec(any::<u8>(), HEADER_BYTES),
        operation in 0usize..=128,
        payload in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..64),
    ) {
        let mut header: [u8; HEADER_BYTES] = junk.try_into().expect("as many");
        let length = (40 + operation + payload.len()) as u32;
        let head = [length, opcode, 42, 0, 5, 0, 1000, 100, 7, 0];
        header[..40].copy_from_slice(&bytes(&head));
        header[272..276].copy_from_slice(&(payload.len() as u32).to_ne_bytes());
        // What is asked for may not be more than the mock can write, nor the listing too short.
        if [15, 28, 44].contains(&opcode) && operation >= 20 {
            header[144..148].copy_from_slice(&88u32.to_ne_bytes());
        }
        if opcode != 44 {
            let (asked, _) = by_slot(&header, &payload);
            prop_assert!(asked.len() <= 1);
        }
        // These have no answer there.
        let listed = [15, 28].contains(&opcode) && operation < 20;
        if ![2, 42, 44].contains(&opcode) && !listed {
            let (asked, _) = by_device(&header, operation, &payload);
            prop_assert!(asked.len() <= 1);
        }
    }
}
