//! The binary `unanimous`.

/// What a worker has allocated the log's thread frees: the C library's allocator spent a tenth of all time in that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    unanimous_coordinator::cli::main()
}
