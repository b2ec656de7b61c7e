//! One participant (base URL), as the engine calls it: what is under way, what waits, and whether it can be reached.
//!
//! While no connection can be made, one call at a time is tried. What waits here may have become pointless: whoever takes
//! it out looks.
//!
//! # Invariants
//!
//! - Decisions never wait behind prepares: each phase has its own queue and its own count.
//! - At most [`MOST_IN_FLIGHT`] requests of each phase are under way, and [`MOST_BATCHES`] while the participant takes
//!   batches; only what comes from a batch that did not count may go beyond the second.

use std::collections::{BTreeSet, VecDeque};

use unanimous_sdk::protocol::TransactionId;

use super::{Instant, batches::Batches, timers::TimerKey};
use crate::{
    transaction::{Call, Phase},
    transport::BatchFailure,
};

/// The most requests of one phase that are under way to one participant. More calls wait: a participant that hangs must
/// not cost a connection for every transaction.
pub(super) const MOST_IN_FLIGHT: usize = 256;

/// The same for a participant that takes batches: what waits meanwhile goes out together.
pub(super) const MOST_BATCHES: usize = 2;

/// A call that is to be made: the transaction, the branch's place, and what.
pub(super) type Task = (TransactionId, usize, Call);

/// What there is of the two phases, apart.
#[derive(Debug, Default)]
struct Both<T> {
    prepares: T,
    decisions: T,
}

impl<T> Both<T> {
    fn of(&mut self, phase: Phase) -> &mut T {
        match phase {
            Phase::One => &mut self.prepares,
            Phase::Two => &mut self.decisions,
        }
    }
}

/// While no connection can be made.
#[derive(Debug)]
pub(super) struct Down {
    /// How often in a row it was tried.
    pub(super) failures: u32,
    /// When it is tried again; None while a try is under way.
    pub(super) probe: Option<TimerKey>,
}

/// A request that may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) phase: Phase,
    /// How many calls it may hold.
    pub(super) calls: usize,
    /// Whether it is the next group of calls that go out together and with no others.
    pub(super) group: bool,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Some while no connection can be made.
    pub(super) down: Option<Down>,
    pub(super) batches: Batches,
    in_flight: Both<usize>,
    waiting: Both<VecDeque<Task>>,
    /// What is left of batches that did not count. The calls of a group go out together and with no others.
    groups: Both<VecDeque<VecDeque<Task>>>,
    /// Calls that were not answered and wait for their time to be made again.
    pub(super) backing_off: BTreeSet<(TransactionId, usize)>,
}

impl Lane {
    pub(super) fn wait(&mut self, task: Task) {
        self.waiting.of(task.2.phase()).push_back(task);
    }

    /// Takes back the calls of a batch that did not count: in halves if it was too large, otherwise one by one.
    pub(super) fn take_back(&mut self, phase: Phase, failure: BatchFailure, mut tasks: Vec<Task>) {
        let groups = self.groups.of(phase);
        match failure {
            BatchFailure::TooLarge if tasks.len() > 1 => {
                let second = tasks.split_off(tasks.len().div_ceil(2));
                groups.extend([tasks, second].map(VecDeque::from));
            }
            _ => groups.extend(tasks.into_iter().map(|task| VecDeque::from([task]))),
        }
    }

    /// Returns the request that may be sent now: decisions first, and groups before all else of their phase.
    pub(super) fn room(&mut self, now: Instant) -> Option<Room> {
        if self.down.is_some() {
            return None;
        }
        let most = self.batches.max_calls(now);
        let places = if most > 1 { MOST_BATCHES } else { MOST_IN_FLIGHT };
        [Phase::Two, Phase::One].into_iter().find_map(|phase| {
            let in_flight = *self.in_flight.of(phase);
            if let Some(group) = self.groups.of(phase).front() {
                let room = Room { phase, calls: most.min(group.len()), group: true };
                return (in_flight < MOST_IN_FLIGHT).then_some(room);
            }
            let free = in_flight < places && !self.waiting.of(phase).is_empty();
            free.then_some(Room { phase, calls: most, group: false })
        })
    }

    /// Takes so many calls of the next group; what is left of it stays a group.
    pub(super) fn take_group(&mut self, phase: Phase, calls: usize) -> Vec<Task> {
        let groups = self.groups.of(phase);
        let Some(group) = groups.front_mut() else { return vec![] };
        let taken = group.drain(..calls.min(group.len())).collect();
        if group.is_empty() {
            groups.pop_front();
        }
        taken
    }

    pub(super) fn peek(&mut self, phase: Phase) -> Option<Task> {
        self.waiting.of(phase).front().copied()
    }

    pub(super) fn take(&mut self, phase: Phase) -> Option<Task> {
        self.waiting.of(phase).pop_front()
    }

    /// Takes the call with which a participant that is down is tried.
    pub(super) fn take_any(&mut self) -> Option<Task> {
        [Phase::Two, Phase::One].into_iter().find_map(|phase| {
            let of_group = self.take_group(phase, 1).pop();
            of_group.or_else(|| self.take(phase))
        })
    }

    pub(super) fn sent(&mut self, phase: Phase) {
        *self.in_flight.of(phase) += 1;
    }

    pub(super) fn returned(&mut self, phase: Phase) {
        let count = self.in_flight.of(phase);
        *count = count.saturating_sub(1);
    }

    /// Returns whether nothing of it is worth keeping.
    pub(super) fn is_idle(&self) -> bool {
        self.down.is_none()
            && self.batches == Batches::default()
            && self.in_flight.prepares + self.in_flight.decisions == 0
            && [&self.waiting.prepares, &self.waiting.decisions].into_iter().all(VecDeque::is_empty)
            && [&self.groups.prepares, &self.groups.decisions].into_iter().all(VecDeque::is_empty)
            && self.backing_off.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASE: Phase = Phase::Two;

    fn tasks(count: usize) -> Vec<Task> {
        (0..count).map(|at| (TransactionId::NIL, at, Call::Commit)).collect()
    }

    /// The sizes of the requests that go out now.
    fn sizes(lane: &mut Lane) -> Vec<usize> {
        let mut sizes = vec![];
        while let Some(Room { phase, calls, group }) = lane.room(0) {
            let taken = if group { lane.take_group(phase, calls).len() } else { lane.take(phase).into_iter().count() };
            lane.sent(phase);
            sizes.push(taken);
        }
        sizes
    }

    #[test]
    fn too_large_batch_goes_out_in_halves_at_once() {
        let mut lane = Lane::default();
        lane.batches.offered(10);
        lane.sent(PHASE);
        lane.sent(PHASE);
        lane.take_back(PHASE, BatchFailure::TooLarge, tasks(5));
        assert_eq!(sizes(&mut lane), [3, 2], "although as many batches are under way as may be");
    }

    #[test]
    fn batch_of_wrong_answers_goes_out_as_single_calls() {
        let mut lane = Lane::default();
        lane.batches.offered(10);
        lane.take_back(PHASE, BatchFailure::OtherCall, tasks(3));
        assert_eq!(sizes(&mut lane), [1, 1, 1]);
    }

    #[test]
    fn group_is_no_larger_than_the_latest_header_allows() {
        let mut lane = Lane::default();
        lane.batches.offered(10);
        lane.take_back(PHASE, BatchFailure::TooLarge, tasks(10));
        lane.batches.offered(2);
        assert_eq!(sizes(&mut lane), [2, 2, 1, 2, 2, 1]);
    }

    #[test]
    fn lane_is_tried_with_one_call_of_a_group() {
        let mut lane = Lane::default();
        lane.take_back(PHASE, BatchFailure::TooLarge, tasks(4));
        assert_eq!(lane.take_any(), Some((TransactionId::NIL, 0, Call::Commit)));
        assert!(!lane.is_idle());
        assert_eq!(lane.take_group(PHASE, 9).len(), 1);
    }
}
