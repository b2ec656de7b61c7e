//! The coordinator's process: its log, what its engine asks for, and its end.

use std::collections::BTreeSet;

use rand::RngExt;
use unanimous_coordinator::{
    engine::{Engine, Limits, Now, Output, View},
    journal::{Entry, Journal, Lsn, Memory, Recovered, memory::Loss},
    transport::Request,
};
use unanimous_sdk::protocol::TransactionId;

use super::{
    Flight, World,
    clock::{MAX_AHEAD_MS, any_jump},
    node_of,
};

/// After this time an abort is given up.
const GIVE_UP_ABORT_MS: u64 = 1_500;

/// How the entries of this process's log go to the disk. Most go one by one. Those that must not be parted go together.
#[derive(Default)]
pub(super) struct Batches {
    /// Entries whose successor is in the same batch.
    continued: BTreeSet<u64>,
    written: u64,
    pub(super) durable: Lsn,
    /// For each entry that is written and not synced: whether its successor is in the same batch.
    unsynced: Vec<bool>,
}

impl Batches {
    /// What was appended in one step with the end of a branch by which a participant is suspect.
    fn bind(&mut self, outputs: &[Output]) {
        let appended = |output: &Output| match output {
            Output::Append(lsn, entry) => Some((lsn.0, matches!(entry, Entry::Suspect { .. }))),
            _ => None,
        };
        let entries: Vec<_> = outputs.iter().filter_map(appended).collect();
        if let Some(at) = entries.iter().rposition(|(_, suspect)| *suspect) {
            self.continued.extend(entries[..at].iter().map(|(lsn, _)| lsn));
        }
    }

    /// Takes note of an entry that was written; returns whether its batch goes on.
    fn wrote(&mut self, written: Lsn) -> bool {
        if written.0 == self.written {
            return false;
        }
        self.written = written.0;
        let goes_on = self.continued.contains(&written.0);
        self.unsynced.push(goes_on);
        goes_on
    }

    /// Something was written beside the entries.
    pub(super) fn noted(&mut self) {
        self.unsynced.push(false);
    }

    fn synced(&mut self, durable: Lsn) {
        self.durable = durable;
        self.unsynced.clear();
    }

    /// Returns how many unsynced entries survive if at least so many do.
    fn whole(&self, kept: usize) -> usize {
        let more = self.unsynced[kept.saturating_sub(1)..].iter().take_while(|goes_on| **goes_on).count();
        if kept == 0 { 0 } else { kept + more }
    }
}

pub(super) fn engine(now: Now, recovered: Recovered, seed: u64) -> Engine {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let limits = Limits { give_up_abort_ms: GIVE_UP_ABORT_MS, ..Limits::default() };
    Engine::new(now, recovered, "http://localhost:7070".into(), limits, bytes)
}

impl World {
    pub(super) fn write(&mut self) {
        if self.ownership.is_lost() {
            return;
        }
        loop {
            let progress = self.journal.write_one().expect("it is open");
            if !self.log.wrote(progress.written) {
                return self.engine.progress(self.now, progress);
            }
        }
    }

    pub(super) fn sync(&mut self) {
        if self.ownership.is_lost() {
            return;
        }
        let progress = self.journal.sync();
        self.log.synced(progress.durable);
        self.retention.durable(progress.durable);
        self.engine.progress(self.now, progress);
    }

    pub(super) fn crash_coordinator(&mut self) {
        // It may stand still for long, and somebody may set the clock meanwhile.
        if self.faults && self.chance(25) {
            let most = if self.chance(20) { 10 * 86_400_000 } else { 600_000 };
            let ms = self.random.random_range(0..most);
            self.elapse(ms, false);
        }
        if self.faults && self.chance(25) {
            self.ahead = any_jump(&mut self.random);
        }
        self.elapse(0, false);
        let random = self.random.random();
        let (how, opened) = if self.chance(40) {
            ("is killed", self.journal.kill(self.now.wall, random))
        } else {
            let kept = self.random.random_range(0..=self.journal.unsynced());
            let loss = match self.log.whole(kept) {
                0 => Loss::Whole,
                kept => Loss::Tail(kept),
            };
            ("loses its power", self.journal.power_cut(loss, self.now.wall, random))
        };
        self.say(|| format!("coordinator: {how}"));
        let (journal, recovered) = opened.expect("the log opens");
        self.start_on(journal, recovered);
    }

    fn start_on(&mut self, journal: Memory, recovered: Recovered) {
        self.journal = journal;
        let (epoch, latest) = (recovered.epoch, self.real() + MAX_AHEAD_MS);
        assert!(epoch.unix_ms() <= latest, "{epoch}: its time is more than an hour ahead of the right clock");
        assert!(self.epoch < epoch, "{epoch} is not above {}, the epoch before it", self.epoch);
        self.epoch = epoch;
        self.ownership.restart(self.log.durable, epoch);
        self.suspects.restart(self.log.durable, &recovered, &self.journal);
        self.late.check_taken(&recovered.live);
        self.retention.restart(recovered.forgotten, &self.journal);
        self.log = Batches::default();
        let seed = self.random.random();
        self.engine = engine(self.now, recovered, seed);
        self.waiting.clear();
        self.late.restart();
        for flight in self.flights.values_mut() {
            flight.awaited = false;
        }
    }

    /// What the engine asks for: entries are appended, requests are on their way.
    pub(super) fn carry_out(&mut self) {
        let outputs = self.engine.take_outputs();
        self.log.bind(&outputs);
        for output in outputs {
            self.ownership.check(&output);
            match output {
                Output::Append(lsn, entry) => {
                    self.note_end(lsn, &entry);
                    self.suspects.note(lsn, &entry);
                    self.ownership.note(lsn, &entry);
                    self.journal.append(lsn, vec![entry]);
                }
                Output::Send(request) => self.send(request, false),
                Output::Decided(_) | Output::Finished(_) => {}
                Output::ConfirmOwnership => self.say(|| "coordinator: confirms that it owns its log".to_owned()),
                Output::HigherEpoch(epoch, participant) => {
                    self.say(|| format!("coordinator: {participant} names the higher epoch {epoch}"));
                }
                Output::Superseded(superseded) => self.say(|| format!("coordinator: {superseded:?}")),
                Output::Suspect(participant) => self.say(|| format!("coordinator: suspects {participant}")),
                Output::Trusted(participant) => self.say(|| format!("coordinator: trusts {participant} again")),
                Output::AnsweredLate { id, branch, answer } => self.late.answers.push_back((id, branch, answer)),
            }
        }
    }

    /// A request leaves. `is_late`: its transaction has finished.
    pub(super) fn send(&mut self, request: Request, is_late: bool) {
        let mut from = self.engine.coordinator();
        from.horizon = request.messages.iter().map(|message| message.horizon).min().unwrap_or(from.horizon);
        let count = request.messages.len();
        self.sent += 1;
        let at = node_of(&request.participant);
        let answers = vec![None; count];
        let undelivered = (0..count).collect();
        let flight = Flight { from, request, at, answers, undelivered, awaited: true, is_late };
        self.flights.insert(self.sent, flight);
    }

    pub(super) fn view(&mut self, id: TransactionId) -> Option<View> {
        self.engine.look(self.now, id);
        let finished = || self.journal.finished(id).expect("it can be read").map(|t| View::of_finished(id, t));
        self.engine.view(id).or_else(finished)
    }
}
