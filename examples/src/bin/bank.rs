//! A bank. Run it twice, on two addresses, and there are two.

use clap::Parser;
use unanimous_examples::{bank, service};

fn main() -> std::process::ExitCode {
    service::main("bank", bank::main(bank::Cli::parse()))
}
