//! From the command line to the exit code.

use std::{process::ExitCode, time::Duration};

use clap::Parser;

use crate::{
    config::{Cli, Command},
    serve, telemetry,
};

/// Does what the command line says.
pub fn main() -> ExitCode {
    let Command::Serve(config) = Cli::parse().command;
    let run = || {
        telemetry::start(&config.log, config.log_json)?;
        end_on_panic();
        let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("no threads could be started: {error}"))?;
        let ended = runtime.block_on(serve::run(config));
        // What still runs by now waits for participants and is cut off. All of it must be gone before the process ends:
        // RocksDB can't be ended while somebody holds it.
        runtime.shutdown_timeout(Duration::from_secs(5));
        ended.map_err(|error| error.to_string())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("unanimous: {message}");
            ExitCode::FAILURE
        }
    }
}

/// A panic is a bug. One in a request ends that request; one in the log's thread, or under the engine's lock, would leave
/// half a coordinator running: the process ends then, and the next start goes on from the log.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a bug");
        if std::thread::current().name() == Some("log") {
            std::process::abort();
        }
    }));
}
