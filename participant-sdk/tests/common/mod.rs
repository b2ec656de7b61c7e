//! A small bank as a participant, and what a coordinator says to it.
#![allow(dead_code, missing_docs)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

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

    pub async fn post(&self, call: &str, message: &Value) -> (u16, Value) {
        let response = self.http.post(format!("{}/{call}", self.url)).json(message).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
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
        answers.iter().map(|answer| (status(answer), answer["body"].clone())).collect()
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

/// A coordinator's side of inquiries, enlistments and votes: answers what it was told to, and keeps what it was asked.
#[derive(Clone, Default)]
pub struct Fake {
    pub asked: Arc<std::sync::Mutex<Vec<String>>>,
    /// The Idempotency-Key of each.
    pub keys: Arc<std::sync::Mutex<Vec<String>>>,
    /// Answers, first to last; the last one is given again and again.
    answers: Arc<std::sync::Mutex<Vec<(u16, Value)>>>,
    /// The same for inquiries.
    decisions: Arc<std::sync::Mutex<Vec<(u16, Value)>>>,
}

impl Fake {
    /// Starts it; its URL.
    pub async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = self.clone();
        let answer = move |request: axum::extract::Request| async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let key = parts.headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
            fake.keys.lock().unwrap().push(key.unwrap_or_default());
            fake.asked.lock().unwrap().push(format!(
                "{} {} {}",
                parts.method,
                parts.uri,
                String::from_utf8_lossy(&body)
            ));
            let is_inquiry = parts.uri.path().ends_with("/decision");
            let mut answers = if is_inquiry { &fake.decisions } else { &fake.answers }.lock().unwrap();
            let (status, body) = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
            (axum::http::StatusCode::from_u16(status).unwrap(), axum::Json(body))
        };
        let app = axum::Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        url
    }

    pub fn answer(&self, answers: impl IntoIterator<Item = (u16, Value)>) {
        *self.answers.lock().unwrap() = answers.into_iter().collect();
    }

    pub fn decide(&self, answers: impl IntoIterator<Item = (u16, Value)>) {
        *self.decisions.lock().unwrap() = answers.into_iter().collect();
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}
