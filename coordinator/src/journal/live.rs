//! The transactions that are not finished, read when the log is opened: in parts, each of which a thread decodes and verifies.
//!
//! Always true: a transaction's records are in one part, and their indices have no gaps; each decision among them is the one
//! in the chain. Of several faults the one with the lowest key is told.

use std::{collections::VecDeque, num::NonZero, ops::ControlFlow, panic::resume_unwind, thread};

use unanimous_sdk::protocol::TransactionId;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    Error,
    chain::Forced,
    encoding::{self, Table},
    format,
    recovery::Tables,
};
use crate::transaction::{Record, Transaction};

/// About so many rows are a part: a thread for fewer costs more than it saves.
const PART: usize = 4096;

/// So many forced records are passed over before the next decision is looked for by its number.
const MOST_PASSED: usize = 64;

type Read = Result<Vec<(TransactionId, Transaction)>, Error>;

/// Some rows, one after the other: whose, the place, and where the value ends.
#[derive(Default)]
struct Part {
    rows: Vec<(TransactionId, u32, usize)>,
    values: Vec<u8>,
}

/// A decision that must be in the chain: its number there, whose it is, and its digest.
type Wanted = (u64, TransactionId, u128);

/// All of them, in order of their ids.
pub(super) fn read(tables: &(impl Tables + Sync)) -> Read {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        // In order of their keys; what ended the scan comes last.
        let mut parts: Vec<Read> = Vec::new();
        let mut reading = VecDeque::with_capacity(threads);
        let mut part = Part::default();
        let join = |reading: thread::ScopedJoinHandle<'_, Read>| reading.join().unwrap_or_else(|it| resume_unwind(it));
        let scanned = tables.scan(Table::Live, &[], &mut |key, value| {
            let (id, index) = encoding::live_of_key(key).map_err(Error::unreadable(Table::Live, key))?;
            if part.rows.len() >= PART && part.rows.last().is_some_and(|(last, ..)| *last != id) {
                if reading.len() >= threads {
                    parts.extend(reading.pop_front().map(join));
                }
                let full = std::mem::take(&mut part);
                reading.push_back(scope.spawn(move || full.read(tables)));
            }
            part.values.extend_from_slice(value);
            part.rows.push((id, index, part.values.len()));
            Ok(ControlFlow::Continue(()))
        });
        parts.extend(reading.into_iter().map(join));
        parts.push(part.read(tables));
        parts.push(scanned.map(|()| Vec::new()));
        let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(parts.into_iter().flatten().collect())
    })
}

impl Part {
    fn read(self, tables: &impl Tables) -> Read {
        let mut all = Vec::new();
        let mut wanted = Vec::new();
        let mut records: Vec<Record> = Vec::new();
        let mut from = 0;
        for (at, (id, index, end)) in self.rows.iter().enumerate() {
            let value = &self.values[from..*end];
            from = *end;
            let read = format::read_live_row(value);
            let (number, record) = read.map_err(Error::unreadable(Table::Live, &encoding::live_key(*id, *index)))?;
            if record.is_forced() {
                wanted.push((number, *id, xxh3_128(value)));
            }
            let before = records.len();
            if before != *index as usize {
                let why = format!("its record {before} is missing, and {index} is there");
                return Err(Error::Transaction { id: *id, why });
            }
            records.push(record);
            if self.rows.get(at + 1).is_none_or(|(next, ..)| next != id) {
                let replayed = Transaction::replay(std::mem::take(&mut records));
                let broken = |why: &dyn std::fmt::Display| Error::Transaction { id: *id, why: why.to_string() };
                all.push((*id, replayed.map_err(|why| broken(&why))?));
            }
        }
        match_decisions(tables, wanted)?;
        Ok(all)
    }
}

/// A decision among the live records must be the one in the chain. They lie close together there, as they were made.
fn match_decisions(tables: &impl Tables, mut wanted: Vec<Wanted>) -> Result<(), Error> {
    wanted.sort_unstable();
    let differs = |(number, id, _): Wanted| Error::Transaction {
        id,
        why: format!("its decision is not that of forced record {number}"),
    };
    let mut wanted = wanted.into_iter().peekable();
    while let Some(first) = wanted.peek().copied() {
        let mut passed = 0;
        tables.scan(Table::Outcomes, &encoding::outcome_key(first.0), &mut |key, value| {
            let number = encoding::outcome_of_key(key).map_err(Error::unreadable(Table::Outcomes, key))?;
            let Some(next) = wanted.peek().copied() else { return Ok(ControlFlow::Break(())) };
            if number < next.0 {
                passed += 1;
                return Ok(if passed > MOST_PASSED { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
            }
            let (link, _) = format::read_outcome_row(value).map_err(Error::unreadable(Table::Outcomes, key))?;
            match link.forced {
                Forced::Decided { id, digest, .. } if (number, id, digest) == next => {}
                _ => return Err(differs(next)),
            }
            wanted.next();
            passed = 0;
            Ok(if wanted.peek().is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        // The forced records have ended before it.
        if passed <= MOST_PASSED
            && let Some(next) = wanted.peek()
        {
            return Err(differs(*next));
        }
    }
    Ok(())
}
