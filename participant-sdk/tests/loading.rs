//! Until its store is wholly loaded a participant answers 503 to everything.
#![cfg(feature = "participant")]

use std::sync::Arc;

use tokio::{net::TcpListener, sync::Notify};
use unanimous_sdk::{
    branch::{BranchKey, Lsn, Saved},
    participant::{BranchContext, Participant, Refusal},
    protocol::Vote,
    server::{Service, ServiceOptions},
    store::{Entry, Error, Store},
};

/// A store that loads when it is told to, and perhaps fails.
struct Slow {
    go: Arc<Notify>,
    fails: bool,
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

    fn append(&self, _: Entry<()>) {}

    async fn durable(&self, _: Lsn) -> Result<(), Error> {
        Ok(())
    }
}

struct Nothing;

impl Participant for Nothing {
    type Store = Slow;

    async fn prepare(&self, _: &BranchContext, (): &mut ()) -> Result<Vote, Refusal> {
        Ok(Vote::ReadOnly)
    }
}

async fn statuses(url: &str) -> Vec<u16> {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut statuses = Vec::new();
    for call in ["prepare", "commit", "abort"] {
        statuses.push(http.post(format!("{url}/{call}")).body("{}").send().await.unwrap().status().as_u16());
    }
    statuses.push(http.get(format!("{url}/branches")).send().await.unwrap().status().as_u16());
    statuses
}

#[tokio::test]
async fn everything_is_503_until_the_store_is_loaded_and_for_ever_if_it_cannot_be() {
    for fails in [false, true] {
        let go = Arc::new(Notify::new());
        let service = Service::start(Nothing, Slow { go: go.clone(), fails }, ServiceOptions::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = service.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        assert_eq!(statuses(&url).await, [503; 4]);
        go.notify_one();
        if fails {
            assert!(service.ready().await.unwrap_err().contains("it is torn"));
            assert_eq!(statuses(&url).await, [503; 4]);
        } else {
            service.ready().await.unwrap();
            assert_eq!(statuses(&url).await, [400, 400, 400, 200]);
        }
    }
}
