//! One queue of everything that is to happen at a time.

use std::collections::BTreeMap;

/// Milliseconds on a clock that never goes back.
pub type Instant = u64;

/// Names a timer, so that it can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TimerKey(Instant, u64);

/// Timers in order of their times; those of one time in the order they were set.
#[derive(Debug)]
pub(super) struct Timers<T> {
    set: BTreeMap<TimerKey, T>,
    count: u64,
}

impl<T> Timers<T> {
    pub(super) fn new() -> Self {
        Self { set: BTreeMap::new(), count: 0 }
    }

    pub(super) fn set(&mut self, at: Instant, timer: T) -> TimerKey {
        self.count += 1;
        let key = TimerKey(at, self.count);
        self.set.insert(key, timer);
        key
    }

    pub(super) fn cancel(&mut self, key: TimerKey) {
        self.set.remove(&key);
    }

    /// When the first is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.set.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes the first that is due by now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<T> {
        let first = self.set.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
