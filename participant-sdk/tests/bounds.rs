//! What a participant believes of a coordinator that it can't verify: bounds on epoch, horizon and the number of ids.
#![cfg(feature = "store")]

mod common;

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{COORDINATOR, Fake, NIL, Served, aborted, epoch, prepared, reopen, transaction};
use serde_json::{Value, json};
use unanimous_sdk::prelude::*;

const YEAR: Duration = Duration::from_hours(365 * 24);

async fn bank() -> (tempfile::TempDir, Served) {
    let folder = tempfile::tempdir().unwrap();
    let store = KvStore::open(folder.path()).unwrap();
    store.put("alice", &100i64).await.unwrap();
    let served = Served::start(store).await;
    (folder, served)
}

/// An epoch or a transaction of the time in so long.
fn in_future(duration: Duration) -> String {
    let ms = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + duration).as_millis();
    format!("{:08x}-{:04x}-7000-8000-000000000000", ms >> 16, ms & 0xffff)
}

fn problem(answer: &(u16, Value)) -> (u16, &str) {
    assert_eq!(answer.1["status"], answer.0, "{answer:?}");
    (answer.0, answer.1["type"].as_str().unwrap())
}

fn implausible(answer: &(u16, Value), field: &str) {
    assert_eq!(problem(answer), (400, "/problems/implausible"));
    assert_eq!(answer.1["field"], field);
}

#[tokio::test]
async fn epoch_far_ahead_does_not_cut_off_the_real_coordinator() {
    let (folder, served) = bank().await;
    for far in ["ffffffff-ffff-7fff-bfff-ffffffffffff".to_owned(), in_future(YEAR), in_future(Duration::from_mins(62))]
    {
        let mut forged = served.message(1);
        forged["coordinator"]["epoch"] = far.clone().into();
        for call in ["abort", "commit"] {
            implausible(&served.post(call, &forged).await, "coordinator.epoch");
        }
        let mut batch = served.batch_body(&[Served::in_batch("abort", served.message(1))]);
        batch["coordinator"]["epoch"] = far.into();
        implausible(&served.post("batch", &batch).await, "coordinator.epoch");
    }
    served.stop().await;
    // Nothing was kept, not even the id.
    let store = reopen(folder.path()).await;
    let saved = unanimous_sdk::store::Store::load(&store).await.unwrap();
    assert!(saved.coordinators.is_empty() && saved.branches.is_empty());
    let served = Served::start(store).await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
}

#[tokio::test]
async fn horizon_above_its_transaction_does_not_cut_off_the_real_coordinator() {
    let (_folder, served) = bank().await;
    let mut forged = served.message(1);
    forged["coordinator"]["horizon"] = in_future(YEAR).into();
    implausible(&served.post("abort", &forged).await, "coordinator.horizon");
    // A batch by the lowest of its transactions, whatever stands beside it.
    let abort = |n| Served::in_batch("abort", served.message(n));
    let mut batch = served.batch_body(&[abort(7), json!({}), abort(6), abort(8)]);
    batch["coordinator"]["horizon"] = transaction(7).into();
    implausible(&served.post("batch", &batch).await, "coordinator.horizon");
    batch["coordinator"]["horizon"] = transaction(6).into();
    assert_eq!(served.post("batch", &batch).await.0, 200);
    assert_eq!(served.prepare(6, "alice", -30).await.0, 409, "it was aborted");
    assert_eq!(served.prepare(5, "alice", -30).await.0, 409, "it lies below the horizon");
    assert_eq!(served.prepare(9, "alice", -30).await, prepared());
}

#[tokio::test]
async fn horizon_far_ahead_is_not_kept_and_the_message_obeyed() {
    let (_folder, served) = bank().await;
    let far = in_future(YEAR);
    let mut message = served.message(1);
    message["transaction"] = far.clone().into();
    message["coordinator"]["horizon"] = far.into();
    assert_eq!(served.post("abort", &message).await, aborted());
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
}

fn by_stranger(served: &Served, n: u32) -> Value {
    let mut message = served.message(1);
    message["coordinator"]["id"] = format!("00000000-0000-4000-8000-0000{n:08x}").into();
    message
}

#[tokio::test]
async fn coordinators_that_nobody_named_have_16_places() {
    let (folder, served) = bank().await;
    // Forged ids lock nobody out, not for a moment.
    for n in 0..40 {
        let answer = served.post("abort", &by_stranger(&served, n)).await;
        // An abort that would only leave another tombstone takes nobody's place.
        if n < 16 {
            assert_eq!(answer, aborted());
        } else {
            assert_eq!(problem(&answer), (403, "/problems/forbidden-coordinator"), "{n}");
        }
    }
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    for n in 0..15 {
        let mut message = served.prepare_message(1, json!([format!("stranger{n}"), 0]));
        message["coordinator"] = by_stranger(&served, n)["coordinator"].clone();
        served.service.store().put(format!("stranger{n}"), &1i64).await.unwrap();
        assert_eq!(served.post("prepare", &message).await.0, 200);
    }
    let answer = served.post("abort", &by_stranger(&served, 99)).await;
    assert_eq!(problem(&answer), (403, "/problems/forbidden-coordinator"));
    assert!(answer.1["detail"].as_str().unwrap().contains("`coordinators`"), "{answer:?}");
    served.stop().await;
    let saved = unanimous_sdk::store::Store::load(&reopen(folder.path()).await).await.unwrap();
    assert_eq!(saved.coordinators.len(), 16);
    // 16 forged ones, of which 15 came again.
    assert_eq!(saved.former.len(), 1);
    assert!(saved.coordinators.contains_key(&COORDINATOR.parse().unwrap()));
}

#[tokio::test]
async fn coordinators_that_are_named_have_as_many_places_as_they_need() {
    let folder = tempfile::tempdir().unwrap();
    let store = KvStore::open(folder.path()).unwrap();
    let named =
        ServiceOptions { coordinators: vec!["http://127.0.0.1:1".parse().unwrap()], ..ServiceOptions::default() };
    let served = Served::start_with(store, named).await;
    for n in 0..40 {
        let mut message = by_stranger(&served, n);
        message["payload"] = json!(["alice", 0]);
        message["deadline"] = "2100-01-01T00:00:00Z".into();
        message["remaining_ms"] = 60_000.into();
        // A refusal is a branch that is kept.
        assert_eq!(served.post("prepare", &message).await.0, 409);
    }
    // Whoever isn't named is none.
    let mut message = by_stranger(&served, 99);
    message["coordinator"]["url"] = "http://127.0.0.1:2".into();
    assert_eq!(problem(&served.post("abort", &message).await), (403, "/problems/forbidden-coordinator"));
}

#[tokio::test]
async fn epoch_that_a_displaced_coordinator_had_is_durable() {
    let (folder, served) = bank().await;
    let mut message = served.message(1);
    message["coordinator"]["epoch"] = epoch(9).into();
    assert_eq!(served.post("abort", &message).await, aborted());
    for n in 0..15 {
        assert_eq!(served.post("abort", &by_stranger(&served, n)).await, aborted());
    }
    // One more place is needed, and not for an abort.
    assert_eq!(served.post("commit", &by_stranger(&served, 15)).await.0, 404);
    served.stop().await;
    let served = Served::start(reopen(folder.path()).await).await;
    let answer = served.prepare(1, "alice", -30).await;
    assert_eq!(problem(&answer), (412, "/problems/stale-epoch"));
    assert_eq!(answer.1["epoch"], epoch(9));
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn lower_epoch_refuses_a_batch_whole_whatever_is_in_it() {
    let (_folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    for messages in [vec![], vec![json!({})], vec![Served::in_batch("commit", served.message(1))]] {
        let mut batch = served.batch_body(&messages);
        batch["coordinator"]["epoch"] = epoch(1).into();
        assert_eq!(problem(&served.post("batch", &batch).await), (412, "/problems/stale-epoch"));
    }
    assert_eq!(served.balance("alice"), Some(100));
}

#[tokio::test]
async fn epoch_far_ahead_in_a_coordinators_answer_is_not_kept() {
    let (folder, mut served) = bank().await;
    let fake = Fake::default();
    served.coordinator = fake.start().await;
    let url = format!("{}/v1/transactions/{}", served.coordinator, transaction(7));
    let enlisted = |epoch: String| {
        let coordinator = json!({ "id": COORDINATOR, "epoch": epoch, "url": served.coordinator, "horizon": NIL });
        json!({ "deadline": "2100-01-01T00:00:00Z",
                "remaining_ms": 60_000, "coordinator": coordinator })
    };
    fake.answer([(201, enlisted(in_future(YEAR)))]);
    let error = served.service.join(&url).await.unwrap_err();
    assert_eq!(error.problem.kind.status(), 503, "{error}");
    let stale = (412, json!({ "type": "/problems/stale-epoch", "status": 412, "epoch": in_future(YEAR) }));
    fake.answer([(201, enlisted(epoch(2))), stale]);
    fake.decide([(503, json!({}))]);
    let mut branch = served.service.join(&url).await.unwrap();
    branch.work().put("alice", &1i64).await.unwrap();
    let error = branch.prepared().await.unwrap_err();
    assert_eq!(error.problem.kind.status(), 503, "{error}");
    // It is in doubt, and its real coordinator is heard on.
    assert_eq!(served.service.in_doubt_count(), 1);
    assert_eq!(served.abort(9).await, aborted());
    served.stop().await;
    let saved = unanimous_sdk::store::Store::load(&reopen(folder.path()).await).await.unwrap();
    assert_eq!(saved.coordinators.values().next().unwrap().epoch.to_string(), epoch(2));
}
