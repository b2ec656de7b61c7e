//! The rules of the protocol for participants, one test each.

use super::*;

fn is_repeat(step: &Step) -> bool {
    step.lsn.is_none() && step.records.is_empty() && !step.forced && step.fate == Fate::Unchanged
}

#[test]
fn a_vote_to_commit_may_leave_only_when_it_is_durable() {
    for vote in [Vote::Prepared, Vote::ReadOnly] {
        let mut world = World::all([told(1, prepare(payload(1)))]);
        let step = world.step(own(1, worked(vote)));
        assert_eq!(step.answer, Ok(Reply::Voted(vote)));
        assert!(step.forced && step.lsn == Some(step.after), "{step:?}");
    }
}

#[test]
fn a_repeated_vote_waits_for_the_first_ones_disk_write() {
    let mut world = World::all([told(1, prepare(payload(1)))]);
    let first = world.step(own(1, worked(Vote::Prepared)));
    let again = world.step(told(1, prepare(payload(1))));
    assert_eq!(again.answer, Ok(Reply::Voted(Vote::Prepared)));
    assert_eq!(Some(again.after), first.lsn);
    assert!(is_repeat(&again));
}

#[test]
fn a_commit_may_be_told_only_when_it_is_durable() {
    let mut world = World::prepared();
    assert_eq!(world.step(told(1, Call::Commit)).answer, Ok(Reply::Effect(Decision::Commit)));
    let step = world.step(own(1, Act::Effected));
    assert_eq!(step.answer, Ok(Reply::Committed));
    assert_eq!(step.fate, Fate::Publish);
    assert!(step.forced && step.lsn == Some(step.after));
    let again = world.step(told(1, Call::Commit));
    assert_eq!((again.answer.clone(), Some(again.after)), (Ok(Reply::Committed), step.lsn));
    assert!(is_repeat(&again));
}

#[test]
fn an_abort_a_refusal_and_a_tombstone_need_no_forced_write() {
    // The epoch is durable already.
    let mut world = World::all([told(9, Call::Abort)]);
    let tombstone = world.step(told(1, Call::Abort));
    assert_eq!(tombstone.answer, Ok(Reply::Aborted));
    assert!(!tombstone.forced && tombstone.after == Lsn(1) && !tombstone.records.is_empty());
    world.step(told(2, prepare(payload(1))));
    let refused = world.step(own(2, Act::Worked(Err("overdrawn".to_owned()))));
    assert_eq!(refused.answer, Ok(Reply::Refused("overdrawn".to_owned())));
    assert!(!refused.forced && refused.after == Lsn(1) && !refused.records.is_empty());
    world.step(told(3, prepare(payload(1))));
    world.step(own(3, worked(Vote::Prepared)));
    world.step(told(3, Call::Abort));
    let aborted = world.step(own(3, Act::Effected));
    assert_eq!((aborted.answer, aborted.fate), (Ok(Reply::Aborted), Fate::Discard));
    assert!(!aborted.forced && aborted.after == Lsn(1) && !aborted.records.is_empty());
}

#[test]
fn a_repeat_gets_the_same_answer() {
    let mut refused = World::all([told(1, prepare(payload(1))), own(1, Act::Worked(Err("overdrawn".to_owned())))]);
    let again = refused.step(told(1, prepare(payload(1))));
    assert_eq!(again.answer, Ok(Reply::Refused("overdrawn".to_owned())));
    assert!(is_repeat(&again));
    let mut aborted = World::aborted();
    let again = aborted.step(told(1, Call::Abort));
    assert_eq!(again.answer, Ok(Reply::Aborted));
    assert!(is_repeat(&again));
    let mut committed = World::committed();
    assert_eq!(committed.step(told(1, prepare(payload(1)))).answer, Ok(Reply::Voted(Vote::Prepared)));
    // Even when its deadline has passed meanwhile.
    let late = Call::Prepare { payload: payload(1), late: true };
    assert_eq!(World::prepared().step(told(1, late)).answer, Ok(Reply::Voted(Vote::Prepared)));
}

#[test]
fn a_prepare_that_comes_twice_does_the_work_once() {
    let mut world = World::all([]);
    assert_eq!(world.step(told(1, prepare(payload(1)))).answer, Ok(Reply::Work));
    assert_eq!(world.step(told(1, prepare(payload(1)))).answer, Ok(Reply::Wait));
}

#[test]
fn an_abort_for_a_branch_never_seen_leaves_a_tombstone_that_refuses_a_later_prepare() {
    let mut world = World::all([told(1, Call::Abort)]);
    assert_eq!(world.state(1), Some(State::Tombstone));
    let step = world.step(told(1, prepare(payload(1))));
    assert!(matches!(step.answer, Ok(Reply::Refused(_))), "{step:?}");
    assert_eq!(world.state(1), Some(State::Tombstone));
}

#[test]
fn a_new_prepare_after_its_deadline_is_refused() {
    let mut world = World::all([]);
    let late = Call::Prepare { payload: payload(1), late: true };
    assert!(matches!(world.step(told(1, late)).answer, Ok(Reply::Refused(_))));
    // … and stays so, should an earlier copy of it come now.
    assert!(matches!(world.step(told(1, prepare(payload(1)))).answer, Ok(Reply::Refused(_))));
}

#[test]
fn work_that_is_held_is_not_prepared_after_its_deadline() {
    let late = Call::Prepare { payload: None, late: true };
    let mut world = World::all([told(1, Call::Open), own(1, Act::Hold(Vote::Prepared))]);
    assert_eq!(world.clone().step(told(1, prepare(None))).answer, Ok(Reply::Voted(Vote::Prepared)));
    assert_eq!(world.step(told(1, late.clone())).answer, Ok(Reply::Effect(Decision::Abort)));
    world.step(own(1, Act::Effected));
    assert_eq!(world.step(told(1, late)).answer, Ok(Reply::Refused("its deadline has passed".to_owned())));
}

#[test]
fn a_new_prepare_below_the_horizon_is_refused_and_leaves_nothing() {
    let mut world = World::all([told_under(coordinator(2, transaction(5)), 9, Call::Abort)]);
    let step = world.step(told(1, prepare(payload(1))));
    assert!(matches!(step.answer, Ok(Reply::Refused(_))), "{step:?}");
    assert_eq!(world.state(1), None);
    // The horizon itself is not below it.
    assert_eq!(world.step(told(5, prepare(payload(1)))).answer, Ok(Reply::Work));
}

#[test]
fn an_abort_below_the_horizon_leaves_no_tombstone() {
    let mut world = World::all([told_under(coordinator(2, transaction(5)), 9, Call::Abort)]);
    assert_eq!(world.step(told(1, Call::Abort)).answer, Ok(Reply::Aborted));
    assert_eq!(world.state(1), None);
}

#[test]
fn no_work_begins_in_a_transaction_below_the_horizon() {
    let mut world = World::all([told_under(coordinator(2, transaction(5)), 9, Call::Abort)]);
    assert!(matches!(world.step(told(1, Call::Open)).answer, Err(Refusal::IsAborted { .. })));
    // Nor is any voted for that began before.
    let mut world = World::all([told(1, Call::Open), told_under(coordinator(2, transaction(5)), 9, Call::Abort)]);
    assert_eq!(world.step(own(1, Act::Vote(Vote::Prepared))).answer, Ok(Reply::Effect(Decision::Abort)));
}

#[test]
fn a_prepare_without_payload_for_work_that_is_not_held_is_refused() {
    let mut world = World::all([]);
    assert!(matches!(world.step(told(1, prepare(None))).answer, Ok(Reply::Refused(_))));
    assert!(matches!(world.step(told(1, prepare(None))).answer, Ok(Reply::Refused(_))));
}

#[test]
fn another_payload_than_the_first_is_refused_and_changes_nothing() {
    let ended = [
        World::all([told(1, prepare(payload(1)))]),
        World::prepared(),
        World::committed(),
        World::aborted(),
        World::all([told(1, Call::Open)]),
    ];
    for mut world in ended {
        let (before, other) = (world.state(1), payload(2));
        let step = world.step(told(1, prepare(other)));
        assert_eq!(step.answer, Err(Refusal::PayloadDiffers));
        assert!(is_repeat(&step));
        assert_eq!(world.state(1), before);
    }
    // None is another payload than one.
    assert_eq!(World::prepared().step(told(1, prepare(None))).answer, Err(Refusal::PayloadDiffers));
}

#[test]
fn a_commit_without_a_trace_is_unknown_never_committed() {
    assert_eq!(World::all([]).step(told(1, Call::Commit)).answer, Err(Refusal::UnknownBranch));
    // Work without a vote is no trace of one.
    let mut open = World::all([told(1, Call::Open)]);
    assert_eq!(open.step(told(1, Call::Commit)).answer, Err(Refusal::UnknownBranch));
}

#[test]
fn a_commit_of_an_aborted_branch_is_a_heuristic_abort() {
    for mut world in [
        World::aborted(),
        World::all([told(1, Call::Abort)]),
        World::all([told(1, prepare(payload(1))), own(1, Act::Worked(Err("no".to_owned())))]),
    ] {
        assert!(matches!(world.step(told(1, Call::Commit)).answer, Err(Refusal::IsAborted { .. })));
    }
}

#[test]
fn an_abort_of_a_committed_branch_is_a_heuristic_commit_told_when_durable() {
    let mut world = World::committed();
    let step = world.step(told(1, Call::Abort));
    assert_eq!(step.answer, Err(Refusal::IsCommitted));
    assert_eq!(step.after, Lsn(3));
    assert_eq!(world.state(1), Some(State::Committed));
}

#[test]
fn a_read_only_branch_has_nothing_to_commit_or_abort() {
    let world = World::all([told(1, prepare(payload(1))), own(1, worked(Vote::ReadOnly))]);
    assert_eq!(world.clone().step(told(1, Call::Commit)).answer, Ok(Reply::Committed));
    assert_eq!(world.clone().step(told(1, Call::Abort)).answer, Ok(Reply::Aborted));
    assert_eq!(world.clone().step(told(1, prepare(payload(1)))).answer, Ok(Reply::Voted(Vote::ReadOnly)));
}

#[test]
fn a_lower_epoch_is_refused_whatever_it_asks() {
    for call in [prepare(payload(1)), Call::Commit, Call::Abort, Call::Open] {
        let mut world = World::prepared();
        let step = world.step(told_under(coordinator(1, TransactionId::NIL), 1, call));
        assert_eq!(step.answer, Err(Refusal::StaleEpoch { coordinator: key(1).coordinator, epoch: epoch(2) }));
        assert!(is_repeat(&step));
        assert_eq!(world.state(1), Some(State::Prepared));
    }
}

#[test]
fn a_higher_epoch_is_durable_before_the_first_answer_under_it() {
    let mut world = World::prepared();
    let step = world.step(told_under(coordinator(3, TransactionId::NIL), 1, prepare(payload(1))));
    assert!(step.forced && step.lsn == Some(step.after));
    // … also when what is asked is refused.
    let mut fresh = World::all([]);
    let step = fresh.step(told(1, Call::Commit));
    assert_eq!(step.answer, Err(Refusal::UnknownBranch));
    assert!(step.forced && step.lsn == Some(step.after));
}

#[test]
fn the_horizon_of_a_stale_coordinator_is_not_believed() {
    let mut world = World::committed();
    world.step(told_under(coordinator(1, transaction(5)), 9, Call::Abort));
    assert_eq!(world.state(1), Some(State::Committed));
}

#[test]
fn what_ended_is_kept_until_the_horizon_has_passed_it_and_then_forgotten_with_the_horizon_in_one_entry() {
    for mut world in [World::committed(), World::aborted()] {
        world.step(told_under(coordinator(2, transaction(1)), 9, Call::Abort));
        assert!(world.state(1).is_some());
        let step = world.step(told_under(coordinator(2, transaction(2)), 9, Call::Abort));
        assert_eq!(world.state(1), None);
        assert!(step.records.contains(&Record::Forgotten { key: key(1) }));
        let keeps =
            |record: &Record| matches!(record, Record::Coordinator { known, .. } if known.horizon == transaction(2));
        assert!(step.records.iter().any(keeps), "{step:?}");
    }
}

#[test]
fn a_prepared_branch_is_never_forgotten() {
    let mut world = World::prepared();
    world.step(told_under(coordinator(2, transaction(5)), 9, Call::Abort));
    assert_eq!(world.state(1), Some(State::Prepared));
    world.sync();
    world.crash(0);
    assert_eq!(world.state(1), Some(State::Prepared));
    assert_eq!(world.book.in_doubt().count(), 1);
}

#[test]
fn an_inquirys_answer_counts_only_while_no_higher_epoch_is_known_than_it_named() {
    let mut world = World::prepared();
    world.step(told_under(coordinator(3, TransactionId::NIL), 9, Call::Abort));
    for decision in [Decision::Commit, Decision::Abort] {
        assert_eq!(world.step(learned(1, 2, decision)).answer, Ok(Reply::Nothing));
        assert_eq!(world.state(1), Some(State::Prepared));
        assert_eq!(world.clone().step(learned(1, 3, decision)).answer, Ok(Reply::Effect(decision)));
    }
}

#[test]
fn an_inquirys_answer_moves_only_what_is_in_doubt() {
    let mut world = World::committed();
    assert_eq!(world.step(learned(1, 2, Decision::Abort)).answer, Ok(Reply::Nothing));
    assert_eq!(world.state(1), Some(State::Committed));
}

#[test]
fn an_abort_stops_work_that_is_under_way_and_its_late_result_counts_for_nothing() {
    let mut world = World::all([told(1, prepare(payload(1)))]);
    assert_eq!(world.step(told(1, Call::Abort)).answer, Ok(Reply::Effect(Decision::Abort)));
    let step = world.step(own(1, worked(Vote::Prepared)));
    assert_eq!(step.answer, Ok(Reply::Nothing));
    assert!(is_repeat(&step));
    assert_eq!(world.step(own(1, Act::Effected)).answer, Ok(Reply::Aborted));
    assert!(matches!(world.step(told(1, prepare(payload(1)))).answer, Ok(Reply::Refused(_))));
}

#[test]
fn work_that_failed_is_as_if_it_had_not_been_asked_for() {
    let mut world = World::all([told(1, prepare(payload(1))), own(1, Act::Failed)]);
    assert_eq!(world.state(1), None);
    assert_eq!(world.step(told(1, prepare(payload(1)))).answer, Ok(Reply::Work));
}

#[test]
fn work_on_own_calls_is_voted_for_when_it_is_done() {
    let mut world = World::all([told(1, Call::Open)]);
    // Not before.
    assert_eq!(world.clone().step(told(1, prepare(None))).answer, Ok(Reply::Effect(Decision::Abort)));
    assert_eq!(world.step(own(1, Act::Hold(Vote::Prepared))).answer, Ok(Reply::Nothing));
    let step = world.step(told(1, prepare(None)));
    assert_eq!((step.answer, step.fate, step.forced), (Ok(Reply::Voted(Vote::Prepared)), Fate::Stage, true));
    // Or unasked; the first vote stands.
    let mut world = World::all([told(1, Call::Open)]);
    let step = world.step(own(1, Act::Vote(Vote::Prepared)));
    assert_eq!((step.answer, step.fate, step.lsn), (Ok(Reply::Voted(Vote::Prepared)), Fate::Stage, Some(step.after)));
    assert_eq!(world.step(told(1, prepare(None))).answer, Ok(Reply::Voted(Vote::Prepared)));
}

#[test]
fn who_has_not_voted_ends_itself_after_the_deadline_and_who_has_never_does() {
    let give_up = || own(1, Act::GiveUp("its deadline has passed"));
    for before in [vec![told(1, Call::Open)], vec![told(1, Call::Open), own(1, Act::Hold(Vote::Prepared))]] {
        let mut world = World::all(before);
        assert_eq!(world.step(give_up()).answer, Ok(Reply::Effect(Decision::Abort)));
    }
    let mut world = World::prepared();
    assert_eq!(world.step(give_up()).answer, Ok(Reply::Nothing));
    assert_eq!(world.state(1), Some(State::Prepared));
}

#[test]
fn a_name_that_was_used_is_not_opened_again() {
    for mut world in [World::prepared(), World::aborted(), World::all([told(1, Call::Abort)])] {
        assert_eq!(world.step(told(1, Call::Open)).answer, Err(Refusal::NameUsed));
    }
}

#[test]
fn a_later_epoch_that_a_coordinator_tells_of_is_kept_durably() {
    let mut world = World::prepared();
    let step = world.step(Event::Superseded { coordinator: key(1).coordinator, epoch: epoch(4), now: NOW });
    assert!(step.forced && step.lsn == Some(step.after));
    assert_eq!(world.book.coordinator(key(1).coordinator).unwrap().epoch, epoch(4));
    // That one again, or an earlier one, changes nothing.
    for n in [4, 3] {
        assert!(is_repeat(&world.step(Event::Superseded {
            coordinator: key(1).coordinator,
            epoch: epoch(n),
            now: NOW
        })));
    }
    assert_eq!(world.book.coordinator(key(1).coordinator).unwrap().epoch, epoch(4));
}

#[test]
fn what_a_crash_would_lose_anyway_is_never_on_disk() {
    let opened = [told(1, Call::Open), own(1, Act::Hold(Vote::Prepared))];
    let mut committing = World::prepared();
    committing.step(told(1, Call::Commit));
    let mut aborting = World::prepared();
    aborting.step(told(1, Call::Abort));
    let passing = [
        World::all([told(1, prepare(payload(1)))]),
        World::all(opened.clone().into_iter().take(1)),
        World::all(opened),
        committing,
        aborting,
    ];
    for world in passing {
        assert!(!world.state(1).unwrap().is_saved(), "{:?}", world.state(1));
        assert_ne!(world.disk.branches.get(&key(1)).map(|branch| &branch.state), world.state(1).as_ref());
    }
    for world in [World::prepared(), World::committed(), World::aborted(), World::all([told(1, Call::Abort)])] {
        assert!(world.state(1).unwrap().is_saved(), "{:?}", world.state(1));
    }
}

#[test]
fn a_branch_is_named_to_people_by_its_transaction_and_its_name() {
    assert_eq!(key(1).to_string(), format!("{}/b", transaction(1)));
}

#[test]
fn in_doubt_is_who_has_voted_and_heard_nothing() {
    let in_doubt = |world: &World| world.book.in_doubt().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(in_doubt(&World::all([told(1, prepare(payload(1)))])), []);
    let mut world = World::prepared();
    assert_eq!(in_doubt(&world), [key(1)]);
    world.step(told(1, Call::Commit));
    assert_eq!(in_doubt(&world), []);
    assert_eq!(in_doubt(&World::committed()), []);
    assert_eq!(in_doubt(&World::aborted()), []);
}

#[test]
fn a_coordinator_is_asked_where_it_was_last_heard_from() {
    let mut world = World::prepared();
    let moved = Coordinator { url: "http://127.0.0.1:9999".to_owned(), ..coordinator(2, TransactionId::NIL) };
    world.step(told_under(moved, 9, Call::Abort));
    assert_eq!(world.book.coordinator(key(1).coordinator).unwrap().url, "http://127.0.0.1:9999");
}

#[test]
fn coordinators_do_not_touch_each_others_branches() {
    let mut world = World::prepared();
    let id = "00000000-0000-4000-8000-000000000000".parse().unwrap();
    let other = Coordinator { id, ..coordinator(9, transaction(1)) };
    assert_eq!(world.step(told_under(other.clone(), 1, Call::Commit)).answer, Err(Refusal::UnknownBranch));
    assert_eq!(world.step(told_under(other, 1, Call::Abort)).answer, Ok(Reply::Aborted));
    assert_eq!(world.state(1), Some(State::Prepared));
    assert_eq!(world.book.coordinator(key(1).coordinator).unwrap().epoch, epoch(2));
}

#[test]
fn what_was_not_voted_for_is_gone_after_a_crash() {
    for before in [vec![told(1, prepare(payload(1)))], vec![told(1, Call::Open), own(1, Act::Hold(Vote::Prepared))]] {
        let mut world = World::all(before);
        world.crash(usize::MAX);
        assert_eq!(world.state(1), None);
    }
    // A decision that was still being carried out is in doubt again.
    let mut world = World::prepared();
    world.step(told(1, Call::Commit));
    world.crash(usize::MAX);
    assert_eq!(world.state(1), Some(State::Prepared));
}

#[test]
fn message_for_another_store_is_misdirected_and_not_kept() {
    let id = |n| ParticipantId::from_uuid(uuid::Uuid::from_u128(n));
    let for_store = |n, event: Event| match event {
        Event::Told { from, transaction, branch, call, now, .. } => {
            Event::Told { from, transaction, branch, call, meant_for: Some(id(n)), now }
        }
        other => other,
    };
    let mut book = Book::restore(Saved { participant_id: Some(id(1)), ..Saved::default() });
    for call in [prepare(payload(1)), Call::Commit, Call::Abort] {
        let before = book.clone();
        let step = book.step(for_store(2, told(1, call)));
        assert_eq!(step.answer, Err(Refusal::Misdirected { participant_id: id(1) }));
        assert!(is_repeat(&step) && step.after == Lsn::default() && book == before, "{step:?}");
    }
    assert_eq!(book.step(for_store(1, told(1, Call::Abort))).answer, Ok(Reply::Aborted));
    assert_eq!(book.step(told(2, Call::Abort)).answer, Ok(Reply::Aborted), "a message that names none");
    // A store without an id obeys what is meant for any.
    let mut book = Book::restore(Saved::default());
    assert_eq!(book.step(for_store(2, told(1, Call::Abort))).answer, Ok(Reply::Aborted));
}

#[test]
fn branch_in_doubt_is_ended_by_hand_and_keeps_the_reason() {
    let by_hand = |decision| own(1, Act::Resolve { decision, reason: "the disk is lost".to_owned() });
    for decision in [Decision::Commit, Decision::Abort] {
        let mut world = World::prepared();
        assert_eq!(world.step(by_hand(decision)).answer, Ok(Reply::Effect(decision)));
        // Until it is durable, a crash puts it back in doubt.
        let mut crashed = world.clone();
        crashed.crash(0);
        assert_eq!(crashed.state(1), Some(State::Prepared));
        assert_eq!(crashed.book.branch(&key(1)).unwrap().resolved, None);
        let step = world.step(own(1, Act::Effected));
        assert!(step.forced, "{step:?}");
        world.sync();
        world.crash(0);
        assert_eq!(world.book.branch(&key(1)).unwrap().resolved.as_deref(), Some("the disk is lost"));
        match decision {
            Decision::Commit => {
                assert_eq!(world.step(told(1, Call::Commit)).answer, Ok(Reply::Committed));
                assert_eq!(world.step(told(1, Call::Abort)).answer, Err(Refusal::IsCommitted));
            }
            Decision::Abort => {
                assert_eq!(world.step(told(1, Call::Abort)).answer, Ok(Reply::Aborted));
                let answer = world.step(told(1, Call::Commit)).answer;
                let Err(Refusal::IsAborted { why }) = answer else { panic!("{answer:?}") };
                assert!(why.contains("the disk is lost"), "{why}");
            }
        }
    }
    for mut world in [World::new(), World::committed(), World::aborted(), World::all([told(1, prepare(payload(1)))])] {
        let before = world.state(1);
        assert_eq!(world.step(by_hand(Decision::Abort)).answer, Ok(Reply::Nothing));
        assert_eq!(world.state(1), before);
    }
}

#[test]
fn end_against_the_decision_is_told_when_it_is_durable() {
    let mut book = Book::restore(Saved::default());
    book.step(told(1, prepare(payload(1))));
    let vote = book.step(own(1, worked(Vote::Prepared)));
    book.step(told(1, Call::Abort));
    let end = book.step(own(1, Act::Effected));
    assert!(end.lsn > vote.lsn && !end.forced && Some(end.after) < end.lsn, "an abort is told before it is durable");
    let told = book.step(told(1, Call::Commit));
    assert!(matches!(told.answer, Err(Refusal::IsAborted { .. })) && Some(told.after) == end.lsn, "{told:?}");
}

#[test]
fn oldest_ends_are_those_that_no_horizon_has_passed() {
    let end =
        |n, call| [told(n, prepare(payload(1))), own(n, worked(Vote::Prepared)), told(n, call), own(n, Act::Effected)];
    let by_hand = Act::Resolve { decision: Decision::Commit, reason: "by hand".to_owned() };
    let mut world = World::all([end(4, Call::Commit), end(2, Call::Abort), end(3, Call::Commit)].into_iter().flatten());
    let others = [
        told(5, prepare(payload(1))),
        told(6, Call::Abort),
        told(7, prepare(None)),
        told(8, prepare(payload(1))),
        own(8, worked(Vote::Prepared)),
        own(8, by_hand),
        own(8, Act::Effected),
    ];
    for event in others {
        world.step(event);
    }
    assert_eq!(world.book.oldest_ended(9), [key(2), key(3), key(4)]);
    assert_eq!(world.book.oldest_ended(2), [key(2), key(3)]);
    world.step(told_under(coordinator(2, transaction(3)), 9, Call::Abort));
    assert_eq!(world.book.oldest_ended(9), [key(3), key(4)]);
}
