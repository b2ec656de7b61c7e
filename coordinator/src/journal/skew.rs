//! How far the time in ids and the wall clock of the moment have ever been apart: it bounds which ids a time can have.
//!
//! Pure.

use serde::{Deserialize, Serialize};
use unanimous_sdk::protocol::{TransactionId, UnixMillis};
use uuid::Uuid;

use crate::uuid7::millis;

/// It is kept in whole seconds, so that it seldom changes.
const STEP_MS: u64 = 1_000;

/// The most by which an id's time was before, and after, the wall clock when its transaction was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skew {
    behind_ms: u64,
    ahead_ms: u64,
}

impl Skew {
    /// A transaction with this id was begun at this time. Returns whether that is further apart than any before.
    pub fn see(&mut self, id: TransactionId, created_at: UnixMillis) -> bool {
        let before = *self;
        let id_ms = millis(id.uuid());
        let step = |ms: u64| ms.div_ceil(STEP_MS).saturating_mul(STEP_MS);
        self.behind_ms = self.behind_ms.max(step(created_at.0.saturating_sub(id_ms)));
        self.ahead_ms = self.ahead_ms.max(step(id_ms.saturating_sub(created_at.0)));
        *self != before
    }

    /// Returns an id that is above none of a transaction that was begun at this time or later.
    pub fn lowest_since(self, since: UnixMillis) -> TransactionId {
        lowest(since.0.saturating_sub(self.behind_ms))
    }

    /// Returns an id that is above all of transactions that were begun before this time.
    pub fn above_until(self, until: UnixMillis) -> TransactionId {
        lowest(until.0.saturating_add(self.ahead_ms))
    }
}

/// The lowest id of a millisecond.
fn lowest(ms: u64) -> TransactionId {
    TransactionId::from_uuid(Uuid::from_u128(u128::from(ms.min((1 << 48) - 1)) << 80))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::uuid7::next_uuid_v7;

    #[test]
    fn ids_of_the_clock_s_moment_are_not_apart() {
        let mut skew = Skew::default();
        assert!(!skew.see(lowest(5_000), UnixMillis(5_000)));
        assert!(skew.see(lowest(5_000), UnixMillis(5_001)));
        assert!(!skew.see(lowest(5_000), UnixMillis(5_999)), "it is known by the second");
    }

    proptest! {
        #[test]
        fn every_transaction_of_a_time_is_within_the_bounds(
            begun in proptest::collection::vec((0..1_u64 << 40, 0..1_u64 << 40), 1..20), since in 0..1_u64 << 40, until in 0..1_u64 << 40,
        ) {
            let mut skew = Skew::default();
            let all: Vec<_> = begun.into_iter().map(|(id_ms, created)| {
                let id = TransactionId::from_uuid(next_uuid_v7(Uuid::nil(), id_ms, 5));
                skew.see(id, UnixMillis(created));
                (id, UnixMillis(created))
            }).collect();
            for (id, created) in all {
                prop_assert!(created.0 < since || id >= skew.lowest_since(UnixMillis(since)));
                prop_assert!(created.0 >= until || id < skew.above_until(UnixMillis(until)));
            }
        }
    }
}
