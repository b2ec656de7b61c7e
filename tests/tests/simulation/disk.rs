//! A participant's disk: what was synced, and what was only written.
//!
//! Always true: entries become durable in their order; a crash keeps a head of those that were not synced, perhaps none.

use unanimous_sdk::branch::{Lsn, Record, Saved};

#[derive(Default)]
pub struct Disk {
    synced: Saved,
    unsynced: Vec<(Lsn, Vec<Record>)>,
    /// What this process has had synced.
    pub durable: Lsn,
}

impl Disk {
    /// Returns a disk that has this.
    pub fn new(saved: Saved) -> Self {
        Self { synced: saved, ..Self::default() }
    }

    /// Returns what is synced.
    pub fn saved(&self) -> &Saved {
        &self.synced
    }

    pub fn append(&mut self, lsn: Lsn, records: Vec<Record>) {
        self.unsynced.push((lsn, records));
    }

    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Syncs all, and gives the records that have become durable.
    pub fn sync(&mut self) -> Vec<Record> {
        self.keep(usize::MAX)
    }

    /// A crash: so many unsynced entries happen to survive. What the next process finds, and what became durable by it.
    pub fn crash(&mut self, kept: usize) -> (Saved, Vec<Record>) {
        let records = self.keep(kept);
        self.unsynced.clear();
        self.durable = Lsn::default();
        (self.synced.clone(), records)
    }

    fn keep(&mut self, count: usize) -> Vec<Record> {
        let count = count.min(self.unsynced.len());
        let mut all = vec![];
        for (lsn, records) in self.unsynced.drain(..count) {
            self.durable = lsn;
            for record in records {
                self.synced.apply(record.clone());
                all.push(record);
            }
        }
        all
    }
}
