//! A participant: its machine, its disk, and the answers that wait for it.
//!
//! # Invariants
//!
//! - An answer leaves only when the entry it waits for is durable.
//! - A crash keeps a head of what was not synced.

use std::collections::BTreeSet;

use unanimous_sdk::{
    branch::{Act, Book, Branch, Call, Event, Lsn, Payload, Record, Refusal, Reply, Saved, State, Step},
    protocol::{Decision, Epoch, ParticipantId, UnixMillis, Vote},
};

use super::{
    ids::{coordinator_at, epoch_of, key_of, latest_key_of, number_of, payload_text},
    taken::Taken,
};

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

/// What it answers to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    Prepared,
    ReadOnly,
    Refused,
    Committed,
    UnknownBranch,
    HeuristicAbort,
    Aborted,
    HeuristicCommit,
    /// It knows this higher epoch.
    StaleEpoch(u8),
    /// The call is meant for another store.
    Misdirected,
}

/// What it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sent {
    /// The answer to a call of this epoch, that named this store.
    Answer { epoch: u8, meant_for: Option<ParticipantId>, answer: Answer },
    /// A vote that nobody asked for.
    Vote { epoch: Epoch },
}

/// A call of the coordinator.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub epoch: u8,
    pub call: u8,
    /// The store that it names.
    pub meant_for: Option<ParticipantId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its branch's place.
    branch: usize,
    style: Style,
    pub book: Book,
    saved: Saved,
    tail: Vec<(Lsn, Vec<Record>)>,
    durable: Lsn,
    /// Answers that wait for an entry to be durable.
    waiting: BTreeSet<(Lsn, Sent)>,
    /// How often its work was published, durably.
    pub published: u8,
    /// Whether it ever was durably prepared.
    pub was_prepared: bool,
}

impl Node {
    /// A store, new and empty, with an id or without one.
    pub fn new(branch: usize, style: Style, participant_id: Option<ParticipantId>) -> Self {
        let saved = Saved { participant_id, ..Saved::default() };
        Self {
            branch,
            style,
            book: Book::restore(saved.clone()),
            saved,
            tail: vec![],
            durable: Lsn::default(),
            waiting: BTreeSet::new(),
            published: 0,
            was_prepared: false,
        }
    }

    /// It was enlisted under this epoch; work that comes another way than with the prepare has begun.
    pub fn enlisted(mut self, epoch: u8) -> Self {
        if self.style == Style::Unasked {
            let _ = self.told(epoch, None, Call::Open);
            self.sync();
        }
        self
    }

    /// What is on its disk.
    pub fn image(&self) -> &Saved {
        &self.saved
    }

    /// Its disk is put back to this, and it starts.
    pub fn put_back(&mut self, image: Saved) {
        self.saved = image;
        self.published = 0;
        self.tail.clear();
        self.crash(0);
    }

    pub fn participant_id(&self) -> Option<ParticipantId> {
        self.book.participant_id()
    }

    /// Returns the epoch under which its branch was prepared.
    pub fn prepared_epoch(&self) -> Option<Epoch> {
        self.book.branch(&key_of(self.branch)).map(|branch| branch.epoch)
    }

    pub fn state(&self) -> Option<&State> {
        self.book.branch(&key_of(self.branch)).map(|branch| &branch.state)
    }

    pub fn epoch(&self) -> Option<Epoch> {
        self.book.coordinator(key_of(self.branch).coordinator).map(|known| known.epoch)
    }

    pub fn is_in_doubt(&self) -> bool {
        self.state() == Some(&State::Prepared)
    }

    pub fn unsynced(&self) -> usize {
        self.tail.len()
    }

    fn told(&mut self, epoch: u8, meant_for: Option<ParticipantId>, call: Call) -> Step {
        let key = key_of(self.branch);
        self.step(Event::Told {
            from: coordinator_at(epoch, false),
            transaction: key.transaction,
            branch: key.branch,
            call,
            meant_for,
            now: NOW,
        })
    }

    fn own(&mut self, act: Act) -> Step {
        self.step(Event::Own { key: key_of(self.branch), act })
    }

    fn step(&mut self, event: Event) -> Step {
        let step = self.book.step(event);
        if let Some(lsn) = step.lsn {
            self.tail.push((lsn, step.records.clone()));
        }
        step
    }

    /// Takes a call of the coordinator.
    pub fn receive(&mut self, Received { epoch, call, meant_for }: Received, choice: Choice, taken: Taken) {
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
        let mut step = self.told(epoch, meant_for, kind.clone());
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
                    step = self.told(epoch, meant_for, kind.clone());
                }
                answer => {
                    let after = match (&answer, taken) {
                        (Ok(Reply::Voted(_)), Taken::SyncBeforeVote)
                        | (Ok(Reply::Committed), Taken::SyncBeforeAcknowledgement) => Lsn::default(),
                        _ => step.after,
                    };
                    let answer = answer_of(call, answer);
                    let sent = answer.map(|answer| (after, Sent::Answer { epoch, meant_for, answer }));
                    self.waiting.extend(sent);
                    return;
                }
            }
        }
    }

    /// Is called about something later; `past`: with a horizon that lies above the transaction.
    pub fn pass(&mut self, epoch: u8, past: bool) {
        let key = latest_key_of(self.branch);
        self.step(Event::Told {
            from: coordinator_at(epoch, past),
            transaction: key.transaction,
            branch: key.branch,
            // Nothing of such a branch is here, and nothing stays of such a call but what is known of the coordinator.
            call: Call::Commit,
            meant_for: None,
            now: NOW,
        });
    }

    /// Votes unasked, or repeats that.
    pub fn vote(&mut self) {
        let step = self.own(Act::Vote(Vote::Prepared));
        if let Ok(Reply::Effect(_)) = step.answer {
            self.own(Act::Effected);
        }
        if let (Ok(Reply::Voted(_)), Some(epoch)) = (&step.answer, self.epoch()) {
            self.waiting.insert((step.after, Sent::Vote { epoch }));
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
        let coordinator = key_of(self.branch).coordinator;
        self.step(Event::Superseded { coordinator, epoch: epoch_of(epoch), now: NOW });
    }

    /// Takes the answer to an inquiry.
    pub fn learn(&mut self, asked: Epoch, decision: Decision) {
        let step = self.step(Event::Learned { key: key_of(self.branch), asked, decision });
        if let Ok(Reply::Effect(_)) = step.answer {
            self.own(Act::Effected);
        }
    }

    /// The messages that may leave now.
    pub fn leave(&mut self) -> Vec<Sent> {
        let durable = self.durable;
        let (open, shut) = std::mem::take(&mut self.waiting).into_iter().partition(|(after, _)| *after <= durable);
        self.waiting = shut;
        let open: BTreeSet<(Lsn, Sent)> = open;
        open.into_iter().map(|(_, sent)| sent).collect()
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
        let key = key_of(self.branch);
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
        let key = key_of(self.branch);
        for (lsn, records) in self.tail.drain(..count) {
            self.durable = lsn;
            for mut record in records {
                if let Record::Branch { key: of, branch } = &mut record
                    && *of == key
                {
                    self.published += u8::from(branch.state == State::Committed);
                    self.was_prepared |= branch.state == State::Prepared;
                    forget_reasons(branch);
                }
                self.saved.apply(record);
            }
        }
    }
}

/// Why a branch has ended, and under which epoch it had voted, makes no difference any more: many states become one.
fn forget_reasons(branch: &mut Branch) {
    if branch.state.has_ended() {
        branch.epoch = epoch_of(0);
    }
    if let State::Refused(why) | State::Aborted(why) = &mut branch.state {
        why.clear();
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
        (_, Err(Refusal::StaleEpoch { epoch, .. })) => Some(Answer::StaleEpoch(number_of(epoch))),
        (_, Err(Refusal::Misdirected { .. })) => Some(Answer::Misdirected),
        _ => None,
    }
}
