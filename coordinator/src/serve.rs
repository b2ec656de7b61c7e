//! Running the coordinator: from the first connection, over the log's loading, to the end.
//!
//! Always true: it listens before the log is loaded and says 503 until it is; it ends without waiting for participants;
//! what it has not delivered is left to the next start.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use rand::RngExt;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinError, JoinHandle},
};
use tracing::{error, info, warn};

use crate::{
    api::{
        self, AllowList, App, RequestLimits,
        server::{Server, most_connections},
    },
    config::Serve,
    engine::{Clock, Engine, Limits, Now, Service},
    journal::{self, Journal, Opening, Plausibility, Reading, RocksDb, rocks, space},
    metrics::Metrics,
    transport::Http,
};

/// How long commits that wait for their decision may take when the process is to end.
const DRAIN: Duration = Duration::from_secs(10);

/// How long the log may take to become whole on disk after that.
const CLOSE_LOG: Duration = Duration::from_secs(20);

/// How long a process that must end may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    Transport(#[from] crate::transport::Error),
    #[error("signals can't be received: {0}")]
    Signals(std::io::Error),
    #[error("the thread that opens or closes the log has ended: {0}")]
    Opening(JoinError),
    #[error(
        "the disk under the log has not answered for 20 s; what was told is in the log, and the next start goes on from there"
    )]
    Hangs,
}

/// A coordinator that runs in this process.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    app: App,
    service: Service,
    journal: Arc<RocksDb>,
    server: Server,
    keep: Duration,
    clock: Clock,
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
    let limits = Limits {
        undecided: config.max_undecided,
        branches: config.max_branches,
        give_up_abort_ms: u64::try_from(config.give_up_abort.as_millis()).unwrap_or(u64::MAX / 2),
    };
    let taken = RequestLimits {
        body_bytes: config.max_body_bytes,
        branches: config.max_branches,
        default_timeout_ms: config.default_timeout_ms,
        max_timeout_ms: config.max_timeout_ms,
    };
    let app = App::new(AllowList::new(config.allow_participants), taken);
    let server = Server::start(listener, api::router(app.clone()), most_connections(config.max_connections));
    info!(%address, data_dir = %config.data_dir.display(), "loading the log");

    let reading = tokio::task::spawn_blocking({
        let dir = config.data_dir.clone();
        let Serve { moved, accept_clock, .. } = config;
        let opening = Opening { now: clock.now().wall, moved, accept_clock };
        move || rocks::verified(&dir, opening, || rand::rng().random())
    });
    let (verified, recovered) = reading.await.map_err(Error::Opening)??;
    if config.accept_clock {
        warn!(
            wall = %clock.now().wall,
            "--accept-clock: the wall clock is taken to be right, however far it has jumped; ids and epochs follow it, and what it \
             makes old is dropped; start without --accept-clock from now on"
        );
    }
    if config.moved {
        warn!(
            data_dir = %config.data_dir.display(),
            "--moved: this place of the data folder is recorded as its own; this assumes that the folder was moved after its \
             clean stop, and that neither its original nor another copy of it ever runs again; start without --moved from now on"
        );
    }
    let unfinished = recovered.live.len();
    // All that was recovered is got ready while the log is opened; nothing of it is carried out before that is done.
    let opening = tokio::task::spawn_blocking({
        let dir = config.data_dir.clone();
        move || verified.open().map(|opened| (opened, space::Watch::start(&dir)))
    });
    let building = tokio::task::spawn_blocking(move || {
        let metrics = Metrics::new(recovered.live.iter().map(|(id, transaction)| (*id, transaction)));
        (Engine::new(clock.now(), recovered, url, limits, rand::rng().random()), metrics)
    });
    let (opened, room) = opening.await.map_err(Error::Opening)??;
    let (mut engine, metrics) = building.await.map_err(Error::Opening)?;
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
    let on_fatal = {
        let app = app.clone();
        move |error| {
            app.end();
            abort_saying(error);
        }
    };
    let journal = Arc::new(opened.start(Box::new(on_progress), Box::new(on_fatal))?);
    let log: Arc<dyn Journal> = Arc::<RocksDb>::clone(&journal);
    let service = Service::new(engine, log, Http::new(coordinator.clone())?, clock, metrics);
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
    Ok(Running { address, app, service, journal, server, keep: config.retain, clock, tasks })
}

impl Running {
    /// How often the log was written and synced so far.
    pub fn log_stats(&self) -> journal::Stats {
        self.journal.stats()
    }

    /// Ends the log as if the process were killed: for tests, which take the data folder away afterwards.
    pub fn abandon(&self) {
        self.journal.abandon();
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
        let (keep, Now { mono, wall }) = (self.keep, self.clock.now());
        let closing = tokio::task::spawn_blocking(move || {
            let noted = journal.note_time(keep, Reading { mono, wall });
            journal.close().and(noted)
        });
        match tokio::time::timeout(CLOSE_LOG, closing).await {
            Ok(closed) => closed.map_err(Error::Opening)??,
            Err(_) => return Err(Error::Hangs),
        }
        info!(unfinished, "ended; what is unfinished is left to the next start");
        Ok(())
    }
}

/// Ends the process, and says why; but whoever doesn't read what it says holds it up no longer than [`LAST_WORDS`].
fn abort_saying(error: journal::Error) {
    let (said, wait) = mpsc::channel();
    let saying = thread::Builder::new().name("last-words".to_owned()).spawn(move || {
        error!(%error, "the log can't be used any more, so the process ends");
        eprintln!("unanimous: the log can't be used any more, so the process ends: {error}");
        // The line above is written by a thread of its own.
        thread::sleep(Duration::from_millis(50));
        let _ = said.send(());
    });
    if saying.is_ok() {
        let _ = wait.recv_timeout(LAST_WORDS);
    }
    std::process::abort();
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

/// Keeps the log's time, and drops what finished longer ago than is kept, again and again.
async fn forget(service: Service, journal: Arc<RocksDb>, keep: Duration, clock: Clock) {
    let pause = (keep / 10).clamp(Duration::from_secs(1), Duration::from_secs(10));
    let mut plausible = true;
    loop {
        let (journal, engine) = (Arc::clone(&journal), service.clone());
        // Whoever asks for what goes must hear that it may have been there.
        let before = move |since, forgotten| engine.with(|engine, _| engine.retained(since, forgotten));
        let looking = tokio::task::spawn_blocking(move || {
            let Now { mono, wall } = clock.now();
            journal.retain(keep, Reading { mono, wall }, before)
        });
        match looking.await {
            Ok(Ok(found)) => {
                let now = found == Plausibility::Plausible;
                service.metrics().clock_is_plausible(now);
                match (plausible, now) {
                    (true, false) => warn!(
                        wall = %clock.now().wall, how = ?found,
                        "the wall clock has jumped by more than finished transactions are kept, so it isn't believed: nothing is \
                         dropped but what has been there for so long of running; set the clock right, or, if it is right, \
                         start once with --accept-clock"
                    ),
                    (false, true) => info!("the wall clock is plausible again"),
                    (true, true) | (false, false) => {}
                }
                plausible = now;
            }
            Ok(Err(error)) => {
                error!(%error, "what finished long ago could not be dropped from the log; it is tried again");
            }
            Err(_) => return,
        }
        tokio::time::sleep(pause).await;
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
