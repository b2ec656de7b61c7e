//! The initiator: begins transactions, has work enlisted in them, and learns how they end.
//!
//! Always true: `Ok` of a commit is an [`Outcome`] to be looked at, never "it is done"; a call that is repeated is carried
//! out once, by the coordinator that was met first; what can't be known is said to be unknown.

mod builder;
mod calls;
mod info;
mod outcome;
mod transaction;

pub use builder::Begin;
pub(crate) use calls::problem;
pub use info::{BranchInfo, Info, Reason};
pub use outcome::{Aborted, Committed, NotCommitted, Outcome, Undecided};
pub use transaction::Transaction;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::protocol::{CoordinatorId, Malformed, ParticipantUrl, Problem, TransactionId};

/// Why a call gave no answer to go by.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// A URL or a branch's name isn't one.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A payload can't be written as JSON.
    #[error("the payload can't be written as JSON: {0}")]
    Payload(#[from] serde_json::Error),
    /// The HTTP client can't be made.
    #[error("the HTTP client can't be made: {0}")]
    Http(#[from] reqwest::Error),
    /// The coordinator refused the call. Nothing was changed by it.
    #[error("{call}: {}: {}", problem.kind.title(), problem.detail)]
    Refused { call: String, problem: Problem },
    /// The coordinator couldn't be reached for as long as the client tries. The call was not carried out.
    #[error("{call}: the coordinator can't be reached: {why}; nothing was done, try again")]
    Unreachable { call: String, why: String },
    /// The call may have been carried out, or not: its answer was lost, and the coordinator couldn't be asked again for as
    /// long as the client tries.
    #[error(
        "{call}: the answer was lost ({why}), so it is not known whether it was carried out; list the coordinator's \
         transactions, by metadata you gave, before you do it again"
    )]
    Unknown { call: String, why: String },
    /// What answers at the coordinator's URL has another log than the coordinator that this client has met: a second one by
    /// mistake, or one that was started on an empty folder. It did nothing for this call. If an earlier call's answer was
    /// lost, only the coordinator that was met can tell what became of it. Where the new one is right, make a new client.
    #[error(
        "{call}: {why}; this client has met the coordinator {}, and another one answers at its URL now: nothing was done \
         there, and what became of earlier calls only that one can tell",
        met.map_or_else(|| "of another log".to_owned(), |id| id.to_string())
    )]
    OtherCoordinator { call: String, met: Option<CoordinatorId>, why: String },
}

/// How a client behaves.
///
/// ```
/// use std::time::Duration;
/// use unanimous_sdk::client::{Client, ClientOptions};
/// let options = ClientOptions { wait: Duration::from_secs(5), ..ClientOptions::default() };
/// let client = Client::with_options("http://127.0.0.1:7070", options).unwrap();
/// # let _ = client;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// How long a commit may take to answer before it is [`Outcome::Undecided`]. Whole seconds, at most 300. Default: 60 s.
    pub wait: Duration,
    /// For how long a call is repeated while the coordinator can't be reached, isn't ready or its answer is lost. Default:
    /// 30 s.
    pub retry_for: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { wait: Duration::from_mins(1), retry_for: Duration::from_secs(30) }
    }
}

/// A coordinator, to begin transactions at. Cheap to clone; keeps its connections, and the id of the coordinator that it
/// meets first: before its first call it asks for that.
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use unanimous_sdk::client::{Client, Outcome};
/// let client = Client::new("http://127.0.0.1:7070")?;
/// let transaction = client.begin().metadata("order", "17").start().await?;
/// transaction.enlist("http://127.0.0.1:8081", &("alice", -500)).await?;
/// transaction.enlist("http://127.0.0.1:8082", &("bob", 500)).await?;
/// // `?` on `committed()` makes an error of everything that isn't a commit.
/// let committed = transaction.commit().await?.committed()?;
/// println!("committed {}", committed.info.id);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    calls: Arc<calls::Calls>,
}

impl Client {
    /// A client of the coordinator at this URL. No call is made yet.
    ///
    /// Errors: [`Error::Malformed`], [`Error::Http`].
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::with_options(url, ClientOptions::default())
    }

    /// A client with options.
    ///
    /// Errors: as [`Client::new`].
    pub fn with_options(url: &str, options: ClientOptions) -> Result<Self, Error> {
        let base: ParticipantUrl = url.parse()?;
        let http = crate::http::Connections::new()?;
        Ok(Self { calls: Arc::new(calls::Calls { base, http, options, met: OnceLock::new() }) })
    }

    /// Prepares a transaction; [`Begin::start`] or [`Begin::commit`] does it.
    ///
    /// ```
    /// let client = unanimous_sdk::client::Client::new("http://127.0.0.1:7070").unwrap();
    /// let begin = client.begin();
    /// # let _ = begin;
    /// ```
    pub fn begin(&self) -> Begin {
        Begin::new(self.calls.clone())
    }

    /// A transaction that was begun before.
    ///
    /// ```
    /// let client = unanimous_sdk::client::Client::new("http://127.0.0.1:7070").unwrap();
    /// let transaction = client.transaction("01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap());
    /// assert!(transaction.url().ends_with("/v1/transactions/01890a5d-ac96-774b-bcce-b302099a8057"));
    /// ```
    pub fn transaction(&self, id: TransactionId) -> Transaction {
        Transaction::new(self.calls.clone(), id)
    }
}
