//! Real losses of power: the real program on a disk that keeps only what it said it had synced. It is killed in the middle
//! of its work, what was not synced is taken away, in whole or in part, and the next one starts on what is left.
//!
//! Always true: no answer that was given is ever contradicted, and what is left can always be started on.
//!
//! `UNANIMOUS_CUTS=N` makes N rounds, or `UNANIMOUS_SECONDS=N` as many as the time allows; `UNANIMOUS_SEED=N` is where the
//! random numbers start.

mod disk;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use disk::{Disk, Library};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use unanimous_tests::{
    api::Api,
    binaries::binary,
    history::{Attempt, History, Rule, Told},
    participant::Participant,
    process::Process,
    server::free_port,
    wait,
};

const CLIENTS: usize = 8;

/// The program on such a disk, and what it has told.
struct Rounds {
    disk: Disk,
    library: Library,
    lies: bool,
    listen: String,
    api: Api,
    participant: Participant,
    told: Arc<Mutex<Vec<(String, Attempt)>>>,
    keys: Arc<AtomicU64>,
    /// Who it was at each start, as it stands in its messages.
    known_as: Vec<Value>,
    random: StdRng,
    log: std::path::PathBuf,
}

impl Rounds {
    fn new(home: &Path, seed: u64, lies: bool) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        Self {
            disk: Disk::new(home),
            library: Library::build(home),
            lies,
            api: Api::new(&format!("http://{listen}")),
            listen,
            participant: Participant::start(),
            told: Arc::default(),
            keys: Arc::default(),
            known_as: vec![],
            random: StdRng::seed_from_u64(seed),
            log: home.join("coordinator.log"),
        }
    }

    /// Starts it on what is there, and waits until it serves; what it said, if it doesn't.
    async fn start(&self) -> Result<Process, String> {
        let mut args = self.disk.variables(&self.library);
        args.extend(self.lies.then(|| "LOST_WRITES_LIES=1".to_owned()));
        args.push(binary("unanimous").display().to_string());
        let folder = self.disk.folder().display().to_string();
        args.extend(["serve", "--listen", &self.listen, "--data-dir", &folder].map(str::to_owned));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut process = Process::start(Path::new("/usr/bin/env"), &args, None, &self.log);
        let ready = wait::until("it is ready, or has ended", async || {
            if let Some(ended) = process.poll() {
                return Some(Err(format!("it ended at its start, {ended}: {}", process.log())));
            }
            self.api.try_get("/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(Ok(()))
        });
        ready.await?;
        Ok(process)
    }

    /// Clients commit, one transaction after the other, until they are told to stop or hear nothing more.
    fn clients(&self, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<()>> {
        let client = |_| {
            let (api, told, keys, stop) = (self.api.clone(), self.told.clone(), self.keys.clone(), Arc::clone(stop));
            let branches = json!([
                { "participant": self.participant.url(), "branch": "a", "payload": {} },
                { "participant": self.participant.url(), "branch": "b", "payload": {} },
            ]);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("key-{}", keys.fetch_add(1, Ordering::Relaxed));
                    let body = json!({ "branches": branches, "commit": true }).to_string();
                    let headers = [("content-type", "application/json"), ("idempotency-key", &key)];
                    let call = api.call(reqwest::Method::POST, "/v1/transactions", &headers, Some(body));
                    let Ok(answer) = call.await else { continue };
                    let (id, what) = match answer.status {
                        200 => (answer.body["id"].as_str(), Told::Committed),
                        409 => (answer.body["transaction"]["id"].as_str(), Told::Aborted),
                        _ => continue,
                    };
                    let transaction = id.expect("it has an id").to_owned();
                    told.lock().unwrap().push((key, Attempt { transaction, moves: vec![], told: vec![what] }));
                }
            })
        };
        (0..CLIENTS).map(client).collect()
    }

    /// How much is done in a round: now and then the power is gone before anything is decided.
    fn any(&mut self) -> usize {
        if self.random.random_ratio(1, 4) { 0 } else { self.random.random_range(5..200) }
    }

    /// Works until clients have had so many answers, and loses its power in the middle of that.
    async fn round(&mut self, answers: usize) -> Result<(), String> {
        let mut process = self.start().await?;
        self.check().await?;
        self.known_as.push(self.api.who().await);
        let stop = Arc::default();
        let before = self.told.lock().unwrap().len();
        let clients = if answers == 0 { vec![] } else { self.clients(&stop) };
        wait::until_so("clients have been told", async || self.told.lock().unwrap().len() >= before + answers).await;
        process.kill();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.expect("a client ends well");
        }
        self.disk.cut(&mut self.random);
        Ok(())
    }

    /// Everything that was told is so: looked at whole for what was told since the last cut and a while before.
    async fn check(&self) -> Result<(), String> {
        let told = self.told.lock().unwrap().clone();
        let recent = &told[told.len().saturating_sub(400)..];
        let mut history =
            History { attempts: recent.iter().map(|(_, one)| one.clone()).collect(), ..History::default() };
        for (key, attempt) in recent {
            let answer = self.api.get(&format!("/v1/transactions/{}", attempt.transaction)).await;
            if answer.status == 200 {
                history.shown.insert(attempt.transaction.clone(), self.api.finished(&attempt.transaction).await);
            }
            let found = self.api.get(&format!("/v1/transactions?idempotency_key={key}")).await.expect(200);
            let ids: Vec<_> = found.body["items"].as_array().into_iter().flatten().map(|item| &item["id"]).collect();
            if ids != [&json!(attempt.transaction)] && answer.status == 200 {
                return Err(format!("{key} was told {}, and stands for {ids:?}", attempt.transaction));
            }
        }
        let broken = history.broken();
        let lines: Vec<String> = broken.iter().map(ToString::to_string).collect();
        if !lines.is_empty() {
            return Err(lines.join("\n"));
        }
        for who in &self.known_as {
            // Whoever was called under that epoch may be in doubt, and ask.
            let answer = self.api.inquire("01890a5d-ac96-774b-bcce-b302099a8057", who, "a").await;
            let answer = answer.map_err(|error| error.to_string())?;
            if answer.status != 200 {
                return Err(format!("it doesn't know itself under the epoch {}: {answer:?}", who["epoch"]));
            }
        }
        Ok(())
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_loss_of_power_it_starts_and_contradicts_nothing_that_was_told() {
    let seed = number("UNANIMOUS_SEED").unwrap_or_else(rand::random);
    let again = format!("UNANIMOUS_SEED={seed} cargo test --release --workspace --test lost_writes -- --nocapture");
    let home = tempfile::tempdir().expect("a folder can be made");
    let mut rounds = Rounds::new(home.path(), seed, false);
    let end = number("UNANIMOUS_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let cuts = number("UNANIMOUS_CUTS").unwrap_or(10);
    let mut done = 0;
    while end.map_or(done < cuts, |end| Instant::now() < end) {
        let answers = rounds.any();
        rounds.round(answers).await.unwrap_or_else(|why| panic!("after {done} cuts: {why}\nagain: {again}"));
        done += 1;
    }
    let process = rounds.start().await.unwrap_or_else(|why| panic!("{why}\nagain: {again}"));
    rounds.check().await.unwrap_or_else(|why| panic!("{why}\nagain: {again}"));
    rounds.participant.assert_respected();
    println!("{done} losses of power, {} answers", rounds.told.lock().unwrap().len());
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_lies_about_its_syncs_is_found_out() {
    // Nothing but this shows that the test above can fail: the log is gone, and so is what was told.
    let home = tempfile::tempdir().expect("a folder can be made");
    let mut rounds = Rounds::new(home.path(), 1, true);
    rounds.round(50).await.expect("it works until the power is gone");
    let process = rounds.start().await.expect("an empty folder is a new log");
    let why = rounds.check().await.expect_err("what was told is gone");
    assert!(why.contains(&format!("{:?}", Rule::ToldIsFinal)), "{why}");
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_ends_the_process_and_nothing_that_hung_on_it_was_told() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let mut rounds = Rounds::new(home.path(), 2, false);
    let mut process = rounds.start().await.expect("it starts");
    let stop = Arc::default();
    let clients = rounds.clients(&stop);
    wait::until_so("clients have been told", async || rounds.told.lock().unwrap().len() >= 50).await;
    rounds.disk.fail();
    let ended = process.ended().await;
    assert!(!ended.success(), "{ended}");
    assert!(process.log().contains("the log can't be written any more"), "{}", process.log());
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client ends well");
    }
    rounds.disk.cut(&mut rounds.random);
    let process = rounds.start().await.expect("it starts again");
    rounds.check().await.unwrap_or_else(|why| panic!("{why}"));
    rounds.participant.assert_respected();
    drop(process);
}
