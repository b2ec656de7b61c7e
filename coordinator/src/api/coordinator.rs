//! The coordinator itself: who it is, whether it lives, whether it serves.

use axum::{Json, extract::State};
use serde_json::{Value, json};
use unanimous_sdk::protocol::Coordinator;

use super::{
    App,
    problem::{Failure, plain},
};
use crate::engine::Refusal;

pub(super) async fn who(State(app): State<App>) -> Result<Json<Coordinator>, Failure> {
    Ok(Json(app.service()?.coordinator()))
}

pub(super) async fn healthy() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

pub(super) async fn ready(State(app): State<App>) -> Result<Json<Value>, Failure> {
    let service = app.service_for_work()?;
    if let Some((epoch, told_by)) = service.with(|engine, _| engine.superseded().cloned()) {
        return Err(plain(Refusal::Superseded { epoch, told_by }));
    }
    Ok(Json(json!({ "status": "ready" })))
}
