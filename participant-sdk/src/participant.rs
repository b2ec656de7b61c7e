//! What an application implements to take part in transactions.
//!
//! Always true: `prepare` runs once for a branch, unless it failed or the process died before its vote; `commit` or
//! `abort` follows a vote to commit, whatever happens in between, if need be after a restart, and may then be repeated.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;

use crate::{
    branch::{BranchKey, Payload},
    protocol::{BranchName, CoordinatorId, TransactionId, Vote},
    store::Store,
};

/// A service that does work in transactions: all of it or, with the others that take part, none.
///
/// ```
/// use unanimous_sdk::prelude::*;
///
/// struct Accounts;
///
/// #[derive(serde::Deserialize)]
/// struct Debit { account: String, cents: u64 }
///
/// impl Participant for Accounts {
///     type Store = KvStore;
///
///     async fn prepare(&self, branch: &BranchContext, work: &mut Work) -> Result<Vote, Refusal> {
///         let debit: Debit = branch.payload()?;
///         let balance: u64 = work.get_for_update(&debit.account).await?.ok_or("there is no such account")?;
///         let rest = balance.checked_sub(debit.cents).ok_or("overdrawn")?;
///         work.put(&debit.account, &rest).await?;
///         Ok(Vote::Prepared)
///     }
/// }
/// ```
pub trait Participant: Send + Sync + 'static {
    /// Where its data and votes are kept, such as [`KvStore`](crate::store::KvStore).
    type Store: Store;

    /// Does the work that the branch's payload asks for, staged in `work`: it appears when the transaction commits.
    ///
    /// `Ok(Vote::Prepared)`: the work can be committed or aborted, whatever happens. `Ok(Vote::ReadOnly)`: nothing was
    /// changed, and its locks may go at once (it counts as `Prepared` if something was written after all).
    /// `Err`: a vote to abort; nothing of `work` is left. A panic is no vote: the coordinator asks again.
    ///
    /// The future may be dropped at any await: when the transaction is aborted meanwhile, or at its deadline. Then
    /// [`Participant::abort`] is called.
    fn prepare(
        &self,
        branch: &BranchContext,
        work: &mut <Self::Store as Store>::Work,
    ) -> impl Future<Output = Result<Vote, Refusal>> + Send;

    /// Carries the commit out where it concerns more than the store; what was staged appears once this has returned.
    /// Called again, with pauses, until it is `Ok`, and perhaps once more after a crash. Default: nothing to do.
    fn commit(&self, branch: &BranchContext) -> impl Future<Output = Result<(), Retry>> + Send {
        let _ = branch;
        std::future::ready(Ok(()))
    }

    /// Undoes what [`Participant::prepare`] did outside the store. Called as `commit` is; also for work that was
    /// interrupted, not for a branch whose `prepare` refused. Default: nothing to do.
    fn abort(&self, branch: &BranchContext) -> impl Future<Output = Result<(), Retry>> + Send {
        let _ = branch;
        std::future::ready(Ok(()))
    }
}

/// Which branch is worked on.
///
/// ```
/// use unanimous_sdk::participant::{BranchContext, Refusal};
/// fn cents(branch: &BranchContext) -> Result<u64, Refusal> {
///     println!("transaction {}, branch {}", branch.transaction(), branch.name());
///     branch.payload::<u64>()
/// }
/// ```
#[derive(Clone, Debug)]
pub struct BranchContext {
    pub(crate) key: BranchKey,
    pub(crate) payload: Option<Payload>,
    pub(crate) remaining: Option<Duration>,
    pub(crate) traceparent: Option<Arc<str>>,
}

impl BranchContext {
    /// The transaction.
    pub fn transaction(&self) -> TransactionId {
        self.key.transaction
    }

    /// The branch's name in it.
    pub fn name(&self) -> &BranchName {
        &self.key.branch
    }

    /// Whose transaction it is.
    pub fn coordinator(&self) -> CoordinatorId {
        self.key.coordinator
    }

    /// How long there was, when `prepare` was called, until the transaction's deadline. None in `commit` and `abort`.
    pub fn remaining(&self) -> Option<Duration> {
        self.remaining
    }

    /// The `traceparent` (W3C Trace Context) of the call that brought this about, as it came. None where it had none, and
    /// where the decision was asked for.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// The work, as the initiator gave it.
    ///
    /// Errors: a [`Refusal`] that says what doesn't fit, to be passed on with `?`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let text: &str = self.payload.as_ref().map_or("null", |payload| &payload.text);
        serde_json::from_str(text).map_err(|cause| Refusal(format!("the payload doesn't fit: {cause}").into()))
    }
}

impl fmt::Display for BranchContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.key, f)
    }
}

/// Why a branch votes abort. Made from any text, or from a store's error.
///
/// ```
/// use unanimous_sdk::participant::Refusal;
/// let refusal: Refusal = "overdrawn".into();
/// assert_eq!(refusal.to_string(), "overdrawn");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(Arc<str>);

impl From<&str> for Refusal {
    fn from(why: &str) -> Self {
        Self(why.into())
    }
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self(why.into())
    }
}

impl From<crate::store::Error> for Refusal {
    fn from(error: crate::store::Error) -> Self {
        Self(error.to_string().into())
    }
}

/// Why an effect couldn't be carried out now. It will be tried again.
///
/// ```
/// use unanimous_sdk::participant::Retry;
/// assert_eq!(Retry::from("the mail server is away").to_string(), "the mail server is away");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Retry(Arc<str>);

impl From<&str> for Retry {
    fn from(why: &str) -> Self {
        Self(why.into())
    }
}

impl From<String> for Retry {
    fn from(why: String) -> Self {
        Self(why.into())
    }
}
