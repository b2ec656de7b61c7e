//! What the coordinator is started with: flags, over environment variables.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use unanimous_sdk::protocol::ParticipantUrl;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "unanimous", version, about = "A two-phase commit transaction coordinator", arg_required_else_help = true)]
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
}

/// How to run the coordinator.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// The address to listen on. One that isn't loopback is refused without --insecure: there is no authentication yet.
    #[arg(long, env = "UNANIMOUS_LISTEN", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// The folder of the log. It is created if it isn't there; one coordinator at a time may have it.
    #[arg(long, env = "UNANIMOUS_DATA_DIR", default_value = "./unanimous-data")]
    pub data_dir: PathBuf,

    /// The URL at which participants reach this coordinator [default: http:// and the listen address].
    #[arg(long, env = "UNANIMOUS_ADVERTISE", value_name = "URL", value_parser = advertised)]
    pub advertise: Option<String>,

    /// Listen on an address that isn't loopback, although whoever reaches it may commit and abort.
    #[arg(long, env = "UNANIMOUS_INSECURE")]
    pub insecure: bool,

    /// A participant that may be enlisted: scheme, host and port equal, the path by whole segments. May be given several
    /// times, or as a comma list in the environment [default: loopback addresses and localhost].
    #[arg(long = "allow-participant", env = "UNANIMOUS_ALLOW_PARTICIPANT", value_name = "URL", value_delimiter = ',')]
    pub allow_participants: Vec<ParticipantUrl>,

    /// The most transactions without a decision; past it new ones are 503.
    #[arg(long, env = "UNANIMOUS_MAX_UNDECIDED", value_name = "N", default_value_t = 100_000)]
    pub max_undecided: usize,

    /// What to log: error, warn, info, debug or trace, or a filter of the tracing-subscriber crate.
    #[arg(long, env = "UNANIMOUS_LOG", default_value = "info")]
    pub log: String,

    /// Log lines as JSON objects.
    #[arg(long, env = "UNANIMOUS_LOG_JSON")]
    pub log_json: bool,
}

/// A URL to be advertised: without query, fragment or user, the trailing slash dropped.
fn advertised(text: &str) -> Result<String, String> {
    text.parse::<ParticipantUrl>().map(String::from).map_err(|_| "expected an http or https URL such as http://host:7070".to_owned())
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

    /// Refuses what would be open to the network unless that was asked for.
    pub fn check(&self) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(args: &[&str]) -> Serve {
        let args = ["unanimous", "serve"].iter().chain(args);
        let Command::Serve(serve) = Cli::try_parse_from(args).unwrap().command;
        serve
    }

    #[test]
    fn an_address_that_is_not_loopback_needs_insecure() {
        assert!(serve(&["--listen", "127.0.0.1:1"]).check().is_ok());
        assert!(serve(&["--listen", "[::1]:1"]).check().is_ok());
        assert!(serve(&["--listen", "0.0.0.0:1"]).check().is_err());
        assert!(serve(&["--listen", "10.0.0.1:1"]).check().is_err());
        assert!(serve(&["--listen", "0.0.0.0:1", "--insecure"]).check().is_ok());
    }

    #[test]
    fn a_wildcard_address_needs_an_advertised_url() {
        let any = "0.0.0.0:7070".parse().unwrap();
        assert!(serve(&["--insecure"]).url(any).is_err());
        assert_eq!(serve(&["--advertise", "http://Pay:7070/"]).url(any).unwrap(), "http://pay:7070");
        assert_eq!(serve(&[]).url("127.0.0.1:9".parse().unwrap()).unwrap(), "http://127.0.0.1:9");
    }
}
