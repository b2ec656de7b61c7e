//! Who is on stage: the coordinator, two banks and the fee ledger, each its own process with its own data.
//!
//! Always true: all data lies in one temporary folder, which goes with the stage; the processes go before it.

use std::{path::Path, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;
use unanimous_examples::{
    bank::{Accounts, Total},
    service::Error,
    teller::Teller,
};
use unanimous_sdk::client::Client;

use crate::process::{Process, Program, free_port};

/// How many accounts each bank has.
pub const ACCOUNTS: usize = 20;

/// What each holds at first, in cents.
pub const OPENING: i64 = 10_000;

/// A process with its URL.
pub struct Actor {
    /// The process.
    pub process: Process,
    /// Its base URL.
    pub url: String,
    /// A page of it that answers once it is ready.
    page: &'static str,
}

impl Actor {
    /// Starts it again after it was killed, and returns when it answers, with the time that took.
    pub async fn restart(&mut self, http: &reqwest::Client) -> Result<Duration, Error> {
        self.process.restart()?;
        self.ready(http).await
    }

    async fn ready(&mut self, http: &reqwest::Client) -> Result<Duration, Error> {
        self.process.ready(http, &format!("{}{}", self.url, self.page)).await
    }
}

/// The whole cast.
pub struct Stage {
    /// Takes the decisions.
    pub coordinator: Actor,
    /// A bank: the one that is killed.
    pub north: Actor,
    /// The other bank.
    pub south: Actor,
    /// The fee ledger.
    pub fees: Actor,
    /// For calls to all of them.
    pub http: reqwest::Client,
    folder: TempDir,
}

impl Stage {
    /// Starts everybody, and returns when all are ready.
    pub async fn start() -> Result<Self, Error> {
        let folder = tempfile::Builder::new().prefix("unanimous-demo-").tempdir()?;
        // A call to a stopped process ends at some time.
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        let bank_args = [format!("--accounts={ACCOUNTS}"), format!("--opening-balance={OPENING}")];
        let mut stage = Self {
            coordinator: actor(folder.path(), "coordinator", "unanimous", &["serve".to_owned()], "/readyz")?,
            north: actor(folder.path(), "bank-north", "bank", &bank_args, "/balance/total")?,
            south: actor(folder.path(), "bank-south", "bank", &bank_args, "/balance/total")?,
            fees: actor(folder.path(), "fee-ledger", "fees", &[], "/balance/total")?,
            http,
            folder,
        };
        let http = stage.http.clone();
        for actor in [&mut stage.coordinator, &mut stage.north, &mut stage.south, &mut stage.fees] {
            actor.ready(&http).await?;
        }
        Ok(stage)
    }

    /// Leaves the folder, with the logs in it, where it is; returns its path.
    pub fn keep_folder(&mut self) -> String {
        self.folder.disable_cleanup(true);
        self.folder.path().display().to_string()
    }

    /// An application that makes transfers here.
    pub fn teller(&self) -> Result<Teller, Error> {
        let banks = [self.north.url.clone(), self.south.url.clone()];
        // Longer than anything here is held up, so that no transfer fails by its deadline.
        let timeout = Duration::from_mins(5);
        Ok(Teller { client: Client::new(&self.coordinator.url)?, banks, fees: self.fees.url.clone(), timeout })
    }

    /// What a `GET` answers, as text.
    pub async fn text(&self, url: &str) -> Result<String, Error> {
        let response = self.http.get(url).send().await?;
        let (status, text) = (response.status(), response.text().await?);
        if status.is_success() { Ok(text) } else { Err(format!("{url} answers {status}: {text}").into()) }
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, Error> {
        let text = self.text(url).await?;
        serde_json::from_str(&text).map_err(|error| format!("{url} answers {text}: {error}").into())
    }

    /// The accounts of a bank.
    pub async fn accounts(&self, bank: &Actor) -> Result<Accounts, Error> {
        self.get(&format!("{}/accounts", bank.url)).await
    }

    /// All the money a service holds, in cents.
    pub async fn total(&self, service: &Actor) -> Result<i64, Error> {
        let total: Total = self.get(&format!("{}/balance/total", service.url)).await?;
        Ok(total.cents)
    }

    /// The ids of the transactions that a service has voted for and of which it doesn't know the decision.
    pub async fn in_doubt(&self, service: &Actor) -> Result<Vec<String>, Error> {
        let listed: Value = self.get(&format!("{}/branches?state=prepared", service.url)).await?;
        let items = listed["items"].as_array().ok_or_else(|| format!("{} lists {listed}", service.url))?;
        Ok(items.iter().filter_map(|item| item["transaction"].as_str()).map(str::to_owned).collect())
    }
}

fn actor(folder: &Path, name: &'static str, binary: &str, args: &[String], page: &'static str) -> Result<Actor, Error> {
    let path = std::env::current_exe()?.with_file_name(binary);
    if !path.exists() {
        return Err(format!("{} isn't there: build it with `cargo build --release --workspace`", path.display()).into());
    }
    let address = format!("127.0.0.1:{}", free_port()?);
    let data = folder.join(name).display().to_string();
    let mut all = args.to_vec();
    all.extend(["--listen".to_owned(), address.clone(), "--data-dir".to_owned(), data]);
    let log = folder.join(format!("{name}.log"));
    let process = Process::start(Program { name, path, args: all, log })?;
    Ok(Actor { process, url: format!("http://{address}"), page })
}
