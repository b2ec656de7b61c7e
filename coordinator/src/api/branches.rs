//! Enlisting participants, and their unsolicited votes.

use axum::{
    Json,
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use unanimous_sdk::protocol::{
    BranchName, CoordinatorRef, EnlistAnswer, ParticipantUrl, Problem, ProblemType, TransactionId, Vote,
};

use super::{
    App, body,
    problem::{Failure, marked, plain, refusal, unknown},
};
use crate::{
    engine::{Enlist, Refusal, Refused, Service, ask_finished, bound_in},
    transaction::{Event, KeyedCall, Payload, Transaction},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BranchBody {
    participant: ParticipantUrl,
    branch: Option<BranchName>,
    payload: Option<Box<RawValue>>,
    vote: Option<Vote>,
    coordinator: Option<CoordinatorRef>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VoteBody {
    vote: Vote,
    coordinator: CoordinatorRef,
}

fn malformed(detail: String) -> Problem {
    Problem::new(ProblemType::Malformed, detail)
}

impl BranchBody {
    /// A branch that is given when its transaction begins: nobody can have prepared it yet.
    pub(super) fn at_begin(
        self,
        app: &App,
        at: usize,
    ) -> Result<(Option<BranchName>, ParticipantUrl, Option<Payload>), Problem> {
        if self.vote.is_some() || self.coordinator.is_some() {
            let detail = format!(
                "`branches[{at}].vote`: a vote stands only at an enlistment, by who has prepared under the branch's name"
            );
            return Err(malformed(detail));
        }
        app.0.allow.check(&self.participant, &format!("branches[{at}].participant"))?;
        let payload = body::payload(self.payload, &format!("branches[{at}].payload"))?;
        Ok((self.branch, self.participant, payload))
    }

    fn enlist(self, app: &App) -> Result<Enlist, Problem> {
        let vote = match (self.vote, self.coordinator, &self.branch) {
            (None, _, _) => None,
            (Some(vote), Some(named), Some(_)) => Some((vote, named)),
            (Some(_), _, None) => {
                return Err(malformed("`branch`: who votes names the branch under which the work was prepared".to_owned()));
            }
            (Some(_), None, _) => {
                return Err(malformed(
                    "`coordinator`: a vote names the coordinator's id and epoch, as it was kept with the vote".to_owned(),
                ));
            }
        };
        app.0.allow.check(&self.participant, "participant")?;
        let payload = body::payload(self.payload, "payload")?;
        Ok(Enlist { name: self.branch, participant: self.participant, payload, vote, key: None })
    }
}

pub(super) async fn enlist(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let service = app.service_for_work()?;
    let id = body::transaction_id(&id?)?;
    let (body, key): (BranchBody, _) = body::read(&app, &headers, body, &["coordinator"]).await?;
    let enlist = Enlist { key, ..body.enlist(&app)? };
    let again = enlist.clone();
    let enlisted = match service.with(|engine, now| engine.enlist(now, id, enlist)) {
        Ok(enlisted) => enlisted,
        Err(refused) => {
            let transaction = finished(service, id, refused).await?;
            match again.in_finished(transaction, app.0.limits.branches) {
                Ok(enlisted) => enlisted,
                Err(refused) => return Err(refusal(service, id, refused).await),
            }
        }
    };
    service.reached(enlisted.barrier).await;
    let answer = EnlistAnswer {
        branch: enlisted.name,
        deadline: enlisted.deadline,
        remaining_ms: enlisted.remaining_ms,
        coordinator: service.coordinator(),
    };
    let status = if enlisted.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(marked((status, Json(answer)).into_response(), enlisted.replayed))
}

pub(super) async fn vote(
    State(app): State<App>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let service = app.service_for_work()?;
    let Path((id, branch)) = path?;
    let id = body::transaction_id(&id)?;
    let branch = body::branch_name(&branch)?;
    let (VoteBody { vote, coordinator }, key) = body::read(&app, &headers, body, &["coordinator"]).await?;
    let voted = service.with(|engine, now| engine.vote(now, id, branch.clone(), vote, &coordinator, key.clone()));
    let replayed = match voted {
        Ok((barrier, replayed)) => {
            service.reached(barrier).await;
            replayed
        }
        Err(refused) => {
            let mut transaction = finished(service, id, refused).await?;
            let bound = bound_in(&transaction, key.as_ref(), &KeyedCall::Vote(branch.clone()));
            let replayed = bound.map_err(|refused| plain(refused.why))?.is_some();
            if let Err(refused) = ask_finished(&mut transaction, Event::Vote { branch: branch.clone(), vote }) {
                return Err(refusal(service, id, refused).await);
            }
            replayed
        }
    };
    let answer = json!({ "branch": branch, "vote": vote, "coordinator": service.coordinator() });
    Ok(marked(Json(answer).into_response(), replayed))
}

/// The transaction, if it was refused because it has finished; else the refusal.
async fn finished(service: &Service, id: TransactionId, refused: Refused) -> Result<Transaction, Failure> {
    if !matches!(refused.why, Refusal::NotLive) {
        return Err(refusal(service, id, refused).await);
    }
    service.finished(id).map_err(|refused| plain(refused.why))?.ok_or_else(|| unknown(service, id))
}
