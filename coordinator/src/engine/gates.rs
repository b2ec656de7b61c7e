//! What waits for the log.
//!
//! Always true: nothing is let through before the log has come as far as its barrier says.

use std::collections::BTreeMap;

use crate::{
    journal::{Lsn, Progress},
    transaction::Barrier,
};

/// Things that wait for their barriers.
#[derive(Debug)]
pub(super) struct Gates<T> {
    progress: Progress,
    /// By the entry that must be durable, those that wait for one.
    durable: BTreeMap<Lsn, Vec<(Lsn, T)>>,
    /// By the entry that must be written; what else they waited for is durable.
    written: BTreeMap<Lsn, Vec<T>>,
}

impl<T> Gates<T> {
    pub(super) fn new() -> Self {
        Self { progress: Progress::default(), durable: BTreeMap::new(), written: BTreeMap::new() }
    }

    /// How far the log has come.
    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether the log has come as far as this.
    pub(super) fn is_open(&self, barrier: Barrier) -> bool {
        barrier.durable <= self.progress.durable && barrier.written <= self.progress.written
    }

    /// Gives the thing back at once if it need not wait.
    pub(super) fn pass(&mut self, barrier: Barrier, thing: T) -> Option<T> {
        if barrier.durable > self.progress.durable {
            self.durable.entry(barrier.durable).or_default().push((barrier.written, thing));
            None
        } else if barrier.written > self.progress.written {
            self.written.entry(barrier.written).or_default().push(thing);
            None
        } else {
            Some(thing)
        }
    }

    /// The log has come further: everything that need not wait any longer, in order of what it waited for.
    pub(super) fn advance(&mut self, progress: Progress) -> Vec<T> {
        self.progress.written = self.progress.written.max(progress.written);
        self.progress.durable = self.progress.durable.max(progress.durable);
        let mut open = vec![];
        let still = self.durable.split_off(&Lsn(self.progress.durable.0 + 1));
        for (written, thing) in std::mem::replace(&mut self.durable, still).into_values().flatten() {
            open.extend(self.pass(Barrier::written(written), thing));
        }
        let still = self.written.split_off(&Lsn(self.progress.written.0 + 1));
        open.extend(std::mem::replace(&mut self.written, still).into_values().flatten());
        open
    }
}
