//! A transaction as anybody outside may see it.
//!
//! Always true: a decision that isn't durable yet doesn't show: the transaction looks as it did before.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeSeq};
use unanimous_sdk::protocol::{BranchName, Decision, ParticipantId, TransactionId, UnixMillis, Vote};

use super::Live;
use crate::transaction::{Branch, BranchState, Decided, Reason, State, Transaction};

/// See the module. Serializes as PROTOCOL §3 describes a transaction.
#[derive(Clone, Debug)]
pub struct View {
    id: TransactionId,
    transaction: Transaction,
    /// Whether the decision, if there is one, may be seen.
    known: bool,
    calls: Vec<Calls>,
}

/// What has come of the calls to a branch in its present phase.
#[derive(Clone, Debug)]
struct Calls {
    attempts: u32,
    last_error: Option<Arc<str>>,
    next_attempt_at: Option<UnixMillis>,
}

impl View {
    pub(super) fn of(id: TransactionId, live: &Live, known: bool) -> Self {
        let calls = live.deliveries.iter().map(|delivery| Calls {
            attempts: delivery.attempts,
            last_error: delivery.last_error.clone(),
            next_attempt_at: delivery.next_attempt_at,
        });
        let mut transaction = live.transaction.clone();
        for branch in &mut transaction.branches {
            branch.payload = None;
        }
        Self { id, transaction, known, calls: calls.collect() }
    }

    /// A transaction that has finished, as the log has kept it.
    pub fn of_finished(id: TransactionId, transaction: Transaction) -> Self {
        let calls = transaction.branches.iter().map(|branch| Calls {
            attempts: branch.attempts,
            last_error: None,
            next_attempt_at: None,
        });
        Self { id, calls: calls.collect(), known: true, transaction }
    }

    /// Its id.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    fn decided(&self) -> Option<&Decided> {
        self.transaction.decided.as_ref().filter(|_| self.known)
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        match &self.transaction.decided {
            Some(decided) if !self.known => decided.before,
            _ => self.transaction.state,
        }
    }

    /// The decision, once it may be known.
    pub fn decision(&self) -> Option<Decision> {
        self.decided().map(|decided| decided.decision)
    }

    /// The decision's place in the order of outcomes.
    pub fn sequence(&self) -> Option<u64> {
        self.decided().and_then(|decided| decided.sequence)
    }

    /// Why it was aborted.
    pub fn reason(&self) -> Option<&Reason> {
        self.decided().and_then(|decided| decided.reason.as_ref())
    }

    /// Whether the decision may be known.
    pub fn is_decided(&self) -> bool {
        self.decided().is_some()
    }

    /// Whether every branch has ended.
    pub fn is_finished(&self) -> bool {
        self.state().is_finished()
    }

    /// Whether branches may be enlisted, as far as anybody knows.
    pub fn is_active(&self) -> bool {
        self.state() == State::Active
    }

    /// Whether a branch ended against the decision, or nobody knows how.
    pub fn is_heuristic(&self) -> bool {
        self.transaction.is_heuristic()
    }

    /// How many branches it has.
    pub fn branches(&self) -> usize {
        self.transaction.branches.len()
    }

    /// Returns a branch, with a state that may not be known yet.
    pub(super) fn branch(&self, name: &BranchName) -> Option<&Branch> {
        self.transaction.branch(name).map(|(_, branch)| branch)
    }

    /// Returns a branch whose abort was given up, and its place.
    pub(super) fn given_up(&self, name: &BranchName) -> Option<(usize, &Branch)> {
        self.transaction.branch(name).filter(|(_, branch)| branch.given_up)
    }

    pub(super) fn deadline(&self) -> UnixMillis {
        self.transaction.deadline
    }

    /// Returns whether the participant has answered the decision; None if no call of phase two is owed.
    fn acknowledged(&self, branch: &Branch) -> Option<bool> {
        match self.branch_state(branch) {
            BranchState::Committed | BranchState::HeuristicCommit | BranchState::HeuristicAbort => Some(true),
            BranchState::Aborted => Some(!branch.given_up),
            BranchState::Committing | BranchState::Aborting | BranchState::HeuristicUnknown => Some(false),
            BranchState::Enlisted
            | BranchState::Preparing
            | BranchState::Prepared
            | BranchState::ReadOnly
            | BranchState::Refused => None,
        }
    }

    /// The transaction itself, with a decision that may not be known yet.
    pub(super) fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// A branch's state, as it was before a decision that may not be known.
    fn branch_state(&self, branch: &Branch) -> BranchState {
        if self.known || self.transaction.decided.is_none() {
            return branch.state;
        }
        match branch.vote {
            Some(Vote::Prepared) => BranchState::Prepared,
            Some(Vote::ReadOnly) => BranchState::ReadOnly,
            None if self.state() == State::Active => BranchState::Enlisted,
            None => BranchState::Preparing,
        }
    }
}

#[derive(Serialize)]
struct TransactionJson<'a> {
    id: TransactionId,
    state: State,
    decision: Option<Decision>,
    sequence: Option<u64>,
    heuristic: bool,
    reason: Option<&'a Reason>,
    metadata: &'a BTreeMap<String, String>,
    created_at: UnixMillis,
    deadline: UnixMillis,
    decided_at: Option<UnixMillis>,
    finished_at: Option<UnixMillis>,
    branches: Branches<'a>,
}

struct Branches<'a>(&'a View);

#[derive(Serialize)]
struct BranchJson<'a> {
    branch: &'a BranchName,
    participant: &'a str,
    participant_id: Option<ParticipantId>,
    state: BranchState,
    vote: Option<Vote>,
    acknowledged: Option<bool>,
    attempts: u32,
    last_error: Option<&'a str>,
    next_attempt_at: Option<UnixMillis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl Serialize for Branches<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let view = self.0;
        let mut items = to.serialize_seq(Some(view.transaction.branches.len()))?;
        for (branch, calls) in view.transaction.branches.iter().zip(&view.calls) {
            items.serialize_element(&BranchJson {
                branch: &branch.name,
                participant: branch.participant.as_str(),
                participant_id: branch.participant_id,
                state: view.branch_state(branch),
                vote: branch.vote,
                acknowledged: view.acknowledged(branch),
                attempts: calls.attempts,
                last_error: calls.last_error.as_deref(),
                next_attempt_at: calls.next_attempt_at,
                detail: branch.detail.as_deref().filter(|_| view.known),
            })?;
        }
        items.end()
    }
}

impl Serialize for View {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let transaction = &self.transaction;
        TransactionJson {
            id: self.id,
            state: self.state(),
            decision: self.decision(),
            sequence: self.sequence(),
            heuristic: self.is_heuristic(),
            reason: self.reason(),
            metadata: &transaction.metadata,
            created_at: transaction.created_at,
            deadline: transaction.deadline,
            decided_at: self.decided().map(|decided| decided.at),
            finished_at: transaction.finished_at.filter(|_| self.known),
            branches: Branches(self),
        }
        .serialize(to)
    }
}
