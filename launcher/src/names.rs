//! Makes names for branches that got none: two short words, easy to say and to type.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use agentfs_fsd::core::types::{BranchName, BranchNameError};

const FIRST: [&str; 48] = [
    "amber", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "copper", "coral",
    "crisp", "daring", "deep", "dusty", "eager", "early", "fair", "fleet", "fresh", "gentle",
    "glad", "golden", "grand", "green", "hardy", "honest", "ivory", "jolly", "keen", "kind",
    "late", "light", "lively", "lucky", "mellow", "merry", "misty", "noble", "plain", "proud",
    "quick", "quiet", "rapid", "silver", "steady", "sunny", "swift", "warm",
];
const SECOND: [&str; 48] = [
    "badger", "beaver", "bison", "bream", "crane", "crow", "deer", "dove", "eagle", "falcon",
    "ferret", "finch", "fox", "gecko", "goose", "hare", "hawk", "heron", "ibis", "jackal", "jay",
    "koala", "lark", "lemur", "lion", "lynx", "marten", "mole", "moose", "newt", "otter", "owl",
    "panda", "perch", "pike", "puffin", "quail", "raven", "robin", "salmon", "seal", "shrew",
    "stoat", "swan", "tern", "tiger", "trout", "wren",
];

/// A name that `taken` does not know. After a few clashes a number makes it unique.
pub fn fresh(taken: impl Fn(&BranchName) -> bool) -> Result<BranchName, BranchNameError> {
    for attempt in 0_u64.. {
        // A new state is seeded from the system's randomness.
        let dice = RandomState::new().build_hasher().finish();
        let name = match attempt {
            0..8 => words(dice),
            _ => format!("{}-{}", words(dice), dice % 10_000),
        };
        let name = BranchName::new(&name)?;
        if !taken(&name) {
            return Ok(name);
        }
    }
    Err(BranchNameError("no name left".into()))
}

fn words(dice: u64) -> String {
    // Both indexes are below the lengths.
    let first = FIRST[(dice % FIRST.len() as u64) as usize];
    let second = SECOND[(dice / 64 % SECOND.len() as u64) as usize];
    format!("{first}-{second}")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn names_are_short_words() {
        let name = fresh(|_| false).unwrap();
        assert!(
            name.as_str().len() <= 14 && name.as_str().contains('-'),
            "{name}"
        );
    }

    #[test]
    fn a_taken_name_is_not_given() {
        let asked = Cell::new(0);
        let name = fresh(|_| {
            asked.set(asked.get() + 1);
            asked.get() <= 10
        })
        .unwrap();
        assert_eq!(asked.get(), 11);
        assert_eq!(name.as_str().matches('-').count(), 2, "{name}");
    }
}
