//! Every state × every event, as a table that a person can read: what each leads to, what changes nothing, and what is
//! not allowed.

use std::fmt::Write as _;

use unanimous_sdk::protocol::{
    AbortAnswer, AcknowledgedState, CommitAnswer, ParticipantId, PrepareAnswer, UnixMillis, Vote,
};

use super::{
    Barrier, Branch, Call, Command, Event, Heard, Log, Lsn, NotAllowed, Reason, ReasonCode, Record, State, Step,
    StoreVote, Transaction,
    tests::{begun, enlist, fed, log, name, reason, voted},
};

/// Each state a transaction of two branches, "a" and "b", can be in, and how it comes there.
#[allow(clippy::too_many_lines, reason = "a table")]
fn states() -> Vec<(&'static str, Transaction)> {
    let prepared = || PrepareAnswer::Vote(Vote::Prepared);
    let read_only = || PrepareAnswer::Vote(Vote::ReadOnly);
    let restarted = |transaction: Transaction| fed(transaction, [Event::Restarted]);
    vec![
        ("active, no branch", begun(&[])),
        ("active", begun(&["a", "b"])),
        ("active, a prepared unasked", fed(begun(&["a", "b"]), [voted("a", Vote::Prepared)])),
        ("active, both read-only", fed(begun(&["a", "b"]), [voted("a", Vote::ReadOnly), voted("b", Vote::ReadOnly)])),
        ("preparing", fed(begun(&["a", "b"]), [Event::Commit])),
        (
            "preparing, a unreachable",
            fed(begun(&["a", "b"]), [Event::Commit, Event::NotAnswered(0, Heard::Unreachable)]),
        ),
        (
            "preparing, a prepared",
            fed(begun(&["a", "b"]), [Event::Commit, Event::PrepareAnswered(0, prepared(), None)]),
        ),
        (
            "preparing, a read-only",
            fed(begun(&["a", "b"]), [Event::Commit, Event::PrepareAnswered(0, read_only(), None)]),
        ),
        (
            "committing",
            fed(
                begun(&["a", "b"]),
                [
                    Event::Commit,
                    Event::PrepareAnswered(0, prepared(), None),
                    Event::PrepareAnswered(1, prepared(), None),
                ],
            ),
        ),
        (
            "committing, a acknowledged",
            fed(
                begun(&["a", "b"]),
                [
                    Event::Commit,
                    Event::PrepareAnswered(0, prepared(), None),
                    Event::PrepareAnswered(1, prepared(), None),
                    Event::CommitAnswered(0, CommitAnswer::Committed),
                ],
            ),
        ),
        (
            "committing, a read-only",
            fed(
                begun(&["a", "b"]),
                [
                    Event::Commit,
                    Event::PrepareAnswered(0, read_only(), None),
                    Event::PrepareAnswered(1, prepared(), None),
                ],
            ),
        ),
        (
            "committed",
            fed(
                begun(&["a", "b"]),
                [
                    Event::Commit,
                    Event::PrepareAnswered(0, prepared(), None),
                    Event::PrepareAnswered(1, prepared(), None),
                    Event::CommitAnswered(0, CommitAnswer::Committed),
                    Event::CommitAnswered(1, CommitAnswer::Committed),
                ],
            ),
        ),
        ("aborting", fed(begun(&["a", "b"]), [Event::Abort(reason())])),
        (
            "aborting, a refused",
            fed(
                begun(&["a", "b"]),
                [Event::Commit, Event::PrepareAnswered(0, PrepareAnswer::Refused { reason: None }, None)],
            ),
        ),
        (
            "aborted",
            fed(
                begun(&["a", "b"]),
                [
                    Event::Abort(reason()),
                    Event::AbortAnswered(0, AbortAnswer::Aborted),
                    Event::AbortAnswered(1, AbortAnswer::Aborted),
                ],
            ),
        ),
        ("aborting after a restart", restarted(begun(&["a", "b"]))),
        (
            "committing, a prepared by store 1",
            fed(
                begun(&["a", "b"]),
                [
                    Event::Commit,
                    Event::PrepareAnswered(0, prepared(), Some(STORE)),
                    Event::PrepareAnswered(1, prepared(), None),
                ],
            ),
        ),
        ("aborting, a voted late", fed(begun(&["a", "b"]), [Event::Abort(reason()), Event::VotedLate(0)])),
        (
            "aborting, a given up",
            fed(begun(&["a", "b"]), [Event::Abort(reason()), Event::GiveUp { branch: 0, other_store: false }]),
        ),
    ]
}

/// The store 1.
const STORE: ParticipantId = ParticipantId::from_uuid(uuid::Uuid::from_u128(1));

fn acknowledged(state: AcknowledgedState, participant_id: Option<ParticipantId>) -> Event {
    Event::Acknowledged { branch: name("a"), state, participant_id }
}

fn events() -> Vec<(&'static str, Event)> {
    vec![
        ("enlist c", enlist("c", None)),
        ("enlist c, prepared", enlist("c", Some(Vote::Prepared))),
        ("enlist a again", enlist("a", None)),
        ("enlist a, elsewhere", {
            let Event::Enlist { name, payload, vote, most, .. } = enlist("a", None) else { unreachable!() };
            Event::Enlist { name, participant: "http://localhost/other".parse().unwrap(), payload, vote, most }
        }),
        ("enlist, one too many", {
            let Event::Enlist { participant, payload, vote, .. } = enlist("x", None) else { unreachable!() };
            Event::Enlist { name: None, participant, payload, vote, most: 0 }
        }),
        ("vote a prepared", voted("a", Vote::Prepared)),
        ("vote a read-only", voted("a", Vote::ReadOnly)),
        ("vote x prepared", voted("x", Vote::Prepared)),
        ("commit", Event::Commit),
        ("abort", Event::Abort(reason())),
        ("deadline", Event::DeadlinePassed),
        ("restart", Event::Restarted),
        ("a: 200 prepared", Event::PrepareAnswered(0, PrepareAnswer::Vote(Vote::Prepared), None)),
        ("a: 200 read-only", Event::PrepareAnswered(0, PrepareAnswer::Vote(Vote::ReadOnly), None)),
        ("b: 200 prepared", Event::PrepareAnswered(1, PrepareAnswer::Vote(Vote::Prepared), None)),
        ("b: 409 abort", Event::PrepareAnswered(1, PrepareAnswer::Refused { reason: Some("no".into()) }, None)),
        ("a: unreachable", Event::NotAnswered(0, Heard::Unreachable)),
        ("a: no answer", Event::NotAnswered(0, Heard::Error)),
        ("a: 200 committed", Event::CommitAnswered(0, CommitAnswer::Committed)),
        ("b: 200 committed", Event::CommitAnswered(1, CommitAnswer::Committed)),
        ("b: heuristic abort", Event::CommitAnswered(1, CommitAnswer::HeuristicAbort { detail: None })),
        ("b: 404 unknown branch", Event::CommitAnswered(1, CommitAnswer::UnknownBranch)),
        ("a: 200 aborted", Event::AbortAnswered(0, AbortAnswer::Aborted)),
        ("b: 200 aborted", Event::AbortAnswered(1, AbortAnswer::Aborted)),
        ("b: heuristic commit", Event::AbortAnswered(1, AbortAnswer::HeuristicCommit { detail: None })),
        ("a: vote too late", Event::VotedLate(0)),
        ("a: give up", Event::GiveUp { branch: 0, other_store: false }),
        ("a: give up, other store", Event::GiveUp { branch: 0, other_store: true }),
        ("a has committed", acknowledged(AcknowledgedState::Committed, None)),
        ("a has aborted", acknowledged(AcknowledgedState::Aborted, None)),
        ("a has committed at 1", acknowledged(AcknowledgedState::Committed, Some(STORE))),
        ("vote a prepared, store 1", {
            let vote = StoreVote { vote: Vote::Prepared, participant_id: Some(STORE) };
            Event::Vote { branch: name("a"), vote }
        }),
        ("z: 200 aborted", Event::AbortAnswered(25, AbortAnswer::Aborted)),
    ]
}

fn barrier(after: Barrier) -> String {
    match after {
        Barrier::NONE => String::new(),
        Barrier { written: Lsn(0), durable } => format!(" once #{} is durable", durable.0),
        Barrier { written, durable: Lsn(0) } => format!(" once #{} is written", written.0),
        Barrier { written, durable } => format!(" once #{} is written and #{} durable", written.0, durable.0),
    }
}

fn command(transaction: &Transaction, command: &Command) -> String {
    match command {
        Command::Append(lsn, record) => {
            let how = if record.is_forced() { "force" } else { "log" };
            let what = match record {
                Record::Begun(_) => "begun".to_owned(),
                Record::Enlisted(branch) => format!("enlisted {}", branch.name),
                Record::Voted { branch, vote, participant_id } => {
                    let store = participant_id.map_or("", |_| ", of store 1");
                    format!("voted {}: {vote:?}{store}", transaction.branches[*branch as usize].name)
                }
                Record::VotedLate { branch } => {
                    format!("voted late {}", transaction.branches[*branch as usize].name)
                }
                Record::GaveUp { branch } => format!("gave up {}", transaction.branches[*branch as usize].name),
                Record::Decided(whole) => {
                    let decided = whole.decided.as_ref().unwrap();
                    let sequence = decided.sequence.map_or("no sequence".to_owned(), |n| format!("sequence {n}"));
                    let why = decided.reason.as_ref().map_or(String::new(), |why| format!(", {}", why_text(why)));
                    format!("decided {:?} ({sequence}{why})", decided.decision)
                }
                Record::Acknowledged { branch, state, .. } => {
                    format!("acknowledged {}: {state:?}", transaction.branches[*branch as usize].name)
                }
                Record::Keyed(key) => format!("keyed {}", key.text),
            };
            format!("{how} #{} {what}", lsn.0)
        }
        Command::Finish(lsn) => format!("log #{} finished", lsn.0),
        Command::Send { branch, call, after } => {
            let call = match call {
                Call::Prepare => "prepare",
                Call::Commit => "commit",
                Call::Abort => "abort",
            };
            format!("call {call} {}{}", transaction.branches[*branch].name, barrier(*after))
        }
        Command::Tell { after } => format!("tell the decision{}", barrier(*after)),
        Command::TellEnd { after } => format!("tell the end{}", barrier(*after)),
    }
}

fn why_text(why: &Reason) -> String {
    let code = match why.code {
        ReasonCode::Initiator => "initiator",
        ReasonCode::Refused => "refused",
        ReasonCode::Unreachable => "unreachable",
        ReasonCode::ParticipantError => "participant error",
        ReasonCode::Deadline => "deadline",
        ReasonCode::CoordinatorRestart => "coordinator restart",
        ReasonCode::Operator => "operator",
    };
    why.branch.as_ref().map_or(code.to_owned(), |branch| format!("{code} {branch}"))
}

fn describe(transaction: &Transaction) -> String {
    let branches: Vec<_> = transaction.branches.iter().map(|b: &Branch| format!("{} {:?}", b.name, b.state)).collect();
    let heuristic = if transaction.is_heuristic() { ", heuristic" } else { "" };
    let state: State = transaction.state;
    format!("{state:?} [{}]{heuristic}", branches.join(", "))
}

#[test]
fn every_state_and_every_event() {
    let mut table = String::new();
    for (title, before) in states() {
        let _ = writeln!(table, "{title}: {}", describe(&before));
        for (what, event) in events() {
            let mut after = before.clone();
            let step = after.step(event, &mut Log { next: Lsn(9), sequence: 5, now: UnixMillis(9000) });
            let led_to = match step {
                Ok(Step::Unchanged) => {
                    assert_eq!(after, before, "{title}, {what}: unchanged is unchanged");
                    "=".to_owned()
                }
                Err(why) => {
                    assert_eq!(after, before, "{title}, {what}: what is not allowed changes nothing");
                    let why = match why {
                        NotAllowed::NotActive => "not active",
                        NotAllowed::BranchConflict(_) => "branch conflict",
                        NotAllowed::UnknownBranch(_) => "unknown branch",
                        NotAllowed::TooManyBranches => "too many branches",
                        NotAllowed::Committed => "committed",
                        NotAllowed::Aborted => "aborted",
                        NotAllowed::NotDecided => "not decided",
                        NotAllowed::Misplaced => "misplaced",
                    };
                    format!("✗ {why}")
                }
                Ok(Step::Changed(commands)) => {
                    let mut text = describe(&after);
                    for one in &commands {
                        let _ = write!(text, "\n{:27}{}", "", command(&after, one));
                    }
                    text
                }
            };
            let _ = writeln!(table, "  {what:23}  {led_to}");
        }
        table.push('\n');
    }
    let _ = log();
    insta::assert_snapshot!(table);
}
