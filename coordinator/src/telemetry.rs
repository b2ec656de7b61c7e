//! The log that people read: one line an event on standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

/// Reads a filter of tracing-subscriber's, such as `info` or `unanimous_coordinator=debug`.
pub fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| {
        format!("{error}; expected error, warn, info, debug, trace, off, or a filter such as info,unanimous_coordinator=debug")
    })
}

/// Starts logging what a [`filter`] lets through.
pub fn start(text: &str, json: bool) -> Result<(), String> {
    let lines = tracing_subscriber::fmt().with_env_filter(filter(text)?).with_writer(std::io::stderr);
    let started = if json { lines.json().try_init() } else { lines.with_ansi(false).with_target(false).try_init() };
    started.map_err(|error| format!("logging could not be started: {error}"))
}
