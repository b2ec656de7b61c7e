//! One participant (base URL), as the engine calls it: what is under way, what waits, and whether it can be reached.
//!
//! Always true: decisions never wait behind prepares; at most [`MOST_IN_FLIGHT`] requests of each phase are under way, and
//! [`MOST_BATCHES`] if it takes batches; while no connection can be made, one call at a time is tried. What waits here may have become pointless: whoever takes it
//! out looks.

use std::collections::{BTreeSet, VecDeque};

use unanimous_sdk::protocol::TransactionId;

use super::timers::TimerKey;
use crate::transaction::{Call, Phase};

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

/// Whether a participant takes several calls in one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Batches {
    /// It has said nothing of it.
    #[default]
    Unknown,
    /// It takes at most so many.
    Most(usize),
    /// It said so, and then would not.
    Refused,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Some while no connection can be made.
    pub(super) down: Option<Down>,
    pub(super) batches: Batches,
    in_flight: Both<usize>,
    waiting: Both<VecDeque<Task>>,
    /// Calls that were not answered and wait for their time to be made again.
    pub(super) backing_off: BTreeSet<(TransactionId, usize)>,
}

impl Lane {
    pub(super) fn wait(&mut self, task: Task) {
        self.waiting.of(task.2.phase()).push_back(task);
    }

    /// The phase of which a request may be sent: decisions first.
    pub(super) fn ready(&mut self) -> Option<Phase> {
        let most = match self.batches {
            Batches::Most(_) => MOST_BATCHES,
            Batches::Unknown | Batches::Refused => MOST_IN_FLIGHT,
        };
        let free = [Phase::Two, Phase::One].into_iter();
        free.filter(|_| self.down.is_none())
            .find(|phase| *self.in_flight.of(*phase) < most && !self.waiting.of(*phase).is_empty())
    }

    /// How many calls a request may hold.
    pub(super) fn most(&self) -> usize {
        match self.batches {
            Batches::Most(most) => most,
            Batches::Unknown | Batches::Refused => 1,
        }
    }

    pub(super) fn take(&mut self, phase: Phase) -> Option<Task> {
        self.waiting.of(phase).pop_front()
    }

    /// The call with which a participant that is down is tried.
    pub(super) fn take_any(&mut self) -> Option<Task> {
        self.take(Phase::Two).or_else(|| self.take(Phase::One))
    }

    pub(super) fn sent(&mut self, phase: Phase) {
        *self.in_flight.of(phase) += 1;
    }

    pub(super) fn returned(&mut self, phase: Phase) {
        let count = self.in_flight.of(phase);
        *count = count.saturating_sub(1);
    }

    /// Whether nothing of it is worth keeping.
    pub(super) fn is_idle(&self) -> bool {
        self.down.is_none()
            && self.batches == Batches::Unknown
            && self.in_flight.prepares + self.in_flight.decisions == 0
            && self.waiting.prepares.is_empty()
            && self.waiting.decisions.is_empty()
            && self.backing_off.is_empty()
    }
}
