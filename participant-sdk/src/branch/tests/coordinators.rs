//! Which coordinators are believed, and how many are known.

use super::*;
use crate::protocol::{CoordinatorId, MAX_AHEAD};

fn is_unchanged(world: &World, before: &World, step: &Step) -> bool {
    step.records.is_empty() && step.after == Lsn::default() && world.book == before.book
}

/// An id whose first 48 bits are this long ahead of the clock.
fn ahead(duration: std::time::Duration) -> String {
    let ms = NOW.after(duration).0;
    format!("{:08x}-{:04x}-7000-8000-000000000000", ms >> 16, ms & 0xffff)
}

fn under(epoch: &str, horizon: &str, of: &str, call: Call) -> Event {
    let from = Coordinator {
        epoch: epoch.parse().unwrap(),
        horizon: horizon.parse().unwrap(),
        ..coordinator(2, TransactionId::NIL)
    };
    let (transaction, branch) = (of.parse().unwrap(), "b".parse().unwrap());
    Event::Told { from, transaction, branch, call, meant_for: None, now: NOW }
}

const MS: std::time::Duration = std::time::Duration::from_millis(1);

/// A coordinator that nobody has configured.
fn stranger(n: u128) -> CoordinatorId {
    CoordinatorId::from_uuid(uuid::Uuid::from_u128(n))
}

fn told_by(id: CoordinatorId, epoch_number: u8, of: TransactionId, horizon: TransactionId, call: Call) -> Event {
    let from = Coordinator { id, ..coordinator(epoch_number, horizon) };
    Event::Told { from, transaction: of, branch: "b".parse().unwrap(), call, meant_for: None, now: NOW }
}

fn abort_by(n: u128) -> Event {
    told_by(stranger(n), 2, transaction(1), TransactionId::NIL, Call::Abort)
}

/// A commit of a branch that nobody knows: its coordinator is known then, and no branch is kept.
fn idle_by(n: u128) -> Event {
    told_by(stranger(n), 2, transaction(1), TransactionId::NIL, Call::Commit)
}

fn knows(world: &World, n: u128) -> bool {
    world.book.coordinator(stranger(n)).is_some()
}

#[test]
fn epoch_far_ahead_of_the_clock_is_refused_and_not_kept() {
    let far = ahead(MAX_AHEAD + MS);
    for mut world in [World::new(), World::prepared()] {
        for call in [prepare(payload(1)), Call::Commit, Call::Abort, Call::Open] {
            let before = world.clone();
            let step = world.step(under(&far, &TransactionId::NIL.to_string(), &transaction(1).to_string(), call));
            assert_eq!(step.answer, Err(Refusal::Implausible { field: "coordinator.epoch" }));
            assert!(is_unchanged(&world, &before, &step), "{step:?}");
        }
    }
    let near = under(&ahead(MAX_AHEAD), &TransactionId::NIL.to_string(), &transaction(1).to_string(), Call::Abort);
    assert_eq!(World::new().step(near).answer, Ok(Reply::Aborted));
}

#[test]
fn known_epoch_is_not_measured_after_the_clock_went_back() {
    let mut world = World::prepared();
    let set_back = |event: Event| match event {
        Event::Told { from, transaction, branch, call, meant_for, now: _ } => {
            Event::Told { from, transaction, branch, call, meant_for, now: UnixMillis(0) }
        }
        other => other,
    };
    assert_eq!(world.step(set_back(told(1, Call::Commit))).answer, Ok(Reply::Effect(Decision::Commit)));
    let step = world.step(set_back(told_under(coordinator(1, TransactionId::NIL), 1, Call::Commit)));
    assert!(matches!(step.answer, Err(Refusal::StaleEpoch { .. })), "{step:?}");
    let step = world.step(set_back(told_under(coordinator(3, TransactionId::NIL), 1, Call::Commit)));
    assert_eq!(step.answer, Err(Refusal::Implausible { field: "coordinator.epoch" }));
}

#[test]
fn epoch_of_a_refused_vote_has_the_same_bound() {
    let mut world = World::prepared();
    let before = world.clone();
    let coordinator = key(1).coordinator;
    let epoch = ahead(MAX_AHEAD + MS).parse().unwrap();
    let step = world.step(Event::Superseded { coordinator, epoch, now: NOW });
    assert_eq!(step.answer, Err(Refusal::Implausible { field: "coordinator.epoch" }));
    assert!(is_unchanged(&world, &before, &step), "{step:?}");
    let epoch = ahead(MAX_AHEAD).parse().unwrap();
    let step = world.step(Event::Superseded { coordinator, epoch, now: NOW });
    assert!(step.answer == Ok(Reply::Nothing) && step.forced);
}

#[test]
fn repeated_superseding_epoch_waits_for_the_first_ones_write() {
    let mut world = World::prepared();
    let superseded = || Event::Superseded { coordinator: key(1).coordinator, epoch: epoch(4), now: NOW };
    let first = world.step(superseded());
    let again = world.step(superseded());
    assert_eq!((again.lsn, Some(again.after)), (None, first.lsn));
}

#[test]
fn horizon_above_its_own_transaction_is_refused_and_not_kept() {
    for mut world in [World::new(), World::prepared()] {
        for call in [prepare(payload(1)), Call::Commit, Call::Abort] {
            let before = world.clone();
            let step = world.step(told_under(coordinator(3, transaction(2)), 1, call));
            assert_eq!(step.answer, Err(Refusal::Implausible { field: "coordinator.horizon" }));
            assert!(is_unchanged(&world, &before, &step), "{step:?}");
        }
    }
    // Its own transaction is not below it.
    assert_eq!(
        World::new().step(told_under(coordinator(3, transaction(1)), 1, Call::Abort)).answer,
        Ok(Reply::Aborted)
    );
}

#[test]
fn horizon_of_a_batch_lies_above_none_of_its_transactions() {
    let mut world = World::prepared();
    let before = world.clone();
    let mut announced = |from: Coordinator, lowest| {
        let step = world.step(Event::Announced { from, lowest, now: NOW });
        assert!(step.records.is_empty() && world.book == before.book, "{step:?}");
        step.answer
    };
    let horizon = || coordinator(2, transaction(5));
    assert_eq!(announced(horizon(), Some(transaction(5))), Ok(Reply::Nothing));
    assert_eq!(announced(horizon(), None), Ok(Reply::Nothing));
    let field = "coordinator.horizon";
    assert_eq!(announced(horizon(), Some(transaction(4))), Err(Refusal::Implausible { field }));
    let stale = announced(coordinator(1, transaction(5)), Some(transaction(5)));
    assert!(matches!(stale, Err(Refusal::StaleEpoch { .. })), "{stale:?}");
    let far = Coordinator { epoch: ahead(MAX_AHEAD + MS).parse().unwrap(), ..horizon() };
    assert_eq!(announced(far, None), Err(Refusal::Implausible { field: "coordinator.epoch" }));
}

#[test]
fn horizon_far_ahead_of_the_clock_is_not_kept_and_the_message_is_carried_out() {
    let mut world = World::committed();
    let far = ahead(MAX_AHEAD + MS);
    let epoch = epoch(2).to_string();
    assert_eq!(world.step(under(&epoch, &far, &far, prepare(payload(1)))).answer, Ok(Reply::Work));
    assert_eq!(world.book.coordinator(key(1).coordinator).unwrap().horizon, TransactionId::NIL);
    assert_eq!(world.state(1), Some(State::Committed));
    let near = ahead(MAX_AHEAD);
    assert_eq!(world.step(under(&epoch, &near, &near, Call::Abort)).answer, Ok(Reply::Aborted));
    assert_eq!(world.book.coordinator(key(1).coordinator).unwrap().horizon.to_string(), near);
}

#[test]
fn answer_to_an_enlistment_may_have_any_horizon() {
    let mut world = World::all([told(9, Call::Abort)]);
    let step = world.step(told_under(coordinator(2, transaction(5)), 1, Call::Open));
    assert!(matches!(step.answer, Err(Refusal::IsAborted { .. })), "no work begins in it: {step:?}");
    assert_eq!(world.book.coordinator(key(1).coordinator).unwrap().horizon, transaction(5));
    // One that can't be kept has no part in what follows, but no work begins below it either.
    let far = ahead(MAX_AHEAD + MS);
    let step = world.step(under(&epoch(2).to_string(), &far, &transaction(7).to_string(), Call::Open));
    assert!(matches!(step.answer, Err(Refusal::IsAborted { .. })), "{step:?}");
    assert_eq!(world.book.coordinator(key(1).coordinator).unwrap().horizon, transaction(5));
}

#[test]
fn idle_coordinator_gives_its_place_to_a_new_one() {
    let mut world = World::all((1..=16).map(idle_by));
    // Used again: the second is the one longest unused.
    world.step(idle_by(1));
    assert_eq!(world.step(abort_by(17)).answer, Ok(Reply::Aborted));
    assert!(knows(&world, 1) && !knows(&world, 2) && knows(&world, 3) && knows(&world, 17));
    // The one with a tombstone only after all that have none.
    for n in 18..=32 {
        world.step(abort_by(n));
        assert!(knows(&world, 17), "{n}");
    }
    // Another abort would leave one more tombstone only.
    assert_eq!(world.step(abort_by(33)).answer, Err(Refusal::TooManyCoordinators));
    let step = world.step(idle_by(33));
    assert_eq!(step.answer, Err(Refusal::UnknownBranch));
    assert!(!knows(&world, 17) && knows(&world, 18));
    let tombstone = BranchKey { coordinator: stranger(17), ..key(1) };
    assert_eq!(world.book.branch(&tombstone), None);
    assert!(step.records.contains(&Record::Forgotten { key: tombstone }), "{step:?}");
    assert!(step.forced && step.lsn == Some(step.after));
}

#[test]
fn coordinator_with_a_branch_keeps_its_place() {
    let vote = |n| told_by(stranger(n), 2, transaction(1), TransactionId::NIL, prepare(payload(1)));
    let mut world = World::all((1..=16).map(vote));
    let before = world.clone();
    let step = world.step(abort_by(17));
    assert_eq!(step.answer, Err(Refusal::TooManyCoordinators));
    assert!(is_unchanged(&world, &before, &step), "{step:?}");
    // Those that are known are heard on.
    assert_eq!(world.step(abort_by(16)).answer, Ok(Reply::Effect(Decision::Abort)));
    // Also after a crash, when all are durable.
    for n in 1..=16 {
        let key = BranchKey { coordinator: stranger(n), ..key(1) };
        world.step(Event::Own { key, act: worked(Vote::Prepared) });
    }
    world.crash(usize::MAX);
    let known: Vec<u128> = (1..=17).filter(|n| knows(&world, *n)).collect();
    assert_eq!(known, (1..=16).collect::<Vec<_>>());
    // Work that failed is no branch any more.
    let mut world = World::all((1..=16).map(vote));
    world.step(Event::Own { key: BranchKey { coordinator: stranger(3), ..key(1) }, act: Act::Failed });
    assert_eq!(world.step(abort_by(17)).answer, Ok(Reply::Aborted));
    assert!(!knows(&world, 3));
}

#[test]
fn epoch_and_horizon_of_a_displaced_coordinator_stay() {
    let first = told_by(stranger(1), 3, transaction(5), transaction(5), Call::Commit);
    let mut world = World::all(std::iter::once(first).chain((2..=16).map(idle_by)));
    world.step(idle_by(17));
    assert!(!knows(&world, 1));
    // Durable with what took its place.
    world.crash(0);
    let stale = world.step(idle_by(1));
    let known = Refusal::StaleEpoch { coordinator: stranger(1), epoch: epoch(3) };
    assert_eq!((stale.answer, stale.records.len()), (Err(known), 0));
    assert!(!knows(&world, 1) && knows(&world, 17), "a stale message takes nobody's place");
    let late = told_by(stranger(1), 3, transaction(4), TransactionId::NIL, prepare(payload(1)));
    let step = world.step(late);
    assert_eq!(step.answer, Ok(Reply::Refused("its transaction is finished".to_owned())));
    assert!(knows(&world, 1));
    assert!(world.disk.former.len() == 1 && !world.disk.former.contains_key(&stranger(1)));
}

#[test]
fn epoch_of_the_10_000_latest_displaced_coordinators_stays() {
    let mut world = World::all((1..=16).map(idle_by));
    for n in 17..=10_017 {
        world.step(idle_by(n));
    }
    assert_eq!((world.disk.coordinators.len(), world.disk.former.len()), (16, 10_000));
    assert!(!world.disk.former.contains_key(&stranger(1)) && world.disk.former.contains_key(&stranger(2)));
    // … and in the same order after a start.
    world.crash(0);
    world.step(idle_by(20_000));
    assert!(!world.disk.former.contains_key(&stranger(2)) && world.disk.former.contains_key(&stranger(3)));
    assert_eq!(world.disk.former.len(), 10_000);
}

#[test]
fn any_number_of_coordinators_is_known_where_they_are_named() {
    let mut book = Book::restore(Saved::default()).with_named_coordinators();
    for n in 1..=100 {
        assert_eq!(book.step(abort_by(n)).answer, Ok(Reply::Aborted));
    }
    assert!((1..=100).all(|n| book.coordinator(stranger(n)).is_some()));
}
