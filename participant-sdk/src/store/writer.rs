//! The one thread that writes.
//!
//! Always true: entries are written in the order they came; what came while the disk was busy becomes one batch with one
//! sync, if any in it is forced or somebody waits for one that isn't; locks of work that appears are let go when it has been written. No timer is involved: a
//! lone entry is written at once.
//!
//! A failed write or sync ends the process: after it nobody can say what the disk holds, and no retry can be believed.
//! The next start finds out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
};

use rocksdb::{DB, WriteBatch, WriteOptions};
use tokio::sync::{oneshot, watch};

use super::{
    Work,
    folder::{self, family},
    format::{encode_branch, encode_former, encode_known},
    staged::encode_key,
};
use crate::{
    branch::{BranchKey, Lsn, Record},
    failpoint,
};

/// The most entries that share one batch: bounds memory, not speed.
const MOST: usize = 4096;

pub(super) enum Job {
    Entry {
        lsn: Lsn,
        records: Vec<Record>,
        forced: bool,
        change: Written,
    },
    /// Somebody waits for entries that weren't forced.
    Sync,
    /// Outside of any branch.
    Put {
        work: Work,
        done: oneshot::Sender<()>,
    },
}

/// A change of a branch's work, ready to be written.
pub(super) enum Written {
    None,
    Stage(BranchKey, Vec<u8>),
    Publish(BranchKey, Work),
    Discard(BranchKey),
}

pub(super) struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub(super) durable: watch::Receiver<Lsn>,
    syncs: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn start(db: Arc<DB>) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel();
        let (reached, durable) = watch::channel(Lsn::default());
        let syncs = Arc::new(AtomicU64::new(0));
        let counter = syncs.clone();
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || run(&db, &waiting, &reached, &counter))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), durable, syncs })
    }

    pub(super) fn send(&self, job: Job) {
        // The thread lives as long as this does, or the process has ended.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(db: &DB, waiting: &Receiver<Job>, reached: &watch::Sender<Lsn>, syncs: &AtomicU64) {
    let mut last = Lsn::default();
    // What was written since the last sync.
    let (mut votes, mut commits) = (false, false);
    while let Ok(first) = waiting.recv() {
        let jobs: Vec<Job> = std::iter::once(first).chain(waiting.try_iter()).take(MOST).collect();
        let (mut batch, mut sync) = (WriteBatch::default(), false);
        for job in &jobs {
            match job {
                Job::Entry { lsn, records, forced, change } => {
                    for record in records {
                        put_record(db, &mut batch, record);
                    }
                    put_change(db, &mut batch, change);
                    sync |= forced;
                    last = last.max(*lsn);
                }
                Job::Sync => sync = true,
                Job::Put { work, .. } => {
                    put_work(db, &mut batch, work);
                    sync = true;
                }
            }
        }
        let of = |wanted: fn(&Written) -> bool| {
            jobs.iter().any(|job| matches!(job, Job::Entry { change, .. } if wanted(change)))
        };
        let (new_votes, new_commits) =
            (of(|change| matches!(change, Written::Stage(..))), of(|change| matches!(change, Written::Publish(..))));
        come_to("before-vote-durable", new_votes, "before-commit-durable", new_commits);
        (votes, commits) = (votes || new_votes, commits || new_commits);
        if let Err(cause) = write(db, batch, sync) {
            tracing::error!(%cause, "the store can't be written: the process ends, since nobody can say what the disk holds");
            eprintln!(
                "the participant's store can't be written ({cause}): the process ends, since nobody can say what the disk holds"
            );
            std::process::abort();
        }
        if sync {
            come_to("after-vote-durable", votes, "after-commit-durable", commits);
            (votes, commits) = (false, false);
            syncs.fetch_add(1, Ordering::Relaxed);
            // A lazy entry before it is durable with it, as the log is one.
            reached.send_if_modified(|durable| std::mem::replace(durable, last.max(*durable)) < last);
        }
        for job in jobs {
            match job {
                Job::Entry { .. } | Job::Sync => {}
                Job::Put { work, done } => {
                    drop(work);
                    let _ = done.send(());
                }
            }
        }
    }
}

fn come_to(vote: &str, votes: bool, commit: &str, commits: bool) {
    if votes {
        failpoint::hit(vote);
    }
    if commits {
        failpoint::hit(commit);
    }
}

fn write(db: &DB, batch: WriteBatch, sync: bool) -> Result<(), rocksdb::Error> {
    if batch.is_empty() {
        // All that it holds was written before.
        return if sync { db.flush_wal(true) } else { Ok(()) };
    }
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    db.write_opt(batch, &options)
}

fn put_record(db: &DB, batch: &mut WriteBatch, record: &Record) {
    match record {
        // Known or former: it is one row.
        Record::Coordinator { id, known } => {
            batch.put_cf(family(db, folder::COORDINATORS), id.uuid().as_bytes(), encode_known(known));
        }
        Record::Former { id, former } => {
            batch.put_cf(family(db, folder::COORDINATORS), id.uuid().as_bytes(), encode_former(former));
        }
        Record::ForgottenCoordinator { id } => {
            batch.delete_cf(family(db, folder::COORDINATORS), id.uuid().as_bytes());
        }
        Record::Branch { key, branch } => {
            batch.put_cf(family(db, folder::BRANCHES), encode_key(key), encode_branch(branch));
        }
        Record::Forgotten { key } => batch.delete_cf(family(db, folder::BRANCHES), encode_key(key)),
    }
}

fn put_change(db: &DB, batch: &mut WriteBatch, change: &Written) {
    let staged = family(db, folder::STAGED);
    match change {
        Written::None => {}
        Written::Stage(key, bytes) => batch.put_cf(staged, encode_key(key), bytes),
        Written::Publish(key, work) => {
            put_work(db, batch, work);
            batch.delete_cf(staged, encode_key(key));
        }
        Written::Discard(key) => batch.delete_cf(staged, encode_key(key)),
    }
}

fn put_work(db: &DB, batch: &mut WriteBatch, work: &Work) {
    let data = family(db, folder::DATA);
    for (key, value) in work.writes() {
        match value {
            Some(value) => batch.put_cf(data, key, value),
            None => batch.delete_cf(data, key),
        }
    }
}
