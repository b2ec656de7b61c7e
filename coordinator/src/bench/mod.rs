//! `unanimous bench`: how fast this coordinator is on this machine, as ratios to floors measured in the same run.
//!
//! Always true: coordinator, participants and load are processes of their own on loopback; what is compared was measured
//! in the same run, in turn, under the same load; no floor is written worse than what it is a floor for.
//!
//! The floors: the *null coordinator* sends and receives what the coordinator does, without log or state; the *batching
//! null coordinator* sends in one request all that waits for a participant; the log alone; `fdatasync` alone.

mod connection;
mod goals;
mod hang;
mod lanes;
mod load;
mod log_alone;
mod null;
mod numbers;
mod options;
mod participant;
mod plan;
mod plot;
mod process;
mod recovery;
mod report;
mod scan;
mod server;
mod single;
mod stage;
#[cfg(test)]
mod tests;

use serde::Serialize;
use tokio::runtime::Builder;

pub use self::options::{Bench, Part};

/// Measures, and prints what was found.
pub fn run(bench: &Bench) -> Result<(), String> {
    let mut runtime = Builder::new_current_thread();
    runtime.enable_all().build().map_err(|error| error.to_string())?.block_on(plan::run(bench))
}

/// One of the processes of a measurement.
pub fn run_part(part: Part) -> Result<(), String> {
    // Participants that keep nothing and loads wait most of the time: a second thread would only be one more to wake.
    // The others have what the coordinator has.
    let alone = match &part {
        Part::BenchParticipant(participant) => participant.store.is_none(),
        Part::BenchLoad(_) | Part::BenchScan(_) | Part::BenchLog(_) => true,
        Part::BenchNull(_) | Part::BenchBatchingNull(_) => false,
    };
    let mut runtime = if alone { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let runtime = runtime.enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        match part {
            Part::BenchParticipant(options) => participant::run(options).await,
            Part::BenchNull(options) => null::run(options, false).await,
            Part::BenchBatchingNull(options) => null::run(options, true).await,
            Part::BenchLoad(options) => print(&load::run(options).await?),
            Part::BenchLog(options) => print(&log_alone::run(&options).await?),
            Part::BenchScan(options) => print(&scan::run(&options.folder)?),
        }
    })
}

fn print(what: &impl Serialize) -> Result<(), String> {
    println!("{}", serde_json::to_string(what).map_err(|error| error.to_string())?);
    Ok(())
}
