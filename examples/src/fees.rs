//! A fee ledger: one line for each fee that was paid.
//!
//! Always true: a line that is there belongs to a committed transaction. Each transaction writes a line of its own: one
//! running total instead would be locked by whoever pays, and all others would wait for it.

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use clap::Parser;
use serde::{Deserialize, Serialize};
use unanimous_sdk::prelude::*;

use crate::{
    bank::{Account, Accounts, Total},
    service::{self, Error, Listen, failed},
};

/// What a transaction asks of the ledger.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fee {
    /// The fee, more than zero.
    pub cents: i64,
}

/// The participant.
pub struct FeeLedger;

const LINES: &str = "fee/";

impl Participant for FeeLedger {
    type Store = KvStore;

    async fn prepare(&self, branch: &BranchContext, work: &mut Work) -> Result<Vote, Refusal> {
        let Fee { cents } = branch.payload()?;
        if cents <= 0 {
            return Err("a fee is more than zero".into());
        }
        work.put(format!("{LINES}{}/{}", branch.transaction(), branch.name()), &cents).await?;
        Ok(Vote::Prepared)
    }
}

/// How to run a fee ledger.
#[derive(Clone, Debug, Parser)]
#[command(name = "fees", version, about = "A fee ledger that takes part in transactions, and shows what was paid")]
pub struct Options {
    /// Where it listens, and its data.
    #[command(flatten)]
    pub listen: Listen,
}

/// Runs a fee ledger until it is told to end.
///
/// Errors: the store can't be opened, or the address is taken.
pub async fn run(options: Options) -> Result<(), Error> {
    let store = KvStore::open(&options.listen.data_dir)?;
    let service = Service::start(FeeLedger, store.clone(), ServiceOptions::default())?;
    service.ready().await?;
    let view = Router::new()
        .route("/accounts", get(accounts))
        .route("/balance/total", get(total))
        .with_state(store)
        .merge(service.router());
    service::serve("fees", options.listen.listen, view).await
}

fn sum(store: &KvStore) -> Result<i64, (StatusCode, String)> {
    let lines: Vec<(Vec<u8>, i64)> = store.scan(LINES).map_err(|error| failed(&error))?;
    Ok(lines.into_iter().map(|(_, cents)| cents).sum())
}

/// `GET /accounts`: all fees are one account.
async fn accounts(State(store): State<KvStore>) -> Result<Json<Accounts>, (StatusCode, String)> {
    Ok(Json(Accounts { accounts: vec![Account { account: "fees".to_owned(), cents: sum(&store)? }] }))
}

/// `GET /balance/total`: what was paid.
async fn total(State(store): State<KvStore>) -> Result<Json<Total>, (StatusCode, String)> {
    Ok(Json(Total { cents: sum(&store)? }))
}
