//! A participant says that a higher epoch exists, P-4.18 and P-4.19.

use unanimous_sdk::protocol::ParticipantId;

use super::*;

fn epoch_at(ms: u64) -> Epoch {
    Epoch::from_uuid(uuid::Uuid::from_u128((u128::from(ms) << 80) | (0x7 << 76) | (0x2 << 62)))
}

/// A minute ahead of the clock.
fn near() -> Epoch {
    epoch_at(DAY + 60_000)
}

fn store(number: u128) -> ParticipantId {
    ParticipantId::from_uuid(uuid::Uuid::from_u128(number))
}

impl World {
    /// Two transactions whose prepares were answered 412, by participants of these URLs and stores.
    fn answered_412(&mut self, witnesses: [(&str, Option<ParticipantId>); 2], epoch: Epoch) {
        for (url, store) in witnesses {
            let branches = vec![(Some(name("a")), url.parse().unwrap(), None)];
            let begin = Begin { timeout: Duration::from_secs(30), branches, ..Begin::default() };
            let id = self.engine.begin(self.now, begin).unwrap().0.id();
            drop(self.commit(id));
            let (participant, call) = self.calls.pop().unwrap();
            self.answer(participant, &call, &Attempt::Stale(epoch, store));
            if self.confirming {
                self.confirm(None);
            }
            self.log();
        }
    }
}

#[test]
fn one_412_stops_nobody_else() {
    let mut world = World::new();
    let stuck = world.begin(&["a"]);
    drop(world.commit(stuck));
    let (participant, call) = world.calls.pop().unwrap();
    world.answer(participant, &call, &Attempt::Stale(near(), None));
    world.confirm(None);
    world.log();
    assert!(world.engine.superseded().is_none());
    let other = world.begin(&["b"]);
    drop(world.commit(other));
    world.answer_all(|_| Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None));
    world.log();
    assert_eq!(world.view(other).decision(), Some(Decision::Commit));
    // The branch waits, and is repeated like any call that was not answered.
    let shown = serde_json::to_value(world.view(stuck)).unwrap();
    let error = shown["branches"][0]["last_error"].as_str().unwrap();
    assert!(error.contains(&near().to_string()) && error.contains("next start"), "{error}");
    world.calls.clear();
    world.pass(1_000);
    assert!(world.calls.iter().any(|(_, call)| call.transaction == stuck));
}

#[test]
fn no_decision_is_reported_while_ownership_is_confirmed() {
    let mut world = World::new();
    let (stuck, other) = (world.begin(&["a"]), world.begin(&["b"]));
    drop(world.commit(stuck));
    let (participant, call) = world.calls.pop().unwrap();
    let mut waiting = world.commit(other);
    world.answer(participant, &call, &Attempt::Stale(near(), None));
    world.answer_all(|_| Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None));
    world.log();
    assert!(waiting.try_recv().is_err(), "it is durable, and not reported");
    assert_eq!(world.view(other).decision(), None);
    assert!(world.calls.is_empty());
    let unknown: TransactionId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    assert!(matches!(world.ask(unknown, "a"), Err(Refusal::Confirming)));
    world.confirm(None);
    assert_eq!(waiting.try_recv().unwrap().decision(), Some(Decision::Commit));
    assert_eq!(world.calls.len(), 1);
    assert!(matches!(world.ask(unknown, "a"), Ok((Outcome::Abort, true))));
}

#[test]
fn a_lost_log_is_not_written_and_nothing_is_reported() {
    let mut world = World::new();
    let (stuck, other) = (world.begin(&["a"]), world.begin(&["b"]));
    drop(world.commit(stuck));
    let (participant, call) = world.calls.pop().unwrap();
    let mut waiting = world.commit(other);
    world.log();
    world.answer(participant, &call, &Attempt::Stale(near(), None));
    world.confirm(Some("the lock file was replaced"));
    // Nor for a late acknowledgement that changes nothing.
    let _ = world.engine.durable_so_far();
    world.carry_out();
    assert_eq!(world.journal.waiting(), 0, "nothing is written to a log that is not its own");
    world.answer_all(|_| Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None));
    world.log();
    assert!(waiting.try_recv().is_err());
    let begin = Begin { timeout: Duration::from_secs(1), ..Begin::default() };
    assert!(matches!(world.engine.begin(world.now, begin).unwrap_err().why, Refusal::Superseded(_)));
    assert!(world.engine.commit(world.now, other, Milestone::Decided, None, None).is_err());
    world.pass(100_000);
    assert!(world.calls.is_empty());
    assert!(matches!(world.ask(stuck, "a"), Err(Refusal::Superseded(_))));
    let unknown: TransactionId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    assert!(matches!(world.ask(unknown, "a"), Err(Refusal::Superseded(_))));
}

#[test]
fn two_independent_witnesses_of_one_epoch_supersede() {
    let mut world = World::new();
    world.answered_412([("http://localhost:1/a", None), ("http://localhost:2/a", None)], near());
    let superseded = world.engine.superseded().expect("a second coordinator runs");
    assert_eq!(superseded.witnesses.len(), 2);
    assert!(superseded.lost.is_none());
    let mut world = World::new();
    world.answered_412([("http://localhost:1/a", Some(store(1))), ("http://localhost:2/a", Some(store(2)))], near());
    assert!(world.engine.superseded().is_some());
}

#[test]
fn one_store_or_one_host_is_one_witness() {
    for (one, other) in [
        (("http://localhost:1/a", None), ("http://localhost:1/b", None)),
        (("http://localhost:1/a", Some(store(1))), ("http://localhost:2/a", Some(store(1)))),
        (("http://localhost/a", Some(store(1))), ("http://localhost:80/b", Some(store(2)))),
    ] {
        let mut world = World::new();
        world.answered_412([one, other], near());
        assert!(world.engine.superseded().is_none(), "{one:?} {other:?}");
    }
}

#[test]
fn two_witnesses_of_different_epochs_supersede_nobody() {
    let mut world = World::new();
    let a = ("http://localhost:1/a", None);
    world.answered_412([a, a], near());
    let b = ("http://localhost:2/a", None);
    world.answered_412([b, b], epoch_at(DAY + 90_000));
    assert!(world.engine.superseded().is_none());
}

#[test]
fn the_next_epoch_is_greater_than_any_that_was_named() {
    let mut world = World::new();
    let witness = ("http://localhost:1/a", None);
    world.answered_412([witness, witness], near());
    let world = world.kill();
    assert!(world.engine.coordinator().epoch > near());
}

#[test]
fn an_epoch_over_an_hour_ahead_is_not_believed() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    drop(world.commit(id));
    let (participant, call) = world.calls.pop().unwrap();
    world.answer(participant, &call, &Attempt::Stale(epoch_at(DAY + 7_200_000), None));
    assert!(!world.confirming);
    world.log();
    let before = world.engine.coordinator().epoch;
    let world = world.kill();
    assert!(world.engine.coordinator().epoch.unix_ms() < before.unix_ms() + 3_600_000, "nothing of it is kept");
}
