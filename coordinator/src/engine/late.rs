//! What comes for a transaction after its end: an acknowledgement unasked (P-5.13), and the answer to an abort that was given
//! up (P-4.31).

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use unanimous_sdk::protocol::{AbortAnswer, TransactionId};

use super::{Acknowledgement, Inquiry, Refusal, Refused, Service, View, Witness, acknowledge_finished};
use crate::{
    transaction::{Call, Event, Log, Lsn, Phase, Step, Transaction},
    transport::{Attempt, BatchContext, Message, Request},
};

/// What is under way for finished transactions.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// Held while a finished transaction is read, changed and written again: each change builds on the one before.
    amending: tokio::sync::Mutex<()>,
    /// The branches whose abort is being sent once more.
    aborting: Mutex<HashSet<(TransactionId, usize)>>,
}

impl Service {
    /// Takes what a participant says unasked: that it has obeyed. Returns when that is durable.
    ///
    /// # Errors
    /// What the transaction, as it is, does not allow; [`Refusal::NotLive`] if nobody knows it.
    pub async fn acknowledge(&self, id: TransactionId, told: &Acknowledgement) -> Result<(), Refused> {
        let refused = match self.with(|engine, now| engine.acknowledge(now, id, told)) {
            Ok(barrier) => {
                self.reached(barrier).await;
                return Ok(());
            }
            Err(refused) => refused,
        };
        if !matches!(refused.why, Refusal::NotLive) {
            return Err(refused);
        }
        self.amend(id, |transaction| acknowledge_finished(transaction, told)).await
    }

    /// Changes a finished transaction; returns when that is durable. None: nothing is to be changed.
    async fn amend(
        &self,
        id: TransactionId,
        change: impl FnOnce(Transaction) -> Result<Option<Transaction>, Refused>,
    ) -> Result<(), Refused> {
        let _turn = self.0.late.amending.lock().await;
        // Its last entry may be on its way to the log.
        let written = self.with(|engine, _| engine.written_so_far());
        self.reached(written).await;
        let transaction = self.finished(id)?.ok_or_else(|| Refused::new(Refusal::NotLive))?;
        let barrier = match change(transaction)? {
            Some(changed) => self.with(|engine, _| engine.amend(id, changed))?,
            // Whoever said it before may not have waited for the disk.
            None => self.with(|engine, _| engine.refuse_if_superseded().map(|()| engine.durable_so_far()))?,
        };
        self.reached(barrier).await;
        Ok(())
    }

    /// A participant has answered the abort of a branch of a transaction that had finished without that.
    pub(super) async fn answered_late(self, id: TransactionId, at: usize, answer: AbortAnswer) {
        let changed = |mut transaction: Transaction| {
            let mut log = Log { next: Lsn(0), sequence: 0, now: transaction.created_at };
            match transaction.step(Event::AbortAnswered(at, answer), &mut log) {
                Ok(Step::Changed(_)) => Ok(Some(transaction)),
                Ok(Step::Unchanged) | Err(_) => Ok(None),
            }
        };
        // It is asked again if it asks again.
        let _ = self.amend(id, changed).await;
    }

    /// An inquiry came for a branch whose abort was given up: the abort is sent once more, so that the participant can take
    /// it even where it takes no answer, and is heard.
    pub(super) fn abort_once_more(&self, view: &View, inquiry: &Inquiry) {
        let Some((at, branch)) = inquiry.branch.as_ref().and_then(|name| view.given_up(name)) else { return };
        let task = (inquiry.transaction, at);
        if !self.aborting().insert(task) {
            return;
        }
        let message = Message {
            call: Call::Abort,
            transaction: inquiry.transaction,
            at,
            branch: branch.name.clone(),
            participant_id: branch.participant_id,
            payload: None,
            deadline: view.deadline(),
            remaining_ms: 0,
            horizon: self.coordinator().horizon.min(inquiry.transaction),
            traceparent: None,
        };
        let participant = branch.participant.clone();
        let request = Request {
            participant: participant.clone(),
            phase: Phase::Two,
            batch: BatchContext::default(),
            messages: vec![message],
        };
        let service = self.clone();
        self.0.runtime.spawn(async move {
            let returned = service.0.transport.call(&request).await;
            service.aborting().remove(&task);
            for (_, attempt) in returned.attempts {
                match attempt {
                    Attempt::Abort(answer, _) => {
                        service.with(|engine, now| engine.abort_answered_late(now, task.0, at, answer));
                    }
                    Attempt::Stale(epoch, participant_id) => {
                        let witness = Witness { participant: participant.clone(), participant_id };
                        service.with(|engine, now| engine.claimed(now, epoch, witness));
                    }
                    // It asks again, and then it is called again.
                    _ => {}
                }
            }
        });
    }

    fn aborting(&self) -> std::sync::MutexGuard<'_, HashSet<(TransactionId, usize)>> {
        self.0.late.aborting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
