//! Aborts that nobody acknowledges, P-4.31.

use unanimous_sdk::protocol::ParticipantId;

use super::*;
use crate::transaction::NotAllowed;

/// Ten minutes, and a second.
const LONG: u64 = 601_000;

fn unreachable(_: &Message) -> Attempt {
    Attempt::Unreachable("nobody listens".to_owned())
}

impl World {
    /// Passes so much time, in steps, with a participant that cannot be reached.
    fn pass_unreachable(&mut self, ms: u64) {
        for _ in 0..ms / 1_000 {
            self.answer_all(unreachable);
            self.pass(1_000);
            self.log();
        }
    }

    fn branch(&self, id: TransactionId, at: usize) -> serde_json::Value {
        serde_json::to_value(self.view(id)).unwrap()["branches"][at].clone()
    }
}

#[test]
fn an_abort_of_a_branch_without_a_vote_is_given_up() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    drop(world.abort(id));
    world.log();
    world.pass_unreachable(590_000);
    assert_eq!(world.branch(id, 0)["state"], "aborting");
    assert!(world.engine.coordinator().horizon <= id);
    world.pass_unreachable(20_000);
    let branch = world.branch(id, 0);
    assert_eq!((&branch["state"], &branch["acknowledged"]), (&"aborted".into(), &false.into()));
    world.journal.sync();
    let later = world.begin(&["b"]);
    drop(world.abort(later));
    world.log();
    assert!(world.engine.coordinator().horizon > id, "the horizon passes it");
    assert!(matches!(world.ask(id, "a"), Ok((Outcome::Abort, false))), "it is answered from the log");
}

#[test]
fn an_abort_of_a_branch_that_voted_is_never_given_up() {
    let mut world = World::new();
    let id = world.begin(&["a", "b"]);
    drop(world.commit(id));
    let calls = std::mem::take(&mut world.calls);
    let (participant, call) = &calls[0];
    world.answer(participant.clone(), call, &Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None));
    drop(world.abort(id));
    world.log();
    world.pass_unreachable(LONG);
    assert_eq!((&world.branch(id, 0)["state"], &world.branch(id, 1)["state"]), (&"aborting".into(), &"aborted".into()));
}

#[test]
fn a_vote_that_came_too_late_keeps_the_abort_alive() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    drop(world.commit(id));
    let (participant, call) = world.calls.pop().unwrap();
    drop(world.abort(id));
    world.log();
    world.answer(participant, &call, &Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None));
    world.pass_unreachable(LONG);
    assert_eq!(world.branch(id, 0)["state"], "aborting");
    // It is kept over a restart, from which the time runs anew.
    let mut world = world.kill();
    world.pass_unreachable(LONG);
    assert_eq!(world.branch(id, 0)["state"], "aborting");
}

#[test]
fn an_unasked_vote_that_came_too_late_keeps_it_alive_too() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    drop(world.abort(id));
    world.log();
    let named = CoordinatorRef::from(&world.engine.coordinator());
    let late = world.engine.vote(world.now, id, &name("a"), Vote::Prepared.into(), &named, None);
    assert!(matches!(late.unwrap_err().why, Refusal::NotAllowed(NotAllowed::NotActive)));
    world.carry_out();
    world.pass_unreachable(LONG);
    assert_eq!(world.branch(id, 0)["state"], "aborting");
}

#[test]
fn a_commit_is_never_given_up() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    drop(world.commit(id));
    world.answer_all(|_| Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None));
    world.log();
    world.pass_unreachable(2 * LONG);
    assert_eq!(world.branch(id, 0)["state"], "committing");
}

#[test]
fn an_abort_that_only_other_stores_answer_is_given_up() {
    let store = Some(ParticipantId::from_uuid(uuid::Uuid::from_u128(1)));
    let mut world = World::new();
    let id = world.begin(&["a", "b"]);
    drop(world.commit(id));
    let calls = std::mem::take(&mut world.calls);
    let (participant, call) = &calls[0];
    world.answer(participant.clone(), call, &Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), store));
    drop(world.abort(id));
    world.log();
    for _ in 0..LONG / 1_000 {
        world.answer_all(|call| match call.at {
            0 => Attempt::OtherStore { participant_id: None },
            _ => Attempt::Abort(AbortAnswer::Aborted, None),
        });
        world.pass(1_000);
        world.log();
    }
    let branch = world.branch(id, 0);
    assert_eq!((&branch["state"], &branch["acknowledged"]), (&"aborted".into(), &false.into()));
}

#[test]
fn the_time_runs_from_the_last_start() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    drop(world.abort(id));
    world.log();
    world.pass_unreachable(400_000);
    let mut world = world.kill();
    world.pass_unreachable(400_000);
    assert_eq!(world.branch(id, 0)["state"], "aborting");
    world.pass_unreachable(210_000);
    assert_eq!(world.branch(id, 0)["state"], "aborted");
}

#[test]
fn one_that_was_given_up_is_acknowledged_by_its_participant_later() {
    let mut world = World::new();
    let id = world.begin(&["a", "b"]);
    drop(world.commit(id));
    let calls = std::mem::take(&mut world.calls);
    // The second one has voted, so the transaction stays; the first is given up.
    let (participant, call) = &calls[1];
    world.answer(participant.clone(), call, &Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None));
    drop(world.abort(id));
    world.log();
    world.pass_unreachable(LONG);
    assert_eq!(world.branch(id, 0)["acknowledged"], false);
    world.engine.abort_answered_late(world.now, id, 0, AbortAnswer::Aborted);
    world.carry_out();
    world.log();
    assert_eq!(world.branch(id, 0)["acknowledged"], true);
    // One that has finished is the matter of who holds the log.
    let (participant, call) = (calls[1].0.clone(), Message { call: Call::Abort, ..calls[1].1.clone() });
    world.calls.clear();
    let gone = world.begin(&["c"]);
    drop(world.abort(gone));
    world.log();
    world.pass_unreachable(LONG);
    let call = Message { transaction: gone, at: 0, ..call };
    world.answer(participant, &call, &Attempt::Abort(AbortAnswer::Aborted, None));
    assert_eq!(world.late, [(gone, 0)]);
}
