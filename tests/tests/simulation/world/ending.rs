//! After the faults: everything must finish, in a bounded number of steps, and agree.

use unanimous_coordinator::journal::Journal;
use unanimous_sdk::{
    branch::State,
    protocol::{Decision, Vote},
};

use super::{NODES, World, binding, node_of};

impl World {
    /// The faults are over: everything must finish, in a bounded number of steps, and agree.
    pub fn heal(&mut self) {
        self.faults = false;
        self.say(|| "the faults are over".to_owned());
        while !self.open.is_empty() {
            self.end_work();
        }
        for _ in 0..3_000 {
            let tickets: Vec<_> = self.flights.keys().copied().collect();
            for ticket in tickets {
                while self.flights.get(&ticket).is_some_and(|flight| !flight.undelivered.is_empty()) {
                    let Some(flight) = self.flights.get_mut(&ticket) else { break };
                    let at = flight.undelivered.swap_remove(0);
                    let (from, message) = (flight.from.clone(), flight.request.messages[at].clone());
                    let node = node_of(&flight.request.participant);
                    self.hand_over(node, &from, &message, Some(ticket * 64 + at));
                }
            }
            for node in 0..NODES {
                self.nodes[node].sync();
                self.send_answers(node);
                self.send_votes(node);
            }
            self.carry_out();
            while self.journal.waiting() > 0 {
                self.write();
                self.carry_out();
            }
            self.sync();
            for _ in 0..4 {
                self.inquire();
            }
            self.carry_out();
            self.pass();
            self.carry_out();
            self.check();
            for node in &mut self.nodes {
                node.sync();
            }
            if self.engine.live() == 0 && self.flights.is_empty() && self.nodes.iter().all(|n| n.in_doubt().is_empty())
            {
                return self.agree();
            }
        }
        panic!(
            "not everything has finished: {} live, {} requests, in doubt {:?}",
            self.engine.live(),
            self.flights.len(),
            self.nodes.iter().map(|node| node.in_doubt().len()).collect::<Vec<_>>()
        );
    }

    fn agree(&mut self) {
        for id in self.begun.clone() {
            let decided = self.view(id).map(|view| (view.decision().expect("it has finished"), view.is_heuristic()));
            if let Some((_, heuristic)) = decided {
                if let Some(decision) = self.view(id).and_then(|view| binding(&view)) {
                    self.tell(id, decision);
                }
                assert!(!heuristic, "{id}: a branch ended against the decision");
            }
            // What the log doesn't know was never committed.
            let decision = decided.map_or(Decision::Abort, |(decision, _)| decision);
            for (at, node) in self.nodes.iter().enumerate() {
                for (key, state) in node.ended.iter().filter(|(key, _)| key.transaction == id) {
                    match state {
                        State::Committed => assert_eq!(decision, Decision::Commit, "node {at}: {key}"),
                        State::Aborted(_) => {
                            // A branch that voted read-only, or twice under a doubled prepare, may end so all the same.
                            let vote = self.engine_vote(key);
                            assert!(decision == Decision::Abort || vote != Some(Vote::Prepared), "node {at}: {key}");
                        }
                        State::Prepared => panic!("node {at}: {key} is still in doubt"),
                        State::ReadOnly
                        | State::Refused(_)
                        | State::Tombstone
                        | State::Open
                        | State::Held(_)
                        | State::Working
                        | State::Committing
                        | State::Aborting(_) => {}
                    }
                }
            }
        }
    }

    fn engine_vote(&self, key: &unanimous_sdk::branch::BranchKey) -> Option<Vote> {
        let finished = self.journal.finished(key.transaction).expect("it can be read")?;
        finished.branch(&key.branch).and_then(|(_, branch)| branch.vote)
    }
}
