//! The form in which values stand in the log's tables, version by version.
//!
//! A value begins with the version of its table's form. What stands here is the disk's format and nothing else: the types
//! of [`transaction`](crate::transaction) may change freely, these may not. A new form is a new module and a new version;
//! every older one is still read. Values are postcard, so they are read by position: the order of members and variants
//! is the format.
//!
//! # Invariants
//!
//! - What one version has written, every later one reads, or refuses by name (`tests/tests/log_format` opens a log of each).
//! - A participant's URL is kept as text and is not parsed again: what was taken once stays what it is.

mod v1;
mod v2;

use super::{
    chain::{Forced, Link},
    encoding::{Unreadable, body, checked, whole},
};
use crate::transaction::{Record, Transaction};

/// The version in which values of `live`, `history` and `kept` are written.
const TRANSACTIONS: u8 = 2;

/// The version in which values of `outcomes` are written. The types are those of version 1. The number keeps programs out
/// that would read such a log and not know what else is in it.
const OUTCOMES: u8 = 2;

/// Returns a row of `live`: a record, and the number of its forced record (0 if it has none).
pub(super) fn live_row(number: u64, record: &Record) -> Result<Vec<u8>, Unreadable> {
    written(TRANSACTIONS, &(number, v2::Record::from(record)))
}

/// Reads a row of `live`.
pub(super) fn read_live_row(bytes: &[u8]) -> Result<(u64, Record), Unreadable> {
    match body(bytes)? {
        (1, body) => whole::<(u64, v1::Record)>(body).map(|(number, record)| (number, record.into())),
        (TRANSACTIONS, body) => whole::<(u64, v2::Record<'_>)>(body).map(|(number, record)| (number, record.into())),
        (newer, _) => Err(Unreadable::Newer { found: newer, known: TRANSACTIONS }),
    }
}

/// Reads the number of the forced record of a row of `live`, and nothing else of it.
pub(super) fn number_of_live_row(bytes: &[u8]) -> Result<u64, Unreadable> {
    match body(bytes)? {
        (1 | TRANSACTIONS, body) => checked(postcard::take_from_bytes(body)).map(|(number, _)| number),
        (newer, _) => Err(Unreadable::Newer { found: newer, known: TRANSACTIONS }),
    }
}

/// Returns a row of `history` or `kept`: a finished transaction.
pub(super) fn finished_row(transaction: &Transaction) -> Result<Vec<u8>, Unreadable> {
    written(TRANSACTIONS, &v2::Transaction::from(transaction))
}

/// Reads a row of `history` or `kept`.
pub(super) fn read_finished_row(bytes: &[u8]) -> Result<Transaction, Unreadable> {
    match body(bytes)? {
        (1, body) => whole::<v1::Transaction>(body).map(Into::into),
        (TRANSACTIONS, body) => whole::<v2::Transaction<'_>>(body).map(Into::into),
        (newer, _) => Err(Unreadable::Newer { found: newer, known: TRANSACTIONS }),
    }
}

/// Returns what the chain's checksum is made over for a forced record.
pub(super) fn forced_content(forced: &Forced) -> Result<Vec<u8>, Unreadable> {
    written(OUTCOMES, forced)
}

/// Returns a row of `outcomes`.
pub(super) fn outcome_row(link: &Link) -> Result<Vec<u8>, Unreadable> {
    written(OUTCOMES, link)
}

/// Reads a row of `outcomes`, and what its checksum was made over.
pub(super) fn read_outcome_row(bytes: &[u8]) -> Result<(Link, Vec<u8>), Unreadable> {
    match body(bytes)? {
        (version @ (1 | OUTCOMES), body) => {
            let link: Link = whole(body)?;
            let content = written(version, &link.forced)?;
            Ok((link, content))
        }
        (newer, _) => Err(Unreadable::Newer { found: newer, known: OUTCOMES }),
    }
}

fn written(version: u8, value: &impl serde::Serialize) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = Vec::with_capacity(256);
    bytes.push(version);
    checked(postcard::to_extend(value, bytes))
}
