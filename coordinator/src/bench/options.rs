//! What `unanimous bench` and the processes it starts are told on their command lines.

use std::{net::SocketAddr, path::PathBuf};

use clap::{
    Args, Subcommand, ValueEnum,
    builder::{BoolishValueParser, RangedU64ValueParser},
};

/// Measures this coordinator on this machine, against floors measured in the same run.
#[derive(Clone, Debug, Args)]
pub struct Bench {
    /// Short rounds, fewer transactions in doubt: under 50 seconds, and noisier.
    #[arg(long)]
    pub quick: bool,

    /// Write all figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Draw transactions a second by clients into this file.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,

    /// How many clients at once, each with one connection and one transaction at a time; one measurement for each.
    #[arg(
        long, value_name = "N,N,...", value_delimiter = ',', default_value = "1,8,32,128,512",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000)
    )]
    pub clients: Vec<usize>,

    /// Branches of a transaction, each at a participant of its own.
    #[arg(
        long, value_name = "N", default_value = "2",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=64)
    )]
    pub branches: usize,

    /// The size of a branch's payload, in bytes.
    #[arg(
        long, value_name = "BYTES", default_value = "2",
        value_parser = RangedU64ValueParser::<usize>::new().range(2..=60_000)
    )]
    pub payload: usize,

    /// How many of a hundred transactions are refused by a participant, and so aborted.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub aborts: u32,

    /// Each transaction is begun, enlisted in and committed by calls of its own, not by one call.
    #[arg(long)]
    pub interactive: bool,

    /// When a commit is answered.
    #[arg(long, value_enum, default_value = "decided")]
    pub respond: Respond,

    /// Who takes part: null keeps nothing and answers at once; store is the SDK's participant, with a forced store.
    #[arg(long, value_enum, default_value = "null")]
    pub participants: Participants,

    /// How long each measurement takes, in seconds; 3 without it, 0.8 with --quick.
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<f64>,

    /// Where the logs are put while it runs: on the kind of disk that is to be measured, not in memory.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub folder: PathBuf,

    /// What the coordinator logs, as for `serve`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=600.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds, from 0.1 to 600".to_owned())
}

/// When a commit is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Respond {
    /// When the decision is durable.
    Decided,
    /// When every branch has acknowledged it.
    Finished,
}

impl Respond {
    /// As it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decided => "decided",
            Self::Finished => "finished",
        }
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Participants {
    /// Keep nothing and answer at once.
    Null,
    /// The SDK's, with a forced store.
    Store,
}

impl Participants {
    /// As it stands on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Store => "store",
        }
    }
}

/// What a participant leaves unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hold {
    /// Nothing.
    Nothing,
    /// Commits and aborts.
    Decisions,
    /// All there is.
    Everything,
}

impl Hold {
    /// As it stands on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Decisions => "decisions",
            Self::Everything => "everything",
        }
    }
}

/// The processes that a measurement consists of, each of which is this program again.
#[derive(Clone, Debug, Subcommand)]
pub enum Part {
    /// A participant that keeps nothing, or the SDK's.
    #[command(hide = true)]
    BenchParticipant(Participant),
    /// Forwards calls, each alone; no log, no state.
    #[command(hide = true)]
    BenchNull(Null),
    /// Forwards calls, all that wait for a participant together; no log, no state.
    #[command(hide = true)]
    BenchBatchingNull(Null),
    /// Makes transactions, and prints how that went.
    #[command(hide = true)]
    BenchLoad(Load),
    /// Forces decisions to a log of their own, and prints how that went.
    #[command(hide = true)]
    BenchLog(Log),
    /// Reads and decodes what is unfinished in a log, and prints how long that took.
    #[command(hide = true)]
    BenchScan(Scan),
}

/// A participant.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs)]
pub struct Participant {
    #[arg(long)]
    pub listen: SocketAddr,
    /// Whether it offers to be sent several messages in one request.
    #[arg(long, action = clap::ArgAction::Set, value_parser = BoolishValueParser::new(), default_value = "false")]
    pub batch: bool,
    #[arg(long, value_enum, default_value = "nothing")]
    pub hold: Hold,
    /// The folder of its store; without it, it keeps nothing.
    #[arg(long)]
    pub store: Option<PathBuf>,
}

/// A null coordinator.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs)]
pub struct Null {
    #[arg(long)]
    pub listen: SocketAddr,
}

/// A load.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs)]
pub struct Load {
    /// The coordinator.
    #[arg(long)]
    pub target: SocketAddr,
    #[arg(long)]
    pub clients: usize,
    /// What is measured, after the warm-up.
    #[arg(long)]
    pub seconds: f64,
    #[arg(long, default_value_t = 0.0)]
    pub warm_up: f64,
    /// Ends after so many transactions, if that comes sooner.
    #[arg(long)]
    pub transactions: Option<u64>,
    /// Each transaction has branches at the next ones of these.
    #[arg(long = "participant")]
    pub participants: Vec<String>,
    #[arg(long)]
    pub branches: usize,
    #[arg(long)]
    pub payload: usize,
    #[arg(long)]
    pub aborts: u32,
    #[arg(long)]
    pub interactive: bool,
    #[arg(long, value_enum)]
    pub respond: Respond,
    #[arg(long)]
    pub timeout_ms: Option<u64>,
}

/// The log alone.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs)]
pub struct Log {
    #[arg(long)]
    pub folder: PathBuf,
    #[arg(long)]
    pub clients: usize,
    #[arg(long)]
    pub seconds: f64,
    #[arg(long)]
    pub branches: usize,
    /// Not the log: `fdatasync` of one small block after the other, in a file whose blocks are there.
    #[arg(long)]
    pub fdatasync: bool,
}

/// A look at a log.
#[derive(Clone, Debug, Args)]
#[allow(missing_docs)]
pub struct Scan {
    #[arg(long)]
    pub folder: PathBuf,
}
