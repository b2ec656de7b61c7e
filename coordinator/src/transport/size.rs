//! Upper bounds of what calls take in the body of a request. A participant takes bodies of [`MAX_CALL_BYTES`], so a
//! message is measured before it is added to a batch, and a payload before it is taken.
//!
//! # Invariants
//!
//! - No body is longer than its bound: `transport::tests::bodies_are_never_longer_than_their_bounds`.

use serde_json::value::RawValue;
use unanimous_sdk::protocol::{BranchName, MAX_CALL_BYTES};

/// A UUID as text.
const UUID: usize = 36;

/// The longest number of 64 bits.
const NUMBER: usize = 20;

/// A time as text: to the millisecond, in UTC.
const TIME: usize = 30;

/// The longest name of a branch.
const NAME: usize = 64;

/// What a batch has around its messages, but for the coordinator's URL.
const BATCH: usize = r#"{"coordinator":{"id":"","epoch":"","url":,"horizon":""},"messages":[]}"#.len() + 3 * UUID;

/// What a call has beside the branch's name, the payload and the trace context, with the comma behind it.
const CALL: usize = r#"{"call":"prepare","transaction":"","branch":"","participant_id":"","payload":,"#.len()
    + r#""deadline":"","remaining_ms":,"traceparent":},"#.len()
    + 2 * UUID
    + TIME
    + NUMBER;

/// Returns at most how many bytes a call takes in a batch, without what surrounds all of them.
pub(crate) fn max_message_bytes(branch: &BranchName, payload: Option<&RawValue>, traceparent: Option<&str>) -> usize {
    let payload = payload.map_or(0, |payload| payload.get().len());
    CALL + branch.as_str().len() + payload + traceparent.map_or(0, json_string_bytes)
}

/// Returns how many bytes the calls of a batch may take together, by [`max_message_bytes`].
pub(crate) fn max_batch_bytes(coordinator_url: &str) -> usize {
    MAX_CALL_BYTES.saturating_sub(max_envelope_bytes(coordinator_url))
}

/// Returns at most how many bytes a body has beside its calls.
pub(crate) fn max_envelope_bytes(coordinator_url: &str) -> usize {
    BATCH + json_string_bytes(coordinator_url)
}

/// Returns how long a payload may be so that it surely fits into a prepare. None as name: it is not known yet.
pub(crate) fn max_payload_bytes(coordinator_url: &str, branch: Option<&BranchName>) -> usize {
    let name = branch.map_or(NAME, |branch| branch.as_str().len());
    max_batch_bytes(coordinator_url).saturating_sub(CALL + name)
}

/// Returns how long a text is as JSON, its quotes included.
fn json_string_bytes(text: &str) -> usize {
    let bytes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    });
    2 + bytes.sum::<usize>()
}
