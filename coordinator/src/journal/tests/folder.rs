//! The data folder: what is foreign, newer, damaged or held by another is refused by name, and left as it is.

use std::{fs, ops::ControlFlow, path::Path};

use uuid::Uuid;

use super::{
    rules::change,
    story::{Log, NOW, View, coordinator, files, story, write},
};
use crate::journal::{
    Error, Journal,
    chain::{Forced, Tip},
    encoding::{self, Change, Table},
    format,
    mark::{self, Mark},
    recovery::Tables,
    rocks,
};

/// Opening is refused, and changes nothing but the lock file.
#[track_caller]
fn refused(dir: &Path) -> Error {
    let before = files(dir);
    let Err(error) = rocks::open(dir, NOW, rand::random) else { panic!("it was opened") };
    assert_eq!(files(dir), before, "a refusal changes nothing: {error}");
    error
}

/// A log with a few transactions, and its last forced number.
fn log() -> (tempfile::TempDir, Tip) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &story(6));
    let tip = Mark::read(&dir.path().join("log/MARK"), identity(dir.path())).unwrap();
    assert!(tip.number > 4);
    (dir, tip)
}

fn identity(dir: &Path) -> unanimous_sdk::protocol::CoordinatorId {
    let text = fs::read_to_string(dir.join("log/FORMAT")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("coordinator ")).unwrap().parse().unwrap()
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let error = rocks::open(dir.path(), NOW, rand::random).err().unwrap();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    log.append(1, &story(1));
    log.wait_written(7);
    log.journal.close().unwrap();
    drop(log);
    rocks::open(dir.path(), NOW, rand::random).unwrap();
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let error = refused(dir.path());
    assert!(matches!(&error, Error::ForeignFolder { found, .. } if found == "thesis.txt"), "{error}");
    let error = rocks::open(&dir.path().join("thesis.txt"), NOW, rand::random).err().unwrap();
    assert!(matches!(error, Error::NotAFolder { .. }), "{error}");
}

#[test]
fn what_a_file_system_puts_into_an_empty_folder_is_not_foreign() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    Log::open(dir.path()).unwrap();
}

#[test]
fn a_creation_that_was_cut_short_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("log.new/db")).unwrap();
    fs::write(dir.path().join("log.new/FORMAT"), "unanim").unwrap();
    fs::write(dir.path().join("log.new/db/CURRENT"), "MANIFEST-0").unwrap();
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.view(0).unwrap(), View::of_entries(&[]));
    assert!(!dir.path().join("log.new").exists());
}

#[test]
fn a_newer_format_is_refused() {
    let (dir, _) = log();
    let path = dir.path().join("log/FORMAT");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("format 1", "format 2")).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, Error::NewerFormat { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_foreign_a_damaged_and_a_missing_format_are_refused() {
    let (dir, _) = log();
    let path = dir.path().join("log/FORMAT");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("coordinator", "coordinatos")).unwrap();
    assert!(matches!(refused(dir.path()), Error::DamagedFormat { .. }));
    fs::write(&path, "SQLite format 3\0").unwrap();
    assert!(matches!(refused(dir.path()), Error::ForeignFormat { .. }));
    fs::remove_file(&path).unwrap();
    assert!(matches!(refused(dir.path()), Error::Io { .. }));
}

#[test]
fn a_newer_form_of_a_value_is_refused() {
    let (dir, _) = log();
    change(dir.path(), |_| vec![Change::Put(Table::Meta, encoding::HIGHEST.to_vec(), vec![2, 0])]);
    let error = refused(dir.path());
    assert!(matches!(&error, Error::Unreadable { why, .. } if why.contains("newer")), "{error}");
}

#[test]
fn a_missing_mark_is_refused() {
    let (dir, _) = log();
    fs::remove_file(dir.path().join("log/MARK")).unwrap();
    assert!(matches!(refused(dir.path()), Error::MarkMissing { .. }));
}

#[test]
fn a_mark_ahead_of_the_log_is_refused_and_says_how_much_is_missing() {
    let (dir, tip) = log();
    let ahead = Tip { number: tip.number + 3, chain: 5 };
    fs::write(dir.path().join("log/MARK"), mark::bytes(identity(dir.path()), ahead)).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, Error::MarkAhead { mark, end } if (mark, end) == (tip.number + 3, tip.number)));
    assert!(error.to_string().contains(": 3 are missing"), "{error}");
}

#[test]
fn a_mark_of_another_record_is_refused() {
    let (dir, tip) = log();
    let other = Tip { chain: tip.chain ^ 1, ..tip };
    fs::write(dir.path().join("log/MARK"), mark::bytes(identity(dir.path()), other)).unwrap();
    assert!(matches!(refused(dir.path()), Error::MarkDiffers { number } if number == tip.number));
}

#[test]
fn a_mark_of_another_coordinator_is_refused() {
    let (dir, tip) = log();
    fs::write(dir.path().join("log/MARK"), mark::bytes(coordinator(), tip)).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, Error::MarkOfAnother { found, .. } if found == coordinator()), "{error}");
}

#[test]
fn a_database_of_another_log_is_refused() {
    let (dir, _) = log();
    let (other, _) = log();
    fs::remove_dir_all(dir.path().join("log/db")).unwrap();
    fs::rename(other.path().join("log/db"), dir.path().join("log/db")).unwrap();
    assert!(matches!(refused(dir.path()), Error::DatabaseOfAnother { .. }));
}

#[test]
fn a_missing_database_is_never_an_empty_log() {
    let (dir, _) = log();
    fs::remove_dir_all(dir.path().join("log/db")).unwrap();
    assert!(matches!(refused(dir.path()), Error::DatabaseMissing { .. }));
    fs::create_dir(dir.path().join("log/db")).unwrap();
    assert!(matches!(refused(dir.path()), Error::DatabaseMissing { .. }));
}

#[test]
fn a_hole_in_the_chain_is_refused() {
    let (dir, tip) = log();
    let missing = tip.number - 2;
    change(dir.path(), |_| vec![Change::Delete(Table::Outcomes, encoding::outcome_key(missing))]);
    assert!(matches!(refused(dir.path()), Error::Gap { missing: at, next } if (at, next) == (missing, missing + 1)));
}

#[test]
fn a_forced_record_that_was_changed_is_refused() {
    let (dir, tip) = log();
    change(dir.path(), |database| {
        let key = encoding::outcome_key(tip.number);
        let value = database.get(Table::Outcomes, &key).unwrap().unwrap();
        let (mut link, _) = format::read_outcome_row(&value).unwrap();
        let Forced::Decided { digest, .. } = &mut link.forced else { panic!("the last one is a decision") };
        *digest ^= 1;
        vec![Change::Put(Table::Outcomes, key, format::outcome_row(&link).unwrap())]
    });
    assert!(matches!(refused(dir.path()), Error::Chain { number } if number == tip.number));
}

#[test]
fn a_decision_that_is_not_the_one_in_the_chain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story(1);
    write(dir.path(), &entries[..4]);
    change(dir.path(), |database| {
        let mut changed = None;
        let mut each = |key: &[u8], value: &[u8]| {
            if value.len() > changed.as_ref().map_or(0, |(_, longest): &(Vec<u8>, Vec<u8>)| longest.len()) {
                changed = Some((key.to_vec(), value.to_vec()));
            }
            Ok(ControlFlow::Continue(()))
        };
        database.scan(Table::Live, &[], &mut each).unwrap();
        // The longest is the decision; what is changed in it is the name of a branch.
        let (key, mut value) = changed.unwrap();
        let at = value.windows(6).position(|part| part == b"orders").unwrap();
        value[at] = b'O';
        vec![Change::Put(Table::Live, key, value)]
    });
    let error = refused(dir.path());
    assert!(matches!(error, Error::Transaction { .. }) && error.to_string().contains("decision"), "{error}");
}

#[test]
fn a_transaction_with_a_missing_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story(1);
    write(dir.path(), &entries[..3]);
    let id = super::story::id(0);
    change(dir.path(), |_| vec![Change::Delete(Table::Live, encoding::live_key(id, 1))]);
    assert!(matches!(refused(dir.path()), Error::Transaction { id: of, .. } if of == id));
}

#[test]
fn a_folder_that_can_t_be_made_says_which() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = rocks::open(&dir.path().join("file/data"), NOW, rand::random).err().unwrap();
    assert!(error.to_string().contains("file/data"), "{error}");
}

#[test]
fn verify_makes_no_log_where_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(rocks::verify(dir.path()).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn coordinators_of_two_new_logs_differ() {
    let (one, _) = log();
    let (two, _) = log();
    assert_ne!(identity(one.path()), identity(two.path()));
    assert_ne!(identity(one.path()).uuid(), Uuid::nil());
}
