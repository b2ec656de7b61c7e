//! What each entry changes in the tables: the one place where the log's form is decided. Pure; shared by every journal.
//!
//! Always true: forced records are numbered without gaps and chained; decisions' sequences have no gaps; the highest
//! transaction id is written in the same batch as whatever raised it.

use std::sync::Arc;

use unanimous_sdk::protocol::{Epoch, TransactionId};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Entry, Error,
    chain::{Forced, Link, Tip},
    encoding::{self, Change, Table, Unreadable},
    format,
    index::Tag,
    retention::Ages,
    skew::Skew,
};
use crate::transaction::Record;

/// After so many forced records one of them is a checkpoint: what start verifies is bounded by it.
const CHECKPOINT_EVERY: u64 = 10_000;

/// Where the log stands.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    pub(super) tip: Tip,
    /// Of the last decision; 0 before the first.
    pub(super) sequence: u64,
    pub(super) highest: TransactionId,
    /// Forced records since the last checkpoint.
    pub(super) unverified: u64,
    /// What was begun long before it finishes is kept apart, so that all else can be dropped by ranges.
    pub(super) ages: Arc<Ages>,
    pub(super) skew: Skew,
}

impl Ledger {
    /// What these entries change, as one batch.
    pub(super) fn enter_all(&mut self, entries: &[Entry]) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::with_capacity(entries.len() * 3 + 2);
        let (before, skew) = (self.highest, self.skew);
        for entry in entries {
            self.enter(entry, &mut changes)?;
        }
        if self.highest != before {
            changes.push(Change::Put(Table::Meta, encoding::HIGHEST.to_vec(), encode(&self.highest)?));
        }
        if self.skew != skew {
            changes.push(Change::Put(Table::Meta, encoding::SKEW.to_vec(), encode(&self.skew)?));
        }
        Ok(encoding::settled(changes))
    }

    fn enter(&mut self, entry: &Entry, changes: &mut Vec<Change>) -> Result<(), Error> {
        match entry {
            Entry::Record { id, index, record } => {
                self.highest = self.highest.max(*id);
                if let Record::Begun(transaction) = record {
                    self.skew.see(*id, transaction.created_at);
                }
                self.record(*id, *index, record, changes)?;
            }
            Entry::Finished { id, transaction } => {
                self.highest = self.highest.max(*id);
                changes.extend(
                    (0..transaction.records).map(|at| Change::Delete(Table::Live, encoding::live_key(*id, at))),
                );
                let kept = *id <= self.ages.late() || transaction.is_kept_beyond_retention();
                let (table, mark) = if kept { (Table::Kept, self.ages.kept_row()) } else { (Table::History, vec![]) };
                let tags = Tag::all(transaction).into_iter();
                changes.extend(tags.map(|tag| Change::Put(Table::Index, tag.row(*id), mark.clone())));
                let row = checked(format::finished_row(transaction))?;
                changes.push(Change::Put(table, encoding::history_key(*id), row));
            }
            Entry::Checkpoint => self.checkpoint(changes)?,
            Entry::HigherEpoch { epoch, named_by } => {
                changes.push(Change::Put(Table::Meta, encoding::SUPERSEDED.to_vec(), encode(epoch)?));
                self.force(Forced::Superseded { epoch: *epoch, told_by: named_by.clone() }, changes)?;
            }
            Entry::Amended { id, transaction } => {
                // What can still change stands among those that retention leaves alone.
                let tags = Tag::all(transaction).into_iter();
                let mark = self.ages.kept_row();
                changes.extend(tags.map(|tag| Change::Put(Table::Index, tag.row(*id), mark.clone())));
                let row = checked(format::finished_row(transaction))?;
                changes.push(Change::Put(Table::Kept, encoding::history_key(*id), row));
            }
            Entry::Suspect { participant, since } => {
                changes.push(Change::Put(Table::Meta, encoding::suspect_key(participant), encode(since)?));
                self.force(Forced::Checkpoint { sequence: self.sequence }, changes)?;
            }
            Entry::Trusted { participant } => {
                changes.push(Change::Delete(Table::Meta, encoding::suspect_key(participant)));
            }
        }
        if self.unverified >= CHECKPOINT_EVERY {
            self.checkpoint(changes)?;
        }
        Ok(())
    }

    /// The first record of each opening.
    pub(super) fn open(&mut self, epoch: Epoch, changes: &mut Vec<Change>) -> Result<(), Error> {
        changes.push(Change::Put(Table::Meta, encoding::epoch_key(epoch), encode(&())?));
        self.force(Forced::Opened { epoch }, changes)
    }

    /// A record from which on the chain is verified at the next opening.
    pub(super) fn checkpoint(&mut self, changes: &mut Vec<Change>) -> Result<(), Error> {
        self.force(Forced::Checkpoint { sequence: self.sequence }, changes)?;
        changes.push(Change::Put(Table::Meta, encoding::CHECKPOINT.to_vec(), encode(&self.tip.number)?));
        self.unverified = 0;
        Ok(())
    }

    /// The last record of a clean stop: nothing follows it until the log is opened again.
    pub(super) fn close(&mut self, changes: &mut Vec<Change>) -> Result<(), Error> {
        self.checkpoint(changes)?;
        changes.push(Change::Put(Table::Meta, encoding::CLOSED.to_vec(), encode(&self.tip.number)?));
        Ok(())
    }

    fn record(
        &mut self,
        id: TransactionId,
        index: u32,
        record: &Record,
        changes: &mut Vec<Change>,
    ) -> Result<(), Error> {
        // The record carries the number of its forced record, so that start can compare the two.
        let number = if record.is_forced() { self.tip.number.saturating_add(1) } else { 0 };
        let value = checked(format::live_row(number, record))?;
        if let (Record::Decided(transaction), true) = (record, record.is_forced()) {
            let Some(decided) = &transaction.decided else {
                return Err(Error::Misuse(format!("transaction {id} was decided without a decision")));
            };
            if let Some(sequence) = decided.sequence {
                let expected = self.sequence.saturating_add(1);
                if sequence != expected {
                    let wrong = format!("transaction {id} was given the sequence {sequence} instead of {expected}");
                    return Err(Error::Misuse(wrong));
                }
                self.sequence = sequence;
            }
            let digest = xxh3_128(&value);
            let forced = Forced::Decided { id, decision: decided.decision, sequence: decided.sequence, digest };
            self.force(forced, changes)?;
        }
        changes.push(Change::Put(Table::Live, encoding::live_key(id, index), value));
        Ok(())
    }

    fn force(&mut self, forced: Forced, changes: &mut Vec<Change>) -> Result<(), Error> {
        self.tip = self.tip.next(&checked(format::forced_content(&forced))?);
        self.unverified = self.unverified.saturating_add(1);
        let link = Link { forced, chain: self.tip.chain };
        changes.push(Change::Put(
            Table::Outcomes,
            encoding::outcome_key(self.tip.number),
            checked(format::outcome_row(&link))?,
        ));
        Ok(())
    }
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    checked(encoding::encode(value))
}

fn checked<T>(written: Result<T, Unreadable>) -> Result<T, Error> {
    written.map_err(|error| Error::Misuse(error.to_string()))
}
