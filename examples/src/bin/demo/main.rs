//! The demo: real services move money, the coordinator and a bank are killed at the worst moment, and everything agrees
//! when they are back.
//!
//! Always true: what it says was seen, at the coordinator or at a service, never assumed; it exits with 0 only if every
//! transaction is finished, no answer was contradicted and all money is there; no process is left running.

mod books;
mod process;
mod stage;
mod story;
mod worst_moment;

use std::process::ExitCode;

use clap::{Parser, builder::FalseyValueParser};
use tokio::signal::unix::{SignalKind, signal};
use unanimous_examples::service::Error;

use stage::Stage;

/// Runs a coordinator and a bank in three services, kills two of them at the worst moment, and counts the money.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Options {
    /// How many transfers are made before anything is killed.
    #[arg(long, env = "DEMO_TRANSFERS", value_name = "N", default_value_t = 2000)]
    transfers: usize,
    /// Leave it running at the end, to look around, until Enter or Ctrl-C.
    #[arg(long, env = "DEMO_HOLD", value_parser = FalseyValueParser::new())]
    hold: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = run(&options) => ended,
            signal = told_to_end() => signal.map(|code| {
                println!("\nEnded by a signal; everything it had started is gone.");
                ExitCode::from(code)
            }),
        }
    });
    // What still waits (for a line on standard input, say) doesn't keep the process.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("\nThe demo has failed: {error}");
    ExitCode::FAILURE
}

async fn run(options: &Options) -> Result<ExitCode, Error> {
    let mut stage = Stage::start().await?;
    let ended = story::tell(&mut stage, options).await;
    if let Err(error) = ended {
        return Err(format!("{error}\nThe logs of all processes are in {}", stage.keep_folder()).into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns when the process is to end: with its exit code.
async fn told_to_end() -> Result<u8, Error> {
    let (mut interrupt, mut terminate, mut hangup) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    tokio::select! {
        _ = interrupt.recv() => Ok(130),
        _ = terminate.recv() => Ok(143),
        _ = hangup.recv() => Ok(129),
    }
}
