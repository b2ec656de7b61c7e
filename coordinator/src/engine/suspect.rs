//! Participants that have lost their data (P-4.32; P-8.28 to P-8.31, P-8.33).
//!
//! A service that was restarted on an empty volume answers `unknown-branch` to every commit. Each of these answers is final,
//! so all transactions that wait for it would end heuristic within seconds. After ten in a row the participant is suspect:
//! further commits to it are held, and one of them is tried from time to time.
//!
//! # Invariants
//!
//! - While a participant is suspect, no commit is sent to it but the one that is tried.
//! - The end of the tenth branch and the state are appended in one step, and so are in one batch of the log.

use std::collections::{BTreeMap, HashMap};

use unanimous_sdk::protocol::{CommitAnswer, ParticipantUrl, TransactionId};

use super::{Engine, Now, Output, Timer, delivery::Place, timers::Instant};
use crate::{journal::Entry, transaction::Call};

/// With so many `unknown-branch` answers in a row a participant is suspect.
pub(super) const ROW: usize = 10;

/// The oldest held commit is tried again after this time.
const TRY_AFTER_MS: Instant = 30_000;

/// An inquiry for a held branch makes it be tried, at most once in this time.
const TRY_FOR_INQUIRY_AFTER_MS: Instant = 1_000;

/// What is shown of a commit that is held.
pub(super) const HELD: &str = "the commit is held: its participant answered unknown-branch to 10 commits in a row, as one does \
                               that runs on an empty or a wrong volume; one of them is tried every 30 s";

/// What commits have been answered by participants, as far as it tells of lost data.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Of participants that are not suspect: the transactions of the last answers, if these were all `unknown-branch`.
    rows: HashMap<ParticipantUrl, Vec<TransactionId>>,
    suspects: HashMap<ParticipantUrl, Suspect>,
}

#[derive(Debug)]
struct Suspect {
    /// By the decision's sequence and the branch's place. One that has ended otherwise meanwhile may still stand here.
    held: BTreeMap<(u64, usize), TransactionId>,
    /// The commit that is tried now.
    trying: Option<(TransactionId, usize)>,
    tried_at: Instant,
}

impl Suspects {
    /// Counts an answer to a commit of a participant that is not suspect; returns whether it is suspect from now on.
    fn counts(&mut self, participant: &ParticipantUrl, id: TransactionId, answer: &CommitAnswer) -> bool {
        match answer {
            // Both show that the participant knows the branch.
            CommitAnswer::Committed | CommitAnswer::HeuristicAbort { .. } => {
                if !self.rows.is_empty() {
                    self.rows.remove(participant);
                }
                false
            }
            CommitAnswer::UnknownBranch => {
                let row = self.rows.entry(participant.clone()).or_default();
                if !row.contains(&id) {
                    row.push(id);
                }
                row.len() >= ROW
            }
        }
    }
}

impl Engine {
    /// Carries on with the participants that were suspect when the log was last written.
    pub(super) fn restore_suspects(&mut self, now: Now, suspects: impl Iterator<Item = ParticipantUrl>) {
        for participant in suspects {
            self.suspect_from_now(now, participant);
        }
    }

    fn suspect_from_now(&mut self, now: Now, participant: ParticipantUrl) {
        self.timers.set(now.mono + TRY_AFTER_MS, Timer::TryHeld(participant.clone()));
        let suspect = Suspect { held: BTreeMap::new(), trying: None, tried_at: now.mono };
        self.suspects.suspects.insert(participant, suspect);
    }

    /// Whether a commit for this participant may not be sent now.
    pub(super) fn is_held_back(&self, participant: &ParticipantUrl, id: TransactionId, at: usize) -> bool {
        !self.suspects.suspects.is_empty()
            && self.suspects.suspects.get(participant).is_some_and(|suspect| suspect.trying != Some((id, at)))
    }

    /// The same of a branch, by its place. It costs nothing while nobody is suspect.
    pub(super) fn is_task_held_back(&self, id: TransactionId, at: usize) -> bool {
        !self.suspects.suspects.is_empty()
            && self.live.get(&id).is_some_and(|live| {
                let participant = &live.transaction.branches[at].participant;
                self.is_held_back(participant, id, at)
            })
    }

    /// Holds the commit of a branch.
    pub(super) fn hold(&mut self, id: TransactionId, at: usize) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let participant = &live.transaction.branches[at].participant;
        let sequence = live.transaction.decided.as_ref().and_then(|decided| decided.sequence).unwrap_or_default();
        let Some(suspect) = self.suspects.suspects.get_mut(participant) else { return };
        suspect.held.insert((sequence, at), id);
        if suspect.trying == Some((id, at)) {
            suspect.trying = None;
        }
        let delivery = &mut live.deliveries[at];
        (delivery.place, delivery.next_attempt_at) = (Place::Held, None);
        delivery.last_error = Some(HELD.into());
    }

    /// Looks at a participant's answer to a commit before it is taken. Returns whether it is to be taken: what a suspect
    /// participant does not know is held.
    pub(super) fn takes_commit_answer(
        &mut self,
        participant: &ParticipantUrl,
        id: TransactionId,
        at: usize,
        answer: &CommitAnswer,
    ) -> bool {
        if *answer == CommitAnswer::UnknownBranch && self.suspects.suspects.contains_key(participant) {
            self.hold(id, at);
            return false;
        }
        true
    }

    /// Follows what an answer to a commit, which was taken, says of its participant.
    pub(super) fn learn_from_commit_answer(
        &mut self,
        now: Now,
        participant: &ParticipantUrl,
        id: TransactionId,
        at: usize,
        answer: &CommitAnswer,
    ) {
        if let Some(suspect) = self.suspects.suspects.get(participant) {
            if suspect.trying == Some((id, at)) {
                self.trust_again(now, participant);
            }
        } else if self.suspects.counts(participant, id, answer) {
            self.suspects.rows.remove(participant);
            self.append(Entry::Suspect { participant: participant.clone(), since: now.wall });
            self.suspect_from_now(now, participant.clone());
            self.outputs.push(Output::Suspect(participant.clone()));
        }
    }

    /// The participant knows a branch that was held: all others go out.
    fn trust_again(&mut self, now: Now, participant: &ParticipantUrl) {
        let Some(suspect) = self.suspects.suspects.remove(participant) else { return };
        self.append(Entry::Trusted { participant: participant.clone() });
        self.outputs.push(Output::Trusted(participant.clone()));
        for ((_, at), id) in suspect.held {
            self.wait_for_turn(id, at);
        }
        self.pump(now, participant);
    }

    /// It is time to try the oldest held commit of a participant.
    pub(super) fn try_oldest_held(&mut self, now: Now, participant: &ParticipantUrl) {
        if !self.suspects.suspects.contains_key(participant) {
            return;
        }
        self.timers.set(now.mono + TRY_AFTER_MS, Timer::TryHeld(participant.clone()));
        while let Some(suspect) = self.suspects.suspects.get_mut(participant).filter(|suspect| suspect.trying.is_none())
            && let Some(((_, at), id)) = suspect.held.pop_first()
        {
            if self.try_commit(now, id, at) {
                return;
            }
        }
    }

    /// The participant of a held branch asks for the decision: this one commit is tried, and nothing else.
    pub(super) fn try_held(&mut self, now: Now, id: TransactionId, at: usize) {
        let Some(live) = self.live.get(&id) else { return };
        let participant = &live.transaction.branches[at].participant;
        let may = |suspect: &Suspect| {
            suspect.trying.is_none() && now.mono >= suspect.tried_at.saturating_add(TRY_FOR_INQUIRY_AFTER_MS)
        };
        if self.suspects.suspects.get(participant).is_some_and(may) {
            self.try_commit(now, id, at);
        }
    }

    /// Sends one held commit; returns whether it was still held.
    fn try_commit(&mut self, now: Now, id: TransactionId, at: usize) -> bool {
        let Some(live) = self.live.get(&id) else { return false };
        let participant = live.transaction.branches[at].participant.clone();
        if live.deliveries[at].place != Place::Held {
            return false;
        }
        if let Some(suspect) = self.suspects.suspects.get_mut(&participant) {
            (suspect.trying, suspect.tried_at) = (Some((id, at)), now.mono);
        }
        self.wait_for_turn(id, at);
        self.pump(now, &participant);
        true
    }

    /// Puts a held commit among those that wait to be sent.
    fn wait_for_turn(&mut self, id: TransactionId, at: usize) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if live.deliveries[at].place == Place::Held {
            live.deliveries[at].place = Place::Waiting;
            let participant = live.transaction.branches[at].participant.clone();
            self.lanes.entry(participant).or_default().wait((id, at, Call::Commit));
        }
    }

    /// A branch has ended while its commit was tried, by a word of its participant that came unasked.
    pub(super) fn forget_try(&mut self, participant: &ParticipantUrl, id: TransactionId, at: usize) {
        if let Some(suspect) = self.suspects.suspects.get_mut(participant)
            && suspect.trying == Some((id, at))
        {
            suspect.trying = None;
        }
    }

    /// Returns the participants whose commits are held.
    pub fn suspects(&self) -> impl Iterator<Item = &ParticipantUrl> {
        self.suspects.suspects.keys()
    }

    /// Appends an entry that belongs to no transaction. A superseded coordinator writes nothing: the log may be another's.
    pub(super) fn append(&mut self, entry: Entry) {
        if self.ownership.superseded.is_some() {
            return;
        }
        let lsn = self.next_lsn;
        self.next_lsn.0 += 1;
        self.outputs.push(Output::Append(lsn, entry));
    }
}
