//! Running the coordinator: from the first connection, over the log's loading, to the end.
//!
//! Always true: it listens before the log is loaded and says 503 until it is; it ends without waiting for participants;
//! what it has not delivered is left to the next start.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rand::RngExt;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::Semaphore,
    task::{JoinError, JoinHandle},
};
use tracing::{debug, error, info, warn};

use crate::{
    api::{self, AllowList, App, RequestLimits},
    config::Serve,
    engine::{Clock, Engine, Limits, Service},
    journal::{self, Journal, RocksDb, rocks, space},
    transport::Http,
};

/// How long commits that wait for their decision may take when the process is to end.
const DRAIN: Duration = Duration::from_secs(10);

/// How long connections may take to close after that.
const CLOSE: Duration = Duration::from_secs(2);

/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the histograms are summed up.
const SUM_UP: Duration = Duration::from_secs(5);

/// How often the room on the disk is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Why the coordinator could not run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("{0}")]
    Config(String),
    #[error("cannot listen on {address}: {error}; is another process using the port?")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("{0}")]
    Journal(#[from] journal::Error),
    #[error("the HTTP client could not be started: {0}")]
    Transport(#[from] reqwest::Error),
    #[error("signals can't be received: {0}")]
    Signals(std::io::Error),
    #[error("the thread that opens the log has ended: {0}")]
    Opening(JoinError),
}

/// A coordinator that runs in this process.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    app: App,
    service: Service,
    journal: Arc<RocksDb>,
    server: Server,
    /// What goes on beside the requests, until the end.
    tasks: Vec<JoinHandle<()>>,
}

/// Starts a coordinator, loads its log and serves. Needs a tokio runtime.
pub async fn start(config: Serve) -> Result<Running, Error> {
    config.check().map_err(Error::Config)?;
    let clock = Clock::start();
    let began = Instant::now();
    let listen = |error| Error::Listen { address: config.listen, error };
    let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let url = config.url(address).map_err(Error::Config)?;
    let limits = Limits { undecided: config.max_undecided, branches: config.max_branches };
    let taken = RequestLimits {
        body_bytes: config.max_body_bytes,
        branches: config.max_branches,
        default_timeout_ms: config.default_timeout_ms,
        max_timeout_ms: config.max_timeout_ms,
    };
    let app = App::new(AllowList(config.allow_participants), taken);
    let server = Server::start(listener, api::router(app.clone()), config.max_connections);
    info!(%address, data_dir = %config.data_dir.display(), "loading the log");

    let opening = tokio::task::spawn_blocking({
        let now = clock.now().wall;
        let dir = config.data_dir.clone();
        move || rocks::open(&dir, now, || rand::rng().random()).map(|opened| (opened, space::Watch::start(&dir)))
    });
    let ((opened, recovered), room) = opening.await.map_err(Error::Opening)??;
    let unfinished = recovered.live.len();
    let mut engine = Engine::new(clock.now(), recovered, url, limits, rand::rng().random());
    engine.set_disk_full(room.is_full());
    let coordinator = engine.coordinator();
    let slot = Arc::new(OnceLock::<Service>::new());
    // Not held by what the log itself holds: it could never be dropped.
    let opened_log = Arc::new(OnceLock::<Weak<RocksDb>>::new());
    let on_progress = {
        let (slot, log) = (Arc::clone(&slot), Arc::clone(&opened_log));
        move |progress| {
            if let Some(service) = slot.get() {
                if let Some(log) = log.get().and_then(Weak::upgrade) {
                    service.metrics().logged(log.stats());
                }
                service.progress(progress);
            }
        }
    };
    let on_fatal = |error| {
        error!(%error, "the log can't be written any more, so the process ends: what it has told is in the log");
        std::process::abort();
    };
    let journal = Arc::new(opened.keeping(config.retain).start(Box::new(on_progress), Box::new(on_fatal))?);
    let log: Arc<dyn Journal> = Arc::<RocksDb>::clone(&journal);
    let service = Service::new(engine, log, Http::new(coordinator.clone())?, clock);
    // Before anything is appended: no progress may be missed.
    let _ = opened_log.set(Arc::downgrade(&journal));
    let _ = slot.set(service.clone());
    service.start();
    service.metrics().recovered(began.elapsed());
    let tasks = vec![
        tokio::spawn(sum_up(service.clone())),
        tokio::spawn(watch_room(service.clone(), room)),
        tokio::spawn(forget(service.clone(), Arc::clone(&journal), config.retain, clock)),
    ];
    app.ready(service.clone());
    info!(
        id = %coordinator.id, epoch = %coordinator.epoch, url = coordinator.url, unfinished,
        ms = began.elapsed().as_millis(), "ready"
    );
    Ok(Running { address, app, service, journal, server, tasks })
}

impl Running {
    /// How often the log was written and synced so far.
    pub fn log_stats(&self) -> journal::Stats {
        self.journal.stats()
    }

    /// Takes no new work, gives waiting commits up to 10 s, and ends. What isn't delivered is left to the next start.
    pub async fn stop(self) -> Result<(), Error> {
        self.app.end();
        drain(&self.service).await;
        self.server.stop().await;
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        self.service.end();
        let unfinished = self.service.with(|engine, _| engine.live());
        let journal = self.journal;
        tokio::task::spawn_blocking(move || journal.close()).await.map_err(Error::Opening)??;
        info!(unfinished, "ended; what is unfinished is left to the next start");
        Ok(())
    }
}

/// Refuses new work while the disk is full.
async fn watch_room(service: Service, mut room: space::Watch) {
    loop {
        tokio::time::sleep(LOOK).await;
        let looking = tokio::task::spawn_blocking(move || {
            room.look();
            room
        });
        let Ok(looked) = looking.await else { return };
        room = looked;
        service.with(|engine, _| engine.set_disk_full(room.is_full()));
    }
}

/// Drops what finished longer ago than is kept, again and again.
async fn forget(service: Service, journal: Arc<RocksDb>, keep: Duration, clock: Clock) {
    let pause = (keep / 10).clamp(Duration::from_secs(1), Duration::from_hours(1));
    loop {
        tokio::time::sleep(pause).await;
        let journal = Arc::clone(&journal);
        match tokio::task::spawn_blocking(move || journal.retain(keep, clock.now().wall)).await {
            Ok(Ok(since)) => service.with(|engine, _| engine.retained(since)),
            Ok(Err(error)) => error!(%error, "what finished long ago could not be dropped from the log; it is tried again"),
            Err(_) => return,
        }
    }
}

/// Runs until a signal ends it.
pub async fn run(config: Serve) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let running = tokio::select! {
        running = start(config) => running?,
        () = signals.next() => return Ok(()),
    };
    signals.next().await;
    info!("ending: no new work is taken; commits that wait get up to {} s", DRAIN.as_secs());
    tokio::select! {
        ended = running.stop() => ended,
        () = signals.next() => {
            warn!("a second signal: ending at once");
            std::process::exit(143);
        }
    }
}

/// Waits for those who wait for a decision, and then tells the rest that there is none yet.
async fn drain(service: &Service) {
    let end = tokio::time::Instant::now() + DRAIN;
    while tokio::time::Instant::now() < end && service.with(|engine, _| engine.has_waiters()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    service.with(|engine, _| engine.release_waiters());
}

async fn sum_up(service: Service) {
    loop {
        tokio::time::sleep(SUM_UP).await;
        service.metrics().sum_up();
    }
}

/// SIGTERM and SIGINT.
struct Signals(Signal, Signal);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// The HTTP server.
struct Server {
    connections: Arc<GracefulShutdown>,
    accepting: JoinHandle<()>,
}

impl Server {
    fn start(listener: TcpListener, router: Router, most_connections: usize) -> Self {
        let connections = Arc::new(GracefulShutdown::new());
        let accepting = tokio::spawn(accept(listener, router, Arc::clone(&connections), most_connections));
        Self { connections, accepting }
    }

    /// Takes no more connections and closes those that are idle; others get a moment.
    async fn stop(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
        // Nobody else has it any more.
        if let Ok(connections) = Arc::try_unwrap(self.connections)
            && tokio::time::timeout(CLOSE, connections.shutdown()).await.is_err()
        {
            debug!("connections that were still in use are cut");
        }
    }
}

/// At most so many connections at once; more wait to be accepted.
async fn accept(listener: TcpListener, router: Router, connections: Arc<GracefulShutdown>, most: usize) {
    let places = Arc::new(Semaphore::new(most));
    let service = TowerToHyperService::new(router);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, say: it passes when connections close.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(100)
            .serve_connection(TokioIo::new(stream), service.clone());
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
}
