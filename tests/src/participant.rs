//! A participant inside the test that does what a script says, and watches what the coordinator does to it.
//!
//! Always true: where the script says nothing it keeps the protocol: it votes to commit, repeats its answers, and obeys.
//! Whatever the coordinator must never send it is kept as a violation.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::server::Server;

/// What a participant can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Call {
    Prepare,
    Commit,
    Abort,
}

/// A call that came in.
#[derive(Clone, Debug)]
pub struct Received {
    /// What was asked.
    pub call: Call,
    /// The body, whole.
    pub body: Value,
    /// The trace context it came with.
    pub traceparent: Option<String>,
}

impl Received {
    /// Whose branch it is about.
    pub fn transaction(&self) -> &str {
        self.body["transaction"].as_str().unwrap_or_default()
    }

    /// Which branch it is about.
    pub fn branch(&self) -> &str {
        self.body["branch"].as_str().unwrap_or_default()
    }
}

/// What a script makes of a call.
#[derive(Clone, Debug)]
pub enum Act {
    /// Keep the protocol.
    Obey,
    /// Vote this, for a prepare.
    Vote(&'static str),
    /// Vote abort, with this reason.
    Refuse(&'static str),
    /// Answer this, and remember nothing.
    Say(u16, Value),
    /// Wait until [`Participant::release`], then keep the protocol.
    Hold,
}

/// How a branch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Branch {
    Prepared,
    ReadOnly,
    Refused,
    Committed,
    Aborted,
}

type Script = Box<dyn Fn(&Received) -> Act + Send + Sync>;

struct Shared {
    script: Mutex<Script>,
    seen: Mutex<Seen>,
    held: watch::Sender<bool>,
}

#[derive(Default)]
struct Seen {
    received: Vec<Received>,
    branches: BTreeMap<(String, String), Branch>,
    violations: Vec<String>,
    horizon: String,
    /// The highest epoch of each coordinator.
    epochs: BTreeMap<String, String>,
}

/// See the module.
pub struct Participant {
    shared: Arc<Shared>,
    server: Server,
}

impl Participant {
    /// Starts one that keeps the protocol.
    pub fn start() -> Self {
        Self::scripted(|_| Act::Obey)
    }

    /// Starts one with a script.
    pub fn scripted(script: impl Fn(&Received) -> Act + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            held: watch::channel(true).0,
        });
        let router = Router::new().route("/{call}", post(serve)).with_state(shared.clone());
        Self { shared, server: Server::start(router) }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// From now on it follows another script.
    pub fn script(&self, script: impl Fn(&Received) -> Act + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }

    /// Goes away, with its connections.
    pub fn down(&mut self) {
        self.server.down();
    }

    /// Comes back, knowing all it knew.
    pub fn up(&mut self) {
        self.server.up();
    }

    /// Lets go whatever a script holds, now and from now on.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// All calls so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.seen().received.clone()
    }

    /// How many calls of a kind came.
    pub fn count(&self, call: Call) -> usize {
        self.shared.seen().received.iter().filter(|received| received.call == call).count()
    }

    /// How a branch stands here; None if there is no trace of it.
    pub fn branch(&self, transaction: &str, branch: &str) -> Option<Branch> {
        self.shared.seen().branches.get(&(transaction.to_owned(), branch.to_owned())).copied()
    }

    /// Prepares a branch on an application's own call, so that its vote can be given unasked.
    pub fn prepare(&self, transaction: &str, branch: &str) {
        self.shared.seen().branches.insert((transaction.to_owned(), branch.to_owned()), Branch::Prepared);
    }

    /// Fails if the coordinator did anything that it must never do.
    pub fn assert_respected(&self) {
        let violations = self.shared.seen().violations.clone();
        assert!(violations.is_empty(), "the coordinator broke the protocol at {}: {violations:#?}", self.url());
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    Path(call): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let call = match call.as_str() {
        "prepare" => Call::Prepare,
        "commit" => Call::Commit,
        "abort" => Call::Abort,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let received = Received { call, body: serde_json::from_str(&body).unwrap_or_default(), traceparent };
    shared.seen().note(&received);
    let act = (shared.script.lock().unwrap_or_else(PoisonError::into_inner))(&received);
    if matches!(act, Act::Hold) {
        let _ = shared.held.subscribe().wait_for(|held| !held).await;
    }
    let (status, body) = shared.seen().answer(&received, &act);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

impl Seen {
    /// Keeps a call, and what is wrong with it whatever came before.
    fn note(&mut self, received: &Received) {
        let coordinator = &received.body["coordinator"];
        let text = |name: &str| coordinator[name].as_str().unwrap_or_default().to_owned();
        let (id, epoch, horizon) = (text("id"), text("epoch"), text("horizon"));
        let mut wrong = |what: String| self.violations.push(format!("{what}: {received:?}"));
        if id.is_empty() || epoch.is_empty() || horizon.is_empty() || text("url").is_empty() {
            wrong("a message doesn't say whose it is".to_owned());
        }
        if received.transaction() < horizon.as_str() {
            wrong("a horizon above the message's own transaction".to_owned());
        }
        if received.call != Call::Prepare && !received.body["payload"].is_null() {
            wrong("a payload in phase two".to_owned());
        }
        self.horizon = std::mem::take(&mut self.horizon).max(horizon);
        let highest = self.epochs.entry(id).or_default();
        *highest = std::mem::take(highest).max(epoch);
        self.received.push(received.clone());
    }

    fn answer(&mut self, received: &Received, act: &Act) -> (u16, Value) {
        if let Act::Say(status, body) = act {
            return (*status, body.clone());
        }
        let key = (received.transaction().to_owned(), received.branch().to_owned());
        let known = self.branches.get(&key).copied();
        match received.call {
            Call::Prepare => self.prepare(key, known, act),
            Call::Commit => self.commit(key, known, received),
            Call::Abort => self.abort(key, known, received),
        }
    }

    fn prepare(&mut self, key: (String, String), known: Option<Branch>, act: &Act) -> (u16, Value) {
        let branch = known.unwrap_or(match act {
            Act::Vote("read_only") => Branch::ReadOnly,
            Act::Refuse(_) => Branch::Refused,
            Act::Obey | Act::Hold | Act::Vote(_) | Act::Say(..) => Branch::Prepared,
        });
        self.branches.insert(key, branch);
        match (branch, act) {
            (Branch::ReadOnly, _) => (200, json!({ "vote": "read_only" })),
            (Branch::Prepared | Branch::Committed, _) => (200, json!({ "vote": "prepared" })),
            (Branch::Refused | Branch::Aborted, Act::Refuse(reason)) => {
                (409, json!({ "vote": "abort", "reason": reason }))
            }
            (Branch::Refused | Branch::Aborted, _) => (409, json!({ "vote": "abort", "reason": "it has ended here" })),
        }
    }

    fn commit(&mut self, key: (String, String), known: Option<Branch>, received: &Received) -> (u16, Value) {
        match known {
            Some(Branch::Prepared | Branch::Committed) => {
                self.branches.insert(key, Branch::Committed);
                (200, json!({ "state": "committed" }))
            }
            other => {
                self.violations.push(format!("a commit of what is {other:?}: {received:?}"));
                (404, json!({ "type": "/problems/unknown-branch", "status": 404 }))
            }
        }
    }

    fn abort(&mut self, key: (String, String), known: Option<Branch>, received: &Received) -> (u16, Value) {
        match known {
            Some(Branch::Committed) => {
                self.violations.push(format!("an abort of what is committed: {received:?}"));
                return (409, json!({ "state": "heuristic_commit" }));
            }
            Some(Branch::Refused | Branch::ReadOnly) => {
                self.violations.push(format!("an abort of what has no part in phase two: {received:?}"));
            }
            Some(Branch::Prepared | Branch::Aborted) | None => {}
        }
        self.branches.insert(key, Branch::Aborted);
        (200, json!({ "state": "aborted" }))
    }
}
