//! Whose the log is, when a participant says that a higher epoch of this coordinator exists (P-4.18, P-4.19).
//!
//! One participant's 412 is a reason to look, and not to believe: it may be wrong, or was fooled by one forged message. If
//! this process still owns its log, everybody else is served. Two participants that name the same epoch have met a second
//! coordinator, on a copy of the log.
//!
//! # Invariants
//!
//! - While the ownership is being confirmed, no further decision is reported: what the log says of its progress waits.
//! - A coordinator that is superseded begins, decides and delivers nothing; one that lost its log writes nothing to it.

use unanimous_sdk::protocol::{Epoch, MAX_AHEAD, ParticipantId, ParticipantUrl};

use super::{Engine, Now, Output, Refusal, Refused, timers::Instant};
use crate::journal::{Entry, Progress};

/// So many epochs, and so many participants that named each, are remembered. The oldest go first.
const MAX_CLAIMED_EPOCHS: usize = 16;
const MAX_WITNESSES: usize = 8;

/// A claim that was confirmed less than this ago is not looked into again: a participant repeats it with each answer.
const CONFIRMED_FOR_MS: Instant = 1_000;

/// A participant that named a higher epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Witness {
    pub participant: ParticipantUrl,
    /// Its store, if that has an id.
    pub participant_id: Option<ParticipantId>,
}

impl Witness {
    /// Whether the two are certainly not one and the same: at another host or port, and another store.
    fn is_independent_of(&self, other: &Self) -> bool {
        let other_store = match (self.participant_id, other.participant_id) {
            (Some(one), Some(other)) => one != other,
            (None, _) | (_, None) => true,
        };
        other_store && self.participant.host_and_port() != other.participant.host_and_port()
    }
}

/// Why this process takes no further action.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Superseded {
    pub epoch: Epoch,
    /// The participants that named the epoch.
    pub witnesses: Vec<Witness>,
    /// How it was seen that the log is not this process's any more; None if it is, and a second coordinator runs on a copy.
    pub lost: Option<String>,
}

/// What participants have said of higher epochs.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    /// Claims that are being looked into.
    pending: Vec<(Epoch, Witness)>,
    /// Claims that were confirmed to be no loss of the log, in the order in which they came.
    claims: Vec<(Epoch, Vec<Witness>)>,
    confirmed_at: Option<Instant>,
    /// The highest epoch that the log keeps because it was named.
    kept: Option<Epoch>,
    /// What the log has said of its progress meanwhile.
    progress: Option<Progress>,
    pub(super) superseded: Option<Superseded>,
}

impl Ownership {
    pub(super) fn is_confirming(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Keeps what the log says of its progress until the ownership is confirmed; returns whether it did.
    pub(super) fn holds_back(&mut self, progress: Progress) -> bool {
        if self.is_confirming() {
            self.progress = Some(progress);
        }
        self.is_confirming()
    }

    fn knows(&self, epoch: Epoch, witness: &Witness) -> bool {
        self.claims.iter().any(|(claimed, witnesses)| *claimed == epoch && witnesses.contains(witness))
    }

    /// Adds a witness, and returns all of them if two are independent.
    fn add(&mut self, epoch: Epoch, witness: Witness) -> Option<Vec<Witness>> {
        let at = self.claims.iter().position(|(claimed, _)| *claimed == epoch).unwrap_or_else(|| {
            if self.claims.len() >= MAX_CLAIMED_EPOCHS {
                self.claims.remove(0);
            }
            self.claims.push((epoch, vec![]));
            self.claims.len() - 1
        });
        let witnesses = &mut self.claims[at].1;
        let first = witnesses.iter().find(|known| known.is_independent_of(&witness)).cloned();
        if let Some(first) = first {
            return Some(vec![first, witness]);
        }
        if !witnesses.contains(&witness) && witnesses.len() < MAX_WITNESSES {
            witnesses.push(witness);
        }
        None
    }
}

impl Engine {
    /// A participant answered 412 with a higher epoch of this coordinator. Returns whether the epoch is believed: one that
    /// lies further ahead than any clock is no answer and nothing else.
    pub(super) fn claimed(&mut self, now: Now, epoch: Epoch, witness: Witness) -> bool {
        let latest = now.wall.after(MAX_AHEAD).0;
        if epoch <= self.epoch || epoch.unix_ms() > latest {
            return false;
        }
        let recently = self.ownership.confirmed_at.is_some_and(|at| now.mono < at + CONFIRMED_FOR_MS);
        if self.ownership.superseded.is_some() || (recently && self.ownership.knows(epoch, &witness)) {
            return true;
        }
        if !self.ownership.is_confirming() {
            self.outputs.push(Output::ConfirmOwnership);
        }
        if self.ownership.pending.len() < MAX_CLAIMED_EPOCHS
            && !self.ownership.pending.contains(&(epoch, witness.clone()))
        {
            self.ownership.pending.push((epoch, witness));
        }
        true
    }

    /// Whether this process still owns its log was looked into, after an [`Output::ConfirmOwnership`]. `lost` says how it was
    /// seen that it does not.
    pub fn confirmed(&mut self, now: Now, lost: Option<&str>) {
        let claims = std::mem::take(&mut self.ownership.pending);
        let progress = self.ownership.progress.take();
        if let (Some(lost), Some((epoch, witness))) = (lost, claims.first()) {
            return self.supersede(Superseded {
                epoch: *epoch,
                witnesses: vec![witness.clone()],
                lost: Some(lost.to_owned()),
            });
        }
        self.ownership.confirmed_at = Some(now.mono);
        for (epoch, witness) in claims {
            if self.ownership.superseded.is_some() {
                break;
            }
            if self.ownership.kept.is_none_or(|kept| kept < epoch) {
                self.ownership.kept = Some(epoch);
                let lsn = self.next_lsn;
                self.next_lsn.0 += 1;
                let entry = Entry::HigherEpoch { epoch, named_by: witness.participant.to_string() };
                self.outputs.push(Output::Append(lsn, entry));
            }
            self.outputs.push(Output::HigherEpoch(epoch, witness.participant.clone()));
            if let Some(witnesses) = self.ownership.add(epoch, witness) {
                self.supersede(Superseded { epoch, witnesses, lost: None });
            }
        }
        // It owns its log, so what that has said holds, also of the last decisions before it was superseded.
        if let Some(progress) = progress {
            self.progress(now, progress);
        }
    }

    fn supersede(&mut self, superseded: Superseded) {
        // Nobody hears of a decision from this process any more.
        for live in self.live.values_mut() {
            live.waiters.clear();
        }
        self.outputs.push(Output::Superseded(superseded.clone()));
        self.ownership.superseded = Some(superseded);
    }

    /// Returns why this process takes no further action, if so.
    pub fn superseded(&self) -> Option<&Superseded> {
        self.ownership.superseded.as_ref()
    }

    /// Nothing new is begun or decided once another coordinator has taken over.
    pub fn refuse_if_superseded(&self) -> Result<(), Refused> {
        match &self.ownership.superseded {
            Some(superseded) => Err(Refused::new(Refusal::Superseded(superseded.clone()))),
            None => Ok(()),
        }
    }

    /// Nothing is presumed while it is being confirmed that the log is this process's.
    pub(super) fn refuse_while_confirming(&self) -> Result<(), Refused> {
        if self.ownership.is_confirming() { Err(Refused::new(Refusal::Confirming)) } else { Ok(()) }
    }
}
