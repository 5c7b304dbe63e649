//! The unsafe fence of this crate: the few calls that no safe wrapper offers.
//!
//! Every function takes and gives owned or borrowed descriptors, or says why it takes a number.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Takes over descriptor `number`, which the parent process left open for this program, and
/// marks it close-on-exec. Call once per number, before anything else opens descriptors.
///
/// Errors: EBADF when it is not open; EINVAL for the three standard streams.
pub fn take_inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: F_SETFD on any number only changes the flags of the descriptor, and fails with
    // EBADF when there is none.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open (just checked) and this program did not open it: it is above
    // the standard streams, and the caller promises that nothing was opened and no number taken
    // twice. So nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor above the standard streams but `keep`. Call before anything else
/// opens descriptors: it takes away whatever the parent left open.
pub fn close_foreign_fds(keep: &OwnedFd) -> io::Result<()> {
    let kept = keep.as_raw_fd() as libc::c_uint;
    if kept > 3 {
        close_range(3, kept - 1)?;
    }
    close_range(kept + 1, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: the range holds only descriptors inherited from the parent, which no value in this
    // process owns: `close_foreign_fds` leaves out the one taken over and runs before any other
    // descriptor is opened.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } as libc::c_int)
}

/// Ignores `signals` from now on.
pub fn ignore_signals(signals: &[Signal]) -> io::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in signals {
        // SAFETY: SIG_IGN runs no code of ours, so no handler can break async-signal safety.
        unsafe { sigaction(*signal, &ignore) }?;
    }
    Ok(())
}

/// Goes with the SIGCONT to those who were stopped for a snapshot: whoever passes signals on keeps
/// that one to itself. Any number that no program is likely to choose.
pub const RESUMED: i32 = 0x6167_6673;

/// Sends `signal` with a value, as sigqueue(3).
pub fn queue_signal(pid: nix::unistd::Pid, signal: Signal, value: i32) -> io::Result<()> {
    let value = libc::sigval {
        sival_ptr: value as usize as *mut libc::c_void,
    };
    // SAFETY: plain numbers; the kernel passes the pointer on as the number that it is.
    check(unsafe { libc::sigqueue(pid.as_raw(), signal as libc::c_int, value) })
}

/// `struct fiemap_extent` of linux/fiemap.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// Extents asked for at a time.
const FIEMAP_EXTENTS: usize = 64;

/// `struct fiemap` of linux/fiemap.h, with room for some extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [FiemapExtent; FIEMAP_EXTENTS],
}

/// `FS_IOC_FIEMAP`, `_IOWR('f', 11, struct fiemap)` without its extents.
const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;
const FIEMAP_EXTENT_LAST: u32 = 1;
const FIEMAP_EXTENT_SHARED: u32 = 0x2000;

/// Bytes of a file whose blocks other files have too. Errors: EOPNOTSUPP where the file system
/// does not tell.
pub fn shared_bytes(file: &OwnedFd) -> io::Result<u64> {
    let (mut start, mut shared) = (0u64, 0u64);
    loop {
        let mut map = Fiemap {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped: 0,
            count: FIEMAP_EXTENTS as u32,
            reserved: 0,
            extents: [FiemapExtent::default(); FIEMAP_EXTENTS],
        };
        // SAFETY: the kernel writes at most `count` extents behind the head, which `map` has room
        // for; it lives, and nobody else sees it, until the call returns.
        check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut map) })?;
        let got = (map.mapped as usize).min(FIEMAP_EXTENTS);
        for extent in &map.extents[..got] {
            if extent.flags & FIEMAP_EXTENT_SHARED != 0 {
                shared = shared.saturating_add(extent.length);
            }
        }
        match map.extents[..got].last() {
            Some(last) if last.flags & FIEMAP_EXTENT_LAST == 0 && last.length > 0 => {
                start = last.logical.saturating_add(last.length);
            }
            _ => return Ok(shared),
        }
    }
}

/// Whether anybody has the file behind `fd` open for writing, a shared mapping counted. `fd` itself
/// must be open for reading only.
///
/// Asks for a read lease, which the kernel refuses then. Somebody who opens the file for writing in
/// that very moment waits for its end, and sends SIGIO to this process: it must be ignored.
/// Errors: EINVAL where the file system has no leases.
pub fn is_open_for_writing(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let lease = |kind: libc::c_int| {
        // SAFETY: an open descriptor and plain numbers; a lease touches no memory of ours.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind) })
    };
    match lease(libc::F_RDLCK) {
        Ok(()) => lease(libc::F_UNLCK).map(|()| false),
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(e) => Err(e),
    }
}

/// Gives memory that was freed back to the system. The allocator keeps it as long as anything behind it
/// is in use, be it little. Whoever allocates meanwhile waits. Source: malloc_trim(3).
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it changes nothing that is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
