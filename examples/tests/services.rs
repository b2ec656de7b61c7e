//! The bank and the fee ledger as real processes, spoken to as a coordinator does.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const COORDINATOR: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

struct Service {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Service {
    /// Starts a service, and returns once it says where it serves.
    fn start(binary: &str, folder: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(binary);
        command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(folder).args(args);
        let mut child = command.env_remove("RUST_LOG").stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = log.find_map(|line| Some(line.unwrap().split_once("serves at ")?.1.to_owned()));
        // The rest is read too, or the process would wait for a reader.
        std::thread::spawn(move || log.for_each(drop));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { child, url: url.expect("the service has ended before it served"), http }
    }

    fn bank(folder: &Path) -> Self {
        Self::start(env!("CARGO_BIN_EXE_bank"), folder, &["--accounts", "2", "--opening-balance", "1000"])
    }

    fn fees(folder: &Path) -> Self {
        Self::start(env!("CARGO_BIN_EXE_fees"), folder, &[])
    }

    async fn get(&self, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.url)).send().await.unwrap().json().await.unwrap()
    }

    /// Posts a protocol call for the nth transaction.
    async fn call(&self, call: &str, n: u32, payload: Option<Value>) -> (u16, Value) {
        let mut body = json!({
            "transaction": transaction(n), "branch": "1",
            "coordinator": { "id": COORDINATOR, "epoch": COORDINATOR, "url": "http://127.0.0.1:9",
                             "horizon": "00000000-0000-0000-0000-000000000000" },
        });
        if call == "prepare" {
            body["deadline"] = "2100-01-01T00:00:00Z".into();
            body["remaining_ms"] = 60_000.into();
        }
        if let Some(payload) = payload {
            body["payload"] = payload;
        }
        let response = self.http.post(format!("{}/{call}", self.url)).json(&body).send().await.unwrap();
        let (status, mut answer) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
        // Who answered which call is the same for all of them.
        for name in ["participant_id", "transaction", "branch"] {
            assert!(answer.as_object_mut().unwrap().remove(name).is_some(), "{name}: {answer}");
        }
        (status, answer)
    }

    async fn prepare(&self, n: u32, account: &str, cents: i64) -> (u16, Value) {
        self.call("prepare", n, Some(json!({ "account": account, "cents": cents }))).await
    }

    async fn balances(&self) -> Vec<i64> {
        let accounts = self.get("/accounts").await;
        accounts["accounts"].as_array().unwrap().iter().map(|account| account["cents"].as_i64().unwrap()).collect()
    }

    fn end(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn transaction(n: u32) -> String {
    format!("01890a5d-ac97-7000-8000-{n:012x}")
}

fn reason(answer: &(u16, Value)) -> &str {
    assert_eq!((answer.0, &answer.1["vote"]), (409, &json!("abort")), "{answer:?}");
    answer.1["reason"].as_str().unwrap()
}

#[tokio::test]
async fn money_moves_when_the_transaction_commits_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Service::bank(folder.path());
    assert_eq!(bank.prepare(1, "account-01", -400).await, (200, json!({ "vote": "prepared" })));
    assert_eq!(bank.balances().await, [1000, 1000]);
    assert_eq!(bank.call("commit", 1, None).await, (200, json!({ "state": "committed" })));
    assert_eq!(bank.balances().await, [600, 1000]);
    assert_eq!(bank.get("/balance/total").await, json!({ "cents": 1600 }));
}

#[tokio::test]
async fn an_abort_moves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Service::bank(folder.path());
    assert_eq!(bank.prepare(1, "account-01", -400).await.0, 200);
    assert_eq!(bank.call("abort", 1, None).await, (200, json!({ "state": "aborted" })));
    assert_eq!(bank.balances().await, [1000, 1000]);
    // And the account is free again.
    assert_eq!(bank.prepare(2, "account-01", -1000).await.0, 200);
}

#[tokio::test]
async fn a_debit_past_the_balance_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Service::bank(folder.path());
    let refused = bank.prepare(1, "account-01", -1001).await;
    assert_eq!(reason(&refused), "overdrawn: account-01 holds 10.00, 10.01 is asked for");
    assert_eq!(bank.balances().await, [1000, 1000]);
    assert_eq!(bank.prepare(2, "account-01", -1000).await.0, 200);
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Service::bank(folder.path());
    assert_eq!(reason(&bank.prepare(1, "account-03", 1).await), "there is no account account-03");
    assert_eq!(reason(&bank.prepare(2, "account-01", i64::MAX).await), "that is more money than there is");
    let unknown =
        bank.call("prepare", 3, Some(json!({ "account": "account-01", "cents": 1, "currency": "EUR" }))).await;
    assert!(reason(&unknown).contains("currency"), "{unknown:?}");
    let fraction = bank.call("prepare", 4, Some(json!({ "account": "account-01", "cents": 0.5 }))).await;
    assert!(reason(&fraction).contains("0.5"), "{fraction:?}");
    assert_eq!(bank.balances().await, [1000, 1000]);
}

#[tokio::test]
async fn a_vote_and_its_lock_survive_kill_9_and_the_commit_is_carried_out_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Service::bank(folder.path());
    assert_eq!(bank.prepare(1, "account-01", -400).await.0, 200);
    bank.end(Signal::SIGKILL);

    let bank = Service::bank(folder.path());
    let in_doubt = bank.get("/branches?state=prepared").await;
    assert_eq!(in_doubt["items"].as_array().unwrap().len(), 1, "{in_doubt}");
    assert_eq!(in_doubt["items"][0]["transaction"], transaction(1));
    let other = bank.prepare(2, "account-01", -1).await;
    assert!(reason(&other).starts_with("lock-conflict"), "{other:?}");
    assert_eq!(bank.call("commit", 1, None).await, (200, json!({ "state": "committed" })));
    assert_eq!(bank.balances().await, [600, 1000]);
}

/// Runs a command at a bank that is stopped: its status, and what it says.
fn at_stopped_bank(folder: &Path, command: &str, args: &[&str]) -> (bool, String) {
    let mut bank = Command::new(env!("CARGO_BIN_EXE_bank"));
    let ended = bank.args([command, "--data-dir"]).arg(folder).args(args).env("RUST_LOG", "off").output().unwrap();
    let said = String::from_utf8(ended.stdout).unwrap() + &String::from_utf8(ended.stderr).unwrap();
    (ended.status.success(), said)
}

#[tokio::test]
async fn operator_sees_what_is_in_doubt_and_ends_it_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Service::bank(folder.path());
    assert_eq!(bank.prepare(1, "account-01", -400).await.0, 200);
    assert_eq!(bank.prepare(2, "account-02", -400).await.0, 200);
    let end = |n: u32, args: &[&str]| {
        let transaction = transaction(n);
        let args = [&["--transaction", &transaction, "--branch", "1", "--reason", "the till says so"], args].concat();
        at_stopped_bank(folder.path(), "resolve", &args)
    };
    let (is_done, said) = at_stopped_bank(folder.path(), "in-doubt", &[]);
    assert!(!is_done && said.contains("is open in another process"), "{said}");
    assert!(bank.end(Signal::SIGTERM).success());

    let (is_done, said) = at_stopped_bank(folder.path(), "in-doubt", &[]);
    assert!(is_done && said.contains("2 branches are in doubt"), "{said}");
    let line = said.lines().find(|line| line.contains(&transaction(1))).unwrap();
    assert!(line.contains(COORDINATOR) && line.contains("http://127.0.0.1:9") && line.contains("error"), "{line}");
    let (is_done, said) = end(1, &[]);
    assert!(!is_done && said.contains("--commit"), "{said}");
    assert!(end(1, &["--commit"]).0 && end(2, &["--abort"]).0);
    let (is_done, said) = end(2, &["--abort"]);
    assert!(!is_done && said.contains("is not in doubt"), "{said}");

    let bank = Service::bank(folder.path());
    assert_eq!(bank.balances().await, [600, 1000]);
    let (status, body) = bank.call("abort", 1, None).await;
    assert_eq!((status, &body["state"]), (409, &json!("heuristic_commit")));
    assert!(body["detail"].as_str().unwrap().contains("the till says so"), "{body}");
    let (status, body) = bank.call("commit", 2, None).await;
    assert_eq!((status, &body["state"]), (409, &json!("heuristic_abort")));
    assert!(body["detail"].as_str().unwrap().contains("the till says so"), "{body}");
}

#[tokio::test]
async fn accounts_are_opened_once_and_more_can_be_opened_later() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Service::bank(folder.path());
    assert_eq!(bank.prepare(1, "account-02", -1000).await.0, 200);
    assert_eq!(bank.call("commit", 1, None).await.0, 200);
    assert!(bank.end(Signal::SIGTERM).success(), "SIGTERM ends it with success");

    let args = ["--accounts", "3", "--opening-balance", "7"];
    let bank = Service::start(env!("CARGO_BIN_EXE_bank"), folder.path(), &args);
    assert_eq!(bank.balances().await, [1000, 0, 7]);
}

#[tokio::test]
async fn each_transaction_has_a_line_of_its_own_in_the_fee_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let fees = Service::fees(folder.path());
    // Both are undecided at once: none waits for the other.
    for n in [1, 2] {
        assert_eq!(fees.call("prepare", n, Some(json!({ "cents": 10 }))).await.0, 200);
    }
    assert_eq!(fees.get("/balance/total").await, json!({ "cents": 0 }));
    assert_eq!(fees.call("commit", 1, None).await.0, 200);
    assert_eq!(fees.call("commit", 1, None).await.0, 200, "a repeat");
    assert_eq!(fees.call("abort", 2, None).await.0, 200);
    assert_eq!(fees.get("/balance/total").await, json!({ "cents": 10 }));
    assert_eq!(reason(&fees.call("prepare", 3, Some(json!({ "cents": 0 }))).await), "a fee is more than zero");
    assert!(fees.end(Signal::SIGTERM).success(), "SIGTERM ends it with success");
}
