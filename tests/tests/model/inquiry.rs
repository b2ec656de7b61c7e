//! An inquiry, and what the production engine answers.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
};

use unanimous_coordinator::{
    engine::{Engine, Inquiry, Limits, Now, Refusal, View},
    journal::Memory,
    transaction::NotAllowed,
};
use unanimous_sdk::protocol::{Decision, Epoch, Outcome, ParticipantId, TransactionId, UnixMillis};

use super::ids::{branch_name, coordinator_id, epoch_of, transaction_id};

/// An inquiry, as a participant makes it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub branch: usize,
    pub epoch: Epoch,
    pub participant_id: Option<ParticipantId>,
    pub prepared_epoch: Option<Epoch>,
}

/// What an inquiry comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Decided(Decision),
    Pending,
    NotMyLog,
    Forgotten,
    /// The asker has no id, and the counted vote has one.
    Conflict,
}

/// Returns what is answered from a log that was opened under these epochs, in which the transaction is this.
pub fn answer(epochs: &BTreeSet<u8>, forgotten: bool, asked: Asked, known: Option<&View>) -> Reply {
    let inquiry = Inquiry {
        transaction: transaction_id(),
        coordinator: Some(coordinator_id()),
        epoch: Some(asked.epoch),
        branch: Some(branch_name(asked.branch)),
        participant_id: asked.participant_id,
        prepared_epoch: asked.prepared_epoch,
    };
    match with_engine(epochs, forgotten, |engine| engine.answer(&inquiry, known)).map_err(|refused| refused.why) {
        Ok((Outcome::Commit, _)) => Reply::Decided(Decision::Commit),
        Ok((Outcome::Abort, _)) => Reply::Decided(Decision::Abort),
        Ok((Outcome::Pending, _)) => Reply::Pending,
        Err(Refusal::NotMyLog) => Reply::NotMyLog,
        Err(Refusal::Forgotten) => Reply::Forgotten,
        Err(Refusal::NotAllowed(NotAllowed::BranchConflict(_))) => Reply::Conflict,
        Err(why) => panic!("the model asked for something impossible: {why:?}"),
    }
}

thread_local! {
    /// Engines on logs without live transactions, by what an inquiry's answer depends on beside the transaction.
    static ENGINES: RefCell<HashMap<(BTreeSet<u8>, bool), Engine>> = RefCell::default();
}

/// Asks the engine of a log that was opened under these epochs, the last of which is the present one.
pub fn with_engine<T>(epochs: &BTreeSet<u8>, forgotten: bool, ask: impl FnOnce(&Engine) -> T) -> T {
    ENGINES.with_borrow_mut(|engines| {
        let engine = engines.entry((epochs.clone(), forgotten)).or_insert_with(|| {
            let (_, mut recovered) =
                Memory::create(coordinator_id(), UnixMillis(0), 0).expect("a log in memory can be created");
            recovered.epoch = epoch_of(*epochs.last().expect("it is open"));
            recovered.epochs = epochs.iter().map(|epoch| epoch_of(*epoch)).collect();
            recovered.forgotten = if forgotten { transaction_id() } else { TransactionId::NIL };
            Engine::new(Now::default(), recovered, String::new(), Limits::default(), [0; 32])
        });
        ask(engine)
    })
}
