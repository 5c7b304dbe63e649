//! What is made of several figures.

use serde::{Deserialize, Serialize};

/// The middle one; of an even number the mean of the two in the middle. Nothing of nothing.
pub fn median(figures: &[f64]) -> Option<f64> {
    quantile(figures, 0.5)
}

/// Linear between the neighbours.
pub fn quantile(figures: &[f64], at: f64) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = at * (sorted.len().checked_sub(1)?) as f64;
    let low = *sorted.get(place.floor() as usize)?;
    let high = *sorted.get(place.ceil() as usize)?;
    Some(low + (high - low) * place.fract())
}

/// Several figures, in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// In the order of the rounds.
    pub all: Vec<f64>,
}

impl Spread {
    pub fn of(figures: &[f64]) -> Option<Self> {
        Some(Spread {
            median: median(figures)?,
            min: figures.iter().copied().fold(f64::INFINITY, f64::min),
            max: figures.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            all: figures.to_vec(),
        })
    }

    /// How far the middle half reaches: one outlier does not show in it.
    pub fn middle_half(&self) -> f64 {
        let at = |q| quantile(&self.all, q).unwrap_or_default();
        at(0.75) - at(0.25)
    }
}

/// How likely it is that `new` lies above `old` as far as this, or farther, when both are drawn
/// from the same: the one-sided rank test of Mann and Whitney, exact by counting.
pub fn chance_of_rise(old: &[f64], new: &[f64]) -> f64 {
    // Pairs in which the new one is not the higher: 0 when all of them rose.
    let mut against = 0.0;
    for n in new {
        for o in old {
            if n < o {
                against += 1.0;
            } else if n == o {
                against += 0.5;
            }
        }
    }
    let ways = arrangements(old.len(), new.len());
    let total: f64 = ways.iter().sum();
    let as_far: f64 = ways
        .iter()
        .enumerate()
        .filter(|(u, _)| *u as f64 <= against)
        .map(|(_, ways)| ways)
        .sum();
    as_far / total
}

/// For each U, in how many orders of `m` and `n` figures it comes about.
fn arrangements(m: usize, n: usize) -> Vec<f64> {
    if m == 0 || n == 0 {
        return vec![1.0];
    }
    // The highest figure is one of the m, which leaves U, or one of the n, which adds m to it.
    let mut ways = vec![0.0; m * n + 1];
    for (u, count) in arrangements(m - 1, n).into_iter().enumerate() {
        ways[u + n] += count;
    }
    for (u, count) in arrangements(m, n - 1).into_iter().enumerate() {
        ways[u] += count;
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        let spread = Spread::of(&[5.0, 1.0, 2.0, 3.0, 4.0]).expect("a spread");
        assert_eq!((spread.median, spread.min, spread.max), (3.0, 1.0, 5.0));
        assert_eq!(spread.middle_half(), 2.0);
        // One outlier does not widen it.
        let outlier = Spread::of(&[100.0, 1.0, 2.0, 3.0, 4.0]).expect("a spread");
        assert_eq!(outlier.middle_half(), 2.0);
    }

    #[test]
    fn the_rank_test_counts_orders() {
        let old = [1.0, 2.0, 3.0, 4.0, 5.0];
        let above = [6.0, 7.0, 8.0, 9.0, 10.0];
        // One order of the 252 that five and five can have.
        assert!((chance_of_rise(&old, &above) - 1.0 / 252.0).abs() < 1e-12);
        assert!((chance_of_rise(&above, &old) - 1.0).abs() < 1e-12);
        let one_swapped = [4.5, 7.0, 8.0, 9.0, 10.0];
        assert!((chance_of_rise(&old, &one_swapped) - 2.0 / 252.0).abs() < 1e-12);
        assert!(chance_of_rise(&old, &old) >= 0.5);
        // Three and three cannot tell much.
        assert!(chance_of_rise(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]) > 0.04);
    }
}
