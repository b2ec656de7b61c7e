//! What a transaction is: its state, its branches, and the records from which both can be had again.
//!
//! Always true: `decided` is Some exactly in the states after `Preparing`; a decision never changes; a branch's vote,
//! once there, never changes; a branch that has ended stays as it ended.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use unanimous_sdk::protocol::{BranchName, Decision, ParticipantId, ParticipantUrl, UnixMillis, Vote};

/// The state of a transaction, as PROTOCOL §2 names them:
///
/// ```text
///   Active ──► Preparing ──► Committing ──► Committed
///      └───────────┴───────► Aborting ────► Aborted
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Branches may be enlisted.
    Active,
    /// The commit has been asked for; votes are gathered.
    Preparing,
    /// The decision is commit; branches are being told.
    Committing,
    /// Every branch has ended.
    Committed,
    /// The decision is abort; branches are being told.
    Aborting,
    /// Every branch has ended.
    Aborted,
}

impl State {
    /// Whether there is no decision yet.
    pub const fn is_undecided(self) -> bool {
        match self {
            Self::Active | Self::Preparing => true,
            Self::Committing | Self::Committed | Self::Aborting | Self::Aborted => false,
        }
    }

    /// Whether nothing is left to do.
    pub const fn is_finished(self) -> bool {
        match self {
            Self::Committed | Self::Aborted => true,
            Self::Active | Self::Preparing | Self::Committing | Self::Aborting => false,
        }
    }
}

/// The state of a branch:
///
/// ```text
///   Enlisted ──► Preparing ──► Prepared ──► Committing ──► Committed | HeuristicAbort | HeuristicUnknown
///      │             │            └───────► Aborting ────► Aborted | HeuristicCommit
///      │             ├──► ReadOnly | Refused
///      └─────────────┴──► Aborting
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum BranchState {
    Enlisted,
    Preparing,
    Prepared,
    ReadOnly,
    Refused,
    Committing,
    Committed,
    Aborting,
    Aborted,
    /// It committed although the decision is abort.
    HeuristicCommit,
    /// It aborted although the decision is commit.
    HeuristicAbort,
    /// Its participant has no trace of it, or an operator has given it up.
    HeuristicUnknown,
}

impl BranchState {
    /// Whether it ended against the decision, or nobody knows how.
    pub const fn is_heuristic(self) -> bool {
        matches!(self, Self::HeuristicCommit | Self::HeuristicAbort | Self::HeuristicUnknown)
    }

    /// Whether it waits for its participant to acknowledge the decision.
    pub const fn is_being_told(self) -> bool {
        matches!(self, Self::Committing | Self::Aborting)
    }
}

/// What was last heard of a branch that hasn't voted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heard {
    /// No connection could be made.
    Unreachable,
    /// An answer that doesn't count, or a connection dropped in the middle.
    Error,
}

/// Why a transaction was aborted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs)]
pub struct Reason {
    pub code: ReasonCode,
    pub detail: Option<String>,
    pub branch: Option<BranchName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ReasonCode {
    /// It was asked for.
    Initiator,
    /// A participant voted abort.
    Refused,
    /// A vote was missing at the deadline, and no connection could be made.
    Unreachable,
    /// A vote was missing at the deadline, and what came wasn't an answer.
    ParticipantError,
    /// A vote, or the commit itself, was missing at the deadline.
    Deadline,
    /// The coordinator was restarted before it had decided.
    CoordinatorRestart,
    /// An operator.
    Operator,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decided {
    /// Commit or abort.
    pub decision: Decision,
    /// Its place in the total order of outcomes; None if the transaction changed nothing.
    pub sequence: Option<u64>,
    /// Why, for an abort.
    pub reason: Option<Reason>,
    /// When.
    pub at: UnixMillis,
    /// Where it stands in this process's log: what must be durable before anybody outside may learn it.
    pub lsn: super::Lsn,
    /// The state it was decided in: what is shown as long as the decision isn't durable.
    pub before: State,
}

impl Decided {
    /// Returns a decision that was read from the log: durable, and made by an earlier process.
    pub(crate) fn kept(decision: Decision, sequence: Option<u64>, reason: Option<Reason>, at: UnixMillis) -> Self {
        Self { decision, sequence, reason, at, lsn: super::Lsn::default(), before: State::Preparing }
    }
}

/// The work of a branch, as it was given. Equal when the digests are: those of the canonical JSON text.
#[derive(Clone, Debug)]
pub struct Payload {
    /// The text as it was given.
    pub text: Arc<RawValue>,
    /// A digest of its canonical form.
    pub digest: u128,
}

/// A call that came with an Idempotency-Key: a repeat is answered as the first was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The key, as it was given.
    pub text: Arc<str>,
    /// The call's path in the transaction, and what answers a repeat.
    pub call: KeyedCall,
    /// A digest of the body's canonical form.
    pub body: u128,
}

/// What a key came with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum KeyedCall {
    Begin,
    Enlist {
        /// The branch it enlisted.
        branch: BranchName,
        /// False: the branch was there already.
        new: bool,
    },
    Vote(BranchName),
    Commit,
    Abort,
}

impl KeyedCall {
    /// Whether two calls have the same method and path, which is what a key is scoped to.
    pub fn same_path(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Begin, Self::Begin)
            | (Self::Enlist { .. }, Self::Enlist { .. })
            | (Self::Commit, Self::Commit)
            | (Self::Abort, Self::Abort) => true,
            (Self::Vote(one), Self::Vote(other)) => one == other,
            (Self::Begin | Self::Enlist { .. } | Self::Vote(_) | Self::Commit | Self::Abort, _) => false,
        }
    }
}

/// One participant's share of a transaction.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Its name in the transaction.
    pub name: BranchName,
    /// Whose it is.
    pub participant: ParticipantUrl,
    /// The digest of its payload's canonical form: what a repeated enlistment is compared with.
    pub payload_digest: Option<u128>,
    /// Where it stands.
    pub state: BranchState,
    /// Its counted vote to commit.
    pub vote: Option<Vote>,
    /// The store whose vote was counted, if it has an id. Only that store may end the branch.
    pub participant_id: Option<ParticipantId>,
    /// A vote came when the decision had been made: its participant may be in doubt.
    pub voted_late: bool,
    /// Its abort was given up: it counts as aborted, and nobody has heard how it ended.
    pub given_up: bool,
    /// What its participant said of a refusal or a heuristic end.
    pub detail: Option<String>,
    /// How many calls its last phase took. Whoever makes the calls fills it in when the transaction has finished; until
    /// then it is 0, and no part of what decides.
    pub attempts: u32,
    /// The work itself, until the vote: neither memory nor log keep it longer.
    pub payload: Option<Arc<RawValue>>,
    /// What was last heard of it in phase one; lost with the process, as the transaction then is decided.
    pub heard: Option<Heard>,
}

// Payloads are compared by their digests, so that a branch is equal to itself after its payload has gone.
impl PartialEq for Branch {
    fn eq(&self, other: &Self) -> bool {
        let key = |b: &Self| (b.payload_digest, b.state, b.vote, b.participant_id, b.voted_late, b.given_up, b.heard);
        key(self) == key(other)
            && (&self.name, &self.participant, &self.detail) == (&other.name, &other.participant, &other.detail)
    }
}

impl Eq for Branch {}

impl std::hash::Hash for Branch {
    fn hash<H: std::hash::Hasher>(&self, to: &mut H) {
        (&self.name, &self.participant, self.payload_digest, self.state, self.vote, &self.detail, self.heard).hash(to);
        (self.participant_id, self.voted_late, self.given_up).hash(to);
    }
}

impl Branch {
    /// Returns whether this store is another one than that whose vote was counted. A counted vote without an id can be
    /// anybody's.
    pub fn is_other_store(&self, asker: Option<ParticipantId>) -> bool {
        self.participant_id.is_some_and(|counted| asker != Some(counted))
    }
}

/// A transaction. Its behaviour is [`step`](Transaction::step).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// Where it stands.
    pub state: State,
    /// In order of enlistment.
    pub branches: Vec<Branch>,
    /// The decision, as soon as there is one.
    pub decided: Option<Decided>,
    /// What the initiator says of it.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// When it was begun.
    pub created_at: UnixMillis,
    /// By when it must be decided.
    pub deadline: UnixMillis,
    /// When the last branch had ended.
    pub finished_at: Option<UnixMillis>,
    /// The Idempotency-Keys that came with the calls about it. If there are any, also what changes nothing is decided by
    /// a forced write: who repeats the call must find it again.
    pub keys: Vec<Key>,
    /// How many records it has in the log.
    pub records: u32,
}

impl Transaction {
    /// Whether a branch ended against the decision, or nobody knows how.
    pub fn is_heuristic(&self) -> bool {
        self.branches.iter().any(|branch| branch.state.is_heuristic())
    }

    /// Whether a branch never acknowledged the decision: presumed abort would contradict what became of it, so it is
    /// kept until an operator removes it.
    pub fn is_left_to_an_operator(&self) -> bool {
        self.branches.iter().any(|branch| branch.state == BranchState::HeuristicUnknown)
    }

    /// Returns whether it outlives retention: how a branch of it ended is not known, so its participant may still ask.
    pub fn is_kept_beyond_retention(&self) -> bool {
        self.is_left_to_an_operator() || self.branches.iter().any(|branch| branch.given_up)
    }

    /// The key of the call that began it.
    pub fn begun_under(&self) -> Option<Arc<str>> {
        self.keys.iter().find(|key| key.call == KeyedCall::Begin).map(|key| Arc::clone(&key.text))
    }

    /// What is bound to this key on this path.
    pub fn key(&self, text: &str, call: &KeyedCall) -> Option<&Key> {
        self.keys.iter().find(|key| *key.text == *text && key.call.same_path(call))
    }

    /// The branch of this name, and its place.
    pub fn branch(&self, name: &BranchName) -> Option<(usize, &Branch)> {
        self.branches.iter().enumerate().find(|(_, branch)| branch.name == *name)
    }
}
