//! One transaction, as a pure state machine: no clock, no I/O, no randomness, no async. The code that serves is the code
//! that is checked.
//!
//! The caller's duties, for each thing that happens to a transaction:
//!
//! 1. Feed it to [`Transaction::step`]. If the deadline has passed, feed [`Event::DeadlinePassed`] before anything else.
//! 2. Append each [`Command::Append`] to the log, in order, under the number it names.
//! 3. Carry out [`Command::Send`] and [`Command::Tell`] only when the log has come as far as their [`Barrier`].
//! 4. Feed what participants answer back, as events.
//!
//! At start, feed each transaction that the log gives back with [`Event::Restarted`].

mod record;
mod state;
mod step;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;

pub use record::{Inconsistent, Lsn, Record};
pub use state::{Branch, BranchState, Decided, Heard, Key, KeyedCall, Payload, Reason, ReasonCode, State, Transaction};
pub use step::{Barrier, Call, Command, Event, Log, NotAllowed, Phase, Step, StoreVote};
