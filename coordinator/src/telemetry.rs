//! The log that people read: one line an event on standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

/// Starts logging. The filter is one of tracing-subscriber's, such as `info` or `unanimous_coordinator=debug`.
pub fn start(filter: &str, json: bool) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("--log {filter}: {error}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json { lines.json().try_init() } else { lines.with_ansi(false).with_target(false).try_init() };
    started.map_err(|error| format!("logging could not be started: {error}"))
}
