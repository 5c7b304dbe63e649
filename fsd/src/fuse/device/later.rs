//! Requests that nobody waits for, to be served when none is there that somebody waits for.

use std::collections::VecDeque;

use crate::fuse::device::message;
use crate::sync::{Mutex, lock};

/// Fewer than the kernel has under way at most, or it would hold others back.
const MOST: usize = 16;

/// Of all threads of a mount together, so that none is stuck with one that is held up.
#[derive(Debug, Default)]
pub(super) struct Later(Mutex<VecDeque<Box<[u8]>>>);

impl Later {
    /// Takes a request to keep it; `false`: it is to be served now.
    pub(super) fn keep(&self, request: &[u8]) -> bool {
        if !message::is_unawaited(request) {
            return false;
        }
        let mut kept = lock(&self.0);
        let is_room = kept.len() < MOST;
        if is_room {
            kept.push_back(request.into());
        }
        is_room
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// The oldest, put at the beginning of `buffer`: its length. A request fits in it, as it did before.
    pub(super) fn next(&self, buffer: &mut [u8]) -> Option<usize> {
        let request = lock(&self.0).pop_front()?;
        buffer[..request.len()].copy_from_slice(&request);
        Some(request.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of one with nothing after it, of this kind and number. Source: linux/fuse.h.
    fn request(opcode: u32, unique: u32) -> Vec<u8> {
        let head = [40, opcode, unique, 0, 5, 0, 0, 0, 7, 0];
        head.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    const RELEASE: u32 = 18;

    #[test]
    fn what_nobody_waits_for_is_kept_in_order() {
        let later = Later::default();
        assert!(later.is_empty());
        // RELEASE, RELEASEDIR, FORGET, BATCH_FORGET.
        for opcode in [RELEASE, 29, 2, 42] {
            assert!(later.keep(&request(opcode, opcode)));
        }
        // LOOKUP, GETATTR, UNLINK, WRITE, FSYNC, CREATE.
        for opcode in [1, 3, 10, 16, 20, 35] {
            assert!(!later.keep(&request(opcode, opcode)), "{opcode}");
        }
        assert!(!later.keep(b"none"));
        let mut buffer = [0; 64];
        for opcode in [RELEASE, 29, 2, 42] {
            assert_eq!(later.next(&mut buffer), Some(40));
            assert_eq!(buffer[..40], request(opcode, opcode));
        }
        assert!(later.is_empty() && later.next(&mut buffer).is_none());
    }

    #[test]
    fn no_more_is_kept_than_holds_nobody_back() {
        let later = Later::default();
        let kept = (0..100).take_while(|n| later.keep(&request(RELEASE, *n)));
        assert_eq!(kept.count(), MOST);
        later.next(&mut [0; 64]).expect("one");
        assert!(later.keep(&request(RELEASE, 100)));
    }
}
