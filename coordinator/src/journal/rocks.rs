//! The log on `RocksDB`.
//!
//! Always true: nothing is appended before the log was verified, whole, on a read-only view of it: a refusal changes
//! nothing on disk. What was read is durable before the new epoch is, and that before anything is returned.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use unanimous_sdk::protocol::{CoordinatorId, TransactionId, UnixMillis};

use super::{
    Entry, Error, Find, Journal, Lsn, OnFatal, OnProgress, Recovered,
    database::Database,
    encoding::Change,
    folder::Folder,
    index,
    ledger::Ledger,
    mark::Mark,
    recovery::{self, From},
    retention::{self, Retention},
    space,
    writer::{Queue, Stats, Writer},
};
use crate::transaction::Transaction;

/// The log on `RocksDB`, open and running. Dropping it without [`Journal::close`] is as if the process were killed.
pub struct RocksDb {
    database: Arc<Database>,
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<Result<(), Error>>>>,
    retention: Mutex<Retention>,
    /// Last, so that it is unlocked last.
    _folder: Arc<Folder>,
}

/// A log that is open and takes nothing yet: [`start`](Opened::start) it.
pub struct Opened {
    database: Arc<Database>,
    mark: Mark,
    ledger: Ledger,
    /// Last, so that it is unlocked last.
    folder: Arc<Folder>,
}

/// A log that was read and verified, and nothing in it changed yet: [`open`](Verified::open) it.
pub struct Verified {
    dir: PathBuf,
    /// The new epoch's.
    changes: Vec<Change>,
    ledger: Ledger,
    folder: Folder,
}

/// What [`verify`] has walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose log it is.
    pub coordinator: CoordinatorId,
    /// How many forced records it has, all of which are chained and sound.
    pub forced_records: u64,
    /// The sequence of the last decision.
    pub sequence: u64,
    /// How many transactions aren't finished.
    pub live: usize,
}

/// Opens the log in this folder, verifies it, and mints the epoch. An empty or missing folder becomes a new log.
///
/// `random` gives fresh random bits each time it is called.
pub fn open(dir: &Path, now: UnixMillis, random: impl FnMut() -> u128) -> Result<(Opened, Recovered), Error> {
    let (verified, recovered) = verified(dir, now, random)?;
    Ok((verified.open()?, recovered))
}

/// The first half of [`open`], which reads and verifies. What was recovered may be got ready meanwhile, but it isn't in
/// force before [`Verified::open`] has returned.
pub fn verified(dir: &Path, now: UnixMillis, mut random: impl FnMut() -> u128) -> Result<(Verified, Recovered), Error> {
    let folder = Folder::open(dir, now, random(), Database::create)?;
    let found = read(&folder, From::Checkpoint)?;
    let (changes, ledger, recovered) = found.open(folder.identity, now, random())?;
    Ok((Verified { dir: dir.to_owned(), changes, ledger, folder }, recovered))
}

impl Verified {
    /// The second half: makes durable what was read, and then the new epoch.
    pub fn open(self) -> Result<Opened, Error> {
        let Self { dir, changes, ledger, folder } = self;
        space::make_way(&dir)?;
        let database = Database::open(&folder.database())?;
        database.write(&changes, true)?;
        let mark = Mark::open(&folder.mark(), folder.identity.coordinator)?;
        // Synced here, once: from now on a log without forced records can't be taken for this one.
        mark.write(ledger.tip).and_then(|()| mark.sync()).map_err(Error::io("write", folder.mark()))?;
        Ok(Opened { database: Arc::new(database), mark, ledger, folder: Arc::new(folder) })
    }
}

/// Walks the whole chain of the log in this folder, from its first record, and changes nothing. The log must not be open.
pub fn verify(dir: &Path) -> Result<Report, Error> {
    let folder = Folder::open_existing(dir)?;
    let found = read(&folder, From::Beginning)?;
    Ok(Report {
        coordinator: folder.identity.coordinator,
        forced_records: found.ledger.tip.number,
        sequence: found.ledger.sequence,
        live: found.live.len(),
    })
}

fn read(folder: &Folder, from: From) -> Result<recovery::Found, Error> {
    let mark = Mark::read(&folder.mark(), folder.identity.coordinator)?;
    recovery::read(&Database::open_to_read(&folder.database())?, folder.identity.coordinator, mark, from)
}

impl Opened {
    /// Starts the writer. `on_progress` is called from its thread; `on_fatal` at most once, when a write, a sync or the
    /// mark has failed: it must end the process, and until then nothing more is written or reported.
    pub fn start(self, on_progress: OnProgress, on_fatal: OnFatal) -> Result<RocksDb, Error> {
        let queue = Arc::new(Queue::default());
        let writer = Writer {
            database: self.database.clone(),
            mark: self.mark,
            ledger: self.ledger,
            queue: queue.clone(),
            on_progress,
            on_fatal,
            folder: self.folder.clone(),
        };
        let thread = thread::Builder::new().name("log".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(Error::io("start a thread that writes", self.folder.database()))?;
        let retention = Mutex::new(Retention::default());
        Ok(RocksDb {
            database: self.database,
            queue,
            writer: Mutex::new(Some(thread)),
            retention,
            _folder: self.folder,
        })
    }
}

impl Opened {
    /// How long finished transactions will be kept: what ends late by that measure is kept apart.
    #[must_use]
    pub fn keeping(mut self, keep: Duration) -> Self {
        self.ledger.late_ms = retention::late_ms(keep);
        self
    }
}

impl RocksDb {
    /// Drops what finished longer ago than `keep`. Before anything goes, `before` hears from which time on everything
    /// will still be there. What was left to an operator stays. May take long.
    pub fn retain(&self, keep: Duration, now: UnixMillis, before: impl FnOnce(UnixMillis)) -> Result<(), Error> {
        let mut retention = self.retention.lock().unwrap_or_else(PoisonError::into_inner);
        retention.pass(&self.database, keep, now, before)
    }

    /// What writing has cost so far.
    pub fn stats(&self) -> Stats {
        self.queue.stats()
    }
}

impl Journal for RocksDb {
    fn append(&self, first: Lsn, entries: Vec<Entry>) {
        self.queue.append(first, entries);
    }

    fn hurry(&self) {
        self.queue.hurry();
    }

    fn finished(&self, id: TransactionId) -> Result<Option<Transaction>, Error> {
        index::finished(&*self.database, id)
    }

    fn find(
        &self,
        find: &Find,
        each: &mut dyn FnMut(TransactionId, Transaction) -> bool,
    ) -> Result<Option<TransactionId>, Error> {
        index::find(&*self.database, find, each)
    }

    fn confirm_ownership(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        self.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        match writer.map(JoinHandle::join) {
            None => Ok(()),
            Some(ended) => ended.unwrap_or(Err(Error::Ended)),
        }
    }
}

impl Drop for RocksDb {
    fn drop(&mut self) {
        self.queue.abandon();
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by a callback, on the writer's own thread.
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != thread::current().id()) {
            let _ = writer.join();
        }
    }
}
