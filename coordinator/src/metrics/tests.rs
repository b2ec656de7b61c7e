//! What is counted, and how it is shown.

use unanimous_sdk::protocol::UnixMillis;

use super::*;

fn scrape(metrics: &Metrics) -> Vec<String> {
    metrics.render(UnixMillis(0), 0, 0).lines().map(str::to_owned).collect()
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
    let retries = |participant: &str| value(&metrics, &format!("unanimous_participant_retries_total{{participant=\"{participant}\"}}"));
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
