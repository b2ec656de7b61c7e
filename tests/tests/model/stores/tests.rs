//! What is explored, and what is found when a rule is taken out.

use std::fmt::Write as _;

use stateright::{Checker, HasDiscoveries, Model};

use super::{
    Action, Bounds, Stores,
    properties::{
        ABORTED, AGREEMENT, COMMITTED, DROPPED, GAVE_UP, GIVEN_UP, NO_HEURISTIC, ONE_STORE, OPERATOR, ORPHAN,
        REACHABLE, REFUSED,
    },
};
use crate::{liveness, node::Style, taken::Taken};

fn stores(ids: &[Option<u8>], bounds: Bounds) -> Stores {
    Stores { ids: ids.to_vec(), style: Style::Asked, bounds, taken: Taken::Nothing }
}

/// Two stores with ids of their own behind one address.
fn mistaken() -> Stores {
    stores(&[Some(1), Some(2)], Bounds { aborts: true, acknowledges: true, crashes: 1, ..Bounds::default() })
}

/// Two stores with ids, one of which is emptied; the other one may be in its place.
fn emptied(style: Style) -> Stores {
    let bounds = Bounds { aborts: true, gives_up: true, empties: true, ..Bounds::default() };
    Stores { style, ..stores(&[Some(1), Some(2)], bounds) }
}

/// A store that is put back to an earlier state, and everything that can be forgotten.
fn restored() -> Stores {
    let bounds = Bounds { crashes: 1, retention: true, passes: true, restores: true, ..Bounds::default() };
    stores(&[Some(1)], bounds)
}

/// A store whose vote may be lost, and whose abort is given up.
fn given_up(style: Style) -> Stores {
    let bounds = Bounds {
        crashes: 1,
        store_crashes: 1,
        aborts: true,
        gives_up: true,
        retention: true,
        passes: true,
        acknowledges: true,
        ..Bounds::default()
    };
    Stores { style, ..stores(&[Some(1)], bounds) }
}

/// The log is put back to the state before the transaction's epoch.
fn put_back() -> Stores {
    stores(&[Some(1)], Bounds { crashes: 1, store_crashes: 1, puts_back: true, passes: true, ..Bounds::default() })
}

/// A forged message with a high epoch comes to a store, which gets no other calls.
fn forged() -> Stores {
    stores(
        &[Some(1)],
        Bounds { crashes: 1, aborts: true, gives_up: true, forges: Some(0), starts: true, ..Bounds::default() },
    )
}

/// The same comes to a store that isn't that of the branch, and is called by mistake. No start comes to help.
fn forged_elsewhere() -> Stores {
    stores(&[Some(1), None], Bounds { forges: Some(1), aborts: true, ..Bounds::default() })
}

/// A store that moves to another address.
fn moved() -> Stores {
    let bounds = Bounds { aborts: true, acknowledges: true, moves: true, gives_up: true, ..Bounds::default() };
    stores(&[Some(1)], bounds)
}

/// A store without an id in the place of the one that voted.
fn without_id() -> Stores {
    stores(&[Some(1), None], Bounds { aborts: true, crashes: 1, ..Bounds::default() })
}

/// Explores all of it, and says how much that was.
fn explore(name: &str, world: &Stores, reached: &[&'static str]) {
    let checker = world.clone().checker().threads(2).spawn_bfs().join();
    println!("{name}: {} states, {} deep, {:?}", checker.unique_state_count(), checker.max_depth(), world.bounds);
    if let Some((property, path)) = violated(&checker) {
        panic!("{name}: `{property}` is violated:\n{path}");
    }
    for property in reached {
        assert!(
            checker.discovery(property).is_some(),
            "{name}: `{property}` is never reached: the model is too narrow"
        );
    }
    let graph = liveness::explore(world);
    assert_eq!(graph.states(), checker.unique_state_count(), "both have explored the same");
    if let Some(path) = graph.stuck() {
        panic!("{name}: from here no finished state can be reached:\n{path}");
    }
}

/// A property that doesn't hold, and how it comes to that.
fn violated(checker: &impl Checker<Stores>) -> Option<(&'static str, String)> {
    let discoveries = checker.discoveries();
    let (property, path) = discoveries.into_iter().find(|(name, _)| !REACHABLE.contains(name))?;
    Some((property, steps(&path.into_actions())))
}

/// Asserts that the checker finds this property violated when this rule is taken out.
fn assert_found_without(taken: Taken, world: Stores, property: &'static str) {
    let world = Stores { taken, ..world };
    let found = HasDiscoveries::AnyOf([property].into());
    let checker = world.checker().threads(2).finish_when(found).spawn_bfs().join();
    let path = checker.discovery(property).unwrap_or_else(|| panic!("without {taken:?} `{property}` holds"));
    println!("without {taken:?}, `{property}` is violated:\n{}", steps(&path.into_actions()));
}

fn steps(actions: &[Action]) -> String {
    let mut text = String::new();
    for (number, action) in actions.iter().enumerate() {
        let _ = writeln!(text, "{number:>4}  {action}");
    }
    text
}

/// Asserts that something can't finish when this rule is taken out.
fn assert_stuck_without(taken: Taken, world: Stores) {
    let graph = liveness::explore(&Stores { taken, ..world });
    let path = graph.stuck().unwrap_or_else(|| panic!("without {taken:?} everything can finish"));
    println!("without {taken:?}, from here no finished state can be reached:\n{path}");
}

#[test]
fn stores_mistaken_for_each_other_never_both_commit() {
    explore("mistaken stores", &mistaken(), &[COMMITTED, ABORTED]);
}

#[test]
#[ignore = "takes minutes"]
fn two_participants_mistaken_that_die() {
    let world = mistaken();
    let bounds = Bounds { store_crashes: 1, ..world.bounds };
    explore("mistaken stores that die", &Stores { bounds, ..world }, &[COMMITTED, ABORTED]);
}

#[test]
fn mistaken_store_put_back_hears_no_wrong_answer() {
    let world = mistaken();
    let bounds =
        Bounds { aborts: true, retention: true, passes: true, restores: true, acknowledges: true, ..Bounds::default() };
    let reached = [COMMITTED, ABORTED, DROPPED, REFUSED];
    explore("mistaken stores, one put back", &Stores { bounds, ..world }, &reached);
}

#[test]
#[ignore = "takes minutes"]
fn two_participants_one_of_which_is_emptied() {
    let world = emptied(Style::Asked);
    let bounds = Bounds { retention: true, passes: true, acknowledges: true, ..world.bounds };
    explore("an emptied store, and retention", &Stores { bounds, ..world }, &[COMMITTED, ABORTED, DROPPED, GAVE_UP]);
}

#[test]
fn emptied_store_ends_nothing_wrongly() {
    explore("an emptied store", &emptied(Style::Asked), &[COMMITTED, ABORTED, GAVE_UP]);
    explore("an emptied store, unasked votes", &emptied(Style::Unasked), &[COMMITTED, ABORTED, GAVE_UP]);
}

#[test]
fn restored_store_never_hears_abort_after_commit() {
    explore("a restored store", &restored(), &[COMMITTED, DROPPED, REFUSED]);
}

#[test]
fn aborts_given_up_end_with_abort_everywhere() {
    explore("aborts given up", &given_up(Style::Asked), &[COMMITTED, ABORTED, DROPPED, GAVE_UP]);
}

#[test]
fn aborts_given_up_take_unasked_votes_too_late() {
    explore("aborts given up, unasked votes", &given_up(Style::Unasked), &[COMMITTED, ABORTED, DROPPED, GAVE_UP]);
}

#[test]
fn log_put_back_presumes_nothing_of_a_lost_epoch() {
    explore("a log that was put back", &put_back(), &[COMMITTED, REFUSED]);
}

#[test]
fn forged_epoch_is_mended_by_the_next_start() {
    explore("a forged epoch", &forged(), &[COMMITTED, ABORTED, GAVE_UP]);
}

#[test]
fn forged_epoch_elsewhere_stops_nobody() {
    explore("a forged epoch elsewhere", &forged_elsewhere(), &[COMMITTED, ABORTED]);
}

#[test]
fn participant_that_moved_ends_its_transaction() {
    explore("a participant that moved", &moved(), &[COMMITTED, ABORTED]);
}

#[test]
fn store_without_id_ends_nothing_of_another() {
    explore("a store without an id", &without_id(), &[COMMITTED, ABORTED]);
}

#[test]
fn call_that_names_no_store_is_found() {
    assert_found_without(Taken::StoreOfCall, mistaken(), NO_HEURISTIC);
    assert_found_without(Taken::StoreOfCall, mistaken(), ONE_STORE);
}

#[test]
fn answer_of_another_store_that_counts_is_found() {
    assert_found_without(Taken::StoreOfAnswer, without_id(), NO_HEURISTIC);
}

#[test]
fn inquiry_of_another_store_told_commit_is_found() {
    assert_found_without(Taken::StoreOfInquiry, mistaken(), ONE_STORE);
}

#[test]
fn forgotten_id_presumed_aborted_is_found() {
    assert_found_without(Taken::Forgotten, restored(), AGREEMENT);
}

#[test]
fn dropped_id_kept_in_another_write_is_found() {
    assert_found_without(Taken::ForgottenWithTheDrop, restored(), AGREEMENT);
}

#[test]
fn inquiry_without_prepared_epoch_is_found() {
    assert_found_without(Taken::PreparedEpoch, put_back(), AGREEMENT);
}

#[test]
fn commit_given_up_is_found() {
    assert_found_without(Taken::CommitIsNotGivenUp, given_up(Style::Asked), ORPHAN);
}

#[test]
fn abort_given_up_of_a_voter_is_found() {
    assert_found_without(Taken::VotedIsNotGivenUp, given_up(Style::Asked), GIVEN_UP);
}

#[test]
fn late_vote_that_is_none_is_found() {
    assert_found_without(Taken::LateVoteIsOne, given_up(Style::Asked), GIVEN_UP);
}

#[test]
fn given_up_abort_dropped_by_retention_is_found() {
    assert_found_without(Taken::KeptBeyondRetention, given_up(Style::Asked), OPERATOR);
}

#[test]
fn abort_that_is_never_given_up_is_found() {
    assert_stuck_without(Taken::GiveUp, moved());
    assert_stuck_without(Taken::GiveUp, emptied(Style::Unasked));
}

#[test]
fn abort_not_sent_once_more_is_found() {
    assert_stuck_without(Taken::AbortOnceMore, forged());
}

#[test]
fn higher_epoch_that_is_not_kept_is_found() {
    assert_stuck_without(Taken::HigherEpochKept, forged());
}

#[test]
fn one_participants_412_that_stops_all_is_found() {
    assert_stuck_without(Taken::OneIsNotEnough, forged_elsewhere());
}

#[test]
fn participant_that_cannot_acknowledge_is_found() {
    assert_stuck_without(Taken::Acknowledgement, moved());
}
