//! The bodies of the protocol's messages, and what counts as an answer.
//!
//! An answer counts only with exactly its status, a JSON content type and its members; others beside them are ignored.
//! `parse` gives None for everything else: no answer.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, Serializer, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    AnswerOrigin, BranchName, CoordinatorId, Epoch, ParticipantId, ProblemType, TransactionId, UnixMillis, WithOrigin,
};

/// Who sends a message, as it stands in every one: the coordinator's id, the epoch of its log, the URL at which it is
/// asked about decisions, and its horizon (every transaction with a lower id is finished).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Coordinator {
    pub id: CoordinatorId,
    pub epoch: Epoch,
    pub url: String,
    pub horizon: TransactionId,
}

/// A coordinator and one of its epochs: what an unsolicited vote names. The other members of
/// `/v1/coordinator` may stand beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "CoordinatorRefBody")]
#[allow(missing_docs)]
pub struct CoordinatorRef {
    pub id: CoordinatorId,
    pub epoch: Epoch,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CoordinatorRefBody {
    id: CoordinatorId,
    epoch: Epoch,
    #[serde(rename = "url", default)]
    _url: IgnoredAny,
    #[serde(rename = "horizon", default)]
    _horizon: IgnoredAny,
    // Who asked `/v1/coordinator` may pass on what it got, whole.
    #[serde(rename = "horizon_held_by", default)]
    _horizon_held_by: IgnoredAny,
}

impl From<CoordinatorRefBody> for CoordinatorRef {
    fn from(body: CoordinatorRefBody) -> Self {
        Self { id: body.id, epoch: body.epoch }
    }
}

impl CoordinatorRef {
    /// The coordinator, and its higher epoch, that a participant's `stale-epoch` problem names; None: it is no such problem.
    ///
    /// ```
    /// use unanimous_sdk::protocol::CoordinatorRef;
    /// let body = br#"{"type": "/problems/stale-epoch", "coordinator": "67e55044-10b1-426f-9247-bb680e5fe0c8",
    ///     "epoch": "01890a5d-0000-7000-8000-000000000002"}"#;
    /// let known = CoordinatorRef::of_stale_epoch(412, Some("application/problem+json"), body).unwrap();
    /// assert_eq!(known.epoch.to_string(), "01890a5d-0000-7000-8000-000000000002");
    /// assert_eq!(CoordinatorRef::of_stale_epoch(409, Some("application/problem+json"), body), None);
    /// ```
    pub fn of_stale_epoch(status: u16, content_type: Option<&str>, body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct StaleEpoch<'a> {
            #[serde(borrow)]
            r#type: Cow<'a, str>,
            coordinator: CoordinatorId,
            epoch: Epoch,
        }
        let StaleEpoch { r#type, coordinator, epoch } = object(content_type, body).filter(|_| status == 412)?;
        (r#type == ProblemType::StaleEpoch.reference()).then_some(Self { id: coordinator, epoch })
    }
}

impl From<&Coordinator> for CoordinatorRef {
    fn from(whole: &Coordinator) -> Self {
        Self { id: whole.id, epoch: whole.epoch }
    }
}

/// A vote to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vote {
    /// The work is durable and can be committed or aborted after any crash.
    Prepared,
    /// Nothing was changed; the branch takes no part in phase two.
    ReadOnly,
}

/// What a coordinator decides. Once durable it never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Decision {
    Commit,
    Abort,
}

/// What an inquiry learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Outcome {
    Commit,
    Abort,
    /// Not decided yet: ask again.
    Pending,
}

impl From<Decision> for Outcome {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Commit => Self::Commit,
            Decision::Abort => Self::Abort,
        }
    }
}

/// `POST B/prepare`: do the work, make it durable, vote.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PrepareRequest {
    pub transaction: TransactionId,
    pub branch: BranchName,
    pub coordinator: Coordinator,
    /// The store whose vote was counted, if it has an id: another one answers 421 `misdirected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participant_id: Option<ParticipantId>,
    /// The work, if it wasn't done before on the application's own calls. Absent and null are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    pub deadline: UnixMillis,
    pub remaining_ms: u64,
}

/// `POST B/commit` and `POST B/abort`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DecisionRequest {
    pub transaction: TransactionId,
    pub branch: BranchName,
    pub coordinator: Coordinator,
    /// The store whose vote was counted, if it has an id: another one answers 421 `misdirected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participant_id: Option<ParticipantId>,
}

/// A participant's answer to prepare.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum PrepareAnswer {
    Vote(Vote),
    /// A vote to abort: nothing of the branch is left at the participant.
    Refused {
        reason: Option<String>,
    },
}

/// A participant's answer to commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum CommitAnswer {
    Committed,
    HeuristicAbort {
        detail: Option<String>,
    },
    /// The participant has no trace of the branch.
    UnknownBranch,
}

/// A participant's answer to abort.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum AbortAnswer {
    Aborted,
    HeuristicCommit { detail: Option<String> },
}

/// The body of a JSON answer, if it is an object in a JSON content type.
pub(super) fn object<'a, T: Deserialize<'a>>(content_type: Option<&str>, body: &'a [u8]) -> Option<T> {
    let media = content_type?.split(';').next()?.trim().to_ascii_lowercase();
    let json = media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"));
    // A derived struct would take an array of its members, too.
    let object = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    // Text first: what isn't UTF-8 isn't JSON, not even in members that nobody reads.
    if json && object { serde_json::from_str(std::str::from_utf8(body).ok()?).ok() } else { None }
}

// Each names the members of an [`AnswerOrigin`], too, and does not flatten them: that costs a copy of every member.

#[derive(Serialize, Deserialize)]
struct VoteBody<'a> {
    #[serde(borrow)]
    vote: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transaction: Option<TransactionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    branch: Option<BranchName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    participant_id: Option<ParticipantId>,
}

#[derive(Serialize, Deserialize)]
struct StateBody<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    detail: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transaction: Option<TransactionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    branch: Option<BranchName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    participant_id: Option<ParticipantId>,
}

#[derive(Deserialize)]
struct TypeBody<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(default)]
    transaction: Option<TransactionId>,
    #[serde(default)]
    branch: Option<BranchName>,
    #[serde(default)]
    participant_id: Option<ParticipantId>,
}

impl<'a> VoteBody<'a> {
    fn write<S: Serializer>(
        to: S,
        vote: &'a str,
        reason: Option<&'a str>,
        origin: &AnswerOrigin,
    ) -> Result<S::Ok, S::Error> {
        let AnswerOrigin { transaction, branch, participant_id } = origin.clone();
        Self { vote: vote.into(), reason: reason.map(Into::into), transaction, branch, participant_id }.serialize(to)
    }
}

impl<'a> StateBody<'a> {
    fn write<S: Serializer>(
        to: S,
        state: &'a str,
        detail: Option<&'a str>,
        origin: &AnswerOrigin,
    ) -> Result<S::Ok, S::Error> {
        let AnswerOrigin { transaction, branch, participant_id } = origin.clone();
        Self { state: state.into(), detail: detail.map(Into::into), transaction, branch, participant_id }.serialize(to)
    }
}

impl PrepareAnswer {
    /// Reads an answer; None: it is none.
    pub fn parse(status: u16, content_type: Option<&str>, body: &[u8]) -> Option<Self> {
        Self::parse_with_origin(status, content_type, body).map(|it| it.answer)
    }

    /// Reads an answer, and who gave it to which call; None: it is none.
    pub fn parse_with_origin(status: u16, content_type: Option<&str>, body: &[u8]) -> Option<WithOrigin<Self>> {
        let VoteBody { vote, reason, transaction, branch, participant_id } = object(content_type, body)?;
        let answer = match (status, &*vote) {
            (200, "prepared") => Self::Vote(Vote::Prepared),
            (200, "read_only") => Self::Vote(Vote::ReadOnly),
            (409, "abort") => Self::Refused { reason: reason.map(Cow::into_owned) },
            _ => return None,
        };
        Some(WithOrigin { answer, origin: AnswerOrigin { transaction, branch, participant_id } })
    }

    /// Its status. Its body is what it serializes as.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Vote(_) => 200,
            Self::Refused { .. } => 409,
        }
    }
}

impl PrepareAnswer {
    pub(super) fn write<S: Serializer>(&self, origin: &AnswerOrigin, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Vote(Vote::Prepared) => VoteBody::write(to, "prepared", None, origin),
            Self::Vote(Vote::ReadOnly) => VoteBody::write(to, "read_only", None, origin),
            Self::Refused { reason } => VoteBody::write(to, "abort", reason.as_deref(), origin),
        }
    }
}

impl Serialize for PrepareAnswer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.write(&AnswerOrigin::default(), to)
    }
}

impl CommitAnswer {
    /// Reads an answer; None: it is none. A 404 counts only as the problem `unknown-branch`: any other is a misrouted call.
    pub fn parse(status: u16, content_type: Option<&str>, body: &[u8]) -> Option<Self> {
        Self::parse_with_origin(status, content_type, body).map(|it| it.answer)
    }

    /// Reads an answer, and who gave it to which call; None: it is none.
    pub fn parse_with_origin(status: u16, content_type: Option<&str>, body: &[u8]) -> Option<WithOrigin<Self>> {
        if status == 404 {
            let origin = AnswerOrigin::of_problem(ProblemType::UnknownBranch, status, content_type, body)?;
            return Some(WithOrigin { answer: Self::UnknownBranch, origin });
        }
        let StateBody { state, detail, transaction, branch, participant_id } = object(content_type, body)?;
        let answer = match (status, &*state) {
            (200, "committed") => Self::Committed,
            (409, "heuristic_abort") => Self::HeuristicAbort { detail: detail.map(Cow::into_owned) },
            _ => return None,
        };
        Some(WithOrigin { answer, origin: AnswerOrigin { transaction, branch, participant_id } })
    }

    /// Its status. Its body is what it serializes as.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Committed => 200,
            Self::HeuristicAbort { .. } => 409,
            Self::UnknownBranch => super::ProblemType::UnknownBranch.status(),
        }
    }
}

impl CommitAnswer {
    pub(super) fn write<S: Serializer>(&self, origin: &AnswerOrigin, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Committed => StateBody::write(to, "committed", None, origin),
            Self::HeuristicAbort { detail } => StateBody::write(to, "heuristic_abort", detail.as_deref(), origin),
            Self::UnknownBranch => {
                let what = "there is no trace here of a vote of this branch";
                origin.on(super::Problem::new(ProblemType::UnknownBranch, what)).serialize(to)
            }
        }
    }
}

impl Serialize for CommitAnswer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.write(&AnswerOrigin::default(), to)
    }
}

impl AbortAnswer {
    /// Reads an answer; None: it is none.
    pub fn parse(status: u16, content_type: Option<&str>, body: &[u8]) -> Option<Self> {
        Self::parse_with_origin(status, content_type, body).map(|it| it.answer)
    }

    /// Reads an answer, and who gave it to which call; None: it is none.
    pub fn parse_with_origin(status: u16, content_type: Option<&str>, body: &[u8]) -> Option<WithOrigin<Self>> {
        let StateBody { state, detail, transaction, branch, participant_id } = object(content_type, body)?;
        let answer = match (status, &*state) {
            (200, "aborted") => Self::Aborted,
            (409, "heuristic_commit") => Self::HeuristicCommit { detail: detail.map(Cow::into_owned) },
            _ => return None,
        };
        Some(WithOrigin { answer, origin: AnswerOrigin { transaction, branch, participant_id } })
    }

    /// Its status. Its body is what it serializes as.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Aborted => 200,
            Self::HeuristicCommit { .. } => 409,
        }
    }
}

impl AbortAnswer {
    pub(super) fn write<S: Serializer>(&self, origin: &AnswerOrigin, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Aborted => StateBody::write(to, "aborted", None, origin),
            Self::HeuristicCommit { detail } => StateBody::write(to, "heuristic_commit", detail.as_deref(), origin),
        }
    }
}

impl Serialize for AbortAnswer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.write(&AnswerOrigin::default(), to)
    }
}

impl AnswerOrigin {
    /// Reads what a problem of this kind says of who answered which call; None: the answer is no such problem.
    ///
    /// ```
    /// use unanimous_sdk::protocol::{AnswerOrigin, ProblemType};
    /// let body = br#"{"type": "/problems/misdirected", "participant_id": "67e55044-10b1-426f-9247-bb680e5fe0c8"}"#;
    /// let json = Some("application/problem+json");
    /// assert!(AnswerOrigin::of_problem(ProblemType::Misdirected, 421, json, body).unwrap().participant_id.is_some());
    /// assert!(AnswerOrigin::of_problem(ProblemType::StaleEpoch, 412, json, body).is_none());
    /// ```
    pub fn of_problem(kind: ProblemType, status: u16, content_type: Option<&str>, body: &[u8]) -> Option<Self> {
        let TypeBody { r#type, transaction, branch, participant_id } =
            object(content_type, body).filter(|_| status == kind.status())?;
        (r#type == kind.reference()).then_some(Self { transaction, branch, participant_id })
    }
}

/// The coordinator's answer to an enlistment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct EnlistAnswer {
    pub transaction: TransactionId,
    pub branch: BranchName,
    pub deadline: UnixMillis,
    pub remaining_ms: u64,
    pub coordinator: Coordinator,
}

/// The coordinator's answer to a vote that came unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct VoteAnswer {
    pub transaction: TransactionId,
    pub branch: BranchName,
    pub vote: Vote,
    pub coordinator: Coordinator,
}

/// `POST /v1/transactions/{id}/branches/{branch}/acknowledge`: a participant has ended the branch because of an inquiry's
/// answer, and its end is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AcknowledgeRequest {
    pub state: AcknowledgedState,
    /// The store that ended it, if it has an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participant_id: Option<ParticipantId>,
    /// The present epoch, as for a vote.
    pub coordinator: CoordinatorRef,
}

/// How a branch ended that is acknowledged unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum AcknowledgedState {
    Committed,
    Aborted,
}

/// The coordinator's answer to an acknowledgement: it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct AcknowledgeAnswer {
    pub transaction: TransactionId,
    pub branch: BranchName,
    pub state: AcknowledgedState,
}

/// The coordinator's answer to an inquiry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct InquiryAnswer {
    pub transaction: TransactionId,
    /// The branch that was named; None if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<BranchName>,
    pub decision: Outcome,
    /// Whether it is an abort because the log doesn't know the transaction.
    pub presumed: bool,
    pub coordinator: Coordinator,
}

/// A branch that a participant holds, as `GET B/branches` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct HeldBranch {
    pub transaction: TransactionId,
    pub branch: BranchName,
    pub state: String,
    pub since: UnixMillis,
    pub coordinator: Coordinator,
}

/// The answer to `GET B/branches`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BranchesAnswer {
    pub items: Vec<HeldBranch>,
}
