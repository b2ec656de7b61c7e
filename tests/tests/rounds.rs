//! Kill and restart, again and again, under the bank's workload.
//!
//! `UNANIMOUS_ROUNDS` sets how often (default 100), `UNANIMOUS_SEED` which moments and victims (default: a fresh one,
//! printed). Kills depend on how the machine schedules, so a seed makes a failure likely again, not certain.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use unanimous_tests::{
    bank::{Bank, holdings},
    coordinator::Coordinator,
    history::{History, Told},
    tellers::Tellers,
};

const TELLERS: usize = 6;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
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
    let tellers = Tellers::start(TELLERS, &coordinator.api, [banks[0].url(), banks[1].url()], &mut random);

    for round in 1..=rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
        kill_and_restart(&mut coordinator, &mut banks, &mut random).await;
        if round % 10 == 0 {
            println!("round {round} of {rounds}: {} transfers so far", tellers.tried());
        }
    }

    let history = tellers.end(&banks, opening).await;
    // A kill makes nothing forgotten that anybody was told of.
    let forgotten = history.attempts.iter().find(|attempt| !history.shown.contains_key(&attempt.transaction));
    assert!(forgotten.is_none(), "nobody knows of {forgotten:?}");
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
