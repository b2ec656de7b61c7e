//! How a transaction ended, in types that can't be taken for one another.

use std::fmt;

use super::Info;

/// How it ended. There is no way to commit that doesn't tell of an abort.
///
/// ```
/// use unanimous_sdk::client::Outcome;
/// fn is_paid(outcome: Outcome) -> Option<bool> {
///     match outcome {
///         Outcome::Committed(_) => Some(true),
///         Outcome::Aborted(aborted) => {
///             eprintln!("not paid: {aborted}");
///             Some(false)
///         }
///         // Ask again: `client.transaction(id).commit()`.
///         Outcome::Undecided(_) => None,
///     }
/// }
/// ```
#[must_use = "it may not have been committed"]
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The decision is commit, durable.
    Committed(Committed),
    /// The decision is abort: nothing was changed anywhere.
    Aborted(Aborted),
    /// There is no decision yet. It may still be either.
    Undecided(Undecided),
}

impl Outcome {
    /// The transaction, if it is committed; everything else is an error.
    ///
    /// Errors: [`NotCommitted`].
    ///
    /// ```no_run
    /// # async fn f(transaction: unanimous_sdk::client::Transaction) -> Result<(), Box<dyn std::error::Error>> {
    /// let committed = transaction.commit().await?.committed()?;
    /// println!("committed {}", committed.info.id);
    /// # Ok(()) }
    /// ```
    pub fn committed(self) -> Result<Committed, NotCommitted> {
        match self {
            Self::Committed(committed) => Ok(committed),
            Self::Aborted(aborted) => Err(NotCommitted::Aborted(aborted)),
            Self::Undecided(undecided) => Err(NotCommitted::Undecided(undecided)),
        }
    }

    /// The transaction, however it ended.
    pub fn info(&self) -> &Info {
        match self {
            Self::Committed(Committed { info })
            | Self::Aborted(Aborted { info })
            | Self::Undecided(Undecided { info }) => info,
        }
    }
}

/// A committed transaction.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The transaction.
    pub info: Box<Info>,
}

/// An aborted transaction.
#[derive(Clone, Debug)]
pub struct Aborted {
    /// The transaction.
    pub info: Box<Info>,
}

/// A transaction without a decision.
#[derive(Clone, Debug)]
pub struct Undecided {
    /// The transaction.
    pub info: Box<Info>,
}

/// A transaction that isn't committed, as an error.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum NotCommitted {
    #[error("{0}")]
    Aborted(Aborted),
    #[error("{0}")]
    Undecided(Undecided),
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the transaction {} was aborted", self.info.id)?;
        let Some(reason) = &self.info.reason else { return Ok(()) };
        write!(f, ": {}", reason.code)?;
        if let Some(branch) = &reason.branch {
            write!(f, " (branch {branch})")?;
        }
        match &reason.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the transaction {} is not decided yet ({}): it may still commit or abort",
            self.info.id, self.info.state
        )
    }
}
