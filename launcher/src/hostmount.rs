//! Mounting a branch at a path of the host: options, `mount(2)` as root, `fusermount3` otherwise.
//!
//! Knows nothing of branches. The options are those of `mount -o`, told apart from what names the
//! branch (`base=`, `store=`), which `cmd::mount` takes out.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::CmdError;
use crate::mounttable::{self, Mount};
use crate::probe;

const FUSERMOUNT: &str = "fusermount3";
/// The type shown in `/proc/mounts`: `mount -t` takes it too, through the mount helper.
pub const FS_TYPE: &str = "fuse.agentfs";

/// What `-o` asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Others than the mounting user may use it.
    pub allow_other: bool,
    /// The kernel checks permissions. Without it anybody who may use the mount may do anything.
    pub default_permissions: bool,
    /// suid bits and file capabilities take effect. Root only.
    pub suid: bool,
    /// Device nodes work. Root only.
    pub dev: bool,
    /// Programs can be executed.
    pub exec: bool,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Change the options of what is mounted there.
    pub remount: bool,
    /// What `/proc/mounts` shows as source.
    pub source: Option<OsString>,
    /// The directory to show.
    pub base: Option<PathBuf>,
    /// The store that holds the branch.
    pub store: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allow_other: false,
            default_permissions: true,
            suid: false,
            dev: false,
            exec: true,
            read_only: false,
            remount: false,
            source: None,
            base: None,
            store: None,
        }
    }
}

impl Options {
    /// Reads option lists as `-o` gives them, comma separated; later ones win.
    ///
    /// Errors: a refusal that names the first option that is not known.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a OsStr>) -> Result<Self, CmdError> {
        let mut options = Self::default();
        for word in lists
            .into_iter()
            .flat_map(|l| l.as_bytes().split(|b| *b == b','))
            .filter(|w| !w.is_empty())
        {
            options.take(word)?;
        }
        Ok(options)
    }

    fn take(&mut self, word: &[u8]) -> Result<(), CmdError> {
        let at = word.iter().position(|b| *b == b'=').unwrap_or(word.len());
        let (key, value) = word.split_at(at);
        // Names of options are plain words; values are bytes.
        let key = std::str::from_utf8(key).map_err(|_| unknown(word))?;
        let value = value.get(1..).map(OsStr::from_bytes);
        match (key, value) {
            ("fsname" | "source", Some(value)) => self.source = Some(value.into()),
            ("base", Some(value)) => self.base = Some(value.into()),
            ("store", Some(value)) => self.store = Some(value.into()),
            // What mount(8) passes through for its own use.
            ("subtype", Some(_)) => {}
            (key, Some(_)) if key.starts_with("x-") || key == "comment" => {}
            (_, Some(_)) => return Err(unknown(word)),
            (key, None) => match key {
                "allow_other" => self.allow_other = true,
                "default_permissions" => self.default_permissions = true,
                "no_default_permissions" => self.default_permissions = false,
                "suid" => self.suid = true,
                "nosuid" => self.suid = false,
                "dev" => self.dev = true,
                "nodev" => self.dev = false,
                "exec" => self.exec = true,
                "noexec" => self.exec = false,
                "ro" => self.read_only = true,
                "rw" => self.read_only = false,
                "remount" => self.remount = true,
                "defaults" => {}
                // Stamps of reads are not kept on a branch, whatever is asked.
                "atime" | "noatime" | "relatime" | "norelatime" | "strictatime" | "diratime"
                | "nodiratime" => {}
                // Words of fstab that concern mount(8) alone.
                "auto" | "noauto" | "user" | "nouser" | "users" | "nofail" | "_netdev" => {}
                key if key.starts_with("x-") => {}
                _ => return Err(unknown(word)),
            },
        }
        Ok(())
    }

    fn flags(&self) -> MsFlags {
        let mut flags = MsFlags::empty();
        for (unset, flag) in [
            (self.suid, MsFlags::MS_NOSUID),
            (self.dev, MsFlags::MS_NODEV),
            (self.exec, MsFlags::MS_NOEXEC),
            (!self.read_only, MsFlags::MS_RDONLY),
        ] {
            if !unset {
                flags |= flag;
            }
        }
        flags
    }
}

fn unknown(word: &[u8]) -> CmdError {
    CmdError::refused(
        format!("mount option '{}'", word.escape_ascii()),
        "is not known",
        "known are: allow_other, [no_]default_permissions, suid, nosuid, dev, nodev, exec, noexec, \
         ro, rw, remount, fsname=, base=, store=",
    )
}

/// Mounts a new FUSE file system at `target` and gives its device, not served yet.
pub fn mount_at(target: &Path, source: &OsStr, options: &Options) -> Result<OwnedFd, CmdError> {
    if rustix::process::geteuid().is_root() {
        mount_as_root(target, source, options)
    } else {
        mount_by_helper(target, source, options)
    }
}

fn data(options: &Options) -> String {
    let mut data = String::new();
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    if options.allow_other {
        data.push_str(",allow_other");
    }
    data
}

fn mount_as_root(target: &Path, source: &OsStr, options: &Options) -> Result<OwnedFd, CmdError> {
    let device = probe::fuse_device()?;
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}{}",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
        data(options)
    );
    mount(
        Some(source),
        target,
        Some(FS_TYPE),
        options.flags(),
        Some(data.as_str()),
    )
    .map_err(|e| CmdError::io("mount FUSE at", target, e))?;
    Ok(device)
}

/// Has the set-uid helper of the fuse3 package mount it: it passes the device back over a socket.
fn mount_by_helper(target: &Path, source: &OsStr, options: &Options) -> Result<OwnedFd, CmdError> {
    if options.suid || options.dev {
        return Err(CmdError::refused(
            "mount options suid and dev",
            "are for root",
            "leave them out, or mount as root",
        ));
    }
    let fail = |e: io::Error| CmdError::io("run", FUSERMOUNT, e);
    let (ours, theirs) = UnixStream::pair().map_err(fail)?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).map_err(|e| fail(e.into()))?;
    let read_only = if options.read_only { ",ro" } else { "" };
    let exec = if options.exec { "" } else { ",noexec" };
    let mut list = OsString::from(format!("nosuid,nodev{exec}{read_only},fsname="));
    for byte in source.as_bytes() {
        if matches!(byte, b'\\' | b',') {
            list.push("\\");
        }
        list.push(OsStr::from_bytes(&[*byte]));
    }
    list.push(format!(",subtype=agentfs{}", data(options)));
    let child = Command::new(FUSERMOUNT)
        .arg("-o")
        .args([&list, OsStr::new("--")])
        .arg(target)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| no_helper(target, e))?;
    drop(theirs);
    let device = receive_device(&ours);
    let output = child.wait_with_output().map_err(fail)?;
    match device {
        Some(device) if output.status.success() => Ok(device),
        _ => Err(CmdError::refused(
            format!("mount FUSE at {}", target.display()),
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            "you must own the directory; allow_other needs user_allow_other in /etc/fuse.conf",
        )),
    }
}

fn no_helper(target: &Path, e: io::Error) -> CmdError {
    CmdError::refused(
        format!("mount FUSE at {}", target.display()),
        format!("{FUSERMOUNT}: {e}"),
        "install the fuse3 package, or mount as root; `agentfs run` needs neither",
    )
}

fn receive_device(socket: &UnixStream) -> Option<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// Changes what is mounted at `target` between read-only and writable, and its other flags.
pub fn remount(target: &Path, options: &Options) -> Result<(), CmdError> {
    let flags = options.flags() | MsFlags::MS_REMOUNT;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(|e| CmdError::io("remount", target, e))
}

/// Unmounts `target`; `lazy` also while it is in use.
pub fn unmount(target: &Path, lazy: bool) -> Result<(), CmdError> {
    if rustix::process::geteuid().is_root() {
        let flags = if lazy {
            MntFlags::MNT_DETACH
        } else {
            MntFlags::empty()
        };
        return umount2(target, flags | MntFlags::UMOUNT_NOFOLLOW).map_err(|e| {
            let fix = match e {
                Errno::EBUSY => in_use(target),
                _ => String::new(),
            };
            CmdError::refused(format!("unmount {}", target.display()), e.desc(), fix)
        });
    }
    let mut command = Command::new(FUSERMOUNT);
    command
        .arg("-u")
        .args(lazy.then_some("-z"))
        .arg("--")
        .arg(target);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| no_helper(target, e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let fix = match lazy {
        true => "only root and who mounted it can unmount it".to_owned(),
        // The helper tells its errno in words alone.
        false => format!("if it is in use: {}", in_use(target)),
    };
    Err(CmdError::refused(
        format!("unmount {}", target.display()),
        said,
        fix,
    ))
}

fn in_use(target: &Path) -> String {
    let target = target.display();
    format!(
        "end what uses it (`fuser -vm {target}` shows that), or `agentfs umount --lazy {target}`, \
         and it goes with its last user"
    )
}

/// The file system of ours that is mounted at `target`, a real path, if that is what one sees there.
pub fn ours_at(target: &Path) -> Result<Option<Mount>, CmdError> {
    Ok(mounttable::top_at(target)?.filter(|mount| mount.fs_type == FS_TYPE))
}

/// Whether what is mounted at `target` has lost its daemon. Asks what no cache can answer: a stat(2)
/// of a dead mount that somebody has looked at before goes well.
pub fn is_dead(target: &Path) -> bool {
    matches!(
        rustix::fs::statfs(target),
        Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lists: &[&[u8]]) -> Result<Options, CmdError> {
        Options::parse(lists.iter().map(|list| OsStr::from_bytes(list)))
    }

    #[test]
    fn later_options_win_and_unknown_ones_are_named() {
        let options = parse(&[b"ro,suid", b"rw,fsname=x=y,allow_other"]).unwrap();
        assert!(options.suid && !options.read_only && options.allow_other && !options.dev);
        assert_eq!(options.source.as_deref(), Some("x=y".as_ref()));
        for unknown in [&b"ro,sudi"[..], b"sudi=x", b"sudi="] {
            let refused = parse(&[unknown]).unwrap_err().to_string();
            assert!(
                refused.contains("'sudi") && refused.contains("nosuid"),
                "{refused}"
            );
        }
    }

    #[test]
    fn values_may_be_any_bytes() {
        let options = parse(&[b"base=/x/\xff,fsname=\xfe"]).unwrap();
        assert_eq!(options.base, Some(OsStr::from_bytes(b"/x/\xff").into()));
        assert_eq!(options.source.as_deref(), Some(OsStr::from_bytes(b"\xfe")));
        let refused = parse(&[b"\xff=x"]).unwrap_err().to_string();
        assert!(refused.contains("'\\xff=x'"), "{refused}");
    }
}
