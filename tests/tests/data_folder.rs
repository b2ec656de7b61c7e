//! The data folder in wrong hands: opened twice, or replaced by an older copy.

use serde_json::json;
use unanimous_tests::{
    bank::{Bank, OPENING, account, transfer},
    binaries::copy_folder,
    coordinator::Coordinator,
    participant::{Act, Call, Participant},
    proxy::Proxy,
    wait,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_coordinator_on_the_same_folder_is_refused_and_the_first_serves_on() {
    let mut coordinator = Coordinator::start().await;
    let participant = Participant::start();
    let branches = json!([{ "participant": participant.url(), "payload": {} }]);
    let id = coordinator.api.run(&branches).await.expect(200).text("id").to_owned();
    for _ in 0..2 {
        let mut second = coordinator.spawn_second();
        let ended = second.ended().await;
        assert_eq!(ended.code(), Some(1), "{}", second.log());
        let log = second.log();
        assert!(log.contains(coordinator.data().to_str().unwrap()), "it names the folder: {log}");
        assert!(log.contains("another coordinator has"), "it says why: {log}");
        assert!(!log.contains("panicked"), "{log}");
    }
    assert_eq!(coordinator.api.finished(&id).await["state"], "committed");
    let _ = coordinator.api.run(&branches).await.expect(200);
    coordinator.kill();
    coordinator.restart().await;
    assert_eq!(coordinator.api.transaction(&id).await["state"], "committed");
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_in_place_of_the_folder_presumes_nothing_about_what_it_never_knew() {
    let mut coordinator = Coordinator::start().await;
    let first = coordinator.api.who().await;
    assert!(coordinator.stop().await.success());
    let backup = tempfile::tempdir().unwrap();
    copy_folder(&coordinator.data(), backup.path());

    // Under the next epoch: decided, told to the client and to one bank, and not to the other.
    coordinator.restart().await;
    let second = coordinator.api.who().await;
    let (mut bank, other) = (Bank::start().await, Bank::start().await);
    let mut proxy = Proxy::start(&bank.url());
    let last = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    });
    let mut branches = transfer(&proxy.url(), &other.url(), 30);
    branches.as_array_mut().unwrap().push(json!({ "participant": last.url(), "payload": {} }));
    let id = coordinator.api.begin(&json!({ "branches": branches, "timeout_ms": 120_000 })).await;
    let commit = coordinator.api.commit_in_background(&id);
    wait::until_so("the bank has voted", async || {
        coordinator.api.transaction(&id).await["branches"][0]["vote"] == "prepared"
    })
    .await;
    bank.kill();
    proxy.down();
    last.release();
    let _ = commit.await.unwrap().unwrap().expect(200);
    other.comes_to_hold(&account(1), OPENING + 30).await;
    coordinator.kill();

    let newest = tempfile::tempdir().unwrap();
    copy_folder(&coordinator.data(), newest.path());
    std::fs::remove_dir_all(coordinator.data()).unwrap();
    copy_folder(backup.path(), &coordinator.data());
    coordinator.restart().await;
    assert_eq!(coordinator.api.who().await["id"], first["id"], "it is the same log, only older");
    let told = coordinator.api.inquire(&id, &second, "debit").await.unwrap().expect(409);
    assert_eq!(told.problem(), "not-my-log");
    let presumed = coordinator.api.inquire(&id, &first, "debit").await.unwrap().expect(200);
    assert_eq!(presumed.body["decision"], "abort", "an epoch that it had");
    bank.restart().await;
    wait::a_while().await;
    assert_eq!(bank.in_doubt().await, 1, "a bank in doubt took a guess for an answer");
    assert_eq!(bank.balance(&account(1)).await, OPENING);

    // Its own log put back, it ends well.
    coordinator.kill();
    std::fs::remove_dir_all(coordinator.data()).unwrap();
    copy_folder(newest.path(), &coordinator.data());
    coordinator.restart().await;
    bank.comes_to_hold(&account(1), OPENING - 30).await;
    assert_eq!(bank.in_doubt().await, 0);
    proxy.up();
    assert_eq!(coordinator.api.finished(&id).await["heuristic"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_its_mark_is_refused_by_name() {
    let mut coordinator = Coordinator::start().await;
    let participant = Participant::start();
    let branches = json!([{ "participant": participant.url(), "payload": {} }]);
    let _ = coordinator.api.run(&branches).await.expect(200);
    coordinator.kill();
    let backup = tempfile::tempdir().unwrap();
    copy_folder(&coordinator.data(), backup.path());
    coordinator.restart().await;
    let _ = coordinator.api.run(&branches).await.expect(200);
    coordinator.kill();
    // The database of before, under the mark of now: as if what was confirmed had never reached the disk.
    let database = coordinator.data().join("log/db");
    std::fs::remove_dir_all(&database).unwrap();
    copy_folder(&backup.path().join("log/db"), &database);
    coordinator.spawn_again(None);
    let ended = coordinator.process.ended().await;
    assert_eq!(ended.code(), Some(1));
    let log = coordinator.log();
    let message = log.lines().last().unwrap_or_default();
    assert!(message.contains("reported durable") && message.contains("missing"), "it says what is missing: {message}");
    assert!(!log.contains("panicked"), "{log}");
}
