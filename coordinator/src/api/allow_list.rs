//! Whom the coordinator may call, PROTOCOL §7: whoever may enlist could otherwise make it call anything.

use unanimous_sdk::protocol::{ParticipantUrl, Problem, ProblemType};

/// The participants that may be enlisted: those under one of these URLs; without any, those on this machine.
#[derive(Clone, Debug, Default)]
pub struct AllowList(pub Vec<ParticipantUrl>);

impl AllowList {
    /// Refuses a participant that is not on the list. `field` is where it stood.
    pub fn check(&self, participant: &ParticipantUrl, field: &str) -> Result<(), Problem> {
        let allowed = if self.0.is_empty() {
            participant.is_loopback()
        } else {
            self.0.iter().any(|root| participant.is_under(root))
        };
        if allowed {
            return Ok(());
        }
        let list: Vec<&str> = self.0.iter().map(ParticipantUrl::as_str).collect();
        let list = if list.is_empty() { "addresses of this machine".to_owned() } else { list.join(", ") };
        let detail = format!(
            "`{field}`: {participant} is not on the coordinator's allow-list ({list}); start the coordinator with \
             --allow-participant to add to it"
        );
        Err(Problem::new(ProblemType::ForbiddenParticipant, detail))
    }
}
