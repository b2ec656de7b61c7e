//! Version 1: what the first release wrote. Read only; it never changes.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use unanimous_sdk::protocol::{self, BranchName, ParticipantUrl, UnixMillis};

use crate::transaction as domain;

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum State {
    Active,
    Preparing,
    Committing,
    Committed,
    Aborting,
    Aborted,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum BranchState {
    Enlisted,
    Preparing,
    Prepared,
    ReadOnly,
    Refused,
    Committing,
    Committed,
    Aborting,
    Aborted,
    HeuristicCommit,
    HeuristicAbort,
    HeuristicUnknown,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum ReasonCode {
    Initiator,
    Refused,
    Unreachable,
    ParticipantError,
    Deadline,
    CoordinatorRestart,
    Operator,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum Vote {
    Prepared,
    ReadOnly,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum Decision {
    Commit,
    Abort,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Reason {
    code: ReasonCode,
    detail: Option<String>,
    branch: Option<BranchName>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Decided {
    decision: Decision,
    sequence: Option<u64>,
    reason: Option<Reason>,
    at: UnixMillis,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Key {
    text: String,
    call: KeyedCall,
    body: u128,
}

#[derive(Serialize, Deserialize)]
pub(super) enum KeyedCall {
    Begin,
    Enlist { branch: BranchName, new: bool },
    Vote(BranchName),
    Commit,
    Abort,
}

#[derive(Deserialize)]
pub(super) struct Branch {
    name: BranchName,
    participant: String,
    payload_digest: Option<u128>,
    state: BranchState,
    vote: Option<Vote>,
    detail: Option<String>,
    attempts: u32,
}

#[derive(Deserialize)]
pub(super) struct Transaction {
    state: State,
    branches: Vec<Branch>,
    decided: Option<Decided>,
    metadata: BTreeMap<String, String>,
    created_at: UnixMillis,
    deadline: UnixMillis,
    finished_at: Option<UnixMillis>,
    keys: Vec<Key>,
    records: u32,
}

#[derive(Deserialize)]
pub(super) enum Record {
    Begun(Transaction),
    Enlisted(Branch),
    Voted { branch: u32, vote: Vote },
    Decided(Transaction),
    Acknowledged { branch: u32, state: BranchState, detail: Option<String> },
    Keyed(Key),
}

/// Two enums with the same variants, each made from the other.
macro_rules! same {
    ($stored:ident, $domain:ty: $($variant:ident)*) => {
        impl From<$stored> for $domain {
            fn from(stored: $stored) -> Self {
                match stored { $($stored::$variant => Self::$variant,)* }
            }
        }

        impl From<$domain> for $stored {
            fn from(domain: $domain) -> Self {
                match domain { $(<$domain>::$variant => Self::$variant,)* }
            }
        }
    };
}

same!(State, domain::State: Active Preparing Committing Committed Aborting Aborted);
same!(BranchState, domain::BranchState:
    Enlisted Preparing Prepared ReadOnly Refused Committing Committed Aborting Aborted HeuristicCommit HeuristicAbort
    HeuristicUnknown);
same!(ReasonCode, domain::ReasonCode:
    Initiator Refused Unreachable ParticipantError Deadline CoordinatorRestart Operator);
same!(Vote, protocol::Vote: Prepared ReadOnly);
same!(Decision, protocol::Decision: Commit Abort);

impl From<Decided> for domain::Decided {
    fn from(Decided { decision, sequence, reason, at }: Decided) -> Self {
        let reason = reason.map(|Reason { code, detail, branch }| domain::Reason { code: code.into(), detail, branch });
        Self::kept(decision.into(), sequence, reason, at)
    }
}

impl From<&domain::Decided> for Decided {
    fn from(decided: &domain::Decided) -> Self {
        let reason = decided.reason.as_ref().map(|domain::Reason { code, detail, branch }| Reason {
            code: (*code).into(),
            detail: detail.clone(),
            branch: branch.clone(),
        });
        Self { decision: decided.decision.into(), sequence: decided.sequence, reason, at: decided.at }
    }
}

impl From<Key> for domain::Key {
    fn from(Key { text, call, body }: Key) -> Self {
        let call = match call {
            KeyedCall::Begin => domain::KeyedCall::Begin,
            KeyedCall::Enlist { branch, new } => domain::KeyedCall::Enlist { branch, new },
            KeyedCall::Vote(branch) => domain::KeyedCall::Vote(branch),
            KeyedCall::Commit => domain::KeyedCall::Commit,
            KeyedCall::Abort => domain::KeyedCall::Abort,
        };
        Self { text: text.into(), call, body }
    }
}

impl From<&domain::Key> for Key {
    fn from(domain::Key { text, call, body }: &domain::Key) -> Self {
        let call = match call {
            domain::KeyedCall::Begin => KeyedCall::Begin,
            domain::KeyedCall::Enlist { branch, new } => KeyedCall::Enlist { branch: branch.clone(), new: *new },
            domain::KeyedCall::Vote(branch) => KeyedCall::Vote(branch.clone()),
            domain::KeyedCall::Commit => KeyedCall::Commit,
            domain::KeyedCall::Abort => KeyedCall::Abort,
        };
        Self { text: text.as_ref().into(), call, body: *body }
    }
}

impl From<Branch> for domain::Branch {
    fn from(branch: Branch) -> Self {
        Self {
            name: branch.name,
            participant: ParticipantUrl::from_kept(&branch.participant),
            payload_digest: branch.payload_digest,
            state: branch.state.into(),
            vote: branch.vote.map(Into::into),
            participant_id: None,
            voted_late: false,
            given_up: false,
            detail: branch.detail,
            attempts: branch.attempts,
            payload: None,
            heard: None,
        }
    }
}

impl From<Transaction> for domain::Transaction {
    fn from(transaction: Transaction) -> Self {
        Self {
            state: transaction.state.into(),
            branches: transaction.branches.into_iter().map(Into::into).collect(),
            decided: transaction.decided.map(Into::into),
            metadata: Arc::new(transaction.metadata),
            created_at: transaction.created_at,
            deadline: transaction.deadline,
            finished_at: transaction.finished_at,
            keys: transaction.keys.into_iter().map(Into::into).collect(),
            records: transaction.records,
        }
    }
}

impl From<Record> for domain::Record {
    fn from(record: Record) -> Self {
        match record {
            Record::Begun(transaction) => Self::Begun(transaction.into()),
            Record::Enlisted(branch) => Self::Enlisted(branch.into()),
            Record::Voted { branch, vote } => Self::Voted { branch, vote: vote.into(), participant_id: None },
            Record::Decided(transaction) => Self::Decided(transaction.into()),
            Record::Acknowledged { branch, state, detail } => {
                Self::Acknowledged { branch, state: state.into(), detail }
            }
            Record::Keyed(key) => Self::Keyed(key.into()),
        }
    }
}
