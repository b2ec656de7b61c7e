//! What a participant in doubt is told, PROTOCOL §5.
//!
//! Always true: a presumed abort is answered only to who names this coordinator and an epoch under which this log was
//! opened; a decision only when it is durable; never a guess.

use unanimous_sdk::protocol::{BranchName, CoordinatorId, Decision, Epoch, Outcome, TransactionId, Vote};

use super::{Engine, Now, Refusal, Refused, View};

/// A question about a transaction's decision.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Inquiry {
    pub transaction: TransactionId,
    pub coordinator: Option<CoordinatorId>,
    pub epoch: Option<Epoch>,
    pub branch: Option<BranchName>,
}

impl Engine {
    /// The participant that asks can be reached again, perhaps: what waits for it is tried.
    pub fn heard_inquiry(&mut self, now: Now, inquiry: &Inquiry) {
        let branch = inquiry.branch.as_ref();
        let live = self.live.get(&inquiry.transaction);
        let participant =
            live.and_then(|live| live.transaction.branch(branch?)).map(|(_, branch)| branch.participant.clone());
        if let Some(participant) = participant {
            self.heard_from(now, &participant);
        }
    }

    /// Answers, given the transaction as it may be seen now; `known` is None if neither the engine nor the log has it.
    /// The bool says whether the answer is presumed.
    pub fn answer(&self, inquiry: &Inquiry, known: Option<&View>) -> Result<(Outcome, bool), Refused> {
        let refused = |why| Err(Refused::new(why));
        let mine = inquiry.coordinator.is_none_or(|id| id == self.id)
            && inquiry.epoch.is_none_or(|epoch| self.epochs.contains(&epoch));
        let Some(view) = known else {
            return match (inquiry.coordinator, inquiry.epoch) {
                (Some(_), Some(_)) if !mine => refused(Refusal::NotMyLog),
                (Some(_), Some(_)) => {
                    // Another process may know it meanwhile.
                    self.refuse_if_superseded()?;
                    Ok((Outcome::Abort, true))
                }
                (None, _) | (_, None) => refused(Refusal::NotLive),
            };
        };
        let outcome = outcome(view, inquiry.branch.as_ref());
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

fn outcome(view: &View, branch: Option<&BranchName>) -> Outcome {
    let decided = match view.decision() {
        Some(decision) => Outcome::from(decision),
        None => Outcome::Pending,
    };
    let Some(name) = branch else { return decided };
    match view.branch_vote(name) {
        // Not enlisted: it may be yet while the transaction is active, and never after.
        None if view.is_active() => Outcome::Pending,
        // What voted read-only only a doubled prepare can have left in doubt.
        None | Some(Some(Vote::ReadOnly)) => Outcome::Abort,
        Some(Some(Vote::Prepared) | None) => match view.decision() {
            Some(Decision::Commit) => Outcome::Commit,
            Some(Decision::Abort) => Outcome::Abort,
            None => Outcome::Pending,
        },
    }
}
