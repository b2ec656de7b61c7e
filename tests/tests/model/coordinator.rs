//! The coordinator: one transaction's machine, its log, and what waits for that.
//!
//! Always true: entries become durable in their order; a crash keeps a head of those that were not synced, perhaps none; what
//! waits for an entry is lost with the process.

use std::sync::Arc;

use unanimous_coordinator::transaction::{
    Barrier, Call, Command, Event, Log, Lsn, NotAllowed, Payload, Record, Step, Transaction,
};
use unanimous_sdk::protocol::{Decision, Outcome, UnixMillis, Vote};

use super::{
    node::Style,
    world::{Message, Taken, branch_name, participant, payload_text},
};

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Record(Record),
    Finished(Transaction),
}

/// What waits for the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Gated {
    Send(usize, u8),
    Tell,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    /// How often it was started.
    pub epoch: u8,
    /// None: not in the log, or the process that knew it is gone.
    pub transaction: Option<Transaction>,
    durable: Vec<Entry>,
    tail: Vec<Entry>,
    /// The last entry of this process that is durable.
    synced: u64,
    gated: Vec<(u64, Gated)>,
}

/// As it stands in a message.
pub fn number(call: Call) -> u8 {
    match call {
        Call::Prepare => 0,
        Call::Commit => 1,
        Call::Abort => 2,
    }
}

impl Coordinator {
    /// It has begun a transaction, and nothing of that is durable.
    pub fn begin(styles: &[Style]) -> Self {
        let branches = styles.iter().enumerate().map(|(at, style)| {
            let payload = (*style == Style::Asked).then(|| {
                let text = serde_json::value::RawValue::from_string(payload_text().to_owned()).expect("it is JSON");
                let digest = unanimous_sdk::branch::Payload::parse(payload_text()).expect("it is JSON").digest;
                Payload { text: Arc::from(text), digest }
            });
            (Some(branch_name(at)), participant(at), payload)
        });
        let mut log = Log { next: Lsn(1), sequence: 1, now: UnixMillis(0) };
        let begun = Transaction::begin(
            std::collections::BTreeMap::new(),
            UnixMillis(0),
            vec![],
            branches.collect(),
            UnixMillis(0),
            &mut log,
        );
        let (transaction, commands) = begun.expect("the names differ");
        let mut coordinator =
            Self { epoch: 1, transaction: Some(transaction), durable: vec![], tail: vec![], synced: 0, gated: vec![] };
        coordinator.take(commands);
        coordinator
    }

    /// Something happens to the transaction; whether it was allowed, and changed something.
    pub fn feed(&mut self, event: Event) -> bool {
        let mut log = Log { next: Lsn(self.last() + 1), sequence: 1, now: UnixMillis(0) };
        let Some(transaction) = &mut self.transaction else { return false };
        match transaction.step(event, &mut log) {
            Ok(Step::Changed(commands)) => {
                self.take(commands);
                true
            }
            Ok(Step::Unchanged) | Err(NotAllowed::NotActive | NotAllowed::Committed | NotAllowed::Aborted) => false,
            Err(why) => panic!("the model did something impossible: {why:?}"),
        }
    }

    fn take(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Append(_, record) => self.tail.push(Entry::Record(record)),
                Command::Finish(_) => self.tail.extend(self.transaction.clone().map(Entry::Finished)),
                Command::Send { branch, call, after } => self.gate(after, Gated::Send(branch, number(call))),
                Command::Tell { after } => self.gate(after, Gated::Tell),
                // Who hears of the end has heard of the decision.
                Command::TellEnd { .. } => {}
            }
        }
    }

    /// (What need only be written is: the kernel has it.)
    fn gate(&mut self, after: Barrier, gated: Gated) {
        self.gated.push((after.durable.0, gated));
        self.gated.sort();
    }

    fn last(&self) -> u64 {
        self.synced + self.tail.len() as u64
    }

    /// What may leave now: messages, and a decision that is told.
    pub fn leave(&mut self, taken: Taken) -> (Vec<Message>, Option<Decision>) {
        let (mut messages, mut told) = (vec![], None);
        let synced = self.synced;
        let (open, shut) = std::mem::take(&mut self.gated).into_iter().partition(|(after, gated)| {
            *after <= synced
                || matches!(
                    (gated, taken),
                    (Gated::Send(..), Taken::SyncBeforeSend) | (Gated::Tell, Taken::SyncBeforeTell)
                )
        });
        self.gated = shut;
        let open: Vec<(u64, Gated)> = open;
        for (_, gated) in open {
            match gated {
                Gated::Send(to, call) => messages.push(Message::Call { to, epoch: self.epoch, call }),
                // A decision that changed nothing has no number, and needs not be kept.
                Gated::Tell => told = self.decided().filter(|(_, numbered)| *numbered).map(|(decision, _)| decision),
            }
        }
        (messages, told)
    }

    fn decided(&self) -> Option<(Decision, bool)> {
        let decided = self.transaction.as_ref()?.decided.as_ref()?;
        Some((decided.decision, decided.sequence.is_some()))
    }

    /// The decision, if it is durable.
    pub fn durable_decision(&self) -> Option<Decision> {
        self.durable.iter().find_map(|entry| match entry {
            Entry::Record(Record::Decided(transaction)) | Entry::Finished(transaction) => {
                transaction.decided.as_ref().map(|decided| decided.decision)
            }
            Entry::Record(_) => None,
        })
    }

    /// The end of the transaction is durable: the horizon may pass it.
    pub fn end_is_durable(&self) -> bool {
        self.durable.iter().any(|entry| matches!(entry, Entry::Finished(_)))
    }

    /// Whether the transaction has its decision, and all branches have acknowledged it, or nothing is known of it.
    pub fn is_done(&self) -> bool {
        self.transaction.as_ref().is_none_or(|transaction| transaction.state.is_finished())
    }

    /// Where all is durable, and nothing waits, places in the log make no difference: many states become one.
    pub fn forget_places(&mut self) {
        if self.tail.is_empty() && self.gated.is_empty() {
            self.synced = 0;
            if let Some(decided) = self.transaction.as_mut().and_then(|transaction| transaction.decided.as_mut()) {
                decided.lsn = Lsn(0);
            }
        }
    }

    pub fn unsynced(&self) -> usize {
        self.tail.len()
    }

    pub fn sync(&mut self) {
        self.synced = self.last();
        self.durable.append(&mut self.tail);
    }

    /// The process dies, and so many unsynced entries survive; the next one reads them, and makes them durable first.
    pub fn crash(&mut self, kept: usize, taken: Taken) {
        self.durable.extend(self.tail.drain(..kept));
        self.tail.clear();
        self.gated.clear();
        self.synced = 0;
        self.epoch += 1;
        let finished = self.durable.iter().find_map(|entry| match entry {
            Entry::Finished(transaction) => Some(transaction.clone()),
            Entry::Record(_) => None,
        });
        let records: Vec<Record> = self
            .durable
            .iter()
            .filter_map(|entry| match entry {
                Entry::Record(record) => Some(record.clone()),
                Entry::Finished(_) => None,
            })
            .collect();
        self.transaction = match finished {
            Some(transaction) => Some(transaction),
            None if records.is_empty() => None,
            None => Some(Transaction::replay(records).expect("the log holds what the machine wrote")),
        };
        // Places in the log of a process that is gone mean nothing to the next one.
        if let Some(decided) = self.transaction.as_mut().and_then(|transaction| transaction.decided.as_mut()) {
            decided.lsn = Lsn(0);
        }
        let undecided = self.transaction.as_ref().is_some_and(|transaction| transaction.state.is_undecided());
        if !(undecided && matches!(taken, Taken::AbortAtRestart | Taken::EpochOfVotes)) {
            self.feed(Event::Restarted);
        }
    }

    /// What a participant in doubt is told; None: to ask again.
    pub fn answer(&self, at: usize, taken: Taken) -> Option<Outcome> {
        // What isn't in the log was never committed.
        let Some(transaction) = &self.transaction else { return Some(Outcome::Abort) };
        if transaction.branches[at].vote == Some(Vote::ReadOnly) {
            return Some(Outcome::Abort);
        }
        let decided = transaction.decided.as_ref()?;
        let known = transaction.known_after().durable.0 <= self.synced || taken == Taken::SyncBeforeInquiry;
        known.then_some(Outcome::from(decided.decision))
    }
}
