//! A participant says unasked that it has obeyed a decision, P-5.13.

use axum::{
    Json,
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::HeaderMap,
};
use unanimous_sdk::protocol::{AcknowledgeAnswer, AcknowledgeRequest};

use super::{
    App, body, openapi as docs,
    problem::{Failure, PATIENCE, disk_is_silent, refusal},
};
use crate::engine::Acknowledgement;

/// Takes a participant's word that it has obeyed an inquiry's answer, and answers once that is durable.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/branches/{branch}/acknowledge", tag = "branches", request_body = docs::Acknowledgement,
    params(
        ("id" = docs::TransactionId, Path, description = "the transaction's id"),
        ("branch" = docs::BranchName, Path, description = "the branch's name"),
        docs::Keyed,
    ),
    responses(
        (status = 200, description = "it is durable, now or before", body = docs::Acknowledged),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`unknown-transaction`, or `unknown-branch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 409, description = "`not-decided`, `branch-conflict` or `not-my-log`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 412, description = "`stale-epoch`: the present one is the member `epoch`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 413, description = "`too-large`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported-media-type`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
    )
)]
pub(super) async fn acknowledge(
    State(app): State<App>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<AcknowledgeAnswer>, Failure> {
    let service = app.service_for_work()?;
    let Path((id, branch)) = path?;
    let (id, branch) = (body::transaction_id(&id)?, body::branch_name(&branch)?);
    // A repeat is answered the same with or without its key.
    let (request, _): (AcknowledgeRequest, _) = body::read(&app, &headers, body, &[]).await?;
    let AcknowledgeRequest { state, participant_id, coordinator } = request;
    let told = Acknowledgement { branch: branch.clone(), state, participant_id, coordinator };
    match tokio::time::timeout(PATIENCE, service.acknowledge(id, &told)).await {
        Ok(Ok(())) => Ok(Json(AcknowledgeAnswer { transaction: id, branch, state })),
        Ok(Err(refused)) => Err(refusal(service, id, refused).await),
        Err(_) => Err(disk_is_silent()),
    }
}
