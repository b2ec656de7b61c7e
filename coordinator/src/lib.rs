//! The coordinator: drives prepare and commit or abort rounds over HTTP, and writes every decision to its log first.
//!
//! What decides is pure, what acts is thin:
//!
//! ```text
//!   HTTP in ──► api ──► engine ──► transaction     pure: step(Event) -> Vec<Command>
//!                         ├──────► journal         the log: RocksDB, or memory that can lose its power
//!                         └──────► transport       prepare, commit, abort over HTTP
//! ```

pub mod api;
pub mod bench;
pub mod cli;
pub mod config;
pub mod engine;
pub mod journal;
pub mod metrics;
pub mod serve;
pub mod telemetry;
pub mod transaction;
pub mod transport;
pub mod uuid7;
