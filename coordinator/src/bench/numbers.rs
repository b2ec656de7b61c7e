//! The arithmetic of a measurement. Pure.

use serde::{Deserialize, Serialize};

/// What came of doing one thing again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Pace {
    /// A second.
    pub rate: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Pace {
    /// Of what took these microseconds each, all within so many seconds.
    pub fn of(mut took_us: Vec<u32>, seconds: f64) -> Self {
        took_us.sort_unstable();
        let rate = real(took_us.len() as u64) / seconds;
        Self { rate, p50_us: percentile(&took_us, 50), p99_us: percentile(&took_us, 99) }
    }
}

/// The smallest of these, which are in order, that so many of a hundred don't exceed; 0 if there are none.
pub fn percentile(sorted: &[u32], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().map_or(0.0, f64::from)
}

/// The one in the middle, by a measure; of an even number the lower of the two. None if there are none.
pub fn median<T>(mut all: Vec<T>, by: impl Fn(&T) -> f64) -> Option<T> {
    all.sort_by(|one, other| by(one).total_cmp(&by(other)));
    let middle = all.len().checked_sub(1)? / 2;
    all.into_iter().nth(middle)
}

/// None where a ratio means nothing.
pub fn ratio(value: f64, floor: f64) -> Option<f64> {
    Some(value / floor).filter(|ratio| floor > 0.0 && ratio.is_finite())
}

/// Counts here are far below 2^53.
#[allow(clippy::cast_precision_loss)]
pub fn real(count: u64) -> f64 {
    count as f64
}
