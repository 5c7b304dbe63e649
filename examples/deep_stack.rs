//! What lookups cost in a branch on many snapshots, against one whose only layer holds the same:
//! ratios of medians over paired, interleaved rounds. Run it optimised:
//!
//! ```text
//! cargo run --release -p agentfs-fsd --example deep_stack [SNAPSHOTS] [FILES_EACH] [DIR]
//! ```
//! Cold: a branch just opened, nothing of its tables in the process. Warm: asked again.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use agentfs_fsd::backstore::{NewBranch, Records, Store};
use agentfs_fsd::core::record::{Content, Delta, Dentry, InodeRec};
use agentfs_fsd::core::types::{BranchName, Ino, Kind, Name, Time};

type Answer<T> = Result<T, Box<dyn Error>>;

/// Rounds whose median counts.
const ROUNDS: usize = 31;
/// Names looked up in a round.
const LOOKUPS: u64 = 2000;

fn record(n: u64) -> Arc<InodeRec> {
    let time = Time {
        sec: n as i64,
        nsec: 1,
    };
    Arc::new(InodeRec {
        kind: Kind::File,
        perm: 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        nlink: 1,
        size: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        object_mtime: None,
        blocks: None,
        dirty: false,
        generation: 0,
        origin: None,
        content: Content::Empty,
        symlink: None,
        xattrs: BTreeMap::new(),
    })
}

fn ino(n: u64) -> Ino {
    Ino(Ino::FIRST_NEW.0 + n)
}

fn name(n: u64) -> Answer<Name> {
    Ok(Name::new(format!("file-{n:08}").as_bytes())?)
}

fn file(n: u64) -> Answer<Vec<Delta>> {
    let (ino, kind) = (ino(n), Kind::File);
    Ok(vec![
        Delta::PutInode(ino, record(n)),
        Delta::PutDentry(Ino::ROOT, name(n)?, Dentry::Present { ino, kind }),
    ])
}

/// A branch with so many files after each of so many snapshots.
fn make(store: &Store, branch: &BranchName, snapshots: u64, each: u64) -> Answer<()> {
    let workspace = PathBuf::from("/");
    store.create_branch(branch, None, NewBranch { workspace })?;
    for layer in 0..snapshots {
        let mut live = store.open_live(branch)?;
        for n in layer * each..(layer + 1) * each {
            live.commit(file(n)?)?;
        }
        live.snapshot(&store.hold()?, None, &[])?;
        // As if killed: nothing is compacted yet.
        drop(live);
    }
    Ok(())
}

/// Nanoseconds of opening a branch, of lookups in it, and of the same once more.
fn sample(store: &Store, branch: &BranchName, wanted: &[(Name, Ino)]) -> Answer<[u64; 3]> {
    let begin = Instant::now();
    let reader = store.read(branch)?;
    let opened = begin.elapsed();
    let round = || -> Answer<u64> {
        let begin = Instant::now();
        for (name, ino) in wanted {
            let found = reader.dentry(Ino::ROOT, name)?;
            assert!(matches!(found, Some(Dentry::Present { .. })));
            black_box(reader.inode(*ino)?);
        }
        Ok(begin.elapsed().as_nanos() as u64)
    };
    Ok([opened.as_nanos() as u64, round()?, round()?])
}

fn median(mut values: Vec<u64>) -> f64 {
    values.sort_unstable();
    values[values.len() / 2] as f64
}

/// Says how the two compare.
fn compare(store: &Store, what: &str, [flat, deep]: [&BranchName; 2], files: u64) -> Answer<()> {
    let mut seen = [vec![], vec![]];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..ROUNDS {
        let mut wanted = Vec::new();
        for _ in 0..LOOKUPS.min(files) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let n = random % files;
            wanted.push((name(n)?, ino(n)));
        }
        // Each goes first as often as the other.
        for which in [round % 2, 1 - round % 2] {
            seen[which].push(sample(store, [flat, deep][which], &wanted)?);
        }
    }
    let of = |which: usize, i: usize| median(seen[which].iter().map(|s| s[i]).collect());
    let ratios = [0, 1, 2].map(|i| of(1, i) / of(0, i));
    println!(
        "{what}: opening {:.2}, cold lookups {:.2}, warm lookups {:.2} times one layer",
        ratios[0], ratios[1], ratios[2]
    );
    Ok(())
}

/// Bytes below a directory.
fn bytes(dir: &Path) -> Answer<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let (path, meta) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        sum += if meta.is_dir() {
            bytes(&path)?
        } else {
            meta.len()
        };
    }
    Ok(sum)
}

fn main() -> Answer<()> {
    let mut args = std::env::args().skip(1);
    let snapshots = args.next().map_or(Ok(100), |arg| arg.parse())?;
    let each = args.next().map_or(Ok(500), |arg| arg.parse())?;
    let parent = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = parent.join(format!("agentfs-deep-stack-{}", std::process::id()));
    let store = Store::open_or_create(&dir)?;
    let (flat, deep) = (BranchName::new("flat")?, BranchName::new("deep")?);
    make(&store, &flat, 1, snapshots * each)?;
    store.open_live(&flat)?.close()?;
    let before = bytes(&dir)?;
    make(&store, &deep, snapshots, each)?;
    let files = snapshots * each;
    println!("{snapshots} snapshots, {each} new files each, {files} in all");
    compare(&store, "before compaction", [&flat, &deep], files)?;
    store.gc(false, &mut |_, _, _| {})?;
    compare(&store, "after compaction", [&flat, &deep], files)?;
    let ratio = (bytes(&dir)? - before) as f64 / before as f64;
    println!("space of {snapshots} snapshots: {ratio:.2} times that of one layer");
    Ok(std::fs::remove_dir_all(&dir)?)
}
