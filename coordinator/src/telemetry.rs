//! The log that people read: one line an event on standard error, as text or JSON.
//!
//! Always true: who doesn't read it holds up nothing: lines are dropped then.

use std::io::BufWriter;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

/// Reads a filter of tracing-subscriber's, such as `info` or `unanimous_coordinator=debug`.
pub fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| {
        format!("{error}; expected error, warn, info, debug, trace, off, or a filter such as info,unanimous_coordinator=debug")
    })
}

/// Starts logging what a [`filter`] lets through. What is on its way is written when the guard goes.
pub fn start(text: &str, json: bool) -> Result<WorkerGuard, String> {
    // It is flushed whenever no line waits: one write for all that came together.
    let (writer, guard) = tracing_appender::non_blocking(BufWriter::new(std::io::stderr()));
    let lines = tracing_subscriber::fmt().with_env_filter(filter(text)?).with_writer(writer);
    let started = if json { lines.json().try_init() } else { lines.with_ansi(false).with_target(false).try_init() };
    started.map_err(|error| format!("logging could not be started: {error}"))?;
    Ok(guard)
}
