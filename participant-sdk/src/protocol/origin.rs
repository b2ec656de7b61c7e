//! Who gave an answer, and to which call: what an answer may say beside its own members.

use serde::{Serialize, Serializer};

use super::{AbortAnswer, BranchName, CommitAnswer, ParticipantId, PrepareAnswer, Problem, TransactionId};

/// The store that answered, and the call that it answered. Each member is None where the answer doesn't say.
///
/// ```
/// use unanimous_sdk::protocol::{AnswerOrigin, PrepareAnswer};
/// let body = br#"{"vote": "prepared", "transaction": "01890a5d-ac96-774b-bcce-b302099a8057", "branch": "debit"}"#;
/// let read = PrepareAnswer::parse_with_origin(200, Some("application/json"), body).unwrap();
/// let mine = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
/// assert!(read.origin.is_of(mine, &"debit".parse().unwrap()));
/// assert!(!read.origin.is_of(mine, &"credit".parse().unwrap()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct AnswerOrigin {
    pub transaction: Option<TransactionId>,
    pub branch: Option<BranchName>,
    pub participant_id: Option<ParticipantId>,
}

impl AnswerOrigin {
    /// Returns whether the answer can be that of this call: it names no other one.
    pub fn is_of(&self, transaction: TransactionId, branch: &BranchName) -> bool {
        self.transaction.is_none_or(|named| named == transaction)
            && self.branch.as_ref().is_none_or(|named| named == branch)
    }

    /// Returns the problem with these members.
    #[must_use]
    pub fn on(&self, mut problem: Problem) -> Problem {
        if let Some(transaction) = self.transaction {
            problem = problem.with("transaction", transaction);
        }
        if let Some(branch) = &self.branch {
            problem = problem.with("branch", branch);
        }
        if let Some(participant_id) = self.participant_id {
            problem = problem.with("participant_id", participant_id);
        }
        problem
    }
}

/// An answer, with who gave it to which call. Serializes as one body.
///
/// ```
/// use unanimous_sdk::protocol::{AnswerOrigin, CommitAnswer, WithOrigin};
/// let origin = AnswerOrigin { branch: Some("debit".parse().unwrap()), ..AnswerOrigin::default() };
/// let body = serde_json::to_string(&WithOrigin { answer: CommitAnswer::Committed, origin }).unwrap();
/// assert_eq!(body, r#"{"state":"committed","branch":"debit"}"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct WithOrigin<A> {
    pub answer: A,
    pub origin: AnswerOrigin,
}

impl Serialize for WithOrigin<PrepareAnswer> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.answer.write(&self.origin, to)
    }
}

impl Serialize for WithOrigin<CommitAnswer> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.answer.write(&self.origin, to)
    }
}

impl Serialize for WithOrigin<AbortAnswer> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.answer.write(&self.origin, to)
    }
}
