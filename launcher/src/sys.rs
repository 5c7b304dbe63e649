//! The launcher's unsafe fence: the few system calls that neither nix nor rustix offers safely.
//!
//! Every function takes and gives borrowed or owned descriptors; a raw one never leaves this file.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

/// Mount attributes, as mount_setattr(2) and fsmount(2) take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountAttrs(u64);

impl MountAttrs {
    /// No writes through this mount.
    pub const READ_ONLY: Self = Self(0x1);
    /// No effect of set-user-id bits and file capabilities.
    pub const NO_SUID: Self = Self(0x2);
    /// No access to devices.
    pub const NO_DEV: Self = Self(0x4);
    /// No execution.
    pub const NO_EXEC: Self = Self(0x8);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits, for fsmount(2).
    pub const fn bits(self) -> u64 {
        self.0
    }
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets attributes on the mount that `mount` is the root of, and on all below it if `recursive`.
/// Needs Linux 5.12.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attrs: MountAttrs) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = Attr {
        set: attrs.0,
        clear: 0,
        propagation: 0,
        userns_fd: 0,
    };
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, `attr` lives through the call and its size is
    // given; the kernel reads both and keeps neither. `mount` is open, as its type promises.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<Attr>(),
        )
    })
}

/// Closes every descriptor from 3 up except `keep`.
///
/// The caller must never again use, or drop, an owner of a closed one: children of a clone call this
/// first and leave by exec or exit.
pub fn close_all_but(keep: BorrowedFd<'_>) -> io::Result<()> {
    // The type promises a valid, so not negative, number.
    let keep = keep.as_raw_fd() as u32;
    if keep > 3 {
        close_range(3, keep - 1, 0)?;
    }
    close_range(keep.max(2) + 1, u32::MAX, 0)
}

/// Marks every descriptor from 3 up close-on-exec.
pub fn cloexec_all() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    close_range(3, u32::MAX, CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes three numbers and no memory. That no owner of a closed descriptor is used again
    // is the promise of the public callers above.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })
}

/// Gives `signal` its default disposition.
pub fn default_disposition(signal: Signal) -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_DFL installs no handler, so no code of ours runs at signal time.
    unsafe { nix::sys::signal::sigaction(signal, &action) }?;
    Ok(())
}
