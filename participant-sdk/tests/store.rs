//! The store: locks, snapshots, group commit, and what it refuses to open.
#![cfg(feature = "store")]

use std::time::Duration;

use unanimous_sdk::{
    branch::{Act, Book, BranchKey, Call, Event, Fate, Lsn, Payload, Reply, State, Step},
    protocol::{Coordinator, Decision, TransactionId, UnixMillis, Vote},
    store::{Change, Entry, Error, KvStore, Options, Store, Work},
};

fn key(n: u32) -> BranchKey {
    BranchKey {
        coordinator: "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap(),
        transaction: format!("01890a5d-1111-7000-8000-0000{n:08x}").parse().unwrap(),
        branch: "b".parse().unwrap(),
    }
}

/// What the server does with a store, without the server.
struct User {
    book: Book,
    store: KvStore,
}

impl User {
    async fn new(store: KvStore) -> Self {
        Self { book: Book::restore(store.load().await.unwrap()), store }
    }

    fn told(n: u32, call: Call) -> Event {
        let BranchKey { coordinator, transaction, branch } = key(n);
        let epoch = "01890a5d-0000-7000-8000-000000000001".parse().unwrap();
        let url = "http://127.0.0.1:1".to_owned();
        let from = Coordinator { id: coordinator, epoch, url, horizon: TransactionId::NIL };
        // Shortly after the time in the ids.
        let now = UnixMillis(0x0189_0a5d_2222);
        Event::Told { from, transaction, branch, call, meant_for: None, now }
    }

    fn step(&mut self, event: Event, n: u32, work: Option<Work>) -> Step {
        let step = self.book.step(event);
        if let Some(lsn) = step.lsn {
            let change = match step.fate {
                Fate::Unchanged => Change::None,
                Fate::Stage => Change::Stage(key(n), work.expect("staged work")),
                Fate::Publish => Change::Publish(key(n)),
                Fate::Discard => Change::Discard(key(n)),
            };
            self.store.append(Entry { lsn, records: step.records.clone(), forced: step.forced, change });
        }
        step
    }

    /// Up to the vote, which may not be durable yet.
    fn vote(&mut self, n: u32, work: Work) -> Lsn {
        let call = Call::Prepare { payload: Payload::parse("1"), late: false };
        assert_eq!(self.step(Self::told(n, call), n, None).answer, Ok(Reply::Work));
        let step = self.step(Event::Own { key: key(n), act: Act::Worked(Ok(Vote::Prepared)) }, n, Some(work));
        assert_eq!(step.answer, Ok(Reply::Voted(Vote::Prepared)));
        step.after
    }

    async fn prepare(&mut self, n: u32, work: Work) {
        let after = self.vote(n, work);
        self.store.durable(after).await.unwrap();
    }

    async fn end(&mut self, n: u32, call: Call) {
        self.step(Self::told(n, call), n, None);
        let step = self.step(Event::Own { key: key(n), act: Act::Effected }, n, None);
        self.store.durable(step.after).await.unwrap();
    }
}

async fn work(store: &KvStore, n: u32, writes: &[(&str, i64)]) -> Work {
    let mut work = store.work(&key(n));
    for (key, value) in writes {
        work.put(key, value).await.unwrap();
    }
    work
}

fn open(folder: &tempfile::TempDir) -> KvStore {
    KvStore::open_with(folder.path(), Options { lock_wait: Duration::from_millis(5), ..Options::default() }).unwrap()
}

#[tokio::test]
async fn what_a_branch_writes_appears_at_commit_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.put("alice", &100).await.unwrap();
    let mut user = User::new(store.clone()).await;
    let mut pending = work(&store, 1, &[("alice", 70), ("bob", 30)]).await;
    assert_eq!(pending.get::<i64>("alice").await.unwrap(), Some(70), "it sees its own writes");
    pending.delete("bob").await.unwrap();
    assert_eq!(pending.get::<i64>("bob").await.unwrap(), None);
    pending.put("bob", &30).await.unwrap();
    assert_eq!(store.get::<i64>("alice").unwrap(), Some(100));
    user.prepare(1, pending).await;
    assert_eq!(store.scan::<i64>("").unwrap(), [(b"alice".to_vec(), 100)]);
    user.end(1, Call::Commit).await;
    assert_eq!(store.scan::<i64>("").unwrap(), [(b"alice".to_vec(), 70), (b"bob".to_vec(), 30)]);
}

#[tokio::test]
async fn what_an_aborted_branch_wrote_never_appears_and_its_keys_are_free() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let mut user = User::new(store.clone()).await;
    user.prepare(1, work(&store, 1, &[("alice", 70)]).await).await;
    assert!(matches!(store.put("alice", &1).await, Err(Error::LockConflict { .. })));
    user.end(1, Call::Abort).await;
    assert_eq!(store.get::<i64>("alice").unwrap(), None);
    store.put("alice", &1).await.unwrap();
    assert_eq!(store.get::<i64>("alice").unwrap(), Some(1));
}

#[tokio::test]
async fn a_key_that_another_branch_has_touched_is_a_lock_conflict_until_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.put("alice", &100).await.unwrap();
    let (mut reader, mut other, mut writer) = (store.work(&key(1)), store.work(&key(2)), store.work(&key(3)));
    assert_eq!(reader.get::<i64>("alice").await.unwrap(), Some(100));
    assert_eq!(other.get::<i64>("alice").await.unwrap(), Some(100), "readers share");
    let conflict = writer.put("alice", &1).await.unwrap_err();
    assert!(conflict.to_string().starts_with("lock-conflict"), "{conflict}");
    // After a conflict nothing is held that wasn't given.
    drop((reader, other));
    writer.put("alice", &1).await.unwrap();
    let mut late = store.work(&key(4));
    assert!(matches!(late.get::<i64>("alice").await, Err(Error::LockConflict { .. })));
    assert!(matches!(late.get::<i64>("alice").await, Err(Error::LockConflict { .. })));
    drop(writer);
    assert_eq!(late.get::<i64>("alice").await.unwrap(), Some(100));
}

#[tokio::test]
async fn votes_their_work_and_their_locks_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = open(&folder);
        store.put("alice", &100).await.unwrap();
        store.put("carol", &5).await.unwrap();
        let mut user = User::new(store.clone()).await;
        let mut pending = work(&store, 1, &[("alice", 70)]).await;
        assert_eq!(pending.get::<i64>("carol").await.unwrap(), Some(5));
        user.prepare(1, pending).await;
        user.prepare(2, work(&store, 2, &[("dave", 1)]).await).await;
        user.end(2, Call::Commit).await;
    }
    let store = open(&folder);
    // Before anything is loaded, even.
    assert!(matches!(store.put("alice", &1).await, Err(Error::LockConflict { .. })));
    let mut user = User::new(store.clone()).await;
    assert_eq!(user.book.in_doubt().map(|(key, _)| key.clone()).collect::<Vec<_>>(), [key(1)]);
    let mut other = store.work(&key(3));
    assert!(matches!(other.put("carol", &1).await, Err(Error::LockConflict { .. })), "what was read is locked, too");
    assert_eq!(other.get::<i64>("carol").await.unwrap(), Some(5), "… and shared");
    assert_eq!(other.get::<i64>("dave").await.unwrap(), Some(1));
    drop(other);
    user.end(1, Call::Commit).await;
    assert_eq!(store.get::<i64>("alice").unwrap(), Some(70));
    store.put("carol", &6).await.unwrap();
}

#[tokio::test]
async fn votes_that_come_together_share_a_sync() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let mut user = User::new(store.clone()).await;
    let mut works = Vec::new();
    for n in 0..500 {
        works.push((n, work(&store, n, &[(&format!("k{n}"), 1)]).await));
    }
    let last = works.into_iter().map(|(n, work)| user.vote(n, work)).last().unwrap();
    store.durable(last).await.unwrap();
    assert!(store.syncs() < 250, "{} syncs for 500 votes", store.syncs());
    drop((store, user));
    assert_eq!(User::new(open(&folder)).await.book.in_doubt().count(), 500);
}

#[tokio::test]
async fn what_was_not_forced_is_made_durable_when_somebody_asks_with_all_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let entry = |n: u64| Entry { lsn: Lsn(n), records: Vec::new(), forced: false, change: Change::None };
    for n in 1..=3 {
        store.append(entry(n));
    }
    store.durable(Lsn(0)).await.unwrap();
    assert_eq!(store.syncs(), 0);
    store.durable(Lsn(2)).await.unwrap();
    store.durable(Lsn(1)).await.unwrap();
    assert_eq!(store.syncs(), 1);
    store.durable(Lsn(3)).await.unwrap();
    assert!(store.syncs() <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_scan_sees_all_of_a_branch_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    for account in 0..10 {
        store.put(format!("account/{account}"), &100).await.unwrap();
    }
    let reader = tokio::task::spawn_blocking({
        let store = store.clone();
        move || {
            for _ in 0..2000 {
                let all = store.scan::<i64>("account/").unwrap();
                assert_eq!(all.iter().map(|(_, cents)| cents).sum::<i64>(), 1000);
            }
        }
    });
    let mut user = User::new(store.clone()).await;
    let mut n = 0;
    while !reader.is_finished() {
        n += 1;
        let (from, to) = (format!("account/{}", n % 10), format!("account/{}", (n + 3) % 10));
        let mut pending = store.work(&key(n));
        let (a, b) =
            (pending.get::<i64>(&from).await.unwrap().unwrap(), pending.get::<i64>(&to).await.unwrap().unwrap());
        pending.put(&from, &(a - 1)).await.unwrap();
        pending.put(&to, &(b + 1)).await.unwrap();
        user.prepare(n, pending).await;
        user.end(n, Call::Commit).await;
    }
    reader.await.unwrap();
}

#[tokio::test]
async fn a_second_opener_is_refused_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(&folder);
    let error = KvStore::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
}

#[tokio::test]
async fn a_folder_that_is_not_a_store_is_refused_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    assert!(matches!(KvStore::open(folder.path()), Err(Error::Foreign { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    // Another RocksDB database, with and without column families of its own.
    for families in [vec![], vec!["theirs"]] {
        let folder = tempfile::tempdir().unwrap();
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let other = rocksdb::DB::open_cf(&options, folder.path(), families).unwrap();
        other.put("k", "v").unwrap();
        drop(other);
        assert!(matches!(KvStore::open(folder.path()), Err(Error::Foreign { .. })));
    }
}

const FAMILIES: [&str; 5] = ["data", "staged", "branches", "coordinators", "meta"];

#[tokio::test]
async fn what_cannot_be_trusted_is_refused_by_name() {
    type Damage = fn(&rocksdb::DB);
    let damages: [(&str, Damage, &str); 6] = [
        ("no id", |db| db.delete_cf(db.cf_handle("meta").unwrap(), "participant_id").unwrap(), "participant id"),
        (
            "newer format",
            |db| db.put_cf(db.cf_handle("meta").unwrap(), "format", "something 2").unwrap(),
            "format \"something 2\"",
        ),
        (
            "no work for a vote",
            |db| {
                let staged = db.cf_handle("staged").unwrap();
                let (key, _) = db.iterator_cf(staged, rocksdb::IteratorMode::Start).next().unwrap().unwrap();
                db.delete_cf(staged, key).unwrap();
            },
            "its work is missing",
        ),
        (
            "no vote for work",
            |db| {
                let branches = db.cf_handle("branches").unwrap();
                let (key, _) = db.iterator_cf(branches, rocksdb::IteratorMode::Start).next().unwrap().unwrap();
                db.delete_cf(branches, key).unwrap();
            },
            "which isn't prepared",
        ),
        (
            "a flipped value",
            |db| {
                let branches = db.cf_handle("branches").unwrap();
                let (key, value) = db.iterator_cf(branches, rocksdb::IteratorMode::Start).next().unwrap().unwrap();
                db.put_cf(branches, key, &value[..value.len() - 1]).unwrap();
            },
            "can't be read",
        ),
        (
            "one lock twice",
            |db| {
                let staged = db.cf_handle("staged").unwrap();
                let (mut key, value) = {
                    let (key, value) = db.iterator_cf(staged, rocksdb::IteratorMode::Start).next().unwrap().unwrap();
                    (key.to_vec(), value)
                };
                key.push(b'c');
                db.put_cf(staged, key, value).unwrap();
            },
            "two prepared branches hold the key",
        ),
    ];
    for (name, damage, says) in damages {
        let folder = tempfile::tempdir().unwrap();
        {
            let store = open(&folder);
            let mut user = User::new(store.clone()).await;
            user.prepare(1, work(&store, 1, &[("alice", 70)]).await).await;
        }
        {
            let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), folder.path(), FAMILIES).unwrap();
            damage(&db);
        }
        let error = match KvStore::open(folder.path()) {
            Ok(store) => store.load().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(error.to_string().contains(says), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_value_of_another_type_is_an_error_and_not_a_guess() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.put("name", "alice").await.unwrap();
    assert!(matches!(store.get::<i64>("name"), Err(Error::Value { .. })));
    assert!(matches!(store.work(&key(1)).get::<i64>("name").await, Err(Error::Value { .. })));
}

/// Copies a folder's files.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Written by the example bank of the first release: six transactions, of which one was committed, one aborted, one
/// refused, one aborted before it was seen, and two are in doubt, one of them of another coordinator.
#[tokio::test]
async fn a_store_of_the_first_format_opens_as_it_was_left() {
    let folder = tempfile::tempdir().unwrap();
    copy(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store-format-1")), folder.path());
    for _ in 0..2 {
        let store = open(&folder);
        let saved = store.load().await.unwrap();
        let states: Vec<_> = (1..=5).map(|n| saved.branches[&key(n)].state.clone()).collect();
        let overdrawn = "overdrawn: account-01 holds 6.00, 50.00 is asked for".to_owned();
        let expected = [
            State::Committed,
            State::Aborted("its transaction was aborted".to_owned()),
            State::Refused(overdrawn),
            State::Tombstone,
            State::Prepared,
        ];
        assert_eq!(states, expected);
        let id = "00000000-0000-4000-8000-000000000001".parse().unwrap();
        let other = &saved.branches[&BranchKey { coordinator: id, ..key(6) }];
        assert_eq!(
            (&other.state, other.epoch.to_string()),
            (&State::Prepared, saved.coordinators[&id].epoch.to_string())
        );
        assert_eq!(
            other.payload.as_ref().map(|payload| &*payload.text),
            Some(r#"{"account": "account-03", "cents": 9}"#)
        );
        assert_eq!(saved.coordinators[&id].horizon, key(2).transaction);
        assert_eq!(saved.coordinators[&key(1).coordinator].url, "http://127.0.0.1:9");
        assert_eq!(saved.branches.len(), 6);
        // What was staged holds its locks, and appears when it is committed.
        assert_eq!(store.get::<i64>("account/account-01").unwrap(), Some(600));
        assert!(matches!(store.put("account/account-02", &1).await, Err(Error::LockConflict { .. })));
        assert!(matches!(store.put("account/account-03", &1).await, Err(Error::LockConflict { .. })));
    }
    let store = open(&folder);
    let mut user = User::new(store.clone()).await;
    let epoch = user.book.coordinator(key(5).coordinator).unwrap().epoch;
    user.step(Event::Learned { key: key(5), asked: epoch, decision: Decision::Commit }, 5, None);
    let step = user.step(Event::Own { key: key(5), act: Act::Effected }, 5, None);
    store.durable(step.after).await.unwrap();
    assert_eq!(store.get::<i64>("account/account-02").unwrap(), Some(993));
    drop((user, store));
    assert_eq!(open(&folder).load().await.unwrap().branches[&key(5)].state, State::Committed);
}
