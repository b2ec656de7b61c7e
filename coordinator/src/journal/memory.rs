//! The log in memory, for tests and simulations: it can be killed, and lose its power, at any moment.
//!
//! Always true: what was appended, what was written and what was synced are kept apart, and nothing moves from one to
//! the next but by a call; there is no thread, no clock and no chance in it. What is written here has the same form as
//! on disk, and is had back by the same recovery.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use unanimous_sdk::protocol::{CoordinatorId, TransactionId, UnixMillis};

use super::{
    Entry, Error, Find, Journal, Lsn, Progress, Recovered,
    chain::Tip,
    encoding::{Change, Table},
    index,
    ledger::Ledger,
    recovery::{self, Each, From, Identity, Tables},
};
use crate::transaction::Transaction;

/// What a loss of power takes of that which was written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    Whole,
    /// All but its first entries, so many.
    Tail(usize),
}

/// The log in memory.
#[derive(Debug)]
pub struct Memory(Mutex<State>);

#[derive(Debug)]
struct State {
    identity: Identity,
    /// What the disk has.
    disk: Rows,
    /// What the kernel has: the disk's, and `unsynced` on top.
    kernel: Rows,
    /// The changes of each entry that was written and not synced.
    unsynced: Vec<Vec<Change>>,
    appended: VecDeque<Entry>,
    /// Whether what is unsynced holds a forced entry.
    force: bool,
    ledger: Ledger,
    mark: Tip,
    progress: Progress,
    ended: bool,
    forced_writes: u64,
}

#[derive(Clone, Debug, Default)]
struct Rows(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Memory {
    /// A new, empty log.
    pub fn create(coordinator: CoordinatorId, now: UnixMillis, random: u128) -> Result<(Self, Recovered), Error> {
        let mut disk = Rows::default();
        disk.change(recovery::create(coordinator)?);
        Self::open(Identity { coordinator, created_at: now }, disk, Tip::genesis(coordinator), now, random)
    }

    fn open(
        identity: Identity,
        mut disk: Rows,
        mark: Tip,
        now: UnixMillis,
        random: u128,
    ) -> Result<(Self, Recovered), Error> {
        let found = recovery::read(&disk, identity.coordinator, mark, From::Checkpoint)?;
        let (changes, ledger, recovered) = found.open(identity, now, random)?;
        disk.change(changes);
        let state = State {
            identity,
            kernel: disk.clone(),
            disk,
            unsynced: Vec::new(),
            appended: VecDeque::new(),
            force: false,
            mark: ledger.tip,
            ledger,
            progress: Progress::default(),
            ended: false,
            forced_writes: 0,
        };
        Ok((Self(Mutex::new(state)), recovered))
    }

    /// Writes the next appended entry, if there is one.
    pub fn write_one(&self) -> Result<Progress, Error> {
        self.lock().write(1)
    }

    /// Writes all that was appended.
    pub fn write_all(&self) -> Result<Progress, Error> {
        self.lock().write(usize::MAX)
    }

    /// Makes durable what was written.
    pub fn sync(&self) -> Progress {
        self.lock().sync()
    }

    /// What the log's own thread does on disk: writes all that was appended, and syncs if it holds a forced entry.
    pub fn pump(&self) -> Result<Progress, Error> {
        let mut state = self.lock();
        let written = state.write(usize::MAX)?;
        Ok(if state.force { state.sync() } else { written })
    }

    /// How many entries were appended and not written.
    pub fn waiting(&self) -> usize {
        self.lock().appended.len()
    }

    /// How many entries were written and not synced: what [`Loss::Tail`] may leave.
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// How many syncs there were.
    pub fn forced_writes(&self) -> u64 {
        self.lock().forced_writes
    }

    /// The process dies, and a new one opens the log: what was written is there, what was only appended is not.
    pub fn kill(&self, now: UnixMillis, random: u128) -> Result<(Self, Recovered), Error> {
        self.power_cut(Loss::Tail(usize::MAX), now, random)
    }

    /// The power goes, and a new process opens the log.
    pub fn power_cut(&self, loss: Loss, now: UnixMillis, random: u128) -> Result<(Self, Recovered), Error> {
        let mut state = self.lock();
        state.ended = true;
        let kept = match loss {
            Loss::Whole => 0,
            Loss::Tail(kept) => kept,
        };
        let mut disk = state.disk.clone();
        for changes in state.unsynced.iter().take(kept) {
            disk.change(changes.iter().cloned());
        }
        Self::open(state.identity, disk, state.mark, now, random)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, most: usize) -> Result<Progress, Error> {
        if self.ended {
            return Err(Error::Ended);
        }
        let count = most.min(self.appended.len());
        for entry in self.appended.drain(..count) {
            let changes = self.ledger.enter_all(std::slice::from_ref(&entry))?;
            self.kernel.change(changes.iter().cloned());
            self.unsynced.push(changes);
            self.force |= entry.is_forced();
            self.progress.written.0 += 1;
        }
        Ok(self.progress)
    }

    fn sync(&mut self) -> Progress {
        if !self.ended {
            for changes in self.unsynced.drain(..) {
                self.disk.change(changes);
            }
            self.force = false;
            self.mark = self.ledger.tip;
            self.forced_writes += 1;
            self.progress.durable = self.progress.written;
        }
        self.progress
    }
}

impl Journal for Memory {
    fn append(&self, first: Lsn, entries: Vec<Entry>) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        let expected = state.progress.written.0 + state.appended.len() as u64 + 1;
        assert_eq!(first, Lsn(expected), "entries are appended with consecutive numbers");
        state.appended.extend(entries);
    }

    /// When something is written is up to whoever holds it.
    fn hurry(&self) {}

    fn finished(&self, id: TransactionId) -> Result<Option<Transaction>, Error> {
        index::finished(&self.lock().kernel, id)
    }

    fn find(
        &self,
        find: &Find,
        each: &mut dyn FnMut(TransactionId, Transaction) -> bool,
    ) -> Result<Option<TransactionId>, Error> {
        let kernel = self.lock().kernel.clone();
        index::find(&kernel, find, each)
    }

    fn confirm_ownership(&self) -> Result<(), Error> {
        if self.lock().ended { Err(Error::Ended) } else { Ok(()) }
    }

    fn close(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if state.ended {
            return Ok(());
        }
        state.write(usize::MAX)?;
        let mut changes = Vec::new();
        state.ledger.checkpoint(&mut changes)?;
        state.kernel.change(changes.iter().cloned());
        state.unsynced.push(changes);
        state.sync();
        state.ended = true;
        Ok(())
    }
}

impl Rows {
    fn change(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Put(table, key, value) => self.0.insert((table, key), value),
                Change::Delete(table, key) => self.0.remove(&(table, key)),
                Change::DeleteRange(table, from, below) => {
                    self.0.retain(|(of, key), _| *of != table || *key < from || *key >= below);
                    None
                }
            };
        }
    }
}

impl Tables for Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(&(table, key.to_vec())).cloned())
    }

    fn last(&self, table: Table, upto: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let last = self.0.range(..=(table, upto.to_vec())).next_back();
        Ok(last.filter(|((of, _), _)| *of == table).map(|((_, key), _)| key.clone()))
    }

    fn scan(&self, table: Table, from: &[u8], each: &mut Each<'_>) -> Result<(), Error> {
        let rows = self.0.range((table, from.to_vec())..).take_while(|((of, _), _)| *of == table);
        for ((_, key), value) in rows {
            if each(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}
