//! The answer to a participant in doubt, P-5.5 to P-5.14.
//!
//! # Invariants
//!
//! - Abort is presumed only for an asker that names this coordinator and epochs under which this log was opened, and only
//!   of an id that retention cannot have dropped.
//! - A decision is answered only when it is durable, and a commit never to another store than the one that voted.

use unanimous_sdk::protocol::{BranchName, CoordinatorId, Epoch, Outcome, ParticipantId, TransactionId, Vote};

use super::{Engine, Now, Refusal, Refused, View};
use crate::transaction::NotAllowed;

/// A question about a transaction's decision.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Inquiry {
    pub transaction: TransactionId,
    pub coordinator: Option<CoordinatorId>,
    /// The highest epoch that the asker knows.
    pub epoch: Option<Epoch>,
    pub branch: Option<BranchName>,
    /// The asker's store.
    pub participant_id: Option<ParticipantId>,
    /// The epoch under which the branch was prepared.
    pub prepared_epoch: Option<Epoch>,
}

impl Engine {
    /// The participant that asks can be reached again, perhaps: what waits for it is tried.
    pub fn heard_inquiry(&mut self, now: Now, inquiry: &Inquiry) {
        let branch = inquiry.branch.as_ref();
        let live = self.live.get(&inquiry.transaction);
        let found = live.and_then(|live| live.transaction.branch(branch?));
        // Another store than that of the branch says nothing about the branch's participant.
        let Some((at, branch)) = found.filter(|(_, branch)| !branch.is_other_store(inquiry.participant_id)) else {
            return;
        };
        let participant = branch.participant.clone();
        self.try_held(now, inquiry.transaction, at);
        self.heard_from(now, &participant);
    }

    /// Whether retention may have dropped a transaction of this id.
    fn has_forgotten(&self, id: TransactionId) -> bool {
        self.forgotten != TransactionId::NIL && id <= self.forgotten
    }

    /// Answers, given the transaction as it may be seen now; `known` is None if neither the engine nor the log has it.
    /// The bool says whether the answer is presumed.
    pub fn answer(&self, inquiry: &Inquiry, known: Option<&View>) -> Result<(Outcome, bool), Refused> {
        let refused = |why| Err(Refused::new(why));
        let had = |epoch: Option<Epoch>| epoch.is_none_or(|epoch| self.epochs.contains(&epoch));
        let mine = inquiry.coordinator.is_none_or(|id| id == self.id) && had(inquiry.epoch);
        let Some(view) = known else {
            return match (inquiry.coordinator, inquiry.epoch) {
                // A log that was put back to an earlier state knows the present epoch, and not the lost one.
                (Some(_), Some(_)) if !mine || !had(inquiry.prepared_epoch) => refused(Refusal::NotMyLog),
                (Some(_), Some(_)) if self.has_forgotten(inquiry.transaction) => refused(Refusal::Forgotten),
                (Some(_), Some(_)) => {
                    // Another process may know it meanwhile.
                    self.refuse_if_superseded()?;
                    self.refuse_while_confirming()?;
                    Ok((Outcome::Abort, true))
                }
                (None, _) | (_, None) => refused(Refusal::NotLive),
            };
        };
        let outcome = outcome(view, inquiry)?;
        match outcome {
            // A commit that is in the log is one, whoever asks.
            Outcome::Commit => Ok((outcome, false)),
            Outcome::Abort | Outcome::Pending if !mine => refused(Refusal::NotMyLog),
            Outcome::Abort | Outcome::Pending => {
                if view.decision().is_none() {
                    self.refuse_if_superseded()?;
                }
                Ok((outcome, false))
            }
        }
    }
}

fn outcome(view: &View, inquiry: &Inquiry) -> Result<Outcome, Refused> {
    let decided = match view.decision() {
        Some(decision) => Outcome::from(decision),
        None => Outcome::Pending,
    };
    let Some(name) = &inquiry.branch else { return Ok(decided) };
    let Some(branch) = view.branch(name) else {
        // Not enlisted: it may be yet while the transaction is active, and never after.
        return Ok(if view.is_active() { Outcome::Pending } else { Outcome::Abort });
    };
    match (branch.participant_id, inquiry.participant_id) {
        // Neither answer would be safe: the asker may be the store that voted, or not.
        (Some(_), None) => Err(Refused::new(Refusal::NotAllowed(NotAllowed::BranchConflict(name.clone())))),
        // Its vote was never counted, and never will be.
        (Some(counted), Some(asker)) if counted != asker => Ok(Outcome::Abort),
        // What voted read-only only a doubled prepare can have left in doubt.
        (Some(_) | None, _) if branch.vote == Some(Vote::ReadOnly) => Ok(Outcome::Abort),
        (Some(_) | None, _) => Ok(decided),
    }
}
