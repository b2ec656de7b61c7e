//! `/openapi.json`: the API's description, OpenAPI 3.1, made from the handlers.
//!
//! Always true: it describes every route, and every real answer of the tests fits it. The types here stand for those of
//! the wire, which the SDK has and which know nothing of OpenAPI.

#![allow(dead_code, reason = "read by the macros alone")]

use std::collections::BTreeMap;

use axum::Json;
use serde_json::Value;
use utoipa::{
    IntoParams, Modify, OpenApi, ToSchema,
    openapi::{
        ContentBuilder, Ref, RefOr, ResponseBuilder,
        path::{ParameterBuilder, ParameterIn},
    },
};

use super::{acknowledge, branches, coordinator, decision, list, metrics, problem_pages, transactions};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Unanimous",
        description = "A two-phase commit transaction coordinator: begins transactions, enlists participants, gathers their \
                       votes, decides, and tells them.",
    ),
    paths(
        transactions::begin, transactions::commit, transactions::abort, transactions::get, list::list,
        branches::enlist, branches::vote, acknowledge::acknowledge, decision::inquire,
        coordinator::who, coordinator::healthy, coordinator::ready,
        metrics::scrape, problem_pages::page, serve,
    ),
    components(schemas(Transaction, Problem, CoordinatorId)),
    modifiers(&NoBody, &ForOneLog),
)]
struct Description;

/// A POST without a body is `{}`: where that will do, none is required.
struct NoBody;

impl Modify for NoBody {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        for path in ["/v1/transactions", "/v1/transactions/{id}/commit", "/v1/transactions/{id}/abort"] {
            let post = description.paths.paths.get_mut(path).and_then(|path| path.post.as_mut());
            if let Some(RefOr::T(body)) = post.and_then(|post| post.request_body.as_mut()) {
                body.required = None;
            }
        }
    }
}

/// Every call may name the log that it is meant for, and is refused if it reaches another one.
struct ForOneLog;

impl Modify for ForOneLog {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let header = || {
            ParameterBuilder::new()
                .name("Unanimous-Coordinator")
                .parameter_in(ParameterIn::Header)
                .description(Some("the id of the coordinator whose log is meant; in every answer, too"))
                .schema(Some(Ref::from_schema_name("CoordinatorId")))
                .build()
        };
        let refused = || {
            ResponseBuilder::new()
                .description("`not-my-log`: the call is meant for another log; nothing was looked up")
                .content(
                    "application/problem+json",
                    ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build(),
                )
                .build()
        };
        for path in description.paths.paths.values_mut() {
            for operation in [&mut path.get, &mut path.post].into_iter().flatten() {
                operation.parameters.get_or_insert_default().push(RefOr::T(header()));
                operation.responses.responses.entry("409".to_owned()).or_insert_with(|| RefOr::T(refused()));
            }
        }
    }
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "coordinator", responses(
        (status = 200, description = "OpenAPI 3.1", body = Value),
        (status = 503, description = "`not-ready`; with Retry-After", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
))]
pub(super) async fn serve() -> Json<Value> {
    Json(description())
}

/// The API's description, as it is served.
pub fn description() -> Value {
    serde_json::to_value(Description::openapi()).unwrap_or_default()
}

/// A UUIDv7 in lower case, given by the coordinator; all zeros in a horizon before the first.
#[derive(ToSchema)]
#[schema(
    format = "uuid",
    pattern = "^([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|0{8}-0{4}-0{4}-0{4}-0{12})$"
)]
pub(super) struct TransactionId(String);

/// One opening of the coordinator's log: a UUIDv7 in lower case. Higher epochs overrule lower ones.
#[derive(ToSchema)]
#[schema(format = "uuid", pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$")]
pub(super) struct Epoch(String);

/// A UUID in lower case, kept with the log for ever.
#[derive(ToSchema)]
#[schema(format = "uuid", pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
pub(super) struct CoordinatorId(String);

/// The id of a participant's store: a UUID in lower case.
#[derive(ToSchema)]
#[schema(format = "uuid", pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
pub(super) struct ParticipantId(String);

/// 1 to 64 of `A-Z a-z 0-9 . _ -`, the first a letter or digit.
#[derive(ToSchema)]
#[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
pub(super) struct BranchName(String);

/// A call that is safe to repeat.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Keyed {
    /// 1 to 255 visible ASCII characters; the same key with an equal body is the same call.
    #[param(rename = "Idempotency-Key", value_type = String, required = false, pattern = "^[!-~]{1,255}$")]
    key: Option<String>,
}

/// A call that may take a while.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Patient {
    /// `wait=N`: how many seconds to wait, 300 at most; a commit waits for 60 without it, a GET not at all.
    #[param(rename = "Prefer", value_type = String, required = false)]
    prefer: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum State {
    Active,
    Preparing,
    Committing,
    Committed,
    Aborting,
    Aborted,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum BranchState {
    Enlisted,
    Preparing,
    Prepared,
    ReadOnly,
    Refused,
    Committing,
    Committed,
    Aborting,
    Aborted,
    HeuristicCommit,
    HeuristicAbort,
    HeuristicUnknown,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum Vote {
    Prepared,
    ReadOnly,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum Decision {
    Commit,
    Abort,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum Outcome {
    Commit,
    Abort,
    Pending,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum ReasonCode {
    Initiator,
    Refused,
    Unreachable,
    ParticipantError,
    Deadline,
    CoordinatorRestart,
    Operator,
}

/// Why a transaction was aborted.
#[derive(ToSchema)]
pub(super) struct Reason {
    code: ReasonCode,
    #[schema(required = true)]
    detail: Option<String>,
    #[schema(required = true)]
    branch: Option<BranchName>,
}

/// A transaction, whole.
#[derive(ToSchema)]
pub(super) struct Transaction {
    id: TransactionId,
    state: State,
    #[schema(required = true)]
    decision: Option<Decision>,
    /// Its place in the order of outcomes; null if it changed nothing.
    #[schema(required = true)]
    sequence: Option<u64>,
    /// Whether a branch ended against the decision, or nobody knows how.
    heuristic: bool,
    #[schema(required = true)]
    reason: Option<Reason>,
    metadata: BTreeMap<String, String>,
    #[schema(format = "date-time")]
    created_at: String,
    #[schema(format = "date-time")]
    deadline: String,
    #[schema(format = "date-time", required = true)]
    decided_at: Option<String>,
    #[schema(format = "date-time", required = true)]
    finished_at: Option<String>,
    branches: Vec<Branch>,
}

/// One participant's share of a transaction.
#[derive(ToSchema)]
#[allow(clippy::struct_field_names, reason = "the wire's name")]
pub(super) struct Branch {
    branch: BranchName,
    #[schema(format = "uri")]
    participant: String,
    /// The store whose vote was counted; null if it has no id.
    #[schema(required = true)]
    participant_id: Option<ParticipantId>,
    state: BranchState,
    #[schema(required = true)]
    vote: Option<Vote>,
    /// Whether the participant has answered the decision; null if it owes no answer.
    #[schema(required = true)]
    acknowledged: Option<bool>,
    /// The calls of the present phase.
    attempts: u32,
    #[schema(required = true)]
    last_error: Option<String>,
    #[schema(format = "date-time", required = true)]
    next_attempt_at: Option<String>,
    /// What the participant said of a refusal or a heuristic end; absent if it said nothing.
    detail: Option<String>,
}

/// A branch of a transaction that begins: nobody can have voted in its name yet.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBranch {
    /// Its base URL: http or https, without user, query or fragment.
    #[schema(format = "uri")]
    participant: String,
    /// Without it, it gets a number.
    branch: Option<BranchName>,
    /// The work, to be done at prepare. A branch without one has done it before.
    payload: Option<Value>,
}

/// A page of transactions, newest first. What a page costs is bounded: it may have fewer items than were asked for, even
/// none, and a `next_cursor`.
#[derive(ToSchema)]
pub(super) struct Page {
    items: Vec<Transaction>,
    /// Where the next page begins; null on the last.
    #[schema(required = true)]
    next_cursor: Option<TransactionId>,
}

/// A coordinator, as it stands in every message.
#[derive(ToSchema)]
pub(super) struct Coordinator {
    id: CoordinatorId,
    epoch: Epoch,
    #[schema(format = "uri")]
    url: String,
    /// Every transaction with a lower id is finished.
    horizon: TransactionId,
}

/// The coordinator, and what keeps its horizon where it is.
#[derive(ToSchema)]
pub(super) struct Who {
    id: CoordinatorId,
    epoch: Epoch,
    #[schema(format = "uri")]
    url: String,
    /// Every transaction with a lower id is finished.
    horizon: TransactionId,
    /// Null while the oldest transaction that is not finished is undecided, and if there is none.
    #[schema(required = true)]
    horizon_held_by: Option<HorizonHeldBy>,
}

/// A participant that has not acknowledged the oldest decision.
#[derive(ToSchema)]
pub(super) struct HorizonHeldBy {
    #[schema(format = "uri")]
    participant: String,
    transaction: TransactionId,
    /// When the transaction was decided.
    #[schema(format = "date-time")]
    since: String,
}

/// A coordinator and its present epoch, as a vote names them.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CoordinatorRef {
    id: CoordinatorId,
    epoch: Epoch,
    /// Not looked at.
    url: Option<Value>,
    /// Not looked at.
    horizon: Option<Value>,
    /// Not looked at.
    horizon_held_by: Option<Value>,
}

/// A branch that was enlisted.
#[derive(ToSchema)]
pub(super) struct Enlisted {
    transaction: TransactionId,
    branch: BranchName,
    #[schema(format = "date-time")]
    deadline: String,
    remaining_ms: u64,
    coordinator: Coordinator,
}

/// A vote that counts.
#[derive(ToSchema)]
pub(super) struct Voted {
    transaction: TransactionId,
    branch: BranchName,
    vote: Vote,
    coordinator: Coordinator,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum AcknowledgedState {
    Committed,
    Aborted,
}

/// How a branch ended because of an inquiry's answer, durably.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledgement {
    state: AcknowledgedState,
    /// The store that ended it, if it has an id.
    participant_id: Option<ParticipantId>,
    coordinator: CoordinatorRef,
}

/// An acknowledgement that is durable.
#[derive(ToSchema)]
pub(super) struct Acknowledged {
    transaction: TransactionId,
    branch: BranchName,
    state: AcknowledgedState,
}

/// What a participant in doubt is told.
#[derive(ToSchema)]
pub(super) struct Inquired {
    transaction: TransactionId,
    /// The branch that was named; absent if none was.
    branch: Option<BranchName>,
    decision: Outcome,
    /// Whether it is an abort because the log doesn't know the transaction.
    presumed: bool,
    coordinator: Coordinator,
}

/// What a problem type means, and what to do now.
#[derive(ToSchema)]
pub(super) struct Advice {
    r#type: String,
    title: String,
    status: u16,
    meaning: String,
    what_to_do: String,
}

/// How the coordinator is.
#[derive(ToSchema)]
pub(super) struct Status {
    status: String,
}

/// An error, RFC 9457.
#[derive(ToSchema)]
pub(super) struct Problem {
    /// `/problems/NAME`: what it means and what to do is served there.
    r#type: String,
    title: String,
    status: u16,
    /// What happened, to what, and what to do now; names the field.
    detail: String,
    /// The transaction, if it is about one.
    transaction: Option<Transaction>,
    /// The present epoch, for `stale-epoch`.
    epoch: Option<Epoch>,
    /// From which time on an unknown id was surely never committed, for `unknown-transaction`.
    #[schema(format = "date-time")]
    retained_since: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_described() {
        let description = description();
        assert!(description["openapi"].as_str().unwrap().starts_with("3.1."));
        for (path, methods) in [
            ("/v1/transactions", &["get", "post"][..]),
            ("/v1/transactions/{id}", &["get"]),
            ("/v1/transactions/{id}/commit", &["post"]),
            ("/v1/transactions/{id}/abort", &["post"]),
            ("/v1/transactions/{id}/branches", &["post"]),
            ("/v1/transactions/{id}/branches/{branch}/vote", &["post"]),
            ("/v1/transactions/{id}/branches/{branch}/acknowledge", &["post"]),
            ("/v1/transactions/{id}/decision", &["get"]),
            ("/v1/coordinator", &["get"]),
            ("/healthz", &["get"]),
            ("/readyz", &["get"]),
            ("/metrics", &["get"]),
            ("/openapi.json", &["get"]),
            ("/problems/{name}", &["get"]),
        ] {
            for method in methods {
                assert!(description["paths"][path][method].is_object(), "{method} {path}");
            }
        }
    }
}
