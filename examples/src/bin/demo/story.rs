//! What the demo tells, from the first transfer to the last look around.

use std::time::Instant;

use rand::RngExt;
use unanimous_examples::{
    money::show,
    progress::Progress,
    service::Error,
    teller::{Teller, Told, Transfer},
};
use unanimous_sdk::client::Outcome;

use crate::{
    Options,
    books::Books,
    stage::{ACCOUNTS, OPENING, Stage},
    worst_moment,
};

/// How many transfers are under way at a time.
const AT_ONCE: usize = 16;

/// How many refused ones are named.
const NAMED: usize = 3;

/// Plays it all.
///
/// Errors: something isn't as it must be.
pub async fn tell(stage: &mut Stage, options: &Options) -> Result<(), Error> {
    let teller = stage.teller()?;
    let mut books = Books::open(stage).await?;
    introduce(stage, &books);

    println!("\n1  Transfers: a debit at one bank, a credit at the other, a fee: all three or none");
    let refused = transfers(&teller, &mut books, options.transfers).await?;
    for line in refused.iter().take(NAMED) {
        println!("     {line}");
    }
    books.finished(stage, &teller).await?;

    println!("\n2  The worst moment: the coordinator and a bank are killed halfway");
    let example = worst_moment::play(stage, &teller, &mut books).await?;

    println!("\n3  Work goes on, and what holds");
    transfers(&teller, &mut books, 100).await?;
    books.finished(stage, &teller).await?;
    let found = books.compare(stage).await?;
    let [north, south, fees] = found.money.map(show);
    println!("   ✓ {} transactions, each finished as the application was told", found.transactions);
    println!("   ✓ no service is in doubt about anything");
    println!("   ✓ every account holds what the answers add up to, none is below zero");
    println!("   ✓ all money is {}, as before: {north} north, {south} south, {fees} fees", show(books.all_money()));
    look_around(stage, &example).await?;
    if options.hold {
        hold().await;
    } else {
        println!("   All is stopped and removed now; `make demo HOLD=1` leaves it running for you.");
    }
    Ok(())
}

fn introduce(stage: &Stage, books: &Books) {
    println!("Unanimous: services that each keep their own data agree on every transaction, whatever is killed.\n");
    for (what, actor) in [
        ("coordinator", &stage.coordinator),
        ("bank north", &stage.north),
        ("bank south", &stage.south),
        ("fee ledger", &stage.fees),
    ] {
        println!("   {what:<12} {}   pid {}", actor.url, actor.process.pid());
    }
    println!("   {} accounts of {} at each bank: all money is {}", ACCOUNTS, show(OPENING), show(books.all_money()));
}

/// Makes transfers, and returns who was refused and why, a line each.
async fn transfers(teller: &Teller, books: &mut Books, count: usize) -> Result<Vec<String>, Error> {
    let mut rng = rand::rng();
    let transfers = (1..=count).map(|n| {
        // Every fifteenth asks for more than an account is likely to hold.
        let cents = if n % 15 == 0 { OPENING * 10 } else { rng.random_range(100..=3_000) };
        Transfer::random(&mut rng, ACCOUNTS, cents)
    });
    let (transfers, mut progress) = (transfers.collect(), Progress::new(count));
    let (mut committed, mut again, mut refused, mut wrong) = (0, 0, Vec::new(), None);
    let began = Instant::now();
    let made = teller.transfer_all(transfers, AT_ONCE, |told: Told| {
        progress.one_more();
        again += told.conflicts.len();
        wrong = wrong.take().or(books.note(&told).err());
        let info = told.outcome.info();
        match &told.outcome {
            Outcome::Committed(_) => committed += 1,
            Outcome::Aborted(_) | Outcome::Undecided(_) => {
                let why = info.reason.as_ref().and_then(|reason| reason.detail.as_deref()).unwrap_or("no reason given");
                refused.push(format!("{}  {why}", info.id));
            }
        }
    });
    made.await?;
    drop(progress);
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    let took = began.elapsed().as_secs_f64();
    println!("   {committed} committed in {took:.1} s; {again} times begun again, as an account was in use");
    println!("   {} refused by a service, so no part of them has moved", refused.len());
    Ok(refused)
}

/// Shows how to ask by hand, and what is answered.
async fn look_around(stage: &Stage, example: &str) -> Result<(), Error> {
    println!("\nLook around by hand:");
    for url in [
        format!("{}/v1/transactions/{example}", stage.coordinator.url),
        format!("{}/branches?state=prepared", stage.north.url),
    ] {
        let answer = stage.text(&url).await?;
        let shown: String = answer.chars().take(200).collect();
        let more = if shown.len() < answer.len() { " …" } else { "" };
        println!("   curl '{url}'\n     {shown}{more}");
    }
    Ok(())
}

/// Returns at Enter. Where there is nobody to press it, only a signal ends it.
async fn hold() {
    println!("   It goes on running until you press Enter.");
    let read = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    if !matches!(read.await, Ok(Ok(read)) if read > 0) {
        std::future::pending::<()>().await;
    }
}
