//! A full disk: what is new is refused, what is under way goes on.

use super::*;
use crate::{
    engine::{Enlist, NewKey},
    transaction::NotAllowed,
};

fn enlist(name: &str) -> Enlist {
    Enlist { name: Some(name.parse().unwrap()), participant: url(name), payload: None, vote: None, key: None }
}

#[test]
fn while_the_disk_is_full_nothing_is_begun_or_enlisted() {
    let mut world = World::new();
    let open = world.begin(&["a"]);
    world.engine.set_disk_full(true);
    let begin = || Begin { timeout: Duration::from_secs(1), ..Begin::default() };
    assert!(matches!(world.engine.begin(world.now, begin()).unwrap_err().why, Refusal::DiskFull));
    let unnamed = Enlist { name: None, ..enlist("b") };
    for new in [enlist("b"), unnamed] {
        assert!(matches!(world.engine.enlist(world.now, open, new).unwrap_err().why, Refusal::DiskFull));
    }
    assert_eq!(world.view(open).branches(), 1, "a refusal changes nothing");
    assert!(world.engine.take_outputs().is_empty(), "a refusal writes nothing");
    world.engine.set_disk_full(false);
    assert!(world.engine.begin(world.now, begin()).is_ok());
    assert!(world.engine.enlist(world.now, open, enlist("b")).unwrap().new);
}

#[test]
fn while_the_disk_is_full_what_is_under_way_is_voted_on_decided_and_finished() {
    let mut world = World::new();
    let (first, second) = (world.begin(&["a", "b"]), world.begin(&["a"]));
    world.engine.set_disk_full(true);
    let me = world.engine.coordinator();
    let named = CoordinatorRef { id: me.id, epoch: me.epoch };
    world.engine.vote(world.now, first, &name("a"), Vote::Prepared.into(), &named, None).unwrap();
    drop(world.commit(first));
    drop(world.abort(second));
    for _ in 0..2 {
        world.answer_all(yes);
        world.log();
    }
    assert_eq!(world.view(first).state(), State::Committed);
    assert_eq!(world.view(second).state(), State::Aborted);
}

#[test]
fn while_the_disk_is_full_a_repeat_has_its_answer() {
    let mut world = World::new();
    let key = || Some(NewKey { text: "key".into(), body: 1 });
    let open = world.begin(&["a"]);
    assert!(world.engine.enlist(world.now, open, Enlist { name: None, key: key(), ..enlist("b") }).unwrap().new);
    world.engine.set_disk_full(true);
    assert!(!world.engine.enlist(world.now, open, enlist("a")).unwrap().new, "it is enlisted already");
    assert!(world.engine.enlist(world.now, open, Enlist { name: None, key: key(), ..enlist("b") }).unwrap().replayed);
    let other = Enlist { participant: url("another"), ..enlist("a") };
    let conflict = world.engine.enlist(world.now, open, other).unwrap_err().why;
    assert!(matches!(conflict, Refusal::NotAllowed(NotAllowed::BranchConflict(_))), "{conflict:?}");
    drop(world.abort(open));
    let late = world.engine.enlist(world.now, open, enlist("c")).unwrap_err().why;
    assert!(matches!(late, Refusal::NotAllowed(NotAllowed::NotActive)), "no room would help: {late:?}");
}
