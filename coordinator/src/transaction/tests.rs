//! The rules of a transaction, one by one.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use proptest::prelude::*;
use serde_json::value::RawValue;
use unanimous_sdk::protocol::{
    AbortAnswer, BranchName, CommitAnswer, Decision, ParticipantUrl, PrepareAnswer, UnixMillis, Vote,
};

use super::{
    Barrier, Branch, BranchState, Call, Command, Event, Heard, Key, KeyedCall, Log, Lsn, NotAllowed, Payload, Reason,
    ReasonCode, Record, State, Step, Transaction,
};

pub(super) fn log() -> Log {
    Log { next: Lsn(1), sequence: 1, now: UnixMillis(1000) }
}

pub(super) fn name(text: &str) -> BranchName {
    text.parse().unwrap()
}

pub(super) fn url(text: &str) -> ParticipantUrl {
    format!("http://localhost/{text}").parse().unwrap()
}

pub(super) fn reason() -> Reason {
    Reason { code: ReasonCode::Initiator, detail: None, branch: None }
}

pub(super) fn enlist(branch: &str, vote: Option<Vote>) -> Event {
    let vote = vote.map(Into::into);
    Event::Enlist { name: Some(name(branch)), participant: url(branch), payload: None, vote, most: 256 }
}

pub(super) fn voted(branch: &str, vote: Vote) -> Event {
    Event::Vote { branch: name(branch), vote: vote.into() }
}

pub(super) fn begun(branches: &[&str]) -> Transaction {
    let branches = branches.iter().map(|b| (Some(name(b)), url(b), None)).collect();
    Transaction::begin(BTreeMap::new(), UnixMillis(31_000), vec![], branches, UnixMillis(1000), &mut log()).unwrap().0
}

pub(super) fn fed(mut transaction: Transaction, events: impl IntoIterator<Item = Event>) -> Transaction {
    let mut log = log();
    log.next = Lsn(2);
    for event in events {
        transaction.step(event, &mut log).unwrap();
    }
    transaction
}

fn step(transaction: &mut Transaction, event: Event) -> Vec<Command> {
    match transaction.step(event, &mut log()).unwrap() {
        Step::Changed(commands) => commands,
        Step::Unchanged => vec![],
    }
}

fn calls(commands: &[Command]) -> Vec<(usize, Call)> {
    let call = |command: &Command| match command {
        Command::Send { branch, call, .. } => Some((*branch, *call)),
        Command::Append(..) | Command::Finish(_) | Command::Tell { .. } | Command::TellEnd { .. } => None,
    };
    commands.iter().filter_map(call).collect()
}

const PREPARED: PrepareAnswer = PrepareAnswer::Vote(Vote::Prepared);

#[test]
fn commit_is_decided_only_when_every_branch_has_voted() {
    let mut transaction = begun(&["a", "b", "c"]);
    let sent = step(&mut transaction, Event::Commit);
    assert_eq!(calls(&sent), [(0, Call::Prepare), (1, Call::Prepare), (2, Call::Prepare)]);
    step(&mut transaction, Event::PrepareAnswered(2, PREPARED, None));
    step(&mut transaction, Event::PrepareAnswered(0, PREPARED, None));
    assert_eq!((transaction.state, transaction.decided.is_none()), (State::Preparing, true));
    let sent = step(&mut transaction, Event::PrepareAnswered(1, PREPARED, None));
    assert_eq!(calls(&sent), [(0, Call::Commit), (1, Call::Commit), (2, Call::Commit)]);
    assert_eq!(transaction.decided.unwrap().decision, Decision::Commit);
}

#[test]
fn a_decision_is_sent_and_told_only_when_its_record_is_durable() {
    for events in [
        vec![Event::Commit, Event::PrepareAnswered(0, PREPARED, None)],
        vec![Event::Abort(reason())],
        vec![Event::DeadlinePassed],
    ] {
        let mut transaction = begun(&["a"]);
        let mut log = log();
        for event in events {
            let Step::Changed(commands) = transaction.step(event, &mut log).unwrap() else { panic!() };
            let Some(Command::Append(lsn, record @ Record::Decided(_))) = commands.first() else { continue };
            assert!(record.is_forced());
            for command in &commands[1..] {
                match command {
                    Command::Send { after, .. } | Command::Tell { after } => assert_eq!(*after, Barrier::durable(*lsn)),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(commands.len(), 3);
        }
        assert!(transaction.decided.is_some());
    }
}

#[test]
fn one_refusal_aborts_all_but_those_that_refused_or_voted_read_only() {
    let mut transaction = begun(&["a", "b", "c", "d"]);
    step(&mut transaction, Event::Commit);
    step(&mut transaction, Event::PrepareAnswered(0, PREPARED, None));
    step(&mut transaction, Event::PrepareAnswered(1, PrepareAnswer::Vote(Vote::ReadOnly), None));
    let sent =
        step(&mut transaction, Event::PrepareAnswered(2, PrepareAnswer::Refused { reason: Some("no".into()) }, None));
    assert_eq!(calls(&sent), [(0, Call::Abort), (3, Call::Abort)]);
    let reason = transaction.decided.unwrap().reason.unwrap();
    assert_eq!((reason.code, reason.branch), (ReasonCode::Refused, Some(name("c"))));
}

#[test]
fn what_changed_nothing_has_no_sequence_and_no_forced_write_unless_a_key_came_with_it() {
    let read_only = [voted("a", Vote::ReadOnly), voted("b", Vote::ReadOnly)];
    for (keyed, branches, votes, last) in [
        (false, vec![], vec![], Event::Commit),
        (false, vec![], vec![], Event::Abort(reason())),
        (false, vec!["a", "b"], read_only.to_vec(), Event::Commit),
        (true, vec!["a", "b"], read_only.to_vec(), Event::Commit),
    ] {
        let mut transaction = fed(begun(&branches), votes);
        if keyed {
            transaction.bind(Key { text: "k".into(), call: KeyedCall::Commit, body: 1 }, &mut log());
        }
        let commands = step(&mut transaction, last);
        let Some(Command::Append(_, record)) = commands.first() else { panic!() };
        assert_eq!(record.is_forced(), keyed);
        assert!(transaction.state.is_finished());
        assert_eq!(transaction.decided.unwrap().sequence, None);
        assert_eq!(calls(&commands), []);
    }
}

#[test]
fn the_first_vote_stands() {
    let mut transaction = fed(begun(&["a", "b"]), [voted("a", Vote::Prepared), Event::Commit]);
    let conflict = transaction.step(voted("a", Vote::ReadOnly), &mut log());
    assert_eq!(conflict, Err(NotAllowed::BranchConflict(name("a"))));
    let refusal = Event::PrepareAnswered(0, PrepareAnswer::Refused { reason: None }, None);
    assert_eq!(transaction.step(refusal, &mut log()), Ok(Step::Unchanged));
    assert_eq!(transaction.branches[0].vote, Some(Vote::Prepared));
}

#[test]
fn the_reason_at_the_deadline_is_what_was_last_heard_of_the_first_missing_branch() {
    for (heard, code) in [
        (vec![], ReasonCode::Deadline),
        (vec![Event::NotAnswered(1, Heard::Error)], ReasonCode::ParticipantError),
        (vec![Event::NotAnswered(1, Heard::Error), Event::NotAnswered(1, Heard::Unreachable)], ReasonCode::Unreachable),
        (vec![Event::NotAnswered(2, Heard::Error)], ReasonCode::Deadline),
    ] {
        let mut transaction = fed(begun(&["a", "b", "c"]), [Event::Commit, Event::PrepareAnswered(0, PREPARED, None)]);
        transaction = fed(transaction, heard);
        step(&mut transaction, Event::DeadlinePassed);
        let reason = transaction.decided.unwrap().reason.unwrap();
        assert_eq!((reason.code, reason.branch), (code, Some(name("b"))));
        assert_eq!(reason.detail.as_deref(), Some("a vote was missing at the deadline"));
    }
    let reason = fed(begun(&["a"]), [Event::DeadlinePassed]).decided.unwrap().reason.unwrap();
    assert_eq!((reason.code, reason.branch), (ReasonCode::Deadline, None));
    assert_eq!(reason.detail.as_deref(), Some("the commit was not asked for before the deadline"));
}

#[test]
fn of_a_long_text_of_a_participant_whole_characters_are_kept() {
    for (text, kept) in [("no".to_owned(), 2), ("x".repeat(2_000), 1_024), ("x".to_owned() + &"é".repeat(900), 1_023)]
    {
        let refused = PrepareAnswer::Refused { reason: Some(text.clone()) };
        let transaction = fed(begun(&["a"]), [Event::Commit, Event::PrepareAnswered(0, refused, None)]);
        assert_eq!(transaction.branches[0].detail.as_deref(), Some(&text[..kept]));
    }
    let committed = [Event::Commit, Event::PrepareAnswered(0, PREPARED, None)];
    let end = Event::CommitAnswered(0, CommitAnswer::HeuristicAbort { detail: Some("by hand".to_owned()) });
    let transaction = fed(begun(&["a"]), committed.into_iter().chain([end]));
    assert_eq!(transaction.branches[0].detail.as_deref(), Some("by hand"));
}

#[test]
fn branches_without_a_name_get_their_number_or_the_next_that_is_free() {
    let branches = vec![(Some(name("2")), url("x"), None), (None, url("y"), None), (None, url("z"), None)];
    let made =
        Transaction::begin(BTreeMap::new(), UnixMillis(0), vec![], branches, UnixMillis(0), &mut log()).unwrap().0;
    let names: Vec<_> = made.branches.iter().map(|b| b.name.as_str().to_owned()).collect();
    assert_eq!(names, ["2", "3", "4"]);
    let twice = vec![(Some(name("a")), url("x"), None), (Some(name("a")), url("x"), None)];
    let refused = Transaction::begin(BTreeMap::new(), UnixMillis(0), vec![], twice, UnixMillis(0), &mut log());
    assert!(matches!(refused, Err(NotAllowed::BranchConflict(_))));
}

#[test]
fn payloads_leave_with_the_vote_and_are_never_in_a_record() {
    let text: Box<RawValue> = RawValue::from_string("{\"n\":1}".into()).unwrap();
    let payload = Payload { text: text.into(), digest: 7 };
    let branches = vec![(Some(name("a")), url("a"), Some(payload.clone())), (Some(name("b")), url("b"), Some(payload))];
    let (mut transaction, commands) =
        Transaction::begin(BTreeMap::new(), UnixMillis(9), vec![], branches, UnixMillis(0), &mut log()).unwrap();
    let Some(Command::Append(_, Record::Begun(logged))) = commands.first() else { panic!() };
    assert!(logged.branches.iter().all(|branch| branch.payload.is_none() && branch.payload_digest == Some(7)));
    step(&mut transaction, Event::Commit);
    assert!(transaction.branches[0].payload.is_some());
    step(&mut transaction, Event::PrepareAnswered(0, PREPARED, None));
    assert!(transaction.branches[0].payload.is_none());
    assert!(transaction.branches[1].payload.is_some());

    let payload = Some(Payload { text: RawValue::from_string("2".into()).unwrap().into(), digest: 8 });
    let mut transaction = begun(&[]);
    let later = Event::Enlist { name: None, participant: url("c"), payload, vote: None, most: 1 };
    let commands = step(&mut transaction, later);
    let Some(Command::Append(_, Record::Enlisted(logged))) = commands.first() else { panic!() };
    assert!(logged.payload.is_none() && logged.payload_digest == Some(8));
    assert!(transaction.branches[0].payload.is_some());
}

#[test]
fn a_heuristic_end_is_final_and_is_shown() {
    let mut transaction = fed(
        begun(&["a", "b"]),
        [
            Event::Commit,
            Event::PrepareAnswered(0, PREPARED, None),
            Event::PrepareAnswered(1, PREPARED, None),
            Event::CommitAnswered(0, CommitAnswer::UnknownBranch),
        ],
    );
    assert_eq!(transaction.branches[0].state, BranchState::HeuristicUnknown);
    let again = transaction.step(Event::CommitAnswered(0, CommitAnswer::Committed), &mut log());
    assert_eq!(again, Ok(Step::Unchanged));
    step(&mut transaction, Event::CommitAnswered(1, CommitAnswer::Committed));
    assert_eq!((transaction.state, transaction.is_heuristic()), (State::Committed, true));
}

fn any_event() -> impl Strategy<Value = Event> {
    let vote = prop_oneof![Just(Vote::Prepared), Just(Vote::ReadOnly)];
    let at = 0..4usize;
    let answer = prop_oneof![
        4 => vote.clone().prop_map(PrepareAnswer::Vote),
        1 => Just(PrepareAnswer::Refused { reason: None })
    ];
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")];
    prop_oneof![
        3 => (name.clone(), proptest::option::of(vote.clone())).prop_map(|(name, vote)| enlist(name, vote)),
        3 => (name, vote).prop_map(|(name, vote)| voted(name, vote)),
        2 => Just(Event::Commit),
        1 => Just(Event::Abort(reason())),
        1 => Just(Event::DeadlinePassed),
        1 => Just(Event::Restarted),
        8 => (at.clone(), answer).prop_map(|(at, answer)| Event::PrepareAnswered(at, answer, None)),
        1 => at.clone().prop_map(|at| Event::NotAnswered(at, Heard::Error)),
        4 => at.clone().prop_map(|at| Event::CommitAnswered(at, CommitAnswer::Committed)),
        4 => at.prop_map(|at| Event::AbortAnswered(at, AbortAnswer::Aborted)),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_log_gives_the_same_transaction_back(events in proptest::collection::vec(any_event(), 0..40)) {
        let mut log = log();
        let (mut transaction, commands) =
            Transaction::begin(BTreeMap::new(), UnixMillis(9), vec![], vec![], UnixMillis(0), &mut log).unwrap();
        let mut records = vec![];
        let mut keep = |commands: Vec<Command>| {
            records.extend(commands.into_iter().filter_map(|command| match command {
                Command::Append(_, record) => Some(record),
                Command::Finish(_) | Command::Send { .. } | Command::Tell { .. } | Command::TellEnd { .. } => None,
            }));
        };
        keep(commands);
        let mut decision = None;
        for event in events {
            let before = transaction.clone();
            match transaction.step(event, &mut log) {
                Ok(Step::Changed(commands)) => keep(commands),
                Ok(Step::Unchanged) | Err(_) => prop_assert_eq!(&transaction, &before),
            }
            let decided = transaction.decided.as_ref().map(|decided| decided.decision);
            prop_assert!(decision.is_none() || decision == decided, "a decision never changes");
            decision = decided;
            prop_assert_eq!(decided.is_none(), transaction.state.is_undecided());
            if decided == Some(Decision::Commit) {
                prop_assert!(transaction.branches.iter().all(|branch| branch.vote.is_some()), "commit: all voted");
            }
        }
        let replayed = Transaction::replay(records).unwrap();
        prop_assert_eq!(replayed.records, transaction.records);
        prop_assert_eq!(&replayed.metadata, &transaction.metadata);
        prop_assert_eq!(replayed.decided.map(|d| (d.decision, d.sequence)), transaction.decided.map(|d| (d.decision, d.sequence)));
        let known = |branch: &super::Branch| (branch.name.clone(), branch.participant.clone(), branch.vote);
        let names = |t: &[super::Branch]| t.iter().map(known).collect::<Vec<_>>();
        prop_assert_eq!(names(&replayed.branches), names(&transaction.branches));
        if !transaction.state.is_undecided() {
            let ends = |t: &[super::Branch]| t.iter().map(|branch| branch.state).collect::<Vec<_>>();
            prop_assert_eq!(ends(&replayed.branches), ends(&transaction.branches));
        }
    }
}

#[test]
fn a_key_belongs_to_a_path_and_not_to_what_came_of_it() {
    let enlisted = |branch: &str, new| KeyedCall::Enlist { branch: name(branch), new };
    let paths = [
        [KeyedCall::Begin, KeyedCall::Begin],
        [enlisted("a", true), enlisted("b", false)],
        [KeyedCall::Vote(name("a")), KeyedCall::Vote(name("a"))],
        [KeyedCall::Vote(name("b")), KeyedCall::Vote(name("b"))],
        [KeyedCall::Commit, KeyedCall::Commit],
        [KeyedCall::Abort, KeyedCall::Abort],
    ];
    for (at, [one, _]) in paths.iter().enumerate() {
        for (other_at, [_, other]) in paths.iter().enumerate() {
            assert_eq!(one.same_path(other), at == other_at, "{one:?}, {other:?}");
        }
    }
}

/// The checkers that explore states take two of the same hash for one.
#[test]
fn branches_are_equal_if_nothing_that_decides_differs() {
    let hash = |branch: &Branch| {
        let mut hasher = DefaultHasher::new();
        branch.hash(&mut hasher);
        hasher.finish()
    };
    let one = begun(&["a"]).branches.remove(0);
    let same =
        Branch { attempts: 7, payload: Some(RawValue::from_string("1".to_owned()).unwrap().into()), ..one.clone() };
    assert_eq!((&one, hash(&one)), (&same, hash(&same)));
    let others = [
        Branch { name: name("b"), ..one.clone() },
        Branch { participant: url("b"), ..one.clone() },
        Branch { payload_digest: Some(1), ..one.clone() },
        Branch { state: BranchState::Prepared, ..one.clone() },
        Branch { vote: Some(Vote::Prepared), ..one.clone() },
        Branch { detail: Some(String::new()), ..one.clone() },
        Branch { heard: Some(Heard::Error), ..one.clone() },
    ];
    for other in others {
        assert_ne!(one, other);
        assert_ne!(hash(&one), hash(&other), "{other:?}");
    }
}

#[test]
fn only_a_branch_of_which_nobody_knows_is_left_to_an_operator() {
    let ended = |answer| {
        let prepared = (0..2).map(|at| Event::PrepareAnswered(at, PREPARED, None));
        let told = [Event::CommitAnswered(0, CommitAnswer::Committed), Event::CommitAnswered(1, answer)];
        fed(begun(&["a", "b"]), [Event::Commit].into_iter().chain(prepared).chain(told))
    };
    assert!(ended(CommitAnswer::UnknownBranch).is_left_to_an_operator());
    assert!(!ended(CommitAnswer::Committed).is_left_to_an_operator());
    assert!(!ended(CommitAnswer::HeuristicAbort { detail: None }).is_left_to_an_operator());
}
