//! One participant (base URL), as the engine calls it: what is under way, what waits, and whether it can be reached.
//!
//! Always true: decisions never wait behind prepares; at most [`MOST_IN_FLIGHT`] calls of each phase are under way; while
//! no connection can be made, one call at a time is tried. What waits here may have become pointless: whoever takes it
//! out looks.

use std::collections::{HashSet, VecDeque};

use unanimous_sdk::protocol::TransactionId;

use super::timers::TimerKey;
use crate::transaction::Call;

/// The most calls of one phase that are under way to one participant. More wait: a participant that hangs must not
/// cost a connection for every transaction.
pub(super) const MOST_IN_FLIGHT: usize = 256;

/// A call that is to be made: the transaction, the branch's place, and what.
pub(super) type Task = (TransactionId, usize, Call);

/// Calls of the two phases, apart.
#[derive(Debug, Default)]
struct Phases<T> {
    prepares: T,
    decisions: T,
}

impl<T> Phases<T> {
    fn of(&mut self, call: Call) -> &mut T {
        match call {
            Call::Prepare => &mut self.prepares,
            Call::Commit | Call::Abort => &mut self.decisions,
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

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Some while no connection can be made.
    pub(super) down: Option<Down>,
    in_flight: Phases<usize>,
    waiting: Phases<VecDeque<Task>>,
    /// Calls that were not answered and wait for their time to be made again.
    pub(super) backing_off: HashSet<(TransactionId, usize)>,
}

impl Lane {
    pub(super) fn wait(&mut self, task: Task) {
        self.waiting.of(task.2).push_back(task);
    }

    /// The next call that may be made: decisions first.
    pub(super) fn next(&mut self) -> Option<Task> {
        if let Some(down) = &self.down {
            let trying = down.probe.is_none();
            if trying {
                return None;
            }
            return self.waiting.decisions.pop_front().or_else(|| self.waiting.prepares.pop_front());
        }
        if self.in_flight.decisions < MOST_IN_FLIGHT
            && let Some(task) = self.waiting.decisions.pop_front()
        {
            return Some(task);
        }
        if self.in_flight.prepares < MOST_IN_FLIGHT { self.waiting.prepares.pop_front() } else { None }
    }

    pub(super) fn sent(&mut self, call: Call) {
        *self.in_flight.of(call) += 1;
    }

    pub(super) fn returned(&mut self, call: Call) {
        let count = self.in_flight.of(call);
        *count = count.saturating_sub(1);
    }

    /// Whether nothing of it is worth keeping.
    pub(super) fn is_idle(&self) -> bool {
        self.down.is_none()
            && self.in_flight.prepares + self.in_flight.decisions == 0
            && self.waiting.prepares.is_empty()
            && self.waiting.decisions.is_empty()
            && self.backing_off.is_empty()
    }
}
