//! Everything that reads what comes from outside or from the disk, as functions of any bytes. `cargo fuzz` looks for bytes
//! that break them (`tests/fuzz`), and `make test` feeds them all that was found on the way (`tests/corpus.rs`).
//!
//! Always true: a function returns, whatever it is given; it panics if a rule is broken, with a text that says which.

mod answers;
mod exchange;
mod messages;
mod requests;
mod texts;

pub use answers::counts_only_as_it_says;

/// What is done with any bytes.
pub type Check = fn(&[u8]);

/// Each by the name of its folder in the corpus.
pub const TARGETS: [(&str, Check); 5] = [
    ("requests", requests::check),
    ("messages", messages::check),
    ("answers", answers::check),
    ("texts", texts::check),
    ("log_values", log_value),
];

/// A value of the log's tables, or the mark's content.
fn log_value(bytes: &[u8]) {
    if let Err(broken) = unanimous_coordinator::journal::reads_as_written(bytes) {
        panic!("{broken}");
    }
}

/// Checks one target; for `cargo fuzz`.
///
/// # Panics
///
/// If a rule is broken, or there is no such target.
pub fn check(target: &str, bytes: &[u8]) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).expect("there is such a target");
    check(bytes);
}
