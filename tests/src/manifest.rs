//! A manifest of a directory tree: every fact of every file that a run on a branch must not change.
//!
//! Access times are left out on purpose: reading may move them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The facts of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Inode number.
    pub ino: u64,
    /// Hard links.
    pub nlink: u64,
    /// Size in bytes.
    pub size: u64,
    /// Device number of device nodes.
    pub rdev: u64,
    /// Modification time: seconds, nanoseconds.
    pub mtime: (i64, i64),
    /// Change time: seconds, nanoseconds.
    pub ctime: (i64, i64),
    /// SHA-256 of a regular file, the target of a symlink, else nothing.
    pub content: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What of the facts a comparison looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them: the very same files, untouched.
    Same,
    /// What a copy shares with its source: not inode numbers and times.
    Copy,
}

/// All files below a directory, by relative path; the directory itself is `.`.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The directory.
    pub root: PathBuf,
    /// Facts by path.
    pub files: BTreeMap<OsString, Facts>,
}

impl Manifest {
    /// Reads the tree below `root`, following no symlink.
    pub fn of(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut todo = vec![PathBuf::from(".")];
        while let Some(relative) = todo.pop() {
            let path = root.join(&relative);
            let facts = facts(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if facts.mode & 0o170_000 == 0o040_000 {
                match list_searchable(&path) {
                    Ok(entries) => todo.extend(entries.iter().map(|e| relative.join(e))),
                    // An ordinary user's own directory that it may not read or search.
                    Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
                    Err(e) => panic!("{}: {e}", path.display()),
                }
            }
            files.insert(relative.into_os_string(), facts);
        }
        Manifest {
            root: root.to_path_buf(),
            files,
        }
    }

    /// Every difference as one line; empty when there is none.
    pub fn differences(&self, now: &Manifest, scope: Scope) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, before) in &self.files {
            match now.files.get(path) {
                None => lines.push(format!("{}: gone", show(path))),
                Some(after) => lines.extend(
                    before
                        .differences(after, scope)
                        .map(|d| format!("{}: {d}", show(path))),
                ),
            }
        }
        for path in now.files.keys().filter(|p| !self.files.contains_key(*p)) {
            lines.push(format!("{}: new", show(path)));
        }
        lines
    }

    /// Fails the test, with every difference, unless `now` holds the same untouched files.
    #[track_caller]
    pub fn assert_untouched(&self, now: &Manifest) {
        let lines = self.differences(now, Scope::Same);
        assert!(
            lines.is_empty(),
            "the base was changed:\n  {}",
            lines.join("\n  ")
        );
    }

    /// Reads the tree again and compares; see [`Manifest::assert_untouched`].
    #[track_caller]
    pub fn assert_still(&self) {
        self.assert_untouched(&Manifest::of(&self.root));
    }

    /// Fails the test unless `now` is a faithful copy.
    #[track_caller]
    pub fn assert_copy(&self, now: &Manifest) {
        let lines = self.differences(now, Scope::Copy);
        assert!(
            lines.is_empty(),
            "{} and {} differ:\n  {}",
            self.root.display(),
            now.root.display(),
            lines.join("\n  ")
        );
    }

    /// One line per file, for a program that prints its manifest to another.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for (path, f) in &self.files {
            let dir = f.mode & 0o170_000 == 0o040_000;
            let (size, nlink) = if dir { (0, 0) } else { (f.size, f.nlink) };
            text.push_str(&format!(
                "{} {:o} {:?} {nlink} {size} {} {:?}\n",
                show(path),
                f.mode,
                f.owner,
                hex(&f.content),
                f.xattrs
            ));
        }
        text
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "manifest of {} ({} files)",
            self.root.display(),
            self.files.len()
        )
    }
}

impl Facts {
    fn differences(&self, now: &Facts, scope: Scope) -> impl Iterator<Item = String> + use<> {
        let mut lines = Vec::new();
        let mut fact = |name: &str, before: String, after: String| {
            if before != after {
                lines.push(format!("{name} was {before}, is {after}"));
            }
        };
        let dir = self.mode & 0o170_000 == 0o040_000;
        fact(
            "mode",
            format!("{:o}", self.mode),
            format!("{:o}", now.mode),
        );
        fact(
            "owner",
            format!("{:?}", self.owner),
            format!("{:?}", now.owner),
        );
        if !dir || scope == Scope::Same {
            fact("nlink", self.nlink.to_string(), now.nlink.to_string());
            fact("size", self.size.to_string(), now.size.to_string());
        }
        fact("rdev", self.rdev.to_string(), now.rdev.to_string());
        fact("content", hex(&self.content), hex(&now.content));
        fact(
            "xattrs",
            format!("{:?}", self.xattrs),
            format!("{:?}", now.xattrs),
        );
        if scope == Scope::Same {
            fact("inode", self.ino.to_string(), now.ino.to_string());
            fact(
                "mtime",
                format!("{:?}", self.mtime),
                format!("{:?}", now.mtime),
            );
            fact(
                "ctime",
                format!("{:?}", self.ctime),
                format!("{:?}", now.ctime),
            );
        }
        lines.into_iter()
    }
}

/// The facts of one file, its symlink not followed.
pub fn facts(path: &Path) -> std::io::Result<Facts> {
    let meta = path.symlink_metadata()?;
    let content = match meta.mode() & 0o170_000 {
        0o100_000 => sha256(path)?,
        0o120_000 => path.read_link()?.into_os_string().as_bytes().to_vec(),
        _ => Vec::new(),
    };
    Ok(Facts {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        ino: meta.ino(),
        nlink: meta.nlink(),
        size: meta.size(),
        rdev: meta.rdev(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
        content,
        xattrs: xattrs(path)?,
    })
}

fn sha256(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = match std::fs::File::open(path) {
        // An ordinary user's own 0000 file is as good as its other facts.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            return Ok(b"unreadable".to_vec());
        }
        other => other?,
    };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hash.finalize().to_vec()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The extended attributes of a file, its symlink not followed.
pub fn xattrs(path: &Path) -> std::io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0_u8; 1 << 16];
    let len = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        Ok(len) => len,
        Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::ACCESS) => return Ok(BTreeMap::new()),
        Err(e) => return Err(e.into()),
    };
    let mut all = BTreeMap::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0_u8; 1 << 16];
        match rustix::fs::lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice()) {
            Ok(n) => all.insert(name.to_vec(), value[..n].to_vec()),
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => continue,
            Err(e) => return Err(e.into()),
        };
    }
    Ok(all)
}

/// The names in a directory, sorted.
pub fn list(dir: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name());
    }
    names.sort();
    Ok(names)
}

fn list_searchable(dir: &Path) -> std::io::Result<Vec<OsString>> {
    dir.join(".").symlink_metadata()?;
    list(dir)
}

fn show(path: &OsStr) -> String {
    path.as_bytes().escape_ascii().to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
