//! A small bank as a participant, and what a coordinator says to it.
#![allow(dead_code, missing_docs)]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::extract::ConnectInfo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore};
use unanimous_sdk::prelude::*;

pub const COORDINATOR: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
pub const NIL: &str = "00000000-0000-0000-0000-000000000000";

pub fn epoch(n: u8) -> String {
    format!("01890a5d-0000-7000-8000-0000000000{n:02x}")
}

pub fn transaction(n: u32) -> String {
    format!("01890a5d-1111-7000-8000-0000{n:08x}")
}

/// Moves cents on one account; its commits can be made to fail, its prepares to be held back or to panic.
pub struct Bank {
    pub prepares: AtomicU32,
    pub commits: AtomicU32,
    pub aborts: AtomicU32,
    pub failing_commits: AtomicU32,
    pub panics: AtomicU32,
    /// Prepares of the account "slow" take one of these.
    pub gate: Semaphore,
    /// The `traceparent`s that calls came with.
    pub traces: std::sync::Mutex<Vec<String>>,
}

impl Bank {
    fn trace(&self, branch: &BranchContext) {
        self.traces.lock().unwrap().extend(branch.traceparent().map(str::to_owned));
    }
}

impl Default for Bank {
    fn default() -> Self {
        let zero = || AtomicU32::new(0);
        Self {
            prepares: zero(),
            commits: zero(),
            aborts: zero(),
            failing_commits: zero(),
            panics: zero(),
            gate: Semaphore::new(0),
            traces: std::sync::Mutex::default(),
        }
    }
}

/// Takes one of what is left.
fn take_one(of: &AtomicU32) -> bool {
    of.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Participant for Bank {
    type Store = KvStore;

    async fn prepare(&self, branch: &BranchContext, work: &mut Work) -> Result<Vote, Refusal> {
        self.prepares.fetch_add(1, Ordering::SeqCst);
        self.trace(branch);
        assert!(!take_one(&self.panics), "told to panic");
        let (account, cents): (String, i64) = branch.payload()?;
        if account == "slow" {
            self.gate.acquire().await.map_err(|_| "closed")?.forget();
        }
        let balance = work.get::<i64>(&account).await?.ok_or("there is no such account")? + cents;
        if balance < 0 {
            return Err("overdrawn".into());
        }
        if cents != 0 {
            work.put(&account, &balance).await?;
        }
        Ok(if cents == 0 { Vote::ReadOnly } else { Vote::Prepared })
    }

    async fn commit(&self, branch: &BranchContext) -> Result<(), Retry> {
        self.trace(branch);
        self.commits.fetch_add(1, Ordering::SeqCst);
        if take_one(&self.failing_commits) { Err("told to fail".into()) } else { Ok(()) }
    }

    async fn abort(&self, _: &BranchContext) -> Result<(), Retry> {
        self.aborts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// A bank that serves, and who talks to it.
pub struct Served {
    pub service: Service<Bank>,
    pub url: String,
    pub http: reqwest::Client,
    /// The URL of the coordinator that is named in messages.
    pub coordinator: String,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    pub async fn start(store: KvStore) -> Self {
        Self::start_with(store, ServiceOptions { patience: Duration::from_hours(1), ..ServiceOptions::default() }).await
    }

    pub async fn start_with(store: KvStore, mut options: ServiceOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/bank", listener.local_addr().unwrap());
        options.url = Some(url.parse().unwrap());
        let service = Service::start(Bank::default(), store, options).unwrap();
        service.ready().await.unwrap();
        let app = axum::Router::new().nest("/bank", service.router());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { service, url, http, coordinator: "http://127.0.0.1:1".to_owned(), server }
    }

    pub fn message(&self, n: u32) -> Value {
        json!({
            "transaction": transaction(n), "branch": "b",
            "coordinator": { "id": COORDINATOR, "epoch": epoch(2), "url": self.coordinator, "horizon": NIL },
        })
    }

    pub fn prepare_message(&self, n: u32, payload: Value) -> Value {
        let mut message = self.message(n);
        message["payload"] = payload;
        message["deadline"] = "2100-01-01T00:00:00Z".into();
        message["remaining_ms"] = 60_000.into();
        message
    }

    /// Posts a message. Looks at who the answer says has given it to which call, and leaves that out of it.
    pub async fn post(&self, call: &str, message: &Value) -> (u16, Value) {
        let response = self.http.post(format!("{}/{call}", self.url)).json(message).send().await.unwrap();
        assert_eq!(response.headers().get("cache-control").unwrap(), "no-store");
        let status = response.status().as_u16();
        let body = response.json().await.unwrap();
        if call == "batch" && status == 200 {
            // Each answer in it says so.
            return (status, body);
        }
        (status, self.without_origin(body, if call == "batch" { &Value::Null } else { message }))
    }

    fn without_origin(&self, mut body: Value, message: &Value) -> Value {
        let members = body.as_object_mut().unwrap();
        let id = self.service.store().participant_id();
        assert_eq!(members.remove("participant_id"), Some(json!(id)), "{members:?}");
        if members.get("type") != Some(&json!("/problems/malformed")) && !message.is_null() {
            for name in ["transaction", "branch"] {
                assert_eq!(members.remove(name).as_ref(), message.get(name), "{name}: {members:?}");
            }
        }
        body
    }

    /// A message of a batch: what `message` is alone, and a call.
    pub fn in_batch(call: &str, mut message: Value) -> Value {
        message.as_object_mut().unwrap().remove("coordinator");
        message["call"] = call.into();
        message
    }

    pub fn batch_body(&self, messages: &[Value]) -> Value {
        json!({ "coordinator": self.message(0)["coordinator"], "messages": messages })
    }

    /// What each message of a batch is answered.
    pub async fn batch(&self, messages: &[Value]) -> Vec<(u16, Value)> {
        let (status, body) = self.post("batch", &self.batch_body(messages)).await;
        assert_eq!(status, 200, "{body}");
        let answers = body["answers"].as_array().unwrap();
        assert_eq!(answers.len(), messages.len(), "{body}");
        let status = |answer: &Value| u16::try_from(answer["status"].as_u64().unwrap()).unwrap();
        let bodies = answers.iter().zip(messages).map(|(it, to)| self.without_origin(it["body"].clone(), to));
        answers.iter().map(status).zip(bodies).collect()
    }

    pub async fn prepare(&self, n: u32, account: &str, cents: i64) -> (u16, Value) {
        self.post("prepare", &self.prepare_message(n, json!([account, cents]))).await
    }

    pub async fn commit(&self, n: u32) -> (u16, Value) {
        self.post("commit", &self.message(n)).await
    }

    pub async fn abort(&self, n: u32) -> (u16, Value) {
        self.post("abort", &self.message(n)).await
    }

    pub fn bank(&self) -> &Bank {
        self.service.participant()
    }

    pub fn balance(&self, account: &str) -> Option<i64> {
        self.service.store().get(account).unwrap()
    }

    /// Ends the service, so that its folder can be opened again.
    pub async fn stop(self) {
        self.server.abort();
        let _ = self.server.await;
    }
}

pub fn prepared() -> (u16, Value) {
    (200, json!({ "vote": "prepared" }))
}

pub fn committed() -> (u16, Value) {
    (200, json!({ "state": "committed" }))
}

pub fn aborted() -> (u16, Value) {
    (200, json!({ "state": "aborted" }))
}

/// Waits, as long as it may take, until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within a minute: {what}");
}

/// Opens a store whose last user is still letting go of it.
pub async fn reopen(folder: &std::path::Path) -> KvStore {
    for _ in 0..6000 {
        match KvStore::open(folder) {
            Ok(store) => return store,
            Err(unanimous_sdk::store::Error::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the folder stayed in use for a minute");
}

/// A coordinator's side of what it is asked: answers what it was told to, and keeps what it was asked. An answer of
/// success that doesn't name its call gets the names.
#[derive(Clone, Default)]
pub struct Fake {
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Answers, first to last; the last one is given again and again.
    answers: Arc<Mutex<Vec<(u16, Value)>>>,
    /// The same for inquiries.
    decisions: Arc<Mutex<Vec<(u16, Value)>>>,
    /// The same for acknowledgements. Without any they are taken.
    acknowledgements: Arc<Mutex<Vec<(u16, Value)>>>,
    /// The same for the question who it is. Without any it says so.
    identities: Arc<Mutex<Vec<(u16, Value)>>>,
    /// What it says in each answer's header.
    pub log: Arc<Mutex<Option<String>>>,
}

/// A call to a [`Fake`].
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub uri: String,
    pub body: Value,
    pub text: String,
    /// The headers of that name.
    pub idempotency_key: Option<String>,
    pub coordinator: Option<String>,
    pub cache_control: Option<String>,
    /// The caller's port: one for each connection.
    pub port: u16,
}

impl Asked {
    pub fn path(&self) -> &str {
        self.uri.split('?').next().unwrap()
    }

    /// Returns transaction and branch, as far as the call names them.
    fn names(&self) -> (Option<String>, Option<String>) {
        let mut parts = self.path().split('/').skip(3).map(str::to_owned);
        let (transaction, _, branch) = (parts.next(), parts.next(), parts.next());
        let of_query = self.uri.split(['?', '&']).find_map(|pair| pair.strip_prefix("branch="));
        let of_body = self.body["branch"].as_str();
        (transaction, branch.or_else(|| of_query.or(of_body).map(str::to_owned)))
    }
}

fn next(answers: &Mutex<Vec<(u16, Value)>>) -> Option<(u16, Value)> {
    let mut answers = answers.lock().unwrap();
    if answers.len() > 1 { Some(answers.remove(0)) } else { answers.first().cloned() }
}

impl Fake {
    /// Starts it; its URL.
    pub async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = self.clone();
        let answer = move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: axum::extract::Request| async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            let asked = Asked {
                method: parts.method.to_string(),
                uri: parts.uri.to_string(),
                body: serde_json::from_slice(&body).unwrap_or_default(),
                text: String::from_utf8_lossy(&body).into_owned(),
                idempotency_key: header("idempotency-key"),
                coordinator: header("unanimous-coordinator"),
                cache_control: header("cache-control"),
                port: peer.port(),
            };
            fake.asked.lock().unwrap().push(asked.clone());
            let (status, body) = fake.answer_to(&asked);
            let status = axum::http::StatusCode::from_u16(status).unwrap();
            let mut response = axum::response::IntoResponse::into_response((status, axum::Json(body)));
            if let Some(log) = &*fake.log.lock().unwrap() {
                response.headers_mut().insert("unanimous-coordinator", log.parse().unwrap());
            }
            response
        };
        let app = axum::Router::new().fallback(answer).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        url
    }

    fn answer_to(&self, asked: &Asked) -> (u16, Value) {
        let coordinator = json!({ "id": COORDINATOR, "epoch": epoch(2), "url": "http://127.0.0.1:1", "horizon": NIL });
        let (transaction, branch) = asked.names();
        let (answers, default) = match asked.path() {
            "/v1/coordinator" => return next(&self.identities).unwrap_or((200, coordinator)),
            path if path.ends_with("/decision") => (&self.decisions, json!({})),
            path if path.ends_with("/acknowledge") => (&self.acknowledgements, json!({ "state": asked.body["state"] })),
            path if path.ends_with("/vote") => {
                (&self.answers, json!({ "vote": asked.body["vote"], "coordinator": coordinator }))
            }
            path if path.ends_with("/branches") => (&self.answers, json!({})),
            _ => return next(&self.answers).expect("an answer"),
        };
        let (status, mut body) = next(answers).unwrap_or((200, json!({})));
        if (200..300).contains(&status) {
            let mut whole = default;
            whole["transaction"] = json!(transaction);
            whole["branch"] = json!(branch);
            whole.as_object_mut().unwrap().extend(std::mem::take(body.as_object_mut().unwrap()));
            body = whole;
        }
        (status, body)
    }

    pub fn answer(&self, answers: impl IntoIterator<Item = (u16, Value)>) {
        *self.answers.lock().unwrap() = answers.into_iter().collect();
    }

    pub fn decide(&self, answers: impl IntoIterator<Item = (u16, Value)>) {
        *self.decisions.lock().unwrap() = answers.into_iter().collect();
    }

    pub fn acknowledge(&self, answers: impl IntoIterator<Item = (u16, Value)>) {
        *self.acknowledgements.lock().unwrap() = answers.into_iter().collect();
    }

    pub fn identify(&self, answers: impl IntoIterator<Item = (u16, Value)>) {
        *self.identities.lock().unwrap() = answers.into_iter().collect();
    }

    /// Returns all calls so far whose path ends so.
    pub fn calls(&self, end: &str) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.path().ends_with(end)).cloned().collect()
    }

    /// Returns all calls so far but acknowledgements and questions who it is, as texts.
    pub fn asked(&self) -> Vec<String> {
        let is_other = |asked: &&Asked| !asked.path().ends_with("/acknowledge") && asked.path() != "/v1/coordinator";
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(is_other).map(|it| format!("{} {} {}", it.method, it.uri, it.text)).collect()
    }
}
