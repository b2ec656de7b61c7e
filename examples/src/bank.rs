//! A bank: accounts with balances, and the branches of transactions that change them.
//!
//! Always true: a balance is never below zero; a balance that others see belongs to a transaction that is committed.
//! What that takes (votes on disk, locks, restarts, asking the coordinator) is the SDK's work, not this file's.

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use clap::{Args, Parser};
use serde::{Deserialize, Serialize};
use unanimous_sdk::prelude::*;

use crate::{
    last_resort,
    money::show,
    service::{self, Error, Listen, failed},
};

/// What a transaction asks of a bank: the payload of its branch here.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Posting {
    /// The account, by its name.
    pub account: String,
    /// How much to add, in cents; below zero: to take away.
    pub cents: i64,
}

/// The participant.
pub struct Bank;

/// Where an account's balance is kept in the store.
fn key(account: &str) -> String {
    format!("account/{account}")
}

impl Participant for Bank {
    type Store = KvStore;

    /// Does the work, without anybody seeing it yet, and votes. An `Err` is a vote to abort, and says why.
    async fn prepare(&self, branch: &BranchContext, work: &mut Work) -> Result<Vote, Refusal> {
        let Posting { account, cents } = branch.payload()?;
        let key = key(&account);
        let balance: i64 = work.get(&key).await?.ok_or_else(|| format!("there is no account {account}"))?;
        let after = balance.checked_add(cents).ok_or("that is more money than there is")?;
        if after < 0 {
            return Err(format!("overdrawn: {account} holds {}, {} is asked for", show(balance), show(-cents)).into());
        }
        work.put(&key, &after).await?;
        Ok(Vote::Prepared)
    }

    // `commit` and `abort` have nothing to add here: what was put in `work` appears, or vanishes.
}

/// A bank that serves, or what an operator does at one that is stopped.
#[derive(Clone, Debug, Parser)]
#[command(name = "bank", version, about = "A bank that takes part in transactions, and shows its accounts")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do at a bank that is stopped. Without it, the bank serves.
    #[command(subcommand)]
    pub command: Option<last_resort::Command>,
    /// How to run it.
    #[command(flatten)]
    pub options: Option<Options>,
}

/// Serves, or carries out a command at a bank that is stopped.
///
/// Errors: as of [`run`] and [`last_resort::run`].
pub async fn main(cli: Cli) -> Result<(), Error> {
    match (cli.command, cli.options) {
        (Some(command), _) => last_resort::run(command).await,
        (None, Some(options)) => run(options).await,
        (None, None) => Err("say where to listen, and where the data is: see --help".into()),
    }
}

/// How to run a bank.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Where it listens, and its data.
    #[command(flatten)]
    pub listen: Listen,
    /// How many accounts there are: account-01, account-02 and so on. Those that aren't there yet are opened at the start.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub accounts: usize,
    /// What an account holds when it is opened, in cents.
    #[arg(long, value_name = "CENTS", default_value_t = 10_000, value_parser = clap::value_parser!(i64).range(0..))]
    pub opening_balance: i64,
}

/// The name of the nth account, from 1.
pub fn account(n: usize) -> String {
    format!("account-{n:02}")
}

/// Runs a bank until it is told to end.
///
/// Errors: the store can't be opened, or the address is taken.
pub async fn run(options: Options) -> Result<(), Error> {
    let store = KvStore::open(&options.listen.data_dir)?;
    let service = Service::start(Bank, store.clone(), ServiceOptions::default())?;
    service.ready().await?;
    open_accounts(&store, options.accounts, options.opening_balance).await?;
    let view = Router::new()
        .route("/accounts", get(accounts))
        .route("/balance/total", get(total))
        .with_state(store)
        .merge(service.router());
    service::serve("bank", options.listen.listen, view).await
}

/// Opens the accounts that aren't there yet, so a start that was cut short is made up for by the next.
async fn open_accounts(store: &KvStore, accounts: usize, balance: i64) -> Result<(), Error> {
    for n in 1..=accounts {
        let key = key(&account(n));
        if store.get::<i64>(&key)?.is_none() {
            store.put(&key, &balance).await?;
        }
    }
    Ok(())
}

/// `GET /accounts`: what each account holds.
async fn accounts(State(store): State<KvStore>) -> Result<Json<Accounts>, (StatusCode, String)> {
    let rows: Vec<(Vec<u8>, i64)> = store.scan(key("")).map_err(|error| failed(&error))?;
    let prefix = key("").len();
    let accounts = rows.into_iter().map(|(key, cents)| {
        let account = String::from_utf8_lossy(&key[prefix..]).into_owned();
        Account { account, cents }
    });
    Ok(Json(Accounts { accounts: accounts.collect() }))
}

/// `GET /balance/total`: what they hold together.
async fn total(State(store): State<KvStore>) -> Result<Json<Total>, (StatusCode, String)> {
    let rows: Vec<(Vec<u8>, i64)> = store.scan(key("")).map_err(|error| failed(&error))?;
    Ok(Json(Total { cents: rows.into_iter().map(|(_, cents)| cents).sum() }))
}

/// What `GET /accounts` answers.
#[derive(Debug, Deserialize, Serialize)]
pub struct Accounts {
    /// All accounts, in order of their names.
    pub accounts: Vec<Account>,
}

/// An account.
#[derive(Debug, Deserialize, Serialize)]
pub struct Account {
    /// Its name.
    pub account: String,
    /// What it holds.
    pub cents: i64,
}

/// What `GET /balance/total` answers.
#[derive(Debug, Deserialize, Serialize)]
pub struct Total {
    /// The sum of all balances.
    pub cents: i64,
}
