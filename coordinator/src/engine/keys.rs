//! Idempotency-Keys, PROTOCOL §3: a repeat is answered as the first was.
//!
//! Always true: a key is bound in the transaction that exists because of it, in the same log, so it is as durable as what
//! was told; one key on one path has one body.

use std::{collections::VecDeque, sync::Arc};

use unanimous_sdk::protocol::TransactionId;

use super::{Engine, Output, Refusal, Refused};
use crate::{
    journal::Entry,
    transaction::{Command, Key, KeyedCall, Log, Transaction},
};

/// A key as a call brings it.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// As it was given.
    pub text: Arc<str>,
    /// A digest of the body's canonical form.
    pub body: u128,
}

impl NewKey {
    pub(super) fn bound_to(self, call: KeyedCall) -> Key {
        Key { text: self.text, call, body: self.body }
    }
}

/// The most keys that are bound in one transaction.
const MOST_KEYS: usize = 1_000;

/// The keys of transactions that have left for the log, the last of them: who looked there before may have to look again.
#[derive(Debug, Default)]
pub(super) struct Left {
    count: u64,
    last: VecDeque<Arc<str>>,
}

impl Left {
    const MOST: usize = 4_096;

    pub(super) fn push(&mut self, key: Arc<str>) {
        self.count += 1;
        self.last.push_back(key);
        if self.last.len() > Self::MOST {
            self.last.pop_front();
        }
    }

    /// Whether one that was begun under this key may have left since there were `seen`.
    fn has_since(&self, seen: u64, key: &str) -> bool {
        let since = usize::try_from(self.count - seen).unwrap_or(usize::MAX);
        since > self.last.len() || self.last.iter().rev().take(since).any(|left| **left == *key)
    }
}

/// What a call's key is bound to in this transaction; it is refused if that came with another body.
pub fn bound_in<'a>(
    transaction: &'a Transaction,
    key: Option<&NewKey>,
    call: &KeyedCall,
) -> Result<Option<&'a Key>, Refused> {
    let Some(key) = key else { return Ok(None) };
    match transaction.key(&key.text, call) {
        Some(bound) if bound.body == key.body => Ok(Some(bound)),
        Some(_) => Err(Refused::new(Refusal::KeyReused)),
        None if transaction.keys.len() >= MOST_KEYS => Err(Refused::new(Refusal::TooManyKeys { most: MOST_KEYS })),
        None => Ok(None),
    }
}

impl Engine {
    /// The live transaction that was begun under a key.
    pub fn begun_under(&self, key: &NewKey) -> Result<Option<TransactionId>, Refused> {
        let Some(id) = self.keys.get(&key.text).copied() else { return Ok(None) };
        let Some(live) = self.live.get(&id) else { return Ok(None) };
        bound_in(&live.transaction, Some(key), &KeyedCall::Begin)?;
        Ok(Some(id))
    }

    /// How many transactions that were begun under a key have left for the log.
    pub fn left(&self) -> u64 {
        self.left.count
    }

    /// Whether one that was begun under this key may have left for the log since so many had.
    pub fn has_left_since(&self, seen: u64, key: &NewKey) -> bool {
        self.left.has_since(seen, &key.text)
    }

    /// What a call's key is bound to in a live transaction.
    pub(super) fn bound(
        &self,
        id: TransactionId,
        key: Option<&NewKey>,
        call: &KeyedCall,
    ) -> Result<Option<Key>, Refused> {
        let Some(live) = self.live.get(&id) else { return Ok(None) };
        Ok(bound_in(&live.transaction, key, call)?.cloned())
    }

    /// Binds a call's key in a live transaction.
    pub(super) fn bind(&mut self, id: TransactionId, key: Option<NewKey>, call: KeyedCall) {
        let (Some(key), Some(live)) = (key, self.live.get_mut(&id)) else { return };
        // It has its last record: what is there to be repeated answers the same without a key.
        if live.transaction.state.is_finished() {
            return;
        }
        let index = live.transaction.records;
        let mut log = Log { next: self.next_lsn, sequence: self.next_sequence, now: live.transaction.created_at };
        let command = live.transaction.bind(key.bound_to(call), &mut log);
        self.next_lsn = log.next;
        if let Command::Append(lsn, record) = command {
            self.outputs.push(Output::Append(lsn, Entry::Record { id, index, record }));
        }
    }
}
