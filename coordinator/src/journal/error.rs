//! Why the log can't be opened, read or written: what was found, where, and what to do now.
//!
//! Always true: where a message says that nothing was changed, nothing was, but for the lock file and the reserve.

use std::{io, path::PathBuf};

use unanimous_sdk::protocol::{CoordinatorId, TransactionId};

use super::encoding::Unreadable;

/// What to do when the log itself has lost something.
macro_rules! restore {
    () => {
        "Nothing was changed. Check the disk; then put back the whole data folder as it last was. An older copy, or an empty \
         folder, would contradict decisions that were told"
    };
}

/// What to do with a folder that is not at its place.
macro_rules! in_its_place {
    () => {
        "Nothing was changed. Start the original folder; a copy can't be started in its place (`restore` comes with a later \
         release). If this folder was moved after a clean stop, and its original never runs again, start it once with \
         `serve --moved`"
    };
}

/// See the variants. The message is for the operator, and whole; whoever prints it adds the data folder.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// The file system said no.
    #[error("can't {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The data folder is not a folder.
    #[error("{} is not a folder; name another data folder", path.display())]
    NotAFolder { path: PathBuf },
    /// The data folder belongs to something else.
    #[error("{} is not empty and holds no log, but {found}; name an empty folder, or the right one", path.display())]
    ForeignFolder { path: PathBuf, found: String },
    /// Another process has the log open.
    #[error("another coordinator has {} open: its lock is held; stop that one first", path.display())]
    Locked { path: PathBuf },
    /// A lock there excludes nobody.
    #[error(
        "the file system of {} doesn't lock: the same lock was granted twice; put the data folder on a local disk",
        path.display()
    )]
    DoesNotLock { path: PathBuf },
    /// FORMAT is of something else.
    #[error("{} doesn't begin as that of a log does; this is not a log of this program, or it is damaged", path.display())]
    ForeignFormat { path: PathBuf },
    /// FORMAT is of a newer program.
    #[error("{} says format {found}, and this program knows only format {known}; use a newer one", path.display())]
    NewerFormat { path: PathBuf, found: u64, known: u64 },
    /// FORMAT begins rightly and is wrong further on.
    #[error("{} is damaged: {what}; put it back from a copy of this data folder, it never changes", path.display())]
    DamagedFormat { path: PathBuf, what: &'static str },
    /// The folder has other files than those that are recorded in it.
    #[error(
        "the folder of {} is a copy, or was moved: FORMAT and PLACE in it are other files than those that were recorded. What \
         was decided since a copy was made is missing in it, and would be contradicted. {}", path.display(), in_its_place!()
    )]
    Copied { path: PathBuf },
    /// PLACE isn't there although it was recorded.
    #[error(
        "{} is missing: it says which files this log was recorded with, so this folder may be an incomplete copy. {}",
        path.display(), in_its_place!()
    )]
    PlaceMissing { path: PathBuf },
    /// PLACE can't be read, or is of another log.
    #[error(
        "{} is damaged, or of another log: it says which files this log was recorded with, so this folder may be a copy. {}",
        path.display(), in_its_place!()
    )]
    PlaceDamaged { path: PathBuf },
    /// `--moved` for a folder that is where it was.
    #[error(
        "--moved was given, but {} is at the place that is recorded in it, or none was recorded yet, or it holds no log: start \
         without --moved. Nothing was changed", path.display()
    )]
    NotMoved { path: PathBuf },
    /// `--moved` for a folder that wasn't left by a clean stop.
    #[error(
        "--moved was given, but {} doesn't end with the record of a clean stop, so it may lack what was decided since. Nothing \
         was changed. Start the original, stop it with SIGTERM, and move the folder then", path.display()
    )]
    MovedWithoutStop { path: PathBuf },
    /// MARK isn't there.
    #[error("{} is missing: it says how far the log must reach. {}", path.display(), restore!())]
    MarkMissing { path: PathBuf },
    /// MARK's own checksum is wrong.
    #[error("{} is damaged: it says how far the log must reach. {}", path.display(), restore!())]
    MarkDamaged { path: PathBuf },
    /// MARK is of another log.
    #[error(
        "{} is of the log of coordinator {found}, not of {expected}: the files of two logs were mixed. {}",
        path.display(), restore!()
    )]
    MarkOfAnother { path: PathBuf, found: CoordinatorId, expected: CoordinatorId },
    /// The log ends before its mark.
    #[error(
        "the log ends with forced record {end}, but {mark} had been reported durable: {} are missing at its end. {}",
        mark.saturating_sub(*end), restore!()
    )]
    MarkAhead { mark: u64, end: u64 },
    /// The log has another record where its mark points.
    #[error("forced record {number} is not the one that had been reported durable: the log is another than its mark's. {}", restore!())]
    MarkDiffers { number: u64 },
    /// A forced record is missing before the end.
    #[error("the log has a hole: forced record {missing} is missing, and {next} is there. {}", restore!())]
    Gap { missing: u64, next: u64 },
    /// A forced record doesn't follow from the one before.
    #[error("the checksum chain breaks at forced record {number}: it, or one before it, was changed. {}", restore!())]
    Chain { number: u64 },
    /// The sequence of decisions has a hole.
    #[error("forced record {number} gives a decision the sequence {found} instead of {expected}. {}", restore!())]
    Sequence { number: u64, found: u64, expected: u64 },
    /// The database, or the file that everything in it is found by, isn't there.
    #[error("{} is missing or has no file CURRENT. {}", path.display(), restore!())]
    DatabaseMissing { path: PathBuf },
    /// The database is of another log.
    #[error("the database in `log/db` is not that of coordinator {expected}: the files of two logs were mixed. {}", restore!())]
    DatabaseOfAnother { expected: CoordinatorId },
    /// A stored value isn't understood.
    #[error("in table `{table}`, the value at {key:02x?} can't be read: {why}. {}", restore!())]
    Unreadable { table: &'static str, key: Vec<u8>, why: String },
    /// A transaction's records don't make a transaction.
    #[error("transaction {id} can't be had back from its records: {why}. {}", restore!())]
    Transaction { id: TransactionId, why: String },
    /// `RocksDB` said no to being created, opened or read.
    #[error(
        "the database can't {doing}: {source}. If the disk is full or fails, see to that and start again; if files are \
         damaged, put back the whole data folder as it last was: an older copy would contradict decisions that were told"
    )]
    Database { doing: &'static str, source: rocksdb::Error },
    /// `RocksDB` said no to a write or its sync.
    #[error(
        "the log can't be written: {source}. See to the disk (is it full?) and start again: what was told is in the log, \
         and what wasn't is aborted"
    )]
    Write { source: rocksdb::Error },
    /// A file of the open log was changed by somebody else.
    #[error(
        "{} was {how} while this process had it open, so nothing more of the log can be trusted to be found again. No commit was \
         reported since that was noticed. Find out who did it (a cleaner, log rotation, a second coordinator, a restored \
         copy), and start again: the start says if something that was reported is missing", path.display()
    )]
    ChangedOutside { path: PathBuf, how: &'static str },
    /// What was to be written breaks the rules of the log. A bug.
    #[error("an entry was refused, as it breaks the rules of the log: {0}; this is a bug, please report it")]
    Misuse(String),
    /// The log has ended already.
    #[error("the log takes nothing any more: it was closed, or a write of it had failed")]
    Ended,
}

impl Error {
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    pub(super) fn unreadable(table: super::encoding::Table, key: &[u8]) -> impl FnOnce(Unreadable) -> Self {
        let key = key.to_vec();
        move |why| Self::Unreadable { table: table.name(), key, why: why.to_string() }
    }
}
