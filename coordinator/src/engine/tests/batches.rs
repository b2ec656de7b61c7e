//! Batches: what goes out together, and what becomes of it when the answer counts for none of it.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::*;
use crate::{
    transaction::Payload,
    transport::{BatchFailure, max_batch_bytes},
};

const KIB: usize = 1024;

/// A world whose participant "a" has offered to take batches of at most four.
fn with_batches() -> World {
    let mut world = World::new();
    world.offer = Some(4);
    let id = world.begin(&["a"]);
    drop(world.commit(id));
    world.answer_all(yes);
    world.log();
    world.answer_all(yes);
    world.log();
    world
}

#[test]
fn what_waits_for_a_participant_goes_out_together_once_it_has_offered_it() {
    let mut world = with_batches();
    let ids: Vec<_> = (0..9).map(|_| world.begin(&["a"])).collect();
    for id in &ids {
        drop(world.commit(*id));
    }
    assert_eq!((world.calls.len(), world.batches.len()), (2, 0), "two requests are under way, the rest waits");
    world.answer_all(yes);
    let sizes: Vec<_> = world.batches.iter().map(|request| request.messages.len()).collect();
    assert_eq!(sizes, [4, 3], "as many as it takes, at most");
    for request in std::mem::take(&mut world.batches) {
        world.answer_request(request, yes);
    }
    world.log();
    assert!(ids.iter().all(|id| world.view(*id).decision() == Some(Decision::Commit)));
}

#[test]
fn one_call_s_failure_in_a_batch_is_its_own() {
    let mut world = with_batches();
    let ids: Vec<_> = (0..4).map(|_| world.begin(&["a"])).collect();
    for id in &ids {
        drop(world.commit(*id));
    }
    world.answer_all(yes);
    let request = world.batches.pop().unwrap();
    let (refused, lost) = (request.messages[0].transaction, request.messages[1].transaction);
    world.answer_request(request, |message| match message.transaction {
        id if id == refused => Attempt::Prepare(PrepareAnswer::Refused { reason: None }, None),
        id if id == lost => Attempt::NoAnswer("500".into()),
        _ => yes(message),
    });
    world.log();
    let decisions: Vec<_> = ids.iter().map(|id| world.view(*id).decision()).collect();
    assert_eq!(decisions.iter().filter(|d| **d == Some(Decision::Commit)).count(), 2);
    assert_eq!(world.view(refused).decision(), Some(Decision::Abort));
    assert_eq!(world.view(lost).decision(), None, "it is asked again");
}

/// Six prepares to "a", of which two are under way as single calls; when those are answered, the other four go out as a
/// batch.
fn batch_of_four(world: &mut World) -> (Vec<TransactionId>, Request) {
    let ids: Vec<_> = (0..6).map(|_| world.begin(&["a"])).collect();
    for id in &ids {
        drop(world.commit(*id));
    }
    world.answer_all(yes);
    let request = world.batches.pop().unwrap();
    assert_eq!((request.messages.len(), world.batches.len()), (4, 0));
    (ids, request)
}

/// Answers everything until nothing is under way.
fn answer_everything(world: &mut World) {
    while !world.calls.is_empty() || !world.batches.is_empty() || world.journal.waiting() > 0 {
        world.answer_all(yes);
        for request in std::mem::take(&mut world.batches) {
            world.answer_request(request, yes);
        }
        world.log();
    }
}

fn all_committed(world: &World, ids: &[TransactionId]) -> bool {
    ids.iter().all(|id| world.view(*id).state() == State::Committed)
}

/// The sizes of the batches that go out when so many further transactions wait together.
fn sizes(world: &mut World, count: usize) -> Vec<usize> {
    let ids: Vec<_> = (0..count + 2).map(|_| world.begin(&["a"])).collect();
    for id in &ids {
        drop(world.commit(*id));
    }
    world.answer_all(yes);
    let sizes = world.batches.iter().map(|request| request.messages.len()).collect();
    answer_everything(world);
    assert!(all_committed(world, &ids));
    sizes
}

#[test]
fn refused_batch_goes_out_as_single_calls_until_a_header() {
    let mut world = with_batches();
    let (ids, request) = batch_of_four(&mut world);
    world.offer = None;
    world.answer_request(request, |_| Attempt::NotTaken(BatchFailure::Unsupported));
    assert_eq!((world.calls.len(), world.batches.len()), (4, 0), "at once");
    answer_everything(&mut world);
    assert!(all_committed(&world, &ids));
    assert_eq!(sizes(&mut world, 4), [0; 0], "no batch before a header");
    world.offer = Some(4);
    assert_eq!(sizes(&mut world, 4), [0; 0]);
    assert_eq!(sizes(&mut world, 4), [4]);
}

#[test]
fn refused_batch_goes_out_as_single_calls_for_a_minute() {
    let mut world = with_batches();
    let (_, request) = batch_of_four(&mut world);
    world.offer = None;
    world.answer_request(request, |_| Attempt::NotTaken(BatchFailure::Unsupported));
    answer_everything(&mut world);
    world.pass(59_000);
    assert_eq!(sizes(&mut world, 4), [0; 0]);
    world.pass(1_000);
    assert_eq!(sizes(&mut world, 4), [4]);
}

#[test]
fn too_large_batch_is_halved_down_to_single_calls_at_once() {
    let mut world = with_batches();
    let (ids, request) = batch_of_four(&mut world);
    let too_large = |_: &Message| Attempt::NotTaken(BatchFailure::TooLarge);
    world.answer_request(request, too_large);
    let halves = std::mem::take(&mut world.batches);
    assert_eq!(halves.iter().map(|half| half.messages.len()).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(world.calls.len(), 0);
    for half in halves {
        world.answer_request(half, too_large);
    }
    assert_eq!((world.calls.len(), world.batches.len()), (4, 0));
    let failures = ids.iter().filter(|id| world.engine.live[*id].deliveries[0].last_error.is_some()).count();
    assert_eq!(failures, 0, "it is no failure of a call");
    answer_everything(&mut world);
    assert!(all_committed(&world, &ids));
}

#[test]
fn bound_that_a_413_has_shown_is_kept_for_a_minute() {
    let mut world = with_batches();
    let (_, request) = batch_of_four(&mut world);
    world.answer_request(request, |_| Attempt::NotTaken(BatchFailure::TooLarge));
    answer_everything(&mut world);
    assert_eq!(sizes(&mut world, 4), [2, 2], "not what is known to be too large");
    world.pass(60_000);
    assert_eq!(sizes(&mut world, 4), [4]);
}

#[test]
fn batch_of_wrong_answers_goes_out_as_single_calls_at_once() {
    let mut world = with_batches();
    let (ids, request) = batch_of_four(&mut world);
    world.answer_request(request, |_| Attempt::NotTaken(BatchFailure::OtherCall));
    assert_eq!((world.calls.len(), world.batches.len()), (4, 0));
    answer_everything(&mut world);
    assert!(all_committed(&world, &ids));
    assert_eq!(sizes(&mut world, 4), [4], "batches go on");
}

#[test]
fn batch_is_measured_before_a_call_is_added() {
    let mut world = with_batches();
    let begin = |world: &mut World, bytes: usize| {
        let text: Arc<RawValue> = RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).unwrap().into();
        let branches = vec![(Some(name("a")), url("a"), Some(Payload { text, digest: 1 }))];
        let begin = Begin { timeout: Duration::from_secs(30), branches, ..Begin::default() };
        let id = world.engine.begin(world.now, begin).unwrap().0.id();
        drop(world.commit(id));
        id
    };
    // Two are under way, the others wait.
    let ids = [1, 1, 600 * KIB, 300 * KIB, 200 * KIB, 1, 1_000 * KIB, 600 * KIB].map(|bytes| begin(&mut world, bytes));
    let (first, second) = (world.calls.remove(0), world.calls.remove(0));
    for (participant, message) in [first, second] {
        world.answer(participant, &message, &yes(&message));
    }
    let sent = |world: &World| world.batches.iter().map(|request| request.messages.len()).collect::<Vec<_>>();
    assert_eq!((sent(&world), world.calls.len()), (vec![2, 2], 0));
    for request in &world.batches {
        assert!(
            request.messages.iter().map(Message::max_bytes).sum::<usize>() <= max_batch_bytes("http://localhost:7070")
        );
    }
    for request in std::mem::take(&mut world.batches) {
        world.answer_request(request, yes);
    }
    assert_eq!((sent(&world), world.calls.len()), (vec![], 2), "what fits with nothing else goes alone");
    answer_everything(&mut world);
    assert!(all_committed(&world, &ids));
}
