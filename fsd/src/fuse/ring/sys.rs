//! The unsafe fence of the ring: one io_uring, the memory that the kernel puts requests in, and
//! the two commands about them. Source: linux/fuse.h, fuse_uring_req_header and fuse_uring_cmd_req.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};
use nix::libc;

use crate::sync::Arc;

/// `struct fuse_uring_req_header`: a header in or out, what is the operation's own, and what is the
/// ring's.
pub(in crate::fuse) const HEADER_BYTES: usize = 288;
/// `struct fuse_uring_ent_in_out`, within that.
const COMMIT_ID_AT: usize = 264;

const CMD_REGISTER: u32 = 1;
const CMD_COMMIT_AND_FETCH: u32 = 2;

/// What belongs to the event descriptor, not to a slot.
const WAKE: u64 = u64::MAX;

/// What came out of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A request lies in the slot's memory.
    Request(usize),
    /// The kernel has let go of the slot, with this errno.
    Closed(usize, i32),
    /// The event descriptor was written to.
    Woken,
}

/// The kernel did not take a slot, for this errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) i32);

/// One io_uring with its slots. Each slot belongs to one of the kernel's queues, and holds one request
/// at a time, from when the ring gives it out until it is committed.
pub(super) struct SlotRing {
    ring: IoUring<Entry128, cqueue::Entry>,
    /// The queue of each slot.
    queues: Vec<u16>,
    memory: Memory,
    device: Option<Arc<OwnedFd>>,
    wake: Arc<OwnedFd>,
}

impl std::fmt::Debug for SlotRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotRing")
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl SlotRing {
    /// Prepares all that can fail before the kernel has agreed to anything. The thread that then calls
    /// [`start`](Self::start) is the one to use it.
    pub(super) fn new(
        queues: Vec<u16>,
        payload_bytes: usize,
        wake: Arc<OwnedFd>,
    ) -> io::Result<Self> {
        let entries = queues.len() + 1;
        let ring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            // A request is copied to its slot only while this thread waits for one.
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(entries as u32)?;
        let memory = Memory::new(queues.len(), payload_bytes)?;
        Ok(Self {
            ring,
            queues,
            memory,
            device: None,
            wake,
        })
    }

    /// Offers all slots to the kernel. Requests may come from here on, once every queue has a slot.
    ///
    /// Errors: io_uring itself fails. Inside: the kernel refuses a slot, and does without the ring.
    pub(super) fn start(&mut self, device: Arc<OwnedFd>) -> io::Result<Result<(), Refused>> {
        self.ring.submitter().register_enable_rings()?;
        self.device = Some(device);
        let slots = 0..self.queues.len();
        let parts: Vec<_> = slots.clone().map(|slot| self.memory.parts(slot)).collect();
        for slot in slots {
            let entry = self.command(slot, CMD_REGISTER, 0, Some(&parts[slot]));
            self.push(entry);
        }
        // The kernel reads the addresses in `parts` as it takes the commands.
        self.ring.submit()?;
        drop(parts);
        // At once it answers only what it refuses: a request would need this thread to wait for it.
        if let Some(Event::Closed(_, errno)) = self.next() {
            return Ok(Err(Refused(errno)));
        }
        self.listen();
        Ok(Ok(()))
    }

    fn command(
        &self,
        slot: usize,
        command: u32,
        commit_id: u64,
        parts: Option<&[libc::iovec; 2]>,
    ) -> Entry128 {
        let mut area = [0; 80];
        area[8..16].copy_from_slice(&commit_id.to_ne_bytes());
        area[16..18].copy_from_slice(&self.queues[slot].to_ne_bytes());
        let device = self.device.as_ref().map_or(-1, |d| d.as_raw_fd());
        let mut entry = opcode::UringCmd80::new(types::Fd(device), command)
            .cmd(area)
            .addr(parts.map(|parts| parts.as_ptr().addr() as u64))
            .build();
        if parts.is_some() {
            const LEN_AT: usize = 24;
            // SAFETY: the entry is a `struct io_uring_sqe` of 128 bytes (repr(C)), in which `len`
            // is a u32 at byte 24; the crate has no setter for it.
            unsafe {
                (&raw mut entry)
                    .cast::<u8>()
                    .add(LEN_AT)
                    .cast::<u32>()
                    .write(2);
            }
        }
        entry.user_data(slot as u64)
    }

    fn push(&mut self, entry: Entry128) {
        // SAFETY: the commands of slots point to memory of this ring, or to what the caller keeps
        // until it has submitted; a poll points to none.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // There is an entry for each slot and one for the event descriptor, and none has two.
        debug_assert!(pushed.is_ok());
    }

    fn listen(&mut self) {
        let wake = types::Fd(self.wake.as_raw_fd());
        let poll = opcode::PollAdd::new(wake, libc::POLLIN as u32).build();
        self.push(Entry128::from(poll.user_data(WAKE)));
    }

    /// Sends what was committed, without waiting for anything.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.ring.submit().map(drop)
    }

    /// Sends what was committed and waits for an event. `false`: none came in that time.
    pub(super) fn wait(&mut self, most: Option<Duration>) -> io::Result<bool> {
        let waited = match most {
            None => self.ring.submit_and_wait(1),
            Some(most) => {
                let time = types::Timespec::from(most);
                let args = types::SubmitArgs::new().timespec(&time);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        match waited {
            Ok(_) => Ok(true),
            Err(e) => match e.raw_os_error() {
                Some(libc::ETIME) => Ok(false),
                // Nothing is lost: what was not taken stays where it is.
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(true),
                _ => Err(e),
            },
        }
    }

    /// The next event that is there.
    pub(super) fn next(&mut self) -> Option<Event> {
        let done = self.ring.completion().next()?;
        Some(match (done.user_data(), done.result()) {
            (WAKE, _) => {
                let mut count = [0; 8];
                // Nonblocking: whoever wrote first may have been heard already.
                let _ = rustix::io::read(&*self.wake, &mut count);
                self.listen();
                Event::Woken
            }
            (slot, result) if result < 0 => Event::Closed(slot as usize, -result),
            (slot, _) => Event::Request(slot as usize),
        })
    }

    /// Whether more has come than was taken.
    pub(super) fn has_next(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// The memory of a slot: the header, and the payload.
    pub(super) fn message(&mut self, slot: usize) -> (&mut [u8; HEADER_BYTES], &mut [u8]) {
        self.memory.message(slot)
    }

    /// Gives the answer that lies in the slot's memory to the kernel, and the slot to fill again.
    pub(super) fn commit(&mut self, slot: usize) {
        let (header, _) = self.memory.message(slot);
        let mut id = [0; 8];
        id.copy_from_slice(&header[COMMIT_ID_AT..COMMIT_ID_AT + 8]);
        let entry = self.command(slot, CMD_COMMIT_AND_FETCH, u64::from_ne_bytes(id), None);
        self.push(entry);
    }

    /// Gives the pages of all payloads back. No answer may lie there uncommitted.
    pub(super) fn trim(&mut self) {
        self.memory.trim();
    }
}

/// The slots' headers, and their payloads, which take no room before they are used.
struct Memory {
    headers: NonNull<u8>,
    payloads: NonNull<u8>,
    slots: usize,
    payload_bytes: usize,
}

// SAFETY: plain memory, which nothing but this value points to, apart from the kernel.
unsafe impl Send for Memory {}

impl Memory {
    fn new(slots: usize, payload_bytes: usize) -> io::Result<Self> {
        let headers = map(slots * HEADER_BYTES)?;
        let payloads = map(slots * payload_bytes)?;
        Ok(Self {
            headers,
            payloads,
            slots,
            payload_bytes,
        })
    }

    fn at(&self, slot: usize) -> (*mut u8, *mut u8) {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        // SAFETY: within the two mappings, as `slot` is.
        unsafe {
            (
                self.headers.as_ptr().add(slot * HEADER_BYTES),
                self.payloads.as_ptr().add(slot * self.payload_bytes),
            )
        }
    }

    fn parts(&self, slot: usize) -> [libc::iovec; 2] {
        let (header, payload) = self.at(slot);
        [
            libc::iovec {
                iov_base: header.cast(),
                iov_len: HEADER_BYTES,
            },
            libc::iovec {
                iov_base: payload.cast(),
                iov_len: self.payload_bytes,
            },
        ]
    }

    fn message(&mut self, slot: usize) -> (&mut [u8; HEADER_BYTES], &mut [u8]) {
        let (header, payload) = self.at(slot);
        // SAFETY: mapped, initialised (with zeros) and borrowed with `self`. The kernel writes to a
        // slot only while the ring's own thread is in io_uring_enter (DEFER_TASKRUN), for which it
        // needs `&mut SlotRing`: not while this borrow lives.
        unsafe {
            (
                &mut *header.cast::<[u8; HEADER_BYTES]>(),
                std::slice::from_raw_parts_mut(payload, self.payload_bytes),
            )
        }
    }

    fn trim(&mut self) {
        let bytes = self.slots * self.payload_bytes;
        // SAFETY: the whole of a private anonymous mapping, which nobody borrows: zeros take the
        // place of what was there.
        let _ = unsafe { libc::madvise(self.payloads.as_ptr().cast(), bytes, libc::MADV_DONTNEED) };
    }
}

// Never unmapped: a ring that is closed is torn down some time later, and lives as long as the mount.

fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes.max(1), access, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(io::Error::last_os_error)
}
