//! A participant is killed with SIGKILL at every step of its branch, and started again: the second half of the table of
//! faults. What was never voted for durably is gone; what was, comes back in doubt, asks, and obeys.

use serde_json::{Value, json};
use unanimous_tests::{
    bank::{Bank, OPENING, account, posting, transfer},
    coordinator::Coordinator,
    participant::{Act, Call, Participant},
    proxy::Proxy,
    wait,
};

const CENTS: i64 = 30;

/// A transfer from a bank that dies at a point to one that doesn't.
struct Case {
    coordinator: Coordinator,
    dying: Bank,
    other: Bank,
    id: String,
}

impl Case {
    async fn start(failpoint: &str, timeout_ms: u64) -> Self {
        let coordinator = Coordinator::start().await;
        let (dying, other) = (Bank::start_to_die_at(failpoint).await, Bank::start().await);
        let branches = transfer(&dying.url(), &other.url(), CENTS);
        let id = coordinator.api.begin(&json!({ "branches": branches, "timeout_ms": timeout_ms })).await;
        Self { coordinator, dying, other, id }
    }

    /// Waits for the end; whether it committed, when both banks agree.
    async fn end(&self) -> (bool, Value) {
        let ended = self.coordinator.api.finished(&self.id).await;
        let committed = ended["decision"] == "commit";
        self.dying.nothing_in_doubt().await;
        self.other.nothing_in_doubt().await;
        let moved = if committed { CENTS } else { 0 };
        assert_eq!(self.dying.balance(&account(1)).await, OPENING - moved);
        assert_eq!(self.other.balance(&account(1)).await, OPENING + moved);
        assert_eq!(ended["heuristic"], false);
        (committed, ended)
    }
}

const LONG: u64 = 120_000;
const SHORT: u64 = 1_500;

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_before_its_vote_is_durable_is_asked_again_when_it_is_back_in_time() {
    let mut case = Case::start("before-vote-durable", LONG).await;
    let commit = case.coordinator.api.commit_in_background(&case.id);
    case.dying.process.killed().await;
    case.dying.restart().await;
    let _ = commit.await.unwrap().unwrap().expect(200);
    assert!(case.end().await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_before_its_vote_is_durable_and_stays_away_makes_it_an_abort() {
    let mut case = Case::start("before-vote-durable", SHORT).await;
    let answer = case.coordinator.api.commit(&case.id).await.expect(409);
    assert_eq!(answer.body["transaction"]["reason"]["code"], "unreachable");
    assert_eq!(answer.body["transaction"]["reason"]["branch"], "debit");
    case.dying.process.killed().await;
    case.dying.restart().await;
    assert!(!case.end().await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_with_its_vote_durable_repeats_it_when_it_is_back_in_time() {
    let mut case = Case::start("after-vote-durable", LONG).await;
    let commit = case.coordinator.api.commit_in_background(&case.id);
    case.dying.process.killed().await;
    case.dying.restart().await;
    let _ = commit.await.unwrap().unwrap().expect(200);
    assert!(case.end().await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_with_its_vote_durable_and_stays_away_is_aborted_and_obeys() {
    let mut case = Case::start("after-vote-durable", SHORT).await;
    let answer = case.coordinator.api.commit(&case.id).await.expect(409);
    assert_eq!(answer.body["transaction"]["reason"]["code"], "unreachable");
    case.dying.process.killed().await;
    case.dying.restart().await;
    assert!(!case.end().await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_before_its_commit_is_durable_commits_when_it_is_back() {
    let mut case = Case::start("before-commit-durable", LONG).await;
    let _ = case.coordinator.api.commit(&case.id).await.expect(200);
    case.dying.process.killed().await;
    case.dying.restart().await;
    assert!(case.end().await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_with_its_commit_durable_has_committed_once() {
    let mut case = Case::start("after-commit-durable", LONG).await;
    let _ = case.coordinator.api.commit(&case.id).await.expect(200);
    case.dying.process.killed().await;
    case.dying.restart().await;
    assert!(case.end().await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_vote_is_told_before_it_is_durable() {
    // The store hangs, and the rest of the process runs on.
    let mut case = Case::start("before-vote-durable=pause", LONG).await;
    let commit = case.coordinator.api.commit_in_background(&case.id);
    wait::until_so("the other bank's vote is there", async || {
        case.coordinator.api.transaction(&case.id).await["branches"][1]["vote"] == "prepared"
    })
    .await;
    wait::a_while().await;
    let shown = case.coordinator.api.transaction(&case.id).await;
    assert_eq!((&shown["state"], &shown["branches"][0]["vote"]), (&json!("preparing"), &Value::Null), "{shown}");
    assert!(!commit.is_finished());
    // Told, it would now be lost.
    case.dying.kill();
    case.dying.restart().await;
    let _ = commit.await.unwrap().unwrap().expect(200);
    assert!(case.end().await.0);
}

/// A transfer whose first bank the coordinator can't reach any more after the votes; how it ends there all the same.
async fn ends_by_asking_alone(commits: bool) {
    let coordinator = Coordinator::start().await;
    let (mut bank, other) = (Bank::start().await, Bank::start().await);
    let mut proxy = Proxy::start(&bank.url());
    let last = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    });
    let mut branches = transfer(&proxy.url(), &other.url(), CENTS);
    branches.as_array_mut().unwrap().push(json!({ "participant": last.url(), "payload": {} }));
    let id = coordinator.api.begin(&json!({ "branches": branches, "timeout_ms": LONG })).await;
    let commit = coordinator.api.commit_in_background(&id);
    wait::until_so("both banks have voted", async || {
        let branches = &coordinator.api.transaction(&id).await["branches"];
        branches[0]["vote"] == "prepared" && branches[1]["vote"] == "prepared"
    })
    .await;
    proxy.down();
    bank.kill();
    if !commits {
        let _ = coordinator.api.abort(&id).await.expect(200);
    }
    last.release();
    let _ = commit.await.unwrap().unwrap().expect(if commits { 200 } else { 409 });
    bank.restart().await;
    bank.nothing_in_doubt().await;
    let moved = if commits { CENTS } else { 0 };
    bank.comes_to_hold(&account(1), OPENING - moved).await;
    // The line is down for good: its own word ends the transaction.
    let ended = coordinator.api.finished(&id).await;
    let branch = &ended["branches"][0];
    assert_eq!(branch["state"], if commits { "committed" } else { "aborted" });
    assert_eq!((&ended["heuristic"], &branch["acknowledged"]), (&json!(false), &json!(true)));
    proxy.up();
    assert_eq!(bank.balance(&account(1)).await, OPENING - moved, "told what it knows already, it does nothing again");
    assert_eq!(other.balance(&account(1)).await, OPENING + moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_in_doubt_asks_and_obeys_a_commit() {
    ends_by_asking_alone(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_in_doubt_asks_and_obeys_an_abort() {
    ends_by_asking_alone(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_in_doubt_stays_in_doubt_while_nobody_can_tell_and_keeps_its_account_locked() {
    let mut coordinator = Coordinator::start().await;
    let (mut bank, other) = (Bank::start().await, Bank::start().await);
    let last = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    });
    let mut branches = transfer(&bank.url(), &other.url(), CENTS);
    branches.as_array_mut().unwrap().push(json!({ "participant": last.url(), "payload": {} }));
    let id = coordinator.api.begin(&json!({ "branches": branches, "timeout_ms": LONG })).await;
    let _commit = coordinator.api.commit_in_background(&id);
    wait::until_so("the bank has voted", async || {
        coordinator.api.transaction(&id).await["branches"][0]["vote"] == "prepared"
    })
    .await;
    coordinator.kill();
    bank.kill();
    bank.restart().await;
    wait::a_while().await;
    assert_eq!(bank.in_doubt().await, 1, "it decided alone");
    // Somebody else's transaction on the same account, by another coordinator.
    let second = Coordinator::start().await;
    let branches =
        json!([posting(&bank.url(), "debit", &account(1), -1), posting(&other.url(), "credit", &account(2), 1)]);
    let refused = second.api.run(&branches).await.expect(409);
    let reason = &refused.body["transaction"]["reason"];
    assert_eq!(reason["branch"], "debit", "{refused:?}");
    assert!(reason["detail"].as_str().unwrap().starts_with("lock-conflict"), "{refused:?}");
    coordinator.restart().await;
    assert_eq!(coordinator.api.finished(&id).await["reason"]["code"], "coordinator_restart");
    bank.nothing_in_doubt().await;
    let _ = second.api.run(&branches).await.expect(200);
}
