//! The teller: moves money between accounts of two banks, and pays a fee for it. Three services, one outcome.
//!
//! Always true: what it says of a transfer is what the coordinator has decided; a transfer is never made twice.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::task::JoinSet;
use unanimous_sdk::{
    client::{self, Client, Outcome, Transaction},
    protocol::TransactionId,
};

use crate::{
    bank::{self, Posting},
    fees::Fee,
};

/// What a transfer costs whoever pays, in cents.
pub const FEE: i64 = 10;

/// How often a transfer is begun anew because another one had the same account.
const TRIES: u64 = 20;

/// An account at one of the two banks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which bank: 0 or 1.
    pub bank: usize,
    /// The account's name there.
    pub account: String,
}

/// Money from an account at one bank to one at the other.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Who pays: this and the fee.
    pub from: Place,
    /// Who is paid.
    pub to: Place,
    /// How much arrives, in cents.
    pub cents: i64,
}

impl Transfer {
    /// A transfer between two accounts picked by chance, one of the first `accounts` at each bank.
    pub fn random(rng: &mut impl Rng, accounts: usize, cents: i64) -> Self {
        let from = rng.random_range(0..2);
        let mut place = |bank| Place { bank, account: bank::account(rng.random_range(1..=accounts)) };
        Self { from: place(from), to: place(1 - from), cents }
    }
}

/// How a transfer ended.
#[derive(Debug)]
pub struct Told {
    /// What was to be done.
    pub transfer: Transfer,
    /// What became of it.
    pub outcome: Outcome,
    /// Transactions before this one that were aborted since another transfer had an account of it.
    pub conflicts: Vec<TransactionId>,
}

/// Sends transfers to a coordinator.
#[derive(Clone, Debug)]
pub struct Teller {
    /// The coordinator.
    pub client: Client,
    /// The base URLs of the two banks.
    pub banks: [String; 2],
    /// That of the fee ledger.
    pub fees: String,
    /// How long a transfer may stay undecided.
    pub timeout: Duration,
}

impl Teller {
    /// Begins a transfer: from here on it has an id, and nothing is done yet.
    ///
    /// Errors: [`client::Error`].
    pub async fn begin(&self, transfer: &Transfer) -> Result<Transaction, client::Error> {
        let Transfer { from, to, cents } = transfer;
        let debit = Posting { account: from.account.clone(), cents: -(cents + FEE) };
        let credit = Posting { account: to.account.clone(), cents: *cents };
        self.client
            .begin()
            .timeout(self.timeout)
            .named_branch("debit", &self.banks[from.bank], &debit)
            .named_branch("credit", &self.banks[to.bank], &credit)
            .named_branch("fee", &self.fees, &Fee { cents: FEE })
            .start()
            .await
    }

    /// Makes a transfer, or learns why not. Where another transfer held one of its accounts for too long, it is tried
    /// again: nothing of it was done.
    ///
    /// Errors: [`client::Error`]: then it may have been made or not.
    pub async fn transfer(&self, transfer: Transfer) -> Result<Told, client::Error> {
        let mut conflicts = Vec::new();
        for attempt in 1.. {
            // One call (`begin … commit()`) would do as well. With two, the id is known before the commit, which can be
            // repeated for ever, so that no lost answer leaves a doubt.
            let transaction = self.begin(&transfer).await?;
            let outcome = transaction.commit().await?;
            if !met_another(&outcome) || attempt == TRIES {
                return Ok(Told { transfer, outcome, conflicts });
            }
            conflicts.push(transaction.id());
            let pause = rand::rng().random_range(1..=10 * attempt);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        unreachable!("the last attempt returns")
    }

    /// Makes many transfers, `at_once` of them at a time; tells of each as it ends, in no order.
    ///
    /// Errors: the first error of a transfer; the others are given up.
    pub async fn transfer_all(
        &self,
        transfers: Vec<Transfer>,
        at_once: usize,
        mut tell: impl FnMut(Told),
    ) -> Result<(), client::Error> {
        let (mut waiting, mut running) = (transfers.into_iter(), JoinSet::new());
        loop {
            while running.len() < at_once.max(1)
                && let Some(transfer) = waiting.next()
            {
                let teller = self.clone();
                running.spawn(async move { teller.transfer(transfer).await });
            }
            match running.join_next().await {
                Some(Ok(told)) => tell(told?),
                Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
                None => return Ok(()),
            }
        }
    }
}

/// Whether it was aborted only because another transaction had one of its accounts.
fn met_another(outcome: &Outcome) -> bool {
    let detail = outcome.info().reason.as_ref().and_then(|reason| reason.detail.as_deref());
    matches!(outcome, Outcome::Aborted(_)) && detail.is_some_and(|detail| detail.starts_with("lock-conflict"))
}
