//! The calls of the protocol as requests, and what their answers say.
//!
//! Always true: in a batch each call's answer counts for itself; another number of answers is none at all.

use std::{borrow::Cow, time::Duration};

use serde::Serialize;
use serde_json::value::RawValue;
use unanimous_sdk::protocol::{
    AbortAnswer, AnswerOrigin, BatchAnswers, BatchCall, BatchMessage, BatchRequest, BranchName, CommitAnswer,
    Coordinator, CoordinatorRef, Epoch, MAX_ANSWER_BYTES, MAX_BATCH_ANSWER_BYTES, ParticipantId, PrepareAnswer,
    ProblemType, TransactionId, UnixMillis, WithOrigin,
};

use super::{
    Attempt, BatchFailure, Message, Request, Returned,
    client::{self, Client, Post, Response},
    size::{max_envelope_bytes, max_payload_bytes},
};
use crate::transaction::{Call, Phase};

/// What the answers in a batch are.
const JSON: Option<&str> = Some("application/json");

/// Makes calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http {
    pub(super) client: Client,
    /// Who calls; the horizon comes with each message.
    pub(super) coordinator: Coordinator,
}

#[derive(Serialize)]
struct Single<'a> {
    coordinator: &'a Coordinator,
    transaction: TransactionId,
    branch: &'a BranchName,
    #[serde(skip_serializing_if = "Option::is_none")]
    participant_id: Option<ParticipantId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<UnixMillis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_ms: Option<u64>,
}

impl Http {
    /// Calls as this coordinator.
    pub fn new(coordinator: Coordinator) -> Result<Self, super::Error> {
        Self::with_call_timeout(coordinator, client::CALL_TIMEOUT)
    }

    /// Calls as this coordinator. A try of a call ends after the time limit.
    pub fn with_call_timeout(coordinator: Coordinator, limit: Duration) -> Result<Self, super::Error> {
        Ok(Self { client: Client::new(limit)?, coordinator })
    }

    /// Returns how long the payload of a branch may be so that it surely fits into a prepare. None as name: it is not
    /// known yet.
    pub fn max_payload_bytes(&self, branch: Option<&BranchName>) -> usize {
        max_payload_bytes(&self.coordinator.url, branch)
    }

    /// Makes the calls of a request.
    pub async fn call(&self, request: &Request) -> Returned {
        let (attempts, max_batch) = match &request.messages[..] {
            [message] => {
                let (attempt, max_batch) = self.single(request, message).await;
                (vec![attempt], max_batch)
            }
            messages => self.batch(request, messages).await,
        };
        let tasks = request.messages.iter().map(|message| (message.transaction, message.at, message.call));
        Returned {
            participant: request.participant.clone(),
            phase: request.phase,
            attempts: tasks.zip(attempts).collect(),
            max_batch,
            batch: request.batch,
        }
    }

    fn coordinator(&self, horizon: TransactionId) -> Coordinator {
        Coordinator { horizon, ..self.coordinator.clone() }
    }

    pub(super) fn single_body(&self, message: &Message) -> serde_json::Result<Vec<u8>> {
        let prepare = message.call == Call::Prepare;
        let body = Single {
            coordinator: &self.coordinator(message.horizon),
            transaction: message.transaction,
            branch: &message.branch,
            participant_id: message.participant_id,
            payload: message.payload.as_deref(),
            deadline: prepare.then_some(message.deadline),
            remaining_ms: prepare.then_some(message.remaining_ms),
        };
        self.text(&body, std::slice::from_ref(message))
    }

    /// Returns the body of a batch. Its horizon must be above none of its transactions, so it is the lowest of its
    /// messages.
    pub(super) fn batch_body(&self, messages: &[Message]) -> serde_json::Result<Vec<u8>> {
        let horizon = messages.iter().map(|message| message.horizon).min().unwrap_or(TransactionId::NIL);
        let coordinator = self.coordinator(horizon);
        self.text(&BatchRequest { coordinator, messages: messages.iter().map(in_batch).collect() }, messages)
    }

    /// Writes a body into a buffer in which it surely fits.
    fn text(&self, body: &impl Serialize, messages: &[Message]) -> serde_json::Result<Vec<u8>> {
        let room = messages.iter().map(Message::max_bytes).sum::<usize>() + max_envelope_bytes(&self.coordinator.url);
        let mut text = Vec::with_capacity(room);
        serde_json::to_writer(&mut text, body)?;
        Ok(text)
    }

    async fn single(&self, request: &Request, message: &Message) -> (Attempt, Option<usize>) {
        let traceparent = message.traceparent.as_deref();
        let body = self.single_body(message);
        match self.post(request, name(message.call), body, traceparent, MAX_ANSWER_BYTES).await {
            Err(attempt) => (attempt, None),
            Ok(response) => {
                let Response { status, content_type, max_batch, body, lease } = response;
                if let Ok(attempt) = self.read(message, status, content_type.as_deref(), &body) {
                    return (attempt, max_batch);
                }
                lease.close();
                (Attempt::NoAnswer(format!("an answer that names another call than {}", of(message))), None)
            }
        }
    }

    async fn batch(&self, request: &Request, messages: &[Message]) -> (Vec<Attempt>, Option<usize>) {
        let all = |attempt: Attempt| vec![attempt; messages.len()];
        let body = self.batch_body(messages);
        let response = match self.post(request, "batch", body, None, MAX_BATCH_ANSWER_BYTES).await {
            Ok(response) => response,
            Err(attempt) => return (all(attempt), None),
        };
        let Response { status, content_type, max_batch, body, lease } = response;
        if let Some((epoch, origin)) = self.stale(status, content_type.as_deref(), &body) {
            // It answers the whole batch, so it may name any of its calls.
            if messages.iter().all(|message| check_call(message, &origin).is_err()) {
                lease.close();
                return (all(Attempt::NotTaken(BatchFailure::OtherCall)), None);
            }
            return (all(Attempt::Stale(epoch, origin.participant_id)), max_batch);
        }
        match status {
            404 | 405 | 415 | 501 => return (all(Attempt::NotTaken(BatchFailure::Unsupported)), None),
            413 => return (all(Attempt::NotTaken(BatchFailure::TooLarge)), max_batch),
            _ => {}
        }
        let Some(answers) = BatchAnswers::parse(status, content_type.as_deref(), &body, messages.len()) else {
            return (all(Attempt::NoAnswer(describe(status, content_type.as_deref(), &body))), max_batch);
        };
        let attempts = messages.iter().zip(answers).map(|(message, answer)| match answer {
            Some(answer) if answer.body.get().len() > MAX_ANSWER_BYTES => {
                Ok(Attempt::NoAnswer(format!("{}, with more bytes than an answer may have", answer.status)))
            }
            Some(answer) => self.read(message, answer.status, JSON, answer.body.get().as_bytes()),
            None => Ok(Attempt::NoAnswer("its answer in the batch isn't one: it needs a status and a body".to_owned())),
        });
        if let Ok(attempts) = attempts.collect() {
            return (attempts, max_batch);
        }
        lease.close();
        (all(Attempt::NotTaken(BatchFailure::OtherCall)), None)
    }

    async fn post(
        &self,
        request: &Request,
        name: &str,
        body: serde_json::Result<Vec<u8>>,
        traceparent: Option<&str>,
        most: usize,
    ) -> Result<Response, Attempt> {
        let body = body.map_err(|error| Attempt::NoAnswer(format!("the call could not be written: {error}")))?;
        // A prepare is worth nothing after the deadline, that of the last transaction in a batch.
        let remaining = request.messages.iter().map(|message| message.remaining_ms).max().map(Duration::from_millis);
        let call = Post {
            url: &format!("{}/{name}", request.participant),
            body: body.into(),
            traceparent,
            max_answer_bytes: most,
            remaining: remaining.filter(|_| request.phase == Phase::One),
        };
        self.client.post(call).await
    }

    /// Returns what an answer says; one that doesn't count says nothing.
    fn read(
        &self,
        message: &Message,
        status: u16,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<Attempt, OtherCall> {
        if let Some((epoch, origin)) = self.stale(status, content_type, body) {
            check_call(message, &origin)?;
            return Ok(Attempt::Stale(epoch, origin.participant_id));
        }
        if let Some(origin) = AnswerOrigin::of_problem(ProblemType::Misdirected, status, content_type, body) {
            check_call(message, &origin)?;
            return Ok(Attempt::OtherStore { participant_id: origin.participant_id });
        }
        let answer = match message.call {
            Call::Prepare => {
                let answer = PrepareAnswer::parse_with_origin(status, content_type, body);
                from_origin(message, answer, Attempt::Prepare)
            }
            Call::Commit => {
                let answer = CommitAnswer::parse_with_origin(status, content_type, body);
                from_origin(message, answer, Attempt::Commit)
            }
            Call::Abort => {
                let answer = AbortAnswer::parse_with_origin(status, content_type, body);
                from_origin(message, answer, Attempt::Abort)
            }
        };
        Ok(answer?.unwrap_or_else(|| Attempt::NoAnswer(describe(status, content_type, body))))
    }

    /// Returns the higher epoch of this very coordinator that a 412 names, and who answered it to which call.
    fn stale(&self, status: u16, content_type: Option<&str>, body: &[u8]) -> Option<(Epoch, AnswerOrigin)> {
        let stale = CoordinatorRef::of_stale_epoch(status, content_type, body)?;
        let origin = AnswerOrigin::of_problem(ProblemType::StaleEpoch, status, content_type, body)?;
        (stale.id == self.coordinator.id && stale.epoch > self.coordinator.epoch).then_some((stale.epoch, origin))
    }
}

/// An answer that names another call than the one it came to: it counts for neither.
#[derive(Debug)]
struct OtherCall;

fn check_call(message: &Message, origin: &AnswerOrigin) -> Result<(), OtherCall> {
    if origin.is_of(message.transaction, &message.branch) { Ok(()) } else { Err(OtherCall) }
}

/// Judges an answer by who gave it, and to which call.
fn from_origin<A>(
    message: &Message,
    answer: Option<WithOrigin<A>>,
    attempt: fn(A, Option<ParticipantId>) -> Attempt,
) -> Result<Option<Attempt>, OtherCall> {
    let Some(WithOrigin { answer, origin }) = answer else { return Ok(None) };
    check_call(message, &origin)?;
    let participant_id = origin.participant_id;
    if message.participant_id.is_some() && participant_id != message.participant_id {
        return Ok(Some(Attempt::OtherStore { participant_id }));
    }
    Ok(Some(attempt(answer, participant_id)))
}

/// Names a call, for people.
fn of(message: &Message) -> String {
    format!("{} of branch {}/{}", name(message.call), message.transaction, message.branch)
}

fn in_batch(message: &Message) -> BatchMessage<'_> {
    let prepare = message.call == Call::Prepare;
    BatchMessage {
        call: match message.call {
            Call::Prepare => BatchCall::Prepare,
            Call::Commit => BatchCall::Commit,
            Call::Abort => BatchCall::Abort,
        },
        transaction: message.transaction,
        branch: message.branch.clone(),
        participant_id: message.participant_id,
        payload: message.payload.as_deref(),
        deadline: prepare.then_some(message.deadline),
        remaining_ms: prepare.then_some(message.remaining_ms),
        traceparent: message.traceparent.as_deref().map(Cow::Borrowed),
    }
}

fn name(call: Call) -> &'static str {
    match call {
        Call::Prepare => "prepare",
        Call::Commit => "commit",
        Call::Abort => "abort",
    }
}

/// An answer that doesn't count, for people.
fn describe(status: u16, content_type: Option<&str>, body: &[u8]) -> String {
    let head: String =
        String::from_utf8_lossy(&body[..body.len().min(200)]).chars().filter(|c| !c.is_control()).collect();
    format!("an answer that doesn't count: {status} {} {head}", content_type.unwrap_or("without a content type"))
}
