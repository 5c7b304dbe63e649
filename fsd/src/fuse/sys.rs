//! The unsafe fence of the FUSE side: what neither fuser nor another crate offers safely.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

nix::ioctl_write_ptr!(fuse_dev_ioc_backing_close, 229, 2, u32);

/// Takes back a file that was given to the kernel. Source: linux/fuse.h, FUSE_DEV_IOC_BACKING_CLOSE.
pub(super) fn close_backing(device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call, and the kernel only reads the number.
    unsafe { fuse_dev_ioc_backing_close(device.as_raw_fd(), &id) }?;
    Ok(())
}
