//! A folder that is not where its place was recorded is refused, and left as it is; and how a moved one is started.

use std::{fs, path::Path};

use super::story::{Log, NOW, View, copy_as_is, files, story, write};
use crate::journal::{
    Error, Journal, Opening,
    encoding::{self, Change, Table},
    rocks,
};

fn open(dir: &Path, moved: bool) -> Result<(), Error> {
    rocks::open(dir, Opening { moved, ..NOW.into() }, rand::random).map(drop)
}

#[track_caller]
fn refused(dir: &Path, moved: bool) -> Error {
    let before = files(dir);
    let Err(error) = open(dir, moved) else { panic!("it was opened") };
    assert_eq!(files(dir), before, "a refusal changes nothing: {error}");
    error
}

/// A log that a clean stop has left.
fn stopped() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &story(6));
    Log::open(dir.path()).unwrap().journal.close().unwrap();
    dir
}

#[test]
fn copied_folder_is_refused_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &story(6));
    let copy = tempfile::tempdir().unwrap();
    copy_as_is(dir.path(), copy.path());
    let error = refused(copy.path(), false);
    assert!(matches!(error, Error::Copied { .. }), "{error}");
    let text = error.to_string();
    assert!(["copy", "restore", "serve --moved"].iter().all(|word| text.contains(word)), "{text}");
    open(dir.path(), false).unwrap();
}

#[test]
fn renamed_folder_is_opened() {
    let dir = stopped();
    let home = tempfile::tempdir().unwrap();
    let renamed = home.path().join("elsewhere");
    fs::rename(dir.path(), &renamed).unwrap();
    open(&renamed, false).unwrap();
}

#[test]
fn earlier_copy_over_the_original_is_refused() {
    let dir = stopped();
    let earlier = files(dir.path());
    Log::open(dir.path()).unwrap().journal.close().unwrap();
    // The files keep their inodes, as with `cp -a copy/. original/`.
    for (path, content) in earlier.into_iter().filter(|(path, _)| !path.is_dir()) {
        fs::write(path, content).unwrap();
    }
    let error = refused(dir.path(), false);
    assert!(matches!(error, Error::Copied { .. }), "{error}");
}

#[test]
fn removed_record_of_the_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &story(6));
    fs::remove_file(dir.path().join("log/PLACE")).unwrap();
    let error = refused(dir.path(), false);
    assert!(matches!(error, Error::PlaceMissing { .. }), "{error}");
    assert!(matches!(refused(dir.path(), true), Error::MovedWithoutStop { .. }));
}

#[test]
fn damaged_record_of_the_place_is_refused() {
    let dir = stopped();
    fs::write(dir.path().join("log/PLACE"), "unanimous place 1").unwrap();
    let error = refused(dir.path(), false);
    assert!(matches!(error, Error::PlaceDamaged { .. }), "{error}");
    open(dir.path(), true).unwrap();
    open(dir.path(), false).unwrap();
}

#[test]
fn log_without_a_recorded_place_records_it_at_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story(6);
    write(dir.path(), &entries);
    // As the first release left it.
    super::rules::change(dir.path(), |_| vec![Change::Delete(Table::Meta, encoding::PLACED.to_vec())]);
    fs::remove_file(dir.path().join("log/PLACE")).unwrap();
    assert!(matches!(refused(dir.path(), true), Error::NotMoved { .. }));
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.view(entries.len()).unwrap(), View::of_entries(&entries));
    drop(log);
    let copy = tempfile::tempdir().unwrap();
    copy_as_is(dir.path(), copy.path());
    assert!(matches!(refused(copy.path(), false), Error::Copied { .. }));
}

#[test]
fn folder_moved_after_a_clean_stop_is_opened_once() {
    let dir = stopped();
    let moved = tempfile::tempdir().unwrap();
    copy_as_is(dir.path(), moved.path());
    assert!(matches!(refused(moved.path(), false), Error::Copied { .. }));
    open(moved.path(), true).unwrap();
    assert!(matches!(refused(moved.path(), true), Error::NotMoved { .. }), "it is at its place now");
    open(moved.path(), false).unwrap();
}

#[test]
fn folder_moved_without_a_clean_stop_is_refused() {
    let dir = stopped();
    // It was opened since, and the process was killed.
    drop(Log::open(dir.path()).unwrap());
    let moved = tempfile::tempdir().unwrap();
    copy_as_is(dir.path(), moved.path());
    let error = refused(moved.path(), true);
    assert!(matches!(error, Error::MovedWithoutStop { .. }), "{error}");
}

#[test]
fn unmoved_folder_with_moved_is_refused() {
    let dir = stopped();
    assert!(matches!(refused(dir.path(), true), Error::NotMoved { .. }));
    open(dir.path(), false).unwrap();
}

#[test]
fn empty_folder_with_moved_becomes_no_log() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(refused(dir.path(), true), Error::NotMoved { .. }));
    let mistyped = dir.path().join("mistyped");
    assert!(matches!(open(&mistyped, true), Err(Error::NotMoved { .. })));
    assert!(!mistyped.exists());
}
