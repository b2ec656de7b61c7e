//! The simulator: the engine and the participants' machines that serve, on a simulated disk, network and clock, all driven
//! from one seed. Whatever is lost, doubled, delayed or killed: nothing that was told is contradicted, and once the faults
//! are over everything finishes, the same everywhere.
//!
//! `UNANIMOUS_SEEDS=N` runs N seeds (from `UNANIMOUS_SEED`, if that is given, too); a failing seed prints what happened, step
//! by step, and how to run it again.

mod disk;
mod node;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn run(seed: u64, steps: usize) {
    let mut world = World::new(seed);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..steps {
            world.step();
        }
        world.heal();
    }));
    if let Err(panic) = ran {
        for line in world.transcript() {
            eprintln!("{line}");
        }
        eprintln!(
            "seed {seed} failed; again: UNANIMOUS_SEED={seed} cargo test --release --workspace --test simulation -- --nocapture"
        );
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn nothing_told_is_contradicted_and_after_the_faults_everything_finishes() {
    let first = number("UNANIMOUS_SEED");
    let count = number("UNANIMOUS_SEEDS").unwrap_or(if first.is_some() { 1 } else { 2_000 });
    let first = first.unwrap_or(0);
    let workers: Vec<_> = (0..2)
        .map(|worker| {
            std::thread::spawn(move || {
                for seed in (first..first + count).filter(|seed| seed % 2 == worker) {
                    run(seed, 400);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("no seed fails");
    }
}
