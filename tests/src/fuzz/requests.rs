//! A request to the coordinator's API: path, query, headers and body. Its log is in memory, and its only participant is one
//! that nobody can reach.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use serde_json::Value;
use tokio::runtime::{self, Runtime};
use unanimous_coordinator::{
    api::{self, AllowList, App, RequestLimits},
    engine::{Begin, Clock, Engine, Limits, Service},
    journal::{Journal, Memory},
    metrics::Metrics,
    transport::Http,
};
use unanimous_sdk::protocol::{CoordinatorId, ParticipantUrl};
use uuid::Uuid;

use super::exchange::{self, Answer, Kept};

/// After so many requests it is a new coordinator: the old one's transactions take room.
const USES: u32 = 500;

/// Nobody listens there.
const PARTICIPANT: &str = "http://127.0.0.1:1/p";

struct Coordinator {
    runtime: Runtime,
    router: Router,
    service: Service,
    journal: Arc<Memory>,
    /// A transaction that was begun.
    id: String,
}

thread_local! {
    static COORDINATOR: Kept<Coordinator> = Kept::default();
}

/// See the module.
pub(super) fn check(bytes: &[u8]) {
    exchange::with_kept(&COORDINATOR, USES, Coordinator::new, |coordinator| {
        let Some((request, _)) = exchange::request(bytes, &coordinator.id) else { return };
        if let Some(answer) = coordinator.ask(request) {
            answer.must_be_sound();
            coordinator.must_be_there(&answer);
        }
    });
}

impl Coordinator {
    fn new() -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let clock = Clock::start();
        let id = CoordinatorId::from_uuid(Uuid::from_u128(0x4000_8000_0000_0000_0001));
        let (journal, recovered) = Memory::create(id, clock.now().wall, 7).expect("a log in memory");
        let url = "http://127.0.0.1:7070".to_owned();
        let mut engine = Engine::new(clock.now(), recovered, url, Limits::default(), [7; 32]);
        let branch = |name: &str| (name.parse().ok(), PARTICIPANT.parse::<ParticipantUrl>().expect("a URL"), None);
        let begin =
            Begin { timeout: Duration::from_hours(1), branches: vec![branch("a"), branch("b")], ..Begin::default() };
        let (view, _) = engine.begin(clock.now(), begin).unwrap_or_else(|refused| panic!("{refused:?}"));
        let who = engine.coordinator();
        let journal = Arc::new(journal);
        let log: Arc<dyn Journal> = Arc::<Memory>::clone(&journal);
        let inside = runtime.enter();
        let metrics = Metrics::new([]);
        let service = Service::new(engine, log, Http::new(who).expect("a client"), clock, metrics);
        drop(inside);
        let limits = RequestLimits {
            body_bytes: 1 << 20,
            branches: 256,
            default_timeout_ms: 30_000,
            max_timeout_ms: 86_400_000,
        };
        let app = App::new(AllowList::new(vec![PARTICIPANT.parse().expect("a prefix")]), limits);
        app.ready(service.clone());
        Self { runtime, router: api::router(app), service, journal, id: view.id().to_string() }
    }

    /// None: it waits for something that doesn't come, a participant's vote for one.
    fn ask(&self, request: Request<Body>) -> Option<Answer> {
        self.runtime.block_on(async {
            let mut answer = std::pin::pin!(exchange::send(&self.router, request));
            for moment in 0..40 {
                let pause = async {
                    // The first few rounds without a pause: most need none.
                    if moment < 20 {
                        tokio::task::yield_now().await;
                    } else {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                tokio::select! {
                    biased;
                    answer = &mut answer => return Some(answer),
                    () = pause => {}
                }
                self.write();
            }
            None
        })
    }

    /// The log takes what was appended.
    fn write(&self) {
        if self.journal.waiting() > 0 {
            let progress = self.journal.pump().expect("the log can be written");
            self.service.progress(progress);
        }
    }

    /// What was begun is there.
    fn must_be_there(&self, begun: &Answer) {
        let Some(location) = begun.location.as_deref().filter(|_| begun.status == 201) else { return };
        let request = Request::get(location).body(Body::empty()).expect("a location is a path");
        let there = self.ask(request).expect("a transaction is shown at once");
        let value: Value = serde_json::from_slice(&there.body).expect("it is shown as JSON");
        assert!(there.status == 200 && location.ends_with(value["id"].as_str().unwrap_or("?")), "{location}: {value}");
    }
}
