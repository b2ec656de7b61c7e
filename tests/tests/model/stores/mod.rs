//! One branch, and stores that may be taken for each other: what P-4.18, P-4.31, P-4.45, P-4.46 and P-5.11 to P-5.14 promise.
//!
//! The address of the branch leads to any store, at any message. Answers come late and twice. Coordinator and stores die. A
//! store is put back to an earlier state, or emptied. The coordinator's log is put back. A forged message names a high epoch.
//! A participant moves to another address. Retention drops what has finished; aborts are given up. Each of these happens
//! where [`Bounds`] say so; all of them together are too much.
//!
//! The machines are those of production, as in the other model. Restated here: which answers are those of another store
//! (`from_origin` in `transport/http.rs`), and when an inquiry's answer counts (P-5.2).
//!
//! # Invariants
//!
//! - A message that was sent can come at any time from then on, again and again.
//! - An answer reaches only the process that asked.

mod properties;
mod state;
mod tests;

use std::fmt;

use stateright::{Model, Property};
use unanimous_coordinator::transaction::{BranchState, Reason, ReasonCode};
use unanimous_sdk::{
    branch::State as BranchOf,
    protocol::{Epoch, ParticipantId},
};

use self::state::State;
use super::{
    liveness::Finishes,
    node::{Answer, Style},
    taken::Taken,
};

/// The epoch under which the transaction begins. It is the log's second one.
const FIRST: u8 = 2;
/// An epoch that only a forged message has named.
const FORGED: u8 = 9;

/// How far it goes.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct Bounds {
    /// How often the coordinator dies.
    pub crashes: u8,
    /// How often stores die, all together.
    pub store_crashes: u8,
    /// Whether the initiator may abort.
    pub aborts: bool,
    /// Whether aborts that nobody acknowledges are given up.
    pub gives_up: bool,
    /// Whether retention drops what has finished.
    pub retention: bool,
    /// Whether the stores are called about something later, with a horizon that lies above the transaction where it may.
    pub passes: bool,
    /// Whether stores acknowledge without being called.
    pub acknowledges: bool,
    /// Whether a store may be put back, once, to the state in which it had prepared the branch.
    pub restores: bool,
    /// Whether the first store may be emptied, once.
    pub empties: bool,
    /// Whether the log may be put back, once, to the state before the transaction's epoch.
    pub puts_back: bool,
    /// The store to which a forged message may come, once.
    pub forges: Option<usize>,
    /// Whether the coordinator starts again when a higher epoch was named.
    pub starts: bool,
    /// Whether the first store may move away from its address.
    pub moves: bool,
}

/// What crosses the network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// To whoever is at the address.
    Call {
        epoch: u8,
        call: u8,
        meant_for: Option<ParticipantId>,
    },
    /// The answer to a call that named this store.
    Answer {
        epoch: u8,
        meant_for: Option<ParticipantId>,
        from: Option<ParticipantId>,
        answer: Answer,
    },
    Vote {
        from: usize,
        participant_id: Option<ParticipantId>,
        epoch: Epoch,
    },
    /// The answer to an inquiry that named this epoch.
    Outcome {
        to: usize,
        asked: Epoch,
        commit: bool,
    },
    Acknowledge {
        from: Option<ParticipantId>,
        epoch: u8,
        committed: bool,
    },
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Commit,
    Abort,
    Sync,
    Crash(usize),
    Deliver(Message),
    DeliverTo(usize, Message),
    SyncStore(usize),
    CrashStore(usize, usize),
    Inquire(usize),
    Acknowledge(usize),
    Vote(usize),
    GiveUp,
    Retain,
    Pass(usize),
    Restore(usize),
    Empty,
    PutBack,
    Forge(usize),
    Move,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit => write!(f, "the initiator asks for the commit"),
            Self::Abort => write!(f, "the initiator asks for the abort"),
            Self::Sync => write!(f, "the coordinator's log is synced"),
            Self::Crash(kept) => write!(f, "the coordinator dies; {kept} unsynced entries survive"),
            Self::Deliver(message) => write!(f, "{message:?} arrives"),
            Self::DeliverTo(at, message) => write!(f, "{message:?} arrives at store {at}"),
            Self::SyncStore(at) => write!(f, "store {at} is synced"),
            Self::CrashStore(at, kept) => write!(f, "store {at} dies; {kept} unsynced entries survive"),
            Self::Inquire(at) => write!(f, "store {at} asks"),
            Self::Acknowledge(at) => write!(f, "store {at} acknowledges unasked"),
            Self::Vote(at) => write!(f, "store {at} votes unasked"),
            Self::GiveUp => write!(f, "the time has passed after which the delivery is given up"),
            Self::Retain => write!(f, "retention drops the transaction"),
            Self::Pass(at) => write!(f, "the coordinator calls store {at} about something later"),
            Self::Restore(at) => write!(f, "store {at} is put back to the state in which it had prepared"),
            Self::Empty => write!(f, "store 0 is replaced by an empty one"),
            Self::PutBack => write!(f, "the log is put back to the state before this epoch"),
            Self::Forge(at) => write!(f, "a forged message with epoch {FORGED} comes to store {at}"),
            Self::Move => write!(f, "store 0 moves to another address"),
        }
    }
}

/// The model.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The ids of the stores; one without an id gets only calls of phase two.
    pub ids: Vec<Option<u8>>,
    pub style: Style,
    pub bounds: Bounds,
    pub taken: Taken,
}

impl Model for Stores {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.ids, self.style)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.actions_of_coordinator(state, actions);
        for message in state.network.iter() {
            match message {
                Message::Call { call, .. } => {
                    let reached = (0..state.stores.len()).filter(|at| state.is_reached(*at, *call));
                    actions.extend(reached.map(|at| Action::DeliverTo(at, message.clone())));
                }
                Message::Answer { .. }
                | Message::Vote { .. }
                | Message::Outcome { .. }
                | Message::Acknowledge { .. } => actions.push(Action::Deliver(message.clone())),
            }
        }
        for at in 0..state.stores.len() {
            self.actions_of_store(state, at, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let reason = Reason { code: ReasonCode::Initiator, detail: None, branch: None };
        if last.stopped && action.needs_coordinator() {
            return None;
        }
        match action {
            Action::Commit => state.feed(unanimous_coordinator::transaction::Event::Commit),
            Action::Abort => state.feed(unanimous_coordinator::transaction::Event::Abort(reason)),
            Action::Sync => state.coordinator_mut().sync(),
            Action::Crash(kept) => state.crash(kept, self.taken),
            Action::Deliver(message) => state.deliver(&message, self.taken),
            Action::DeliverTo(at, message) => state.deliver_to(at, &message, self.taken),
            Action::SyncStore(at) => state.node_mut(at).sync(),
            Action::CrashStore(at, kept) => state.crash_store(at, kept),
            Action::Inquire(at) => state.inquire(at, self.taken),
            Action::Acknowledge(at) => state.acknowledge(at),
            Action::Vote(at) => state.node_mut(at).vote(),
            Action::GiveUp => state.give_up(self.taken),
            Action::Retain => state.retain(self.taken),
            Action::Pass(at) => {
                let epoch = state.coordinator.epoch;
                state.node_mut(at).pass(epoch, true);
            }
            Action::Restore(at) => state.restore(at)?,
            Action::Empty => state.empty(self.style),
            Action::PutBack => state.put_back(),
            Action::Forge(at) => {
                state.forged = true;
                state.node_mut(at).pass(FORGED, false);
            }
            Action::Move => state.moved = true,
        }
        state.follow(last, self);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl Action {
    /// Whether it is nothing for a coordinator that was superseded.
    fn needs_coordinator(&self) -> bool {
        matches!(
            self,
            Self::Commit
                | Self::Abort
                | Self::GiveUp
                | Self::Retain
                | Self::Pass(_)
                | Self::Deliver(Message::Answer { .. } | Message::Vote { .. } | Message::Acknowledge { .. })
        )
    }
}

impl Stores {
    fn actions_of_coordinator(&self, state: &State, actions: &mut Vec<Action>) {
        let (coordinator, bounds) = (&state.coordinator, &self.bounds);
        if coordinator.transaction.as_ref().is_some_and(|transaction| transaction.state.is_undecided()) {
            actions.push(Action::Commit);
            actions.extend(bounds.aborts.then_some(Action::Abort));
        }
        if coordinator.unsynced() > 0 {
            actions.push(Action::Sync);
        }
        let starts = bounds.starts && coordinator.is_behind() && self.taken != Taken::HigherEpochKept;
        if state.crashes < bounds.crashes || starts {
            actions.extend((0..=coordinator.unsynced()).map(Action::Crash));
        }
        let gives_up = match coordinator.branch(0).map(|branch| branch.state) {
            Some(BranchState::Aborting) => bounds.gives_up && self.taken != Taken::GiveUp,
            Some(BranchState::Committing) => self.taken == Taken::CommitIsNotGivenUp,
            _ => false,
        };
        actions.extend(gives_up.then_some(Action::GiveUp));
        actions.extend((bounds.retention && coordinator.may_retain(self.taken)).then_some(Action::Retain));
        actions.extend((bounds.puts_back && !state.was_put_back).then_some(Action::PutBack));
        actions.extend((bounds.moves && !state.moved).then_some(Action::Move));
        actions.extend((bounds.empties && !state.emptied).then_some(Action::Empty));
        actions.extend(bounds.forges.filter(|_| !state.forged).map(Action::Forge));
    }

    fn actions_of_store(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let (store, bounds) = (&state.stores[at], &self.bounds);
        let node = &store.node;
        if node.unsynced() > 0 {
            actions.push(Action::SyncStore(at));
        }
        if state.store_crashes < bounds.store_crashes {
            actions.push(Action::CrashStore(at, 0));
            actions.extend((node.unsynced() > 0).then_some(Action::CrashStore(at, node.unsynced())));
        }
        if node.is_in_doubt() {
            actions.push(Action::Inquire(at));
        }
        let votes = matches!(node.state(), Some(BranchOf::Open | BranchOf::Held(_) | BranchOf::Prepared));
        actions.extend((self.style == Style::Unasked && votes).then_some(Action::Vote(at)));
        let ended = matches!(node.saved().0, Some(BranchOf::Committed | BranchOf::Aborted(_)));
        let says_so = bounds.acknowledges && self.taken != Taken::Acknowledgement;
        actions.extend((ended && says_so).then_some(Action::Acknowledge(at)));
        let may_pass = state.coordinator.end_is_durable() || state.was_put_back;
        actions.extend((bounds.passes && may_pass).then_some(Action::Pass(at)));
        actions.extend((bounds.restores && !state.restored && store.image.is_some()).then_some(Action::Restore(at)));
    }
}

impl Finishes for Stores {
    fn is_done(&self, state: &State) -> bool {
        state.is_done()
    }
}
