//! The locks on keys.
//!
//! Always true: a key has one exclusive owner and nobody else beside, or any number of shared ones. Nobody waits longer
//! than it said, so a circle of waiting branches, over however many services, ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// Who holds locks: one piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(pub(super) u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

#[derive(Default)]
struct Lock {
    exclusive: Option<Owner>,
    shared: Vec<Owner>,
    /// Rings when somebody lets go.
    freed: Arc<Notify>,
}

impl Lock {
    fn take(&mut self, owner: Owner, mode: Mode) -> bool {
        match (mode, self.exclusive) {
            (_, Some(holder)) => holder == owner,
            (Mode::Shared, None) => {
                if !self.shared.contains(&owner) {
                    self.shared.push(owner);
                }
                true
            }
            (Mode::Exclusive, None) => {
                let alone = self.shared.iter().all(|holder| *holder == owner);
                if alone {
                    self.exclusive = Some(owner);
                }
                alone
            }
        }
    }

    fn free(&mut self, owner: Owner) {
        self.exclusive = self.exclusive.filter(|holder| *holder != owner);
        self.shared.retain(|holder| *holder != owner);
        self.freed.notify_waiters();
    }

    fn is_free(&self) -> bool {
        self.exclusive.is_none() && self.shared.is_empty()
    }
}

#[derive(Default)]
pub(super) struct Locks {
    held: Mutex<HashMap<Vec<u8>, Lock>>,
}

impl Locks {
    fn held(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Lock>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a lock if it is free.
    pub(super) fn try_take(&self, owner: Owner, key: &[u8], mode: Mode) -> bool {
        self.held().entry(key.to_vec()).or_default().take(owner, mode)
    }

    /// Takes a lock, waiting at most this long. False: somebody else holds it.
    pub(super) async fn take(&self, owner: Owner, key: &[u8], mode: Mode, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            let freed = {
                let mut held = self.held();
                let lock = held.entry(key.to_vec()).or_default();
                if lock.take(owner, mode) {
                    return true;
                }
                // Made while the lock can't be let go, so it hears of it.
                lock.freed.clone().notified_owned()
            };
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return self.try_take(owner, key, mode);
            }
        }
    }

    /// Lets go of these keys.
    pub(super) fn free<'a>(&self, owner: Owner, keys: impl IntoIterator<Item = &'a Vec<u8>>) {
        let mut held = self.held();
        for key in keys {
            if let Some(lock) = held.get_mut(key) {
                lock.free(owner);
                if lock.is_free() {
                    held.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn readers_share_a_key_and_a_writer_does_not() {
        let locks = Locks::default();
        assert!(locks.take(Owner(1), b"k", Mode::Shared, NO_TIME).await);
        assert!(locks.take(Owner(2), b"k", Mode::Shared, NO_TIME).await);
        assert!(!locks.take(Owner(3), b"k", Mode::Exclusive, NO_TIME).await);
        // Nor may one of two readers write.
        assert!(!locks.take(Owner(1), b"k", Mode::Exclusive, NO_TIME).await);
        locks.free(Owner(2), [&b"k".to_vec()]);
        assert!(locks.take(Owner(1), b"k", Mode::Exclusive, NO_TIME).await);
        assert!(!locks.take(Owner(2), b"k", Mode::Shared, NO_TIME).await);
        // A failed attempt leaves no lock behind.
        locks.free(Owner(1), [&b"k".to_vec()]);
        assert!(locks.take(Owner(2), b"k", Mode::Exclusive, NO_TIME).await);
    }

    #[tokio::test]
    async fn who_waits_gets_the_key_when_it_is_let_go() {
        let locks = Arc::new(Locks::default());
        assert!(locks.try_take(Owner(1), b"k", Mode::Exclusive));
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.take(Owner(2), b"k", Mode::Exclusive, LONG).await }
        });
        tokio::task::yield_now().await;
        locks.free(Owner(1), [&b"k".to_vec()]);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn a_circle_of_waiting_ends() {
        let locks = Locks::default();
        let wait = Duration::from_millis(50);
        assert!(locks.try_take(Owner(1), b"a", Mode::Exclusive));
        assert!(locks.try_take(Owner(2), b"b", Mode::Exclusive));
        let (first, second) = tokio::join!(
            locks.take(Owner(1), b"b", Mode::Exclusive, wait),
            locks.take(Owner(2), b"a", Mode::Exclusive, wait)
        );
        assert!(!first && !second);
    }
}
