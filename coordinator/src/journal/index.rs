//! Finding finished transactions: by what they have, newest first, without reading those that don't have it.
//!
//! Always true: a tag's rows are in order of the transactions' ids; a transaction has rows for all its tags or none,
//! because they are written in the batch that keeps it. Tags are digests: whoever finds one compares the transaction.

use unanimous_sdk::protocol::{ParticipantUrl, TransactionId};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Error,
    encoding::{self, Table},
    format,
    recovery::Tables,
};
use crate::transaction::{State, Transaction};

/// Something that transactions are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag([u8; 8]);

impl Tag {
    fn of(kind: u8, parts: &[&str]) -> Self {
        let mut text = vec![kind];
        for part in parts {
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        Self(xxh3_64(&text).to_be_bytes())
    }

    /// One of its branches is this participant's.
    pub fn participant(url: &ParticipantUrl) -> Self {
        Self::of(1, &[url.as_str()])
    }

    /// Its metadata have this value under this key.
    pub fn metadata(key: &str, value: &str) -> Self {
        Self::of(2, &[key, value])
    }

    /// It ended so.
    pub fn state(state: State) -> Self {
        Self::of(3, &[if state == State::Committed { "committed" } else { "aborted" }])
    }

    /// A branch ended against the decision, or nobody knows how.
    pub fn heuristic() -> Self {
        Self::of(4, &[])
    }

    /// A call about it came with this Idempotency-Key.
    pub fn key(text: &str) -> Self {
        Self::of(5, &[text])
    }

    /// All that a transaction is found by.
    pub(super) fn all(transaction: &Transaction) -> Vec<Self> {
        let mut tags = vec![Self::state(transaction.state)];
        tags.extend(transaction.is_heuristic().then(Self::heuristic));
        tags.extend(transaction.branches.iter().map(|branch| Self::participant(&branch.participant)));
        tags.extend(transaction.metadata.iter().map(|(key, value)| Self::metadata(key, value)));
        tags.extend(transaction.keys.iter().map(|key| Self::key(&key.text)));
        tags.sort_unstable_by_key(|tag| tag.0);
        tags.dedup();
        tags
    }

    /// The index's key for a transaction that has it.
    pub(super) fn row(self, id: TransactionId) -> Vec<u8> {
        [&self.0[..], id.uuid().as_bytes()].concat()
    }
}

/// Which finished transactions are wanted.
#[derive(Clone, Debug, Default)]
pub struct Find {
    /// Only ids below this one.
    pub before: Option<TransactionId>,
    /// Only ids from this one on.
    pub since: Option<TransactionId>,
    /// Of each group they have at least one.
    pub groups: Vec<Vec<Tag>>,
    /// After about so many looks into the tables it stops where it is; None: it goes on to the end. Of tags that many have,
    /// but none has together, there could be millions.
    pub looks: Option<usize>,
}

/// Returns the first half of the id in an index row: enough to say of most ids which is the lower one.
pub(super) fn half_of_row(row: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(row.get(8..16)?.try_into().ok()?))
}

/// Returns the first half of an id.
pub(super) fn first_half(id: TransactionId) -> u64 {
    id.uuid().as_u64_pair().0
}

/// How a transaction finished.
pub(super) fn finished(tables: &impl Tables, id: TransactionId) -> Result<Option<Transaction>, Error> {
    let key = encoding::history_key(id);
    for table in [Table::History, Table::Kept] {
        if let Some(value) = tables.get(table, &key)? {
            return format::read_finished_row(&value).map(Some).map_err(Error::unreadable(table, &key));
        }
    }
    Ok(None)
}

/// Gives `each` the transactions, newest first, until it wants no more. If it has stopped before the end: all from that id
/// on were looked at, and none below it.
pub(super) fn find(
    tables: &impl Tables,
    find: &Find,
    each: &mut dyn FnMut(TransactionId, Transaction) -> bool,
) -> Result<Option<TransactionId>, Error> {
    // Exclusive; one past the highest id if there is no bound.
    let mut before = find.before.map(|id| id.uuid().as_u128());
    let mut looks = find.looks.unwrap_or(usize::MAX);
    loop {
        let id = match candidate(tables, &find.groups, before, &mut looks)? {
            Some(Candidate { id, .. }) if find.since.is_some_and(|since| id < since) => return Ok(None),
            Some(Candidate { id, common: true }) => id,
            // None of them is above the lowest: that one itself is still possible.
            Some(Candidate { id, common: false }) => {
                let bound = id.uuid().as_u128().saturating_add(1);
                before = Some(bound);
                if looks == 0 {
                    return Ok(Some(TransactionId::from_uuid(Uuid::from_u128(bound))));
                }
                continue;
            }
            None => return Ok(None),
        };
        before = Some(id.uuid().as_u128());
        looks = looks.saturating_sub(1);
        // A row may be left of one that was dropped.
        if let Some(transaction) = finished(tables, id)?
            && !each(id, transaction)
        {
            return Ok(None);
        }
        if looks == 0 {
            return Ok(Some(id));
        }
    }
}

/// An id below which, or at which, the next one is that every group has.
struct Candidate {
    id: TransactionId,
    /// Every group has it.
    common: bool,
}

/// Of each group the highest id below the bound, and of these the lowest; None if a group has none.
fn candidate(
    tables: &impl Tables,
    groups: &[Vec<Tag>],
    before: Option<u128>,
    looks: &mut usize,
) -> Result<Option<Candidate>, Error> {
    if groups.is_empty() {
        let newest = last(tables, Table::History, &[], before)?.max(last(tables, Table::Kept, &[], before)?);
        return Ok(newest.map(|id| Candidate { id, common: true }));
    }
    let mut found: Option<Candidate> = None;
    for group in groups {
        let mut newest = None;
        for tag in group {
            *looks = looks.saturating_sub(1);
            newest = newest.max(last(tables, Table::Index, &tag.0, before)?);
        }
        let Some(newest) = newest else { return Ok(None) };
        found = Some(match found {
            None => Candidate { id: newest, common: true },
            Some(Candidate { id, common }) => Candidate { id: id.min(newest), common: common && id == newest },
        });
    }
    Ok(found)
}

/// The highest id below the bound among the rows that begin with this.
fn last(tables: &impl Tables, table: Table, head: &[u8], before: Option<u128>) -> Result<Option<TransactionId>, Error> {
    let bound = match before {
        Some(0) => return Ok(None),
        Some(before) => (before - 1).to_be_bytes(),
        None => [0xff; 16],
    };
    let Some(row) = tables.last(table, &[head, &bound].concat())? else { return Ok(None) };
    let id = row.strip_prefix(head).and_then(|id| <[u8; 16]>::try_from(id).ok());
    Ok(id.map(|id| TransactionId::from_uuid(Uuid::from_bytes(id))))
}
