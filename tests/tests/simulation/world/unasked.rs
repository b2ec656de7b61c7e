//! Participants that enlist themselves, and vote unasked: on the application's own calls, before the commit is asked for.

use rand::RngExt;
use unanimous_coordinator::{
    engine::{Enlist, Refusal},
    transaction::StoreVote,
};
use unanimous_sdk::{
    branch::{Act, BranchKey},
    protocol::{BranchName, CoordinatorRef, Epoch, TransactionId, Vote},
};

use super::{URLS, World, url};

/// A vote on its way: the branch, what, and the epoch that it names.
#[derive(Clone)]
pub(super) struct Unasked {
    node: usize,
    key: BranchKey,
    vote: Vote,
    epoch: Epoch,
}

impl World {
    /// A service takes part in a transaction by a call of the application; its branch has a name that was never used.
    pub(super) fn join(&mut self, id: TransactionId) {
        let place = self.random.random_range(0..URLS);
        let node = self.home[place];
        self.joined += 1;
        let name: BranchName = format!("u{}", self.joined).parse().expect("it is a name");
        let enlist = Enlist { name: Some(name.clone()), participant: url(place), payload: None, vote: None, key: None };
        if self.engine.enlist(self.now, id, enlist).is_err() {
            return;
        }
        let from = self.engine.coordinator();
        self.say(|| format!("node {node}: enlists itself in {id} as {name}"));
        if self.chance(10) {
            return self.say(|| "network: loses the answer".to_owned());
        }
        let key = BranchKey { coordinator: from.id, transaction: id, branch: name };
        let now = self.time_at(node);
        self.nodes[node].open(&from, &key, now);
        self.open.push((node, key));
    }

    /// The work of one that has joined is done, or given up.
    pub(super) fn end_work(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.open.len());
        let (node, key) = self.open.swap_remove(at);
        let act = match self.random.random_range(0..10) {
            0 => Act::GiveUp("the service has let it go"),
            1 | 2 => Act::Hold(Vote::Prepared),
            3 | 4 => Act::Vote(Vote::ReadOnly),
            _ => Act::Vote(Vote::Prepared),
        };
        self.say(|| format!("node {node}: {act:?} of {key}"));
        self.nodes[node].end_work(&key, act);
    }

    /// The votes that are durable leave. They may be lost, and come again at any time, under the epoch they name.
    pub(super) fn send_votes(&mut self, node: usize) {
        for (key, vote) in self.nodes[node].votes() {
            let Some(epoch) = self.nodes[node].epoch(&key) else { continue };
            let unasked = Unasked { node, key, vote, epoch };
            self.votes.push(unasked.clone());
            if !self.is_heard(node) || self.faults && self.chance(15) {
                self.say(|| format!("network: loses the vote of {}", unasked.key));
            } else {
                self.hand_over_vote(unasked);
            }
        }
    }

    /// An old vote comes again.
    pub(super) fn vote_again(&mut self) {
        if !self.votes.is_empty() {
            let at = self.random.random_range(0..self.votes.len());
            self.hand_over_vote(self.votes[at].clone());
        }
    }

    fn hand_over_vote(&mut self, unasked: Unasked) {
        let Unasked { node, key, vote, epoch } = unasked;
        let named = CoordinatorRef { id: key.coordinator, epoch };
        let counted = StoreVote { vote, participant_id: self.nodes[node].id() };
        let heard = self.engine.vote(self.now, key.transaction, &key.branch, counted, &named, None);
        let present = self.engine.coordinator().epoch;
        self.say(|| {
            format!("coordinator: gets the vote {vote:?} of {key}: {}", if heard.is_ok() { "counts" } else { "no" })
        });
        match heard {
            Ok(_) => assert_eq!(epoch, present, "{key}: a vote under an epoch that is past has counted"),
            // It is kept, and the vote sent once more under it.
            Err(refused) if matches!(refused.why, Refusal::StaleEpoch { .. }) && self.nodes[node].is_present => {
                let now = self.time_at(node);
                self.nodes[node].superseded(key.coordinator, present, now);
                // By a clock that is behind, that epoch can't be true.
                if self.nodes[node].epoch(&key) != Some(present) {
                    return;
                }
                let again = Unasked { node, key, vote, epoch: present };
                self.votes.push(again.clone());
                self.hand_over_vote(again);
            }
            Err(_) => {}
        }
    }
}
