//! Which store answers, votes, asks and acknowledges: P-4.46, P-5.11 to P-5.14.

use unanimous_sdk::protocol::{AcknowledgedState, ParticipantId};

use super::*;
use crate::{
    engine::{Acknowledgement, acknowledge_finished},
    journal::Lsn,
    transaction::{NotAllowed, StoreVote},
};

fn store(number: u128) -> ParticipantId {
    ParticipantId::from_uuid(uuid::Uuid::from_u128(number))
}

fn prepared_by(number: u128) -> Attempt {
    Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), Some(store(number)))
}

impl World {
    fn ask_from(&self, id: TransactionId, participant_id: Option<ParticipantId>) -> Result<Outcome, Refusal> {
        let me = self.engine.coordinator();
        let inquiry = Inquiry {
            transaction: id,
            coordinator: Some(me.id),
            epoch: Some(me.epoch),
            branch: Some(name("a")),
            participant_id,
            prepared_epoch: None,
        };
        let finished = || self.journal.finished(id).unwrap().map(|t| View::of_finished(id, t));
        let known = self.engine.view(id).or_else(finished);
        self.engine.answer(&inquiry, known.as_ref()).map(|(outcome, _)| outcome).map_err(|refused| refused.why)
    }

    fn acknowledge(
        &mut self,
        id: TransactionId,
        state: AcknowledgedState,
        participant_id: Option<ParticipantId>,
    ) -> Result<Barrier, Refusal> {
        let coordinator = CoordinatorRef::from(&self.engine.coordinator());
        let told = Acknowledgement { branch: name("a"), state, participant_id, coordinator };
        let heard = self.engine.acknowledge(self.now, id, &told).map_err(|refused| refused.why);
        self.carry_out();
        heard
    }

    /// A transaction that is committed, and whose branch "a", prepared by the store 1, has not acknowledged.
    fn committing_at_store_1(&mut self) -> TransactionId {
        let id = self.begin(&["a"]);
        drop(self.commit(id));
        self.answer_all(|_| prepared_by(1));
        self.log();
        id
    }
}

#[test]
fn the_store_that_voted_is_kept_shown_and_named() {
    let mut world = World::new();
    let id = world.committing_at_store_1();
    let (_, call) = &world.calls[0];
    assert_eq!((call.call, call.participant_id), (Call::Commit, Some(store(1))));
    let mut world = world.kill();
    let (_, call) = world.calls.pop().unwrap();
    assert_eq!(call.participant_id, Some(store(1)), "it is in the decision's record");
    let shown = serde_json::to_value(world.view(id)).unwrap();
    assert_eq!(shown["branches"][0]["participant_id"], store(1).to_string());
}

#[test]
fn another_store_at_the_url_ends_nothing() {
    let mut world = World::new();
    let id = world.committing_at_store_1();
    for _ in 0..12 {
        world.answer_all(|_| Attempt::OtherStore { participant_id: Some(store(2)) });
        world.log();
        world.pass(30_000);
    }
    let shown = serde_json::to_value(world.view(id)).unwrap();
    assert_eq!((&shown["state"], &shown["heuristic"]), (&"committing".into(), &false.into()));
    let error = shown["branches"][0]["last_error"].as_str().unwrap();
    assert!(error.contains("another participant") && error.contains(&store(2).to_string()), "{error}");
    assert!(world.suspects.is_empty());
}

#[test]
fn a_vote_of_another_store_is_a_conflict() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    let named = CoordinatorRef::from(&world.engine.coordinator());
    let vote = |number| StoreVote { vote: Vote::Prepared, participant_id: Some(store(number)) };
    world.engine.vote(world.now, id, &name("a"), vote(1), &named, None).unwrap();
    world.engine.vote(world.now, id, &name("a"), vote(1), &named, None).expect("a repeat");
    for other in [vote(2), Vote::Prepared.into()] {
        let refused = world.engine.vote(world.now, id, &name("a"), other, &named, None).unwrap_err();
        assert!(matches!(refused.why, Refusal::NotAllowed(NotAllowed::BranchConflict(_))));
    }
}

#[test]
fn an_inquiry_by_another_store_is_told_abort() {
    let mut world = World::new();
    let id = world.committing_at_store_1();
    assert_eq!(world.ask_from(id, Some(store(1))).unwrap(), Outcome::Commit);
    assert_eq!(world.ask_from(id, Some(store(2))).unwrap(), Outcome::Abort);
    let refused = world.ask_from(id, None).unwrap_err();
    assert!(matches!(refused, Refusal::NotAllowed(NotAllowed::BranchConflict(_))));
    // A counted vote without an id can be anybody's.
    let id = world.begin(&["a"]);
    drop(world.commit(id));
    world.calls.retain(|(_, call)| call.transaction == id);
    world.answer_all(|_| Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None));
    world.log();
    assert_eq!(world.ask_from(id, Some(store(2))).unwrap(), Outcome::Commit);
}

#[test]
fn a_commit_is_not_told_to_another_store_under_a_lost_epoch() {
    let mut world = World::new();
    let id = world.committing_at_store_1();
    let me = world.engine.coordinator();
    let lost: Epoch = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let inquiry = |participant_id| Inquiry {
        transaction: id,
        coordinator: Some(me.id),
        epoch: Some(lost),
        branch: Some(name("a")),
        participant_id,
        prepared_epoch: None,
    };
    let known = world.engine.view(id);
    let answer = |asker| world.engine.answer(&inquiry(asker), known.as_ref()).map_err(|refused| refused.why);
    assert!(matches!(answer(Some(store(1))), Ok((Outcome::Commit, false))));
    assert!(matches!(answer(Some(store(2))), Err(Refusal::NotMyLog)));
}

#[test]
fn a_forgotten_id_is_never_presumed_aborted() {
    let mut world = World::new();
    let dropped = world.begin(&["a"]);
    let later = world.begin(&["b"]);
    drop(world.abort(dropped));
    drop(world.abort(later));
    world.log();
    world.engine.retained(UnixMillis(DAY), dropped);
    let unknown =
        |id: TransactionId, less: u128| TransactionId::from_uuid(uuid::Uuid::from_u128(id.uuid().as_u128() - less));
    assert!(matches!(world.ask(unknown(dropped, 1), "a"), Err(Refusal::Forgotten)));
    assert!(matches!(world.ask(unknown(later, 1), "a"), Ok((Outcome::Abort, true))));
    // What is still known is answered.
    assert!(matches!(world.ask(dropped, "a"), Ok((Outcome::Abort, false))));
}

#[test]
fn an_unknown_id_prepared_under_a_lost_epoch_is_not_my_log() {
    let mut world = World::new();
    world.engine.retained(UnixMillis(DAY), "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap());
    let me = world.engine.coordinator();
    let lost: Epoch = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let inquiry = |prepared_epoch| Inquiry {
        transaction: "01890a5d-ac96-7000-8000-000000000000".parse().unwrap(),
        coordinator: Some(me.id),
        epoch: Some(me.epoch),
        branch: Some(name("a")),
        participant_id: None,
        prepared_epoch,
    };
    let answer = |epoch| world.engine.answer(&inquiry(epoch), None).map_err(|refused| refused.why);
    assert!(matches!(answer(Some(lost)), Err(Refusal::NotMyLog)), "judged before what was forgotten");
    assert!(matches!(answer(Some(me.epoch)), Err(Refusal::Forgotten)));
}

#[test]
fn a_participant_acknowledges_without_being_called() {
    let mut world = World::new();
    let id = world.committing_at_store_1();
    let conflict = |heard| matches!(heard, Err(Refusal::NotAllowed(NotAllowed::BranchConflict(_))));
    assert!(conflict(world.acknowledge(id, AcknowledgedState::Aborted, Some(store(1)))));
    assert!(conflict(world.acknowledge(id, AcknowledgedState::Committed, Some(store(2)))));
    assert!(conflict(world.acknowledge(id, AcknowledgedState::Committed, None)));
    let barrier = world.acknowledge(id, AcknowledgedState::Committed, Some(store(1))).unwrap();
    assert_ne!(barrier.durable, Lsn(0), "its answer waits for the disk: nobody would say it again");
    world.log();
    assert_eq!(serde_json::to_value(world.view(id)).unwrap()["state"], "committed");
    let finished = world.journal.finished(id).unwrap().unwrap();
    let told = Acknowledgement {
        branch: name("a"),
        state: AcknowledgedState::Committed,
        participant_id: Some(store(1)),
        coordinator: CoordinatorRef::from(&world.engine.coordinator()),
    };
    assert!(acknowledge_finished(finished, &told).unwrap().is_none(), "a repeat changes nothing");
}

#[test]
fn nothing_is_acknowledged_before_the_decision() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    let early = world.acknowledge(id, AcknowledgedState::Aborted, None).unwrap_err();
    assert!(matches!(early, Refusal::NotAllowed(NotAllowed::NotDecided)));
    drop(world.abort(id));
    let not_durable = world.acknowledge(id, AcknowledgedState::Aborted, None).unwrap_err();
    assert!(matches!(not_durable, Refusal::NotAllowed(NotAllowed::NotDecided)));
    world.log();
    world.acknowledge(id, AcknowledgedState::Aborted, None).unwrap();
}

#[test]
fn a_message_never_carries_a_horizon_above_its_transaction() {
    let mut world = World::new();
    let ids: Vec<_> = (0..3).map(|_| world.begin(&["a"])).collect();
    for id in &ids {
        drop(world.abort(*id));
    }
    world.log();
    world.answer_all(|call| {
        assert!(call.horizon <= call.transaction);
        Attempt::Abort(AbortAnswer::Aborted, None)
    });
}
