//! Enlisting participants, and their unsolicited votes.

use axum::{
    Json,
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use unanimous_sdk::protocol::{
    BranchName, CoordinatorRef, EnlistAnswer, ParticipantId, ParticipantUrl, Problem, ProblemType, TransactionId, Vote,
    VoteAnswer,
};
use utoipa::ToSchema;

use super::{
    App, body, openapi as docs,
    problem::{Failure, marked, plain, reached, refusal, unknown},
};
use crate::{
    engine::{Enlist, Refusal, Refused, Service, ask_finished, bound_in},
    transaction::{Event, KeyedCall, Payload, StoreVote, Transaction},
};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "participant": "http://127.0.0.1:8081/north", "payload": { "account": "ann", "cents": -500 } }))]
pub(super) struct BranchBody {
    /// Its base URL: http or https, without user, query or fragment.
    #[schema(value_type = String, format = "uri")]
    participant: ParticipantUrl,
    /// 1 to 64 of `A-Z a-z 0-9 . _ -`, the first a letter or digit; without it, it gets a number.
    #[schema(value_type = Option<docs::BranchName>)]
    branch: Option<BranchName>,
    /// The work, to be done at prepare. A branch without one has done it before.
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// Only at an enlistment, with a chosen `branch` and the `coordinator`: the work is prepared already.
    #[schema(value_type = Option<docs::Vote>)]
    vote: Option<Vote>,
    /// Only beside `vote`: the store that has prepared, if it has an id.
    #[schema(value_type = Option<docs::ParticipantId>)]
    participant_id: Option<ParticipantId>,
    #[schema(value_type = Option<docs::CoordinatorRef>)]
    coordinator: Option<CoordinatorRef>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VoteBody {
    #[schema(value_type = docs::Vote)]
    vote: Vote,
    /// The store that has prepared, if it has an id.
    #[schema(value_type = Option<docs::ParticipantId>)]
    participant_id: Option<ParticipantId>,
    #[schema(value_type = docs::CoordinatorRef)]
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
        if self.vote.is_some() || self.coordinator.is_some() || self.participant_id.is_some() {
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
            (None, ..) if self.participant_id.is_some() => {
                return Err(malformed("`participant_id`: it stands beside a `vote` only".to_owned()));
            }
            (None, Some(_), _) => return Err(malformed("`coordinator`: it stands beside a `vote` only".to_owned())),
            (None, None, _) => None,
            (Some(vote), Some(named), Some(_)) => {
                Some((StoreVote { vote, participant_id: self.participant_id }, named))
            }
            (Some(_), _, None) => {
                return Err(malformed(
                    "`branch`: who votes names the branch under which the work was prepared".to_owned(),
                ));
            }
            (Some(_), None, _) => {
                return Err(malformed(
                    "`coordinator`: a vote names the coordinator's id and epoch, as it was kept with the vote"
                        .to_owned(),
                ));
            }
        };
        app.0.allow.check(&self.participant, "participant")?;
        let payload = body::payload(self.payload, "payload")?;
        Ok(Enlist { name: self.branch, participant: self.participant, payload, vote, key: None })
    }
}

/// Enlists a participant: 201, or 200 if it was enlisted already.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/branches", tag = "branches", request_body = BranchBody,
    params(
        ("id" = docs::TransactionId, Path, description = "the transaction's id"),
        docs::Keyed,
    ),
    responses(
        (status = 201, description = "enlisted", body = docs::Enlisted),
        (status = 200, description = "it was enlisted already", body = docs::Enlisted),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden-participant`: not on the allow-list", body = docs::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown-transaction`, or `unknown-branch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 409, description = "the transaction doesn't allow it, and is shown as the member `transaction`; or `not-my-log`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 412, description = "`stale-epoch`: the present one is the member `epoch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 413, description = "`too-large`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported-media-type`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid`: a number or a size out of its range; or `key-reused`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
    )
)]
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
    reached(service, enlisted.barrier).await?;
    let answer = EnlistAnswer {
        transaction: id,
        branch: enlisted.name,
        deadline: enlisted.deadline,
        remaining_ms: enlisted.remaining_ms,
        coordinator: service.coordinator(),
    };
    let status = if enlisted.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(marked((status, Json(answer)).into_response(), enlisted.replayed))
}

/// Takes an unsolicited vote: the work is prepared, and no prepare call will follow.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/branches/{branch}/vote", tag = "branches", request_body = VoteBody,
    params(
        ("id" = docs::TransactionId, Path, description = "the transaction's id"),
        ("branch" = docs::BranchName, Path, description = "the branch's name"),
        docs::Keyed,
    ),
    responses(
        (status = 200, description = "counted, now or before", body = docs::Voted),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown-transaction`, or `unknown-branch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 409, description = "the transaction doesn't allow it, and is shown as the member `transaction`; or `not-my-log`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 412, description = "`stale-epoch`: the present one is the member `epoch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 413, description = "`too-large`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported-media-type`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid`: a number or a size out of its range; or `key-reused`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
    )
)]
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
    let (body, key) = body::read(&app, &headers, body, &["coordinator"]).await?;
    let VoteBody { vote: given, participant_id, coordinator } = body;
    let vote = StoreVote { vote: given, participant_id };
    let voted = service.with(|engine, now| engine.vote(now, id, &branch, vote, &coordinator, key.clone()));
    let replayed = match voted {
        Ok((barrier, replayed)) => {
            reached(service, barrier).await?;
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
    let answer = VoteAnswer { transaction: id, branch, vote: given, coordinator: service.coordinator() };
    Ok(marked(Json(answer).into_response(), replayed))
}

/// The transaction, if it was refused because it has finished; else the refusal.
async fn finished(service: &Service, id: TransactionId, refused: Refused) -> Result<Transaction, Failure> {
    if !matches!(refused.why, Refusal::NotLive) {
        return Err(refusal(service, id, refused).await);
    }
    service.finished(id).map_err(|refused| plain(refused.why))?.ok_or_else(|| unknown(service, id))
}
