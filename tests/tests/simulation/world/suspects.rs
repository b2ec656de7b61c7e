//! Participants that have lost their data, as the simulator sees them: how many branches of each have ended in the unknown.
//!
//! # Invariants
//! - Of a participant at most ten transactions in a row end so, then none until it knows a branch again, also over restarts.
//! - Nothing ends so at a participant that has lost nothing.

use std::collections::{BTreeMap, BTreeSet};

use unanimous_coordinator::{
    journal::{Entry, Journal, Lsn, Memory, Recovered},
    transaction::{BranchState, Record, Transaction},
    transport::Attempt,
};
use unanimous_sdk::protocol::{CommitAnswer, TransactionId};

use super::{URLS, node_of, url};

/// So many may end so in a row.
const ROW: usize = 10;

#[derive(Default)]
struct Row {
    unknown: BTreeSet<TransactionId>,
    last: Option<TransactionId>,
    /// So many of them may have come before an answer that ended the row before.
    before: usize,
    /// The entry by which commits are held.
    held: Option<Lsn>,
}

#[derive(Default)]
pub(super) struct Suspects {
    /// The places of the branches of what is decided.
    places: BTreeMap<TransactionId, Vec<usize>>,
    rows: [Row; URLS],
    /// Who has ever lost its data and come back with the same id, or with none.
    pub(super) has_lost: [bool; URLS],
    /// What is noted now was said unasked.
    pub(super) unasked: bool,
}

fn ended_unknown(transaction: &Transaction, place: usize) -> bool {
    let mut there = transaction.branches.iter().filter(|branch| node_of(&branch.participant) == place);
    there.any(|branch| branch.state == BranchState::HeuristicUnknown)
}

impl Suspects {
    /// Follows how commits are answered: one that is known ends the row, also where its branch had ended already.
    pub(super) fn answered<'a>(&mut self, place: usize, attempts: impl DoubleEndedIterator<Item = &'a Attempt>) {
        let is_known = |attempt: &&Attempt| {
            matches!(attempt, Attempt::Commit(CommitAnswer::Committed | CommitAnswer::HeuristicAbort { .. }, _))
        };
        let mut before = attempts.rev().skip_while(|attempt| !is_known(attempt));
        if before.next().is_some() {
            let row = &mut self.rows[place];
            if row.held.is_none() {
                *row = Row { before: before.count(), ..Row::default() };
            }
        }
    }

    /// Follows what is appended to the log.
    pub(super) fn note(&mut self, lsn: Lsn, entry: &Entry) {
        match entry {
            Entry::Record { id, record: Record::Decided(transaction), .. } => {
                let places = transaction.branches.iter().map(|branch| node_of(&branch.participant)).collect();
                self.places.insert(*id, places);
            }
            Entry::Record { id, record: Record::Acknowledged { branch, state, .. }, .. } => {
                self.ended(*id, *branch as usize, *state);
            }
            Entry::Suspect { participant, .. } => {
                assert!(self.has_lost[node_of(participant)], "{participant} has lost nothing, and is suspect");
                self.rows[node_of(participant)].held = Some(lsn);
            }
            Entry::Trusted { participant } => self.rows[node_of(participant)] = Row::default(),
            _ => {}
        }
    }

    fn ended(&mut self, id: TransactionId, branch: usize, state: BranchState) {
        let place = self.places[&id][branch];
        let row = &mut self.rows[place];
        match state {
            BranchState::HeuristicUnknown => {
                assert!(
                    self.has_lost[place],
                    "{id}: node {place} has lost nothing, and its branch ended in the unknown"
                );
                assert!(row.held.is_none(), "{id}: node {place} is suspect, and one more branch ended in the unknown");
                row.unknown.insert(id);
                row.last = Some(id);
                let count = row.unknown.len();
                assert!(count <= ROW + row.before, "{id}: node {place} doesn't know {count} in a row");
            }
            // Both show that it knows the branch.
            BranchState::Committed | BranchState::HeuristicAbort if !self.unasked && row.held.is_none() => {
                *row = Row::default();
            }
            _ => {}
        }
    }

    /// The process has ended, and its log had come as far as this: what was held is held.
    pub(super) fn restart(&mut self, durable: Lsn, recovered: &Recovered, journal: &Memory) {
        for (place, row) in self.rows.iter_mut().enumerate() {
            let is_held = recovered.suspects.contains(&url(place));
            if let Some(lsn) = row.held
                && !is_held
            {
                assert!(lsn > durable, "node {place} was suspect, and is not any more");
                let last = row.last.expect("something has ended");
                let finished = journal.finished(last).expect("it can be read");
                let live = recovered.live.iter().find(|(id, _)| *id == last).map(|(_, transaction)| transaction);
                let ended = finished.as_ref().or(live).is_some_and(|transaction| ended_unknown(transaction, place));
                assert!(!ended, "node {place}: the end of the tenth has survived, and not that it is suspect");
            }
            *row = Row { held: row.held.filter(|_| is_held).map(|_| Lsn(0)), ..Row::default() };
        }
    }
}
