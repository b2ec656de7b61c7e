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
    problem::{Failure, plain, unknown},
};
use crate::engine::{Inquiry, Refusal};

#[derive(Deserialize)]
pub(super) struct Asked {
    coordinator: Option<String>,
    epoch: Option<String>,
    branch: Option<String>,
}

/// Answers a participant in doubt.
#[utoipa::path(
    get, path = "/v1/transactions/{id}/decision", tag = "branches",
    params(
        ("id" = docs::TransactionId, Path, description = "the transaction's id"),
        ("coordinator" = Option<docs::CoordinatorId>, Query, description = "the id of the coordinator that sent the branch its messages"),
        ("epoch" = Option<docs::Epoch>, Query, description = "the highest epoch of it that is known"),
        ("branch" = Option<docs::BranchName>, Query, description = "the branch in doubt"),
    ),
    responses(
        (status = 200, description = "the decision, or that it is pending", body = docs::Inquired),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown-transaction`, or `unknown-branch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 409, description = "the transaction doesn't allow it, and is shown as the member `transaction`; or `not-my-log`", body = docs::Problem, content_type = "application/problem+json"),
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
    };
    match service.inquire(&inquiry) {
        Ok((decision, presumed, coordinator)) => Ok(Json(InquiryAnswer {
            transaction: id,
            branch: inquiry.branch.clone(),
            decision,
            presumed,
            coordinator,
        })),
        Err(refused) => Err(match refused.why {
            Refusal::NotLive => unknown(service, id),
            Refusal::NotMyLog => {
                warn!(
                    transaction = %id,
                    coordinator = inquiry.coordinator.map(tracing::field::display),
                    epoch = inquiry.epoch.map(tracing::field::display),
                    branch = inquiry.branch.as_ref().map(tracing::field::display),
                    "an inquiry about another log: was the data folder replaced, or an older one put back?"
                );
                plain(Refusal::NotMyLog)
            }
            other => plain(other),
        }),
    }
}
