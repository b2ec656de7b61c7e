//! The coordinator is killed with SIGKILL at every step of a transaction, and started again.
//!
//! What must come of it is the first half of the table of faults: before the decision is durable, abort; after it, commit,
//! carried through without anybody's help. In both cases all branches agree, and what a client was told holds.

use reqwest::Method;
use serde_json::{Value, json};
use unanimous_tests::{
    bank::{Bank, OPENING, account, holdings, named, transfer},
    coordinator::Coordinator,
    history::{Attempt, History, Move, Told},
    participant::{Act, Branch, Call, Participant},
    wait,
};

/// A coordinator that dies at a point of a transfer between two banks, and comes back.
struct Case {
    coordinator: Coordinator,
    banks: [Bank; 2],
    history: History,
}

impl Case {
    /// Runs a transfer of so many cents, during which the coordinator dies.
    async fn run(failpoint: &str, cents: i64) -> Self {
        let mut coordinator = Coordinator::start_to_die_at(failpoint).await;
        let banks = [Bank::start().await, Bank::start().await];
        let opening = holdings(&banks).await;
        let branches = transfer(&banks[0].url(), &banks[1].url(), cents);
        let id = coordinator.api.begin(&json!({ "branches": branches })).await;
        let told = match coordinator.api.try_commit(&id).await {
            Ok(answer) if answer.status == 200 => Told::Committed,
            Ok(answer) if answer.body["type"] == "/problems/aborted" => Told::Aborted,
            Ok(answer) => panic!("neither an outcome nor a cut connection: {answer:?}"),
            Err(_) => Told::Unknown,
        };
        coordinator.process.killed().await;
        let moves = vec![
            Move { account: named(0, &account(1)), cents: -cents },
            Move { account: named(1, &account(1)), cents },
        ];
        let attempts = vec![Attempt { transaction: id, moves, told: vec![told] }];
        Self { coordinator, banks, history: History { attempts, opening, ..History::default() } }
    }

    fn id(&self) -> String {
        self.history.attempts[0].transaction.clone()
    }

    /// Starts the coordinator again and waits for the end; the transaction, when everything agrees.
    async fn recover(mut self) -> Value {
        let id = self.id();
        self.coordinator.restart().await;
        let ended = self.coordinator.api.finished(&id).await;
        for bank in &self.banks {
            bank.nothing_in_doubt().await;
        }
        self.history.shown.insert(id.clone(), ended.clone());
        self.history.closing = holdings(&self.banks).await;
        self.history.assert_sound();
        ended
    }
}

async fn aborts_when_it_dies_at(failpoint: &str) {
    let case = Case::run(failpoint, 30).await;
    assert_eq!(case.history.attempts[0].told, [Told::Unknown], "{failpoint}: nobody was told anything");
    let ended = case.recover().await;
    assert_eq!((&ended["state"], &ended["decision"]), (&json!("aborted"), &json!("abort")), "{failpoint}: {ended}");
    assert_eq!(ended["reason"]["code"], "coordinator_restart", "{failpoint}");
}

async fn commits_when_it_dies_at(failpoint: &str) {
    let ended = Case::run(failpoint, 30).await.recover().await;
    assert_eq!((&ended["state"], &ended["decision"]), (&json!("committed"), &json!("commit")), "{failpoint}: {ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_before_the_first_prepare_has_aborted() {
    aborts_when_it_dies_at("before-prepare-call").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_between_two_votes_has_aborted() {
    aborts_when_it_dies_at("after-prepare-answer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_with_all_votes_and_no_decision_has_aborted() {
    aborts_when_it_dies_at("after-prepare-answer@2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_before_its_decision_is_on_disk_has_aborted() {
    aborts_when_it_dies_at("before-log-sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_as_soon_as_its_decision_is_on_disk_commits() {
    commits_when_it_dies_at("after-log-sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_before_anybody_is_told_commits() {
    commits_when_it_dies_at("after-mark").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_before_the_first_commit_call_commits() {
    commits_when_it_dies_at("before-commit-call").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_when_one_of_two_has_committed_commits_the_other() {
    commits_when_it_dies_at("after-commit-answer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_when_all_have_committed_knows_it() {
    commits_when_it_dies_at("after-commit-answer@2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_while_it_aborts_goes_on_aborting_for_the_reason_it_had() {
    for failpoint in ["after-log-sync", "after-mark", "before-abort-call", "after-abort-answer"] {
        // More than the account holds: the first bank refuses, the second is told to abort.
        let ended = Case::run(failpoint, OPENING + 1).await.recover().await;
        assert_eq!(ended["state"], "aborted", "{failpoint}: {ended}");
        assert_eq!(ended["reason"]["code"], "refused", "{failpoint}: {ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_of_a_decision_that_is_not_on_disk() {
    // The log hangs, and the rest of the process runs on.
    let mut coordinator = Coordinator::start_to_die_at("before-log-sync=pause").await;
    let participants = [Participant::start(), Participant::start()];
    let branches: Vec<Value> = participants.iter().map(|p| json!({ "participant": p.url(), "payload": {} })).collect();
    let id = coordinator.api.begin(&json!({ "branches": branches })).await;
    let who = coordinator.api.who().await;
    let commit = coordinator.api.commit_in_background(&id);
    wait::until_so("both have voted", async || participants.iter().all(|p| p.count(Call::Prepare) == 1)).await;
    wait::a_while().await;
    assert!(!commit.is_finished(), "the client was told of a decision that isn't on disk");
    for participant in &participants {
        assert_eq!(participant.count(Call::Commit), 0, "a participant was told of a decision that isn't on disk");
    }
    let shown = coordinator.api.transaction(&id).await;
    assert_eq!((&shown["state"], &shown["decision"]), (&json!("preparing"), &Value::Null));
    let asked = coordinator.api.inquire(&id, &who, "1").await.unwrap().expect(200);
    assert_eq!(asked.body["decision"], "pending");

    coordinator.kill();
    assert!(commit.await.unwrap().is_err());
    coordinator.restart().await;
    assert_eq!(coordinator.api.finished(&id).await["reason"]["code"], "coordinator_restart");
    for (participant, name) in participants.iter().zip(["1", "2"]) {
        assert_eq!(participant.branch(&id, name), Some(Branch::Aborted));
        participant.assert_respected();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_active_or_preparing_when_it_died_is_aborted() {
    let mut coordinator = Coordinator::start().await;
    let voted = Participant::start();
    let silent = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    });
    let branch = |p: &Participant| json!({ "participant": p.url(), "payload": {} });
    let day = 24 * 60 * 60 * 1000;
    let active = coordinator.api.begin(&json!({ "branches": [branch(&voted)], "timeout_ms": day })).await;
    let preparing = json!({ "branches": [branch(&voted), branch(&silent)], "timeout_ms": day });
    let preparing = coordinator.api.begin(&preparing).await;
    let commit = coordinator.api.commit_in_background(&preparing);
    wait::until_so("one has voted", async || voted.branch(&preparing, "1") == Some(Branch::Prepared)).await;
    coordinator.kill();
    assert!(commit.await.unwrap().is_err());
    coordinator.restart().await;
    for id in [&active, &preparing] {
        let ended = coordinator.api.finished(id).await;
        assert_eq!(ended["reason"]["code"], "coordinator_restart", "{ended}");
        assert_eq!(coordinator.api.commit(id).await.expect(409).problem(), "aborted", "it can't be revived");
    }
    assert_eq!(voted.branch(&preparing, "1"), Some(Branch::Aborted));
    voted.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inquiry_during_a_restart_gets_no_answer_or_the_right_one() {
    let mut coordinator = Coordinator::start().await;
    let (mut gone, there) = (Participant::start(), Participant::start());
    let who = coordinator.api.who().await;
    // Decided, and not delivered: one participant has gone after its vote.
    let id = coordinator.api.begin(&json!({})).await;
    gone.prepare(&id, "gone");
    let voted = json!({ "participant": gone.url(), "branch": "gone", "vote": "prepared", "coordinator": who });
    let _ = coordinator.api.enlist(&id, &voted).await.expect(201);
    let _ = coordinator.api.enlist(&id, &json!({ "participant": there.url(), "payload": {} })).await.expect(201);
    gone.down();
    let _ = coordinator.api.commit(&id).await.expect(200);
    let mut answered = 0;
    for _ in 0..5 {
        coordinator.kill();
        coordinator.spawn_again(None);
        wait::until_so("an inquiry is answered", async || {
            let Ok(answer) = coordinator.api.inquire(&id, &who, "gone").await else { return false };
            match answer.status {
                200 => assert_eq!(answer.body["decision"], "commit", "a guess"),
                503 => assert_eq!(answer.problem(), "not-ready"),
                other => panic!("{other} to an inquiry while the log is loaded: {answer:?}"),
            }
            answered += 1;
            answer.status == 200
        })
        .await;
    }
    assert!(answered >= 5);
    gone.up();
    coordinator.api.finished(&id).await;
    assert_eq!(gone.branch(&id, "gone"), Some(Branch::Committed));
    gone.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_with_it_is_had_again_by_the_same_idempotency_key() {
    let mut coordinator = Coordinator::start_to_die_at("after-mark").await;
    let participant = Participant::start();
    let body = json!({ "branches": [{ "participant": participant.url(), "payload": {} }], "commit": true });
    let headers = [("content-type", "application/json"), ("idempotency-key", "order-17")];
    let lost = coordinator.api.call(Method::POST, "/v1/transactions", &headers, Some(body.to_string())).await;
    assert!(lost.is_err(), "{lost:?}");
    coordinator.process.killed().await;
    coordinator.restart().await;
    let mut ids = vec![];
    for _ in 0..2 {
        let again = coordinator.api.post_with("/v1/transactions", &[headers[1]], &body).await.expect(200);
        assert_eq!(again.headers["idempotency-replayed"], "true");
        assert_eq!(again.body["decision"], "commit");
        ids.push(again.text("id").to_owned());
        coordinator.api.finished(&ids[0]).await;
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(participant.count(Call::Prepare), 1, "it was run once");
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_id_stays_its_epochs_rise_and_ids_are_never_minted_twice() {
    let mut coordinator = Coordinator::start().await;
    let mut last = coordinator.api.who().await;
    let mut highest = String::new();
    for _ in 0..4 {
        let id = coordinator.api.begin(&json!({})).await;
        assert!(id > highest, "{id} is not above {highest}");
        highest = id;
        coordinator.kill();
        coordinator.restart().await;
        let who = coordinator.api.who().await;
        assert_eq!(who["id"], last["id"]);
        assert!(who["epoch"].as_str() > last["epoch"].as_str(), "{who} after {last}");
        assert!(who["epoch"].as_str().unwrap() > highest.as_str(), "an epoch is above every id in the log");
        last = who;
    }
}
