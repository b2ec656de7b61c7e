//! What operators watch, as Prometheus reads it.
//!
//! Always true: every name starts with `unanimous_` and is described; no label is an id, and the only one that comes from
//! outside, a participant's URL, has at most [`MOST_PARTICIPANTS`] values and `other`; nothing here waits or calls back.
//!
//! Each coordinator has a recorder of its own, so that several in one process don't count for each other.

mod names;
#[cfg(test)]
mod tests;
mod unfinished;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metrics::{Counter, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};
use unanimous_sdk::protocol::{Decision, Outcome, ParticipantUrl, PrepareAnswer, TransactionId, UnixMillis};

use self::{
    names::{self as name, Labels},
    unfinished::Unfinished,
};
use crate::{
    engine::{HorizonHeldBy, Refusal, Refused, Told},
    journal::{Entry, Stats},
    transaction::{BranchState, Transaction},
    transport::{Attempt, Message},
};

/// The most participants that have a label of their own; all others together are `other`.
pub const MOST_PARTICIPANTS: usize = 100;

const METADATA: Metadata<'static> = Metadata::new("unanimous", Level::INFO, None);

/// What is counted nowhere else, as the engine has it when it is asked.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) undecided: usize,
    pub(crate) live: usize,
    pub(crate) disk_full: bool,
    pub(crate) horizon_held_by: Option<HorizonHeldBy>,
    pub(crate) suspects: usize,
}

/// Counters by route.
type Routes = Vec<(Box<str>, Counter)>;

/// See the module.
pub struct Metrics {
    recorder: PrometheusRecorder,
    rendered: PrometheusHandle,
    begun: Counter,
    prepare: Histogram,
    delivery: Histogram,
    commit_call: Histogram,
    log_sync: Histogram,
    log_batch: Histogram,
    unfinished: Mutex<Unfinished>,
    /// As it was after the last batch.
    log: Mutex<Stats>,
    /// Those that are counted for every transaction: to have one registered again costs more than all else here.
    decisions: HashMap<[&'static str; 2], Counter>,
    calls: HashMap<[&'static str; 2], Counter>,
    requests: Mutex<HashMap<(&'static str, u16), Routes>>,
    retries: Mutex<HashMap<ParticipantUrl, Counter>>,
}

impl Metrics {
    /// Nothing has happened yet, but these transactions were recovered.
    pub fn new<'a>(recovered: impl IntoIterator<Item = (TransactionId, &'a Transaction)>) -> Self {
        let recorder = name::recorder();
        let histogram = |name| recorder.register_histogram(&Key::from_static_name(name), &METADATA);
        let metrics = Self {
            rendered: recorder.handle(),
            begun: recorder.register_counter(&Key::from_static_name(name::BEGUN), &METADATA),
            prepare: histogram(name::PREPARE),
            delivery: histogram(name::DELIVERY),
            commit_call: histogram(name::COMMIT_CALL),
            log_sync: histogram(name::LOG_SYNC),
            log_batch: histogram(name::LOG_BATCH),
            unfinished: Mutex::new(Unfinished::new(recovered)),
            log: Mutex::default(),
            decisions: HashMap::new(),
            calls: HashMap::new(),
            requests: Mutex::default(),
            retries: Mutex::default(),
            recorder,
        };
        metrics.gauge(name::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        metrics.clock_is_plausible(true);
        let (mut decisions, mut calls) = (HashMap::new(), HashMap::new());
        name::each_known(|name, labels| {
            let counter = metrics.counter(name, labels);
            counter.increment(0);
            match (name, labels) {
                (name::DECISIONS, [(_, decision), (_, reason)]) => decisions.insert([*decision, *reason], counter),
                (name::CALLS, [(_, call), (_, result)]) => calls.insert([*call, *result], counter),
                _ => None,
            };
        });
        Self { decisions, calls, ..metrics }
    }

    /// These entries go to the log. Called under the engine's lock, in their order: a few look-ups in a map for each.
    pub(crate) fn appended(&self, entries: &[Entry]) {
        let mut unfinished = lock(&self.unfinished);
        for entry in entries {
            let Entry::Record { id, record, .. } = entry else { continue };
            let seen = unfinished.record(*id, record);
            if seen.begun {
                self.begun.increment(1);
            }
            if let Some(state) = seen.ended {
                self.branch_ended(state);
            }
        }
    }

    fn branch_ended(&self, state: BranchState) {
        let outcome = match state {
            BranchState::HeuristicCommit => "commit",
            BranchState::HeuristicAbort => "abort",
            BranchState::HeuristicUnknown => "unknown",
            BranchState::Enlisted
            | BranchState::Preparing
            | BranchState::Prepared
            | BranchState::ReadOnly
            | BranchState::Refused
            | BranchState::Committing
            | BranchState::Committed
            | BranchState::Aborting
            | BranchState::Aborted => return,
        };
        self.counter(name::HEURISTIC, &[("outcome", outcome)]).increment(1);
    }

    /// A decision is durable.
    pub(crate) fn decided(&self, Told { id, decided, .. }: &Told) {
        let reason = decided.reason.as_ref().map(|reason| reason.code);
        let decision = match decided.decision {
            Decision::Commit => "commit",
            Decision::Abort => "abort",
        };
        let reason = reason.map_or("none", name::of_reason);
        match self.decisions.get(&[decision, reason]) {
            Some(counter) => counter.increment(1),
            None => self.counter(name::DECISIONS, &[("decision", decision), ("reason", reason)]).increment(1),
        }
        if let Some(asked) = lock(&self.unfinished).decided(*id, Instant::now()) {
            self.prepare.record(asked);
        }
    }

    /// Every branch of a transaction has ended.
    pub(crate) fn finished(&self, id: TransactionId) {
        if let Some(decided) = lock(&self.unfinished).finished(id) {
            self.delivery.record(decided.elapsed());
        }
    }

    /// A call is about to be made.
    pub(crate) fn calls(&self, participant: &ParticipantUrl, message: &Message) {
        let again = lock(&self.unfinished).calls(message.transaction, message.at, message.call, Instant::now());
        if again {
            self.retry(participant);
        }
    }

    /// What came of it.
    pub(crate) fn called(&self, message: &Message, attempt: &Attempt) {
        let (result, answered) = match attempt {
            Attempt::Prepare(PrepareAnswer::Refused { .. }, _) => ("refused", true),
            Attempt::Prepare(PrepareAnswer::Vote(_), _) | Attempt::Commit(..) | Attempt::Abort(..) => {
                ("answered", true)
            }
            Attempt::OtherStore { .. } => ("other_store", false),
            Attempt::NoAnswer(_) => ("no_answer", false),
            Attempt::Unreachable(_) => ("unreachable", false),
            Attempt::Silence(_) => ("silence", false),
            Attempt::NotTaken => ("not_taken", false),
            Attempt::Stale(..) => ("stale_epoch", false),
        };
        let call = name::of_call(message.call);
        match self.calls.get(&[call, result]) {
            Some(counter) => counter.increment(1),
            None => self.counter(name::CALLS, &[("call", call), ("result", result)]).increment(1),
        }
        if !answered {
            lock(&self.unfinished).failed(message.transaction, message.at, message.call);
        }
    }

    fn retry(&self, participant: &ParticipantUrl) {
        let mut retries = lock(&self.retries);
        if let Some(counter) = retries.get(participant) {
            return counter.increment(1);
        }
        if retries.len() >= MOST_PARTICIPANTS {
            return self.counter(name::RETRIES, &[("participant", name::OTHER)]).increment(1);
        }
        let counter = self.counter(name::RETRIES, &[("participant", participant.as_str())]);
        counter.increment(1);
        retries.insert(participant.clone(), counter);
    }

    /// How a participant in doubt was answered; the bool says whether the answer was presumed.
    pub(crate) fn inquired(&self, answer: Result<(Outcome, bool), &Refused>) {
        let answer = match answer {
            Ok((Outcome::Commit, _)) => "commit",
            Ok((Outcome::Abort, false)) => "abort",
            Ok((Outcome::Abort, true)) => "presumed_abort",
            Ok((Outcome::Pending, _)) => "pending",
            Err(Refused { why: Refusal::NotMyLog, .. }) => "not_my_log",
            Err(Refused { why: Refusal::Forgotten, .. }) => "forgotten",
            Err(Refused { why: Refusal::NotLive, .. }) => "unknown",
            Err(_) => "refused",
        };
        self.counter(name::INQUIRIES, &[("answer", answer)]).increment(1);
    }

    /// A batch was written: what the log has cost so far. Called from the log's thread.
    pub(crate) fn logged(&self, now: Stats) {
        let before = std::mem::replace(&mut *lock(&self.log), now);
        self.log_batch.record(count(now.entries.saturating_sub(before.entries)));
        if now.forced_writes > before.forced_writes {
            self.log_sync.record(now.synced_for.saturating_sub(before.synced_for));
        }
    }

    /// Whether retention believes the wall clock.
    pub(crate) fn clock_is_plausible(&self, plausible: bool) {
        self.gauge(name::CLOCK, &[], f64::from(u8::from(!plausible)));
    }

    /// The log is loaded.
    pub(crate) fn recovered(&self, took: Duration) {
        self.gauge(name::RECOVERY, &[], took.as_secs_f64());
    }

    /// A request was answered. `route` is a template, never a path.
    pub(crate) fn answered(&self, method: &'static str, route: &str, status: u16) {
        let mut requests = lock(&self.requests);
        let routes = requests.entry((method, status)).or_default();
        if let Some((_, counter)) = routes.iter().find(|(known, _)| **known == *route) {
            return counter.increment(1);
        }
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        let counter = self.counter(name::REQUESTS, &[("method", method), ("route", route), ("status", class)]);
        counter.increment(1);
        routes.push((route.into(), counter));
    }

    /// A call that asked for a commit was answered with the decision.
    pub(crate) fn commit_answered(&self, took: Duration) {
        self.commit_call.record(took);
    }

    /// All of it, as text.
    pub(crate) fn render(&self, now: UnixMillis, seen: &Seen) -> String {
        let Seen { undecided, live, disk_full, horizon_held_by, suspects } = seen;
        let (in_doubt, oldest) = {
            let unfinished = lock(&self.unfinished);
            (unfinished.in_doubt(), unfinished.oldest())
        };
        let age = oldest.map_or(0, |begun| now.0.saturating_sub(begun.0));
        self.gauge(name::UNDECIDED, &[], count(*undecided as u64));
        self.gauge(name::UNFINISHED, &[], count(*live as u64));
        self.gauge(name::SUSPECTS, &[], count(*suspects as u64));
        self.gauge(name::IN_DOUBT, &[], count(in_doubt as u64));
        self.gauge(name::DISK_FULL, &[], f64::from(u8::from(*disk_full)));
        self.gauge(name::OLDEST, &[], Duration::from_millis(age).as_secs_f64());
        let mut text = self.rendered.render();
        text.push_str(&name::horizon_held_by(now, horizon_held_by.as_ref()));
        text
    }

    /// Sums up what the histograms were given: without it that would be kept until somebody reads it. Every few seconds.
    pub(crate) fn sum_up(&self) {
        self.rendered.run_upkeep();
    }

    fn counter(&self, name: &'static str, labels: Labels<'_>) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: Labels<'_>, value: f64) {
        self.recorder.register_gauge(&key(name, labels), &METADATA).set(value);
    }
}

fn key(name: &'static str, labels: Labels<'_>) -> Key {
    Key::from_parts(name, labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect::<Vec<_>>())
}

/// Prometheus knows no integers; past 2^53 nobody counts on the last one.
#[allow(clippy::cast_precision_loss)]
fn count(number: u64) -> f64 {
    number as f64
}

/// Nobody can leave half a change in there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
