//! The inquiry of a participant in doubt, PROTOCOL §5.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use serde::Deserialize;
use tracing::warn;
use unanimous_sdk::protocol::{InquiryAnswer, Problem, ProblemType};

use super::{
    App, body, openapi as docs,
    problem::{Failure, plain, refusal, unknown},
};
use crate::engine::{Inquiry, Refusal, Refused};

#[derive(Deserialize)]
pub(super) struct Asked {
    coordinator: Option<String>,
    epoch: Option<String>,
    branch: Option<String>,
    participant_id: Option<String>,
    prepared_epoch: Option<String>,
}

/// Answers a participant in doubt.
#[utoipa::path(
    get, path = "/v1/transactions/{id}/decision", tag = "branches",
    params(
        ("id" = docs::TransactionId, Path, description = "the transaction's id"),
        ("coordinator" = Option<docs::CoordinatorId>, Query, description = "the id of the coordinator that sent the branch its messages"),
        ("epoch" = Option<docs::Epoch>, Query, description = "the highest epoch of it that is known"),
        ("branch" = Option<docs::BranchName>, Query, description = "the branch in doubt"),
        ("participant_id" = Option<docs::ParticipantId>, Query, description = "the store that is in doubt"),
        ("prepared_epoch" = Option<docs::Epoch>, Query, description = "the epoch under which the branch was prepared"),
    ),
    responses(
        (status = 200, description = "the decision, or that it is pending", body = docs::Inquired),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown-transaction`, or `unknown-branch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 409, description = "the transaction doesn't allow it, and is shown as the member `transaction`; or `not-my-log`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 410, description = "`forgotten`: it may have committed and been dropped", body = docs::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
    )
)]
pub(super) async fn inquire(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<InquiryAnswer>, Failure> {
    let service = app.service()?;
    let id = body::transaction_id(&id?)?;
    let Query(asked) = query?;
    let malformed = |field: &str, error: &dyn std::fmt::Display| {
        Problem::new(ProblemType::Malformed, format!("`{field}`: {error}"))
    };
    let inquiry = Inquiry {
        transaction: id,
        coordinator: asked
            .coordinator
            .map(|text| text.parse().map_err(|e| malformed("coordinator", &e)))
            .transpose()?,
        epoch: asked.epoch.map(|text| text.parse().map_err(|e| malformed("epoch", &e))).transpose()?,
        branch: asked.branch.as_deref().map(body::branch_name).transpose()?,
        participant_id: asked
            .participant_id
            .map(|text| text.parse().map_err(|e| malformed("participant_id", &e)))
            .transpose()?,
        prepared_epoch: asked
            .prepared_epoch
            .map(|text| text.parse().map_err(|e| malformed("prepared_epoch", &e)))
            .transpose()?,
    };
    match service.inquire(&inquiry) {
        Ok((decision, presumed, coordinator)) => {
            Ok(Json(InquiryAnswer { transaction: id, branch: inquiry.branch.clone(), decision, presumed, coordinator }))
        }
        Err(refused) => Err(match refused.why {
            Refusal::NotLive => unknown(service, id),
            why @ (Refusal::NotMyLog | Refusal::Forgotten) => {
                log_unanswered(&app, &inquiry, &why);
                plain(why)
            }
            why @ Refusal::NotAllowed(_) => refusal(service, id, Refused { why, tell_after: refused.tell_after }).await,
            other => plain(other),
        }),
    }
}

/// An operator has to look at these, but a participant asks again and again.
fn log_unanswered(app: &App, inquiry: &Inquiry, why: &Refusal) {
    let Some(left_out) = app.0.unanswered.may() else { return };
    let what = match why {
        Refusal::Forgotten => {
            "forgotten: a participant in doubt asks about a transaction that may have been dropped from the log. Was it put back from a \
             backup? Compare with the other participants, and end its branch by hand"
        }
        _ => {
            "not-my-log: a participant in doubt asks about another log. Was the data folder replaced, or an older one put back?"
        }
    };
    warn!(
        transaction = %inquiry.transaction,
        coordinator = inquiry.coordinator.map(tracing::field::display),
        epoch = inquiry.epoch.map(tracing::field::display),
        branch = inquiry.branch.as_ref().map(tracing::field::display),
        left_out,
        "{what}"
    );
}
