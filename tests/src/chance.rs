//! [`Chance`]: what a test leaves to chance, told so that it can be had again.

use std::hash::{BuildHasher, Hasher};

/// The variable that repeats a run: the seed that a failed one printed.
pub const SEED_ENV: &str = "AGENTFS_TEST_SEED";

/// Numbers by chance.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// From [`SEED_ENV`], else from the system's own chance; prints the seed, which the test runner
    /// shows with a failure.
    pub fn told() -> Self {
        Self::from(Self::seed_told())
    }

    /// The seed alone.
    pub fn seed_told() -> u64 {
        let seed = match std::env::var(SEED_ENV) {
            Ok(text) => text
                .parse()
                .unwrap_or_else(|e| panic!("{SEED_ENV}={text}: {e}")),
            // Its keys are random.
            Err(_) => std::hash::RandomState::new().build_hasher().finish(),
        };
        println!("{SEED_ENV}={seed} repeats this");
        seed
    }

    /// The next number, less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014): every seed gives another, well spread sequence.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

impl From<u64> for Chance {
    fn from(seed: u64) -> Self {
        Self(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_another_does_not() {
        let twenty = |seed: u64| {
            let mut chance = Chance::from(seed);
            (0..20).map(|_| chance.below(1300)).collect::<Vec<_>>()
        };
        assert_eq!(twenty(7), twenty(7));
        assert_ne!(twenty(7), twenty(8));
        assert!(twenty(7).iter().all(|n| *n < 1300));
    }
}
