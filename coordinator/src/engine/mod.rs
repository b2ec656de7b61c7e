//! The engine: holds the live transactions, feeds them what happens, and says what is to be done.
//!
//! It does nothing itself: every operation takes the present time and leaves [`Output`]s, which [`Service`] carries out
//! with a real log and a real network, and a test or a simulator with others. Nothing in it grows with the number of
//! other live transactions but the logarithm of an ordered map.
//!
//! Always true: a transaction is live until its last entry is written; an output that shows a decision is made only when
//! the decision is durable; events of one transaction are carried out in the order they came.

mod batches;
mod begin;
mod branches;
mod delivery;
mod gates;
mod give_up;
mod horizon;
mod inquiry;
mod keys;
mod lane;
mod late;
mod list;
mod lookup;
mod outcome;
mod ownership;
mod seldom;
mod service;
mod suspect;
#[cfg(test)]
mod tests;
mod timers;
mod view;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use rand::{SeedableRng, rngs::StdRng};
use serde::Serialize;
use tokio::sync::oneshot;
use unanimous_sdk::protocol::{
    AbortAnswer, Coordinator, CoordinatorId, Decision, Epoch, ParticipantUrl, TransactionId, UnixMillis,
};
use uuid::Uuid;

pub use self::{
    begin::Begin,
    branches::{Acknowledgement, Enlist, Enlisted, acknowledge_finished, ask_finished},
    inquiry::Inquiry,
    keys::{NewKey, bound_in},
    list::Filter,
    lookup::Once,
    outcome::{Refusal, Refused},
    ownership::{Superseded, Witness},
    seldom::Seldom,
    service::{Clock, Service},
    timers::Instant,
    view::View,
};
use self::{
    delivery::Delivery,
    gates::Gates,
    horizon::Horizon,
    keys::Left,
    lane::Lane,
    ownership::Ownership,
    suspect::Suspects,
    timers::{TimerKey, Timers},
};
use crate::{
    journal::{Entry, LogClock, Lsn, Progress, Recovered, Skew},
    transaction::{Barrier, Call, Command, Decided, Event, Heard, Log, NotAllowed, Step, Transaction},
    transport::Request,
};

/// The present: milliseconds on a clock that never goes back, for deadlines, and the time of day, for people.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Now {
    pub mono: Instant,
    pub wall: UnixMillis,
}

/// Limits of what is taken, PROTOCOL §7.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most transactions without a decision.
    pub undecided: usize,
    /// The most branches of a transaction.
    pub branches: usize,
    /// After this time the abort of a branch that never voted is given up, in milliseconds.
    pub give_up_abort_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { undecided: 100_000, branches: 256, give_up_abort_ms: 600_000 }
    }
}

/// After so many lazy entries they are made durable even if nothing else is.
const MOST_UNSYNCED: u64 = 10_000;

/// Something to be done, in the order given.
#[derive(Debug)]
pub enum Output {
    /// Append to the log.
    Append(Lsn, Entry),
    /// Call a participant, and say how it went with [`Engine::answered`].
    Send(Request),
    /// A decision may be told: to be counted, and the line for the log that people read.
    Decided(Told),
    /// A transaction has finished.
    Finished(Ended),
    /// Find out whether the log is still this process's, and say so with [`Engine::confirmed`].
    ConfirmOwnership,
    /// A participant named a higher epoch. The log is this process's: everybody else is served.
    HigherEpoch(Epoch, ParticipantUrl),
    /// Another coordinator has taken over.
    Superseded(Superseded),
    /// A participant has lost its data: its commits are held from now on.
    Suspect(ParticipantUrl),
    /// It knows its branches again: they are sent.
    Trusted(ParticipantUrl),
    /// A participant answered the abort of a branch of a transaction that has finished without that.
    AnsweredLate {
        /// The transaction.
        id: TransactionId,
        /// The branch's place in it.
        branch: usize,
        /// How the branch ended.
        answer: AbortAnswer,
    },
}

/// A decision that may be told.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Told {
    pub id: TransactionId,
    pub decided: Decided,
    pub branches: usize,
}

/// A transaction that has finished.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Ended {
    pub id: TransactionId,
    pub heuristic: bool,
}

/// What keeps the horizon where it is: a participant that has not acknowledged the oldest decision.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct HorizonHeldBy {
    pub participant: ParticipantUrl,
    pub transaction: TransactionId,
    /// When the transaction was decided.
    pub since: UnixMillis,
}

/// How far a transaction must have come for somebody who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Milestone {
    /// The decision can be told.
    Decided,
    /// Every branch has ended.
    Finished,
}

/// Gets the transaction when it has come as far as was wanted.
pub type Waiting = oneshot::Receiver<View>;

#[derive(Debug)]
struct Live {
    transaction: Transaction,
    /// When it is aborted if it isn't decided.
    deadline: Instant,
    /// For the deadline; after the decision for giving up aborts.
    timer: Option<TimerKey>,
    /// The time has passed after which aborts are given up.
    aborts_are_overdue: bool,
    /// One for each branch.
    deliveries: Vec<Delivery>,
    waiters: Vec<(Milestone, oneshot::Sender<View>)>,
    traceparent: Option<Arc<str>>,
}

/// What waits for the log.
#[derive(Debug)]
enum Gated {
    Deliver(lane::Task),
    Tell(TransactionId),
    TellEnd(TransactionId),
    EndDurable(TransactionId),
    Answer(oneshot::Sender<()>),
}

#[derive(Debug)]
enum Timer {
    Deadline(TransactionId),
    Retry(TransactionId, usize),
    Probe(ParticipantUrl),
    GiveUp(TransactionId),
    TryHeld(ParticipantUrl),
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    id: CoordinatorId,
    epoch: Epoch,
    epochs: BTreeSet<Epoch>,
    url: String,
    retained_since: UnixMillis,
    /// The highest transaction id that retention has dropped.
    forgotten: TransactionId,
    /// Bounds the time in new ids, by how long the process has run since this moment.
    clock: LogClock,
    opened: Instant,
    skew: Skew,
    limits: Limits,
    live: HashMap<TransactionId, Live>,
    /// Live transactions by the keys they were begun under.
    keys: HashMap<Arc<str>, TransactionId>,
    /// The keys under which those were begun that have left for the log lately.
    left: Left,
    undecided: usize,
    lanes: HashMap<ParticipantUrl, Lane>,
    gates: Gates<Gated>,
    timers: Timers<Timer>,
    horizon: Horizon,
    /// The highest transaction id or epoch that was ever minted or logged.
    newest: Uuid,
    /// The last entry that was forced only to make durable what was before it.
    checkpointed: Lsn,
    next_lsn: Lsn,
    next_sequence: u64,
    random: StdRng,
    ownership: Ownership,
    suspects: Suspects,
    /// New work is refused; what is under way goes on.
    disk_full: bool,
    /// Somebody waits for an entry that nothing else makes the log write at once.
    hurry: bool,
    outputs: Vec<Output>,
}

impl Engine {
    /// An engine on a log that was just read. What it found is carried on: undecided transactions are aborted, decisions
    /// delivered. `seed` decides everything that is random: ids and jitter.
    pub fn new(now: Now, recovered: Recovered, url: String, limits: Limits, seed: [u8; 32]) -> Self {
        let newest = recovered.highest.uuid().max(recovered.epoch.uuid());
        let mut engine = Self {
            id: recovered.coordinator,
            epoch: recovered.epoch,
            epochs: recovered.epochs,
            url,
            retained_since: recovered.retained_since,
            forgotten: recovered.forgotten,
            clock: recovered.clock,
            opened: now.mono,
            skew: recovered.skew,
            limits,
            live: HashMap::with_capacity(recovered.live.len()),
            keys: HashMap::new(),
            left: Left::default(),
            undecided: 0,
            lanes: HashMap::new(),
            gates: Gates::new(),
            timers: Timers::new(),
            horizon: Horizon::new(recovered.highest, recovered.live.iter().map(|(id, _)| *id)),
            newest,
            checkpointed: Lsn(0),
            next_lsn: Lsn(1),
            next_sequence: recovered.sequence + 1,
            random: StdRng::from_seed(seed),
            ownership: Ownership::default(),
            suspects: Suspects::default(),
            disk_full: false,
            hurry: false,
            outputs: vec![],
        };
        let ids: Vec<_> = recovered.live.iter().map(|(id, _)| *id).collect();
        for (id, transaction) in recovered.live {
            engine.undecided += usize::from(transaction.state.is_undecided());
            engine.keys.extend(transaction.begun_under().map(|key| (key, id)));
            let deliveries = transaction.branches.iter().map(|_| Delivery::default()).collect();
            let live = Live {
                transaction,
                deadline: now.mono,
                timer: None,
                aborts_are_overdue: false,
                deliveries,
                waiters: vec![],
                traceparent: None,
            };
            engine.live.insert(id, live);
        }
        engine.restore_suspects(now, recovered.suspects.into_iter());
        for id in ids {
            let _ = engine.feed(now, id, Event::Restarted);
            engine.watch_abort(now, id);
        }
        engine
    }

    /// Who it is, as it stands in every message.
    pub fn coordinator(&self) -> Coordinator {
        Coordinator { id: self.id, epoch: self.epoch, url: self.url.clone(), horizon: self.horizon.present() }
    }

    /// While the disk counts as full, nothing new is begun or enlisted; all else goes on.
    pub fn set_disk_full(&mut self, full: bool) {
        self.disk_full = full;
    }

    /// Whether it does.
    pub fn is_disk_full(&self) -> bool {
        self.disk_full
    }

    /// What is to be done now; the outputs of all operations since it was last asked.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Whether somebody waits for the log to write what was appended, since it was last asked.
    pub fn take_hurry(&mut self) -> bool {
        std::mem::take(&mut self.hurry)
    }

    /// When [`Engine::tick`] is due.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop(now.mono) {
            match timer {
                Timer::Deadline(id) => self.expire(now, id),
                Timer::Retry(id, at) => self.retry_in_time(now, id, at),
                Timer::Probe(participant) => self.probe(now, &participant),
                Timer::GiveUp(id) => self.give_up(now, id),
                Timer::TryHeld(participant) => self.try_oldest_held(now, &participant),
            }
        }
    }

    /// The log has come further.
    pub fn progress(&mut self, now: Now, progress: Progress) {
        if self.ownership.holds_back(progress) {
            return;
        }
        self.horizon.durable(progress.durable);
        for gated in self.gates.advance(progress) {
            self.pass(now, gated);
        }
        // What changes nothing forces nothing: without this the horizon would stand still, and what waits for it grow.
        let Progress { written, durable } = self.gates.progress();
        if written.0 > durable.max(self.checkpointed).0 + MOST_UNSYNCED {
            self.checkpoint();
        }
    }

    /// Makes durable what was appended so far.
    fn checkpoint(&mut self) {
        self.checkpointed = self.next_lsn;
        self.append(Entry::Checkpoint);
    }

    /// Answers when the log has come as far as this.
    pub fn reached(&mut self, now: Now, barrier: Barrier) -> oneshot::Receiver<()> {
        let (tell, wait) = oneshot::channel();
        self.gate(now, barrier, Gated::Answer(tell));
        wait
    }

    /// Waits for a milestone of a live transaction; None if it isn't live.
    pub fn wait(&mut self, now: Now, id: TransactionId, milestone: Milestone) -> Option<Waiting> {
        self.expire(now, id);
        let transaction = &self.live.get(&id)?.transaction;
        let (tell, wait) = oneshot::channel();
        let come = match milestone {
            Milestone::Decided => transaction.decided.is_some(),
            Milestone::Finished => transaction.state.is_finished(),
        };
        if come && self.gates.is_open(transaction.known_after()) {
            let _ = tell.send(self.view(id)?);
        } else if let Some(live) = self.live.get_mut(&id) {
            // Those who gave up waiting leave their place to others.
            live.waiters.retain(|(_, waiter)| !waiter.is_closed());
            live.waiters.push((milestone, tell));
            // Its last entry may lie there, and wait for company.
            self.hurry |= live.transaction.state.is_finished();
        }
        Some(wait)
    }

    /// Before a transaction is looked at: aborts it if its deadline has passed.
    pub fn look(&mut self, now: Now, id: TransactionId) {
        self.expire(now, id);
    }

    /// A live transaction as anybody may see it now; None if it isn't live.
    pub fn view(&self, id: TransactionId) -> Option<View> {
        let live = self.live.get(&id)?;
        Some(View::of(id, live, self.gates.is_open(live.transaction.known_after())))
    }

    /// Feeds a transaction, which must be live, and sees to what follows.
    fn feed(&mut self, now: Now, id: TransactionId, event: Event) -> Result<bool, NotAllowed> {
        // Whoever was superseded begins, decides and delivers nothing further.
        if self.ownership.superseded.is_some() {
            return Ok(false);
        }
        let Some(live) = self.live.get_mut(&id) else { return Ok(false) };
        let was_undecided = live.transaction.state.is_undecided();
        let mut log = Log { next: self.next_lsn, sequence: self.next_sequence, now: now.wall };
        let step = live.transaction.step(event, &mut log)?;
        (self.next_lsn, self.next_sequence) = (log.next, log.sequence);
        live.deliveries.resize_with(live.transaction.branches.len(), Delivery::default);
        if was_undecided && !live.transaction.state.is_undecided() {
            if let Some(timer) = live.timer.take() {
                self.timers.cancel(timer);
            }
            self.watch_abort(now, id);
        }
        let Some(live) = self.live.get_mut(&id) else { return Ok(false) };
        let Step::Changed(commands) = step else { return Ok(false) };
        let mut index = live.transaction.records;
        index -= u32::try_from(commands.iter().filter(|c| matches!(c, Command::Append(..))).count()).unwrap_or(0);
        for command in commands {
            self.carry_out(now, id, command, &mut index);
        }
        Ok(true)
    }

    fn carry_out(&mut self, now: Now, id: TransactionId, command: Command, index: &mut u32) {
        match command {
            Command::Append(lsn, record) => {
                self.outputs.push(Output::Append(lsn, Entry::Record { id, index: *index, record }));
                *index += 1;
            }
            Command::Finish(lsn) => {
                let Some(live) = self.live.get_mut(&id) else { return };
                for (branch, delivery) in live.transaction.branches.iter_mut().zip(&live.deliveries) {
                    branch.attempts = delivery.attempts;
                }
                let transaction = Arc::new(live.transaction.clone());
                self.outputs.push(Output::Append(lsn, Entry::Finished { id, transaction }));
                self.gate(now, Barrier::durable(lsn), Gated::EndDurable(id));
            }
            Command::Send { branch, call, after } => self.gate(now, after, Gated::Deliver((id, branch, call))),
            Command::Tell { after } => self.gate(now, after, Gated::Tell(id)),
            Command::TellEnd { after } => self.gate(now, after, Gated::TellEnd(id)),
        }
    }

    fn gate(&mut self, now: Now, barrier: Barrier, gated: Gated) {
        let waited_for = match &gated {
            // An end that nobody waits for may be written with something else.
            Gated::TellEnd(id) => self.live.get(id).is_some_and(|live| !live.waiters.is_empty()),
            // The horizon takes its time.
            Gated::EndDurable(_) => false,
            Gated::Deliver(_) | Gated::Tell(_) | Gated::Answer(_) => true,
        };
        match self.gates.pass(barrier, gated) {
            Some(gated) => self.pass(now, gated),
            // A forced entry is written at once as it is.
            None => self.hurry |= waited_for && barrier.written != Lsn(0),
        }
    }

    fn pass(&mut self, now: Now, gated: Gated) {
        match gated {
            Gated::Deliver(task) => self.deliver(now, task),
            Gated::Tell(id) => {
                // Until here nobody could know that it is decided: while the disk hangs, the limit of undecided ones holds.
                self.undecided = self.undecided.saturating_sub(1);
                self.tell(id, Milestone::Decided);
                let told = self.live.get(&id).and_then(|live| {
                    let Transaction { decided, branches, .. } = &live.transaction;
                    Some(Told { id, decided: decided.clone()?, branches: branches.len() })
                });
                self.outputs.extend(told.map(Output::Decided));
            }
            Gated::TellEnd(id) => {
                self.tell(id, Milestone::Finished);
                // Its last entry is written: from now on it is found in the log.
                let Some(Live { transaction, timer, .. }) = self.live.remove(&id) else { return };
                if let Some(timer) = timer {
                    self.timers.cancel(timer);
                }
                self.outputs.push(Output::Finished(Ended { id, heuristic: transaction.is_heuristic() }));
                if let Some(key) = transaction.begun_under() {
                    self.keys.remove(&key);
                    self.left.push(key);
                }
            }
            Gated::EndDurable(id) => self.horizon.ended(id),
            Gated::Answer(tell) => drop(tell.send(())),
        }
    }

    /// Tells those who wait for this or less.
    fn tell(&mut self, id: TransactionId, reached: Milestone) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let told: Vec<_> = live.waiters.extract_if(.., |(wanted, _)| *wanted <= reached).collect();
        for (_, tell) in told {
            if let Some(view) = self.view(id) {
                let _ = tell.send(view);
            }
        }
    }

    /// Aborts a transaction whose deadline has passed. Comes before whatever else happens to it.
    fn expire(&mut self, now: Now, id: TransactionId) {
        let Some(live) = self.live.get(&id) else { return };
        if !live.transaction.state.is_undecided() || now.mono < live.deadline {
            return;
        }
        let missing = live.transaction.branches.iter().position(|b| b.vote.is_none() && b.heard.is_none());
        if let Some(at) = missing
            && self.was_never_reached(id, at)
        {
            let _ = self.feed(now, id, Event::NotAnswered(at, Heard::Unreachable));
        }
        let _ = self.feed(now, id, Event::DeadlinePassed);
    }

    /// From which time on an unknown id was surely never committed.
    pub fn retained_since(&self) -> UnixMillis {
        self.retained_since
    }

    /// What finished, and was begun before this time, may be gone from the log; `forgotten` is the highest id that is.
    pub fn retained(&mut self, since: UnixMillis, forgotten: TransactionId) {
        self.retained_since = self.retained_since.max(since);
        self.forgotten = self.forgotten.max(forgotten);
    }

    /// Returns what keeps the horizon where it is; None while that is undecided, or if nothing does.
    pub fn horizon_held_by(&self) -> Option<HorizonHeldBy> {
        let id = self.horizon.oldest_open()?;
        let Live { transaction, .. } = self.live.get(&id)?;
        let decided = transaction.decided.as_ref().filter(|_| self.gates.is_open(transaction.known_after()))?;
        let branch = transaction.branches.iter().find(|branch| branch.state.is_being_told())?;
        Some(HorizonHeldBy { participant: branch.participant.clone(), transaction: id, since: decided.at })
    }

    /// How many transactions have no decision yet.
    pub fn undecided(&self) -> usize {
        self.undecided
    }

    /// How many transactions are not finished.
    pub fn live(&self) -> usize {
        self.live.len()
    }
}

/// The call by which a decision is told.
impl From<Decision> for Call {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Commit => Self::Commit,
            Decision::Abort => Self::Abort,
        }
    }
}
