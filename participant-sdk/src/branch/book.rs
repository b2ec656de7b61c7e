//! All branches of a participant, and what it knows of coordinators.
//!
//! Always true: see the [module](super). A coordinator is looked at before a branch is: one that is stale, or says what
//! can't be true, changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Act, Branch, BranchKey, Call, Event, Fate, Known, Lsn, Payload, Record, Refusal, Reply, Saved, State, Step,
    coordinators::{Admitted, Coordinators, Leaves},
};
use crate::protocol::{
    BranchName, Coordinator, CoordinatorId, Decision, Epoch, ParticipantId, TransactionId, UnixMillis, Vote,
};

/// All that a participant knows. Not for two threads at once.
///
/// ```
/// use unanimous_sdk::branch::{Book, Call, Event, Refusal, Saved};
/// use unanimous_sdk::protocol::{Coordinator, TransactionId, UnixMillis};
/// let mut book = Book::restore(Saved::default());
/// let step = book.step(Event::Told {
///     from: Coordinator {
///         id: "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap(),
///         epoch: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
///         url: "http://127.0.0.1:7070".into(),
///         horizon: TransactionId::NIL,
///     },
///     transaction: "01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap(),
///     branch: "debit".parse().unwrap(),
///     call: Call::Commit,
///     meant_for: None,
///     now: UnixMillis(1_689_000_000_000),
/// });
/// // Nothing is known of the branch, and even that is told only when the coordinator's epoch is durable.
/// assert_eq!(step.answer, Err(Refusal::UnknownBranch));
/// assert!(step.forced && Some(step.after) == step.lsn);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Book {
    participant_id: Option<ParticipantId>,
    coordinators: Coordinators,
    branches: BTreeMap<BranchKey, Branch>,
    appended: Lsn,
}

/// What one step writes.
#[derive(Default)]
pub(super) struct Entry {
    /// The place it will have, if there is something to write.
    pub(super) lsn: Lsn,
    pub(super) records: Vec<Record>,
    pub(super) forced: bool,
    fate: Fate,
}

impl Entry {
    /// A branch whose new state is told only when it is durable.
    fn force(&mut self, key: &BranchKey, branch: &mut Branch) {
        branch.lsn = self.lsn;
        self.forced = true;
        self.save(key, branch);
    }

    /// A branch whose new state may be lost.
    fn save(&mut self, key: &BranchKey, branch: &Branch) {
        self.records.push(Record::Branch { key: key.clone(), branch: branch.clone() });
    }
}

type Answer = Result<Reply, Refusal>;

impl Book {
    /// What a participant knows after a start.
    pub fn restore(saved: Saved) -> Self {
        let Saved { participant_id, coordinators, former, mut branches } = saved;
        let mut coordinators = Coordinators::restore(coordinators, former);
        for (key, branch) in &mut branches {
            branch.lsn = Lsn::default();
            coordinators.add_branch(key.coordinator, branch.state == State::Tombstone);
        }
        Self { participant_id, coordinators, branches, appended: Lsn::default() }
    }

    /// Lets any number of coordinators be known: for a participant whose coordinators are configured by name. Otherwise
    /// there are at most 16.
    #[must_use]
    pub fn with_named_coordinators(mut self) -> Self {
        self.coordinators.set_most(usize::MAX);
        self
    }

    /// Returns the id of the store; None for a store that has none.
    pub fn participant_id(&self) -> Option<ParticipantId> {
        self.participant_id
    }

    /// What is known of a branch.
    pub fn branch(&self, key: &BranchKey) -> Option<&Branch> {
        self.branches.get(key)
    }

    /// What is known of a coordinator.
    pub fn coordinator(&self, id: CoordinatorId) -> Option<&Known> {
        self.coordinators.get(id)
    }

    /// The branches that are prepared and not decided, oldest transaction first for each coordinator. Looks at all.
    pub fn in_doubt(&self) -> impl Iterator<Item = (&BranchKey, &Branch)> {
        self.branches.iter().filter(|(_, branch)| branch.state == State::Prepared)
    }

    /// Returns the oldest branches, as many as `most`, that ended as their coordinator decided and that no horizon has
    /// passed. Looks at all.
    pub fn oldest_ended(&self, most: usize) -> Vec<BranchKey> {
        let mut oldest = BTreeSet::new();
        for (key, branch) in &self.branches {
            let is_ended = matches!(branch.state, State::Committed | State::Aborted(_)) && branch.resolved.is_none();
            if is_ended && !self.is_below_horizon(key) {
                oldest.insert((key.transaction, key));
                if oldest.len() > most {
                    oldest.pop_last();
                }
            }
        }
        oldest.into_iter().map(|(_, key)| key.clone()).collect()
    }

    /// Carries one event out.
    pub fn step(&mut self, event: Event) -> Step {
        let mut entry = Entry { lsn: Lsn(self.appended.0 + 1), ..Entry::default() };
        let (mut about, mut superseded) = (None, None);
        let answer = match event {
            Event::Told { from, transaction, branch, call, meant_for, now } => match (self.participant_id, meant_for) {
                // Before all else: of what is meant for another store nothing is kept.
                (Some(mine), Some(other)) if mine != other => Err(Refusal::Misdirected { participant_id: mine }),
                (_, _) => {
                    let key = about.insert(BranchKey { coordinator: from.id, transaction, branch });
                    self.told(from, key, call, now, &mut entry)
                }
            },
            Event::Announced { from, lowest, now } => {
                self.coordinators.judge(&from, lowest, Leaves::More, now).map(|()| Reply::Nothing)
            }
            Event::Learned { key, asked, decision } => Ok(self.learned(about.insert(key), asked, decision)),
            Event::Own { key, act } => self.own(about.insert(key), act, &mut entry),
            Event::Superseded { coordinator, epoch, now } => {
                superseded = Some(coordinator);
                self.coordinators.supersede(coordinator, epoch, now, &mut entry).map(|()| Reply::Nothing)
            }
        };
        let about = about.as_ref();
        let (written, after) = (!entry.records.is_empty(), self.after(&answer, about, superseded));
        if written {
            self.appended = entry.lsn;
        }
        let Entry { lsn, records, forced, fate } = entry;
        Step { records, lsn: written.then_some(lsn), forced, fate, answer, after }
    }

    /// What must be durable before an answer may leave: the epoch it is given under, and the vote or end it tells of.
    fn after(&self, answer: &Answer, about: Option<&BranchKey>, superseded: Option<CoordinatorId>) -> Lsn {
        let coordinator = match answer {
            Err(Refusal::StaleEpoch { coordinator, .. }) => Some(*coordinator),
            Ok(_) | Err(_) => about.map(|key| key.coordinator).or(superseded),
        };
        let epoch = coordinator.and_then(|id| self.coordinators.epoch(id)).map_or(Lsn::default(), |(_, lsn)| lsn);
        let branch = about.and_then(|key| self.branches.get(key)).map_or(Lsn::default(), |branch| branch.lsn);
        match answer {
            // Nothing of the message was kept, and nothing is told of what is.
            Err(Refusal::Implausible { .. } | Refusal::Misdirected { .. } | Refusal::TooManyCoordinators) => {
                Lsn::default()
            }
            Ok(Reply::Voted(_) | Reply::Committed) | Err(Refusal::IsCommitted | Refusal::IsAborted { .. }) => {
                epoch.max(branch)
            }
            Ok(Reply::Work | Reply::Effect(_) | Reply::Wait | Reply::Refused(_) | Reply::Aborted | Reply::Nothing)
            | Err(Refusal::StaleEpoch { .. } | Refusal::PayloadDiffers | Refusal::UnknownBranch | Refusal::NameUsed) => {
                epoch
            }
        }
    }

    fn told(&mut self, from: Coordinator, key: &BranchKey, call: Call, now: UnixMillis, entry: &mut Entry) -> Answer {
        let (epoch, horizon) = (from.epoch, from.horizon);
        // An answer of the coordinator's, to an enlistment, may have a horizon above its transaction.
        let lowest = (call != Call::Open).then_some(key.transaction);
        let leaves = if call == Call::Abort { Leaves::Tombstone } else { Leaves::More };
        self.coordinators.judge(&from, lowest, leaves, now)?;
        self.meet(from, leaves, now, entry);
        match call {
            Call::Prepare { payload, late } => self.prepare(key, epoch, payload, late, now, entry),
            Call::Commit => self.commit(key),
            Call::Abort => self.abort(key, epoch, entry),
            Call::Open => self.open(key, epoch, horizon, now),
        }
    }

    /// Notes who speaks: keeps a higher epoch, forgets what lies below the horizon.
    fn meet(&mut self, from: Coordinator, leaves: Leaves, now: UnixMillis, entry: &mut Entry) {
        let id = from.id;
        let Admitted { displaced, moved, is_changed } = self.coordinators.admit(from, leaves, now, entry);
        let forgotten = moved.map_or_else(Vec::new, |horizon| {
            self.of_coordinator(id)
                .take_while(|(key, _)| key.transaction < horizon)
                .filter(|(_, branch)| branch.state.has_ended())
                .map(|(key, _)| key.clone())
                .collect()
        });
        // The horizon is written no later than what is forgotten because of it: in the same entry.
        if is_changed || !forgotten.is_empty() {
            let known = self.coordinators.get(id).cloned();
            entry.records.extend(known.map(|known| Record::Coordinator { id, known }));
        }
        let tombstones = displaced.into_iter().flat_map(|id| self.of_coordinator(id).map(|(key, _)| key.clone()));
        for key in forgotten.into_iter().chain(tombstones.collect::<Vec<_>>()) {
            self.remove(&key);
            entry.records.push(Record::Forgotten { key });
        }
    }

    /// Returns the branches of a coordinator, oldest transaction first.
    fn of_coordinator(&self, id: CoordinatorId) -> impl Iterator<Item = (&BranchKey, &Branch)> {
        let lowest = BranchKey { coordinator: id, transaction: TransactionId::NIL, branch: BranchName::numbered(0) };
        self.branches.range(lowest..).take_while(move |(key, _)| key.coordinator == id)
    }

    fn insert(&mut self, key: &BranchKey, branch: Branch) {
        self.coordinators.add_branch(key.coordinator, branch.state == State::Tombstone);
        self.branches.insert(key.clone(), branch);
    }

    fn remove(&mut self, key: &BranchKey) {
        if let Some(branch) = self.branches.remove(key) {
            self.coordinators.remove_branch(key.coordinator, branch.state == State::Tombstone);
        }
    }

    fn is_below_horizon(&self, key: &BranchKey) -> bool {
        self.coordinators.get(key.coordinator).is_some_and(|known| key.transaction < known.horizon)
    }

    fn prepare(
        &mut self,
        key: &BranchKey,
        epoch: Epoch,
        payload: Option<Payload>,
        late: bool,
        now: UnixMillis,
        entry: &mut Entry,
    ) -> Answer {
        let digest = payload.as_ref().map(|payload| payload.digest);
        let Some(branch) = self.branches.get_mut(key) else {
            return Ok(self.prepare_first(key, epoch, payload, late, now, entry));
        };
        // Of a tombstone no payload is known: nothing to compare with.
        if branch.state != State::Tombstone && branch.digest != digest {
            return Err(Refusal::PayloadDiffers);
        }
        match branch.state.clone() {
            State::Open => Ok(branch.abort("a prepare came before its work was finished")),
            State::Held(_) if late => Ok(branch.abort("its deadline has passed")),
            State::Held(vote) => {
                branch.epoch = epoch;
                Ok(branch.vote(key, vote, entry))
            }
            State::Working | State::Aborting(_) => Ok(Reply::Wait),
            State::Prepared | State::Committing | State::Committed => Ok(Reply::Voted(Vote::Prepared)),
            State::ReadOnly => Ok(Reply::Voted(Vote::ReadOnly)),
            State::Refused(why) | State::Aborted(why) => Ok(Reply::Refused(why)),
            State::Tombstone => Ok(Reply::Refused("it was aborted before".to_owned())),
        }
    }

    fn prepare_first(
        &mut self,
        key: &BranchKey,
        epoch: Epoch,
        payload: Option<Payload>,
        late: bool,
        now: UnixMillis,
        entry: &mut Entry,
    ) -> Reply {
        let below = self.is_below_horizon(key);
        let why = if below {
            "its transaction is finished"
        } else if late {
            "its deadline has passed"
        } else if payload.is_none() {
            "it came without a payload, and no work is held for it"
        } else {
            let digest = payload.as_ref().map(|payload| payload.digest);
            let branch = Branch { digest, payload, ..Branch::new(State::Working, epoch, now) };
            self.insert(key, branch);
            return Reply::Work;
        };
        // Below the horizon every repeat is refused alike: nothing need be kept.
        if !below {
            let digest = payload.map(|payload| payload.digest);
            let state = State::Refused(why.to_owned());
            let branch = Branch { digest, ..Branch::new(state, epoch, now) };
            entry.save(key, &branch);
            self.insert(key, branch);
        }
        Reply::Refused(why.to_owned())
    }

    fn commit(&mut self, key: &BranchKey) -> Answer {
        let Some(branch) = self.branches.get_mut(key) else { return Err(Refusal::UnknownBranch) };
        match &branch.state {
            // It never voted, so whose vote was counted? What the coordinator means is not what is here.
            State::Open | State::Held(_) => Err(Refusal::UnknownBranch),
            State::Prepared => Ok(branch.decide(Decision::Commit)),
            State::Working | State::Committing | State::Aborting(_) => Ok(Reply::Wait),
            State::Committed | State::ReadOnly => Ok(Reply::Committed),
            State::Refused(why) | State::Aborted(why) => Err(Refusal::IsAborted { why: why.clone() }),
            State::Tombstone => Err(Refusal::IsAborted { why: "it was aborted before".to_owned() }),
        }
    }

    fn abort(&mut self, key: &BranchKey, epoch: Epoch, entry: &mut Entry) -> Answer {
        let Some(branch) = self.branches.get_mut(key) else {
            // Below the horizon no prepare is taken any more: no tombstone is needed.
            if !self.is_below_horizon(key) {
                let branch = Branch::new(State::Tombstone, epoch, UnixMillis::default());
                entry.save(key, &branch);
                self.insert(key, branch);
            }
            return Ok(Reply::Aborted);
        };
        match branch.state {
            State::Open | State::Held(_) | State::Working | State::Prepared => Ok(branch.decide(Decision::Abort)),
            State::Committing | State::Aborting(_) => Ok(Reply::Wait),
            State::Committed => Err(Refusal::IsCommitted),
            State::ReadOnly | State::Refused(_) | State::Aborted(_) | State::Tombstone => Ok(Reply::Aborted),
        }
    }

    fn open(&mut self, key: &BranchKey, epoch: Epoch, horizon: TransactionId, now: UnixMillis) -> Answer {
        if self.branches.contains_key(key) {
            return Err(Refusal::NameUsed);
        }
        // Also where that horizon is too far ahead of the clock to be kept.
        if self.is_below_horizon(key) || key.transaction < horizon {
            return Err(Refusal::IsAborted { why: "its transaction is finished".to_owned() });
        }
        self.insert(key, Branch::new(State::Open, epoch, now));
        Ok(Reply::Work)
    }

    /// An inquiry's answer counts only for a branch in doubt, and only if no higher epoch has been met since it was asked.
    fn learned(&mut self, key: &BranchKey, asked: Epoch, decision: Decision) -> Reply {
        if self.coordinators.get(key.coordinator).is_none_or(|known| known.epoch > asked) {
            return Reply::Nothing;
        }
        match self.branches.get_mut(key) {
            Some(branch) if branch.state == State::Prepared => branch.decide(decision),
            Some(_) | None => Reply::Nothing,
        }
    }

    fn own(&mut self, key: &BranchKey, act: Act, entry: &mut Entry) -> Answer {
        let below = self.is_below_horizon(key);
        let Some(branch) = self.branches.get_mut(key) else {
            return match act {
                Act::Worked(_) | Act::Failed | Act::Resolve { .. } | Act::GiveUp(_) | Act::Effected => {
                    Ok(Reply::Nothing)
                }
                Act::Hold(_) | Act::Vote(_) => Err(Refusal::UnknownBranch),
            };
        };
        match (act, branch.state.clone()) {
            (Act::Worked(Err(why)), State::Working) => {
                branch.payload = None;
                branch.state = State::Refused(why.clone());
                entry.save(key, branch);
                entry.fate = Fate::Discard;
                Ok(Reply::Refused(why))
            }
            (Act::Failed, State::Working) => {
                self.remove(key);
                entry.fate = Fate::Discard;
                Ok(Reply::Nothing)
            }
            (Act::Hold(_) | Act::Vote(_), State::Open | State::Held(_)) if below => {
                Ok(branch.abort("its transaction is finished"))
            }
            (Act::Hold(vote), State::Open) => {
                branch.state = State::Held(vote);
                Ok(Reply::Nothing)
            }
            (Act::Worked(Ok(vote)), State::Working) | (Act::Vote(vote), State::Open | State::Held(_)) => {
                Ok(branch.vote(key, vote, entry))
            }
            (Act::Vote(_), State::Prepared | State::Committing | State::Committed) => Ok(Reply::Voted(Vote::Prepared)),
            (Act::Vote(_), State::ReadOnly) => Ok(Reply::Voted(Vote::ReadOnly)),
            (Act::Hold(_) | Act::Vote(_), State::Aborting(why) | State::Aborted(why) | State::Refused(why)) => {
                Err(Refusal::IsAborted { why })
            }
            (Act::Resolve { decision, reason }, State::Prepared) => Ok(branch.resolve(decision, reason)),
            (Act::GiveUp(why), State::Open | State::Held(_) | State::Working) => Ok(branch.abort(why)),
            (Act::Effected, State::Committing) => {
                (branch.state, branch.payload) = (State::Committed, None);
                entry.force(key, branch);
                entry.fate = Fate::Publish;
                Ok(Reply::Committed)
            }
            (Act::Effected, State::Aborting(why)) => {
                (branch.state, branch.payload) = (State::Aborted(why), None);
                // Forced only if nobody could say it again; but who is told that it ended against the decision hears it
                // when it is durable.
                entry.forced |= branch.resolved.is_some();
                branch.lsn = entry.lsn;
                entry.save(key, branch);
                entry.fate = Fate::Discard;
                Ok(Reply::Aborted)
            }
            // What comes too late, or twice, changes nothing. Every act and state is named: a new one must find its place.
            (
                Act::Worked(_)
                | Act::Failed
                | Act::Hold(_)
                | Act::Vote(_)
                | Act::Resolve { .. }
                | Act::GiveUp(_)
                | Act::Effected,
                State::Open
                | State::Held(_)
                | State::Working
                | State::Prepared
                | State::ReadOnly
                | State::Refused(_)
                | State::Committing
                | State::Committed
                | State::Aborting(_)
                | State::Aborted(_)
                | State::Tombstone,
            ) => Ok(Reply::Nothing),
        }
    }
}

impl Branch {
    fn vote(&mut self, key: &BranchKey, vote: Vote, entry: &mut Entry) -> Reply {
        match vote {
            Vote::Prepared => {
                self.state = State::Prepared;
                entry.fate = Fate::Stage;
            }
            Vote::ReadOnly => {
                (self.state, self.payload) = (State::ReadOnly, None);
                entry.fate = Fate::Discard;
            }
        }
        entry.force(key, self);
        Reply::Voted(vote)
    }

    fn decide(&mut self, decision: Decision) -> Reply {
        match decision {
            Decision::Commit => {
                self.state = State::Committing;
                Reply::Effect(Decision::Commit)
            }
            Decision::Abort => self.abort("its transaction was aborted"),
        }
    }

    fn resolve(&mut self, decision: Decision, reason: String) -> Reply {
        let reply = match decision {
            Decision::Commit => self.decide(decision),
            Decision::Abort => self.abort(&format!("an operator ended it by hand: {reason}")),
        };
        self.resolved = Some(reason);
        reply
    }

    fn abort(&mut self, why: &str) -> Reply {
        self.state = State::Aborting(why.to_owned());
        Reply::Effect(Decision::Abort)
    }
}
