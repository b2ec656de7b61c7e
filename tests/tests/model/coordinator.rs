//! The coordinator: one transaction's machine, its log, and what waits for that.
//!
//! The transaction's machine, the answer to an inquiry (`Engine::answer`) and what an acknowledgement makes of a finished
//! transaction (`acknowledge_finished`) are those of production. Restated here, each in a few lines, is what in production
//! needs the whole engine or a real log: when a call leaves (`engine/gates.rs`), that a drop by retention and the highest
//! dropped id are one entry (`journal/retention.rs`), and that a higher epoch which a participant named is kept in the log
//! (`engine/ownership.rs`). That a 412 of one participant stops nobody is explored here; that a second independent one
//! supersedes the coordinator is not, as the one that is superseded does nothing more: `engine/tests/ownership.rs` has it.
//!
//! # Invariants
//!
//! - Entries become durable in their order. A crash keeps a head of those that were not synced, perhaps none.
//! - What waits for an entry is lost with the process.

use std::{collections::BTreeSet, sync::Arc};

use unanimous_coordinator::{
    engine::{Acknowledgement, View, acknowledge_finished},
    transaction::{
        Barrier, Branch, BranchState, Call, Command, Event, Log, Lsn, NotAllowed, Payload, Record, Step, StoreVote,
        Transaction,
    },
};
use unanimous_sdk::protocol::{AcknowledgedState, CoordinatorRef, Decision, ParticipantId, UnixMillis};

use super::{
    ids::{branch_name, coordinator_id, epoch_of, participant, payload_text, transaction_id},
    inquiry::{self, Asked, Reply},
    node::Style,
    taken::Taken,
};

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Record(Record),
    /// The transaction, finished; a later one takes its place.
    Finished(Transaction),
    /// Retention dropped the transaction, or kept its id as the highest dropped one, or both.
    Retained {
        dropped: bool,
        forgotten: bool,
    },
    /// A participant named this epoch.
    HigherEpoch(u8),
}

/// What waits for the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Gated {
    Send(usize, u8),
    Tell,
}

/// What may leave.
#[derive(Default)]
pub struct Departures {
    /// Of which branch, which call, and the store it names.
    pub calls: Vec<(usize, u8, Option<ParticipantId>)>,
    /// A decision that is told to the initiator.
    pub told: Option<Decision>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    /// The present epoch: one more for each start, but for what was named.
    pub epoch: u8,
    /// All epochs under which its log was opened.
    epochs: BTreeSet<u8>,
    /// None: not in the log, or the process that knew it is gone.
    pub transaction: Option<Transaction>,
    durable: Vec<Entry>,
    tail: Vec<Entry>,
    /// The last entry of this process that is durable.
    synced: u64,
    gated: Vec<(u64, Gated)>,
    /// Retention has dropped the transaction's id.
    forgotten: bool,
    /// The highest epoch that a participant has named.
    named: Option<u8>,
    /// The last answer came from another store than the one that voted.
    other_store: bool,
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
    /// It has begun a transaction under this epoch, and nothing of that is durable.
    pub fn begin(styles: &[Style], epoch: u8) -> Self {
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
        let mut coordinator = Self { transaction: Some(transaction), ..Self::empty(epoch, (1..=epoch).collect()) };
        coordinator.take(commands);
        coordinator
    }

    fn empty(epoch: u8, epochs: BTreeSet<u8>) -> Self {
        Self {
            epoch,
            epochs,
            transaction: None,
            durable: vec![],
            tail: vec![],
            synced: 0,
            gated: vec![],
            forgotten: false,
            named: None,
            other_store: false,
        }
    }

    /// The log is put back to the state that it had under its first epoch, and opened.
    pub fn put_back(&mut self) {
        let epoch = self.epoch + 1;
        *self = Self::empty(epoch, [1, epoch].into());
    }

    /// Something happens to the transaction; whether it was allowed, and changed something.
    pub fn feed(&mut self, event: Event) -> bool {
        let mut log = Log { next: Lsn(self.last() + 1), sequence: 1, now: UnixMillis(0) };
        let Some(transaction) = &mut self.transaction else { return false };
        let had_finished = transaction.state.is_finished();
        match transaction.step(event, &mut log) {
            // It is put in the place of what the log has of it.
            Ok(Step::Changed(_)) if had_finished => {
                self.tail.extend(self.transaction.clone().map(Entry::Finished));
                true
            }
            Ok(Step::Changed(commands)) => {
                self.take(commands);
                true
            }
            Ok(Step::Unchanged)
            | Err(
                NotAllowed::NotActive | NotAllowed::Committed | NotAllowed::Aborted | NotAllowed::BranchConflict(_),
            ) => false,
            Err(why) => panic!("the model did something impossible: {why:?}"),
        }
    }

    /// Takes a vote that comes unasked.
    pub fn vote(&mut self, at: usize, vote: StoreVote) -> bool {
        // Too late, it says that the branch is prepared.
        self.feed(Event::VotedLate(at));
        self.feed(Event::Vote { branch: branch_name(at), vote })
    }

    /// Takes what a participant says unasked: that it has obeyed.
    pub fn acknowledge(
        &mut self,
        at: usize,
        state: AcknowledgedState,
        participant_id: Option<ParticipantId>,
        epoch: u8,
    ) {
        let named = CoordinatorRef { id: coordinator_id(), epoch: epoch_of(epoch) };
        let Some(transaction) = self.transaction.clone() else { return };
        let is_known = transaction.decided.is_some() && self.is_known(&transaction);
        if !is_known
            || inquiry::with_engine(&self.epochs, self.forgotten, |engine| engine.check_present(&named).is_err())
        {
            return;
        }
        let told = Acknowledgement { branch: branch_name(at), state, participant_id, coordinator: named };
        if transaction.state.is_finished() {
            if let Ok(Some(changed)) = acknowledge_finished(transaction, &told) {
                self.tail.push(Entry::Finished(changed.clone()));
                self.transaction = Some(changed);
            }
        } else {
            self.feed(Event::Acknowledged { branch: told.branch, state, participant_id });
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
    pub fn leave(&mut self, taken: Taken) -> Departures {
        let mut departures = Departures::default();
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
                Gated::Send(to, call) => departures.calls.push((to, call, self.store_of(to, taken))),
                // A decision that changed nothing has no number, and needs not be kept.
                Gated::Tell => {
                    departures.told = self.decided().filter(|(_, numbered)| *numbered).map(|(decision, _)| decision);
                }
            }
        }
        departures
    }

    /// Returns the store that a call about this branch names.
    pub fn store_of(&self, at: usize, taken: Taken) -> Option<ParticipantId> {
        self.branch(at)?.participant_id.filter(|_| taken != Taken::StoreOfCall)
    }

    pub fn branch(&self, at: usize) -> Option<&Branch> {
        self.transaction.as_ref()?.branches.get(at)
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
            Entry::Record(_) | Entry::Retained { .. } | Entry::HigherEpoch(_) => None,
        })
    }

    /// The end of the transaction is durable: the horizon may pass it.
    pub fn end_is_durable(&self) -> bool {
        self.durable.iter().any(|entry| matches!(entry, Entry::Finished(_) | Entry::Retained { dropped: true, .. }))
    }

    /// Whether the transaction has its decision, and all branches have acknowledged it, or nothing is known of it.
    pub fn is_done(&self) -> bool {
        self.transaction.as_ref().is_none_or(|transaction| transaction.state.is_finished())
    }

    /// Whether the transaction finished long enough ago for retention to drop it, and isn't kept beyond that.
    pub fn may_retain(&self, taken: Taken) -> bool {
        self.end_is_durable()
            && self.transaction.as_ref().is_some_and(|transaction| {
                taken == Taken::KeptBeyondRetention || !transaction.is_kept_beyond_retention()
            })
    }

    /// Retention drops the transaction, and keeps its id as the highest that it has dropped, in one entry.
    pub fn retain(&mut self, taken: Taken) {
        self.transaction = None;
        match taken {
            Taken::Forgotten => self.tail.push(Entry::Retained { dropped: true, forgotten: false }),
            Taken::ForgottenWithTheDrop => {
                self.tail.push(Entry::Retained { dropped: true, forgotten: false });
                self.tail.push(Entry::Retained { dropped: false, forgotten: true });
                self.forgotten = true;
            }
            _ => {
                self.tail.push(Entry::Retained { dropped: true, forgotten: true });
                self.forgotten = true;
            }
        }
    }

    /// A participant answered that it knows this higher epoch.
    pub fn named(&mut self, epoch: u8) {
        if self.would_heed(epoch) {
            self.named = Some(epoch);
            self.tail.push(Entry::HigherEpoch(epoch));
        }
    }

    /// Whether it would keep this epoch.
    pub fn would_heed(&self, named: u8) -> bool {
        named > self.epoch && self.named < Some(named)
    }

    pub fn is_decided(&self) -> bool {
        self.decided().is_some()
    }

    /// Whether the log keeps an epoch that is higher than the present one: only the next start ends that.
    pub fn is_behind(&self) -> bool {
        let kept = self.durable.iter().filter_map(|entry| match entry {
            Entry::HigherEpoch(epoch) => Some(*epoch),
            Entry::Record(_) | Entry::Finished(_) | Entry::Retained { .. } => None,
        });
        kept.max() > Some(self.epoch)
    }

    /// The last answer about a decision came from the store that voted, or from another one.
    pub fn set_other_store(&mut self, other: bool) {
        self.other_store = other && self.branch(0).is_some_and(|branch| branch.state == BranchState::Aborting);
    }

    pub fn other_store(&self) -> bool {
        self.other_store
    }

    /// Where all is durable, and nothing waits, places in the log make no difference: many states become one.
    pub fn forget_places(&mut self) {
        if self.tail.is_empty() && self.gated.is_empty() {
            self.synced = 0;
            if let Some(decided) = self.transaction.as_mut().and_then(|transaction| transaction.decided.as_mut()) {
                decided.lsn = Lsn(0);
            }
        }
        // Nor do records of what has ended, or was dropped.
        let ended = |entry: &Entry| matches!(entry, Entry::Finished(_) | Entry::Retained { dropped: true, .. });
        if let Some(last) = self.durable.iter().rposition(ended) {
            let mut at = 0;
            self.durable.retain(|entry| {
                at += 1;
                at > last || !matches!(entry, Entry::Record(_) | Entry::Finished(_))
            });
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
        self.other_store = false;
        let (mut finished, mut records) = (None, vec![]);
        (self.forgotten, self.named) = (false, None);
        for entry in &self.durable {
            match entry {
                Entry::Record(record) => records.push(record.clone()),
                Entry::Finished(transaction) => finished = Some(transaction.clone()),
                Entry::Retained { dropped, forgotten } => {
                    self.forgotten |= forgotten;
                    if *dropped {
                        (finished, records) = (None, vec![]);
                    }
                }
                Entry::HigherEpoch(epoch) => self.named = self.named.max(Some(*epoch)),
            }
        }
        let above = if taken == Taken::HigherEpochKept { None } else { self.named };
        self.epoch = self.epoch.max(above.unwrap_or(0)) + 1;
        self.epochs.insert(self.epoch);
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

    /// Whether anybody may know the decision, if there is one.
    fn is_known(&self, transaction: &Transaction) -> bool {
        transaction.known_after().durable.0 <= self.synced
    }

    /// What a participant in doubt is told.
    pub fn answer(&self, asked: Asked, taken: Taken) -> Reply {
        let known = self.transaction.as_ref().map(|transaction| {
            let mut transaction = transaction.clone();
            if !self.is_known(&transaction) && taken != Taken::SyncBeforeInquiry {
                transaction.decided = None;
            }
            View::of_finished(transaction_id(), transaction)
        });
        let participant_id = match taken {
            Taken::StoreOfInquiry => self.branch(asked.branch).and_then(|branch| branch.participant_id),
            _ => asked.participant_id,
        };
        let prepared_epoch = asked.prepared_epoch.filter(|_| taken != Taken::PreparedEpoch);
        let asked = Asked { participant_id, prepared_epoch, ..asked };
        inquiry::answer(&self.epochs, self.forgotten, asked, known.as_ref())
    }
}
