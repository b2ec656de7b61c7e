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
    Entry, Error, Find, Journal, Lsn, OnFatal, OnProgress, Opening, Plausibility, Reading, Recovered,
    database::Database,
    encoding::{self, Change, Table},
    folder::Folder,
    guard::{Fatal, Guard, Lookout},
    index,
    ledger::Ledger,
    mark::Mark,
    place::{self, Place},
    recovery::{self, From, OpenedTables},
    retention::Retention,
    space,
    writer::{Queue, Stats, Writer},
};
use crate::transaction::Transaction;

/// The log on `RocksDB`, open and running. Dropping it without [`Journal::close`] is as if the process were killed.
pub struct RocksDb {
    database: Arc<Database>,
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<Result<(), Error>>>>,
    guard: Arc<Guard>,
    lookout: Mutex<Option<Lookout>>,
    retention: Mutex<Retention>,
    /// Last, so that it is unlocked last.
    _folder: Arc<Folder>,
}

/// A log that is open and takes nothing yet: [`start`](Opened::start) it.
pub struct Opened {
    database: Arc<Database>,
    guard: Guard,
    ledger: Ledger,
    retention: Retention,
    /// Last, so that it is unlocked last.
    folder: Arc<Folder>,
}

/// A log that was read and verified, and nothing in it changed yet: [`open`](Verified::open) it.
pub struct Verified {
    dir: PathBuf,
    /// The new epoch's.
    changes: Vec<Change>,
    ledger: Ledger,
    retention: Retention,
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
pub fn open(
    dir: &Path,
    opening: impl Into<Opening>,
    random: impl FnMut() -> u128,
) -> Result<(Opened, Recovered), Error> {
    let (verified, recovered) = verified(dir, opening, random)?;
    Ok((verified.open()?, recovered))
}

/// The first half of [`open`], which reads and verifies. What was recovered may be got ready meanwhile, but it isn't in
/// force before [`Verified::open`] has returned.
pub fn verified(
    dir: &Path,
    opening: impl Into<Opening>,
    mut random: impl FnMut() -> u128,
) -> Result<(Verified, Recovered), Error> {
    let opening = opening.into();
    if opening.moved && !dir.join("log").exists() {
        return Err(Error::NotMoved { path: dir.to_owned() });
    }
    let folder = Folder::open(dir, opening.now, random(), Database::create)?;
    // Before the tables are read: a copy that was made while the log was written may well be unreadable.
    let place = folder.place()?;
    refuse_copy(&folder, place, opening.moved)?;
    let found = read(&folder, From::Checkpoint)?;
    refuse_unplaced(&folder, place, &found, opening.moved)?;
    let OpenedTables { mut changes, ledger, retention, recovered } = found.open(folder.identity, opening, random())?;
    let placed = encoding::encode(&()).map_err(|error| Error::Misuse(error.to_string()))?;
    changes.push(Change::Put(Table::Meta, encoding::PLACED.to_vec(), placed));
    Ok((Verified { dir: dir.to_owned(), changes, ledger, retention, folder }, recovered))
}

/// Refuses what the folder alone shows not to be at its place.
fn refuse_copy(folder: &Folder, place: Place, moved: bool) -> Result<(), Error> {
    match place {
        Place::Same if moved => Err(Error::NotMoved { path: folder.path().to_owned() }),
        Place::Other if !moved => Err(Error::Copied { path: folder.path().to_owned() }),
        Place::Damaged if !moved => Err(Error::PlaceDamaged { path: place::path(folder.path()) }),
        Place::Same | Place::Other | Place::Damaged | Place::Missing => Ok(()),
    }
}

/// Refuses a folder whose record was removed, and one that was moved without a clean stop.
fn refuse_unplaced(folder: &Folder, place: Place, found: &recovery::Found, moved: bool) -> Result<(), Error> {
    match (place == Place::Missing, found.placed) {
        (true, true) if !moved => Err(Error::PlaceMissing { path: place::path(folder.path()) }),
        (true, false) if moved => Err(Error::NotMoved { path: folder.path().to_owned() }),
        _ if moved && !found.closed => Err(Error::MovedWithoutStop { path: folder.path().to_owned() }),
        _ => Ok(()),
    }
}

/// Records that the log in this data folder is at its place, if a place was ever recorded in it. For a folder that was made
/// of another's files and stands for it, as a snapshot of the file system does. The log must not be open.
pub fn adopt(dir: &Path) -> Result<(), Error> {
    let folder = Folder::open_existing(dir)?;
    match folder.place()? {
        Place::Missing => Ok(()),
        Place::Damaged => Err(Error::PlaceDamaged { path: place::path(folder.path()) }),
        Place::Same | Place::Other => folder.record_place(),
    }
}

impl Verified {
    /// The second half: makes durable what was read, and then the new epoch.
    pub fn open(self) -> Result<Opened, Error> {
        let Self { dir, changes, ledger, retention, folder } = self;
        space::make_way(&dir)?;
        let database = Database::open(&folder.database())?;
        // Before the tables say that it is there.
        folder.record_place()?;
        database.write(&changes, true)?;
        let mark = Mark::open(&folder.mark(), folder.identity.coordinator)?;
        // Synced here, once: from now on a log without forced records can't be taken for this one.
        mark.write(ledger.tip).and_then(|()| mark.sync()).map_err(Error::io("write", folder.mark()))?;
        let guard = Guard::new(&folder, mark, ledger.tip)?;
        Ok(Opened { database: Arc::new(database), guard, ledger, retention, folder: Arc::new(folder) })
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

#[cfg(test)]
impl Opened {
    /// Syncs one record, as the writer does, and does something before it is looked at; nothing else watches the files.
    pub(super) fn sync_one(&mut self, before_the_look: impl FnOnce(&Database)) -> Result<(), Error> {
        let changes = self.ledger.enter_all(&[Entry::Checkpoint])?;
        self.database.write(&changes, true)?;
        before_the_look(&self.database);
        self.guard.synced(self.ledger.tip)
    }
}

impl Opened {
    /// Starts the writer, and the watch over the log's files. `on_progress` is called from the writer's thread; `on_fatal` at
    /// most once, from either, when a write, a sync or the mark has failed, or a file was changed by somebody else: it must
    /// end the process, and until then nothing more is reported durable.
    pub fn start(self, on_progress: OnProgress, on_fatal: OnFatal) -> Result<RocksDb, Error> {
        let queue = Arc::new(Queue::default());
        let (guard, fatal) = (Arc::new(self.guard), Arc::new(Fatal::new(on_fatal)));
        let writer = Writer {
            database: self.database.clone(),
            guard: Arc::clone(&guard),
            ledger: self.ledger,
            queue: queue.clone(),
            on_progress,
            fatal: Arc::clone(&fatal),
            _folder: self.folder.clone(),
        };
        let thread = thread::Builder::new().name("log".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(Error::io("start a thread that writes", self.folder.database()))?;
        let lookout = Lookout::start(Arc::clone(&guard), fatal);
        let lookout = lookout.map_err(Error::io("start a thread that watches", self.folder.database()))?;
        let retention = Mutex::new(self.retention);
        Ok(RocksDb {
            database: self.database,
            queue,
            writer: Mutex::new(Some(thread)),
            guard,
            lookout: Mutex::new(Some(lookout)),
            retention,
            _folder: self.folder,
        })
    }
}

impl RocksDb {
    /// Takes note of the time, and now and then drops what finished longer ago than is to be kept, by the log's own time. To be
    /// called every few seconds. `before` hears, before anything goes, from which time on everything will still be there,
    /// and the highest id that will have gone. Returns whether the wall clock is plausible: as long as it isn't, only
    /// the time for which processes have run makes anything old.
    pub fn retain(
        &self,
        keep: Duration,
        now: Reading,
        before: impl FnOnce(UnixMillis, TransactionId),
    ) -> Result<Plausibility, Error> {
        let mut retention = self.retention.lock().unwrap_or_else(PoisonError::into_inner);
        let due = retention.look(&*self.database, keep, now, before)?;
        self.database.write(&due.changes, false)?;
        self.database.forget_index_upto(due.index_upto);
        if due.compact {
            // (`live` is nothing but deletions after a while, which only this drops.)
            self.database.compact(&[Table::Live, Table::History, Table::Index, Table::Outcomes])?;
        }
        Ok(due.plausibility)
    }

    /// Takes note of the time, before [`Journal::close`]: else what has run since it was last noted counts for nothing.
    pub fn note_time(&self, keep: Duration, now: Reading) -> Result<(), Error> {
        let mut retention = self.retention.lock().unwrap_or_else(PoisonError::into_inner);
        retention.note(keep, now);
        self.database.write(&[retention.kept_time()?], false)
    }

    /// Puts what is in memory into tables, so that the database begins a new file for what is written next.
    #[cfg(test)]
    pub(super) fn begin_new_file(&self) {
        self.database.flush();
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
        self.guard.confirm()
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

impl RocksDb {
    /// Ends as if the process were killed: what waits is not written, and nobody watches over the files any more.
    pub fn abandon(&self) {
        self.queue.abandon();
        if let Some(lookout) = self.lookout.lock().unwrap_or_else(PoisonError::into_inner).take() {
            lookout.stop();
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by a callback, on the writer's own thread.
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != thread::current().id()) {
            let _ = writer.join();
        }
    }
}

impl Drop for RocksDb {
    fn drop(&mut self) {
        self.abandon();
    }
}
