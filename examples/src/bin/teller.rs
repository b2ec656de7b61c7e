//! The teller at the command line: sends transfers, and says how they ended.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use clap::Parser;
use unanimous_examples::{
    progress::Progress,
    service::Error,
    teller::{Teller, Transfer},
};
use unanimous_sdk::prelude::*;

/// Sends concurrent transfers between the accounts of two banks.
#[derive(Debug, Parser)]
#[command(name = "teller", version)]
struct Options {
    /// The coordinator.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7070")]
    coordinator: String,
    /// A bank; two of them.
    #[arg(long = "bank", value_name = "URL", required = true, num_args = 1)]
    banks: Vec<String>,
    /// The fee ledger.
    #[arg(long, value_name = "URL")]
    fees: String,
    /// How many transfers.
    #[arg(long, value_name = "N", default_value_t = 200)]
    transfers: usize,
    /// How many of them at a time.
    #[arg(long, value_name = "N", default_value_t = 16)]
    at_once: usize,
    /// How many accounts each bank has.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    accounts: u32,
    /// The most that is transferred at once, in cents.
    #[arg(long, value_name = "CENTS", default_value_t = 5_000, value_parser = clap::value_parser!(i64).range(1..=100_000_000_000))]
    largest: i64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teller: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Error> {
    use rand::RngExt;
    let banks: [String; 2] = options.banks.try_into().map_err(|_| "give --bank twice: two banks take part")?;
    let client = Client::new(&options.coordinator)?;
    let teller = Teller { client, banks, fees: options.fees, timeout: Duration::from_secs(30) };
    let mut rng = rand::rng();
    let transfers = (0..options.transfers).map(|_| {
        let cents = rng.random_range(1..=options.largest);
        Transfer::random(&mut rng, options.accounts as usize, cents)
    });
    let transfers: Vec<Transfer> = transfers.collect();
    let mut progress = Progress::new(transfers.len());
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let made = teller.transfer_all(transfers, options.at_once, |told| {
        progress.one_more();
        let end = match &told.outcome {
            Outcome::Committed(_) => "committed".to_owned(),
            Outcome::Undecided(undecided) => undecided.to_string(),
            Outcome::Aborted(aborted) => {
                let detail = aborted.info.reason.as_ref().and_then(|reason| reason.detail.as_deref()).unwrap_or("");
                let code = aborted.info.reason.as_ref().map_or("", |reason| &reason.code);
                // "overdrawn: …" of all accounts is one line.
                format!("aborted, {code}: {}", detail.split(':').next().unwrap_or_default())
            }
        };
        *ends.entry(end).or_default() += 1;
    });
    made.await?;
    drop(progress);
    for (end, times) in ends {
        println!("{times:8}  {end}");
    }
    Ok(())
}
