//! The participant in Python that the examples have: it keeps the wire protocol, beside a bank and a fee ledger in Rust.
//!
//! `UNANIMOUS_PYTHON_ROUNDS` sets how often it and the coordinator are killed (default 25), `UNANIMOUS_SEED` when. Without
//! a Python that it runs on, these tests do nothing, and say so.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use unanimous_tests::{
    api::Api,
    bank::{ACCOUNTS, Bank, OPENING, account, named, posting},
    coordinator::Coordinator,
    history::{Attempt, History, Move, Told},
    participant::{Act, Call, Participant},
    proxy::Proxy,
    wait,
};

use crate::service::{COORDINATOR, Service, id, is_python_there, state, vote};

#[path = "python_participant/in_doubt.rs"]
mod in_doubt;
#[path = "python_participant/messages.rs"]
mod messages;
#[path = "python_participant/service.rs"]
mod service;

const TELLERS: usize = 4;
/// What a transfer costs, in cents.
const FEE: i64 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn the_python_bank_keeps_the_rules_of_a_participant_also_after_a_kill() {
    if !is_python_there() {
        return;
    }
    let mut bank = Service::python_bank().await;
    let (first, second) = (account(1), account(2));
    assert_eq!(vote(&bank.prepare(1, &first, -30).await), (200, "prepared"));
    assert_eq!(bank.accounts().await[&first], OPENING, "what is not committed isn't seen");
    bank.restart().await;
    assert_eq!(vote(&bank.prepare(1, &first, -30).await), (200, "prepared"), "a repeat gets the same answer");
    assert_eq!(bank.prepare(1, &first, -31).await.expect(422).problem(), "invalid");
    let conflict = bank.prepare(2, &first, 5).await;
    assert_eq!(vote(&conflict), (409, "abort"));
    assert!(conflict.text("reason").starts_with("lock-conflict"), "{conflict:?}");
    assert_eq!(state(&bank.commit(2).await), (409, "heuristic_abort"), "what was refused is not committed");
    for _ in 0..2 {
        assert_eq!(state(&bank.commit(1).await), (200, "committed"));
        bank.restart().await;
        assert_eq!(bank.accounts().await[&first], OPENING - 30, "once, however often it is told");
    }
    assert_eq!(vote(&bank.prepare(1, &first, -30).await), (200, "prepared"));
    assert_eq!(state(&bank.abort(1).await), (409, "heuristic_commit"));

    assert_eq!(vote(&bank.prepare(3, &second, -7).await), (200, "prepared"));
    assert_eq!(state(&bank.abort(3).await), (200, "aborted"));
    assert_eq!(vote(&bank.prepare(3, &second, -7).await), (409, "abort"));
    assert_eq!(vote(&bank.prepare(4, &second, -7).await), (200, "prepared"), "an abort frees the account");
    assert_eq!(bank.accounts().await[&second], OPENING);

    assert_eq!(state(&bank.abort(5).await), (200, "aborted"), "an abort of a branch never seen");
    bank.restart().await;
    assert_eq!(vote(&bank.prepare(5, &first, 1).await), (409, "abort"), "leaves a tombstone");
    assert_eq!(bank.commit(6).await.expect(404).problem(), "unknown-branch");
    let more = json!({ "payload": { "account": first, "cents": 1 }, "remaining_ms": 0 });
    assert_eq!(vote(&bank.told("prepare", 7, 2, 0, &more).await), (409, "abort"), "its deadline has passed");
    let nothing = json!({ "remaining_ms": 1000 });
    assert_eq!(vote(&bank.told("prepare", 8, 2, 0, &nothing).await), (409, "abort"), "no work is held for it");
    for (number, (account, cents)) in [("nobody", 1), (&first, -OPENING), (&first, i64::MAX)].into_iter().enumerate() {
        let number = 10 + u32::try_from(number).unwrap();
        assert_eq!(vote(&bank.prepare(number, account, cents).await), (409, "abort"), "{account} {cents}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_bank_knows_whom_to_obey_and_what_it_may_forget() {
    if !is_python_there() {
        return;
    }
    let mut bank = Service::python_bank().await;
    let (first, second) = (account(1), account(2));
    let _ = bank.prepare(1, &first, -30).await.expect(200);
    let _ = bank.prepare(2, &second, 1).await.expect(200);
    let _ = bank.commit(2).await.expect(200);
    bank.restart().await;
    let stale = bank.told("commit", 1, 1, 0, &json!({})).await.expect(412);
    assert_eq!(
        (stale.problem(), stale.text("epoch"), stale.text("coordinator")),
        ("stale-epoch", &*id(2), COORDINATOR)
    );
    let listed = bank.api.get("/branches?state=prepared").await.expect(200);
    let item = &listed.body["items"][0];
    assert_eq!(
        (&item["transaction"], &item["branch"], &item["state"]),
        (&json!(id(1)), &json!("b"), &json!("prepared"))
    );
    assert_eq!((&item["coordinator"]["id"], &item["coordinator"]["epoch"]), (&json!(COORDINATOR), &json!(id(2))));

    // A higher epoch, and a horizon above both.
    assert_eq!(state(&bank.told("abort", 9, 3, 5, &json!({})).await), (200, "aborted"));
    assert_eq!(bank.commit(1).await.expect(412).problem(), "stale-epoch");
    let told = async |call: &str, number| bank.told(call, number, 3, 0, &json!({ "remaining_ms": 1 })).await;
    assert_eq!(told("commit", 2).await.expect(404).problem(), "unknown-branch", "what has ended is forgotten");
    assert_eq!(vote(&told("prepare", 2).await), (409, "abort"), "and never begun again");
    assert_eq!(bank.in_doubt().await, 1, "what is prepared is not");
    assert_eq!(state(&told("commit", 1).await), (200, "committed"));
    assert_eq!(bank.accounts().await[&first], OPENING - 30);

    let other = json!({ "coordinator": { "id": COORDINATOR, "epoch": id(3), "url": "http://10.0.0.1:7070", "horizon": id(0) } });
    assert_eq!(bank.told("abort", 20, 3, 0, &other).await.expect(403).problem(), "forbidden-coordinator");
    for wrong in [json!({ "transaction": "17" }), json!({ "branch": "a b" }), json!({ "coordinator": null })] {
        assert_eq!(bank.told("abort", 20, 3, 0, &wrong).await.expect(400).problem(), "malformed");
    }
    assert_eq!(bank.api.post("/batch", &json!({})).await.expect(404).problem(), "not-found");
}

/// A transfer whose Python bank the coordinator can't reach any more after its vote; how it ends there all the same.
async fn ends_by_asking_alone(commits: bool) {
    if !is_python_there() {
        return;
    }
    let coordinator = Coordinator::start().await;
    let (mut python, other) = (Service::python_bank().await, Bank::start().await);
    let mut proxy = Proxy::start(&python.url());
    let last = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    });
    let branches = json!([
        posting(&proxy.url(), "debit", &account(1), -5),
        posting(&other.url(), "credit", &account(1), 5),
        { "participant": last.url(), "payload": {} },
    ]);
    let id = coordinator.api.begin(&json!({ "branches": branches, "timeout_ms": 120_000 })).await;
    let commit = coordinator.api.commit_in_background(&id);
    wait::until_so("both banks have voted", async || {
        let branches = &coordinator.api.transaction(&id).await["branches"];
        branches[0]["vote"] == "prepared" && branches[1]["vote"] == "prepared"
    })
    .await;
    proxy.down();
    python.kill();
    if !commits {
        let _ = coordinator.api.abort(&id).await.expect(200);
    }
    last.release();
    let _ = commit.await.unwrap().unwrap().expect(if commits { 200 } else { 409 });
    python.spawn_again();
    python.ready().await;
    python.nothing_in_doubt().await;
    let moved = if commits { 5 } else { 0 };
    assert_eq!(python.accounts().await[&account(1)], OPENING - moved);
    // No call gets through to it. The coordinator knows that it has ended because it says so.
    assert_eq!(coordinator.api.finished(&id).await["heuristic"], false);
    assert_eq!(python.accounts().await[&account(1)], OPENING - moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_bank_in_doubt_asks_and_obeys_a_commit() {
    ends_by_asking_alone(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_bank_in_doubt_asks_and_obeys_an_abort() {
    ends_by_asking_alone(false).await;
}

/// Where transfers are made.
struct Office {
    api: Api,
    /// The bank in Python, the one in Rust, the fee ledger.
    urls: [String; 3],
    closed: AtomicBool,
}

/// Makes transfers between the two banks, until the office closes, and keeps every answer.
async fn teller(office: Arc<Office>, seed: u64) -> Vec<Attempt> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut attempts = vec![];
    while !office.closed.load(Ordering::Relaxed) {
        let from = random.random_range(0..2);
        let cents: i64 = if random.random_ratio(1, 20) { 1_000_000 } else { random.random_range(1..60) };
        let (debit, credit) = (account(random.random_range(1..=ACCOUNTS)), account(random.random_range(1..=ACCOUNTS)));
        let branches = json!([
            posting(&office.urls[from], "debit", &debit, -(cents + FEE)),
            posting(&office.urls[1 - from], "credit", &credit, cents),
            { "participant": office.urls[2], "branch": "fee", "payload": { "cents": FEE } },
        ]);
        let body = json!({ "timeout_ms": random.random_range(100..2_000), "branches": branches });
        let begun = office.api.try_post("/v1/transactions", &body).await;
        let Some(id) = begun.ok().filter(|answer| answer.status == 201).map(|answer| answer.text("id").to_owned())
        else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let told = match office.api.try_commit(&id).await {
            Ok(answer) if answer.status == 200 => Told::Committed,
            Ok(answer) if answer.status == 409 => Told::Aborted,
            Ok(_) | Err(_) => Told::Unknown,
        };
        let moved = |bank, account: &str, cents| Move { account: named(bank, account), cents };
        let postings =
            vec![moved(from, &debit, -(cents + FEE)), moved(1 - from, &credit, cents), moved(2, "fees", FEE)];
        attempts.push(Attempt { transaction: id, moves: postings, told: vec![told] });
    }
    attempts
}

async fn holdings(python: &Service, rust: &Bank, fees: &Service) -> BTreeMap<String, i64> {
    let all = [python.accounts().await, rust.accounts().await, fees.accounts().await];
    let of = |(number, accounts): (usize, BTreeMap<String, i64>)| {
        accounts.into_iter().map(move |(name, cents)| (named(number, &name), cents))
    };
    all.into_iter().enumerate().flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_in_python_takes_part_in_transfers_and_loses_no_money_whatever_is_killed() {
    if !is_python_there() {
        return;
    }
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = setting("UNANIMOUS_PYTHON_ROUNDS").unwrap_or(25);
    let seed = setting("UNANIMOUS_SEED").unwrap_or_else(|| rand::rng().random());
    println!("{rounds} rounds, UNANIMOUS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut coordinator = Coordinator::start().await;
    let (mut python, rust, fees) = (Service::python_bank().await, Bank::start().await, Service::fee_ledger().await);
    let opening = holdings(&python, &rust, &fees).await;
    let urls = [python.url(), rust.url(), fees.url()];
    let office = Arc::new(Office { api: coordinator.api.clone(), urls, closed: AtomicBool::new(false) });
    let tellers: Vec<_> = (0..TELLERS).map(|_| tokio::spawn(teller(office.clone(), random.random()))).collect();
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..500))).await;
        let victims: u8 = random.random_range(1..4);
        if victims & 1 != 0 {
            python.kill();
        }
        if victims & 2 != 0 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
            coordinator.kill();
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
        if victims & 1 != 0 {
            python.spawn_again();
        }
        if victims & 2 != 0 {
            coordinator.spawn_again(None);
        }
        coordinator.ready().await;
        python.ready().await;
    }
    office.closed.store(true, Ordering::Relaxed);
    let mut history = History { opening, ..History::default() };
    for teller in tellers {
        history.attempts.extend(teller.await.unwrap());
    }
    for attempt in &history.attempts {
        let ended = coordinator.api.finished(&attempt.transaction).await;
        history.shown.insert(attempt.transaction.clone(), ended);
    }
    python.nothing_in_doubt().await;
    rust.nothing_in_doubt().await;
    fees.nothing_in_doubt().await;
    history.closing = holdings(&python, &rust, &fees).await;
    history.assert_sound();
    let sum = |accounts: &BTreeMap<String, i64>| accounts.values().sum::<i64>();
    assert_eq!(sum(&history.closing), sum(&history.opening), "the sum of all money");
    let committed = history.shown.values().filter(|shown| shown["decision"] == "commit").count();
    println!("{} transfers, {committed} committed", history.attempts.len());
    assert!(committed as u64 > rounds, "hardly anything was committed");
}
