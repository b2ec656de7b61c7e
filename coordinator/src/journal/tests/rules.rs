//! The contract, on real files.

use std::sync::{Arc, mpsc};

use unanimous_sdk::protocol::{Epoch, TransactionId, UnixMillis};
use uuid::Uuid;

use super::story::{Log, NOW, View, story, write};
use crate::journal::{
    Entry, Error, Journal, Lsn, Opening, Progress, Reading,
    database::Database,
    encoding::{self, Change, Table},
    rocks,
};
use crate::uuid7::{millis, next_uuid_v7};

#[test]
fn an_empty_folder_becomes_an_empty_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&dir.path().join("data")).unwrap();
    assert_eq!(log.view(0).unwrap(), View::of_entries(&[]));
    assert_eq!(log.recovered.created_at, NOW);
    assert_eq!(log.recovered.epochs.iter().collect::<Vec<_>>(), [&log.recovered.epoch]);
}

#[test]
fn a_log_that_was_closed_gives_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story(10);
    let entries = &entries[..entries.len() - 5];
    let log = Log::open(dir.path()).unwrap();
    log.append(1, entries);
    log.journal.close().unwrap();
    let last = Lsn(entries.len() as u64);
    assert_eq!(log.wait_written(entries.len()), Progress { written: last, durable: last }, "closing makes all durable");
    let coordinator = log.recovered.coordinator;
    drop(log);
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.view(entries.len()).unwrap(), View::of_entries(entries));
    assert_eq!(log.recovered.coordinator, coordinator);
}

#[test]
fn a_log_whose_process_just_went_gives_back_all_that_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story(9);
    write(dir.path(), &entries);
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.view(entries.len()).unwrap(), View::of_entries(&entries));
}

#[test]
fn a_log_is_added_to_over_many_openings() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story(12);
    for (at, part) in entries.chunks(10).enumerate() {
        let log = Log::open(dir.path()).unwrap();
        assert_eq!(log.view(entries.len()).unwrap(), View::of_entries(&entries[..at * 10]));
        log.append(1, part);
        log.wait_written(part.len());
        if at % 2 == 0 {
            log.journal.close().unwrap();
        }
    }
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.view(entries.len()).unwrap(), View::of_entries(&entries));
    let openings = entries.len().div_ceil(10) + 1;
    assert_eq!(log.recovered.epochs.len(), openings);
    drop(log);
    let report = rocks::verify(dir.path()).unwrap();
    assert_eq!((report.sequence, report.live), (10, 0));
    assert_eq!(report.forced_records, 10 + openings as u64 + 5, "decisions, openings, checkpoints of closings");
}

#[test]
fn an_epoch_is_greater_than_every_epoch_and_transaction_before_it_whatever_the_clock_says() {
    let dir = tempfile::tempdir().unwrap();
    let (first, recovered) = rocks::open(dir.path(), NOW, rand::random).unwrap();
    drop(first);
    let (second, back) = rocks::open(dir.path(), UnixMillis(1), rand::random).unwrap();
    assert!(back.epoch > recovered.epoch);
    assert!(back.epochs.contains(&recovered.epoch) && back.epochs.contains(&back.epoch));
    drop(second);

    let far = TransactionId::from_uuid(uuid_at(NOW.0 + 86_400_000));
    let entries = story(1);
    let Entry::Record { record, .. } = &entries[0] else { unreachable!("a story begins with a record") };
    let log = Log::open(dir.path()).unwrap();
    log.append(1, &[Entry::Record { id: far, index: 0, record: record.clone() }]);
    log.journal.close().unwrap();
    drop(log);
    let (_, later) = rocks::open(dir.path(), NOW, rand::random).unwrap();
    assert_eq!(later.highest, far);
    assert!(later.epoch.uuid() > far.uuid());
}

#[test]
fn epoch_under_a_clock_ahead_is_an_hour_ahead_at_most() {
    const HOUR: u64 = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let open = |ahead: u64, accept_clock| {
        let opening = Opening { accept_clock, ..UnixMillis(NOW.0 + ahead).into() };
        millis(rocks::open(dir.path(), opening, rand::random).unwrap().1.epoch.uuid())
    };
    assert_eq!(open(0, false), NOW.0, "an empty log has none but the wall clock");
    for _ in 0..5 {
        let epoch = open(400 * 24 * HOUR, false);
        assert!((NOW.0 + HOUR..NOW.0 + HOUR + 10).contains(&epoch), "starts gain nothing");
    }
    assert!(open(1, false) < NOW.0 + HOUR + 10);
    assert_eq!(open(2 * HOUR, false), open(0, false), "the id time has not moved");
    assert_eq!(open(400 * 24 * HOUR, true), NOW.0 + 400 * 24 * HOUR, "an operator says so");
}

/// An id of this moment.
fn uuid_at(millis: u64) -> Uuid {
    next_uuid_v7(Uuid::nil(), millis, 7)
}

#[test]
fn an_epoch_is_greater_than_the_one_that_superseded_this_log() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = Epoch::from_uuid(uuid_at(NOW.0 + 1_000_000));
    let log = Log::open(dir.path()).unwrap();
    log.append(1, &[Entry::HigherEpoch { epoch, named_by: "http://127.0.0.1:7071".to_owned() }]);
    assert_eq!(log.wait_written(1).durable, Lsn(1), "it is forced");
    drop(log);
    let log = Log::open(dir.path()).unwrap();
    assert!(log.recovered.epoch > epoch);
    assert!(!log.recovered.epochs.contains(&epoch), "the log was never opened under it");
}

#[test]
fn lazy_entries_are_reported_written_and_become_durable_with_the_next_forced_one() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story(1);
    let log = Log::open(dir.path()).unwrap();
    let forced = entries.iter().position(Entry::is_forced).unwrap();
    log.append(1, &entries[..forced]);
    assert_eq!(log.wait_written(forced), Progress { written: Lsn(forced as u64), durable: Lsn(0) });
    assert_eq!(log.journal.stats().forced_writes, 0);
    log.append(forced + 1, &entries[forced..=forced]);
    let last = Lsn(forced as u64 + 1);
    assert_eq!(log.wait_written(forced + 1), Progress { written: last, durable: last });
    assert_eq!(log.journal.stats().forced_writes, 1);
}

#[test]
fn what_waits_while_the_disk_is_busy_shares_one_forced_write() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story(40);
    let (opened, _) = rocks::open(dir.path(), NOW, rand::random).unwrap();
    let (reached, progress) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    // The writer stands still in here, as it would in a slow sync.
    let on_progress = move |now| {
        reached.send(now).unwrap();
        let _ = gate.lock().unwrap().recv();
    };
    let journal = opened.start(Box::new(on_progress), Box::new(|error| panic!("{error}"))).unwrap();
    journal.append(Lsn(1), entries[..1].to_vec());
    progress.recv().unwrap();
    for (at, entry) in entries.iter().enumerate().skip(1) {
        journal.append(Lsn(at as u64 + 1), vec![entry.clone()]);
    }
    go.send(()).unwrap();
    let last = Lsn(entries.len() as u64);
    assert_eq!(progress.recv().unwrap(), Progress { written: last, durable: last });
    drop(go);
    assert!(entries.iter().filter(|entry| entry.is_forced()).count() > 30);
    assert_eq!(journal.stats().forced_writes, 1);
    assert_eq!(journal.stats().batches, 2);
}

#[test]
fn a_decision_out_of_sequence_ends_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut entries = story(2);
    let second = entries.iter().rposition(Entry::is_forced).unwrap();
    let first = entries.iter().position(Entry::is_forced).unwrap();
    entries.swap(first, second);
    let error = fatal(dir.path(), Lsn(1), entries.clone());
    assert!(matches!(error, Error::Misuse(_)), "{error}");
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.view(entries.len()).unwrap(), View::of_entries(&[]), "nothing of that batch was written");
}

#[test]
fn entries_with_a_gap_in_their_numbers_end_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let error = fatal(dir.path(), Lsn(2), story(1));
    assert!(matches!(error, Error::Misuse(_)), "{error}");
}

/// Appends what must not be, and gives what the log said. It must say nothing else, and take nothing afterwards.
fn fatal(dir: &std::path::Path, first: Lsn, entries: Vec<Entry>) -> Error {
    let (opened, _) = rocks::open(dir, NOW, rand::random).unwrap();
    let (said, fatal) = mpsc::channel();
    let on_progress = |progress| panic!("{progress:?} was reported");
    let journal = opened.start(Box::new(on_progress), Box::new(move |error| said.send(error).unwrap())).unwrap();
    journal.append(first, entries.clone());
    let error = fatal.recv().unwrap();
    journal.append(first, entries);
    assert!(matches!(journal.close(), Err(Error::Ended)), "a log that failed doesn't close as if nothing were");
    assert!(fatal.recv().is_err(), "it is said once");
    error
}

#[test]
fn a_handle_dropped_by_the_writer_s_own_callback_is_no_deadlock() {
    let dir = tempfile::tempdir().unwrap();
    let (opened, _) = rocks::open(dir.path(), NOW, rand::random).unwrap();
    let slot: Arc<std::sync::Mutex<Option<rocks::RocksDb>>> = Arc::default();
    let (done, wait) = mpsc::channel();
    let own = slot.clone();
    let on_progress = move |_| {
        drop(own.lock().unwrap().take());
        let _ = done.send(());
    };
    let journal = opened.start(Box::new(on_progress), Box::new(|error| panic!("{error}"))).unwrap();
    let mut held = slot.lock().unwrap();
    held.insert(journal).append(Lsn(1), story(1));
    drop(held);
    wait.recv().unwrap();
}

#[test]
fn a_checkpoint_bounds_what_start_verifies_and_verify_still_walks_all() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story(8);
    write(dir.path(), &entries);
    Log::open(dir.path()).unwrap().journal.close().unwrap();
    change(dir.path(), |_| vec![Change::Delete(Table::Outcomes, encoding::outcome_key(3))]);
    assert!(Log::open(dir.path()).is_ok(), "it lies before the checkpoint");
    let error = rocks::verify(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Gap { missing: 3, next: 4 }), "{error}");
}

#[test]
fn every_ten_thousand_forced_records_there_is_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = Epoch::from_uuid(uuid_at(NOW.0 + 1));
    let entries = vec![Entry::HigherEpoch { epoch, named_by: "http://127.0.0.1:7071".to_owned() }; 10_010];
    let log = Log::open(dir.path()).unwrap();
    log.append(1, &entries);
    log.wait_written(entries.len());
    drop(log);
    // Only what lies behind a checkpoint is verified at start.
    change(dir.path(), |_| vec![Change::Delete(Table::Outcomes, encoding::outcome_key(9_000))]);
    Log::open(dir.path()).unwrap();
    change(dir.path(), |_| vec![Change::Delete(Table::Outcomes, encoding::outcome_key(10_005))]);
    let error = rocks::open(dir.path(), NOW, rand::random).err().unwrap();
    assert!(matches!(error, Error::Gap { missing: 10_005, .. }), "{error}");
}

/// Changes a log's tables behind its back.
pub fn change(dir: &std::path::Path, changes: impl FnOnce(&Database) -> Vec<Change>) {
    let database = Database::open(&dir.join("log/db")).unwrap();
    let changes = changes(&database);
    database.write(&changes, true).unwrap();
}

#[test]
fn ownership_is_confirmed_until_the_mark_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let (told, fatal) = mpsc::channel();
    let (opened, _) = rocks::open(dir.path(), NOW, rand::random).unwrap();
    let log = opened.start(Box::new(|_| ()), Box::new(move |error| told.send(error).unwrap())).unwrap();
    log.confirm_ownership().unwrap();
    let path = dir.path().join("log/MARK");
    let mark = std::fs::read(&path).unwrap();
    let mut other = mark.clone();
    other[30] ^= 1;
    std::fs::write(&path, other).unwrap();
    assert!(matches!(log.confirm_ownership(), Err(Error::ChangedOutside { .. } | Error::Ended)));
    assert!(matches!(fatal.recv().unwrap(), Error::ChangedOutside { .. }));
}

#[test]
fn log_stays_whole_while_its_database_begins_new_files() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let entries = story(60);
    for (at, batch) in entries.chunks(7).enumerate() {
        log.append(at * 7 + 1, batch);
        log.wait_written(at * 7 + batch.len());
        let now = Reading { mono: at as u64 * 60_000, wall: NOW };
        log.journal.retain(std::time::Duration::from_hours(1), now, |_, _| ()).unwrap();
        // What is in memory goes to tables, and a new file is begun.
        log.journal.begin_new_file();
        log.journal.confirm_ownership().unwrap();
    }
    log.journal.close().unwrap();
    drop(log);
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.view(entries.len()).unwrap(), View::of_entries(&entries));
}

#[test]
fn sync_into_a_truncated_file_moves_no_mark() {
    for syncs in [1, 200] {
        let dir = tempfile::tempdir().unwrap();
        let (mut opened, _) = rocks::open(dir.path(), NOW, rand::random).unwrap();
        for _ in 0..syncs {
            opened.sync_one(|_| ()).unwrap();
        }
        let mark = std::fs::read(dir.path().join("log/MARK")).unwrap();
        for entry in std::fs::read_dir(dir.path().join("log/db")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                std::fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap();
            }
        }
        // What is synced now leads to a file of the same length or more, with a hole.
        assert!(matches!(opened.sync_one(|_| ()), Err(Error::ChangedOutside { .. })));
        assert!(matches!(opened.sync_one(|_| ()), Err(Error::Ended)), "nothing is reported any more");
        assert_eq!(std::fs::read(dir.path().join("log/MARK")).unwrap(), mark);
    }
}

#[test]
fn file_that_the_database_itself_gives_up_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let (mut opened, _) = rocks::open(dir.path(), NOW, rand::random).unwrap();
    for _ in 0..5 {
        // What was synced is in the tables before it is looked at, its file is gone, and the next one is empty.
        opened.sync_one(Database::flush).unwrap();
        opened.sync_one(|_| ()).unwrap();
    }
}
