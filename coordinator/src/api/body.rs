//! Reading a request: its body, and the parts of its path.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    body::{self, Body},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use unanimous_sdk::protocol::{
    BranchName, MAX_CALL_BYTES, MAX_JSON_DEPTH, Problem, ProblemType, TransactionId, canonical_json, json_depth_exceeds,
};
use xxhash_rust::xxh3::xxh3_128;

use super::App;
use crate::{engine::NewKey, transaction::Payload};

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemType::Malformed, detail)
}

/// Reads a JSON object; no body at all is an empty one.
async fn bytes(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, Problem> {
    check_media_type(headers)?;
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(unread(&error, most)),
        Err(_) => return Err(malformed("the body did not come within 30 s")),
    };
    Ok(if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes })
}

/// Reads a JSON object, and the Idempotency-Key that came with it. In the digest of the body the members in `apart` don't
/// count.
pub(super) async fn read<T: DeserializeOwned>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    apart: &[&str],
) -> Result<(T, Option<NewKey>), Problem> {
    let text = key(headers)?;
    let bytes = bytes(headers, body, app.0.limits.body_bytes).await?;
    let value = parse(&bytes)?;
    let key = match text {
        Some(text) => Some(NewKey { text, body: digest(&bytes, apart)? }),
        None => None,
    };
    Ok((value, key))
}

/// The Idempotency-Key.
fn key(headers: &HeaderMap) -> Result<Option<Arc<str>>, Problem> {
    let wrong = |why: &str| Err(malformed(format!("`Idempotency-Key` {why}; it is 1 to 255 visible ASCII characters")));
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(value) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return wrong("stands twice");
    }
    match value.to_str() {
        Ok(text) if (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Some(text.into()))
        }
        Ok(text) if text.len() > 255 => wrong("is too long"),
        Ok(_) | Err(_) => wrong("is empty, or has other characters"),
    }
}

/// A digest that equal bodies share: order, white space and the spelling of strings make no difference, and a member
/// that is null is absent.
fn digest(bytes: &[u8], apart: &[&str]) -> Result<u128, Problem> {
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    let mut text = String::new();
    for (name, value) in members {
        if value.get() != "null" && !apart.contains(&&*name) {
            let value = canonical_json(value.get()).ok_or_else(|| {
                malformed(format!("`{name}`: an object in it has a member twice, or a string half a surrogate pair"))
            })?;
            let _ = write!(text, "{name:?}:{value},");
        }
    }
    Ok(xxh3_128(text.as_bytes()))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |detail: String| Err(Problem::new(ProblemType::UnsupportedMediaType, detail));
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return unsupported(format!("Content-Encoding {encoding:?} is not taken: send the JSON as it is"));
    }
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = given.to_str().unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media.is_empty()
        || media == "application/json"
        || (media.starts_with("application/") && media.ends_with("+json"))
    {
        return Ok(());
    }
    unsupported(format!("Content-Type {given:?} is not taken: send application/json"))
}

fn unread(error: &axum::Error, most: usize) -> Problem {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return Problem::new(ProblemType::TooLarge, format!("the body has more than {most} bytes"));
        }
        cause = error.source();
    }
    malformed(format!("the body could not be read: {error}"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if json_depth_exceeds(bytes, MAX_JSON_DEPTH) {
        return Err(malformed(format!("the body is nested deeper than {MAX_JSON_DEPTH}")));
    }
    // A derived struct would take an array of its members, too.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(malformed("the body is not a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|_| {
        // Once more, slower, to say where.
        let mut from = serde_json::Deserializer::from_slice(bytes);
        match serde_path_to_error::deserialize::<_, T>(&mut from) {
            Err(error) if error.path().iter().next().is_some() => {
                malformed(format!("`{}`: {}", error.path(), error.inner()))
            }
            Err(error) => malformed(error.inner().to_string()),
            Ok(_) => malformed("something follows the JSON object"),
        }
    })
}

/// Returns a payload, with what it is compared by. `field` is where it stood.
///
/// # Errors
///
/// 413 if it has more bytes than `max_bytes`: no prepare could carry it. 400 if it is not well-formed.
pub(super) fn payload(
    raw: Option<Box<RawValue>>,
    field: &str,
    max_bytes: impl FnOnce() -> usize,
) -> Result<Option<Payload>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    let (bytes, max_bytes) = (raw.get().len(), max_bytes());
    if bytes > max_bytes {
        let detail = format!(
            "`{field}`: it has {bytes} bytes; a participant takes bodies of {MAX_CALL_BYTES} bytes, which leave \
             {max_bytes} for this payload"
        );
        return Err(Problem::new(ProblemType::TooLarge, detail));
    }
    let canonical = canonical_json(raw.get()).ok_or_else(|| {
        malformed(format!("`{field}`: an object in it has a member twice, or a string half a surrogate pair"))
    })?;
    Ok(Some(Payload { text: raw.into(), digest: xxh3_128(canonical.as_bytes()) }))
}

/// The transaction id of a path.
pub(super) fn transaction_id(text: &str) -> Result<TransactionId, Problem> {
    text.parse().map_err(|error| malformed(format!("`id`: {error}")))
}

/// The branch name of a path.
pub(super) fn branch_name(text: &str) -> Result<BranchName, Problem> {
    text.parse().map_err(|error| malformed(format!("`branch`: {error}")))
}
