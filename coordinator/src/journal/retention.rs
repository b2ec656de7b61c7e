//! Forgetting what finished long ago.
//!
//! Age is told by the log's own time (`clock.rs`), never by a wall clock, and never by the time in an id. Each pass leaves a row that
//! says how far the ids had come by then. So what was begun before a pass goes by a whole range of ids, and its index rows
//! when their files are next compacted. What takes longer to finish than from one pass to the next, or must be
//! left to an operator, is in a table of its own and goes one by one.
//!
//! # Invariants
//!
//! - Nothing is dropped before its time, and what a branch never acknowledged never.
//! - The forced records of decisions that are still being told, the checkpoint before them, and all after it, stay.
//! - The highest id that was dropped, and from which time on everything is there, are written with what is dropped.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use unanimous_sdk::protocol::{TransactionId, UnixMillis};
use uuid::Uuid;

use super::{
    Error,
    clock::{LogTime, Plausibility, Reading},
    encoding::{self, Change, Table},
    format,
    index::Tag,
    recovery::{self, Tables},
};
use crate::transaction::Transaction;

/// How often a pass is made, by the log's own time: there are at most a thousand rows of passes.
fn pause_ms(keep: Duration) -> u64 {
    let longest = (keep / 1_000).max(Duration::from_hours(1));
    let pause = (keep / 11).clamp(Duration::from_millis(900), longest);
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}

/// What is known by the log's time, for who writes what has finished.
#[derive(Debug)]
pub(super) struct Ages {
    /// What has an id up to this one was begun long ago.
    late: Mutex<TransactionId>,
    /// The log's time when it was last told.
    now: AtomicU64,
}

impl Ages {
    pub(super) fn new(late: TransactionId, now: u64) -> Self {
        Self { late: Mutex::new(late), now: AtomicU64::new(now) }
    }

    /// Up to which id what finishes now was begun too long ago to be dropped by a range.
    pub(super) fn late(&self) -> TransactionId {
        *self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_late(&self, late: TransactionId) {
        *self.late.lock().unwrap_or_else(PoisonError::into_inner) = late;
    }

    /// The value of the index rows of what finishes now and goes one by one.
    pub(super) fn kept_row(&self) -> Vec<u8> {
        [encoding::INDEX_KEPT, &self.now.load(Ordering::Relaxed).to_be_bytes()].concat()
    }
}

/// A pass, as it is kept under the log's time of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pass {
    /// The highest id there was.
    highest: TransactionId,
    wall: UnixMillis,
}

/// What is to be done after a look at the time.
#[derive(Debug)]
pub(super) struct Due {
    /// To be written as one batch.
    pub(super) changes: Vec<Change>,
    pub(super) plausibility: Plausibility,
    /// The index rows of what went by a range of ids, up to this one, need not be kept.
    pub(super) index_upto: TransactionId,
    /// Much was dropped since the tables were last compacted.
    pub(super) compact: bool,
}

/// What is remembered from look to look.
#[derive(Debug)]
pub(super) struct Retention {
    time: LogTime,
    ages: Arc<Ages>,
    last: Option<Reading>,
    /// The log's time at the last pass of this process.
    passed: Option<u64>,
    /// The highest id at the last pass.
    previous: TransactionId,
    compacted: u64,
}

impl Retention {
    /// For a log that was just opened; `highest` is the highest id in it.
    pub(super) fn new(time: LogTime, ages: Arc<Ages>, highest: TransactionId) -> Self {
        // Not compacted at every start: it writes much, and the disk may be short of room.
        Self { time, ages, last: None, passed: None, previous: highest, compacted: time.age }
    }

    /// Takes note of the time, and now and then drops what is old enough. `before` hears, before anything goes, from which
    /// time on everything will still be there, and the highest id that will have gone.
    pub(super) fn look(
        &mut self,
        tables: &impl Tables,
        keep: Duration,
        now: Reading,
        before: impl FnOnce(UnixMillis, TransactionId),
    ) -> Result<Due, Error> {
        let plausibility = self.note(keep, now);
        let mut changes = vec![self.kept_time()?];
        let mut dropped = recovery::meta(tables, encoding::DROPPED)?.unwrap_or(TransactionId::NIL);
        if self.passed.is_none_or(|passed| self.time.age >= passed.saturating_add(pause_ms(keep))) {
            self.passed = Some(self.time.age);
            dropped = self.pass(tables, keep, now.wall, dropped, before, &mut changes)?;
        }
        // At most a quarter more than is kept takes room for nothing.
        let compact = self.time.age - self.compacted > ms(keep) / 4;
        if compact {
            self.compacted = self.time.age;
        }
        Ok(Due { changes, plausibility, index_upto: dropped, compact })
    }

    /// Takes note of the time, and drops nothing.
    pub(super) fn note(&mut self, keep: Duration, now: Reading) -> Plausibility {
        let ran = self.last.map_or(0, |last| now.mono.saturating_sub(last.mono));
        self.last = Some(now);
        let plausibility = self.time.ran(ran, now.wall, keep);
        self.ages.now.store(self.time.age, Ordering::Relaxed);
        plausibility
    }

    /// The change that keeps the log's time.
    pub(super) fn kept_time(&self) -> Result<Change, Error> {
        put(encoding::TIME.to_vec(), &self.time)
    }

    /// Returns up to which id everything goes by a range, now or before.
    fn pass(
        &mut self,
        tables: &impl Tables,
        keep: Duration,
        wall: UnixMillis,
        dropped: TransactionId,
        before: impl FnOnce(UnixMillis, TransactionId),
        changes: &mut Vec<Change>,
    ) -> Result<TransactionId, Error> {
        let now = self.time.age;
        let highest = recovery::meta(tables, encoding::HIGHEST)?.unwrap_or(TransactionId::NIL);
        let passes = passes(tables)?;
        changes.push(put(pass_key(now), &Pass { highest, wall })?);
        self.ages.set_late(self.previous);
        self.previous = highest;
        let expired = now.saturating_sub(ms(keep));
        drop_forced_records(tables, expired, now, changes)?;
        // What wasn't late had finished by the pass after the one that it was begun before.
        let old = passes.windows(2).filter(|two| two[1].0 <= expired).map(|two| two[0]).next_back();
        let Some((at, pass)) = old else { return Ok(dropped) };
        changes.push(Change::DeleteRange(Table::Meta, encoding::PASSES.to_vec(), pass_key(at)));
        let upto = pass.highest.max(dropped);
        let mut forgotten = None;
        if has_between(tables, dropped, upto)? {
            forgotten = Some(upto);
            changes.push(Change::DeleteRange(Table::History, vec![], encoding::history_key(after(upto))));
        }
        changes.push(put(encoding::DROPPED.to_vec(), &upto)?);
        forgotten = forgotten.max(self.drop_kept(tables, at, changes)?);
        if let Some(forgotten) = forgotten {
            let before_that = recovery::meta(tables, encoding::FORGOTTEN)?.unwrap_or(TransactionId::NIL);
            let forgotten = forgotten.max(before_that);
            let since = moment(now, wall, at, pass.wall);
            let since = since.max(recovery::meta(tables, encoding::RETAINED)?.unwrap_or_default());
            before(since, forgotten);
            changes.push(put(encoding::RETAINED.to_vec(), &since)?);
            changes.push(put(encoding::FORGOTTEN.to_vec(), &forgotten)?);
        }
        Ok(upto)
    }

    /// Drops what goes one by one and had finished by this time. The highest id of it.
    fn drop_kept(
        &self,
        tables: &impl Tables,
        by: u64,
        changes: &mut Vec<Change>,
    ) -> Result<Option<TransactionId>, Error> {
        let mut highest = None;
        tables.scan(Table::Kept, &[], &mut |key, value| {
            let transaction = format::read_finished_row(value).map_err(Error::unreadable(Table::Kept, key))?;
            let id = encoding::history_of_key(key).map_err(Error::unreadable(Table::Kept, key))?;
            if !transaction.is_kept_beyond_retention() && self.finished_at(tables, id, &transaction)? <= by {
                changes.push(Change::Delete(Table::Kept, key.to_vec()));
                let rows = Tag::all(&transaction).into_iter().map(|tag| tag.row(id));
                changes.extend(rows.map(|row| Change::Delete(Table::Index, row)));
                highest = highest.max(Some(id));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(highest)
    }

    /// The log's time when what goes one by one was written. Where it isn't said, that was before the log kept its time.
    fn finished_at(&self, tables: &impl Tables, id: TransactionId, transaction: &Transaction) -> Result<u64, Error> {
        let row = tables.get(Table::Index, &Tag::state(transaction.state).row(id))?;
        let at = row.and_then(|row| Some(u64::from_be_bytes(row.strip_prefix(encoding::INDEX_KEPT)?.try_into().ok()?)));
        Ok(at.unwrap_or(self.time.age_began))
    }
}

/// The rows of the end of the process before, when an operator says that the log has stood still since until now: what went by
/// then is as old as that. `time` is the log's time when it was last noted, with at most a few minutes of running behind it.
pub(super) fn before_standstill(time: &LogTime, now: UnixMillis, highest: TransactionId) -> Result<Vec<Change>, Error> {
    const UNNOTED_MS: u64 = 600_000;
    let end = time.age.saturating_add(UNNOTED_MS);
    if end.saturating_add(1) >= now.0 {
        return Ok(vec![]);
    }
    // What finishes after this start is late. So all that isn't had finished by then.
    let pass = Pass { highest, wall: time.wall_at(end) };
    Ok(vec![put(pass_key(end), &pass)?, put(pass_key(end + 1), &pass)?])
}

/// Whether something has finished that goes by a range, above one id and up to another.
fn has_between(tables: &impl Tables, above: TransactionId, upto: TransactionId) -> Result<bool, Error> {
    let mut found = false;
    tables.scan(Table::History, &encoding::history_key(after(above)), &mut |key, _| {
        let id = encoding::history_of_key(key).map_err(Error::unreadable(Table::History, key))?;
        found = id <= upto;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

fn after(id: TransactionId) -> TransactionId {
    TransactionId::from_uuid(Uuid::from_u128(id.uuid().as_u128().saturating_add(1)))
}

/// When a pass was, by the wall clock. Where what that said then can't be believed by now, it is reckoned back from the
/// present.
fn moment(now: u64, wall: UnixMillis, at: u64, wall_then: UnixMillis) -> UnixMillis {
    let ago = now.saturating_sub(at);
    // The log's time goes at most twice as fast as a clock.
    if wall_then.0 <= wall.0.saturating_sub(ago / 2) { wall_then } else { UnixMillis(wall.0.saturating_sub(ago)) }
}

fn ms(keep: Duration) -> u64 {
    u64::try_from(keep.as_millis()).unwrap_or(u64::MAX)
}

fn put(key: Vec<u8>, value: &impl Serialize) -> Result<Change, Error> {
    let value = encoding::encode(value).map_err(|error| Error::Misuse(error.to_string()))?;
    Ok(Change::Put(Table::Meta, key, value))
}

fn pass_key(at: u64) -> Vec<u8> {
    [encoding::PASSES, &at.to_be_bytes()].concat()
}

fn passes(tables: &impl Tables) -> Result<Vec<(u64, Pass)>, Error> {
    let mut passes = vec![];
    tables.scan(Table::Meta, encoding::PASSES, &mut |key, value| {
        let Some(at) = key.strip_prefix(encoding::PASSES) else { return Ok(ControlFlow::Break(())) };
        let unreadable = || Error::unreadable(Table::Meta, key);
        let at = encoding::outcome_of_key(at).map_err(unreadable())?;
        passes.push((at, encoding::decode(value).map_err(unreadable())?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(passes)
}

/// Drops the forced records before the last checkpoint that is old enough, and not after a decision that is still being
/// told. When a checkpoint was first seen as the last is kept in `meta`, by the log's time.
fn drop_forced_records(tables: &impl Tables, expired: u64, now: u64, changes: &mut Vec<Change>) -> Result<(), Error> {
    let mut seen: Vec<(u64, UnixMillis)> = vec![];
    tables.scan(Table::Meta, encoding::CHECKPOINTS, &mut |key, value| {
        if let Some(number) = key.strip_prefix(encoding::CHECKPOINTS) {
            let unreadable = || Error::unreadable(Table::Meta, key);
            let number = encoding::outcome_of_key(number).map_err(unreadable())?;
            seen.push((number, encoding::decode(value).map_err(unreadable())?));
            return Ok(ControlFlow::Continue(()));
        }
        Ok(ControlFlow::Break(()))
    })?;
    let key_of = |number| [encoding::CHECKPOINTS, &encoding::outcome_key(number)].concat();
    let last: Option<u64> = recovery::meta(tables, encoding::CHECKPOINT)?;
    if let Some(number) = last.filter(|number| seen.last().is_none_or(|(known, _)| known < number)) {
        changes.push(put(key_of(number), &UnixMillis(now))?);
    }
    let mut needed = u64::MAX;
    tables.scan(Table::Live, &[], &mut |key, value| {
        let number = format::number_of_live_row(value).map_err(Error::unreadable(Table::Live, key))?;
        if number > 0 {
            needed = needed.min(number);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let old = seen.iter().filter(|(number, at)| at.0 < expired && *number <= needed).map(|(number, _)| *number).max();
    if let Some(old) = old {
        changes.push(Change::DeleteRange(Table::Outcomes, vec![], encoding::outcome_key(old)));
        changes.push(Change::DeleteRange(Table::Meta, encoding::CHECKPOINTS.to_vec(), key_of(old)));
    }
    Ok(())
}
