//! Beginning a transaction.

use std::{collections::BTreeMap, time::Duration};

use rand::RngExt;
use unanimous_sdk::protocol::{BranchName, ParticipantUrl, TransactionId, UnixMillis};

use super::{Delivery, Engine, Live, Now, Output, Refusal, Refused, Timer, View};
use crate::{
    journal::Entry,
    transaction::{Barrier, Command, Log, Payload, Transaction},
    uuid7::next_uuid_v7,
};

/// A transaction to be begun; well-formed and within its limits.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Begin {
    pub timeout: Duration,
    pub metadata: BTreeMap<String, String>,
    pub branches: Vec<(Option<BranchName>, ParticipantUrl, Option<Payload>)>,
}

impl Engine {
    /// Begins a transaction. It may be told of when the log has come as far as the barrier.
    pub fn begin(&mut self, now: Now, begin: Begin) -> Result<(View, Barrier), Refused> {
        self.refuse_if_superseded()?;
        if self.undecided >= self.limits.undecided {
            return Err(Refused::new(Refusal::Overloaded { undecided: self.undecided }));
        }
        let id = self.mint(now);
        // The id's own time, so that order by id is order by time whatever the clock does.
        let (seconds, nanos) = id.uuid().get_timestamp().map_or((0, 0), |at| at.to_unix());
        let created_at = UnixMillis(seconds * 1000 + u64::from(nanos) / 1_000_000);
        let deadline = created_at.after(begin.timeout);
        let mut log = Log { next: self.next_lsn, sequence: self.next_sequence, now: now.wall };
        let begun = Transaction::begin(begin.metadata, deadline, false, begin.branches, created_at, &mut log);
        let (transaction, commands) = begun.map_err(|why| Refused::new(Refusal::NotAllowed(why)))?;
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
            deadline_timer: Some(self.timers.set(deadline, Timer::Deadline(id))),
            waiters: vec![],
            traceparent: None,
        };
        let view = View::of(id, &live, true);
        self.live.insert(id, live);
        self.undecided += 1;
        Ok((view, barrier))
    }

    /// A new id, greater than all that there ever were in this log.
    fn mint(&mut self, now: Now) -> TransactionId {
        let random = self.random.random();
        self.newest = next_uuid_v7(self.newest, now.wall.0, random);
        TransactionId::from_uuid(self.newest)
    }
}
