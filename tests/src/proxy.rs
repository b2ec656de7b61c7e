//! Stands between the coordinator and a participant, and treats messages as a bad network does.
//!
//! Always true: what it does is decided by its seed and the number of the message.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::server::Server;

/// The latest that a message arrives once more.
pub const LATEST: Duration = Duration::from_secs(1);

/// What becomes of a message.
enum Fate {
    Delivered,
    /// It never arrives.
    Lost,
    /// It arrives, and its answer doesn't.
    AnswerLost,
    Doubled,
    /// It arrives once now, and once more after this: perhaps after what was sent later.
    AgainLate(Duration),
}

struct Shared {
    target: String,
    seed: u64,
    count: AtomicU64,
    /// Of the messages, those in a hundred that are not simply delivered.
    bad: u32,
    http: reqwest::Client,
}

/// See the module.
pub struct Proxy {
    server: Server,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Delivers everything to the participant at this URL, as long as it is up.
    pub fn start(target: &str) -> Self {
        Self::with(target, 0, 0)
    }

    /// Loses, doubles and delays: of a hundred messages or answers, so many.
    pub fn bad(target: &str, seed: u64, bad: u32) -> Self {
        Self::with(target, seed, bad)
    }

    fn with(target: &str, seed: u64, bad: u32) -> Self {
        let http =
            reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client can be made");
        let shared = Arc::new(Shared { target: target.to_owned(), seed, count: AtomicU64::new(0), bad, http });
        let router = Router::new().route("/{call}", post(pass)).with_state(shared.clone());
        Self { server: Server::start(router), shared }
    }

    /// The participant's base URL, as the coordinator is to know it.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// How many messages came.
    pub fn messages(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// From now on nothing gets through.
    pub fn down(&mut self) {
        self.server.down();
    }

    /// It gets through again.
    pub fn up(&mut self) {
        self.server.up();
    }
}

async fn pass(State(shared): State<Arc<Shared>>, Path(call): Path<String>, body: String) -> Response {
    let lost = || (StatusCode::BAD_GATEWAY, "lost").into_response();
    match shared.fate() {
        Fate::Delivered => shared.forward(&call, body).await,
        Fate::Lost => lost(),
        Fate::AnswerLost => {
            shared.forward(&call, body).await;
            lost()
        }
        Fate::Doubled => tokio::join!(shared.forward(&call, body.clone()), shared.forward(&call, body)).1,
        Fate::AgainLate(later) => {
            let (again, call_again, body_again) = (shared.clone(), call.clone(), body.clone());
            tokio::spawn(async move {
                tokio::time::sleep(later).await;
                again.forward(&call_again, body_again).await;
            });
            shared.forward(&call, body).await
        }
    }
}

impl Shared {
    fn fate(&self) -> Fate {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let mut random = StdRng::seed_from_u64(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if random.random_range(0..100) >= self.bad {
            return Fate::Delivered;
        }
        match random.random_range(0..4) {
            0 => Fate::Lost,
            1 => Fate::AnswerLost,
            2 => Fate::Doubled,
            _ => Fate::AgainLate(LATEST.mul_f64(random.random())),
        }
    }

    async fn forward(&self, call: &str, body: String) -> Response {
        let request =
            self.http.post(format!("{}/{call}", self.target)).header(header::CONTENT_TYPE, "application/json");
        let Ok(response) = request.body(body).send().await else {
            return (StatusCode::BAD_GATEWAY, "nobody is there").into_response();
        };
        let status = response.status();
        let media = response.headers().get(header::CONTENT_TYPE).cloned();
        match (media, response.bytes().await) {
            (Some(media), Ok(body)) => (status, [(header::CONTENT_TYPE, media)], body).into_response(),
            (_, _) => (StatusCode::BAD_GATEWAY, "no whole answer").into_response(),
        }
    }
}
