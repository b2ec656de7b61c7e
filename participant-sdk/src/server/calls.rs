//! Carrying a message out, whether it came alone or with others.
//!
//! Always true: what a message is answered doesn't depend on what it came with.

use std::{sync::Arc, time::Duration};

use super::{
    How, Inner, Stuck,
    answer::{Answer, Fault, LONGEST, Said, shorten_answer},
    now,
};
use crate::{
    branch::{BranchKey, Call, Event, Lsn, Payload, Refusal, Reply},
    failpoint,
    participant::Participant,
    protocol::{
        AbortAnswer, AnswerOrigin, BatchCall, BatchMessage, CommitAnswer, Coordinator, CoordinatorId, PrepareAnswer,
        Problem, ProblemType, WithOrigin,
    },
};

/// What has come of a message: to be told when the entry `after` is durable.
pub(super) struct Settled {
    call: BatchCall,
    origin: AnswerOrigin,
    told: Result<Result<Reply, Refusal>, Stuck>,
    /// The reason for which an operator committed the branch by hand.
    resolved: Option<String>,
    pub(super) after: Lsn,
}

impl<P: Participant> Inner<P> {
    /// Carries out a message that came alone.
    pub(super) async fn obey(
        self: &Arc<Self>,
        from: Coordinator,
        message: BatchMessage<'_>,
        traceparent: Option<Arc<str>>,
    ) -> Answer {
        let origin = AnswerOrigin {
            transaction: Some(message.transaction),
            branch: Some(message.branch.clone()),
            ..self.origin()
        };
        self.check_coordinator(&from.url).map_err(|problem| Fault::from(problem).of(&origin))?;
        let how = How { traceparent, ..How::default() };
        let settled = self.settle_message(from, message, how).await?;
        let durable = self.durable(settled.after).await;
        durable.map_err(|stuck| Fault::from(stuck).of(&settled.origin))?;
        settled.answer()
    }

    /// Returns the reason for which an operator ended a branch by hand.
    fn resolved(&self, coordinator: CoordinatorId, of: &AnswerOrigin) -> Option<String> {
        let key = BranchKey { coordinator, transaction: of.transaction?, branch: of.branch.clone()? };
        self.desk()?.book.branch(&key)?.resolved.clone()
    }

    /// Returns who answers here: all that is known of an answer's origin where the call can't be read.
    pub(crate) fn origin(&self) -> AnswerOrigin {
        AnswerOrigin { participant_id: self.participant_id.get().copied().flatten(), ..AnswerOrigin::default() }
    }

    /// Carries a message out, up to where it is to be made durable. The coordinator was looked at before.
    pub(super) async fn settle_message(
        self: &Arc<Self>,
        from: Coordinator,
        message: BatchMessage<'_>,
        how: How,
    ) -> Result<Settled, Fault> {
        let origin = AnswerOrigin {
            transaction: Some(message.transaction),
            branch: Some(message.branch.clone()),
            ..self.origin()
        };
        let (call, coordinator) = (message.call, from.id);
        let (event, how) = read(from, message, how).map_err(|problem| Fault::from(problem).of(&origin))?;
        Ok(match self.settle(event, None, how).await {
            Ok(step) => {
                let resolved = match step.answer {
                    Err(Refusal::IsCommitted) => self.resolved(coordinator, &origin),
                    Ok(_) | Err(_) => None,
                };
                Settled { call, origin, after: step.after, told: Ok(step.answer), resolved }
            }
            Err(stuck) => Settled { call, origin, after: Lsn::default(), told: Err(stuck), resolved: None },
        })
    }
}

/// Reads what a message asks for.
fn read(from: Coordinator, message: BatchMessage<'_>, mut how: How) -> Result<(Event, How), Problem> {
    let BatchMessage { call, transaction, branch, participant_id, payload, deadline, remaining_ms, .. } = message;
    let (point, told) = match call {
        BatchCall::Prepare => {
            let lacks = |member| {
                let what = format!("the prepare is not what is expected: missing field `{member}`");
                Problem::new(ProblemType::Malformed, what)
            };
            deadline.ok_or_else(|| lacks("deadline"))?;
            // By what the coordinator says is left, not by the deadline: its clock needn't agree with this one.
            let remaining_ms = remaining_ms.ok_or_else(|| lacks("remaining_ms"))?;
            how.remaining = Duration::from_millis(remaining_ms);
            let payload = payload.map(|text| {
                let what = "`payload` has a member twice";
                Payload::parse(text.get()).ok_or_else(|| Problem::new(ProblemType::Malformed, what))
            });
            ("on-prepare", Call::Prepare { payload: payload.transpose()?, late: remaining_ms == 0 })
        }
        BatchCall::Commit => ("on-commit", Call::Commit),
        BatchCall::Abort => ("on-abort", Call::Abort),
    };
    failpoint::hit(point);
    Ok((Event::Told { from, transaction, branch, call: told, meant_for: participant_id, now: now() }, how))
}

impl Settled {
    /// What is to be told, now that it may be.
    pub(super) fn answer(self) -> Answer {
        failpoint::hit(match self.call {
            BatchCall::Prepare => "before-prepare-answer",
            BatchCall::Commit => "before-commit-answer",
            BatchCall::Abort => "before-abort-answer",
        });
        let mut answer = self.say();
        shorten_answer(&mut answer, LONGEST);
        answer
    }

    fn say(self) -> Answer {
        let Self { call, origin, told, resolved, after: _ } = self;
        let told = told.map_err(|stuck| Fault::from(stuck).of(&origin))?;
        let prepare = |answer, origin| Ok(Said::Prepare(WithOrigin { answer, origin }));
        let commit = |answer, origin| Ok(Said::Commit(WithOrigin { answer, origin }));
        let abort = |answer, origin| Ok(Said::Abort(WithOrigin { answer, origin }));
        match (call, told) {
            (BatchCall::Prepare, Ok(Reply::Voted(vote))) => prepare(PrepareAnswer::Vote(vote), origin),
            (BatchCall::Prepare, Ok(Reply::Refused(why))) => {
                prepare(PrepareAnswer::Refused { reason: Some(why) }, origin)
            }
            (BatchCall::Commit, Ok(Reply::Committed)) => commit(CommitAnswer::Committed, origin),
            (BatchCall::Commit, Err(Refusal::IsAborted { why })) => {
                commit(CommitAnswer::HeuristicAbort { detail: Some(why) }, origin)
            }
            (BatchCall::Commit, Err(Refusal::UnknownBranch)) => commit(CommitAnswer::UnknownBranch, origin),
            (BatchCall::Abort, Ok(Reply::Aborted)) => abort(AbortAnswer::Aborted, origin),
            (BatchCall::Abort, Err(Refusal::IsCommitted)) => {
                let detail = resolved.map_or_else(
                    || "the branch is committed, and can't be undone".to_owned(),
                    |reason| format!("the branch is committed, as an operator ended it by hand: {reason}"),
                );
                let detail = Some(detail);
                abort(AbortAnswer::HeuristicCommit { detail }, origin)
            }
            (
                _,
                Err(
                    refusal @ (Refusal::StaleEpoch { .. }
                    | Refusal::Implausible { .. }
                    | Refusal::Misdirected { .. }
                    | Refusal::TooManyCoordinators
                    | Refusal::PayloadDiffers),
                ),
            ) => Err(Fault::from(refused(&refusal)).of(&origin)),
            // What can't follow from a call. Said, not panicked over: no answer, and the coordinator asks again.
            (call, other) => {
                tracing::error!(?call, told = ?other, "the branch machine gave an answer that doesn't belong to the call");
                Err(Fault::Internal { what: "the participant can't answer this call", origin })
            }
        }
    }
}

/// Returns what a message is answered that the branch machine refuses. The branch is as it was.
pub(crate) fn refused(refusal: &Refusal) -> Problem {
    match refusal {
        Refusal::StaleEpoch { coordinator, epoch } => {
            let what = format!("the coordinator {coordinator} has opened its log again since, under the epoch {epoch}");
            Problem::new(ProblemType::StaleEpoch, what).with("epoch", epoch).with("coordinator", coordinator)
        }
        Refusal::Implausible { field } => {
            let what = match *field {
                "coordinator.epoch" => {
                    "the time in `coordinator.epoch` is more than one hour ahead of this participant's clock: one of the \
                     two clocks is wrong; nothing was kept"
                }
                _ => {
                    "`coordinator.horizon` lies above the transaction of the message, which then would be finished; \
                     nothing was kept"
                }
            };
            Problem::new(ProblemType::Implausible, what).with("field", field)
        }
        Refusal::Misdirected { participant_id } => {
            let what = format!(
                "`participant_id` names another store than the one that answers here, {participant_id}; nothing was changed"
            );
            Problem::new(ProblemType::Misdirected, what)
        }
        Refusal::TooManyCoordinators => Problem::new(
            ProblemType::ForbiddenCoordinator,
            "as many coordinators are known here as may be that are not configured by name, and of each a branch is kept; \
             the participant's operator can name those that it obeys in `coordinators`",
        ),
        Refusal::PayloadDiffers => Problem::new(
            ProblemType::Invalid,
            "`payload` differs from that of the branch's first prepare; nothing was changed",
        ),
        Refusal::UnknownBranch => {
            Problem::new(ProblemType::UnknownBranch, "there is no trace here of a vote of this branch")
        }
        Refusal::IsAborted { why } => Problem::new(ProblemType::Aborted, format!("the branch is aborted: {why}")),
        Refusal::IsCommitted => Problem::new(ProblemType::Committed, "the branch is committed, and can't be undone"),
        Refusal::NameUsed => Problem::new(ProblemType::BranchConflict, "the branch's name was used before"),
    }
}

impl From<Stuck> for Fault {
    fn from(stuck: Stuck) -> Self {
        match stuck {
            Stuck::NotReady(why) => Problem::new(ProblemType::NotReady, why).into(),
            Stuck::Busy => {
                let what = "the application is still at work for this branch; ask again";
                Problem::new(ProblemType::NotReady, what).into()
            }
            Stuck::Failed => {
                let what = "the application panicked; its log tells where. Ask again";
                Self::Internal { what, origin: AnswerOrigin::default() }
            }
        }
    }
}
