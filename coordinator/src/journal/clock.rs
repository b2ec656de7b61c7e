//! The log's own time, which no wall clock can move by much: for new ids and epochs, and for the age of what is kept.
//!
//! A machine's wall clock may be wrong at a start, or for a moment while the process runs. So the log keeps two times of its
//! own. The *id time* grows by the time that processes have run on this log; a new id or epoch lies at most one hour after
//! it. The *age time* does so, too, and follows the wall clock where that is ahead of it, but never faster than at twice
//! the pace of running: what is older than is kept by this time has been there for at least half as long of running.
//!
//! Pure: clocks are given.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use unanimous_sdk::protocol::UnixMillis;

/// How far a new id or epoch may lie after the id time: what participants take (P-4.29).
const MOST_AHEAD_MS: u64 = 3_600_000;

/// The clocks of a process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Milliseconds on a clock that runs steadily, from any moment on.
    pub mono: u64,
    /// The wall clock.
    pub wall: UnixMillis,
}

/// Bounds the time in new transaction ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogClock {
    id_time: u64,
}

impl LogClock {
    pub(super) fn new(id_time: u64) -> Self {
        Self { id_time }
    }

    /// Returns the time for a new id, in milliseconds since 1970, when the process has run for so long since the log was
    /// opened. (An id that is greater than all before it may lie later.)
    pub fn id_ms(self, wall: UnixMillis, ran_ms: u64) -> u64 {
        wall.0.min(self.id_time.saturating_add(ran_ms).saturating_add(MOST_AHEAD_MS))
    }
}

/// What the log keeps of its time, from process to process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogTime {
    /// The id time.
    pub(super) id: u64,
    /// The age time: on the scale of the wall clock, as it was when this was first kept.
    pub(super) age: u64,
    /// The age time when this was first kept: what was there before is no older than that.
    pub(super) age_began: u64,
    /// By how much the age time is ahead of the wall clock that is believed.
    lead: i64,
    /// For how long of running the wall clock has been implausible without another jump.
    doubted: u64,
    /// By how much the age time is ahead of the wall clock that is doubted.
    doubted_lead: i64,
}

/// What the age time makes of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plausibility {
    /// It differs by less than finished transactions are kept.
    Plausible,
    /// It is ahead by more: nothing that it makes old by itself is dropped.
    Ahead,
    /// It is behind by more.
    Behind,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The difference, as far as it can be said in an `i64`.
fn minus(one: u64, other: u64) -> i64 {
    i64::try_from(i128::from(one) - i128::from(other)).unwrap_or(if one > other { i64::MAX } else { i64::MIN })
}

impl LogTime {
    /// The time of a log that has kept none: `newest` is that of its newest id or epoch, if it has any.
    pub(super) fn begin(newest: Option<u64>, wall: UnixMillis) -> Self {
        Self { id: newest.unwrap_or(wall.0), age: wall.0, age_began: wall.0, lead: 0, doubted: 0, doubted_lead: 0 }
    }

    /// Returns what the wall clock said, as far as it was believed, when the age time was this.
    pub(super) fn wall_at(&self, age: u64) -> UnixMillis {
        UnixMillis(u64::try_from(i128::from(age) - i128::from(self.lead)).unwrap_or_default())
    }

    /// An operator says that the wall clock is right: the log has stood still for as long as that says.
    pub(super) fn accept(&mut self, wall: UnixMillis) {
        self.id = wall.0;
        self.age = self.age.max(wall.0);
        self.believe(wall);
    }

    fn believe(&mut self, wall: UnixMillis) {
        self.lead = minus(self.age, wall.0);
        (self.doubted, self.doubted_lead) = (0, 0);
    }

    /// A process has run on for so long, and the wall clock says this now.
    pub(super) fn ran(&mut self, ran_ms: u64, wall: UnixMillis, keep: Duration) -> Plausibility {
        let keep = ms(keep);
        self.id = self.id.saturating_add(ran_ms);
        let ran = self.age.saturating_add(ran_ms);
        let twice = ran.saturating_add(ran_ms);
        let by_wall = u64::try_from(i128::from(wall.0) + i128::from(self.lead)).unwrap_or_default();
        if by_wall.abs_diff(ran) <= keep {
            self.age = by_wall.clamp(ran, twice);
            (self.doubted, self.doubted_lead) = (0, 0);
            return Plausibility::Plausible;
        }
        self.age = ran;
        let lead = minus(self.age, wall.0);
        // Where it has been wrong by the same for as long as anything is kept, nothing is left that it could make too old.
        let same = self.doubted > 0 && lead.abs_diff(self.doubted_lead) <= keep / 10 + 1_000;
        self.doubted = if same { self.doubted.saturating_add(ran_ms) } else { ran_ms.max(1) };
        self.doubted_lead = lead;
        if self.doubted >= keep {
            self.believe(wall);
            return Plausibility::Plausible;
        }
        if by_wall > ran { Plausibility::Ahead } else { Plausibility::Behind }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400_000;
    const HOUR: u64 = 3_600_000;
    const KEEP: Duration = Duration::from_hours(7 * 24);
    const START: u64 = 20_000 * DAY;
    /// As a difference.
    const DAYS: i64 = 86_400_000;

    fn wall(ms: u64) -> UnixMillis {
        UnixMillis(ms)
    }

    /// Runs for so long in steps of an hour, under a wall clock that is ahead of the right one, which says `now`.
    fn run(time: &mut LogTime, now: &mut u64, for_ms: u64, ahead: i64) -> Plausibility {
        let mut last = Plausibility::Plausible;
        for _ in 0..for_ms / HOUR {
            *now += HOUR;
            last = time.ran(HOUR, wall(now.saturating_add_signed(ahead)), KEEP);
        }
        last
    }

    #[test]
    fn id_lies_at_the_wall_clock_and_at_most_an_hour_after_the_id_time() {
        let clock = LogClock::new(START);
        assert_eq!(clock.id_ms(wall(START + 5), 5), START + 5);
        assert_eq!(clock.id_ms(wall(START - DAY), 5), START - DAY);
        assert_eq!(clock.id_ms(wall(START + 30 * DAY), 5), START + HOUR + 5);
    }

    #[test]
    fn id_time_grows_by_running_and_not_by_starts() {
        let mut time = LogTime::begin(Some(START), wall(START + 400 * DAY));
        assert_eq!(time.id, START);
        for _ in 0..1000 {
            time.ran(0, wall(START + 400 * DAY), KEEP);
        }
        assert_eq!(time.id, START);
        time.ran(HOUR, wall(START + 400 * DAY), KEEP);
        assert_eq!(time.id, START + HOUR);
        time.accept(wall(START + 400 * DAY));
        assert_eq!(time.id, START + 400 * DAY);
    }

    #[test]
    fn age_follows_a_right_clock() {
        let (mut time, mut now) = (LogTime::begin(None, wall(START)), START);
        assert_eq!(run(&mut time, &mut now, 30 * DAY, 0), Plausibility::Plausible);
        assert_eq!(time.age, now);
    }

    #[test]
    fn age_catches_up_with_a_standstill_at_twice_the_pace() {
        let (mut time, mut now) = (LogTime::begin(None, wall(START)), START);
        now += 5 * DAY;
        assert_eq!(run(&mut time, &mut now, 2 * DAY, 0), Plausibility::Plausible);
        assert_eq!(time.age, START + 4 * DAY);
        assert_eq!(run(&mut time, &mut now, 4 * DAY, 0), Plausibility::Plausible);
        assert_eq!(time.age, now);
    }

    #[test]
    fn jump_ahead_ages_nothing_and_is_over_when_the_clock_is_right() {
        let (mut time, mut now) = (LogTime::begin(None, wall(START)), START);
        let year = 365 * DAYS;
        assert_eq!(run(&mut time, &mut now, DAY, year), Plausibility::Ahead);
        assert_eq!(time.age, now);
        assert_eq!(run(&mut time, &mut now, HOUR, 0), Plausibility::Plausible);
        assert_eq!(run(&mut time, &mut now, DAY, -year), Plausibility::Behind);
        assert_eq!(run(&mut time, &mut now, DAY, 0), Plausibility::Plausible);
        assert_eq!(time.age, now);
    }

    #[test]
    fn clock_that_stays_another_is_believed_after_the_time_of_keeping() {
        let (mut time, mut now) = (LogTime::begin(None, wall(START)), START);
        let year = 365 * DAYS;
        assert_eq!(run(&mut time, &mut now, 6 * DAY, year), Plausibility::Ahead);
        assert_eq!(run(&mut time, &mut now, 2 * DAY, year), Plausibility::Plausible);
        assert_eq!(time.age, now, "it has aged by running alone");
        assert_eq!(run(&mut time, &mut now, 10 * DAY, year), Plausibility::Plausible);
        assert_eq!(time.age, now);
    }

    #[test]
    fn standstill_of_months_counts_when_an_operator_accepts_the_clock() {
        let (mut time, mut now) = (LogTime::begin(None, wall(START)), START);
        now += 90 * DAY;
        assert_eq!(run(&mut time, &mut now, DAY, 0), Plausibility::Ahead);
        assert_eq!(time.age, START + DAY);
        time.accept(wall(now));
        assert_eq!(run(&mut time, &mut now, DAY, 0), Plausibility::Plausible);
        assert_eq!(time.age, now);
    }

    #[test]
    fn clock_that_is_often_a_little_ahead_gains_no_more_than_running() {
        let (mut time, mut now) = (LogTime::begin(None, wall(START)), START);
        for _ in 0..100 {
            run(&mut time, &mut now, HOUR, 6 * DAYS);
            run(&mut time, &mut now, HOUR, 0);
        }
        assert!(time.age <= now + (now - START), "{}", (time.age - now) / HOUR);
    }

    proptest! {
        #[test]
        fn age_never_grows_by_less_or_more_than_once_and_twice_the_running(
            steps in proptest::collection::vec((0..40 * DAY, any::<u64>()), 1..60), keep in 1_000..1_000 * DAY,
        ) {
            let mut time = LogTime::begin(None, wall(START));
            for (ran, now) in steps {
                let before = time;
                time.ran(ran, wall(now), Duration::from_millis(keep));
                prop_assert!(time.age >= before.age + ran && time.age <= before.age + 2 * ran);
                prop_assert_eq!(time.id, before.id + ran);
            }
        }

        #[test]
        fn id_is_bounded_whatever_the_wall_clock_says(id_time in 0..1_u64 << 47, wall: u64, ran in 0..1_u64 << 40) {
            let id = LogClock::new(id_time).id_ms(UnixMillis(wall), ran);
            prop_assert!(id <= wall && id <= id_time + ran + HOUR);
        }
    }
}
