//! Calling participants.
//!
//! Always true: an answer counts only as PROTOCOL §4 says; whatever has no answer may have reached its participant.

pub(crate) mod client;
mod connection;
mod http;
mod pool;
mod size;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::value::RawValue;
use unanimous_sdk::protocol::{
    AbortAnswer, BranchName, CommitAnswer, Epoch, ParticipantId, ParticipantUrl, PrepareAnswer, TransactionId,
    UnixMillis,
};

pub(crate) use self::size::{max_batch_bytes, max_message_bytes};
pub use self::{client::Error, http::Http};
use crate::transaction::{Call, Phase};

/// A call to be made.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Message {
    pub call: Call,
    pub transaction: TransactionId,
    /// The branch's place in its transaction: comes back with the answer.
    pub at: usize,
    pub branch: BranchName,
    /// The store whose vote was counted, if it has an id.
    pub participant_id: Option<ParticipantId>,
    pub payload: Option<Arc<RawValue>>,
    pub deadline: UnixMillis,
    pub remaining_ms: u64,
    pub horizon: TransactionId,
    pub traceparent: Option<Arc<str>>,
}

impl Message {
    /// Returns at most how many bytes it takes in a batch, without what surrounds all of its messages.
    pub fn max_bytes(&self) -> usize {
        max_message_bytes(&self.branch, self.payload.as_deref(), self.traceparent.as_deref())
    }
}

/// Calls of one phase that go out together, in one request; one alone goes out as a single call.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Request {
    pub participant: ParticipantUrl,
    pub phase: Phase,
    pub messages: Vec<Message>,
    /// Comes back with the answer.
    pub batch: BatchContext,
}

/// What the engine has to know of a batch when it returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchContext {
    /// At most so many bytes its messages take.
    pub bytes: usize,
    /// How often batches to this participant had been started again when it was sent.
    pub generation: u32,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// An answer to prepare, and the store that gave it, if it says so.
    Prepare(PrepareAnswer, Option<ParticipantId>),
    /// An answer to commit, and the store that gave it, if it says so.
    Commit(CommitAnswer, Option<ParticipantId>),
    /// An answer to abort, and the store that gave it, if it says so.
    Abort(AbortAnswer, Option<ParticipantId>),
    /// Another store than that of the counted vote answers at this URL; its id, if it says so.
    OtherStore {
        /// Who answered.
        participant_id: Option<ParticipantId>,
    },
    /// No connection could be made. A try on a kept one, which turned out to be dead, may have arrived before.
    Unreachable(String),
    /// An answer that doesn't count, or a connection dropped in the middle.
    NoAnswer(String),
    /// Nothing came in time.
    Silence(String),
    /// It was in a batch whose answer counts for none of its calls.
    NotTaken(BatchFailure),
    /// The participant knows this higher epoch of this coordinator; its store, if it says so.
    Stale(Epoch, Option<ParticipantId>),
}

/// Why the answer to a batch counts for none of its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFailure {
    /// 404, 405, 415 or 501: there are no batches at this URL.
    Unsupported,
    /// 413: the body is too large for the participant, or for what stands in front of it.
    TooLarge,
    /// An answer in it names another call than its own.
    OtherCall,
}

impl Attempt {
    /// Returns whether it is an answer that counts.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Prepare(..) | Self::Commit(..) | Self::Abort(..))
    }
}

/// A request that has returned.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Returned {
    pub participant: ParticipantUrl,
    pub phase: Phase,
    /// What came of each call: its transaction, the branch's place, what it was, and what was answered.
    pub attempts: Vec<((TransactionId, usize, Call), Attempt)>,
    /// How many calls the participant takes in one request, if the answer's header says so and counts.
    pub max_batch: Option<usize>,
    pub batch: BatchContext,
}
