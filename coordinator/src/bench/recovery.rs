//! Many transactions in doubt when the coordinator is killed: what they cost while they live, and until all is finished.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    load::Loaded,
    numbers::real,
    options::{Bench, Hold},
    process::{self, Process, free_address},
    scan::Scanned,
    stage::{coordinator, finished, load_args, participant, unfinished, words},
};

/// How that went.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// How many were in doubt.
    pub in_doubt: u64,
    /// The memory of the process for each, in bytes: with whatever its log and its allocator took meanwhile.
    pub bytes_each: f64,
    /// Reading and decoding them from `RocksDB` and no more, in seconds.
    pub scan: f64,
    /// From the start of the process to the first 200 of `/readyz`, in seconds.
    pub ready: f64,
    /// From there until the last was finished, in seconds.
    pub finish: f64,
    /// The most memory the recovering process had, in bytes.
    pub peak: f64,
}

/// The clients that make them.
const CLIENTS: usize = 128;

/// Whatever is set up once, and not for each transaction, is there after so many.
const FIRST: u64 = 1000;

/// Measures it with so many transactions.
pub async fn run(bench: &Bench, folder: &Path, in_doubt: u64) -> Result<Recovery, String> {
    let errors = folder.join("stderr");
    let log = folder.join("recovery").display().to_string();
    let address = free_address()?;
    let (mut serving, at) = (coordinator(bench, &log, address, &errors).await?, free_address()?);
    let holding = participant(at, true, Hold::Decisions, None, &errors).await?;
    make(bench, &mut serving, at, FIRST, FIRST, &errors).await?;
    let before = serving.resident()?;
    make(bench, &mut serving, at, in_doubt - FIRST, in_doubt, &errors).await?;
    let bytes_each = (serving.resident()? - before) / real(in_doubt - FIRST);
    serving.kill().await;
    holding.kill().await;
    let _answering = participant(at, true, Hold::Nothing, None, &errors).await?;

    let scanned: Scanned = process::run("scan", &words(&["bench-scan", "--folder", &log]), &errors).await?;
    if scanned.records < in_doubt {
        return Err(format!(
            "{in_doubt} transactions were in doubt, and the log has {} records of such",
            scanned.records
        ));
    }
    let began = Instant::now();
    let mut recovering = coordinator(bench, &log, address, &errors).await?;
    let ready = began.elapsed().as_secs_f64();
    finished(&mut recovering).await?;
    let finish = began.elapsed().as_secs_f64() - ready;
    Ok(Recovery { in_doubt, bytes_each, scan: scanned.seconds, ready, finish, peak: recovering.peak()? })
}

/// Makes so many transactions whose participants will not hear the decision, until there are `all` of them.
async fn make(
    bench: &Bench,
    serving: &mut Process,
    at: SocketAddr,
    transactions: u64,
    all: u64,
    errors: &Path,
) -> Result<(), String> {
    let mut args = load_args(bench, serving, CLIENTS, 600.0);
    args.extend(words(&["--aborts", "0", "--branches", "2", "--transactions", &transactions.to_string()]));
    args.extend((0..2).flat_map(|place| words(&["--participant", &format!("http://{at}/{place}")])));
    let _: Loaded = process::run("load", &args, errors).await?;
    let address = serving.address;
    let there = tokio::time::timeout(
        Duration::from_mins(1),
        serving.until(async || unfinished(address).await.is_ok_and(|unfinished| unfinished >= real(all))),
    );
    there.await.map_err(|_| "transactions whose decision nobody heard have finished".to_owned())?
}
