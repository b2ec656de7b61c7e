//! The initiator's client against a coordinator that answers as it is told to.
#![cfg(feature = "store")]

mod common;

use std::time::Duration;

use common::{Fake, transaction};
use serde_json::{Value, json};
use unanimous_sdk::client::{Client, ClientOptions, Error, NotCommitted, Outcome};

fn info(state: &str, decision: Option<&str>) -> Value {
    json!({
        "id": transaction(1), "state": state, "decision": decision, "sequence": 7, "heuristic": false,
        "reason": null, "metadata": {}, "branches": [],
    })
}

fn aborted() -> (u16, Value) {
    let mut whole = info("aborting", Some("abort"));
    whole["reason"] = json!({ "code": "refused", "detail": "overdrawn", "branch": "debit" });
    (409, json!({ "type": "/problems/aborted", "title": "t", "status": 409, "detail": "d", "transaction": whole }))
}

fn not_ready() -> (u16, Value) {
    (503, json!({ "type": "/problems/not-ready", "title": "t", "status": 503, "detail": "loading" }))
}

async fn client(answers: impl IntoIterator<Item = (u16, Value)>) -> (Client, Fake) {
    let fake = Fake::default();
    fake.answer(answers);
    let url = fake.start().await;
    (Client::new(&url).unwrap(), fake)
}

#[tokio::test]
async fn a_commit_in_one_call_says_all_it_was_given() {
    let (client, fake) = client([(200, info("committing", Some("commit")))]).await;
    let outcome = client
        .begin()
        .timeout(Duration::from_secs(5))
        .metadata("transfer", "17")
        .named_branch("debit", "http://127.0.0.1:8081/bank/", &("alice", -5))
        .branch("http://127.0.0.1:8082", &json!({}))
        .commit()
        .await
        .unwrap();
    assert_eq!(outcome.committed().unwrap().info.sequence, Some(7));
    let asked = fake.asked();
    let (head, body) = asked[0].split_at(asked[0].find('{').unwrap());
    assert_eq!(head, "POST /v1/transactions ");
    let expected = json!({
        "timeout_ms": 5000, "metadata": { "transfer": "17" }, "commit": true,
        "branches": [
            { "participant": "http://127.0.0.1:8081/bank", "branch": "debit", "payload": ["alice", -5] },
            { "participant": "http://127.0.0.1:8082", "payload": {} },
        ],
    });
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
}

#[tokio::test]
async fn an_abort_is_never_taken_for_a_commit() {
    let (client, _fake) = client([aborted()]).await;
    let transaction = client.transaction(transaction(1).parse().unwrap());
    let outcome = transaction.commit().await.unwrap();
    let Outcome::Aborted(told) = &outcome else { panic!("{outcome:?}") };
    assert_eq!(told.info.reason.as_ref().unwrap().code, "refused");
    assert!(told.to_string().ends_with("was aborted: refused (branch debit): overdrawn"), "{told}");
    assert!(matches!(outcome.committed(), Err(NotCommitted::Aborted(_))));
}

#[tokio::test]
async fn a_status_of_success_without_a_decision_is_undecided() {
    for answer in [(202, info("preparing", None)), (200, info("preparing", None))] {
        let (client, _fake) = client([answer]).await;
        let outcome = client.begin().commit().await.unwrap();
        assert!(matches!(outcome, Outcome::Undecided(_)), "{outcome:?}");
        assert!(matches!(outcome.committed(), Err(NotCommitted::Undecided(_))));
    }
}

#[tokio::test]
async fn an_abort_that_comes_too_late_tells_of_the_commit() {
    let whole = info("committed", Some("commit"));
    let told =
        json!({ "type": "/problems/committed", "title": "t", "status": 409, "detail": "d", "transaction": whole });
    let (client, _fake) = client([(409, told)]).await;
    let outcome = client.transaction(transaction(1).parse().unwrap()).abort("changed my mind").await.unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)));
}

#[tokio::test]
async fn a_coordinator_that_is_not_ready_is_asked_again_with_the_same_call() {
    let (client, fake) = client([not_ready(), not_ready(), (200, info("committing", Some("commit")))]).await;
    let outcome = client.begin().commit().await.unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)));
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn a_commit_in_one_call_is_repeated_under_its_key_until_it_is_answered() {
    let (client, fake) =
        client([(502, json!({ "message": "bad gateway" })), not_ready(), (200, info("committing", Some("commit")))])
            .await;
    let begin = || client.begin().branch("http://127.0.0.1:8081", &1).commit();
    assert!(matches!(begin().await.unwrap(), Outcome::Committed(_)));
    assert!(matches!(begin().await.unwrap(), Outcome::Committed(_)));
    let asked = fake.asked();
    let keys: Vec<_> = fake.calls("/transactions").into_iter().map(|call| call.idempotency_key.unwrap()).collect();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|one| *one == asked[0]), "{asked:?}");
    assert!(!keys[0].is_empty() && keys[..3].iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_ne!(keys[3], keys[0], "another call has another key");
}

#[tokio::test]
async fn a_call_whose_answer_was_lost_is_unknown_once_the_time_to_repeat_it_has_run_out() {
    // What isn't the coordinator's own word says nothing about what was done.
    let (_, fake) = client([(502, json!({ "message": "bad gateway" }))]).await;
    let options = ClientOptions { retry_for: Duration::ZERO, ..ClientOptions::default() };
    let client = Client::with_options(&fake.start().await, options).unwrap();
    let error = client.begin().commit().await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    fake.answer([not_ready()]);
    let error = client.begin().commit().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_commit_by_id_is_repeated_until_it_is_answered() {
    let (client, fake) = client([(502, json!({})), (500, json!({})), aborted()]).await;
    let outcome = client.transaction(transaction(1).parse().unwrap()).commit().await.unwrap();
    assert!(matches!(outcome, Outcome::Aborted(_)));
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn a_coordinator_that_is_away_is_said_to_have_done_nothing() {
    // A port that was free a moment ago.
    let url = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let options = ClientOptions { retry_for: Duration::ZERO, ..ClientOptions::default() };
    let client = Client::with_options(&url, options).unwrap();
    let error = client.begin().commit().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn an_enlistment_is_named_by_the_client_so_that_a_repeat_is_the_same_branch() {
    let coordinator = json!({
        "id": common::COORDINATOR, "epoch": common::epoch(2), "url": "http://127.0.0.1:7070", "horizon": common::NIL,
    });
    let enlisted = json!({ "deadline": "2100-01-01T00:00:00Z", "remaining_ms": 1, "coordinator": coordinator });
    let (client, fake) = client([(201, info("active", None)), (502, json!({})), (200, enlisted)]).await;
    let transaction = client.begin().start().await.unwrap();
    transaction.enlist("http://127.0.0.1:8081", &json!({})).await.unwrap();
    let asked = fake.asked();
    assert_eq!(asked[1], asked[2]);
    assert!(asked[1].contains("\"branch\":"), "{asked:?}");
    assert!(transaction.header().1.ends_with(&format!("/v1/transactions/{}", common::transaction(1))));
}

#[tokio::test]
async fn a_refusal_names_the_problem() {
    let problem =
        json!({ "type": "/problems/unknown-transaction", "title": "t", "status": 404, "detail": "it is not known" });
    let (client, _fake) = client([(404, problem)]).await;
    let error = client.transaction(transaction(1).parse().unwrap()).commit().await.unwrap_err();
    let Error::Refused { problem, .. } = &error else { panic!("{error}") };
    assert_eq!(problem.kind.status(), 404);
    assert!(error.to_string().contains("it is not known"), "{error}");
}

#[tokio::test]
async fn what_is_wrong_with_a_branch_is_told_before_anything_is_sent() {
    let (client, fake) = client([(200, info("committing", Some("commit")))]).await;
    let error = client.begin().branch("ftp://nowhere", &1).commit().await.unwrap_err();
    assert!(matches!(error, Error::Malformed(_)), "{error}");
    let error = client.begin().named_branch("a/b", "http://127.0.0.1:1", &1).start().await.unwrap_err();
    assert!(matches!(error, Error::Malformed(_)), "{error}");
    assert!(fake.asked().is_empty());
}

fn not_my_log() -> (u16, Value) {
    (409, json!({ "type": "/problems/not-my-log", "title": "t", "status": 409, "detail": "that is another log" }))
}

#[tokio::test]
async fn commits_of_a_transaction_share_one_key_and_so_do_its_aborts() {
    let (first, fake) = client([(200, info("committed", Some("commit")))]).await;
    let id = transaction(1).parse().unwrap();
    let one = first.transaction(id);
    for _ in 0..3 {
        let _ = one.commit().await.unwrap();
    }
    let _ = first.transaction(id).commit().await.unwrap();
    let _ = one.commit_and_finish().await.unwrap();
    let _ = one.commit_and_finish().await.unwrap();
    let keys: Vec<_> = fake.calls("/commit").into_iter().map(|call| call.idempotency_key.unwrap()).collect();
    assert_eq!(keys.len(), 6);
    assert!(keys[..4].iter().all(|key| *key == keys[0]) && keys[4] == keys[5], "{keys:?}");
    // A key stands for one body.
    assert_ne!(keys[0], keys[4]);
    for reason in ["this", "this", "that"] {
        let _ = one.abort(reason).await.unwrap();
    }
    let keys: Vec<_> = fake.calls("/abort").into_iter().map(|call| call.idempotency_key.unwrap()).collect();
    assert!(keys[0] == keys[1] && keys[1] != keys[2], "{keys:?}");
    assert!(keys.iter().all(|key| key.len() <= 255));
}

#[tokio::test]
async fn client_asks_whom_it_speaks_to_and_means_that_one_ever_after() {
    let (client, fake) = client([(502, json!({})), (200, info("committing", Some("commit")))]).await;
    let _ = client.begin().branch("http://127.0.0.1:8081", &1).commit().await.unwrap();
    let _ = client.transaction(transaction(1).parse().unwrap()).info().await.unwrap();
    let calls = fake.calls("");
    assert_eq!((&*calls[0].method, &*calls[0].uri), ("GET", "/v1/coordinator"));
    assert_eq!(calls.len(), 4, "it asks once: {calls:?}");
    assert!(calls.iter().all(|call| call.cache_control.as_deref() == Some("no-store")));
    assert!(calls[1..].iter().all(|call| call.coordinator.as_deref() == Some(common::COORDINATOR)), "{calls:?}");
}

#[tokio::test]
async fn client_that_has_met_nobody_begins_nothing() {
    let (_, fake) = client([(200, info("committing", Some("commit")))]).await;
    for identity in [not_ready(), (200, json!({})), (404, json!({}))] {
        fake.identify([identity]);
        let options = ClientOptions { retry_for: Duration::ZERO, ..ClientOptions::default() };
        let client = Client::with_options(&fake.start().await, options).unwrap();
        let error = client.begin().commit().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn answer_of_another_log_is_an_error_and_no_outcome() {
    let (client, fake) = client([(502, json!({})), not_my_log()]).await;
    let error = client.begin().commit().await.unwrap_err();
    let Error::OtherCoordinator { met, .. } = &error else { panic!("{error}") };
    assert_eq!(met.unwrap().to_string(), common::COORDINATOR);
    assert!(error.to_string().contains("that is another log"), "{error}");
    let transaction = client.transaction(transaction(1).parse().unwrap());
    assert!(matches!(transaction.commit().await, Err(Error::OtherCoordinator { .. })));
    assert!(matches!(transaction.info().await, Err(Error::OtherCoordinator { .. })));
    assert_eq!(fake.calls("/transactions").len(), 2);
}

#[tokio::test]
async fn answer_that_another_log_signed_does_not_count() {
    let (client, fake) = client([(200, info("aborted", Some("abort")))]).await;
    let transaction = client.transaction(transaction(1).parse().unwrap());
    assert!(matches!(transaction.commit().await, Ok(Outcome::Aborted(_))));
    *fake.log.lock().unwrap() = Some("00000000-0000-4000-8000-000000000000".to_owned());
    let mend = async {
        common::until("it is asked again", || fake.calls("/commit").len() > 2).await;
        fake.answer([(200, info("committed", Some("commit")))]);
        *fake.log.lock().unwrap() = Some(common::COORDINATOR.to_owned());
    };
    let (outcome, ()) = tokio::join!(transaction.commit(), mend);
    assert!(matches!(outcome, Ok(Outcome::Committed(_))), "{outcome:?}");
}

#[tokio::test]
async fn answer_about_another_transaction_counts_for_no_call() {
    let of = |n| {
        let mut other = info("aborted", Some("abort"));
        other["id"] = transaction(n).into();
        other
    };
    let mut refused = aborted();
    refused.1["transaction"]["id"] = transaction(2).into();
    let right = (200, info("committed", Some("commit")));
    let (client, fake) = client([(200, of(2)), refused, right.clone()]).await;
    let one = client.transaction(transaction(1).parse().unwrap());
    assert!(matches!(one.commit().await, Ok(Outcome::Committed(_))));
    fake.answer([(200, of(2)), right.clone()]);
    assert!(matches!(one.abort("late").await, Ok(Outcome::Committed(_))));
    fake.answer([(200, of(2)), right]);
    assert_eq!(one.info().await.unwrap().id.to_string(), transaction(1));
    let commits = fake.calls("/commit");
    assert_eq!(commits.len(), 3);
    assert!(commits.windows(2).all(|two| two[0].port != two[1].port), "over fresh connections: {commits:?}");
}

#[tokio::test]
async fn answer_to_another_enlistment_does_not_count() {
    let coordinator = json!({ "id": common::COORDINATOR, "epoch": common::epoch(2), "url": "http://127.0.0.1:7070", "horizon": common::NIL });
    let enlisted = json!({ "deadline": "2100-01-01T00:00:00Z", "remaining_ms": 1, "coordinator": coordinator });
    let with = |name: &str, value: &str| {
        let mut other = enlisted.clone();
        other[name] = value.into();
        (201, other)
    };
    let answers = [with("branch", "another"), with("transaction", &transaction(2)), (201, enlisted.clone())];
    let (client, fake) = client(answers).await;
    let one = client.transaction(transaction(1).parse().unwrap());
    let answer = one.enlist_named("mine", "http://127.0.0.1:8081", &json!({})).await.unwrap();
    assert_eq!((answer.branch.as_str(), answer.transaction), ("mine", one.id()));
    assert_eq!(fake.calls("/branches").len(), 3);
}

#[tokio::test]
async fn problem_is_read_from_its_last_part_on() {
    let refused =
        json!({ "type": "/behind/a/gateway/problems/unknown-transaction", "status": 404, "detail": "it is not known" });
    let (client, _fake) = client([(404, refused)]).await;
    let error = client.transaction(transaction(1).parse().unwrap()).commit().await.unwrap_err();
    let Error::Refused { problem, .. } = &error else { panic!("{error}") };
    assert_eq!(problem.kind, unanimous_sdk::protocol::ProblemType::UnknownTransaction);
}
