//! Damage on disk: whatever is cut off or changed, a log is opened with all that was reported durable, or refused with
//! everything left as it is. Never does it open with less.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::story::{Log, NOW, View, copy, files, story, write};
use crate::journal::{Entry, Error, Lsn, Progress, rocks};

/// A log that was written by two processes: the first one's entries are in table files, the second one's in the WAL.
struct Written {
    dir: tempfile::TempDir,
    entries: Vec<Entry>,
    durable: usize,
}

impl Written {
    /// So many transactions; the last few entries are lazy and not durable.
    fn new(transactions: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let entries = story(transactions);
        let first = entries.len() / 3;
        write(dir.path(), &entries[..first]);
        let Progress { durable: Lsn(durable), .. } = write(dir.path(), &entries[first..]);
        let durable = first + usize::try_from(durable).unwrap();
        assert!(durable > first && durable < entries.len());
        Self { dir, entries, durable }
    }

    fn wal(&self) -> PathBuf {
        wal_of(self.dir.path())
    }

    /// Opens a copy in which one file was changed. The error, if it was refused.
    #[track_caller]
    fn open_damaged(&self, file: &Path, damage: impl FnOnce(&mut Vec<u8>), what: &str) -> Option<Error> {
        let dir = tempfile::tempdir().unwrap();
        copy(self.dir.path(), dir.path());
        let path = dir.path().join(file);
        let mut content = fs::read(&path).unwrap();
        damage(&mut content);
        fs::write(&path, content).unwrap();
        self.check(dir.path(), self.durable, &format!("{} {what}", file.display()))
    }

    #[track_caller]
    fn check(&self, dir: &Path, durable: usize, what: &str) -> Option<Error> {
        let before = files(dir);
        let view = match rocks::open(dir, NOW, rand::random) {
            Err(error) => {
                assert_eq!(files(dir), before, "{what}: a refusal changes nothing: {error}");
                assert!(!matches!(error, Error::Misuse(_) | Error::Ended), "{what}: {error}");
                return Some(error);
            }
            Ok((opened, recovered)) => {
                let never = |error: Error| panic!("{error}");
                let journal = opened.start(Box::new(|_| ()), Box::new(never)).unwrap();
                View::of_log(&journal, &recovered, self.entries.len())
            }
        };
        match view {
            // A table file that start doesn't read: whoever asks for what is in it gets the error.
            Err(error) => Some(error),
            Ok(view) => {
                assert!(view.is_prefix(&self.entries, durable).is_some(), "{what}: what was reported durable is there");
                None
            }
        }
    }
}

/// The one WAL that holds something, relative to the folder.
fn wal_of(dir: &Path) -> PathBuf {
    let is_wal = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
    let all = files(dir).into_iter().filter(|(path, _)| is_wal(path));
    let (path, _) = all.max_by_key(|(_, content)| content.len()).unwrap();
    path.strip_prefix(dir).unwrap().to_owned()
}

/// Where the records of a WAL begin: blocks of 32 KiB, in them records of crc (4 bytes), length (2), type (1), content.
fn records(wal: &[u8]) -> Vec<usize> {
    const BLOCK: usize = 32 << 10;
    let mut all = Vec::new();
    let mut at = 0;
    while at + 7 <= wal.len() {
        if BLOCK - at % BLOCK < 7 {
            at += BLOCK - at % BLOCK;
            continue;
        }
        let length = usize::from(u16::from_le_bytes([wal[at + 4], wal[at + 5]]));
        all.push(at);
        at += 7 + length;
    }
    all
}

#[test]
fn a_wal_cut_off_anywhere_opens_with_all_that_was_durable_or_is_refused() {
    let log = Written::new(20);
    let wal = log.wal();
    let length = fs::read(log.dir.path().join(&wal)).unwrap().len();
    let (mut opened, mut refused) = (0, 0);
    for cut in (0..length).rev().step_by(7).take(60).chain((0..length).step_by(length / 30)) {
        match log.open_damaged(&wal, |content| content.truncate(cut), &format!("cut at {cut}")) {
            None => opened += 1,
            Some(Error::MarkAhead { .. } | Error::Database { .. }) => refused += 1,
            Some(error) => panic!("cut at {cut}: {error}"),
        }
    }
    assert!(opened > 0, "what follows the last forced record may be torn");
    assert!(refused > 0, "what lies before it may not");
}

#[test]
fn after_a_power_cut_a_torn_tail_behind_a_lagging_mark_opens() {
    let dir = tempfile::tempdir().unwrap();
    let entries = story(20);
    let log = Log::open(dir.path()).unwrap();
    let half = entries.len() / 2;
    log.append(1, &entries[..half]);
    let durable = usize::try_from(log.wait_written(half).durable.0).unwrap();
    let mark = fs::read(dir.path().join("log/MARK")).unwrap();
    let wal = wal_of(dir.path());
    let synced = fs::read(dir.path().join(&wal)).unwrap().len();
    for (at, batch) in entries[half..].chunks(5).enumerate() {
        log.append(half + at * 5 + 1, batch);
        log.wait_written(half + at * 5 + batch.len());
    }
    drop(log);

    // What the kernel hadn't written by itself is gone: the end of the WAL, and the mark's last writes.
    let written = Written { dir, entries, durable };
    let whole = fs::read(written.dir.path().join(&wal)).unwrap();
    assert!(whole.len() > synced);
    for cut in (synced..=whole.len()).step_by((whole.len() - synced) / 60) {
        let torn = tempfile::tempdir().unwrap();
        copy(written.dir.path(), torn.path());
        fs::write(torn.path().join(&wal), &whole[..cut]).unwrap();
        fs::write(torn.path().join("log/MARK"), &mark).unwrap();
        let refused = written.check(torn.path(), durable, &format!("torn at {cut}"));
        assert!(refused.is_none(), "torn at {cut}: {}", refused.unwrap());
    }
}

#[test]
fn a_wal_cut_below_its_mark_is_refused_by_name() {
    let log = Written::new(20);
    let wal = log.wal();
    let content = fs::read(log.dir.path().join(&wal)).unwrap();
    let all = records(&content);
    let error = log.open_damaged(&wal, |content| content.truncate(all[all.len() / 2]), "cut in the middle").unwrap();
    assert!(matches!(error, Error::MarkAhead { .. }), "{error}");
}

#[test]
fn a_damaged_header_of_a_wal_record_hides_nothing_that_was_durable() {
    let log = Written::new(30);
    let wal = log.wal();
    let all = records(&fs::read(log.dir.path().join(&wal)).unwrap());
    let middle = all[all.len() / 2];
    for at in [all[1], middle, all[all.len() - 2], all[all.len() - 1]] {
        for (name, bytes) in [("crc", 0..4), ("length", 4..6), ("type", 6..7), ("header", 0..7)] {
            for value in [0, 0x7f, 0xff] {
                let what = format!("{name} at {at} set to {value}");
                let range = at + bytes.start..at + bytes.end;
                let refused = log.open_damaged(&wal, |content| content[range].fill(value), &what);
                assert!(at > middle || refused.is_some(), "{what}: it hides forced records");
            }
        }
    }
}

#[test]
fn a_flipped_byte_in_any_file_hides_nothing_that_was_durable() {
    let log = Written::new(16);
    let mut refused = std::collections::BTreeSet::new();
    for (path, content) in files(log.dir.path()) {
        if path.is_dir() {
            continue;
        }
        let file = path.strip_prefix(log.dir.path()).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        // What RocksDB writes for people, and what it keeps of its settings, is no part of the log.
        if name.starts_with("LOG") || name.starts_with("OPTIONS") {
            continue;
        }
        for at in (0..content.len()).step_by((content.len() / 40).max(1)) {
            let flip = if at % 2 == 0 { 0x01 } else { 0xa0 };
            if log.open_damaged(file, |content| content[at] ^= flip, &format!("flipped at {at}")).is_some() {
                refused.insert(name.split(['-', '.']).next_back().unwrap_or_default().to_owned());
            }
        }
    }
    for kind in ["FORMAT", "MARK", "CURRENT", "log", "sst"] {
        assert!(refused.contains(kind), "{kind} is checked: {refused:?}");
    }
}

#[test]
fn a_missing_file_of_the_database_hides_nothing_that_was_durable() {
    let log = Written::new(16);
    for path in files(log.dir.path()).into_keys().filter(|path| path.is_file()) {
        let file = path.strip_prefix(log.dir.path()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        copy(log.dir.path(), dir.path());
        fs::remove_file(dir.path().join(file)).unwrap();
        log.check(dir.path(), log.durable, &format!("without {}", file.display()));
    }
}
