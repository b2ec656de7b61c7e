//! After the faults: everything must finish, in a bounded number of steps, and agree.

use std::{collections::BTreeMap, time::Duration};

use rand::RngExt;
use unanimous_coordinator::{
    engine::View,
    journal::Journal,
    transaction::{Branch, BranchState, Transaction},
};
use unanimous_sdk::{
    branch::{BranchKey, State},
    protocol::{Decision, TransactionId, Vote},
};

use super::{URLS, World, binding, node_of};

/// After so many rounds time passes faster: what is tried every half a minute has its turn, too.
const SHORT_ROUNDS: usize = 60;

const MAX_ROUNDS: usize = 3_000;

impl World {
    /// The faults are over: everything must finish, in a bounded number of steps, and agree.
    pub fn heal(&mut self) {
        self.faults = false;
        self.say(|| "the faults are over".to_owned());
        self.right_all_clocks();
        self.is_away = [false; URLS];
        self.give_data_back();
        while !self.open.is_empty() {
            self.end_work();
        }
        for round in 0..MAX_ROUNDS {
            self.go_on();
            let ms = if round < SHORT_ROUNDS { 1..400 } else { 400..4_000 };
            let ms = self.random.random_range(ms);
            self.pass(ms);
            self.carry_out();
            self.check();
            for node in &mut self.nodes {
                node.sync();
            }
            self.leave_to_an_operator();
            // A copy that is put back may be older than what is kept.
            if self.has_finished() && !self.put_back() {
                return self.agree();
            }
            self.help(round);
        }
        self.say_what_is_left();
        panic!("not everything has finished");
    }

    fn say_what_is_left(&mut self) {
        for id in self.begun.clone() {
            if let Some(view) = self.engine.view(id) {
                self.say(|| format!("live: {}", serde_json::to_string(&view).expect("it is JSON")));
            }
        }
        for node in 0..self.nodes.len() {
            let doubts = self.nodes[node].in_doubt();
            if !self.nodes[node].is_gone && !doubts.is_empty() {
                self.say(|| format!("node {node}: in doubt {doubts:?}"));
            }
        }
    }

    fn has_finished(&self) -> bool {
        let mut nodes = self.nodes.iter().filter(|node| !node.is_gone);
        self.engine.live() == 0 && self.flights.is_empty() && nodes.all(|node| node.in_doubt().is_empty())
    }

    /// Everything goes on by itself.
    fn go_on(&mut self) {
        self.deliver_all(|_, _| true, None);
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_present {
                self.sync_and_send(node);
            }
        }
        self.carry_out();
        self.confirm();
        self.carry_out();
        self.write_all();
        self.sync();
        for _ in 0..4 {
            self.inquire();
            self.acknowledge();
            self.amend();
        }
        self.carry_out();
    }

    /// What happens now and then to whatever has not finished: processes start again, and applications have more work.
    fn help(&mut self, round: usize) {
        if self.ownership.wants_restart() && round % 10 == 9 {
            self.crash_coordinator();
        }
        if round % 100 == SHORT_ROUNDS {
            for node in 0..self.nodes.len() {
                if self.nodes[node].is_present {
                    self.nodes[node].crash(usize::MAX);
                    self.tell_ends(node);
                }
            }
        }
        if round % 100 == 99 && round < MAX_ROUNDS - 500 {
            self.have_more_work();
        }
        self.carry_out();
    }

    /// Everybody takes part in something new: who was told a higher epoch, and is not called for anything old, says so.
    fn have_more_work(&mut self) {
        if let Some(id) = self.begin_at(&[0, 1, 2], Duration::from_secs(10), None) {
            self.ask_for_commit(id);
        }
    }

    /// Who is told that the coordinator has forgotten is left to an operator, who compares. Only
    /// where data was lost can its vote have been counted.
    fn leave_to_an_operator(&mut self) {
        for (node, key) in std::mem::take(&mut self.told_forgotten) {
            if self.nodes[node].is_gone {
                continue;
            }
            let kept = self.retention.kept.get(&key.transaction).map(|kept| Transaction::clone(&kept.transaction));
            let counted = kept.as_ref().and_then(|kept| kept.branch(&key.branch)).map(|(_, branch)| branch);
            let is_counted = counted.is_some_and(|branch| branch.vote.is_some() && self.is_store_of(node, branch));
            let is_lost = self.suspects.has_lost[self.nodes[node].home];
            assert!(!is_counted || is_lost, "node {node}: {key} is in doubt, and was forgotten");
            let decision = kept.and_then(|kept| kept.decided).filter(|_| is_counted).map(|decided| decided.decision);
            let decision = decision.unwrap_or(Decision::Abort);
            self.say(|| format!("node {node}: an operator ends {key} by {decision:?}"));
            self.nodes[node].resolve(key, decision);
            self.nodes[node].sync();
        }
    }

    /// Whether the vote of a branch was that of this store.
    fn is_store_of(&self, node: usize, branch: &Branch) -> bool {
        let node = &self.nodes[node];
        node.home == node_of(&branch.participant) && node.id() == branch.participant_id
            || branch.participant_id.is_some() && node.id() == branch.participant_id
    }

    fn agree(&mut self) {
        let mut published: BTreeMap<BranchKey, u32> = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| !node.is_gone) {
            for (key, count) in &node.published {
                *published.entry(key.clone()).or_default() += count;
            }
        }
        for id in self.begun.clone() {
            self.check_kept(id);
            if let Some(decision) = self.view(id).and_then(|view| binding(&view)) {
                self.tell(id, decision);
            }
            let kept = self.retention.kept.get(&id).map(|kept| Transaction::clone(&kept.transaction));
            let finished = self.journal.finished(id).expect("it can be read").or(kept);
            // What the log has never known was never committed.
            let decided = finished.as_ref().and_then(|t| View::of_finished(id, t.clone()).decision());
            let decision = decided.unwrap_or(Decision::Abort);
            if let Some(told) = self.told.get(&id) {
                assert_eq!(*told, decision, "{id}: {told:?} was told");
            }
            for branch in finished.iter().flat_map(|finished| &finished.branches) {
                self.check_branch(id, decision, branch, &published);
            }
            for node in 0..self.nodes.len() {
                if !self.nodes[node].is_gone {
                    self.agrees(node, id, decision, finished.as_ref());
                }
            }
        }
    }

    /// A branch has ended as decided, and at one store.
    fn check_branch(
        &self,
        id: TransactionId,
        decision: Decision,
        branch: &Branch,
        published: &BTreeMap<BranchKey, u32>,
    ) {
        let lost = self.suspects.has_lost[node_of(&branch.participant)];
        let is_known = !matches!(branch.state, BranchState::HeuristicUnknown | BranchState::HeuristicAbort);
        assert!(branch.state != BranchState::HeuristicCommit && (is_known || lost), "{id}: {branch:?}");
        let may_be_given_up = branch.vote.is_none() && !branch.voted_late || self.rules.has_ids || lost;
        assert!(!branch.given_up || may_be_given_up && decision == Decision::Abort, "{id}: {branch:?} was given up");
        let key = BranchKey { coordinator: self.engine.coordinator().id, transaction: id, branch: branch.name.clone() };
        let count = published.get(&key).copied().unwrap_or_default();
        let is_due = decision == Decision::Commit && branch.vote == Some(Vote::Prepared);
        assert!(count == u32::from(is_due) || lost, "{key}: its work was published {count} times");
    }

    /// A store has ended its branches of a transaction as decided.
    fn agrees(&self, node: usize, id: TransactionId, decision: Decision, finished: Option<&Transaction>) {
        for (key, state) in self.nodes[node].ended.iter().filter(|(key, _)| key.transaction == id) {
            let branch = finished.and_then(|finished| finished.branch(&key.branch)).map(|(_, branch)| branch);
            match state {
                State::Committed => assert_eq!(decision, Decision::Commit, "node {node}: {key}"),
                State::Aborted(_) => {
                    // A branch that voted read-only, or twice under a doubled prepare, may end so all the same, and so may
                    // one at a store that was called by mistake.
                    let counted = branch.filter(|branch| branch.vote == Some(Vote::Prepared));
                    let is_counted = counted.is_some_and(|branch| self.is_store_of(node, branch));
                    assert!(decision == Decision::Abort || !is_counted, "node {node}: {key}");
                }
                State::Prepared => panic!("node {node}: {key} is still in doubt"),
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
