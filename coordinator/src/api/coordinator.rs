//! The coordinator itself: who it is, whether it lives, whether it serves.

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::{Value, json};
use unanimous_sdk::protocol::Coordinator;

use super::{
    App, openapi as docs,
    problem::{Failure, plain},
};
use crate::engine::HorizonHeldBy;

/// Who it is.
#[utoipa::path(get, path = "/v1/coordinator", tag = "coordinator", responses(
        (status = 200, description = "as it stands in every message", body = docs::Who),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
))]
pub(super) async fn who(State(app): State<App>) -> Result<Json<Who>, Failure> {
    let service = app.service()?;
    let (coordinator, horizon_held_by) = service.with(|engine, _| (engine.coordinator(), engine.horizon_held_by()));
    Ok(Json(Who { coordinator, horizon_held_by }))
}

/// The coordinator as it stands in every message, and what keeps its horizon where it is.
#[derive(Serialize)]
pub(super) struct Who {
    #[serde(flatten)]
    coordinator: Coordinator,
    horizon_held_by: Option<HorizonHeldBy>,
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
    service.with(|engine, _| engine.refuse_if_superseded()).map_err(|refused| plain(refused.why))?;
    Ok(Json(json!({ "status": "ready" })))
}
