//! Kill and restart, again and again, under the bank's workload.
//!
//! `UNANIMOUS_ROUNDS` sets how often (default 100), `UNANIMOUS_SEED` which moments and victims (default: a fresh one,
//! printed). Kills depend on how the machine schedules, so a seed makes a failure likely again, not certain.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use unanimous_tests::{
    api::Api,
    bank::{ACCOUNTS, Bank, account, holdings, named, posting},
    coordinator::Coordinator,
    history::{Attempt, History, Move, Told},
};

const TELLERS: usize = 6;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What tellers share.
struct Office {
    api: Api,
    /// The banks' URLs.
    banks: [String; 2],
    closed: AtomicBool,
    tried: AtomicUsize,
}

/// Sends transfers, one after the other, until the office closes. A teller who gets no answer asks again later, as an
/// application would, and keeps every answer.
async fn teller(office: Arc<Office>, seed: u64) -> Vec<Attempt> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut attempts = vec![];
    while !office.closed.load(Ordering::Relaxed) {
        let from = random.random_range(0..2);
        let to = 1 - from;
        // Now and then more than any account holds.
        let cents: i64 = if random.random_ratio(1, 20) { 1_000_000 } else { random.random_range(1..60) };
        let (debit, credit) = (account(random.random_range(1..=ACCOUNTS)), account(random.random_range(1..=ACCOUNTS)));
        let body = json!({
            // Some are over before a bank that was killed is back.
            "timeout_ms": random.random_range(100..2_000),
            "branches": [
                posting(&office.banks[from], "debit", &debit, -cents),
                posting(&office.banks[to], "credit", &credit, cents),
            ],
        });
        let begun = office.api.try_post("/v1/transactions", &body).await;
        let Some(id) = begun.ok().filter(|answer| answer.status == 201).map(|answer| answer.text("id").to_owned())
        else {
            // The coordinator is away.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        office.tried.fetch_add(1, Ordering::Relaxed);
        let mut told = vec![commit(&office.api, &id).await];
        if told[0] == Told::Unknown && random.random_bool(0.5) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
            told.push(commit(&office.api, &id).await);
        }
        let moves =
            vec![Move { account: named(from, &debit), cents: -cents }, Move { account: named(to, &credit), cents }];
        attempts.push(Attempt { transaction: id, moves, told });
    }
    attempts
}

async fn commit(api: &Api, id: &str) -> Told {
    match api.try_commit(id).await {
        Ok(answer) if answer.status == 200 => Told::Committed,
        Ok(answer) if answer.status == 409 => Told::Aborted,
        Ok(answer) if matches!(answer.status, 202 | 503) => Told::Unknown,
        // A transaction that was begun is known for ever after, and can always be asked to commit.
        Ok(answer) => panic!("{answer:?}"),
        Err(_) => Told::Unknown,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_at_any_moment_everything_ends_and_no_money_is_lost() {
    let rounds = setting("UNANIMOUS_ROUNDS").unwrap_or(100);
    let seed = setting("UNANIMOUS_SEED").unwrap_or_else(|| rand::rng().random());
    println!("{rounds} rounds, UNANIMOUS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut coordinator = Coordinator::start().await;
    let mut banks = [Bank::start().await, Bank::start().await];
    let opening = holdings(&banks).await;
    let office = Arc::new(Office {
        api: coordinator.api.clone(),
        banks: [banks[0].url(), banks[1].url()],
        closed: AtomicBool::new(false),
        tried: AtomicUsize::new(0),
    });
    let tellers: Vec<_> = (0..TELLERS).map(|_| tokio::spawn(teller(office.clone(), random.random()))).collect();

    for round in 1..=rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
        kill_and_restart(&mut coordinator, &mut banks, &mut random).await;
        if round % 10 == 0 {
            println!("round {round} of {rounds}: {} transfers so far", office.tried.load(Ordering::Relaxed));
        }
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
    for bank in &banks {
        bank.nothing_in_doubt().await;
    }
    history.closing = holdings(&banks).await;
    history.assert_sound();
    report(&history, rounds);
}

/// Kills one of them, two, or all, and starts them again; now and then one that is just starting is killed once more.
async fn kill_and_restart(coordinator: &mut Coordinator, banks: &mut [Bank; 2], random: &mut StdRng) {
    let victims: u8 = random.random_range(1..8);
    let coordinator_dies = victims & 1 != 0;
    let dying = [victims & 2 != 0, victims & 4 != 0];
    let again = random.random_ratio(1, 4);
    if coordinator_dies {
        coordinator.kill();
    }
    for (bank, _) in banks.iter_mut().zip(dying).filter(|(_, dies)| *dies) {
        pause(random, 30).await;
        bank.kill();
    }
    pause(random, 400).await;
    for (bank, _) in banks.iter_mut().zip(dying).filter(|(_, dies)| *dies) {
        bank.spawn_again(None);
        if again {
            pause(random, 60).await;
            bank.kill();
            bank.spawn_again(None);
        }
    }
    if coordinator_dies {
        coordinator.spawn_again(None);
        if again {
            pause(random, 60).await;
            coordinator.kill();
            coordinator.spawn_again(None);
        }
    }
    coordinator.ready().await;
    for bank in banks {
        bank.ready().await;
    }
}

/// At most so many milliseconds.
async fn pause(random: &mut StdRng, most: u64) {
    tokio::time::sleep(Duration::from_millis(random.random_range(0..=most))).await;
}

/// Says what happened, and fails if too little did for the test to mean anything.
fn report(history: &History, rounds: u64) {
    let mut codes: BTreeMap<String, usize> = BTreeMap::new();
    for shown in history.shown.values() {
        let code = shown["reason"]["code"].as_str().unwrap_or("committed");
        *codes.entry(code.to_owned()).or_default() += 1;
    }
    let unanswered = history.attempts.iter().filter(|attempt| attempt.told.contains(&Told::Unknown)).count();
    println!("{} transfers: {codes:?}; {unanswered} clients got no answer at first", history.attempts.len());
    assert!(
        codes.get("committed").is_some_and(|count| *count as u64 > rounds),
        "hardly anything was committed: {codes:?}"
    );
    assert!(unanswered > 0, "no kill met a commit under way");
}
