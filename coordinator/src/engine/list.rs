//! Listing transactions, newest first: those that are live from the engine, those that have finished from the log.
//!
//! Always true: a page has no gaps and no repeats, whatever begins and ends meanwhile: order is by id, which never changes,
//! and the live ones are read first, so that one that finishes in between is found in the log. What a page costs is bounded:
//! it may have fewer items than were asked for, even none, and say where to go on.

use std::collections::BTreeMap;

use unanimous_sdk::protocol::{ParticipantUrl, TransactionId, UnixMillis};

use super::{Engine, Refused, Service, View};
use crate::{
    journal::{Find, Tag},
    transaction::{State, Transaction},
};

/// How many live transactions are looked at before others get their turn with the engine.
const AT_ONCE: usize = 200;

/// How many looks into the log a page may cost: a tenth of a second or so. What isn't found by then is on the next page.
const MOST_LOOKS: usize = 20_000;

/// Which transactions are wanted; all that is given must fit.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In one of these states, if there are any.
    pub states: Vec<State>,
    /// Whether a branch ended against the decision, or nobody knows how.
    pub heuristic: Option<bool>,
    /// A branch of each of these participants.
    pub participants: Vec<ParticipantUrl>,
    /// These metadata.
    pub metadata: BTreeMap<String, String>,
    /// A call about it came with this key.
    pub key: Option<String>,
    /// Begun then or later.
    pub since: Option<UnixMillis>,
    /// Begun earlier.
    pub until: Option<UnixMillis>,
    /// Only ids below this one: the last of the page before.
    pub before: Option<TransactionId>,
}

/// Between which ids everything is that a filter's times let through.
#[derive(Clone, Copy, Debug)]
struct Ids {
    lowest: Option<TransactionId>,
    below: Option<TransactionId>,
}

impl Filter {
    fn fits(&self, view: &View) -> bool {
        (self.states.is_empty() || self.states.contains(&view.state()))
            && self.heuristic.is_none_or(|wanted| wanted == view.is_heuristic())
            && self.fits_always(view.transaction())
    }

    /// Whether it fits by what doesn't depend on how far it has come.
    fn fits_always(&self, transaction: &Transaction) -> bool {
        let has = |wanted: &ParticipantUrl| transaction.branches.iter().any(|branch| branch.participant == *wanted);
        self.since.is_none_or(|since| transaction.created_at >= since)
            && self.until.is_none_or(|until| transaction.created_at < until)
            && self.participants.iter().all(has)
            && self.metadata.iter().all(|(key, value)| transaction.metadata.get(key) == Some(value))
            && self.key.as_ref().is_none_or(|wanted| transaction.keys.iter().any(|key| *key.text == **wanted))
    }

    /// What the log finds them by.
    fn find(&self, ids: Ids) -> Find {
        let mut groups = vec![];
        if !self.states.is_empty() {
            let finished = self.states.iter().filter(|state| state.is_finished());
            groups.push(finished.map(|state| Tag::state(*state)).collect());
        }
        groups.extend((self.heuristic == Some(true)).then(|| vec![Tag::heuristic()]));
        groups.extend(self.participants.iter().map(|participant| vec![Tag::participant(participant)]));
        groups.extend(self.metadata.iter().map(|(key, value)| vec![Tag::metadata(key, value)]));
        groups.extend(self.key.iter().map(|key| vec![Tag::key(key)]));
        Find { before: ids.below, since: ids.lowest, groups, looks: Some(MOST_LOOKS) }
    }
}

impl Engine {
    fn ids_of(&self, filter: &Filter) -> Ids {
        let above = filter.until.map(|until| self.skew.above_until(until));
        let below = match (filter.before, above) {
            (Some(before), Some(above)) => Some(before.min(above)),
            (before, above) => before.or(above),
        };
        Ids { lowest: filter.since.map(|since| self.skew.lowest_since(since)), below }
    }

    /// Live transactions below an id, newest first, that fit: at most `most` of the next so many; and from where to go on.
    fn list_some(
        &self,
        filter: &Filter,
        lowest: Option<TransactionId>,
        below: Option<TransactionId>,
        most: usize,
    ) -> (Vec<View>, Option<TransactionId>) {
        let mut found = vec![];
        let mut last = None;
        for id in self.horizon.below(below).take(AT_ONCE) {
            if found.len() == most || lowest.is_some_and(|lowest| id < lowest) {
                return (found, None);
            }
            last = Some(id);
            // What never changes is looked at before anything is copied.
            if self.live.get(&id).is_some_and(|live| filter.fits_always(&live.transaction)) {
                found.extend(self.view(id).filter(|view| filter.fits(view)));
            }
        }
        (found, last)
    }
}

#[cfg(test)]
impl Engine {
    /// All live ones that fit, newest first.
    pub(super) fn listed(&self, filter: &Filter) -> Vec<TransactionId> {
        let ids = self.ids_of(filter);
        let (found, _) = self.list_some(filter, ids.lowest, ids.below, usize::MAX);
        found.iter().map(View::id).collect()
    }
}

impl Service {
    /// The newest transactions that fit, at most `most`; and, if there may be more, below which id they are.
    pub fn list(&self, filter: &Filter, most: usize) -> Result<(Vec<View>, Option<TransactionId>), Refused> {
        let wanted = most + 1;
        let mut found: BTreeMap<TransactionId, View> = BTreeMap::new();
        let ids = self.with(|engine, _| engine.ids_of(filter));
        let mut below = ids.below;
        loop {
            let (some, next) = self.with(|engine, _| engine.list_some(filter, ids.lowest, below, wanted - found.len()));
            found.extend(some.into_iter().map(|view| (view.id(), view)));
            below = next;
            if next.is_none() || found.len() >= wanted {
                break;
            }
        }
        let mut finished = 0;
        let each = &mut |id, transaction| {
            let view = View::of_finished(id, transaction);
            if filter.fits(&view) {
                finished += 1;
                found.insert(id, view);
            } else {
                // It has finished since it was seen live, and fits no more.
                found.remove(&id);
            }
            finished < wanted
        };
        let reached = self.0.journal.find(&filter.find(ids), each)?;
        // What is live below that has its place behind what has finished there.
        found.retain(|id, _| reached.is_none_or(|reached| *id >= reached));
        let more = found.len() > most;
        let page: Vec<View> = found.into_values().rev().take(most).collect();
        let next = if more { page.last().map(View::id) } else { reached };
        Ok((page, next))
    }
}
