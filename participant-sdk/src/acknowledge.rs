//! Tells coordinators how branches ended that they have not heard of: after an inquiry's answer, and after a start.
//!
//! # Invariants
//! - What is told is durable before it is told.
//! - Nothing here relies on an answer: a branch is the same before and after.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    branch::{BranchKey, Event, State},
    http::Backoff,
    participant::Participant,
    protocol::{AcknowledgeAnswer, AcknowledgeRequest, AcknowledgedState, CoordinatorRef, Epoch, Problem, ProblemType},
    server::{How, Inner, now},
};

/// How long a branch's end is told again and again.
const TELL_FOR: Duration = Duration::from_hours(1);

/// What came of telling once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It need not be told again, or never will be taken.
    Done,
    Again,
    /// The coordinator can't be reached.
    Away,
}

/// Tells the end of one branch.
pub(crate) fn start<P: Participant>(inner: &Arc<Inner<P>>, key: BranchKey) {
    tokio::spawn(tell_all(Arc::downgrade(inner), vec![key]));
}

/// Tells the ends of these branches, one at a time.
pub(crate) fn start_all<P: Participant>(inner: &Arc<Inner<P>>, keys: Vec<BranchKey>) {
    if !keys.is_empty() {
        tokio::spawn(tell_all(Arc::downgrade(inner), keys));
    }
}

async fn tell_all<P: Participant>(inner: Weak<Inner<P>>, mut waiting: Vec<BranchKey>) {
    let (until, mut pauses) = (Instant::now() + TELL_FOR, Backoff::default());
    loop {
        // Of a coordinator that can't be reached, only one is tried in each round.
        let mut away = BTreeSet::new();
        let mut left = Vec::new();
        for key in waiting {
            let told = if away.contains(&key.coordinator) {
                Told::Away
            } else {
                let Some(inner) = inner.upgrade() else { return };
                inner.tell(&key).await
            };
            if told == Told::Away {
                away.insert(key.coordinator);
            }
            if told != Told::Done {
                left.push(key);
            }
        }
        if left.is_empty() || Instant::now() >= until {
            return;
        }
        waiting = left;
        tokio::time::sleep(pauses.next()).await;
    }
}

impl<P: Participant> Inner<P> {
    async fn tell(self: &Arc<Self>, key: &BranchKey) -> Told {
        let found = self.desk().and_then(|desk| {
            let known = desk.book.coordinator(key.coordinator)?;
            Some((desk.book.branch(key)?.clone(), known.clone()))
        });
        // Once the horizon has passed it, it isn't kept.
        let Some((branch, known)) = found else { return Told::Done };
        let state = match branch.state {
            State::Committed if branch.resolved.is_none() => AcknowledgedState::Committed,
            State::Aborted(_) if branch.resolved.is_none() => AcknowledgedState::Aborted,
            State::Committing | State::Aborting(_) => return Told::Again,
            // What an operator ended by hand may be against the decision: the coordinator hears of it when it calls.
            State::Committed
            | State::Aborted(_)
            | State::Open
            | State::Held(_)
            | State::Working
            | State::Prepared
            | State::ReadOnly
            | State::Refused(_)
            | State::Tombstone => return Told::Done,
        };
        let Ok(url) = self.check_coordinator(&known.url) else { return Told::Again };
        if self.durable(branch.lsn).await.is_err() {
            return Told::Again;
        }
        let coordinator = CoordinatorRef { id: key.coordinator, epoch: known.epoch };
        let request = AcknowledgeRequest { state, participant_id: self.origin().participant_id, coordinator };
        let _turn = self.telling.acquire().await;
        self.acknowledge(url.as_str(), key, &request).await
    }

    async fn acknowledge(self: &Arc<Self>, url: &str, key: &BranchKey, request: &AcknowledgeRequest) -> Told {
        let url = format!("{url}/v1/transactions/{}/branches/{}/acknowledge", key.transaction, key.branch);
        let call = crate::http::meant_for(self.http.client().post(&url), Some(key.coordinator));
        let response = match call.json(request).send().await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(branch = %key, why = crate::http::explain(&error), "the end of a branch couldn't be told");
                return Told::Away;
            }
        };
        let status = response.status().as_u16();
        let Ok(body) = crate::http::read(response).await else { return Told::Again };
        if status == 200 {
            return match serde_json::from_slice::<AcknowledgeAnswer>(&body) {
                Ok(AcknowledgeAnswer { transaction, branch, state })
                    if transaction == key.transaction && branch == key.branch && state == request.state =>
                {
                    tracing::info!(branch = %key, ?state, "the coordinator was told how a branch ended");
                    Told::Done
                }
                Ok(_) => {
                    self.http.close();
                    Told::Again
                }
                Err(_) => Told::Again,
            };
        }
        let problem = crate::client::problem(status, &body);
        match (status, problem.kind) {
            (404, _) | (409, ProblemType::BranchConflict) => {
                tracing::debug!(branch = %key, why = problem.detail, "the coordinator doesn't take how a branch ended");
                Told::Done
            }
            (412, ProblemType::StaleEpoch) => self.keep_epoch(key, &problem).await,
            (_, _) => Told::Again,
        }
    }

    /// Keeps the present epoch that a 412 named, within its bound. The repeat names it.
    async fn keep_epoch(self: &Arc<Self>, key: &BranchKey, problem: &Problem) -> Told {
        if let Some(epoch) = problem.members.get("epoch").and_then(|epoch| epoch.as_str()?.parse::<Epoch>().ok()) {
            let superseded = Event::Superseded { coordinator: key.coordinator, epoch, now: now() };
            let kept = self.carry_out(superseded, None, How::default()).await;
            tracing::debug!(branch = %key, %epoch, ?kept, "the coordinator has opened its log again");
        }
        Told::Again
    }
}
