//! What a participant owes to its store: until it is wholly loaded everything is 503, and nothing is told before it is
//! durable.
#![cfg(feature = "participant")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::TcpListener, sync::Notify};
use unanimous_sdk::{
    branch::{BranchKey, Lsn, Saved},
    participant::{BranchContext, Participant, Refusal},
    protocol::Vote,
    server::{Service, ServiceOptions},
    store::{Entry, Error, Store},
};

/// A store that loads and makes durable when it is told to, and perhaps fails.
#[derive(Clone, Default)]
struct Slow {
    go: Arc<Notify>,
    fails: bool,
    /// Of each entry, whether it was forced.
    entries: Arc<Mutex<Vec<bool>>>,
    /// What somebody waits for to be durable.
    awaited: Arc<Mutex<Vec<Lsn>>>,
    synced: Arc<Notify>,
}

impl Store for Slow {
    type Work = ();

    async fn load(&self) -> Result<Saved, Error> {
        self.go.notified().await;
        if self.fails {
            return Err(Error::Damaged { folder: "here".to_owned(), what: "it is torn".to_owned() });
        }
        Ok(Saved::default())
    }

    fn work(&self, _: &BranchKey) {}

    fn has_writes((): &()) -> bool {
        false
    }

    fn append(&self, entry: Entry<()>) {
        self.entries.lock().unwrap().push(entry.forced);
    }

    async fn durable(&self, lsn: Lsn) -> Result<(), Error> {
        let asked = self.synced.notified();
        self.awaited.lock().unwrap().push(lsn);
        asked.await;
        Ok(())
    }
}

struct Nothing;

impl Participant for Nothing {
    type Store = Slow;

    async fn prepare(&self, _: &BranchContext, (): &mut ()) -> Result<Vote, Refusal> {
        Ok(Vote::Prepared)
    }
}

async fn statuses(url: &str) -> Vec<u16> {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut statuses = Vec::new();
    for call in ["prepare", "commit", "abort", "batch"] {
        statuses.push(http.post(format!("{url}/{call}")).body("{}").send().await.unwrap().status().as_u16());
    }
    statuses.push(http.get(format!("{url}/branches")).send().await.unwrap().status().as_u16());
    statuses
}

#[tokio::test]
async fn everything_is_503_until_the_store_is_loaded_and_for_ever_if_it_cannot_be() {
    for fails in [false, true] {
        let go = Arc::new(Notify::new());
        let service =
            Service::start(Nothing, Slow { go: go.clone(), fails, ..Slow::default() }, ServiceOptions::default())
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = service.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        assert_eq!(statuses(&url).await, [503; 5]);
        go.notify_one();
        if fails {
            assert!(service.ready().await.unwrap_err().contains("it is torn"));
            assert_eq!(statuses(&url).await, [503; 5]);
        } else {
            service.ready().await.unwrap();
            assert_eq!(statuses(&url).await, [400, 400, 400, 400, 200]);
        }
    }
}

#[tokio::test]
async fn nothing_of_a_batch_is_told_before_all_of_it_is_durable_by_one_forced_write() {
    let store = Slow::default();
    let options = ServiceOptions { patience: Duration::from_hours(1), ..ServiceOptions::default() };
    let service = Service::start(Nothing, store.clone(), options).unwrap();
    store.go.notify_one();
    service.ready().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/batch", listener.local_addr().unwrap());
    let router = service.router();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let messages: Vec<_> = ["a", "b", "c"]
        .map(|branch| {
            serde_json::json!({
                "call": "prepare", "transaction": "01890a5d-1111-7000-8000-000000000001", "branch": branch,
                "payload": {}, "deadline": "2100-01-01T00:00:00Z", "remaining_ms": 60_000,
            })
        })
        .into();
    let batch = serde_json::json!({
        "coordinator": {
            "id": "67e55044-10b1-426f-9247-bb680e5fe0c8", "epoch": "01890a5d-0000-7000-8000-000000000002",
            "url": "http://127.0.0.1:1", "horizon": "00000000-0000-0000-0000-000000000000",
        },
        "messages": messages,
    });
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = tokio::spawn(http.post(url).json(&batch).send());
    while store.awaited.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!answer.is_finished());
    // Three votes, and the epoch with the first: the last of them is waited for, and with it all.
    assert_eq!((&*store.entries.lock().unwrap(), &*store.awaited.lock().unwrap()), (&vec![false; 4], &vec![Lsn(4)]));
    store.synced.notify_waiters();
    let answers: serde_json::Value = answer.await.unwrap().unwrap().json().await.unwrap();
    // A store without an id names its calls all the same.
    let transaction = "01890a5d-1111-7000-8000-000000000001";
    let prepared = ["a", "b", "c"].map(|branch| {
        let body = serde_json::json!({ "vote": "prepared", "transaction": transaction, "branch": branch });
        serde_json::json!({ "status": 200, "body": body })
    });
    assert_eq!(answers, serde_json::json!({ "answers": prepared }));
}
