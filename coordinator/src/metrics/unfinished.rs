//! The transactions that have not finished, as far as operators want to know of them without asking the engine: a look at
//! all of them under its lock would hold everybody up.
//!
//! Always true: `in_doubt` is the number of transactions with a prepared branch that has not ended.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use unanimous_sdk::protocol::{TransactionId, UnixMillis, Vote};

use crate::transaction::{BranchState, Call, Record, Transaction};

#[derive(Debug, Default)]
pub(super) struct Unfinished {
    transactions: BTreeMap<TransactionId, One>,
    in_doubt: usize,
}

#[derive(Debug, Default)]
struct One {
    begun: UnixMillis,
    /// The places of branches that are prepared and have not ended. (A few: a set of them costs more than all else here.)
    prepared: Vec<u32>,
    /// Calls that were not answered and have not been made again.
    failed: Vec<(usize, Call)>,
    /// When the first prepare call was made.
    asked: Option<Instant>,
    decided: Option<Instant>,
}

/// What a record has shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// A transaction was begun.
    pub(super) begun: bool,
    /// A branch has ended so.
    pub(super) ended: Option<BranchState>,
}

impl Unfinished {
    pub(super) fn new<'a>(recovered: impl IntoIterator<Item = (TransactionId, &'a Transaction)>) -> Self {
        let one = |of: &Transaction| One { begun: of.created_at, prepared: prepared(of), ..One::default() };
        let transactions: BTreeMap<_, _> = recovered.into_iter().map(|(id, of)| (id, one(of))).collect();
        let in_doubt = transactions.values().filter(|one| !one.prepared.is_empty()).count();
        Self { transactions, in_doubt }
    }

    /// This goes to the log.
    pub(super) fn record(&mut self, id: TransactionId, record: &Record) -> Seen {
        let mut seen = Seen::default();
        match record {
            Record::Begun(transaction) => {
                seen.begun = true;
                self.transactions.insert(id, One { begun: transaction.created_at, ..One::default() });
            }
            Record::Voted { branch, vote: Vote::Prepared, .. } => self.change(id, |one| {
                one.prepared.push(*branch);
            }),
            Record::Decided(transaction) => self.change(id, |one| one.prepared = prepared(transaction)),
            Record::Acknowledged { branch, state, .. } => {
                seen.ended = Some(*state);
                self.change(id, |one| {
                    one.prepared.retain(|prepared| prepared != branch);
                });
            }
            Record::GaveUp { branch } => self.change(id, |one| one.prepared.retain(|prepared| prepared != branch)),
            Record::Voted { vote: Vote::ReadOnly, .. }
            | Record::Enlisted(_)
            | Record::Keyed(_)
            | Record::VotedLate { .. } => {}
        }
        seen
    }

    /// Whether this call was made before, and not answered.
    pub(super) fn calls(&mut self, id: TransactionId, at: usize, call: Call, now: Instant) -> bool {
        let Some(one) = self.transactions.get_mut(&id) else { return false };
        if call == Call::Prepare {
            one.asked.get_or_insert(now);
        }
        let place = one.failed.iter().position(|failed| *failed == (at, call));
        place.map(|place| one.failed.swap_remove(place)).is_some()
    }

    /// This call was not answered.
    pub(super) fn failed(&mut self, id: TransactionId, at: usize, call: Call) {
        if let Some(one) = self.transactions.get_mut(&id)
            && !one.failed.contains(&(at, call))
        {
            one.failed.push((at, call));
        }
    }

    /// A decision is durable. How long ago the first prepare call was made.
    pub(super) fn decided(&mut self, id: TransactionId, now: Instant) -> Option<Duration> {
        let one = self.transactions.get_mut(&id)?;
        one.decided = Some(now);
        one.asked.map(|asked| now.saturating_duration_since(asked))
    }

    /// When its decision became durable.
    pub(super) fn finished(&mut self, id: TransactionId) -> Option<Instant> {
        self.change(id, |one| one.prepared.clear());
        self.transactions.remove(&id)?.decided
    }

    pub(super) fn in_doubt(&self) -> usize {
        self.in_doubt
    }

    /// When the oldest was begun.
    pub(super) fn oldest(&self) -> Option<UnixMillis> {
        self.transactions.first_key_value().map(|(_, one)| one.begun)
    }

    fn change(&mut self, id: TransactionId, change: impl FnOnce(&mut One)) {
        let Some(one) = self.transactions.get_mut(&id) else { return };
        let was = !one.prepared.is_empty();
        change(one);
        self.in_doubt += usize::from(!one.prepared.is_empty());
        self.in_doubt -= usize::from(was);
    }
}

fn prepared(transaction: &Transaction) -> Vec<u32> {
    let has_not_ended = |state: BranchState| state == BranchState::Prepared || state.is_being_told();
    let places = (0..).zip(&transaction.branches);
    places.filter(|(_, b)| b.vote == Some(Vote::Prepared) && has_not_ended(b.state)).map(|(at, _)| at).collect()
}
