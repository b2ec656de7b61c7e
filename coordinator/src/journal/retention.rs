//! Forgetting what finished long ago.
//!
//! Ids are in order of time, so what finished soon after it was begun goes by whole ranges, and its index rows when their
//! files are next compacted. What took long to finish, or must be left to an operator, is in a table of its own and goes
//! one by one.
//!
//! Always true: nothing is dropped before its time, and what a branch never acknowledged never; the last checkpoint, and
//! all after it, stays.

use std::{collections::VecDeque, time::Duration};

use unanimous_sdk::protocol::{TransactionId, UnixMillis};
use uuid::Uuid;

use super::{
    Error,
    database::Database,
    encoding::{self, Change, Table},
    index::Tag,
    recovery::{self, Tables},
};
use crate::transaction::Transaction;

/// What finishes later than this after its beginning is kept apart.
pub(super) fn late_ms(keep: Duration) -> u64 {
    u64::try_from(keep.as_millis() / 10).unwrap_or(u64::MAX).min(60_000)
}

/// What is remembered from pass to pass.
#[derive(Debug, Default)]
pub(super) struct Retention {
    /// When which checkpoint was the last: what is before one that is old enough is not needed any more.
    checkpoints: VecDeque<(UnixMillis, u64)>,
    compacted: UnixMillis,
}

impl Retention {
    pub(super) fn pass(&mut self, database: &Database, keep: Duration, now: UnixMillis) -> Result<UnixMillis, Error> {
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let expired = UnixMillis(now.0.saturating_sub(keep_ms));
        let since = UnixMillis(expired.0.saturating_sub(late_ms(keep)));
        let cutoff = encoding::history_key(TransactionId::from_uuid(Uuid::from_u128(u128::from(since.0) << 80)));
        let mut changes = vec![Change::DeleteRange(Table::History, vec![], cutoff)];
        database.scan(Table::Kept, &[], &mut |key, value| {
            let transaction: Transaction =
                encoding::decode(value).map_err(Error::unreadable(Table::Kept, key))?;
            if !transaction.is_left_to_an_operator() && transaction.finished_at.is_some_and(|at| at < expired) {
                let id = encoding::history_of_key(key).map_err(Error::unreadable(Table::Kept, key))?;
                changes.push(Change::Delete(Table::Kept, key.to_vec()));
                let rows = Tag::all(&transaction).into_iter().map(|tag| tag.row(id));
                changes.extend(rows.map(|row| Change::Delete(Table::Index, row)));
            }
            Ok(())
        })?;
        if let Some(number) = self.old_checkpoint(database, expired, now)? {
            changes.push(Change::DeleteRange(Table::Outcomes, vec![], encoding::outcome_key(number)));
        }
        database.write(&changes, false)?;
        database.forget_index_before(since);
        // Four times as long as the disk has it for nothing, at most a quarter more than is kept is there.
        if now.since(self.compacted) > keep / 4 {
            self.compacted = now;
            database.compact(&[Table::History, Table::Index, Table::Outcomes])?;
        }
        Ok(since)
    }

    /// The last checkpoint that is older than what is kept.
    fn old_checkpoint(&mut self, database: &Database, expired: UnixMillis, now: UnixMillis) -> Result<Option<u64>, Error> {
        let last = recovery::meta(database, encoding::CHECKPOINT)?;
        if let Some(number) = last.filter(|number| self.checkpoints.back().is_none_or(|(_, known)| known < number)) {
            self.checkpoints.push_back((now, number));
        }
        let mut old = None;
        while let Some((_, number)) = self.checkpoints.pop_front_if(|(at, _)| *at < expired) {
            old = Some(number);
        }
        Ok(old)
    }
}
