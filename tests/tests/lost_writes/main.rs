//! Losses of power, for real programs on a real disk: what was not synced vanishes, in whole or in part, and no answer that
//! was given is contradicted by what is left. And disks that lie about their syncs, or fail.
//!
//! Always true: the programs under test are the ones that are shipped; what they do to their data folders is noted by a
//! library that is preloaded into them (`lost_writes.c`), and what a loss of power leaves is worked out from that (`disk.rs`).
//!
//! `UNANIMOUS_ROUNDS` sets how often power is lost (default 8), or `UNANIMOUS_SECONDS` for how long it is; `UNANIMOUS_SEED`
//! what is lost (default: a fresh one, printed). Losses depend on how the machine schedules, so a seed makes a failure
//! likely again, not certain.

mod disk;
mod faults;
mod points;
mod rounds;
mod told;
mod trace;
mod watched;

use rand::RngExt;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seed of a test, which it prints.
fn seed(test: &str) -> u64 {
    let seed = setting("UNANIMOUS_SEED").unwrap_or_else(|| rand::rng().random());
    println!("again: UNANIMOUS_SEED={seed} cargo test --release --workspace --test lost_writes -- {test}");
    seed
}
