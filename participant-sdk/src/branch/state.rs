//! What a participant knows: of its branches, and of the coordinators it has met.
//!
//! Always true: what is [`Saved`] is only what [`Record`]s have put there; `Open`, `Held`, `Working`, `Committing` and
//! `Aborting` live in memory alone, so a crash turns them into what was saved before.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::protocol::{BranchName, CoordinatorId, Epoch, ParticipantId, TransactionId, UnixMillis, Vote};

/// A place in the order of this process's entries, from 1. Zero is before them all: what an earlier process wrote.
///
/// ```
/// use unanimous_sdk::branch::Lsn;
/// assert!(Lsn::default() < Lsn(1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Which branch of which coordinator's which transaction. Ordered by coordinator, then by age of the transaction.
///
/// ```
/// use unanimous_sdk::branch::BranchKey;
/// let key = BranchKey {
///     coordinator: "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap(),
///     transaction: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
///     branch: "debit".parse().unwrap(),
/// };
/// assert_eq!(key.to_string(), "01890a5d-ac96-774b-bcce-b302099a8057/debit");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BranchKey {
    pub coordinator: CoordinatorId,
    pub transaction: TransactionId,
    pub branch: BranchName,
}

impl fmt::Display for BranchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.transaction, self.branch)
    }
}

/// The work of a branch as its prepare brought it. Two are the same work when their digests are equal.
///
/// ```
/// use unanimous_sdk::branch::Payload;
/// let payload = Payload::parse(r#"{"account": "alice", "cents": 5}"#).unwrap();
/// let same = Payload::parse(r#"{"cents":5,"account":"alice"}"#).unwrap();
/// assert_eq!(payload.digest, same.digest);
/// assert!(Payload::parse(r#"{"cents": 5, "cents": 6}"#).is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Payload {
    /// A digest of its canonical form.
    pub digest: u128,
    /// The JSON text as it was given.
    #[serde(with = "shared_text")]
    pub text: Arc<str>,
}

/// A text behind an `Arc`, as a plain text.
mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(from).map(Into::into)
    }
}

impl Payload {
    /// The payload of this JSON text; None when it is not JSON, or has a member twice.
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = crate::protocol::canonical_json(text)?;
        Some(Self { digest: xxhash_rust::xxh3::xxh3_128(canonical.as_bytes()), text: text.into() })
    }
}

/// Where a branch stands. Only the states that [`State::is_saved`] names are ever on disk.
///
/// ```
/// use unanimous_sdk::{branch::State, protocol::Vote};
/// assert!(State::Prepared.is_saved() && !State::Held(Vote::Prepared).is_saved());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// The application works in it, on its own calls.
    Open,
    /// That work is done; the vote is this, once it is asked for.
    Held(Vote),
    /// The application does the work that a prepare brought.
    Working,
    /// It voted to commit, and obeys whatever is decided.
    Prepared,
    /// It voted, and takes no part in what follows.
    ReadOnly,
    /// It voted to abort: nothing of it is left but this reason.
    Refused(String),
    /// The decision is known, the application carries its own part of it out.
    Committing,
    /// Committed for good.
    Committed,
    /// It will be aborted, for this reason; the application carries its own part of that out.
    Aborting(String),
    /// Aborted for good, for this reason.
    Aborted(String),
    /// An abort came for it before anything else did.
    Tombstone,
}

impl State {
    /// Whether it may stand on disk.
    pub const fn is_saved(&self) -> bool {
        match self {
            Self::Prepared
            | Self::ReadOnly
            | Self::Refused(_)
            | Self::Committed
            | Self::Aborted(_)
            | Self::Tombstone => true,
            Self::Open | Self::Held(_) | Self::Working | Self::Committing | Self::Aborting(_) => false,
        }
    }

    /// Whether it has ended, so that it may be forgotten once its transaction is below the horizon.
    pub const fn has_ended(&self) -> bool {
        match self {
            Self::ReadOnly | Self::Refused(_) | Self::Committed | Self::Aborted(_) | Self::Tombstone => true,
            Self::Open | Self::Held(_) | Self::Working | Self::Prepared | Self::Committing | Self::Aborting(_) => false,
        }
    }

    /// Its name, as it is shown.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Held(_) => "held",
            Self::Working => "working",
            Self::Prepared => "prepared",
            Self::ReadOnly => "read_only",
            Self::Refused(_) => "refused",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::Aborting(_) => "aborting",
            Self::Aborted(_) => "aborted",
            Self::Tombstone => "tombstone",
        }
    }
}

/// One branch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Branch {
    /// Where it stands.
    pub state: State,
    /// The digest of the first prepare's payload; None if its work came on the application's own calls.
    pub digest: Option<u128>,
    /// The work itself, until the branch has ended.
    pub payload: Option<Payload>,
    /// The epoch under which it was last heard of before its vote: the one under which it was prepared.
    pub epoch: Epoch,
    /// When its work began.
    pub since: UnixMillis,
    /// The reason for which an operator ended it by hand; None for every other branch.
    pub resolved: Option<String>,
    /// The last entry of it whose survival was or will be told, or that ends it.
    #[serde(skip)]
    pub lsn: Lsn,
}

impl Branch {
    pub(super) fn new(state: State, epoch: Epoch, since: UnixMillis) -> Self {
        Self { state, digest: None, payload: None, epoch, since, resolved: None, lsn: Lsn::default() }
    }
}

/// What is known of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Known {
    /// The highest epoch seen.
    pub epoch: Epoch,
    /// Every transaction with a lower id is finished.
    pub horizon: TransactionId,
    /// The URL last heard from it: there it is asked.
    pub url: String,
    /// The entry that holds the epoch.
    #[serde(skip)]
    pub lsn: Lsn,
}

/// What stays of a coordinator that gave its place to another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Former {
    /// The highest epoch seen.
    pub epoch: Epoch,
    /// Every transaction with a lower id is finished.
    pub horizon: TransactionId,
    /// Its place in the order in which coordinators gave theirs up.
    pub order: u64,
    /// The entry that holds the epoch.
    #[serde(skip)]
    pub lsn: Lsn,
}

/// One change of what is saved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Record {
    /// What is known of a coordinator is this now.
    Coordinator { id: CoordinatorId, known: Known },
    /// A coordinator gave up its place, and this stays of it.
    Former { id: CoordinatorId, former: Former },
    /// Nothing stays of a coordinator that gave up its place long ago.
    ForgottenCoordinator { id: CoordinatorId },
    /// A branch is this now.
    Branch { key: BranchKey, branch: Branch },
    /// A branch below the horizon isn't needed any more.
    Forgotten { key: BranchKey },
}

/// All that survives a crash, as records have made it.
///
/// ```
/// use unanimous_sdk::branch::{Book, Saved};
/// let book = Book::restore(Saved::default());
/// assert_eq!(book.in_doubt().count(), 0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Saved {
    /// The id of the store; None for a store that has none.
    pub participant_id: Option<ParticipantId>,
    pub coordinators: BTreeMap<CoordinatorId, Known>,
    pub former: BTreeMap<CoordinatorId, Former>,
    pub branches: BTreeMap<BranchKey, Branch>,
}

impl Saved {
    /// Carries one record out.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Coordinator { id, known } => {
                self.former.remove(&id);
                self.coordinators.insert(id, known);
            }
            Record::Former { id, former } => {
                self.coordinators.remove(&id);
                self.former.insert(id, former);
            }
            Record::ForgottenCoordinator { id } => {
                self.former.remove(&id);
            }
            Record::Branch { key, branch } => {
                self.branches.insert(key, branch);
            }
            Record::Forgotten { key } => {
                self.branches.remove(&key);
            }
        }
    }
}
