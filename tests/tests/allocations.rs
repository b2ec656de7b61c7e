//! What a transaction costs the engine in allocations, counted: the same on every machine and every day. A change that makes
//! it cost more fails here, and says how much; one that makes it cost less may lower the bound.

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use unanimous_coordinator::{
    engine::{Begin, Engine, Limits, Milestone, Now, Output},
    journal::{Entry, Journal, Memory},
    transaction::{Call, Payload},
    transport::{Attempt, Request, Returned},
};
use unanimous_sdk::protocol::{
    AbortAnswer, CommitAnswer, CoordinatorId, ParticipantUrl, PrepareAnswer, UnixMillis, Vote,
};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

const TRANSACTIONS: usize = 1_000;

/// The most allocations of the engine, from the begin to the end of a transaction of two branches, entries and calls included.
const MOST: usize = 56;

/// The entries that it writes to the log: its beginning, the first vote, the decision, two acknowledgements, its end.
const ENTRIES: usize = 6;

fn answer(request: Request) -> Returned {
    let Request { participant, phase, messages } = request;
    let attempts = messages.into_iter().map(|message| {
        let answer = match message.call {
            Call::Prepare => Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None),
            Call::Commit => Attempt::Commit(CommitAnswer::Committed, None),
            Call::Abort => Attempt::Abort(AbortAnswer::Aborted, None),
        };
        ((message.transaction, message.at, message.call), answer)
    });
    Returned { participant, phase, attempts: attempts.collect(), batches: None }
}

#[test]
fn a_transaction_costs_the_engine_a_bounded_number_of_allocations_and_six_entries() {
    let now = Now { mono: 0, wall: UnixMillis(1_770_000_000_000) };
    let id = CoordinatorId::from_uuid(Uuid::from_u128(7));
    let (journal, recovered) = Memory::create(id, now.wall, 1).expect("a new log");
    let mut engine = Engine::new(now, recovered, "http://localhost:7070".into(), Limits::default(), [7; 32]);
    let url = |at| format!("http://localhost/{at}").parse::<ParticipantUrl>().expect("it is a URL");
    let participants = [url(0), url(1)];
    let text: Arc<RawValue> = RawValue::from_string("{}".to_owned()).expect("it is JSON").into();
    let (mut spent, mut entries, mut finished) = (0, 0, 0);
    for _ in 0..TRANSACTIONS {
        let work = |at: usize| (None, participants[at].clone(), Some(Payload { text: Arc::clone(&text), digest: 1 }));
        let begin = Begin { timeout: Duration::from_secs(30), branches: vec![work(0), work(1)], ..Begin::default() };
        let counted = Region::new(ALLOCATOR);
        let (view, _) = engine.begin(now, begin).expect("it begins");
        let _waiting = engine.commit(now, view.id(), Milestone::Decided, None, None).expect("it is asked for");
        let mut outputs = engine.take_outputs();
        spent += counted.change().allocations;
        loop {
            let mut answers: Vec<Returned> = vec![];
            for output in outputs {
                match output {
                    Output::Append(lsn, entry) => {
                        entries += 1;
                        finished += usize::from(matches!(entry, Entry::Finished { .. }));
                        journal.append(lsn, vec![entry]);
                    }
                    Output::Send(request) => answers.push(answer(request)),
                    Output::Decided(_)
                    | Output::Finished(_)
                    | Output::ConfirmOwnership
                    | Output::HigherEpoch(..)
                    | Output::Superseded(_)
                    | Output::Suspect(_)
                    | Output::Trusted(_)
                    | Output::AnsweredLate { .. } => {}
                }
            }
            while journal.waiting() > 0 {
                let _ = journal.write_one().expect("it is open");
            }
            let progress = journal.sync();
            let counted = Region::new(ALLOCATOR);
            engine.progress(now, progress);
            for answer in answers {
                engine.answered(now, answer);
            }
            outputs = engine.take_outputs();
            spent += counted.change().allocations;
            if outputs.is_empty() {
                break;
            }
        }
    }
    assert_eq!(finished, TRANSACTIONS);
    assert_eq!(engine.live(), 0);
    assert_eq!(entries, ENTRIES * TRANSACTIONS, "entries of the log");
    let each = spent.div_ceil(TRANSACTIONS);
    println!("{each} allocations a transaction");
    assert!(each <= MOST, "{each} allocations a transaction; it was at most {MOST}");
}
