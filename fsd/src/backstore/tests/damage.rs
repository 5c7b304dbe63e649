//! Damaged, foreign and newer files: a typed error that names the file, and no harm to others.

use std::path::PathBuf;

use super::*;
use crate::backstore::fault::{Fault, FaultMedia};
use crate::backstore::meta::BRANCH_VERSION;
use crate::backstore::{Listed, Store};

/// A store with a branch `b` on a shared layer with a table, and an unrelated branch `other`.
fn prepared() -> (MemMedia, Dump) {
    let (mem, store) = new_store();
    make(&store, "parent", None).unwrap();
    make(&store, "other", None).unwrap();
    let mut live = store.open_live(&branch("parent")).unwrap();
    for i in 0..40 {
        live.commit(file(Ino::ROOT, &format!("file{i}"), Ino(100 + i), i))
            .unwrap();
    }
    live.close().unwrap();
    make(&store, "b", Some("parent")).unwrap();
    let mut live = store.open_live(&branch("b")).unwrap();
    live.commit(file(Ino::ROOT, "own", Ino(7), 7)).unwrap();
    live.checkpoint().unwrap();
    live.commit(file(Ino::ROOT, "tail", Ino(8), 8)).unwrap();
    live.commit(file(Ino::ROOT, "tail2", Ino(9), 9)).unwrap();
    let state = dump(&live);
    drop(live);
    (mem, state)
}

fn damaged_file(e: &StoreError) -> Option<PathBuf> {
    match e {
        StoreError::Damaged { path, .. } => Some(path.clone()),
        _ => None,
    }
}

/// Reads all there is to read of the branch.
fn try_dump(store: &Store, text: &str) -> Result<Dump, StoreError> {
    let reader = store.read(&branch(text))?;
    let mut out = Dump::default();
    reader.each_inode(&mut |ino, rec| {
        out.0.insert(ino, rec.clone());
        Ok(())
    })?;
    reader.each_dentry(&mut |parent, name, dentry| {
        out.1.insert((parent, name.clone()), dentry);
        Ok(())
    })?;
    Ok(out)
}

#[test]
fn flipped_bits_are_seen_wherever_they_are_read() {
    let (mem, state) = prepared();
    let store = store_on(Arc::new(mem.clone()));
    let own = store.branch(&branch("b")).unwrap().layers;
    for path in mem.files() {
        let text = path.to_string_lossy().into_owned();
        let of_b = text.starts_with("branches/b/branch.json")
            || own
                .iter()
                .any(|id| text.contains(&format!("{:016x}", id.0)));
        if !of_b {
            continue;
        }
        let good = mem.file_bytes(&path).unwrap();
        let step = (good.len() / 300).max(1);
        for at in (0..good.len()).step_by(step) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            mem.set_file_bytes(&path, &bad).unwrap();
            match try_dump(&store, "b") {
                Ok(dump) if text.contains("/journal.") => {
                    // The journal is cut there: a state before the last commits, never another.
                    assert!(dump != state && dump.0.len() >= 41, "{text} at {at}");
                }
                // Pages that nothing refers to are not read.
                Ok(dump) => assert_eq!(dump, state, "{text} at {at}"),
                Err(e) => assert!(
                    damaged_file(&e).is_some_and(|p| p.ends_with(&path)),
                    "{text} at {at}: {e}"
                ),
            }
            assert!(try_dump(&store, "other").is_ok());
        }
        mem.set_file_bytes(&path, &good).unwrap();
    }
    assert_eq!(try_dump(&store, "b").unwrap(), state);
}

#[test]
fn a_reader_takes_a_damaged_journal_for_no_shorter_one() {
    let (mem, state) = prepared();
    let store = store_on(Arc::new(mem.clone()));
    store.open_live(&branch("b")).unwrap().close().unwrap();
    assert_eq!(try_dump(&store, "b").unwrap(), state);
    let top = *store.branch(&branch("b")).unwrap().layers.last().unwrap();
    let layer = format!("layers/{:016x}/", top.0);
    let journal = mem.files().into_iter().find(|path| {
        path.to_string_lossy()
            .starts_with(&format!("{layer}journal."))
    });
    let path = journal.expect("a journal");
    let good = mem.file_bytes(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        mem.set_file_bytes(&path, &bad).unwrap();
        let e = try_dump(&store, "b").expect_err("damaged");
        assert!(
            damaged_file(&e).is_some() || matches!(e, StoreError::NewerFormat { .. }),
            "{e}"
        );
    }
    mem.set_file_bytes(&path, &good[..good.len() - 1]).unwrap();
    assert!(try_dump(&store, "b").is_err());
}

#[test]
fn a_damaged_branch_is_listed_as_such_and_can_be_removed() {
    let (mem, _) = prepared();
    let store = store_on(Arc::new(mem.clone()));
    mem.set_file_bytes(Path::new("branches/b/branch.json"), b"{}\n")
        .unwrap();
    let list = store.list().unwrap();
    assert_eq!(list.len(), 3);
    match &list[0] {
        Listed::Damaged { name, why } => {
            assert_eq!(name, "b");
            assert!(damaged_file(why).is_some_and(|p| p.ends_with("branches/b/branch.json")));
        }
        Listed::Branch(info) => panic!("{info:?}"),
    }
    assert!(matches!(&list[1], Listed::Branch(info) if info.name == branch("other")));
    // While b is damaged nobody knows which layers it shares: only what surely is unused goes.
    store.remove_branch(&branch("parent")).unwrap();
    assert_eq!(mem_layers(&mem), 3);
    store.remove_branch(&branch("b")).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(mem_layers(&mem), 1, "what nobody names is gone");
}

fn mem_layers(mem: &MemMedia) -> usize {
    mem.list(Path::new("layers")).unwrap().len()
}

#[test]
fn a_missing_file_is_named() {
    let (mem, _) = prepared();
    let store = store_on(Arc::new(mem.clone()));
    let layers = store.branch(&branch("b")).unwrap().layers;
    for id in layers {
        let dir = PathBuf::from(format!("layers/{:016x}", id.0));
        for entry in mem.list(&dir).unwrap() {
            let path = dir.join(&entry.name);
            if entry.name == "sound" {
                continue; // Optional: without it damage is only harder to tell from a torn append.
            }
            let copy = mem.crash(crate::backstore::mem::Crash::Process);
            copy.unlink(&path).unwrap();
            let store = store_on(Arc::new(copy.clone()));
            let answer = store.open_live(&branch("b")).map(|_| ());
            let e = answer.expect_err(&path.display().to_string());
            assert!(damaged_file(&e).is_some(), "{e}");
        }
        let copy = mem.crash(crate::backstore::mem::Crash::Process);
        copy.rename(&dir, Path::new("trash/x"), false).unwrap();
        let store = store_on(Arc::new(copy));
        let bad = store.list().unwrap().into_iter().filter(|listed| {
            matches!(listed, Listed::Damaged { why, .. } if damaged_file(why).is_some_and(|p| p.ends_with(&dir)))
        });
        assert!(bad.count() >= 1);
        assert!(store.open_live(&branch("other")).is_ok());
    }
}

#[test]
fn newer_formats_are_told_apart() {
    let (mem, _) = prepared();
    let newer = |json: &str| format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes()));
    mem.set_file_bytes(
        Path::new("branches/b/branch.json"),
        newer(r#"{"version":7,"hat":true}"#).as_bytes(),
    )
    .unwrap();
    let store = store_on(Arc::new(mem.clone()));
    for answer in [
        store.branch(&branch("b")).map(|_| ()),
        store.open_live(&branch("b")).map(|_| ()),
        store.read(&branch("b")).map(|_| ()),
    ] {
        assert!(matches!(
            answer,
            Err(StoreError::NewerFormat {
                found: 7,
                known: BRANCH_VERSION,
                ..
            })
        ));
    }
    assert!(store.open_live(&branch("other")).is_ok());

    // A journal of a newer version, its checksum right.
    let id = store.branch(&branch("other")).unwrap().layers[0];
    let path = PathBuf::from(format!("layers/{:016x}/journal.0", id.0));
    let mut bytes = mem.file_bytes(&path).unwrap();
    bytes[8] = 9;
    let crc = crc32c::crc32c(&bytes[..36]);
    bytes[36..40].copy_from_slice(&crc.to_le_bytes());
    mem.set_file_bytes(&path, &bytes).unwrap();
    let answer = store.open_live(&branch("other"));
    assert!(matches!(
        answer,
        Err(StoreError::NewerFormat { found: 9, .. })
    ));

    mem.set_file_bytes(Path::new("format"), newer(r#"{"version":2}"#).as_bytes())
        .unwrap();
    for create in [true, false] {
        let answer = Store::on_media(Arc::new(mem.clone()), Path::new("/mem"), create);
        assert!(matches!(
            answer,
            Err(StoreError::NewerFormat {
                found: 2,
                known: 1,
                ..
            })
        ));
    }
}

#[test]
fn a_directory_of_other_things_is_no_store() {
    let mem = MemMedia::new();
    mem.mkdir(Path::new("photos")).unwrap();
    for create in [true, false] {
        let answer = Store::on_media(Arc::new(mem.clone()), Path::new("/mem"), create);
        assert!(
            matches!(answer, Err(StoreError::NoStore { .. })),
            "{answer:?}"
        );
    }
    assert_eq!(
        mem.list(Path::new("")).unwrap().len(),
        1,
        "nothing was added"
    );
    let empty = MemMedia::new();
    assert!(
        Store::on_media(Arc::new(empty), Path::new("/mem"), false)
            .unwrap()
            .is_none()
    );
}

#[test]
fn no_space_and_no_permission_are_told_apart() {
    for (code, is_right) in [
        (
            nix::libc::ENOSPC,
            (|e| matches!(e, StoreError::NoSpace { .. })) as fn(&StoreError) -> bool,
        ),
        (nix::libc::EDQUOT, |e| {
            matches!(e, StoreError::NoSpace { .. })
        }),
        (nix::libc::EACCES, |e| {
            matches!(e, StoreError::NotWritable { .. })
        }),
        (nix::libc::EROFS, |e| {
            matches!(e, StoreError::NotWritable { .. })
        }),
        (nix::libc::EIO, |e| matches!(e, StoreError::Io { .. })),
    ] {
        let media = FaultMedia::new(Arc::new(MemMedia::new()), 0, Fault::Always(code));
        let e = Store::on_media(Arc::new(media), Path::new("/mem"), true).unwrap_err();
        assert!(is_right(&e), "{code}: {e}");
        let (mem, _) = new_store();
        let media = FaultMedia::new(Arc::new(mem), 0, Fault::Always(code));
        let store = Store::on_media(Arc::new(media), Path::new("/mem"), true);
        let e = make(&store.unwrap().unwrap(), "b", None).unwrap_err();
        assert!(is_right(&e), "{code}: {e}");
    }
}

#[test]
fn a_store_nobody_may_write_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    // Root writes anywhere by permission bits, so a plain file in the way serves as well.
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(Store::open_or_create(&file.join("store")).is_err());
    if !rustix::process::geteuid().is_root() {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
        let answer = Store::open_or_create(&dir.path().join("store"));
        assert!(
            matches!(answer, Err(StoreError::NotWritable { .. })),
            "{answer:?}"
        );
    }
}
