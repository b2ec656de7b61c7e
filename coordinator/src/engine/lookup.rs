//! What needs both the engine and the log: beginning once under a key, and waiting for what may have finished.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
};
use unanimous_sdk::protocol::TransactionId;

use super::{Engine, Milestone, NewKey, Now, Refused, Service, View, Waiting, bound_in};
use crate::{
    journal::{Find, Tag},
    transaction::KeyedCall,
};

/// What a begin under a key led to.
pub enum Once<R> {
    /// It was done now.
    Done(R),
    /// The transaction that was begun under the key before.
    Before(TransactionId),
}

/// Reads the log: that may take long, and nothing else must wait for it.
pub(super) fn blocking<R>(read: impl FnOnce() -> R) -> R {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(read),
        Ok(_) | Err(_) => read(),
    }
}

impl Service {
    /// Does something with the engine unless a transaction was begun under this key already.
    pub fn once<R>(
        &self,
        key: Option<&NewKey>,
        work: impl FnOnce(&mut Engine, Now) -> Result<R, Refused>,
    ) -> Result<Once<R>, Refused> {
        let Some(key) = key else { return self.with(work).map(Once::Done) };
        let mut work = Some(work);
        loop {
            let (known, seen) = self.with(|engine, _| (engine.begun_under(key), engine.left()));
            let known = known?;
            if let Some(id) = known {
                return Ok(Once::Before(id));
            }
            if let Some(id) = self.finished_under(key)? {
                return Ok(Once::Before(id));
            }
            // It may have finished after the engine was asked and before the log was, and then neither knew it.
            let tried = self.with(|engine, now| {
                if let Some(id) = engine.begun_under(key)? {
                    return Ok(Some(Once::Before(id)));
                }
                if engine.has_left_since(seen, key) {
                    return Ok(None);
                }
                match work.take() {
                    Some(work) => work(engine, now).map(|done| Some(Once::Done(done))),
                    None => Ok(None),
                }
            })?;
            if let Some(once) = tried {
                return Ok(once);
            }
        }
    }

    /// The finished transaction that was begun under a key.
    fn finished_under(&self, key: &NewKey) -> Result<Option<TransactionId>, Refused> {
        let find = Find { groups: vec![vec![Tag::key(&key.text)]], ..Find::default() };
        let mut found = Ok(None);
        let each = &mut |id, transaction| {
            match bound_in(&transaction, Some(key), &KeyedCall::Begin) {
                Ok(None) => return true,
                Ok(Some(_)) => found = Ok(Some(id)),
                Err(refused) => found = Err(refused),
            }
            false
        };
        blocking(|| self.0.journal.find(&find, each))?;
        found
    }

    /// Waits for a milestone of a transaction, live or finished; None if it isn't known.
    pub fn wait(&self, id: TransactionId, milestone: Milestone) -> Result<Option<Waiting>, Refused> {
        if let Some(waiting) = self.with(|engine, now| engine.wait(now, id, milestone)) {
            return Ok(Some(waiting));
        }
        Ok(self.finished(id)?.map(|transaction| {
            let (tell, wait) = oneshot::channel();
            let _ = tell.send(View::of_finished(id, transaction));
            wait
        }))
    }
}
