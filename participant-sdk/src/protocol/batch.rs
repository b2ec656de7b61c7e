//! Several messages in one request, `POST B/batch`, and their answers.
//!
//! Always true: a message or an answer that isn't well-formed spoils no other; an answer in a batch counts exactly when
//! it would count alone.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    AbortAnswer, BranchName, CommitAnswer, Coordinator, MAX_BATCH_ANSWER_BYTES, ParticipantId, PrepareAnswer,
    TransactionId, UnixMillis, messages::object,
};

/// `POST B/batch`. Who sends it writes [`BatchMessage`]s; who receives it reads each from a [`RawValue`] of its own.
///
/// ```
/// use serde_json::value::RawValue;
/// use unanimous_sdk::protocol::{BatchCall, BatchMessage, BatchRequest};
/// let sent = r#"{"coordinator": {
///     "id": "67e55044-10b1-426f-9247-bb680e5fe0c8", "epoch": "01890a5d-0000-7000-8000-000000000002",
///     "url": "http://127.0.0.1:7070", "horizon": "00000000-0000-0000-0000-000000000000"
/// }, "messages": [{"call": "commit", "transaction": "01890a5d-ac96-774b-bcce-b302099a8057", "branch": "b"}, {}]}"#;
/// let request: BatchRequest<&RawValue> = serde_json::from_str(sent).unwrap();
/// let first: BatchMessage = serde_json::from_str(request.messages[0].get()).unwrap();
/// assert_eq!(first.call, BatchCall::Commit);
/// assert!(serde_json::from_str::<BatchMessage>(request.messages[1].get()).is_err());
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BatchRequest<M> {
    pub coordinator: Coordinator,
    pub messages: Vec<M>,
}

/// Which call a message of a batch stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum BatchCall {
    Prepare,
    Commit,
    Abort,
}

/// One message of a batch. `deadline` and `remaining_ms` stand in a prepare, `payload` may.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BatchMessage<'a> {
    pub call: BatchCall,
    pub transaction: TransactionId,
    pub branch: BranchName,
    /// The store whose vote was counted, if it has an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participant_id: Option<ParticipantId>,
    /// Absent and null are the same.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// What a single call has as its header.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Cow<'a, str>>,
}

/// The answer to a batch: as many answers as messages, in their order.
///
/// ```
/// use unanimous_sdk::protocol::{BatchAnswer, BatchAnswers, PrepareAnswer, Vote};
/// let prepared = PrepareAnswer::Vote(Vote::Prepared);
/// let answers = BatchAnswers { answers: vec![BatchAnswer { status: prepared.status(), body: &prepared }] };
/// let body = serde_json::to_vec(&answers).unwrap();
///
/// let read = BatchAnswers::parse(200, Some("application/json"), &body, 1).unwrap();
/// assert_eq!(read[0].as_ref().unwrap().prepare(), Some(prepared));
/// assert!(BatchAnswers::parse(200, Some("application/json"), &body, 2).is_none());
/// ```
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct BatchAnswers<B> {
    pub answers: Vec<BatchAnswer<B>>,
}

/// What one message's single call would have answered. The body's content type is JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BatchAnswer<B> {
    pub status: u16,
    pub body: B,
}

#[derive(Deserialize)]
struct Answers<'a> {
    #[serde(borrow)]
    answers: Vec<&'a RawValue>,
}

impl<'a> BatchAnswers<&'a RawValue> {
    /// Reads the answer to a batch of `sent` messages; None: it is no answer to any of them. An element that is None: no
    /// answer to that message.
    pub fn parse(
        status: u16,
        content_type: Option<&str>,
        body: &'a [u8],
        sent: usize,
    ) -> Option<Vec<Option<BatchAnswer<&'a RawValue>>>> {
        if status != 200 || body.len() > MAX_BATCH_ANSWER_BYTES {
            return None;
        }
        let Answers { answers } = object(content_type, body)?;
        let one = |answer: &'a RawValue| serde_json::from_str(answer.get()).ok();
        (answers.len() == sent).then(|| answers.into_iter().map(one).collect())
    }
}

impl BatchAnswer<&RawValue> {
    const MEDIA_TYPE: Option<&'static str> = Some("application/json");

    /// It as the answer to a prepare; None: it is none.
    pub fn prepare(&self) -> Option<PrepareAnswer> {
        PrepareAnswer::parse(self.status, Self::MEDIA_TYPE, self.body.get().as_bytes())
    }

    /// It as the answer to a commit; None: it is none.
    pub fn commit(&self) -> Option<CommitAnswer> {
        CommitAnswer::parse(self.status, Self::MEDIA_TYPE, self.body.get().as_bytes())
    }

    /// It as the answer to an abort; None: it is none.
    pub fn abort(&self) -> Option<AbortAnswer> {
        AbortAnswer::parse(self.status, Self::MEDIA_TYPE, self.body.get().as_bytes())
    }
}
