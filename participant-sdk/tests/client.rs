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
