//! Calls over HTTP, with reqwest.
//!
//! Always true: redirects are not followed, the environment's proxies are not used, and no more of an answer is read than
//! an answer may have.

use std::{error::Error as _, fmt::Write as _, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use unanimous_sdk::protocol::{
    AbortAnswer, BranchName, CommitAnswer, Coordinator, CoordinatorId, Epoch, MAX_ANSWER_BYTES, PrepareAnswer,
    ProblemType, TransactionId, UnixMillis,
};

use super::{Attempt, Message};
use crate::transaction::Call;

/// A call times out after this, PROTOCOL §4.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    /// Who calls; the horizon comes with each message.
    coordinator: Coordinator,
}

#[derive(Serialize)]
struct Body<'a> {
    transaction: TransactionId,
    branch: &'a BranchName,
    coordinator: &'a Coordinator,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<UnixMillis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_ms: Option<u64>,
}

#[derive(Deserialize)]
struct StaleEpoch {
    r#type: String,
    epoch: Epoch,
    coordinator: CoordinatorId,
}

impl Http {
    /// Calls as this coordinator.
    pub fn new(coordinator: Coordinator) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(512)
            .tcp_nodelay(true)
            .user_agent(concat!("unanimous/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, coordinator })
    }

    /// Makes one call.
    pub async fn call(&self, message: &Message) -> Attempt {
        let coordinator = Coordinator { horizon: message.horizon, ..self.coordinator.clone() };
        let prepare = message.call == Call::Prepare;
        let body = Body {
            transaction: message.transaction,
            branch: &message.branch,
            coordinator: &coordinator,
            payload: message.payload.as_deref(),
            deadline: prepare.then_some(message.deadline),
            remaining_ms: prepare.then_some(message.remaining_ms),
        };
        let body = match serde_json::to_vec(&body) {
            Ok(body) => body,
            Err(error) => return Attempt::NoAnswer(format!("the call could not be written: {error}")),
        };
        let name = match message.call {
            Call::Prepare => "prepare",
            Call::Commit => "commit",
            Call::Abort => "abort",
        };
        let mut request = self
            .client
            .post(format!("{}/{name}", message.participant))
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(body);
        if let Some(traceparent) = &message.traceparent {
            request = request.header("traceparent", &**traceparent);
        }
        match request.send().await {
            Ok(response) => self.read(message.call, response).await,
            Err(error) => failed(&error),
        }
    }

    async fn read(&self, call: Call, mut response: reqwest::Response) -> Attempt {
        let status = response.status().as_u16();
        let content_type = response.headers().get(reqwest::header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => {
                    return Attempt::NoAnswer(format!("{status}, with more than {MAX_ANSWER_BYTES} bytes"));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return failed(&error),
            }
        }
        if let Some(epoch) = self.stale(status, &body) {
            return Attempt::Stale(epoch);
        }
        let content_type = content_type.as_deref();
        let answer = match call {
            Call::Prepare => PrepareAnswer::parse(status, content_type, &body).map(Attempt::Prepare),
            Call::Commit => CommitAnswer::parse(status, content_type, &body).map(Attempt::Commit),
            Call::Abort => AbortAnswer::parse(status, content_type, &body).map(Attempt::Abort),
        };
        answer.unwrap_or_else(|| Attempt::NoAnswer(describe(status, content_type, &body)))
    }

    /// The higher epoch of this very coordinator that a 412 names.
    fn stale(&self, status: u16, body: &[u8]) -> Option<Epoch> {
        if status != 412 {
            return None;
        }
        let stale: StaleEpoch = serde_json::from_slice(body).ok()?;
        let mine = stale.r#type == ProblemType::StaleEpoch.reference() && stale.coordinator == self.coordinator.id;
        (mine && stale.epoch > self.coordinator.epoch).then_some(stale.epoch)
    }
}

fn failed(error: &reqwest::Error) -> Attempt {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    if error.is_connect() {
        Attempt::Unreachable(text)
    } else if error.is_timeout() {
        Attempt::Silence(text)
    } else {
        Attempt::NoAnswer(text)
    }
}

/// An answer that doesn't count, for people.
fn describe(status: u16, content_type: Option<&str>, body: &[u8]) -> String {
    let head: String = String::from_utf8_lossy(&body[..body.len().min(200)]).chars().filter(|c| !c.is_control()).collect();
    format!("an answer that doesn't count: {status} {} {head}", content_type.unwrap_or("without a content type"))
}
