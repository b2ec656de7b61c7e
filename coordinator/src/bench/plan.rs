//! What is measured, in which order, how long, and what becomes of it.

use std::{io::IsTerminal, path::Path};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    hang,
    numbers::median,
    options::{Bench, Participants},
    plot, recovery,
    report::Found,
    stage::{Measured, Stage, Target},
};

/// How thoroughly.
struct Plan {
    seconds: f64,
    /// Of each measurement the median one counts.
    rounds: usize,
    in_doubt: u64,
}

impl Plan {
    fn of(bench: &Bench) -> Self {
        let seconds = bench.seconds.unwrap_or(if bench.quick { 0.8 } else { 3.0 });
        if bench.quick {
            Self { seconds, rounds: 1, in_doubt: 10_000 }
        } else {
            Self { seconds, rounds: 3, in_doubt: 100_000 }
        }
    }
}

/// Measures, prints and writes.
pub async fn run(bench: &Bench) -> Result<(), String> {
    let listening = |error: std::io::Error| format!("signals can't be received: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(listening)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(listening)?;
    // Ended either way, the processes and the folder go with what holds them.
    let found = tokio::select! {
        found = measure(bench) => found?,
        _ = terminate.recv() => return Err("ended before all was measured".to_owned()),
        _ = interrupt.recv() => return Err("ended before all was measured".to_owned()),
    };
    print!("{}", found.text().map_err(|error| error.to_string())?);
    if let Some(path) = &bench.json {
        write(path, &format!("{:#}\n", found.json(bench)))?;
    }
    if let Some(path) = &bench.plot {
        write(path, &plot::svg(&found).map_err(|error| error.to_string())?)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{} can't be written: {error}", path.display()))
}

async fn measure(bench: &Bench) -> Result<Found, String> {
    let plan = Plan::of(bench);
    let folder = tempfile::Builder::new().prefix("unanimous-bench-").tempdir_in(&bench.folder);
    let folder = folder.map_err(|error| format!("there can be no folder in {}: {error}", bench.folder.display()))?;
    let jobs = jobs(bench);
    let bar = bar(jobs.len() * plan.rounds + 3);
    let mut found = Found::default();
    {
        bar.set_message("starting");
        let mut stage = Stage::start(bench, folder.path().to_owned()).await?;
        bar.set_message("fdatasync alone");
        found.fdatasync = stage.log(1, plan.seconds.min(1.0), true).await?;
        bar.inc(1);
        for of_clients in jobs.chunk_by(|one, other| one.1 == other.1) {
            // In turn, so that a machine that is slower for a while is so for all of them.
            let mut rounds: Vec<Vec<Measured>> = of_clients.iter().map(|_| vec![]).collect();
            for _ in 0..plan.rounds {
                for ((target, clients), rounds) in of_clients.iter().zip(&mut rounds) {
                    bar.set_message(format!("{}, {clients} clients", target.name()));
                    rounds.push(stage.measure(*target, *clients, plan.seconds).await?);
                    bar.inc(1);
                }
            }
            found
                .measured
                .extend(rounds.into_iter().filter_map(|rounds| median(rounds, |measured| measured.pace.rate)));
        }
    }
    if bench.participants == Participants::Null {
        bar.set_message("one participant of ten hangs");
        found.hang = Some(hang::run(bench, folder.path(), plan.seconds, plan.rounds).await);
        bar.inc(1);
        bar.set_message(format!("{} in doubt at SIGKILL", plan.in_doubt));
        found.recovery = Some(recovery::run(bench, folder.path(), plan.in_doubt).await);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(found)
}

/// Each target at each number of clients.
fn jobs(bench: &Bench) -> Vec<(Target, usize)> {
    let targets =
        [Target::Null, Target::BatchingNull, Target::Log, Target::Single, Target::Batching, Target::Interactive];
    let each = |clients: &usize| {
        let clients = *clients;
        let wanted = move |target: &Target| *target != Target::Interactive || matches!(clients, 32 | 128);
        targets.into_iter().filter(wanted).map(move |target| (target, clients))
    };
    bench.clients.iter().flat_map(each).collect()
}

/// Shown on a terminal only.
fn bar(steps: usize) -> ProgressBar {
    let plain = !std::io::stderr().is_terminal();
    let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
    match ProgressStyle::with_template("{bar:40} {pos}/{len}  {elapsed}, {eta} left  {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
