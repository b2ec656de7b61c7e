//! Whose the log is, as the simulator sees it: what participants say of higher epochs, and what the engine makes of it.
//!
//! # Invariants
//! - While the ownership is being confirmed, no decision is reported.
//! - A process that has lost its log writes nothing, decides nothing and sends nothing.
//! - One participant alone supersedes nobody. Two that are certainly not the same do.

use unanimous_coordinator::{
    engine::{Output, Witness},
    journal::{Entry, Lsn},
    transport::Attempt,
};
use unanimous_sdk::protocol::{Epoch, ParticipantUrl};

use super::World;

#[derive(Default)]
pub(super) struct Ownership {
    confirming: bool,
    lost: bool,
    superseded: bool,
    /// What participants have said to this process.
    claims: Vec<(Epoch, Witness)>,
    /// The highest epoch that the log keeps, and the entry that does.
    named: Option<(Lsn, Epoch)>,
}

fn are_independent(one: &Witness, other: &Witness) -> bool {
    let same_store = one.participant_id.is_some() && one.participant_id == other.participant_id;
    !same_store && one.participant != other.participant
}

impl Ownership {
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether a restart is needed before everybody takes this coordinator's messages.
    pub(super) fn wants_restart(&self) -> bool {
        self.superseded || self.named.is_some()
    }

    pub(super) fn check(&mut self, output: &Output) {
        match output {
            Output::ConfirmOwnership => self.confirming = true,
            Output::Superseded(_) => self.superseded = true,
            Output::Decided(told) => {
                assert!(!self.confirming && !self.lost, "{}: reported before the log is known to be its own", told.id);
            }
            Output::Append(_, entry) => {
                assert!(!self.lost, "{entry:?} is appended to a log that is another's");
                let goes_on = matches!(entry, Entry::Record { .. } | Entry::Finished { .. });
                assert!(!(self.superseded && goes_on), "{entry:?} is appended by a coordinator that is superseded");
            }
            Output::Send(request) => assert!(!self.superseded, "{request:?} is sent by a superseded coordinator"),
            _ => {}
        }
    }

    pub(super) fn note(&mut self, lsn: Lsn, entry: &Entry) {
        if let Entry::HigherEpoch { epoch, .. } = entry {
            self.named = Some((lsn, *epoch));
        }
    }

    /// The process has ended, and its log had come as far as this.
    pub(super) fn restart(&mut self, durable: Lsn, epoch: Epoch) {
        if let Some((lsn, named)) = self.named
            && lsn <= durable
        {
            assert!(epoch > named, "{epoch} is not above {named}, which a participant has named");
        }
        *self = Self::default();
    }
}

impl World {
    /// Follows what the engine is told of higher epochs.
    pub(super) fn note_claims<'a>(
        &mut self,
        participant: &ParticipantUrl,
        attempts: impl Iterator<Item = &'a Attempt>,
    ) {
        let latest = self.now.wall.0 + 3_600_000;
        for attempt in attempts {
            if let Attempt::Stale(epoch, participant_id) = attempt
                && *epoch > self.epoch
                && epoch.unix_ms() <= latest
                && !self.ownership.superseded
            {
                let witness = Witness { participant: participant.clone(), participant_id: *participant_id };
                self.ownership.claims.push((*epoch, witness));
            }
        }
    }

    /// It is found out whose the log is.
    pub(super) fn confirm(&mut self) {
        if !self.ownership.confirming {
            return;
        }
        let lost = self.faults && self.chance(5);
        (self.ownership.confirming, self.ownership.lost) = (false, lost);
        self.say(|| format!("coordinator: its log is {}", if lost { "another's" } else { "its own" }));
        self.engine.confirmed(self.now, lost.then_some("somebody else holds the lock"));
        let claims = &self.ownership.claims;
        let two = claims.iter().enumerate().any(|(at, (epoch, one))| {
            claims[..at].iter().any(|(named, other)| named == epoch && are_independent(one, other))
        });
        assert_eq!(self.engine.superseded().is_some(), two || lost, "by {claims:?}");
    }
}
