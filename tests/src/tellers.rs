//! Tellers who move money between two banks, whatever happens to the banks, the coordinator or the network.
//!
//! Always true: a teller who gets no answer asks again as an application would, and keeps every answer; one who sent an
//! Idempotency-Key asks until there is an answer, and once more in the end, and must hear of the same transaction.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    api::{Answer, Api},
    bank::{ACCOUNTS, Bank, account, holdings, named, posting},
    history::{Attempt, History, Move, Told},
    wait,
};

/// What tellers share.
struct Office {
    api: Api,
    /// The banks' URLs, as the coordinator is to call them.
    banks: [String; 2],
    closed: AtomicBool,
    tried: AtomicUsize,
}

/// See the module.
pub struct Tellers {
    office: Arc<Office>,
    tasks: Vec<JoinHandle<Vec<Attempt>>>,
}

impl Tellers {
    /// So many begin to work.
    pub fn start(count: usize, api: &Api, banks: [String; 2], random: &mut StdRng) -> Self {
        let (closed, tried) = (AtomicBool::new(false), AtomicUsize::new(0));
        let office = Arc::new(Office { api: api.clone(), banks, closed, tried });
        let teller = |_| tokio::spawn(teller(office.clone(), random.random()));
        Self { tasks: (0..count).map(teller).collect(), office }
    }

    /// How many transfers were tried so far.
    pub fn tried(&self) -> usize {
        self.office.tried.load(Ordering::Relaxed)
    }

    /// Waits until so many more were tried.
    pub async fn try_more(&self, count: usize) {
        let enough = self.tried() + count;
        wait::until_so("tellers try more transfers", async || self.tried() >= enough).await;
    }

    /// Lets them finish what they have begun, and waits until all has ended everywhere; whoever was away must be back.
    /// `opening` is what the banks held before.
    pub async fn end(self, banks: &[Bank], opening: BTreeMap<String, i64>) -> History {
        self.office.closed.store(true, Ordering::Relaxed);
        let mut history = History { opening, ..History::default() };
        for task in self.tasks {
            history.attempts.extend(task.await.expect("a teller ends well"));
        }
        for attempt in &history.attempts {
            if let Some(ended) = ended(&self.office.api, &attempt.transaction).await {
                history.shown.insert(attempt.transaction.clone(), ended);
            }
        }
        for bank in banks {
            bank.nothing_in_doubt().await;
        }
        history.closing = holdings(banks).await;
        history
    }
}

/// How it ended; None if it is not known: a loss of power may make an undecided one forgotten.
async fn ended(api: &Api, id: &str) -> Option<Value> {
    wait::until(&format!("{id} has ended, or is unknown"), async || {
        let answer = api.try_get(&format!("/v1/transactions/{id}")).await.ok()?;
        match answer.body["state"].as_str() {
            Some("committed" | "aborted") => Some(Some(answer.body)),
            _ => (answer.status == 404).then_some(None),
        }
    })
    .await
}

async fn teller(office: Arc<Office>, seed: u64) -> Vec<Attempt> {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut attempts, mut keyed): (Vec<Attempt>, Vec<(usize, String, Value)>) = (vec![], vec![]);
    while !office.closed.load(Ordering::Relaxed) {
        let from = random.random_range(0..2);
        let to = 1 - from;
        // Now and then more than any account holds.
        let cents: i64 = if random.random_ratio(1, 20) { 1_000_000 } else { random.random_range(1..60) };
        let (debit, credit) = (account(random.random_range(1..=ACCOUNTS)), account(random.random_range(1..=ACCOUNTS)));
        let branches = [
            posting(&office.banks[from], "debit", &debit, -cents),
            posting(&office.banks[to], "credit", &credit, cents),
        ];
        // Some are over before whoever is away is back.
        let mut body = json!({ "timeout_ms": random.random_range(100..2_000), "branches": branches });
        let key = random.random_bool(0.5).then(|| format!("{:032x}", random.random::<u128>()));
        let done = match &key {
            Some(key) => {
                body["commit"] = true.into();
                Some(office.with_key(key, &body).await)
            }
            None => office.in_two_calls(&body, &mut random).await,
        };
        let Some((transaction, told)) = done else { continue };
        let moves =
            vec![Move { account: named(from, &debit), cents: -cents }, Move { account: named(to, &credit), cents }];
        keyed.extend(key.map(|key| (attempts.len(), key, body)));
        attempts.push(Attempt { transaction, moves, told });
    }
    for (number, key, body) in keyed {
        let (transaction, told) = office.with_key(&key, &body).await;
        assert_eq!(transaction, attempts[number].transaction, "key {key} is another transaction by now");
        attempts[number].told.extend(told);
    }
    attempts
}

impl Office {
    /// One call, again and again until it is answered.
    async fn with_key(&self, key: &str, body: &Value) -> (String, Vec<Told>) {
        self.tried.fetch_add(1, Ordering::Relaxed);
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let end = Instant::now() + wait::BOUND;
        while Instant::now() < end {
            let call = self.api.call(reqwest::Method::POST, "/v1/transactions", &headers, Some(body.to_string()));
            if let Some(answer) = call.await.ok().filter(|answer| answer.status != 503) {
                let whole = if answer.status == 409 { &answer.body["transaction"] } else { &answer.body };
                let id = whole["id"].as_str().unwrap_or_else(|| panic!("it names a transaction: {answer:?}"));
                return (id.to_owned(), vec![told(&answer)]);
            }
            tokio::time::sleep(2 * wait::PAUSE).await;
        }
        panic!("a call with Idempotency-Key {key} is not answered")
    }

    /// Begins, commits, and asks once more, perhaps, if there is no answer. None: it was not begun.
    async fn in_two_calls(&self, body: &Value, random: &mut StdRng) -> Option<(String, Vec<Told>)> {
        let begun = self.api.try_post("/v1/transactions", body).await;
        let Some(id) = begun.ok().filter(|answer| answer.status == 201).map(|answer| answer.text("id").to_owned())
        else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return None;
        };
        self.tried.fetch_add(1, Ordering::Relaxed);
        let mut all = vec![self.commit(&id).await];
        if all[0] == Told::Unknown && random.random_bool(0.5) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
            all.push(self.commit(&id).await);
        }
        Some((id, all))
    }

    async fn commit(&self, id: &str) -> Told {
        self.api.try_commit(id).await.map_or(Told::Unknown, |answer| told(&answer))
    }
}

fn told(answer: &Answer) -> Told {
    match answer.status {
        200 => Told::Committed,
        409 => Told::Aborted,
        // 404: a loss of power may make a begin forgotten, which then was never committed.
        202 | 404 | 503 => Told::Unknown,
        _ => panic!("{answer:?}"),
    }
}
