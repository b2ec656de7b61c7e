//! Listing transactions, PROTOCOL §3.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde::{Deserialize, de::IntoDeserializer};
use serde_json::{Value, json};
use unanimous_sdk::protocol::{ParticipantUrl, Problem, ProblemType, UnixMillis};
use url::form_urlencoded;

use super::{
    App, openapi as docs,
    problem::{Failure, plain},
};
use crate::engine::Filter;

const DEFAULT_LIMIT: usize = 50;
const MOST: usize = 1_000;

/// Lists transactions, newest first. `metadata.KEY=VALUE` finds by metadata.
#[utoipa::path(
    get, path = "/v1/transactions", tag = "transactions",
    params(
        ("state" = Option<Vec<docs::State>>, Query, style = Form, explode = false, min_items = 1, description = "one state, or several with commas"),
        ("heuristic" = Option<bool>, Query, description = "whether a branch ended against the decision"),
        ("participant" = Option<String>, Query, format = "uri", description = "has a branch of this base URL"),
        ("idempotency_key" = Option<String>, Query, description = "a call about it came with this key"),
        ("since" = Option<String>, Query, format = "date-time", description = "begun then or later"),
        ("until" = Option<String>, Query, format = "date-time", description = "begun earlier"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "how many; 50 without it"),
        ("cursor" = Option<docs::TransactionId>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "a page", body = docs::Page),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid`: a number or a size out of its range; or `key-reused`", body = docs::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not-ready`, `overloaded`, `superseded` or `disk-full`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
    )
)]
pub(super) async fn list(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<Value>, Failure> {
    let service = app.service()?.clone();
    let (filter, limit) = read(query.as_deref().unwrap_or_default())?;
    // It may read much of the log.
    let listed = tokio::task::spawn_blocking(move || service.list(&filter, limit)).await;
    let (items, next) = match listed {
        Ok(listed) => listed.map_err(|refused| plain(refused.why))?,
        Err(error) => return Err(Problem::new(ProblemType::NotReady, format!("the list was cut off: {error}")).into()),
    };
    Ok(Json(json!({ "items": items, "next_cursor": next })))
}

fn malformed(field: &str, why: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemType::Malformed, format!("`{field}`: {why}"))
}

/// Reads the query; what isn't known, or stands twice where it can't, is refused.
fn read(query: &str) -> Result<(Filter, usize), Problem> {
    let mut filter = Filter::default();
    let mut limit = DEFAULT_LIMIT;
    let mut seen = std::collections::BTreeSet::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "participant" && !seen.insert(name.clone().into_owned()) {
            return Err(malformed(&name, "it stands twice"));
        }
        match &*name {
            "state" => {
                for state in value.split(',') {
                    let read: Result<_, serde::de::value::Error> = Deserialize::deserialize(state.into_deserializer());
                    filter.states.push(read.map_err(|error| malformed("state", error))?);
                }
            }
            "heuristic" => {
                filter.heuristic = Some(value.parse().map_err(|_| malformed("heuristic", "it is true or false"))?);
            }
            "participant" => {
                filter
                    .participants
                    .push(value.parse::<ParticipantUrl>().map_err(|error| malformed("participant", error))?);
            }
            "idempotency_key" => filter.key = Some(value.into_owned()),
            "since" => filter.since = Some(time("since", &value)?),
            "until" => filter.until = Some(time("until", &value)?),
            "limit" => limit = read_limit(&value)?,
            "cursor" => {
                filter.before = Some(value.parse().map_err(|_| malformed("cursor", "it is not one that was given"))?);
            }
            other => match other.strip_prefix("metadata.") {
                Some(key) => {
                    filter.metadata.insert(key.to_owned(), value.into_owned());
                }
                None => return Err(malformed(other, "there is no such parameter")),
            },
        }
    }
    Ok((filter, limit))
}

fn read_limit(text: &str) -> Result<usize, Problem> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed("limit", format!("it is a number from 1 to {MOST}")));
    }
    match text.parse() {
        Ok(limit) if (1..=MOST).contains(&limit) => Ok(limit),
        Ok(_) | Err(_) => Err(Problem::new(ProblemType::Invalid, format!("`limit` is {text}; it is 1 to {MOST}"))),
    }
}

/// Times are known by the millisecond: what lies between two of them counts as the later.
fn time(field: &str, text: &str) -> Result<UnixMillis, Problem> {
    UnixMillis::parse_up(text).ok_or_else(|| malformed(field, "it is an RFC 3339 time such as 2026-01-31T12:00:00Z"))
}
