//! The HTTP server: connections, and how many and how long.
//!
//! Always true: a client that is slow to ask, or to take its answer, is cut off; there are never so many connections that
//! the log could not open its files.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tracing::{debug, warn};

/// How long connections may take to close at the end.
const CLOSE: Duration = Duration::from_secs(2);

/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may leave what was sent to it untaken, in milliseconds.
const NOT_TAKEN_MS: u32 = 30_000;

/// Open files that are not clients' connections: the log's, and calls to participants.
const OTHER_FILES: u64 = 640;

/// Raises the limit of open files as far as it goes, and says how many connections there can be.
pub(crate) fn most_connections(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let highest = limit.maximum.unwrap_or(1 << 20).min(1 << 20);
    if limit.current.is_some_and(|current| current < highest) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(highest), maximum: limit.maximum });
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let most = usize::try_from(files.saturating_sub(OTHER_FILES).max(64)).unwrap_or(usize::MAX);
    if most < wanted {
        warn!(
            wanted,
            most, files, "fewer connections than configured: this process may not open more files (ulimit -n)"
        );
    }
    wanted.min(most)
}

/// The HTTP server.
pub(crate) struct Server {
    connections: Arc<GracefulShutdown>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, router: Router, most_connections: usize) -> Self {
        let connections = Arc::new(GracefulShutdown::new());
        let accepting = tokio::spawn(accept(listener, router, Arc::clone(&connections), most_connections));
        Self { connections, accepting }
    }

    /// Takes no more connections and closes those that are idle; others get a moment.
    pub(crate) async fn stop(self) {
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
        // A client that doesn't take its answer must not keep its place for ever.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, NOT_TAKEN_MS);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
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
