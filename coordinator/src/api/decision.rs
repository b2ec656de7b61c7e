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
    App, body,
    problem::{Failure, plain, unknown},
};
use crate::engine::{Inquiry, Refusal};

#[derive(Deserialize)]
pub(super) struct Asked {
    coordinator: Option<String>,
    epoch: Option<String>,
    branch: Option<String>,
}

pub(super) async fn inquire(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<InquiryAnswer>, Failure> {
    let service = app.service()?;
    let id = body::transaction_id(&id?)?;
    let Query(asked) = query?;
    let malformed = |field: &str, error: &dyn std::fmt::Display| Problem::new(ProblemType::Malformed, format!("`{field}`: {error}"));
    let inquiry = Inquiry {
        transaction: id,
        coordinator: asked.coordinator.map(|text| text.parse().map_err(|e| malformed("coordinator", &e))).transpose()?,
        epoch: asked.epoch.map(|text| text.parse().map_err(|e| malformed("epoch", &e))).transpose()?,
        branch: asked.branch.as_deref().map(body::branch_name).transpose()?,
    };
    match service.inquire(&inquiry) {
        Ok((decision, presumed, coordinator)) => Ok(Json(InquiryAnswer { decision, presumed, coordinator })),
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
