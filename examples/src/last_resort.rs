//! What an operator does about branches in doubt, at a bank that is stopped: sees them, and ends one by hand.
//!
//! The bank's own store is opened, so nobody else can have it meanwhile, and its service runs without an address: it asks
//! the coordinators as the bank would, and obeys those that answer. What is left is for the operator to decide.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use tokio::time::Instant;
use unanimous_sdk::{
    prelude::*,
    protocol::{BranchName, CoordinatorId, Decision, TransactionId},
    server::InDoubt,
};

use crate::{bank::Bank, service::Error};

/// How long coordinators have to answer before what is in doubt is shown.
const PATIENCE: Duration = Duration::from_secs(15);

/// What can be done at a bank that is stopped.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Asks the coordinators once, and shows which branches are still in doubt, and why.
    InDoubt(Folder),
    /// Ends a branch in doubt by hand: the last resort, for one whose coordinator is gone for good or has forgotten it.
    Resolve(Resolve),
}

/// Where the bank's data is.
#[derive(Clone, Debug, Args)]
pub struct Folder {
    /// The folder of the bank's data and votes. No bank may run on it.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: PathBuf,
}

/// Which branch ends, how, and why.
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("decision").required(true)))]
pub struct Resolve {
    /// Where the bank's data is.
    #[command(flatten)]
    pub folder: Folder,
    /// The transaction's id.
    #[arg(long, value_name = "ID")]
    pub transaction: TransactionId,
    /// The branch's name in it.
    #[arg(long, value_name = "NAME")]
    pub branch: BranchName,
    /// The coordinator's id. Needed only if two coordinators have such a transaction.
    #[arg(long, value_name = "ID")]
    pub coordinator: Option<CoordinatorId>,
    /// Make its work permanent.
    #[arg(long, group = "decision")]
    pub commit: bool,
    /// Undo its work.
    #[arg(long, group = "decision")]
    pub abort: bool,
    /// Why. Kept with the branch, and told to the coordinator if it decides otherwise.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Carries out a command at a bank that is stopped.
///
/// # Errors
///
/// The store can't be opened (a bank runs on it), or the branch isn't in doubt.
pub async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::InDoubt(folder) => {
            let left = in_doubt(&open(&folder).await?).await;
            for branch in &left {
                println!("{}", show(branch));
            }
            println!("{} branches are in doubt", left.len());
            Ok(())
        }
        Command::Resolve(resolve) => end(resolve).await,
    }
}

async fn open(folder: &Folder) -> Result<Service<Bank>, Error> {
    let store = KvStore::open(&folder.data_dir)?;
    let service = Service::start(Bank, store, ServiceOptions::default())?;
    service.ready().await?;
    Ok(service)
}

/// Returns what is in doubt once each coordinator was asked, or has had its time.
async fn in_doubt(service: &Service<Bank>) -> Vec<InDoubt> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = service.in_doubt();
        if left.iter().all(|branch| branch.last_error.is_some()) || Instant::now() >= until {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn show(branch: &InDoubt) -> String {
    let InDoubt { key, since, coordinator, last_error } = branch;
    let why = last_error.as_deref().unwrap_or("its coordinator has not answered");
    format!(
        "transaction {} branch {} since {since} coordinator {} at {}: {why}",
        key.transaction, key.branch, coordinator.id, coordinator.url
    )
}

async fn end(resolve: Resolve) -> Result<(), Error> {
    let Resolve { folder, transaction, branch, coordinator, commit, abort: _, reason } = resolve;
    let service = open(&folder).await?;
    let found: Vec<_> = service
        .in_doubt()
        .into_iter()
        .filter(|it| it.key.transaction == transaction && it.key.branch == branch)
        .filter(|it| coordinator.is_none_or(|id| it.key.coordinator == id))
        .collect();
    let found = match &found[..] {
        [] => return Err(format!("the branch {transaction}/{branch} is not in doubt here").into()),
        [found] => found,
        [..] => return Err("two coordinators have such a transaction: name one with --coordinator".into()),
    };
    let decision = if commit { Decision::Commit } else { Decision::Abort };
    service.resolve(&found.key, decision, &reason).await?;
    println!("the branch {} is {}", found.key, if commit { "committed" } else { "aborted" });
    Ok(())
}
