//! A fee ledger.

use clap::Parser;
use unanimous_examples::{fees, service};

fn main() -> std::process::ExitCode {
    service::main("fees", fees::run(fees::Options::parse()))
}
