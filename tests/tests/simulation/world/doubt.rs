//! Participants in doubt ask, and say how a branch ended that the coordinator may not have heard of.

use std::collections::{BTreeSet, VecDeque};

use rand::RngExt;
use tokio::sync::oneshot::{Receiver, error::TryRecvError};
use unanimous_coordinator::{
    engine::{Acknowledgement, Inquiry, Refusal, acknowledge_finished},
    journal::Journal,
    transaction::{Call, Event, Log, Lsn, NotAllowed, Phase, Step, Transaction},
    transport::{Attempt, BatchContext, Message, Request},
};
use unanimous_sdk::{
    branch::BranchKey,
    protocol::{AbortAnswer, BranchName, CoordinatorRef, Decision, Outcome, TransactionId},
};

use super::World;

/// What a store has to say of the end of a branch.
struct Telling {
    node: usize,
    key: BranchKey,
    /// Gets the answer when that is durable.
    answer: Option<Receiver<()>>,
}

/// What comes for transactions after their end.
#[derive(Default)]
pub(super) struct Late {
    tellings: Vec<Telling>,
    /// The branches whose acknowledgement was answered.
    taken: BTreeSet<(TransactionId, BranchName)>,
    /// Answers to aborts that had been given up.
    pub(super) answers: VecDeque<(TransactionId, usize, AbortAnswer)>,
    /// A finished transaction is being changed: the next one has to wait.
    amending: Option<Receiver<()>>,
}

impl Late {
    /// The coordinator's process has ended. Participants go on.
    pub(super) fn restart(&mut self) {
        self.answers.clear();
        self.amending = None;
        for telling in &mut self.tellings {
            telling.answer = None;
        }
    }

    /// A participant's process has ended.
    pub(super) fn forget_store(&mut self, node: usize) {
        self.tellings.retain(|telling| telling.node != node);
    }

    fn tell(&mut self, node: usize, key: BranchKey) {
        if !self.tellings.iter().any(|telling| telling.node == node && telling.key == key) {
            self.tellings.push(Telling { node, key, answer: None });
        }
    }

    fn hear_answers(&mut self) {
        let taken = &mut self.taken;
        self.tellings.retain_mut(|telling| match telling.answer.as_mut().map(Receiver::try_recv) {
            Some(Ok(())) => {
                taken.insert((telling.key.transaction, telling.key.branch.clone()));
                false
            }
            Some(Err(TryRecvError::Closed)) => {
                telling.answer = None;
                true
            }
            Some(Err(TryRecvError::Empty)) | None => true,
        });
    }

    /// What a participant was told to have said of its branch's end is known after a start.
    pub(super) fn check_taken(&self, live: &[(TransactionId, Transaction)]) {
        for (id, transaction) in live {
            for branch in transaction.branches.iter().filter(|branch| branch.state.is_being_told()) {
                let is_taken = self.taken.contains(&(*id, branch.name.clone()));
                assert!(!is_taken, "{id}/{}: its acknowledgement was taken, and is lost", branch.name);
            }
        }
    }

    fn may_amend(&mut self) -> bool {
        if !matches!(self.amending.as_mut().map(Receiver::try_recv), Some(Err(TryRecvError::Empty))) {
            self.amending = None;
        }
        self.amending.is_none()
    }
}

impl World {
    /// A participant in doubt asks.
    pub(super) fn inquire(&mut self) {
        let node = self.any_present();
        let doubts = self.nodes[node].in_doubt();
        if doubts.is_empty() || !self.is_heard(node) {
            return;
        }
        let (key, epoch, prepared_epoch) = doubts[self.random.random_range(0..doubts.len())].clone();
        let inquiry = Inquiry {
            transaction: key.transaction,
            coordinator: Some(key.coordinator),
            epoch: Some(epoch),
            branch: Some(key.branch.clone()),
            participant_id: self.nodes[node].id(),
            prepared_epoch: Some(prepared_epoch),
        };
        self.abort_once_more(&inquiry);
        self.engine.heard_inquiry(self.now, &inquiry);
        let known = self.view(key.transaction);
        let answer = self.engine.answer(&inquiry, known.as_ref()).map_err(|refused| refused.why);
        self.say(|| format!("node {node}: asks about {key}, hears {answer:?}"));
        let decision = match answer {
            // An answer under a lower epoch than the one that was named is none.
            _ if self.epoch < epoch => return,
            Ok((Outcome::Commit, _)) => Decision::Commit,
            Ok((Outcome::Abort, _)) => Decision::Abort,
            Err(Refusal::Forgotten) => {
                self.told_forgotten.insert((node, key));
                return;
            }
            Ok((Outcome::Pending, _)) | Err(_) => return,
        };
        self.nodes[node].learn(key.clone(), epoch, decision);
        self.late.tell(node, key);
    }

    /// An inquiry for a branch whose abort was given up: the abort is sent once more.
    fn abort_once_more(&mut self, inquiry: &Inquiry) {
        let Some(finished) = self.journal.finished(inquiry.transaction).expect("it can be read") else { return };
        let Some((at, branch)) = inquiry.branch.as_ref().and_then(|name| finished.branch(name)) else { return };
        let is_same = |message: &Message| (message.transaction, message.at) == (inquiry.transaction, at);
        let is_sent = self.flights.values().any(|flight| flight.is_late && is_same(&flight.request.messages[0]));
        if !branch.given_up || is_sent || self.engine.superseded().is_some() {
            return;
        }
        let message = Message {
            call: Call::Abort,
            transaction: inquiry.transaction,
            at,
            branch: branch.name.clone(),
            participant_id: branch.participant_id,
            payload: None,
            deadline: finished.deadline,
            remaining_ms: 0,
            horizon: self.engine.coordinator().horizon.min(inquiry.transaction),
            traceparent: None,
        };
        let (participant, batch) = (branch.participant.clone(), BatchContext::default());
        self.send(Request { participant, phase: Phase::Two, messages: vec![message], batch }, true);
    }

    /// An abort that was sent once more is answered.
    pub(super) fn answered_once_more(&mut self, message: &Message, answers: impl Iterator<Item = Attempt>) {
        for attempt in answers {
            if let Attempt::Abort(answer, _) = attempt {
                self.engine.abort_answered_late(self.now, message.transaction, message.at, answer);
            }
        }
    }

    /// After a start, a store says how branches ended: the answers may have been lost.
    pub(super) fn tell_ends(&mut self, node: usize) {
        for key in self.nodes[node].ends_to_tell_at_start() {
            self.late.tell(node, key);
        }
    }

    /// A participant says how a branch has ended.
    pub(super) fn acknowledge(&mut self) {
        self.late.hear_answers();
        let waiting = |telling: &&Telling| telling.answer.is_none() && self.is_heard(telling.node);
        let count = self.late.tellings.iter().filter(waiting).count();
        if count == 0 {
            return;
        }
        let at = self.random.random_range(0..count);
        let waiting = |telling: &&Telling| telling.answer.is_none() && self.is_heard(telling.node);
        let Some(Telling { node, key, .. }) = self.late.tellings.iter().filter(waiting).nth(at) else { return };
        let (node, key) = (*node, key.clone());
        self.say_end(node, &key);
    }

    fn say_end(&mut self, node: usize, key: &BranchKey) {
        let Some(epoch) = self.nodes[node].epoch(key) else { return };
        let Some(state) = self.nodes[node].end_to_tell(key) else {
            // Not durable yet, or forgotten.
            if self.nodes[node].book.branch(key).is_none() {
                self.tell_no_more(node, key);
            }
            return;
        };
        let told = Acknowledgement {
            branch: key.branch.clone(),
            state,
            participant_id: self.nodes[node].id(),
            coordinator: CoordinatorRef { id: key.coordinator, epoch },
        };
        self.suspects.unasked = true;
        let heard = self.engine.acknowledge(self.now, key.transaction, &told);
        self.carry_out();
        self.suspects.unasked = false;
        self.say(|| format!("node {node}: says that {key} is {state:?}, hears {heard:?}"));
        match heard {
            Ok(barrier) => {
                let answer = self.engine.reached(self.now, barrier);
                self.hear(node, key, answer);
            }
            Err(refused) => match refused.why {
                // Its last entry may be on its way to the log.
                Refusal::NotLive if self.engine.reached(self.now, refused.tell_after).try_recv().is_ok() => {
                    self.acknowledge_finished(node, key, &told);
                }
                Refusal::StaleEpoch { present } => {
                    let now = self.time_at(node);
                    self.nodes[node].superseded(key.coordinator, present, now);
                }
                Refusal::NotAllowed(NotAllowed::BranchConflict(_) | NotAllowed::UnknownBranch(_)) => {
                    self.tell_no_more(node, key);
                }
                _ => {}
            },
        }
    }

    fn acknowledge_finished(&mut self, node: usize, key: &BranchKey, told: &Acknowledgement) {
        if !self.late.may_amend() || self.engine.superseded().is_some() {
            return;
        }
        let Some(finished) = self.journal.finished(key.transaction).expect("it can be read") else {
            return self.tell_no_more(node, key);
        };
        let barrier = match acknowledge_finished(finished, told) {
            Ok(Some(changed)) => self.engine.amend(key.transaction, changed),
            Ok(None) => Ok(self.engine.durable_so_far()),
            Err(_) => return self.tell_no_more(node, key),
        };
        let Ok(barrier) = barrier else { return };
        self.late.amending = Some(self.engine.reached(self.now, barrier));
        let answer = self.engine.reached(self.now, barrier);
        self.hear(node, key, answer);
    }

    fn hear(&mut self, node: usize, key: &BranchKey, answer: Receiver<()>) {
        let telling = self.late.tellings.iter_mut().find(|telling| telling.node == node && telling.key == *key);
        if let Some(telling) = telling {
            telling.answer = Some(answer);
        }
    }

    fn tell_no_more(&mut self, node: usize, key: &BranchKey) {
        self.late.tellings.retain(|telling| telling.node != node || telling.key != *key);
    }

    /// The next answer to an abort that had been given up is kept.
    pub(super) fn amend(&mut self) {
        // Who is superseded writes nothing further, not even to make durable what is there.
        if self.late.answers.is_empty() || !self.late.may_amend() || self.engine.superseded().is_some() {
            return;
        }
        let Some((id, at, answer)) = self.late.answers.pop_front() else { return };
        let Some(mut transaction) = self.journal.finished(id).expect("it can be read") else { return };
        let mut log = Log { next: Lsn(0), sequence: 0, now: transaction.created_at };
        let changed: Option<Transaction> = match transaction.step(Event::AbortAnswered(at, answer), &mut log) {
            Ok(Step::Changed(_)) => Some(transaction),
            Ok(Step::Unchanged) | Err(_) => None,
        };
        let barrier = match changed {
            Some(changed) => self.engine.amend(id, changed),
            None => Ok(self.engine.durable_so_far()),
        };
        if let Ok(barrier) = barrier {
            self.late.amending = Some(self.engine.reached(self.now, barrier));
        }
    }
}
