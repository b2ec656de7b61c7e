//! Beginning a transaction.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::RngExt;
use unanimous_sdk::protocol::{BranchName, ParticipantUrl, TransactionId};

use super::{Delivery, Engine, Live, NewKey, Now, Output, Refusal, Refused, Timer, View};
use crate::{
    journal::Entry,
    transaction::{Barrier, Command, KeyedCall, Log, Payload, Transaction},
    uuid7::next_uuid_v7,
};

/// A transaction to be begun; well-formed and within its limits.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Begin {
    pub timeout: Duration,
    pub metadata: BTreeMap<String, String>,
    pub branches: Vec<(Option<BranchName>, ParticipantUrl, Option<Payload>)>,
    pub key: Option<NewKey>,
}

impl Engine {
    /// Begins a transaction. It may be told of when the log has come as far as the barrier. Whoever gives a key has
    /// looked for it before, in [`Engine::begun_under`] and in the log.
    pub fn begin(&mut self, now: Now, begin: Begin) -> Result<(View, Barrier), Refused> {
        self.refuse_if_superseded()?;
        if self.disk_full {
            return Err(Refused::new(Refusal::DiskFull));
        }
        if self.undecided >= self.limits.undecided {
            return Err(Refused::new(Refusal::Overloaded { undecided: self.undecided }));
        }
        let id = self.mint(now);
        let created_at = now.wall;
        self.skew.see(id, created_at);
        let deadline = created_at.after(begin.timeout);
        let mut log = Log { next: self.next_lsn, sequence: self.next_sequence, now: now.wall };
        let keys: Vec<_> = begin.key.map(|key| key.bound_to(KeyedCall::Begin)).into_iter().collect();
        let text = keys.first().map(|key| Arc::clone(&key.text));
        let new = Transaction::begin(begin.metadata, deadline, keys, begin.branches, created_at, &mut log);
        let (transaction, commands) = new.map_err(|why| Refused::new(Refusal::NotAllowed(why)))?;
        self.next_lsn = log.next;
        let mut barrier = Barrier::NONE;
        for command in commands {
            if let Command::Append(lsn, record) = command {
                self.horizon.begun(id, lsn);
                barrier = Barrier::written(lsn);
                self.outputs.push(Output::Append(lsn, Entry::Record { id, index: 0, record }));
            }
        }
        let deadline = now.mono + u64::try_from(begin.timeout.as_millis()).unwrap_or(u64::MAX / 2);
        let live = Live {
            deliveries: transaction.branches.iter().map(|_| Delivery::default()).collect(),
            transaction,
            deadline,
            timer: Some(self.timers.set(deadline, Timer::Deadline(id))),
            aborts_are_overdue: false,
            waiters: vec![],
            traceparent: None,
        };
        let view = View::of(id, &live, true);
        self.live.insert(id, live);
        if let Some(text) = text {
            self.keys.insert(text, id);
        }
        self.undecided += 1;
        Ok((view, barrier))
    }

    /// A new id, greater than all that there ever were in this log.
    fn mint(&mut self, now: Now) -> TransactionId {
        let random = self.random.random();
        let time = self.clock.id_ms(now.wall, now.mono.saturating_sub(self.opened));
        self.newest = next_uuid_v7(self.newest, time, random);
        TransactionId::from_uuid(self.newest)
    }
}
