//! What this host offers, and what is at the paths a plan is about. Only looks, never changes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use crate::error::{CmdError, SetupError, step};
use crate::mounttable::{self, Mount};
use crate::plan::MARK;

/// Major and minor number of /dev/fuse. Source: the kernel's admin-guide/devices.txt.
const FUSE_DEVICE: (u32, u32) = (10, 229);
/// Most links on the way of one path, as for the kernel. Source: path_resolution(7).
const LINKS_MAX: usize = 40;
/// Most bytes of a file that [`read_small`] reads.
const SMALL_BYTES: u64 = 1 << 20;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// A directory.
    Dir,
    /// Anything else.
    File,
}

/// What is known of the paths a plan is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What is at each real path that was looked at and exists.
    pub kinds: BTreeMap<PathBuf, PathKind>,
    /// Symbolic links of /run and where they lead.
    pub links: BTreeMap<PathBuf, PathBuf>,
    /// The real path of /etc/resolv.conf, if it is a link.
    pub resolv_conf: Option<PathBuf>,
    /// The terminal device of the standard streams.
    pub tty: Option<PathBuf>,
}

impl Facts {
    /// What is at `path`, if it was looked at and exists.
    pub fn kind(&self, path: &Path) -> Option<PathKind> {
        self.kinds.get(path).copied()
    }

    /// Looks at `path`, remembers what is there, and gives its real path: links resolved as far as
    /// the path exists, the rest as written.
    pub fn look(&mut self, path: &Path) -> PathBuf {
        // Nearly always there is no link on the way, and one call tells.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened =
            rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        match opened {
            Ok(fd) => {
                if let Ok(stat) = rustix::fs::fstat(&fd) {
                    self.kinds.insert(path.to_owned(), kind_of(stat.st_mode));
                }
                path.to_owned()
            }
            Err(rustix::io::Errno::LOOP) => {
                let real = real_path(path);
                if let Ok(stat) = rustix::fs::statat(CWD, &real, AtFlags::SYMLINK_NOFOLLOW) {
                    self.kinds.insert(real.clone(), kind_of(stat.st_mode));
                }
                real
            }
            Err(_) => path.to_owned(),
        }
    }

    /// Looks at the fixed places of every view.
    pub fn look_around(&mut self) {
        for path in ["/", "/tmp", "/var/tmp", "/run", "/dev", "/proc", "/sys"] {
            self.look(Path::new(path));
        }
        for name in ["null", "zero", "full", "random", "urandom", "tty"] {
            self.look(&Path::new("/dev").join(name));
        }
        for link in [
            "/run/current-system",
            "/run/booted-system",
            "/run/opengl-driver",
        ] {
            if let Ok(to) = std::fs::read_link(link) {
                self.links.insert(link.into(), to);
            }
        }
        let resolv = Path::new("/etc/resolv.conf");
        self.resolv_conf = std::fs::canonicalize(resolv)
            .ok()
            .filter(|real| real != resolv);
        self.tty = (0..3).find_map(terminal);
    }
}

fn kind_of(st_mode: u32) -> PathKind {
    match FileType::from_raw_mode(st_mode) {
        FileType::Directory => PathKind::Dir,
        _ => PathKind::File,
    }
}

/// The real path of `path`: links resolved as far as it exists, the rest as written.
pub fn real_path(path: &Path) -> PathBuf {
    if let Ok(real) = std::fs::canonicalize(path) {
        return real;
    }
    // By hand, as a link may lead to what is not there yet.
    let mut real = PathBuf::from("/");
    let mut rest: Vec<PathBuf> = vec![path.to_owned()];
    let mut links_left = LINKS_MAX;
    while let Some(piece) = rest.pop() {
        let mut parts = piece.components();
        let Some(part) = parts.next() else { continue };
        rest.push(parts.as_path().to_owned());
        match part {
            Component::RootDir => real = PathBuf::from("/"),
            Component::ParentDir => drop(real.pop()),
            Component::Normal(name) => {
                let next = real.join(name);
                match std::fs::read_link(&next) {
                    Ok(target) if links_left > 0 => {
                        links_left -= 1;
                        rest.push(target);
                    }
                    _ => real = next,
                }
            }
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    real
}

/// Reads a small file that anybody may have put there: neither a FIFO nor a device nor an endless
/// file holds us up, and none is opened for more than a look.
///
/// Errors: `InvalidInput` for what is no regular file, `FileTooLarge`.
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let look = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::open(path, look, Mode::empty())?;
    let stat = rustix::fs::fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let why = "not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let through = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = std::fs::File::from(rustix::fs::open(through, flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(SMALL_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SMALL_BYTES {
        let why = format!("more than {SMALL_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// The host path of the terminal device that descriptor `number` (a standard stream) is.
fn terminal(number: u32) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    let is_pty = path.starts_with("/dev/pts");
    let is_device = std::fs::metadata(&path).is_ok_and(|m| m.file_type().is_char_device());
    (is_pty && is_device).then_some(path)
}

/// The directory whose changes a run is about: the git top level above `cwd`, else `cwd`.
pub fn workspace(cwd: &Path) -> PathBuf {
    let top = cwd
        .ancestors()
        .find(|dir| dir.join(".git").symlink_metadata().is_ok());
    top.unwrap_or(cwd).to_owned()
}

/// The shared git directory of a linked worktree or submodule checked out at `workspace`: it lies
/// elsewhere, and git writes there. `.git` may be of anybody's making, so the directory that it names
/// has to name the workspace in turn.
pub fn linked_git_dir(workspace: &Path) -> Option<PathBuf> {
    let path = |text: &[u8]| PathBuf::from(OsStr::from_bytes(text.trim_ascii()));
    let workspace = std::fs::canonicalize(workspace).ok()?;
    let text = read_small(&workspace.join(".git")).ok()?;
    let dir = workspace.join(path(text.strip_prefix(b"gitdir:")?));
    let dir = std::fs::canonicalize(dir).ok()?;
    let (real, back) = match read_small(&dir.join("commondir")) {
        Ok(text) => {
            let common = std::fs::canonicalize(dir.join(path(&text))).ok()?;
            if dir.parent() != Some(&common.join("worktrees")) {
                return None;
            }
            let back = path(&read_small(&dir.join("gitdir")).ok()?);
            (common, back.parent()?.to_owned())
        }
        Err(_) => {
            let back = core_worktree(&read_small(&dir.join("config")).ok()?)?;
            (dir.clone(), back)
        }
    };
    let names_it = std::fs::canonicalize(dir.join(back)).ok()? == workspace;
    (names_it && !real.starts_with(&workspace) && real.join("objects").is_dir()).then_some(real)
}

/// The value of `core.worktree` in a git configuration, as git itself writes it.
fn core_worktree(config: &[u8]) -> Option<PathBuf> {
    let mut in_core = false;
    let mut found = None;
    for line in config.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.starts_with(b"[") {
            in_core = line.eq_ignore_ascii_case(b"[core]");
        } else if let Some(at) = line.iter().position(|byte| *byte == b'=')
            && in_core
            && line[..at].trim_ascii().eq_ignore_ascii_case(b"worktree")
        {
            found = Some(line[at + 1..].trim_ascii());
        }
    }
    let value = found?;
    let inner = value
        .strip_prefix(b"\"")
        .and_then(|v| v.strip_suffix(b"\""));
    Some(PathBuf::from(OsStr::from_bytes(inner.unwrap_or(value))))
}

/// Refuses early what cannot work here, with the fix: before anything was made.
pub fn preflight() -> Result<(), CmdError> {
    if inside_a_run()? {
        return Err(CmdError::refused(
            "run",
            "this is the inside of an agentfs run, and runs do not nest",
            "leave the run (exit) and start this one on the host; --from BRANCH starts a new branch \
             from this one's files",
        ));
    }
    fuse_device()?;
    if user_namespace_limit() == Some(0) {
        return Err(SetupError::new(step::CLONE, "the run", Errno::EUSERS).into());
    }
    Ok(())
}

/// Opens /dev/fuse, which must be what it is called: a mount of anything else fails without a reason.
pub fn fuse_device() -> Result<OwnedFd, SetupError> {
    let path = "/dev/fuse";
    let fail = |e: rustix::io::Errno| SetupError::new(step::FUSE_OPEN, path, e);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
    let stat = rustix::fs::fstat(&device).map_err(fail)?;
    let number = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if is_device && number == FUSE_DEVICE {
        return Ok(device);
    }
    let (major, minor) = FUSE_DEVICE;
    Err(SetupError {
        reason: format!("something else is there, not the character device {major}:{minor}"),
        ..fail(rustix::io::Errno::NODEV)
    })
}

/// `user.max_user_namespaces`.
pub fn user_namespace_limit() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/user/max_user_namespaces")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Whether this process lives in the view of a run: its /run is a tmpfs that only set-up makes, and
/// that nothing inside can unmount.
pub fn inside_a_run() -> Result<bool, CmdError> {
    Ok(mounttable::read()?.iter().any(is_mark))
}

fn is_mark(mount: &Mount) -> bool {
    mount.point == Path::new("/run") && mount.fs_type == "tmpfs" && mount.source == MARK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_a_tmpfs_of_ours_at_run() {
        let mount = |point: &str, fs_type: &str, source: &str| Mount {
            point: point.into(),
            fs_type: fs_type.into(),
            source: source.into(),
        };
        assert!(is_mark(&mount("/run", "tmpfs", "agentfs")));
        for (point, fs_type, source) in [
            ("/run", "tmpfs", "tmpfs"),
            ("/tmp", "tmpfs", "agentfs"),
            ("/run", "fuse.agentfs", "agentfs"),
        ] {
            assert!(
                !is_mark(&mount(point, fs_type, source)),
                "{point} {fs_type}"
            );
        }
    }

    #[test]
    fn links_are_resolved_as_far_as_the_path_exists() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(top.join("real")).unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        let mut facts = Facts::default();
        assert_eq!(facts.look(&top.join("link/new/x")), top.join("real/new/x"));
        assert_eq!(facts.look(&top.join("link")), top.join("real"));
        assert_eq!(facts.kind(&top.join("real")), Some(PathKind::Dir));
        assert_eq!(facts.kind(&top.join("real/new/x")), None);
        // A link may lead to what comes to be later, on a way of its own.
        std::os::unix::fs::symlink("link/../real/later", top.join("ahead")).unwrap();
        std::os::unix::fs::symlink("loop", top.join("loop")).unwrap();
        assert_eq!(facts.look(&top.join("ahead/x")), top.join("real/later/x"));
        assert_eq!(facts.look(&top.join("loop")), top.join("loop"));
    }

    #[test]
    fn the_workspace_is_the_git_top_level() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        std::fs::create_dir_all(top.join("a/b/c")).unwrap();
        std::fs::write(top.join("a/.git"), "gitdir: ../main/.git/worktrees/a\n").unwrap();
        std::fs::create_dir_all(top.join("main/.git/worktrees/a")).unwrap();
        std::fs::create_dir_all(top.join("main/.git/objects")).unwrap();
        let admin = top.join("main/.git/worktrees/a");
        std::fs::write(admin.join("commondir"), "../..\n").unwrap();
        assert_eq!(workspace(&top.join("a/b/c")), top.join("a"));
        assert_eq!(linked_git_dir(&top.join("a")), None, "it names no worktree");
        let main = std::fs::canonicalize(top.join("main/.git")).unwrap();
        for back in ["../../../../a/.git", top.join("a/.git").to_str().unwrap()] {
            std::fs::write(admin.join("gitdir"), format!("{back}\n")).unwrap();
            assert_eq!(linked_git_dir(&top.join("a")), Some(main.clone()), "{back}");
        }
        assert_eq!(linked_git_dir(&top.join("a/b")), None);
        std::fs::write(admin.join("gitdir"), "../../../../b/.git\n").unwrap();
        assert_eq!(linked_git_dir(&top.join("a")), None, "another worktree's");
    }

    #[test]
    fn a_git_file_opens_no_repository_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(dir.path()).unwrap();
        let write = |path: &str, text: &str| {
            let path = top.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        std::fs::create_dir_all(top.join("victim/.git/objects")).unwrap();
        write("victim/.git/config", "[core]\n\tbare = false\n");
        write("w/.git", "gitdir: ../victim/.git\n");
        assert_eq!(linked_git_dir(&top.join("w")), None);
        // A go-between of one's own that names both.
        write("w/.git", "gitdir: fake\n");
        write("w/fake/gitdir", "../.git\n");
        write("w/fake/commondir", "../../victim/.git\n");
        assert_eq!(linked_git_dir(&top.join("w")), None);
        // A submodule's names its worktree.
        std::fs::create_dir_all(top.join("super/.git/modules/w/objects")).unwrap();
        write("w/.git", "gitdir: ../super/.git/modules/w\n");
        let config = "[core]\n\tworktree = \"../../../../w\"\n[x]\n\tworktree = no\n";
        write("super/.git/modules/w/config", config);
        let modules = top.join("super/.git/modules/w");
        assert_eq!(linked_git_dir(&top.join("w")), Some(modules));
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        assert_eq!(read_small(&at("link")).unwrap(), b"text");
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
        for name in ["fifo", "zero", "."] {
            let e = read_small(&at(name)).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::InvalidInput, "{name}: {e}");
        }
        let big = std::fs::File::create(at("big")).unwrap();
        big.set_len(SMALL_BYTES).unwrap();
        assert_eq!(read_small(&at("big")).unwrap().len() as u64, SMALL_BYTES);
        big.set_len(1 << 40).unwrap();
        let e = read_small(&at("big")).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::FileTooLarge);
    }
}
