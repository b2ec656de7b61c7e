//! Branches in doubt: what is asked about them, what is told of their end, and how an operator ends them.
#![cfg(feature = "store")]

mod common;

use std::time::Duration;

use common::{Asked, COORDINATOR, Fake, NIL, Served, aborted, committed, epoch, prepared, reopen, transaction, until};
use serde_json::{Value, json};
use unanimous_sdk::{
    branch::{BranchKey, State},
    prelude::*,
    protocol::Decision,
    server::ResolveError,
    store::Store,
};

/// A coordinator that can be asked, and a bank that asks it at once.
async fn doubtful() -> (tempfile::TempDir, Served, Fake) {
    let folder = tempfile::tempdir().unwrap();
    let store = KvStore::open(folder.path()).unwrap();
    for account in ["alice", "bob"] {
        store.put(account, &100i64).await.unwrap();
    }
    let options = ServiceOptions { patience: Duration::from_millis(1), ..ServiceOptions::default() };
    let mut served = Served::start_with(store, options).await;
    let fake = Fake::default();
    served.coordinator = fake.start().await;
    (folder, served, fake)
}

fn decided(decision: &str, epoch_number: u8, horizon: &str) -> (u16, Value) {
    let coordinator =
        json!({ "id": COORDINATOR, "epoch": epoch(epoch_number), "url": "http://127.0.0.1:1", "horizon": horizon });
    (200, json!({ "decision": decision, "presumed": false, "coordinator": coordinator }))
}

fn problem(status: u16, name: &str) -> (u16, Value) {
    (status, json!({ "type": format!("/problems/{name}"), "title": "t", "status": status, "detail": "d" }))
}

fn key(n: u32) -> BranchKey {
    BranchKey {
        coordinator: COORDINATOR.parse().unwrap(),
        transaction: transaction(n).parse().unwrap(),
        branch: "b".parse().unwrap(),
    }
}

async fn saved_state(folder: &tempfile::TempDir, n: u32) -> State {
    reopen(folder.path()).await.load().await.unwrap().branches[&key(n)].state.clone()
}

#[tokio::test]
async fn forgotten_is_no_answer_and_is_counted() {
    let (_folder, served, fake) = doubtful().await;
    fake.decide([problem(410, "forgotten")]);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    until("it was asked more than once", || fake.calls("/decision").len() > 1).await;
    assert_eq!(served.service.forgotten(), 1, "a branch is counted once");
    let [in_doubt] = &served.service.in_doubt()[..] else { panic!("it is kept") };
    assert_eq!((&in_doubt.key, in_doubt.coordinator.id), (&key(1), key(1).coordinator));
    assert!(in_doubt.last_error.as_deref().unwrap().contains("answered 410"), "{in_doubt:?}");
    // It asks on.
    fake.decide([decided("commit", 2, NIL)]);
    until("it obeys", || served.balance("alice") == Some(70)).await;
    until("it isn't in doubt", || served.service.in_doubt().is_empty()).await;
}

#[tokio::test]
async fn inquiry_names_the_epoch_under_which_it_was_prepared() {
    let (folder, served, fake) = doubtful().await;
    fake.decide([decided("pending", 9, NIL)]);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    let mut later = served.message(9);
    later["coordinator"]["epoch"] = epoch(3).into();
    assert_eq!(served.post("abort", &later).await, aborted());
    let named = format!("&epoch={}&branch=b&prepared_epoch={}&", epoch(3), epoch(2));
    until("it asks under the later epoch", || fake.calls("/decision").iter().any(|call| call.uri.contains(&named)))
        .await;
    served.stop().await;
    let before = fake.calls("/decision").len();
    let _served = Served::start(reopen(folder.path()).await).await;
    until("it asks again", || fake.calls("/decision").len() > before).await;
    assert!(fake.calls("/decision").last().unwrap().uri.contains(&named));
}

#[tokio::test]
async fn horizon_of_an_inquirys_answer_is_not_taken() {
    let (_folder, served, fake) = doubtful().await;
    fake.decide([decided("abort", 2, &transaction(9))]);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    until("it isn't in doubt", || served.service.in_doubt().is_empty()).await;
    until("it is aborted", || fake.calls("/acknowledge").len() == 1).await;
    assert_eq!(served.commit(1).await.1["state"], "heuristic_abort", "it isn't forgotten");
    fake.decide([decided("pending", 2, NIL)]);
    assert_eq!(served.prepare(2, "alice", -30).await, prepared(), "nor is what came before that horizon refused");
}

fn acknowledged(call: &Asked, served: &Served, state: &str, epoch_number: u8) {
    let id = served.service.store().participant_id();
    let coordinator = json!({ "id": COORDINATOR, "epoch": epoch(epoch_number) });
    let body = json!({ "state": state, "participant_id": id, "coordinator": coordinator });
    assert_eq!((&*call.method, &call.body), ("POST", &body));
    assert_eq!(call.path(), format!("/v1/transactions/{}/branches/b/acknowledge", transaction(1)));
    assert_eq!((call.coordinator.as_deref(), call.cache_control.as_deref()), (Some(COORDINATOR), Some("no-store")));
}

#[tokio::test]
async fn end_that_an_inquiry_brought_is_told_until_it_is_taken() {
    for (decision, state) in [("commit", "committed"), ("abort", "aborted")] {
        let (folder, served, fake) = doubtful().await;
        fake.decide([decided(decision, 2, NIL)]);
        let mut stale = problem(412, "stale-epoch");
        stale.1["epoch"] = epoch(3).into();
        fake.acknowledge([
            problem(503, "not-ready"),
            problem(409, "not-decided"),
            (200, json!({ "transaction": transaction(2) })),
            (200, json!({ "branch": "another" })),
            (200, json!({ "state": "another" })),
            stale,
            (200, json!({})),
        ]);
        assert_eq!(served.prepare(1, "alice", -30).await, prepared());
        until("it is told", || fake.calls("/acknowledge").len() == 7).await;
        let calls = fake.calls("/acknowledge");
        calls[..6].iter().for_each(|call| acknowledged(call, &served, state, 2));
        acknowledged(&calls[6], &served, state, 3);
        // The later epoch is kept, and no more is told.
        assert_eq!(served.commit(1).await.0, 412);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(fake.calls("/acknowledge").len(), 7);
        served.stop().await;
        let saved = reopen(folder.path()).await.load().await.unwrap();
        assert_eq!(saved.coordinators[&key(1).coordinator].epoch.to_string(), epoch(3));
    }
}

#[tokio::test]
async fn telling_an_end_stops_where_it_is_not_taken() {
    for answer in [problem(409, "branch-conflict"), problem(404, "unknown-transaction"), (404, json!({}))] {
        let (_folder, served, fake) = doubtful().await;
        fake.decide([decided("commit", 2, NIL)]);
        fake.acknowledge([problem(500, "overloaded"), answer]);
        assert_eq!(served.prepare(1, "alice", -30).await, prepared());
        until("it is told", || fake.calls("/acknowledge").len() == 2).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(fake.calls("/acknowledge").len(), 2);
        assert_eq!(served.commit(1).await, committed());
    }
}

#[tokio::test]
async fn epoch_far_ahead_is_not_kept_from_an_acknowledgement() {
    let (_folder, served, fake) = doubtful().await;
    fake.decide([decided("commit", 2, NIL)]);
    let mut stale = problem(412, "stale-epoch");
    stale.1["epoch"] = "ffffffff-ffff-7fff-bfff-ffffffffffff".into();
    fake.acknowledge([stale, (200, json!({}))]);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    until("it is told", || fake.calls("/acknowledge").len() == 2).await;
    acknowledged(&fake.calls("/acknowledge")[1], &served, "committed", 2);
    assert_eq!(served.commit(1).await, committed());
}

#[tokio::test]
async fn ends_that_no_horizon_has_passed_are_told_after_a_start() {
    let (folder, served, fake) = doubtful().await;
    fake.decide([decided("pending", 2, NIL)]);
    for n in 1..=4 {
        assert_eq!(served.prepare(n, "alice", -1).await, prepared());
        assert_eq!(if n == 3 { served.abort(n).await.0 } else { served.commit(n).await.0 }, 200);
    }
    assert_eq!(served.prepare(5, "nobody", -1).await.0, 409);
    assert_eq!(served.abort(6).await, aborted());
    let mut passes = served.message(7);
    passes["coordinator"]["horizon"] = transaction(2).into();
    assert_eq!(served.post("abort", &passes).await, aborted());
    assert!(fake.calls("/acknowledge").is_empty(), "a call has told them");
    served.stop().await;
    // One at a time, the oldest first; what isn't taken is told once more.
    fake.acknowledge([problem(503, "overloaded"), (200, json!({}))]);
    let _served = Served::start(reopen(folder.path()).await).await;
    until("all are told", || fake.calls("/acknowledge").len() == 4).await;
    let told: Vec<_> =
        fake.calls("/acknowledge").into_iter().map(|call| (call.uri, call.body["state"].clone())).collect();
    let of = |n| format!("/v1/transactions/{}/branches/b/acknowledge", transaction(n));
    let expected = [(2, "committed"), (3, "aborted"), (4, "committed"), (2, "committed")];
    assert_eq!(told, expected.map(|(n, state)| (of(n), json!(state))));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fake.calls("/acknowledge").len(), 4);
}

#[tokio::test]
async fn branch_that_an_operator_committed_answers_so_for_ever() {
    let (folder, served, fake) = doubtful().await;
    fake.decide([problem(409, "not-my-log")]);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    served.service.resolve(&key(1), Decision::Commit, "the till says so").await.unwrap();
    assert_eq!(served.balance("alice"), Some(70));
    assert!(served.service.in_doubt().is_empty());
    for _ in 0..2 {
        assert_eq!(served.commit(1).await, committed());
        let (status, body) = served.abort(1).await;
        assert_eq!((status, &body["state"]), (409, &json!("heuristic_commit")));
        assert!(body["detail"].as_str().unwrap().contains("the till says so"), "{body}");
    }
    served.stop().await;
    let served = Served::start(reopen(folder.path()).await).await;
    let (status, body) = served.abort(1).await;
    assert_eq!((status, &body["state"]), (409, &json!("heuristic_commit")));
    assert!(body["detail"].as_str().unwrap().contains("the till says so"), "{body}");
    assert!(fake.calls("/acknowledge").is_empty(), "nobody has decided it");
}

#[tokio::test]
async fn branch_that_an_operator_aborted_answers_so_for_ever() {
    let (folder, served, fake) = doubtful().await;
    fake.decide([problem(410, "forgotten")]);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    let syncs = served.service.store().syncs();
    served.service.resolve(&key(1), Decision::Abort, "the till says so").await.unwrap();
    assert!(served.service.store().syncs() > syncs, "it is durable");
    // Its key is free again.
    assert_eq!(served.prepare(2, "alice", -30).await, prepared());
    served.service.resolve(&key(2), Decision::Abort, "the same").await.unwrap();
    assert_eq!(served.abort(1).await, aborted());
    served.stop().await;
    assert!(matches!(saved_state(&folder, 1).await, State::Aborted(_)));
    let served = Served::start(reopen(folder.path()).await).await;
    let (status, body) = served.commit(1).await;
    assert_eq!((status, &body["state"]), (409, &json!("heuristic_abort")));
    assert!(body["detail"].as_str().unwrap().contains("the till says so"), "{body}");
    assert_eq!(served.balance("alice"), Some(100));
    assert!(fake.calls("/acknowledge").is_empty(), "nobody has decided it");
}

#[tokio::test]
async fn operator_ends_nothing_but_what_is_in_doubt() {
    let (_folder, served, fake) = doubtful().await;
    fake.decide([decided("pending", 2, NIL)]);
    let end = |n, decision, reason| {
        let service = served.service.clone();
        async move { service.resolve(&key(n), decision, reason).await }
    };
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.commit(1).await, committed());
    let state = |n, state| Err(ResolveError::NotInDoubt { key: key(n), state });
    for decision in [Decision::Commit, Decision::Abort] {
        assert_eq!(end(1, decision, "by hand").await, state(1, "committed"));
        assert_eq!(end(2, decision, "by hand").await, state(2, "not known"));
    }
    assert_eq!(served.prepare(3, "bob", -30).await, prepared());
    let long = "r".repeat(1025);
    assert_eq!(served.service.resolve(&key(3), Decision::Abort, &long).await, Err(ResolveError::Reason));
    assert_eq!(end(3, Decision::Abort, "").await, Err(ResolveError::Reason));
    assert_eq!(served.service.in_doubt_count(), 1);
    // The same once more is the same; the contrary is not done.
    assert_eq!(end(3, Decision::Abort, "by hand").await, Ok(()));
    assert_eq!(end(3, Decision::Abort, "by hand").await, Ok(()));
    assert_eq!(end(3, Decision::Commit, "by hand").await, state(3, "aborted"));
    assert_eq!(served.balance("bob"), Some(100));
}
