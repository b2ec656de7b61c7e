//! Which coordinators are obeyed.

use super::{Inner, ServiceOptions};
use crate::{
    participant::Participant,
    protocol::{ParticipantUrl, Problem, ProblemType},
};

impl ServiceOptions {
    fn allows(&self, url: &ParticipantUrl) -> bool {
        match self.coordinators.as_slice() {
            [] => url.is_loopback(),
            list => list.iter().any(|root| url.is_under(root)),
        }
    }
}

impl<P: Participant> Inner<P> {
    /// Refuses a coordinator's URL that isn't on the list.
    pub(crate) fn check_coordinator(&self, url: &str) -> Result<ParticipantUrl, Problem> {
        let url: ParticipantUrl = url.parse().map_err(|error| {
            Problem::new(ProblemType::Malformed, format!("`coordinator.url` is the URL of a coordinator: {error}"))
        })?;
        if self.options.allows(&url) {
            return Ok(url);
        }
        let list = match self.options.coordinators.as_slice() {
            [] => "only coordinators on loopback addresses are".to_owned(),
            list => {
                format!("only these are: {}", list.iter().map(ParticipantUrl::as_str).collect::<Vec<_>>().join(", "))
            }
        };
        let detail =
            format!("the coordinator {url} is not obeyed here, {list}; its operator can add it to `coordinators`");
        Err(Problem::new(ProblemType::ForbiddenCoordinator, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_coordinators_on_the_list_are_obeyed_and_loopback_by_default() {
        let url = |text: &str| text.parse::<ParticipantUrl>().unwrap();
        let open = ServiceOptions::default();
        assert!(open.allows(&url("http://127.0.0.1:7070")) && open.allows(&url("http://localhost:1")));
        assert!(!open.allows(&url("http://10.0.0.1:7070")));
        let listed = ServiceOptions { coordinators: vec![url("http://coordinator:7070")], ..ServiceOptions::default() };
        assert!(listed.allows(&url("http://coordinator:7070")));
        assert!(!listed.allows(&url("http://coordinator:7071")) && !listed.allows(&url("http://127.0.0.1:7070")));
    }
}
