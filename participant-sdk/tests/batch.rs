//! Several messages in one request: each is answered as it would be alone.
#![cfg(feature = "store")]

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{COORDINATOR, Served, aborted, committed, epoch, prepared, reopen, until};
use serde_json::{Value, json};
use unanimous_sdk::{
    prelude::*,
    protocol::{BatchAnswers, MAX_BATCH_ANSWER_BYTES},
    store::Options,
};

async fn bank_with(lock_wait: Duration, options: ServiceOptions) -> (tempfile::TempDir, Served) {
    let folder = tempfile::tempdir().unwrap();
    let store = KvStore::open_with(folder.path(), Options { lock_wait, ..Options::default() }).unwrap();
    for account in ["alice", "bob", "slow"] {
        store.put(account, &100i64).await.unwrap();
    }
    let options = ServiceOptions { patience: Duration::from_hours(1), ..options };
    (folder, Served::start_with(store, options).await)
}

async fn bank() -> (tempfile::TempDir, Served) {
    bank_with(Duration::from_millis(5), ServiceOptions::default()).await
}

fn prepare(served: &Served, n: u32, account: &str, cents: i64) -> Value {
    Served::in_batch("prepare", served.prepare_message(n, json!([account, cents])))
}

fn commit(served: &Served, n: u32) -> Value {
    Served::in_batch("commit", served.message(n))
}

fn abort(served: &Served, n: u32) -> Value {
    Served::in_batch("abort", served.message(n))
}

fn problem(answer: &(u16, Value)) -> (u16, &str) {
    assert_eq!(answer.1["status"], answer.0, "{answer:?}");
    (answer.0, answer.1["type"].as_str().unwrap())
}

const MALFORMED: (u16, &str) = (400, "/problems/malformed");

#[tokio::test]
async fn each_message_is_answered_as_it_would_be_alone_in_the_same_order() {
    let (_folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.prepare(2, "bob", -30).await, prepared());
    let messages = [
        commit(&served, 1),
        prepare(&served, 3, "slow", 1),
        abort(&served, 2),
        prepare(&served, 4, "nobody", 1),
        abort(&served, 5),
        commit(&served, 6),
        prepare(&served, 2, "bob", -31),
    ];
    served.bank().gate.add_permits(1);
    let answers = served.batch(&messages).await;
    assert_eq!(answers[0], committed());
    assert_eq!(answers[1], prepared());
    assert_eq!(answers[2], aborted());
    assert_eq!(answers[3], (409, json!({ "vote": "abort", "reason": "there is no such account" })));
    assert_eq!(answers[4], aborted());
    assert_eq!(problem(&answers[5]), (404, "/problems/unknown-branch"));
    assert_eq!(problem(&answers[6]), (422, "/problems/invalid"));
    assert_eq!((served.balance("alice"), served.balance("bob")), (Some(70), Some(100)));
    // Repeats, alone or not, get the same answers.
    assert_eq!(served.batch(&messages).await[..6], answers[..6]);
    assert_eq!(served.commit(1).await, committed());
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 4);
    assert_eq!(served.batch(&[]).await, []);
}

#[tokio::test]
async fn a_message_that_is_not_one_spoils_no_other() {
    let (_folder, served) = bank().await;
    let mut unknown = commit(&served, 1);
    unknown["call"] = "forget".into();
    let mut nameless = commit(&served, 1);
    nameless["branch"] = "a/b".into();
    let mut hasty = prepare(&served, 1, "bob", -1);
    hasty["remaining_ms"] = Value::Null;
    let mut deep = prepare(&served, 1, "bob", -1);
    deep["payload"] = (0..100).fold(json!(1), |inner, _| json!([inner]));
    // Alone it would be as deep as is taken.
    let mut just = prepare(&served, 2, "bob", -1);
    just["payload"] = (0..99).fold(json!(1), |inner, _| json!([inner]));
    served.bank().panics.store(1, Ordering::SeqCst);
    let panics = prepare(&served, 3, "bob", -1);
    assert_eq!(served.batch(std::slice::from_ref(&panics)).await[0].0, 500);
    let messages =
        [json!([]), json!({}), json!(null), unknown, nameless, hasty, deep, just, prepare(&served, 4, "alice", -30)];
    let answers = served.batch(&messages).await;
    for answer in &answers[..7] {
        assert_eq!(problem(answer), MALFORMED);
    }
    assert_eq!((answers[7].0, &answers[7].1["vote"]), (409, &json!("abort")), "{answers:?}");
    assert_eq!(answers[8], prepared());
}

#[tokio::test]
async fn a_payload_with_a_member_twice_is_that_messages_own_fault() {
    let (_folder, served) = bank().await;
    let mut twice = prepare(&served, 1, "alice", -30);
    twice["payload"] = json!({ "twice": 1 });
    let body = served.batch_body(&[twice, prepare(&served, 2, "alice", -30)]).to_string();
    let body = body.replace("\"twice\":1", "\"twice\":1,\"twice\":2");
    let request = served.http.post(format!("{}/batch", served.url)).header("content-type", "application/json");
    let answers: Value = request.body(body).send().await.unwrap().json().await.unwrap();
    assert_eq!((&answers["answers"][0]["status"], &answers["answers"][1]["status"]), (&json!(400), &json!(200)));
}

#[tokio::test]
async fn a_prepare_that_waits_for_a_key_holds_no_commit_of_its_batch_up() {
    // Without an end: only the commit of the same batch can free the key.
    let (_folder, served) = bank_with(Duration::from_hours(1), ServiceOptions::default()).await;
    assert_eq!(served.prepare(0, "alice", -1).await, prepared());
    // Where the machine is very busy a prepare may be told to come again; were they in a queue, each would be.
    for n in 0..20 {
        let answers = served.batch(&[prepare(&served, n + 1, "alice", -1), commit(&served, n)]).await;
        assert_eq!(answers[1], committed());
        if answers[0] == prepared() {
            assert_eq!(served.balance("alice"), Some(99 - i64::from(n)));
            return;
        }
        assert_eq!(problem(&answers[0]), (503, "/problems/not-ready"));
        assert_eq!(served.prepare(n + 1, "alice", -1).await, prepared());
    }
    panic!("a prepare was never answered together with the commit that frees its key");
}

#[tokio::test]
async fn work_that_takes_long_is_to_be_asked_for_again_and_the_others_are_answered() {
    let (_folder, served) = bank().await;
    let answers = served.batch(&[prepare(&served, 1, "slow", -30), prepare(&served, 2, "alice", -30)]).await;
    assert_eq!(problem(&answers[0]), (503, "/problems/not-ready"));
    assert_eq!(answers[1], prepared());
    served.bank().gate.add_permits(1);
    assert_eq!(served.prepare(1, "slow", -30).await, prepared());
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 2, "the work was done once");
}

#[tokio::test]
async fn the_votes_of_a_batch_share_one_forced_write_and_so_do_its_commits() {
    let (folder, served) = bank().await;
    let accounts: Vec<String> = (0..100).map(|n| format!("account {n}")).collect();
    for account in &accounts {
        served.service.store().put(account, &100i64).await.unwrap();
    }
    let numbered = || (0u32..).zip(&accounts);
    let votes: Vec<Value> = numbered().map(|(n, account)| prepare(&served, n, account, -1)).collect();
    let before = served.service.store().syncs();
    assert!(served.batch(&votes).await.iter().all(|answer| *answer == prepared()));
    assert_eq!(served.service.store().syncs() - before, 1);
    served.stop().await;

    let served = Served::start(reopen(folder.path()).await).await;
    assert_eq!(served.service.in_doubt_count(), 100);
    let commits: Vec<Value> = numbered().map(|(n, _)| commit(&served, n)).collect();
    let before = served.service.store().syncs();
    assert!(served.batch(&commits).await.iter().all(|answer| *answer == committed()));
    assert_eq!(served.service.store().syncs() - before, 1);
    assert!(accounts.iter().all(|account| served.balance(account) == Some(99)));
    // What changes nothing forces nothing.
    assert!(served.batch(&votes).await.iter().all(|answer| *answer == prepared()));
    assert_eq!(served.service.store().syncs() - before, 1);
}

#[tokio::test]
async fn a_stale_epoch_is_the_whole_batchs_answer() {
    let (_folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    let mut body = served.batch_body(&[commit(&served, 1), prepare(&served, 2, "bob", -30), json!({})]);
    body["coordinator"]["epoch"] = epoch(1).into();
    let answer = served.post("batch", &body).await;
    assert_eq!(problem(&answer), (412, "/problems/stale-epoch"));
    assert_eq!((&answer.1["epoch"], &answer.1["coordinator"]), (&json!(epoch(2)), &json!(COORDINATOR)));
    assert_eq!((served.service.in_doubt_count(), served.bank().prepares.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn what_is_not_a_batch_is_a_clear_problem() {
    let (_folder, served) = bank().await;
    for body in [json!([]), json!({}), json!({ "messages": [] }), json!({ "coordinator": {}, "messages": [] })] {
        assert_eq!(problem(&served.post("batch", &body).await), MALFORMED);
    }
    let mut body = served.batch_body(&[prepare(&served, 1, "alice", -30)]);
    body["messages"] = json!({});
    assert_eq!(problem(&served.post("batch", &body).await), MALFORMED);
    let mut body = served.batch_body(&[prepare(&served, 1, "alice", -30)]);
    body["coordinator"]["url"] = "http://10.0.0.1:7070".into();
    assert_eq!(problem(&served.post("batch", &body).await).0, 403);
    let text = served.http.post(format!("{}/batch", served.url)).header("content-type", "text/plain").body("{}");
    assert_eq!(text.send().await.unwrap().status(), 415);
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 0);
}

/// The status of a call, and what it says of batches.
async fn offer(request: reqwest::RequestBuilder) -> (u16, Option<String>) {
    let response = request.send().await.unwrap();
    let offer = response.headers().get("Unanimous-Batch").map(|most| most.to_str().unwrap().to_owned());
    (response.status().as_u16(), offer)
}

#[tokio::test]
async fn every_answer_says_how_many_messages_are_taken_and_more_are_too_large() {
    let (_folder, served) =
        bank_with(Duration::ZERO, ServiceOptions { batch_max: 3, ..ServiceOptions::default() }).await;
    let url = |path: &str| format!("{}/{path}", served.url);
    let most = || Some("3".to_owned());
    assert_eq!(offer(served.http.get(url("branches"))).await, (200, most()));
    assert_eq!(offer(served.http.get(url("batch"))).await, (405, most()));
    assert_eq!(offer(served.http.get(url("nothing"))).await, (404, most()));
    assert_eq!(offer(served.http.post(url("prepare")).body("{")).await, (400, most()));
    assert_eq!(offer(served.http.post(url("batch")).body(" ".repeat((1 << 20) + 1))).await, (413, most()));
    assert_eq!(offer(served.http.post(url("abort")).json(&served.message(1))).await, (200, most()));
    let batch = |n: u32| served.batch_body(&(0..n).map(|n| abort(&served, n)).collect::<Vec<_>>());
    assert_eq!(offer(served.http.post(url("batch")).json(&batch(3))).await, (200, most()));
    assert_eq!(offer(served.http.post(url("batch")).json(&batch(4))).await, (413, most()));
}

#[tokio::test]
async fn batches_are_not_offered_where_they_are_not_wanted_and_by_default_they_are() {
    let (_folder, served) =
        bank_with(Duration::ZERO, ServiceOptions { batch_max: 0, ..ServiceOptions::default() }).await;
    assert_eq!(offer(served.http.get(format!("{}/branches", served.url))).await, (200, None));
    let batch = served.batch_body(&[abort(&served, 1)]);
    assert_eq!(offer(served.http.post(format!("{}/batch", served.url)).json(&batch)).await, (404, None));
    let (_folder, served) = bank().await;
    assert_eq!(offer(served.http.get(format!("{}/branches", served.url))).await, (200, Some("256".to_owned())));
}

#[tokio::test]
async fn the_answer_to_a_batch_keeps_its_limit_whatever_the_reasons() {
    let (_folder, served) = bank().await;
    // The application quotes what it doesn't take, and what it says is quoted again.
    let messages: Vec<Value> =
        (0..256).map(|n| Served::in_batch("prepare", served.prepare_message(n, json!("\"".repeat(1800))))).collect();
    let request = served.http.post(format!("{}/batch", served.url)).json(&served.batch_body(&messages));
    let body = request.send().await.unwrap().bytes().await.unwrap();
    assert!(body.len() <= MAX_BATCH_ANSWER_BYTES, "{}", body.len());
    let answers = BatchAnswers::parse(200, Some("application/json"), &body, 256).unwrap();
    for answer in answers {
        let answer = answer.unwrap();
        assert!(matches!(answer.prepare(), Some(unanimous_sdk::protocol::PrepareAnswer::Refused { reason: Some(_) })));
    }
    assert!(served.prepare(0, "not the same", 1).await.0 == 422, "each is kept");
}

#[tokio::test]
async fn the_application_sees_the_trace_that_its_call_is_part_of() {
    let (_folder, served) = bank().await;
    let with_trace = |mut message: Value, trace: &str| {
        message["traceparent"] = trace.into();
        message
    };
    let request = served.http.post(format!("{}/prepare", served.url)).header("traceparent", "00-alone-01");
    let alone = request.json(&served.prepare_message(1, json!(["alice", -1]))).send().await.unwrap();
    assert_eq!(alone.status(), 200);
    let messages = [
        with_trace(prepare(&served, 2, "bob", -1), "00-in-a-batch-01"),
        with_trace(commit(&served, 1), "00-commit-01"),
    ];
    served.batch(&messages).await;
    until("all were seen", || served.bank().traces.lock().unwrap().len() == 3).await;
    let mut traces = served.bank().traces.lock().unwrap().clone();
    traces.sort();
    assert_eq!(traces, ["00-alone-01", "00-commit-01", "00-in-a-batch-01"]);
}

#[tokio::test]
async fn batch_of_1_mib_is_taken() {
    let (_folder, served) =
        bank_with(Duration::ZERO, ServiceOptions { batch_max: 2, ..ServiceOptions::default() }).await;
    let text = |payload: &str| served.batch_body(&[prepare(&served, 1, payload, 0), abort(&served, 2)]).to_string();
    let payload = "p".repeat(unanimous_sdk::protocol::MAX_CALL_BYTES - text("").len());
    let post = |text: String| {
        served.http.post(format!("{}/batch", served.url)).header("content-type", "application/json").body(text).send()
    };
    let whole = text(&payload);
    assert_eq!(whole.len(), 1 << 20);
    assert_eq!(post(whole.clone()).await.unwrap().status(), 200);
    assert_eq!(post(whole + " ").await.unwrap().status(), 413);
}
