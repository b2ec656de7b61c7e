//! The demo's own books: what the answers to transfers say everybody must hold.
//!
//! Always true: they are written from what the coordinator has answered to the application, never from what a service
//! shows, so that the two can be held against each other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use unanimous_examples::{
    service::Error,
    teller::{FEE, Place, Teller, Told},
};
use unanimous_sdk::{
    client::Outcome,
    protocol::{Decision, TransactionId},
};

use crate::{process::PATIENCE, stage::Stage};

/// See the module.
pub struct Books {
    balances: BTreeMap<Place, i64>,
    fees: i64,
    /// What was answered for each transaction.
    answers: BTreeMap<TransactionId, Decision>,
    all_money: i64,
}

/// What was found at the end.
pub struct Found {
    /// How many transactions there were.
    pub transactions: usize,
    /// What the banks and the fee ledger hold, in cents.
    pub money: [i64; 3],
}

impl Books {
    /// Opens them with what everybody holds now.
    pub async fn open(stage: &Stage) -> Result<Self, Error> {
        let balances = balances(stage).await?;
        let fees = stage.total(&stage.fees).await?;
        let all_money = balances.values().sum::<i64>() + fees;
        Ok(Self { balances, fees, answers: BTreeMap::new(), all_money })
    }

    /// All the money there is, in cents.
    pub fn all_money(&self) -> i64 {
        self.all_money
    }

    /// Books what was answered to a transfer.
    ///
    /// Errors: there was no decision, or it has contradicted an earlier one.
    pub fn note(&mut self, told: &Told) -> Result<(), Error> {
        for conflict in &told.conflicts {
            self.answer(*conflict, Decision::Abort)?;
        }
        let id = told.outcome.info().id;
        match &told.outcome {
            Outcome::Committed(_) => {
                self.answer(id, Decision::Commit)?;
                self.add(&told.transfer.from, -(told.transfer.cents + FEE));
                self.add(&told.transfer.to, told.transfer.cents);
                self.fees += FEE;
            }
            Outcome::Aborted(_) => self.answer(id, Decision::Abort)?,
            Outcome::Undecided(undecided) => return Err(undecided.to_string().into()),
        }
        Ok(())
    }

    fn answer(&mut self, id: TransactionId, decision: Decision) -> Result<(), Error> {
        match self.answers.insert(id, decision) {
            Some(earlier) if earlier != decision => {
                Err(format!("{id} was answered {earlier:?}, then {decision:?}").into())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn add(&mut self, place: &Place, cents: i64) {
        *self.balances.entry(place.clone()).or_default() += cents;
    }

    /// Waits until everything is finished.
    ///
    /// Errors: a transaction doesn't finish, has a heuristic outcome or another than was answered; a service is still in doubt.
    pub async fn finished(&self, stage: &Stage, teller: &Teller) -> Result<(), Error> {
        let began = Instant::now();
        for (id, answered) in &self.answers {
            let mut info = teller.client.transaction(*id).info().await?;
            while info.finished_at.is_none() {
                late(began, || format!("{id} isn't finished: it is {}", info.state))?;
                info = teller.client.transaction(*id).info().await?;
            }
            if info.heuristic || info.decision != Some(*answered) {
                return Err(format!("{id} was answered {answered:?}, and is {} {:?}", info.state, info.decision).into());
            }
        }
        for service in [&stage.north, &stage.south, &stage.fees] {
            while let [first, ..] = &*stage.in_doubt(service).await? {
                late(began, || format!("{} is still in doubt about {first}", service.url))?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Holds the services' accounts against the books.
    ///
    /// Errors: an account, the fees or the sum differs.
    pub async fn compare(&self, stage: &Stage) -> Result<Found, Error> {
        for (place, held) in balances(stage).await? {
            let booked = self.balances.get(&place).copied();
            if booked != Some(held) || held < 0 {
                return Err(format!("{place:?} holds {held} cents; by the answers it is {booked:?}").into());
            }
        }
        let money =
            [stage.total(&stage.north).await?, stage.total(&stage.south).await?, stage.total(&stage.fees).await?];
        if money[2] != self.fees {
            return Err(format!("the fee ledger holds {} cents; by the answers it is {}", money[2], self.fees).into());
        }
        let sum: i64 = money.iter().sum();
        if sum != self.all_money {
            return Err(format!("all money is {sum} cents, and was {}", self.all_money).into());
        }
        Ok(Found { transactions: self.answers.len(), money })
    }
}

fn late(began: Instant, what: impl FnOnce() -> String) -> Result<(), Error> {
    if began.elapsed() > PATIENCE { Err(what().into()) } else { Ok(()) }
}

/// What every account holds now.
async fn balances(stage: &Stage) -> Result<BTreeMap<Place, i64>, Error> {
    let mut balances = BTreeMap::new();
    for (bank, actor) in [&stage.north, &stage.south].into_iter().enumerate() {
        for account in stage.accounts(actor).await?.accounts {
            balances.insert(Place { bank, account: account.account }, account.cents);
        }
    }
    Ok(balances)
}
