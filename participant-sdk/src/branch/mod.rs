//! The participant's side of the protocol as a pure state machine: no clock, no I/O, no randomness, no async. The very
//! code that serves is what tests and the model checker explore.
//!
//! One branch:
//!
//! ```text
//!            open             hold              vote, prepare
//!   (none) ───────► Open ───────────► Held ─────────────────────┐
//!     │              └── vote ──────────────────────────────────┤
//!     │  prepare with payload          worked                   ▼           commit             effected
//!     ├───────────────► Working ──────────────────────────► Prepared ──────────────► Committing ─────────► Committed
//!     │                    │  └─ worked ─► Refused, ReadOnly    │
//!     │                    │        (Open, Held, too) abort     │ abort                         effected
//!     │                    └────────────────────────────────────┴──────────────► Aborting ──────────────► Aborted
//!     ├─ prepare too late, below the horizon, without work ─► Refused
//!     └─ abort ─► Tombstone
//! ```
//!
//! Always true:
//! - what ended stays as it ended, until its transaction is below the horizon; what is prepared is never forgotten, and
//!   never ends but by a decision;
//! - an answer may leave only when the entry [`Step::after`] is durable: the vote or the commit it tells of, and the
//!   epoch it is given under;
//! - a [`Step`]'s records are one entry: all of them survive, or none;
//! - a message that is meant for another store, or says what can't be true, leaves nothing behind.
//!
//! The caller's duties, in this order, for each event:
//! 1. call [`Book::step`];
//! 2. hand the step's records (with what becomes of the work, [`Step::fate`]) to the store before the next step's;
//! 3. when the entry `after` is durable, do what `answer` says.

mod book;
mod coordinators;
mod event;
mod state;
#[cfg(test)]
mod tests;

pub use book::Book;
pub use event::{Act, Call, Event, Fate, Refusal, Reply, Step};
pub use state::{Branch, BranchKey, Former, Known, Lsn, Payload, Record, Saved, State};
