//! Messages in the coordinator's name that it never sent, each to one participant.
//!
//! # Invariants
//! - Of a message that says what can't be true nothing is kept.

use rand::RngExt;
use unanimous_sdk::protocol::{Coordinator, Epoch, TransactionId};
use uuid::Uuid;

use super::{World, clock::START};

/// The longest time that an epoch may be ahead of a participant's clock.
const HOUR: u64 = 3_600_000;

fn id_at(ms: u64, random: u128) -> Uuid {
    Uuid::from_u128(u128::from(ms) << 80 | 7 << 76 | 2 << 62 | random & ((1 << 62) - 1))
}

impl World {
    pub(super) fn forge(&mut self) {
        let node = self.any_present();
        match self.random.random_range(0..4) {
            0 => self.forge_far_epoch(node),
            1 => self.forge_horizon(node),
            _ => self.forge_epoch(node),
        }
    }

    /// An epoch that may be true: the participant is fooled by it.
    fn forge_epoch(&mut self, node: usize) {
        let again = self.forged.filter(|epoch| *epoch > self.epoch && self.chance(70));
        let epoch = again.unwrap_or_else(|| {
            let ms = self.real() + self.random.random_range(0..HOUR);
            Epoch::from_uuid(id_at(ms, self.random.random()))
        });
        self.forged = Some(epoch);
        self.send_forged(node, Coordinator { epoch, horizon: TransactionId::NIL, ..self.engine.coordinator() });
    }

    /// An epoch that is ahead of every clock.
    fn forge_far_epoch(&mut self, node: usize) {
        if self.nodes[node].ahead > 0 {
            return;
        }
        let ms = self.real() + HOUR + self.random.random_range(1..1_000 * 24 * HOUR);
        let epoch = Epoch::from_uuid(id_at(ms, self.random.random()));
        self.send_forged(node, Coordinator { epoch, horizon: TransactionId::NIL, ..self.engine.coordinator() });
        let id = self.engine.coordinator().id;
        let known = self.nodes[node].book.coordinator(id).map(|known| known.epoch);
        assert_ne!(known, Some(epoch), "node {node} has kept an epoch that can't be true");
    }

    /// A horizon above the transaction of which the message speaks.
    fn forge_horizon(&mut self, node: usize) {
        let Some(horizon) = self.begun.last().copied() else { return };
        let from = Coordinator { horizon, ..self.engine.coordinator() };
        let known = |world: &Self| world.nodes[node].book.coordinator(from.id).map(|known| known.horizon);
        let before = known(self);
        self.send_forged(node, from.clone());
        assert_eq!(before, known(self), "node {node} has kept a horizon that can't be true");
    }

    fn send_forged(&mut self, node: usize, from: Coordinator) {
        let said = format!("node {node}: gets a forged abort under {} and {}", from.epoch, from.horizon);
        // Of a time before all ids.
        let transaction = TransactionId::from_uuid(id_at(START - 1, 0));
        let now = self.time_at(node);
        self.nodes[node].take_forged(from, transaction, now);
        self.say(|| said);
    }
}
