//! A log line that others can cause, and that must not fill the log.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets something happen at most once a second, and counts what it did not let happen.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    const PAUSE: Duration = Duration::from_secs(1);

    /// Returns whether it may happen now, and then how often it might not since the last time.
    pub fn may(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| last.elapsed() < Self::PAUSE) {
            *left_out += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(left_out))
    }
}
