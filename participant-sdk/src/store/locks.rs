//! The locks on keys.
//!
//! Always true: a key has one exclusive owner and nobody else beside, or any number of shared ones. Nobody waits longer
//! than it said, so a circle of waiting branches, over however many services, ends. Of two readers that both want to
//! write, the second is told at once: waiting could help neither.

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
    /// A reader that waits to write. No new reader gets in before it.
    upgrading: Option<Owner>,
    /// Rings when somebody lets go.
    freed: Arc<Notify>,
}

impl Lock {
    fn take(&mut self, owner: Owner, mode: Mode) -> bool {
        match (mode, self.exclusive) {
            (_, Some(holder)) => holder == owner,
            (Mode::Shared, None) if self.shared.contains(&owner) => true,
            (Mode::Shared, None) => {
                if self.upgrading.is_none() {
                    self.shared.push(owner);
                }
                self.upgrading.is_none()
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

    /// Whether it is of use to wait.
    fn wait(&mut self, owner: Owner, mode: Mode) -> bool {
        if mode == Mode::Shared || !self.shared.contains(&owner) {
            return true;
        }
        *self.upgrading.get_or_insert(owner) == owner
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

    fn stop_waiting(&self, owner: Owner, key: &[u8]) {
        if let Some(lock) = self.held().get_mut(key)
            && lock.upgrading == Some(owner)
        {
            lock.upgrading = None;
            lock.freed.notify_waiters();
        }
    }

    /// Takes a lock, waiting at most this long. False: somebody else holds it.
    pub(super) async fn take(&self, owner: Owner, key: &[u8], mode: Mode, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let _waiting = Waiting { locks: self, owner, key };
        loop {
            let freed = {
                let mut held = self.held();
                let lock = held.entry(key.to_vec()).or_default();
                if lock.take(owner, mode) {
                    return true;
                }
                if !lock.wait(owner, mode) {
                    return false;
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

/// Somebody who waits, however that ends.
struct Waiting<'a> {
    locks: &'a Locks,
    owner: Owner,
    key: &'a [u8],
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.locks.stop_waiting(self.owner, self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_mins(1);

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
    async fn of_two_readers_that_want_to_write_the_second_is_told_at_once_and_the_first_gets_it() {
        let locks = Arc::new(Locks::default());
        assert!(locks.try_take(Owner(1), b"k", Mode::Shared));
        assert!(locks.try_take(Owner(2), b"k", Mode::Shared));
        let first = tokio::spawn({
            let locks = locks.clone();
            async move { locks.take(Owner(1), b"k", Mode::Exclusive, LONG).await }
        });
        tokio::task::yield_now().await;
        assert!(!locks.take(Owner(2), b"k", Mode::Exclusive, LONG).await);
        // No new reader gets in between.
        assert!(!locks.take(Owner(3), b"k", Mode::Shared, NO_TIME).await);
        locks.free(Owner(2), [&b"k".to_vec()]);
        assert!(first.await.unwrap());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_to_write_leaves_the_key_to_readers() {
        let locks = Locks::default();
        assert!(locks.try_take(Owner(1), b"k", Mode::Shared));
        assert!(locks.try_take(Owner(2), b"k", Mode::Shared));
        assert!(!locks.take(Owner(1), b"k", Mode::Exclusive, NO_TIME).await);
        assert!(locks.try_take(Owner(3), b"k", Mode::Shared));
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
