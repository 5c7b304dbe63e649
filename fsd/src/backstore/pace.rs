//! [`Pace`]: how long new objects take to make, and when to go on making them elsewhere.
//!
//! ext4 does not give an inode out again for a minute or more after it was freed, and looks at each of
//! those before it finds another. Where many files were removed lately (a build directory, other
//! branches) a new one then takes twenty times as long as elsewhere, and so does the next.

use std::time::Duration;

/// What takes longer is slow. On a quiet machine it takes a quarter of that.
const SLOW: Duration = Duration::from_micros(100);
/// So many slow ones in a row, and it is the place.
const ROW: u32 = 8;
/// So many are made in a place before the next is tried, or more if that was no better.
const STAY_LEAST: u32 = 64;
const STAY_MOST: u32 = 1 << 16;

/// What was seen in the present place.
#[derive(Debug, Default)]
pub(super) struct Pace {
    made: u32,
    slow_row: u32,
    quick_row: u32,
    /// So many are made before it is left. None at first: the first place may be bad from the start.
    stay: u32,
}

impl Pace {
    /// Takes note of one more, which took so long. `true`: the next should be made elsewhere.
    pub(super) fn leaves(&mut self, took: Duration) -> bool {
        self.made = self.made.saturating_add(1);
        if took < SLOW {
            self.slow_row = 0;
            self.quick_row += 1;
            if self.quick_row >= STAY_LEAST {
                self.stay = STAY_LEAST;
            }
            return false;
        }
        self.quick_row = 0;
        self.slow_row += 1;
        if self.slow_row < ROW || self.made < self.stay {
            return false;
        }
        let stay = (self.stay * 2).clamp(STAY_LEAST, STAY_MOST);
        *self = Self {
            stay,
            ..Self::default()
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(25);

    /// After how many slow ones it leaves.
    fn patience(pace: &mut Pace) -> u32 {
        (1..1 << 20).find(|_| pace.leaves(SLOW)).expect("it leaves")
    }

    #[test]
    fn a_slow_place_is_left_soon() {
        let mut pace = Pace::default();
        assert_eq!(patience(&mut pace), ROW);
    }

    #[test]
    fn a_slow_one_now_and_then_is_no_slow_place() {
        let mut pace = Pace::default();
        for n in 0..1000 {
            assert!(!pace.leaves(if n % ROW == 0 { QUICK } else { SLOW }));
        }
    }

    #[test]
    fn where_every_place_is_slow_they_are_changed_seldom() {
        let mut pace = Pace::default();
        let stays: Vec<u32> = (0..14).map(|_| patience(&mut pace)).collect();
        assert_eq!(stays[..4], [ROW, 64, 128, 256]);
        assert_eq!(stays[13], STAY_MOST);
        // One that is quick makes it hopeful again.
        for _ in 0..STAY_LEAST {
            assert!(!pace.leaves(QUICK));
        }
        assert_eq!(patience(&mut pace), ROW);
    }
}
