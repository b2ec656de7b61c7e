//! The participant's calls over real sockets, and its questions to a coordinator.
#![cfg(feature = "store")]

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{COORDINATOR, Fake, NIL, Served, aborted, committed, epoch, prepared, reopen, transaction, until};
use serde_json::{Value, json};
use unanimous_sdk::{prelude::*, store::Options};

async fn bank() -> (tempfile::TempDir, Served) {
    let folder = tempfile::tempdir().unwrap();
    let store =
        KvStore::open_with(folder.path(), Options { lock_wait: Duration::from_millis(5), ..Options::default() })
            .unwrap();
    for account in ["alice", "bob", "slow"] {
        store.put(account, &100i64).await.unwrap();
    }
    let served = Served::start(store).await;
    (folder, served)
}

fn problem(answer: &(u16, Value)) -> (u16, &str) {
    assert_eq!(answer.1["status"], answer.0, "{answer:?}");
    (answer.0, answer.1["type"].as_str().unwrap())
}

#[tokio::test]
async fn a_branch_is_prepared_and_committed() {
    let (_folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.balance("alice"), Some(100));
    assert_eq!(served.commit(1).await, committed());
    assert_eq!(served.balance("alice"), Some(70));
    // Repeats: the same answers, and nothing done twice.
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.commit(1).await, committed());
    assert_eq!(served.balance("alice"), Some(70));
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 1);
    assert_eq!(served.bank().commits.load(Ordering::SeqCst), 1);
    assert_eq!(served.abort(1).await.0, 409);
    assert_eq!(served.abort(1).await.1["state"], "heuristic_commit");
}

#[tokio::test]
async fn a_branch_is_prepared_and_aborted() {
    let (_folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.abort(1).await, aborted());
    assert_eq!(served.abort(1).await, aborted());
    assert_eq!(served.balance("alice"), Some(100));
    assert_eq!(served.bank().aborts.load(Ordering::SeqCst), 1);
    let (status, body) = served.commit(1).await;
    assert_eq!((status, &body["state"]), (409, &json!("heuristic_abort")));
    assert_eq!(served.prepare(1, "alice", -30).await.1["vote"], "abort");
    // Its key is free again.
    assert_eq!(served.prepare(2, "alice", -30).await, prepared());
}

#[tokio::test]
async fn a_refusal_is_a_vote_to_abort_with_its_reason_and_lets_go() {
    let (_folder, served) = bank().await;
    let overdrawn = (409, json!({ "vote": "abort", "reason": "overdrawn" }));
    assert_eq!(served.prepare(1, "alice", -101).await, overdrawn);
    assert_eq!(served.prepare(1, "alice", -101).await, overdrawn);
    assert_eq!(served.prepare(2, "alice", -100).await, prepared());
    let (status, body) = served.post("prepare", &served.prepare_message(3, json!("not what it takes"))).await;
    assert_eq!((status, &body["vote"]), (409, &json!("abort")));
}

#[tokio::test]
async fn a_branch_that_read_only_lets_go_at_once() {
    let (_folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", 0).await, (200, json!({ "vote": "read_only" })));
    assert_eq!(served.prepare(2, "alice", -30).await, prepared());
}

#[tokio::test]
async fn a_key_that_another_branch_holds_is_a_vote_to_abort() {
    let (_folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    let (status, body) = served.prepare(2, "alice", -30).await;
    assert_eq!((status, &body["vote"]), (409, &json!("abort")));
    assert!(body["reason"].as_str().unwrap().starts_with("lock-conflict"), "{body}");
}

#[tokio::test]
async fn a_prepare_that_waits_holds_no_decision_up() {
    let folder = tempfile::tempdir().unwrap();
    // Without an end: only the commit below can free the key.
    let store = KvStore::open_with(folder.path(), Options { lock_wait: Duration::from_hours(1), ..Options::default() })
        .unwrap();
    store.put("alice", &100i64).await.unwrap();
    let served = Served::start(store).await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    let waiting = served.prepare(2, "alice", -30);
    let deciding = async {
        until("the second prepare is at work", || served.bank().prepares.load(Ordering::SeqCst) == 2).await;
        assert_eq!(served.commit(1).await, committed());
    };
    let (second, ()) = tokio::join!(waiting, deciding);
    assert_eq!(second, prepared());
    assert_eq!(served.commit(2).await, committed());
    assert_eq!(served.balance("alice"), Some(40));
}

#[tokio::test]
async fn an_abort_stops_a_prepare_that_is_at_work_and_undoes_it() {
    let (_folder, served) = bank().await;
    let waiting = served.prepare(1, "slow", -30);
    let deciding = async {
        until("the prepare is at work", || served.bank().prepares.load(Ordering::SeqCst) == 1).await;
        assert_eq!(served.abort(1).await, aborted());
    };
    let (vote, ()) = tokio::join!(waiting, deciding);
    assert_eq!((vote.0, &vote.1["vote"]), (409, &json!("abort")));
    assert_eq!(served.bank().aborts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_prepare_that_comes_twice_at_once_does_the_work_once() {
    let (_folder, served) = bank().await;
    let opening = async {
        until("the prepare is at work", || served.bank().prepares.load(Ordering::SeqCst) == 1).await;
        served.bank().gate.add_permits(1);
    };
    let (first, second, ()) = tokio::join!(served.prepare(1, "slow", -30), served.prepare(1, "slow", -30), opening);
    assert_eq!((first, second), (prepared(), prepared()));
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn work_goes_on_when_who_asked_for_it_hangs_up() {
    let (_folder, served) = bank().await;
    {
        let mut asked = Box::pin(served.prepare(1, "slow", -30));
        tokio::select! {
            answer = &mut asked => panic!("{answer:?}"),
            () = until("the prepare is at work", || served.bank().prepares.load(Ordering::SeqCst) == 1) => {}
        }
    }
    served.bank().gate.add_permits(1);
    assert_eq!(served.prepare(1, "slow", -30).await, prepared());
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn work_that_is_not_done_by_the_deadline_is_a_vote_to_abort() {
    let (_folder, served) = bank().await;
    let mut message = served.prepare_message(1, json!(["slow", -1]));
    message["remaining_ms"] = 20.into();
    let (status, body) = served.post("prepare", &message).await;
    assert_eq!((status, &body["vote"]), (409, &json!("abort")));
    assert_eq!(served.bank().aborts.load(Ordering::SeqCst), 1);
    message["remaining_ms"] = 0.into();
    message["transaction"] = transaction(2).into();
    assert_eq!(served.post("prepare", &message).await.0, 409);
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 1, "one that comes too late isn't begun");
}

#[tokio::test]
async fn a_panic_of_the_application_is_no_answer_and_the_server_lives() {
    let (_folder, served) = bank().await;
    served.bank().panics.store(1, Ordering::SeqCst);
    let (status, body) = served.prepare(1, "alice", -30).await;
    assert_eq!((status, body.get("vote")), (500, None), "{body}");
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.commit(1).await, committed());
}

#[tokio::test]
async fn a_commit_waits_for_the_applications_own_part_and_repeats_it_until_it_is_done() {
    let (_folder, served) = bank().await;
    served.bank().failing_commits.store(2, Ordering::SeqCst);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.commit(1).await, committed());
    assert_eq!(served.bank().commits.load(Ordering::SeqCst), 3);
    assert_eq!(served.balance("alice"), Some(70));
}

#[tokio::test]
async fn a_commit_without_a_trace_is_the_problem_unknown_branch() {
    let (_folder, served) = bank().await;
    assert_eq!(problem(&served.commit(1).await), (404, "/problems/unknown-branch"));
}

#[tokio::test]
async fn an_abort_of_a_branch_never_seen_refuses_its_prepare_also_after_a_restart() {
    let (folder, served) = bank().await;
    assert_eq!(served.abort(1).await, aborted());
    assert_eq!(served.prepare(1, "alice", -30).await.0, 409);
    served.stop().await;
    let served = Served::start(reopen(folder.path()).await).await;
    assert_eq!(served.prepare(1, "alice", -30).await.0, 409);
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_prepared_branch_is_there_after_a_restart_and_obeys() {
    let (folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.prepare(2, "bob", -30).await, prepared());
    served.stop().await;
    let served = Served::start(reopen(folder.path()).await).await;
    assert_eq!(served.service.in_doubt_count(), 2);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 0);
    assert!(served.prepare(3, "alice", -30).await.1["reason"].as_str().unwrap().starts_with("lock-conflict"));
    assert_eq!((served.commit(1).await, served.abort(2).await), (committed(), aborted()));
    assert_eq!((served.balance("alice"), served.balance("bob")), (Some(70), Some(100)));
}

#[tokio::test]
async fn another_payload_is_invalid_and_changes_nothing() {
    let (_folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(problem(&served.prepare(1, "alice", -31).await), (422, "/problems/invalid"));
    // Equal is what differs in spelling only.
    let spaced = served.prepare_message(1, json!(["alice", -30])).to_string().replace("\"alice\"", " \"\\u0061lice\"");
    let answer =
        served.http.post(format!("{}/prepare", served.url)).header("content-type", "application/json").body(spaced);
    assert_eq!(answer.send().await.unwrap().status(), 200);
    assert_eq!(served.commit(1).await, committed());
    assert_eq!(served.balance("alice"), Some(70));
}

#[tokio::test]
async fn a_lower_epoch_is_refused_with_the_higher_one_also_after_a_restart() {
    let (folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    let stale = |served: &Served| {
        let mut message = served.message(1);
        message["coordinator"]["epoch"] = epoch(1).into();
        message
    };
    served.stop().await;
    let served = Served::start(reopen(folder.path()).await).await;
    for call in ["commit", "abort"] {
        let answer = served.post(call, &stale(&served)).await;
        assert_eq!(problem(&answer), (412, "/problems/stale-epoch"));
        assert_eq!((&answer.1["epoch"], &answer.1["coordinator"]), (&json!(epoch(2)), &json!(COORDINATOR)));
    }
    assert_eq!(served.service.in_doubt_count(), 1);
}

#[tokio::test]
async fn what_lies_below_the_horizon_is_forgotten_and_refused() {
    let (_folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.commit(1).await, committed());
    let mut message = served.message(9);
    message["coordinator"]["horizon"] = transaction(5).into();
    assert_eq!(served.post("abort", &message).await, aborted());
    assert_eq!(problem(&served.commit(1).await), (404, "/problems/unknown-branch"));
    assert_eq!(served.prepare(1, "alice", -30).await.0, 409);
    assert_eq!(served.balance("alice"), Some(70));
}

#[tokio::test]
async fn only_coordinators_on_the_list_are_obeyed() {
    let (_folder, served) = bank().await;
    let mut message = served.prepare_message(1, json!(["alice", -30]));
    message["coordinator"]["url"] = "http://10.0.0.1:7070".into();
    let answer = served.post("prepare", &message).await;
    assert_eq!(problem(&answer), (403, "/problems/forbidden-coordinator"));
    assert_eq!(served.bank().prepares.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_not_a_message_is_a_clear_problem() {
    let (_folder, served) = bank().await;
    let post = |media: &'static str, body: Vec<u8>| {
        let request = served.http.post(format!("{}/prepare", served.url)).header("content-type", media).body(body);
        async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.json::<Value>().await.unwrap())
        }
    };
    let json_media = "application/json";
    assert_eq!(problem(&post(json_media, "{".into()).await), (400, "/problems/malformed"));
    assert_eq!(problem(&post(json_media, "[]".into()).await), (400, "/problems/malformed"));
    assert_eq!(problem(&post(json_media, "{}".into()).await), (400, "/problems/malformed"));
    assert_eq!(problem(&post("text/plain", "{}".into()).await), (415, "/problems/unsupported-media-type"));
    assert_eq!(problem(&post(json_media, b" ".repeat((1 << 20) + 1)).await), (413, "/problems/too-large"));
    let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
    assert_eq!(problem(&post(json_media, deep.into()).await), (400, "/problems/malformed"));
    let twice =
        served.prepare_message(1, json!({ "twice": 1 })).to_string().replace("\"twice\":1", "\"twice\":1,\"twice\":2");
    assert_eq!(problem(&post(json_media, twice.into()).await), (400, "/problems/malformed"));
    // Not UTF-8, in a member that nobody reads.
    let mut more = served.prepare_message(1, json!([]));
    more["more"] = "?".into();
    let broken = more.to_string().into_bytes().into_iter().map(|byte| if byte == b'?' { 0xff } else { byte }).collect();
    assert_eq!(problem(&post(json_media, broken).await), (400, "/problems/malformed"));
    let get = |path: &str| served.http.get(format!("{}/{path}", served.url));
    assert_eq!(get("prepare").send().await.unwrap().status(), 405);
    assert_eq!(get("nothing").send().await.unwrap().status(), 404);
    assert_eq!(get("branches?state=open").send().await.unwrap().status(), 400);
    // Members it doesn't know are ignored.
    let mut message = served.prepare_message(1, json!(["alice", -30]));
    message["new"] = json!({ "a": 1 });
    assert_eq!(served.post("prepare", &message).await, prepared());
}

#[tokio::test]
async fn what_is_in_doubt_is_listed() {
    let (_folder, served) = bank().await;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    assert_eq!(served.prepare(2, "bob", -30).await, prepared());
    assert_eq!(served.commit(2).await, committed());
    let listed: Value =
        served.http.get(format!("{}/branches?state=prepared", served.url)).send().await.unwrap().json().await.unwrap();
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{listed}");
    assert_eq!((&items[0]["transaction"], &items[0]["branch"]), (&json!(transaction(1)), &json!("b")));
    assert_eq!((&items[0]["state"], &items[0]["coordinator"]["epoch"]), (&json!("prepared"), &json!(epoch(2))));
    assert!(unanimous_sdk::protocol::UnixMillis::parse(items[0]["since"].as_str().unwrap()).is_some());
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

fn decided(decision: &str, epoch_number: u8) -> (u16, Value) {
    let coordinator =
        json!({ "id": COORDINATOR, "epoch": epoch(epoch_number), "url": "http://127.0.0.1:1", "horizon": NIL });
    (200, json!({ "decision": decision, "presumed": false, "coordinator": coordinator }))
}

#[tokio::test]
async fn who_is_in_doubt_asks_until_it_is_told_and_obeys() {
    let (_folder, served, fake) = doubtful().await;
    // Nothing but a 200 of the branch's own coordinator is an answer.
    let mut stranger = decided("commit", 2);
    stranger.1["coordinator"]["id"] = "00000000-0000-4000-8000-000000000000".into();
    fake.decide([
        (503, json!({ "type": "/problems/not-ready" })),
        (404, json!({ "type": "/problems/unknown-transaction" })),
        (409, json!({ "type": "/problems/not-my-log" })),
        (201, decided("abort", 2).1),
        stranger,
        decided("abort", 1),
        decided("pending", 2),
        decided("commit", 3),
    ]);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    until("it obeys", || served.balance("alice") == Some(70)).await;
    until("it is in doubt no more", || served.service.in_doubt_count() == 0).await;
    let asked = fake.asked();
    assert_eq!(asked.len(), 8, "{asked:?}");
    let expected = format!(
        "GET /v1/transactions/{2}/decision?coordinator={COORDINATOR}&epoch={0}&branch=b&prepared_epoch={0}&participant_id={1} ",
        epoch(2),
        served.service.store().participant_id(),
        transaction(1)
    );
    assert!(asked.iter().all(|asked| *asked == expected), "{asked:?}");
    assert_eq!(served.commit(1).await, committed());
}

#[tokio::test]
async fn who_is_in_doubt_takes_a_presumed_abort() {
    let (_folder, served, fake) = doubtful().await;
    fake.decide([decided("abort", 2)]);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    until("it is in doubt no more", || served.service.in_doubt_count() == 0).await;
    until("its key is free", || served.bank().aborts.load(Ordering::SeqCst) == 1).await;
    assert_eq!(served.abort(1).await, aborted());
    assert_eq!(served.balance("alice"), Some(100));
}

#[tokio::test]
async fn what_was_in_doubt_at_a_kill_is_asked_about_at_the_next_start() {
    let (folder, served, fake) = doubtful().await;
    fake.decide([decided("pending", 2)]);
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
    until("it has asked", || !fake.asked().is_empty()).await;
    served.stop().await;
    let store = reopen(folder.path()).await;
    fake.decide([decided("commit", 2)]);
    // However long its patience is for new ones.
    let served = Served::start(store).await;
    until("it obeys", || served.balance("alice") == Some(70)).await;
}

#[tokio::test]
async fn a_service_that_is_called_in_a_transaction_enlists_itself_and_votes_unasked() {
    let (folder, served, fake) = doubtful().await;
    let coordinator = json!({ "id": COORDINATOR, "epoch": epoch(2), "url": served.coordinator, "horizon": NIL });
    let enlisted = json!({ "deadline": "2100-01-01T00:00:00Z", "remaining_ms": 60_000, "coordinator": coordinator });
    // The coordinator has restarted between the two: the vote counts under the new epoch only.
    let stale = (412, json!({ "type": "/problems/stale-epoch", "status": 412, "epoch": epoch(3) }));
    fake.answer([(201, enlisted), stale, (200, json!({}))]);
    fake.decide([decided("pending", 2), decided("commit", 3)]);
    let url = format!("{}/v1/transactions/{}", served.coordinator, transaction(7));
    let mut branch = served.service.join(&url).await.unwrap();
    let name = branch.branch().clone();
    branch.work().put("alice", &1i64).await.unwrap();
    branch.prepared().await.unwrap();
    until("it obeys", || served.balance("alice") == Some(1)).await;
    let asked: Vec<_> = fake.asked().into_iter().filter(|asked| asked.starts_with("POST")).collect();
    assert!(asked[0].starts_with(&format!("POST /v1/transactions/{}/branches ", transaction(7))), "{asked:?}");
    assert!(asked[0].contains(&served.url) && asked[0].contains(name.as_str()), "{asked:?}");
    let vote = format!("POST /v1/transactions/{}/branches/{name}/vote ", transaction(7));
    assert!(asked[1].starts_with(&vote) && asked[1].contains(&epoch(2)), "{asked:?}");
    assert!(asked[2].starts_with(&vote) && asked[2].contains(&epoch(3)), "{asked:?}");
    // The higher epoch is known for good.
    served.stop().await;
    let served = Served::start(reopen(folder.path()).await).await;
    assert_eq!(served.commit(7).await.0, 412);
}

#[tokio::test]
async fn a_branch_that_is_dropped_or_held_too_long_ends_itself() {
    let (_folder, served, fake) = doubtful().await;
    let coordinator = json!({ "id": COORDINATOR, "epoch": epoch(2), "url": served.coordinator, "horizon": NIL });
    let enlisted =
        |ms: u64| json!({ "deadline": "2100-01-01T00:00:00Z", "remaining_ms": ms, "coordinator": coordinator });
    let url = format!("{}/v1/transactions/{}", served.coordinator, transaction(7));
    fake.answer([(201, enlisted(60_000))]);
    let mut dropped = served.service.join(&url).await.unwrap();
    dropped.work().put("alice", &1i64).await.unwrap();
    drop(dropped);
    until("it is given up", || served.bank().aborts.load(Ordering::SeqCst) == 1).await;
    fake.answer([(201, enlisted(50))]);
    let mut held = served.service.join(&url).await.unwrap();
    held.work().put("alice", &2i64).await.unwrap();
    let held_ok = held.hold().await.is_ok();
    until("its deadline passes", || served.bank().aborts.load(Ordering::SeqCst) == 2).await;
    // Whether it came to be held before that or not, its key is free.
    let _ = held_ok;
    assert_eq!(served.prepare(1, "alice", -30).await, prepared());
}

#[tokio::test]
async fn held_work_is_voted_for_when_the_coordinator_asks() {
    let (_folder, served, fake) = doubtful().await;
    let coordinator = json!({ "id": COORDINATOR, "epoch": epoch(2), "url": served.coordinator, "horizon": NIL });
    let enlisted = json!({ "deadline": "2100-01-01T00:00:00Z", "remaining_ms": 60_000, "coordinator": coordinator });
    fake.answer([(201, enlisted)]);
    fake.decide([decided("pending", 2)]);
    let mut branch =
        served.service.join(&format!("{}/v1/transactions/{}", served.coordinator, transaction(7))).await.unwrap();
    branch.work().put("alice", &1i64).await.unwrap();
    let name = branch.branch().clone();
    branch.hold().await.unwrap();
    let mut message = served.prepare_message(7, Value::Null);
    message["branch"] = json!(name);
    assert_eq!(served.post("prepare", &message).await, prepared());
    assert_eq!(served.post("commit", &message).await, committed());
    assert_eq!(served.balance("alice"), Some(1));
}

#[tokio::test]
async fn a_service_enlists_with_coordinators_on_its_list_only() {
    let (_folder, served) = bank().await;
    let error =
        served.service.join(&format!("http://10.0.0.1:7070/v1/transactions/{}", transaction(1))).await.unwrap_err();
    assert_eq!(error.problem.kind.status(), 403);
    let error = served.service.join("nonsense").await.unwrap_err();
    assert_eq!(error.problem.kind.status(), 400);
}

#[tokio::test]
async fn the_header_of_a_call_makes_it_part_of_the_transaction() {
    let (_folder, served, fake) = doubtful().await;
    let coordinator = json!({ "id": COORDINATOR, "epoch": epoch(2), "url": served.coordinator, "horizon": NIL });
    let enlisted = json!({ "deadline": "2100-01-01T00:00:00Z", "remaining_ms": 60_000, "coordinator": coordinator });
    fake.answer([(201, enlisted), (200, json!({}))]);
    fake.decide([decided("commit", 2)]);
    let place = |mut branch: InTransaction<common::Bank>| async move {
        let passed_on = branch.header().1;
        branch.work().put("alice", &1i64).await.map_err(|_| axum::http::StatusCode::CONFLICT)?;
        branch.prepared().await.map_err(|_| axum::http::StatusCode::BAD_GATEWAY)?;
        Ok::<_, axum::http::StatusCode>(passed_on)
    };
    let app = axum::Router::new().route("/orders", axum::routing::post(place)).with_state(served.service.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let orders = format!("http://{}/orders", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let call = |url: String| served.http.post(&orders).header("Unanimous-Transaction", url).send();
    let url = format!("{}/v1/transactions/{}", served.coordinator, transaction(7));
    let answer = call(url.clone()).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, url));
    until("it obeys", || served.balance("alice") == Some(1)).await;
    // Without the header, or with a stranger's, nothing is done.
    assert_eq!(served.http.post(&orders).send().await.unwrap().status(), 400);
    let stranger = format!("http://10.0.0.1:7070/v1/transactions/{}", transaction(7));
    assert_eq!(call(stranger).await.unwrap().status(), 403);
}
