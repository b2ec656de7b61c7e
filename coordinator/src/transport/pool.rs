//! The idle connections to participants, by scheme, host and port. The last that was used is used first, so that the
//! others get old and are closed.
//!
//! A pool of the project's own, because a call has to know whether its connection had been used before: only then it is
//! repeated on a fresh one. hyper-util's pool does not tell.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::connection::Connection;

/// So many idle connections are kept to one origin.
const MAX_IDLE: usize = 512;

/// How often old idle connections are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

type Idle = HashMap<Arc<str>, Vec<Connection>>;

/// See the module.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
    /// Whether somebody looks for old ones.
    sweeping: AtomicBool,
}

/// A connection that has answered a call. It goes back to the pool when this is dropped.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    connection: Option<Connection>,
}

impl Pool {
    /// Takes an idle connection; None: there is none that may be used.
    pub(super) async fn take(&self, origin: &str) -> Option<Connection> {
        loop {
            let mut connection = self.idle().get_mut(origin)?.pop()?;
            if connection.is_usable().await {
                return Some(connection);
            }
        }
    }

    /// Closes all idle connections to an origin.
    pub(super) fn close_idle(&self, origin: &str) {
        let closed = self.idle().remove(origin);
        drop(closed);
    }

    /// Returns a lease of a connection that has answered a call and may be used again.
    pub(super) fn lease(self: &Arc<Self>, connection: Option<Connection>) -> Lease {
        Lease { pool: Arc::clone(self), connection }
    }

    fn put(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.idle();
        match idle.get_mut(&connection.origin) {
            Some(stack) if stack.len() >= MAX_IDLE => return,
            Some(stack) => stack.push(connection),
            None => drop(idle.insert(Arc::clone(&connection.origin), vec![connection])),
        }
        if !self.sweeping.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes what is too old; returns whether any connection is left.
    fn close_old(&self, now: Instant) -> bool {
        let mut idle = self.idle();
        let mut old = vec![];
        idle.retain(|_, stack| {
            old.extend(stack.extract_if(.., |connection| now >= connection.retires_at));
            !stack.is_empty()
        });
        let left = !idle.is_empty();
        self.sweeping.store(left, Ordering::Relaxed);
        drop(idle);
        // Closed outside of the lock.
        drop(old);
        left
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if !pool.upgrade().is_some_and(|pool| pool.close_old(Instant::now())) {
            return;
        }
    }
}

impl Lease {
    /// Closes the connection.
    pub(crate) fn close(mut self) {
        self.connection = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put(connection);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}
