//! A store of a participant, and the process that serves it: the SDK's machine on a simulated disk.
//!
//! # Invariants
//! - An answer leaves only when the entry it waits for is durable.
//! - What was answered and not sent is lost with the process.

use std::collections::BTreeMap;

use unanimous_coordinator::{
    transaction::Call as CallKind,
    transport::{Attempt, Message},
};
use unanimous_sdk::{
    branch::{Act, Book, BranchKey, Call, Event, Lsn, Payload, Record, Refusal, Reply, Saved, State, Step},
    protocol::{
        AbortAnswer, AcknowledgedState, CommitAnswer, Coordinator, CoordinatorId, Decision, Epoch, ParticipantId,
        PrepareAnswer, TransactionId, UnixMillis, Vote,
    },
};

use super::disk::Disk;

/// The most branches of which it tells after a start how they ended, as the SDK does.
const MAX_TOLD_AT_START: usize = 1_000;

/// A copy of a store.
#[derive(Clone)]
pub struct Backup {
    saved: Saved,
    published: BTreeMap<BranchKey, u32>,
    ended: BTreeMap<BranchKey, State>,
}

/// Who waits for an answer: the message's number in the network, if anybody does.
pub type Ticket = Option<usize>;

pub struct Node {
    pub book: Book,
    pub disk: Disk,
    /// The place of its URL.
    pub home: usize,
    /// Whether a process serves it.
    pub is_present: bool,
    pub backup: Option<Backup>,
    /// Whether its data is gone for good.
    pub is_gone: bool,
    /// By how much its clock is ahead of the right one.
    pub ahead: i64,
    /// Answers that wait for the disk.
    waiting: Vec<(Lsn, Ticket, Attempt)>,
    /// Votes given unasked that wait for the disk.
    unasked: Vec<(Lsn, BranchKey, Vote)>,
    /// How often each branch's work was published, durably.
    pub published: BTreeMap<BranchKey, u32>,
    /// How each branch ended, durably; kept although the participant may forget it.
    pub ended: BTreeMap<BranchKey, State>,
}

impl Node {
    /// Returns an empty store.
    pub fn new(participant_id: Option<ParticipantId>, home: usize) -> Self {
        let saved = Saved { participant_id, ..Saved::default() };
        Self {
            book: Book::restore(saved.clone()),
            disk: Disk::new(saved),
            home,
            is_present: true,
            backup: None,
            is_gone: false,
            ahead: 0,
            waiting: vec![],
            unasked: vec![],
            published: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    pub fn id(&self) -> Option<ParticipantId> {
        self.book.participant_id()
    }

    /// Takes a message of the coordinator. What it votes is decided by `vote`.
    pub fn receive(
        &mut self,
        from: &Coordinator,
        message: &Message,
        now: UnixMillis,
        ticket: Ticket,
        vote: &Result<Vote, String>,
    ) {
        let call = match message.call {
            CallKind::Prepare => Call::Prepare {
                payload: message.payload.as_ref().and_then(|raw| Payload::parse(raw.get())),
                late: message.remaining_ms == 0,
            },
            CallKind::Commit => Call::Commit,
            CallKind::Abort => Call::Abort,
        };
        let key = BranchKey { coordinator: from.id, transaction: message.transaction, branch: message.branch.clone() };
        let told = Event::Told {
            from: from.clone(),
            transaction: message.transaction,
            branch: message.branch.clone(),
            call,
            meant_for: message.participant_id,
            now,
        };
        let mut step = self.step(told.clone());
        loop {
            let after = step.after;
            match step.answer {
                Ok(Reply::Work) => step = self.step(Event::Own { key: key.clone(), act: Act::Worked(vote.clone()) }),
                Ok(Reply::Effect(_)) => {
                    self.step(Event::Own { key: key.clone(), act: Act::Effected });
                    step = self.step(told.clone());
                }
                answer => {
                    let attempt = attempt(message, answer, self.id());
                    return self.waiting.push((after, ticket, attempt));
                }
            }
        }
    }

    /// It is enlisted by the application's own call, and its work begins.
    pub fn open(&mut self, from: &Coordinator, key: &BranchKey, now: UnixMillis) {
        let call = Call::Open;
        let (transaction, branch) = (key.transaction, key.branch.clone());
        self.step(Event::Told { from: from.clone(), transaction, branch, call, meant_for: None, now });
    }

    /// Takes an abort that somebody else than the coordinator sends in its name.
    pub fn take_forged(&mut self, from: Coordinator, transaction: TransactionId, now: UnixMillis) {
        let branch = "forged".parse().expect("it is a name");
        self.step(Event::Told { from, transaction, branch, call: Call::Abort, meant_for: None, now });
    }

    /// That work has ended: it waits for its prepare, votes unasked, or gives up.
    pub fn end_work(&mut self, key: &BranchKey, act: Act) {
        let step = self.step(Event::Own { key: key.clone(), act });
        match step.answer {
            Ok(Reply::Voted(vote)) => self.unasked.push((step.after, key.clone(), vote)),
            Ok(Reply::Effect(_)) => drop(self.step(Event::Own { key: key.clone(), act: Act::Effected })),
            Ok(_) | Err(_) => {}
        }
    }

    /// The votes that may leave now.
    pub fn votes(&mut self) -> Vec<(BranchKey, Vote)> {
        let durable = self.disk.durable;
        let ready = self.unasked.extract_if(.., |(after, ..)| *after <= durable);
        ready.map(|(_, key, vote)| (key, vote)).collect()
    }

    /// The coordinator's epoch as it is known here.
    pub fn epoch(&self, key: &BranchKey) -> Option<Epoch> {
        self.book.coordinator(key.coordinator).map(|known| known.epoch)
    }

    /// What it said named an epoch that is past.
    pub fn superseded(&mut self, coordinator: CoordinatorId, epoch: Epoch, now: UnixMillis) {
        self.step(Event::Superseded { coordinator, epoch, now });
    }

    /// An operator ends a branch in doubt by hand.
    pub fn resolve(&mut self, key: BranchKey, decision: Decision) {
        let act = Act::Resolve { decision, reason: "its coordinator has forgotten it".to_owned() };
        let step = self.step(Event::Own { key: key.clone(), act });
        if let Ok(Reply::Effect(_)) = step.answer {
            self.step(Event::Own { key, act: Act::Effected });
        }
    }

    /// Takes the answer to an inquiry.
    pub fn learn(&mut self, key: BranchKey, asked: Epoch, decision: Decision) {
        let step = self.step(Event::Learned { key: key.clone(), asked, decision });
        if let Ok(Reply::Effect(_)) = step.answer {
            self.step(Event::Own { key, act: Act::Effected });
        }
    }

    fn step(&mut self, event: Event) -> Step {
        let step = self.book.step(event);
        if let Some(lsn) = step.lsn {
            self.disk.append(lsn, step.records.clone());
        }
        step
    }

    /// The answers that may leave now.
    pub fn answers(&mut self) -> Vec<(Ticket, Attempt)> {
        let durable = self.disk.durable;
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(after, ..)| *after <= durable);
        self.waiting = waiting;
        let ready: Vec<(Lsn, Ticket, Attempt)> = ready;
        ready.into_iter().map(|(_, ticket, attempt)| (ticket, attempt)).collect()
    }

    pub fn sync(&mut self) {
        let records = self.disk.sync();
        self.note(records);
    }

    /// The process dies, and the machine too: so many unsynced entries happen to survive. Whoever waits hears nothing.
    pub fn crash(&mut self, kept: usize) -> Vec<Ticket> {
        let (saved, records) = self.disk.crash(kept);
        self.note(records);
        self.book = Book::restore(saved);
        self.unasked.clear();
        std::mem::take(&mut self.waiting).into_iter().map(|(_, ticket, _)| ticket).collect()
    }

    /// Makes a copy of what is durable.
    pub fn back_up(&mut self) {
        let (published, ended) = (self.published.clone(), self.ended.clone());
        self.backup = Some(Backup { saved: self.disk.saved().clone(), published, ended });
    }

    /// Starts on a copy: all since then is lost.
    pub fn put_back(&mut self, backup: Backup) {
        let Backup { saved, published, ended } = backup;
        (self.published, self.ended) = (published, ended);
        (self.book, self.disk) = (Book::restore(saved.clone()), Disk::new(saved));
    }

    fn note(&mut self, records: Vec<Record>) {
        for record in records {
            if let Record::Branch { key, branch } = record {
                if branch.state == State::Committed {
                    *self.published.entry(key.clone()).or_default() += 1;
                }
                if branch.state.has_ended() || branch.state == State::Prepared {
                    self.ended.insert(key, branch.state);
                }
            }
        }
    }

    /// Returns the branches in doubt, the epoch to ask under, and that of the prepare.
    pub fn in_doubt(&self) -> Vec<(BranchKey, Epoch, Epoch)> {
        let epoch = |key: &BranchKey| self.book.coordinator(key.coordinator).map(|known| known.epoch);
        let in_doubt = self.book.in_doubt();
        in_doubt.filter_map(|(key, branch)| Some((key.clone(), epoch(key)?, branch.epoch))).collect()
    }

    /// Returns how a branch ended, if it is known here and durable, and no operator has ended it.
    pub fn end_to_tell(&self, key: &BranchKey) -> Option<AcknowledgedState> {
        let branch = self.book.branch(key).filter(|branch| branch.resolved.is_none())?;
        (self.ended.get(key) == Some(&branch.state)).then_some(())?;
        match branch.state {
            State::Committed => Some(AcknowledgedState::Committed),
            State::Aborted(_) => Some(AcknowledgedState::Aborted),
            _ => None,
        }
    }

    /// Returns the branches of which it tells after a start how they ended.
    pub fn ends_to_tell_at_start(&self) -> Vec<BranchKey> {
        self.book.oldest_ended(MAX_TOLD_AT_START)
    }
}

/// What an answer says to the coordinator, as its transport judges it.
fn attempt(message: &Message, answer: Result<Reply, Refusal>, store: Option<ParticipantId>) -> Attempt {
    let attempt = match (message.call, answer) {
        (_, Err(Refusal::StaleEpoch { epoch, .. })) => return Attempt::Stale(epoch, store),
        (_, Err(Refusal::Misdirected { participant_id })) => {
            return Attempt::OtherStore { participant_id: Some(participant_id) };
        }
        (CallKind::Prepare, Ok(Reply::Voted(vote))) => Attempt::Prepare(PrepareAnswer::Vote(vote), store),
        (CallKind::Prepare, Ok(Reply::Refused(why))) => {
            Attempt::Prepare(PrepareAnswer::Refused { reason: Some(why) }, store)
        }
        (CallKind::Commit, Ok(Reply::Committed)) => Attempt::Commit(CommitAnswer::Committed, store),
        (CallKind::Commit, Err(Refusal::UnknownBranch)) => Attempt::Commit(CommitAnswer::UnknownBranch, store),
        (CallKind::Commit, Err(Refusal::IsAborted { why })) => {
            Attempt::Commit(CommitAnswer::HeuristicAbort { detail: Some(why) }, store)
        }
        (CallKind::Abort, Ok(Reply::Aborted)) => Attempt::Abort(AbortAnswer::Aborted, store),
        (CallKind::Abort, Err(Refusal::IsCommitted)) => {
            Attempt::Abort(AbortAnswer::HeuristicCommit { detail: None }, store)
        }
        (_, other) => return Attempt::NoAnswer(format!("{other:?}")),
    };
    if message.participant_id.is_some() && message.participant_id != store {
        return Attempt::OtherStore { participant_id: store };
    }
    attempt
}
