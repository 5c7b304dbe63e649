//! Plain values that every layer of the crate shares: ids, names, times, attributes, callers.
//!
//! A leaf: imports nothing of the crate. Refuses to do any I/O.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An inode number of a branch: what `st_ino` shows, stable over copy-up, remount and branching.
///
/// `1` is the host's `/`. Base objects map to a fixed function of (device index, host inode);
/// objects made in a branch count up from [`Ino::FIRST_NEW`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The inode of the branch's root, the host's `/`.
    pub const ROOT: Ino = Ino(1);
    /// First number given to objects that a branch itself makes.
    pub const FIRST_NEW: Ino = Ino(1 << 61);
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ino:{}", self.0)
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One open(2): the id of an entry of the handle table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

impl Fh {
    /// Of a request for a file that the kernel uses without an open of ours.
    pub const NONE: Fh = Fh(0);
}

/// A file name: 1 to 255 bytes without `/` and NUL, never `.` or `..`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

/// Why bytes are no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all, `.` or `..`.
    #[error("an empty name, '.' or '..' cannot name an entry")]
    Reserved,
    /// More than 255 bytes.
    #[error("a name has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// A `/` or a NUL inside.
    #[error("a name cannot hold '/' or NUL")]
    BadByte,
}

impl Name {
    /// Longest name, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Checks `bytes` and makes a name of them.
    ///
    /// Errors: see [`NameError`].
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong(bytes.len()));
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." {
            return Err(NameError::Reserved);
        }
        if bytes.iter().any(|b| *b == b'/' || *b == 0) {
            return Err(NameError::BadByte);
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as an `OsStr`, for calls into the standard library.
    pub fn as_os_str(&self) -> &std::ffi::OsStr {
        std::os::unix::ffi::OsStrExt::from_bytes(&self.0)
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    Char,
    Block,
}

impl Kind {
    /// The kind in the `S_IFMT` bits of `mode`, if they name one.
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Dir,
            0o120_000 => Kind::Symlink,
            0o010_000 => Kind::Fifo,
            0o140_000 => Kind::Socket,
            0o020_000 => Kind::Char,
            0o060_000 => Kind::Block,
            _ => return None,
        })
    }

    /// The `S_IFMT` bits.
    pub fn mode_bits(self) -> u32 {
        match self {
            Kind::File => 0o100_000,
            Kind::Dir => 0o040_000,
            Kind::Symlink => 0o120_000,
            Kind::Fifo => 0o010_000,
            Kind::Socket => 0o140_000,
            Kind::Char => 0o020_000,
            Kind::Block => 0o060_000,
        }
    }
}

/// A point in time: seconds since the epoch (may be negative) and nanoseconds (0 to 999,999,999).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time {
    /// Whole seconds since 1970, UTC.
    pub sec: i64,
    /// Nanoseconds within the second.
    pub nsec: u32,
}

impl Time {
    /// The system's real-time clock.
    pub fn now() -> Self {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Time {
            sec: t.tv_sec,
            nsec: t.tv_nsec as u32,
        }
    }
}

/// What stat(2) shows of a file. Sizes in bytes, `blocks` in units of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Attr {
    pub ino: Ino,
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky: the low 12 bits of `st_mode`.
    pub perm: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub blocks: u64,
    /// These say that it is one hole, and the kernel may fill it without a word (a mapping that
    /// outlives its handle): not to be kept.
    pub may_fill: bool,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
}

/// A found or made entry. The caller owes one forget per entry it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Entry {
    pub attr: Attr,
    pub generation: u64,
}

/// Who asks. `pid` is a thread id in the host's pid namespace; 0 means a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// A time to set: an explicit one, or the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// This time.
    At(Time),
    /// The clock at the moment of the operation.
    Now,
}

/// The changes one setattr asks for; `None` leaves a field as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SetAttr {
    /// Low 12 bits of `st_mode`.
    pub perm: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<TimeSet>,
    pub mtime: Option<TimeSet>,
    pub ctime: Option<Time>,
}

/// One entry of a directory stream. `cookie` is where to go on after it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DirEnt {
    pub ino: Ino,
    pub kind: Kind,
    /// Raw bytes: `.` and `..` come here too, so this is no [`Name`].
    pub name: StreamName,
    pub cookie: u64,
}

/// A name of a directory stream: an entry's [`Name`], or one of the two dots.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StreamName {
    Dot,
    DotDot,
    Entry(Name),
}

impl StreamName {
    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            StreamName::Dot => b".",
            StreamName::DotDot => b"..",
            StreamName::Entry(name) => name.as_bytes(),
        }
    }
}

/// The mode asked for of a new entry: its low 12 bits, and the umask of who makes it.
///
/// A default access control list of the directory takes the umask's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NewMode {
    pub perm: u32,
    pub umask: u32,
}

impl From<u32> for NewMode {
    /// This mode as it is.
    fn from(perm: u32) -> Self {
        Self { perm, umask: 0 }
    }
}

/// What renameat2(2) asks beyond a plain rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
    /// Replace, and leave a character device 0:0 where the file was: how an overlay file system
    /// above a branch marks a removal.
    Whiteout,
    /// Both: leave a whiteout, and replace nothing.
    NoReplaceWhiteout,
}

impl RenameMode {
    /// Whether a name that is there already makes it fail.
    pub fn keeps_target(self) -> bool {
        matches!(self, Self::NoReplace | Self::NoReplaceWhiteout)
    }

    /// Whether a whiteout takes the old place.
    pub fn leaves_whiteout(self) -> bool {
        matches!(self, Self::Whiteout | Self::NoReplaceWhiteout)
    }
}

/// What statfs(2) shows. Blocks are of `block_bytes` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FsStat {
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_bytes: u32,
    pub name_max: u32,
}

/// The name of a branch: 1 to 64 bytes of `[A-Za-z0-9._-]`, starting with a letter or a digit.
///
/// Narrow on purpose: it becomes a directory name, a command line word and a table cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BranchName(String);

/// A branch name that breaks the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid branch name '{}': use 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit",
    .0.escape_default()
)]
pub struct BranchNameError(pub String);

impl BranchName {
    /// Checks `name` against the rule.
    pub fn new(name: &str) -> Result<Self, BranchNameError> {
        let mut bytes = name.bytes();
        let first_ok = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest_ok = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if first_ok && rest_ok && name.len() <= 64 {
            Ok(Self(name.to_owned()))
        } else {
            Err(BranchNameError(name.to_owned()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BranchName {
    type Error = BranchNameError;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<BranchName> for String {
    fn from(name: BranchName) -> String {
        name.0
    }
}
