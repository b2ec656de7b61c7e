//! From the command line to the exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use crate::{
    bench,
    config::{self, Command, Loaded, Serve, Settings},
    serve, telemetry,
};

/// Does what the command line says.
pub fn main() -> ExitCode {
    let Loaded { command, settings } = match config::load(std::env::args_os()) {
        Ok(loaded) => loaded,
        Err(config::Error::Usage(error)) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        Err(error) => return failed(&error.to_string()),
    };
    let done = match command {
        Command::Serve(config) => run(config),
        Command::Config(config) => show(&config, &settings),
        Command::Bench(options) => bench::run(&options),
        Command::BenchPart(part) => bench::run_part(part),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => failed(&message),
    }
}

fn failed(message: &str) -> ExitCode {
    eprintln!("unanimous: {message}");
    ExitCode::FAILURE
}

fn run(config: Serve) -> Result<(), String> {
    // Lines that are still on their way are written when it goes.
    let _lines = telemetry::start(&config.log, config.log_json)?;
    end_on_panic();
    let runtime = runtime().map_err(|error| format!("no threads could be started: {error}"))?;
    let ended = runtime.block_on(serve::run(config));
    if let Err(error @ serve::Error::Hangs) = &ended {
        // Nothing that touches the disk would ever come back.
        eprintln!("unanimous: {error}");
        std::process::abort();
    }
    // What still runs by now waits for participants and is cut off. All of it must be gone before the process ends:
    // RocksDB can't be ended while somebody holds it.
    runtime.shutdown_timeout(Duration::from_secs(5));
    ended.map_err(|error| error.to_string())
}

/// A thread for each processor but one: the log has a thread of its own, which is as busy as any of them.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread().worker_threads((processors - 1).max(1)).enable_all().build()
}

/// Prints what is in force, and then whether it could be run.
fn show(config: &Serve, settings: &Settings) -> Result<(), String> {
    match write!(io::stdout(), "{settings}") {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(format!("could not be printed: {error}"));
        }
        Ok(()) | Err(_) => {}
    }
    config.check()?;
    config.url(config.listen).map(drop)
}

/// A panic is a bug. One in a request ends that request; one in the log's thread, or under the engine's lock, would leave
/// half a coordinator running: the process ends then, and the next start goes on from the log.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a bug");
        eprintln!("unanimous: a bug: {panic}");
        if std::thread::current().name() == Some("log") {
            std::process::abort();
        }
    }));
}
