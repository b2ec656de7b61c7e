//! What happens to a transaction, and what follows.
//!
//! Always true: commit is decided only when every branch has voted; nothing that shows a decision is sent or told before
//! the decision's record may be durable: each command names the record it waits for.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use unanimous_sdk::protocol::{
    AbortAnswer, AcknowledgedState, BranchName, CommitAnswer, Decision, ParticipantId, ParticipantUrl, PrepareAnswer,
    UnixMillis, Vote,
};

use super::{Branch, BranchState, Decided, Heard, Key, Lsn, Payload, Reason, ReasonCode, Record, State, Transaction};

/// The longest text of a participant that is kept, in bytes.
const MAX_DETAIL: usize = 1024;

/// Something that happens to a transaction. Branches that answer are named by their place, as they were called.
#[derive(Clone, Debug)]
pub enum Event {
    /// A participant is enlisted, and may vote with the same call.
    Enlist {
        /// As the enlister chose; None: the next free number.
        name: Option<BranchName>,
        /// Whose the branch is.
        participant: ParticipantUrl,
        /// The work to be done at prepare.
        payload: Option<Payload>,
        /// A vote that comes with it.
        vote: Option<StoreVote>,
        /// The most branches a transaction may have.
        most: usize,
    },
    /// An unsolicited vote.
    Vote {
        /// Whose.
        branch: BranchName,
        /// What, and of which store.
        vote: StoreVote,
    },
    /// The initiator asks for the commit.
    Commit,
    /// Somebody asks for the abort: the initiator or an operator.
    Abort(Reason),
    /// The deadline has passed.
    DeadlinePassed,
    /// The coordinator was restarted.
    Restarted,
    /// A participant answered prepare, and named its store if that has an id.
    PrepareAnswered(usize, PrepareAnswer, Option<ParticipantId>),
    /// A call of phase one wasn't answered.
    NotAnswered(usize, Heard),
    /// A participant answered commit.
    CommitAnswered(usize, CommitAnswer),
    /// A participant answered abort.
    AbortAnswered(usize, AbortAnswer),
    /// A vote that came unasked was too late. (One that was asked for is a [`Event::PrepareAnswered`].)
    VotedLate(usize),
    /// The abort of a branch was not acknowledged for so long that its delivery is to end.
    GiveUp {
        /// Its place.
        branch: usize,
        /// Whether other stores than the one that voted answer at its URL.
        other_store: bool,
    },
    /// A participant says unasked that it has obeyed.
    Acknowledged {
        /// Its branch.
        branch: BranchName,
        /// How the branch ended.
        state: AcknowledgedState,
        /// The store, if it has an id.
        participant_id: Option<ParticipantId>,
    },
}

/// A vote to commit, and the store that gave it, if that has an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct StoreVote {
    pub vote: Vote,
    pub participant_id: Option<ParticipantId>,
}

impl From<Vote> for StoreVote {
    /// Returns the vote of a store without an id.
    fn from(vote: Vote) -> Self {
        Self { vote, participant_id: None }
    }
}

/// A call to a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Call {
    Prepare,
    Commit,
    Abort,
}

/// The two phases of two-phase commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Votes are gathered.
    One,
    /// The decision is told.
    Two,
}

impl Call {
    /// The phase it belongs to.
    pub const fn phase(self) -> Phase {
        match self {
            Self::Prepare => Phase::One,
            Self::Commit | Self::Abort => Phase::Two,
        }
    }
}

/// How far the log must have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Barrier {
    /// The kernel must have this entry: it survives the death of the process.
    pub written: Lsn,
    /// The disk must have this entry: it survives the loss of power.
    pub durable: Lsn,
}

impl Barrier {
    /// Nothing needs to be waited for.
    pub const NONE: Self = Self { written: Lsn(0), durable: Lsn(0) };

    /// The kernel must have this entry.
    pub const fn written(lsn: Lsn) -> Self {
        Self { written: lsn, durable: Lsn(0) }
    }

    /// The disk must have this entry.
    pub const fn durable(lsn: Lsn) -> Self {
        Self { written: Lsn(0), durable: lsn }
    }
}

/// Something to be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Append this record under this number.
    Append(Lsn, Record),
    /// The transaction has finished: append its last entry under this number.
    Finish(Lsn),
    /// Call the participant of this branch, again and again until it answers or the branch is at another call.
    Send {
        /// Its place.
        branch: usize,
        /// What.
        call: Call,
        /// When it may leave.
        after: Barrier,
    },
    /// Tell those who wait for the decision.
    Tell {
        /// When they may be told.
        after: Barrier,
    },
    /// Tell those who wait for the end.
    TellEnd {
        /// When they may be told.
        after: Barrier,
    },
}

/// What an event led to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Something changed, and this is to be done.
    Changed(Vec<Command>),
    /// A repeat, or something that makes no difference any more.
    Unchanged,
}

/// Why an event can't happen to a transaction as it is. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NotAllowed {
    /// Too late to enlist or to vote.
    NotActive,
    /// The branch is there with another participant or payload, or has voted otherwise.
    BranchConflict(BranchName),
    /// There is no branch of this name.
    UnknownBranch(BranchName),
    /// It has as many branches as a transaction may have.
    TooManyBranches,
    /// The decision is commit.
    Committed,
    /// The decision is abort.
    Aborted,
    /// There is no decision yet that could be acknowledged.
    NotDecided,
    /// An answer to a call that was never made.
    Misplaced,
}

/// What the log gives to a step: its next places, and the time that decisions are stamped with.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// The number of the next entry.
    pub next: Lsn,
    /// The sequence of the next decision.
    pub sequence: u64,
    /// The present time.
    pub now: UnixMillis,
}

impl Log {
    fn take(&mut self) -> Lsn {
        let lsn = self.next;
        self.next.0 += 1;
        lsn
    }
}

impl Transaction {
    /// A new transaction with these branches: its beginning, and the name each branch got.
    ///
    /// A branch without a name gets its number, or the next that is free after the chosen ones. A name twice is an error.
    pub fn begin(
        metadata: BTreeMap<String, String>,
        deadline: UnixMillis,
        keys: Vec<Key>,
        branches: Vec<(Option<BranchName>, ParticipantUrl, Option<Payload>)>,
        created_at: UnixMillis,
        log: &mut Log,
    ) -> Result<(Self, Vec<Command>), NotAllowed> {
        let mut taken = BTreeSet::new();
        for name in branches.iter().filter_map(|(name, _, _)| name.as_ref()) {
            if !taken.insert(name.clone()) {
                return Err(NotAllowed::BranchConflict(name.clone()));
            }
        }
        let mut made: Vec<Branch> = Vec::with_capacity(branches.len());
        for (name, participant, payload) in branches {
            let name = name.unwrap_or_else(|| free_name(made.len(), &taken));
            taken.insert(name.clone());
            made.push(Branch::enlisted(name, participant, payload));
        }
        let transaction = Self {
            state: State::Active,
            branches: made,
            decided: None,
            metadata: Arc::new(metadata),
            created_at,
            deadline,
            finished_at: None,
            keys,
            records: 1,
        };
        let append = Command::Append(log.take(), Record::Begun(transaction.without_payloads()));
        Ok((transaction, vec![append]))
    }

    /// Carries an event out.
    pub fn step(&mut self, event: Event, log: &mut Log) -> Result<Step, NotAllowed> {
        match event {
            Event::Enlist { name, participant, payload, vote, most } => {
                self.enlist(name, participant, payload, vote, most, log)
            }
            Event::Vote { branch, vote } => self.vote(&branch, vote, log),
            Event::VotedLate(at) => self.voted_late(at, log),
            Event::Commit => self.commit(log),
            Event::Abort(reason) => match self.state {
                State::Active | State::Preparing => Ok(self.decide(Decision::Abort, Some(reason), log)),
                State::Aborting | State::Aborted => Ok(Step::Unchanged),
                State::Committing | State::Committed => Err(NotAllowed::Committed),
            },
            Event::DeadlinePassed => match self.state {
                State::Active | State::Preparing => {
                    let reason = self.missing();
                    Ok(self.decide(Decision::Abort, Some(reason), log))
                }
                State::Committing | State::Committed | State::Aborting | State::Aborted => Ok(Step::Unchanged),
            },
            Event::Restarted => Ok(self.restarted(log)),
            Event::PrepareAnswered(at, answer, store) => self.prepare_answered(at, answer, store, log),
            Event::GiveUp { branch, other_store } => self.give_up(branch, other_store, log),
            Event::Acknowledged { branch, state, participant_id } => {
                self.acknowledged_unasked(&branch, state, participant_id, log)
            }
            Event::NotAnswered(at, heard) => self.not_answered(at, heard),
            Event::CommitAnswered(at, answer) => {
                let (end, detail) = match answer {
                    CommitAnswer::Committed => (BranchState::Committed, None),
                    CommitAnswer::HeuristicAbort { detail } => (BranchState::HeuristicAbort, detail),
                    CommitAnswer::UnknownBranch => (BranchState::HeuristicUnknown, None),
                };
                self.acknowledged(at, BranchState::Committing, end, detail, log)
            }
            Event::AbortAnswered(at, answer) => {
                let (end, detail) = match answer {
                    AbortAnswer::Aborted => (BranchState::Aborted, None),
                    AbortAnswer::HeuristicCommit { detail } => (BranchState::HeuristicCommit, detail),
                };
                self.acknowledged(at, BranchState::Aborting, end, detail, log)
            }
        }
    }

    /// Binds a call's key to what has come of it. It is as durable as the next decision.
    pub fn bind(&mut self, key: Key, log: &mut Log) -> Command {
        let mut commands = vec![];
        self.record(Record::Keyed(key), log, &mut commands);
        commands.remove(0)
    }

    fn enlist(
        &mut self,
        name: Option<BranchName>,
        participant: ParticipantUrl,
        payload: Option<Payload>,
        vote: Option<StoreVote>,
        most: usize,
        log: &mut Log,
    ) -> Result<Step, NotAllowed> {
        if let Some((_, there)) = name.as_ref().and_then(|name| self.branch(name)) {
            let same = there.participant == participant && there.payload_digest == payload.as_ref().map(|p| p.digest);
            let name = there.name.clone();
            if !same {
                return Err(NotAllowed::BranchConflict(name));
            }
            return vote.map_or(Ok(Step::Unchanged), |vote| self.vote(&name, vote, log));
        }
        match self.state {
            State::Active => {}
            State::Preparing | State::Committing | State::Committed | State::Aborting | State::Aborted => {
                return Err(NotAllowed::NotActive);
            }
        }
        if self.branches.len() >= most {
            return Err(NotAllowed::TooManyBranches);
        }
        let taken = || self.branches.iter().map(|branch| branch.name.clone()).collect();
        let name = name.unwrap_or_else(|| free_name(self.branches.len(), &taken()));
        let branch = Branch::enlisted(name, participant, payload);
        let mut commands = vec![];
        // The record has no payload, the branch in memory has.
        self.record(Record::Enlisted(branch.without_payload()), log, &mut commands);
        let at = self.branches.len() - 1;
        self.branches[at] = branch;
        if let Some(vote) = vote {
            self.count(at, vote, log, &mut commands);
        }
        Ok(Step::Changed(commands))
    }

    fn vote(&mut self, name: &BranchName, vote: StoreVote, log: &mut Log) -> Result<Step, NotAllowed> {
        let (at, branch) = self.branch(name).ok_or_else(|| NotAllowed::UnknownBranch(name.clone()))?;
        match branch.vote {
            // Another store must not hear that its vote counts.
            Some(counted) if counted == vote.vote && !branch.is_other_store(vote.participant_id) => {
                return Ok(Step::Unchanged);
            }
            Some(_) => return Err(NotAllowed::BranchConflict(name.clone())),
            None => {}
        }
        match self.state {
            State::Active => {
                let mut commands = vec![];
                self.count(at, vote, log, &mut commands);
                Ok(Step::Changed(commands))
            }
            State::Preparing => Ok(self.voted(at, vote, log)),
            State::Committing | State::Committed | State::Aborting | State::Aborted => Err(NotAllowed::NotActive),
        }
    }

    fn commit(&mut self, log: &mut Log) -> Result<Step, NotAllowed> {
        match self.state {
            State::Active => {
                self.state = State::Preparing;
                if self.all_voted() {
                    return Ok(self.decide(Decision::Commit, None, log));
                }
                let mut commands = vec![];
                for (at, branch) in self.branches.iter_mut().enumerate() {
                    if branch.vote.is_none() {
                        branch.state = BranchState::Preparing;
                        commands.push(Command::Send { branch: at, call: Call::Prepare, after: Barrier::NONE });
                    }
                }
                Ok(Step::Changed(commands))
            }
            State::Preparing | State::Committing | State::Committed => Ok(Step::Unchanged),
            State::Aborting | State::Aborted => Err(NotAllowed::Aborted),
        }
    }

    fn restarted(&mut self, log: &mut Log) -> Step {
        let call = match self.state {
            // An enlistment or a vote may have been lost with the power, so nothing undecided can go on.
            State::Active | State::Preparing => {
                let reason = Reason { code: ReasonCode::CoordinatorRestart, detail: None, branch: None };
                return self.decide(Decision::Abort, Some(reason), log);
            }
            State::Committing => Call::Commit,
            State::Aborting => Call::Abort,
            State::Committed | State::Aborted => return Step::Unchanged,
        };
        let mut commands = self.sends(call, Barrier::NONE);
        self.finish_if_done(log, &mut commands);
        Step::Changed(commands)
    }

    fn prepare_answered(
        &mut self,
        at: usize,
        answer: PrepareAnswer,
        participant_id: Option<ParticipantId>,
        log: &mut Log,
    ) -> Result<Step, NotAllowed> {
        let branch = self.branches.get(at).ok_or(NotAllowed::Misplaced)?;
        match (self.state, branch.vote) {
            (State::Active, _) => Err(NotAllowed::Misplaced),
            (State::Preparing, None) => match answer {
                PrepareAnswer::Vote(vote) => Ok(self.voted(at, StoreVote { vote, participant_id }, log)),
                PrepareAnswer::Refused { reason } => {
                    let name = branch.name.clone();
                    let reason = Reason { code: ReasonCode::Refused, detail: cut(reason), branch: Some(name) };
                    // The decision's record holds the refusal, too.
                    self.branches[at].state = BranchState::Refused;
                    self.branches[at].detail.clone_from(&reason.detail);
                    Ok(self.decide(Decision::Abort, Some(reason), log))
                }
            },
            // The first vote stands; after the decision an answer is too late.
            (State::Preparing, Some(_)) => Ok(Step::Unchanged),
            (State::Committing | State::Committed | State::Aborting | State::Aborted, _) => match answer {
                PrepareAnswer::Vote(_) => self.voted_late(at, log),
                PrepareAnswer::Refused { .. } => Ok(Step::Unchanged),
            },
        }
    }

    /// Keeps that a branch has voted after all: then it may be in doubt, and its abort is delivered for as long as it takes.
    fn voted_late(&mut self, at: usize, log: &mut Log) -> Result<Step, NotAllowed> {
        let branch = self.branches.get(at).ok_or(NotAllowed::Misplaced)?;
        if branch.state != BranchState::Aborting || branch.vote.is_some() || branch.voted_late {
            return Ok(Step::Unchanged);
        }
        let mut commands = vec![];
        self.record(Record::VotedLate { branch: place(at) }, log, &mut commands);
        Ok(Step::Changed(commands))
    }

    /// Ends the delivery of an abort. A branch that voted is given up only if its own store is not there any more: such a
    /// branch can never commit, and if it is prepared somewhere, it asks and is told abort.
    fn give_up(&mut self, at: usize, other_store: bool, log: &mut Log) -> Result<Step, NotAllowed> {
        let branch = self.branches.get(at).ok_or(NotAllowed::Misplaced)?;
        let voted = branch.vote.is_some() || branch.voted_late;
        if branch.state != BranchState::Aborting || (voted && !other_store) {
            return Ok(Step::Unchanged);
        }
        let mut commands = vec![];
        self.record(Record::GaveUp { branch: place(at) }, log, &mut commands);
        self.finish_if_done(log, &mut commands);
        Ok(Step::Changed(commands))
    }

    fn acknowledged_unasked(
        &mut self,
        name: &BranchName,
        state: AcknowledgedState,
        participant_id: Option<ParticipantId>,
        log: &mut Log,
    ) -> Result<Step, NotAllowed> {
        let (at, branch) = self.branch(name).ok_or_else(|| NotAllowed::UnknownBranch(name.clone()))?;
        if branch.is_other_store(participant_id) {
            return Err(NotAllowed::BranchConflict(name.clone()));
        }
        let decided = self.decided.as_ref().ok_or(NotAllowed::NotDecided)?;
        let end = match (decided.decision, state) {
            (Decision::Commit, AcknowledgedState::Committed) => BranchState::Committed,
            (Decision::Abort, AcknowledgedState::Aborted) => BranchState::Aborted,
            (Decision::Commit | Decision::Abort, _) => return Err(NotAllowed::BranchConflict(name.clone())),
        };
        if !branch.state.is_being_told() && !branch.given_up {
            return Ok(Step::Unchanged);
        }
        let mut commands = vec![];
        let record = Record::Acknowledged { branch: place(at), state: end, detail: None };
        self.record(record, log, &mut commands);
        self.finish_if_done(log, &mut commands);
        Ok(Step::Changed(commands))
    }

    fn not_answered(&mut self, at: usize, heard: Heard) -> Result<Step, NotAllowed> {
        let state = self.state;
        let branch = self.branches.get_mut(at).ok_or(NotAllowed::Misplaced)?;
        if state == State::Preparing && branch.vote.is_none() && branch.heard != Some(heard) {
            branch.heard = Some(heard);
            return Ok(Step::Changed(vec![]));
        }
        Ok(Step::Unchanged)
    }

    fn acknowledged(
        &mut self,
        at: usize,
        told: BranchState,
        end: BranchState,
        detail: Option<String>,
        log: &mut Log,
    ) -> Result<Step, NotAllowed> {
        let branch = self.branches.get(at).ok_or(NotAllowed::Misplaced)?;
        match branch.state {
            state if state == told => {}
            // It was given up, and answers after all.
            BranchState::Aborted if branch.given_up && told == BranchState::Aborting => {}
            BranchState::Enlisted | BranchState::Preparing | BranchState::Prepared => {
                return Err(NotAllowed::Misplaced);
            }
            BranchState::Committing | BranchState::Aborting => return Err(NotAllowed::Misplaced),
            BranchState::ReadOnly
            | BranchState::Refused
            | BranchState::Committed
            | BranchState::Aborted
            | BranchState::HeuristicCommit
            | BranchState::HeuristicAbort
            | BranchState::HeuristicUnknown => return Ok(Step::Unchanged),
        }
        let mut commands = vec![];
        let record = Record::Acknowledged { branch: place(at), state: end, detail: cut(detail) };
        self.record(record, log, &mut commands);
        self.finish_if_done(log, &mut commands);
        Ok(Step::Changed(commands))
    }

    /// Counts a vote in phase one, and decides if it was the last.
    fn voted(&mut self, at: usize, vote: StoreVote, log: &mut Log) -> Step {
        let last = self.branches.iter().enumerate().all(|(i, branch)| i == at || branch.vote.is_some());
        if last {
            // The decision's record holds this vote, too.
            self.branches[at].take(vote.vote, vote.participant_id);
            return self.decide(Decision::Commit, None, log);
        }
        let mut commands = vec![];
        self.count(at, vote, log, &mut commands);
        Step::Changed(commands)
    }

    /// Logs a vote.
    fn count(
        &mut self,
        at: usize,
        StoreVote { vote, participant_id }: StoreVote,
        log: &mut Log,
        commands: &mut Vec<Command>,
    ) {
        self.record(Record::Voted { branch: place(at), vote, participant_id }, log, commands);
    }

    fn all_voted(&self) -> bool {
        self.branches.iter().all(|branch| branch.vote.is_some())
    }

    /// Decides, and tells everybody who is to be told.
    fn decide(&mut self, decision: Decision, reason: Option<Reason>, log: &mut Log) -> Step {
        let before = self.state;
        // Without branches, or if all voted read-only, nothing was changed: no number, and no forced write.
        let changed = self.branches.iter().any(|branch| branch.vote != Some(Vote::ReadOnly));
        let sequence = changed.then_some(log.sequence);
        if changed {
            log.sequence += 1;
        }
        let call = match decision {
            Decision::Commit => Call::Commit,
            Decision::Abort => Call::Abort,
        };
        self.state = match decision {
            Decision::Commit => State::Committing,
            Decision::Abort => State::Aborting,
        };
        for branch in &mut self.branches {
            branch.payload = None;
            branch.state = match (branch.state, decision) {
                (BranchState::Prepared, Decision::Commit) => BranchState::Committing,
                (BranchState::Enlisted | BranchState::Preparing | BranchState::Prepared, _) => BranchState::Aborting,
                (ended, _) => ended,
            };
        }
        let lsn = log.next;
        self.decided = Some(Decided { decision, sequence, reason, at: log.now, lsn, before });
        let after = self.known_after();
        let record = Record::Decided(self.clone());
        let mut commands = vec![Command::Append(log.take(), record), Command::Tell { after }];
        self.records += 1;
        commands.extend(self.sends(call, after));
        self.finish_if_done(log, &mut commands);
        Step::Changed(commands)
    }

    /// Calls every branch that is to be told.
    fn sends(&self, call: Call, after: Barrier) -> Vec<Command> {
        let told = self.branches.iter().enumerate().filter(|(_, branch)| branch.state.is_being_told());
        told.map(|(branch, _)| Command::Send { branch, call, after }).collect()
    }

    fn finish_if_done(&mut self, log: &mut Log, commands: &mut Vec<Command>) {
        if self.branches.iter().any(|branch| branch.state.is_being_told()) {
            return;
        }
        self.state = match self.state {
            State::Committing => State::Committed,
            State::Aborting => State::Aborted,
            State::Active | State::Preparing | State::Committed | State::Aborted => return,
        };
        self.finished_at = Some(log.now);
        let lsn = log.take();
        commands.push(Command::Finish(lsn));
        // Whoever hears of the end hears of the decision.
        commands.push(Command::TellEnd { after: Barrier { written: lsn, ..self.known_after() } });
    }

    /// How far the log must have come before anybody outside may know the decision, if there is one.
    pub fn known_after(&self) -> Barrier {
        match &self.decided {
            Some(decided) if decided.sequence.is_some() || !self.keys.is_empty() => Barrier::durable(decided.lsn),
            Some(decided) => Barrier::written(decided.lsn),
            None => Barrier::NONE,
        }
    }

    /// Why the deadline passed without a decision: by the first branch whose vote is missing.
    fn missing(&self) -> Reason {
        let missing = self.branches.iter().find(|branch| branch.vote.is_none());
        let code = match missing.and_then(|branch| branch.heard) {
            Some(Heard::Unreachable) => ReasonCode::Unreachable,
            Some(Heard::Error) => ReasonCode::ParticipantError,
            None => ReasonCode::Deadline,
        };
        let detail = match (self.state, missing) {
            (State::Preparing, Some(_)) => "a vote was missing at the deadline",
            _ => "the commit was not asked for before the deadline",
        };
        let branch = missing.filter(|_| self.state == State::Preparing).map(|branch| branch.name.clone());
        Reason { code, detail: Some(detail.to_owned()), branch }
    }

    /// Appends a record and carries it out.
    fn record(&mut self, record: Record, log: &mut Log, commands: &mut Vec<Command>) {
        let fits = self.apply(&record);
        debug_assert!(fits.is_ok(), "a step makes only records that fit");
        commands.push(Command::Append(log.take(), record));
    }

    fn without_payloads(&self) -> Self {
        let mut copy = self.clone();
        for branch in &mut copy.branches {
            branch.payload = None;
        }
        copy
    }
}

impl Branch {
    fn enlisted(name: BranchName, participant: ParticipantUrl, payload: Option<Payload>) -> Self {
        Self {
            name,
            participant,
            payload_digest: payload.as_ref().map(|payload| payload.digest),
            state: BranchState::Enlisted,
            vote: None,
            participant_id: None,
            voted_late: false,
            given_up: false,
            detail: None,
            attempts: 0,
            payload: payload.map(|payload| payload.text),
            heard: None,
        }
    }

    fn without_payload(&self) -> Self {
        Self { payload: None, ..self.clone() }
    }

    pub(super) fn take(&mut self, vote: Vote, participant_id: Option<ParticipantId>) {
        self.vote = Some(vote);
        self.participant_id = participant_id;
        self.state = match vote {
            Vote::Prepared => BranchState::Prepared,
            Vote::ReadOnly => BranchState::ReadOnly,
        };
        self.payload = None;
    }
}

/// The name of a branch that came without one, after `before` others: its number, or the next that is not taken.
fn free_name(before: usize, taken: &BTreeSet<BranchName>) -> BranchName {
    let mut numbers = (before + 1..).map(BranchName::numbered);
    numbers.find(|name| !taken.contains(name)).expect("there are more numbers than branches")
}

fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a transaction has fewer than 2^32 branches")
}

/// At most [`MAX_DETAIL`] bytes of a text that came from a participant.
fn cut(text: Option<String>) -> Option<String> {
    text.map(|mut text| {
        let mut end = MAX_DETAIL.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    })
}
