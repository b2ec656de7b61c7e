//! What the coordinator is started with: flags, over environment variables, over a file, over defaults.
//!
//! Always true: a value that is in force is within what its key allows; one that isn't is an error that names the key, the
//! value and what is allowed. Every key has one name: `--max-branches`, `UNANIMOUS_MAX_BRANCHES`, `max-branches`.

mod file;
mod settings;
#[cfg(test)]
mod tests;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{BoolishValueParser, RangedU64ValueParser},
};
use jiff::{Span, SpanRelativeTo};
use unanimous_sdk::protocol::ParticipantUrl;

use self::file::File;
pub use self::settings::{Setting, Settings, Source};
use crate::{
    bench::{Bench, Part},
    telemetry,
};

const YEAR_MS: u64 = 365 * 24 * 3_600_000;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "unanimous",
    version,
    about = "A two-phase commit transaction coordinator",
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the coordinator until it is told to end (SIGTERM or SIGINT; a second one ends it at once).
    Serve(Serve),
    /// Prints what `serve` would run with, given the same flags, environment and file, and where each value came from.
    Config(Serve),
    /// Measures this coordinator on this machine, against floors measured in the same run.
    Bench(Bench),
    /// The processes of a measurement.
    #[command(flatten)]
    BenchPart(Part),
}

/// How to run the coordinator.
#[derive(Clone, Debug, Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct Serve {
    /// A TOML file with values for what neither a flag nor the environment gives; its keys are the flags' names.
    #[arg(long, env = "UNANIMOUS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The address to listen on. One that isn't loopback is refused without --insecure: there is no authentication yet.
    #[arg(long, env = "UNANIMOUS_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:7070", value_parser = address)]
    pub listen: SocketAddr,

    /// The folder of the log. It is created if it isn't there; one coordinator at a time may have it.
    #[arg(long, env = "UNANIMOUS_DATA_DIR", value_name = "FOLDER", default_value = "./unanimous-data")]
    pub data_dir: PathBuf,

    /// For one start: the data folder was moved after a clean stop, and its original never runs again.
    #[arg(
        long, env = "UNANIMOUS_MOVED", value_name = "true|false", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new()
    )]
    pub moved: bool,

    /// For one start: the wall clock is right, although it has jumped. Old transactions are dropped by it, and ids follow it.
    #[arg(
        long, env = "UNANIMOUS_ACCEPT_CLOCK", value_name = "true|false", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new()
    )]
    pub accept_clock: bool,

    /// The URL at which participants reach this coordinator [default: http:// and the listen address].
    #[arg(long, env = "UNANIMOUS_ADVERTISE", value_name = "URL", value_parser = advertised)]
    pub advertise: Option<String>,

    /// Listen on an address that isn't loopback, although whoever reaches it may commit and abort.
    #[arg(
        long, env = "UNANIMOUS_INSECURE", value_name = "true|false", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new()
    )]
    pub insecure: bool,

    /// A participant that may be enlisted: scheme, host and port equal, the path by whole segments. May be given several
    /// times, or as a comma list in the environment [default: loopback addresses and localhost].
    #[arg(long = "allow-participant", env = "UNANIMOUS_ALLOW_PARTICIPANT", value_name = "URL", value_delimiter = ',')]
    pub allow_participants: Vec<ParticipantUrl>,

    /// The largest body of a request, in bytes; a larger one is 413.
    #[arg(
        long, env = "UNANIMOUS_MAX_BODY_BYTES", value_name = "BYTES", default_value = "1048576",
        value_parser = RangedU64ValueParser::<usize>::new().range(1024..=64 * 1024 * 1024)
    )]
    pub max_body_bytes: usize,

    /// The most branches of a transaction; past it a branch is 422.
    #[arg(
        long, env = "UNANIMOUS_MAX_BRANCHES", value_name = "N", default_value = "256",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000)
    )]
    pub max_branches: usize,

    /// The most transactions without a decision; past it new ones are 503.
    #[arg(
        long, env = "UNANIMOUS_MAX_UNDECIDED", value_name = "N", default_value = "100000",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000_000)
    )]
    pub max_undecided: usize,

    /// The longest time that a transaction may ask for until its decision, in milliseconds; a longer one is 422.
    #[arg(
        long, env = "UNANIMOUS_MAX_TIMEOUT_MS", value_name = "MS", default_value = "86400000",
        value_parser = clap::value_parser!(u64).range(1..=YEAR_MS)
    )]
    pub max_timeout_ms: u64,

    /// The time until its decision that a transaction gets which doesn't ask for one, in milliseconds.
    #[arg(
        long, env = "UNANIMOUS_DEFAULT_TIMEOUT_MS", value_name = "MS", default_value = "30000",
        value_parser = clap::value_parser!(u64).range(1..=YEAR_MS)
    )]
    pub default_timeout_ms: u64,

    /// How long finished transactions and their keys are kept, such as 7d, 36h or 90s.
    #[arg(long, env = "UNANIMOUS_RETAIN", value_name = "DURATION", default_value = "7d", value_parser = retention)]
    pub retain: Duration,

    /// After this time the abort of a branch that never voted is given up, such as 10m.
    #[arg(
        long, env = "UNANIMOUS_GIVE_UP_ABORT", value_name = "DURATION", default_value = "10m", value_parser = retention
    )]
    pub give_up_abort: Duration,

    /// The most connections at once; more wait to be accepted.
    #[arg(
        long, env = "UNANIMOUS_MAX_CONNECTIONS", value_name = "N", default_value = "10000",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000)
    )]
    pub max_connections: usize,

    /// What to log: error, warn, info, debug or trace, or a filter of the tracing-subscriber crate.
    #[arg(long, env = "UNANIMOUS_LOG", value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log: String,

    /// Log lines as JSON objects.
    #[arg(
        long, env = "UNANIMOUS_LOG_JSON", value_name = "true|false", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new()
    )]
    pub log_json: bool,
}

/// Why the process can't be run as it was asked to.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// The command line or the environment; help and version, too.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    #[error("{0}")]
    File(#[from] file::Error),
}

/// What was asked for, and where each value came from.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Loaded {
    pub command: Command,
    pub settings: Settings,
}

/// Reads the command line, its program's name first, the environment, and the file that one of the two names.
pub fn load(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Loaded, Error> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let first = Cli::command().try_get_matches_from(&args)?;
    let path = first.subcommand().and_then(|(_, given)| given.try_get_one::<PathBuf>("config").ok().flatten());
    let file = path.map(|path| File::read(path)).transpose()?.unwrap_or_default();
    // Once more, on top of what the file says.
    let mut command = Cli::command().mut_subcommands(|command| file.under(command));
    let matches = command.try_get_matches_from_mut(&args)?;
    let settings = match matches.subcommand() {
        Some((name, given)) => command.find_subcommand(name).map(|command| Settings::of(command, given, &file)),
        None => None,
    };
    Ok(Loaded { command: Cli::from_arg_matches(&matches)?.command, settings: settings.unwrap_or_default() })
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:7070 or [::1]:7070".to_owned())
}

/// A URL to be advertised: without query, fragment or user, the trailing slash dropped.
fn advertised(text: &str) -> Result<String, String> {
    text.parse::<ParticipantUrl>()
        .map(String::from)
        .map_err(|_| "expected an http or https URL such as http://host:7070".to_owned())
}

fn retention(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);
    let span = text.parse::<Span>().ok();
    let whole = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let retain = whole.and_then(|whole| Duration::try_from(whole).ok());
    retain.filter(|retain| (Duration::from_secs(1)..=LONGEST).contains(retain)).ok_or_else(|| {
        "expected a duration from 1s to 36500d, in weeks, days, hours, minutes and seconds, such as 7d or 1h30m"
            .to_owned()
    })
}

fn log_filter(text: &str) -> Result<String, String> {
    telemetry::filter(text).map(|_| text.to_owned())
}

impl Serve {
    /// The URL at which participants reach this coordinator, which listens on `listen`.
    pub fn url(&self, listen: SocketAddr) -> Result<String, String> {
        match &self.advertise {
            Some(url) => Ok(url.clone()),
            None if listen.ip().is_unspecified() => Err(format!(
                "--listen {listen} is every address of this machine: say with --advertise at which URL participants reach it"
            )),
            None => Ok(format!("http://{listen}")),
        }
    }

    /// Refuses what doesn't go together, and what would be open to the network unless that was asked for.
    pub fn check(&self) -> Result<(), String> {
        if self.default_timeout_ms > self.max_timeout_ms {
            return Err(format!(
                "--default-timeout-ms {} is more than --max-timeout-ms {}: no transaction could have it; lower the one or \
                 raise the other",
                self.default_timeout_ms, self.max_timeout_ms
            ));
        }
        if self.insecure || self.listen.ip().is_loopback() {
            return Ok(());
        }
        Err(format!(
            "--listen {} isn't a loopback address, and there is no authentication yet: whoever reaches it could commit and \
             abort. Listen on 127.0.0.1 behind a proxy that authenticates, or give --insecure on a network you trust",
            self.listen
        ))
    }
}
