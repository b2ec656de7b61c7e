//! Refusals as answers.

use std::time::Duration;

use axum::{
    Json,
    extract::rejection::{PathRejection, QueryRejection},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use unanimous_sdk::protocol::{BranchName, Problem, ProblemType, TransactionId};

use crate::{
    engine::{Refusal, Refused, Service, Superseded, View},
    transaction::{Barrier, NotAllowed},
};

/// A problem on its way out. (Boxed: it is large, and rare.)
#[derive(Debug)]
pub(super) struct Failure(Box<Problem>);

impl Failure {
    pub(super) fn problem(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::problem(problem)
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Problem::new(ProblemType::Malformed, format!("the path: {}", rejection.body_text())).into()
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Problem::new(ProblemType::Malformed, format!("the query: {}", rejection.body_text())).into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&*self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A transaction as an answer, written at once: it seldom has more than a kibibyte.
impl IntoResponse for View {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(1024);
        match serde_json::to_writer(&mut body, &self) {
            Ok(()) => ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

/// Marks the answer to a call that came again under its Idempotency-Key.
pub(super) fn marked(mut answer: Response, replayed: bool) -> Response {
    if replayed {
        answer.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    answer
}

pub(super) async fn not_found(uri: Uri) -> Failure {
    Problem::new(ProblemType::NotFound, format!("there is nothing at {}", uri.path())).into()
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    Problem::new(ProblemType::MethodNotAllowed, format!("{method} is not served at {}", uri.path())).into()
}

/// No transaction of this id is known.
pub(super) fn unknown(service: &Service, id: TransactionId) -> Failure {
    let detail = format!("no transaction {id} is known: it was never committed, or is no longer retained");
    let since = service.with(|engine, _| engine.retained_since());
    Problem::new(ProblemType::UnknownTransaction, detail).with("retained_since", since).into()
}

/// How long an answer waits for the log before it says that the disk doesn't answer.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until the log has come as far as this.
pub(super) async fn reached(service: &Service, barrier: Barrier) -> Result<(), Failure> {
    if tokio::time::timeout(PATIENCE, service.reached(barrier)).await.is_ok() {
        return Ok(());
    }
    Err(disk_is_silent())
}

pub(super) fn disk_is_silent() -> Failure {
    let detail = "the disk under the log has not answered for 60 s; what was asked for may still come to be: ask again, \
                  with the same Idempotency-Key";
    Problem::new(ProblemType::NotReady, detail).into()
}

/// What was refused about a transaction, as soon as it may be told.
pub(super) async fn refusal(service: &Service, id: TransactionId, refused: Refused) -> Failure {
    if let Err(failure) = reached(service, refused.tell_after).await {
        return failure;
    }
    let why = match refused.why {
        Refusal::NotAllowed(why) => why,
        Refusal::NotLive => return unknown(service, id),
        other => return plain(other),
    };
    let (kind, detail) = match why {
        NotAllowed::NotActive => (
            ProblemType::NotActive,
            format!("transaction {id} is not active any more: it takes no new branch and no vote"),
        ),
        NotAllowed::BranchConflict(name) => (ProblemType::BranchConflict, conflict(id, &name)),
        NotAllowed::UnknownBranch(name) => {
            (ProblemType::UnknownBranch, format!("transaction {id} has no branch {name}"))
        }
        NotAllowed::TooManyBranches => (
            ProblemType::Invalid,
            format!("`branches`: transaction {id} has as many branches as a transaction may have"),
        ),
        NotAllowed::Committed => (ProblemType::Committed, format!("transaction {id} is committed: that never changes")),
        NotAllowed::Aborted => (ProblemType::Aborted, format!("transaction {id} is aborted: that never changes")),
        NotAllowed::NotDecided => (
            ProblemType::NotDecided,
            format!("transaction {id} has no decision yet that could be acknowledged; a branch in doubt waits for it"),
        ),
        NotAllowed::Misplaced => (ProblemType::NotActive, format!("transaction {id} can't do that as it is")),
    };
    with_transaction(Problem::new(kind, detail), service.view(id).ok().flatten().as_ref())
}

fn conflict(id: TransactionId, name: &BranchName) -> String {
    format!(
        "`branch`: transaction {id} has a branch {name} already, with another participant, payload or vote; the first \
         stands: choose another name"
    )
}

/// A refusal that shows no transaction.
pub(super) fn plain(why: Refusal) -> Failure {
    let problem = match why {
        Refusal::Overloaded { undecided } => Problem::new(
            ProblemType::Overloaded,
            format!("{undecided} transactions are undecided, as many as may be; try again when some are decided"),
        ),
        Refusal::DiskFull => Problem::new(
            ProblemType::DiskFull,
            "the disk that holds the log is nearly full: nothing new is begun or enlisted until there is room again; what is \
             under way can be voted on, committed and aborted",
        ),
        Refusal::StaleEpoch { present } => {
            let detail =
                format!("`coordinator.epoch`: the present epoch is {present}; keep it with the vote, and repeat");
            Problem::new(ProblemType::StaleEpoch, detail).with("epoch", present)
        }
        Refusal::NotMyLog => Problem::new(
            ProblemType::NotMyLog,
            "`coordinator`: this log was never opened under that id and epoch; what it doesn't know it doesn't presume: \
             ask the coordinator that sent the message, or an operator",
        ),
        Refusal::Superseded(superseded) => Problem::new(ProblemType::Superseded, taken_over(&superseded)),
        Refusal::Confirming => Problem::new(
            ProblemType::NotReady,
            "a participant knows a higher epoch; it is being confirmed that the log is still this process's: ask again",
        ),
        Refusal::Forgotten => Problem::new(
            ProblemType::Forgotten,
            "`id`: this transaction, or one after it, was dropped from the log when its time had come; it may have \
             committed, so no decision is given: an operator has to compare with the other participants, and decide",
        ),
        Refusal::TooManyKeys { most } => Problem::new(
            ProblemType::Invalid,
            format!("`Idempotency-Key`: {most} keys are bound in this transaction, as many as may be"),
        ),
        Refusal::KeyReused => Problem::new(
            ProblemType::KeyReused,
            "`Idempotency-Key`: this key came with another body before; a new call needs a new key",
        ),
        Refusal::Unreadable(error) => Problem::new(ProblemType::NotReady, format!("the log can't be read: {error}")),
        Refusal::NotAllowed(NotAllowed::BranchConflict(name)) => {
            Problem::new(ProblemType::Malformed, format!("`branch`: {name} stands twice among the branches"))
        }
        Refusal::NotAllowed(_) | Refusal::NotLive => {
            Problem::new(ProblemType::NotFound, "there is no such transaction")
        }
    };
    problem.into()
}

fn taken_over(Superseded { epoch, witnesses, lost }: &Superseded) -> String {
    let witnesses: Vec<_> = witnesses.iter().map(|witness| witness.participant.to_string()).collect();
    let witnesses = witnesses.join(" and ");
    match lost {
        Some(lost) => format!(
            "{witnesses} knows the higher epoch {epoch} of this coordinator, and the log is not this process's any more \
             ({lost}); stop this process"
        ),
        None => format!(
            "{witnesses} know the same higher epoch {epoch} of this coordinator: a second one runs on a copy of its log; \
             stop one of the two"
        ),
    }
}

/// A 409 about a transaction carries it, whole.
pub(super) fn with_transaction(problem: Problem, view: Option<&View>) -> Failure {
    match view {
        Some(view) => problem.with("transaction", view).into(),
        None => problem.into(),
    }
}
