//! Participants that have lost their data, P-4.32 and P-8.28 to P-8.31.

use unanimous_sdk::protocol::AcknowledgedState;

use super::*;
use crate::engine::{Acknowledgement, Enlist};

fn unknown(_: &Message) -> Attempt {
    Attempt::Commit(CommitAnswer::UnknownBranch, None)
}

impl World {
    /// So many transactions that are decided to commit, and whose commits are under way.
    fn committing(&mut self, count: usize) -> Vec<TransactionId> {
        let ids: Vec<_> = (0..count).map(|_| self.begin(&["a"])).collect();
        for id in &ids {
            drop(self.commit(*id));
        }
        self.answer_all(|_| Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None));
        self.log();
        ids
    }

    fn states(&self, ids: &[TransactionId]) -> Vec<String> {
        let state = |id: &TransactionId| serde_json::to_value(self.view(*id)).unwrap()["branches"][0]["state"].clone();
        ids.iter().map(|id| state(id).as_str().unwrap().to_owned()).collect()
    }

    fn lost(&self, ids: &[TransactionId]) -> usize {
        self.states(ids).iter().filter(|state| *state == "heuristic_unknown").count()
    }
}

#[test]
fn ten_unknown_branches_in_a_row_hold_the_rest() {
    let mut world = World::new();
    let ids = world.committing(20);
    world.answer_all(unknown);
    world.log();
    assert_eq!(world.lost(&ids), 10);
    assert_eq!(world.suspects.len(), 1);
    let shown = serde_json::to_value(world.view(ids[15])).unwrap();
    assert_eq!(shown["branches"][0]["state"], "committing");
    assert!(shown["branches"][0]["last_error"].as_str().unwrap().contains("held"));
    // Also those that begin later; prepares go on.
    let later = world.committing(1);
    assert!(world.calls.is_empty(), "{:?}", world.calls);
    assert_eq!(world.states(&later), ["committing"]);
}

#[test]
fn a_committed_between_begins_a_new_row() {
    let mut world = World::new();
    let ids = world.committing(19);
    for (n, (participant, call)) in std::mem::take(&mut world.calls).into_iter().enumerate() {
        let answer = if n == 9 { CommitAnswer::Committed } else { CommitAnswer::UnknownBranch };
        world.answer(participant, &call, &Attempt::Commit(answer, None));
    }
    world.log();
    assert_eq!(world.lost(&ids), 18);
    assert!(world.suspects.is_empty());
}

#[test]
fn branches_of_one_transaction_count_once() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    let more: Vec<String> = (0..12).map(|n| format!("b{n}")).collect();
    for branch in &more {
        let enlist = Enlist { name: Some(name(branch)), participant: url("a"), payload: None, vote: None, key: None };
        world.engine.enlist(world.now, id, enlist).unwrap();
    }
    drop(world.commit(id));
    world.answer_all(|_| Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None));
    world.log();
    world.answer_all(unknown);
    world.log();
    assert!(world.suspects.is_empty());
}

#[test]
fn a_restart_loses_no_further_branch() {
    let mut world = World::new();
    let ids = world.committing(20);
    world.answer_all(unknown);
    world.log();
    let mut world = world.kill();
    assert!(world.calls.is_empty(), "what was held is held");
    world.pass(60_000);
    assert_eq!(world.calls.len(), 1, "the oldest is tried");
    world.answer_all(unknown);
    world.log();
    assert_eq!(world.lost(&ids), 10);
}

#[test]
fn a_try_that_is_known_releases_all() {
    let mut world = World::new();
    let ids = world.committing(20);
    world.answer_all(unknown);
    world.log();
    world.pass(30_000);
    let (participant, call) = world.calls.pop().expect("the oldest is tried");
    assert_eq!(call.transaction, ids[10]);
    world.answer(participant, &call, &Attempt::Commit(CommitAnswer::Committed, None));
    world.log();
    assert_eq!(world.calls.len(), 9);
    world.answer_all(|_| Attempt::Commit(CommitAnswer::Committed, None));
    world.log();
    assert_eq!(world.lost(&ids), 10);
    assert!(world.states(&ids)[10..].iter().all(|state| state == "committed"));
    // The state has ended in the log, too.
    let mut world = world.kill();
    let later = world.committing(1);
    world.answer_all(|_| Attempt::Commit(CommitAnswer::Committed, None));
    world.log();
    assert_eq!(world.states(&later), ["committed"]);
}

#[test]
fn a_try_that_is_not_answered_is_repeated_alone() {
    let mut world = World::new();
    let ids = world.committing(12);
    world.answer_all(unknown);
    world.log();
    world.pass(30_000);
    world.answer_all(|_| Attempt::NoAnswer("500".to_owned()));
    world.pass_to_next_timer();
    assert_eq!(world.calls.len(), 1);
    assert_eq!(world.calls[0].1.transaction, ids[10]);
}

#[test]
fn an_inquiry_tries_its_branch_at_most_once_a_second() {
    let mut world = World::new();
    let ids = world.committing(20);
    world.answer_all(unknown);
    world.log();
    let ask = |world: &mut World| {
        let me = world.engine.coordinator();
        let inquiry = Inquiry {
            transaction: ids[17],
            coordinator: Some(me.id),
            epoch: Some(me.epoch),
            branch: Some(name("a")),
            participant_id: None,
            prepared_epoch: None,
        };
        world.engine.heard_inquiry(world.now, &inquiry);
        world.carry_out();
        std::mem::take(&mut world.calls)
    };
    world.pass(1_000);
    let calls = ask(&mut world);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].1.transaction, ids[17]);
    let (participant, call) = &calls[0];
    world.answer(participant.clone(), call, &unknown(call));
    world.pass(500);
    assert!(ask(&mut world).is_empty());
    world.pass(500);
    assert_eq!(ask(&mut world).len(), 1);
}

#[test]
fn an_acknowledgement_ends_a_held_branch_and_nothing_else() {
    let mut world = World::new();
    let ids = world.committing(12);
    world.answer_all(unknown);
    world.log();
    let told = Acknowledgement {
        branch: name("a"),
        state: AcknowledgedState::Committed,
        participant_id: None,
        coordinator: CoordinatorRef::from(&world.engine.coordinator()),
    };
    world.engine.acknowledge(world.now, ids[10], &told).unwrap();
    world.carry_out();
    world.log();
    assert_eq!(world.states(&ids)[10..], ["committed", "committing"]);
    world.pass(30_000);
    assert_eq!(world.calls.len(), 1);
    assert_eq!(world.calls[0].1.transaction, ids[11]);
}
