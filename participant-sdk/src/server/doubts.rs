//! Why branches are still in doubt: what their coordinators answered last.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::branch::BranchKey;

/// How often it is said that coordinators have forgotten what branches wait for.
const SAY_EVERY: Duration = Duration::from_hours(1);

/// What was answered about branches in doubt.
#[derive(Default)]
pub(crate) struct Doubts {
    last_errors: Mutex<HashMap<BranchKey, String>>,
    forgotten: AtomicU64,
    /// When it was said last that a coordinator has forgotten a branch.
    said: Mutex<Option<Instant>>,
}

impl Doubts {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<BranchKey, String>> {
        self.last_errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Keeps why a branch is still in doubt.
    pub(crate) fn note(&self, key: &BranchKey, why: &str) {
        self.lock().insert(key.clone(), why.to_owned());
    }

    /// Forgets a branch that is not in doubt any more.
    pub(crate) fn end(&self, key: &BranchKey) {
        self.lock().remove(key);
    }

    /// Counts a branch of which its coordinator has said for the first time that it has forgotten its transaction.
    pub(crate) fn count_forgotten(&self) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that a coordinator has forgotten a branch's transaction, once an hour for all branches.
    pub(crate) fn say_forgotten(&self, key: &BranchKey) {
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.is_some_and(|said| said.elapsed() < SAY_EVERY) {
                return;
            }
            *said = Some(Instant::now());
        }
        tracing::error!(
            branch = %key,
            branches_so_far = self.forgotten(),
            "a coordinator has forgotten whether the transaction of a branch in doubt was committed: this participant's store \
             is probably older than the coordinator keeps what is finished (put back from a backup), or the participant was \
             called by mistake and then away for longer than that; the branch is kept, and an operator has to compare \
             and decide, and to end it by hand"
        );
    }
}
