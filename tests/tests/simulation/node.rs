//! A participant: the SDK's machine on a simulated disk.
//!
//! Always true: an answer leaves only when the entry it waits for is durable; what was answered and not sent is lost with
//! the process.

use std::collections::BTreeMap;

use unanimous_coordinator::{
    transaction::Call as CallKind,
    transport::{Attempt, Message},
};
use unanimous_sdk::{
    branch::{Act, Book, BranchKey, Call, Event, Lsn, Payload, Record, Refusal, Reply, Saved, State, Step},
    protocol::{
        AbortAnswer, CommitAnswer, Coordinator, CoordinatorId, Decision, Epoch, PrepareAnswer, UnixMillis, Vote,
    },
};

use super::disk::Disk;

/// Who waits for an answer: the message's number in the network, if anybody does.
pub type Ticket = Option<usize>;

pub struct Node {
    pub book: Book,
    pub disk: Disk,
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
    pub fn new() -> Self {
        Self {
            book: Book::restore(Saved::default()),
            disk: Disk::default(),
            waiting: vec![],
            unasked: vec![],
            published: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    /// Takes a message of the coordinator. What it votes is decided by `vote`.
    pub fn receive(&mut self, from: &Coordinator, message: &Message, ticket: Ticket, vote: &Result<Vote, String>) {
        let call = match message.call {
            CallKind::Prepare => Call::Prepare {
                payload: message.payload.as_ref().and_then(|raw| Payload::parse(raw.get())),
                late: message.remaining_ms == 0,
                now: UnixMillis(0),
            },
            CallKind::Commit => Call::Commit,
            CallKind::Abort => Call::Abort,
        };
        let key = BranchKey { coordinator: from.id, transaction: message.transaction, branch: message.branch.clone() };
        let told =
            Event::Told { from: from.clone(), transaction: message.transaction, branch: message.branch.clone(), call };
        let mut step = self.step(told.clone());
        loop {
            let after = step.after;
            match step.answer {
                Ok(Reply::Work) => step = self.step(Event::Own { key: key.clone(), act: Act::Worked(vote.clone()) }),
                Ok(Reply::Effect(_)) => {
                    self.step(Event::Own { key: key.clone(), act: Act::Effected });
                    step = self.step(told.clone());
                }
                answer => return self.reply(after, ticket, attempt(message.call, answer)),
            }
        }
    }

    /// It is enlisted by the application's own call, and its work begins.
    pub fn open(&mut self, from: &Coordinator, key: &BranchKey) {
        let call = Call::Open { now: UnixMillis(0) };
        let (transaction, branch) = (key.transaction, key.branch.clone());
        self.step(Event::Told { from: from.clone(), transaction, branch, call });
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

    /// A vote named an epoch that is past.
    pub fn superseded(&mut self, coordinator: CoordinatorId, epoch: Epoch) {
        self.step(Event::Superseded { coordinator, epoch });
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

    fn reply(&mut self, after: Lsn, ticket: Ticket, attempt: Attempt) {
        self.waiting.push((after, ticket, attempt));
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

    /// The branches in doubt, and the epoch to ask under.
    pub fn in_doubt(&self) -> Vec<(BranchKey, Epoch)> {
        let epoch = |key: &BranchKey| self.book.coordinator(key.coordinator).map(|known| known.epoch);
        self.book.in_doubt().filter_map(|(key, _)| Some((key.clone(), epoch(key)?))).collect()
    }
}

fn attempt(call: CallKind, answer: Result<Reply, Refusal>) -> Attempt {
    match (call, answer) {
        (_, Err(Refusal::StaleEpoch { epoch, .. })) => Attempt::Stale(epoch, None),
        (CallKind::Prepare, Ok(Reply::Voted(vote))) => Attempt::Prepare(PrepareAnswer::Vote(vote), None),
        (CallKind::Prepare, Ok(Reply::Refused(why))) => {
            Attempt::Prepare(PrepareAnswer::Refused { reason: Some(why) }, None)
        }
        (CallKind::Commit, Ok(Reply::Committed)) => Attempt::Commit(CommitAnswer::Committed, None),
        (CallKind::Commit, Err(Refusal::UnknownBranch)) => Attempt::Commit(CommitAnswer::UnknownBranch, None),
        (CallKind::Commit, Err(Refusal::IsAborted { why })) => {
            Attempt::Commit(CommitAnswer::HeuristicAbort { detail: Some(why) }, None)
        }
        (CallKind::Abort, Ok(Reply::Aborted)) => Attempt::Abort(AbortAnswer::Aborted, None),
        (CallKind::Abort, Err(Refusal::IsCommitted)) => {
            Attempt::Abort(AbortAnswer::HeuristicCommit { detail: None }, None)
        }
        (_, other) => Attempt::NoAnswer(format!("{other:?}")),
    }
}
