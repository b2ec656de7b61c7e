//! What a transaction writes to the log, and how it is had back from there.

use unanimous_sdk::protocol::{ParticipantId, Vote};

use super::{Branch, BranchState, Key, Transaction};

/// A place in this process's log: entries are numbered from 1 in the order they are appended. Zero is before them all,
/// and what an earlier process wrote is durable before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// One change of one transaction, as the log keeps it. Payloads are not in it: a transaction that is undecided at start
/// is aborted, and one that is decided doesn't need them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// It was begun, whole.
    Begun(Transaction),
    /// One more branch.
    Enlisted(Branch),
    /// A branch voted. (A refusal decides, and stands in the decision's record.)
    Voted {
        /// Its place.
        branch: u32,
        /// What.
        vote: Vote,
        /// The store that voted, if it has an id.
        participant_id: Option<ParticipantId>,
    },
    /// It was decided: the transaction, whole, so that this one record is enough to carry the decision through.
    Decided(Transaction),
    /// A branch ended.
    Acknowledged {
        /// Its place.
        branch: u32,
        /// How.
        state: BranchState,
        /// What its participant said of it.
        detail: Option<String>,
    },
    /// A call about it came with a key.
    Keyed(Key),
    /// A branch voted when the decision had been made.
    VotedLate {
        /// Its place.
        branch: u32,
    },
    /// The abort of a branch is not delivered any more.
    GaveUp {
        /// Its place.
        branch: u32,
    },
}

impl Record {
    /// Whether it must be on disk, with all before it, before anybody learns of it.
    ///
    /// Only decisions are, and of those not the ones that changed nothing (unless a key promises that they are found again).
    pub fn is_forced(&self) -> bool {
        match self {
            Self::Decided(transaction) => {
                !transaction.keys.is_empty()
                    || transaction.decided.as_ref().is_some_and(|decided| decided.sequence.is_some())
            }
            Self::Begun(_)
            | Self::Enlisted(_)
            | Self::Voted { .. }
            | Self::Acknowledged { .. }
            | Self::Keyed(_)
            | Self::VotedLate { .. }
            | Self::GaveUp { .. } => false,
        }
    }
}

/// Records that don't follow from each other: the log can't be trusted.
#[derive(Debug, thiserror::Error)]
#[error("a record doesn't fit those before it: {0}")]
pub struct Inconsistent(pub &'static str);

impl Transaction {
    /// Carries one record out, the same way when it happens and when it is read back.
    pub(super) fn apply(&mut self, record: &Record) -> Result<(), Inconsistent> {
        match record {
            Record::Begun(_) => return Err(Inconsistent("a transaction was begun twice")),
            Record::Enlisted(branch) => self.branches.push(branch.clone()),
            Record::Voted { branch, vote, participant_id } => {
                self.at(*branch)?.take(*vote, *participant_id);
            }
            Record::Keyed(key) => self.keys.push(key.clone()),
            Record::Decided(whole) => {
                if self.decided.is_some() {
                    return Err(Inconsistent("a transaction was decided twice"));
                }
                *self = whole.clone();
            }
            Record::Acknowledged { branch, state, detail } => {
                let branch = self.at(*branch)?;
                if !branch.state.is_being_told() && !branch.given_up {
                    return Err(Inconsistent("a branch acknowledged a decision it wasn't told"));
                }
                branch.given_up = false;
                branch.state = *state;
                if detail.is_some() {
                    branch.detail.clone_from(detail);
                }
            }
            Record::VotedLate { branch } => self.at(*branch)?.voted_late = true,
            Record::GaveUp { branch } => {
                let branch = self.at(*branch)?;
                if branch.state != BranchState::Aborting {
                    return Err(Inconsistent("the abort of a branch was given up that was not being aborted"));
                }
                (branch.state, branch.given_up) = (BranchState::Aborted, true);
            }
        }
        self.records += 1;
        Ok(())
    }

    /// The transaction that these records, in their order, have made.
    pub fn replay(records: impl IntoIterator<Item = Record>) -> Result<Self, Inconsistent> {
        let mut records = records.into_iter();
        let Some(Record::Begun(mut transaction)) = records.next() else {
            return Err(Inconsistent("a transaction's first record is not its beginning"));
        };
        transaction.records = 1;
        for record in records {
            transaction.apply(&record)?;
        }
        Ok(transaction)
    }

    fn at(&mut self, branch: u32) -> Result<&mut Branch, Inconsistent> {
        self.branches.get_mut(branch as usize).ok_or(Inconsistent("no such branch"))
    }
}
