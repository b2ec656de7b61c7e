//! The names, what they mean, and the labels that are known beforehand.
//!
//! Always true: what is counted at all shows from the start, as 0: a rate needs a first value.

use metrics::{KeyName, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

use unanimous_sdk::protocol::UnixMillis;

use crate::{
    engine::HorizonHeldBy,
    transaction::{Call, ReasonCode},
};

/// Labels with their values.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

pub(super) const BEGUN: &str = "unanimous_transactions_begun_total";
pub(super) const DECISIONS: &str = "unanimous_decisions_total";
pub(super) const HEURISTIC: &str = "unanimous_heuristic_branches_total";
pub(super) const CALLS: &str = "unanimous_participant_calls_total";
pub(super) const RETRIES: &str = "unanimous_participant_retries_total";
pub(super) const INQUIRIES: &str = "unanimous_inquiries_total";
pub(super) const REQUESTS: &str = "unanimous_http_requests_total";
pub(super) const UNDECIDED: &str = "unanimous_transactions_undecided";
pub(super) const UNFINISHED: &str = "unanimous_transactions_unfinished";
pub(super) const IN_DOUBT: &str = "unanimous_transactions_in_doubt";
pub(super) const OLDEST: &str = "unanimous_oldest_unfinished_age_seconds";
pub(super) const DISK_FULL: &str = "unanimous_disk_full";
pub(super) const CLOCK: &str = "unanimous_clock_implausible";
pub(super) const SUSPECTS: &str = "unanimous_participants_suspect";
pub(super) const HORIZON_HELD: &str = "unanimous_horizon_held_seconds";
pub(super) const RECOVERY: &str = "unanimous_recovery_seconds";
pub(super) const BUILD_INFO: &str = "unanimous_build_info";
pub(super) const PREPARE: &str = "unanimous_prepare_seconds";
pub(super) const DELIVERY: &str = "unanimous_delivery_seconds";
pub(super) const COMMIT_CALL: &str = "unanimous_commit_call_seconds";
pub(super) const LOG_SYNC: &str = "unanimous_log_sync_seconds";
pub(super) const LOG_BATCH: &str = "unanimous_log_batch_entries";

const COUNTERS: &[(&str, &str)] = &[
    (BEGUN, "Transactions begun."),
    (DECISIONS, "Decisions, counted when they may be told, by decision and, for an abort, by its reason."),
    (
        HEURISTIC,
        "Branches that ended against the decision, or nobody knows how, by what became of them. Look at each: GET /v1/transactions?heuristic=true.",
    ),
    (
        CALLS,
        "Calls to participants, by call and by what came of it: answered; refused (a vote to abort); no_answer (an answer that doesn't count, or a connection dropped in the middle); unreachable (no connection); silence (nothing in time); stale_epoch (the participant knows a higher epoch); other_store (another store than that of the counted vote).",
    ),
    (
        RETRIES,
        "Calls made again because they were not answered before, by participant; past 100 participants the rest are other.",
    ),
    (
        INQUIRIES,
        "Questions of participants in doubt, by answer; not_my_log: a data folder was replaced, or an older one put back; forgotten: a participant was put back from a backup that is older than what is retained.",
    ),
    (REQUESTS, "HTTP requests answered since the log was loaded, by method, route and class of status."),
];

const GAUGES: &[(&str, Option<Unit>, &str)] = &[
    (UNDECIDED, None, "Transactions that have no decision yet."),
    (
        UNFINISHED,
        None,
        "Transactions that have not finished: undecided ones, and those of which a branch has not acknowledged the decision.",
    ),
    (
        IN_DOUBT,
        None,
        "Transactions of which a branch is prepared, as the coordinator knows, and has not acknowledged a decision: its participant holds locks.",
    ),
    (OLDEST, Some(Unit::Seconds), "The age of the oldest transaction that has not finished; 0 if there is none."),
    (
        SUSPECTS,
        None,
        "Participants that answered unknown-branch to 10 commits in a row: further commits to them are held. Look at the log line for the cause.",
    ),
    (DISK_FULL, None, "1 while the disk counts as full and nothing new is begun or enlisted, else 0."),
    (
        CLOCK,
        None,
        "1 while the wall clock has jumped by more than finished transactions are kept and retention goes by running time alone, else 0.",
    ),
    (RECOVERY, Some(Unit::Seconds), "How long the log took to load at the last start."),
    (BUILD_INFO, None, "Always 1; the label is the version."),
];

const HISTOGRAMS: &[(&str, Option<Unit>, &str)] = &[
    (PREPARE, Some(Unit::Seconds), "From the first prepare call of a transaction to its durable decision."),
    (
        DELIVERY,
        Some(Unit::Seconds),
        "From the durable decision to its acknowledgement by every branch; decisions of this run.",
    ),
    (
        COMMIT_CALL,
        Some(Unit::Seconds),
        "From a call that asks for a commit to its answer with the decision, 200 or 409, the waiting that respond asked for included.",
    ),
    (LOG_SYNC, Some(Unit::Seconds), "What a forced write of the log took."),
    (LOG_BATCH, None, "Entries that were written to the log at once."),
];

/// The participants that have no label of their own.
pub(super) const OTHER: &str = "other";

const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const ENTRIES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

const REASONS: [ReasonCode; 7] = [
    ReasonCode::Initiator,
    ReasonCode::Refused,
    ReasonCode::Unreachable,
    ReasonCode::ParticipantError,
    ReasonCode::Deadline,
    ReasonCode::CoordinatorRestart,
    ReasonCode::Operator,
];

/// A recorder that knows all of them.
pub(super) fn recorder() -> PrometheusRecorder {
    let builder = PrometheusBuilder::new()
        .set_buckets(SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(LOG_BATCH.to_owned()), ENTRIES));
    // It fails only on an empty list.
    let recorder = builder.unwrap_or_default().build_recorder();
    for (name, help) in COUNTERS {
        recorder.describe_counter(KeyName::from_const_str(name), None, (*help).into());
    }
    for (name, unit, help) in GAUGES {
        recorder.describe_gauge(KeyName::from_const_str(name), *unit, (*help).into());
    }
    for (name, unit, help) in HISTOGRAMS {
        recorder.describe_histogram(KeyName::from_const_str(name), *unit, (*help).into());
    }
    recorder
}

/// All counters whose labels are known beforehand, but the one that has none.
pub(super) fn each_known(mut each: impl FnMut(&'static str, &[(&'static str, &'static str)])) {
    each(DECISIONS, &[("decision", "commit"), ("reason", "none")]);
    for reason in REASONS {
        each(DECISIONS, &[("decision", "abort"), ("reason", of_reason(reason))]);
    }
    for outcome in ["commit", "abort", "unknown"] {
        each(HEURISTIC, &[("outcome", outcome)]);
    }
    for call in [Call::Prepare, Call::Commit, Call::Abort] {
        for result in ["answered", "no_answer", "unreachable", "silence", "not_taken", "stale_epoch", "other_store"] {
            each(CALLS, &[("call", of_call(call)), ("result", result)]);
        }
    }
    each(CALLS, &[("call", of_call(Call::Prepare)), ("result", "refused")]);
    each(RETRIES, &[("participant", OTHER)]);
    for answer in ["commit", "abort", "presumed_abort", "pending", "not_my_log", "forgotten", "unknown", "refused"] {
        each(INQUIRIES, &[("answer", answer)]);
    }
}

/// The metric that says which participant keeps the horizon where it is, as text. It is written here, as a label of the
/// recorder would stay for ever.
pub(super) fn horizon_held_by(now: UnixMillis, held_by: Option<&HorizonHeldBy>) -> String {
    let Some(HorizonHeldBy { participant, since, .. }) = held_by else { return String::new() };
    let seconds = now.since(*since).as_secs_f64();
    // A URL has neither quotes nor line ends; a text that was kept by another version might.
    let url = participant.as_str().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!(
        "# HELP {HORIZON_HELD} For how long the horizon has been held by a participant that has not acknowledged the oldest decision.\n\
         # TYPE {HORIZON_HELD} gauge\n{HORIZON_HELD}{{participant=\"{url}\"}} {seconds}\n"
    )
}

pub(super) const fn of_call(call: Call) -> &'static str {
    match call {
        Call::Prepare => "prepare",
        Call::Commit => "commit",
        Call::Abort => "abort",
    }
}

/// As it stands in a transaction's `reason.code`.
pub(super) const fn of_reason(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::Initiator => "initiator",
        ReasonCode::Refused => "refused",
        ReasonCode::Unreachable => "unreachable",
        ReasonCode::ParticipantError => "participant_error",
        ReasonCode::Deadline => "deadline",
        ReasonCode::CoordinatorRestart => "coordinator_restart",
        ReasonCode::Operator => "operator",
    }
}

/// All of them.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    let others = GAUGES.iter().chain(HISTOGRAMS).map(|(name, _, _)| *name);
    COUNTERS.iter().map(|(name, _)| *name).chain(others)
}
