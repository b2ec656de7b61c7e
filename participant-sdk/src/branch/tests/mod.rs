//! The rules of the branch machine, one test each; a table of every state and event; and random histories with crashes.

mod coordinators;
mod random;
mod rules;
mod table;

use super::*;
use crate::protocol::{Coordinator, Decision, Epoch, ParticipantId, TransactionId, UnixMillis, Vote};

pub(super) const COORDINATOR: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

pub(super) fn epoch(n: u8) -> Epoch {
    format!("01890a5d-0000-7000-8000-0000000000{n:02x}").parse().unwrap()
}

pub(super) fn transaction(n: u8) -> TransactionId {
    format!("01890a5d-1111-7000-8000-0000000000{n:02x}").parse().unwrap()
}

pub(super) fn coordinator(epoch_number: u8, horizon: TransactionId) -> Coordinator {
    Coordinator {
        id: COORDINATOR.parse().unwrap(),
        epoch: epoch(epoch_number),
        url: "http://127.0.0.1:7070".to_owned(),
        horizon,
    }
}

pub(super) fn key(n: u8) -> BranchKey {
    BranchKey { coordinator: COORDINATOR.parse().unwrap(), transaction: transaction(n), branch: "b".parse().unwrap() }
}

pub(super) fn payload(n: u8) -> Option<Payload> {
    Payload::parse(&n.to_string())
}

pub(super) fn told_under(from: Coordinator, n: u8, call: Call) -> Event {
    let (branch, meant_for) = ("b".parse().unwrap(), None);
    Event::Told { from, transaction: transaction(n), branch, call, meant_for, now: NOW }
}

/// Under epoch 2, about the transaction `n`.
pub(super) fn told(n: u8, call: Call) -> Event {
    told_under(coordinator(2, TransactionId::NIL), n, call)
}

pub(super) fn own(n: u8, act: Act) -> Event {
    Event::Own { key: key(n), act }
}

pub(super) fn learned(n: u8, asked: u8, decision: Decision) -> Event {
    Event::Learned { key: key(n), asked: epoch(asked), decision }
}

/// Shortly after the time in the ids above.
pub(super) const NOW: UnixMillis = UnixMillis(0x0189_0a5d_2222);

pub(super) fn prepare(payload: Option<Payload>) -> Call {
    Call::Prepare { payload, late: false }
}

pub(super) fn worked(vote: Vote) -> Act {
    Act::Worked(Ok(vote))
}

/// A participant and the disk under it: what was written, and how much of that has been synced.
#[derive(Clone)]
pub(super) struct World {
    pub(super) book: Book,
    pub(super) disk: Saved,
    unsynced: Vec<Vec<Record>>,
}

impl World {
    pub(super) fn new() -> Self {
        Self { book: Book::restore(Saved::default()), disk: Saved::default(), unsynced: Vec::new() }
    }

    pub(super) fn step(&mut self, event: Event) -> Step {
        let step = self.book.step(event);
        if step.lsn.is_some() {
            self.unsynced.push(step.records.clone());
        }
        // What may be told from now on: the caller has waited for it.
        if step.after > Lsn::default() {
            self.sync();
        }
        step
    }

    pub(super) fn sync(&mut self) {
        self.unsynced.drain(..).flatten().for_each(|record| self.disk.apply(record));
    }

    /// The power goes; of what wasn't synced, the first `kept` entries happen to be on disk.
    pub(super) fn crash(&mut self, kept: usize) {
        let kept = kept.min(self.unsynced.len());
        self.unsynced.drain(..).take(kept).flatten().for_each(|record| self.disk.apply(record));
        self.book = Book::restore(self.disk.clone());
    }

    pub(super) fn state(&self, n: u8) -> Option<State> {
        self.book.branch(&key(n)).map(|branch| branch.state.clone())
    }

    /// Steps all of these, whatever they answer.
    pub(super) fn all(events: impl IntoIterator<Item = Event>) -> Self {
        let mut world = Self::new();
        for event in events {
            world.step(event);
        }
        world
    }

    pub(super) fn prepared() -> Self {
        Self::all([told(1, prepare(payload(1))), own(1, worked(Vote::Prepared))])
    }

    pub(super) fn committed() -> Self {
        let mut world = Self::prepared();
        world.step(told(1, Call::Commit));
        world.step(own(1, Act::Effected));
        world
    }

    pub(super) fn aborted() -> Self {
        let mut world = Self::prepared();
        world.step(told(1, Call::Abort));
        world.step(own(1, Act::Effected));
        world
    }
}
