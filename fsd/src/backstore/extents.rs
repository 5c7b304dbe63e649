//! Changes to an [`ExtentMap`]: writing a range over whatever it held.

use crate::core::record::{ExtentMap, ExtentSource};

/// Maps `[offset, offset + len)` to `source`, cutting or removing what lay there. Neighbours with
/// the same source become one extent. The range must not be empty nor pass `u64::MAX`.
pub fn overlay(map: &mut ExtentMap, offset: u64, len: u64, source: ExtentSource) {
    let (mut start, mut end) = (offset, offset + len);
    // The only extent that can reach in from the left is the last one that starts before.
    if let Some((&at, &(old_len, old))) = map.range(..start).next_back() {
        let old_end = at + old_len;
        if old_end >= start && old == source {
            start = at;
            end = end.max(old_end);
        } else if old_end > start {
            map.insert(at, (start - at, old));
            if old_end > end {
                map.insert(end, (old_end - end, old));
            }
        }
    }
    while let Some((&at, &(old_len, old))) = map.range(start..=end).next() {
        let old_end = at + old_len;
        if at == end && old != source {
            break;
        }
        map.remove(&at);
        if old == source {
            end = end.max(old_end);
        } else if old_end > end {
            map.insert(end, (old_end - end, old));
            break;
        }
    }
    map.insert(start, (end - start, source));
}

/// The part of a map before `end`.
pub fn cut(map: &ExtentMap, end: u64) -> ExtentMap {
    map.range(..end)
        .map(|(&at, &(len, source))| (at, (len.min(end - at), source)))
        .collect()
}
