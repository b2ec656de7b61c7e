//! The null coordinators: they take the calls that the coordinator takes, send what it sends, wait for what it waits for
//! and answer when it answers, and that is all: no log, no state, no retries. What they reach is what HTTP allows.
//!
//! Always true: whatever a transaction's messages cost the coordinator on the wire, its members included, they cost here.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use unanimous_sdk::protocol::{
    AbortAnswer, BranchName, CommitAnswer, Coordinator, CoordinatorId, Epoch, PrepareAnswer, TransactionId,
};
use uuid::Uuid;

use super::{
    lanes::Lanes,
    options,
    server::{self, Answer, json},
    single::Single,
};
use crate::{
    engine::Clock,
    transaction::Call,
    transport::client::{CALL_TIMEOUT, Client},
};

/// The deadline is as far away as the coordinator's default.
const DEADLINE_MS: u64 = 30_000;

/// How messages travel.
#[derive(Clone)]
enum Way {
    Alone(Single),
    Together(Arc<Lanes>),
}

/// One message, its body as the protocol has it, but for `coordinator`.
#[derive(Clone, Copy, Serialize)]
pub struct Message<'a> {
    pub transaction: &'a str,
    pub branch: &'a BranchName,
    /// Of a message that travels alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<&'a Coordinator>,
    /// Of one that travels with others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Begin<'a> {
    #[serde(borrow)]
    branches: Vec<Branch<'a>>,
    respond: Option<&'a str>,
}

#[derive(Deserialize)]
struct Branch<'a> {
    participant: &'a str,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// A branch, for as long as its transaction takes.
struct Enlisted {
    participant: Box<str>,
    name: BranchName,
}

/// Serves for ever.
pub async fn run(options: options::Null, batching: bool) -> Result<(), String> {
    let coordinator = Coordinator {
        id: CoordinatorId::from_uuid(Uuid::now_v7()),
        epoch: Epoch::from_uuid(Uuid::now_v7()),
        url: format!("http://{}", options.listen),
        horizon: TransactionId::from_uuid(Uuid::now_v7()),
    };
    let way = if batching {
        let client = Client::new(CALL_TIMEOUT).map_err(|error| error.to_string())?;
        Way::Together(Arc::new(Lanes::new(client, &coordinator)))
    } else {
        let client = reqwest().map_err(|error| error.to_string())?;
        Way::Alone(Single::new(client, coordinator))
    };
    server::serve(options.listen, move |to, body| {
        let way = way.clone();
        async move {
            match to.path() {
                "/readyz" => json(StatusCode::OK, "{}"),
                "/v1/transactions" => commit(way, &body).await.unwrap_or_else(|| json(StatusCode::BAD_GATEWAY, "{}")),
                _ => json(StatusCode::NOT_FOUND, "{}"),
            }
        }
    })
    .await
}

/// Set up as the coordinator's client is, but for two things that could only slow it down: it keeps all idle connections,
/// and has no time limit.
fn reqwest() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .user_agent(concat!("unanimous/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Begins and commits: prepares in parallel, the answer, and the decision behind it.
async fn commit(way: Way, body: &Bytes) -> Option<Answer> {
    let Begin { branches, respond } = serde_json::from_slice(body).ok()?;
    let id = Uuid::now_v7().to_string();
    let deadline = Clock::start().now().wall.after(Duration::from_millis(DEADLINE_MS)).to_string();
    let mut enlisted = Vec::with_capacity(branches.len());
    for (at, branch) in branches.iter().enumerate() {
        enlisted.push(Enlisted { participant: branch.participant.into(), name: (at + 1).to_string().parse().ok()? });
    }
    let prepares = enlisted.iter().zip(&branches).map(|(to, branch)| {
        let message = Message {
            transaction: &id,
            branch: &to.name,
            coordinator: None,
            call: None,
            payload: branch.payload,
            deadline: Some(&deadline),
            remaining_ms: Some(DEADLINE_MS),
        };
        way.send(&to.participant, Call::Prepare, message)
    });
    let votes = join_all(prepares).await;
    let mut refused = false;
    let mut told = Vec::with_capacity(enlisted.len());
    for (to, vote) in enlisted.into_iter().zip(votes) {
        let (status, body) = vote?;
        match PrepareAnswer::parse(status, Some("application/json"), &body)? {
            PrepareAnswer::Vote(_) => told.push(to),
            PrepareAnswer::Refused { .. } => refused = true,
        }
    }
    let call = if refused { Call::Abort } else { Call::Commit };
    let (status, state) = if refused { (StatusCode::CONFLICT, "aborted") } else { (StatusCode::OK, "committed") };
    let answer = json(status, format!(r#"{{"id":"{id}","state":"{state}"}}"#));
    let telling = tell(way, id, told, call);
    if respond == Some("finished") {
        telling.await;
    } else {
        tokio::spawn(telling);
    }
    Some(answer)
}

async fn tell(way: Way, transaction: String, to: Vec<Enlisted>, call: Call) {
    let (way, transaction) = (&way, &*transaction);
    let calls = to.iter().map(|to| {
        let message = Message {
            transaction,
            branch: &to.name,
            coordinator: None,
            call: None,
            payload: None,
            deadline: None,
            remaining_ms: None,
        };
        async move {
            let answer = way.send(&to.participant, call, message).await;
            let (status, body) = answer?;
            let media = Some("application/json");
            match call {
                Call::Abort => AbortAnswer::parse(status, media, &body).map(drop),
                Call::Commit | Call::Prepare => CommitAnswer::parse(status, media, &body).map(drop),
            }
        }
    });
    if join_all(calls).await.contains(&None) {
        eprintln!("a participant didn't acknowledge transaction {transaction}");
    }
}

impl Way {
    /// The status and the body of the answer, if there is one.
    async fn send(&self, participant: &str, call: Call, message: Message<'_>) -> Option<(u16, Bytes)> {
        match self {
            Self::Alone(single) => single.send(participant, call, message).await,
            Self::Together(lanes) => Lanes::send(lanes, participant, call, message).await,
        }
    }
}

/// As it stands in a path, and in a batch.
pub const fn name(call: Call) -> &'static str {
    match call {
        Call::Prepare => "prepare",
        Call::Commit => "commit",
        Call::Abort => "abort",
    }
}
