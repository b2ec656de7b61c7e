//! The protocol's calls over HTTP.
//!
//! Always true: every error is a problem that says what to do; nothing from outside makes it panic.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRequest, Query, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Inner, Stuck, now};
use crate::{
    branch::{Call, Event, Payload, Refusal, Reply},
    failpoint,
    participant::Participant,
    protocol::{
        AbortAnswer, CommitAnswer, Coordinator, DecisionRequest, HeldBranch, MAX_ANSWER_BYTES, MAX_JSON_DEPTH,
        PrepareAnswer, PrepareRequest, Problem, ProblemType, json_depth_exceeds,
    },
};

/// The largest body that is taken: 1 MiB.
const BODY_LIMIT: usize = 1 << 20;

type Shared<P> = State<Arc<Inner<P>>>;
type Answer = Result<Response, Fault>;

/// What goes wrong: as the protocol names it, or inside.
enum Fault {
    Problem(Problem),
    Internal(&'static str),
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem_response(&problem),
            Self::Internal(what) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let body = serde_json::json!({ "type": "about:blank", "title": "The participant failed", "status": 500, "detail": what });
                json_response(status, Problem::MEDIA_TYPE, serde_json::to_vec(&body).unwrap_or_default())
            }
        }
    }
}

pub(super) fn router<P: Participant>(inner: Arc<Inner<P>>) -> Router {
    Router::new()
        .route("/prepare", post(prepare::<P>))
        .route("/commit", post(commit::<P>))
        .route("/abort", post(abort::<P>))
        .route("/branches", get(branches::<P>))
        .fallback(|| async {
            let what = "a participant serves POST prepare, commit and abort, and GET branches, under its base URL";
            problem_response(&Problem::new(ProblemType::NotFound, what))
        })
        .method_not_allowed_fallback(|| async {
            let what = "prepare, commit and abort are POST, branches is GET";
            problem_response(&Problem::new(ProblemType::MethodNotAllowed, what))
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(inner.clone(), ready_only::<P>))
        .with_state(inner)
}

async fn ready_only<P: Participant>(State(inner): Shared<P>, request: Request, next: Next) -> Response {
    match inner.not_ready() {
        Some(why) => problem_response(&Problem::new(ProblemType::NotReady, why)),
        None => next.run(request).await,
    }
}

/// A problem as an HTTP response.
pub(crate) fn problem_response(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_response(status, Problem::MEDIA_TYPE, serde_json::to_vec(problem).unwrap_or_default())
}

fn json_response(status: StatusCode, media: &'static str, body: Vec<u8>) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn answer((status, body): (u16, serde_json::Value)) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_response(status, "application/json", serde_json::to_vec(&body).unwrap_or_default())
}

/// A body: JSON, not too large, not too deep, and with these members. Others are ignored.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let media =
            request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").to_ascii_lowercase());
        let media = media.as_deref().map(|media| media.split(';').next().unwrap_or_default().trim());
        if let Some(media) = media
            && media != "application/json"
            && !media.ends_with("+json")
        {
            let what = format!("the body's Content-Type is {media:?}; it must be application/json");
            return Err(Problem::new(ProblemType::UnsupportedMediaType, what).into());
        }
        let bytes =
            axum::body::Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    Problem::new(ProblemType::TooLarge, format!("the body is larger than {BODY_LIMIT} bytes"))
                }
                _ => Problem::new(ProblemType::Malformed, format!("the body can't be read: {rejection}")),
            })?;
        if json_depth_exceeds(&bytes, MAX_JSON_DEPTH) {
            let what = format!("the body is nested deeper than {MAX_JSON_DEPTH} arrays and objects");
            return Err(Problem::new(ProblemType::Malformed, what).into());
        }
        // serde would take an array of the members, too.
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(Problem::new(ProblemType::Malformed, "the body is not a JSON object").into());
        }
        let value = serde_json::from_slice(&bytes);
        Ok(Self(value.map_err(|error| {
            Problem::new(ProblemType::Malformed, format!("the body is not what is expected: {error}"))
        })?))
    }
}

async fn prepare<P: Participant>(State(inner): Shared<P>, Body(request): Body<PrepareRequest>) -> Answer {
    let PrepareRequest { transaction, branch, coordinator, payload, deadline: _, remaining_ms } = request;
    let payload = payload.map(|text| {
        let what = "`payload` has a member twice";
        Payload::parse(text.get()).ok_or_else(|| Problem::new(ProblemType::Malformed, what))
    });
    // By what the coordinator says is left, not by the deadline: its clock needn't agree with this one.
    let call = Call::Prepare { payload: payload.transpose()?, late: remaining_ms == 0, now: now() };
    let told = tell(&inner, coordinator, transaction, branch, call, Duration::from_millis(remaining_ms)).await?;
    let vote = match told {
        Ok(Reply::Voted(vote)) => PrepareAnswer::Vote(vote),
        Ok(Reply::Refused(why)) => PrepareAnswer::Refused { reason: Some(shorten(&why)) },
        other => return Err(unexpected("prepare", &other)),
    };
    Ok(answer(vote.to_parts()))
}

async fn commit<P: Participant>(State(inner): Shared<P>, Body(request): Body<DecisionRequest>) -> Answer {
    let DecisionRequest { transaction, branch, coordinator } = request;
    let ended = match tell(&inner, coordinator, transaction, branch, Call::Commit, Duration::ZERO).await? {
        Ok(Reply::Committed) => CommitAnswer::Committed,
        Err(Refusal::IsAborted { why }) => CommitAnswer::HeuristicAbort { detail: Some(shorten(&why)) },
        other => return Err(unexpected("commit", &other)),
    };
    ended.to_parts().map(answer).ok_or_else(|| unexpected("commit", &Err(Refusal::UnknownBranch)))
}

async fn abort<P: Participant>(State(inner): Shared<P>, Body(request): Body<DecisionRequest>) -> Answer {
    let DecisionRequest { transaction, branch, coordinator } = request;
    let ended = match tell(&inner, coordinator, transaction, branch, Call::Abort, Duration::ZERO).await? {
        Ok(Reply::Aborted) => AbortAnswer::Aborted,
        Err(Refusal::IsCommitted) => {
            AbortAnswer::HeuristicCommit { detail: Some("the branch is committed, and can't be undone".to_owned()) }
        }
        other => return Err(unexpected("abort", &other)),
    };
    Ok(answer(ended.to_parts()))
}

async fn tell<P: Participant>(
    inner: &Arc<Inner<P>>,
    from: Coordinator,
    transaction: crate::protocol::TransactionId,
    branch: crate::protocol::BranchName,
    call: Call,
    remaining: Duration,
) -> Result<Result<Reply, Refusal>, Fault> {
    inner.check_coordinator(&from.url)?;
    let (before, after) = match call {
        Call::Prepare { .. } => ("on-prepare", "before-prepare-answer"),
        Call::Commit => ("on-commit", "before-commit-answer"),
        Call::Abort => ("on-abort", "before-abort-answer"),
        Call::Open { .. } => ("on-open", "after-open"),
    };
    failpoint::hit(before);
    let told = inner.carry_out(Event::Told { from, transaction, branch, call }, None, remaining).await;
    failpoint::hit(after);
    Err(match told {
        Ok(Err(Refusal::StaleEpoch { coordinator, epoch })) => {
            let what = format!("the coordinator {coordinator} has opened its log again since, under the epoch {epoch}");
            Problem::new(ProblemType::StaleEpoch, what).with("epoch", epoch).with("coordinator", coordinator)
        }
        Ok(Err(Refusal::PayloadDiffers)) => Problem::new(
            ProblemType::Invalid,
            "`payload` differs from that of the branch's first prepare; nothing was changed",
        ),
        Ok(Err(Refusal::UnknownBranch)) => {
            Problem::new(ProblemType::UnknownBranch, "there is no trace here of a vote of this branch")
        }
        Ok(other) => return Ok(other),
        Err(Stuck::NotReady(why)) => Problem::new(ProblemType::NotReady, why),
        Err(Stuck::Busy) => {
            Problem::new(ProblemType::NotReady, "the application is still at work for this branch; ask again")
        }
        Err(Stuck::Failed) => return Err(Fault::Internal("the application panicked; its log tells where. Ask again")),
    }
    .into())
}

/// What can't follow from a call. Said, not panicked over: no answer, and the coordinator asks again.
fn unexpected(call: &str, told: &Result<Reply, Refusal>) -> Fault {
    tracing::error!(call, ?told, "the branch machine gave an answer that doesn't belong to the call");
    Fault::Internal("the participant can't answer this call")
}

/// A reason of the application's, so that an answer keeps its limit.
fn shorten(why: &str) -> String {
    why.chars().take(4096).collect()
}

#[derive(Deserialize)]
struct BranchesQuery {
    state: Option<String>,
}

async fn branches<P: Participant>(
    State(inner): Shared<P>,
    query: Result<Query<BranchesQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    if !query.is_ok_and(|Query(query)| query.state.is_none_or(|state| state == "prepared")) {
        return Err(Problem::new(ProblemType::Malformed, "`state` can be prepared, and nothing else").into());
    }
    let Some(desk) = inner.desk() else {
        return Err(Problem::new(ProblemType::NotReady, "the store isn't loaded").into());
    };
    let (mut items, mut size, mut more) = (Vec::new(), 0, 0);
    for (key, branch) in desk.book.in_doubt() {
        let Some(known) = desk.book.coordinator(key.coordinator) else { continue };
        let item = serde_json::json!(HeldBranch {
            transaction: key.transaction,
            branch: key.branch.clone(),
            state: branch.state.name().to_owned(),
            since: branch.since,
            coordinator: Coordinator {
                id: key.coordinator,
                epoch: known.epoch,
                url: known.url.clone(),
                horizon: known.horizon,
            },
        });
        // Oldest first, as many as an answer may hold.
        size += item.to_string().len() + 1;
        if size + 64 > MAX_ANSWER_BYTES { more += 1 } else { items.push(item) }
    }
    let mut body = serde_json::json!({ "items": items });
    if more > 0 {
        body["more"] = more.into();
    }
    Ok(answer((200, body)))
}
