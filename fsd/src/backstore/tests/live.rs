//! A live branch: objects, numbers, failed writes, and readers beside it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::backstore::fault::{Fault, FaultMedia};
use crate::backstore::mem::Crash;
use crate::backstore::{CopySource, LiveBranch, SeekFor};
use crate::core::record::{ExtentSource, ObjectId};

fn open(store: &Store) -> LiveBranch {
    store.open_live(&branch("b")).unwrap()
}

fn killed(mem: &MemMedia) -> (MemMedia, Store) {
    let mem = mem.crash(Crash::Process);
    (mem.clone(), store_on(Arc::new(mem)))
}

fn objects(mem: &MemMedia) -> Vec<u64> {
    let mut out: Vec<u64> = mem
        .files()
        .iter()
        .filter(|path| path.to_string_lossy().contains("/objects/"))
        .map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
        .collect();
    out.sort_unstable();
    out
}

fn with_object(ino: u64, id: ObjectId) -> Vec<Delta> {
    vec![Delta::PutInode(
        Ino(ino),
        record_with(1, Content::Object(id)),
    )]
}

#[test]
fn objects_that_no_commit_names_go_and_numbers_never_come_back() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let (first, _) = live.new_object().unwrap();
    let (second, _) = live.new_object().unwrap();
    let (third, _) = live.new_object().unwrap();
    live.commit(with_object(10, second)).unwrap();
    assert_eq!(objects(&mem), [first.number, second.number, third.number]);

    let (mem, store) = killed(&mem);
    let live = open(&store);
    assert_eq!(objects(&mem), [second.number]);
    drop(live);
    // Killed once more, with nothing on disk but the note in the journal.
    let (mem, store) = killed(&mem);
    let mut live = open(&store);
    let (fourth, _) = live.new_object().unwrap();
    assert!(fourth.number > third.number);
    live.checkpoint().unwrap();
    // Made before a checkpoint and never named: the table remembers it.
    let (mem, store) = killed(&mem);
    let mut live = open(&store);
    assert_eq!(objects(&mem), [second.number]);
    // Made before a checkpoint and named after it: it stays.
    let (fifth, _) = live.new_object().unwrap();
    assert!(fifth.number > fourth.number);
    live.checkpoint().unwrap();
    live.commit(with_object(11, fifth)).unwrap();
    let (mem, store) = killed(&mem);
    let mut live = open(&store);
    assert_eq!(objects(&mem), [second.number, fifth.number]);
    // A clean end leaves no unnamed one.
    live.new_object().unwrap();
    live.close().unwrap();
    assert_eq!(objects(&mem), [second.number, fifth.number]);
}

#[test]
fn an_orphan_lives_until_it_is_removed_or_the_branch_opens_again() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let (id, object) = live.new_object().unwrap();
    live.commit(with_object(10, id)).unwrap();
    live.commit(vec![Delta::DelInode(Ino(10)), Delta::Orphan(id)])
        .unwrap();
    object.write_at(b"still open", 0).unwrap();
    live.checkpoint().unwrap();
    assert_eq!(
        objects(&mem),
        [id.number],
        "a checkpoint does not remove what may be open"
    );
    let (after, store_after) = killed(&mem);
    drop(open(&store_after));
    assert_eq!(objects(&after), [] as [u64; 0]);
    live.remove_object(id);
    assert_eq!(objects(&mem), [] as [u64; 0]);
    live.close().unwrap();
    open(&store).close().unwrap();
}

#[test]
fn inode_numbers_are_not_reused_over_crashes_and_deletions() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let first = live.alloc_ino();
    assert_eq!(first, Ino::FIRST_NEW);
    let last = Ino(live.alloc_ino().0 + 5);
    live.commit(file(Ino::ROOT, "x", last, 1)).unwrap();
    live.commit(vec![Delta::DelInode(last)]).unwrap();
    let (mem, store) = killed(&mem);
    let mut live = open(&store);
    assert!(live.alloc_ino() > last);
    live.checkpoint().unwrap();
    assert_eq!(dump(&live).0.len(), 0);
    let (_, store) = killed(&mem);
    assert!(open(&store).alloc_ino() > last);
    make(&store, "c", Some("b")).unwrap();
    assert!(store.open_live(&branch("c")).unwrap().alloc_ino() > last);
}

#[test]
fn a_failed_write_changes_nothing_and_the_next_one_works() {
    for code in [nix::libc::ENOSPC, nix::libc::EIO] {
        let (mem, store) = new_store();
        make(&store, "b", None).unwrap();
        let media = FaultMedia::new(Arc::new(mem.clone()), 4, Fault::Once(code));
        let store = Store::on_media(Arc::new(media.clone()), Path::new("/mem"), false);
        let store = store.unwrap().unwrap();
        let mut live = open(&store);
        let mut expect = dump(&live);
        let mut failed = 0;
        for i in 0..10 {
            match live.commit(file(Ino::ROOT, &format!("f{i}"), Ino(50 + i), i)) {
                Ok(()) => expect = dump(&live),
                Err(_) => failed += 1,
            }
            assert_eq!(dump(&live), expect);
        }
        assert_eq!((failed, expect.0.len()), (1, 9));
        let (_, store) = killed(&mem);
        assert_eq!(dump(&open(&store)), expect);
    }
}

#[test]
fn a_write_that_cannot_be_taken_back_poisons_the_journal() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    // The write and the truncation after it fail, and all that follows.
    let media = FaultMedia::new(Arc::new(mem.clone()), 1, Fault::Always(nix::libc::EIO));
    let store = Store::on_media(Arc::new(media), Path::new("/mem"), false)
        .unwrap()
        .unwrap();
    let mut live = open(&store);
    live.commit(file(Ino::ROOT, "a", Ino(50), 1)).unwrap();
    let before = dump(&live);
    assert!(matches!(
        live.commit(file(Ino::ROOT, "b", Ino(51), 1)),
        Err(StoreError::Io { .. })
    ));
    assert!(matches!(
        live.commit(file(Ino::ROOT, "c", Ino(52), 1)),
        Err(StoreError::Poisoned { .. })
    ));
    assert_eq!(dump(&live), before);
    drop(live);
    let (_, store) = killed(&mem);
    assert_eq!(dump(&open(&store)), before);
}

#[test]
fn a_checkpoint_heals_a_poisoned_journal() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let media = FaultMedia::new(Arc::new(mem.clone()), 1, Fault::Always(nix::libc::EIO));
    media.heal_after(3);
    let store = Store::on_media(Arc::new(media), Path::new("/mem"), false)
        .unwrap()
        .unwrap();
    let mut live = open(&store);
    live.commit(file(Ino::ROOT, "a", Ino(50), 1)).unwrap();
    assert!(live.commit(file(Ino::ROOT, "b", Ino(51), 1)).is_err());
    let c = file(Ino::ROOT, "c", Ino(52), 1);
    assert!(matches!(
        live.commit(c.clone()),
        Err(StoreError::Poisoned { .. })
    ));
    assert!(live.needs_checkpoint());
    live.checkpoint().unwrap();
    live.commit(c).unwrap();
    let expect = dump(&live);
    assert_eq!(expect.0.len(), 2);
    let (_, store) = killed(&mem);
    assert_eq!(dump(&open(&store)), expect);
}

#[test]
fn a_full_disk_keeps_no_branch_from_opening_or_going() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    live.commit(file(Ino::ROOT, "a", Ino(50), 1)).unwrap();
    live.new_object().unwrap();
    drop(live);
    let (mem, _) = killed(&mem);
    let media = FaultMedia::new(Arc::new(mem.clone()), 0, Fault::FullDisk);
    let store = Store::on_media(Arc::new(media), Path::new("/mem"), true)
        .unwrap()
        .unwrap();
    let mut live = open(&store);
    assert_eq!(dump(&live).0.len(), 1);
    let answer = live.commit(file(Ino::ROOT, "b", Ino(51), 1));
    assert!(matches!(answer, Err(StoreError::NoSpace { .. })));
    assert!(matches!(live.checkpoint(), Err(StoreError::NoSpace { .. })));
    live.close().unwrap();
    store.remove_branch(&branch("b")).unwrap();
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_clean_end_after_a_small_change_does_not_rewrite_the_table() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let tables = || -> Vec<_> {
        mem.files()
            .into_iter()
            .filter(|p| p.to_string_lossy().contains("/table."))
            .collect()
    };
    let mut live = open(&store);
    live.commit(file(Ino::ROOT, "a", Ino(50), 1)).unwrap();
    let expect = dump(&live);
    live.close().unwrap();
    assert_eq!(tables().len(), 0);
    let power_cut = store_on(Arc::new(mem.crash(Crash::Power)));
    assert_eq!(
        dump(&power_cut.read(&branch("b")).unwrap()),
        expect,
        "but it is on the disk"
    );
    let mut live = open(&store);
    for i in 0..4000 {
        live.commit(file(Ino::ROOT, &format!("f{i}"), Ino(100 + i), i))
            .unwrap();
    }
    live.close().unwrap();
    let first = tables();
    assert_eq!(first.len(), 1);
    let mut live = open(&store);
    live.commit(vec![Delta::DelInode(Ino(100))]).unwrap();
    live.close().unwrap();
    make(&store, "c", Some("b")).unwrap();
    assert_eq!(tables(), first, "a short journal is frozen with its table");
    let reader = store.read(&branch("c")).unwrap();
    assert_eq!(dump(&reader).0.len(), 4000);

    // A frozen journal was whole once: a bad frame in it is damage.
    let journal = first[0].with_file_name("journal.1");
    let mut bytes = mem.file_bytes(&journal).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    mem.set_file_bytes(&journal, &bytes).unwrap();
    for answer in [
        store.read(&branch("c")).map(|_| ()),
        store.open_live(&branch("b")).map(|_| ()),
    ] {
        let e = answer.unwrap_err();
        assert!(
            matches!(&e, StoreError::Damaged { path, .. } if path.ends_with(&journal)),
            "{e}"
        );
    }
}

#[test]
fn branches_can_be_shared_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<LiveBranch>();
    check::<crate::backstore::BranchReader>();
    check::<crate::backstore::SyncHandle>();
    check::<Store>();
}

#[test]
fn a_failed_sync_stays_failed_until_a_checkpoint() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let media = FaultMedia::new(Arc::new(mem.clone()), 1, Fault::Once(nix::libc::EIO));
    let store = Store::on_media(Arc::new(media), Path::new("/mem"), false)
        .unwrap()
        .unwrap();
    let mut live = open(&store);
    live.commit(file(Ino::ROOT, "a", Ino(50), 1)).unwrap();
    let handle = live.journal_sync().unwrap();
    assert!(handle.sync().is_err());
    assert!(
        handle.sync().is_err(),
        "the kernel may have dropped the pages"
    );
    assert!(live.needs_checkpoint());
    live.checkpoint().unwrap();
    assert!(!live.needs_checkpoint());
    live.journal_sync().unwrap().sync().unwrap();
    let expect = dump(&live);
    let store = store_on(Arc::new(mem.crash(Crash::Power)));
    assert_eq!(dump(&open(&store)), expect);
}

#[test]
fn bad_deltas_are_refused_whole() {
    let (_, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let mut deltas = file(Ino::ROOT, "a", Ino(50), 1);
    deltas.push(Delta::PutExtent(Ino(50), u64::MAX, 2, ExtentSource::Zero));
    assert!(matches!(live.commit(deltas), Err(StoreError::Invalid(_))));
    assert_eq!(dump(&live), Dump::default());
    live.commit(Vec::new()).unwrap();
    assert_eq!(live.journal_bytes(), 0);
}

#[test]
fn a_reader_sees_a_prefix_whatever_the_owner_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path()).unwrap();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, done) = (store.clone(), done.clone());
            std::thread::spawn(move || {
                let mut last = 0;
                let mut reads = 0;
                while !done.load(Ordering::SeqCst) || reads == 0 {
                    let reader = store.read(&branch("b")).unwrap();
                    let (inodes, dentries) = dump(&reader);
                    // Commit i makes inode i and name i, both or none, in order.
                    let n = inodes.len() as u64;
                    assert_eq!(dentries.len() as u64, n);
                    assert!(n >= last, "went back from {last} to {n}");
                    assert!(inodes.keys().map(|ino| ino.0).eq(1000..1000 + n));
                    last = n;
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for i in 0..600 {
        live.commit(file(Ino::ROOT, &format!("f{i}"), Ino(1000 + i), i))
            .unwrap();
        if i % 20 == 19 {
            live.checkpoint().unwrap();
        }
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    assert_eq!(dump(&live).0.len(), 600);
}

#[test]
fn lookups_in_a_big_table_read_little() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let mut batch = Vec::new();
    for i in 0..100_000u64 {
        batch.extend(file(
            Ino(i / 100),
            &format!("file-{i}"),
            Ino(1_000_000 + i),
            i,
        ));
        if batch.len() > 2000 {
            live.commit(std::mem::take(&mut batch)).unwrap();
        }
    }
    live.commit(batch).unwrap();
    live.close().unwrap();
    let bytes: usize = mem
        .files()
        .iter()
        .filter(|p| p.to_string_lossy().contains("/table."))
        .map(|p| mem.file_bytes(p).unwrap().len())
        .sum();
    let counting = reads::CountingMedia::new(Arc::new(mem));
    let store = Store::on_media(Arc::new(counting.clone()), Path::new("/mem"), false);
    let live = store.unwrap().unwrap().open_live(&branch("b")).unwrap();
    let opened = counting.bytes_read();
    assert!(
        opened < bytes as u64 / 50,
        "opening read {opened} of {bytes} bytes"
    );
    for i in (0..100_000u64).step_by(10_007) {
        let found = live.inode(Ino(1_000_000 + i)).unwrap();
        assert_eq!(found.map(|rec| rec.size), Some(i));
        let found = live
            .dentry(Ino(i / 100), &name(&format!("file-{i}")))
            .unwrap();
        assert!(matches!(found, Some(Dentry::Present { ino, .. }) if ino.0 == 1_000_000 + i));
        assert_eq!(live.dentry(Ino(i / 100), &name("none")).unwrap(), None);
    }
    assert_eq!(live.dentries(Ino(500)).unwrap().len(), 100);
    let looked_up = counting.bytes_read() - opened;
    assert!(
        looked_up < bytes as u64 / 20,
        "20 lookups read {looked_up} of {bytes} bytes"
    );
    assert_eq!(dump(&live).1.len(), 100_000);
}

#[test]
fn copies_keep_bytes_lengths_and_holes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(&dir.path().join("s")).unwrap();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let base = tempfile::tempfile_in(dir.path()).unwrap();
    use std::os::unix::fs::FileExt;
    let (hole, len) = (1u64 << 20, (2u64 << 20) + 5);
    base.write_all_at(b"start", 0).unwrap();
    base.write_all_at(b"after", hole + 4096).unwrap();
    base.set_len(len).unwrap();
    let (_, copy) = live.new_object().unwrap();
    assert_eq!(
        copy.clone_or_copy_from(CopySource::File(&base), 0, u64::MAX)
            .unwrap(),
        len
    );
    assert_eq!(copy.len().unwrap(), len);
    let bytes = |object: &dyn crate::backstore::ObjectFile| {
        let mut out = vec![0; object.len().unwrap() as usize];
        assert_eq!(object.read_at(&mut out, 0).unwrap(), out.len());
        out
    };
    let mut expect = vec![0; len as usize];
    base.read_exact_at(&mut expect, 0).unwrap();
    assert_eq!(bytes(&*copy), expect);
    assert!(
        copy.stat().unwrap().blocks * 512 < len / 2,
        "the holes stay holes"
    );
    assert_eq!(copy.seek(SeekFor::Data, len).unwrap(), None);

    // A part, from an object, over bytes that are there already: zeros of holes included.
    let (_, part) = live.new_object().unwrap();
    part.write_at(&vec![7; 3 << 20], 0).unwrap();
    let (from, n) = (hole - 10, 8192);
    assert_eq!(
        part.clone_or_copy_from(CopySource::Object(&*copy), from, n)
            .unwrap(),
        n
    );
    let mut want = vec![7; 3 << 20];
    want[from as usize..(from + n) as usize]
        .copy_from_slice(&expect[from as usize..(from + n) as usize]);
    assert_eq!(bytes(&*part), want);
    assert_eq!(
        part.clone_or_copy_from(CopySource::File(&base), len, 10)
            .unwrap(),
        0
    );
}

#[test]
fn the_copy_without_descriptors_does_the_same() {
    let (_, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let (_, from) = live.new_object().unwrap();
    from.write_at(&[5; 300_000], 0).unwrap();
    let (_, to) = live.new_object().unwrap();
    assert_eq!(
        to.clone_or_copy_from(CopySource::Object(&*from), 100, 250_000)
            .unwrap(),
        250_000
    );
    let mut bytes = vec![1; 250_100];
    assert_eq!(to.read_at(&mut bytes, 0).unwrap(), bytes.len());
    assert!(bytes[..100].iter().all(|b| *b == 0) && bytes[100..].iter().all(|b| *b == 5));
    assert_eq!(to.len().unwrap(), 250_100);
}

/// A media that counts the bytes read through it.
mod reads {
    use std::io;
    use std::os::fd::BorrowedFd;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::backstore::media::*;

    #[derive(Clone, Debug)]
    pub struct CountingMedia {
        inner: Arc<dyn Media>,
        bytes: Arc<AtomicU64>,
    }

    impl CountingMedia {
        pub fn new(inner: Arc<dyn Media>) -> Self {
            Self {
                inner,
                bytes: Arc::default(),
            }
        }

        pub fn bytes_read(&self) -> u64 {
            self.bytes.load(Ordering::SeqCst)
        }
    }

    impl Media for CountingMedia {
        fn describe(&self, path: &Path) -> PathBuf {
            self.inner.describe(path)
        }
        fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn MediaFile>> {
            let inner = self.inner.open(path, mode)?;
            Ok(Box::new(CountingFile {
                inner,
                bytes: self.bytes.clone(),
            }))
        }
        fn mkdir(&self, path: &Path) -> io::Result<()> {
            self.inner.mkdir(path)
        }
        fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
            self.inner.rename(from, to, replace)
        }
        fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.inner.link(from, to)
        }
        fn unlink(&self, path: &Path) -> io::Result<()> {
            self.inner.unlink(path)
        }
        fn rmdir(&self, path: &Path) -> io::Result<()> {
            self.inner.rmdir(path)
        }
        fn list(&self, path: &Path) -> io::Result<Vec<Listing>> {
            self.inner.list(path)
        }
        fn facts(&self, path: &Path) -> io::Result<FileFacts> {
            self.inner.facts(path)
        }
        fn make_private(&self, path: &Path, uid: u32) -> io::Result<()> {
            self.inner.make_private(path, uid)
        }
        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            self.inner.sync_dir(path)
        }
        fn sync_all(&self) -> io::Result<()> {
            self.inner.sync_all()
        }

        fn shared_bytes(&self, path: &Path) -> u64 {
            self.inner.shared_bytes(path)
        }

        fn sub(&self, path: &Path) -> io::Result<Arc<dyn Media>> {
            let inner = self.inner.sub(path)?;
            Ok(Arc::new(CountingMedia {
                inner,
                bytes: self.bytes.clone(),
            }))
        }
        fn lock(
            &self,
            path: &Path,
            wait: LockWait,
            note: &[u8],
        ) -> io::Result<Option<Box<dyn LockGuard>>> {
            self.inner.lock(path, wait, note)
        }
        fn is_locked(&self, path: &Path) -> io::Result<bool> {
            self.inner.is_locked(path)
        }
    }

    #[derive(Debug)]
    struct CountingFile {
        inner: Box<dyn MediaFile>,
        bytes: Arc<AtomicU64>,
    }

    impl MediaFile for CountingFile {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            let n = self.inner.read_at(buf, offset)?;
            self.bytes.fetch_add(n as u64, Ordering::SeqCst);
            Ok(n)
        }
        fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
            self.inner.write_at(data, offset)
        }
        fn stat(&self) -> io::Result<ObjectStat> {
            self.inner.stat()
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.inner.set_len(len)
        }
        fn sync(&self, data_only: bool) -> io::Result<()> {
            self.inner.sync(data_only)
        }
        fn allocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
            self.inner.allocate(mode, offset, len)
        }
        fn seek(&self, what: SeekFor, offset: u64) -> io::Result<Option<u64>> {
            self.inner.seek(what, offset)
        }
        fn as_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }
}
