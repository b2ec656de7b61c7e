//! The coordinator, the stores and the network, and what becomes of them.

use std::{collections::BTreeSet, sync::Arc};

use unanimous_coordinator::transaction::{BranchState, Event, StoreVote};
use unanimous_sdk::{
    branch::{Saved, State as BranchOf},
    protocol::{AbortAnswer, AcknowledgedState, CommitAnswer, Decision, ParticipantId, PrepareAnswer, Vote},
};

use super::{FIRST, FORGED, Message, Stores};
use crate::{
    coordinator::Coordinator,
    ids::{epoch_of, number_of, store_id},
    inquiry::{Asked, Reply},
    node::{Answer, Choice, Node, Received, Sent, Style},
    taken::Taken,
};

/// The number of the id that a store gets which is put in the place of another one.
const EMPTY: u8 = 8;

/// A store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    pub node: Node,
    /// Its disk when it had prepared the branch.
    pub image: Option<Saved>,
    /// It was put back, or away for longer than retention: what it asks about may be forgotten.
    pub missed: bool,
}

/// What has happened.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    /// The first durable decision, and the store whose vote was counted.
    pub decided: Option<(Decision, Option<ParticipantId>)>,
    /// A later one was another one.
    pub changed: bool,
    /// What the initiator was told.
    pub told: Option<Decision>,
    /// The stores that have carried the branch out.
    pub carried_out: BTreeSet<Option<ParticipantId>>,
    /// A vote of the branch was received, and is not lost.
    pub heard_vote: bool,
    /// The abort of a branch that voted was given up although its own store may answer.
    pub gave_up_voted: bool,
    /// It counts as committed, and is not.
    pub orphan: bool,
}

/// Everything there is.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub coordinator: Arc<Coordinator>,
    pub stores: Vec<Arc<Store>>,
    pub network: Arc<BTreeSet<Message>>,
    pub crashes: u8,
    pub store_crashes: u8,
    pub restored: bool,
    pub emptied: bool,
    pub was_put_back: bool,
    pub forged: bool,
    pub moved: bool,
    /// The coordinator believes that it was superseded.
    pub stopped: bool,
    pub history: History,
}

impl State {
    pub fn new(ids: &[Option<u8>], style: Style) -> Self {
        let store = |id: &Option<u8>| {
            let node = Node::new(0, style, id.map(store_id)).enlisted(FIRST);
            Arc::new(Store { node, image: None, missed: false })
        };
        Self {
            coordinator: Arc::new(Coordinator::begin(&[style], FIRST)),
            stores: ids.iter().map(store).collect(),
            network: Arc::default(),
            crashes: 0,
            store_crashes: 0,
            restored: false,
            emptied: false,
            was_put_back: false,
            forged: false,
            moved: false,
            stopped: false,
            history: History::default(),
        }
    }

    pub fn coordinator_mut(&mut self) -> &mut Coordinator {
        Arc::make_mut(&mut self.coordinator)
    }

    fn store_mut(&mut self, at: usize) -> &mut Store {
        Arc::make_mut(&mut self.stores[at])
    }

    pub fn node_mut(&mut self, at: usize) -> &mut Node {
        &mut self.store_mut(at).node
    }

    pub fn feed(&mut self, event: Event) {
        self.coordinator_mut().feed(event);
    }

    fn send(&mut self, message: Message) {
        if !self.network.contains(&message) {
            Arc::make_mut(&mut self.network).insert(message);
        }
    }

    fn lose(&mut self, is_lost: impl Fn(&Message) -> bool) {
        if self.network.iter().any(&is_lost) {
            Arc::make_mut(&mut self.network).retain(|message| !is_lost(message));
        }
    }

    pub fn crash(&mut self, kept: usize, taken: Taken) {
        // A start that a named epoch makes necessary is not counted.
        if !self.coordinator.is_behind() || taken == Taken::HigherEpochKept {
            self.crashes += 1;
        }
        self.coordinator_mut().crash(kept, taken);
        self.stopped = false;
        let voted = self.coordinator.branch(0).is_some_and(|branch| branch.vote.is_some() || branch.voted_late);
        self.history.heard_vote = voted;
        self.lose(|message| matches!(message, Message::Answer { .. }));
    }

    pub fn put_back(&mut self) {
        self.was_put_back = true;
        self.coordinator_mut().put_back();
        self.history.heard_vote = false;
        self.lose(|message| matches!(message, Message::Answer { .. }));
    }

    pub fn crash_store(&mut self, at: usize, kept: usize) {
        self.store_crashes += 1;
        self.node_mut(at).crash(kept);
        self.lose(|message| matches!(message, Message::Outcome { to, .. } if *to == at));
    }

    pub fn restore(&mut self, at: usize) -> Option<()> {
        let image = self.stores[at].image.clone()?;
        self.restored = true;
        let store = self.store_mut(at);
        store.missed = true;
        store.node.put_back(image);
        self.lose(|message| matches!(message, Message::Outcome { to, .. } if *to == at));
        Some(())
    }

    pub fn empty(&mut self, style: Style) {
        self.emptied = true;
        let node = Node::new(0, style, Some(store_id(EMPTY)));
        *self.store_mut(0) = Store { node, image: None, missed: false };
        self.lose(|message| matches!(message, Message::Outcome { to: 0, .. }));
    }

    pub fn retain(&mut self, taken: Taken) {
        let is_given_up = self.coordinator.branch(0).is_some_and(|branch| branch.given_up);
        for at in 0..self.stores.len() {
            let node = &self.stores[at].node;
            // It was away for so long: what was given up is kept for it all the same.
            let is_away = node.is_in_doubt() || node.unsynced() > 0;
            if is_away && !is_given_up && !self.stores[at].missed {
                self.store_mut(at).missed = true;
            }
        }
        self.coordinator_mut().retain(taken);
    }

    pub fn give_up(&mut self, taken: Taken) {
        if self.coordinator.branch(0).is_some_and(|branch| branch.state == BranchState::Committing) {
            // As it would be done if it were done.
            return self.committed();
        }
        let other_store = self.coordinator.other_store();
        let told = other_store || taken == Taken::VotedIsNotGivenUp;
        let gave_up = self.coordinator_mut().feed(Event::GiveUp { branch: 0, other_store: told });
        self.history.gave_up_voted |= gave_up && self.history.heard_vote && !other_store;
    }

    pub fn inquire(&mut self, at: usize, taken: Taken) {
        let node = &self.stores[at].node;
        let Some(epoch) = node.epoch() else { return };
        let reply = self.reply_to(node, taken);
        // P-5.2: an answer under a lower epoch than the one that was named is none.
        if let Reply::Decided(decision) = reply
            && self.coordinator.epoch >= number_of(epoch)
            && !(self.stopped && self.coordinator.transaction.is_none())
        {
            self.send(Message::Outcome { to: at, asked: epoch, commit: decision == Decision::Commit });
        }
        if !self.stopped
            && taken != Taken::AbortOnceMore
            && self.coordinator.branch(0).is_some_and(|branch| branch.given_up)
        {
            self.call(2, taken);
        }
    }

    fn call(&mut self, call: u8, taken: Taken) {
        let (epoch, meant_for) = (self.coordinator.epoch, self.coordinator.store_of(0, taken));
        self.send(Message::Call { epoch, call, meant_for });
    }

    /// What this store is told if it asks.
    pub fn reply_to(&self, node: &Node, taken: Taken) -> Reply {
        let Some(epoch) = node.epoch() else { return Reply::Pending };
        let (participant_id, prepared_epoch) = (node.participant_id(), node.prepared_epoch());
        self.coordinator.answer(Asked { branch: 0, epoch, participant_id, prepared_epoch }, taken)
    }

    pub fn acknowledge(&mut self, at: usize) {
        let node = &self.stores[at].node;
        let (from, committed) = (node.participant_id(), node.saved().0 == Some(&BranchOf::Committed));
        let Some(epoch) = node.epoch().map(number_of) else { return };
        self.send(Message::Acknowledge { from, epoch, committed });
    }

    /// Whether such a call may come to this store.
    pub fn is_reached(&self, at: usize, call: u8) -> bool {
        let has_moved = self.moved && at == 0;
        let has_id = self.stores[at].node.participant_id().is_some();
        !has_moved && (has_id || call != 0)
    }

    pub fn deliver_to(&mut self, at: usize, message: &Message, taken: Taken) {
        let Message::Call { epoch, call, meant_for } = *message else { return };
        let is_dropped = self.coordinator.transaction.is_none();
        let store = self.store_mut(at);
        let was_in_doubt = store.node.is_in_doubt();
        store.node.receive(Received { epoch, call, meant_for }, Choice::Prepared, taken);
        // A prepare that comes after retention has dropped the transaction.
        store.missed |= is_dropped && !was_in_doubt && store.node.is_in_doubt();
    }

    pub fn deliver(&mut self, message: &Message, taken: Taken) {
        match *message {
            Message::Call { .. } => {}
            Message::Answer { epoch, meant_for, from, answer } => {
                if epoch == self.coordinator.epoch {
                    self.answered(meant_for, from, answer, taken);
                }
            }
            Message::Vote { from, participant_id, epoch } => {
                let present = self.coordinator.epoch;
                if epoch == epoch_of(present) {
                    self.history.heard_vote = true;
                    self.coordinator_mut().vote(0, StoreVote { vote: Vote::Prepared, participant_id });
                } else {
                    self.node_mut(from).superseded(present);
                }
            }
            Message::Outcome { to, asked, commit } => {
                let decision = if commit { Decision::Commit } else { Decision::Abort };
                self.node_mut(to).learn(asked, decision);
            }
            Message::Acknowledge { from, epoch, committed } => {
                let state = if committed { AcknowledgedState::Committed } else { AcknowledgedState::Aborted };
                self.coordinator_mut().acknowledge(0, state, from, epoch);
            }
        }
    }

    fn answered(
        &mut self,
        meant_for: Option<ParticipantId>,
        from: Option<ParticipantId>,
        answer: Answer,
        taken: Taken,
    ) {
        if let Answer::StaleEpoch(epoch) = answer {
            self.coordinator_mut().named(epoch);
            self.stopped |= taken == Taken::OneIsNotEnough;
            return;
        }
        let is_other = meant_for.is_some() && from != meant_for && taken != Taken::StoreOfAnswer;
        let is_none = is_other || answer == Answer::Misdirected;
        self.coordinator_mut().set_other_store(is_none);
        if is_none {
            return;
        }
        let event = match answer {
            Answer::Prepared => {
                self.history.heard_vote = true;
                if taken == Taken::LateVoteIsOne && self.coordinator.is_decided() {
                    return;
                }
                Event::PrepareAnswered(0, PrepareAnswer::Vote(Vote::Prepared), from)
            }
            Answer::Refused => Event::PrepareAnswered(0, PrepareAnswer::Refused { reason: None }, from),
            Answer::Committed => return self.committed(),
            Answer::UnknownBranch => Event::CommitAnswered(0, CommitAnswer::UnknownBranch),
            Answer::HeuristicAbort => Event::CommitAnswered(0, CommitAnswer::HeuristicAbort { detail: None }),
            Answer::Aborted => Event::AbortAnswered(0, AbortAnswer::Aborted),
            Answer::HeuristicCommit => Event::AbortAnswered(0, AbortAnswer::HeuristicCommit { detail: None }),
            Answer::ReadOnly | Answer::StaleEpoch(_) | Answer::Misdirected => return,
        };
        self.feed(event);
    }

    /// The commit counts as acknowledged.
    fn committed(&mut self) {
        self.feed(Event::CommitAnswered(0, CommitAnswer::Committed));
        // Who was put back, or emptied, has lost it, and nobody can help that.
        let is_lost = self.restored || self.emptied;
        self.history.orphan |= !is_lost && self.stores.iter().all(|store| store.node.published == 0);
    }

    /// What follows of itself: everything that needs to wait no longer leaves, and what makes no difference goes.
    pub fn follow(&mut self, last: &Self, world: &Stores) {
        if !Arc::ptr_eq(&self.coordinator, &last.coordinator) && !self.stopped {
            let departures = self.coordinator_mut().leave(world.taken);
            self.history.told = self.history.told.or(departures.told);
            let epoch = self.coordinator.epoch;
            for (_, call, meant_for) in departures.calls {
                self.send(Message::Call { epoch, call, meant_for });
            }
            self.note_decision();
            self.coordinator_mut().forget_places();
        }
        for at in 0..self.stores.len() {
            if Arc::ptr_eq(&self.stores[at], &last.stores[at]) {
                continue;
            }
            let participant_id = self.stores[at].node.participant_id();
            for sent in self.node_mut(at).leave() {
                self.send(match sent {
                    Sent::Answer { epoch, meant_for, answer } => {
                        Message::Answer { epoch, meant_for, from: participant_id, answer }
                    }
                    Sent::Vote { epoch } => Message::Vote { from: at, participant_id, epoch },
                });
            }
            let store = self.store_mut(at);
            let is_prepared = store.node.saved().0 == Some(&BranchOf::Prepared);
            if world.bounds.restores && store.image.is_none() && is_prepared {
                store.image = Some(store.node.image().clone());
            }
            store.node.forget_places();
            if store.node.published > 0 {
                self.history.carried_out.insert(participant_id);
            }
        }
        let heeded: Vec<bool> = self.network.iter().map(|message| self.is_heeded(message)).collect();
        if heeded.contains(&false) {
            let mut heeded = heeded.into_iter();
            Arc::make_mut(&mut self.network).retain(|_| heeded.next() == Some(true));
        }
    }

    fn note_decision(&mut self) {
        let Some(decision) = self.coordinator.durable_decision() else { return };
        match self.history.decided {
            None => {
                let counted = self.coordinator.branch(0).and_then(|branch| branch.participant_id);
                self.history.decided = Some((decision, counted));
            }
            Some((first, _)) => self.history.changed |= first != decision,
        }
    }

    /// Whether a message could still change something, now or later.
    fn is_heeded(&self, message: &Message) -> bool {
        let branch = self.coordinator.branch(0);
        let no_vote = branch.is_some_and(|branch| branch.vote.is_none() && !branch.voted_late && !branch.given_up);
        let (committing, aborting) = (
            branch.is_some_and(|branch| branch.state == BranchState::Committing),
            branch.is_some_and(|branch| branch.state == BranchState::Aborting || branch.given_up),
        );
        // Whoever durably knows a higher epoch refuses it for ever; who was put back doesn't know it any more.
        let is_stale = |store: &Store, epoch| {
            let image = store.image.as_ref().filter(|_| !self.restored);
            let known = image.map_or(store.node.saved().1, |_| Some(epoch_of(FIRST)));
            known > Some(epoch)
        };
        match message {
            Message::Call { epoch, .. } => self.stores.iter().any(|store| {
                // The coordinator learns from a 412 what it doesn't know yet.
                let known = store.node.epoch().map(number_of);
                let is_told =
                    || *epoch == self.coordinator.epoch && known.is_some_and(|it| self.coordinator.would_heed(it));
                !is_stale(store, epoch_of(*epoch)) || is_told()
            }),
            Message::Answer { epoch, answer, .. } => {
                *epoch == self.coordinator.epoch
                    && match answer {
                        Answer::Prepared | Answer::Refused => no_vote && !committing,
                        Answer::Committed | Answer::UnknownBranch | Answer::HeuristicAbort => committing,
                        Answer::Aborted | Answer::HeuristicCommit => aborting,
                        Answer::Misdirected => aborting && !self.coordinator.other_store(),
                        Answer::StaleEpoch(named) => self.coordinator.would_heed(*named),
                        Answer::ReadOnly => false,
                    }
            }
            Message::Vote { from, epoch, .. } => {
                if *epoch == epoch_of(self.coordinator.epoch) {
                    no_vote
                } else {
                    !is_stale(&self.stores[*from], *epoch)
                }
            }
            Message::Outcome { to, asked, .. } => {
                let store = &self.stores[*to];
                !is_stale(store, *asked) && !store.node.saved().0.is_some_and(BranchOf::has_ended)
            }
            Message::Acknowledge { epoch, .. } => *epoch == self.coordinator.epoch && (committing || aborting),
        }
    }

    /// Everything has ended, for good if nothing dies any more, or waits for an operator where it has to.
    pub fn is_done(&self) -> bool {
        let voter = self.coordinator.branch(0).filter(|branch| branch.state == BranchState::Committing);
        let voter_is_gone = voter.is_some_and(|branch| {
            self.emptied && self.stores.iter().all(|store| store.node.participant_id() != branch.participant_id)
        });
        (self.coordinator.is_done() || voter_is_gone) && self.stores.iter().all(|store| self.is_at_rest(store))
    }

    fn is_at_rest(&self, store: &Store) -> bool {
        match store.node.state() {
            None => true,
            Some(BranchOf::Prepared) => match self.reply_to(&store.node, Taken::Nothing) {
                Reply::Forgotten => store.missed,
                Reply::NotMyLog => self.was_put_back || self.waits_for_a_later_call(store),
                Reply::Decided(_) | Reply::Pending | Reply::Conflict => false,
            },
            Some(state) => state.has_ended(),
        }
    }

    /// Whether a store that was fooled by a forged epoch waits for a call that the coordinator doesn't owe it: the begin of
    /// the transaction was lost with the power. Any later call ends that: it is answered 412, and the next start has a
    /// greater epoch.
    fn waits_for_a_later_call(&self, store: &Store) -> bool {
        store.node.epoch() == Some(epoch_of(FORGED)) && self.coordinator.transaction.is_none()
    }
}
