//! A wall clock that jumps: shown times follow it, ids by an hour at most, and lists go by both.

use super::*;
use crate::{engine::Filter, uuid7::millis};

const HOUR: u64 = 3_600_000;

fn created(world: &World, id: TransactionId) -> UnixMillis {
    world.view(id).transaction().created_at
}

#[test]
fn shown_times_are_the_clock_s_and_ids_at_most_an_hour_ahead() {
    let mut world = World::new();
    world.now = Now { mono: 5_000, wall: UnixMillis(DAY + 400 * 24 * HOUR) };
    let ahead = world.begin(&["a"]);
    assert_eq!(created(&world, ahead), world.now.wall);
    assert_eq!(world.view(ahead).transaction().deadline, UnixMillis(world.now.wall.0 + 30_000));
    let id_ms = millis(ahead.uuid());
    assert_eq!(id_ms, DAY + HOUR + 5_000);
    world.now = Now { mono: 6_000, wall: UnixMillis(DAY + 6_000) };
    let after = world.begin(&["a"]);
    assert_eq!(created(&world, after), world.now.wall);
    assert!(after > ahead && millis(after.uuid()) == id_ms, "it waits for the clock");
    world.now = Now { mono: 2 * HOUR, wall: UnixMillis(DAY + 2 * HOUR) };
    let right = world.begin(&["a"]);
    assert_eq!(millis(right.uuid()), DAY + 2 * HOUR);
}

#[test]
fn ids_of_a_log_that_stood_still_stay_behind_the_clock() {
    let world = World::new();
    let wall = UnixMillis(DAY + 90 * 24 * HOUR);
    let (journal, recovered) = world.journal.kill(wall, 2).unwrap();
    assert_eq!(millis(recovered.epoch.uuid()), DAY + HOUR);
    let mut world = World::on(journal, recovered, Now { mono: 0, wall });
    let id = world.begin(&["a"]);
    assert_eq!(created(&world, id), wall);
    assert_eq!(millis(id.uuid()), DAY + HOUR);
}

#[test]
fn listed_times_bound_ids_however_far_they_are_apart() {
    let mut world = World::new();
    let mut begun = vec![];
    for (mono, ahead) in [(0, 0), (10, 50 * 24 * HOUR), (20, 0), (30, 10 * HOUR), (3 * HOUR, 0)] {
        world.now = Now { mono, wall: UnixMillis(DAY + mono + ahead) };
        let id = world.begin(&["a"]);
        begun.push((id, world.now.wall));
    }
    world.log();
    // The skew is there after a start, too.
    let now = world.now;
    let (journal, recovered) = world.journal.kill(now.wall, 2).unwrap();
    for world in [World::on(journal, recovered, now), world] {
        for (_, time) in &begun {
            let since = Filter { since: Some(*time), ..Filter::default() };
            let until = Filter { until: Some(*time), ..Filter::default() };
            let listed = |filter: &Filter| world.engine.listed(filter);
            let mut expected = begun.clone();
            expected.reverse();
            let later = expected.iter().filter(|(_, at)| at >= time).map(|(id, _)| *id).collect::<Vec<_>>();
            let earlier = expected.iter().filter(|(_, at)| at < time).map(|(id, _)| *id).collect::<Vec<_>>();
            assert_eq!(listed(&since), later);
            assert_eq!(listed(&until), earlier);
        }
    }
}
