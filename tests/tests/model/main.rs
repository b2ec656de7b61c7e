//! The model checker: the coordinator's transaction machine and the participants' branch machine that serve, explored
//! together: every order of what can happen, within bounds.
//!
//! There are two models. [`world`] has two or three participants, each with a branch of its own. [`stores`] has one branch and
//! all that can go wrong about who answers, and what is lost and forgotten. The machines are the ones in production; the
//! models hold only what surrounds them: disks that lose what was not synced, a network in which every message that was ever
//! sent may come at any time, any number of times, or never, and processes that die. What waits for the disk in production
//! waits for it here.
//!
//! `make test` explores bounds that take seconds, `make proof` larger ones. Three participants, with everything switched on,
//! go as far as the time given:
//!
//!     UNANIMOUS_MODEL_SECONDS=600 cargo test --release --workspace --test model -- --ignored --nocapture
//!
//! Each rule and defence that a model can take out ([`taken::Taken`]) is taken out in a test, which fails if the checker
//! doesn't notice.

mod coordinator;
mod ids;
mod inquiry;
mod liveness;
mod node;
mod stores;
mod taken;
mod world;

use std::{fmt::Write as _, time::Duration};

use stateright::{Checker, HasDiscoveries, Model};

use self::{
    node::Style,
    taken::Taken,
    world::{Bounds, World},
};

/// Two participants; the coordinator dies once, one of them does once, at any moment.
fn two(styles: [Style; 2]) -> World {
    let bounds = Bounds {
        coordinator_crashes: 1,
        node_crashes: 1,
        read_only: true,
        refuse: true,
        deadline: false,
        give_up: false,
    };
    World { styles: styles.to_vec(), bounds, taken: Taken::Nothing }
}

/// Explores all of it, and says how much that was.
fn explore(name: &str, world: &World) {
    let checker = world.clone().checker().threads(2).spawn_bfs().join();
    println!("{name}: {} states, {} deep, {:?}", checker.unique_state_count(), checker.max_depth(), world.bounds);
    if let Some((property, path)) = violated(&checker) {
        panic!("{name}: `{property}` is violated:\n{path}");
    }
    for property in world::REACHABLE {
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

/// Explores as much as the time given allows.
fn explore_in_time(name: &str, world: &World) {
    let seconds = std::env::var("UNANIMOUS_MODEL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let checker = world.clone().checker().threads(2).timeout(Duration::from_secs(seconds)).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, {depth} deep in {seconds} s, {:?}", world.bounds);
    if let Some((property, path)) = violated(&checker) {
        panic!("{name}: `{property}` is violated:\n{path}");
    }
}

/// A property that doesn't hold, and how it comes to that.
fn violated(checker: &impl Checker<World>) -> Option<(&'static str, String)> {
    let discoveries = checker.discoveries();
    let (property, path) = discoveries.into_iter().find(|(name, _)| !world::REACHABLE.contains(name))?;
    let mut text = String::new();
    for (number, action) in path.into_actions().iter().enumerate() {
        let _ = writeln!(text, "{number:>4}  {action}");
    }
    Some((property, text))
}

/// Which property the checker finds violated when this defence is taken out.
fn found_without(taken: Taken, styles: [Style; 2]) -> &'static str {
    found(World { taken, ..two(styles) })
}

fn found(world: World) -> &'static str {
    let taken = world.taken;
    let checker = world.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (property, path) = violated(&checker).unwrap_or_else(|| panic!("without {taken:?} nothing is violated"));
    println!("without {taken:?}, `{property}` is violated:\n{path}");
    property
}

#[test]
fn two_participants_whose_work_comes_with_the_prepare() {
    explore("two participants", &two([Style::Asked, Style::Asked]));
}

/// Two participants, one of which votes unasked.
fn unasked(bounds: Bounds) -> World {
    World { bounds, ..two([Style::Asked, Style::Unasked]) }
}

#[test]
fn two_participants_one_of_which_votes_unasked() {
    let name = "two participants, one of which votes unasked";
    explore(name, &unasked(Bounds { coordinator_crashes: 1, ..Bounds::default() }));
    explore(name, &unasked(Bounds { node_crashes: 1, ..Bounds::default() }));
}

#[test]
fn two_participants_whose_aborts_are_given_up() {
    let name = "two participants, whose aborts are given up";
    explore(name, &unasked(Bounds { give_up: true, ..Bounds::default() }));
    let bounds = Bounds { node_crashes: 1, give_up: true, ..Bounds::default() };
    explore(name, &World { bounds, ..two([Style::Asked; 2]) });
}

#[test]
#[ignore = "goes as far as the time given: UNANIMOUS_MODEL_SECONDS, 60 without it"]
fn two_participants_that_die_and_whose_aborts_are_given_up() {
    let bounds = Bounds { coordinator_crashes: 1, node_crashes: 1, give_up: true, ..Bounds::default() };
    explore_in_time("two participants that die, and whose aborts are given up", &unasked(bounds));
}

#[test]
#[ignore = "takes minutes, and 8 GiB"]
fn two_participants_with_everything_that_they_can_do() {
    let world = two([Style::Asked, Style::Unasked]);
    explore("two participants, everything", &world);
}

#[test]
#[ignore = "goes as far as the time given: UNANIMOUS_MODEL_SECONDS, 60 without it"]
fn three_participants_as_far_as_the_time_goes() {
    let styles = vec![Style::Asked, Style::Asked, Style::Unasked];
    let bounds = Bounds {
        coordinator_crashes: 2,
        node_crashes: 2,
        read_only: true,
        refuse: true,
        deadline: true,
        give_up: true,
    };
    explore_in_time("three participants", &World { styles, bounds, taken: Taken::Nothing });
}

#[test]
fn a_call_that_leaves_before_the_decision_is_synced_is_found() {
    let property = found_without(Taken::SyncBeforeSend, [Style::Asked; 2]);
    assert!([world::AGREEMENT, world::VALIDITY].contains(&property), "{property}");
}

#[test]
fn a_client_that_is_told_before_the_decision_is_synced_is_found() {
    assert_eq!(found_without(Taken::SyncBeforeTell, [Style::Asked; 2]), world::DURABILITY);
}

#[test]
fn a_vote_that_is_told_before_it_is_durable_is_found() {
    assert_eq!(found_without(Taken::SyncBeforeVote, [Style::Asked; 2]), world::VALIDITY);
}

#[test]
fn a_commit_that_is_acknowledged_before_it_is_durable_is_found() {
    assert_eq!(found_without(Taken::SyncBeforeAcknowledgement, [Style::Asked; 2]), world::ORPHAN);
}

#[test]
fn an_undecided_transaction_that_lives_on_after_a_restart_is_found() {
    assert_eq!(found_without(Taken::AbortAtRestart, [Style::Asked; 2]), world::UNDECIDED);
}

#[test]
fn an_unasked_vote_that_counts_under_an_older_epoch_is_found() {
    // It takes both: a transaction that lives on is what such a vote could commit.
    assert_eq!(found_without(Taken::EpochOfVotes, [Style::Asked, Style::Unasked]), world::OLD_VOTE);
}

#[test]
fn a_horizon_that_passes_what_has_not_durably_ended_is_found() {
    // It takes a dozen steps, so nothing else may happen.
    let property = found(World { bounds: Bounds::default(), taken: Taken::HorizonWaits, ..two([Style::Asked; 2]) });
    assert!([world::NO_HEURISTIC, world::VALIDITY, world::AGREEMENT].contains(&property), "{property}");
}

#[test]
fn an_inquiry_that_is_answered_before_the_decision_is_synced_is_found() {
    let property = found_without(Taken::SyncBeforeInquiry, [Style::Asked; 2]);
    assert!([world::AGREEMENT, world::VALIDITY].contains(&property), "{property}");
}
