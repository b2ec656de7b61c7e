//! Clients that begin transactions, under Idempotency-Keys too, and ask for decisions.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use serde_json::value::RawValue;
use unanimous_coordinator::{
    engine::{Begin, Milestone, NewKey, bound_in},
    journal::{Find, Journal, Tag},
    transaction::{KeyedCall, Payload, Reason, ReasonCode, Transaction},
};
use unanimous_sdk::protocol::TransactionId;

use super::{URLS, World, clock::MAX_AHEAD_MS, url};

/// So many Idempotency-Keys are used, again and again.
const KEYS: u32 = 20;

fn new_key(number: u32) -> NewKey {
    NewKey { text: format!("key-{number}").into(), body: 1 }
}

fn payload(number: usize) -> Payload {
    let text: Box<RawValue> = RawValue::from_string(format!("{{\"n\":{number}}}")).expect("it is JSON");
    Payload { text: Arc::from(text), digest: number as u128 }
}

impl World {
    pub(super) fn begin(&mut self) {
        let branches = self.random.random_range(0..=URLS);
        let at: Vec<_> = (0..branches).map(|_| self.random.random_range(0..URLS)).collect();
        let timeout = Duration::from_millis(self.random.random_range(50..2_000));
        let key = self.chance(30).then(|| self.random.random_range(0..KEYS));
        if let Some(key) = key
            && self.was_begun_under(key)
        {
            return;
        }
        let Some(id) = self.begin_at(&at, timeout, key.map(new_key)) else { return };
        if let Some(key) = key {
            self.keyed.insert(key, id);
        }
        let own = if self.chance(40) { self.random.random_range(1..3) } else { 0 };
        for _ in 0..own {
            self.join(id);
        }
        // Its own calls take a while.
        if self.chance(if own > 0 { 30 } else { 85 }) {
            self.ask_for_commit(id);
        }
    }

    /// Begins a transaction with a branch at each of these places.
    pub(super) fn begin_at(
        &mut self,
        places: &[usize],
        timeout: Duration,
        key: Option<NewKey>,
    ) -> Option<TransactionId> {
        let branches = places.iter().enumerate().map(|(number, at)| (None, url(*at), Some(payload(number)))).collect();
        let begin = Begin { timeout, branches, key, ..Begin::default() };
        let (view, _) = self.engine.begin(self.now, begin).ok()?;
        let id = view.id();
        let latest = self.real() + MAX_AHEAD_MS;
        assert!(id.unix_ms() <= latest, "{id}: its time is more than an hour ahead of the right clock");
        assert!(id.uuid() > self.epoch.uuid(), "{id} is not above the epoch");
        self.begun.push(id);
        self.say(|| format!("client: begins {id} with branches at {places:?}"));
        Some(id)
    }

    pub(super) fn ask_for_commit(&mut self, id: TransactionId) {
        let commit = self.engine.commit(self.now, id, Milestone::Decided, None, None);
        self.waiting.extend(commit.ok().map(|(waiting, _)| (id, waiting)));
    }

    /// Whether a begin under this key is a repeat: as the service looks for it, in the engine and then in the log.
    fn was_begun_under(&mut self, key: u32) -> bool {
        let wanted = new_key(key);
        let mut found = self.engine.begun_under(&wanted).expect("its body is the same");
        let find = Find { groups: vec![vec![Tag::key(&wanted.text)]], ..Find::default() };
        if found.is_none() {
            let each = &mut |id, transaction: Transaction| {
                found = bound_in(&transaction, Some(&wanted), &KeyedCall::Begin).expect("the same body").map(|_| id);
                found.is_none()
            };
            self.journal.find(&find, each).expect("it can be read");
        }
        // An undecided begin may be lost with the power; what was told may not, for as long as it is kept.
        let before = self.keyed.get(&key).copied().filter(|id| self.told.contains_key(id));
        if let Some(before) = before
            && found != Some(before)
        {
            assert!(found.is_none(), "key {key} stood for {before}, and now for {found:?}");
            assert!(self.was_dropped_in_time(before), "key {key} stood for {before}, which nobody knows any more");
        }
        found.is_some()
    }

    /// A client asks for a commit or an abort of a transaction that was begun some time.
    pub(super) fn ask_for_decision(&mut self) {
        let Some(id) = self.any_begun() else { return };
        if self.chance(60) {
            return self.ask_for_commit(id);
        }
        let reason = Reason { code: ReasonCode::Initiator, detail: None, branch: None };
        let waiting = self.engine.abort(self.now, id, reason, None);
        self.waiting.extend(waiting.ok().map(|(waiting, _)| (id, waiting)));
    }

    pub(super) fn any_begun(&mut self) -> Option<TransactionId> {
        if self.begun.is_empty() {
            return None;
        }
        let recent = self.begun.len().min(12);
        let at = self.begun.len() - 1 - self.random.random_range(0..recent);
        Some(self.begun[at])
    }
}
