//! The horizon: what lets participants forget.
//!
//! Always true: every transaction below it has ended and its end is durable; no id below it will ever be minted, because
//! a durable entry holds an id that is not below it; it never goes back.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Bound,
};

use unanimous_sdk::protocol::TransactionId;

use crate::journal::Lsn;

/// The horizon, and what it is made from.
#[derive(Debug)]
pub(super) struct Horizon {
    /// Transactions that have not ended, or whose end isn't durable.
    open: BTreeSet<TransactionId>,
    /// Ids that only entries hold that may not be durable, with those entries; in order of both.
    minted: VecDeque<(Lsn, TransactionId)>,
    /// The highest id that a durable entry holds.
    logged: TransactionId,
    present: TransactionId,
}

impl Horizon {
    /// The horizon of a log that was just read: all of it is durable.
    pub(super) fn new(highest: TransactionId, live: impl Iterator<Item = TransactionId>) -> Self {
        let mut horizon =
            Self { open: live.collect(), minted: VecDeque::new(), logged: highest, present: TransactionId::NIL };
        horizon.update();
        horizon
    }

    /// Transactions below an id that have not ended, or whose end isn't durable; highest first.
    pub(super) fn below(&self, id: Option<TransactionId>) -> impl Iterator<Item = TransactionId> {
        let below = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.open.range((Bound::Unbounded, below)).rev().copied()
    }

    /// The oldest transaction that has not ended, or whose end isn't durable.
    pub(super) fn oldest_open(&self) -> Option<TransactionId> {
        self.open.first().copied()
    }

    pub(super) fn present(&self) -> TransactionId {
        self.present
    }

    /// A transaction was begun by this entry.
    pub(super) fn begun(&mut self, id: TransactionId, lsn: Lsn) {
        self.open.insert(id);
        self.minted.push_back((lsn, id));
    }

    /// The end of a transaction is durable.
    pub(super) fn ended(&mut self, id: TransactionId) {
        self.open.remove(&id);
        self.update();
    }

    /// All entries up to this one are durable.
    pub(super) fn durable(&mut self, lsn: Lsn) {
        while let Some((_, id)) = self.minted.pop_front_if(|(begun, _)| *begun <= lsn) {
            self.logged = id;
        }
        self.update();
    }

    fn update(&mut self) {
        let lowest_open = self.open.first().copied().unwrap_or(self.logged);
        self.present = self.present.max(lowest_open.min(self.logged));
    }
}
