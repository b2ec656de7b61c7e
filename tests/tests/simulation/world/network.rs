//! Messages on their way: handed over, lost, doubled, answered. An address may lead to another store for a while, or nowhere.

use rand::RngExt;
use unanimous_coordinator::{
    transaction::Phase,
    transport::{Attempt, BatchFailure, Message, Request, Returned},
};
use unanimous_sdk::protocol::{Coordinator, Vote};

use super::{URLS, World};

/// So many messages count as recent.
const RECENT: usize = 40;

/// A request on its way, or being worked on.
pub(super) struct Flight {
    pub(super) from: Coordinator,
    pub(super) request: Request,
    /// The place of its URL.
    pub(super) at: usize,
    /// What was answered of each of its messages so far.
    pub(super) answers: Vec<Option<Attempt>>,
    /// The messages that have not been handed over yet.
    pub(super) undelivered: Vec<usize>,
    /// Whether the coordinator that sent it still waits.
    pub(super) awaited: bool,
    /// An abort that is sent once more, for a transaction that has finished.
    pub(super) is_late: bool,
}

impl World {
    /// A message reaches whoever is at its URL.
    pub(super) fn deliver(&mut self) {
        let Some(ticket) = self.any_flight() else { return };
        let flight = &self.flights[&ticket];
        if self.is_away[flight.at] {
            return self.lose_flight(ticket);
        }
        if !flight.undelivered.is_empty() {
            let at = self.random.random_range(0..flight.undelivered.len());
            self.deliver_one(ticket, at, None);
        }
    }

    /// One of the messages that have not been handed over reaches whoever is at its URL.
    pub(super) fn deliver_one(&mut self, ticket: usize, at: usize, vote: Option<Vote>) {
        let Some(flight) = self.flights.get_mut(&ticket) else { return };
        let message = flight.undelivered.swap_remove(at);
        let (place, from, of) = (flight.at, flight.from.clone(), flight.request.messages[message].clone());
        self.hand_over(place, &from, &of, Some(ticket * 64 + message), vote);
        self.old.push((place, from, of));
    }

    /// All messages that are on their way to a place reach whoever is there.
    pub(super) fn deliver_all(&mut self, wanted: impl Fn(usize, Phase) -> bool, vote: Option<Vote>) {
        let is_wanted = |ticket: &usize| wanted(self.flights[ticket].at, self.flights[ticket].request.phase);
        let tickets: Vec<_> = self.flights.keys().copied().filter(is_wanted).collect();
        for ticket in tickets {
            while self.flights.get(&ticket).is_some_and(|flight| !flight.undelivered.is_empty()) {
                self.deliver_one(ticket, 0, vote);
            }
        }
    }

    fn hand_over(
        &mut self,
        place: usize,
        from: &Coordinator,
        message: &Message,
        ticket: Option<usize>,
        vote: Option<Vote>,
    ) {
        let vote = match self.random.random_range(0..10) {
            _ if let Some(vote) = vote => Ok(vote),
            0 => Err("no".to_owned()),
            1 | 2 => Ok(Vote::ReadOnly),
            _ => Ok(Vote::Prepared),
        };
        let (node, now) = (self.route[place], self.time_at(self.route[place]));
        self.say(|| format!("node {node}: gets {:?} {}/{}", message.call, message.transaction, message.branch));
        self.nodes[node].receive(from, message, now, ticket, &vote);
    }

    /// A request, or its answer, is lost on the way.
    pub(super) fn lose(&mut self) {
        if let Some(ticket) = self.any_flight() {
            self.lose_flight(ticket);
        }
    }

    fn lose_flight(&mut self, ticket: usize) {
        let attempt = match self.random.random_range(0..3) {
            _ if self.is_away[self.flights[&ticket].at] => Attempt::Unreachable("refused".into()),
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

    /// The process that worked on these messages has ended.
    pub(super) fn break_off(&mut self, tickets: Vec<Option<usize>>) {
        for ticket in tickets.into_iter().flatten() {
            if let Some(flight) = self.flights.get_mut(&(ticket / 64)) {
                flight.answers[ticket % 64] = Some(Attempt::NoAnswer("reset".into()));
                if flight.answers.iter().all(Option::is_some) {
                    self.return_flight(ticket / 64);
                }
            }
        }
    }

    /// An old message comes again.
    pub(super) fn again(&mut self) {
        if self.old.is_empty() {
            return;
        }
        // A repeat often reaches another store than the first.
        let recent = self.old.iter().enumerate().rev().take(RECENT);
        let misled = recent.filter(|(_, (place, ..))| self.route[*place] != self.home[*place]).map(|(at, _)| at);
        let misled: Vec<_> = misled.collect();
        let at = match misled.len() {
            0 => self.random.random_range(0..self.old.len()),
            count => misled[self.random.random_range(0..count)],
        };
        let (place, from, message) = self.old[at].clone();
        self.hand_over(place, &from, &message, None, None);
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

    fn return_flight(&mut self, ticket: usize) {
        let Some(flight) = self.flights.remove(&ticket) else { return };
        if !flight.awaited {
            return;
        }
        let answers = flight.answers.into_iter().map(|answer| answer.unwrap_or(Attempt::Silence("silence".into())));
        if flight.is_late {
            return self.answered_once_more(&flight.request.messages[0], answers);
        }
        let tasks = flight.request.messages.iter().map(|m| (m.transaction, m.at, m.call));
        let max_batch = self.chance(30).then_some(5);
        let Request { participant, phase, batch, .. } = flight.request;
        let attempts: Vec<_> = tasks.zip(answers).collect();
        self.suspects.answered(flight.at, attempts.iter().map(|(_, attempt)| attempt));
        self.note_claims(&participant, attempts.iter().map(|(_, attempt)| attempt));
        self.engine.answered(self.now, Returned { participant, phase, attempts, max_batch, batch });
    }

    fn any_flight(&mut self) -> Option<usize> {
        let count = self.flights.len();
        if count == 0 {
            return None;
        }
        let at = self.random.random_range(0..count);
        self.flights.keys().nth(at).copied()
    }

    /// An address leads to another store for a while, or to its own again. (Not where a store may go for good: whose vote was
    /// counted by mistake, and who is gone, only an operator can end.)
    pub(super) fn mistake(&mut self) {
        if !self.rules.has_ids || self.rules.loses_data {
            return;
        }
        if self.route != self.home && self.chance(60) {
            self.route = self.home;
            return self.say(|| "network: all addresses are right again".to_owned());
        }
        let place = self.random.random_range(0..URLS);
        let node = self.any_present();
        self.route[place] = node;
        self.say(|| format!("network: the address of node {place} leads to node {node}"));
    }

    /// A participant can't be reached for a while, or can again.
    pub(super) fn go_away(&mut self) {
        let place = self.random.random_range(0..URLS);
        let is_away = !self.is_away.contains(&true) && self.chance(50);
        self.is_away = [false; URLS];
        self.is_away[place] = is_away;
        self.say(|| format!("network: node {place} is {}", if is_away { "away" } else { "there" }));
    }
}
