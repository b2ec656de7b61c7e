//! What is refused, and why.

use unanimous_sdk::protocol::Epoch;

use crate::transaction::{Barrier, NotAllowed};

/// Why something was refused. Nothing has changed.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Refusal {
    /// The transaction, as it is, doesn't allow it.
    NotAllowed(NotAllowed),
    /// No live transaction has this id: it has finished, or never was.
    NotLive,
    /// As many transactions are undecided as may be.
    Overloaded { undecided: usize },
    /// There is room on the disk only for what is under way.
    DiskFull,
    /// A vote under another epoch than the present one.
    StaleEpoch { present: Epoch },
    /// A vote or an inquiry for another coordinator's log, or an epoch this log never had.
    NotMyLog,
    /// The log doesn't know it, and retention has dropped that id or a higher one: it may have committed.
    Forgotten,
    /// Whether this coordinator still owns its log is being confirmed.
    Confirming,
    /// The transaction has as many keys bound as it may have.
    TooManyKeys { most: usize },
    /// The key came with another body before.
    KeyReused,
    /// Another coordinator has taken over.
    Superseded(super::Superseded),
    /// The log can't be read.
    Unreadable(String),
}

/// A refusal, and when it may be told: it may show a decision.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Refused {
    pub why: Refusal,
    pub tell_after: Barrier,
}

impl From<crate::journal::Error> for Refused {
    fn from(error: crate::journal::Error) -> Self {
        Self::new(Refusal::Unreadable(error.to_string()))
    }
}

impl Refused {
    pub(crate) fn new(why: Refusal) -> Self {
        Self { why, tell_after: Barrier::NONE }
    }
}
