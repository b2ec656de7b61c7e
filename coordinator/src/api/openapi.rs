//! `/openapi.json`: the API's description, OpenAPI 3.1, made from the handlers.
//!
//! Always true: it describes every route, and every real answer of the tests fits it. The types here stand for those of
//! the wire, which the SDK has and which know nothing of OpenAPI.

#![allow(dead_code, reason = "read by the macros alone")]

use std::collections::BTreeMap;

use axum::Json;
use utoipa::{OpenApi, ToSchema};

use super::{branches, coordinator, decision, list, transactions};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Unanimous",
        description = "A two-phase commit transaction coordinator: begins transactions, enlists participants, gathers their \
                       votes, decides, and tells them.",
    ),
    paths(
        transactions::begin, transactions::commit, transactions::abort, transactions::get, list::list,
        branches::enlist, branches::vote, decision::inquire,
        coordinator::who, coordinator::healthy, coordinator::ready,
    ),
    components(schemas(Transaction, Problem))
)]
struct Description;

/// The description.
pub(super) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
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
    detail: Option<String>,
    branch: Option<String>,
}

/// A transaction, whole.
#[derive(ToSchema)]
pub(super) struct Transaction {
    #[schema(format = "uuid")]
    id: String,
    state: State,
    decision: Option<Decision>,
    /// Its place in the order of outcomes; null if it changed nothing.
    sequence: Option<u64>,
    /// Whether a branch ended against the decision, or nobody knows how.
    heuristic: bool,
    reason: Option<Reason>,
    metadata: BTreeMap<String, String>,
    #[schema(format = "date-time")]
    created_at: String,
    #[schema(format = "date-time")]
    deadline: String,
    #[schema(format = "date-time")]
    decided_at: Option<String>,
    #[schema(format = "date-time")]
    finished_at: Option<String>,
    branches: Vec<Branch>,
}

/// One participant's share of a transaction.
#[derive(ToSchema)]
pub(super) struct Branch {
    branch: String,
    #[schema(format = "uri")]
    participant: String,
    state: BranchState,
    vote: Option<Vote>,
    /// The calls of the present phase.
    attempts: u32,
    last_error: Option<String>,
    #[schema(format = "date-time")]
    next_attempt_at: Option<String>,
    /// What the participant said of a refusal or a heuristic end.
    #[schema(required = false)]
    detail: Option<String>,
}

/// A page of transactions, newest first.
#[derive(ToSchema)]
pub(super) struct Page {
    items: Vec<Transaction>,
    /// Where the next page begins; null on the last.
    next_cursor: Option<String>,
}

/// A coordinator, as it stands in every message.
#[derive(ToSchema)]
pub(super) struct Coordinator {
    #[schema(format = "uuid")]
    id: String,
    #[schema(format = "uuid")]
    epoch: String,
    #[schema(format = "uri")]
    url: String,
    /// Every transaction with a lower id is finished.
    #[schema(format = "uuid")]
    horizon: String,
}

/// A coordinator and its present epoch, as a vote names them. `url` and `horizon` may stand beside them.
#[derive(ToSchema)]
pub(super) struct CoordinatorRef {
    #[schema(format = "uuid")]
    id: String,
    #[schema(format = "uuid")]
    epoch: String,
}

/// A branch that was enlisted.
#[derive(ToSchema)]
pub(super) struct Enlisted {
    branch: String,
    #[schema(format = "date-time")]
    deadline: String,
    remaining_ms: u64,
    coordinator: Coordinator,
}

/// A vote that counts.
#[derive(ToSchema)]
pub(super) struct Voted {
    branch: String,
    vote: Vote,
    coordinator: Coordinator,
}

/// What a participant in doubt is told.
#[derive(ToSchema)]
pub(super) struct Inquired {
    decision: Outcome,
    /// Whether it is an abort because the log doesn't know the transaction.
    presumed: bool,
    coordinator: Coordinator,
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
    #[schema(required = false)]
    transaction: Option<Transaction>,
    /// The present epoch, for `stale-epoch`.
    #[schema(required = false)]
    epoch: Option<String>,
    /// From which time on an unknown id was surely never committed, for `unknown-transaction`.
    #[schema(required = false)]
    retained_since: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_described() {
        let description = serde_json::to_value(Description::openapi()).unwrap();
        assert!(description["openapi"].as_str().unwrap().starts_with("3.1."));
        for (path, methods) in [
            ("/v1/transactions", &["get", "post"][..]),
            ("/v1/transactions/{id}", &["get"]),
            ("/v1/transactions/{id}/commit", &["post"]),
            ("/v1/transactions/{id}/abort", &["post"]),
            ("/v1/transactions/{id}/branches", &["post"]),
            ("/v1/transactions/{id}/branches/{branch}/vote", &["post"]),
            ("/v1/transactions/{id}/decision", &["get"]),
            ("/v1/coordinator", &["get"]),
            ("/healthz", &["get"]),
            ("/readyz", &["get"]),
        ] {
            for method in methods {
                assert!(description["paths"][path][method].is_object(), "{method} {path}");
            }
        }
    }
}
