//! Executes the mount steps of a plan, inside the new mount namespace.
//!
//! Everything is done over held descriptors: a target is found with openat2 below the new root and
//! without following a link, so nothing that an earlier run left behind can lead a mount astray.
//! One tmpfs, the stage, lies on top of the old root, where no path of this process leads. FUSE and
//! the new root are mounted in it, covers and copies are taken from it; the pivot ends it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::error::{SetupError, step};
use crate::plan::{MARK, SetupOp};
use crate::probe::PathKind;
use crate::sys::{self, MountAttrs};

const INERT: MountAttrs = MountAttrs::NO_SUID.and(MountAttrs::NO_DEV);
const INERT_RO: MountAttrs = INERT.and(MountAttrs::READ_ONLY);
/// An owned copy holds at most this many entries and bytes: configuration, not data.
const OWN_MAX_ENTRIES: usize = 512;
const OWN_MAX_BYTES: u64 = 1 << 20;

/// The view while it is being made.
#[derive(Debug, Default)]
pub struct View {
    root: Option<OwnedFd>,
    branch: Option<OwnedFd>,
    stage: Option<OwnedFd>,
    names: usize,
}

/// A FUSE mount that waits for its daemon.
#[derive(Debug)]
pub struct Staged {
    /// The open /dev/fuse.
    pub device: OwnedFd,
}

impl View {
    /// Executes one step. `Fuse` and `AwaitBranch` are the caller's.
    pub fn execute(&mut self, op: &SetupOp) -> Result<(), SetupError> {
        match op {
            SetupOp::PrivatePropagation => private_propagation(),
            SetupOp::Fuse { .. } | SetupOp::AwaitBranch => Ok(()),
            SetupOp::HostRoot => self.host_root(),
            SetupOp::BranchRoot => self.branch_root(),
            SetupOp::Tmpfs { at, mode } => self.tmpfs(at, *mode),
            SetupOp::Dir { at, mode } => self.dir(at, *mode),
            SetupOp::Link { at, to } => self.link(at, to),
            SetupOp::Device { at } => self.device(at),
            SetupOp::Pts { at, gid } => self.pts(at, *gid),
            SetupOp::Host {
                at,
                from,
                write,
                make,
            } => self.host(at, from, *write, *make),
            SetupOp::Own { at, hidden } => self.own(at, hidden),
            SetupOp::Branch { at, make } => self.branch(at, *make),
            SetupOp::Hide { at, keep } => self.hide(at, keep),
            SetupOp::DenyWrite { at } => self.deny_write(at),
            SetupOp::Freeze { at } => self.freeze(at),
            SetupOp::Pivot => self.pivot(),
        }
    }

    /// Opens /dev/fuse and mounts it, both inside this user namespace as the kernel demands, stages
    /// the mount, and gives the device for the daemon.
    pub fn fuse(&mut self, source: &str, uid: u32, gid: u32) -> Result<Staged, SetupError> {
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SetupError::new(step::FUSE_OPEN, "/dev/fuse", e))?;
        let fail = |e: Errno| SetupError::new(step::FUSE_MOUNT, source, e);
        let mount = fuse_mount(&device, source, uid, gid).map_err(fail)?;
        let place = self.stage_place("branch")?;
        attach(&mount, &place).map_err(fail)?;
        self.branch = Some(mount);
        Ok(Staged { device })
    }

    fn root(&self) -> Result<BorrowedFd<'_>, SetupError> {
        let missing = || io::Error::other("the plan has no step for it yet");
        let root = self
            .root
            .as_ref()
            .ok_or_else(|| SetupError::other("use", "/", missing()))?;
        Ok(root.as_fd())
    }

    fn host_root(&mut self) -> Result<(), SetupError> {
        let fail = |e: Errno| SetupError::new("copy the mounts of", "/", e);
        // Before the stage is there, or it would be copied too.
        let tree = open_tree(CWD, "/", true).map_err(fail)?;
        sys::mount_setattr(tree.as_fd(), true, INERT_RO)
            .map_err(|e| SetupError::other("make read-only", "/", e))?;
        self.set_root(tree)
    }

    fn branch_root(&mut self) -> Result<(), SetupError> {
        let tree = self.branch_tree(Path::new("/"))?;
        self.set_root(tree)
    }

    fn set_root(&mut self, tree: OwnedFd) -> Result<(), SetupError> {
        let place = self.stage_place("root")?;
        attach(&tree, &place).map_err(|e| SetupError::new("mount", "the new root", e))?;
        self.root = Some(tree);
        Ok(())
    }

    fn tmpfs(&mut self, at: &Path, mode: u32) -> Result<(), SetupError> {
        let fail = |e: Errno| SetupError::new("mount a tmpfs at", at.display(), e);
        let mount = tmpfs_mount(mode).map_err(fail)?;
        self.put(&mount, at, None)
    }

    fn dir(&self, at: &Path, mode: u32) -> Result<(), SetupError> {
        self.make(at, PathKind::Dir)?;
        let fd = self
            .find(at)
            .map_err(|e| SetupError::new("find", at.display(), e))?;
        // By way of /proc: the descriptor is a pure path one, which fchmod(2) refuses.
        let through = format!("/proc/self/fd/{}", fd.as_raw_fd());
        std::fs::set_permissions(through, std::fs::Permissions::from_mode(mode))
            .map_err(|e| SetupError::other("set the mode of", at.display(), e))
    }

    fn link(&self, at: &Path, to: &Path) -> Result<(), SetupError> {
        let fail = |e: Errno| SetupError::new("make the link", at.display(), e);
        let (parent, name) = self.parent(at)?;
        rustix::fs::symlinkat(to, &parent, name).map_err(fail)
    }

    fn device(&mut self, at: &Path) -> Result<(), SetupError> {
        let fail = |e: Errno| SetupError::new("take the device", at.display(), e);
        let tree = open_tree(CWD, at, false).map_err(fail)?;
        sys::mount_setattr(
            tree.as_fd(),
            false,
            MountAttrs::NO_SUID.and(MountAttrs::NO_EXEC),
        )
        .map_err(|e| SetupError::other("restrict", at.display(), e))?;
        self.put(&tree, at, Some(PathKind::File))
    }

    fn pts(&mut self, at: &Path, gid: Option<u32>) -> Result<(), SetupError> {
        let fail = |e: Errno| SetupError::new("mount new terminals at", at.display(), e);
        let gid = gid.map(|g| g.to_string());
        let mut options = vec![("ptmxmode", "0666"), ("mode", "0620")];
        options.extend(gid.as_deref().map(|g| ("gid", g)));
        let attrs = MountAttrs::NO_SUID.and(MountAttrs::NO_EXEC);
        let mount = new_mount("devpts", &options, &["newinstance"], attrs).map_err(fail)?;
        self.put(&mount, at, None)
    }

    fn host(&mut self, at: &Path, from: &Path, write: bool, make: bool) -> Result<(), SetupError> {
        let fail = |e: Errno| SetupError::new("take the host's", from.display(), e);
        let source = open_path(CWD, from, ResolveFlags::NO_SYMLINKS).map_err(fail)?;
        let tree = open_tree(&source, "", true).map_err(fail)?;
        let in_dev = from.starts_with("/dev");
        let attrs = match (write, in_dev) {
            (true, true) => MountAttrs::NO_SUID,
            (true, false) => INERT,
            (false, true) => MountAttrs::NO_SUID.and(MountAttrs::READ_ONLY),
            (false, false) => INERT_RO,
        };
        sys::mount_setattr(tree.as_fd(), true, attrs)
            .map_err(|e| SetupError::other("restrict", from.display(), e))?;
        let kind = if make {
            Some(kind_of(&source).map_err(fail)?)
        } else {
            None
        };
        self.put(&tree, at, kind)
    }

    fn branch(&mut self, at: &Path, make: bool) -> Result<(), SetupError> {
        let tree = self.branch_tree(at)?;
        self.put(&tree, at, make.then_some(PathKind::Dir))
    }

    fn branch_tree(&self, at: &Path) -> Result<OwnedFd, SetupError> {
        let fail = |e: Errno| SetupError::new("take from the branch", at.display(), e);
        let staged = self.branch.as_ref().ok_or_else(|| fail(Errno::NODEV))?;
        let found = open_path(staged, below(at), ResolveFlags::NO_SYMLINKS).map_err(fail)?;
        open_tree(&found, "", false).map_err(fail)
    }

    fn hide(&mut self, at: &Path, keep: &[(PathBuf, PathKind)]) -> Result<(), SetupError> {
        let target = match self.find(at) {
            Ok(target) => target,
            // The branch has nothing there: nothing to hide.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(e) => return Err(SetupError::new("hide", at.display(), e)),
        };
        let fail = |e: Errno| SetupError::new("hide", at.display(), e);
        let name = match (kind_of(&target).map_err(fail)?, keep) {
            (PathKind::Dir, []) => "empty".to_owned(),
            (PathKind::File, _) => "nothing".to_owned(),
            (PathKind::Dir, keep) => self.cover_with(at, keep)?,
        };
        let cover = self.stage_tree(&name)?;
        attach(&cover, &target).map_err(fail)
    }

    /// A directory of the stage with places for `keep`, all of them below `at`.
    fn cover_with(
        &mut self,
        at: &Path,
        keep: &[(PathBuf, PathKind)],
    ) -> Result<String, SetupError> {
        let name = self.new_name();
        let top = self.stage_path(&name)?;
        let made = std::fs::create_dir(&top).and_then(|()| {
            for (path, kind) in keep {
                let rest = path.strip_prefix(at).map_err(io::Error::other)?;
                let place = top.join(rest);
                if *kind == PathKind::Dir {
                    std::fs::create_dir_all(&place)?;
                } else {
                    if let Some(parent) = place.parent() {
                        std::fs::create_dir_all(parent)?;
                    }
                    std::fs::write(&place, b"")?;
                }
            }
            Ok(())
        });
        made.map_err(|e| SetupError::other("make places below", at.display(), e))?;
        Ok(name)
    }

    fn own(&mut self, at: &Path, hidden: &[PathBuf]) -> Result<(), SetupError> {
        let name = self.new_name();
        let to = self.stage_path(&name)?;
        let mut copy = OwnedCopy {
            hidden,
            entries: OWN_MAX_ENTRIES,
            bytes: OWN_MAX_BYTES,
        };
        copy.take(at, &to)
            .map_err(|e| SetupError::other("copy for its owner's sake", at.display(), e))?;
        let tree = self.stage_tree(&name)?;
        self.put(&tree, at, None)
    }

    fn deny_write(&mut self, at: &Path) -> Result<(), SetupError> {
        let fail = |e: Errno| SetupError::new("deny writes at", at.display(), e);
        let target = self.find(at).map_err(fail)?;
        let tree = open_tree(&target, "", true).map_err(fail)?;
        sys::mount_setattr(tree.as_fd(), true, INERT_RO)
            .map_err(|e| SetupError::other("deny writes at", at.display(), e))?;
        attach(&tree, &target).map_err(fail)
    }

    fn freeze(&self, at: &Path) -> Result<(), SetupError> {
        let target = self
            .find(at)
            .map_err(|e| SetupError::new("find", at.display(), e))?;
        sys::mount_setattr(target.as_fd(), false, MountAttrs::READ_ONLY)
            .map_err(|e| SetupError::other("make read-only", at.display(), e))
    }

    fn pivot(&mut self) -> Result<(), SetupError> {
        let fail = |e: Errno| SetupError::new(step::PIVOT, "the new root", e);
        rustix::process::fchdir(self.root()?).map_err(fail)?;
        // The old root ends up on top of the new one, at the same place, and comes off it.
        rustix::process::pivot_root(".", ".").map_err(fail)?;
        // Topmost first: the stage with all that is mounted in it, then the old root.
        for what in ["the stage", "the host's root"] {
            rustix::mount::unmount(".", UnmountFlags::DETACH)
                .map_err(|e| SetupError::new("let go of", what, e))?;
        }
        rustix::process::chdir("/").map_err(fail)?;
        *self = Self::default();
        // `/..` would lead to whatever still lay on top.
        if mount_id("/").map_err(fail)? == mount_id("/..").map_err(fail)? {
            return Ok(());
        }
        Err(SetupError::other(
            "let go of",
            "the host's root",
            io::Error::other("it is still there"),
        ))
    }

    /// Attaches `mount` at `at` of the view, which is made first if `make` says as what.
    fn put(&self, mount: &OwnedFd, at: &Path, make: Option<PathKind>) -> Result<(), SetupError> {
        if let Some(kind) = make {
            self.make(at, kind)?;
        }
        let target = self
            .find(at)
            .map_err(|e| SetupError::new("find", at.display(), e))?;
        attach(mount, &target).map_err(|e| SetupError::new("mount at", at.display(), e))
    }

    /// Finds `at` in the view without following any link.
    fn find(&self, at: &Path) -> Result<OwnedFd, Errno> {
        let root = self.root.as_ref().ok_or(Errno::NODEV)?;
        open_path(
            root,
            below(at),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
        )
    }

    fn parent<'p>(&self, at: &'p Path) -> Result<(OwnedFd, &'p OsStr), SetupError> {
        let fail = |e: Errno| SetupError::new("find the parent of", at.display(), e);
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
            return Err(fail(Errno::INVAL));
        };
        Ok((self.find(parent).map_err(fail)?, name))
    }

    /// Makes `at` and its missing parents in one of the new tmpfs.
    fn make(&self, at: &Path, kind: PathKind) -> Result<(), SetupError> {
        let fail = |e: Errno| SetupError::new("make", at.display(), e);
        match self.find(at) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(fail(e)),
        }
        if let Some(parent) = at.parent() {
            self.make(parent, PathKind::Dir)?;
        }
        let (parent, name) = self.parent(at)?;
        match kind {
            PathKind::Dir => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
            PathKind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
            }
        }
        .map_err(fail)
    }

    /// The tmpfs on top of the old root, made on first use.
    fn stage(&mut self) -> Result<&OwnedFd, SetupError> {
        if self.stage.is_none() {
            let fail = |e: Errno| SetupError::new("mount", "the stage", e);
            let mount = tmpfs_mount(0o755).map_err(fail)?;
            rustix::mount::move_mount(
                &mount,
                "",
                CWD,
                "/",
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            )
            .map_err(fail)?;
            let base = proc_path(&mount);
            let directory = |name: &str, mode| {
                std::fs::DirBuilder::new()
                    .mode(mode)
                    .create(base.join(name))
            };
            let filled = directory("branch", 0o700)
                .and_then(|()| directory("root", 0o700))
                .and_then(|()| directory("empty", 0o555))
                .and_then(|()| {
                    std::fs::OpenOptions::new()
                        .create_new(true)
                        .write(true)
                        .mode(0o444)
                        .open(base.join("nothing"))
                });
            filled.map_err(|e| SetupError::other("fill", "the stage", e))?;
            self.stage = Some(mount);
        }
        self.stage
            .as_ref()
            .ok_or_else(|| SetupError::new("use", "the stage", Errno::NODEV))
    }

    fn stage_place(&mut self, name: &str) -> Result<OwnedFd, SetupError> {
        open_path(self.stage()?, name, ResolveFlags::NO_SYMLINKS)
            .map_err(|e| SetupError::new("find on the stage", name, e))
    }

    fn new_name(&mut self) -> String {
        self.names += 1;
        self.names.to_string()
    }

    fn stage_path(&mut self, name: &str) -> Result<PathBuf, SetupError> {
        Ok(proc_path(self.stage()?).join(name))
    }

    /// A read-only mount of one entry of the stage.
    fn stage_tree(&mut self, name: &str) -> Result<OwnedFd, SetupError> {
        let tree = open_tree(self.stage()?, name, false)
            .map_err(|e| SetupError::new("take a cover", name, e))?;
        sys::mount_setattr(tree.as_fd(), false, INERT_RO.and(MountAttrs::NO_EXEC))
            .map_err(|e| SetupError::other("make a cover read-only", name, e))?;
        Ok(tree)
    }
}

fn fuse_mount(device: &OwnedFd, source: &str, uid: u32, gid: u32) -> Result<OwnedFd, Errno> {
    let options = [
        ("fd", device.as_raw_fd().to_string()),
        ("rootmode", "40000".to_owned()),
        ("user_id", uid.to_string()),
        ("group_id", gid.to_string()),
        ("source", source.to_owned()),
        ("subtype", MARK.to_owned()),
    ];
    let options: Vec<(&str, &str)> = options.iter().map(|(k, v)| (*k, v.as_str())).collect();
    new_mount(
        "fuse",
        &options,
        &["default_permissions", "allow_other"],
        INERT,
    )
}

/// Makes the mounts of this namespace private.
pub fn private_propagation() -> Result<(), SetupError> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).map_err(|e| SetupError::new(step::PROPAGATION, "/", e))
}

/// Mounts a new /proc that shows this pid namespace, and makes `read_only` of it so. Done by init:
/// the kernel takes the pid namespace of the process that mounts.
pub fn proc(read_only: &[&str]) -> Result<(), SetupError> {
    let attrs = INERT.and(MountAttrs::NO_EXEC);
    let at = open_path(CWD, "/proc", ResolveFlags::NO_SYMLINKS);
    let mounted = at.and_then(|at| attach(&new_mount("proc", &[], &[], attrs)?, &at));
    mounted.map_err(|e| SetupError::new(step::PROC, "/proc", e))?;
    for name in read_only {
        let path = Path::new("/proc").join(name);
        let found = match open_path(CWD, &path, ResolveFlags::NO_SYMLINKS) {
            Ok(found) => found,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(SetupError::new("find", path.display(), e)),
        };
        let fail = |e: Errno| SetupError::new("make read-only", path.display(), e);
        let tree = open_tree(&found, "", false).map_err(fail)?;
        sys::mount_setattr(tree.as_fd(), false, attrs.and(MountAttrs::READ_ONLY))
            .map_err(|e| SetupError::other("make read-only", path.display(), e))?;
        attach(&tree, &found).map_err(fail)?;
    }
    Ok(())
}

/// `at` without its leading slash, `.` for the root itself.
fn below(at: &Path) -> &Path {
    match at.strip_prefix("/") {
        Ok(rest) if !rest.as_os_str().is_empty() => rest,
        _ => Path::new("."),
    }
}

fn open_path(
    base: impl AsFd,
    path: impl rustix::path::Arg,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(
        base,
        path,
        flags,
        Mode::empty(),
        resolve | ResolveFlags::NO_MAGICLINKS,
    )
}

fn kind_of(fd: &OwnedFd) -> Result<PathKind, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => PathKind::Dir,
        _ => PathKind::File,
    })
}

/// A detached copy of the mount at `path`; of all mounts below too if `recursive`.
fn open_tree(
    base: impl AsFd,
    path: impl rustix::path::Arg,
    recursive: bool,
) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(base, path, flags)
}

fn attach(mount: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
}

fn new_mount(
    kind: &str,
    options: &[(&str, &str)],
    flags: &[&str],
    attrs: MountAttrs,
) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&context, *key, *value)?;
    }
    for key in flags {
        rustix::mount::fsconfig_set_flag(&context, *key)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    // The bits are the kernel's own, the same for fsmount(2) and mount_setattr(2).
    let attrs = MountAttrFlags::from_bits_retain(attrs.bits() as u32);
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attrs)
}

fn tmpfs_mount(mode: u32) -> Result<OwnedFd, Errno> {
    let mode = format!("{mode:o}");
    new_mount("tmpfs", &[("source", MARK), ("mode", &mode)], &[], INERT)
}

/// The id of the mount that `path` ends in.
fn mount_id(path: &str) -> Result<u64, Errno> {
    use rustix::fs::{AtFlags, StatxFlags};
    Ok(rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?.stx_mnt_id)
}

fn proc_path(fd: &OwnedFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

/// A small tree of configuration on its way into a stage. Links are followed, what cannot be read
/// becomes an empty, unreadable file, and so does what is hidden: it keeps its place, and a link to
/// it leads nowhere. Writes only what the caller can read anyway.
struct OwnedCopy<'a> {
    hidden: &'a [PathBuf],
    entries: usize,
    bytes: u64,
}

impl OwnedCopy<'_> {
    fn take(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let too_big = || io::Error::other("too big for a copy, list something smaller under `own`");
        self.entries = self.entries.checked_sub(1).ok_or_else(too_big)?;
        // Held from the judgement to the reading, so that both are of the same object.
        let look = OFlags::PATH | OFlags::CLOEXEC;
        let Ok(found) = rustix::fs::open(from, look, Mode::empty()) else {
            // A dangling link, or something private of root.
            return Ok(());
        };
        let through = proc_path(&found);
        let meta = std::fs::metadata(&through)?;
        let real = std::fs::read_link(&through)?;
        if self.hidden.iter().any(|path| real.starts_with(path)) {
            return match std::fs::symlink_metadata(from)? {
                entry if entry.is_dir() => std::fs::DirBuilder::new().mode(0o500).create(to),
                entry if entry.is_symlink() => Ok(()),
                _ => empty(to)?.set_permissions(std::fs::Permissions::from_mode(0o000)),
            };
        }
        let mode = meta.permissions().mode() & 0o777 & !0o022;
        if meta.is_dir() {
            std::fs::create_dir(to)?;
            let Ok(entries) = std::fs::read_dir(&through) else {
                return Ok(());
            };
            for entry in entries {
                let name = entry?.file_name();
                self.take(&through.join(&name), &to.join(&name))?;
            }
            return std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode | 0o500));
        }
        let mut file = empty(to)?;
        let source = if meta.is_file() {
            std::fs::File::open(&through).ok()
        } else {
            None
        };
        let Some(mut source) = source else {
            return file.set_permissions(std::fs::Permissions::from_mode(0o000));
        };
        self.bytes = self.bytes.checked_sub(meta.len()).ok_or_else(too_big)?;
        io::copy(&mut source, &mut file)?;
        filetimes(&file, &source)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    }
}

fn empty(path: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
}

fn filetimes(to: &std::fs::File, from: &std::fs::File) -> io::Result<()> {
    let meta = from.metadata()?;
    let times = std::fs::FileTimes::new().set_accessed(meta.accessed()?);
    to.set_times(times.set_modified(meta.modified()?))
}
