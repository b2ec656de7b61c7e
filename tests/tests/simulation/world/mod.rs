//! The simulated world: one coordinator that is killed and loses its power, three participants that do, a network that
//! loses, doubles, delays, reorders and misleads, clients, and clocks that jump either way.
//!
//! # Invariants
//! All of them are asserted at each step, or when everything has finished:
//! - What anybody was told of a decision is never contradicted.
//! - No branch is committed whose transaction isn't, and none at two stores. No work is published twice.
//! - A branch ends against the decision, or in the unknown, only where data was lost (`suspects`).
//! - Whose the log is decides what a coordinator does (`ownership`). No clock drops what is kept (`clock`).

mod clients;
mod clock;
mod coordinator;
mod doubt;
mod ending;
mod forged;
mod network;
mod ownership;
mod stores;
mod suspects;
mod unasked;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use unanimous_coordinator::{
    engine::{Engine, Now, View, Waiting},
    journal::Memory,
    transport::Message,
};
use unanimous_sdk::{
    branch::BranchKey,
    protocol::{Coordinator, CoordinatorId, Decision, Epoch, ParticipantUrl, TransactionId, UnixMillis},
};

use self::{
    clock::{Retention, START},
    coordinator::{Batches, engine},
    doubt::Late,
    network::Flight,
    ownership::Ownership,
    stores::participant_id,
    suspects::Suspects,
    unasked::Unasked,
};
use super::node::Node;

/// How many participants there are. More stores may come.
const URLS: usize = 3;

/// What there is in one seed's world.
struct Rules {
    /// Stores have ids.
    has_ids: bool,
    /// A participant may come back on an empty store that can't be told from the full one.
    loses_data: bool,
    /// Somebody sends messages in the coordinator's name. (Then no store is left without an address: who is not called any
    /// more can't be told that it was fooled.)
    is_forged: bool,
}

pub struct World {
    random: StdRng,
    now: Now,
    /// By how much the coordinator's clock is ahead of the right one.
    ahead: i64,
    /// For how long the coordinator has run in all.
    ran: u64,
    engine: Engine,
    /// The present epoch.
    epoch: Epoch,
    journal: Memory,
    log: Batches,
    /// First those of the participants, then those that were empty when they came in their place.
    nodes: Vec<Node>,
    rules: Rules,
    /// The store that each participant has now.
    home: [usize; URLS],
    /// The store to which each participant's address leads.
    route: [usize; URLS],
    /// The participants that can't be reached.
    is_away: [bool; URLS],
    flights: BTreeMap<usize, Flight>,
    sent: usize,
    /// Old messages that may come again at any time, and the places that they were sent to.
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
    /// Which stores were told that the coordinator has forgotten what they asked about.
    told_forgotten: BTreeSet<(usize, BranchKey)>,
    late: Late,
    ownership: Ownership,
    /// The last epoch that somebody has forged.
    forged: Option<Epoch>,
    suspects: Suspects,
    retention: Retention,
    faults: bool,
    /// What has happened, if it is recorded.
    transcript: Option<Vec<String>>,
}

fn url(place: usize) -> ParticipantUrl {
    format!("http://localhost:{}/{place}", 8080 + place).parse().expect("it is a URL")
}

impl World {
    /// Returns the world of a seed. `records`: whether it writes down what happens, which takes time.
    pub fn new(seed: u64, records: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let now = Now { mono: 0, wall: UnixMillis(START) };
        let id = CoordinatorId::from_uuid(uuid::Uuid::from_u128(7));
        let (journal, recovered) = Memory::create(id, now.wall, 1).expect("a new log");
        let has_ids = random.random_range(0..4) > 0;
        let rules = Rules { has_ids, loses_data: random.random_range(0..5) == 0, is_forged: random.random() };
        let keep = match random.random_range(0..3) {
            0 => Duration::from_secs(3),
            1 => Duration::from_hours(1),
            _ => Duration::from_hours(7 * 24),
        };
        let node = |number| Node::new(has_ids.then(|| participant_id(number)), number);
        Self {
            random,
            now,
            ahead: 0,
            ran: 0,
            epoch: recovered.epoch,
            engine: engine(now, recovered, seed),
            journal,
            log: Batches::default(),
            nodes: (0..URLS).map(node).collect(),
            rules,
            home: std::array::from_fn(|place| place),
            route: std::array::from_fn(|place| place),
            is_away: [false; URLS],
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
            told_forgotten: BTreeSet::new(),
            late: Late::default(),
            ownership: Ownership::default(),
            forged: None,
            suspects: Suspects::default(),
            retention: Retention::new(keep),
            faults: true,
            transcript: records.then(Vec::new),
        }
    }

    pub fn transcript(&self) -> &[String] {
        self.transcript.as_deref().unwrap_or_default()
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(transcript) = &mut self.transcript {
            transcript.push(format!("{:>7} ms  {}", self.now.mono, what()));
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// One thing happens.
    pub fn step(&mut self) {
        match self.random.random_range(0..1_190) {
            0..100 => self.begin(),
            100..140 => self.ask_for_decision(),
            140..360 => self.deliver(),
            360..380 => self.vote_again(),
            380..420 => self.end_work(),
            420..480 => self.lose(),
            480..520 => self.again(),
            520..620 => self.write(),
            620..720 => self.sync(),
            720..820 => self.sync_node(),
            820..880 => self.inquire(),
            880..960 => {
                let ms = self.random.random_range(1..400);
                self.pass(ms);
            }
            960..980 => self.crash_node(),
            980..1_000 => self.crash_coordinator(),
            1_000..1_050 => self.acknowledge(),
            1_050..1_070 => self.amend(),
            1_070..1_110 => self.confirm(),
            1_110..1_140 => self.mistake(),
            1_140..1_155 => self.go_away(),
            1_155..1_165 if self.rules.is_forged => self.forge(),
            1_165..1_170 => self.empty(),
            1_170..1_174 if self.rules.loses_data => self.lose_much(),
            1_174..1_190 if self.rules.loses_data => self.back_up(),
            _ => {}
        }
        self.carry_out();
        self.check();
    }

    fn write_all(&mut self) {
        while self.journal.waiting() > 0 && !self.ownership.is_lost() {
            self.write();
            self.carry_out();
        }
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
        if let Some(id) = self.any_begun() {
            if let Some(decision) = self.view(id).and_then(|view| binding(&view)) {
                self.tell(id, decision);
            }
            self.carry_out();
            self.check_kept(id);
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
