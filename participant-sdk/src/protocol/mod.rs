//! What crosses the network: the names, messages and problems of the protocol, shared by coordinator, participant and
//! initiator. Pure data: nothing here does I/O, and none of it needs a feature of this crate.
//!
//! Always true: a value of one of these types is well-formed. What isn't is refused where it is parsed, with a message
//! that says what was expected.

mod batch;
mod branch_name;
mod ids;
mod json;
mod messages;
mod origin;
mod problem;
mod text;
mod time;
mod url;

pub use batch::{BatchAnswer, BatchAnswers, BatchCall, BatchMessage, BatchRequest};
pub use branch_name::BranchName;
pub use ids::{CoordinatorId, Epoch, ParticipantId, TransactionId};
pub use json::{canonical_json, json_depth_exceeds};
pub use messages::{
    AbortAnswer, AcknowledgeAnswer, AcknowledgeRequest, AcknowledgedState, BranchesAnswer, CommitAnswer, Coordinator,
    CoordinatorRef, Decision, DecisionRequest, EnlistAnswer, HeldBranch, InquiryAnswer, Outcome, PrepareAnswer,
    PrepareRequest, Vote, VoteAnswer,
};
pub use origin::{AnswerOrigin, WithOrigin};
pub use problem::{Problem, ProblemType};
pub use time::UnixMillis;
pub use url::ParticipantUrl;

/// What a value that isn't well-formed lacks; the text names the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(crate) String);

impl Malformed {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// The header by which an initiator passes a transaction to the services it calls: the transaction's URL.
pub const TRANSACTION_HEADER: &str = "unanimous-transaction";

/// The header by which a participant says, on any answer, how many messages of a batch it takes at most.
pub const BATCH_HEADER: &str = "unanimous-batch";

/// The header by which a coordinator says which log answers, and by which a request says for which log it is meant: the
/// coordinator's id.
pub const COORDINATOR_HEADER: &str = "unanimous-coordinator";

/// The most bytes that the body of a call to a participant may have, single call or batch: 1 MiB.
pub const MAX_CALL_BYTES: usize = 1 << 20;

/// How far the time in an epoch, or in a horizon, may lie ahead of the clock of who receives it: one hour.
pub const MAX_AHEAD: std::time::Duration = std::time::Duration::from_hours(1);

/// The most bytes an answer of a participant may have: 64 KiB.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The most bytes the answer to a batch may have: 1 MiB.
pub const MAX_BATCH_ANSWER_BYTES: usize = 1 << 20;

/// The deepest nesting of arrays and objects that is taken, in any body.
pub const MAX_JSON_DEPTH: usize = 100;
