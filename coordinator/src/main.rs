//! The binary `unanimous`.

use std::process::ExitCode;

use clap::Parser;
use unanimous_coordinator::{
    config::{Cli, Command},
    serve, telemetry,
};

fn main() -> ExitCode {
    let Command::Serve(config) = Cli::parse().command;
    let run = || {
        telemetry::start(&config.log, config.log_json)?;
        let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("no threads could be started: {error}"))?;
        let ended = runtime.block_on(serve::run(config));
        // What still runs by now waits for participants: it is left to the next start.
        runtime.shutdown_background();
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
