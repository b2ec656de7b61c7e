//! The calls of the protocol as requests, and what their answers say.
//!
//! Always true: in a batch each call's answer counts for itself; another number of answers is none at all.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use unanimous_sdk::protocol::{
    AbortAnswer, BranchName, CommitAnswer, Coordinator, CoordinatorId, Epoch, MAX_ANSWER_BYTES, MAX_BATCH_ANSWER_BYTES,
    PrepareAnswer, ProblemType, TransactionId, UnixMillis,
};

use super::{
    Attempt, Message, Offer, Request, Returned,
    client::{Client, Response},
};
use crate::transaction::Call;

/// Makes calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client,
    /// Who calls; the horizon comes with each message.
    coordinator: Coordinator,
}

#[derive(Serialize)]
struct Single<'a> {
    coordinator: &'a Coordinator,
    #[serde(flatten)]
    message: Body<'a>,
}

#[derive(Serialize)]
struct Batch<'a> {
    coordinator: &'a Coordinator,
    messages: Vec<InBatch<'a>>,
}

#[derive(Serialize)]
struct InBatch<'a> {
    call: &'static str,
    #[serde(flatten)]
    message: Body<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
}

#[derive(Serialize)]
struct Body<'a> {
    transaction: TransactionId,
    branch: &'a BranchName,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<UnixMillis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_ms: Option<u64>,
}

#[derive(Deserialize)]
struct BatchAnswers<'a> {
    #[serde(borrow)]
    answers: Vec<OneAnswer<'a>>,
}

#[derive(Deserialize)]
struct OneAnswer<'a> {
    status: u16,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct StaleEpoch {
    r#type: String,
    epoch: Epoch,
    coordinator: CoordinatorId,
}

impl Http {
    /// Calls as this coordinator.
    pub fn new(coordinator: Coordinator) -> Result<Self, super::Error> {
        Ok(Self { client: Client::new()?, coordinator })
    }

    /// Makes the calls of a request.
    pub async fn call(&self, request: &Request) -> Returned {
        let (attempts, batches) = match &request.messages[..] {
            [message] => {
                let (attempt, offer) = self.single(request, message).await;
                (vec![attempt], offer)
            }
            messages => self.batch(request, messages).await,
        };
        let tasks = request.messages.iter().map(|message| (message.transaction, message.at, message.call));
        Returned {
            participant: request.participant.clone(),
            phase: request.phase,
            attempts: tasks.zip(attempts).collect(),
            batches,
        }
    }

    fn coordinator(&self, horizon: TransactionId) -> Coordinator {
        Coordinator { horizon, ..self.coordinator.clone() }
    }

    async fn single(&self, request: &Request, message: &Message) -> (Attempt, Option<Offer>) {
        let coordinator = self.coordinator(message.horizon);
        let body = Single { coordinator: &coordinator, message: Body::of(message) };
        let traceparent = message.traceparent.as_deref();
        match self.post(request, name(message.call), &body, traceparent, MAX_ANSWER_BYTES).await {
            Err(attempt) => (attempt, None),
            Ok(response) => {
                let attempt = match self.stale(response.status, response.content_type.as_deref(), &response.body) {
                    Some(epoch) => Attempt::Stale(epoch),
                    None => read(message.call, response.status, response.content_type.as_deref(), &response.body),
                };
                (attempt, response.offer)
            }
        }
    }

    async fn batch(&self, request: &Request, messages: &[Message]) -> (Vec<Attempt>, Option<Offer>) {
        let all = |attempt: Attempt| vec![attempt; messages.len()];
        let horizon = messages.iter().map(|message| message.horizon).max().unwrap_or(TransactionId::NIL);
        let coordinator = self.coordinator(horizon);
        let body = Batch { coordinator: &coordinator, messages: messages.iter().map(InBatch::of).collect() };
        let response = match self.post(request, "batch", &body, None, MAX_BATCH_ANSWER_BYTES).await {
            Ok(response) => response,
            Err(attempt) => return (all(attempt), None),
        };
        let Response { status, content_type, offer, body } = response;
        if let Some(epoch) = self.stale(status, content_type.as_deref(), &body) {
            return (all(Attempt::Stale(epoch)), offer);
        }
        if let 404 | 405 | 415 | 501 = status {
            return (all(Attempt::NotTaken), Some(Offer::Refused));
        }
        let answers = Some(&body).filter(|_| status == 200 && is_json(content_type.as_deref()));
        let answers = answers.and_then(|body| serde_json::from_slice::<BatchAnswers<'_>>(body).ok());
        let Some(BatchAnswers { answers }) = answers.filter(|all| all.answers.len() == messages.len()) else {
            return (all(Attempt::NoAnswer(describe(status, content_type.as_deref(), &body))), offer);
        };
        let attempts = messages.iter().zip(answers).map(|(message, answer)| {
            read(message.call, answer.status, Some("application/json"), answer.body.get().as_bytes())
        });
        (attempts.collect(), offer)
    }

    async fn post(
        &self,
        request: &Request,
        name: &str,
        body: &impl Serialize,
        traceparent: Option<&str>,
        most: usize,
    ) -> Result<Response, Attempt> {
        let body = serde_json::to_vec(body);
        let body = body.map_err(|error| Attempt::NoAnswer(format!("the call could not be written: {error}")))?;
        self.client.post(format!("{}/{name}", request.participant), body, traceparent, most).await
    }

    /// The higher epoch of this very coordinator that a 412 names.
    fn stale(&self, status: u16, content_type: Option<&str>, body: &[u8]) -> Option<Epoch> {
        if status != 412 || !is_json(content_type) {
            return None;
        }
        let stale: StaleEpoch = serde_json::from_slice(body).ok()?;
        let mine = stale.r#type == ProblemType::StaleEpoch.reference() && stale.coordinator == self.coordinator.id;
        (mine && stale.epoch > self.coordinator.epoch).then_some(stale.epoch)
    }
}

impl<'a> InBatch<'a> {
    fn of(message: &'a Message) -> Self {
        let traceparent = message.traceparent.as_deref();
        Self { call: name(message.call), message: Body::of(message), traceparent }
    }
}

impl<'a> Body<'a> {
    fn of(message: &'a Message) -> Self {
        let prepare = message.call == Call::Prepare;
        Self {
            transaction: message.transaction,
            branch: &message.branch,
            payload: message.payload.as_deref(),
            deadline: prepare.then_some(message.deadline),
            remaining_ms: prepare.then_some(message.remaining_ms),
        }
    }
}

fn name(call: Call) -> &'static str {
    match call {
        Call::Prepare => "prepare",
        Call::Commit => "commit",
        Call::Abort => "abort",
    }
}

/// What an answer says; one that doesn't count says nothing.
fn read(call: Call, status: u16, content_type: Option<&str>, body: &[u8]) -> Attempt {
    let answer = match call {
        Call::Prepare => PrepareAnswer::parse(status, content_type, body).map(Attempt::Prepare),
        Call::Commit => CommitAnswer::parse(status, content_type, body).map(Attempt::Commit),
        Call::Abort => AbortAnswer::parse(status, content_type, body).map(Attempt::Abort),
    };
    answer.unwrap_or_else(|| Attempt::NoAnswer(describe(status, content_type, body)))
}

fn is_json(content_type: Option<&str>) -> bool {
    let media = content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase();
    media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"))
}

/// An answer that doesn't count, for people.
fn describe(status: u16, content_type: Option<&str>, body: &[u8]) -> String {
    let head: String =
        String::from_utf8_lossy(&body[..body.len().min(200)]).chars().filter(|c| !c.is_control()).collect();
    format!("an answer that doesn't count: {status} {} {head}", content_type.unwrap_or("without a content type"))
}
