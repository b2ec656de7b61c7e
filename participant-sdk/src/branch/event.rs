//! What can happen to a branch, and what follows from it.

use crate::protocol::{
    BranchName, Coordinator, CoordinatorId, Decision, Epoch, ParticipantId, TransactionId, UnixMillis, Vote,
};

use super::{BranchKey, Lsn, Payload, Record};

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Event {
    /// A coordinator says something about a branch: by a call, or in its answer to an enlistment ([`Call::Open`]).
    /// `meant_for`: the store that the call names. `now`: the present time, by which epoch and horizon are bounded.
    Told {
        from: Coordinator,
        transaction: TransactionId,
        branch: BranchName,
        call: Call,
        meant_for: Option<ParticipantId>,
        now: UnixMillis,
    },
    /// A coordinator sends several messages at once, the lowest of whose transactions is `lowest`. Judged before the first
    /// of them is carried out, and changes nothing.
    Announced { from: Coordinator, lowest: Option<TransactionId>, now: UnixMillis },
    /// The answer to an inquiry that named the epoch `asked`.
    Learned { key: BranchKey, asked: Epoch, decision: Decision },
    /// Something happened here.
    Own { key: BranchKey, act: Act },
    /// A coordinator answered that this is its present epoch.
    Superseded { coordinator: CoordinatorId, epoch: Epoch, now: UnixMillis },
}

/// What a coordinator says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Call {
    /// `late`: its deadline has passed.
    Prepare {
        payload: Option<Payload>,
        late: bool,
    },
    Commit,
    Abort,
    /// The branch is enlisted, its work begins, on the application's own calls.
    Open,
}

/// What happens here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Act {
    /// The work that a prepare brought is done, or refused with a reason.
    Worked(Result<Vote, String>),
    /// The application failed over that work: as if the prepare hadn't come.
    Failed,
    /// The work on the application's own calls is done; the vote waits to be asked for.
    Hold(Vote),
    /// … and is given unasked.
    Vote(Vote),
    /// An operator ends it by hand: one that is in doubt, and no other.
    Resolve { decision: Decision, reason: String },
    /// It is given up: its deadline has passed, or the application has let it go. Whoever voted is not touched by it.
    GiveUp(&'static str),
    /// The application has carried its own part of the decision out.
    Effected,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// Let the application do the work, then report [`Act::Worked`] or [`Act::Failed`].
    Work,
    /// Stop work that is under way, let the application carry out its own part of this decision, report
    /// [`Act::Effected`], then step the same event again.
    Effect(Decision),
    /// Step the same event again once the branch has moved on.
    Wait,
    /// The vote.
    Voted(Vote),
    /// A vote to abort, and why.
    Refused(String),
    /// It is committed.
    Committed,
    /// It is aborted.
    Aborted,
    /// Nothing.
    Nothing,
}

/// What the protocol doesn't allow. The branch is as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Refusal {
    /// A higher epoch of that coordinator is known.
    StaleEpoch { coordinator: CoordinatorId, epoch: Epoch },
    /// This member of the message can't be true: an epoch far ahead of the clock, or a horizon above what it speaks of.
    Implausible { field: &'static str },
    /// The message is meant for another store than this one.
    Misdirected { participant_id: ParticipantId },
    /// As many coordinators as may be are known, and of each a branch is kept.
    TooManyCoordinators,
    /// A prepare with another payload than the first.
    PayloadDiffers,
    /// A commit for a branch of whose vote there is no trace.
    UnknownBranch,
    /// A commit, or more work, for a branch that is aborted.
    IsAborted { why: String },
    /// An abort for a branch that is committed.
    IsCommitted,
    /// A branch is opened under a name that was used before.
    NameUsed,
}

/// What becomes of a branch's work in the store, in the same entry as the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Nothing yet.
    #[default]
    Unchanged,
    /// It is kept with the vote, and its locks.
    Stage,
    /// What was staged appears.
    Publish,
    /// It vanishes.
    Discard,
}

/// What follows from an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// What changes of what is saved: one entry. Empty for a repeat.
    pub records: Vec<Record>,
    /// The entry's place; None without records.
    pub lsn: Option<Lsn>,
    /// Whether the entry is to be forced to disk now. Otherwise it may ride with the next.
    pub forced: bool,
    /// What becomes of the branch's work.
    pub fate: Fate,
    /// What is to be done or answered.
    pub answer: Result<Reply, Refusal>,
    /// What must be durable before that may be seen outside.
    pub after: Lsn,
}
