//! Power lost again and again, under the bank's workload.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use unanimous_tests::{
    bank::{Bank, holdings},
    coordinator::Coordinator,
    history::{Attempt, History, Told},
    tellers::Tellers,
};

use crate::{disk::Left, seed, setting, watched::Watched};

const TELLERS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn whoever_loses_power_at_any_moment_everything_ends_and_no_answer_is_contradicted() {
    let mut random = StdRng::seed_from_u64(seed("whoever_loses_power"));
    let (mut coordinator, mut coordinators_disk) = coordinator().await;
    let (first, firsts_disk) = bank().await;
    let (second, seconds_disk) = bank().await;
    let (mut banks, mut banks_disks) = ([first, second], [firsts_disk, seconds_disk]);
    let opening = holdings(&banks).await;
    let tellers = Tellers::start(TELLERS, &coordinator.api, [banks[0].url(), banks[1].url()], &mut random);
    let mut rounds = 0;
    while more(rounds) {
        rounds += 1;
        tellers.try_more(random.random_range(5..60)).await;
        let (dying, left): (u8, Left) = (random.random_range(1..8), Left::ALL[random.random_range(0..Left::ALL.len())]);
        println!("round {rounds}: {} transfers so far; {dying:03b} lose power, {left:?} is left", tellers.tried());
        if dying & 1 != 0 {
            coordinator.kill();
            if random.random_ratio(1, 3) {
                // What the next one found, and told, it has to have synced itself.
                coordinator.spawn_again(None);
                coordinator.ready().await;
                tellers.try_more(random.random_range(1..10)).await;
                coordinator.kill();
            }
            coordinators_disk.lose_power(left, &mut random);
        }
        for (number, (bank, disk)) in banks.iter_mut().zip(&mut banks_disks).enumerate() {
            if dying & (2 << number) != 0 {
                bank.kill();
                disk.lose_power(left, &mut random);
                bank.spawn_again(None);
            }
        }
        if dying & 1 != 0 {
            coordinator.spawn_again(None);
        }
        coordinator.ready().await;
        for bank in &mut banks {
            bank.ready().await;
        }
    }
    let history = tellers.end(&banks, opening).await;
    history.assert_sound();
    report(&history, rounds);
}

async fn coordinator() -> (Coordinator, Watched) {
    let home = tempfile::tempdir().expect("a folder can be made");
    let watched = Watched::new(&home.path().join("data"));
    let mut coordinator = Coordinator::spawn_in(home, watched.setup());
    coordinator.ready().await;
    (coordinator, watched)
}

async fn bank() -> (Bank, Watched) {
    let home = tempfile::tempdir().expect("a folder can be made");
    let watched = Watched::new(&home.path().join("data"));
    let mut bank = Bank::spawn_in(home, watched.setup());
    bank.ready().await;
    (bank, watched)
}

fn more(rounds: u64) -> bool {
    static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let begun = BEGUN.get_or_init(Instant::now);
    match setting("UNANIMOUS_SECONDS") {
        Some(seconds) => begun.elapsed() < Duration::from_secs(seconds),
        None => rounds < setting("UNANIMOUS_ROUNDS").unwrap_or(8),
    }
}

/// Says what happened, and fails if too little did for the test to mean anything.
fn report(history: &History, rounds: u64) {
    let committed = history.shown.values().filter(|shown| shown["decision"] == "commit").count();
    let with = |wanted: fn(&Attempt) -> bool| history.attempts.iter().filter(|attempt| wanted(attempt)).count();
    let unanswered = with(|attempt| attempt.told.contains(&Told::Unknown));
    let forgotten = history.attempts.len() - history.shown.len();
    println!(
        "{rounds} losses of power, {} transfers: {committed} committed, {forgotten} forgotten; {unanswered} got no answer at first",
        history.attempts.len()
    );
    assert!(committed as u64 > rounds, "hardly anything was committed");
}
