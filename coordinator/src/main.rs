//! The binary `unanimous`.

fn main() -> std::process::ExitCode {
    unanimous_coordinator::cli::main()
}
