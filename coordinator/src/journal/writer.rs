//! The one writer: group commit.
//!
//! Always true: entries are written in the order they were appended, one batch at a time. Order of a batch: write (and
//! sync if an entry in it is forced), then the guard's look, the mark, and the report. After a failure nothing is written or reported.
//!
//! Lazy entries that nobody waits for wake nobody: they ride with the next batch that somebody waits for, or go after
//! [`PATIENCE`]. A batch for each of them cost more than all else that the log does.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use unanimous_sdk::failpoint;

use super::{
    Entry, Error, Lsn, OnProgress, Progress,
    database::Database,
    folder::Folder,
    guard::{Fatal, Guard},
    ledger::Ledger,
};

/// How long lazy entries that nobody waits for may wait for company.
const PATIENCE: Duration = Duration::from_millis(5);

/// What writing has cost since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches written.
    pub batches: u64,
    /// Entries written.
    pub entries: u64,
    /// Of the batches, the ones that were synced: the forced writes.
    pub forced_writes: u64,
    /// How long the forced writes took, all together.
    pub synced_for: Duration,
}

/// What waits for the writer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    batches: AtomicU64,
    entries: AtomicU64,
    forced_writes: AtomicU64,
    synced_for_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Entry>,
    /// Since when.
    since: Option<Instant>,
    /// Somebody waits for them.
    wanted: bool,
    /// Of the last entry ever appended.
    last: Lsn,
    /// An append that didn't begin where the one before ended.
    misused: Option<(Lsn, Lsn)>,
    closing: bool,
    abandoned: bool,
}

/// What the writer takes at once.
struct Taken {
    entries: Vec<Entry>,
    last: Lsn,
    closing: bool,
}

impl Queue {
    pub(super) fn append(&self, first: Lsn, entries: Vec<Entry>) {
        let mut waiting = self.lock();
        if waiting.closing || waiting.abandoned || entries.is_empty() {
            return;
        }
        let expected = Lsn(waiting.last.0.saturating_add(1));
        if first != expected {
            waiting.misused.get_or_insert((first, expected));
        }
        waiting.last = Lsn(waiting.last.0.saturating_add(entries.len() as u64));
        let forced = entries.iter().any(Entry::is_forced);
        // Who is idle must look at the clock from now on.
        let wake = waiting.entries.is_empty() || (forced && !waiting.wanted);
        waiting.wanted |= forced;
        waiting.since.get_or_insert_with(Instant::now);
        if waiting.entries.is_empty() {
            waiting.entries = entries;
        } else {
            waiting.entries.extend(entries);
        }
        drop(waiting);
        if wake {
            self.wake.notify_one();
        }
    }

    /// What was appended so far is waited for.
    pub(super) fn hurry(&self) {
        let mut waiting = self.lock();
        let wake = !waiting.entries.is_empty() && !waiting.wanted;
        waiting.wanted |= wake;
        drop(waiting);
        if wake {
            self.wake.notify_one();
        }
    }

    /// What waits is still written, and a checkpoint behind it.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// What waits is not written.
    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.wake.notify_one();
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            batches: self.batches.load(Ordering::Relaxed),
            entries: self.entries.load(Ordering::Relaxed),
            forced_writes: self.forced_writes.load(Ordering::Relaxed),
            synced_for: Duration::from_nanos(self.synced_for_ns.load(Ordering::Relaxed)),
        }
    }

    /// Waits for something to do; None when there will be nothing more.
    fn take(&self) -> Result<Option<Taken>, Error> {
        let mut waiting = self.lock();
        while !waiting.wanted && !waiting.closing && !waiting.abandoned {
            waiting = match waiting.since.map(|since| PATIENCE.saturating_sub(since.elapsed())) {
                None => self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(rest) => self.wake.wait_timeout(waiting, rest).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        if let Some((Lsn(first), Lsn(expected))) = waiting.misused {
            return Err(Error::Misuse(format!("entries were appended from number {first} instead of {expected}")));
        }
        (waiting.since, waiting.wanted) = (None, false);
        let taken =
            Taken { entries: std::mem::take(&mut waiting.entries), last: waiting.last, closing: waiting.closing };
        Ok((!waiting.abandoned).then_some(taken))
    }

    /// A thread that panicked with the lock held has left nothing half done in there.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Writer {
    pub(super) database: Arc<Database>,
    pub(super) guard: Arc<Guard>,
    pub(super) ledger: Ledger,
    pub(super) queue: Arc<Queue>,
    pub(super) on_progress: OnProgress,
    pub(super) fatal: Arc<Fatal>,
    /// Last, so that it is unlocked last: the writer may outlive the journal's handle for the moment of its last batch.
    pub(super) _folder: Arc<Folder>,
}

impl Writer {
    /// Writes until the log is closed or abandoned, or a write fails.
    pub(super) fn run(mut self) -> Result<(), Error> {
        let ended = self.write_all();
        if let Err(error) = ended {
            self.queue.abandon();
            self.fatal.tell(error);
            return Err(Error::Ended);
        }
        Ok(())
    }

    fn write_all(&mut self) -> Result<(), Error> {
        let mut progress = Progress::default();
        while let Some(taken) = self.queue.take()? {
            let forced = self.write(&taken)?;
            progress.written = taken.last;
            if forced {
                progress.durable = taken.last;
            }
            (self.on_progress)(progress);
            if taken.closing {
                self.guard.close()?;
                break;
            }
        }
        Ok(())
    }

    /// One batch. Whether it was synced, and so all before it.
    fn write(&mut self, taken: &Taken) -> Result<bool, Error> {
        let before = self.ledger.tip;
        let mut changes = self.ledger.enter_all(&taken.entries)?;
        if taken.closing {
            self.ledger.close(&mut changes)?;
        }
        let forced = self.ledger.tip != before;
        if forced {
            failpoint::hit("before-log-sync");
        }
        let began = Instant::now();
        self.database.write(&changes, forced)?;
        self.queue.batches.fetch_add(1, Ordering::Relaxed);
        self.queue.entries.fetch_add(taken.entries.len() as u64, Ordering::Relaxed);
        if forced {
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.queue.synced_for_ns.fetch_add(took, Ordering::Relaxed);
            self.queue.forced_writes.fetch_add(1, Ordering::Relaxed);
            failpoint::hit("after-log-sync");
            self.guard.synced(self.ledger.tip)?;
            failpoint::hit("after-mark");
        }
        Ok(forced)
    }
}
