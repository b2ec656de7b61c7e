//! Beginning, committing, aborting and showing transactions.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use unanimous_sdk::protocol::{Decision, Problem, ProblemType, TransactionId};
use utoipa::ToSchema;

use super::{
    App, body,
    branches::BranchBody,
    openapi as docs, prefer,
    problem::{Failure, marked, plain, reached, refusal, unknown, with_transaction},
};
use crate::{
    engine::{Begin, Milestone, NewKey, Once, Refusal, Refused, Service, View, Waiting, bound_in},
    transaction::{Barrier, KeyedCall, Reason, ReasonCode},
};

/// How long a commit waits for its decision if it isn't told.
const DEFAULT_WAIT: Duration = Duration::from_mins(1);

/// How long an answer that need not wait for the log waits for it all the same.
const MOMENT: Duration = Duration::from_millis(500);

const MOST_METADATA: usize = 16;
const LONGEST_METADATA_KEY: usize = 128;
const LONGEST_METADATA_VALUE: usize = 1024;
/// The longest reason an initiator may give for an abort, in bytes: it is kept with the decision.
const LONGEST_REASON: usize = 1024;

/// A number in any range: what is too large or negative is out of every limit, and not malformed.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else { return Ok(None) };
    match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(number), ..) => Ok(Some(number)),
        (None, Some(_), _) => Ok(Some(0)),
        (None, None, Some(float)) if float.fract() == 0.0 && float.abs() > 1e15 => {
            Ok(Some(if float > 0.0 { u64::MAX } else { 0 }))
        }
        (None, None, _) => Err(serde::de::Error::custom("expected a whole number")),
    }
}

/// A map in which no key stands twice.
fn unique<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct Unique;
    impl<'de> Visitor<'de> for Unique {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = members.next_entry::<String, String>()? {
                if map.contains_key(&key) {
                    return Err(serde::de::Error::custom(format!("{key:?} stands twice")));
                }
                map.insert(key, value);
            }
            Ok(map)
        }
    }
    struct Map(BTreeMap<String, String>);
    impl<'de> Deserialize<'de> for Map {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            from.deserialize_map(Unique).map(Self)
        }
    }
    Ok(Option::<Map>::deserialize(from)?.map(|Map(map)| map))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "timeout_ms": 5000, "commit": true,
    "branches": [{ "participant": "http://127.0.0.1:8081/north", "payload": { "account": "ann", "cents": -500 } }]
}))]
pub(super) struct BeginBody {
    /// Until the decision; then it is aborted. 30,000 without it.
    #[schema(minimum = 1, maximum = 86_400_000)]
    #[serde(default, deserialize_with = "number")]
    timeout_ms: Option<u64>,
    /// Shown with the transaction, and found by. At most 16 keys of 128 bytes, values of 1,024.
    #[serde(default, deserialize_with = "unique")]
    metadata: Option<BTreeMap<String, String>>,
    /// At most 256.
    #[schema(value_type = Option<Vec<docs::NewBranch>>)]
    branches: Option<Vec<BranchBody>>,
    commit: Option<bool>,
    respond: Option<Respond>,
}

/// When a commit is answered.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Respond {
    Decided,
    Finished,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "respond": "decided" }))]
pub(super) struct CommitBody {
    respond: Option<Respond>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "reason": "the customer changed their mind" }))]
pub(super) struct AbortBody {
    /// At most 1,024 bytes.
    reason: Option<String>,
}

fn milestone(respond: Option<Respond>) -> Milestone {
    match respond {
        Some(Respond::Finished) => Milestone::Finished,
        Some(Respond::Decided) | None => Milestone::Decided,
    }
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemType::Invalid, detail)
}

/// Begins a transaction; with `commit: true` runs the whole commit on the branches given.
#[utoipa::path(
    post, path = "/v1/transactions", tag = "transactions", request_body = BeginBody,
    params(
        docs::Keyed,
        docs::Patient,
    ),
    responses(
        (status = 201, description = "begun", body = docs::Transaction, headers(("Location" = String, description = "where it is"))),
        (status = 200, description = "with `commit`: the decision is commit", body = docs::Transaction),
        (status = 202, description = "with `commit`: undecided when the wait ran out", body = docs::Transaction),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden-participant`: not on the allow-list", body = docs::Problem, content_type = "application/problem+json"),
        (status = 409, description = "the transaction doesn't allow it, and is shown as the member `transaction`; or `not-my-log`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 413, description = "`too-large`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported-media-type`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid`: a number or a size out of its range; or `key-reused`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
    )
)]
pub(super) async fn begin(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Response, Failure> {
    let service = app.service_for_work()?;
    let (body, key): (BeginBody, _) = body::read(&app, &headers, body, &[]).await?;
    let (commit, wanted) = (body.commit.unwrap_or(false), milestone(body.respond));
    let begin = Begin { key: key.clone(), ..check(&app, service, body)? };
    let traceparent = traceparent(&headers);
    let once = service.once(key.as_ref(), |engine, now| {
        let (view, barrier) = engine.begin(now, begin)?;
        let waiting = if commit { Some(engine.commit(now, view.id(), wanted, traceparent, None)?.0) } else { None };
        Ok((view, barrier, waiting))
    });
    let refused = |refused: Refused| plain(refused.why);
    let (id, replayed, answer) = match once.map_err(refused)? {
        Once::Done((view, barrier, Some(waiting))) => {
            (view.id(), false, outcome(service, view.id(), waiting, asked_wait(&headers), barrier).await)
        }
        Once::Done((view, barrier, None)) => {
            reached(service, barrier).await?;
            (view.id(), false, Ok((StatusCode::CREATED, view).into_response()))
        }
        Once::Before(id) if commit => {
            let waiting = service.wait(id, wanted).map_err(refused)?.ok_or_else(|| unknown(service, id))?;
            (id, true, outcome(service, id, waiting, asked_wait(&headers), Barrier::NONE).await)
        }
        Once::Before(id) => {
            let view = service.view(id).map_err(refused)?.ok_or_else(|| unknown(service, id))?;
            (id, true, Ok((StatusCode::CREATED, view).into_response()))
        }
    };
    let mut response = marked(answer.unwrap_or_else(IntoResponse::into_response), replayed);
    if let Ok(location) = HeaderValue::try_from(format!("/v1/transactions/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn asked_wait(headers: &HeaderMap) -> Duration {
    prefer::wait(headers).unwrap_or(DEFAULT_WAIT)
}

/// Holds a begin against the limits.
fn check(app: &App, service: &Service, body: BeginBody) -> Result<Begin, Problem> {
    let limits = &app.0.limits;
    let timeout_ms = body.timeout_ms.unwrap_or(limits.default_timeout_ms);
    if !(1..=limits.max_timeout_ms).contains(&timeout_ms) {
        return Err(invalid(format!("`timeout_ms` is {timeout_ms}; it is 1 to {}", limits.max_timeout_ms)));
    }
    let metadata = body.metadata.unwrap_or_default();
    if metadata.len() > MOST_METADATA {
        return Err(invalid(format!("`metadata` has {} keys; it has at most {MOST_METADATA}", metadata.len())));
    }
    for (key, value) in &metadata {
        if key.len() > LONGEST_METADATA_KEY || value.len() > LONGEST_METADATA_VALUE {
            return Err(invalid(format!(
                "`metadata`: a key has at most {LONGEST_METADATA_KEY} bytes and a value {LONGEST_METADATA_VALUE}; one has {} and {}",
                key.len(),
                value.len()
            )));
        }
    }
    let given = body.branches.unwrap_or_default();
    let most = limits.branches;
    if given.len() > most {
        return Err(invalid(format!("`branches` has {} items; a transaction has at most {most}", given.len())));
    }
    let mut branches = Vec::with_capacity(given.len());
    for (at, branch) in given.into_iter().enumerate() {
        branches.push(branch.at_begin(app, service, at)?);
    }
    Ok(Begin { timeout: Duration::from_millis(timeout_ms), metadata, branches, key: None })
}

/// Commits: 200 only if the decision is commit.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/commit", tag = "transactions", request_body = CommitBody,
    params(
        ("id" = docs::TransactionId, Path, description = "the transaction's id"),
        docs::Keyed,
        docs::Patient,
    ),
    responses(
        (status = 200, description = "the decision is commit", body = docs::Transaction),
        (status = 202, description = "undecided when the wait ran out", body = docs::Transaction),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown-transaction`, or `unknown-branch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 409, description = "the transaction doesn't allow it, and is shown as the member `transaction`; or `not-my-log`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 413, description = "`too-large`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported-media-type`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid`: a number or a size out of its range; or `key-reused`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
    )
)]
pub(super) async fn commit(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let service = app.service_for_work()?;
    let id = body::transaction_id(&id?)?;
    let (body, key): (CommitBody, _) = body::read(&app, &headers, body, &[]).await?;
    let wanted = milestone(body.respond);
    let traceparent = traceparent(&headers);
    match service.with(|engine, now| engine.commit(now, id, wanted, traceparent, key.clone())) {
        Ok((waiting, replayed)) => {
            let answer = outcome(service, id, waiting, asked_wait(&headers), Barrier::NONE).await;
            Ok(marked(answer.unwrap_or_else(IntoResponse::into_response), replayed))
        }
        // It is refused for a decision that isn't known yet, and may not be for long.
        Err(refused)
            if tokio::time::timeout(asked_wait(&headers), service.reached(refused.tell_after)).await.is_err() =>
        {
            let view = service.view(id).map_err(|refused| plain(refused.why))?;
            let view = view.ok_or_else(|| unknown(service, id))?;
            Ok((StatusCode::ACCEPTED, view).into_response())
        }
        Err(refused) => {
            let (view, replayed) = finished(service, id, refused, key.as_ref(), &KeyedCall::Commit).await?;
            let answer = match view.decision() {
                Some(Decision::Commit) => view.into_response(),
                Some(Decision::Abort) | None => aborted(&view).into_response(),
            };
            Ok(marked(answer, replayed))
        }
    }
}

/// Aborts: 200 if the decision is abort, 409 `committed` if it is commit.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/abort", tag = "transactions", request_body = AbortBody,
    params(
        ("id" = docs::TransactionId, Path, description = "the transaction's id"),
        docs::Keyed,
    ),
    responses(
        (status = 200, description = "the decision is abort", body = docs::Transaction),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown-transaction`, or `unknown-branch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 409, description = "the transaction doesn't allow it, and is shown as the member `transaction`; or `not-my-log`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 413, description = "`too-large`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported-media-type`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid`: a number or a size out of its range; or `key-reused`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
    )
)]
pub(super) async fn abort(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let service = app.service_for_work()?;
    let id = body::transaction_id(&id?)?;
    let (AbortBody { reason: detail }, key) = body::read(&app, &headers, body, &[]).await?;
    if let Some(length) = detail.as_ref().map(String::len).filter(|length| *length > LONGEST_REASON) {
        return Err(invalid(format!("`reason` has {length} bytes; it has at most {LONGEST_REASON}")).into());
    }
    let reason = Reason { code: ReasonCode::Initiator, detail, branch: None };
    match service.with(|engine, now| engine.abort(now, id, reason, key.clone())) {
        Ok((waiting, replayed)) => match tokio::time::timeout(DEFAULT_WAIT, waiting).await {
            Ok(Ok(view)) if view.is_decided() => Ok(marked(view.into_response(), replayed)),
            Ok(Ok(_) | Err(_)) | Err(_) => {
                service.with(|engine, _| engine.refuse_if_superseded()).map_err(|refused| plain(refused.why))?;
                let detail = format!(
                    "the abort of {id} is not on disk, and this coordinator is about to end or its disk doesn't answer; \
                     it is aborted all the same, as nothing else can come of it: ask again"
                );
                Err(Problem::new(ProblemType::NotReady, detail).into())
            }
        },
        Err(refused) => {
            let (view, replayed) = finished(service, id, refused, key.as_ref(), &KeyedCall::Abort).await?;
            let answer = match view.decision() {
                Some(Decision::Abort) => view.into_response(),
                Some(Decision::Commit) | None => committed(&view).into_response(),
            };
            Ok(marked(answer, replayed))
        }
    }
}

/// Shows a transaction; with `Prefer: wait=N` once it is finished.
#[utoipa::path(
    get, path = "/v1/transactions/{id}", tag = "transactions",
    params(
        ("id" = docs::TransactionId, Path, description = "the transaction's id"),
        docs::Patient,
    ),
    responses(
        (status = 200, description = "the transaction", body = docs::Transaction),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown-transaction`, or `unknown-branch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
    )
)]
pub(super) async fn get(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let service = app.service()?;
    let id = body::transaction_id(&id?)?;
    if let Some(wait) = prefer::wait(&headers)
        && let Some(waiting) = service.with(|engine, now| engine.wait(now, id, Milestone::Finished))
        && let Ok(Ok(view)) = tokio::time::timeout(wait, waiting).await
    {
        return Ok(view.into_response());
    }
    match service.view(id).map_err(|refused| plain(refused.why))? {
        Some(view) => Ok(view.into_response()),
        None => Err(unknown(service, id)),
    }
}

/// The transaction, if it was refused because it has finished, and whether the call is a repeat; else the refusal.
async fn finished(
    service: &Service,
    id: TransactionId,
    refused: Refused,
    key: Option<&NewKey>,
    call: &KeyedCall,
) -> Result<(View, bool), Failure> {
    if !matches!(refused.why, Refusal::NotLive) {
        return Err(refusal(service, id, refused).await);
    }
    let transaction = service.finished(id).map_err(|refused| plain(refused.why))?;
    let transaction = transaction.ok_or_else(|| unknown(service, id))?;
    let replayed = bound_in(&transaction, key, call).map_err(|refused| plain(refused.why))?.is_some();
    Ok((View::of_finished(id, transaction), replayed))
}

/// Waits for a commit and answers with what has come of it: 200, 409 or 202.
async fn outcome(
    service: &Service,
    id: TransactionId,
    waiting: Waiting,
    wait: Duration,
    begun: Barrier,
) -> Result<Response, Failure> {
    let view = match tokio::time::timeout(wait, waiting).await {
        Ok(Ok(view)) => Some(view),
        Ok(Err(_)) | Err(_) => service.view(id).map_err(|refused| plain(refused.why))?,
    };
    let Some(view) = view else { return Err(unknown(service, id)) };
    match view.decision() {
        Some(Decision::Commit) => Ok(view.into_response()),
        Some(Decision::Abort) => Err(aborted(&view)),
        None => {
            service.with(|engine, _| engine.refuse_if_superseded()).map_err(|refused| plain(refused.why))?;
            // Its beginning is written in a moment, unless the disk hangs; then the answer must not hang with it.
            let _ = tokio::time::timeout(MOMENT, service.reached(begun)).await;
            Ok((StatusCode::ACCEPTED, view).into_response())
        }
    }
}

fn committed(view: &View) -> Failure {
    let detail = format!("transaction {} is committed: that never changes", view.id());
    with_transaction(Problem::new(ProblemType::Committed, detail), Some(view))
}

fn aborted(view: &View) -> Failure {
    let why = match view.reason() {
        Some(Reason { code, detail, branch }) => {
            let code = serde_json::to_value(code).ok();
            let code = code.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
            let branch = branch.as_ref().map(|branch| format!(", branch {branch}")).unwrap_or_default();
            let detail = detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
            format!(" ({code}{branch}{detail})")
        }
        None => String::new(),
    };
    let detail = format!("transaction {} is aborted{why}; nothing of it is left anywhere", view.id());
    with_transaction(Problem::new(ProblemType::Aborted, detail), Some(view))
}

/// The trace context of the call that starts a commit, if it is one: it is carried on as it is.
fn traceparent(headers: &HeaderMap) -> Option<Arc<str>> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else { return None };
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    let whole = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    (whole && version != "ff" && !zero(trace) && !zero(parent)).then(|| text.into())
}
