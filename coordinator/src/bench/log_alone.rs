//! The log without all the rest: what group commit gives at so many clients; and the disk without the log.
//!
//! Always true: a commit here is what the coordinator's is to the log, but for its lazy votes and acknowledgements: the
//! transaction's beginning, its decision (forced, and waited for), and its end, which rides along with the next one.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinSet};
use unanimous_sdk::protocol::{Decision, ParticipantUrl, TransactionId, UnixMillis, Vote};
use uuid::Uuid;

use super::{numbers::Pace, options, process};
use crate::{
    engine::Clock,
    journal::{Entry, Journal, Lsn, Progress, RocksDb, rocks},
    transaction::{Branch, BranchState, Decided, Record, State, Transaction},
};

/// How the log did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Logged {
    pub pace: Pace,
    pub forced_writes: u64,
    /// The processor time, in microseconds, for each commit.
    pub cpu_us: f64,
}

/// How large a block is that is forced to the disk alone, in bytes: a small batch of the log.
const BLOCK: usize = 512;
/// How many blocks the file has.
const BLOCKS: u64 = 4096;

#[derive(Default)]
struct Ends {
    next: u64,
    sequence: u64,
    waiting: VecDeque<(Lsn, oneshot::Sender<()>)>,
}

/// Runs it.
pub async fn run(options: &options::Log) -> Result<Logged, String> {
    if options.fdatasync {
        return fdatasync(&options.folder, options.seconds)
            .map_err(|error| format!("{}: {error}", options.folder.display()));
    }
    let ends = Arc::new(Mutex::new(Ends { next: 1, ..Ends::default() }));
    let (opened, _) =
        rocks::open(&options.folder, Clock::start().now().wall, rand::random).map_err(|e| e.to_string())?;
    let told = Arc::clone(&ends);
    let on_fatal = |_| std::process::abort();
    let log = opened.start(Box::new(move |progress| tell(&told, progress)), Box::new(on_fatal));
    let log = Arc::new(log.map_err(|error| error.to_string())?);
    let before = log.stats();
    let (began, length) = (Instant::now(), Duration::from_secs_f64(options.seconds));
    let mut clients = JoinSet::new();
    for _ in 0..options.clients {
        clients.spawn(client(Arc::clone(&log), Arc::clone(&ends), options.branches, began, length));
    }
    let took_us = clients.join_all().await.concat();
    let seconds = began.elapsed().as_secs_f64();
    let commits = took_us.len().max(1);
    let cpu_us = process::cpu_us("self")? / f64::from(u32::try_from(commits).unwrap_or(u32::MAX));
    Ok(Logged {
        pace: Pace::of(took_us, seconds),
        forced_writes: log.stats().forced_writes - before.forced_writes,
        cpu_us,
    })
}

/// From the log's thread.
fn tell(ends: &Mutex<Ends>, progress: Progress) {
    let mut ends = lock(ends);
    while ends.waiting.front().is_some_and(|(lsn, _)| *lsn <= progress.durable) {
        if let Some((_, tell)) = ends.waiting.pop_front() {
            let _ = tell.send(());
        }
    }
}

async fn client(
    log: Arc<RocksDb>,
    ends: Arc<Mutex<Ends>>,
    branches: usize,
    began: Instant,
    length: Duration,
) -> Vec<u32> {
    let mut took_us = Vec::new();
    let mut finished = None;
    while began.elapsed() < length {
        let id = TransactionId::from_uuid(Uuid::now_v7());
        let mut transaction = begun(branches);
        let start = Instant::now();
        let first_record = Entry::Record { id, index: 0, record: Record::Begun(transaction.clone()) };
        let durable = {
            let mut ends = lock(&ends);
            ends.sequence += 1;
            decide(&mut transaction, ends.sequence);
            let decision = Entry::Record { id, index: 1, record: Record::Decided(transaction.clone()) };
            let entries: Vec<Entry> = finished.take().into_iter().chain([first_record, decision]).collect();
            let first = Lsn(ends.next);
            ends.next += entries.len() as u64;
            let (tell, durable) = oneshot::channel();
            let last = Lsn(ends.next - 1);
            ends.waiting.push_back((last, tell));
            log.append(first, entries);
            durable
        };
        if durable.await.is_err() {
            break;
        }
        took_us.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
        end(&mut transaction);
        finished = Some(Entry::Finished { id, transaction: Arc::new(transaction) });
    }
    took_us
}

fn begun(branches: usize) -> Transaction {
    let now = Clock::start().now().wall;
    let branch = |at: usize| -> Option<Branch> {
        Some(Branch {
            name: at.to_string().parse().ok()?,
            participant: format!("http://127.0.0.1:{}", 20_000 + at).parse::<ParticipantUrl>().ok()?,
            payload_digest: Some(1 << 120),
            state: BranchState::Preparing,
            vote: None,
            participant_id: None,
            voted_late: false,
            given_up: false,
            detail: None,
            attempts: 0,
            payload: None,
            heard: None,
        })
    };
    Transaction {
        state: State::Preparing,
        branches: (1..=branches).filter_map(branch).collect(),
        decided: None,
        metadata: Arc::new(BTreeMap::new()),
        created_at: now,
        deadline: now.after(Duration::from_secs(30)),
        finished_at: None,
        keys: vec![],
        records: 1,
    }
}

fn decide(transaction: &mut Transaction, sequence: u64) {
    let (at, before) = (transaction.created_at, transaction.state);
    transaction.state = State::Committing;
    transaction.records = 2;
    transaction.decided =
        Some(Decided { decision: Decision::Commit, sequence: Some(sequence), reason: None, at, lsn: Lsn(0), before });
    for branch in &mut transaction.branches {
        branch.state = BranchState::Committing;
        branch.vote = Some(Vote::Prepared);
    }
}

fn end(transaction: &mut Transaction) {
    transaction.state = State::Committed;
    transaction.finished_at = Some(UnixMillis(transaction.created_at.0));
    for branch in &mut transaction.branches {
        branch.state = BranchState::Committed;
    }
}

fn lock(ends: &Mutex<Ends>) -> MutexGuard<'_, Ends> {
    ends.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The quickest that the disk can be made to keep something: its blocks are there, nothing but data is to be written.
fn fdatasync(folder: &Path, seconds: f64) -> std::io::Result<Logged> {
    std::fs::create_dir_all(folder)?;
    let file = File::options().create(true).truncate(true).write(true).open(folder.join("blocks"))?;
    for at in 0..BLOCKS {
        file.write_all_at(&[0; BLOCK], at * BLOCK as u64)?;
    }
    file.sync_all()?;
    let (began, length) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut took_us = Vec::new();
    while began.elapsed() < length {
        let start = Instant::now();
        let at = took_us.len() as u64 % BLOCKS;
        file.write_all_at(&[1; BLOCK], at * BLOCK as u64)?;
        file.sync_data()?;
        took_us.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    let forced_writes = took_us.len() as u64;
    Ok(Logged { pace: Pace::of(took_us, began.elapsed().as_secs_f64()), forced_writes, cpu_us: 0.0 })
}
