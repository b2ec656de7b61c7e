//! What an operator sees of branches in doubt, and the last resort: to end one by hand.

use std::sync::atomic::Ordering;

use super::{How, Service, Stuck};
use crate::{
    branch::{Act, BranchKey, Event, State},
    participant::Participant,
    protocol::{Coordinator, Decision, UnixMillis},
};

/// The longest reason for which a branch is ended by hand, in bytes.
const MAX_REASON_BYTES: usize = 1024;

/// A branch that is prepared, its decision not known.
///
/// ```
/// use unanimous_sdk::server::InDoubt;
/// fn show(branch: &InDoubt) -> String {
///     let why = branch.last_error.as_deref().unwrap_or("its coordinator has not been asked yet");
///     format!("{} since {}, of {}: {why}", branch.key, branch.since, branch.coordinator.url)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubt {
    /// Which branch of which transaction.
    pub key: BranchKey,
    /// When its work began.
    pub since: UnixMillis,
    /// What is known of its coordinator: where it is asked, and under which epoch.
    pub coordinator: Coordinator,
    /// Why the coordinator's last answer did not end it; None before it was asked.
    pub last_error: Option<String>,
}

/// Why a branch can't be ended by hand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// It isn't in doubt: nothing of it is known, it hasn't voted, or it has ended.
    #[error("the branch {key} is not in doubt: it is {state}")]
    NotInDoubt {
        /// Which one.
        key: BranchKey,
        /// Where it stands.
        state: &'static str,
    },
    /// The reason is empty, or too long.
    #[error("a reason has 1 to {MAX_REASON_BYTES} bytes")]
    Reason,
    /// It can't be said whether it has ended: the store isn't loaded or has failed, or the application is still at work
    /// for it.
    #[error("the branch can't be ended now: {0}")]
    NotReady(String),
}

impl From<Stuck> for ResolveError {
    fn from(stuck: Stuck) -> Self {
        match stuck {
            Stuck::NotReady(why) => Self::NotReady(why),
            Stuck::Busy => Self::NotReady("the application is still at work for it; look again".to_owned()),
            Stuck::Failed => Self::NotReady("the application panicked".to_owned()),
        }
    }
}

impl<P: Participant> Service<P> {
    /// Returns what is in doubt and why, the oldest transaction of each coordinator first. Looks at all branches that are
    /// kept.
    pub fn in_doubt(&self) -> Vec<InDoubt> {
        let Some(desk) = self.0.desk() else { return Vec::new() };
        let found = desk.book.in_doubt().filter_map(|(key, branch)| {
            let known = desk.book.coordinator(key.coordinator)?;
            let coordinator =
                Coordinator { id: key.coordinator, epoch: known.epoch, url: known.url.clone(), horizon: known.horizon };
            Some(InDoubt { key: key.clone(), since: branch.since, coordinator, last_error: None })
        });
        let mut found: Vec<_> = found.collect();
        drop(desk);
        let errors = self.0.doubts.lock();
        for branch in &mut found {
            branch.last_error = errors.get(&branch.key).cloned();
        }
        found
    }

    /// Returns how many branches are prepared, their decision not known. Looks at all branches that are kept.
    pub fn in_doubt_count(&self) -> usize {
        self.0.desk().map_or(0, |desk| desk.book.in_doubt().count())
    }

    /// Returns how many branches have been in doubt for over a minute since the start, at some time.
    pub fn long_in_doubt(&self) -> u64 {
        self.0.long_in_doubt.load(Ordering::Relaxed)
    }

    /// Returns of how many branches in doubt the coordinator has said, since the start, that it has forgotten whether their
    /// transaction was committed. They are kept until an operator ends them with [`Service::resolve`].
    pub fn forgotten(&self) -> u64 {
        self.0.doubts.forgotten()
    }

    /// Ends a branch in doubt by hand: the last resort, for one whose coordinator is gone for good, or has forgotten its
    /// transaction. The reason is kept with the branch. Durable when it returns. If the coordinator decides or has decided
    /// otherwise, it hears that the branch ended against its decision.
    ///
    /// # Errors
    ///
    /// [`ResolveError`]. After `NotReady` the branch may have ended all the same.
    ///
    /// ```no_run
    /// # async fn f<P: unanimous_sdk::participant::Participant>(service: unanimous_sdk::server::Service<P>)
    /// # -> Result<(), unanimous_sdk::server::ResolveError> {
    /// use unanimous_sdk::protocol::Decision;
    /// for branch in service.in_doubt() {
    ///     service.resolve(&branch.key, Decision::Abort, "the coordinator's disk is lost, see incident 17").await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn resolve(&self, branch: &BranchKey, decision: Decision, reason: &str) -> Result<(), ResolveError> {
        if reason.is_empty() || reason.len() > MAX_REASON_BYTES {
            return Err(ResolveError::Reason);
        }
        let inner = &self.0;
        if let Some(why) = inner.not_ready() {
            return Err(ResolveError::NotReady(why));
        }
        let act = Act::Resolve { decision, reason: reason.to_owned() };
        let resolved = inner.carry_out(Event::Own { key: branch.clone(), act }, None, How::default()).await?;
        tracing::debug!(branch = %branch, ?resolved, "ended a branch by hand");
        let found = inner.desk().and_then(|desk| desk.book.branch(branch).cloned());
        let is_done = found.as_ref().is_some_and(|found| {
            let as_decided = match decision {
                Decision::Commit => found.state == State::Committed,
                Decision::Abort => matches!(found.state, State::Aborted(_)),
            };
            as_decided && found.resolved.as_deref() == Some(reason)
        });
        match found {
            Some(found) if is_done => Ok(inner.durable(found.lsn).await?),
            found => {
                let state = found.map_or("not known", |found| found.state.name());
                Err(ResolveError::NotInDoubt { key: branch.clone(), state })
            }
        }
    }
}
