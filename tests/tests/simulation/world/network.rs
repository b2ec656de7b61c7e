//! Messages on their way: handed over, lost, doubled, answered.

use rand::RngExt;
use unanimous_coordinator::transport::{Attempt, BatchFailure, Message, Request, Returned};
use unanimous_sdk::protocol::{Coordinator, Vote};

use super::{World, node_of};

impl World {
    /// A message reaches its participant.
    pub(super) fn deliver(&mut self) {
        let Some(ticket) = self.any_flight() else { return };
        let Some(flight) = self.flights.get_mut(&ticket) else { return };
        if flight.undelivered.is_empty() {
            return;
        }
        let at = flight.undelivered.swap_remove(self.random.random_range(0..flight.undelivered.len()));
        let (from, message) = (flight.from.clone(), flight.request.messages[at].clone());
        let node = node_of(&flight.request.participant);
        self.hand_over(node, &from, &message, Some(ticket * 64 + at));
        self.old.push((node, from, message));
    }

    pub(super) fn hand_over(&mut self, node: usize, from: &Coordinator, message: &Message, ticket: Option<usize>) {
        let vote = match self.random.random_range(0..10) {
            0 => Err("no".to_owned()),
            1 | 2 => Ok(Vote::ReadOnly),
            _ => Ok(Vote::Prepared),
        };
        self.say(|| format!("node {node}: gets {:?} {}/{}", message.call, message.transaction, message.branch));
        self.nodes[node].receive(from, message, ticket, &vote);
    }

    /// A request, or its answer, is lost on the way.
    pub(super) fn lose(&mut self) {
        let Some(ticket) = self.any_flight() else { return };
        let attempt = match self.random.random_range(0..3) {
            0 => Attempt::Unreachable("refused".into()),
            1 => Attempt::Silence("silence".into()),
            _ => Attempt::NoAnswer("dropped".into()),
        };
        // Where no connection could be made, nothing was handed over.
        let reached = self.flights[&ticket].undelivered.len() < self.flights[&ticket].request.messages.len();
        let batch = self.flights[&ticket].request.messages.len() > 1 && self.chance(50);
        let attempt = match (batch, reached) {
            // What stands in front of it answers in its place.
            (true, false) if self.chance(50) => Attempt::NotTaken(BatchFailure::Unsupported),
            (true, false) => Attempt::NotTaken(BatchFailure::TooLarge),
            (true, true) => Attempt::NotTaken(BatchFailure::OtherCall),
            (false, true) => Attempt::NoAnswer("dropped".into()),
            (false, false) => attempt,
        };
        let Some(flight) = self.flights.get_mut(&ticket) else { return };
        for answer in &mut flight.answers {
            *answer = Some(attempt.clone());
        }
        self.say(|| format!("network: loses request {ticket}"));
        self.return_flight(ticket);
    }

    /// An old message comes again.
    pub(super) fn again(&mut self) {
        if self.old.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.old.len());
        let (node, from, message) = self.old[at].clone();
        self.hand_over(node, &from, &message, None);
    }

    pub(super) fn send_answers(&mut self, node: usize) {
        for (ticket, attempt) in self.nodes[node].answers() {
            self.say(|| format!("node {node}: answers {attempt:?}"));
            let Some(ticket) = ticket else { continue };
            let Some(flight) = self.flights.get_mut(&(ticket / 64)) else { continue };
            flight.answers[ticket % 64].get_or_insert(attempt);
            if flight.answers.iter().all(Option::is_some) {
                self.return_flight(ticket / 64);
            }
        }
    }

    pub(super) fn return_flight(&mut self, ticket: usize) {
        let Some(flight) = self.flights.remove(&ticket) else { return };
        if !flight.awaited {
            return;
        }
        let tasks = flight.request.messages.iter().map(|m| (m.transaction, m.at, m.call));
        let answers = flight.answers.into_iter().map(|answer| answer.unwrap_or(Attempt::Silence("silence".into())));
        let max_batch = self.chance(30).then_some(5);
        let Request { participant, phase, batch, .. } = flight.request;
        let attempts = tasks.zip(answers).collect();
        self.engine.answered(self.now, Returned { participant, phase, attempts, max_batch, batch });
    }

    pub(super) fn any_flight(&mut self) -> Option<usize> {
        let count = self.flights.len();
        if count == 0 {
            return None;
        }
        let at = self.random.random_range(0..count);
        self.flights.keys().nth(at).copied()
    }
}
