//! Names of the one transaction, its coordinator, branches and stores.

use std::sync::LazyLock;

use unanimous_sdk::{
    branch::BranchKey,
    protocol::{BranchName, Coordinator as Sender, CoordinatorId, Epoch, ParticipantId, ParticipantUrl, TransactionId},
};
use uuid::Uuid;

/// The transaction; and two that will be after it, the first of which the horizon reaches.
const THIS: u128 = 101;
const LATER: u128 = 102;
const LATEST: u128 = 103;

fn uuid_7(number: u128) -> Uuid {
    Uuid::from_u128(1 << 90 | 7 << 76 | 2 << 62 | number)
}

pub fn epoch_of(number: u8) -> Epoch {
    Epoch::from_uuid(uuid_7(u128::from(number)))
}

/// Returns the number that [`epoch_of`] made an epoch of.
pub fn number_of(epoch: Epoch) -> u8 {
    epoch.uuid().as_bytes()[15]
}

static PARTICIPANTS: LazyLock<Vec<(BranchName, ParticipantUrl)>> = LazyLock::new(|| {
    let url = |at: u64| format!("http://localhost/{at}").parse().expect("it is a URL");
    (0..3).map(|at| (BranchName::numbered(usize::try_from(at).expect("it is small") + 1), url(at))).collect()
});

pub fn branch_name(at: usize) -> BranchName {
    PARTICIPANTS[at].0.clone()
}

pub fn participant(at: usize) -> ParticipantUrl {
    PARTICIPANTS[at].1.clone()
}

pub fn payload_text() -> &'static str {
    "{}"
}

pub fn coordinator_id() -> CoordinatorId {
    CoordinatorId::from_uuid(Uuid::from_u128(7))
}

pub fn transaction_id() -> TransactionId {
    TransactionId::from_uuid(uuid_7(THIS))
}

/// The id of a store.
pub fn store_id(number: u8) -> ParticipantId {
    ParticipantId::from_uuid(Uuid::from_u128(u128::from(number)))
}

/// The coordinator of this epoch as it stands in its messages; `past`: with a horizon that lies above the transaction.
pub fn coordinator_at(epoch: u8, past: bool) -> Sender {
    let horizon = if past { TransactionId::from_uuid(uuid_7(LATER)) } else { TransactionId::NIL };
    Sender { id: coordinator_id(), epoch: epoch_of(epoch), url: String::new(), horizon }
}

pub fn key_of(at: usize) -> BranchKey {
    BranchKey { coordinator: coordinator_id(), transaction: transaction_id(), branch: branch_name(at) }
}

/// A branch of the latest transaction: a message about it may have a horizon above this one.
pub fn latest_key_of(at: usize) -> BranchKey {
    BranchKey { transaction: TransactionId::from_uuid(uuid_7(LATEST)), ..key_of(at) }
}
