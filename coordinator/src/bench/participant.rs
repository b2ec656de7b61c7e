//! A participant of a measurement: one that answers at once and keeps nothing, or the SDK's with its forced store.
//!
//! Always true: `/stats` has counted every request and every message before it was answered.

use std::{
    future::pending,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use axum::{
    Json, Router,
    extract::{Request, State},
    middleware::{self, Next},
    routing::get,
};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use unanimous_sdk::prelude::*;

use super::{
    options::{self, Hold},
    server::{self, Answer, json},
};

/// The most messages that one request may hold.
const MOST: &str = "1024";

/// What stands in the payload of a branch that is to be refused.
pub const REFUSE: &str = r#""refuse":true"#;

const PREPARED: &str = r#"{"vote":"prepared"}"#;
const REFUSED: &str = r#"{"vote":"abort","reason":"asked to"}"#;
const COMMITTED: &str = r#"{"state":"committed"}"#;
const ABORTED: &str = r#"{"state":"aborted"}"#;

/// What a participant has received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Received {
    pub requests: u64,
    pub messages: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    messages: AtomicU64,
}

impl Counters {
    fn received(&self) -> Received {
        Received { requests: self.requests.load(Relaxed), messages: self.messages.load(Relaxed) }
    }
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    call: &'a str,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// Serves for ever.
pub async fn run(options: options::Participant) -> Result<(), String> {
    if let Some(store) = &options.store {
        return run_sdk(&options, store).await;
    }
    let listen = options.listen;
    let shared = Arc::new((options, Counters::default()));
    server::serve(listen, move |to, body| {
        let shared = Arc::clone(&shared);
        async move { answer(&shared.0, &shared.1, to.path(), &body).await }
    })
    .await
}

async fn answer(options: &options::Participant, counters: &Counters, path: &str, body: &Bytes) -> Answer {
    let call = path.rsplit('/').next().unwrap_or_default();
    match call {
        "readyz" => return json(StatusCode::OK, "{}"),
        "stats" => return json(StatusCode::OK, serde_json::to_vec(&counters.received()).unwrap_or_default()),
        _ => {}
    }
    counters.requests.fetch_add(1, Relaxed);
    if options.hold == Hold::Everything {
        return pending().await;
    }
    if call == "batch" {
        return batch(options, counters, body).await;
    }
    counters.messages.fetch_add(1, Relaxed);
    if options.hold == Hold::Decisions && call != "prepare" {
        return pending().await;
    }
    let refuse = call == "prepare" && is_refused(body);
    let (status, body) = one(call, refuse);
    offering(options, status, body)
}

async fn batch(options: &options::Participant, counters: &Counters, body: &Bytes) -> Answer {
    if !options.batch {
        return json(StatusCode::NOT_FOUND, "{}");
    }
    let Ok(Batch { messages }) = serde_json::from_slice(body) else { return json(StatusCode::BAD_REQUEST, "{}") };
    counters.messages.fetch_add(messages.len() as u64, Relaxed);
    if options.hold == Hold::Decisions && messages.iter().any(|message| message.call != "prepare") {
        return pending().await;
    }
    let mut answers = String::with_capacity(16 + messages.len() * 48);
    answers.push_str(r#"{"answers":["#);
    for (at, message) in messages.iter().enumerate() {
        let refuse = message.payload.is_some_and(|payload| is_refused(payload.get().as_bytes()));
        let (status, body) = one(message.call, refuse);
        answers.push_str(if at == 0 { r#"{"status":"# } else { r#",{"status":"# });
        answers.push_str(status.as_str());
        answers.push_str(r#","body":"#);
        answers.push_str(body);
        answers.push('}');
    }
    answers.push_str("]}");
    offering(options, StatusCode::OK, answers)
}

fn one(call: &str, refuse: bool) -> (StatusCode, &'static str) {
    match call {
        "prepare" if refuse => (StatusCode::CONFLICT, REFUSED),
        "prepare" => (StatusCode::OK, PREPARED),
        "commit" => (StatusCode::OK, COMMITTED),
        "abort" => (StatusCode::OK, ABORTED),
        _ => (StatusCode::NOT_FOUND, "{}"),
    }
}

fn offering(options: &options::Participant, status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let head = Response::builder().status(status);
    server::with(if options.batch { head.header("unanimous-batch", MOST) } else { head }, body)
}

/// The word stands first in a payload, and that after little else.
fn is_refused(body: &[u8]) -> bool {
    body[..body.len().min(1024)].windows(REFUSE.len()).any(|window| window == REFUSE.as_bytes())
}

struct Keeper;

#[derive(Deserialize)]
struct Order {
    #[serde(default)]
    refuse: bool,
    #[serde(default)]
    pad: String,
}

impl Participant for Keeper {
    type Store = KvStore;

    async fn prepare(&self, branch: &BranchContext, work: &mut Work) -> Result<Vote, Refusal> {
        let Order { refuse, pad } = branch.payload()?;
        if refuse {
            return Err("asked to".into());
        }
        work.put(branch.to_string(), &pad).await?;
        Ok(Vote::Prepared)
    }
}

async fn run_sdk(options: &options::Participant, folder: &Path) -> Result<(), String> {
    let store = KvStore::open(folder).map_err(|error| error.to_string())?;
    let service = Service::start(Keeper, store, ServiceOptions::default()).map_err(|error| error.to_string())?;
    service.ready().await?;
    let counters = Arc::new(Counters::default());
    let mut calls = service.router();
    if !options.batch {
        // The SDK offers batches by default: here they are to be left out.
        calls = calls.layer(middleware::map_response(async |mut response: axum::response::Response| {
            response.headers_mut().remove("unanimous-batch");
            response
        }));
    }
    let calls = calls.layer(middleware::from_fn_with_state(Arc::clone(&counters), count));
    let router = Router::new()
        .route("/readyz", get(async || "{}"))
        .route("/stats", get(async |State(counters): State<Arc<Counters>>| Json(counters.received())))
        .with_state(counters)
        .merge(calls);
    let listener = tokio::net::TcpListener::bind(options.listen).await;
    let listener = listener.map_err(|error| format!("cannot listen on {}: {error}", options.listen))?;
    axum::serve(listener, router).await.map_err(|error| error.to_string())
}

/// How many messages a batch holds isn't looked at: its body belongs to the SDK.
async fn count(State(counters): State<Arc<Counters>>, request: Request, next: Next) -> axum::response::Response {
    counters.requests.fetch_add(1, Relaxed);
    next.run(request).await
}
