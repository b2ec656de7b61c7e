//! Finding what has finished, and forgetting it in time.

use std::{sync::Arc, time::Duration};

use unanimous_sdk::protocol::{TransactionId, UnixMillis};

use super::story::{self, Log};
use crate::{
    journal::{
        Entry, Find, Journal, Memory, Opening, Plausibility, Reading, Tag, encoding,
        encoding::{Change, Table},
    },
    transaction::{BranchState, Key, KeyedCall, State, Transaction},
};

/// When the story's transaction with this number was begun, by its id.
fn begun_ms(n: u64) -> u64 {
    0x0189_0000_0000 + n
}

fn finished(n: u64, change: impl FnOnce(&mut Transaction)) -> Entry {
    let Some(Entry::Finished { transaction, .. }) = story::story(1).pop() else { unreachable!() };
    let mut transaction = (*transaction).clone();
    transaction.created_at = UnixMillis(begun_ms(n));
    transaction.finished_at = Some(UnixMillis(begun_ms(n)));
    transaction.records = 0;
    change(&mut transaction);
    Entry::Finished { id: story::id(n), transaction: Arc::new(transaction) }
}

fn found(journal: &dyn Journal, find: &Find) -> Vec<TransactionId> {
    let mut ids = vec![];
    let each = &mut |id, _| {
        ids.push(id);
        true
    };
    journal.find(find, each).unwrap();
    ids
}

fn write(log: &Log, entries: &[Entry]) {
    log.append(1, entries);
    log.wait_written(entries.len());
}

#[test]
fn finished_transactions_are_found_newest_first_by_what_they_have() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let entries: Vec<_> = (0..40)
        .map(|n| {
            finished(n, |transaction| {
                transaction.state = if n % 3 == 0 { State::Aborted } else { State::Committed };
                if n % 4 == 0 {
                    transaction.branches[0].participant = "http://localhost/four".parse().unwrap();
                }
                transaction.metadata = Arc::new([("five".to_owned(), (n % 5).to_string())].into());
                transaction.keys = vec![Key { text: format!("key-{n}").into(), call: KeyedCall::Begin, body: 1 }];
            })
        })
        .collect();
    write(&log, &entries);
    let ids = |fits: fn(u64) -> bool| (0..40).rev().filter(|n| fits(*n)).map(story::id).collect::<Vec<_>>();
    let four = Tag::participant(&"http://localhost/four".parse().unwrap());
    let aborted = Tag::state(State::Aborted);
    let find = |groups| Find { groups, ..Find::default() };
    assert_eq!(found(&log.journal, &find(vec![])), ids(|_| true));
    assert_eq!(found(&log.journal, &find(vec![vec![four]])), ids(|n| n % 4 == 0));
    assert_eq!(found(&log.journal, &find(vec![vec![four], vec![aborted]])), ids(|n| n % 12 == 0));
    assert_eq!(found(&log.journal, &find(vec![vec![aborted, Tag::state(State::Committed)]])), ids(|_| true));
    assert_eq!(found(&log.journal, &find(vec![vec![aborted], vec![Tag::metadata("five", "1")]])), ids(|n| n % 15 == 6));
    assert_eq!(found(&log.journal, &find(vec![vec![Tag::key("key-7")]])), [story::id(7)]);
    assert_eq!(found(&log.journal, &find(vec![vec![]])), []);
    let part = Find { before: Some(story::id(20)), since: Some(story::id(8)), ..find(vec![vec![four]]) };
    assert_eq!(found(&log.journal, &part), [16, 12, 8].map(story::id));

    // Cut short after any number of looks, a search goes on where it stopped, and finds the same.
    let five = |n: u64| vec![Tag::metadata("five", &n.to_string())];
    for groups in
        [vec![], vec![vec![four], vec![aborted]], vec![five(1), five(2)], vec![five(3), vec![four], vec![aborted]]]
    {
        let all = found(&log.journal, &find(groups.clone()));
        for looks in 1..30 {
            let (mut seen, mut parts, mut before) = (vec![], 0, None);
            loop {
                let each = &mut |id, _| {
                    seen.push(id);
                    true
                };
                let part = Find { before, looks: Some(looks), ..find(groups.clone()) };
                let reached = log.journal.find(&part, each).unwrap();
                parts += 1;
                assert!(parts < 1_000, "it gets nowhere: {reached:?}");
                if reached.is_none() {
                    break;
                }
                before = reached;
            }
            assert_eq!(seen, all, "{looks} looks");
            assert!(parts > 1 || looks > 4, "{looks} looks can't have been enough");
        }
    }
}

const KEEP: Duration = Duration::from_secs(1000);
const DAY_MS: u64 = 86_400_000;

/// A log, and the clocks of its process.
struct Clocked {
    log: Log,
    now: Reading,
    written: usize,
    /// What was said last before something went.
    said: Option<(UnixMillis, TransactionId)>,
}

impl Clocked {
    fn open(dir: &std::path::Path, opening: impl Into<Opening>) -> Self {
        let opening = opening.into();
        let log = Log::open_with(dir, opening).unwrap();
        let mut this = Self { log, now: Reading { mono: 7, wall: opening.now }, written: 0, said: None };
        this.look();
        this
    }

    fn write(&mut self, entries: &[Entry]) {
        self.log.append(self.written + 1, entries);
        self.written += entries.len();
        self.log.wait_written(self.written);
    }

    fn look(&mut self) -> Plausibility {
        let said = &mut self.said;
        self.log.journal.retain(KEEP, self.now, |since, forgotten| *said = Some((since, forgotten))).unwrap()
    }

    /// Runs for so many seconds, and looks every ten.
    fn run(&mut self, seconds: u64) -> Plausibility {
        let mut found = Plausibility::Plausible;
        for _ in 0..seconds / 10 {
            self.now.mono += 10_000;
            self.now.wall.0 += 10_000;
            found = self.look();
        }
        found
    }

    fn has(&self, n: u64) -> bool {
        self.log.journal.finished(story::id(n)).unwrap().is_some()
    }
}

#[test]
fn transaction_is_dropped_after_the_time_of_keeping() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Clocked::open(dir.path(), story::NOW);
    log.write(&[
        finished(0, |_| ()),
        finished(1, |transaction| transaction.branches[0].state = BranchState::HeuristicUnknown),
        finished(3, |transaction| transaction.branches[0].state = BranchState::HeuristicAbort),
    ]);
    log.run(500);
    // It took long: its time counts from its end.
    log.write(&[finished(2, |_| ()), finished(4, |_| ())]);
    let all = Find { groups: vec![vec![Tag::state(State::Committed)]], ..Find::default() };
    log.run(490);
    assert_eq!(found(&log.log.journal, &all), [4, 3, 2, 1, 0].map(story::id));
    assert_eq!(log.said, None, "nothing has gone yet");
    log.run(300);
    assert_eq!(found(&log.log.journal, &all), [4, 2, 1].map(story::id));
    assert_eq!(log.said.unwrap().1, story::id(3));
    log.run(200);
    assert!(log.has(2) && log.has(4), "it has been there for 990 s");
    log.run(300);
    assert_eq!(found(&log.log.journal, &all), [story::id(1)], "until an operator removes it");
    assert_eq!(found(&log.log.journal, &Find::default()), [story::id(1)]);
    assert_eq!(log.said.unwrap().1, story::id(4));
    log.run(20_000);
    assert!(log.has(1));
}

#[test]
fn retained_since_lies_between_what_was_dropped_and_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Clocked::open(dir.path(), story::NOW);
    let mut begun = vec![];
    for n in 0..200 {
        log.write(&[finished(n, |_| ())]);
        begun.push(log.now.wall);
        log.run(20);
        let Some((since, forgotten)) = log.said else { continue };
        for (n, at) in (0..).zip(&begun) {
            assert!(log.has(n) || *at <= since, "{n} was begun at {at}, and has gone; {since}");
            assert!(!log.has(n) || *at >= since, "{n} was begun at {at}, and is there; {since}");
            assert_eq!(log.has(n), story::id(n) > forgotten);
        }
    }
    assert!(!log.has(100) && log.has(199));
    // After a start it is known.
    let said = log.said.unwrap();
    drop(log);
    let log = Clocked::open(dir.path(), UnixMillis(story::NOW.0 + 4_000_000));
    assert_eq!((log.log.recovered.retained_since, log.log.recovered.forgotten), said);
}

#[test]
fn clock_that_jumps_in_a_running_process_drops_nothing() {
    for jump in [365 * DAY_MS, 20 * 365 * DAY_MS] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Clocked::open(dir.path(), story::NOW);
        log.write(&[finished(0, |_| ())]);
        log.run(200);
        log.now.wall.0 += jump;
        assert_eq!(log.run(500), Plausibility::Ahead);
        assert!(log.has(0) && log.said.is_none());
        log.now.wall.0 -= jump;
        assert_eq!(log.run(100), Plausibility::Plausible);
        log.now.wall.0 -= 10 * DAY_MS;
        assert_eq!(log.run(100), Plausibility::Behind);
        assert!(log.has(0) && log.said.is_none());
        log.now.wall.0 += 10 * DAY_MS;
        log.run(500);
        assert!(!log.has(0), "what running makes old is dropped");
        let (since, _) = log.said.unwrap();
        assert!(since <= log.now.wall, "{since}");
    }
}

#[test]
fn start_under_a_clock_that_is_ahead_drops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Clocked::open(dir.path(), story::NOW);
    log.write(&[finished(0, |_| ())]);
    log.run(100);
    let mut wall = log.now.wall;
    drop(log);
    for _ in 0..3 {
        let mut log = Clocked::open(dir.path(), UnixMillis(wall.0 + 30 * DAY_MS));
        assert_eq!(log.run(100), Plausibility::Ahead);
        assert!(log.has(0));
        drop(log);
        wall.0 += 100_000;
        let log = Clocked::open(dir.path(), wall);
        assert!(log.has(0));
        assert!(log.log.recovered.retained_since <= story::NOW);
    }
}

#[test]
fn clock_that_was_ahead_once_stops_no_retention() {
    let dir = tempfile::tempdir().unwrap();
    drop(Clocked::open(dir.path(), story::NOW));
    let mut ahead = Clocked::open(dir.path(), UnixMillis(story::NOW.0 + 400 * DAY_MS));
    let at = ahead.now.wall;
    ahead.write(&[finished(500_000_000, |transaction| {
        transaction.created_at = at;
        transaction.finished_at = Some(at);
    })]);
    ahead.run(50);
    drop(ahead);
    let mut log = Clocked::open(dir.path(), UnixMillis(story::NOW.0 + 60_000));
    log.write(&[finished(500_000_001, |_| ())]);
    log.run(1_500);
    assert!(!log.has(500_000_000) && !log.has(500_000_001));
    assert!(log.said.unwrap().0 <= log.now.wall, "{:?}", log.said);
}

#[test]
fn short_standstill_counts_and_a_long_one_when_the_clock_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Clocked::open(dir.path(), story::NOW);
    log.write(&[finished(0, |_| ())]);
    log.run(200);
    let wall = log.now.wall;
    drop(log);
    // Ten minutes: it is caught up with while it runs.
    let mut log = Clocked::open(dir.path(), UnixMillis(wall.0 + 600_000));
    log.run(300);
    assert!(log.has(0), "800 s");
    log.run(300);
    assert!(!log.has(0));
    log.write(&[finished(1, |_| ())]);
    log.run(200);
    let wall = UnixMillis(log.now.wall.0 + 90 * DAY_MS);
    drop(log);
    let mut log = Clocked::open(dir.path(), wall);
    assert_eq!(log.run(100), Plausibility::Ahead);
    assert!(log.has(1));
    let wall = log.now.wall;
    drop(log);
    let mut log = Clocked::open(dir.path(), Opening { accept_clock: true, ..wall.into() });
    assert_eq!(log.run(100), Plausibility::Plausible);
    assert!(!log.has(1));
    // What had finished just before the standstill is as old.
    log.write(&[finished(2, |_| ())]);
    let wall = UnixMillis(log.now.wall.0 + 90 * DAY_MS);
    drop(log);
    let log = Clocked::open(dir.path(), Opening { accept_clock: true, ..wall.into() });
    assert!(!log.has(2));
    let (since, forgotten) = log.said.unwrap();
    assert!(forgotten == story::id(2) && since.0 < wall.0 - 80 * DAY_MS, "{since}");
}

#[test]
fn log_of_the_first_release_has_forgotten_its_highest_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Clocked::open(dir.path(), story::NOW);
    log.write(&[finished(0, |_| ()), finished(5, |_| ())]);
    assert_eq!(log.log.recovered.forgotten, TransactionId::NIL);
    drop(log);
    let forget = |retained: UnixMillis| {
        super::rules::change(dir.path(), |_| {
            let retained = encoding::encode(&retained).unwrap();
            vec![
                Change::Delete(Table::Meta, encoding::FORGOTTEN.to_vec()),
                Change::Delete(Table::Meta, encoding::TIME.to_vec()),
                Change::Put(Table::Meta, encoding::RETAINED.to_vec(), retained),
            ]
        });
    };
    // Its passes had come to nothing yet.
    forget(UnixMillis(story::NOW.0 - 1));
    assert_eq!(Log::open(dir.path()).unwrap().recovered.forgotten, TransactionId::NIL);
    forget(UnixMillis(story::NOW.0 + 1));
    assert_eq!(Log::open(dir.path()).unwrap().recovered.forgotten, story::id(5));
}

#[test]
fn log_in_memory_forgets_as_the_one_on_disk_does() {
    let (log, recovered) = Memory::create(story::coordinator(), story::NOW, 1).unwrap();
    assert_eq!(recovered.forgotten, TransactionId::NIL);
    let entries = [finished(0, |_| ()), finished(1, |_| ())];
    log.append(crate::journal::Lsn(1), entries.to_vec());
    log.pump().unwrap();
    let mut said = None;
    for seconds in (0..1_300).step_by(50) {
        let now = Reading { mono: seconds * 1000, wall: UnixMillis(story::NOW.0 + seconds * 1000) };
        log.retain(KEEP, now, |since, forgotten| said = Some((since, forgotten))).unwrap();
    }
    assert_eq!(log.finished(story::id(1)).unwrap(), None);
    let (since, forgotten) = said.unwrap();
    assert_eq!(forgotten, story::id(1));
    let (_, recovered) = log.kill(UnixMillis(story::NOW.0 + 1_300_000), 2).unwrap();
    assert_eq!((recovered.forgotten, recovered.retained_since), (forgotten, since));
}

#[test]
fn the_forced_record_of_a_decision_that_is_still_being_told_is_never_dropped() {
    let dir = tempfile::tempdir().unwrap();
    // The last transaction is decided and has one acknowledgement; nothing is finished.
    let entries: Vec<_> = story::story(4).into_iter().take(20).collect();
    story::write(dir.path(), &entries);
    for minutes in 0..4 {
        let mut log = Clocked::open(dir.path(), UnixMillis(story::NOW.0 + minutes * 1_200_000));
        assert_eq!(log.log.recovered.live.len(), 4);
        log.run(1_200);
        log.log.journal.close().unwrap();
    }
    crate::journal::rocks::verify(dir.path()).unwrap();
}

#[test]
fn forced_records_before_an_old_checkpoint_are_dropped_and_the_log_still_opens() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story::story(40);
    story::write(dir.path(), &entries);
    // A clean stop writes a checkpoint.
    Log::open(dir.path()).unwrap().journal.close().unwrap();
    let mut log = Clocked::open(dir.path(), story::NOW);
    log.run(1_500);
    let sequence = log.log.recovered.sequence;
    drop(log);
    let report = crate::journal::rocks::verify(dir.path()).unwrap();
    assert_eq!(report.sequence, sequence);
    let mut first = None;
    super::rules::change(dir.path(), |database| {
        use crate::journal::recovery::Tables;
        database
            .scan(Table::Outcomes, &[], &mut |key, _| {
                first = Some(encoding::outcome_of_key(key).unwrap());
                Ok(std::ops::ControlFlow::Break(()))
            })
            .unwrap();
        vec![]
    });
    assert!(first > Some(10), "{first:?}");
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.recovered.sequence, sequence);
    assert_eq!(log.recovered.highest, story::id(39));
}
