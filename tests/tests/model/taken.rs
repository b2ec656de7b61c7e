//! The rules of the protocol, and the defences, that the models can take out, to see that this is found.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Nothing,
    SyncBeforeSend,
    SyncBeforeTell,
    SyncBeforeVote,
    SyncBeforeAcknowledgement,
    SyncBeforeInquiry,
    AbortAtRestart,
    EpochOfVotes,
    HorizonWaits,
    /// P-4.46: a call names the store whose vote was counted.
    StoreOfCall,
    /// P-4.46: an answer of another store is none.
    StoreOfAnswer,
    /// P-5.11: an inquiry of another store is told abort.
    StoreOfInquiry,
    /// P-5.12: the highest dropped id is kept.
    Forgotten,
    /// P-5.12: … in the very write that drops it.
    ForgottenWithTheDrop,
    /// P-5.14: an inquiry names the epoch under which its branch was prepared.
    PreparedEpoch,
    /// P-5.13: a participant acknowledges without being called.
    Acknowledgement,
    /// P-4.31: an abort that nobody acknowledges is given up.
    GiveUp,
    /// P-4.31: a commit never is.
    CommitIsNotGivenUp,
    /// P-4.31: nor is the abort of a branch that voted, while its own store may answer.
    VotedIsNotGivenUp,
    /// P-4.31: a vote that came too late is one all the same.
    LateVoteIsOne,
    /// P-4.31: an inquiry about a branch that was given up makes the coordinator send the abort once more.
    AbortOnceMore,
    /// P-4.31: what was given up is kept beyond retention.
    KeptBeyondRetention,
    /// P-4.18: one participant's 412 stops nobody.
    OneIsNotEnough,
    /// P-4.19: a higher epoch that was named is kept, and the next start has a greater one.
    HigherEpochKept,
}
