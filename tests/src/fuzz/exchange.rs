//! A request as text, and what every answer must be.
//!
//! ```text
//!   POST /v1/transactions
//!   Idempotency-Key: a
//!
//!   {"commit": true}
//! ```

use std::{cell::RefCell, str, thread::LocalKey};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderName, HeaderValue, Request, Response, Uri, header},
};
use serde_json::Value;
use tower_service::Service as _;

/// What a thread keeps from one request to the next, and how often it was used.
pub(super) type Kept<T> = RefCell<Option<(T, u32)>>;

/// Works with what this thread keeps; after so many uses with a new one, as what it has gathered takes room. One that has
/// panicked isn't used again.
pub(super) fn with_kept<T>(kept: &'static LocalKey<Kept<T>>, most: u32, new: fn() -> T, work: impl FnOnce(&T)) {
    let (one, used) = kept.take().filter(|(_, used)| *used < most).unwrap_or_else(|| (new(), 0));
    work(&one);
    kept.set(Some((one, used + 1)));
}

/// Of an answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: Option<String>,
    pub(super) location: Option<String>,
    pub(super) body: Vec<u8>,
}

/// Reads a request; None if HTTP itself has no such. `{id}` in the path stands for `id`.
pub(super) fn request(bytes: &[u8], id: &str) -> Option<(Request<Body>, Vec<u8>)> {
    let end = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((bytes, &[][..]), |end| (&bytes[..end], &bytes[end + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let (method, path) = str::from_utf8(lines.next()?).ok()?.split_once(' ')?;
    let uri: Uri = path.replace("{id}", id).parse().ok().filter(|uri: &Uri| uri.path().starts_with('/'))?;
    let mut request = Request::builder().method(method).uri(uri);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        request = request.header(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some((request.body(Body::from(body.to_vec())).ok()?, body.to_vec()))
}

/// Sends it.
pub(super) async fn send(router: &Router, request: Request<Body>) -> Answer {
    let Ok(answer) = router.clone().call(request).await;
    read(answer).await
}

async fn read(answer: Response<Body>) -> Answer {
    let (head, body) = answer.into_parts();
    let text = |name| head.headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default().to_owned());
    let (content_type, location) = (text(header::CONTENT_TYPE), text(header::LOCATION));
    let body = to_bytes(body, usize::MAX).await.expect("an answer has a body");
    Answer { status: head.status.as_u16(), content_type, location, body: body.to_vec() }
}

impl Answer {
    /// What must be true of each: what is wrong is 4xx, or 503 for what passes; it is JSON where it says so, and a problem
    /// says what it is.
    pub(super) fn must_be_sound(&self) {
        let Self { status, content_type, body, .. } = self;
        let text = String::from_utf8_lossy(body);
        assert!(matches!(status, 200..=499 | 503), "{status}: {text}");
        let media = content_type.as_deref().and_then(|text| text.split(';').next()).unwrap_or_default();
        if media.ends_with("json") {
            let value: Value = serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {text}"));
            if media == "application/problem+json" {
                assert_eq!(value["status"], *status, "{text}");
                let texts = ["type", "title", "detail"].map(|member| value[member].as_str().unwrap_or_default());
                assert!(texts.iter().all(|text| !text.is_empty()), "{text}");
                assert!(*status >= 400, "{status}: {text}");
            }
        }
    }
}
