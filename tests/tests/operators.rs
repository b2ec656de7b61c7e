//! What operators see of a coordinator: the pages about problems, the metrics, the limits that are flags.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Output},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use reqwest::{Method, header};
use serde_json::{Value, json};
use unanimous_sdk::protocol::ProblemType;
use unanimous_tests::{
    binaries::binary,
    local::Local,
    participant::{Act, Call, Participant},
    wait,
};

fn branch(participant: &Participant) -> Value {
    json!({ "participant": participant.url(), "payload": {} })
}

async fn text(coordinator: &Local, path: &str, accept: &str) -> (String, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("{}{path}", coordinator.api.base())).header(header::ACCEPT, accept);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    let media = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    (media, response.text().await.unwrap())
}

async fn shows(coordinator: &Local, name: &str, expected: f64) {
    wait::until(&format!("{name} is {expected}"), async || {
        (coordinator.api.metric(name).await? - expected).abs().lt(&1e-9).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_type_is_served_as_a_page_and_as_json() {
    let coordinator = Local::start().await;
    for kind in ProblemType::ALL {
        let answer = coordinator.api.get(kind.reference()).await.expect(200);
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.body["type"], kind.reference());
        assert_eq!((&answer.body["title"], &answer.body["status"]), (&json!(kind.title()), &json!(kind.status())));
        assert!(!answer.text("meaning").is_empty() && !answer.text("what_to_do").is_empty());
        let (media, page) = text(&coordinator, kind.reference(), "text/html,*/*;q=0.8").await;
        assert_eq!(media, "text/html; charset=utf-8");
        assert!(page.starts_with("<!doctype html>") && page.contains(kind.title()) && page.contains(kind.name()));
    }
    let unknown = coordinator.api.get("/problems/no-such-problem").await.expect(404);
    assert_eq!(unknown.problem(), "not-found");
    assert!(unknown.text("detail").contains("branch-conflict"), "the known ones are named");
    assert_eq!(coordinator.api.post("/problems/aborted", &json!({})).await.expect(405).problem(), "method-not-allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_decisions_calls_and_the_log() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let (willing, unwilling) = (Participant::start(), Participant::scripted(|_| Act::Refuse("overdrawn")));
    for _ in 0..3 {
        let body = json!({ "branches": [branch(&willing)], "commit": true, "respond": "finished" });
        let _ = api.post("/v1/transactions", &body).await.expect(200);
    }
    let refused = api.run(&json!([branch(&unwilling)])).await.expect(409);
    api.finished(refused.body["transaction"]["id"].as_str().unwrap()).await;
    let aborted = api.begin(&json!({})).await;
    let _ = api.abort(&aborted).await.expect(200);

    for (name, expected) in [
        ("unanimous_transactions_begun_total", 5.0),
        ("unanimous_decisions_total{decision=\"commit\",reason=\"none\"}", 3.0),
        ("unanimous_decisions_total{decision=\"abort\",reason=\"refused\"}", 1.0),
        ("unanimous_decisions_total{decision=\"abort\",reason=\"initiator\"}", 1.0),
        ("unanimous_decisions_total{decision=\"abort\",reason=\"deadline\"}", 0.0),
        ("unanimous_participant_calls_total{call=\"prepare\",result=\"answered\"}", 3.0),
        ("unanimous_participant_calls_total{call=\"prepare\",result=\"refused\"}", 1.0),
        ("unanimous_participant_calls_total{call=\"commit\",result=\"answered\"}", 3.0),
        ("unanimous_prepare_seconds_count", 4.0),
        ("unanimous_delivery_seconds_count", 5.0),
        ("unanimous_commit_call_seconds_count", 4.0),
        ("unanimous_transactions_undecided", 0.0),
        ("unanimous_transactions_unfinished", 0.0),
        ("unanimous_transactions_in_doubt", 0.0),
        ("unanimous_oldest_unfinished_age_seconds", 0.0),
        ("unanimous_disk_full", 0.0),
        ("unanimous_http_requests_total{method=\"POST\",route=\"/v1/transactions\",status=\"2xx\"}", 4.0),
        ("unanimous_http_requests_total{method=\"POST\",route=\"/v1/transactions\",status=\"4xx\"}", 1.0),
        ("unanimous_http_requests_total{method=\"POST\",route=\"/v1/transactions/{id}/abort\",status=\"2xx\"}", 1.0),
        (concat!("unanimous_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        shows(&coordinator, name, expected).await;
    }
    // The log's own thread counts a batch before it reports it.
    let synced = coordinator.api.metric("unanimous_log_sync_seconds_count").await;
    assert_eq!(synced, Some(f64::from(u32::try_from(coordinator.forced_writes()).unwrap())));
    assert!(coordinator.api.metric("unanimous_log_batch_entries_sum").await > Some(10.0));
    assert!(coordinator.api.metric("unanimous_recovery_seconds").await > Some(0.0));

    let (media, metrics) = text(&coordinator, "/metrics", "*/*").await;
    assert_eq!(media, "text/plain; version=0.0.4; charset=utf-8");
    assert!(!metrics.contains(&aborted), "no label is an id");
    assert_eq!(api.post("/metrics", &json!({})).await.expect(405).problem(), "method-not-allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_show_what_is_in_doubt_and_how_often_its_participant_was_asked() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let (deaf, told) = (Participant::start(), Participant::start());
    // It answers the third prepare, and no commit until it is told to.
    let asked = AtomicUsize::new(0);
    deaf.script(move |received| match received.call {
        Call::Prepare if asked.fetch_add(1, Ordering::AcqRel) >= 2 => Act::Obey,
        Call::Prepare | Call::Commit | Call::Abort => Act::Say(500, json!({})),
    });
    let answer = api.run(&json!([branch(&deaf), branch(&told)])).await.expect(200);
    let id = answer.text("id");
    for (name, expected) in [
        ("unanimous_transactions_undecided", 0.0),
        ("unanimous_transactions_unfinished", 1.0),
        ("unanimous_transactions_in_doubt", 1.0),
        ("unanimous_participant_calls_total{call=\"prepare\",result=\"no_answer\"}", 2.0),
    ] {
        shows(&coordinator, name, expected).await;
    }
    assert!(coordinator.api.metric("unanimous_oldest_unfinished_age_seconds").await > Some(0.0));
    deaf.script(|_| Act::Obey);
    let finished = api.finished(id).await;
    shows(&coordinator, "unanimous_transactions_in_doubt", 0.0).await;
    shows(&coordinator, "unanimous_transactions_unfinished", 0.0).await;
    let commits = finished["branches"][0]["attempts"].as_f64().unwrap();
    let retries = format!("unanimous_participant_retries_total{{participant=\"{}\"}}", deaf.url());
    // Two of the prepare, and each commit but the first.
    shows(&coordinator, &retries, 2.0 + commits - 1.0).await;
    let other = format!("unanimous_participant_retries_total{{participant=\"{}\"}}", told.url());
    assert_eq!(coordinator.api.metric(&other).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_inquiries_and_heuristic_ends() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let lost = Participant::scripted(|received| match received.call {
        Call::Commit => Act::Say(404, json!({ "type": "/problems/unknown-branch", "title": "no trace" })),
        Call::Prepare | Call::Abort => Act::Obey,
    });
    let answer = api.run(&json!([branch(&lost)])).await.expect(200);
    let id = answer.text("id");
    assert_eq!(api.finished(id).await["heuristic"], true);
    shows(&coordinator, "unanimous_heuristic_branches_total{outcome=\"unknown\"}", 1.0).await;
    shows(&coordinator, "unanimous_heuristic_branches_total{outcome=\"commit\"}", 0.0).await;

    let me = api.who().await;
    let unknown = "01890a5d-1111-7000-8000-000000000001";
    let stranger = json!({ "id": unknown, "epoch": me["epoch"] });
    let _ = api.inquire(id, &me, "1").await.unwrap().expect(200);
    let _ = api.inquire(unknown, &me, "1").await.unwrap().expect(200);
    let _ = api.inquire(unknown, &stranger, "1").await.unwrap().expect(409);
    let _ = api.get(&format!("/v1/transactions/{unknown}/decision")).await.expect(404);
    for answer in ["commit", "presumed_abort", "not_my_log", "unknown"] {
        shows(&coordinator, &format!("unanimous_inquiries_total{{answer=\"{answer}\"}}"), 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_method_or_path_makes_no_label_of_its_own() {
    let coordinator = Local::start().await;
    for path in ["/nonsense", "/v1/transactions/x/y/z"] {
        let odd = Method::from_bytes(b"BREW").unwrap();
        let _ = coordinator.api.call(odd, path, &[], None).await.unwrap().expect(404);
    }
    shows(&coordinator, "unanimous_http_requests_total{method=\"other\",route=\"none\",status=\"4xx\"}", 2.0).await;
    let (_, metrics) = text(&coordinator, "/metrics", "*/*").await;
    assert!(!metrics.contains("BREW") && !metrics.contains("nonsense"));
}

#[test]
fn past_the_most_connections_others_wait_until_one_closes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let coordinator = runtime.block_on(Local::start_with(&["--max-connections", "1"]));
    let address = coordinator.api.base().strip_prefix("http://").unwrap().to_owned();
    let connect = || TcpStream::connect(&address).unwrap();
    let request = |mut stream: &TcpStream, path: &str, more: &str| {
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n").unwrap();
    };
    let answer = |mut stream: &TcpStream| {
        let mut seen = Vec::new();
        let mut some = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains("\r\n\r\n") {
            let read = stream.read(&mut some).unwrap();
            assert_ne!(read, 0, "the connection was closed");
            seen.extend_from_slice(&some[..read]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    };
    let first = connect();
    request(&first, "/healthz", "");
    assert!(answer(&first).starts_with("HTTP/1.1 200"), "the first has the place");
    let second = connect();
    request(&second, "/readyz", "connection: close\r\n");
    // It is not to be answered now. If it were, it would be soon; a slow machine can only hide that.
    second.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!((&second).read(&mut [0; 1]).is_err(), "a second connection was served beside the first");
    drop(first);
    second.set_read_timeout(None).unwrap();
    assert!(answer(&second).starts_with("HTTP/1.1 200"), "and then it has it");
}

/// What `unanimous config` says with nothing in its environment but this.
fn config(environment: &[(&str, &str)], args: &[&str]) -> (Output, String) {
    let mut command = Command::new(binary("unanimous"));
    let output = command.arg("config").args(args).env_clear().envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    (output, said)
}

#[test]
fn a_flag_stands_over_the_environment_and_that_over_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "max-branches = 1\nmax-undecided = 1\nmax-connections = 1\ninsecure = true\n").unwrap();
    let path = file.path().to_str().unwrap();
    let environment = [
        ("UNANIMOUS_CONFIG", path),
        ("UNANIMOUS_MAX_UNDECIDED", "2"),
        ("UNANIMOUS_MAX_CONNECTIONS", "2"),
        ("UNANIMOUS_INSECURE", "false"),
        ("UNANIMOUS_ALLOW_PARTICIPANT", "http://a,http://b"),
    ];
    let (output, said) = config(&environment, &["--max-connections", "3"]);
    assert!(output.status.success(), "{said}");
    let lines: Vec<(&str, &str)> =
        said.lines().filter_map(|line| line.rsplit_once('#')).map(|(a, b)| (a.trim(), b.trim())).collect();
    let from_file = format!("file {path}");
    for expected in [
        ("max-branches = 1", &*from_file),
        ("max-undecided = 2", "environment UNANIMOUS_MAX_UNDECIDED"),
        ("max-connections = 3", "flag"),
        ("insecure = false", "environment UNANIMOUS_INSECURE"),
        ("allow-participant = [\"http://a\", \"http://b\"]", "environment UNANIMOUS_ALLOW_PARTICIPANT"),
        ("max-body-bytes = 1048576", "default"),
        ("# advertise = (not set)", "default"),
    ] {
        assert!(lines.contains(&expected), "{expected:?} is not in:\n{said}");
    }
}

#[test]
fn what_can_not_be_in_force_is_refused_by_key_and_value() {
    let refused = |environment: &[(&str, &str)], args: &[&str], parts: &[&str]| {
        let (output, said) = config(environment, args);
        assert!(!output.status.success(), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    };
    refused(&[("UNANIMOUS_MAX_BRANCHES", "many")], &[], &["--max-branches", "many"]);
    refused(&[("UNANIMOUS_INSECURE", "perhaps")], &[], &["--insecure", "perhaps"]);
    refused(&[], &["--listen", "0.0.0.0:1"], &["--listen 0.0.0.0:1", "--insecure"]);
    refused(&[], &["--config", "/no/such/file.toml"], &["/no/such/file.toml"]);
    refused(&[], &["--no-such-flag"], &["--no-such-flag"]);
}
