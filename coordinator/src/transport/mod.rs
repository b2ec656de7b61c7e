//! Calling participants.
//!
//! Always true: an answer counts only as PROTOCOL §4 says; a call that may have reached its participant is never taken
//! for one that has not.

mod http;

use std::sync::Arc;

use serde_json::value::RawValue;
use unanimous_sdk::protocol::{
    AbortAnswer, BranchName, CommitAnswer, Epoch, ParticipantUrl, PrepareAnswer, TransactionId, UnixMillis,
};

pub use self::http::Http;
use crate::transaction::Call;

/// A call to be made.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Message {
    pub call: Call,
    pub transaction: TransactionId,
    /// The branch's place in its transaction: comes back with the answer.
    pub at: usize,
    pub participant: ParticipantUrl,
    pub branch: BranchName,
    pub payload: Option<Arc<RawValue>>,
    pub deadline: UnixMillis,
    pub remaining_ms: u64,
    pub horizon: TransactionId,
    pub traceparent: Option<Arc<str>>,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// An answer to prepare.
    Prepare(PrepareAnswer),
    /// An answer to commit.
    Commit(CommitAnswer),
    /// An answer to abort.
    Abort(AbortAnswer),
    /// No connection could be made.
    Unreachable(String),
    /// An answer that doesn't count, or a connection dropped in the middle.
    NoAnswer(String),
    /// Nothing came in time.
    Silence(String),
    /// The participant knows this higher epoch of this coordinator.
    Stale(Epoch),
}

/// A call that has returned.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Answer {
    pub transaction: TransactionId,
    pub at: usize,
    pub call: Call,
    pub participant: ParticipantUrl,
    pub attempt: Attempt,
}
