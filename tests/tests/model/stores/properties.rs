//! What must always be so, and what must be reached for the exploration to mean anything.

use stateright::Property;
use unanimous_sdk::{branch::State as BranchOf, protocol::Decision};

use super::{Stores, state::State};
use crate::{inquiry::Reply, taken::Taken};

pub const AGREEMENT: &str = "who voted does not end its branch as aborted after the commit";
pub const VALIDITY: &str = "who commits obeys a durable decision";
pub const DURABILITY: &str = "what was told stays decided";
pub const ONCE: &str = "no work is done twice";
pub const ONE_STORE: &str = "a branch is carried out at one store";
pub const NO_HEURISTIC: &str = "no branch ends against the decision";
pub const ORPHAN: &str = "a branch that counts as committed is";
pub const GIVEN_UP: &str = "no abort is given up of a branch that voted while its own store may answer";
pub const OPERATOR: &str = "an operator is needed only for who was put back, or away for longer than retention";

pub const COMMITTED: &str = "it commits";
pub const ABORTED: &str = "it aborts, and somebody had prepared";
pub const DROPPED: &str = "it commits, all forget it, and retention drops it";
pub const GAVE_UP: &str = "its abort is given up, and the participant hears of it later";
pub const REFUSED: &str = "an operator is needed";
/// What need not be.
pub const REACHABLE: [&str; 5] = [COMMITTED, ABORTED, DROPPED, GAVE_UP, REFUSED];

pub fn all() -> Vec<Property<Stores>> {
    vec![
        Property::always(AGREEMENT, |_, state: &State| match state.history.decided {
            Some((Decision::Commit, counted)) => !state.stores.iter().any(|store| {
                let aborted = matches!(store.node.state(), Some(BranchOf::Aborting(_) | BranchOf::Aborted(_)));
                store.node.participant_id() == counted && aborted
            }),
            Some((Decision::Abort, _)) | None => true,
        }),
        Property::always(VALIDITY, |_, state: &State| {
            let commit = matches!(state.history.decided, Some((Decision::Commit, _)));
            commit || state.history.carried_out.is_empty()
        }),
        Property::always(DURABILITY, |_, State { history, .. }: &State| {
            let decided = history.decided.map(|(decision, _)| decision);
            !history.changed && (history.told.is_none() || history.told == decided)
        }),
        Property::always(ONCE, |_, state: &State| state.stores.iter().all(|store| store.node.published <= 1)),
        Property::always(ONE_STORE, |_, state: &State| state.history.carried_out.len() <= 1),
        Property::always(NO_HEURISTIC, |_, state: &State| {
            state.coordinator.transaction.as_ref().is_none_or(|transaction| !transaction.is_heuristic())
        }),
        Property::always(ORPHAN, |_, state: &State| !state.history.orphan),
        Property::always(GIVEN_UP, |_, state: &State| !state.history.gave_up_voted),
        Property::always(OPERATOR, |_, state: &State| {
            state.was_put_back
                || state.stores.iter().all(|store| {
                    let is_safe = store.missed || !store.node.is_in_doubt();
                    is_safe || state.reply_to(&store.node, Taken::Nothing) != Reply::Forgotten
                })
        }),
        Property::sometimes(COMMITTED, |_, state: &State| state.is_done() && !state.history.carried_out.is_empty()),
        Property::sometimes(ABORTED, |_, state: &State| {
            state.is_done()
                && state.history.told == Some(Decision::Abort)
                && state.stores.iter().any(|store| store.node.was_prepared)
        }),
        Property::sometimes(DROPPED, |_, state: &State| {
            state.coordinator.transaction.is_none()
                && state.coordinator.unsynced() == 0
                && state.history.told == Some(Decision::Commit)
                && state.stores.iter().all(|store| store.node.state().is_none())
        }),
        Property::sometimes(GAVE_UP, |_, state: &State| {
            let given_up = state.coordinator.branch(0).is_some_and(|branch| branch.given_up);
            let aborted = |state: &BranchOf| matches!(state, BranchOf::Aborted(_));
            given_up && state.is_done() && state.stores.iter().any(|store| store.node.state().is_some_and(aborted))
        }),
        Property::sometimes(REFUSED, |_, state: &State| {
            state.is_done() && state.stores.iter().any(|store| store.node.is_in_doubt())
        }),
    ]
}
