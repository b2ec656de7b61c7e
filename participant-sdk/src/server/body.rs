//! What a request brings.
//!
//! Always true: a body that is read further is said to be JSON and has a size that is taken; what isn't as it should be is a
//! problem that says why.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use serde::Deserialize;

use super::answer::Fault;
use crate::protocol::{MAX_JSON_DEPTH, Problem, ProblemType, json_depth_exceeds};

/// A body, and the header that goes on to the application.
pub(super) struct Received {
    pub(super) body: Bytes,
    pub(super) traceparent: Option<Arc<str>>,
}

impl<S: Send + Sync> FromRequest<S> for Received {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let media =
            request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").to_ascii_lowercase());
        let media = media.as_deref().map(|media| media.split(';').next().unwrap_or_default().trim());
        if let Some(media) = media
            && media != "application/json"
            && !media.ends_with("+json")
        {
            let what = format!("the body's Content-Type is {media:?}; it must be application/json");
            return Err(Problem::new(ProblemType::UnsupportedMediaType, what).into());
        }
        let traceparent = request.headers().get("traceparent").and_then(|value| value.to_str().ok()).map(Into::into);
        let body = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                ProblemType::TooLarge,
                "the body is larger than what is taken: 1 MiB, or for a batch 4 KiB a message if that is more",
            ),
            _ => Problem::new(ProblemType::Malformed, format!("the body can't be read: {rejection}")),
        })?;
        Ok(Self { body, traceparent })
    }
}

/// Reads a message: an object with these members, not too deep. Others are ignored. `what` is what it is.
pub(super) fn message<'a, T: Deserialize<'a>>(what: &str, text: &'a [u8]) -> Result<T, Problem> {
    if json_depth_exceeds(text, MAX_JSON_DEPTH) {
        let what = format!("the {what} is nested deeper than {MAX_JSON_DEPTH} arrays and objects");
        return Err(Problem::new(ProblemType::Malformed, what));
    }
    object(what, text)
}

/// The same of whatever depth.
pub(super) fn object<'a, T: Deserialize<'a>>(what: &str, text: &'a [u8]) -> Result<T, Problem> {
    // serde would take an array of the members, too.
    if text.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Problem::new(ProblemType::Malformed, format!("the {what} is not a JSON object")));
    }
    let wrong = |error: &dyn std::fmt::Display| {
        Problem::new(ProblemType::Malformed, format!("the {what} is not what is expected: {error}"))
    };
    // Text first: what isn't UTF-8 isn't JSON, not even in members that nobody reads.
    let text = std::str::from_utf8(text).map_err(|error| wrong(&error))?;
    serde_json::from_str(text).map_err(|error| wrong(&error))
}
