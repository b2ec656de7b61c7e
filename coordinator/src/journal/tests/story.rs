//! What the tests write: a story of transactions that begin, vote, are decided, acknowledge and finish, interleaved;
//! and what a log that holds the first so many entries of it must give back.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Condvar, Mutex},
};

use unanimous_sdk::protocol::{CoordinatorId, Decision, TransactionId, UnixMillis, Vote};
use uuid::Uuid;

use crate::{
    journal::{Entry, Error, Journal, Lsn, Opening, Progress, Recovered, RocksDb, rocks},
    transaction::{Branch, BranchState, Decided, Record, State, Transaction},
};

pub const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

pub fn coordinator() -> CoordinatorId {
    CoordinatorId::from_uuid(Uuid::from_u128(0x4000_8000_0000_0000_0001))
}

pub fn id(n: u64) -> TransactionId {
    TransactionId::from_uuid(Uuid::from_u128(0x0189_0000_0000_7000_8000_0000_0000_0000 + (u128::from(n) << 80)))
}

/// The entries of `transactions` transactions, of which four are always under way at once. Each has seven entries, and
/// one of them is forced; every fifth changes nothing and has no forced entry.
pub fn story(transactions: u64) -> Vec<Entry> {
    let mut sequence = 0;
    let mut entries = Vec::new();
    for group in (0..transactions).step_by(4) {
        let mut under_way: Vec<_> = (group..transactions.min(group + 4)).map(|n| (n, Vec::new())).collect();
        for step in 0..7 {
            for (n, records) in &mut under_way {
                entries.push(entry(*n, step, records, &mut sequence));
            }
        }
    }
    entries
}

fn entry(n: u64, step: u32, records: &mut Vec<Record>, sequence: &mut u64) -> Entry {
    let so_far = Transaction::replay(records.clone()).ok();
    let record = match step {
        0 => Record::Begun(begun(n)),
        1 | 2 => Record::Voted { branch: step - 1, vote: Vote::Prepared, participant_id: None },
        3 => Record::Decided(decided(so_far.unwrap(), n, sequence)),
        4 | 5 => Record::Acknowledged { branch: step - 4, state: BranchState::Committed, detail: None },
        _ => {
            let mut transaction = so_far.unwrap();
            transaction.state = State::Committed;
            transaction.finished_at = Some(NOW);
            return Entry::Finished { id: id(n), transaction: Arc::new(transaction) };
        }
    };
    records.push(record.clone());
    Entry::Record { id: id(n), index: step, record }
}

fn begun(n: u64) -> Transaction {
    let branch = |name: &str| Branch {
        participant_id: None,
        voted_late: false,
        given_up: false,
        name: name.parse().unwrap(),
        participant: "http://127.0.0.1:7071".parse().unwrap(),
        payload_digest: Some(u128::from(n)),
        state: BranchState::Enlisted,
        vote: None,
        detail: None,
        payload: None,
        heard: None,
        attempts: 0,
    };
    Transaction {
        state: State::Active,
        branches: vec![branch("orders"), branch("stock")],
        decided: None,
        metadata: Arc::new(BTreeMap::from([("order".to_owned(), n.to_string())])),
        created_at: NOW,
        deadline: NOW,
        finished_at: None,
        keys: vec![],
        records: 0,
    }
}

fn decided(mut transaction: Transaction, n: u64, sequence: &mut u64) -> Transaction {
    let changes = n % 5 != 4;
    *sequence += u64::from(changes);
    transaction.state = State::Committing;
    for branch in &mut transaction.branches {
        branch.state = BranchState::Committing;
    }
    transaction.decided = Some(Decided {
        decision: Decision::Commit,
        sequence: changes.then_some(*sequence),
        reason: None,
        at: NOW,
        lsn: Lsn::default(),
        before: State::Preparing,
    });
    transaction
}

/// What an opened log shows of a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    live: BTreeMap<TransactionId, Transaction>,
    finished: BTreeMap<TransactionId, Transaction>,
    sequence: u64,
    highest: TransactionId,
}

impl View {
    /// Of a log that holds just these entries.
    pub fn of_entries(entries: &[Entry]) -> Self {
        let mut records: BTreeMap<TransactionId, Vec<Record>> = BTreeMap::new();
        let mut view =
            Self { live: BTreeMap::new(), finished: BTreeMap::new(), sequence: 0, highest: TransactionId::NIL };
        for entry in entries {
            match entry {
                Entry::Record { id, record, .. } => {
                    view.highest = view.highest.max(*id);
                    if let Record::Decided(transaction) = record {
                        let given = transaction.decided.as_ref().and_then(|decided| decided.sequence);
                        view.sequence = given.unwrap_or(view.sequence);
                    }
                    records.entry(*id).or_default().push(record.clone());
                }
                Entry::Finished { id, transaction } => {
                    records.remove(id);
                    view.finished.insert(*id, (**transaction).clone());
                }
                Entry::Checkpoint
                | Entry::HigherEpoch { .. }
                | Entry::Amended { .. }
                | Entry::Suspect { .. }
                | Entry::Trusted { .. } => {}
            }
        }
        view.live = records.into_iter().map(|(id, records)| (id, Transaction::replay(records).unwrap())).collect();
        view
    }

    /// Of a log that was opened; asks it for every transaction a story of this many entries could have.
    pub fn of_log(journal: &dyn Journal, recovered: &Recovered, entries: usize) -> Result<Self, Error> {
        let mut finished = BTreeMap::new();
        for n in 0..=entries as u64 / 7 {
            if let Some(transaction) = journal.finished(id(n))? {
                finished.insert(id(n), transaction);
            }
        }
        Ok(Self {
            live: recovered.live.iter().cloned().collect(),
            finished,
            sequence: recovered.sequence,
            highest: recovered.highest,
        })
    }

    /// How many of the entries, at least `floor`, give this view; None if it isn't that of a beginning of them.
    pub fn is_prefix(&self, entries: &[Entry], floor: usize) -> Option<usize> {
        (floor..=entries.len()).find(|count| *self == Self::of_entries(&entries[..*count]))
    }
}

/// A log on disk with its progress, to be waited for.
pub struct Log {
    pub journal: RocksDb,
    pub recovered: Recovered,
    progress: Arc<(Mutex<Progress>, Condvar)>,
}

impl Log {
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_with(dir, NOW)
    }

    pub fn open_with(dir: &Path, opening: impl Into<Opening>) -> Result<Self, Error> {
        let (opened, recovered) = rocks::open(dir, opening, rand::random)?;
        let progress = Arc::new((Mutex::new(Progress::default()), Condvar::new()));
        let to = progress.clone();
        let on_progress = move |now| {
            *to.0.lock().unwrap() = now;
            to.1.notify_all();
        };
        // Whoever waits for progress would wait for ever.
        let on_fatal = |error| {
            eprintln!("the log failed: {error}");
            std::process::abort();
        };
        Ok(Self { journal: opened.start(Box::new(on_progress), Box::new(on_fatal))?, recovered, progress })
    }

    /// Appends these entries of a story, the first of which is the log's entry `first`.
    pub fn append(&self, first: usize, entries: &[Entry]) {
        self.journal.append(Lsn(first as u64), entries.to_vec());
    }

    /// Waits until so many entries are written, and says how far the log has come.
    pub fn wait_written(&self, count: usize) -> Progress {
        let (progress, changed) = &*self.progress;
        let behind = |progress: &mut Progress| progress.written < Lsn(count as u64);
        *changed.wait_while(progress.lock().unwrap(), behind).unwrap()
    }

    pub fn view(&self, entries: usize) -> Result<View, Error> {
        View::of_log(&self.journal, &self.recovered, entries)
    }
}

/// Writes a story to a new log in small batches, and leaves it as a killed process does. How far it had come.
pub fn write(dir: &Path, entries: &[Entry]) -> Progress {
    let log = Log::open(dir).unwrap();
    let mut progress = Progress::default();
    for (at, batch) in entries.chunks(3).enumerate() {
        log.append(at * 3 + 1, batch);
        progress = log.wait_written(at * 3 + batch.len());
    }
    progress
}

/// Every file below a folder but the lock, with what is in it; and every folder, with nothing.
pub fn files(dir: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
            all.insert(path, Vec::new());
        } else if !path.ends_with("LOCK") {
            all.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    all
}

/// Copies a folder into an empty one, which stands for the original from now on: it isn't recognised as a copy.
pub fn copy(from: &Path, to: &Path) {
    copy_as_is(from, to);
    rocks::adopt(to).unwrap();
}

/// Copies a folder into an empty one.
pub fn copy_as_is(from: &Path, to: &Path) {
    for (path, content) in files(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        if path.is_dir() {
            std::fs::create_dir_all(to).unwrap();
        } else {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, content).unwrap();
        }
    }
}
