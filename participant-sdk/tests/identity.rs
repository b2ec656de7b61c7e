//! Who answers which call: the id of a participant's store, and answers that name their call.
#![cfg(feature = "store")]

mod common;

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use common::{COORDINATOR, Fake, NIL, Served, committed, epoch, prepared, reopen, transaction, until};
use serde_json::{Value, json};
use unanimous_sdk::{
    prelude::*,
    store::{Options, Store},
};

async fn bank() -> (tempfile::TempDir, Served) {
    let folder = tempfile::tempdir().unwrap();
    let store = KvStore::open(folder.path()).unwrap();
    store.put("alice", &100i64).await.unwrap();
    let served = Served::start(store).await;
    (folder, served)
}

fn problem(answer: &(u16, Value)) -> (u16, &str) {
    assert_eq!(answer.1["status"], answer.0, "{answer:?}");
    (answer.0, answer.1["type"].as_str().unwrap())
}

const MISDIRECTED: (u16, &str) = (421, "/problems/misdirected");
const STRANGER: &str = "00000000-0000-4000-8000-000000000000";

/// Copies a folder's files.
fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test]
async fn participant_id_is_minted_with_the_store_and_kept() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = KvStore::open(one.path()).unwrap().participant_id();
    assert_eq!(KvStore::open(one.path()).unwrap().participant_id(), id);
    assert_eq!(KvStore::open(one.path()).unwrap().load().await.unwrap().participant_id, Some(id));
    assert_ne!(KvStore::open(other.path()).unwrap().participant_id(), id);
}

#[tokio::test]
async fn store_of_the_first_format_gets_an_id_at_its_first_open() {
    let folder = tempfile::tempdir().unwrap();
    copy(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store-format-1")), folder.path());
    let id = KvStore::open(folder.path()).unwrap().participant_id();
    assert_eq!(KvStore::open(folder.path()).unwrap().participant_id(), id);
}

#[tokio::test]
async fn copy_that_runs_beside_its_original_gets_a_new_id() {
    let (folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    let id = served.service.store().participant_id();
    served.stop().await;
    drop(reopen(folder.path()).await);
    let beside = tempfile::tempdir().unwrap();
    copy(folder.path(), beside.path());
    assert_eq!(KvStore::open(beside.path()).unwrap().participant_id(), id, "a copy is the same participant");
    let options = Options { new_participant_id: true, ..Options::default() };
    let fresh = KvStore::open_with(beside.path(), options).unwrap().participant_id();
    assert_ne!(fresh, id);
    // It stays, and the vote is there, which is the original's: it is not committed here.
    let copied = Served::start(KvStore::open(beside.path()).unwrap()).await;
    assert_eq!(copied.service.store().participant_id(), fresh);
    let mut commit = copied.message(1);
    commit["participant_id"] = json!(id);
    assert_eq!(problem(&copied.post("commit", &commit).await), MISDIRECTED);
    assert_eq!(copied.service.in_doubt_count(), 1);
}

#[tokio::test]
async fn every_answer_names_its_call_and_its_store() {
    let (_folder, served) = bank().await;
    let id = json!(served.service.store().participant_id());
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    let mut stale = served.message(1);
    stale["coordinator"]["epoch"] = epoch(1).into();
    let mut forged = served.message(1);
    forged["coordinator"]["horizon"] = transaction(2).into();
    let mut elsewhere = served.message(1);
    elsewhere["coordinator"]["url"] = "http://10.0.0.1:7070".into();
    let mut incomplete = served.message(1);
    incomplete["payload"] = json!(1);
    let cases = [
        ("prepare", served.prepare_message(1, json!(["alice", -30])), 200),
        ("prepare", served.prepare_message(2, json!(["nobody", -30])), 409),
        ("prepare", served.prepare_message(1, json!(["alice", -31])), 422),
        ("commit", served.message(3), 404),
        ("commit", stale, 412),
        ("commit", forged, 400),
        ("abort", elsewhere, 403),
        ("abort", served.message(4), 200),
        ("prepare", incomplete, 400),
    ];
    for (call, message, status) in cases {
        let response = served.http.post(format!("{}/{call}", served.url)).json(&message).send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["cache-control"]),
            (status, &"no-store".parse().unwrap())
        );
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["participant_id"], id, "{call} {message} {body}");
        if status != 400 || call != "prepare" {
            assert_eq!((&body["transaction"], &body["branch"]), (&message["transaction"], &json!("b")), "{body}");
        }
    }
    // Where the call can't be read, the store alone.
    let url = |path: &str| format!("{}/{path}", served.url);
    for (request, status) in [
        (served.http.post(url("commit")).body("{"), 400),
        (served.http.post(url("commit")).body(" ".repeat((1 << 20) + 1)), 413),
        (served.http.post(url("commit")).header("content-type", "text/plain").body("{}"), 415),
        (served.http.post(url("batch")).body("[]"), 400),
        (served.http.get(url("commit")), 405),
        (served.http.get(url("nothing")), 404),
        (served.http.get(url("branches?state=open")), 400),
        (served.http.get(url("branches")), 200),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["cache-control"]),
            (status, &"no-store".parse().unwrap())
        );
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["participant_id"], id, "{body}");
    }
}

#[tokio::test]
async fn message_for_another_store_is_misdirected_and_changes_nothing() {
    let (folder, served) = bank().await;
    let mine = json!(served.service.store().participant_id());
    let of = |mut message: Value, id: &Value| {
        message["participant_id"] = id.clone();
        message
    };
    // A coordinator that is met for the first time, under a high epoch.
    for (call, message) in [
        ("prepare", served.prepare_message(1, json!(["alice", -30]))),
        ("commit", served.message(1)),
        ("abort", served.message(1)),
    ] {
        let mut message = of(message, &json!(STRANGER));
        message["coordinator"]["epoch"] = epoch(9).into();
        assert_eq!(problem(&served.post(call, &message).await), MISDIRECTED);
    }
    let messages = [
        Served::in_batch("abort", of(served.message(1), &json!(STRANGER))),
        Served::in_batch("prepare", of(served.prepare_message(2, json!(["alice", -30])), &mine)),
    ];
    let answers = served.batch(&messages).await;
    assert_eq!(problem(&answers[0]), MISDIRECTED);
    assert_eq!(answers[1], prepared());
    assert_eq!(served.post("commit", &of(served.message(2), &mine)).await, committed());
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 2);
    served.stop().await;
    let saved = reopen(folder.path()).await.load().await.unwrap();
    assert_eq!(saved.coordinators[&COORDINATOR.parse().unwrap()].epoch.to_string(), epoch(2));
}

/// A coordinator that can be asked, and a bank that asks it at once.
async fn doubtful() -> (tempfile::TempDir, Served, Fake) {
    let folder = tempfile::tempdir().unwrap();
    let store = KvStore::open(folder.path()).unwrap();
    store.put("alice", &100i64).await.unwrap();
    let options = ServiceOptions { patience: Duration::from_millis(1), ..ServiceOptions::default() };
    let mut served = Served::start_with(store, options).await;
    let fake = Fake::default();
    served.coordinator = fake.start().await;
    (folder, served, fake)
}

fn coordinator(url: &str) -> Value {
    json!({ "id": COORDINATOR, "epoch": epoch(2), "url": url, "horizon": NIL })
}

fn decided(decision: &str) -> (u16, Value) {
    (200, json!({ "decision": decision, "presumed": false, "coordinator": coordinator("http://127.0.0.1:1") }))
}

fn with((status, mut body): (u16, Value), name: &str, value: impl Into<Value>) -> (u16, Value) {
    body[name] = value.into();
    (status, body)
}

#[tokio::test]
async fn inquirys_answer_to_another_call_is_none_and_ends_its_connection() {
    let (_folder, served, fake) = doubtful().await;
    fake.decide([
        decided("pending"),
        with(decided("abort"), "transaction", transaction(2)),
        with(decided("abort"), "branch", "another"),
        with(decided("abort"), "branch", Value::Null),
        decided("commit"),
    ]);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    until("it obeys", || served.balance("alice") == Some(70)).await;
    let calls = fake.calls("/decision");
    assert_eq!(calls.len(), 5);
    let ports: Vec<u16> = calls.iter().map(|call| call.port).collect();
    assert_eq!(ports[0], ports[1], "a connection is used again");
    assert!(ports[1] != ports[2] && ports[2] != ports[3] && ports[3] != ports[4], "{ports:?}");
    let id = served.service.store().participant_id().to_string();
    for call in calls {
        assert!(call.uri.contains(&format!("&participant_id={id}")), "{call:?}");
        assert_eq!((call.coordinator.as_deref(), call.cache_control.as_deref()), (Some(COORDINATOR), Some("no-store")));
    }
}

#[tokio::test]
async fn answers_to_other_calls_count_for_no_enlistment_and_no_vote() {
    let (_folder, served, fake) = doubtful().await;
    fake.decide([decided("pending")]);
    let enlisted = || {
        let coordinator = coordinator(&served.coordinator);
        (201, json!({ "deadline": "2100-01-01T00:00:00Z", "remaining_ms": 60_000, "coordinator": coordinator }))
    };
    let stranger = json!({ "id": STRANGER, "epoch": epoch(2), "url": served.coordinator, "horizon": NIL });
    *fake.log.lock().unwrap() = Some(COORDINATOR.to_owned());
    fake.answer([
        with(enlisted(), "transaction", transaction(8)),
        with(enlisted(), "branch", "another"),
        enlisted(),
        with((200, json!({})), "transaction", transaction(8)),
        with((200, json!({})), "branch", "another"),
        with((200, json!({})), "coordinator", stranger),
        (200, json!({})),
    ]);
    let url = format!("{}/v1/transactions/{}", served.coordinator, transaction(7));
    let mut branch = served.service.join(&url).await.unwrap();
    let name = branch.branch().to_string();
    branch.work().put("alice", &1i64).await.unwrap();
    branch.prepared().await.unwrap();
    let (enlistments, votes) = (fake.calls("/branches"), fake.calls("/vote"));
    assert_eq!((enlistments.len(), votes.len()), (3, 4));
    let different = |calls: &[common::Asked]| calls.windows(2).all(|two| two[0].port != two[1].port);
    assert!(different(&enlistments) && different(&votes), "{enlistments:?} {votes:?}");
    assert!(enlistments.iter().all(|call| call.body["branch"] == name && call.body.get("participant_id").is_none()));
    let logs: Vec<_> = enlistments.iter().map(|call| call.coordinator.as_deref()).collect();
    assert_eq!(logs, [None, Some(COORDINATOR), Some(COORDINATOR)], "a repeat is meant for the log that was met");
    let id = json!(served.service.store().participant_id());
    assert!(
        votes.iter().all(|call| call.body["participant_id"] == id && call.coordinator.as_deref() == Some(COORDINATOR))
    );
}
