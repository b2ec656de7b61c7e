//! What the example services share: where they listen, serving until SIGTERM, and what went wrong.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use axum::{Router, http::StatusCode};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tracing_subscriber::EnvFilter;
use unanimous_sdk::store;

/// Where a service listens, and where its data is.
#[derive(Clone, Debug, clap::Args)]
pub struct Listen {
    /// The address to listen on: also what the coordinator is given as the participant's URL.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// The folder of its data and its votes. It is created if it isn't there.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: PathBuf,
}

/// Why a service can't go on.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A page that can't be shown, because the store can't be read.
pub fn failed(error: &store::Error) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// How long calls that are under way may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT. Says on standard error where: with port 0 the system picks one.
///
/// Errors: the address can't be listened on.
pub async fn serve(name: &str, listen: SocketAddr, router: Router) -> Result<(), Error> {
    let listener = TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tracing::info!("{name} serves at http://{}", listener.local_addr()?);
    let (ending, told) = oneshot::channel::<()>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async {
        let _ = told.await;
    });
    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = ending.send(());
        // A caller who is slow doesn't keep the process: what it has voted is on disk, and what it hasn't was never told.
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = server => ended?,
        () = signalled => {}
    }
    tracing::info!("{name} ends");
    Ok(())
}

/// Runs a service's whole life, with its log on standard error; `RUST_LOG` filters it.
pub fn main(name: &str, run: impl Future<Output = Result<(), Error>>) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let ended = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
