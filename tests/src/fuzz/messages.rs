//! A message of a coordinator to a participant that is built with the SDK, single or a batch. It keeps nothing.

use std::time::Duration;

use axum::Router;
use serde_json::Value;
use tokio::runtime::{self, Runtime};
use unanimous_sdk::{
    branch::{BranchKey, Lsn, Saved},
    participant::{BranchContext, Participant, Refusal},
    protocol::{AbortAnswer, CommitAnswer, PrepareAnswer, Vote},
    server::{Service, ServiceOptions},
    store::{Entry, Error, Store},
};

use super::exchange::{self, Kept};

/// After so many messages it is a new participant: the old one's branches take room.
const USES: u32 = 2_000;

struct Nothing;

impl Store for Nothing {
    type Work = ();

    async fn load(&self) -> Result<Saved, Error> {
        Ok(Saved::default())
    }

    fn work(&self, _: &BranchKey) {}

    fn has_writes((): &()) -> bool {
        true
    }

    fn append(&self, _: Entry<()>) {}

    async fn durable(&self, _: Lsn) -> Result<(), Error> {
        Ok(())
    }
}

struct Obliging;

impl Participant for Obliging {
    type Store = Nothing;

    async fn prepare(&self, branch: &BranchContext, (): &mut ()) -> Result<Vote, Refusal> {
        let payload: Value = branch.payload()?;
        if payload == "no" { Err("no".into()) } else { Ok(Vote::Prepared) }
    }
}

struct Served {
    runtime: Runtime,
    router: Router,
}

thread_local! {
    static SERVED: Kept<Served> = Kept::default();
}

/// See the module.
pub(super) fn check(bytes: &[u8]) {
    exchange::with_kept(&SERVED, USES, Served::new, |served| served.check(bytes));
}

impl Served {
    fn new() -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let router = runtime.block_on(async {
            let url = Some("http://127.0.0.1:1/p".parse().expect("a URL"));
            let options = ServiceOptions { url, patience: Duration::from_hours(1), ..ServiceOptions::default() };
            let service = Service::start(Obliging, Nothing, options).expect("a client");
            service.ready().await.expect("nothing is to be loaded");
            service.router()
        });
        Self { runtime, router }
    }

    fn check(&self, bytes: &[u8]) {
        let Some((request, body)) = exchange::request(bytes, "") else { return };
        let path = request.uri().path().to_owned();
        let limit = Duration::from_millis(50);
        let sent = async { tokio::time::timeout(limit, exchange::send(&self.router, request)).await };
        // A prepare may be made to wait for as long as its message says.
        let Ok(answer) = self.runtime.block_on(sent) else { return };
        answer.must_be_sound();
        let exchange::Answer { status, content_type, body: text, .. } = answer;
        let (media, said) = (content_type.as_deref(), String::from_utf8_lossy(&text));
        if !(200..300).contains(&status) {
            return;
        }
        // Whatever is answered with 200 counts for the coordinator.
        match &*path {
            "/prepare" => assert!(PrepareAnswer::parse(status, media, &text).is_some(), "{said}"),
            "/commit" => assert!(CommitAnswer::parse(status, media, &text).is_some(), "{said}"),
            "/abort" => assert!(AbortAnswer::parse(status, media, &text).is_some(), "{said}"),
            "/batch" => {
                let sent: Value = serde_json::from_slice(&body).expect("what was taken is JSON");
                let answers: Value = serde_json::from_slice(&text).expect("an answer is JSON");
                let length = |of: &Value, member: &str| of[member].as_array().map(Vec::len);
                assert_eq!(length(&sent, "messages"), length(&answers, "answers"), "{said}");
            }
            _ => {}
        }
    }
}
