//! What operators watch, as Prometheus reads it.
//!
//! Always true: every name starts with `unanimous_`, and is described; no label is an id, and the only one that comes from
//! outside, a participant's URL, has at most [`MOST_PARTICIPANTS`] values; nothing here waits.
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
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use unanimous_sdk::protocol::{Decision, Outcome, ParticipantUrl, TransactionId, UnixMillis};

use self::{names as name, unfinished::Unfinished};
use crate::{
    engine::{Refusal, View},
    journal::{Entry, Stats},
    transaction::{BranchState, Call, ReasonCode},
    transport::{Answer, Attempt, Message},
};

/// The most participants that have a label of their own; all others together are `other`.
pub const MOST_PARTICIPANTS: usize = 100;

const METADATA: Metadata<'static> = Metadata::new("unanimous", Level::INFO, None);

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
    log: Mutex<Stats>,
    retries: Mutex<HashMap<ParticipantUrl, Counter>>,
}

impl Metrics {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for (histogram, buckets) in name::BUCKETS {
            // It fails only on an empty list.
            if let Ok(with) = PrometheusBuilder::new().set_buckets(buckets) {
                drop(with);
            }
            builder = histogram.bucketed(builder, buckets);
        }
        let recorder = builder.build_recorder();
        name::describe(&recorder);
        let histogram = |name: &'static str| recorder.register_histogram(&Key::from_static_name(name), &METADATA);
        let metrics = Self {
            rendered: recorder.handle(),
            begun: recorder.register_counter(&Key::from_static_name(name::BEGUN), &METADATA),
            prepare: histogram(name::PREPARE),
            delivery: histogram(name::DELIVERY),
            commit_call: histogram(name::COMMIT_CALL),
            log_sync: histogram(name::LOG_SYNC),
            log_batch: histogram(name::LOG_BATCH),
            recorder,
            unfinished: Mutex::default(),
            log: Mutex::default(),
            retries: Mutex::default(),
        };
        metrics
    }
}
