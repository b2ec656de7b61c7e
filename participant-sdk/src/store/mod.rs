//! Where a participant's votes are kept, with the work they stand for.
//!
//! Always true of a [`Store`]: entries take effect in the order they are appended; if one survives a crash, so do all
//! before it; an entry survives whole or not at all; nothing is reported durable before the disk has said so; what
//! can't be read is an error, never an empty store.
//!
//! [`KvStore`] is a store of its own, for a service without a database. Another kind of store fits where it can keep a
//! branch's work undecided over a crash, and its records in the same transaction as that.

#[cfg(feature = "store")]
mod folder;
#[cfg(feature = "store")]
mod format;
#[cfg(feature = "store")]
mod kv;
#[cfg(feature = "store")]
mod locks;
#[cfg(feature = "store")]
mod staged;
#[cfg(feature = "store")]
mod work;
#[cfg(feature = "store")]
mod writer;

#[cfg(feature = "store")]
pub use kv::{KvStore, Options};
#[cfg(feature = "store")]
pub use work::Work;

use std::future::Future;

use crate::branch::{BranchKey, Lsn, Record, Saved};

/// Why a store can't be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// Another process, or this one, has it open.
    #[error("the store {folder} is open in another process: stop that one first, or take another folder")]
    InUse { folder: String },
    /// The folder holds something else.
    #[error("{folder} is not a participant's store: {what}; nothing was changed in it")]
    Foreign { folder: String, what: String },
    /// It was written by a newer version.
    #[error(
        "the store {folder} has the format {found:?}, this version reads {expected:?}: use the version that wrote it"
    )]
    Newer { folder: String, found: String, expected: &'static str },
    /// What it holds can't be trusted.
    #[error("the store {folder} is damaged: {what}; restore it from a copy, nothing was guessed")]
    Damaged { folder: String, what: String },
    /// The disk or `RocksDB` has failed.
    #[error("the store {folder} failed while {doing}: {cause}")]
    Failed { folder: String, doing: &'static str, cause: String },
    /// Another branch holds the key.
    #[error("lock-conflict: another branch holds the key {key}; try again when it has ended")]
    LockConflict { key: String },
    /// The stored value is of another type, or the given one can't be written as JSON.
    #[error("the value under the key {key} doesn't fit: {cause}")]
    Value { key: String, cause: String },
}

/// What is written at once.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Entry<W> {
    /// Its place: each one's is one higher than the one's before.
    pub lsn: Lsn,
    pub records: Vec<Record>,
    /// Whether it is to be made durable at once. Otherwise it is when one after it is, or when [`Store::durable`] asks.
    pub forced: bool,
    pub change: Change<W>,
}

/// What becomes of a branch's work.
#[derive(Debug)]
pub enum Change<W> {
    /// Nothing.
    None,
    /// It is kept, undecided, and keeps its locks, over any crash.
    Stage(BranchKey, W),
    /// What was staged appears, its locks are let go.
    Publish(BranchKey),
    /// What was staged vanishes, its locks are let go.
    Discard(BranchKey),
}

/// Where votes are kept. See the [module](self) for what must always be true.
///
/// Implement it over another database as [`KvStore`] does over `RocksDB`; a service meets it only as
/// [`Participant::Store`](crate::participant::Participant::Store):
///
/// ```
/// # #[cfg(feature = "store")] fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use unanimous_sdk::store::{KvStore, Store};
/// let folder = tempfile::tempdir()?;
/// let store = KvStore::open(folder.path())?;
/// fn is_a_store(_: &impl Store) {}
/// is_a_store(&store);
/// # Ok(()) }
/// # #[cfg(not(feature = "store"))] fn main() {}
/// ```
pub trait Store: Send + Sync + 'static {
    /// The work of one branch that hasn't voted. When it is dropped nothing of it is left.
    type Work: Send + Sync + 'static;

    /// All that was saved. Called once, before all else.
    fn load(&self) -> impl Future<Output = Result<Saved, Error>> + Send;

    /// Begins the work of a branch.
    fn work(&self, branch: &BranchKey) -> Self::Work;

    /// Whether that work has changed anything.
    fn has_writes(work: &Self::Work) -> bool;

    /// Writes an entry, after all before it. Returns at once: called with a lock held.
    fn append(&self, entry: Entry<Self::Work>);

    /// Returns when that entry, and all before it, is durable; makes it so if it wasn't forced. Err: the store can't be
    /// used any more.
    fn durable(&self, lsn: Lsn) -> impl Future<Output = Result<(), Error>> + Send;
}
