//! Processes that are stopped in the middle of their work (SIGSTOP: a machine that swaps, a virtual machine that is moved) for
//! longer than every timeout, and then go on as if nothing had been.

use std::time::Duration;

use serde_json::json;
use unanimous_tests::{
    bank::{Bank, OPENING, account, holdings, posting},
    coordinator::Coordinator,
    participant::{Act, Call, Participant},
    wait,
};

/// Longer than a call to a participant may take.
const PAST_EVERY_TIMEOUT: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_was_paused_past_the_deadline_counts_no_vote_that_came_meanwhile() {
    let mut coordinator = Coordinator::start().await;
    let api = coordinator.api.clone();
    let participant = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    });
    let branches = json!([{ "participant": participant.url(), "payload": {} }]);
    let id = api.begin(&json!({ "branches": branches, "timeout_ms": 1500 })).await;
    let commit = api.commit_in_background(&id);
    wait::until_so("it was asked to prepare", async || !participant.received().is_empty()).await;
    coordinator.process.pause().await;
    // The vote is in the coordinator's socket long before the deadline, and is read long after it.
    participant.release();
    tokio::time::sleep(Duration::from_secs(2)).await;
    coordinator.process.go_on();
    let answer = commit.await.unwrap().expect("it is answered").expect(409);
    assert_eq!(answer.problem(), "aborted");
    let shown = api.finished(&id).await;
    assert_eq!(
        (shown["state"].as_str(), shown["reason"]["code"].as_str()),
        (Some("aborted"), Some("deadline")),
        "{shown}"
    );
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_that_is_paused_past_every_timeout_holds_nobody_up_and_obeys_when_it_goes_on() {
    let coordinator = Coordinator::start().await;
    let api = &coordinator.api;
    let mut banks = [Bank::start().await, Bank::start().await];
    let opening = holdings(&banks).await;
    banks[1].process.pause().await;
    let urls = banks.each_ref().map(Bank::url);
    let across = json!({ "timeout_ms": 3000, "branches": [
        posting(&urls[0], "out", &account(1), -5), posting(&urls[1], "in", &account(1), 5),
    ] });
    let id = api.begin(&across).await;
    let commit = api.commit_in_background(&id);
    // Whatever isn't its business goes on.
    for _ in 0..20 {
        let within = json!([posting(&urls[0], "out", &account(2), -1), posting(&urls[0], "in", &account(3), 1)]);
        let _ = api.run(&within).await.expect(200);
    }
    let answer = commit.await.unwrap().expect("it is answered").expect(409);
    assert_eq!(answer.body["transaction"]["reason"]["code"], "deadline", "{answer:?}");
    tokio::time::sleep(PAST_EVERY_TIMEOUT).await;
    assert_eq!(api.transaction(&id).await["state"], "aborting", "it waits for the one that doesn't answer");
    banks[1].process.go_on();
    assert_eq!(api.finished(&id).await["state"], "aborted");
    for bank in &banks {
        bank.nothing_in_doubt().await;
    }
    let again = json!([posting(&urls[0], "out", &account(1), -5), posting(&urls[1], "in", &account(1), 5)]);
    let committed = api.run(&again).await.expect(200);
    api.finished(committed.text("id")).await;
    let total = |held: std::collections::BTreeMap<String, i64>| held.values().sum::<i64>();
    assert_eq!(total(holdings(&banks).await), total(opening), "no money is lost");
    banks[1].comes_to_hold(&account(1), 5 + OPENING).await;
}
