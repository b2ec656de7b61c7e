//! Stores and the processes that serve them: they die, and they lose their data.
//!
//! An empty store may have another id, as it should, the same, or none. In the first case its participant is mistaken for
//! another one, until the full store is back; the empty one goes on elsewhere. In the others nobody can tell the two
//! apart. Then the data of the new store goes when the old one is back.

use std::time::Duration;

use rand::RngExt;
use unanimous_coordinator::transaction::Phase;
use unanimous_sdk::protocol::{ParticipantId, Vote};
use uuid::Uuid;

use super::{URLS, World};
use crate::node::Node;

/// How many commits wait for a participant that is about to lose its data.
const MANY: usize = 14;

pub(super) fn participant_id(number: usize) -> ParticipantId {
    ParticipantId::from_uuid(Uuid::from_u128(1_000 + number as u128))
}

impl World {
    pub(super) fn any_present(&mut self) -> usize {
        loop {
            let node = self.random.random_range(0..self.nodes.len());
            if self.nodes[node].is_present {
                return node;
            }
        }
    }

    /// Whether what it sends reaches the coordinator.
    pub(super) fn is_heard(&self, node: usize) -> bool {
        self.nodes[node].is_present && !self.is_away[self.nodes[node].home]
    }

    pub(super) fn sync_node(&mut self) {
        let node = self.any_present();
        self.sync_and_send(node);
    }

    pub(super) fn sync_and_send(&mut self, node: usize) {
        self.nodes[node].sync();
        self.send_answers(node);
        self.send_votes(node);
    }

    pub(super) fn crash_node(&mut self) {
        let node = self.any_present();
        let kept = self.random.random_range(0..=self.nodes[node].disk.unsynced());
        self.say(|| format!("node {node}: crashes, {kept} unsynced entries survive"));
        self.stop_node(node, kept);
        self.tell_ends(node);
    }

    fn stop_node(&mut self, node: usize, kept: usize) {
        self.open.retain(|(of, _)| *of != node);
        self.late.forget_store(node);
        let tickets = self.nodes[node].crash(kept);
        self.break_off(tickets);
    }

    /// A participant is started on an empty store.
    pub(super) fn empty(&mut self) {
        let place = self.random.random_range(0..URLS);
        if self.home[place] == place {
            let has_new_id = self.rules.has_ids && !self.rules.is_forged && (!self.rules.loses_data || self.chance(50));
            if has_new_id || self.rules.loses_data {
                self.empty_at(place, has_new_id);
            }
        }
    }

    fn empty_at(&mut self, place: usize, has_new_id: bool) {
        self.stop_node(place, 0);
        self.nodes[place].is_present = false;
        let node = self.nodes.len();
        let id = if has_new_id { Some(participant_id(node)) } else { self.nodes[place].id() };
        self.nodes.push(Node::new(id, place));
        for route in &mut self.route {
            if *route == place {
                *route = node;
            }
        }
        self.home[place] = node;
        self.suspects.has_lost[place] |= !has_new_id;
        self.say(|| format!("node {place}: starts as node {node} on an empty store, {id:?}"));
    }

    /// Whoever was started on an empty store has its full one again.
    pub(super) fn give_data_back(&mut self) {
        for place in 0..URLS {
            let node = std::mem::replace(&mut self.home[place], place);
            if node == place {
                continue;
            }
            self.stop_node(node, usize::MAX);
            // As it can't be told from the other one, it doesn't go on elsewhere.
            if self.nodes[node].id() == self.nodes[place].id() {
                (self.nodes[node].is_present, self.nodes[node].is_gone) = (false, true);
            }
            self.nodes[place].is_present = true;
            self.say(|| format!("node {place}: has its data again"));
            self.tell_ends(place);
            self.tell_ends(node);
        }
        self.route = self.home;
    }

    /// A copy is made of a store that is in doubt.
    pub(super) fn back_up(&mut self) {
        let node = self.random.random_range(0..URLS);
        if !self.nodes[node].in_doubt().is_empty() {
            self.nodes[node].back_up();
            self.say(|| format!("node {node}: a copy of its store is made"));
        }
    }

    /// A store is put back to the state of its copy, long after. Returns whether there was a copy.
    pub(super) fn put_back(&mut self) -> bool {
        let copies = (0..URLS).find_map(|node| Some((node, self.nodes[node].backup.take()?)));
        let Some((node, backup)) = copies else { return false };
        for _ in 0..10 {
            self.pass(1_000);
            self.carry_out();
            self.write_all();
            self.sync();
        }
        self.stop_node(node, usize::MAX);
        self.nodes[node].put_back(backup);
        self.suspects.has_lost[node] = true;
        self.say(|| format!("node {node}: its store is put back to the copy"));
        self.tell_ends(node);
        true
    }

    /// Many commits wait for a participant when it loses its data.
    pub(super) fn lose_much(&mut self) {
        let place = self.random.random_range(0..URLS);
        if self.home[place] != place {
            return;
        }
        self.route[place] = place;
        self.right_all_clocks();
        for _ in 0..MANY {
            let Some(id) = self.begin_at(&[place], Duration::from_mins(1), None) else { return };
            self.ask_for_commit(id);
        }
        self.be_calm(place, Phase::One);
        self.empty_at(place, false);
        self.be_calm(place, Phase::Two);
    }

    /// All calls of a phase to one participant are answered, and nothing else happens.
    fn be_calm(&mut self, place: usize, phase: Phase) {
        for _ in 0..MANY {
            self.carry_out();
            self.deliver_all(|at, of| at == place && of == phase, Some(Vote::Prepared));
            self.sync_and_send(self.home[place]);
            self.carry_out();
            self.write_all();
            self.sync();
            if phase == Phase::Two {
                self.pass(100);
                if self.chance(4) {
                    self.crash_coordinator();
                }
            }
        }
    }
}
