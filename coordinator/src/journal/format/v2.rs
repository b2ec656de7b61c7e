//! Version 2: a branch keeps the id of the store that voted, and whether its abort was given up.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use unanimous_sdk::protocol::{BranchName, ParticipantId, ParticipantUrl, UnixMillis};

use super::v1::{BranchState, Decided, Key, State, Vote};
use crate::transaction as domain;

#[derive(Serialize, Deserialize)]
pub(super) struct Branch<'a> {
    name: BranchName,
    #[serde(borrow)]
    participant: Cow<'a, str>,
    payload_digest: Option<u128>,
    state: BranchState,
    vote: Option<Vote>,
    participant_id: Option<ParticipantId>,
    voted_late: bool,
    given_up: bool,
    detail: Option<Cow<'a, str>>,
    attempts: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Transaction<'a> {
    state: State,
    #[serde(borrow)]
    branches: Vec<Branch<'a>>,
    decided: Option<Decided>,
    metadata: Cow<'a, BTreeMap<String, String>>,
    created_at: UnixMillis,
    deadline: UnixMillis,
    finished_at: Option<UnixMillis>,
    keys: Vec<Key>,
    records: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Record<'a> {
    #[serde(borrow)]
    Begun(Transaction<'a>),
    Enlisted(Branch<'a>),
    Voted {
        branch: u32,
        vote: Vote,
        participant_id: Option<ParticipantId>,
    },
    Decided(Transaction<'a>),
    Acknowledged {
        branch: u32,
        state: BranchState,
        detail: Option<Cow<'a, str>>,
    },
    Keyed(Key),
    VotedLate {
        branch: u32,
    },
    GaveUp {
        branch: u32,
    },
}

impl<'a> From<&'a domain::Branch> for Branch<'a> {
    fn from(branch: &'a domain::Branch) -> Self {
        Self {
            name: branch.name.clone(),
            participant: branch.participant.as_str().into(),
            payload_digest: branch.payload_digest,
            state: branch.state.into(),
            vote: branch.vote.map(Into::into),
            participant_id: branch.participant_id,
            voted_late: branch.voted_late,
            given_up: branch.given_up,
            detail: branch.detail.as_deref().map(Into::into),
            attempts: branch.attempts,
        }
    }
}

impl From<Branch<'_>> for domain::Branch {
    fn from(branch: Branch<'_>) -> Self {
        Self {
            name: branch.name,
            participant: ParticipantUrl::from_kept(&branch.participant),
            payload_digest: branch.payload_digest,
            state: branch.state.into(),
            vote: branch.vote.map(Into::into),
            participant_id: branch.participant_id,
            voted_late: branch.voted_late,
            given_up: branch.given_up,
            detail: branch.detail.map(Cow::into_owned),
            attempts: branch.attempts,
            payload: None,
            heard: None,
        }
    }
}

impl<'a> From<&'a domain::Transaction> for Transaction<'a> {
    fn from(transaction: &'a domain::Transaction) -> Self {
        Self {
            state: transaction.state.into(),
            branches: transaction.branches.iter().map(Into::into).collect(),
            decided: transaction.decided.as_ref().map(Into::into),
            metadata: Cow::Borrowed(&transaction.metadata),
            created_at: transaction.created_at,
            deadline: transaction.deadline,
            finished_at: transaction.finished_at,
            keys: transaction.keys.iter().map(Into::into).collect(),
            records: transaction.records,
        }
    }
}

impl From<Transaction<'_>> for domain::Transaction {
    fn from(transaction: Transaction<'_>) -> Self {
        Self {
            state: transaction.state.into(),
            branches: transaction.branches.into_iter().map(Into::into).collect(),
            decided: transaction.decided.map(Into::into),
            metadata: Arc::new(transaction.metadata.into_owned()),
            created_at: transaction.created_at,
            deadline: transaction.deadline,
            finished_at: transaction.finished_at,
            keys: transaction.keys.into_iter().map(Into::into).collect(),
            records: transaction.records,
        }
    }
}

impl<'a> From<&'a domain::Record> for Record<'a> {
    fn from(record: &'a domain::Record) -> Self {
        match record {
            domain::Record::Begun(transaction) => Self::Begun(transaction.into()),
            domain::Record::Enlisted(branch) => Self::Enlisted(branch.into()),
            domain::Record::Voted { branch, vote, participant_id } => {
                Self::Voted { branch: *branch, vote: (*vote).into(), participant_id: *participant_id }
            }
            domain::Record::Decided(transaction) => Self::Decided(transaction.into()),
            domain::Record::Acknowledged { branch, state, detail } => Self::Acknowledged {
                branch: *branch,
                state: (*state).into(),
                detail: detail.as_deref().map(Into::into),
            },
            domain::Record::Keyed(key) => Self::Keyed(key.into()),
            domain::Record::VotedLate { branch } => Self::VotedLate { branch: *branch },
            domain::Record::GaveUp { branch } => Self::GaveUp { branch: *branch },
        }
    }
}

impl From<Record<'_>> for domain::Record {
    fn from(record: Record<'_>) -> Self {
        match record {
            Record::Begun(transaction) => Self::Begun(transaction.into()),
            Record::Enlisted(branch) => Self::Enlisted(branch.into()),
            Record::Voted { branch, vote, participant_id } => Self::Voted { branch, vote: vote.into(), participant_id },
            Record::Decided(transaction) => Self::Decided(transaction.into()),
            Record::Acknowledged { branch, state, detail } => {
                Self::Acknowledged { branch, state: state.into(), detail: detail.map(Cow::into_owned) }
            }
            Record::Keyed(key) => Self::Keyed(key.into()),
            Record::VotedLate { branch } => Self::VotedLate { branch },
            Record::GaveUp { branch } => Self::GaveUp { branch },
        }
    }
}
