//! Requests that nobody waits for, to be served when none is there that somebody waits for.

use std::collections::VecDeque;

use crate::fuse::device::message;
use crate::sync::{Mutex, lock};

/// More of them are not worth their memory.
const MOST: usize = 16;

/// Of all threads of a mount together: whoever gets the turn serves what the one before has left.
#[derive(Debug)]
pub(super) struct Later {
    most: usize,
    kept: Mutex<VecDeque<Box<[u8]>>>,
}

impl Later {
    /// `max_background`: so many of them the kernel has under way at most, and holds readahead back when
    /// they are too many.
    pub(super) fn new(max_background: u16) -> Self {
        Self {
            most: MOST.min(usize::from(max_background) / 4),
            kept: Mutex::default(),
        }
    }

    /// Takes a request to keep it; `false`: it is to be served now.
    pub(super) fn keep(&self, request: &[u8]) -> bool {
        if !message::is_unawaited(request) {
            return false;
        }
        let mut kept = lock(&self.kept);
        let is_room = kept.len() < self.most;
        if is_room {
            kept.push_back(request.into());
        }
        is_room
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.kept).is_empty()
    }

    /// Whether `request`, which came after all that are kept, may be served before them.
    pub(super) fn may_wait_for(&self, request: &[u8]) -> bool {
        let kept = lock(&self.kept);
        let is_told_of = |node| kept.iter().any(|one| message::node(one) == Some(node));
        kept.is_empty() || message::may_go_before(request, is_told_of)
    }

    /// The oldest.
    pub(super) fn next(&self) -> Option<Box<[u8]>> {
        lock(&self.kept).pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of one of this kind about this inode, with nothing after it. Source: linux/fuse.h.
    fn request(opcode: u32, node: u32) -> Vec<u8> {
        let head = [40, opcode, 7, 0, node, 0, 0, 0, 7, 0];
        head.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    const LOOKUP: u32 = 1;
    const FORGET: u32 = 2;
    const GETATTR: u32 = 3;
    const SETATTR: u32 = 4;
    const UNLINK: u32 = 10;
    const OPEN: u32 = 14;
    const STATFS: u32 = 17;
    const RELEASE: u32 = 18;
    const RELEASEDIR: u32 = 29;
    const CREATE: u32 = 35;
    const BATCH_FORGET: u32 = 42;

    #[test]
    fn what_nobody_waits_for_is_kept_in_order() {
        let later = Later::new(64);
        assert!(later.is_empty());
        for opcode in [RELEASE, RELEASEDIR, FORGET, BATCH_FORGET] {
            assert!(later.keep(&request(opcode, opcode)));
        }
        for opcode in [LOOKUP, GETATTR, UNLINK, 16, 20, CREATE] {
            assert!(!later.keep(&request(opcode, opcode)), "{opcode}");
        }
        assert!(!later.keep(b"none"));
        for opcode in [RELEASE, RELEASEDIR, FORGET, BATCH_FORGET] {
            assert_eq!(later.next().as_deref(), Some(&*request(opcode, opcode)));
        }
        assert!(later.is_empty() && later.next().is_none());
    }

    #[test]
    fn no_more_is_kept_than_holds_nobody_back() {
        let room = |max_background| {
            let later = Later::new(max_background);
            let kept = (0..100).take_while(|n| later.keep(&request(RELEASE, *n)));
            kept.count()
        };
        assert_eq!([64, 1000, 12, 1].map(room), [MOST, MOST, 3, 0]);
    }

    #[test]
    fn what_is_about_a_file_that_was_closed_comes_after_that() {
        let later = Later::new(64);
        assert!(later.may_wait_for(&request(UNLINK, 1)));
        assert!(later.keep(&request(RELEASE, 5)));
        for opcode in [OPEN, GETATTR] {
            assert!(!later.may_wait_for(&request(opcode, 5)), "{opcode}");
            assert!(later.may_wait_for(&request(opcode, 6)), "{opcode}");
        }
        // By name: a file that was just closed may be the one. And how much room there is.
        for opcode in [UNLINK, 12, SETATTR, STATFS] {
            assert!(!later.may_wait_for(&request(opcode, 1)), "{opcode}");
        }
        for opcode in [LOOKUP, CREATE] {
            assert!(later.may_wait_for(&request(opcode, 1)), "{opcode}");
        }
    }
}
