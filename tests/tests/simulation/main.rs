//! The simulator: the engine and the participants' machines that serve, on a simulated disk, network and clock, all driven
//! from one seed. Whatever is lost, doubled, delayed or killed: nothing that was told is contradicted, and once the faults
//! are over everything finishes, the same everywhere.
//!
//! A node is called by mistake for another one, or fooled by a forged message, or put on an empty store; clocks jump by
//! years; aborts are given up. Each rule that keeps this harmless is one that a known bug of `tests/planted` takes out.
//!
//! `UNANIMOUS_SEEDS=N` runs N seeds (from `UNANIMOUS_SEED`, if that is given, too), `UNANIMOUS_SECONDS=N` as many as that time
//! allows; a failing seed prints what happened, step by step, and how to run it again.

mod disk;
mod node;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use world::World;

/// How many seeds there are if nothing else is said, and how many steps each takes before the faults are over.
const SEEDS: u64 = 10_000;
const STEPS: usize = 400;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs a seed, and once more if it fails, to print what happens.
fn run(seed: u64, steps: usize) {
    if let Err(panic) = run_in(&mut World::new(seed, false), steps) {
        let mut world = World::new(seed, true);
        let again = run_in(&mut world, steps);
        for line in world.transcript() {
            eprintln!("{line}");
        }
        if again.is_ok() {
            eprintln!("seed {seed} has not failed again: something in it is not decided by the seed");
        }
        eprintln!(
            "seed {seed} failed; again: UNANIMOUS_SEED={seed} cargo test --release --workspace --test simulation -- --nocapture"
        );
        std::panic::resume_unwind(panic);
    }
}

fn run_in(world: &mut World, steps: usize) -> std::thread::Result<()> {
    catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..steps {
            world.step();
        }
        world.heal();
    }))
}

#[test]
fn nothing_told_is_contradicted_and_after_the_faults_everything_finishes() {
    let first = number("UNANIMOUS_SEED");
    let end = number("UNANIMOUS_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let count = number("UNANIMOUS_SEEDS").unwrap_or(match (first, end) {
        (_, Some(_)) => u64::MAX / 2,
        (Some(_), None) => 1,
        (None, None) => SEEDS,
    });
    let first = first.unwrap_or(0);
    let done = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..2)
        .map(|worker| {
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                for seed in (first..first + count).filter(|seed| seed % 2 == worker) {
                    if end.is_some_and(|end| Instant::now() > end) {
                        return;
                    }
                    run(seed, STEPS);
                    if done.fetch_add(1, Ordering::Relaxed) % 10_000 == 9_999 {
                        println!("{} seeds", done.load(Ordering::Relaxed));
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("no seed fails");
    }
    println!("{} seeds of {STEPS} steps each, and all finished", done.load(Ordering::Relaxed));
}
