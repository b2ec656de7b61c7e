//! A disk that fails a sync or a write: the process ends, and nothing that depends on it was told.

use rand::{SeedableRng, rngs::StdRng};
use serde_json::json;
use unanimous_tests::{
    bank::{Bank, OPENING, account, transfer},
    coordinator::Coordinator,
    participant::{Branch, Call, Participant},
};

use crate::{
    disk::Left,
    watched::{Fault, Watched},
};

async fn a_coordinator_whose_disk_fails(fault: Fault) {
    let home = tempfile::tempdir().expect("a folder can be made");
    let mut watched = Watched::new(&home.path().join("data"));
    let mut coordinator = Coordinator::spawn_in(home, watched.setup());
    coordinator.ready().await;
    let participant = Participant::start();
    let branches = json!([{ "participant": participant.url(), "branch": "b", "payload": {} }]);
    let told = coordinator.api.run(&branches).await.expect(200).text("id").to_owned();
    coordinator.api.finished(&told).await;
    let commits = participant.count(Call::Commit);
    let undecided = coordinator.api.begin(&json!({ "branches": branches })).await;

    watched.has(fault);
    let answer = coordinator.api.try_commit(&undecided).await;
    let ended = coordinator.process.ended().await;
    assert!(!ended.success(), "it ended as if nothing had been wrong: {ended}");
    assert!(answer.as_ref().map_or(true, |answer| answer.status >= 500), "a decision was told: {answer:?}");
    assert_eq!(participant.count(Call::Commit), commits, "a participant was told of it");
    assert!(coordinator.log().contains("the log can't be written: "), "{}", coordinator.log());

    watched.has_no(fault);
    // What the failed sync was to keep may be there, or not.
    watched.lose_power(Left::Nothing, &mut StdRng::seed_from_u64(0));
    coordinator.restart().await;
    assert_eq!(coordinator.api.transaction(&told).await["decision"], "commit");
    let shown = coordinator.api.get(&format!("/v1/transactions/{undecided}")).await;
    assert!(shown.status == 404 || coordinator.api.finished(&undecided).await["decision"] == "abort", "{shown:?}");
    let who = coordinator.api.who().await;
    let answer = coordinator.api.inquire(&undecided, &who, "b").await.expect("an inquiry is answered").expect(200);
    assert_eq!(answer.body["decision"], "abort");
    assert_ne!(participant.branch(&undecided, "b"), Some(Branch::Committed));
    let _ = coordinator.api.run(&branches).await.expect(200);
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn a_failed_sync_ends_the_coordinator_and_what_depends_on_it_was_not_told() {
    a_coordinator_whose_disk_fails(Fault::SyncsFail).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn a_failed_write_ends_the_coordinator_and_what_depends_on_it_was_not_told() {
    a_coordinator_whose_disk_fails(Fault::WritesFail).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn a_failed_sync_ends_a_participant_whose_vote_is_not_told() {
    let coordinator = Coordinator::start().await;
    let home = tempfile::tempdir().expect("a folder can be made");
    let mut watched = Watched::new(&home.path().join("data"));
    let mut bank = Bank::spawn_in(home, watched.setup());
    bank.ready().await;
    let other = Bank::start().await;
    watched.has(Fault::SyncsFail);
    let body = json!({ "branches": transfer(&bank.url(), &other.url(), 5), "timeout_ms": 1500 });
    let id = coordinator.api.begin(&body).await;
    let commit = coordinator.api.commit_in_background(&id);
    let ended = bank.process.ended().await;
    assert!(!ended.success(), "it ended as if nothing had been wrong: {ended}");
    let answer = commit.await.expect("a call ends").expect("it is answered").expect(409);
    assert_eq!(answer.problem(), "aborted");
    watched.has_no(Fault::SyncsFail);
    watched.lose_power(Left::Everything, &mut StdRng::seed_from_u64(0));
    bank.restart().await;
    coordinator.api.finished(&id).await;
    bank.nothing_in_doubt().await;
    bank.comes_to_hold(&account(1), OPENING).await;
    other.comes_to_hold(&account(1), OPENING).await;
}
