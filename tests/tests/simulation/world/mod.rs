//! The simulated world: one coordinator that is killed and loses its power, three participants that do, a network that
//! loses, doubles, delays and reorders, clients, and a clock that jumps back.
//!
//! Always true, and asserted all the time: what anybody was told of a decision is never contradicted; no branch is
//! committed whose transaction isn't; no work is published twice.

mod ending;
mod network;
mod unasked;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::value::RawValue;
use unanimous_coordinator::{
    engine::{Begin, Engine, Inquiry, Limits, Milestone, NewKey, Now, Output, View, Waiting, bound_in},
    journal::{Find, Journal, Memory, Recovered, Tag, memory::Loss},
    transaction::{KeyedCall, Payload, Reason, ReasonCode, Transaction},
    transport::{Attempt, Message, Request},
};
use unanimous_sdk::{
    branch::BranchKey,
    protocol::{Coordinator, CoordinatorId, Decision, Outcome, ParticipantUrl, TransactionId, UnixMillis},
};

use self::unasked::Unasked;
use super::node::Node;

const NODES: usize = 3;

/// So many Idempotency-Keys are used, again and again.
const KEYS: u32 = 20;

fn new_key(number: u32) -> NewKey {
    NewKey { text: format!("key-{number}").into(), body: 1 }
}

/// A request on its way, or being worked on.
struct Flight {
    from: Coordinator,
    request: Request,
    /// What was answered of each of its messages so far.
    answers: Vec<Option<Attempt>>,
    /// How many messages have not been handed over yet.
    undelivered: Vec<usize>,
    /// Whether the coordinator that sent it still waits.
    awaited: bool,
}

pub struct World {
    random: StdRng,
    now: Now,
    engine: Engine,
    journal: Memory,
    nodes: Vec<Node>,
    flights: BTreeMap<usize, Flight>,
    sent: usize,
    /// Old messages that may come again at any time.
    old: Vec<(usize, Coordinator, Message)>,
    begun: Vec<TransactionId>,
    /// Branches whose work goes on, on the application's own calls.
    open: Vec<(usize, BranchKey)>,
    joined: u32,
    /// Votes that were given unasked; they may come again at any time.
    votes: Vec<Unasked>,
    waiting: Vec<(TransactionId, Waiting)>,
    /// The last transaction that was begun under each key.
    keyed: BTreeMap<u32, TransactionId>,
    /// What anybody was told.
    told: BTreeMap<TransactionId, Decision>,
    faults: bool,
    transcript: Vec<String>,
}

fn url(node: usize) -> ParticipantUrl {
    format!("http://localhost/{node}").parse().expect("it is a URL")
}

impl World {
    pub fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let now = Now { mono: 0, wall: UnixMillis(1_770_000_000_000) };
        let id = CoordinatorId::from_uuid(uuid::Uuid::from_u128(7));
        let (journal, recovered) = Memory::create(id, now.wall, 1).expect("a new log");
        let engine = engine(now, recovered, seed);
        Self {
            random,
            now,
            engine,
            journal,
            nodes: (0..NODES).map(|_| Node::new()).collect(),
            flights: BTreeMap::new(),
            sent: 0,
            old: vec![],
            begun: vec![],
            open: vec![],
            joined: 0,
            votes: vec![],
            waiting: vec![],
            keyed: BTreeMap::new(),
            told: BTreeMap::new(),
            faults: true,
            transcript: vec![],
        }
    }

    pub fn transcript(&self) -> &[String] {
        &self.transcript
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        let at = self.now.mono;
        self.transcript.push(format!("{at:>7} ms  {}", what()));
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// One thing happens.
    pub fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..10 => self.begin(),
            10..14 => self.ask_for_decision(),
            14..36 => self.deliver(),
            36..38 => self.vote_again(),
            38..42 => self.end_work(),
            42..48 => self.lose(),
            48..52 => self.again(),
            52..62 => self.write(),
            62..72 => self.sync(),
            72..82 => self.sync_node(),
            82..88 => self.inquire(),
            88..96 => self.pass(),
            96..98 => self.crash_node(),
            _ => self.crash_coordinator(),
        }
        self.carry_out();
        self.check();
    }

    fn begin(&mut self) {
        let branches = self.random.random_range(0..=NODES);
        let mut given = vec![];
        for at in 0..branches {
            let node = self.random.random_range(0..NODES);
            let text: Box<RawValue> = RawValue::from_string(format!("{{\"n\":{at}}}")).expect("it is JSON");
            let payload = Payload { text: Arc::from(text), digest: at as u128 };
            given.push((None, url(node), Some(payload)));
        }
        let timeout = Duration::from_millis(self.random.random_range(50..2_000));
        let key = self.chance(30).then(|| self.random.random_range(0..KEYS));
        if let Some(key) = key
            && self.was_begun_under(key)
        {
            return;
        }
        let begin = Begin { timeout, branches: given, key: key.map(new_key), ..Begin::default() };
        let Ok((view, _)) = self.engine.begin(self.now, begin) else { return };
        let id = view.id();
        if let Some(key) = key {
            self.keyed.insert(key, id);
        }
        self.begun.push(id);
        self.say(|| format!("client: begins {id} with {branches} branches"));
        let own = if self.chance(40) { self.random.random_range(1..3) } else { 0 };
        for _ in 0..own {
            self.join(id);
        }
        // Its own calls take a while.
        if self.chance(if own > 0 { 30 } else { 85 }) {
            let commit = self.engine.commit(self.now, id, Milestone::Decided, None, None);
            self.waiting.extend(commit.ok().map(|(waiting, _)| (id, waiting)));
        }
    }

    /// Whether a begin under this key is a repeat: as the service looks for it, in the engine and then in the log.
    fn was_begun_under(&mut self, key: u32) -> bool {
        let wanted = new_key(key);
        let mut found = self.engine.begun_under(&wanted).expect("its body is the same");
        let find = Find { groups: vec![vec![Tag::key(&wanted.text)]], ..Find::default() };
        if found.is_none() {
            let each = &mut |id, transaction: Transaction| {
                found = bound_in(&transaction, Some(&wanted), &KeyedCall::Begin).expect("the same body").map(|_| id);
                found.is_none()
            };
            self.journal.find(&find, each).expect("it can be read");
        }
        // An undecided begin may be lost with the power; what was told may not.
        let before = self.keyed.get(&key).copied().filter(|id| self.told.contains_key(id));
        assert!(before.is_none() || before == found, "key {key} stood for {before:?}, and now for {found:?}");
        found.is_some()
    }

    /// A client asks for a commit or an abort of a transaction that was begun some time.
    fn ask_for_decision(&mut self) {
        let Some(id) = self.any_begun() else { return };
        let waiting = if self.chance(60) {
            self.engine.commit(self.now, id, Milestone::Decided, None, None)
        } else {
            let reason = Reason { code: ReasonCode::Initiator, detail: None, branch: None };
            self.engine.abort(self.now, id, reason, None)
        };
        self.waiting.extend(waiting.ok().map(|(waiting, _)| (id, waiting)));
    }

    fn any_begun(&mut self) -> Option<TransactionId> {
        if self.begun.is_empty() {
            return None;
        }
        let recent = self.begun.len().min(12);
        let at = self.begun.len() - 1 - self.random.random_range(0..recent);
        Some(self.begun[at])
    }

    fn write(&mut self) {
        let progress = self.journal.write_one().expect("it is open");
        self.engine.progress(self.now, progress);
    }

    fn sync(&mut self) {
        let progress = self.journal.sync();
        self.engine.progress(self.now, progress);
    }

    fn sync_node(&mut self) {
        let node = self.random.random_range(0..NODES);
        self.nodes[node].sync();
        self.send_answers(node);
        self.send_votes(node);
    }

    /// A participant in doubt asks.
    fn inquire(&mut self) {
        let node = self.random.random_range(0..NODES);
        let doubts = self.nodes[node].in_doubt();
        if doubts.is_empty() {
            return;
        }
        let (key, epoch) = doubts[self.random.random_range(0..doubts.len())].clone();
        let inquiry = Inquiry {
            transaction: key.transaction,
            coordinator: Some(key.coordinator),
            epoch: Some(epoch),
            branch: Some(key.branch.clone()),
            participant_id: None,
            prepared_epoch: None,
        };
        self.engine.heard_inquiry(self.now, &inquiry);
        let known = self.view(key.transaction);
        let Ok((outcome, presumed)) = self.engine.answer(&inquiry, known.as_ref()) else { return };
        self.say(|| format!("node {node}: asks about {key}, hears {outcome:?}, presumed: {presumed}"));
        match outcome {
            Outcome::Commit => self.nodes[node].learn(key, epoch, Decision::Commit),
            Outcome::Abort => self.nodes[node].learn(key, epoch, Decision::Abort),
            Outcome::Pending => {}
        }
    }

    fn pass(&mut self) {
        let ms = self.random.random_range(1..400);
        self.now.mono += ms;
        self.now.wall.0 += ms;
        if self.faults && self.chance(3) {
            self.now.wall.0 -= self.random.random_range(0..100_000);
            self.say(|| "clock: jumps back".to_owned());
        }
        self.engine.tick(self.now);
    }

    fn crash_node(&mut self) {
        let node = self.random.random_range(0..NODES);
        let kept = self.random.random_range(0..=self.nodes[node].disk.unsynced());
        self.say(|| format!("node {node}: crashes, {kept} unsynced entries survive"));
        self.open.retain(|(of, _)| *of != node);
        for ticket in self.nodes[node].crash(kept).into_iter().flatten() {
            if let Some(flight) = self.flights.get_mut(&(ticket / 64)) {
                flight.answers[ticket % 64] = Some(Attempt::NoAnswer("reset".into()));
                if flight.answers.iter().all(Option::is_some) {
                    self.return_flight(ticket / 64);
                }
            }
        }
    }

    fn crash_coordinator(&mut self) {
        let random = self.random.random();
        let (how, opened) = if self.chance(40) {
            ("is killed", self.journal.kill(self.now.wall, random))
        } else {
            let loss = match self.random.random_range(0..=self.journal.unsynced()) {
                0 => Loss::Whole,
                kept => Loss::Tail(kept),
            };
            ("loses its power", self.journal.power_cut(loss, self.now.wall, random))
        };
        self.say(|| format!("coordinator: {how}"));
        let (journal, recovered) = opened.expect("the log opens");
        self.journal = journal;
        let seed = self.random.random();
        self.engine = engine(self.now, recovered, seed);
        self.waiting.clear();
        for flight in self.flights.values_mut() {
            flight.awaited = false;
        }
    }

    /// What the engine asks for: entries are appended, requests are on their way.
    fn carry_out(&mut self) {
        for output in self.engine.take_outputs() {
            match output {
                Output::Append(lsn, entry) => self.journal.append(lsn, vec![entry]),
                Output::Send(request) => {
                    let mut from = self.engine.coordinator();
                    from.horizon = request.messages.iter().map(|m| m.horizon).max().unwrap_or(from.horizon);
                    let count = request.messages.len();
                    self.sent += 1;
                    let flight = Flight {
                        from,
                        request,
                        answers: vec![None; count],
                        undelivered: (0..count).collect(),
                        awaited: true,
                    };
                    self.flights.insert(self.sent, flight);
                }
                Output::Decided(_) | Output::Finished(_) => {}
                Output::ConfirmOwnership | Output::HigherEpoch(..) | Output::Superseded(_) => {
                    panic!("nobody has taken over")
                }
                Output::Suspect(participant) => panic!("{participant} has lost nothing"),
                Output::Trusted(_) | Output::AnsweredLate { .. } => {}
            }
        }
    }

    fn view(&mut self, id: TransactionId) -> Option<View> {
        self.engine.look(self.now, id);
        let finished = || self.journal.finished(id).expect("it can be read").map(|t| View::of_finished(id, t));
        self.engine.view(id).or_else(finished)
    }

    /// Nobody is told the opposite of what anybody was told.
    fn tell(&mut self, id: TransactionId, decision: Decision) {
        let before = *self.told.entry(id).or_insert(decision);
        assert_eq!(before, decision, "{id}: {before:?} was told, and now {decision:?}");
    }

    fn check(&mut self) {
        for (id, mut waiting) in std::mem::take(&mut self.waiting) {
            match waiting.try_recv() {
                Ok(view) => {
                    if let Some(decision) = binding(&view) {
                        self.say(|| format!("client: hears {decision:?} of {id}"));
                        self.tell(id, decision);
                    }
                }
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => self.waiting.push((id, waiting)),
                Err(tokio::sync::oneshot::error::TryRecvError::Closed) => {}
            }
        }
        if let Some(id) = self.any_begun()
            && let Some(decision) = self.view(id).and_then(|view| binding(&view))
        {
            self.tell(id, decision);
        }
        self.carry_out();
        for node in &self.nodes {
            for (key, count) in &node.published {
                assert_eq!(*count, 1, "{key}: its work was published {count} times");
                let told = self.told.get(&key.transaction);
                assert_ne!(told, Some(&Decision::Abort), "{key} is committed, and its abort was told");
            }
        }
    }
}

/// A decision that must never be contradicted. What changed nothing isn't forced to disk: after a loss of power it may be
/// unknown, or shown as aborted.
fn binding(view: &View) -> Option<Decision> {
    view.sequence().and(view.decision())
}

fn node_of(participant: &ParticipantUrl) -> usize {
    participant.as_str().rsplit('/').next().and_then(|n| n.parse().ok()).expect("it names a node")
}

fn engine(now: Now, recovered: Recovered, seed: u64) -> Engine {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Engine::new(now, recovered, "http://localhost:7070".into(), Limits::default(), bytes)
}
