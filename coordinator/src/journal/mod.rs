//! The log. Its contract:
//!
//! 1. Entries become durable in the order in which they were appended; if one survives a crash, so do all before it.
//! 2. Nothing is reported durable before the disk has said so, and nothing written before the kernel has it: what is
//!    written survives the death of the process, what is durable survives the loss of power.
//! 3. A forced entry is synced without being asked twice; lazy entries become durable with the next forced one, or at close.
//! 4. What can't be read, or isn't there although it was reported durable, is an error that names it; never an empty log.
//! 5. A write or a sync that fails ends the process: the kernel may have dropped the pages, so no retry can be believed.
//! 6. One process at a time: a second opener is refused.
//!
//! The caller's duties:
//!
//! 1. Append entries with consecutive [`Lsn`]s from 1, one caller at a time.
//! 2. Let nothing leave the process that an entry must precede until [`Progress`] has passed that entry.
//! 3. Number a transaction's records without gaps, and end it with one [`Entry::Finished`], which takes them away.

mod chain;
mod clock;
mod database;
mod encoding;
mod error;
mod folder;
mod format;
mod guard;
mod index;
mod ledger;
mod live;
mod mark;
pub mod memory;
mod opening;
mod place;
mod reading;
mod recovery;
mod retention;
pub mod rocks;
mod skew;
pub mod space;
#[cfg(test)]
mod tests;
mod writer;

use std::{collections::BTreeSet, sync::Arc};

use unanimous_sdk::protocol::{CoordinatorId, Epoch, ParticipantUrl, TransactionId, UnixMillis};

pub use self::{
    clock::{LogClock, Plausibility, Reading},
    error::Error,
    index::{Find, Tag},
    memory::Memory,
    opening::Opening,
    reading::{decode_record, reads_as_written},
    rocks::RocksDb,
    skew::Skew,
    writer::Stats,
};
pub use crate::transaction::Lsn;
use crate::transaction::{Record, Transaction};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A change of a transaction that isn't finished.
    Record {
        /// Whose.
        id: TransactionId,
        /// Its place among the transaction's records, from 0.
        index: u32,
        /// What.
        record: Record,
    },
    /// A transaction has finished: its records go, and this is kept in their stead. Lazy.
    Finished {
        /// Whose.
        id: TransactionId,
        /// How it ended. Its `records` say how many there are to be taken away.
        transaction: Arc<Transaction>,
    },
    /// Makes durable what is before it. Forced.
    Checkpoint,
    /// A participant named a higher epoch of this coordinator. Forced.
    HigherEpoch {
        /// If this log is opened again, the next epoch is greater.
        epoch: Epoch,
        /// The participant.
        named_by: String,
    },
    /// A finished transaction is this from now on. Lazy.
    Amended {
        /// Whose.
        id: TransactionId,
        /// What takes the place of what was kept.
        transaction: Arc<Transaction>,
    },
    /// A participant has lost its data: commits to it are held from now on. Forced.
    Suspect {
        /// Which.
        participant: ParticipantUrl,
        /// Since when.
        since: UnixMillis,
    },
    /// Commits to a participant are held no longer. Lazy: if it is lost, one commit is tried again.
    Trusted {
        /// Which.
        participant: ParticipantUrl,
    },
}

impl Entry {
    /// Whether it is synced before it is reported.
    pub fn is_forced(&self) -> bool {
        match self {
            Self::Record { record, .. } => record.is_forced(),
            Self::Finished { .. } | Self::Amended { .. } | Self::Trusted { .. } => false,
            Self::Checkpoint | Self::HigherEpoch { .. } | Self::Suspect { .. } => true,
        }
    }
}

/// How far the log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last entry that the kernel has.
    pub written: Lsn,
    /// The last entry that the disk has. Never more than `written`.
    pub durable: Lsn,
}

/// Is told whenever the log has come further, from the log's own thread. It must not block.
pub type OnProgress = Box<dyn Fn(Progress) + Send + Sync>;

/// Is told once, from the log's own thread, that the log can't be written any more. It must end the process.
pub type OnFatal = Box<dyn Fn(Error) + Send + Sync>;

/// What was found when the log was opened: durable, all of it, once it is open.
#[derive(Debug)]
pub struct Recovered {
    /// Minted once, kept for ever.
    pub coordinator: CoordinatorId,
    /// Minted now, greater than every epoch and transaction id in the log.
    pub epoch: Epoch,
    /// Every epoch under which this log was opened, the present one among them.
    pub epochs: BTreeSet<Epoch>,
    /// When the log was created.
    pub created_at: UnixMillis,
    /// From which time on nothing was dropped by retention: what was begun later and isn't known never was.
    pub retained_since: UnixMillis,
    /// The highest transaction id ever logged; nil if there was none.
    pub highest: TransactionId,
    /// The highest transaction id that retention has dropped; nil if it has dropped none.
    pub forgotten: TransactionId,
    /// Bounds the time in new ids.
    pub clock: LogClock,
    /// How far the time in ids and the wall clock have ever been apart.
    pub skew: Skew,
    /// The participants to which commits are held.
    pub suspects: Vec<ParticipantUrl>,
    /// The sequence of the last decision; 0 if there was none.
    pub sequence: u64,
    /// The transactions that are not finished, in order of their ids.
    pub live: Vec<(TransactionId, Transaction)>,
}

/// An open log.
pub trait Journal: Send + Sync + 'static {
    /// Takes entries, the first of which has the number `first`, the next one more, and so on. Doesn't wait. Forced ones are
    /// written at once, with all before them; lazy ones in a few milliseconds.
    fn append(&self, first: Lsn, entries: Vec<Entry>);

    /// Somebody waits for what was appended so far to be written: that is not put off.
    fn hurry(&self);

    /// How a finished transaction ended; None if the log doesn't know it as finished.
    fn finished(&self, id: TransactionId) -> Result<Option<Transaction>, Error>;

    /// Gives `each` finished transactions that have these tags, newest first, until it wants no more. If it has stopped
    /// after as many looks as were allowed: all from that id on were looked at, and none below it.
    fn find(
        &self,
        find: &Find,
        each: &mut dyn FnMut(TransactionId, Transaction) -> bool,
    ) -> Result<Option<TransactionId>, Error>;

    /// Fails unless the log is still this process's own: it holds the lock, the files are those that it has open, and how far
    /// the log must reach stands there as this process wrote it last. Needs no network, and may wait for the disk.
    fn confirm_ownership(&self) -> Result<(), Error>;

    /// Makes everything durable, writes a checkpoint and ends. Nothing may be appended afterwards.
    fn close(&self) -> Result<(), Error>;
}
