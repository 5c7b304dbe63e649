//! [`Keepers`]: the directories that are open in such a way that the kernel gathers what is read of
//! them, and keeps it once it has all.

use std::collections::HashMap;

use fuser::INodeNo;

use crate::sync::{Mutex, lock};

/// How often each is open so.
#[derive(Debug, Default)]
pub(super) struct Keepers(Mutex<HashMap<INodeNo, u32>>);

impl Keepers {
    /// Notes that it was opened once more.
    pub(super) fn opened(&self, ino: INodeNo) {
        *lock(&self.0).entry(ino).or_default() += 1;
    }

    /// Notes that it was closed once.
    pub(super) fn closed(&self, ino: INodeNo) {
        let mut open = lock(&self.0);
        if let Some(times) = open.get_mut(&ino) {
            *times -= 1;
            if *times == 0 {
                open.remove(&ino);
            }
        }
    }

    /// Whether it is open so.
    pub(super) fn has(&self, ino: INodeNo) -> bool {
        lock(&self.0).contains_key(&ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_close_counts() {
        let keepers = Keepers::default();
        let (one, other) = (INodeNo(5), INodeNo(6));
        keepers.opened(one);
        keepers.opened(one);
        keepers.closed(one);
        keepers.closed(other);
        assert!(keepers.has(one) && !keepers.has(other));
        keepers.closed(one);
        assert!(!keepers.has(one));
    }
}
