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

/// The most keys that enlistments and votes bind in a transaction, and the most of commits and aborts: or four for each
/// branch that it may have, if that is more.
const MAX_KEYS: usize = 1_024;

/// The most keys of each of the two kinds in a transaction of at most so many branches.
pub(super) const fn max_keys(branches: usize) -> usize {
    let of_branches = branches.saturating_mul(4);
    if of_branches > MAX_KEYS { of_branches } else { MAX_KEYS }
}

/// Whether a call ends a transaction. The number of its keys must never refuse a repeat.
const fn ends(call: &KeyedCall) -> bool {
    match call {
        KeyedCall::Begin | KeyedCall::Commit | KeyedCall::Abort => true,
        KeyedCall::Enlist { .. } | KeyedCall::Vote(_) => false,
    }
}

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

    /// What a call's key is bound to in a live transaction. An enlistment or a vote that would bind one key too many is
    /// refused; a commit or an abort never is.
    pub(super) fn bound(
        &self,
        id: TransactionId,
        key: Option<&NewKey>,
        call: &KeyedCall,
    ) -> Result<Option<Key>, Refused> {
        let Some(live) = self.live.get(&id) else { return Ok(None) };
        let bound = bound_in(&live.transaction, key, call)?.cloned();
        let most = max_keys(self.limits.branches);
        if key.is_some()
            && bound.is_none()
            && !ends(call)
            && live.transaction.state.is_undecided()
            && count(&live.transaction, call) >= most
        {
            return Err(Refused::new(Refusal::TooManyKeys { most }));
        }
        Ok(bound)
    }

    /// Binds a call's key in a live transaction that is not decided, unless as many of its kind are bound as may be. (A call
    /// that finds the transaction decided changes nothing: a repeat is answered the same without its key.)
    pub(super) fn bind(&mut self, id: TransactionId, key: Option<NewKey>, call: KeyedCall) {
        let most = max_keys(self.limits.branches);
        let (Some(key), Some(live)) = (key, self.live.get_mut(&id)) else { return };
        if live.transaction.state.is_finished() || count(&live.transaction, &call) >= most {
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

/// How many keys of the call's kind are bound.
fn count(transaction: &Transaction, call: &KeyedCall) -> usize {
    transaction.keys.iter().filter(|key| ends(&key.call) == ends(call)).count()
}
