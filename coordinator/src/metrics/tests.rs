//! What is counted, and how it is shown.

use unanimous_sdk::protocol::{AbortAnswer, CommitAnswer, UnixMillis, Vote};

use super::*;
use crate::transaction::{Command, Event, Log, Lsn, Step};

fn scrape(metrics: &Metrics) -> Vec<String> {
    let seen = Seen { undecided: 0, live: 0, disk_full: false, horizon_held_by: None, suspects: 0 };
    metrics.render(UnixMillis(0), &seen).lines().map(str::to_owned).collect()
}

fn value(metrics: &Metrics, sample: &str) -> f64 {
    let lines = scrape(metrics);
    let found = lines.iter().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("there is no {sample} in {lines:#?}")).parse().unwrap()
}

fn none() -> [(TransactionId, &'static Transaction); 0] {
    []
}

#[test]
fn every_metric_shows_from_the_start_with_its_type_and_its_help() {
    let metrics = Metrics::new(none());
    metrics.recovered(Duration::from_millis(20));
    metrics.logged(Stats { batches: 1, entries: 3, forced_writes: 1, synced_for: Duration::from_millis(2) });
    metrics.answered("GET", "/healthz", 200);
    for took in [&metrics.prepare, &metrics.delivery, &metrics.commit_call] {
        took.record(0.1);
    }
    let lines = scrape(&metrics);
    for name in name::all() {
        assert!(name.starts_with("unanimous_"), "{name}");
        let start = |what: &str| lines.iter().filter(|line| line.starts_with(&format!("# {what} {name} "))).count();
        assert_eq!((start("HELP"), start("TYPE")), (1, 1), "{name}: {lines:#?}");
    }
    let described = lines.iter().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(described, name::all().count(), "there is no other");
    let histograms = lines.iter().filter(|line| line.starts_with("# TYPE ") && line.ends_with(" histogram")).count();
    assert_eq!(histograms, 5, "histograms, not summaries: {lines:#?}");
}

#[test]
fn the_log_s_batches_are_told_apart_from_its_totals() {
    let metrics = Metrics::new(none());
    metrics.logged(Stats { batches: 1, entries: 3, forced_writes: 1, synced_for: Duration::from_millis(2) });
    metrics.logged(Stats { batches: 2, entries: 4, forced_writes: 1, synced_for: Duration::from_millis(2) });
    metrics.logged(Stats { batches: 3, entries: 9, forced_writes: 2, synced_for: Duration::from_millis(5) });
    let count = |sample: &str| value(&metrics, sample);
    assert!((count("unanimous_log_batch_entries_count") - 3.0).abs() < 1e-9);
    assert!((count("unanimous_log_batch_entries_sum") - 9.0).abs() < 1e-9);
    assert!((count("unanimous_log_sync_seconds_count") - 2.0).abs() < 1e-9);
    assert!((count("unanimous_log_sync_seconds_sum") - 0.005).abs() < 1e-9);
    assert!((count("unanimous_log_batch_entries_bucket{le=\"4\"}") - 2.0).abs() < 1e-9);
}

#[test]
fn past_100_participants_the_rest_are_other() {
    let metrics = Metrics::new(none());
    for port in 1..=120 {
        metrics.retry(&format!("http://p:{port}").parse().unwrap());
    }
    metrics.retry(&"http://p:1".parse().unwrap());
    let retries = |participant: &str| {
        value(&metrics, &format!("unanimous_participant_retries_total{{participant=\"{participant}\"}}"))
    };
    assert!((retries("http://p:1") - 2.0).abs() < 1e-9, "who has a label keeps it");
    assert!((retries("http://p:100") - 1.0).abs() < 1e-9);
    assert!((retries("other") - 20.0).abs() < 1e-9);
    let lines = scrape(&metrics);
    assert_eq!(lines.iter().filter(|line| line.starts_with("unanimous_participant_retries_total{")).count(), 101);
}

#[test]
fn two_coordinators_in_one_process_count_each_for_itself() {
    let (one, other) = (Metrics::new(none()), Metrics::new(none()));
    one.recovered(Duration::from_secs(1));
    one.inquired(Ok((Outcome::Commit, false)));
    assert!((value(&one, "unanimous_inquiries_total{answer=\"commit\"}") - 1.0).abs() < 1e-9);
    assert!(value(&other, "unanimous_inquiries_total{answer=\"commit\"}").abs() < 1e-9);
}

/// A transaction, fed with these events; after each, what the log was given must have led to the same count as a look at
/// the transaction itself.
fn in_doubt_after(branches: &[&str], events: Vec<Event>) -> usize {
    let id: TransactionId = "01890a5d-1111-7000-8000-000000000001".parse().unwrap();
    let given =
        branches.iter().map(|name| (Some(name.parse().unwrap()), "http://localhost".parse().unwrap(), None)).collect();
    let mut log = Log { next: Lsn(1), sequence: 1, now: UnixMillis(1) };
    let (mut transaction, mut commands) =
        Transaction::begin(std::collections::BTreeMap::new(), UnixMillis(9), vec![], given, UnixMillis(0), &mut log)
            .unwrap();
    let mut unfinished = Unfinished::default();
    let mut events = events.into_iter();
    loop {
        for command in &commands {
            if let Command::Append(_, record) = command {
                unfinished.record(id, record);
            }
        }
        let looked = Unfinished::new([(id, &transaction)]);
        assert_eq!(unfinished.in_doubt(), looked.in_doubt(), "{transaction:?}");
        let Some(event) = events.next() else { break };
        commands = match transaction.step(event, &mut log).unwrap() {
            Step::Changed(commands) => commands,
            Step::Unchanged => vec![],
        };
    }
    let in_doubt = unfinished.in_doubt();
    assert!(unfinished.oldest().is_some());
    unfinished.finished(id);
    assert_eq!((unfinished.in_doubt(), unfinished.oldest()), (0, None), "finished");
    in_doubt
}

#[test]
fn a_transaction_is_in_doubt_while_a_prepared_branch_has_not_acknowledged() {
    let vote = |at, vote| Event::PrepareAnswered(at, PrepareAnswer::Vote(vote), None);
    let refused = Event::PrepareAnswered(1, PrepareAnswer::Refused { reason: None }, None);
    let committed = |at| Event::CommitAnswered(at, CommitAnswer::Committed);
    let aborted = |at| Event::AbortAnswered(at, AbortAnswer::Aborted);
    let prepared = |at| vote(at, Vote::Prepared);
    let both = ["a", "b"];
    assert_eq!(in_doubt_after(&both, vec![Event::Commit]), 0, "nobody has voted");
    assert_eq!(in_doubt_after(&both, vec![Event::Commit, prepared(0)]), 1, "one has");
    assert_eq!(in_doubt_after(&both, vec![Event::Commit, vote(0, Vote::ReadOnly)]), 0, "it has let go");
    assert_eq!(
        in_doubt_after(&both, vec![Event::Commit, prepared(0), prepared(1), committed(0)]),
        1,
        "the other hasn't"
    );
    assert_eq!(in_doubt_after(&both, vec![Event::Commit, prepared(0), prepared(1), committed(0), committed(1)]), 0);
    assert_eq!(
        in_doubt_after(&both, vec![Event::Commit, prepared(0), refused.clone()]),
        1,
        "it doesn't know of the abort"
    );
    assert_eq!(in_doubt_after(&both, vec![Event::Commit, prepared(0), refused, aborted(0)]), 0);
    assert_eq!(
        in_doubt_after(&both, vec![Event::Commit, Event::DeadlinePassed]),
        0,
        "they are told, but nobody is prepared"
    );
    let lost = Event::CommitAnswered(0, CommitAnswer::UnknownBranch);
    assert_eq!(in_doubt_after(&["a"], vec![Event::Commit, prepared(0), lost]), 0, "that is no doubt, but worse");
}
