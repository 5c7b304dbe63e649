//! Room for the bytes of files, on a branch with a limit of bytes.
//!
//! Everything that makes an object grow goes by here; a branch without such a limit has no account,
//! and goes past. Room is reserved before bytes are written and settled afterwards. Where there is
//! too little for all of a range it is filled in pieces: what has its blocks already is written,
//! whatever the limit, and holes are filled as far as there is room.

use rustix::fs::FallocateFlags;

use crate::backstore::{Account, BLOCK_BYTES, ObjectFile, Reservation, SeekFor, StoreError};
use crate::core::FsCore;
use crate::core::types::FsStat;
use crate::sync::Arc;

/// What a lack of room is called.
const BYTES: &str = "bytes";

/// The room for a copy.
#[derive(Debug)]
pub enum Room {
    /// Nothing limits it.
    Unlimited,
    /// Reserved.
    Reserved(Reservation),
    /// There is none.
    None,
}

impl Room {
    /// Whether the copy may be made.
    pub fn is_there(&self) -> bool {
        !matches!(self, Room::None)
    }

    /// The copy is in `object`.
    pub fn settle(self, object: &dyn ObjectFile) -> Result<(), StoreError> {
        match self {
            Room::Reserved(reservation) => reservation.settle(object),
            Room::Unlimited | Room::None => Ok(()),
        }
    }
}

impl FsCore {
    /// The account, where bytes are limited.
    pub(in crate::core) fn byte_account(&self) -> Option<&Arc<Account>> {
        self.account
            .as_ref()
            .filter(|account| account.counts_bytes())
    }

    /// Room for an object of `len` bytes.
    pub(in crate::core) fn room_for(&self, len: u64) -> Room {
        match self.byte_account() {
            None => Room::Unlimited,
            Some(account) => match account.try_reserve(span(0, len)) {
                Some(reservation) => Room::Reserved(reservation),
                None => Room::None,
            },
        }
    }

    /// Takes note of what an object takes up now.
    pub(in crate::core) fn charge(&self, object: &dyn ObjectFile) -> Result<(), StoreError> {
        match self.byte_account() {
            Some(account) => account.charge(object),
            None => Ok(()),
        }
    }
}

/// The blocks that `start..end` touches, in bytes.
pub fn span(start: u64, end: u64) -> u64 {
    ceil(end).saturating_sub(floor(start))
}

fn floor(at: u64) -> u64 {
    at / BLOCK_BYTES * BLOCK_BYTES
}

fn ceil(at: u64) -> u64 {
    at.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX)
}

/// Fills `start..end` of an object by `put`, as far as there is room, and says up to where.
///
/// `put` may do less than asked for; `extends`: it makes the object as long as what it does. Nobody
/// else may change the object meanwhile. Errors: those of `put`; none for a lack of room.
pub fn fill(
    account: &Arc<Account>,
    object: &dyn ObjectFile,
    (start, end): (u64, u64),
    extends: bool,
    mut put: impl FnMut(u64, u64) -> Result<u64, StoreError>,
) -> Result<u64, StoreError> {
    let mut at = start;
    while at < end {
        let (is_data, mut stop) = piece(object, at, end)?;
        let done = if is_data {
            let done = put(at, stop)?;
            account.charge(object)?;
            done
        } else {
            let room = account.reserve_up_to(span(at, stop));
            if room.bytes() > 0 {
                stop = stop.min(floor(at).saturating_add(room.bytes()));
                let done = put(at, stop)?;
                room.settle(object)?;
                done
            } else {
                stop = stop.min(floor(at) + BLOCK_BYTES);
                // Blocks past the end could not be taken out again one by one.
                if !extends && floor(at) >= object.len()? {
                    break;
                }
                if !try_block(account, object, (at, stop), &mut put)? {
                    break;
                }
                stop - at
            }
        };
        if done == 0 {
            break;
        }
        at += done;
    }
    Ok(at)
}

/// What lies at `at`, and up to where.
fn piece(object: &dyn ObjectFile, at: u64, end: u64) -> Result<(bool, u64), StoreError> {
    Ok(match object.seek(SeekFor::Data, at)? {
        Some(data) if data <= at => {
            let hole = object.seek(SeekFor::Hole, at)?.unwrap_or(end);
            (true, hole.clamp(at + 1, end))
        }
        Some(data) => (false, data.min(end)),
        None => (false, end),
    })
}

/// Fills a part of one block that reads as zeros, with no room left: it may have been allocated
/// (fallocate, the rest of the last block). Whether it had; if not, all is as before.
fn try_block(
    account: &Account,
    object: &dyn ObjectFile,
    (at, stop): (u64, u64),
    put: &mut impl FnMut(u64, u64) -> Result<u64, StoreError>,
) -> Result<bool, StoreError> {
    account.charge(object)?;
    let len = object.len()?;
    let block = (floor(at), floor(at) + BLOCK_BYTES);
    let is_empty = object
        .seek(SeekFor::Data, block.0)?
        .is_none_or(|data| data >= block.1);
    let done = put(at, stop)?;
    if account.try_charge(object)? {
        return Ok(done == stop - at);
    }
    // All of the block reads as zeros, or what was put does: nothing else is lost.
    let (from, to) = if is_empty { block } else { (at, stop) };
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    object.allocate(punch.bits() as i32, from, to - from)?;
    if object.len()? > len {
        object.set_len(len)?;
    }
    account.charge(object)?;
    Ok(false)
}

/// Allocates `start..end` of an object by fallocate(2) with `mode`: all of it, or none where it can
/// be told beforehand that there is no room.
///
/// Nobody else may change the object meanwhile. Errors: `LimitReached`, and those of the host.
pub fn allocate(
    account: &Arc<Account>,
    object: &dyn ObjectFile,
    mode: FallocateFlags,
    start: u64,
    end: u64,
) -> Result<(), StoreError> {
    let put = |from: u64, to: u64| {
        object.allocate(mode.bits() as i32, from, to - from)?;
        Ok(to - from)
    };
    let (mut holes, mut data) = (0u64, 0u64);
    let mut at = start;
    while at < end {
        let (is_data, stop) = piece(object, at, end)?;
        let bytes = span(at, stop);
        *(if is_data { &mut data } else { &mut holes }) += bytes;
        at = stop;
    }
    if let Some(room) = account.try_reserve(holes) {
        put(start, end)?;
        return room.settle(object);
    }
    // What was allocated before and never written looks like a hole.
    let allocated = account.charged(object.id()).saturating_sub(data);
    let least = holes.saturating_sub(allocated);
    if account.try_reserve(least).is_none() {
        return Err(account.refuse(BYTES));
    }
    let extends = !mode.contains(FallocateFlags::KEEP_SIZE);
    match fill(account, object, (start, end), extends, put)? {
        done if done >= end => Ok(()),
        _ => Err(account.refuse(BYTES)),
    }
}

/// Writes as much of `data` at `offset` as there is room for. `whole`: or fails, having written what
/// it could; a page of the kernel's cache is not asked about again.
///
/// Nobody else may change the object meanwhile. Errors: `LimitReached` if that is nothing.
pub fn write(
    account: &Arc<Account>,
    object: &dyn ObjectFile,
    data: &[u8],
    offset: u64,
    whole: bool,
) -> Result<usize, StoreError> {
    let end = offset + data.len() as u64;
    let put = |from: u64, to: u64| {
        let part = &data[(from - offset) as usize..(to - offset) as usize];
        Ok(object.write_at(part, from)? as u64)
    };
    let done = fill(account, object, (offset, end), true, put)? - offset;
    if done < data.len() as u64 && (whole || done == 0) {
        return Err(account.refuse(BYTES));
    }
    Ok(done as usize)
}

/// Shows a limit as the file system's size, as the quota of a project on ext4 or xfs does.
pub fn limit_stat(account: &Account, stat: &mut FsStat) {
    let (limit, usage) = (account.limit(), account.usage());
    if let Some(bytes) = limit.bytes {
        let blocks = |bytes: u64| bytes / u64::from(stat.block_bytes.max(1));
        let free = blocks(bytes.saturating_sub(usage.bytes));
        stat.blocks = stat.blocks.min(blocks(bytes));
        // Both: nobody on the branch may use what is reserved for the host's root.
        stat.blocks_available = stat.blocks_available.min(free);
        stat.blocks_free = stat.blocks_available;
    }
    if let Some(inodes) = limit.inodes {
        let host = (stat.files, stat.files_free);
        stat.files = inodes;
        stat.files_free = inodes.saturating_sub(usage.inodes);
        // A file system without a table of inodes (btrfs) says 0 of both.
        if host.0 > 0 {
            stat.files = stat.files.min(host.0);
            stat.files_free = stat.files_free.min(host.1);
        }
    }
}
