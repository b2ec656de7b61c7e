//! The binary `unanimous-failpoints`: the coordinator with points at which tests kill it. Never deploy it.

fn main() -> std::process::ExitCode {
    unanimous_coordinator::cli::main()
}
