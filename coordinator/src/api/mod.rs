//! The REST API, PROTOCOL §3 and §5: reads requests, asks the engine, writes answers. Decides nothing.
//!
//! Always true: whatever is wrong with a request is a problem that names the field, and changes nothing; until the log
//! is loaded everything but `/healthz` is 503.

mod acknowledge;
mod allow_list;
mod body;
mod branches;
mod coordinator;
mod decision;
mod list;
mod metrics;
mod openapi;
mod prefer;
mod problem;
mod problem_pages;
pub(crate) mod server;
mod transactions;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use unanimous_sdk::protocol::{COORDINATOR_HEADER, CoordinatorId, Problem, ProblemType};

use self::problem::{Failure, method_not_allowed, not_found};
pub use self::{allow_list::AllowList, openapi::description};
use crate::engine::{Seldom, Service};

/// What a request may ask for, PROTOCOL §7; past it, it is refused.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct RequestLimits {
    pub body_bytes: usize,
    pub branches: usize,
    pub default_timeout_ms: u64,
    pub max_timeout_ms: u64,
}

/// What every request is answered with.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    allow: AllowList,
    limits: RequestLimits,
    service: OnceLock<Service>,
    /// The service's id, as it stands in every answer.
    id: OnceLock<(CoordinatorId, HeaderValue)>,
    ending: AtomicBool,
    /// Inquiries that got no answer, for the log that people read.
    unanswered: Seldom,
}

impl App {
    /// Answers 503 until [`App::ready`].
    pub fn new(allow: AllowList, limits: RequestLimits) -> Self {
        Self(Arc::new(Inner {
            allow,
            limits,
            service: OnceLock::new(),
            id: OnceLock::new(),
            ending: AtomicBool::new(false),
            unanswered: Seldom::default(),
        }))
    }

    /// The log is loaded: from now on requests are served.
    pub fn ready(&self, service: Service) {
        let id = service.coordinator().id;
        if let Ok(header) = HeaderValue::try_from(id.to_string()) {
            let _ = self.0.id.set((id, header));
        }
        let _ = self.0.service.set(service);
    }

    /// The process is to end: from now on new work is 503.
    pub fn end(&self) {
        self.0.ending.store(true, Ordering::Release);
    }

    fn service(&self) -> Result<&Service, Failure> {
        self.0.service.get().ok_or_else(|| {
            Failure::problem(Problem::new(ProblemType::NotReady, "the log is being loaded; try again in a moment"))
        })
    }

    /// Returns what is wrong with a request that says it is meant for another log than this one.
    fn meant_for_another(&self, headers: &HeaderMap) -> Option<Problem> {
        let mut given = headers.get_all(COORDINATOR_HEADER).iter().peekable();
        given.peek()?;
        let (mine, _) = self.0.id.get()?;
        for id in given {
            match id.to_str().ok().and_then(|text| text.parse::<CoordinatorId>().ok()) {
                Some(id) if id == *mine => {}
                Some(id) => {
                    let detail = format!(
                        "`Unanimous-Coordinator`: the call is meant for the log of coordinator {id}, and this is {mine}; nothing \
                         was looked up and nothing has changed: find out which coordinator answers at this address"
                    );
                    return Some(Problem::new(ProblemType::NotMyLog, detail));
                }
                None => {
                    let detail = "`Unanimous-Coordinator` is a coordinator's id: a UUID in lower case";
                    return Some(Problem::new(ProblemType::Malformed, detail));
                }
            }
        }
        None
    }

    /// The service, for what begins or changes something.
    fn service_for_work(&self) -> Result<&Service, Failure> {
        if self.0.ending.load(Ordering::Acquire) {
            let detail = "this coordinator is about to end and takes no new work; try again when it is back";
            return Err(Failure::problem(Problem::new(ProblemType::NotReady, detail)));
        }
        self.service()
    }
}

const ALIVE: &str = "/healthz";

/// All routes.
pub fn router(app: App) -> Router {
    let transaction = "/v1/transactions/{id}";
    Router::new()
        .route("/v1/transactions", post(transactions::begin).get(list::list))
        .route(transaction, get(transactions::get))
        .route(&format!("{transaction}/commit"), post(transactions::commit))
        .route(&format!("{transaction}/abort"), post(transactions::abort))
        .route(&format!("{transaction}/branches"), post(branches::enlist))
        .route(&format!("{transaction}/branches/{{branch}}/vote"), post(branches::vote))
        .route(&format!("{transaction}/branches/{{branch}}/acknowledge"), post(acknowledge::acknowledge))
        .route(&format!("{transaction}/decision"), get(decision::inquire))
        .route("/v1/coordinator", get(coordinator::who))
        .route("/openapi.json", get(openapi::serve))
        .route("/readyz", get(coordinator::ready))
        .route("/metrics", get(metrics::scrape))
        .route("/problems/{name}", get(problem_pages::page))
        .route(ALIVE, get(coordinator::healthy))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), when_ready))
        .with_state(app)
}

/// Answers, and counts the answer, once the log is loaded; until then only says that the process is alive.
async fn when_ready(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = match (app.service(), app.meant_for_another(request.headers())) {
        (Ok(_), Some(problem)) => Failure::from(problem).into_response(),
        (Ok(service), None) => metrics::counted(service.metrics(), request, next).await,
        (Err(_), _) if request.uri().path() == ALIVE => next.run(request).await,
        (Err(failure), _) => failure.into_response(),
    };
    let headers = response.headers_mut();
    // A gateway that keeps answers would show commits of which no participant has heard.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some((_, id)) = app.0.id.get() {
        headers.insert(HeaderName::from_static(COORDINATOR_HEADER), id.clone());
    }
    response
}
