//! Whom the coordinator may call, PROTOCOL §7: whoever may enlist could otherwise make it call anything.

use std::{
    collections::HashSet,
    sync::{PoisonError, RwLock},
};

use unanimous_sdk::protocol::{ParticipantUrl, Problem, ProblemType};

/// So many are remembered as allowed: the same few come again and again.
const REMEMBERED: usize = 1_024;

/// The participants that may be enlisted: those under one of these URLs; without any, those on this machine.
#[derive(Debug, Default)]
pub struct AllowList {
    roots: Vec<ParticipantUrl>,
    allowed: RwLock<HashSet<ParticipantUrl>>,
}

impl AllowList {
    /// Allows what is under one of these.
    pub fn new(roots: Vec<ParticipantUrl>) -> Self {
        Self { roots, allowed: RwLock::default() }
    }

    /// Refuses a participant that is not on the list. `field` is where it stood.
    pub fn check(&self, participant: &ParticipantUrl, field: &str) -> Result<(), Problem> {
        if self.allowed.read().unwrap_or_else(PoisonError::into_inner).contains(participant) {
            return Ok(());
        }
        let allowed = if self.roots.is_empty() {
            participant.is_loopback()
        } else {
            self.roots.iter().any(|root| participant.is_under(root))
        };
        if allowed {
            let mut known = self.allowed.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() < REMEMBERED {
                known.insert(participant.clone());
            }
            return Ok(());
        }
        let list: Vec<&str> = self.roots.iter().map(ParticipantUrl::as_str).collect();
        let list = if list.is_empty() { "addresses of this machine".to_owned() } else { list.join(", ") };
        let detail = format!(
            "`{field}`: {participant} is not on the coordinator's allow-list ({list}); start the coordinator with \
             --allow-participant to add to it"
        );
        Err(Problem::new(ProblemType::ForbiddenParticipant, detail))
    }
}
