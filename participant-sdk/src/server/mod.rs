//! A participant that serves: the application's [`Participant`], its store, and the branch machine between them.
//!
//! Always true: nothing is answered before what it tells is durable; until the store is wholly loaded everything is 503;
//! a decision waits for no prepare but its own branch's; work that has begun goes on when its caller hangs up.

mod allow;
mod answer;
mod batch;
mod body;
mod calls;
mod desk;
mod doubts;
mod operator;
mod routes;

use std::{
    sync::{Arc, Mutex, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::{Semaphore, watch};

use doubts::Doubts;

use crate::{
    branch::{Book, Saved},
    http::Connections,
    participant::Participant,
    protocol::{ParticipantId, ParticipantUrl, UnixMillis},
    store::{Error, Store},
};

pub(crate) use answer::problem_response;
pub(crate) use calls::refused;
pub(crate) use desk::{Desk, How, Stuck};
pub use operator::{InDoubt, ResolveError};

/// The most branches whose end is told to their coordinators after a start.
const MAX_ENDED_TOLD: usize = 1000;

/// How a service takes part.
///
/// ```
/// use unanimous_sdk::server::ServiceOptions;
/// let options = ServiceOptions {
///     url: Some("http://127.0.0.1:8081/bank".parse().unwrap()),
///     ..ServiceOptions::default()
/// };
/// assert_eq!(options.patience.as_millis(), 1000);
/// ```
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Where coordinators reach this service. Needed only where it enlists itself. Default: none.
    pub url: Option<ParticipantUrl>,
    /// The coordinators it enlists with, obeys and asks: those whose URL lies under one of these. Default: empty, which
    /// stands for every loopback address, and for at most 16 coordinators at a time.
    pub coordinators: Vec<ParticipantUrl>,
    /// How long a branch is in doubt before its coordinator is asked. Default: 1 s.
    pub patience: Duration,
    /// How many messages of one coordinator are taken in one request, at most 1,024. Coordinators are told, and put
    /// together what waits: fewer requests, and one forced write for the votes of a batch. 0: no batches are taken.
    /// Default: 256.
    pub batch_max: usize,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self { url: None, coordinators: Vec::new(), patience: Duration::from_secs(1), batch_max: 256 }
    }
}

impl ServiceOptions {
    fn batch_max(&self) -> usize {
        self.batch_max.min(batch::MOST)
    }
}

/// Whether the store is there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Readiness {
    Loading,
    Ready,
    /// It can't be: why.
    Failed(String),
}

pub(crate) struct Inner<P: Participant> {
    pub(crate) participant: P,
    pub(crate) store: P::Store,
    pub(crate) options: ServiceOptions,
    /// For calls to coordinators.
    pub(crate) http: Connections,
    pub(crate) desk: OnceLock<Mutex<Desk<P>>>,
    /// The id of the store, once it is loaded.
    pub(crate) participant_id: OnceLock<Option<ParticipantId>>,
    readiness: watch::Sender<Readiness>,
    /// Bounds the inquiries that are under way at once.
    pub(crate) asking: Semaphore,
    /// The same for acknowledgements: they keep no inquiry waiting.
    pub(crate) telling: Semaphore,
    pub(crate) long_in_doubt: AtomicU64,
    pub(crate) doubts: Doubts,
}

/// A participant that runs. Cheap to clone; lives as long as a clone, or a router made of one, does.
///
/// ```no_run
/// # use unanimous_sdk::prelude::*;
/// # struct Accounts;
/// # impl Participant for Accounts {
/// #     type Store = KvStore;
/// #     async fn prepare(&self, _: &BranchContext, _: &mut Work) -> Result<Vote, Refusal> { Ok(Vote::Prepared) }
/// # }
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let service = Service::start(Accounts, KvStore::open("./accounts")?, ServiceOptions::default())?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
/// // The participant's base URL is http://127.0.0.1:8081/bank.
/// axum::serve(listener, axum::Router::new().nest("/bank", service.router())).await?;
/// # Ok(()) }
/// ```
pub struct Service<P: Participant>(pub(crate) Arc<Inner<P>>);

impl<P: Participant> Clone for Service<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Why a service can't start.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for calls to coordinators can't be made: {0}")]
pub struct StartError(#[from] reqwest::Error);

impl<P: Participant> Service<P> {
    /// Starts a service on a store: loads it in the background, then serves, and asks about whatever is in doubt. Must be
    /// called within a tokio runtime.
    ///
    /// Errors: [`StartError`]. A store that can't be loaded is logged, and told by [`Service::ready`].
    pub fn start(participant: P, store: P::Store, options: ServiceOptions) -> Result<Self, StartError> {
        let http = Connections::new()?;
        let service = Self(Arc::new(Inner {
            participant,
            store,
            options,
            http,
            desk: OnceLock::new(),
            participant_id: OnceLock::new(),
            readiness: watch::channel(Readiness::Loading).0,
            asking: Semaphore::new(32),
            telling: Semaphore::new(8),
            long_in_doubt: AtomicU64::new(0),
            doubts: Doubts::default(),
        }));
        let inner = service.0.clone();
        tokio::spawn(async move {
            let loaded = inner.store.load().await;
            inner.loaded(loaded);
        });
        Ok(service)
    }

    /// Returns when the store is loaded and the service answers.
    ///
    /// Errors: why it never will.
    ///
    /// ```no_run
    /// # async fn f<P: unanimous_sdk::participant::Participant>(service: unanimous_sdk::server::Service<P>) -> Result<(), String> {
    /// service.ready().await?;
    /// println!("{} branches in doubt", service.in_doubt_count());
    /// # Ok(()) }
    /// ```
    pub async fn ready(&self) -> Result<(), String> {
        let mut readiness = self.0.readiness.subscribe();
        let reached = readiness.wait_for(|readiness| *readiness != Readiness::Loading).await.map(|now| now.clone());
        match reached {
            Ok(Readiness::Ready) => Ok(()),
            Ok(Readiness::Failed(why)) => Err(why),
            Ok(Readiness::Loading) | Err(_) => Err("the service has ended".to_owned()),
        }
    }

    /// The application.
    pub fn participant(&self) -> &P {
        &self.0.participant
    }

    /// The store.
    pub fn store(&self) -> &P::Store {
        &self.0.store
    }

    /// The protocol's calls for this participant: nest it under the path of its base URL.
    pub fn router(&self) -> axum::Router {
        routes::router(self.0.clone())
    }
}

impl<P: Participant> Inner<P> {
    fn loaded(self: &Arc<Self>, loaded: Result<Saved, Error>) {
        match loaded {
            Ok(saved) => {
                let mut book = Book::restore(saved);
                if !self.options.coordinators.is_empty() {
                    book = book.with_named_coordinators();
                }
                let ended = book.oldest_ended(MAX_ENDED_TOLD);
                let in_doubt: Vec<_> = book.in_doubt().map(|(key, _)| key.clone()).collect();
                tracing::info!(in_doubt = in_doubt.len(), "the participant's store is loaded");
                let _ = self.participant_id.set(book.participant_id());
                let _ = self.desk.set(Mutex::new(Desk::new(book)));
                for key in in_doubt {
                    crate::inquiry::start(self, key, Duration::ZERO);
                }
                crate::acknowledge::start_all(self, ended);
                self.readiness.send_replace(Readiness::Ready);
            }
            Err(error) => {
                tracing::error!(%error, "the participant's store can't be loaded: everything is answered with 503");
                self.readiness.send_replace(Readiness::Failed(error.to_string()));
            }
        }
    }

    /// Why nothing can be served now, if so.
    pub(crate) fn not_ready(&self) -> Option<String> {
        match &*self.readiness.borrow() {
            Readiness::Loading => Some("the participant's store is being loaded; try again".to_owned()),
            Readiness::Ready => None,
            Readiness::Failed(why) => Some(why.clone()),
        }
    }
}

/// The present moment, for people.
pub(crate) fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMillis::default().after(since)
}
