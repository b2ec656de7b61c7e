//! The next UUID of version 7: for transaction ids and epochs. Pure: clock and randomness are given.
//!
//! Always true: what is made is greater than what it was made after, whatever the clock says. Twelve bits count within
//! a millisecond, so that ids don't run ahead of the clock; the 62 bits behind them are fresh each time, so that two
//! processes on copies of one log don't make the same id.

use uuid::Uuid;

/// Where the counter stops: then the next millisecond is borrowed.
const COUNTER_MAX: u128 = 0xfff;
/// A new millisecond starts somewhere in the lower half of the counter.
const COUNTER_START_MASK: u128 = 0x7ff;
/// The milliseconds have 48 bits.
const MILLIS_MAX: u128 = (1 << 48) - 1;
/// The 62 bits at the end.
const RANDOM_MASK: u128 = (1 << 62) - 1;
const VERSION: u128 = 7;
const VARIANT: u128 = 0b10;

/// A UUID of version 7, greater than `after`, of the moment `now_ms` (milliseconds since 1970) or, if the clock is
/// behind `after`, of the moment of `after`. `random` must be drawn anew for each call.
///
/// Only when `after` stands at the very end of time (the year 10889) is there no greater one; then the last is repeated.
pub fn next_uuid_v7(after: Uuid, now_ms: u64, random: u128) -> Uuid {
    let after = after.as_u128();
    let after_ms = after >> 80;
    let now_ms = u128::from(now_ms).min(MILLIS_MAX);
    let start = random >> 64 & COUNTER_START_MASK;
    let (ms, counter) = if now_ms > after_ms {
        (now_ms, start)
    } else {
        let version = after >> 76 & 0xf;
        let counter = after >> 64 & COUNTER_MAX;
        match version {
            // Not ours: the version's bits decide already, if ours are greater.
            0..VERSION => (after_ms, start),
            VERSION if counter < COUNTER_MAX => (after_ms, counter + 1),
            _ if after_ms < MILLIS_MAX => (after_ms + 1, start),
            _ => return Uuid::from_u128(after),
        }
    };
    Uuid::from_u128(ms << 80 | VERSION << 76 | counter << 64 | VARIANT << 62 | random & RANDOM_MASK)
}

/// Returns the time in a UUID of version 7, in milliseconds since 1970.
pub fn millis(uuid: Uuid) -> u64 {
    u64::try_from(uuid.as_u128() >> 80).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::{Uuid, Variant};

    use super::{millis, next_uuid_v7};

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn it_is_of_version_7_of_the_rfc_variant_and_of_the_clock_s_moment() {
        let uuid = next_uuid_v7(Uuid::nil(), NOW, u128::MAX);
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.get_variant(), Variant::RFC4122);
        assert_eq!(millis(uuid), NOW);
    }

    #[test]
    fn a_clock_set_back_does_not_make_it_smaller() {
        let first = next_uuid_v7(Uuid::nil(), NOW, 5);
        let second = next_uuid_v7(first, NOW - 1_000_000, 4);
        assert!(second > first);
        assert_eq!(millis(second), NOW);
    }

    #[test]
    fn ten_thousand_of_one_millisecond_all_differ_and_borrow_only_a_few_milliseconds() {
        let mut last = Uuid::nil();
        for _ in 0..10_000 {
            let next = next_uuid_v7(last, NOW, 0);
            assert!(next > last);
            last = next;
        }
        assert!(millis(last) <= NOW + 3, "{last}");
    }

    #[test]
    fn the_random_part_is_the_one_given() {
        let one = next_uuid_v7(Uuid::nil(), NOW, 1);
        assert_ne!(next_uuid_v7(one, NOW, 2).as_u128() & 0xff, next_uuid_v7(one, NOW, 3).as_u128() & 0xff);
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        assert_eq!(next_uuid_v7(Uuid::max(), u64::MAX, 0), Uuid::max());
        assert!(next_uuid_v7(Uuid::nil(), u64::MAX, u128::MAX) > Uuid::nil());
    }

    proptest! {
        #[test]
        fn it_is_greater_than_any_uuid_before_the_end_of_time(after: u128, now: u64, random: u128) {
            let after = Uuid::from_u128(after >> 1);
            let next = next_uuid_v7(after, now, random);
            prop_assert!(next > after);
            prop_assert_eq!(next.get_version_num(), 7);
            prop_assert_eq!(next.get_variant(), Variant::RFC4122);
        }
    }
}
