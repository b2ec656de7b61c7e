//! The coordinator, the participants and the network together: what can happen next, and what must always be so.
//!
//! # Invariants
//!
//! - A message that was sent can come at any time from then on, again and again: that is loss, delay, doubling and reordering
//!   in one.
//! - An answer reaches only the process that asked.

use std::{collections::BTreeSet, fmt, sync::Arc};

use stateright::{Model, Property};
use unanimous_coordinator::transaction::{Branch, BranchState, Event, Reason, ReasonCode, State as TransactionState};
use unanimous_sdk::{
    branch::State as BranchOf,
    protocol::{AbortAnswer, CommitAnswer, Decision, Epoch, PrepareAnswer, Vote},
};

use super::{
    coordinator::Coordinator,
    ids::epoch_of,
    inquiry::{Asked, Reply},
    liveness::Finishes,
    node::{Answer, Choice, Node, Received, Sent, Style},
    taken::Taken,
};

/// How far it goes.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct Bounds {
    /// How often the coordinator dies.
    pub coordinator_crashes: u8,
    /// How often participants die, all together.
    pub node_crashes: u8,
    /// Whether participants may vote read-only.
    pub read_only: bool,
    /// Whether they may refuse.
    pub refuse: bool,
    /// Whether the deadline may pass; an abort that is asked for comes to the same, but for the reason.
    pub deadline: bool,
    /// Whether aborts that nobody acknowledges are given up.
    pub give_up: bool,
}

/// What crosses the network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    Call {
        to: usize,
        epoch: u8,
        call: u8,
    },
    /// About another transaction, with a horizon that lies above this one.
    Pass {
        to: usize,
        epoch: u8,
    },
    Answer {
        from: usize,
        epoch: u8,
        answer: Answer,
    },
    Vote {
        from: usize,
        epoch: Epoch,
    },
    /// The answer to an unasked vote under an older epoch.
    StaleEpoch {
        to: usize,
        epoch: u8,
    },
    /// The answer to an inquiry that named this epoch.
    Outcome {
        to: usize,
        asked: Epoch,
        commit: bool,
    },
}

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub coordinator: Arc<Coordinator>,
    pub nodes: Vec<Arc<Node>>,
    network: Arc<BTreeSet<Message>>,
    coordinator_crashes: u8,
    node_crashes: u8,
    /// What the initiator was told.
    told: Option<Decision>,
    /// A vote counted that was given under an older epoch.
    old_vote: bool,
    /// A branch was committed of which there is no trace.
    orphan: bool,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Commit,
    Abort,
    Deadline,
    Sync,
    Crash(usize),
    Deliver(Message, Choice),
    SyncNode(usize),
    CrashNode(usize, usize),
    Inquire(usize),
    Vote(usize),
    GiveUp(usize),
    GiveUpAbort(usize),
    Pass(usize),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit => write!(f, "the initiator asks for the commit"),
            Self::Abort => write!(f, "the initiator asks for the abort"),
            Self::Deadline => write!(f, "the deadline passes"),
            Self::Sync => write!(f, "the coordinator's log is synced"),
            Self::Crash(kept) => write!(f, "the coordinator dies; {kept} unsynced entries survive"),
            Self::Deliver(message, choice) => write!(f, "{message:?} arrives (the work, if there is any: {choice:?})"),
            Self::SyncNode(at) => write!(f, "participant {at}'s store is synced"),
            Self::CrashNode(at, kept) => write!(f, "participant {at} dies; {kept} unsynced entries survive"),
            Self::Inquire(at) => write!(f, "participant {at} asks"),
            Self::Vote(at) => write!(f, "participant {at} votes unasked"),
            Self::GiveUp(at) => write!(f, "participant {at} gives its work up"),
            Self::GiveUpAbort(at) => write!(f, "the coordinator gives the abort of participant {at}'s branch up"),
            Self::Pass(at) => write!(f, "the coordinator calls participant {at} about something later"),
        }
    }
}

pub const AGREEMENT: &str = "no participant commits what another aborts";
pub const VALIDITY: &str = "who commits obeys a durable decision, for which all have voted";
pub const DURABILITY: &str = "what was told stays decided";
pub const ONCE: &str = "no work is done twice";
pub const NO_HEURISTIC: &str = "no branch ends against the decision";
pub const UNDECIDED: &str = "nothing that was undecided at a start is decided to commit";
pub const OLD_VOTE: &str = "no vote counts that was given under an older epoch";
pub const ORPHAN: &str = "a branch that counts as committed is";
/// What must be reached for the exploration to mean anything.
pub const REACHABLE: [&str; 3] = ["all commit", "all abort", "all is forgotten"];

/// The model.
#[derive(Clone, Debug)]
pub struct World {
    pub styles: Vec<Style>,
    pub bounds: Bounds,
    pub taken: Taken,
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let nodes = self.styles.iter().enumerate().map(|(at, style)| Arc::new(Node::new(at, *style, None).enlisted(1)));
        vec![State {
            coordinator: Arc::new(Coordinator::begin(&self.styles, 1)),
            nodes: nodes.collect(),
            network: Arc::default(),
            coordinator_crashes: 0,
            node_crashes: 0,
            told: None,
            old_vote: false,
            orphan: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let coordinator = &state.coordinator;
        if coordinator.transaction.as_ref().is_some_and(|transaction| transaction.state.is_undecided()) {
            actions.extend([Action::Commit, Action::Abort]);
            actions.extend(self.bounds.deadline.then_some(Action::Deadline));
        }
        if coordinator.unsynced() > 0 {
            actions.push(Action::Sync);
        }
        if state.coordinator_crashes < self.bounds.coordinator_crashes {
            actions.extend((0..=coordinator.unsynced()).map(Action::Crash));
        }
        for message in state.network.iter() {
            actions.push(Action::Deliver(message.clone(), Choice::Prepared));
            if let Message::Call { to, call: 0, .. } = message
                && state.nodes[*to].state().is_none()
            {
                if self.bounds.refuse {
                    actions.push(Action::Deliver(message.clone(), Choice::Refuses));
                }
                if self.bounds.read_only {
                    actions.push(Action::Deliver(message.clone(), Choice::ReadOnly));
                }
            }
        }
        for (at, node) in state.nodes.iter().enumerate() {
            if node.unsynced() > 0 {
                actions.push(Action::SyncNode(at));
            }
            if self.bounds.give_up && coordinator.branch(at).is_some_and(|it| it.state == BranchState::Aborting) {
                actions.push(Action::GiveUpAbort(at));
            }
            if state.node_crashes < self.bounds.node_crashes {
                actions.push(Action::CrashNode(at, 0));
                actions.extend((node.unsynced() > 0).then_some(Action::CrashNode(at, node.unsynced())));
            }
            if node.is_in_doubt() {
                actions.push(Action::Inquire(at));
            }
            match node.state() {
                Some(BranchOf::Open | BranchOf::Held(_)) => actions.extend([Action::Vote(at), Action::GiveUp(at)]),
                Some(BranchOf::Prepared) if self.styles[at] == Style::Unasked => actions.push(Action::Vote(at)),
                _ => {}
            }
            if coordinator.end_is_durable() || (self.taken == Taken::HorizonWaits && coordinator.transaction.is_some())
            {
                actions.push(Action::Pass(at));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let reason = Reason { code: ReasonCode::Initiator, detail: None, branch: None };
        match action {
            Action::Commit => state.feed(Event::Commit),
            Action::Abort => state.feed(Event::Abort(reason)),
            Action::Deadline => state.feed(Event::DeadlinePassed),
            Action::Sync => Arc::make_mut(&mut state.coordinator).sync(),
            Action::Crash(kept) => {
                state.coordinator_crashes += 1;
                Arc::make_mut(&mut state.coordinator).crash(kept, self.taken);
                // Who asked is gone.
                Arc::make_mut(&mut state.network)
                    .retain(|message| !matches!(message, Message::Answer { .. } | Message::StaleEpoch { .. }));
            }
            Action::Deliver(message, choice) => state.deliver(&message, choice, self.taken),
            Action::SyncNode(at) => Arc::make_mut(&mut state.nodes[at]).sync(),
            Action::CrashNode(at, kept) => {
                state.node_crashes += 1;
                Arc::make_mut(&mut state.nodes[at]).crash(kept);
            }
            Action::Inquire(at) => {
                let node = &state.nodes[at];
                let (epoch, prepared_epoch) = (node.epoch()?, node.prepared_epoch());
                let asked = Asked { branch: at, epoch, participant_id: None, prepared_epoch };
                if let Reply::Decided(decision) = state.coordinator.answer(asked, self.taken) {
                    state.send(Message::Outcome { to: at, asked: epoch, commit: decision == Decision::Commit });
                }
                if state.coordinator.branch(at).is_some_and(|branch| branch.given_up) {
                    let epoch = state.coordinator.epoch;
                    state.send(Message::Call { to: at, epoch, call: 2 });
                }
            }
            Action::Vote(at) => Arc::make_mut(&mut state.nodes[at]).vote(),
            Action::GiveUp(at) => Arc::make_mut(&mut state.nodes[at]).give_up(),
            Action::GiveUpAbort(at) => state.feed(Event::GiveUp { branch: at, other_store: false }),
            Action::Pass(to) => {
                let epoch = state.coordinator.epoch;
                state.send(Message::Pass { to, epoch });
            }
        }
        state.leave(last, self.taken);
        state.prune(last, self);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(AGREEMENT, |_, state: &State| {
                let committed = state.nodes.iter().any(|node| node.published > 0);
                let aborted = |node: &Arc<Node>| {
                    // Who voted read-only and was left in doubt by a doubled prepare may be told anything.
                    node.was_prepared && matches!(node.state(), Some(BranchOf::Aborted(_)))
                };
                !committed || !state.nodes.iter().any(aborted)
            }),
            Property::always(VALIDITY, |_, state: &State| {
                let committed = state.nodes.iter().any(|node| node.published > 0);
                let commit = state.coordinator.durable_decision() == Some(Decision::Commit);
                let all_voted = || {
                    let Some(transaction) = &state.coordinator.transaction else { return false };
                    transaction.branches.iter().zip(&state.nodes).all(|(branch, node)| match branch.vote {
                        Some(Vote::Prepared) => node.was_prepared,
                        Some(Vote::ReadOnly) => true,
                        None => false,
                    })
                };
                (!committed || commit) && (!commit || all_voted())
            }),
            Property::always(DURABILITY, |_, state: &State| {
                state.told.is_none_or(|told| state.coordinator.durable_decision() == Some(told))
            }),
            Property::always(ONCE, |_, state: &State| state.nodes.iter().all(|node| node.published <= 1)),
            Property::always(NO_HEURISTIC, |_, state: &State| {
                state.coordinator.transaction.as_ref().is_none_or(|transaction| !transaction.is_heuristic())
            }),
            Property::always(UNDECIDED, |world: &World, state: &State| {
                // Without this defence a vote is needed to see the other one gone.
                if world.taken == Taken::EpochOfVotes {
                    return true;
                }
                let alive = state.coordinator.transaction.as_ref().is_some_and(|t| t.state.is_undecided());
                state.coordinator.epoch == 1 || !alive
            }),
            Property::always(OLD_VOTE, |_, state: &State| !state.old_vote),
            Property::always(ORPHAN, |_, state: &State| !state.orphan),
            Property::sometimes(REACHABLE[0], |_, state: &State| {
                state.is_done() && state.nodes.iter().all(|node| node.published == 1)
            }),
            Property::sometimes(REACHABLE[1], |_, state: &State| {
                state.is_done()
                    && state.told == Some(Decision::Abort)
                    && state.nodes.iter().all(|node| node.was_prepared)
            }),
            Property::sometimes(REACHABLE[2], |_, state: &State| {
                let transaction = state.coordinator.transaction.as_ref();
                transaction.is_some_and(|t| t.state == TransactionState::Committed)
                    && state.nodes.iter().all(|node| node.published == 1 && node.state().is_none())
            }),
        ]
    }
}

impl World {
    /// Whether a vote that came now would be one that came too late: only where aborts are given up this makes a difference.
    fn is_late_vote(&self, branch: &Branch) -> bool {
        self.bounds.give_up && branch.state == BranchState::Aborting && !branch.voted_late
    }
}

impl Finishes for World {
    fn is_done(&self, state: &State) -> bool {
        state.is_done()
    }
}

impl State {
    fn is_done(&self) -> bool {
        let at_rest = |node: &Arc<Node>| match node.state() {
            None => true,
            Some(state) => state.has_ended(),
        };
        self.coordinator.is_done() && self.nodes.iter().all(at_rest)
    }

    fn feed(&mut self, event: Event) {
        Arc::make_mut(&mut self.coordinator).feed(event);
    }

    fn send(&mut self, message: Message) {
        if !self.network.contains(&message) {
            Arc::make_mut(&mut self.network).insert(message);
        }
    }

    /// Everything that needs to wait no longer leaves.
    fn leave(&mut self, last: &Self, taken: Taken) {
        if !Arc::ptr_eq(&self.coordinator, &last.coordinator) {
            let departures = Arc::make_mut(&mut self.coordinator).leave(taken);
            self.told = self.told.or(departures.told);
            let epoch = self.coordinator.epoch;
            for (to, call, _) in departures.calls {
                self.send(Message::Call { to, epoch, call });
            }
        }
        for at in self.changed(last) {
            for sent in Arc::make_mut(&mut self.nodes[at]).leave() {
                self.send(match sent {
                    Sent::Answer { epoch, answer, .. } => Message::Answer { from: at, epoch, answer },
                    Sent::Vote { epoch } => Message::Vote { from: at, epoch },
                });
            }
        }
    }

    /// The participants to which something has happened.
    fn changed(&self, last: &Self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| !Arc::ptr_eq(&self.nodes[*at], &last.nodes[*at])).collect()
    }

    /// What makes no difference any more is left out, so that states are the same that behave the same: places in logs, and
    /// messages that nobody would heed, now or later.
    fn prune(&mut self, last: &Self, world: &World) {
        if !Arc::ptr_eq(&self.coordinator, &last.coordinator) {
            Arc::make_mut(&mut self.coordinator).forget_places();
        }
        for at in self.changed(last) {
            Arc::make_mut(&mut self.nodes[at]).forget_places();
        }
        if self.network.iter().any(|message| !self.is_heeded(message, world)) {
            let network = self.network.iter().filter(|message| self.is_heeded(message, world)).cloned().collect();
            self.network = Arc::new(network);
        }
    }

    fn is_heeded(&self, message: &Message, world: &World) -> bool {
        let taken = world.taken;
        let transaction = self.coordinator.transaction.as_ref();
        let undecided = transaction.is_some_and(|transaction| transaction.state.is_undecided());
        // Whoever durably knows a higher epoch refuses it for ever.
        let is_stale = |to: &usize, epoch: Epoch| self.nodes[*to].saved().1.is_some_and(|known| known > epoch);
        match message {
            Message::Call { to, epoch, .. } | Message::Pass { to, epoch } => !is_stale(to, epoch_of(*epoch)),
            Message::Answer { from, epoch, answer } => {
                let Some(branch) = transaction.map(|transaction| &transaction.branches[*from]) else { return false };
                *epoch == self.coordinator.epoch
                    && match answer {
                        Answer::Prepared | Answer::ReadOnly => {
                            branch.vote.is_none() && (undecided || world.is_late_vote(branch))
                        }
                        Answer::Refused => undecided && branch.vote.is_none(),
                        Answer::Committed | Answer::UnknownBranch | Answer::HeuristicAbort => {
                            branch.state == BranchState::Committing
                        }
                        Answer::Aborted | Answer::HeuristicCommit => {
                            branch.state == BranchState::Aborting || branch.given_up
                        }
                        // The sender of the call is gone, and no store has an id.
                        Answer::StaleEpoch(_) | Answer::Misdirected => false,
                    }
            }
            Message::Vote { from, epoch } => {
                let branch = self.coordinator.branch(*from).filter(|branch| branch.vote.is_none());
                if *epoch == epoch_of(self.coordinator.epoch) || taken == Taken::EpochOfVotes {
                    branch.is_some_and(|branch| undecided || world.is_late_vote(branch))
                } else {
                    !is_stale(from, *epoch)
                }
            }
            Message::StaleEpoch { to, epoch } => self.nodes[*to].saved().1 < Some(epoch_of(*epoch)),
            Message::Outcome { to, asked, .. } => {
                let ended = self.nodes[*to].saved().0.is_some_and(BranchOf::has_ended);
                !is_stale(to, *asked) && !ended
            }
        }
    }

    fn deliver(&mut self, message: &Message, choice: Choice, taken: Taken) {
        match *message {
            Message::Call { to, epoch, call } => {
                let received = Received { epoch, call, meant_for: None };
                Arc::make_mut(&mut self.nodes[to]).receive(received, choice, taken);
            }
            Message::Pass { to, epoch } => Arc::make_mut(&mut self.nodes[to]).pass(epoch, true),
            Message::Answer { from, answer, .. } => self.answered(from, answer),
            Message::Vote { from, epoch } => {
                let present = self.coordinator.epoch;
                if epoch == epoch_of(present) || taken == Taken::EpochOfVotes {
                    let counted = Arc::make_mut(&mut self.coordinator).vote(from, Vote::Prepared.into());
                    self.old_vote |= counted && epoch != epoch_of(present);
                } else {
                    self.send(Message::StaleEpoch { to: from, epoch: present });
                }
            }
            Message::StaleEpoch { to, epoch } => Arc::make_mut(&mut self.nodes[to]).superseded(epoch),
            Message::Outcome { to, asked, commit } => {
                let decision = if commit { Decision::Commit } else { Decision::Abort };
                Arc::make_mut(&mut self.nodes[to]).learn(asked, decision);
            }
        }
    }

    fn answered(&mut self, from: usize, answer: Answer) {
        let event = match answer {
            Answer::Prepared => Event::PrepareAnswered(from, PrepareAnswer::Vote(Vote::Prepared), None),
            Answer::ReadOnly => Event::PrepareAnswered(from, PrepareAnswer::Vote(Vote::ReadOnly), None),
            Answer::Refused => Event::PrepareAnswered(from, PrepareAnswer::Refused { reason: None }, None),
            Answer::Committed => Event::CommitAnswered(from, CommitAnswer::Committed),
            Answer::UnknownBranch => Event::CommitAnswered(from, CommitAnswer::UnknownBranch),
            Answer::HeuristicAbort => Event::CommitAnswered(from, CommitAnswer::HeuristicAbort { detail: None }),
            Answer::Aborted => Event::AbortAnswered(from, AbortAnswer::Aborted),
            Answer::HeuristicCommit => Event::AbortAnswered(from, AbortAnswer::HeuristicCommit { detail: None }),
            Answer::StaleEpoch(_) | Answer::Misdirected => return,
        };
        self.feed(event);
        let branch = self.coordinator.transaction.as_ref().map(|transaction| transaction.branches[from].state);
        // Counted as committed, and not so on its disk: a loss of power would take it back.
        self.orphan |= branch == Some(BranchState::Committed) && self.nodes[from].published == 0;
    }
}
