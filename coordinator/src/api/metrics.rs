//! What operators watch: `/metrics`, and the counting of requests.
//!
//! Always true: a request is counted under its route's template, never under its path.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{App, openapi as docs, problem::Failure};
use crate::metrics::Metrics;

/// The text format's media type.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What operators watch, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "coordinator", responses(
        (status = 200, description = "the text format", body = String, content_type = "text/plain"),
        (status = 503, description = "`not-ready`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
))]
pub(super) async fn scrape(State(app): State<App>) -> Result<impl IntoResponse, Failure> {
    Ok(([(header::CONTENT_TYPE, TEXT)], app.service()?.scrape()))
}

/// Counts what is answered.
pub(super) async fn counted(metrics: &Metrics, request: Request, next: Next) -> Response {
    let came = Instant::now();
    let method = name(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    metrics.answered(method, route, response.status().as_u16());
    if method == "POST" && is_decision(route, response.status()) {
        metrics.commit_answered(came.elapsed());
    }
    response
}

/// Methods are the client's words: unknown ones are one.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// Whether it answers a call that asked for a commit, with its decision. (A begin that asks for none is 201.)
fn is_decision(route: &str, status: StatusCode) -> bool {
    matches!(route, "/v1/transactions" | "/v1/transactions/{id}/commit")
        && matches!(status, StatusCode::OK | StatusCode::CONFLICT)
}
