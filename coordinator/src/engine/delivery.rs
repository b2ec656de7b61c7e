//! Making the calls that transactions ask for, again and again until they are answered.
//!
//! Always true: a branch has at most one call of its present phase under way or waiting; what is called is what the
//! branch needs at the moment the call is made.
//!
//! A call that isn't answered is made again after a pause that doubles from 100 ms to 30 s, with jitter. A participant to
//! which no connection can be made is tried with one call at a time, at least every second. As soon as it answers as it
//! should, everything that waits for it goes out.

use std::sync::Arc;

use rand::RngExt;
use unanimous_sdk::protocol::{ParticipantUrl, TransactionId, UnixMillis};

use super::{
    Engine, Now, Output, Timer, Witness,
    lane::{Down, Lane, Room, Task},
    timers::TimerKey,
};
use crate::{
    transaction::{BranchState, Call, Event, Heard, Phase, State},
    transport::{Attempt, BatchContext, BatchFailure, Message, Request, Returned, max_batch_bytes, max_message_bytes},
};

const FIRST_PAUSE_MS: u64 = 100;
const LONGEST_PAUSE_MS: u64 = 30_000;
const LONGEST_PROBE_PAUSE_MS: u64 = 1_000;

/// How the call that a branch needs stands.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// The call of the present phase.
    call: Option<Call>,
    /// How often it was made.
    pub(super) attempts: u32,
    /// Why it was not answered the last time.
    pub(super) last_error: Option<Arc<str>>,
    /// When it is made again.
    pub(super) next_attempt_at: Option<UnixMillis>,
    failures: u32,
    /// Whether its present pause, or the call after it, came before its time; then it isn't woken again.
    woken: bool,
    /// The last answer came from another store than the one that voted.
    pub(super) other_store: bool,
    pub(super) place: Place,
}

#[derive(Debug, Default, PartialEq)]
pub(super) enum Place {
    /// Nothing is to be sent.
    #[default]
    Nowhere,
    /// In its participant's lane.
    Waiting,
    UnderWay,
    BackingOff(TimerKey),
    /// It is a commit, and its participant has lost its data.
    Held,
}

/// The delivery of a branch that is about to end: where it waits.
#[derive(Debug)]
pub(super) struct InPlace {
    participant: ParticipantUrl,
    id: TransactionId,
    at: usize,
    timer: Option<TimerKey>,
}

impl Engine {
    /// A branch needs a call.
    pub(super) fn deliver(&mut self, now: Now, (id, at, call): Task) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let delivery = &mut live.deliveries[at];
        let participant = live.transaction.branches[at].participant.clone();
        if let Place::BackingOff(timer) = delivery.place {
            self.timers.cancel(timer);
            self.lanes.entry(participant.clone()).or_default().backing_off.remove(&(id, at));
        }
        *delivery = Delivery { call: Some(call), place: Place::Waiting, ..Delivery::default() };
        if call == Call::Commit && self.is_held_back(&participant, id, at) {
            return self.hold(id, at);
        }
        self.lanes.entry(participant.clone()).or_default().wait((id, at, call));
        self.pump(now, &participant);
    }

    /// Makes all calls that may be made to a participant. Those that wait go out together if it takes batches.
    pub(super) fn pump(&mut self, now: Now, participant: &ParticipantUrl) {
        loop {
            let Some(lane) = self.lanes.get_mut(participant) else { return };
            // Only a probe takes from the lane of a participant that is down.
            let Some(room) = lane.room(now.mono) else { break };
            let messages = if room.group {
                let tasks = lane.take_group(room.phase, room.calls);
                tasks.into_iter().filter_map(|task| self.message(now, task)).collect()
            } else {
                self.gather(now, participant, room)
            };
            self.send(participant, room.phase, messages);
        }
        if self.lanes.get(participant).is_some_and(Lane::is_idle) {
            self.lanes.remove(participant);
        }
    }

    /// Takes what waits and fits into one request. Each call is measured before it is taken.
    fn gather(&mut self, now: Now, participant: &ParticipantUrl, Room { phase, calls, .. }: Room) -> Vec<Message> {
        let mut messages = vec![];
        let mut left = max_batch_bytes(&self.url);
        while messages.len() < calls {
            let Some(lane) = self.lanes.get_mut(participant) else { break };
            let Some(task) = lane.peek(phase) else { break };
            if calls > 1 {
                if messages.is_empty() {
                    left = left.min(lane.batches.learned_bytes(now.mono).unwrap_or(left));
                }
                let bytes = self.max_bytes(task);
                // One alone is a single call, and fits.
                if bytes > left && !messages.is_empty() {
                    break;
                }
                left = left.saturating_sub(bytes);
            }
            let _ = self.lanes.get_mut(participant).and_then(|lane| lane.take(phase));
            messages.extend(self.message(now, task));
        }
        messages
    }

    /// Returns at most how many bytes a call takes in a batch.
    fn max_bytes(&self, (id, at, call): Task) -> usize {
        self.live.get(&id).map_or(0, |live| {
            let branch = &live.transaction.branches[at];
            let payload = branch.payload.as_deref().filter(|_| call == Call::Prepare);
            max_message_bytes(&branch.name, payload, live.traceparent.as_deref())
        })
    }

    fn send(&mut self, participant: &ParticipantUrl, phase: Phase, messages: Vec<Message>) {
        if !messages.is_empty() {
            let lane = self.lanes.entry(participant.clone()).or_default();
            lane.sent(phase);
            let bytes = if messages.len() > 1 { messages.iter().map(Message::max_bytes).sum() } else { 0 };
            let batch = lane.batches.context(bytes);
            self.outputs.push(Output::Send(Request { participant: participant.clone(), phase, messages, batch }));
        }
    }

    /// A call, if it is still needed.
    fn message(&mut self, now: Now, (id, at, call): Task) -> Option<Message> {
        if self.ownership.superseded.is_some() {
            return None;
        }
        let held = call == Call::Commit && self.is_task_held_back(id, at);
        let live = self.live.get_mut(&id)?;
        let branch = &live.transaction.branches[at];
        let delivery = &mut live.deliveries[at];
        if delivery.call != Some(call) || delivery.place != Place::Waiting {
            return None;
        }
        if needed(live.transaction.state, branch.state) != Some(call) {
            delivery.place = Place::Nowhere;
            return None;
        }
        if held {
            self.hold(id, at);
            return None;
        }
        delivery.place = Place::UnderWay;
        delivery.attempts = delivery.attempts.saturating_add(1);
        delivery.next_attempt_at = None;
        Some(Message {
            call,
            transaction: id,
            at,
            branch: branch.name.clone(),
            participant_id: branch.participant_id,
            payload: if call == Call::Prepare { branch.payload.clone() } else { None },
            deadline: live.transaction.deadline,
            remaining_ms: live.deadline.saturating_sub(now.mono),
            // Nobody may hear that a transaction is finished from a message about it.
            horizon: self.horizon.present().min(id),
            traceparent: live.traceparent.clone(),
        })
    }

    /// A request has returned, with what came of each of its calls.
    pub fn answered(&mut self, now: Now, returned: Returned) {
        let Returned { participant, phase, attempts, max_batch, batch } = returned;
        let failure = self.learn_of_batches(now, &participant, &attempts, batch, max_batch);
        if let Some(lane) = self.lanes.get_mut(&participant) {
            lane.returned(phase);
        }
        let mut left = vec![];
        for (task, attempt) in attempts {
            let not_taken = matches!(attempt, Attempt::NotTaken(_));
            self.settle(now, &participant, task, attempt);
            if not_taken && self.wait_again(task) {
                left.push(task);
            }
        }
        if let Some(failure) = failure {
            self.lanes.entry(participant.clone()).or_default().take_back(phase, failure, left);
        }
        self.pump(now, &participant);
    }

    /// Learns what an answer says of batches, and returns why it counts for none of its calls, if it was one to a batch.
    fn learn_of_batches(
        &mut self,
        now: Now,
        participant: &ParticipantUrl,
        attempts: &[(Task, Attempt)],
        batch: BatchContext,
        max_batch: Option<usize>,
    ) -> Option<BatchFailure> {
        let failure = attempts.iter().find_map(|(_, attempt)| match attempt {
            Attempt::NotTaken(failure) => Some(*failure),
            _ => None,
        });
        let Some(Lane { batches, .. }) = self.lanes.get_mut(participant) else { return failure };
        match failure {
            Some(BatchFailure::Unsupported) => batches.refused(now.mono, batch),
            Some(BatchFailure::TooLarge) => batches.too_large(now.mono, batch),
            None if attempts.len() > 1 && attempts.iter().any(|(_, attempt)| attempt.is_answer()) => {
                batches.taken(batch);
            }
            Some(BatchFailure::OtherCall) | None => {}
        }
        if let Some(max) = max_batch {
            batches.offered(max);
        }
        failure
    }

    fn settle(&mut self, now: Now, participant: &ParticipantUrl, (id, at, call): Task, attempt: Attempt) {
        self.expire(now, id);
        let reached = !matches!(attempt, Attempt::Unreachable(_));
        if reached
            && let Some(lane) = self.lanes.get_mut(participant)
            && let Some(Down { probe: Some(timer), .. }) = lane.down.take()
        {
            self.timers.cancel(timer);
        }
        if let Attempt::Commit(answer, _) = &attempt
            && !self.takes_commit_answer(participant, id, at, answer)
        {
            return;
        }
        let other_store = matches!(attempt, Attempt::OtherStore { .. });
        let commit = if let Attempt::Commit(answer, _) = &attempt { Some(answer.clone()) } else { None };
        let (event, error) = match attempt {
            Attempt::Prepare(answer, store) => (Some(Event::PrepareAnswered(at, answer, store)), None),
            Attempt::Commit(answer, _) => (Some(Event::CommitAnswered(at, answer)), None),
            Attempt::Abort(answer, _) => {
                if self.has_ended(id, at) {
                    return self.abort_answered_late(now, id, at, answer);
                }
                (Some(Event::AbortAnswered(at, answer)), None)
            }
            Attempt::OtherStore { participant_id } => {
                let who = participant_id.map(|id| format!(": its participant_id is {id}")).unwrap_or_default();
                let why = format!("another participant than the one that voted answers at this URL{who}");
                (heard(call, at, Heard::Error), Some(why))
            }
            Attempt::Unreachable(why) => (heard(call, at, Heard::Unreachable), Some(why)),
            Attempt::NoAnswer(why) => (heard(call, at, Heard::Error), Some(why)),
            Attempt::Silence(why) => (None, Some(why)),
            // It goes out again, at once.
            Attempt::NotTaken(_) => return,
            Attempt::Stale(epoch, participant_id) => {
                let witness = Witness { participant: participant.clone(), participant_id };
                let why = if self.claimed(now, epoch, witness) {
                    format!(
                        "stale-epoch: it knows the higher epoch {epoch} of this coordinator; the coordinator's next start \
                         has a greater one and ends this"
                    )
                } else {
                    format!("stale-epoch: it names the epoch {epoch}, which can't be true: compare the two clocks")
                };
                (heard(call, at, Heard::Error), Some(why))
            }
        };
        // A participant whose failures are over: what else waits for it need not wait its time. (If any good answer would do,
        // one branch that always fails were called as often as all others together.)
        let delivery = self.live.get_mut(&id).and_then(|live| live.deliveries.get_mut(at));
        let was_failing = delivery.is_some_and(|delivery| {
            delivery.other_store = other_store || (delivery.other_store && !reached);
            delivery.call == Some(call) && delivery.failures > 0
        });
        if let Some(event) = event {
            // What it was about may have ended meanwhile; then there is nothing to be said to it.
            let _ = self.feed(now, id, event);
        }
        if let Some(answer) = commit {
            self.learn_from_commit_answer(now, participant, id, at, &answer);
        }
        match error {
            None if was_failing => self.wake(now, participant),
            None => {}
            Some(why) => {
                if !reached {
                    self.down(now, participant);
                }
                self.again(now, (id, at, call), participant, &why);
                if other_store {
                    self.give_up_branch(now, id, at);
                }
            }
        }
    }

    /// Whether nothing more is expected of a branch: it has ended, or its transaction is not live.
    fn has_ended(&self, id: TransactionId, at: usize) -> bool {
        let branch = self.live.get(&id).and_then(|live| live.transaction.branches.get(at));
        branch.is_none_or(|branch| !branch.state.is_being_told())
    }

    /// Returns where the delivery of a branch waits, for [`Engine::end_delivery`] once the branch has ended unasked.
    pub(super) fn delivery_in_place(&self, id: TransactionId, at: usize) -> Option<InPlace> {
        let live = self.live.get(&id)?;
        let timer = match live.deliveries[at].place {
            Place::BackingOff(timer) => Some(timer),
            Place::Nowhere | Place::Waiting | Place::UnderWay | Place::Held => None,
        };
        Some(InPlace { participant: live.transaction.branches[at].participant.clone(), id, at, timer })
    }

    /// Takes the delivery of a branch that has ended unasked from where it waited. (What waits for its turn is looked at when
    /// that comes.)
    pub(super) fn end_delivery(&mut self, delivery: Option<InPlace>) {
        let Some(InPlace { participant, id, at, timer }) = delivery else { return };
        self.forget_try(&participant, id, at);
        if let Some(timer) = timer {
            self.timers.cancel(timer);
            if let Some(lane) = self.lanes.get_mut(&participant) {
                lane.backing_off.remove(&(id, at));
            }
        }
        if let Some(delivery) = self.live.get_mut(&id).and_then(|live| live.deliveries.get_mut(at)) {
            (delivery.place, delivery.next_attempt_at) = (Place::Nowhere, None);
        }
    }

    /// A call was in a batch whose answer doesn't count: it waits again, without a pause. Returns whether it is still needed.
    fn wait_again(&mut self, (id, at, call): Task) -> bool {
        let Some(delivery) = self.live.get_mut(&id).and_then(|live| live.deliveries.get_mut(at)) else { return false };
        let needed = delivery.call == Some(call) && delivery.place == Place::UnderWay;
        if needed {
            delivery.place = Place::Waiting;
        }
        needed
    }

    /// A call wasn't answered: it is made again later.
    fn again(&mut self, now: Now, (id, at, call): Task, participant: &ParticipantUrl, why: &str) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let delivery = &mut live.deliveries[at];
        if delivery.call != Some(call) || delivery.place != Place::UnderWay {
            return;
        }
        delivery.last_error = Some(why.into());
        if needed(live.transaction.state, live.transaction.branches[at].state) != Some(call) {
            delivery.place = Place::Nowhere;
            return;
        }
        let lane = self.lanes.entry(participant.clone()).or_default();
        if lane.down.is_some() {
            delivery.place = Place::Waiting;
            lane.wait((id, at, call));
            return;
        }
        delivery.failures = delivery.failures.saturating_add(1);
        let pause = pause(delivery.failures, LONGEST_PAUSE_MS, &mut self.random);
        delivery.place = Place::BackingOff(self.timers.set(now.mono + pause, Timer::Retry(id, at)));
        delivery.next_attempt_at = Some(UnixMillis(now.wall.0 + pause));
        lane.backing_off.insert((id, at));
    }

    /// The pause of a branch's call is over, in its time.
    pub(super) fn retry_in_time(&mut self, now: Now, id: TransactionId, at: usize) {
        if let Some(delivery) = self.live.get_mut(&id).and_then(|live| live.deliveries.get_mut(at)) {
            delivery.woken = false;
        }
        self.retry(now, id, at);
    }

    /// The pause of a branch's call is over.
    fn retry(&mut self, now: Now, id: TransactionId, at: usize) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let participant = live.transaction.branches[at].participant.clone();
        let delivery = &mut live.deliveries[at];
        let lane = self.lanes.entry(participant.clone()).or_default();
        lane.backing_off.remove(&(id, at));
        if let (Place::BackingOff(timer), Some(call)) = (&delivery.place, delivery.call) {
            self.timers.cancel(*timer);
            delivery.place = Place::Waiting;
            delivery.next_attempt_at = None;
            lane.wait((id, at, call));
        }
        self.pump(now, &participant);
    }

    /// No connection could be made to a participant.
    fn down(&mut self, now: Now, participant: &ParticipantUrl) {
        let lane = self.lanes.entry(participant.clone()).or_default();
        let failures = match &lane.down {
            // One of several calls that were under way when it went.
            Some(Down { probe: Some(_), .. }) => return,
            Some(Down { probe: None, failures }) => failures + 1,
            None => 1,
        };
        let pause = pause(failures, LONGEST_PROBE_PAUSE_MS, &mut self.random);
        let probe = Some(self.timers.set(now.mono + pause, Timer::Probe(participant.clone())));
        lane.down = Some(Down { failures, probe });
    }

    /// It is time to try a participant again.
    pub(super) fn probe(&mut self, now: Now, participant: &ParticipantUrl) {
        loop {
            let Some(lane) = self.lanes.get_mut(participant) else { return };
            if lane.down.is_none() {
                return self.pump(now, participant);
            }
            let Some(task) = lane.take_any() else {
                // Nothing waits for it any more: what it is will be seen by the next call.
                lane.down = None;
                return self.pump(now, participant);
            };
            if let Some(message) = self.message(now, task) {
                if let Some(lane) = self.lanes.get_mut(participant)
                    && let Some(down) = &mut lane.down
                {
                    down.probe = None;
                }
                return self.send(participant, task.2.phase(), vec![message]);
            }
        }
    }

    /// Something came from a participant, so it may be back: one of the calls that wait for it is made now, and once
    /// that is answered all others are.
    pub(super) fn heard_from(&mut self, now: Now, participant: &ParticipantUrl) {
        let Some(lane) = self.lanes.get_mut(participant) else { return };
        match lane.down {
            Some(Down { probe: Some(timer), .. }) => {
                self.timers.cancel(timer);
                self.probe(now, participant);
            }
            // It is being tried.
            Some(Down { probe: None, .. }) => {}
            None => {
                if let Some((id, at)) = lane.backing_off.iter().next().copied() {
                    self.retry(now, id, at);
                }
            }
        }
    }

    /// A participant answers as it should: everything that waits for it goes out.
    fn wake(&mut self, now: Now, participant: &ParticipantUrl) {
        let Some(lane) = self.lanes.get_mut(participant) else { return };
        for (id, at) in lane.backing_off.clone() {
            let delivery = self.live.get_mut(&id).and_then(|live| live.deliveries.get_mut(at));
            if let Some(delivery) = delivery.filter(|delivery| !delivery.woken) {
                delivery.woken = true;
                self.retry(now, id, at);
            }
        }
    }

    /// Whether a branch was never called because its participant can't be reached.
    pub(super) fn was_never_reached(&self, id: TransactionId, at: usize) -> bool {
        let Some(live) = self.live.get(&id) else { return false };
        let lane = self.lanes.get(&live.transaction.branches[at].participant);
        live.deliveries[at].attempts == 0 && lane.is_some_and(|lane| lane.down.is_some())
    }
}

/// The call that a branch needs.
fn needed(transaction: State, branch: BranchState) -> Option<Call> {
    match branch {
        BranchState::Preparing if transaction == State::Preparing => Some(Call::Prepare),
        BranchState::Committing => Some(Call::Commit),
        BranchState::Aborting => Some(Call::Abort),
        BranchState::Enlisted
        | BranchState::Preparing
        | BranchState::Prepared
        | BranchState::ReadOnly
        | BranchState::Refused
        | BranchState::Committed
        | BranchState::Aborted
        | BranchState::HeuristicCommit
        | BranchState::HeuristicAbort
        | BranchState::HeuristicUnknown => None,
    }
}

/// What a call of phase one that wasn't answered says of its branch; in phase two it makes no difference.
fn heard(call: Call, at: usize, heard: Heard) -> Option<Event> {
    (call == Call::Prepare).then_some(Event::NotAnswered(at, heard))
}

/// The pause after so many failures in a row: doubling, at most `longest`, and up to a quarter less.
fn pause(failures: u32, longest: u64, random: &mut impl rand::Rng) -> u64 {
    let whole = FIRST_PAUSE_MS.saturating_mul(1 << (failures - 1).min(20)).min(longest);
    whole - random.random_range(0..=whole / 4)
}
