//! How keys and values stand in the log's tables. Pure.
//!
//! Always true: a value begins with the version of its form, and nothing follows its end; what isn't so is refused, and
//! so is a version from the future. Keys sort as what they stand for does.

use std::collections::HashMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use unanimous_sdk::protocol::{Epoch, ParticipantUrl, TransactionId};
use uuid::Uuid;

/// The version of the form of values in `meta`.
const META: u8 = 1;

/// The tables of the log (`RocksDB` calls them column families).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    /// (transaction, index) → record, of transactions that aren't finished.
    Live,
    /// Number → forced record.
    Outcomes,
    /// Transaction → how it finished.
    History,
    /// The same, of those that a range of ids can't drop when their time has come.
    Kept,
    /// (tag, transaction) → nothing; of those in `kept` [`INDEX_KEPT`], and by the log's time when that was.
    Index,
    /// What belongs to the log as a whole.
    Meta,
}

impl Table {
    pub(super) const ALL: [Self; 6] = [Self::Live, Self::Outcomes, Self::History, Self::Kept, Self::Index, Self::Meta];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Outcomes => "outcomes",
            Self::History => "history",
            Self::Kept => "kept",
            Self::Index => "index",
            Self::Meta => "meta",
        }
    }
}

/// One change of the tables. A key is put at most once before it is deleted, but in `meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put(Table, Vec<u8>, Vec<u8>),
    Delete(Table, Vec<u8>),
    /// All keys from the first on that are below the second.
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}

/// The same changes, without those of which one batch would leave nothing: rows of `live` that are put and deleted again.
/// (Most acknowledgements come with their transaction's end.)
pub(super) fn settled(mut changes: Vec<Change>) -> Vec<Change> {
    let mut puts: HashMap<&[u8], usize> = HashMap::new();
    let mut kept = vec![true; changes.len()];
    for (at, change) in changes.iter().enumerate() {
        match change {
            Change::Put(Table::Live, key, _) => drop(puts.insert(key, at)),
            Change::Delete(Table::Live, key) => {
                if let Some(put) = puts.remove(&**key) {
                    (kept[put], kept[at]) = (false, false);
                }
            }
            // What it takes away depends on what is before it.
            Change::DeleteRange(..) => puts.clear(),
            Change::Put(..) | Change::Delete(..) => {}
        }
    }
    let mut kept = kept.into_iter();
    changes.retain(|_| kept.next() == Some(true));
    changes
}

/// The value of an index row that is taken away with its transaction, and not before; the log's time may follow, 8 bytes.
pub(super) const INDEX_KEPT: &[u8] = &[1];

/// Keys of `meta`.
pub(super) const COORDINATOR: &[u8] = b"coordinator";
/// The highest transaction id ever logged; kept beyond its transaction.
pub(super) const HIGHEST: &[u8] = b"highest";
/// The number of the last checkpoint.
pub(super) const CHECKPOINT: &[u8] = b"checkpoint";
/// The log's own time.
pub(super) const TIME: &[u8] = b"time";
/// Before the log's times of passes of retention.
pub(super) const PASSES: &[u8] = b"passes/";
/// The id up to which retention drops by a range.
pub(super) const DROPPED: &[u8] = b"dropped";
/// The highest id that retention has dropped.
pub(super) const FORGOTTEN: &[u8] = b"forgotten";
/// How far ids and the wall clock have ever been apart.
pub(super) const SKEW: &[u8] = b"skew";
/// From which time on nothing was dropped by retention.
pub(super) const RETAINED: &[u8] = b"retained";
/// Before the numbers of checkpoints; the value is when one was first seen as the last.
pub(super) const CHECKPOINTS: &[u8] = b"checkpoints/";
/// The highest epoch by which this coordinator was superseded.
pub(super) const SUPERSEDED: &[u8] = b"superseded";
/// Is there once the folder's place is recorded beside the database.
pub(super) const PLACED: &[u8] = b"placed";
/// The number of the checkpoint that the last clean stop wrote.
pub(super) const CLOSED: &[u8] = b"closed";
/// Before the URLs of participants to which commits are held; the value is since when.
pub(super) const SUSPECTS: &[u8] = b"suspect/";
/// Before the epochs under which the log was opened.
pub(super) const EPOCHS: &[u8] = b"epoch/";

/// Why a key or a value isn't understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is empty")]
    Empty,
    #[error("it is of version {found}, and this program knows versions up to {known}; use a newer one")]
    Newer { found: u8, known: u8 },
    #[error("it isn't what stands there: {0}")]
    Malformed(String),
}

/// Returns a value of `meta`. The other tables' values are the matter of [`format`](super::format).
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, Unreadable> {
    checked(postcard::to_extend(value, vec![META]))
}

/// Reads a value of `meta`.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    match body(bytes)? {
        (META, body) => whole(body),
        (newer, _) => Err(Unreadable::Newer { found: newer, known: META }),
    }
}

/// Returns a value's version, and what follows it. Version 0 there never was.
pub(super) fn body(bytes: &[u8]) -> Result<(u8, &[u8]), Unreadable> {
    match bytes.split_first() {
        None => Err(Unreadable::Empty),
        Some((0, _)) => Err(Unreadable::Malformed("it has no version".to_owned())),
        Some((version, body)) => Ok((*version, body)),
    }
}

/// Reads all of these bytes as one value: nothing follows its end.
pub(super) fn whole<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Unreadable> {
    match checked(postcard::take_from_bytes(body))? {
        (value, []) => Ok(value),
        (_, more) => Err(Unreadable::Malformed(format!("{} bytes follow its end", more.len()))),
    }
}

pub(super) fn checked<T>(result: Result<T, postcard::Error>) -> Result<T, Unreadable> {
    result.map_err(|error| Unreadable::Malformed(error.to_string()))
}

pub(super) fn live_key(id: TransactionId, index: u32) -> Vec<u8> {
    let mut key = id.uuid().as_bytes().to_vec();
    key.extend_from_slice(&index.to_be_bytes());
    key
}

pub(super) fn live_of_key(key: &[u8]) -> Result<(TransactionId, u32), Unreadable> {
    let wrong = || Unreadable::Malformed("a key of 20 bytes was expected".to_owned());
    let (id, index) = key.split_first_chunk::<16>().ok_or_else(wrong)?;
    let index = index.try_into().map_err(|_| wrong())?;
    Ok((TransactionId::from_uuid(Uuid::from_bytes(*id)), u32::from_be_bytes(index)))
}

pub(super) fn history_key(id: TransactionId) -> Vec<u8> {
    id.uuid().as_bytes().to_vec()
}

pub(super) fn history_of_key(key: &[u8]) -> Result<TransactionId, Unreadable> {
    let key = key.try_into().map_err(|_| Unreadable::Malformed("a key of 16 bytes was expected".to_owned()))?;
    Ok(TransactionId::from_uuid(Uuid::from_bytes(key)))
}

pub(super) fn outcome_key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

pub(super) fn outcome_of_key(key: &[u8]) -> Result<u64, Unreadable> {
    let key = key.try_into().map_err(|_| Unreadable::Malformed("a key of 8 bytes was expected".to_owned()))?;
    Ok(u64::from_be_bytes(key))
}

pub(super) fn epoch_key(epoch: Epoch) -> Vec<u8> {
    [EPOCHS, epoch.uuid().as_bytes()].concat()
}

pub(super) fn suspect_key(participant: &ParticipantUrl) -> Vec<u8> {
    [SUSPECTS, participant.as_str().as_bytes()].concat()
}

pub(super) fn suspect_of_key(key: &[u8]) -> Result<ParticipantUrl, Unreadable> {
    let wrong = || Unreadable::Malformed("a URL was expected after `suspect/`".to_owned());
    let text = key.strip_prefix(SUSPECTS).and_then(|url| std::str::from_utf8(url).ok()).ok_or_else(wrong)?;
    Ok(ParticipantUrl::from_kept(text))
}

pub(super) fn epoch_of_key(key: &[u8]) -> Result<Epoch, Unreadable> {
    let wrong = || Unreadable::Malformed("a key of 16 bytes was expected after `epoch/`".to_owned());
    let bytes = key.strip_prefix(EPOCHS).and_then(|rest| rest.try_into().ok()).ok_or_else(wrong)?;
    Ok(Epoch::from_uuid(Uuid::from_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_batch_only_what_it_leaves_is_written() {
        let put = |table, key: &[u8]| Change::Put(table, key.to_vec(), vec![]);
        let delete = |key: &[u8]| Change::Delete(Table::Live, key.to_vec());
        let range = Change::DeleteRange(Table::Live, vec![], b"b".to_vec());
        let changes = vec![put(Table::Live, b"a"), put(Table::History, b"a"), delete(b"a"), delete(b"b")];
        assert_eq!(settled(changes), [put(Table::History, b"a"), delete(b"b")]);
        let changes = vec![put(Table::Live, b"a"), range, delete(b"a"), put(Table::Live, b"c")];
        assert_eq!(settled(changes.clone()), changes);
        // Another table's row of the same key is another row.
        let changes = vec![put(Table::Kept, b"a"), delete(b"a"), put(Table::Live, b"a")];
        assert_eq!(settled(changes.clone()), changes);
    }
}
