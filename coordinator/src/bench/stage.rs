//! All that runs during a measurement of throughput, and measuring one thing after the other on it.
//!
//! Always true: what a coordinator has begun is finished before its processor time, its requests and its forced writes
//! are read, and before the next measurement begins.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    load::Loaded,
    log_alone::Logged,
    numbers::{Pace, ratio, real},
    options::{Bench, Hold, Participants},
    participant::Received,
    process::{self, Process, free_address, get},
};

/// What is measured. The order is that of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The null coordinator.
    Null,
    /// The batching null coordinator.
    BatchingNull,
    /// The log alone.
    Log,
    /// The coordinator; its participants take single calls only.
    Single,
    /// The coordinator; its participants have offered to take batches.
    Batching,
    /// The same, and the client begins, enlists and commits by calls of their own.
    Interactive,
}

impl Target {
    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null coordinator",
            Self::BatchingNull => "batching null coordinator",
            Self::Log => "log alone",
            Self::Single => "single calls",
            Self::Batching => "batching",
            Self::Interactive => "interactive, batching",
        }
    }

    const fn batches(self) -> bool {
        match self {
            Self::BatchingNull | Self::Batching | Self::Interactive => true,
            Self::Null | Self::Log | Self::Single => false,
        }
    }
}

/// One measurement: each but `pace` a transaction.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Measured {
    pub target: Target,
    pub clients: usize,
    pub pace: Pace,
    /// Of the coordinator, or of what stands for it; of all participants; of the load. In microseconds.
    pub cpu_us: f64,
    pub participants_cpu_us: f64,
    pub load_cpu_us: f64,
    /// To participants.
    pub requests: f64,
    pub forced_writes: Option<f64>,
}

/// The processes.
pub struct Stage<'a> {
    bench: &'a Bench,
    folder: PathBuf,
    errors: PathBuf,
    null: Process,
    batching_null: Process,
    coordinator: Process,
    /// Those that take single calls only, and those that offer batches.
    participants: [Vec<Process>; 2],
    logs: usize,
}

/// Used up so far.
struct Used {
    cpu_us: f64,
    participants_cpu_us: f64,
    requests: u64,
    forced_writes: Option<f64>,
}

/// A command line.
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Starts a coordinator as `serve` does.
pub async fn coordinator(bench: &Bench, folder: &str, address: SocketAddr, errors: &Path) -> Result<Process, String> {
    let args = ["serve", "--listen", &address.to_string(), "--data-dir", folder, "--log", &bench.log];
    Process::start("coordinator", &words(&args), address, errors).await
}

/// Starts a participant.
pub async fn participant(
    address: SocketAddr,
    batch: bool,
    hold: Hold,
    store: Option<&str>,
    errors: &Path,
) -> Result<Process, String> {
    let (listen, batch) = (address.to_string(), batch.to_string());
    let mut args = words(&["bench-participant", "--listen", &listen, "--batch", &batch, "--hold", hold.name()]);
    if let Some(store) = store {
        args.extend(words(&["--store", store]));
    }
    Process::start("participant", &args, address, errors).await
}

/// The arguments of a load, but for who takes part.
pub fn load_args(bench: &Bench, target: &Process, clients: usize, seconds: f64) -> Vec<String> {
    let (seconds, warm_up) = (seconds.to_string(), (seconds * 0.3).min(1.0).to_string());
    let (address, clients, payload) = (target.address.to_string(), clients.to_string(), bench.payload.to_string());
    words(&[
        "bench-load",
        "--target",
        &address,
        "--clients",
        &clients,
        "--seconds",
        &seconds,
        "--warm-up",
        &warm_up,
        "--payload",
        &payload,
        "--respond",
        bench.respond.name(),
    ])
}

impl<'a> Stage<'a> {
    /// Starts all of them, with their data in this folder.
    pub async fn start(bench: &'a Bench, folder: PathBuf) -> Result<Self, String> {
        let errors = folder.join("stderr");
        let mut participants = [vec![], vec![]];
        for (batch, of_kind) in participants.iter_mut().enumerate() {
            for at in 0..bench.branches {
                let store = folder.join(format!("participant-{batch}-{at}")).display().to_string();
                let store = (bench.participants == Participants::Store).then_some(&*store);
                of_kind.push(participant(free_address()?, batch == 1, Hold::Nothing, store, &errors).await?);
            }
        }
        let null = async |name: &str, part: &str| {
            let address = free_address()?;
            Process::start(name, &words(&[part, "--listen", &address.to_string()]), address, &errors).await
        };
        let (null, batching_null) = (
            null("null coordinator", "bench-null").await?,
            null("batching null coordinator", "bench-batching-null").await?,
        );
        let log = folder.join("coordinator").display().to_string();
        let coordinator = coordinator(bench, &log, free_address()?, &errors).await?;
        Ok(Self { bench, folder, errors, null, batching_null, coordinator, participants, logs: 0 })
    }

    fn process(&self, target: Target) -> &Process {
        match target {
            Target::Null => &self.null,
            Target::BatchingNull => &self.batching_null,
            Target::Log | Target::Single | Target::Batching | Target::Interactive => &self.coordinator,
        }
    }

    /// Measures one thing.
    pub async fn measure(&mut self, target: Target, clients: usize, seconds: f64) -> Result<Measured, String> {
        if target == Target::Log {
            let logged = self.log(clients, seconds * 0.6, false).await?;
            let forced_writes = ratio(real(logged.forced_writes), logged.pace.rate * seconds * 0.6);
            let cpu_us = logged.cpu_us;
            let (participants_cpu_us, load_cpu_us, requests) = (0.0, 0.0, 0.0);
            let pace = logged.pace;
            return Ok(Measured {
                target,
                clients,
                pace,
                cpu_us,
                participants_cpu_us,
                load_cpu_us,
                requests,
                forced_writes,
            });
        }
        let mut args = load_args(self.bench, self.process(target), clients, seconds);
        args.extend(words(&[
            "--aborts",
            &self.bench.aborts.to_string(),
            "--branches",
            &self.bench.branches.to_string(),
        ]));
        for participant in &self.participants[usize::from(target.batches())] {
            args.extend(words(&["--participant", &format!("http://{}", participant.address)]));
        }
        let ours = matches!(target, Target::Single | Target::Batching);
        if target == Target::Interactive || (self.bench.interactive && ours) {
            args.push("--interactive".to_owned());
        }
        let before = self.used(target).await?;
        let loaded: Loaded = process::run("load", &args, &self.errors).await?;
        self.settle(target).await?;
        let after = self.used(target).await?;
        self.check(target, &loaded)?;
        let transactions = real(loaded.transactions.max(1));
        let forced_writes = after.forced_writes.zip(before.forced_writes);
        Ok(Measured {
            target,
            clients,
            pace: loaded.pace,
            cpu_us: (after.cpu_us - before.cpu_us) / transactions,
            participants_cpu_us: (after.participants_cpu_us - before.participants_cpu_us) / transactions,
            load_cpu_us: loaded.cpu_us / transactions,
            requests: real(after.requests - before.requests) / transactions,
            forced_writes: forced_writes.map(|(after, before)| (after - before) / transactions),
        })
    }

    /// The log, or `fdatasync`, with nothing else.
    pub async fn log(&mut self, clients: usize, seconds: f64, fdatasync: bool) -> Result<Logged, String> {
        self.logs += 1;
        let folder = self.folder.join(format!("log-{}", self.logs));
        let (clients, seconds, branches) = (clients.to_string(), seconds.to_string(), self.bench.branches.to_string());
        let place = folder.display().to_string();
        let mut args = words(&[
            "bench-log",
            "--folder",
            &place,
            "--clients",
            &clients,
            "--seconds",
            &seconds,
            "--branches",
            &branches,
        ]);
        args.extend(fdatasync.then(|| "--fdatasync".to_owned()));
        let logged = process::run("log", &args, &self.errors).await;
        let _ = tokio::fs::remove_dir_all(folder).await;
        logged
    }

    /// A load in which more or fewer were aborted than asked for has measured something else.
    fn check(&self, target: Target, loaded: &Loaded) -> Result<(), String> {
        let wanted = real(loaded.transactions) * f64::from(self.bench.aborts) / 100.0;
        let got = real(loaded.aborted);
        // Each client counts for itself.
        let off = if self.bench.aborts == 0 { 0.0 } else { real(loaded.transactions).sqrt() + 1000.0 };
        if loaded.transactions > 0 && (got - wanted).abs() <= off {
            return Ok(());
        }
        let (all, name) = (loaded.transactions, target.name());
        Err(format!(
            "{name}: of {all} transactions {got} were aborted where {wanted} were to be: the figures would mean nothing"
        ))
    }

    /// Waits until nothing is under way any more.
    async fn settle(&mut self, target: Target) -> Result<(), String> {
        if matches!(target, Target::Single | Target::Batching | Target::Interactive) {
            finished(&mut self.coordinator).await?;
        }
        let mut before = self.received(target).await?;
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = self.received(target).await?;
            if now == before {
                return Ok(());
            }
            before = now;
        }
    }

    async fn received(&self, target: Target) -> Result<Vec<Received>, String> {
        let mut all = vec![];
        for participant in &self.participants[usize::from(target.batches())] {
            let text = get(participant.address, "/stats").await?;
            all.push(serde_json::from_str(&text).map_err(|error| format!("a participant's counters: {error}"))?);
        }
        Ok(all)
    }

    async fn used(&self, target: Target) -> Result<Used, String> {
        let process = self.process(target);
        let mut participants_cpu_us = 0.0;
        for participant in &self.participants[usize::from(target.batches())] {
            participants_cpu_us += participant.cpu_us()?;
        }
        let forced_writes = match target {
            Target::Null | Target::BatchingNull | Target::Log => None,
            Target::Single | Target::Batching | Target::Interactive => {
                Some(metric(&get(process.address, "/metrics").await?, "unanimous_log_sync_seconds_count")?)
            }
        };
        let requests = self.received(target).await?.iter().map(|received| received.requests).sum();
        Ok(Used { cpu_us: process.cpu_us()?, participants_cpu_us, requests, forced_writes })
    }
}

/// Waits until a coordinator has nothing left to do.
pub async fn finished(coordinator: &mut Process) -> Result<(), String> {
    let address = coordinator.address;
    coordinator.until(async || unfinished(address).await.is_ok_and(|unfinished| unfinished == 0.0)).await
}

/// How many transactions a coordinator has to finish.
pub async fn unfinished(address: SocketAddr) -> Result<f64, String> {
    metric(&get(address, "/metrics").await?, "unanimous_transactions_unfinished")
}

/// A metric without labels.
pub fn metric(text: &str, name: &str) -> Result<f64, String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    value.ok_or_else(|| format!("/metrics has no {name}"))
}
