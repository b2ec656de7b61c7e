//! The protocol's calls over HTTP.
//!
//! Always true: every error is a problem that says what to do; nothing from outside makes it panic; every answer says how
//! many messages a batch may have, if batches are taken.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Query, Request, State},
    http::{HeaderName, HeaderValue, header::CACHE_CONTROL},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    Inner,
    answer::{Answer, Fault, JSON, json_response, problem_response},
    batch::batch,
    body::{Received, message},
};
use crate::{
    participant::Participant,
    protocol::{
        BATCH_HEADER, BatchCall, BatchMessage, Coordinator, DecisionRequest, HeldBranch, MAX_ANSWER_BYTES,
        MAX_CALL_BYTES, PrepareRequest, Problem, ProblemType,
    },
};

/// How much of a batch is taken for each message of it, if that is more than [`MAX_CALL_BYTES`] for all of them.
const BATCH_BYTES_OF_MESSAGE: usize = 4096;

/// Room for what stands in the answer to GET branches beside its items.
const BESIDE_ITEMS: usize = 160;

pub(super) fn router<P: Participant>(inner: Arc<Inner<P>>) -> Router {
    let mut router = Router::new()
        .route("/prepare", post(prepare::<P>))
        .route("/commit", post(commit::<P>))
        .route("/abort", post(abort::<P>))
        .route("/branches", get(branches::<P>));
    let most = inner.options.batch_max();
    if most > 0 {
        let limit = DefaultBodyLimit::max(MAX_CALL_BYTES.max(most * BATCH_BYTES_OF_MESSAGE));
        router = router.route("/batch", post(batch::<P>).layer(limit));
    }
    router
        .fallback(|State(inner): State<Arc<Inner<P>>>| async move {
            let what = "a participant serves POST prepare, commit, abort and, unless it is told not to, batch, and GET \
                        branches, under its base URL";
            problem_response(&inner.origin().on(Problem::new(ProblemType::NotFound, what)))
        })
        .method_not_allowed_fallback(|State(inner): State<Arc<Inner<P>>>| async move {
            let what = "prepare, commit, abort and batch are POST, branches is GET";
            problem_response(&inner.origin().on(Problem::new(ProblemType::MethodNotAllowed, what)))
        })
        .layer(DefaultBodyLimit::max(MAX_CALL_BYTES))
        .layer(middleware::from_fn_with_state(inner.clone(), around::<P>))
        .with_state(inner)
}

/// What is the same for all calls.
async fn around<P: Participant>(State(inner): State<Arc<Inner<P>>>, request: Request, next: Next) -> Response {
    let mut response = match inner.not_ready() {
        Some(why) => problem_response(&Problem::new(ProblemType::NotReady, why)),
        None => next.run(request).await,
    };
    // Also where the answer isn't one of ours.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let most = inner.options.batch_max();
    if most > 0 {
        response.headers_mut().insert(HeaderName::from_static(BATCH_HEADER), HeaderValue::from(most));
    }
    response
}

type Incoming = Result<Received, Fault>;

async fn prepare<P: Participant>(State(inner): State<Arc<Inner<P>>>, received: Incoming) -> Answer {
    prepared(&inner, received).await.map_err(|fault| fault.of(&inner.origin()))
}

async fn prepared<P: Participant>(inner: &Arc<Inner<P>>, received: Incoming) -> Answer {
    let received = received?;
    let request: PrepareRequest = message("body", &received.body)?;
    let message = BatchMessage {
        call: BatchCall::Prepare,
        transaction: request.transaction,
        branch: request.branch,
        participant_id: request.participant_id,
        payload: request.payload.as_deref(),
        deadline: Some(request.deadline),
        remaining_ms: Some(request.remaining_ms),
        traceparent: None,
    };
    inner.obey(request.coordinator, message, received.traceparent).await
}

async fn commit<P: Participant>(State(inner): State<Arc<Inner<P>>>, received: Incoming) -> Answer {
    decided(&inner, BatchCall::Commit, received).await.map_err(|fault| fault.of(&inner.origin()))
}

async fn abort<P: Participant>(State(inner): State<Arc<Inner<P>>>, received: Incoming) -> Answer {
    decided(&inner, BatchCall::Abort, received).await.map_err(|fault| fault.of(&inner.origin()))
}

async fn decided<P: Participant>(inner: &Arc<Inner<P>>, call: BatchCall, received: Incoming) -> Answer {
    let received = received?;
    let DecisionRequest { transaction, branch, coordinator, participant_id } = message("body", &received.body)?;
    let message = BatchMessage {
        call,
        transaction,
        branch,
        participant_id,
        payload: None,
        deadline: None,
        remaining_ms: None,
        traceparent: None,
    };
    inner.obey(coordinator, message, received.traceparent).await
}

#[derive(Deserialize)]
struct BranchesQuery {
    state: Option<String>,
}

async fn branches<P: Participant>(
    State(inner): State<Arc<Inner<P>>>,
    query: Result<Query<BranchesQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Fault> {
    if !query.is_ok_and(|Query(query)| query.state.is_none_or(|state| state == "prepared")) {
        let problem = Problem::new(ProblemType::Malformed, "`state` can be prepared, and nothing else");
        return Err(Fault::from(problem).of(&inner.origin()));
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
        if size + BESIDE_ITEMS > MAX_ANSWER_BYTES { more += 1 } else { items.push(item) }
    }
    let mut body = serde_json::json!({ "items": items });
    if let Some(id) = desk.book.participant_id() {
        body["participant_id"] = serde_json::json!(id);
    }
    if more > 0 {
        body["more"] = more.into();
    }
    Ok(json_response(200, JSON, serde_json::to_vec(&body).unwrap_or_default()))
}
