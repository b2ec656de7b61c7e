//! Example services as processes of their own, and messages to them as a coordinator sends them.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use unanimous_tests::{
    api::{Answer, Api},
    bank::OPENING,
    binaries::binary,
    process::Process,
    server::free_port,
    wait,
};

pub(crate) const COORDINATOR: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

/// More than a participant remembers coordinators, so that each can hold one.
const PYTHON_ACCOUNTS: usize = 24;

/// Where no coordinator listens.
pub(crate) const NOWHERE: &str = "http://127.0.0.1:9";

/// Returns whether there is a Python that runs the participant. If not, it says so where no test's output is held back.
pub(crate) fn is_python_there() -> bool {
    let check = "import sys, sqlite3; sys.exit(sys.version_info < (3, 10) or sqlite3.sqlite_version_info < (3, 33))";
    let there = Command::new("python3").args(["-c", check]).status().is_ok_and(|status| status.success());
    if !there {
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is no python3 from 3.10 on with SQLite from 3.33 on");
    }
    there
}

/// A service that shows accounts, as a process of its own on a folder and a port that it keeps over restarts.
pub(crate) struct Service {
    process: Process,
    home: TempDir,
    program: PathBuf,
    args: Vec<String>,
    pub(crate) api: Api,
}

impl Service {
    async fn start(home: TempDir, program: PathBuf, args: impl FnOnce(u16, &Path) -> Vec<String>) -> Self {
        let port = free_port();
        let args = args(port, home.path());
        let process = spawn(&program, &args, home.path());
        let api = Api::new(&format!("http://127.0.0.1:{port}"));
        let mut this = Self { process, home, program, args, api };
        this.ready().await;
        this
    }

    pub(crate) async fn python_bank() -> Self {
        Self::python_bank_in(tempdir(), &[]).await
    }

    /// Starts a Python bank in a folder that may have a database already. It obeys these coordinators, by their URLs, or all.
    pub(crate) async fn python_bank_in(home: TempDir, coordinators: &[&str]) -> Self {
        Self::start(home, "python3".into(), |port, home| {
            let mut args = vec![script(), port.to_string(), text(&home.join("bank.db"))];
            args.extend([PYTHON_ACCOUNTS.to_string(), OPENING.to_string()]);
            args.extend(coordinators.iter().map(|&url| url.to_owned()));
            args
        })
        .await
    }

    pub(crate) async fn fee_ledger() -> Self {
        Self::start(tempdir(), binary("fees"), |port, home| {
            vec!["--listen".into(), format!("127.0.0.1:{port}"), "--data-dir".into(), text(&home.join("data"))]
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        self.api.base().to_owned()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    pub(crate) fn spawn_again(&mut self) {
        assert!(self.process.poll().is_some(), "it still runs");
        self.process = spawn(&self.program, &self.args, self.home.path());
    }

    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.spawn_again();
        self.ready().await;
    }

    pub(crate) async fn ready(&mut self) {
        let (api, process) = (&self.api, &mut self.process);
        wait::until_so("a service serves", async || {
            let ended = process.poll();
            assert!(ended.is_none(), "a service ended at its start: {ended:?}\n{}", process.log());
            api.try_get("/accounts").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// Returns what it has printed.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    pub(crate) async fn accounts(&self) -> BTreeMap<String, i64> {
        let answer = self.api.get("/accounts").await.expect(200);
        let rows = answer.body["accounts"].as_array().expect("there are accounts").iter();
        let row = |row: &Value| Some((row["account"].as_str()?.to_owned(), row["cents"].as_i64()?));
        rows.map(|of| row(of).expect("an account has a name and a balance")).collect()
    }

    pub(crate) async fn in_doubt(&self) -> usize {
        let answer = self.api.get("/branches?state=prepared").await.expect(200);
        answer.body["items"].as_array().expect("there are items").len()
    }

    pub(crate) async fn nothing_in_doubt(&self) {
        wait::until_so("nothing is in doubt", async || self.in_doubt().await == 0).await;
    }

    /// Sends a message as a coordinator does.
    pub(crate) async fn send(&self, call: &str, message: &Value) -> Answer {
        self.api.post(&format!("/{call}"), message).await
    }

    /// Tells it something as a coordinator does: the call, the transaction's and the epoch's number, the horizon's, and more.
    pub(crate) async fn told(&self, call: &str, number: u32, epoch: u32, horizon: u32, more: &Value) -> Answer {
        let mut message = message(number);
        message["coordinator"]["epoch"] = json!(id(epoch));
        message["coordinator"]["horizon"] = json!(id(horizon));
        for (name, value) in more.as_object().expect("members are an object") {
            message[name] = value.clone();
        }
        self.send(call, &message).await
    }

    pub(crate) async fn prepare(&self, number: u32, account: &str, cents: i64) -> Answer {
        self.send("prepare", &with_payload(message(number), account, cents)).await
    }

    pub(crate) async fn commit(&self, number: u32) -> Answer {
        self.send("commit", &message(number)).await
    }

    pub(crate) async fn abort(&self, number: u32) -> Answer {
        self.send("abort", &message(number)).await
    }

    /// Runs `participant.py resolve` on its database.
    pub(crate) fn resolve(&self, transaction: &str, decision: &str, reason: &str) -> Output {
        let database = text(&self.home.path().join("bank.db"));
        let args = [&*script(), "resolve", &database, transaction, "b", decision, reason];
        Command::new("python3").args(args).output().expect("Python can be started")
    }

    /// Stops it, runs a statement on its database, starts it again, and returns the rows that the statement gave.
    pub(crate) async fn sql(&mut self, statement: &str) -> Value {
        self.kill();
        let rows = run_sql(self.home.path(), statement);
        self.spawn_again();
        self.ready().await;
        rows
    }
}

pub(crate) fn tempdir() -> TempDir {
    tempfile::tempdir().expect("a folder can be made")
}

/// Runs statements on the bank's database in this folder, and returns the rows of the last one as arrays.
pub(crate) fn run_sql(home: &Path, statements: &str) -> Value {
    let program = "
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2].split(';'):
    rows = db.execute(statement).fetchall()
print(json.dumps(rows))";
    let database = text(&home.join("bank.db"));
    let output = Command::new("python3").args(["-c", program, &database, statements]).output();
    let output = output.expect("Python can be started");
    assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("rows are JSON")
}

fn script() -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python/participant.py"))
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path is text").to_owned()
}

fn spawn(program: &Path, args: &[String], home: &Path) -> Process {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Process::start(program, &args, None, &home.join("service.log"))
}

/// Returns the nth id, in order.
pub(crate) fn id(number: u32) -> String {
    if number == 0 {
        return "00000000-0000-0000-0000-000000000000".to_owned();
    }
    format!("01890a5d-0000-7000-8000-{number:012x}")
}

/// Returns an id whose time is so many minutes ahead of the clock.
pub(crate) fn id_ahead(minutes: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let millis = u64::try_from(now.as_millis()).expect("it is before the year 584,554,051") + minutes * 60_000;
    format!("{:08x}-{:04x}-7000-8000-000000000001", millis >> 16, millis & 0xffff)
}

/// Returns the message about branch `b` of the nth transaction, from [`COORDINATOR`] under the second epoch.
pub(crate) fn message(number: u32) -> Value {
    let coordinator = json!({ "id": COORDINATOR, "epoch": id(2), "url": NOWHERE, "horizon": id(0) });
    json!({ "transaction": id(number), "branch": "b", "coordinator": coordinator })
}

/// Returns the same message, as a prepare of this posting.
pub(crate) fn with_payload(mut message: Value, account: &str, cents: i64) -> Value {
    message["payload"] = json!({ "account": account, "cents": cents });
    message["remaining_ms"] = json!(1000);
    message
}

pub(crate) fn vote(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.body["vote"].as_str().unwrap_or_default())
}

pub(crate) fn state(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.body["state"].as_str().unwrap_or_default())
}
