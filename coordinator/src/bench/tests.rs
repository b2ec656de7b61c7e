//! The arithmetic, the judgement and the forms of what is found.

// What is compared are whole numbers and their halves: exact.
#![allow(clippy::float_cmp)]

use serde_json::json;

use super::{
    connection::parse,
    goals::{self, Row},
    hang::Hang,
    log_alone::Logged,
    numbers::{Pace, median, percentile, ratio},
    plot, process,
    report::Found,
    stage::{Measured, Target, metric},
};

fn measured(target: Target, clients: usize, rate: f64) -> Measured {
    let pace = Pace { rate, p50_us: 1000.0, p99_us: 2000.0 };
    let forced_writes = (target == Target::Batching).then_some(0.05);
    Measured {
        target,
        clients,
        pace,
        cpu_us: 100.0,
        participants_cpu_us: 50.0,
        load_cpu_us: 10.0,
        requests: 4.0,
        forced_writes,
    }
}

fn found() -> Found {
    let targets = [
        (Target::Null, 1000.0),
        (Target::BatchingNull, 8000.0),
        (Target::Log, 50_000.0),
        (Target::Single, 950.0),
        (Target::Batching, 4500.0),
        (Target::Interactive, 900.0),
    ];
    Found {
        fdatasync: Logged::default(),
        measured: targets.into_iter().map(|(target, rate)| measured(target, 128, rate)).collect(),
        hang: Some(Ok(Hang { without_p99_us: 1000.0, with_p99_us: 1300.0 })),
        recovery: Some(Err("the disk was full".to_owned())),
    }
}

fn row(rows: &[Row], figure: &str, clients: Option<usize>) -> Row {
    rows.iter().find(|row| row.figure == figure && row.clients == clients).cloned().unwrap()
}

#[test]
fn a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() {
    let hundred: Vec<u32> = (1..=100).collect();
    assert_eq!([50, 99, 100].map(|percent| percentile(&hundred, percent)), [50.0, 99.0, 100.0]);
    assert_eq!(percentile(&[7], 50), 7.0);
    assert_eq!(percentile(&[1, 2, 3], 99), 3.0);
    assert_eq!(percentile(&[], 99), 0.0);
}

#[test]
fn a_pace_is_that_of_all_values_in_any_order() {
    let pace = Pace::of(vec![30, 10, 20], 1.5);
    assert_eq!(pace, Pace { rate: 2.0, p50_us: 20.0, p99_us: 30.0 });
}

#[test]
fn the_median_is_the_one_in_the_middle_by_a_measure() {
    assert_eq!(median(vec![5.0, 1.0, 3.0], |value| *value), Some(3.0));
    assert_eq!(median(vec![5.0, 1.0], |value| *value), Some(1.0));
    assert_eq!(median(Vec::<f64>::new(), |value| *value), None);
}

#[test]
fn there_is_no_ratio_to_nothing() {
    assert_eq!(ratio(3.0, 2.0), Some(1.5));
    assert_eq!(ratio(3.0, 0.0), None);
}

#[test]
fn a_goal_is_held_against_the_ratio_and_without_a_floor_against_the_value() {
    let rows = found().rows();
    let single = row(&rows, goals::SINGLE_TO_NULL, Some(128));
    assert_eq!((single.ratio, single.goal, single.stretch, single.met), (Some(0.95), Some(0.9), Some(1.3), Some(true)));
    let batching = row(&rows, goals::BATCHING_TO_NULL, Some(128));
    assert_eq!((batching.ratio, batching.goal, batching.met), (Some(4.5), Some(5.0), Some(false)));
    let batching = row(&rows, goals::BATCHING_TO_BATCHING, Some(128));
    assert_eq!((batching.ratio, batching.met), (Some(0.5625), Some(false)));
    let interactive = row(&rows, goals::INTERACTIVE_TO_NULL, Some(128));
    assert_eq!((interactive.ratio, interactive.met), (Some(0.9), Some(false)));
    let forced = row(&rows, goals::FORCED, Some(128));
    assert_eq!((forced.value, forced.floor, forced.met), (Some(0.05), None, Some(true)));
}

#[test]
fn where_less_is_better_more_is_not_met() {
    let hang = row(&found().rows(), goals::HANG, Some(32));
    assert_eq!((hang.ratio, hang.goal, hang.met), (Some(1.3), Some(1.2), Some(false)));
}

#[test]
fn a_goal_whose_figure_was_not_measured_is_not_met() {
    for (figure, clients) in [(goals::SINGLE_TO_NULL, Some(32)), (goals::READY, None), (goals::ALONE, Some(1))] {
        let row = row(&found().rows(), figure, clients);
        assert_eq!((row.value, row.ratio, row.met), (None, None, Some(false)), "{figure}");
    }
    assert!(found().text().unwrap().contains("the disk was full"));
}

#[test]
fn each_goal_has_one_row_and_all_figures_names_of_their_own() {
    let rows = found().rows();
    assert_eq!(rows.iter().filter(|row| row.goal.is_some()).count(), 16);
    for row in &rows {
        let same = rows.iter().filter(|other| (&other.figure, other.clients) == (&row.figure, row.clients));
        assert_eq!(same.count(), 1, "{row:?}");
    }
}

#[test]
fn a_row_in_json_has_these_members_and_no_others() {
    let mut row = serde_json::to_value(Row::new("f", Some(8), 1.0, Some(4.0))).unwrap();
    let expected = json!({
        "figure": "f", "clients": 8, "value": 1.0, "floor": 4.0, "ratio": 0.25, "goal": null, "stretch": null, "met": null
    });
    assert_eq!(row.take(), expected);
}

#[test]
fn the_picture_has_a_line_for_each_coordinator() {
    let svg = plot::svg(&found()).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<polyline").count(), 5);
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn the_processor_time_is_found_behind_a_name_that_holds_anything() {
    let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 100 200 300";
    assert_eq!(process::ticks(stat), Some(300.0));
    assert_eq!(process::ticks("42 (a"), None);
}

#[test]
fn a_metric_is_not_taken_for_one_whose_name_begins_with_it() {
    let text = "# HELP a_b of it\na_b_count 7\na_b 5\n";
    assert_eq!(metric(text, "a_b"), Ok(5.0));
    assert!(metric(text, "a").is_err());
}

#[test]
fn the_head_of_an_answer_is_read_when_it_is_whole() {
    assert_eq!(parse(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n"), Ok(None));
    let whole = b"HTTP/1.1 201 Created\r\nlocation: /v1/transactions/x\r\ncontent-length: 2\r\n\r\n{}";
    let head = format!("{:?}", parse(whole).unwrap().unwrap());
    assert!(head.contains("status: 201") && head.contains(r#"Some("x")"#) && head.contains("body: 2"), "{head}");
    assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "without a length");
}
