//! Forgetting what finished long ago.
//!
//! Ids are in order of time, so what finished soon after it was begun goes by whole ranges, and its index rows when their
//! files are next compacted. What took long to finish, or must be left to an operator, is in a table of its own and goes
//! one by one.
//!
//! Always true: nothing is dropped before its time, and what a branch never acknowledged never; the forced records of
//! decisions that are still being told, the checkpoint before them, and all after it, stay; from which time on everything
//! is there is written with what is dropped.

use std::{ops::ControlFlow, time::Duration};

use unanimous_sdk::protocol::{TransactionId, UnixMillis};
use uuid::Uuid;

use super::{
    Error,
    database::Database,
    encoding::{self, Change, Table},
    format,
    index::Tag,
    recovery::{self, Tables},
};

/// What finishes later than this after its beginning is kept apart.
pub(super) fn late_ms(keep: Duration) -> u64 {
    u64::try_from(keep.as_millis() / 10).unwrap_or(u64::MAX).min(60_000)
}

/// What is remembered from pass to pass.
#[derive(Debug, Default)]
pub(super) struct Retention {
    compacted: UnixMillis,
}

impl Retention {
    /// Drops what is old enough; `before` hears from which time on everything will still be there, before anything goes.
    pub(super) fn pass(
        &mut self,
        database: &Database,
        keep: Duration,
        now: UnixMillis,
        before: impl FnOnce(UnixMillis),
    ) -> Result<(), Error> {
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let expired = UnixMillis(now.0.saturating_sub(keep_ms));
        let since = UnixMillis(expired.0.saturating_sub(late_ms(keep)));
        let since = since.max(recovery::meta(database, encoding::RETAINED)?.unwrap_or_default());
        before(since);
        let cutoff = encoding::history_key(TransactionId::from_uuid(Uuid::from_u128(u128::from(since.0) << 80)));
        let value = encoding::encode(&since).map_err(|error| Error::Misuse(error.to_string()))?;
        let mut changes = vec![
            Change::Put(Table::Meta, encoding::RETAINED.to_vec(), value),
            Change::DeleteRange(Table::History, vec![], cutoff),
        ];
        database.scan(Table::Kept, &[], &mut |key, value| {
            let transaction = format::read_finished_row(value).map_err(Error::unreadable(Table::Kept, key))?;
            if !transaction.is_left_to_an_operator() && transaction.finished_at.is_some_and(|at| at < expired) {
                let id = encoding::history_of_key(key).map_err(Error::unreadable(Table::Kept, key))?;
                changes.push(Change::Delete(Table::Kept, key.to_vec()));
                let rows = Tag::all(&transaction).into_iter().map(|tag| tag.row(id));
                changes.extend(rows.map(|row| Change::Delete(Table::Index, row)));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        drop_forced_records(database, expired, now, &mut changes)?;
        database.write(&changes, false)?;
        database.forget_index_before(since);
        // At most a quarter more than is kept takes room for nothing.
        if self.compacted == UnixMillis::default() {
            // Not at every start: it writes much, and the disk may be short of room.
            self.compacted = now;
        }
        if now.since(self.compacted) > keep / 4 {
            self.compacted = now;
            // (`live` is nothing but deletions after a while, which only this drops.)
            database.compact(&[Table::Live, Table::History, Table::Index, Table::Outcomes])?;
        }
        Ok(())
    }
}

/// Drops the forced records before the last checkpoint that is old enough, and not after a decision that is still being
/// told. When a checkpoint was first seen as the last is kept in `meta`.
fn drop_forced_records(
    database: &Database,
    expired: UnixMillis,
    now: UnixMillis,
    changes: &mut Vec<Change>,
) -> Result<(), Error> {
    let mut seen: Vec<(u64, UnixMillis)> = vec![];
    database.scan(Table::Meta, encoding::CHECKPOINTS, &mut |key, value| {
        if let Some(number) = key.strip_prefix(encoding::CHECKPOINTS) {
            let unreadable = || Error::unreadable(Table::Meta, key);
            let number = encoding::outcome_of_key(number).map_err(unreadable())?;
            seen.push((number, encoding::decode(value).map_err(unreadable())?));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let key_of = |number| [encoding::CHECKPOINTS, &encoding::outcome_key(number)].concat();
    let last: Option<u64> = recovery::meta(database, encoding::CHECKPOINT)?;
    if let Some(number) = last.filter(|number| seen.last().is_none_or(|(known, _)| known < number)) {
        let value = encoding::encode(&now).map_err(|error| Error::Misuse(error.to_string()))?;
        changes.push(Change::Put(Table::Meta, key_of(number), value));
    }
    let mut needed = u64::MAX;
    database.scan(Table::Live, &[], &mut |key, value| {
        let number = format::number_of_live_row(value).map_err(Error::unreadable(Table::Live, key))?;
        if number > 0 {
            needed = needed.min(number);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let old = seen.iter().filter(|(number, at)| *at < expired && *number <= needed).map(|(number, _)| *number).max();
    if let Some(old) = old {
        changes.push(Change::DeleteRange(Table::Outcomes, vec![], encoding::outcome_key(old)));
        changes.push(Change::DeleteRange(Table::Meta, encoding::CHECKPOINTS.to_vec(), key_of(old)));
    }
    Ok(())
}
