//! Enlisting, voting, committing and aborting: what initiators and participants ask of a transaction.

use std::sync::Arc;

use unanimous_sdk::protocol::{
    AcknowledgedState, BranchName, CoordinatorRef, ParticipantId, ParticipantUrl, TransactionId, UnixMillis,
};

use super::{Engine, Milestone, NewKey, Now, Output, Refusal, Refused, Waiting};
use crate::{
    journal::{Entry, Lsn},
    transaction::{
        Barrier, Event, Key, KeyedCall, Log, NotAllowed, Payload, Reason, State, Step, StoreVote, Transaction,
    },
};

/// A participant to be enlisted.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Enlist {
    pub name: Option<BranchName>,
    pub participant: ParticipantUrl,
    pub payload: Option<Payload>,
    /// A vote that comes with it, and the epoch it was given under.
    pub vote: Option<(StoreVote, CoordinatorRef)>,
    pub key: Option<NewKey>,
}

/// A participant that was enlisted.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Enlisted {
    pub name: BranchName,
    /// False: it was enlisted already.
    pub new: bool,
    pub deadline: UnixMillis,
    pub remaining_ms: u64,
    /// Whether the call was a repeat under its key.
    pub replayed: bool,
    /// When it may be told.
    pub barrier: Barrier,
}

/// What a participant says unasked of a decision that it has carried out.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Acknowledgement {
    pub branch: BranchName,
    pub state: AcknowledgedState,
    pub participant_id: Option<ParticipantId>,
    pub coordinator: CoordinatorRef,
}

impl Engine {
    /// Enlists a participant in a live transaction.
    pub fn enlist(&mut self, now: Now, id: TransactionId, enlist: Enlist) -> Result<Enlisted, Refused> {
        self.refuse_if_superseded()?;
        if let Some((_, named)) = &enlist.vote {
            self.check_present(named)?;
        }
        self.expire(now, id);
        let path = KeyedCall::Enlist { branch: BranchName::numbered(1), new: true };
        let bound = self.bound(id, enlist.key.as_ref(), &path)?;
        if let (Some(Key { call: KeyedCall::Enlist { branch, new }, .. }), Some(live)) = (bound, self.live.get(&id)) {
            return Ok(Enlisted {
                name: branch,
                new,
                deadline: live.transaction.deadline,
                remaining_ms: live.deadline.saturating_sub(now.mono),
                replayed: true,
                barrier: Barrier::written(Lsn(self.next_lsn.0 - 1)),
            });
        }
        self.refuse_if_disk_full(id, enlist.name.as_ref())?;
        if let (Some(_), Some(name)) = (&enlist.vote, &enlist.name) {
            self.note_late_vote(now, id, name);
        }
        let most = self.limits.branches;
        let key = enlist.key.clone();
        let (event, chosen, participant) = enlist.into_event(most);
        let first = self.next_lsn;
        let before = self.live.get(&id).map_or(0, |live| live.transaction.branches.len());
        let undecided = self.is_undecided(id);
        self.ask(now, id, event)?;
        self.heard_from(now, &participant);
        let Some(live) = self.live.get(&id) else { return Err(Refused::new(Refusal::NotLive)) };
        let last = live.transaction.branches.last().map(|branch| branch.name.clone());
        let name = chosen.or(last).ok_or_else(|| Refused::new(Refusal::NotLive))?;
        let new = live.transaction.branches.len() > before;
        if undecided {
            self.bind(id, key, KeyedCall::Enlist { branch: name.clone(), new });
        }
        let barrier = self.since(first);
        let Some(live) = self.live.get(&id) else { return Err(Refused::new(Refusal::NotLive)) };
        Ok(Enlisted {
            name,
            new,
            replayed: false,
            deadline: live.transaction.deadline,
            remaining_ms: live.deadline.saturating_sub(now.mono),
            barrier,
        })
    }

    /// Takes an unsolicited vote in a live transaction.
    pub fn vote(
        &mut self,
        now: Now,
        id: TransactionId,
        branch: &BranchName,
        vote: StoreVote,
        named: &CoordinatorRef,
        key: Option<NewKey>,
    ) -> Result<(Barrier, bool), Refused> {
        self.refuse_if_superseded()?;
        self.check_present(named)?;
        self.expire(now, id);
        let first = self.next_lsn;
        let call = KeyedCall::Vote(branch.clone());
        if self.bound(id, key.as_ref(), &call)?.is_some() {
            return Ok((Barrier::written(Lsn(first.0 - 1)), true));
        }
        self.note_late_vote(now, id, branch);
        let undecided = self.is_undecided(id);
        self.ask(now, id, Event::Vote { branch: branch.clone(), vote })?;
        if undecided {
            self.bind(id, key, call);
        }
        let participant = self
            .live
            .get(&id)
            .and_then(|live| live.transaction.branch(branch))
            .map(|(_, branch)| branch.participant.clone());
        let barrier = self.since(first);
        if let Some(participant) = participant {
            self.heard_from(now, &participant);
        }
        Ok((barrier, false))
    }

    /// Starts the commit of a live transaction and waits for it to come as far as wanted.
    pub fn commit(
        &mut self,
        now: Now,
        id: TransactionId,
        wanted: Milestone,
        traceparent: Option<Arc<str>>,
        key: Option<NewKey>,
    ) -> Result<(Waiting, bool), Refused> {
        self.refuse_if_superseded()?;
        self.expire(now, id);
        let replayed = self.bound(id, key.as_ref(), &KeyedCall::Commit)?.is_some();
        // Before the decision, so that it is as durable as that. A call that finds it decided binds none.
        if !replayed && self.is_undecided(id) {
            self.bind(id, key, KeyedCall::Commit);
        }
        if let Some(live) = self.live.get_mut(&id)
            && live.transaction.state == State::Active
        {
            live.traceparent = traceparent;
        }
        self.ask(now, id, Event::Commit)?;
        let waiting = self.wait(now, id, wanted).ok_or_else(|| Refused::new(Refusal::NotLive))?;
        Ok((waiting, replayed))
    }

    /// Aborts a live transaction and waits for the decision.
    pub fn abort(
        &mut self,
        now: Now,
        id: TransactionId,
        reason: Reason,
        key: Option<NewKey>,
    ) -> Result<(Waiting, bool), Refused> {
        self.refuse_if_superseded()?;
        self.expire(now, id);
        let replayed = self.bound(id, key.as_ref(), &KeyedCall::Abort)?.is_some();
        if !replayed && self.is_undecided(id) {
            self.bind(id, key, KeyedCall::Abort);
        }
        self.ask(now, id, Event::Abort(reason))?;
        let waiting = self.wait(now, id, Milestone::Decided).ok_or_else(|| Refused::new(Refusal::NotLive))?;
        Ok((waiting, replayed))
    }

    /// Takes what a participant says unasked: that it has obeyed. The answer may be given when the log has come as far as the
    /// barrier: nobody would say it again.
    pub fn acknowledge(&mut self, now: Now, id: TransactionId, told: &Acknowledgement) -> Result<Barrier, Refused> {
        self.refuse_if_superseded()?;
        self.check_present(&told.coordinator)?;
        self.expire(now, id);
        let Some(live) = self.live.get(&id) else { return Err(Refused::new(Refusal::NotLive)) };
        // Its last record is appended: what comes now belongs to the finished transaction.
        if live.transaction.state.is_finished() {
            return Err(Refused::new(Refusal::NotLive));
        }
        if live.transaction.decided.is_some() && !self.gates.is_open(live.transaction.known_after()) {
            return Err(Refused::new(Refusal::NotAllowed(NotAllowed::NotDecided)));
        }
        let event =
            Event::Acknowledged { branch: told.branch.clone(), state: told.state, participant_id: told.participant_id };
        let at = live.transaction.branch(&told.branch).map(|(at, _)| at);
        let delivery = at.and_then(|at| self.delivery_in_place(id, at));
        if self.ask(now, id, event)? {
            self.end_delivery(delivery);
        }
        Ok(self.durable_so_far())
    }

    /// Puts a finished transaction in the place of what the log has of it. The answer may be given at the barrier.
    pub fn amend(&mut self, id: TransactionId, transaction: Transaction) -> Result<Barrier, Refused> {
        self.refuse_if_superseded()?;
        let lsn = self.next_lsn;
        self.next_lsn.0 += 1;
        self.outputs.push(Output::Append(lsn, Entry::Amended { id, transaction: Arc::new(transaction) }));
        Ok(self.durable_so_far())
    }

    /// A barrier that opens when all that was appended so far is written.
    pub fn written_so_far(&mut self) -> Barrier {
        self.hurry = true;
        Barrier::written(Lsn(self.next_lsn.0 - 1))
    }

    /// A barrier that opens when all that was appended so far is durable; forces it if nothing else will.
    pub fn durable_so_far(&mut self) -> Barrier {
        let last = Lsn(self.next_lsn.0 - 1);
        if self.gates.progress().durable >= last {
            return Barrier::NONE;
        }
        if self.checkpointed < last {
            self.checkpoint();
        }
        Barrier::durable(Lsn(self.next_lsn.0 - 1))
    }

    fn is_undecided(&self, id: TransactionId) -> bool {
        self.live.get(&id).is_some_and(|live| live.transaction.state.is_undecided())
    }

    /// A vote comes for a branch that is being aborted: its participant is prepared, and may be in doubt.
    fn note_late_vote(&mut self, now: Now, id: TransactionId, name: &BranchName) {
        let at = self.live.get(&id).and_then(|live| live.transaction.branch(name)).map(|(at, _)| at);
        if let Some(at) = at {
            let _ = self.feed(now, id, Event::VotedLate(at));
        }
    }

    /// Feeds what somebody outside asks for; says whether it changed something.
    fn ask(&mut self, now: Now, id: TransactionId, event: Event) -> Result<bool, Refused> {
        let Some(live) = self.live.get(&id) else { return Err(Refused::new(Refusal::NotLive)) };
        // What it is refused for may be a decision that nobody may know yet.
        let known_after = live.transaction.known_after();
        let refused = |why| Refused { why: Refusal::NotAllowed(why), tell_after: known_after };
        self.feed(now, id, event).map_err(refused)
    }

    /// When an answer may be given that shows what has been appended since `first`.
    fn since(&self, first: Lsn) -> Barrier {
        if self.next_lsn > first { Barrier::written(Lsn(self.next_lsn.0 - 1)) } else { Barrier::NONE }
    }

    /// A branch that is there already, or can't be enlisted any more, has its answer all the same.
    fn refuse_if_disk_full(&self, id: TransactionId, name: Option<&BranchName>) -> Result<(), Refused> {
        let Some(live) = self.live.get(&id) else { return Ok(()) };
        let is_there = name.is_some_and(|name| live.transaction.branch(name).is_some());
        if self.disk_full && live.transaction.state == State::Active && !is_there {
            return Err(Refused::new(Refusal::DiskFull));
        }
        Ok(())
    }

    /// An unsolicited vote counts only under the present epoch.
    pub fn check_present(&self, named: &CoordinatorRef) -> Result<(), Refused> {
        if named.id != self.id {
            return Err(Refused::new(Refusal::NotMyLog));
        }
        if named.epoch != self.epoch {
            return Err(Refused::new(Refusal::StaleEpoch { present: self.epoch }));
        }
        Ok(())
    }

    /// Whether anybody waits for a transaction.
    pub fn has_waiters(&self) -> bool {
        self.live.values().any(|live| live.waiters.iter().any(|(_, waiter)| !waiter.is_closed()))
    }

    /// What a live transaction's waiters get when it is asked to tell them all as it is: at the end of the process.
    pub fn release_waiters(&mut self) {
        let ids: Vec<_> = self.live.iter().filter(|(_, live)| !live.waiters.is_empty()).map(|(id, _)| *id).collect();
        for id in ids {
            self.tell(id, Milestone::Finished);
        }
    }
}

impl Enlist {
    fn into_event(self, most: usize) -> (Event, Option<BranchName>, ParticipantUrl) {
        let (chosen, participant) = (self.name.clone(), self.participant.clone());
        let vote = self.vote.map(|(vote, _)| vote);
        (
            Event::Enlist { name: self.name, participant: self.participant, payload: self.payload, vote, most },
            chosen,
            participant,
        )
    }

    /// The same of a transaction that has finished: nothing can change, but what is there already is found.
    pub fn in_finished(self, mut transaction: Transaction, most: usize) -> Result<Enlisted, Refused> {
        let deadline = transaction.deadline;
        let enlisted = |name, new, replayed| {
            Ok(Enlisted { name, new, deadline, remaining_ms: 0, replayed, barrier: Barrier::NONE })
        };
        let path = KeyedCall::Enlist { branch: BranchName::numbered(1), new: true };
        let bound = super::bound_in(&transaction, self.key.as_ref(), &path)?;
        if let Some(Key { call: KeyedCall::Enlist { branch, new }, .. }) = bound {
            return enlisted(branch.clone(), *new, true);
        }
        let (event, chosen, _) = self.into_event(most);
        ask_finished(&mut transaction, event)?;
        let name = chosen.ok_or_else(|| Refused::new(Refusal::NotAllowed(NotAllowed::NotActive)))?;
        enlisted(name, false, false)
    }
}

/// What an acknowledgement makes of a transaction that has finished; None if it changes nothing.
pub fn acknowledge_finished(
    mut transaction: Transaction,
    told: &Acknowledgement,
) -> Result<Option<Transaction>, Refused> {
    let mut log = Log { next: Lsn(0), sequence: 0, now: UnixMillis(0) };
    let event =
        Event::Acknowledged { branch: told.branch.clone(), state: told.state, participant_id: told.participant_id };
    match transaction.step(event, &mut log) {
        Ok(Step::Unchanged) => Ok(None),
        Ok(Step::Changed(_)) => Ok(Some(transaction)),
        Err(why) => Err(Refused::new(Refusal::NotAllowed(why))),
    }
}

/// Feeds an event to a transaction that has finished.
pub fn ask_finished(transaction: &mut Transaction, event: Event) -> Result<(), Refused> {
    let mut log = Log { next: Lsn(0), sequence: 0, now: UnixMillis(0) };
    match transaction.step(event, &mut log) {
        Ok(Step::Unchanged) => Ok(()),
        Ok(Step::Changed(_)) => Err(Refused::new(Refusal::NotAllowed(NotAllowed::Misplaced))),
        Err(why) => Err(Refused::new(Refusal::NotAllowed(why))),
    }
}
