//! The coordinators that a participant has met: who may speak, and what stays of whom.
//!
//! # Invariants
//! - A message is judged before anything of it is kept.
//! - Highest epoch and horizon of a coordinator outlive the place that it gives up.

use std::collections::BTreeMap;

use super::{Former, Known, Lsn, Record, Refusal, book::Entry};
use crate::protocol::{Coordinator, CoordinatorId, Epoch, MAX_AHEAD, TransactionId, UnixMillis};

/// The most coordinators that are known at once where none is configured by name.
pub(super) const MAX_UNNAMED: usize = 16;

/// The most coordinators of which something stays after they gave up their place.
const MAX_FORMER: usize = 10_000;

/// A coordinator that has a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Met {
    known: Known,
    tombstones: usize,
    /// Its branches that are no tombstones.
    others: usize,
}

/// What a message of a coordinator that has no place yet would leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    /// A tombstone: it is an abort.
    Tombstone,
    /// More than that, or nothing.
    More,
}

/// All coordinators of a participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Coordinators {
    /// The most that have a place at once.
    most: usize,
    met: BTreeMap<CoordinatorId, Met>,
    /// Those that have a place, the one longest unused first. After a start: in the order of their ids.
    used: Vec<CoordinatorId>,
    former: BTreeMap<CoordinatorId, Former>,
    /// The same in the order in which they gave up their place.
    former_order: BTreeMap<u64, CoordinatorId>,
}

/// What a message has changed.
pub(super) struct Admitted {
    /// Those that gave their place to its coordinator: their tombstones are forgotten.
    pub(super) displaced: Vec<CoordinatorId>,
    /// What is known of its coordinator now, if its horizon has moved on.
    pub(super) moved: Option<TransactionId>,
    /// Whether this must be written, whatever follows.
    pub(super) is_changed: bool,
}

/// Returns whether a time in an id is further ahead of the clock than can be.
fn is_ahead(unix_ms: u64, now: UnixMillis) -> bool {
    unix_ms > now.after(MAX_AHEAD).0
}

impl Coordinators {
    pub(super) fn restore(met: BTreeMap<CoordinatorId, Known>, former: BTreeMap<CoordinatorId, Former>) -> Self {
        let met: BTreeMap<_, _> = met
            .into_iter()
            .map(|(id, known)| (id, Met { known: Known { lsn: Lsn::default(), ..known }, tombstones: 0, others: 0 }))
            .collect();
        let former: BTreeMap<_, _> =
            former.into_iter().map(|(id, former)| (id, Former { lsn: Lsn::default(), ..former })).collect();
        let former_order = former.iter().map(|(id, former)| (former.order, *id)).collect();
        let used = met.keys().copied().collect();
        Self { most: MAX_UNNAMED, met, used, former, former_order }
    }

    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    pub(super) fn get(&self, id: CoordinatorId) -> Option<&Known> {
        self.met.get(&id).map(|met| &met.known)
    }

    /// Returns the highest epoch of a coordinator, and the entry that holds it.
    pub(super) fn epoch(&self, id: CoordinatorId) -> Option<(Epoch, Lsn)> {
        let met = self.met.get(&id).map(|met| (met.known.epoch, met.known.lsn));
        met.or_else(|| self.former.get(&id).map(|former| (former.epoch, former.lsn)))
    }

    /// Counts a branch that is kept from now on.
    pub(super) fn add_branch(&mut self, id: CoordinatorId, is_tombstone: bool) {
        if let Some(met) = self.met.get_mut(&id) {
            *if is_tombstone { &mut met.tombstones } else { &mut met.others } += 1;
        }
    }

    /// Counts a branch that is not kept any more.
    pub(super) fn remove_branch(&mut self, id: CoordinatorId, is_tombstone: bool) {
        if let Some(met) = self.met.get_mut(&id) {
            let count = if is_tombstone { &mut met.tombstones } else { &mut met.others };
            *count = count.saturating_sub(1);
        }
    }

    /// Refuses what a coordinator may not say. `lowest`: the lowest transaction that it speaks of; None for an answer of
    /// its own, whose horizon may lie anywhere.
    pub(super) fn judge(
        &self,
        from: &Coordinator,
        lowest: Option<TransactionId>,
        leaves: Leaves,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let known = self.epoch(from.id).map(|(epoch, _)| epoch);
        if let Some(known) = known
            && from.epoch < known
        {
            return Err(Refusal::StaleEpoch { coordinator: from.id, epoch: known });
        }
        if known != Some(from.epoch) && is_ahead(from.epoch.unix_ms(), now) {
            return Err(Refusal::Implausible { field: "coordinator.epoch" });
        }
        if lowest.is_some_and(|lowest| from.horizon > lowest) {
            return Err(Refusal::Implausible { field: "coordinator.horizon" });
        }
        if !self.met.contains_key(&from.id) && self.displaced_by_one_more(leaves).is_none() {
            return Err(Refusal::TooManyCoordinators);
        }
        Ok(())
    }

    /// Returns who gives up its place if one more needs one; None if there is no place for it.
    fn displaced_by_one_more(&self, leaves: Leaves) -> Option<Vec<CoordinatorId>> {
        let needed = self.met.len().saturating_add(1).saturating_sub(self.most);
        if needed == 0 {
            return Some(Vec::new());
        }
        let of = |id: &CoordinatorId| self.met.get(id).map_or((0, 0), |met| (met.others, met.tombstones));
        // The one longest unused first, those without tombstones before those with.
        let without = self.used.iter().filter(|id| of(id) == (0, 0));
        // What would itself leave a tombstone and nothing else takes the place of no other tombstone: forged aborts would
        // go on for ever.
        let with = self.used.iter().filter(|id| leaves == Leaves::More && matches!(of(id), (0, 1..)));
        let displaced: Vec<_> = without.chain(with).copied().take(needed).collect();
        (displaced.len() == needed).then_some(displaced)
    }

    /// Notes who speaks, after it was judged: gives it a place, keeps a higher epoch, takes its horizon.
    pub(super) fn admit(&mut self, from: Coordinator, leaves: Leaves, now: UnixMillis, entry: &mut Entry) -> Admitted {
        let Coordinator { id, epoch, url, horizon } = from;
        let mut admitted = Admitted { displaced: Vec::new(), moved: None, is_changed: false };
        if !self.met.contains_key(&id) {
            admitted.displaced = self.displaced_by_one_more(leaves).unwrap_or_default();
            for displaced in &admitted.displaced {
                self.displace(*displaced, entry);
            }
            let former = self.former.remove(&id);
            if let Some(former) = &former {
                self.former_order.remove(&former.order);
            }
            let horizon = former.map_or(TransactionId::NIL, |former| former.horizon);
            let known = Known { epoch, horizon, url: url.clone(), lsn: entry.lsn };
            self.met.insert(id, Met { known, tombstones: 0, others: 0 });
            self.used.push(id);
            entry.forced = true;
            admitted.is_changed = true;
        }
        self.touch(id);
        let Some(Met { known, .. }) = self.met.get_mut(&id) else { return admitted };
        if epoch > known.epoch {
            (known.epoch, known.lsn) = (epoch, entry.lsn);
            entry.forced = true;
            admitted.is_changed = true;
        }
        if url != known.url {
            known.url = url;
            admitted.is_changed = true;
        }
        if horizon > known.horizon && !is_ahead(horizon.unix_ms(), now) {
            known.horizon = horizon;
            admitted.moved = Some(horizon);
        }
        admitted
    }

    fn touch(&mut self, id: CoordinatorId) {
        // Only where somebody may have to give up a place. Most often it is the same one again.
        if self.most == usize::MAX || self.used.last() == Some(&id) {
            return;
        }
        if let Some(at) = self.used.iter().position(|used| *used == id) {
            self.used[at..].rotate_left(1);
        }
    }

    fn displace(&mut self, id: CoordinatorId, entry: &mut Entry) {
        let Some(Met { known, .. }) = self.met.remove(&id) else { return };
        self.used.retain(|used| *used != id);
        let order = self.former_order.last_key_value().map_or(0, |(last, _)| last + 1);
        let former = Former { epoch: known.epoch, horizon: known.horizon, order, lsn: known.lsn };
        entry.records.push(Record::Former { id, former: former.clone() });
        self.former_order.insert(order, id);
        self.former.insert(id, former);
        if self.former.len() > MAX_FORMER
            && let Some((_, oldest)) = self.former_order.pop_first()
        {
            self.former.remove(&oldest);
            entry.records.push(Record::ForgottenCoordinator { id: oldest });
        }
    }

    /// Keeps a higher epoch of a coordinator that has a place, of which it told in an answer.
    pub(super) fn supersede(
        &mut self,
        id: CoordinatorId,
        epoch: Epoch,
        now: UnixMillis,
        entry: &mut Entry,
    ) -> Result<(), Refusal> {
        let Some(Met { known, .. }) = self.met.get_mut(&id).filter(|met| epoch > met.known.epoch) else {
            return Ok(());
        };
        if is_ahead(epoch.unix_ms(), now) {
            return Err(Refusal::Implausible { field: "coordinator.epoch" });
        }
        (known.epoch, known.lsn) = (epoch, entry.lsn);
        entry.forced = true;
        entry.records.push(Record::Coordinator { id, known: known.clone() });
        Ok(())
    }
}
