//! The coordinator itself: who it is, whether it lives, whether it serves.

use axum::{Json, extract::State};
use serde_json::{Value, json};
use unanimous_sdk::protocol::Coordinator;

use super::{
    App, openapi as docs,
    problem::{Failure, plain},
};
use crate::engine::Refusal;

/// Who it is.
#[utoipa::path(get, path = "/v1/coordinator", tag = "coordinator", responses(
        (status = 200, description = "as it stands in every message", body = docs::Coordinator),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
))]
pub(super) async fn who(State(app): State<App>) -> Result<Json<Coordinator>, Failure> {
    Ok(Json(app.service()?.coordinator()))
}

/// Whether it lives.
#[utoipa::path(get, path = "/healthz", tag = "coordinator", responses((status = 200, description = "it does", body = docs::Status)))]
pub(super) async fn healthy() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// Whether its log is loaded and it serves.
#[utoipa::path(get, path = "/readyz", tag = "coordinator", responses(
        (status = 200, description = "it does", body = docs::Status),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
))]
pub(super) async fn ready(State(app): State<App>) -> Result<Json<Value>, Failure> {
    let service = app.service_for_work()?;
    if let Some((epoch, told_by)) = service.with(|engine, _| engine.superseded().cloned()) {
        return Err(plain(Refusal::Superseded { epoch, told_by }));
    }
    Ok(Json(json!({ "status": "ready" })))
}
