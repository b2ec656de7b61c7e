//! The forced records' numbers and their checksum chain: how a hole or a cut in the log is noticed. Pure.
//!
//! Always true: the forced record n carries a checksum over the chain of n-1, n and its own content, and the chain
//! begins with the coordinator's id. A record that is missing, changed, moved or of another log breaks it.

use serde::{Deserialize, Serialize};
use unanimous_sdk::protocol::{CoordinatorId, Decision, Epoch, TransactionId};
use xxhash_rust::xxh3::xxh3_128;

/// What a forced record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Forced {
    /// The log was opened under this epoch.
    Opened { epoch: Epoch },
    /// A transaction was decided. `digest` is that of the value that stands among the live records.
    Decided { id: TransactionId, decision: Decision, sequence: Option<u64>, digest: u128 },
    /// Another coordinator has taken over.
    Superseded { epoch: Epoch, told_by: String },
    /// From here on the chain is verified at the next opening; `sequence` is that of the last decision before.
    Checkpoint { sequence: u64 },
}

/// A forced record as it is kept: what it says, and the chain up to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) forced: Forced,
    pub(super) chain: u128,
}

/// The end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    /// The number of the last forced record; 0 before the first.
    pub(super) number: u64,
    pub(super) chain: u128,
}

impl Tip {
    /// The chain before its first record.
    pub(super) fn genesis(coordinator: CoordinatorId) -> Self {
        Self { number: 0, chain: xxh3_128(coordinator.uuid().as_bytes()) }
    }

    /// The tip after one more forced record, of which `content` is the encoded form.
    pub(super) fn next(self, content: &[u8]) -> Self {
        let number = self.number.saturating_add(1);
        let mut bytes = Vec::with_capacity(24 + content.len());
        bytes.extend_from_slice(&self.chain.to_le_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(content);
        Self { number, chain: xxh3_128(&bytes) }
    }
}
