//! Calling participants.
//!
//! Always true: an answer counts only as PROTOCOL §4 says; a call that may have reached its participant is never taken
//! for one that has not.

pub(crate) mod client;
mod http;

use std::sync::Arc;

use serde_json::value::RawValue;
use unanimous_sdk::protocol::{
    AbortAnswer, BranchName, CommitAnswer, Epoch, ParticipantId, ParticipantUrl, PrepareAnswer, TransactionId,
    UnixMillis,
};

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
    /// About what it takes in a request.
    pub fn about_bytes(&self) -> usize {
        400 + self.payload.as_ref().map_or(0, |payload| payload.get().len())
    }
}

/// Calls of one phase that go out together, in one request; one alone goes out as a single call.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Request {
    pub participant: ParticipantUrl,
    pub phase: Phase,
    pub messages: Vec<Message>,
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
    /// No connection could be made.
    Unreachable(String),
    /// An answer that doesn't count, or a connection dropped in the middle.
    NoAnswer(String),
    /// Nothing came in time.
    Silence(String),
    /// It was in a batch, and the participant takes none: nothing of it was carried out.
    NotTaken,
    /// The participant knows this higher epoch of this coordinator; its store, if it says so.
    Stale(Epoch, Option<ParticipantId>),
}

/// What a participant says of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It takes at most so many calls in one.
    Most(usize),
    /// It was sent one, and takes none.
    Refused,
}

/// A request that has returned.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Returned {
    pub participant: ParticipantUrl,
    pub phase: Phase,
    /// What came of each call: its transaction, the branch's place, what it was, and what was answered.
    pub attempts: Vec<((TransactionId, usize, Call), Attempt)>,
    pub batches: Option<Offer>,
}
