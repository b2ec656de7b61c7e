//! The bank with points at which tests kill it. Never deploy it.

use clap::Parser;
use unanimous_examples::{bank, service};

fn main() -> std::process::ExitCode {
    service::main("bank-failpoints", bank::main(bank::Cli::parse()))
}
