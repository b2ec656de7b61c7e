//! A transaction, as the coordinator shows it.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::protocol::{BranchName, Decision, ParticipantUrl, TransactionId, UnixMillis, Vote};

/// A transaction. Members that a newer coordinator adds are ignored.
///
/// ```
/// use unanimous_sdk::client::Info;
/// let info: Info = serde_json::from_str(r#"{
///     "id": "01890a5d-ac96-774b-bcce-b302099a8057", "state": "committed", "decision": "commit", "sequence": 7,
///     "heuristic": false, "branches": []
/// }"#).unwrap();
/// assert_eq!(info.sequence, Some(7));
/// ```
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Info {
    pub id: TransactionId,
    pub state: String,
    pub decision: Option<Decision>,
    /// Its place in the total order of outcomes; None for what is undecided or changed nothing.
    pub sequence: Option<u64>,
    /// Whether a branch ended against the decision, or nobody knows how.
    #[serde(default)]
    pub heuristic: bool,
    pub reason: Option<Reason>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    pub created_at: Option<UnixMillis>,
    pub deadline: Option<UnixMillis>,
    pub decided_at: Option<UnixMillis>,
    pub finished_at: Option<UnixMillis>,
    #[serde(default)]
    pub branches: Vec<BranchInfo>,
}

/// Why a transaction was aborted.
///
/// ```
/// use unanimous_sdk::client::Reason;
/// let reason: Reason = serde_json::from_str(r#"{"code": "refused", "detail": "overdrawn", "branch": "debit"}"#).unwrap();
/// assert_eq!(reason.code, "refused");
/// ```
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Reason {
    /// `refused`, `deadline`, `initiator` and the like.
    pub code: String,
    pub detail: Option<String>,
    pub branch: Option<BranchName>,
}

/// A branch of a transaction.
///
/// ```
/// use unanimous_sdk::client::BranchInfo;
/// let branch: BranchInfo = serde_json::from_str(r#"{
///     "branch": "debit", "participant": "http://127.0.0.1:8081", "state": "committed", "vote": "prepared", "attempts": 1
/// }"#).unwrap();
/// assert_eq!(branch.state, "committed");
/// ```
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct BranchInfo {
    pub branch: BranchName,
    pub participant: ParticipantUrl,
    pub state: String,
    pub vote: Option<Vote>,
    /// Calls of the present phase.
    #[serde(default)]
    pub attempts: u64,
    pub last_error: Option<String>,
    pub next_attempt_at: Option<UnixMillis>,
}
