//! The coordinator has decided and not delivered, a bank has voted and not heard: both are killed.
//!
//! Always true: that moment is brought about, not hoped for. Services are stopped one after the other (SIGSTOP), and what
//! is said about the moment of the kill was read from the coordinator and the bank just before it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::task::JoinHandle;
use unanimous_examples::{
    service::Error,
    teller::{Place, Teller, Told, Transfer},
};
use unanimous_sdk::{
    client::{self, Info, Outcome, Transaction},
    protocol::{Decision, UnixMillis, Vote},
};

use crate::{
    books::Books,
    process::PATIENCE,
    stage::{Actor, Stage},
};

/// How many are decided when all is killed, and how many aren't.
const DECIDED: usize = 4;
const OPEN: usize = 3;

/// A transfer whose commit was asked for.
struct Pending {
    transfer: Transfer,
    transaction: Transaction,
    answer: JoinHandle<Result<Outcome, client::Error>>,
}

impl Pending {
    /// What the application was told, whenever that was.
    async fn told(self) -> Result<Told, Error> {
        Ok(Told { transfer: self.transfer, outcome: self.answer.await??, conflicts: Vec::new() })
    }
}

/// Brings the moment about, kills, starts again, and shows how each transaction in doubt has ended. Returns the id of one.
///
/// Errors: one has ended otherwise than it must.
pub async fn play(stage: &mut Stage, teller: &Teller, books: &mut Books) -> Result<String, Error> {
    let (decided, open) = bring_about(stage, teller).await?;
    let in_doubt: BTreeSet<String> =
        decided.iter().chain(&open).map(|pending| pending.transaction.id().to_string()).collect();
    println!(
        "   {} transfers are under way. Bank north has voted for each, and is stopped before it hears more.",
        in_doubt.len()
    );
    println!(
        "   {DECIDED} are decided: commit is in the log, bank south has done its share, the application was told."
    );
    println!("   {OPEN} are not: the fee ledger hasn't voted.");
    let mut answers = Vec::new();
    for pending in decided {
        let told = pending.told().await?;
        if told.outcome.info().decision != Some(Decision::Commit) {
            return Err(format!("{} was decided, and its answer is {:?}", told.outcome.info().id, told.outcome).into());
        }
        answers.push(told);
    }

    let killed_at = now();
    stage.coordinator.process.kill()?;
    stage.north.process.kill()?;
    stage.fees.process.thaw()?;
    println!("   kill -9 coordinator; kill -9 bank north");
    start_again(stage, &in_doubt).await?;
    for pending in open {
        answers.push(pending.told().await?);
    }
    show_ends(teller, books, &answers, killed_at).await?;
    Ok(answers[0].outcome.info().id.to_string())
}

/// Returns the transfers that are decided and not delivered, and those that are voted for by some and not decided. Bank
/// north, which has voted for all of them, is stopped, the fee ledger too.
async fn bring_about(stage: &Stage, teller: &Teller) -> Result<(Vec<Pending>, Vec<Pending>), Error> {
    let mut transfers = distinct_accounts(stage).await?;
    let later = transfers.split_off(DECIDED);
    // The first ones lack only bank south's vote, the others the fee ledger's as well.
    stage.south.process.freeze()?;
    let decided = commit(teller, transfers).await?;
    until(&decided, "voted for", |info| has_voted(info, &stage.north) && has_voted(info, &stage.fees)).await?;
    stage.fees.process.freeze()?;
    let open = commit(teller, later).await?;
    until(&open, "voted for", |info| has_voted(info, &stage.north)).await?;
    stage.north.process.freeze()?;
    // Now south's votes decide the first ones, and only south can hear it.
    stage.south.process.thaw()?;
    until(&decided, "decided", |info| info.state == "committing" && has_ended(info, &stage.south)).await?;
    until(&open, "voted for", |info| info.state == "preparing" && has_voted(info, &stage.south)).await?;
    Ok((decided, open))
}

/// Bank north first, to see that it waits; then the coordinator.
async fn start_again(stage: &mut Stage, in_doubt: &BTreeSet<String>) -> Result<(), Error> {
    let http = stage.http.clone();
    stage.north.restart(&http).await?;
    let holds: BTreeSet<String> = stage.in_doubt(&stage.north).await?.into_iter().collect();
    if holds != *in_doubt {
        return Err(format!("bank north is in doubt about {holds:?}; it has voted for {in_doubt:?}").into());
    }
    println!("   Bank north is back, alone: in doubt about all {}, it guesses nothing.", holds.len());
    let took = stage.coordinator.restart(&http).await?;
    println!(
        "   The coordinator is back, ready after {:.2} s. What was in doubt, and how it ended:\n",
        took.as_secs_f64()
    );
    Ok(())
}

/// A line for each: it must have ended as it stood when all was killed.
async fn show_ends(teller: &Teller, books: &mut Books, answers: &[Told], killed_at: UnixMillis) -> Result<(), Error> {
    println!("   {:<36}  {:<13}  {:<9}  after the kill", "transaction", "when killed", "ended");
    for (at, told) in answers.iter().enumerate() {
        books.note(told)?;
        let info = finished(teller, told).await?;
        let (when_killed, expected) = if at < DECIDED { ("decided", "committed") } else { ("not decided", "aborted") };
        let after = info.finished_at.unwrap_or_default().since(killed_at).as_secs_f64();
        let why = info.reason.map(|reason| format!(" ({})", reason.code)).unwrap_or_default();
        println!("   {}  {when_killed:<13}  {:<9}  {after:.2} s{why}", info.id, info.state);
        if info.state != expected {
            return Err(format!("{} was {when_killed}, so it must be {expected}", info.id).into());
        }
    }
    Ok(())
}

/// Transfers between the richest accounts, each account in one of them only: nothing but the kills can hold them up.
async fn distinct_accounts(stage: &Stage) -> Result<Vec<Transfer>, Error> {
    let (north, south) = (stage.accounts(&stage.north).await?, stage.accounts(&stage.south).await?);
    let richest = |bank: usize, mut accounts: Vec<unanimous_examples::bank::Account>| {
        accounts.sort_by_key(|account| -account.cents);
        accounts.into_iter().map(move |account| Place { bank, account: account.account })
    };
    let pairs = richest(0, north.accounts).zip(richest(1, south.accounts)).take(DECIDED + OPEN).enumerate();
    let transfers = pairs.map(|(at, (north, south))| {
        let (from, to) = if at % 2 == 0 { (north, south) } else { (south, north) };
        Transfer { from, to, cents: 100 }
    });
    Ok(transfers.collect())
}

/// Begins transfers and asks for their commit, without waiting for the answers.
async fn commit(teller: &Teller, transfers: Vec<Transfer>) -> Result<Vec<Pending>, Error> {
    let mut all = Vec::new();
    for transfer in transfers {
        let transaction = teller.begin(&transfer).await?;
        let answer = tokio::spawn({
            let transaction = transaction.clone();
            async move { transaction.commit().await }
        });
        all.push(Pending { transfer, transaction, answer });
    }
    Ok(all)
}

fn has_voted(info: &Info, actor: &Actor) -> bool {
    info.branches.iter().any(|branch| branch.participant.as_str() == actor.url && branch.vote == Some(Vote::Prepared))
}

fn has_ended(info: &Info, actor: &Actor) -> bool {
    info.branches.iter().any(|branch| branch.participant.as_str() == actor.url && branch.state == "committed")
}

/// Returns when the coordinator shows all of them so.
async fn until(all: &[Pending], what: &str, is_so: impl Fn(&Info) -> bool) -> Result<(), Error> {
    let began = Instant::now();
    for pending in all {
        loop {
            let info = pending.transaction.info().await?;
            if is_so(&info) {
                break;
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{} isn't {what}: {info:?}", info.id).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

async fn finished(teller: &Teller, told: &Told) -> Result<Info, Error> {
    let (transaction, began) = (teller.client.transaction(told.outcome.info().id), Instant::now());
    loop {
        let info = transaction.info().await?;
        if info.finished_at.is_some() {
            return Ok(info);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{} doesn't end: {info:?}", info.id).into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Now, as the coordinator's times are.
fn now() -> UnixMillis {
    UnixMillis::default().after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
