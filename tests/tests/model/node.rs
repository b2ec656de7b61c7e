//! A participant: its machine, its disk, and the answers that wait for it.
//!
//! Always true: an answer leaves only when the entry it waits for is durable; a crash keeps a head of what was not synced.

use std::collections::BTreeSet;

use unanimous_sdk::{
    branch::{Act, Book, Call, Event, Lsn, Payload, Record, Refusal, Reply, Saved, State, Step},
    protocol::{Decision, Epoch, UnixMillis, Vote},
};

use super::world::{Answer, Message, Taken, coordinator_at, epoch_of, key_of, payload_text};

/// Its clock: behind no time in an id.
const NOW: UnixMillis = UnixMillis(u64::MAX);

/// How its work comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Style {
    /// With the prepare.
    Asked,
    /// On the application's own calls; it votes unasked.
    Unasked,
}

/// What its application thinks of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Choice {
    Prepared,
    ReadOnly,
    Refuses,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    at: usize,
    style: Style,
    pub book: Book,
    saved: Saved,
    tail: Vec<(Lsn, Vec<Record>)>,
    durable: Lsn,
    /// Answers that wait for an entry to be durable.
    waiting: BTreeSet<(Lsn, Message)>,
    /// How often its work was published, durably.
    pub published: u8,
    /// Whether it ever was durably prepared.
    pub was_prepared: bool,
}

impl Node {
    pub fn new(at: usize, style: Style) -> Self {
        let mut node = Self {
            at,
            style,
            book: Book::restore(Saved::default()),
            saved: Saved::default(),
            tail: vec![],
            durable: Lsn::default(),
            waiting: BTreeSet::new(),
            published: 0,
            was_prepared: false,
        };
        if style == Style::Unasked {
            // It was enlisted, and its work has begun.
            let _ = node.told(1, false, Call::Open);
            node.sync();
        }
        node
    }

    pub fn state(&self) -> Option<&State> {
        self.book.branch(&key_of(self.at)).map(|branch| &branch.state)
    }

    pub fn epoch(&self) -> Option<Epoch> {
        self.book.coordinator(key_of(self.at).coordinator).map(|known| known.epoch)
    }

    pub fn is_in_doubt(&self) -> bool {
        self.state() == Some(&State::Prepared)
    }

    pub fn unsynced(&self) -> usize {
        self.tail.len()
    }

    fn event(&self, epoch: u8, past: bool, call: Call) -> Event {
        let key = key_of(self.at);
        Event::Told {
            from: coordinator_at(epoch, past),
            transaction: key.transaction,
            branch: key.branch,
            call,
            meant_for: None,
            now: NOW,
        }
    }

    fn told(&mut self, epoch: u8, past: bool, call: Call) -> Step {
        let event = self.event(epoch, past, call);
        self.step(event)
    }

    fn own(&mut self, act: Act) -> Step {
        self.step(Event::Own { key: key_of(self.at), act })
    }

    fn step(&mut self, event: Event) -> Step {
        let step = self.book.step(event);
        if let Some(lsn) = step.lsn {
            self.tail.push((lsn, step.records.clone()));
        }
        step
    }

    /// Takes a call of the coordinator.
    pub fn receive(&mut self, epoch: u8, call: u8, choice: Choice, taken: Taken) {
        let kind = |call| match call {
            0 => Call::Prepare { payload: Payload::parse(payload_text()), late: false },
            1 => Call::Commit,
            _ => Call::Abort,
        };
        let kind = if self.style == Style::Unasked && call == 0 {
            // Its work came another way: the prepare has no payload.
            Call::Prepare { payload: None, late: false }
        } else {
            kind(call)
        };
        let mut step = self.told(epoch, false, kind.clone());
        loop {
            match step.answer {
                Ok(Reply::Work) => {
                    let voted = match choice {
                        Choice::Prepared => Ok(Vote::Prepared),
                        Choice::ReadOnly => Ok(Vote::ReadOnly),
                        Choice::Refuses => Err("no".to_owned()),
                    };
                    step = self.own(Act::Worked(voted));
                }
                Ok(Reply::Effect(_)) => {
                    self.own(Act::Effected);
                    step = self.told(epoch, false, kind.clone());
                }
                answer => {
                    let after = match (&answer, taken) {
                        (Ok(Reply::Voted(_)), Taken::SyncBeforeVote)
                        | (Ok(Reply::Committed), Taken::SyncBeforeAcknowledgement) => Lsn::default(),
                        _ => step.after,
                    };
                    let answer = answer_of(call, answer);
                    self.waiting.extend(answer.map(|a| (after, Message::Answer { from: self.at, epoch, answer: a })));
                    return;
                }
            }
        }
    }

    /// Hears of the horizon, with a call about something else.
    pub fn pass(&mut self, epoch: u8) {
        let key = super::world::older_key_of(self.at);
        let from = coordinator_at(epoch, true);
        self.step(Event::Told {
            from,
            transaction: key.transaction,
            branch: key.branch,
            call: Call::Abort,
            meant_for: None,
            now: NOW,
        });
    }

    /// Votes unasked, or repeats that.
    pub fn vote(&mut self) {
        let step = self.own(Act::Vote(Vote::Prepared));
        if let (Ok(Reply::Voted(_)), Some(epoch)) = (&step.answer, self.epoch()) {
            self.waiting.insert((step.after, Message::Vote { from: self.at, epoch }));
        }
    }

    /// Gives its work up, as long as it hasn't voted.
    pub fn give_up(&mut self) {
        if let Ok(Reply::Effect(Decision::Abort)) = self.own(Act::GiveUp("it takes too long")).answer {
            self.own(Act::Effected);
        }
    }

    /// Hears that its vote named an epoch that is past.
    pub fn superseded(&mut self, epoch: u8) {
        let coordinator = key_of(self.at).coordinator;
        self.step(Event::Superseded { coordinator, epoch: epoch_of(epoch), now: NOW });
    }

    /// Takes the answer to an inquiry.
    pub fn learn(&mut self, asked: Epoch, decision: Decision) {
        let step = self.step(Event::Learned { key: key_of(self.at), asked, decision });
        if let Ok(Reply::Effect(_)) = step.answer {
            self.own(Act::Effected);
        }
    }

    /// The messages that may leave now.
    pub fn leave(&mut self) -> Vec<Message> {
        let durable = self.durable;
        let (open, shut) = std::mem::take(&mut self.waiting).into_iter().partition(|(after, _)| *after <= durable);
        self.waiting = shut;
        let open: BTreeSet<(Lsn, Message)> = open;
        open.into_iter().map(|(_, message)| message).collect()
    }

    /// Where all is durable, and nothing waits, places in the log make no difference: many states become one.
    pub fn forget_places(&mut self) {
        let saved = |state: &State| state.is_saved();
        if self.tail.is_empty() && self.waiting.is_empty() && self.state().is_none_or(saved) {
            self.durable = Lsn::default();
            self.book = Book::restore(self.saved.clone());
        }
    }

    /// What it would know after a loss of power: its branch, and the coordinator's epoch.
    pub fn saved(&self) -> (Option<&State>, Option<Epoch>) {
        let key = key_of(self.at);
        let epoch = self.saved.coordinators.get(&key.coordinator).map(|known| known.epoch);
        (self.saved.branches.get(&key).map(|branch| &branch.state), epoch)
    }

    pub fn sync(&mut self) {
        self.keep(usize::MAX);
    }

    pub fn crash(&mut self, kept: usize) {
        self.keep(kept);
        self.tail.clear();
        self.waiting.clear();
        self.durable = Lsn::default();
        self.book = Book::restore(self.saved.clone());
    }

    fn keep(&mut self, count: usize) {
        let count = count.min(self.tail.len());
        let key = key_of(self.at);
        for (lsn, records) in self.tail.drain(..count) {
            self.durable = lsn;
            for record in records {
                if let Record::Branch { key: of, branch } = &record
                    && *of == key
                {
                    self.published += u8::from(branch.state == State::Committed);
                    self.was_prepared |= branch.state == State::Prepared;
                }
                self.saved.apply(record);
            }
        }
    }
}

fn answer_of(call: u8, answer: Result<Reply, Refusal>) -> Option<Answer> {
    match (call, answer) {
        (0, Ok(Reply::Voted(Vote::Prepared))) => Some(Answer::Prepared),
        (0, Ok(Reply::Voted(Vote::ReadOnly))) => Some(Answer::ReadOnly),
        (0, Ok(Reply::Refused(_))) => Some(Answer::Refused),
        (1, Ok(Reply::Committed)) => Some(Answer::Committed),
        (1, Err(Refusal::UnknownBranch)) => Some(Answer::UnknownBranch),
        (1, Err(Refusal::IsAborted { .. })) => Some(Answer::HeuristicAbort),
        (2, Ok(Reply::Aborted)) => Some(Answer::Aborted),
        (2, Err(Refusal::IsCommitted)) => Some(Answer::HeuristicCommit),
        // A lower epoch than the one it knows: the sender is gone.
        _ => None,
    }
}
