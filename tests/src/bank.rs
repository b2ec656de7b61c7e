//! A bank of the examples as a process of its own, on a folder and a port that it keeps over restarts.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api::Api,
    binaries::binary,
    process::{Process, Setup},
    server::free_port,
    wait,
};

/// What an account holds at first, in cents.
pub const OPENING: i64 = 1000;

/// How many accounts a bank has.
pub const ACCOUNTS: usize = 8;

/// See the module.
pub struct Bank {
    /// The present process, or the last one.
    pub process: Process,
    home: TempDir,
    listen: String,
    setup: Setup,
    api: Api,
}

/// The name of an account, from 1.
pub fn account(number: usize) -> String {
    format!("account-{number:02}")
}

/// The branch that adds so many cents to an account of the participant at this URL.
pub fn posting(participant: &str, name: &str, account: &str, cents: i64) -> Value {
    json!({ "participant": participant, "branch": name, "payload": { "account": account, "cents": cents } })
}

/// The branches that move cents from the first account at one URL to the first at another: `debit` and `credit`.
pub fn transfer(from: &str, to: &str, cents: i64) -> Value {
    json!([posting(from, "debit", &account(1), -cents), posting(to, "credit", &account(1), cents)])
}

/// What all accounts of these banks hold, by the bank's number and the account's name, as [`named`] makes it.
pub async fn holdings(banks: &[Bank]) -> BTreeMap<String, i64> {
    let mut all = BTreeMap::new();
    for (number, bank) in banks.iter().enumerate() {
        all.extend(bank.accounts().await.into_iter().map(|(name, cents)| (named(number, &name), cents)));
    }
    all
}

/// An account's name among several banks.
pub fn named(bank: usize, account: &str) -> String {
    format!("{bank}/{account}")
}

impl Bank {
    /// Opens a bank, and waits until it serves.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same, with a point at which it kills itself.
    pub async fn start_to_die_at(failpoint: &str) -> Self {
        let mut bank = Self::start_with(None).await;
        // Opening the accounts comes to such points, too.
        bank.kill();
        bank.restart_with(Some(failpoint)).await;
        bank
    }

    async fn start_with(failpoint: Option<&str>) -> Self {
        let home = tempfile::tempdir().expect("a folder can be made");
        let mut this = Self::spawn_first(home, Setup::default(), failpoint);
        this.ready().await;
        this
    }

    /// Opens a bank on what is in the folder `data` in this home, with this setup now and each time it is started again;
    /// it may not serve yet.
    pub fn spawn_in(home: TempDir, setup: Setup) -> Self {
        Self::spawn_first(home, setup, None)
    }

    fn spawn_first(home: TempDir, setup: Setup, failpoint: Option<&str>) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let process = spawn(home.path(), &listen, &setup, failpoint);
        let api = Api::new(&format!("http://{listen}"));
        Self { process, home, listen, setup, api }
    }

    /// The folder of its store.
    pub fn data(&self) -> std::path::PathBuf {
        self.home.path().join("data")
    }

    /// The participant's base URL.
    pub fn url(&self) -> String {
        self.api.base().to_owned()
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after its end, and waits until it serves.
    pub async fn restart(&mut self) {
        self.restart_with(None).await;
    }

    async fn restart_with(&mut self, failpoint: Option<&str>) {
        self.spawn_again(failpoint);
        self.ready().await;
    }

    /// Starts it again after its end; it may not serve yet.
    pub fn spawn_again(&mut self, failpoint: Option<&str>) {
        assert!(self.process.poll().is_some(), "it still runs");
        self.process = spawn(self.home.path(), &self.listen, &self.setup, failpoint);
    }

    /// Waits until it serves.
    pub async fn ready(&mut self) {
        let (api, process) = (&self.api, &mut self.process);
        wait::until_so("a bank serves", async || {
            let ended = process.poll();
            assert!(ended.is_none(), "a bank ended at its start: {ended:?}\n{}", process.log());
            api.try_get("/accounts").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// What its accounts hold, by name.
    pub async fn accounts(&self) -> BTreeMap<String, i64> {
        let answer = self.api.get("/accounts").await.expect(200);
        let accounts = answer.body["accounts"].as_array().expect("there are accounts").iter();
        accounts
            .map(|row| {
                let name = row["account"].as_str().expect("an account has a name");
                (name.to_owned(), row["cents"].as_i64().expect("an account has a balance"))
            })
            .collect()
    }

    /// What one account holds.
    pub async fn balance(&self, account: &str) -> i64 {
        self.accounts().await[account]
    }

    /// Waits until an account holds this: a bank that has learnt of a commit by asking carries it out unheard.
    pub async fn comes_to_hold(&self, account: &str, cents: i64) {
        let what = format!("{account} holds {cents} cents");
        wait::until_so(&what, async || self.balance(account).await == cents).await;
    }

    /// How many branches it holds in doubt.
    pub async fn in_doubt(&self) -> usize {
        let answer = self.api.get("/branches?state=prepared").await.expect(200);
        answer.body["items"].as_array().expect("there are items").len()
    }

    /// Waits until nothing is in doubt there.
    pub async fn nothing_in_doubt(&self) {
        wait::until_so("nothing is in doubt at a bank", async || self.in_doubt().await == 0).await;
    }
}

fn spawn(home: &Path, listen: &str, setup: &Setup, failpoint: Option<&str>) -> Process {
    let program = binary(if failpoint.is_some() { "bank-failpoints" } else { "bank" });
    let (data, accounts, opening) = (home.join("data"), ACCOUNTS.to_string(), OPENING.to_string());
    let args = [
        "--listen",
        listen,
        "--data-dir",
        data.to_str().expect("a path is text"),
        "--accounts",
        &accounts,
        "--opening-balance",
        &opening,
    ];
    Process::start_with(&program, &args, &setup.clone().to_die_at(failpoint), &home.join("bank.log"))
}
