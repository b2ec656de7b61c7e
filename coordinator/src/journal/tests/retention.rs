//! Finding what has finished, and forgetting it in time.

use std::{sync::Arc, time::Duration};

use unanimous_sdk::protocol::{TransactionId, UnixMillis};

use super::story::{self, Log};
use crate::{
    journal::{Entry, Find, Journal, Tag},
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

#[test]
fn what_finished_long_ago_is_dropped_and_what_was_never_acknowledged_stays() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let keep = Duration::from_secs(1000);
    let entries = [
        finished(0, |_| ()),
        finished(1, |transaction| transaction.branches[0].state = BranchState::HeuristicUnknown),
        // It took long: its time counts from its end.
        finished(2, |transaction| transaction.finished_at = Some(UnixMillis(begun_ms(2) + 5_000_000))),
        finished(3, |transaction| transaction.branches[0].state = BranchState::HeuristicAbort),
        finished(9_000_000, |_| ()),
    ];
    write(&log, &entries);
    let all = Find { groups: vec![vec![Tag::state(State::Committed)]], ..Find::default() };
    assert_eq!(found(&log.journal, &all), [9_000_000, 3, 2, 1, 0].map(story::id));

    let mut heard = None;
    log.journal.retain(keep, UnixMillis(begun_ms(1_500_000)), |since| heard = Some(since)).unwrap();
    assert_eq!(heard, Some(UnixMillis(begun_ms(440_000))), "1,000 s ago, and a minute for what ended late");
    assert_eq!(found(&log.journal, &all), [9_000_000, 2, 1].map(story::id));
    assert!(log.journal.finished(story::id(0)).unwrap().is_none());
    assert!(log.journal.finished(story::id(2)).unwrap().is_some());

    log.journal.retain(keep, UnixMillis(begun_ms(6_500_000)), |_| ()).unwrap();
    assert_eq!(found(&log.journal, &all), [9_000_000, 1].map(story::id));
    log.journal.retain(keep, UnixMillis(begun_ms(90_000_000)), |_| ()).unwrap();
    assert_eq!(found(&log.journal, &all), [story::id(1)], "until an operator removes it");
    let nothing_more = Find::default();
    assert_eq!(found(&log.journal, &nothing_more), [story::id(1)]);
    drop(log);
    // After a restart, with a longer time to keep, what is gone is still said to be gone.
    let log = Log::open(dir.path()).unwrap();
    let mut heard = None;
    log.journal.retain(keep * 1000, UnixMillis(begun_ms(90_000_000)), |since| heard = Some(since)).unwrap();
    assert_eq!(heard, Some(UnixMillis(begun_ms(88_940_000))));
}

#[test]
fn the_forced_record_of_a_decision_that_is_still_being_told_is_never_dropped() {
    let dir = tempfile::tempdir().unwrap();
    // The last transaction is decided and has one acknowledgement; nothing is finished.
    let entries: Vec<_> = story::story(4).into_iter().take(20).collect();
    story::write(dir.path(), &entries);
    let keep = Duration::from_secs(10);
    for minutes in 0..4 {
        let log = Log::open(dir.path()).unwrap();
        assert_eq!(log.recovered.live.len(), 4);
        log.journal.retain(keep, UnixMillis(story::NOW.0 + minutes * 60_000), |_| ()).unwrap();
        log.journal.retain(keep, UnixMillis(story::NOW.0 + minutes * 60_000 + 30_000), |_| ()).unwrap();
        log.journal.close().unwrap();
    }
    crate::journal::rocks::verify(dir.path()).unwrap();
}

#[test]
fn forced_records_before_an_old_checkpoint_are_dropped_and_the_log_still_opens() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story::story(40);
    story::write(dir.path(), &entries);
    let open = || Log::open(dir.path()).unwrap();
    // A clean stop writes a checkpoint.
    open().journal.close().unwrap();
    let log = open();
    let keep = Duration::from_secs(10);
    log.journal.retain(keep, story::NOW, |_| ()).unwrap();
    log.journal.retain(keep, UnixMillis(story::NOW.0 + 60_000), |_| ()).unwrap();
    let sequence = log.recovered.sequence;
    drop(log);
    let report = crate::journal::rocks::verify(dir.path()).unwrap();
    assert_eq!(report.sequence, sequence);
    let log = open();
    assert_eq!(log.recovered.sequence, sequence);
    assert_eq!(log.recovered.highest, story::id(39));
}
