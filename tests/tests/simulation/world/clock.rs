//! Time: it passes for all alike, and every clock may be wrong, ahead or behind, by minutes to years.
//!
//! # Invariants
//! - What has finished is there for as long as it is kept, whatever a clock says: nothing is dropped before processes have
//!   run for half of that time (`was_dropped_in_time`).
//! - What must be kept until a participant has acknowledged it, or an operator has looked at it, is never dropped.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use unanimous_coordinator::{
    journal::{Entry, Journal, Lsn, Memory, Reading},
    transaction::{BranchState, Transaction},
};
use unanimous_sdk::protocol::{TransactionId, UnixMillis};

use super::World;

/// The right time when a world begins.
pub(super) const START: u64 = 1_770_000_000_000;

/// How far the time in an id may be ahead of the right clock: an hour, and what a counter may borrow.
pub(super) const MAX_AHEAD_MS: u64 = 3_600_000 + 1_000;

const MINUTE: i64 = 60_000;
const DAY: i64 = 86_400_000;

/// Something that has finished.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) transaction: Arc<Transaction>,
    /// For how long processes had run by then.
    ran: u64,
    /// It is to be kept for ever.
    for_ever: bool,
}

/// What the log must have for as long as it is kept.
pub(super) struct Retention {
    pub(super) keep: Duration,
    /// What is durable.
    pub(super) kept: BTreeMap<TransactionId, Kept>,
    /// What is not, yet.
    finishing: Vec<(Lsn, TransactionId, Kept)>,
    /// The highest id that may have been dropped.
    pub(super) forgotten: TransactionId,
}

impl Retention {
    pub(super) fn new(keep: Duration) -> Self {
        Self { keep, kept: BTreeMap::new(), finishing: vec![], forgotten: TransactionId::NIL }
    }

    pub(super) fn durable(&mut self, durable: Lsn) {
        for (_, id, kept) in self.finishing.extract_if(.., |(lsn, ..)| *lsn <= durable) {
            self.kept.insert(id, kept);
        }
    }

    /// The process has ended, and what it had not made durable may be lost. What is there is durable.
    pub(super) fn restart(&mut self, forgotten: TransactionId, journal: &Memory) {
        for (_, id, kept) in std::mem::take(&mut self.finishing) {
            if journal.finished(id).expect("it can be read").is_some() {
                self.kept.insert(id, kept);
            }
        }
        self.forgotten = forgotten;
    }
}

/// Returns by how much a clock is ahead that somebody has touched: it may be right again.
pub(super) fn any_jump(random: &mut StdRng) -> i64 {
    let size = match random.random_range(0..8) {
        0..3 => return 0,
        3 => random.random_range(1..120) * MINUTE,
        4 => random.random_range(2..48) * 60 * MINUTE,
        5 => random.random_range(2..60) * DAY,
        _ => random.random_range(1..10) * 365 * DAY,
    };
    if random.random() { size } else { -size }
}

impl World {
    /// The right time.
    pub(super) fn real(&self) -> u64 {
        START + self.now.mono
    }

    /// The time of day at a store.
    pub(super) fn time_at(&self, node: usize) -> UnixMillis {
        UnixMillis(self.real().saturating_add_signed(self.nodes[node].ahead))
    }

    /// Time passes; `running`: while the coordinator runs.
    pub(super) fn elapse(&mut self, ms: u64, running: bool) {
        self.now.mono += ms;
        self.now.wall = UnixMillis(self.real().saturating_add_signed(self.ahead));
        if running {
            self.ran += ms;
        }
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.elapse(ms, true);
        if self.faults && self.chance(6) {
            self.touch_clock();
        }
        if self.faults && self.chance(4) {
            let node = self.random.random_range(0..self.nodes.len());
            let ahead = any_jump(&mut self.random);
            self.nodes[node].ahead = ahead;
            self.say(|| format!("node {node}: its clock is set, and ahead by {} s", ahead / 1_000));
        }
        if self.chance(40) {
            self.retain();
        }
        self.engine.tick(self.now);
    }

    /// The coordinator's clock jumps, or is right again.
    pub(super) fn touch_clock(&mut self) {
        self.ahead = any_jump(&mut self.random);
        self.elapse(0, true);
        let ahead = self.ahead / 1_000;
        self.say(|| format!("coordinator: its clock is set, and ahead by {ahead} s"));
    }

    /// All clocks are right again.
    pub(super) fn right_all_clocks(&mut self) {
        self.ahead = 0;
        for node in &mut self.nodes {
            node.ahead = 0;
        }
        self.elapse(0, true);
    }

    /// The log keeps its time, and drops what finished long ago.
    fn retain(&mut self) {
        if self.ownership.is_lost() {
            return;
        }
        let reading = Reading { mono: self.now.mono, wall: self.now.wall };
        let keep = self.retention.keep;
        let (engine, retention) = (&mut self.engine, &mut self.retention);
        let before = |since, forgotten| {
            engine.retained(since, forgotten);
            retention.forgotten = retention.forgotten.max(forgotten);
        };
        self.journal.retain(keep, reading, before).expect("it can be read");
        self.log.noted();
    }

    /// Follows what the log is to keep.
    pub(super) fn note_end(&mut self, lsn: Lsn, entry: &Entry) {
        match entry {
            Entry::Finished { id, transaction } => {
                let for_ever = transaction
                    .branches
                    .iter()
                    .any(|branch| branch.given_up || branch.state == BranchState::HeuristicUnknown);
                let kept = Kept { transaction: Arc::clone(transaction), ran: self.ran, for_ever };
                self.retention.finishing.push((lsn, *id, kept));
            }
            // Its participant has acknowledged it after all.
            Entry::Amended { id, .. } => {
                let finishing = self.retention.finishing.iter_mut().find(|(_, of, _)| of == id).map(|(.., kept)| kept);
                if let Some(kept) = finishing.or(self.retention.kept.get_mut(id)) {
                    kept.for_ever = false;
                }
            }
            _ => {}
        }
    }

    /// Whether something that the log does not know any more may have been dropped by now.
    pub(super) fn was_dropped_in_time(&self, id: TransactionId) -> bool {
        let Some(kept) = self.retention.kept.get(&id) else { return false };
        let half = u64::try_from(self.retention.keep.as_millis() / 2).unwrap_or(u64::MAX);
        !kept.for_ever && self.ran - kept.ran >= half && id <= self.retention.forgotten
    }

    /// Nothing that must be there is gone.
    pub(super) fn check_kept(&mut self, id: TransactionId) {
        if self.retention.kept.contains_key(&id) && self.engine.view(id).is_none() {
            let there = self.journal.finished(id).expect("it can be read").is_some();
            assert!(there || self.was_dropped_in_time(id), "{id} has finished, and the log has dropped it too early");
        }
    }
}
