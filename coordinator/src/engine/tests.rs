//! The engine on a log in memory that can lose its power, and a network of which the test decides what arrives.

mod batches;
mod clock;
mod disk_full;
mod give_up;
mod ownership;
mod stores;
mod suspect;

use std::time::Duration;

use unanimous_sdk::protocol::{
    AbortAnswer, BranchName, CommitAnswer, CoordinatorId, CoordinatorRef, Decision, Epoch, Outcome, ParticipantUrl,
    PrepareAnswer, TransactionId, UnixMillis, Vote,
};

use super::{Begin, Engine, Inquiry, Limits, Milestone, NewKey, Now, Output, Refusal, View};
use crate::{
    journal::{Journal, Memory, Recovered, memory::Loss},
    transaction::{Barrier, Call, KeyedCall, Reason, ReasonCode, State},
    transport::{Attempt, BatchContext, Message, Request, Returned},
};

const DAY: u64 = 1_770_000_000_000;

struct World {
    engine: Engine,
    journal: Memory,
    now: Now,
    /// Single calls that were made and not answered yet.
    calls: Vec<(ParticipantUrl, Message)>,
    batches: Vec<Request>,
    /// What participants say of batches with each answer.
    offer: Option<usize>,
    /// It is to be found out whose the log is.
    confirming: bool,
    /// Branches that were answered after their transaction had finished.
    late: Vec<(TransactionId, usize)>,
    suspects: Vec<ParticipantUrl>,
}

fn url(text: &str) -> ParticipantUrl {
    format!("http://localhost/{text}").parse().unwrap()
}

fn name(text: &str) -> BranchName {
    text.parse().unwrap()
}

fn reason() -> Reason {
    Reason { code: ReasonCode::Initiator, detail: None, branch: None }
}

impl World {
    fn new() -> Self {
        let id = CoordinatorId::from_uuid(uuid::Uuid::from_u128(7));
        let now = Now { mono: 0, wall: UnixMillis(DAY) };
        let (journal, recovered) = Memory::create(id, now.wall, 1).unwrap();
        Self::on(journal, recovered, now)
    }

    fn on(journal: Memory, recovered: Recovered, now: Now) -> Self {
        let engine = Engine::new(now, recovered, "http://localhost:7070".into(), Limits::default(), [7; 32]);
        let mut world = Self {
            engine,
            journal,
            now,
            calls: vec![],
            batches: vec![],
            offer: None,
            confirming: false,
            late: vec![],
            suspects: vec![],
        };
        world.carry_out();
        world
    }

    /// Carries out what the engine asks for; the log gets the entries, and doesn't write them yet.
    fn carry_out(&mut self) {
        for output in self.engine.take_outputs() {
            match output {
                Output::Append(lsn, entry) => self.journal.append(lsn, vec![entry]),
                Output::Send(request) => {
                    let participant = request.participant.clone();
                    if request.messages.len() > 1 {
                        self.batches.push(request);
                    } else {
                        self.calls.extend(request.messages.into_iter().map(|message| (participant.clone(), message)));
                    }
                }
                Output::ConfirmOwnership => self.confirming = true,
                Output::AnsweredLate { id, branch, .. } => self.late.push((id, branch)),
                Output::Suspect(participant) => self.suspects.push(participant),
                Output::Decided(_)
                | Output::Finished(_)
                | Output::HigherEpoch(..)
                | Output::Superseded(_)
                | Output::Trusted(_) => {}
            }
        }
    }

    /// The log writes and, as the real one does, syncs if something forced is among it.
    fn log(&mut self) {
        loop {
            let progress = self.journal.pump().unwrap();
            self.engine.progress(self.now, progress);
            self.carry_out();
            if self.journal.waiting() == 0 {
                return;
            }
        }
    }

    fn begin(&mut self, branches: &[&str]) -> TransactionId {
        self.begin_with(branches, 30_000)
    }

    fn begin_with(&mut self, branches: &[&str], timeout_ms: u64) -> TransactionId {
        let branches = branches.iter().map(|branch| (Some(name(branch)), url(branch), None)).collect();
        let begin = Begin { timeout: Duration::from_millis(timeout_ms), branches, ..Begin::default() };
        let (view, _) = self.engine.begin(self.now, begin).unwrap();
        self.carry_out();
        view.id()
    }

    fn commit(&mut self, id: TransactionId) -> super::Waiting {
        let waiting = self.engine.commit(self.now, id, Milestone::Decided, None, None).unwrap().0;
        self.carry_out();
        waiting
    }

    fn abort(&mut self, id: TransactionId) -> super::Waiting {
        let waiting = self.engine.abort(self.now, id, reason(), None).unwrap().0;
        self.carry_out();
        waiting
    }

    /// Answers all calls that are under way.
    fn answer_all(&mut self, answer: impl Fn(&Message) -> Attempt) {
        for (participant, message) in std::mem::take(&mut self.calls) {
            let attempt = answer(&message);
            self.answer(participant, &message, &attempt);
        }
    }

    fn answer(&mut self, participant: ParticipantUrl, message: &Message, attempt: &Attempt) {
        let batch = BatchContext::default();
        let request = Request { participant, phase: message.call.phase(), messages: vec![message.clone()], batch };
        self.answer_request(request, |_| attempt.clone());
    }

    fn answer_request(&mut self, request: Request, answer: impl Fn(&Message) -> Attempt) {
        let attempts = request.messages.iter().map(|m| ((m.transaction, m.at, m.call), answer(m))).collect();
        let Request { participant, phase, batch, .. } = request;
        self.engine.answered(self.now, Returned { participant, phase, attempts, max_batch: self.offer, batch });
        self.carry_out();
    }

    fn pass(&mut self, ms: u64) {
        self.now = Now { mono: self.now.mono + ms, wall: UnixMillis(self.now.wall.0 + ms) };
        self.engine.tick(self.now);
        self.carry_out();
    }

    /// Waits for the next timer.
    fn pass_to_next_timer(&mut self) {
        let next = self.engine.next_timer().expect("something is to happen");
        self.pass(next.saturating_sub(self.now.mono));
    }

    fn view(&self, id: TransactionId) -> View {
        match self.engine.view(id) {
            Some(view) => view,
            None => View::of_finished(id, self.journal.finished(id).unwrap().expect("it is known")),
        }
    }

    fn ask(&self, id: TransactionId, branch: &str) -> Result<(Outcome, bool), Refusal> {
        let me = self.engine.coordinator();
        self.ask_as(id, branch, Some(me.id), Some(me.epoch))
    }

    fn ask_as(
        &self,
        id: TransactionId,
        branch: &str,
        coordinator: Option<CoordinatorId>,
        epoch: Option<Epoch>,
    ) -> Result<(Outcome, bool), Refusal> {
        let inquiry = Inquiry {
            transaction: id,
            coordinator,
            epoch,
            branch: Some(name(branch)),
            participant_id: None,
            prepared_epoch: None,
        };
        let finished = || self.journal.finished(id).unwrap().map(|t| View::of_finished(id, t));
        let known = self.engine.view(id).or_else(finished);
        self.engine.answer(&inquiry, known.as_ref()).map_err(|refused| refused.why)
    }

    /// It is found out whose the log is.
    fn confirm(&mut self, lost: Option<&str>) {
        assert!(std::mem::take(&mut self.confirming), "nobody has asked for it");
        self.engine.confirmed(self.now, lost);
        self.carry_out();
    }

    fn restart(self, journal: (Memory, Recovered)) -> Self {
        Self::on(journal.0, journal.1, self.now)
    }

    fn power_cut(self, loss: Loss) -> Self {
        let after = self.journal.power_cut(loss, self.now.wall, 2).unwrap();
        self.restart(after)
    }

    fn kill(self) -> Self {
        let after = self.journal.kill(self.now.wall, 3).unwrap();
        self.restart(after)
    }

    fn made(&self) -> Vec<(Call, &str)> {
        self.calls.iter().map(|(_, message)| (message.call, message.branch.as_str())).collect()
    }
}

/// The answer of a participant that agrees with everything.
fn yes(message: &Message) -> Attempt {
    match message.call {
        Call::Prepare => Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), None),
        Call::Commit => Attempt::Commit(CommitAnswer::Committed, None),
        Call::Abort => Attempt::Abort(AbortAnswer::Aborted, None),
    }
}

#[test]
fn nobody_outside_learns_a_decision_before_it_is_durable() {
    for commit in [true, false] {
        let mut world = World::new();
        let id = world.begin(&["a", "b"]);
        world.log();
        let mut waiting = if commit {
            let waiting = world.commit(id);
            world.answer_all(yes);
            waiting
        } else {
            world.abort(id)
        };
        // Decided, and not even written.
        assert!(world.made().is_empty(), "{:?}", world.made());
        assert!(waiting.try_recv().is_err());
        let shown = world.view(id);
        assert_eq!((shown.decision(), shown.sequence()), (None, None));
        assert_eq!(shown.state(), if commit { State::Preparing } else { State::Active });
        assert_eq!(world.ask(id, "a").unwrap(), (Outcome::Pending, false));
        // Written, and not synced.
        let written = world.journal.write_all().unwrap();
        world.engine.progress(world.now, written);
        world.carry_out();
        assert!(world.made().is_empty());
        assert!(waiting.try_recv().is_err());
        assert_eq!(world.view(id).decision(), None);
        // What is refused because of the decision shows it, and waits as well.
        let late = super::Enlist { name: Some(name("c")), participant: url("c"), payload: None, vote: None, key: None };
        let refused = world.engine.enlist(world.now, id, late).unwrap_err();
        assert!(refused.tell_after.durable > written.durable);
        // Synced.
        let synced = world.journal.sync();
        world.engine.progress(world.now, synced);
        world.carry_out();
        let (decision, call) = if commit { (Decision::Commit, Call::Commit) } else { (Decision::Abort, Call::Abort) };
        assert_eq!(world.made(), [(call, "a"), (call, "b")]);
        assert_eq!(waiting.try_recv().unwrap().decision(), Some(decision));
        assert_eq!(world.ask(id, "a").unwrap(), (decision.into(), false));
    }
}

#[test]
fn a_power_cut_before_the_decision_is_durable_aborts_and_after_it_commits() {
    let decided = || {
        let mut world = World::new();
        let id = world.begin(&["a", "b"]);
        world.log();
        drop(world.commit(id));
        world.answer_all(yes);
        (world, id)
    };
    let (world, id) = decided();
    world.journal.write_all().unwrap();
    let world = world.power_cut(Loss::Whole);
    // Nothing was ever synced of it: it is presumed aborted.
    assert_eq!(world.ask(id, "a").unwrap(), (Outcome::Abort, true));

    let (mut world, id) = decided();
    world.log();
    let mut world = world.power_cut(Loss::Whole);
    assert_eq!(world.made(), [(Call::Commit, "a"), (Call::Commit, "b")], "carried through without anybody's help");
    world.answer_all(yes);
    world.log();
    assert_eq!(world.view(id).state(), State::Committed);
}

#[test]
fn what_is_undecided_at_start_is_aborted_and_the_participants_are_told() {
    let mut world = World::new();
    let id = world.begin(&["a", "b"]);
    drop(world.commit(id));
    world.log();
    let mut world = world.kill();
    assert!(world.made().is_empty(), "not before the abort is durable");
    world.log();
    assert_eq!(world.made(), [(Call::Abort, "a"), (Call::Abort, "b")]);
    assert_eq!(world.view(id).reason().unwrap().code, ReasonCode::CoordinatorRestart);
    assert_eq!(world.ask(id, "a").unwrap(), (Outcome::Abort, false));
    assert!(world.engine.commit(world.now, id, Milestone::Decided, None, None).is_err());
}

#[test]
fn presumed_abort_is_answered_only_under_an_epoch_this_log_had() {
    let world = World::new();
    let first = world.engine.coordinator();
    let unknown: TransactionId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let other: Epoch = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let world = world.kill();
    let epochs = [first.epoch, world.engine.coordinator().epoch];
    assert!(epochs[0] < epochs[1]);
    for epoch in epochs {
        assert_eq!(world.ask_as(unknown, "a", Some(first.id), Some(epoch)).unwrap(), (Outcome::Abort, true));
    }
    let stranger = CoordinatorId::from_uuid(uuid::Uuid::from_u128(8));
    for (id, epoch) in [(first.id, other), (stranger, epochs[0])] {
        assert!(matches!(world.ask_as(unknown, "a", Some(id), Some(epoch)), Err(Refusal::NotMyLog)));
    }
    for (id, epoch) in [(None, Some(epochs[0])), (Some(first.id), None), (None, None)] {
        assert!(matches!(world.ask_as(unknown, "a", id, epoch), Err(Refusal::NotLive)));
    }
}

#[test]
fn a_branch_that_is_not_enlisted_or_voted_read_only_is_told_abort() {
    let mut world = World::new();
    let id = world.begin(&["a", "b"]);
    assert_eq!(world.ask(id, "x").unwrap().0, Outcome::Pending);
    drop(world.commit(id));
    assert_eq!(world.ask(id, "x").unwrap().0, Outcome::Abort);
    world.answer_all(|message| match message.branch.as_str() {
        "a" => Attempt::Prepare(PrepareAnswer::Vote(Vote::ReadOnly), None),
        _ => yes(message),
    });
    world.log();
    assert_eq!(world.ask(id, "a").unwrap().0, Outcome::Abort);
    assert_eq!(world.ask(id, "b").unwrap().0, Outcome::Commit);
}

#[test]
fn a_vote_that_comes_at_the_deadline_is_too_late() {
    let mut world = World::new();
    let id = world.begin_with(&["a"], 500);
    drop(world.commit(id));
    world.now.mono += 500;
    world.answer_all(yes);
    world.log();
    assert_eq!(world.view(id).decision(), Some(Decision::Abort));
    assert_eq!(world.view(id).reason().unwrap().code, ReasonCode::Deadline);
}

#[test]
fn an_unsolicited_vote_counts_only_under_the_present_epoch() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    let me = world.engine.coordinator();
    let mut vote = |epoch| {
        let named = CoordinatorRef { id: me.id, epoch };
        world.engine.vote(world.now, id, &name("a"), Vote::Prepared.into(), &named, None)
    };
    let other: Epoch = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    assert!(matches!(vote(other).unwrap_err().why, Refusal::StaleEpoch { present } if present == me.epoch));
    assert!(vote(me.epoch).is_ok());
    assert_eq!(world.view(id).branch(&name("a")).unwrap().vote, Some(Vote::Prepared));
}

#[test]
fn the_horizon_passes_neither_the_unfinished_nor_what_is_not_durable() {
    let mut world = World::new();
    let horizon = |world: &World| world.engine.coordinator().horizon;
    assert_eq!(horizon(&world), TransactionId::NIL);
    let stuck = world.begin(&["a"]);
    let done = world.begin(&["b"]);
    drop(world.commit(done));
    world.answer_all(yes);
    world.log();
    world.answer_all(yes);
    world.log();
    assert_eq!(horizon(&world), stuck, "not past what is unfinished");
    drop(world.abort(stuck));
    world.log();
    let before = world.begin(&["c"]);
    world.answer_all(yes);
    // The last acknowledgement is only lazily logged: written, and not durable.
    world.log();
    assert_eq!(world.view(stuck).state(), State::Aborted);
    assert_eq!(horizon(&world), stuck);
    drop(world.abort(before));
    world.log();
    assert_eq!(horizon(&world), before, "the next forced write has made it durable");
    // A power cut with the clock set back: no id below the horizon is minted.
    world.now.wall = UnixMillis(DAY - 1_000_000);
    let mut world = world.power_cut(Loss::Whole);
    assert!(world.begin(&["d"]) > before);
    assert_eq!(horizon(&world), before);
}

#[test]
fn a_participant_that_cannot_be_reached_is_tried_with_one_call_at_a_time() {
    let mut world = World::new();
    let ids: Vec<_> = (0..50).map(|_| world.begin_with(&["a"], 3_600_000)).collect();
    for id in &ids {
        drop(world.commit(*id));
    }
    assert_eq!(world.calls.len(), 50);
    world.answer_all(|_| Attempt::Unreachable("refused".into()));
    assert!(world.calls.is_empty());
    let mut longest = 0;
    for _ in 0..12 {
        let before = world.now.mono;
        world.pass_to_next_timer();
        longest = longest.max(world.now.mono - before);
        assert_eq!(world.calls.len(), 1, "one at a time");
        world.answer_all(|_| Attempt::Unreachable("refused".into()));
    }
    assert!((750..=1_000).contains(&longest), "at least every second, not more often than need be: {longest}");
    // As soon as it answers, everything goes out.
    world.pass_to_next_timer();
    world.answer_all(yes);
    assert_eq!(world.calls.len(), 49);
    world.answer_all(yes);
    world.log();
    assert_eq!(world.made().iter().filter(|(call, _)| *call == Call::Commit).count(), 50);
}

#[test]
fn what_comes_from_a_participant_that_was_down_has_it_tried_at_once() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    drop(world.commit(id));
    world.answer_all(|_| Attempt::Unreachable("refused".into()));
    assert!(world.calls.is_empty());
    let me = world.engine.coordinator();
    let inquiry = Inquiry {
        transaction: id,
        coordinator: Some(me.id),
        epoch: Some(me.epoch),
        branch: Some(name("a")),
        participant_id: None,
        prepared_epoch: None,
    };
    world.engine.heard_inquiry(world.now, &inquiry);
    world.carry_out();
    assert_eq!(world.made(), [(Call::Prepare, "a")]);
}

#[test]
fn a_call_that_is_not_answered_is_made_again_with_pauses_that_double_to_30_s() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    drop(world.commit(id));
    world.answer_all(yes);
    world.log();
    let mut pauses = vec![];
    for attempt in 1..=12 {
        assert_eq!(world.made(), [(Call::Commit, "a")], "attempt {attempt}");
        world.answer_all(|_| Attempt::NoAnswer("503".into()));
        let before = world.now.mono;
        world.pass_to_next_timer();
        pauses.push(world.now.mono - before);
    }
    let mut whole = 100;
    for pause in pauses {
        assert!((whole - whole / 4..=whole).contains(&pause), "{pause} of {whole}");
        whole = (whole * 2).min(30_000);
    }
    world.answer_all(yes);
    world.log();
    assert_eq!(world.view(id).state(), State::Committed);
}

#[test]
fn decisions_do_not_wait_behind_prepares_and_calls_under_way_are_bounded() {
    let mut world = World::new();
    let decided = world.begin(&["a"]);
    drop(world.commit(decided));
    world.answer_all(yes);
    let ids: Vec<_> = (0..400).map(|_| world.begin(&["a"])).collect();
    for id in &ids {
        drop(world.commit(*id));
    }
    assert_eq!(world.calls.len(), super::lane::MOST_IN_FLIGHT, "prepares of a participant that hangs");
    world.log();
    assert_eq!(world.made().last(), Some(&(Call::Commit, "a")), "the decision goes past them");
}

#[test]
fn no_prepare_is_sent_after_the_decision() {
    let mut world = World::new();
    let id = world.begin_with(&["a", "b"], 1_000);
    drop(world.commit(id));
    world.answer_all(|_| Attempt::NoAnswer("503".into()));
    world.pass(1_000);
    world.log();
    let made = world.made();
    let aborts = made.iter().filter(|(call, _)| *call == Call::Abort).count();
    assert_eq!(aborts, 2, "{made:?}");
    assert_eq!(world.view(id).reason().unwrap().code, ReasonCode::ParticipantError);
    world.calls.clear();
    world.pass(20_000);
    assert!(world.made().iter().all(|(call, _)| *call == Call::Abort));
}

fn key(text: &str, body: u128) -> NewKey {
    NewKey { text: text.into(), body }
}

#[test]
fn a_key_is_bound_to_one_transaction_and_one_body_across_kills() {
    let mut world = World::new();
    let begin = Begin { timeout: Duration::from_secs(9), key: Some(key("k", 1)), ..Begin::default() };
    let id = world.engine.begin(world.now, begin).unwrap().0.id();
    world.carry_out();
    assert_eq!(world.engine.begun_under(&key("k", 1)).unwrap(), Some(id));
    assert!(matches!(world.engine.begun_under(&key("k", 2)).unwrap_err().why, Refusal::KeyReused));
    assert_eq!(world.engine.begun_under(&key("K", 1)).unwrap(), None);
    world.log();
    let mut world = world.kill();
    assert_eq!(world.engine.begun_under(&key("k", 1)).unwrap(), Some(id));
    // Aborted by the restart, and finished: it is found in the log now.
    world.log();
    assert_eq!(world.engine.begun_under(&key("k", 1)).unwrap(), None);
    let finished = world.journal.finished(id).unwrap().unwrap();
    assert!(super::bound_in(&finished, Some(&key("k", 1)), &KeyedCall::Begin).unwrap().is_some());
    assert!(super::bound_in(&finished, Some(&key("k", 2)), &KeyedCall::Begin).is_err());
}

#[test]
fn a_keyed_outcome_that_changed_nothing_survives_a_power_cut() {
    let mut world = World::new();
    let id = world.begin(&[]);
    world.log();
    let commit = world.engine.commit(world.now, id, Milestone::Decided, None, Some(key("k", 1)));
    let mut waiting = commit.unwrap().0;
    world.carry_out();
    assert!(waiting.try_recv().is_err());
    world.log();
    assert_eq!(waiting.try_recv().unwrap().decision(), Some(Decision::Commit));
    let mut world = world.power_cut(Loss::Whole);
    world.log();
    assert_eq!(world.view(id).decision(), Some(Decision::Commit));
}

#[test]
fn a_repeated_enlistment_under_its_key_is_the_same_branch() {
    let mut world = World::new();
    let id = world.begin(&["a"]);
    let mut enlist = |text: &str, body| {
        let enlist =
            super::Enlist { name: None, participant: url("b"), payload: None, vote: None, key: Some(key(text, body)) };
        world.engine.enlist(world.now, id, enlist)
    };
    let first = enlist("k", 1).unwrap();
    let again = enlist("k", 1).unwrap();
    assert_eq!((&first.name, first.new, first.replayed), (&again.name, again.new, false));
    assert!(again.replayed);
    assert!(matches!(enlist("k", 2).unwrap_err().why, Refusal::KeyReused));
    assert_ne!(enlist("other", 1).unwrap().name, first.name);
    assert_eq!(world.view(id).branches(), 3);
}

#[test]
fn begin_is_told_when_the_kernel_has_it() {
    let mut world = World::new();
    let begin = Begin { timeout: Duration::from_secs(1), ..Begin::default() };
    let (view, barrier) = world.engine.begin(world.now, begin).unwrap();
    world.carry_out();
    assert_ne!(barrier, Barrier::NONE);
    let mut told = world.engine.reached(world.now, barrier);
    assert!(told.try_recv().is_err());
    let written = world.journal.write_all().unwrap();
    world.engine.progress(world.now, written);
    assert!(told.try_recv().is_ok());
    let world = world.kill();
    assert!(world.engine.view(view.id()).is_some(), "it survives the death of the process");
}

#[test]
fn concurrent_commits_share_a_forced_write_and_each_costs_2n_calls() {
    let mut world = World::new();
    let ids: Vec<_> = (0..20).map(|_| world.begin(&["a", "b"])).collect();
    let before = world.journal.forced_writes();
    for id in &ids {
        drop(world.commit(*id));
    }
    let mut calls = world.calls.len();
    world.answer_all(yes);
    world.log();
    calls += world.calls.len();
    world.answer_all(yes);
    world.log();
    assert_eq!(calls, 20 * 2 * 2);
    assert_eq!(world.journal.forced_writes() - before, 1);
    assert!(ids.iter().all(|id| world.view(*id).state() == State::Committed));
    assert_eq!(world.engine.live(), 0);
}
