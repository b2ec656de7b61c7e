//! How a coordinator ends: in order at the first SIGTERM, at once at the second.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;
use serde_json::json;
use unanimous_tests::{
    coordinator::Coordinator,
    participant::{Act, Branch, Call, Participant},
    wait,
};

/// Doesn't vote before it is released.
fn slow_to_vote() -> Participant {
    Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    })
}

/// A commit that waits for a vote.
struct Waiting {
    coordinator: Coordinator,
    participant: Participant,
    id: String,
    commit: tokio::task::JoinHandle<Result<unanimous_tests::api::Answer, reqwest::Error>>,
}

async fn waiting_commit() -> Waiting {
    let coordinator = Coordinator::start().await;
    let participant = slow_to_vote();
    let body = json!({ "branches": [{ "participant": participant.url(), "payload": {} }], "timeout_ms": 120_000 });
    let id = coordinator.api.begin(&body).await;
    let commit = coordinator.api.commit_in_background(&id);
    wait::until_so("it is asked to prepare", async || participant.count(Call::Prepare) == 1).await;
    Waiting { coordinator, participant, id, commit }
}

async fn takes_no_new_work(coordinator: &Coordinator) {
    wait::until_so("new work is refused", async || coordinator.api.get("/readyz").await.status == 503).await;
    let refused = coordinator.api.post("/v1/transactions", &json!({})).await.expect(503);
    assert_eq!(refused.problem(), "not-ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_new_work_is_refused_and_waiting_commits_are_answered() {
    let Waiting { mut coordinator, participant, id, commit } = waiting_commit().await;
    coordinator.process.signal(Signal::SIGTERM);
    takes_no_new_work(&coordinator).await;
    assert_eq!(coordinator.api.transaction(&id).await["state"], "preparing", "reads are answered");
    participant.release();
    assert_eq!(commit.await.unwrap().unwrap().expect(200).body["decision"], "commit");
    assert_eq!(coordinator.process.ended().await.code(), Some(0));
    coordinator.restart().await;
    assert_eq!(coordinator.api.finished(&id).await["state"], "committed");
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_undecided_when_the_time_is_up_is_202_and_aborted_at_the_next_start() {
    let Waiting { mut coordinator, participant, id, commit } = waiting_commit().await;
    coordinator.process.signal(Signal::SIGTERM);
    let answer = commit.await.unwrap().unwrap().expect(202);
    assert_eq!(answer.body["state"], "preparing");
    assert_eq!(coordinator.process.ended().await.code(), Some(0));
    participant.release();
    coordinator.restart().await;
    assert_eq!(coordinator.api.finished(&id).await["reason"]["code"], "coordinator_restart");
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_delivered_is_left_to_the_next_start() {
    let mut coordinator = Coordinator::start().await;
    let who = coordinator.api.who().await;
    let mut participant = Participant::start();
    let id = coordinator.api.begin(&json!({})).await;
    participant.prepare(&id, "b");
    let voted = json!({ "participant": participant.url(), "branch": "b", "vote": "prepared", "coordinator": who });
    let _ = coordinator.api.enlist(&id, &voted).await.expect(201);
    participant.down();
    let _ = coordinator.api.commit(&id).await.expect(200);
    assert_eq!(coordinator.stop().await.code(), Some(0));
    participant.up();
    wait::a_while().await;
    assert_eq!(participant.branch(&id, "b"), Some(Branch::Prepared));
    coordinator.restart().await;
    coordinator.api.finished(&id).await;
    assert_eq!(participant.branch(&id, "b"), Some(Branch::Committed));
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_it_at_once_and_loses_nothing() {
    let Waiting { mut coordinator, participant, id, commit } = waiting_commit().await;
    coordinator.process.signal(Signal::SIGTERM);
    takes_no_new_work(&coordinator).await;
    coordinator.process.signal(Signal::SIGTERM);
    let ended = coordinator.process.ended().await;
    assert!(ended.code().is_some_and(|code| code != 0) || ended.signal().is_some(), "{ended}");
    assert!(commit.await.unwrap().is_err(), "it waited for the commit");
    participant.release();
    coordinator.restart().await;
    assert_eq!(coordinator.api.finished(&id).await["reason"]["code"], "coordinator_restart");
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_one_ends_at_once_and_comes_back_as_itself() {
    let mut coordinator = Coordinator::start().await;
    let who = coordinator.api.who().await;
    assert_eq!(coordinator.stop().await.code(), Some(0));
    coordinator.restart().await;
    assert_eq!(coordinator.api.who().await["id"], who["id"]);
    assert_eq!(coordinator.api.who().await["url"], who["url"]);
}
