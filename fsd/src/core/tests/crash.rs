//! What a branch is after a crash in the middle of a change, or a failed write of the journal.

use super::*;

#[test]
fn a_crash_inside_a_truncation_brings_no_base_bytes_back() {
    let mut bench = Bench::new(|base| fs::write(base.join("big"), vec![b'B'; 3 << 20]).unwrap());
    let ino = bench.walk("big").unwrap().ino;
    let opened = bench.core().open(&ME, ino, O_RDWR).unwrap();
    bench.core().write(ino, opened.fh, 0, b"x", false).unwrap();
    drop(bench.core.take());
    // What SIGKILL leaves between the cut of the object and the frame that records it.
    let objects = objects_of(bench.store.path(), 3 << 20);
    assert_eq!(objects.len(), 1, "{objects:?}");
    fs::File::options()
        .write(true)
        .open(&objects[0])
        .unwrap()
        .set_len(1_500_000)
        .unwrap();
    bench.open();
    let ino = bench.walk("big").unwrap().ino;
    assert_eq!(bench.walk("big").unwrap().size, 1_500_000);
    let grow = SetAttr {
        size: Some(3 << 20),
        ..SetAttr::default()
    };
    bench.core().setattr(&ME, ino, None, &grow).unwrap();
    for clean in [false, true] {
        let bytes = bench.read("big");
        assert_eq!(bytes.len(), 3 << 20);
        assert!(bytes[1..1_500_000].iter().all(|b| *b == b'B'));
        assert!(bytes[1_500_000..].iter().all(|b| *b == 0));
        bench.reopen(clean);
    }
}

#[test]
fn a_truncation_that_could_not_be_recorded_stays_one() {
    use crate::backstore::fault::{Fault, FaultMedia};
    use crate::backstore::{DirMedia, LiveBranch};
    let size = |size| SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    for at in 0.. {
        let mut bench = Bench::new(|base| fs::write(base.join("big"), vec![7; 3 << 20]).unwrap());
        bench.write("big", 2 << 20, b"mine");
        bench.core.take().unwrap().close().unwrap();
        let dir = DirMedia::open(bench.store.path()).unwrap();
        let media = Arc::new(FaultMedia::new(Arc::new(dir), at, Fault::Once(28)));
        let store = Store::on_media(media.clone(), bench.store.path(), false);
        let opened = store.map(|s| s.unwrap().open_live(&BranchName::new("b").unwrap()));
        let Ok(Ok(live)) = opened else { continue };
        let live: LiveBranch = live;
        let config = CoreConfig {
            base: bench.base.path().into(),
            roots: vec!["/".into()],
            conceal: vec![],
            mountpoint: None,
            passthrough: false,
        };
        bench.core = Some(FsCore::new(live, config).unwrap());
        let ino = bench.walk("big").unwrap().ino;
        let cut = bench.core().setattr(&ME, ino, None, &size(100));
        if !media.has_struck() {
            cut.unwrap();
            break;
        }
        let now = bench.walk("big").unwrap().size;
        assert!(now == 100 || now == 3 << 20, "call {at}: {now}");
        bench.reopen(false);
        assert_eq!(bench.damage(), Vec::<String>::new(), "call {at}");
        let ino = bench.walk("big").unwrap().ino;
        bench
            .core()
            .setattr(&ME, ino, None, &size(3 << 20))
            .unwrap();
        let held = bench.read("big");
        let tail = &held[100..];
        assert!(
            now != 100 || tail.iter().all(|b| *b == 0),
            "call {at}: old bytes are back"
        );
    }
}
