//! What an opened log holds, verified. Pure but for the reading; shared by every journal.
//!
//! Always true: what is returned here was read, whole, from records whose chain holds and reaches the mark.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc};

use unanimous_sdk::protocol::{CoordinatorId, Epoch, ParticipantUrl, TransactionId, UnixMillis};

use super::{
    Error, Opening, Recovered,
    chain::{Forced, Link, Tip},
    clock::{LogClock, LogTime},
    encoding::{self, Change, Table},
    format,
    ledger::Ledger,
    live,
    retention::{self, Ages, Retention},
};
use crate::{
    transaction::Transaction,
    uuid7::{millis, next_uuid_v7},
};

/// Takes one row, and says whether it wants another.
pub(super) type Each<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Error> + 'a;

/// The log's tables, to be read.
pub(super) trait Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// The last key that is not above this one.
    fn last(&self, table: Table, upto: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Gives `each` the rows from this key on, in the order of their keys, until it wants no more.
    fn scan(&self, table: Table, from: &[u8], each: &mut Each<'_>) -> Result<(), Error>;
}

/// From where the chain is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Checkpoint,
    Beginning,
}

/// What the tables hold.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) ledger: Ledger,
    epochs: BTreeSet<Epoch>,
    superseded: Option<Epoch>,
    retained: UnixMillis,
    forgotten: Option<TransactionId>,
    time: Option<LogTime>,
    /// The folder's place was recorded.
    pub(super) placed: bool,
    /// The log ends with the record of a clean stop.
    pub(super) closed: bool,
    suspects: Vec<ParticipantUrl>,
    pub(super) live: Vec<(TransactionId, Transaction)>,
}

/// Who the log says it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) coordinator: CoordinatorId,
    pub(super) created_at: UnixMillis,
}

/// The changes that make empty tables those of a log.
pub(super) fn create(coordinator: CoordinatorId) -> Result<Vec<Change>, Error> {
    let value = encoding::encode(&coordinator).map_err(|error| Error::Misuse(error.to_string()))?;
    Ok(vec![Change::Put(Table::Meta, encoding::COORDINATOR.to_vec(), value)])
}

/// Reads and verifies everything that start needs; `mark` is how far the log must reach.
pub(super) fn read(
    tables: &(impl Tables + Sync),
    coordinator: CoordinatorId,
    mark: Tip,
    from: From,
) -> Result<Found, Error> {
    if meta::<CoordinatorId>(tables, encoding::COORDINATOR)? != Some(coordinator) {
        return Err(Error::DatabaseOfAnother { expected: coordinator });
    }
    let (tip, sequence, unverified) = chain(tables, coordinator, from)?;
    if tip.number < mark.number {
        return Err(Error::MarkAhead { mark: mark.number, end: tip.number });
    }
    // A mark may lag, after a loss of power; what is before the last checkpoint may have been dropped meanwhile.
    let checkpoint = last_checkpoint(tables)?.map_or(0, |(checkpoint, _)| checkpoint.number);
    if mark.number >= checkpoint && tip_at(tables, coordinator, mark.number)? != Some(mark) {
        return Err(Error::MarkDiffers { number: mark.number });
    }
    let highest = meta(tables, encoding::HIGHEST)?.unwrap_or(TransactionId::NIL);
    let skew = meta(tables, encoding::SKEW)?.unwrap_or_default();
    Ok(Found {
        // (The log's own time is known when it is opened.)
        ledger: Ledger { tip, sequence, highest, unverified, ages: Arc::new(Ages::new(highest, 0)), skew },
        epochs: epochs(tables)?,
        superseded: meta(tables, encoding::SUPERSEDED)?,
        retained: meta(tables, encoding::RETAINED)?.unwrap_or_default(),
        forgotten: meta(tables, encoding::FORGOTTEN)?,
        time: meta(tables, encoding::TIME)?,
        placed: meta::<()>(tables, encoding::PLACED)?.is_some(),
        closed: meta(tables, encoding::CLOSED)? == Some(tip.number),
        suspects: suspects(tables)?,
        live: live::read(tables)?,
    })
}

impl Found {
    /// Mints the next epoch.
    pub(super) fn open(mut self, identity: Identity, opening: Opening, random: u128) -> Result<OpenedTables, Error> {
        let own = self.epochs.last().copied().map(Epoch::uuid).unwrap_or_default().max(self.ledger.highest.uuid());
        let newest = (!own.is_nil()).then(|| millis(own));
        let mut time = self.time.unwrap_or_else(|| LogTime::begin(newest, opening.now));
        let highest = self.ledger.highest;
        let mut changes = vec![];
        if opening.accept_clock {
            if self.time.is_some() {
                changes.extend(retention::before_standstill(&time, opening.now, highest)?);
            }
            time.accept(opening.now);
        }
        let clock = LogClock::new(time.id);
        let after = own.max(self.superseded.map(Epoch::uuid).unwrap_or_default());
        let epoch = Epoch::from_uuid(next_uuid_v7(after, clock.id_ms(opening.now, 0), random));
        self.ledger.ages = Arc::new(Ages::new(highest, time.age));
        changes.push(put(encoding::TIME, &time)?);
        let forgotten = self.forgotten.unwrap_or_else(|| {
            // Earlier releases didn't keep it. What they had dropped was begun before this time.
            if self.retained > identity.created_at { highest } else { TransactionId::NIL }
        });
        if self.forgotten.is_none() {
            changes.push(put(encoding::FORGOTTEN, &forgotten)?);
        }
        self.ledger.open(epoch, &mut changes)?;
        self.epochs.insert(epoch);
        let recovered = Recovered {
            coordinator: identity.coordinator,
            epoch,
            epochs: self.epochs,
            created_at: identity.created_at,
            retained_since: self.retained.max(identity.created_at),
            highest,
            forgotten,
            clock,
            skew: self.ledger.skew,
            suspects: self.suspects,
            sequence: self.ledger.sequence,
            live: self.live,
        };
        let retention = Retention::new(time, Arc::clone(&self.ledger.ages), highest);
        Ok(OpenedTables { changes, ledger: self.ledger, retention, recovered })
    }
}

/// What is to be gone on with when [`Found`] is opened.
pub(super) struct OpenedTables {
    /// To be made durable before the rest is believed.
    pub(super) changes: Vec<Change>,
    pub(super) ledger: Ledger,
    pub(super) retention: Retention,
    pub(super) recovered: Recovered,
}

fn put(key: &[u8], value: &impl serde::Serialize) -> Result<Change, Error> {
    let value = encoding::encode(value).map_err(|error| Error::Misuse(error.to_string()))?;
    Ok(Change::Put(Table::Meta, key.to_vec(), value))
}

/// Walks the forced records: the last of them, the last decision's sequence, and how many were walked.
fn chain(tables: &impl Tables, coordinator: CoordinatorId, from: From) -> Result<(Tip, u64, u64), Error> {
    let (mut tip, mut sequence) = match from {
        From::Checkpoint => last_checkpoint(tables)?.unwrap_or((Tip::genesis(coordinator), 0)),
        From::Beginning => first_kept(tables)?.unwrap_or((Tip::genesis(coordinator), 0)),
    };
    let mut walked = 0;
    let first = tip.number.saturating_add(1);
    tables.scan(Table::Outcomes, &encoding::outcome_key(first), &mut |key, value| {
        let number = encoding::outcome_of_key(key).map_err(Error::unreadable(Table::Outcomes, key))?;
        let missing = tip.number.saturating_add(1);
        if number != missing {
            return Err(Error::Gap { missing, next: number });
        }
        let (link, content) = format::read_outcome_row(value).map_err(Error::unreadable(Table::Outcomes, key))?;
        tip = tip.next(&content);
        if link.chain != tip.chain {
            return Err(Error::Chain { number });
        }
        let given = match link.forced {
            Forced::Decided { sequence: given, .. } => given.map(|found| (found, sequence.saturating_add(1))),
            Forced::Checkpoint { sequence: found } => Some((found, sequence)),
            Forced::Opened { .. } | Forced::Superseded { .. } => None,
        };
        if let Some((found, expected)) = given {
            if found != expected {
                return Err(Error::Sequence { number, found, expected });
            }
            sequence = found;
        }
        walked += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((tip, sequence, walked))
}

/// The checkpoint from which on the forced records are kept, if those before it were dropped.
fn first_kept(tables: &impl Tables) -> Result<Option<(Tip, u64)>, Error> {
    let mut first = None;
    tables.scan(Table::Outcomes, &[], &mut |key, _| {
        first = Some(encoding::outcome_of_key(key).map_err(Error::unreadable(Table::Outcomes, key))?);
        Ok(ControlFlow::Break(()))
    })?;
    match first {
        None | Some(1) => Ok(None),
        Some(number) => checkpoint_at(tables, number).map(Some),
    }
}

fn last_checkpoint(tables: &impl Tables) -> Result<Option<(Tip, u64)>, Error> {
    let number = meta(tables, encoding::CHECKPOINT)?;
    number.map(|number| checkpoint_at(tables, number)).transpose()
}

fn checkpoint_at(tables: &impl Tables, number: u64) -> Result<(Tip, u64), Error> {
    match link(tables, number)? {
        Some(Link { forced: Forced::Checkpoint { sequence }, chain }) => Ok((Tip { number, chain }, sequence)),
        Some(_) => Err(Error::Chain { number }),
        None => Err(Error::Gap { missing: number, next: number.saturating_add(1) }),
    }
}

fn tip_at(tables: &impl Tables, coordinator: CoordinatorId, number: u64) -> Result<Option<Tip>, Error> {
    if number == 0 {
        return Ok(Some(Tip::genesis(coordinator)));
    }
    Ok(link(tables, number)?.map(|link| Tip { number, chain: link.chain }))
}

fn link(tables: &impl Tables, number: u64) -> Result<Option<Link>, Error> {
    let key = encoding::outcome_key(number);
    let value = tables.get(Table::Outcomes, &key)?;
    let read = |value: Vec<u8>| format::read_outcome_row(&value).map(|(link, _)| link);
    value.map(|value| read(value).map_err(Error::unreadable(Table::Outcomes, &key))).transpose()
}

pub(super) fn meta<T: serde::de::DeserializeOwned>(tables: &impl Tables, key: &[u8]) -> Result<Option<T>, Error> {
    let value = tables.get(Table::Meta, key)?;
    value.map(|value| encoding::decode(&value).map_err(Error::unreadable(Table::Meta, key))).transpose()
}

fn suspects(tables: &impl Tables) -> Result<Vec<ParticipantUrl>, Error> {
    let mut suspects = vec![];
    tables.scan(Table::Meta, encoding::SUSPECTS, &mut |key, _| {
        if !key.starts_with(encoding::SUSPECTS) {
            return Ok(ControlFlow::Break(()));
        }
        suspects.push(encoding::suspect_of_key(key).map_err(Error::unreadable(Table::Meta, key))?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(suspects)
}

fn epochs(tables: &impl Tables) -> Result<BTreeSet<Epoch>, Error> {
    let mut epochs = BTreeSet::new();
    tables.scan(Table::Meta, encoding::EPOCHS, &mut |key, _| {
        if !key.starts_with(encoding::EPOCHS) {
            return Ok(ControlFlow::Break(()));
        }
        epochs.insert(encoding::epoch_of_key(key).map_err(Error::unreadable(Table::Meta, key))?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(epochs)
}
