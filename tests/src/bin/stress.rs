//! Several processes at once on one tree, each of which knows what its part must look like.
//!
//!   agentfs-test-stress prepare DIR PROCESSES            fills DIR, which becomes the base
//!   agentfs-test-stress run DIR OUT SECONDS PROCESSES    all of them at once; records to OUT
//!   agentfs-test-stress verify DIR OUT                   DIR is what was recorded, and no more
//!
//! Process N works in `own<N>` and on the names `p<N>-*` of `shared`, where all of them make, move
//! and remove entries. A failure is a message on standard error and exit 1.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agentfs_tests::base::pattern;
use rustix::fs::{FallocateFlags, XattrFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

type Fallible<T> = Result<T, String>;

/// What is to be found under a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Found {
    Dir,
    Link(PathBuf),
    File {
        mode: u32,
        nlink: u64,
        size: u64,
        sha: String,
        xattr: Option<Vec<u8>>,
    },
}

type Record = BTreeMap<PathBuf, Found>;

/// A file as its process knows it.
#[derive(Debug, Default)]
struct Known {
    bytes: Vec<u8>,
    mode: u32,
    names: u64,
    xattr: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Entry {
    Dir,
    Link(PathBuf),
    File(usize),
}

/// One process's part of the tree, and the dice.
struct Worker {
    dir: PathBuf,
    number: u64,
    random: u64,
    made: u64,
    entries: BTreeMap<PathBuf, Entry>,
    files: Vec<Known>,
    steps: u64,
}

const FILE_MAX_BYTES: u64 = 3 << 20;
const ENTRIES_MAX: usize = 80;

fn main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let text = |i: usize| args.get(i).and_then(|a| a.to_str()).unwrap_or_default();
    let path = |i: usize| PathBuf::from(args.get(i).cloned().unwrap_or_default());
    let number = |i: usize| {
        text(i)
            .parse::<u64>()
            .map_err(|e| format!("{:?}: {e}", text(i)))
    };
    let result = match text(0) {
        "prepare" => number(2).and_then(|n| prepare(&path(1), n)),
        "run" => number(3).and_then(|seconds| run(&path(1), &path(2), seconds, number(4)?)),
        "work" => number(3).and_then(|seconds| work(&path(1), &path(2), seconds, number(4)?)),
        "verify" => verify(&path(1), &path(2)),
        other => Err(format!("no subcommand {other:?}")),
    };
    if let Err(message) = result {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

fn say<T, E: std::fmt::Display>(what: &str, path: &Path, result: Result<T, E>) -> Fallible<T> {
    result.map_err(|e| format!("{what} {}: {e}", path.display()))
}

fn prepare(dir: &Path, processes: u64) -> Fallible<()> {
    let make = |path: &Path| say("mkdir", path, fs::create_dir_all(path));
    make(&dir.join("shared"))?;
    for p in 0..processes {
        let own = dir.join(format!("own{p}"));
        make(&own.join("tree/deep"))?;
        // Below a MiB a file is copied up whole, above it becomes one of extents.
        for (i, bytes) in [0, 10, 5_000, 70_000, 900_000, 1_500_000, 2_500_000]
            .iter()
            .enumerate()
        {
            let name = format!("base{i}");
            for place in [own.clone(), own.join("tree/deep")] {
                let path = place.join(&name);
                say(
                    "write",
                    &path,
                    fs::write(&path, pattern((p + 1) as u8, *bytes)),
                )?;
            }
            let path = dir.join(format!("shared/p{p}-{name}"));
            say("link", &path, fs::hard_link(own.join(&name), &path))?;
        }
    }
    Ok(())
}

fn run(dir: &Path, out: &Path, seconds: u64, processes: u64) -> Fallible<()> {
    let me = say("find", Path::new("this program"), std::env::current_exe())?;
    let mut children = Vec::new();
    for p in 0..processes {
        let mut command = Command::new(&me);
        command
            .arg("work")
            .arg(dir)
            .arg(out)
            .arg(seconds.to_string())
            .arg(p.to_string());
        children.push(say("start", &me, command.spawn())?);
    }
    let mut failed = 0;
    for mut child in children {
        failed += u32::from(!say("wait for", &me, child.wait())?.success());
    }
    (failed == 0)
        .then_some(())
        .ok_or(format!("{failed} of {processes} processes failed"))
}

fn work(dir: &Path, out: &Path, seconds: u64, number: u64) -> Fallible<()> {
    let mut worker = Worker {
        dir: dir.to_owned(),
        number,
        random: number * 2 + 1,
        made: 0,
        entries: BTreeMap::new(),
        files: Vec::new(),
        steps: 0,
    };
    worker.learn()?;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        worker
            .step()
            .map_err(|e| format!("process {number}, step {}: {e}", worker.steps))?;
        worker.steps += 1;
    }
    println!("process {number}: {} steps", worker.steps);
    let path = out.join(format!("{number}.json"));
    let json = serde_json::to_vec(&worker.record().into_iter().collect::<Vec<_>>());
    say(
        "write",
        &path,
        fs::write(&path, say("encode", &path, json)?),
    )
}

impl Worker {
    fn random(&mut self, below: u64) -> u64 {
        // A 64-bit linear congruential generator; its upper half is random enough for a load.
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below.max(1)
    }

    /// Takes note of what the base has.
    fn learn(&mut self) -> Fallible<()> {
        let mut by_ino = BTreeMap::new();
        let tree = walk(&self.dir)?;
        let (own, shared) = (
            format!("own{}", self.number),
            format!("shared/p{}-", self.number),
        );
        for (path, meta) in tree {
            let is_own = path.starts_with(&own) && path != Path::new(&own);
            if !is_own && !path.to_string_lossy().starts_with(&shared) {
                continue;
            }
            let entry = if meta.is_dir() {
                Entry::Dir
            } else {
                let id = *by_ino.entry(meta.ino()).or_insert(self.files.len());
                if id == self.files.len() {
                    let bytes = say("read", &path, fs::read(self.dir.join(&path)))?;
                    let mode = meta.mode() & 0o7777;
                    self.files.push(Known {
                        bytes,
                        mode,
                        ..Known::default()
                    });
                }
                self.files[id].names += 1;
                Entry::File(id)
            };
            self.entries.insert(path, entry);
        }
        Ok(())
    }

    fn record(&self) -> Record {
        let found = |entry: &Entry| match entry {
            Entry::Dir => Found::Dir,
            Entry::Link(target) => Found::Link(target.clone()),
            Entry::File(id) => {
                let known = &self.files[*id];
                Found::File {
                    mode: known.mode,
                    nlink: known.names,
                    size: known.bytes.len() as u64,
                    sha: sha(&known.bytes),
                    xattr: known.xattr.clone(),
                }
            }
        };
        self.entries
            .iter()
            .map(|(path, entry)| (path.clone(), found(entry)))
            .collect()
    }

    fn pick(&mut self, wanted: impl Fn(&Entry) -> bool) -> Option<(PathBuf, Entry)> {
        let fitting: Vec<_> = self.entries.iter().filter(|(_, e)| wanted(e)).collect();
        let count = fitting.len() as u64;
        let fitting: Vec<_> = fitting
            .into_iter()
            .map(|(p, e)| (p.clone(), e.clone()))
            .collect();
        let n = self.random(count) as usize;
        fitting.into_iter().nth(n)
    }

    fn pick_file(&mut self) -> Option<(PathBuf, usize)> {
        let (path, entry) = self.pick(|e| matches!(e, Entry::File(_)))?;
        match entry {
            Entry::File(id) => Some((path, id)),
            Entry::Dir | Entry::Link(_) => None,
        }
    }

    /// A name that nobody has: in a directory of its own, or in the shared one.
    fn fresh(&mut self) -> PathBuf {
        self.made += 1;
        let name = format!("p{}-{}", self.number, self.made);
        if self.random(3) == 0 {
            return Path::new("shared").join(name);
        }
        let own = PathBuf::from(format!("own{}", self.number));
        let dir = self
            .pick(|e| matches!(e, Entry::Dir))
            .map_or(own, |(path, _)| path);
        dir.join(name)
    }

    fn step(&mut self) -> Fallible<()> {
        let crowded = self.entries.len() > ENTRIES_MAX;
        match self.random(21) {
            0 | 1 if !crowded => self.create(),
            0..=2 => self.unlink(),
            3..=7 => self.change_bytes(),
            8 | 9 => self.check_file(),
            10 => self.truncate(),
            11 => self.link(),
            12 | 13 => self.rename(),
            14 => self.directory(),
            15 => self.symlink(),
            16 => self.metadata(),
            17 => self.unlinked_open(),
            18 => self.copy(),
            19 => self.look_around(),
            _ => self.check_listing(),
        }
    }

    fn create(&mut self) -> Fallible<()> {
        let path = self.fresh();
        let len = self.random(100_000) as usize;
        let bytes = pattern(self.random(256) as u8, len);
        let full = self.dir.join(&path);
        say("write", &path, fs::write(&full, &bytes))?;
        let mode = say("stat", &path, fs::metadata(&full))?.mode() & 0o7777;
        self.files.push(Known {
            bytes,
            mode,
            names: 1,
            xattr: None,
        });
        self.entries.insert(path, Entry::File(self.files.len() - 1));
        Ok(())
    }

    fn forget(&mut self, path: &Path) {
        if let Some(Entry::File(id)) = self.entries.remove(path) {
            let known = &mut self.files[id];
            known.names -= 1;
            if known.names == 0 {
                known.bytes = Vec::new();
            }
        }
    }

    fn unlink(&mut self) -> Fallible<()> {
        let Some((path, _)) = self.pick(|e| !matches!(e, Entry::Dir)) else {
            return Ok(());
        };
        say("unlink", &path, fs::remove_file(self.dir.join(&path)))?;
        self.forget(&path);
        Ok(())
    }

    fn open(&self, path: &Path) -> Fallible<File> {
        say(
            "open",
            path,
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.dir.join(path)),
        )
    }

    fn change_bytes(&mut self) -> Fallible<()> {
        let Some((path, id)) = self.pick_file() else {
            return Ok(());
        };
        let file = self.open(&path)?;
        for _ in 0..=self.random(4) {
            let size = self.files[id].bytes.len() as u64;
            let at = self.random(size + 8192).min(FILE_MAX_BYTES);
            let len = self.random(if self.random.is_multiple_of(7) {
                200_000
            } else {
                9000
            }) as usize;
            if self.random(5) == 0 {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let len = len as u64 + 1;
                say("punch", &path, rustix::fs::fallocate(&file, how, at, len))?;
                let bytes = &mut self.files[id].bytes;
                let (from, to) = (at.min(size) as usize, (at + len).min(size) as usize);
                bytes[from..to].fill(0);
                continue;
            }
            let data = pattern(self.random(256) as u8, len);
            say("write", &path, file.write_all_at(&data, at))?;
            let (at, bytes) = (at as usize, &mut self.files[id].bytes);
            if len > 0 && bytes.len() < at + len {
                bytes.resize(at + len, 0);
            }
            bytes[at.min(at + len)..][..len].copy_from_slice(&data);
        }
        match self.random(10) {
            0 => say("fsync", &path, file.sync_all()),
            1 => say("fdatasync", &path, file.sync_data()),
            _ => Ok(()),
        }
    }

    fn check_file(&mut self) -> Fallible<()> {
        let Some((path, id)) = self.pick_file() else {
            return Ok(());
        };
        let bytes = say("read", &path, fs::read(self.dir.join(&path)))?;
        let meta = say("stat", &path, fs::metadata(self.dir.join(&path)))?;
        let known = &self.files[id];
        if bytes != known.bytes {
            let at = bytes.iter().zip(&known.bytes).position(|(a, b)| a != b);
            let (is, was) = (bytes.len(), known.bytes.len());
            return Err(format!(
                "{}: {is} bytes, not {was}; differ at {at:?}",
                path.display()
            ));
        }
        let (is, was) = (
            (meta.nlink(), meta.len()),
            (known.names, known.bytes.len() as u64),
        );
        (is == was)
            .then_some(())
            .ok_or(format!("{}: {is:?}, not {was:?}", path.display()))
    }

    fn truncate(&mut self) -> Fallible<()> {
        let Some((path, id)) = self.pick_file() else {
            return Ok(());
        };
        let size = self.files[id].bytes.len() as u64;
        let size = self.random(size + 20_000).min(FILE_MAX_BYTES);
        if self.random(3) == 0 {
            let options = OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(self.dir.join(&path));
            drop(say("open with O_TRUNC", &path, options)?);
            self.files[id].bytes.clear();
            return Ok(());
        }
        say("truncate", &path, self.open(&path)?.set_len(size))?;
        self.files[id].bytes.resize(size as usize, 0);
        Ok(())
    }

    fn link(&mut self) -> Fallible<()> {
        let Some((path, id)) = self.pick_file() else {
            return Ok(());
        };
        let to = self.fresh();
        say(
            "link",
            &to,
            fs::hard_link(self.dir.join(path), self.dir.join(&to)),
        )?;
        self.files[id].names += 1;
        self.entries.insert(to, Entry::File(id));
        Ok(())
    }

    fn rename(&mut self) -> Fallible<()> {
        let Some((from, entry)) = self.pick(|_| true) else {
            return Ok(());
        };
        let onto = self.random(3) == 0;
        let to = match self.pick(|e| !matches!(e, Entry::Dir)) {
            Some((to, _)) if onto && !matches!(entry, Entry::Dir) => to,
            _ => self.fresh(),
        };
        if to.starts_with(&from) {
            return Ok(());
        }
        say(
            "rename to",
            &to,
            fs::rename(self.dir.join(&from), self.dir.join(&to)),
        )?;
        if let (Entry::File(a), Some(Entry::File(b))) = (&entry, self.entries.get(&to))
            && a == b
        {
            // Two names of one file: nothing happens.
            return Ok(());
        }
        self.forget(&to);
        let inside: Vec<PathBuf> = self
            .entries
            .keys()
            .filter(|path| path.starts_with(&from))
            .cloned()
            .collect();
        for path in inside {
            let Some(entry) = self.entries.remove(&path) else {
                continue;
            };
            let rest = say("move", &path, path.strip_prefix(&from))?;
            let moved = if rest.as_os_str().is_empty() {
                to.clone()
            } else {
                to.join(rest)
            };
            self.entries.insert(moved, entry);
        }
        Ok(())
    }

    fn directory(&mut self) -> Fallible<()> {
        if self.random(2) == 0 {
            let path = self.fresh();
            say("mkdir", &path, fs::create_dir(self.dir.join(&path)))?;
            self.entries.insert(path, Entry::Dir);
            return Ok(());
        }
        let Some((path, _)) = self.pick(|e| matches!(e, Entry::Dir)) else {
            return Ok(());
        };
        let is_empty = !self
            .entries
            .keys()
            .any(|e| e.starts_with(&path) && *e != path);
        match fs::remove_dir(self.dir.join(&path)) {
            Ok(()) if is_empty => drop(self.entries.remove(&path)),
            Err(e) if !is_empty && e.kind() == ErrorKind::DirectoryNotEmpty => {}
            other => {
                return Err(format!(
                    "rmdir {} (empty: {is_empty}): {other:?}",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    fn symlink(&mut self) -> Fallible<()> {
        let (path, target) = (
            self.fresh(),
            PathBuf::from(format!("to/{}", self.random(1000))),
        );
        say("symlink", &path, symlink(&target, self.dir.join(&path)))?;
        self.entries.insert(path, Entry::Link(target));
        Ok(())
    }

    fn metadata(&mut self) -> Fallible<()> {
        let Some((path, id)) = self.pick_file() else {
            return Ok(());
        };
        let full = self.dir.join(&path);
        if self.random(2) == 0 {
            let mode = [0o600, 0o644, 0o755, 0o640][self.random(4) as usize];
            say(
                "chmod",
                &path,
                fs::set_permissions(&full, fs::Permissions::from_mode(mode)),
            )?;
            self.files[id].mode = mode;
        } else {
            let value = pattern(1, self.random(300) as usize);
            let set = rustix::fs::setxattr(&full, "user.stress", &value, XattrFlags::empty());
            say("setxattr", &path, set)?;
            self.files[id].xattr = Some(value);
        }
        Ok(())
    }

    /// A file that loses this name while it is open goes on as it was.
    fn unlinked_open(&mut self) -> Fallible<()> {
        let Some((path, id)) = self.pick_file() else {
            return Ok(());
        };
        let file = self.open(&path)?;
        say("unlink", &path, fs::remove_file(self.dir.join(&path)))?;
        let mut bytes = std::mem::take(&mut self.files[id].bytes);
        say("write", &path, file.write_all_at(b"still here", 0))?;
        if bytes.len() < 10 {
            bytes.resize(10, 0);
        }
        bytes[..10].copy_from_slice(b"still here");
        let mut now = vec![0; bytes.len()];
        say("read", &path, file.read_exact_at(&mut now, 0))?;
        if now != bytes {
            return Err(format!(
                "{}: not the same once it is unlinked",
                path.display()
            ));
        }
        self.files[id].bytes = bytes;
        self.forget(&path);
        Ok(())
    }

    fn copy(&mut self) -> Fallible<()> {
        let (Some((from, a)), Some((to, b))) = (self.pick_file(), self.pick_file()) else {
            return Ok(());
        };
        let (source_len, target_len) = (self.files[a].bytes.len(), self.files[b].bytes.len());
        if a == b || source_len == 0 {
            return Ok(());
        }
        let start = self.random(source_len as u64);
        let at = self.random(target_len as u64 + 1).min(FILE_MAX_BYTES);
        let wanted = self.random(300_000) as usize + 1;
        let (mut off_in, mut off_out) = (start, at);
        let (source, target) = (self.open(&from)?, self.open(&to)?);
        let copied = rustix::fs::copy_file_range(
            &source,
            Some(&mut off_in),
            &target,
            Some(&mut off_out),
            wanted,
        );
        let copied = say("copy_file_range to", &to, copied)?;
        let data = self.files[a].bytes[start as usize..][..copied].to_vec();
        let (at, bytes) = (at as usize, &mut self.files[b].bytes);
        if bytes.len() < at + copied {
            bytes.resize(at + copied, 0);
        }
        bytes[at..at + copied].copy_from_slice(&data);
        Ok(())
    }

    /// Looks at everything of some process, also while that is at work.
    fn look_around(&mut self) -> Fallible<()> {
        let parts = say("list", &self.dir, agentfs_tests::manifest::list(&self.dir))?;
        let part = self.random(parts.len() as u64) as usize;
        walk(&self.dir.join(&parts[part])).map(drop)
    }

    /// The shared directory holds each name of this process once, whatever the others do.
    fn check_listing(&mut self) -> Fallible<()> {
        let shared = Path::new("shared");
        let list = say(
            "list",
            shared,
            agentfs_tests::manifest::list(&self.dir.join(shared)),
        )?;
        let prefix = format!("p{}-", self.number);
        let mut mine: Vec<PathBuf> = list
            .iter()
            .filter(|name| name.to_string_lossy().starts_with(&prefix))
            .map(|name| shared.join(name))
            .collect();
        mine.sort();
        let known = self
            .entries
            .keys()
            .filter(|path| path.parent() == Some(shared));
        let mut known: Vec<PathBuf> = known.cloned().collect();
        known.sort();
        (mine == known)
            .then_some(())
            .ok_or(format!("listed {mine:?}, not {known:?}"))
    }
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Everything below `dir` by relative path.
fn walk(dir: &Path) -> Fallible<Vec<(PathBuf, fs::Metadata)>> {
    let mut todo = vec![PathBuf::new()];
    let mut found = Vec::new();
    while let Some(relative) = todo.pop() {
        let full = dir.join(&relative);
        let names = match agentfs_tests::manifest::list(&full) {
            // Another process at work.
            Err(e) if e.kind() == ErrorKind::NotFound && relative != Path::new("") => continue,
            names => say("list", &full, names)?,
        };
        for name in names {
            let path = relative.join(name);
            let meta = match dir.join(&path).symlink_metadata() {
                Ok(meta) => meta,
                // Another process at work.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(format!("stat {}: {e}", path.display())),
            };
            if meta.is_dir() {
                todo.push(path.clone());
            }
            found.push((path, meta));
        }
    }
    Ok(found)
}

fn verify(dir: &Path, out: &Path) -> Fallible<()> {
    let mut expected = Record::new();
    for name in say("list", out, agentfs_tests::manifest::list(out))? {
        let path = out.join(name);
        let json = say("read", &path, fs::read(&path))?;
        let part: Vec<(PathBuf, Found)> = say("decode", &path, serde_json::from_slice(&json))?;
        expected.extend(part);
    }
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, meta) in walk(dir)? {
        let is_frame = path.components().count() == 1;
        if is_frame {
            continue;
        }
        count += 1;
        let full = dir.join(&path);
        let found = if meta.is_dir() {
            Found::Dir
        } else if meta.is_symlink() {
            Found::Link(say("readlink", &full, fs::read_link(&full))?)
        } else {
            let bytes = say("read", &full, fs::read(&full))?;
            let xattrs = say("xattrs", &full, agentfs_tests::manifest::xattrs(&full))?;
            Found::File {
                mode: meta.mode() & 0o7777,
                nlink: meta.nlink(),
                size: meta.len(),
                sha: sha(&bytes),
                xattr: xattrs.get(b"user.stress".as_slice()).cloned(),
            }
        };
        match expected.remove(&path) {
            Some(was) if was == found => {}
            Some(was) => wrong.push(format!("{}: {found:?}, not {was:?}", path.display())),
            None => wrong.push(format!("{}: {found:?}, not recorded", path.display())),
        }
    }
    wrong.extend(
        expected
            .iter()
            .map(|(path, was)| format!("{}: gone, {was:?}", path.display())),
    );
    println!("{count} entries");
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}
