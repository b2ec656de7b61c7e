//! Every state and every event, in a table to read.

use std::fmt::Write;

use super::*;

const NIL: TransactionId = TransactionId::NIL;

#[test]
fn every_state_and_every_event() {
    let open = told(1, Call::Open);
    let prepare_1 = || told(1, prepare(payload(1)));
    let commit = || told(1, Call::Commit);
    let states: [(&str, Vec<Event>); 12] = [
        ("(none)", vec![]),
        ("open", vec![open.clone()]),
        ("held", vec![open.clone(), own(1, Act::Hold(Vote::Prepared))]),
        ("working", vec![prepare_1()]),
        ("prepared", vec![prepare_1(), own(1, worked(Vote::Prepared))]),
        ("read_only", vec![prepare_1(), own(1, worked(Vote::ReadOnly))]),
        ("refused", vec![prepare_1(), own(1, Act::Worked(Err("overdrawn".to_owned())))]),
        ("committing", vec![prepare_1(), own(1, worked(Vote::Prepared)), commit()]),
        ("committed", vec![prepare_1(), own(1, worked(Vote::Prepared)), commit(), own(1, Act::Effected)]),
        ("aborting", vec![prepare_1(), own(1, worked(Vote::Prepared)), told(1, Call::Abort)]),
        ("aborted", vec![prepare_1(), own(1, worked(Vote::Prepared)), told(1, Call::Abort), own(1, Act::Effected)]),
        ("tombstone", vec![told(1, Call::Abort)]),
    ];
    let late = || Call::Prepare { payload: payload(1), late: true };
    let by_hand = |decision| Act::Resolve { decision, reason: "by hand".to_owned() };
    // Told with an abort of a later transaction, before the event itself.
    let below = |event: Event| vec![told_under(coordinator(2, transaction(2)), 9, Call::Abort), event];
    let far = || Coordinator { epoch: "ffffffff-ffff-7fff-bfff-ffffffffffff".parse().unwrap(), ..coordinator(2, NIL) };
    let events: Vec<(&str, Vec<Event>)> = vec![
        ("open", vec![open]),
        ("prepare", vec![prepare_1()]),
        ("prepare, late", vec![told(1, late())]),
        ("prepare, other payload", vec![told(1, prepare(payload(2)))]),
        ("prepare, no payload", vec![told(1, prepare(None))]),
        ("commit", vec![commit()]),
        ("abort", vec![told(1, Call::Abort)]),
        ("commit, lower epoch", vec![told_under(coordinator(1, TransactionId::NIL), 1, Call::Commit)]),
        ("commit, higher epoch", vec![told_under(coordinator(3, TransactionId::NIL), 1, Call::Commit)]),
        ("commit, epoch far ahead", vec![told_under(far(), 1, Call::Commit)]),
        ("commit, horizon above it", vec![told_under(coordinator(2, transaction(2)), 1, Call::Commit)]),
        ("prepare, below horizon", below(prepare_1())),
        ("commit, below horizon", below(commit())),
        ("abort, below horizon", below(told(1, Call::Abort))),
        ("learned commit", vec![learned(1, 2, Decision::Commit)]),
        ("learned abort", vec![learned(1, 2, Decision::Abort)]),
        ("learned commit, asked before", vec![learned(1, 1, Decision::Commit)]),
        ("worked: prepared", vec![own(1, worked(Vote::Prepared))]),
        ("worked: read_only", vec![own(1, worked(Vote::ReadOnly))]),
        ("worked: refused", vec![own(1, Act::Worked(Err("no".to_owned())))]),
        ("failed", vec![own(1, Act::Failed)]),
        ("hold", vec![own(1, Act::Hold(Vote::Prepared))]),
        ("vote prepared", vec![own(1, Act::Vote(Vote::Prepared))]),
        ("vote read_only", vec![own(1, Act::Vote(Vote::ReadOnly))]),
        ("ended by hand: commit", vec![own(1, by_hand(Decision::Commit))]),
        ("ended by hand: abort", vec![own(1, by_hand(Decision::Abort))]),
        ("give up", vec![own(1, Act::GiveUp("let go"))]),
        ("effected", vec![own(1, Act::Effected)]),
    ];
    let mut table = String::new();
    for (name, history) in states {
        writeln!(table, "{name}").unwrap();
        for (event_name, event) in &events {
            // The epoch is known and durable, so that only what is new shows.
            let mut world = World::all(std::iter::once(told(9, Call::Abort)).chain(history.clone()));
            let before = world.state(1);
            let [head @ .., last] = event.as_slice() else { unreachable!("there is an event") };
            for event in head {
                world.step(event.clone());
            }
            let step = world.step(last.clone());
            writeln!(table, "  {event_name:<30} {}", row(&step, before.as_ref(), world.state(1).as_ref())).unwrap();
        }
        writeln!(table).unwrap();
    }
    insta::assert_snapshot!("every_state_and_event", table);
}

fn row(step: &Step, before: Option<&State>, after: Option<&State>) -> String {
    let answer = match &step.answer {
        Ok(reply) => format!("{reply:?}"),
        Err(refusal) => format!("NOT ALLOWED {}", format!("{refusal:?}").replace(COORDINATOR, "…")),
    };
    let mut row = answer;
    if before != after {
        write!(row, "  => {}", after.map_or("(none)", State::name)).unwrap();
    }
    match (step.lsn, step.forced) {
        (None, _) => {}
        (Some(lsn), true) if lsn == step.after => row.push_str("  after its forced write"),
        (Some(_), true) => row.push_str("  FORCED, NOT AWAITED"),
        (Some(lsn), false) if lsn == step.after => row.push_str("  AWAITED, NOT FORCED"),
        (Some(_), false) => row.push_str("  written lazily"),
    }
    match step.fate {
        Fate::Unchanged => {}
        Fate::Stage => row.push_str(", work staged"),
        Fate::Publish => row.push_str(", work published"),
        Fate::Discard => row.push_str(", work discarded"),
    }
    row
}
