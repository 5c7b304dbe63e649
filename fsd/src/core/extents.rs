//! Extent maps: which object, or which zeros, hold a range of a file. Pure.

use crate::core::record::{ExtentMap, ExtentSource};

/// Puts `len` bytes at `offset` under `source`, over whatever the map held there.
///
/// Neighbours of the same source are merged, so a sequential writer keeps one extent.
pub fn put(map: &mut ExtentMap, offset: u64, len: u64, source: ExtentSource) {
    if len == 0 {
        return;
    }
    let end = offset.saturating_add(len);
    clear(map, offset, end);
    let (mut start, mut stop) = (offset, end);
    if let Some((before, (before_len, before_source))) = map.range(..offset).next_back()
        && before + before_len == offset
        && *before_source == source
    {
        start = *before;
    }
    if let Some((after_len, after_source)) = map.get(&end)
        && *after_source == source
    {
        stop = end + after_len;
        map.remove(&end);
    }
    map.insert(start, (stop - start, source));
}

/// Takes everything from `start` to `end` out of the map.
pub fn clear(map: &mut ExtentMap, start: u64, end: u64) {
    if let Some((&at, &(len, source))) = map.range(..start).next_back()
        && at + len > start
    {
        map.insert(at, (start - at, source));
        if at + len > end {
            map.insert(end, (at + len - end, source));
        }
    }
    let inside: Vec<u64> = map.range(start..end).map(|(at, _)| *at).collect();
    for at in inside {
        if let Some((len, source)) = map.remove(&at)
            && at + len > end
        {
            map.insert(end, (at + len - end, source));
        }
    }
}

/// One piece of a range: `len` bytes at `offset`, from an extent or (`None`) from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Piece {
    pub offset: u64,
    pub len: u64,
    pub source: Option<ExtentSource>,
}

/// Cuts `start..end` into pieces, in order and without gaps.
pub fn pieces(map: &ExtentMap, start: u64, end: u64) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut at = start;
    if let Some((&from, &(len, source))) = map.range(..start).next_back()
        && from + len > start
    {
        let stop = end.min(from + len);
        found.push(Piece {
            offset: start,
            len: stop - start,
            source: Some(source),
        });
        at = stop;
    }
    for (&from, &(len, source)) in map.range(at..end) {
        if from > at {
            found.push(Piece {
                offset: at,
                len: from - at,
                source: None,
            });
        }
        let stop = end.min(from + len);
        found.push(Piece {
            offset: from,
            len: stop - from,
            source: Some(source),
        });
        at = stop;
    }
    if at < end {
        found.push(Piece {
            offset: at,
            len: end - at,
            source: None,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::{LayerId, ObjectId};

    fn object(number: u64) -> ExtentSource {
        ExtentSource::Object(ObjectId {
            layer: LayerId(1),
            number,
        })
    }

    /// Every byte of a small file, told by the map and by a plain array, after many puts.
    #[test]
    fn agrees_with_an_array() {
        let mut map = ExtentMap::new();
        let mut plain: Vec<Option<ExtentSource>> = vec![None; 64];
        let mut seed = 1u64;
        for _ in 0..2000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let (a, b) = ((seed >> 33) % 64, (seed >> 40) % 20);
            let end = (a + b).min(64);
            match (seed >> 50) % 4 {
                0 => {
                    clear(&mut map, a, end);
                    plain[a as usize..end as usize].fill(None);
                }
                n => {
                    put(&mut map, a, end - a, object(n));
                    plain[a as usize..end as usize].fill(Some(object(n)));
                }
            }
            let mut told = Vec::new();
            for piece in pieces(&map, 0, 64) {
                told.extend(std::iter::repeat_n(piece.source, piece.len as usize));
            }
            assert_eq!(told, plain);
        }
    }

    #[test]
    fn a_sequential_writer_keeps_one_extent() {
        let mut map = ExtentMap::new();
        for n in 0..100 {
            put(&mut map, n * 10, 10, object(1));
        }
        assert_eq!(map.len(), 1);
    }
}
