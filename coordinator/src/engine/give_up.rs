//! Giving up the abort of a branch that can never commit (P-4.31): one mistyped URL would hold everybody's horizon for ever.
//!
//! # Invariants
//!
//! - A commit is never given up, nor the abort of a branch that voted while its own store may still answer.
//! - The time runs while the process runs: from the decision, or from the start.

use unanimous_sdk::protocol::{AbortAnswer, TransactionId};

use super::{Engine, Now, Output, Timer};
use crate::transaction::{BranchState, Event, State};

impl Engine {
    /// Sets the time at which the aborts of a transaction are given up, once it is decided to abort.
    pub(super) fn watch_abort(&mut self, now: Now, id: TransactionId) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if live.transaction.state == State::Aborting && live.timer.is_none() {
            let at = now.mono.saturating_add(self.limits.give_up_abort_ms);
            live.timer = Some(self.timers.set(at, Timer::GiveUp(id)));
        }
    }

    /// The time of a transaction's aborts has passed.
    pub(super) fn give_up(&mut self, now: Now, id: TransactionId) {
        let Some(live) = self.live.get_mut(&id) else { return };
        live.timer = None;
        live.aborts_are_overdue = true;
        for at in 0..live.transaction.branches.len() {
            self.give_up_branch(now, id, at);
        }
    }

    /// Gives up the abort of one branch, if its time has passed and it may be.
    pub(super) fn give_up_branch(&mut self, now: Now, id: TransactionId, at: usize) {
        let Some(live) = self.live.get(&id) else { return };
        if !live.aborts_are_overdue || live.transaction.branches[at].state != BranchState::Aborting {
            return;
        }
        let delivery = self.delivery_in_place(id, at);
        let other_store = live.deliveries[at].other_store;
        if self.feed(now, id, Event::GiveUp { branch: at, other_store }) == Ok(true) {
            self.end_delivery(delivery);
        }
    }

    /// A participant has answered the abort of a branch after all that was given up, or of a finished transaction.
    pub fn abort_answered_late(&mut self, now: Now, id: TransactionId, at: usize, answer: AbortAnswer) {
        match self.live.get(&id) {
            Some(live) if !live.transaction.state.is_finished() => {
                let _ = self.feed(now, id, Event::AbortAnswered(at, answer));
            }
            Some(_) | None => self.outputs.push(Output::AnsweredLate { id, branch: at, answer }),
        }
    }
}
