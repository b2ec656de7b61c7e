//! The work of one branch: what it reads and writes before it votes.
//!
//! Always true: every key it has touched is locked until it is dropped; nobody else sees what it writes before it
//! appears, at commit; it sees its own writes.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Error,
    kv::Core,
    locks::{Mode, Owner},
    staged::{Staged, show},
};

/// Reads and writes of a branch, staged in memory until the vote. Keys are bytes, values anything that serde can turn
/// into JSON and back.
///
/// ```
/// use unanimous_sdk::store::{Error, Work};
/// async fn pay(work: &mut Work, account: &str, cents: u64) -> Result<bool, Error> {
///     let balance: u64 = work.get_for_update(account).await?.unwrap_or(0);
///     let Some(rest) = balance.checked_sub(cents) else { return Ok(false) };
///     work.put(account, &rest).await?;
///     Ok(true)
/// }
/// ```
pub struct Work {
    core: Arc<Core>,
    owner: Owner,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    locks: BTreeMap<Vec<u8>, Mode>,
}

impl Work {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let owner = core.new_owner();
        Self { core, owner, writes: BTreeMap::new(), locks: BTreeMap::new() }
    }

    /// The work as it was staged before a restart, with its locks. Err names a key that other staged work holds.
    pub(super) fn restore(core: Arc<Core>, staged: Staged) -> Result<Self, String> {
        let mut work = Self::new(core);
        for (key, mode) in staged.locks {
            if !work.core.locks.try_take(work.owner, &key, mode) {
                return Err(format!("two prepared branches hold the key {}", show(&key)));
            }
            work.locks.insert(key, mode);
        }
        work.writes = staged.writes.into_iter().collect();
        Ok(work)
    }

    pub(super) fn staged(&self) -> Staged {
        Staged {
            writes: self.writes.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            locks: self.locks.iter().map(|(key, mode)| (key.clone(), *mode)).collect(),
        }
    }

    pub(super) fn writes(&self) -> &BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        &self.writes
    }

    /// Locks a key for as long as the branch lives. Nothing is awaited between getting the lock and noting it, so a
    /// dropped future leaks none.
    async fn lock(&mut self, key: &[u8], mode: Mode) -> Result<(), Error> {
        if self.locks.get(key).is_some_and(|held| *held >= mode) {
            return Ok(());
        }
        if !self.core.locks.take(self.owner, key, mode, self.core.options.lock_wait).await {
            return Err(Error::LockConflict { key: show(key) });
        }
        self.locks.insert(key.to_vec(), mode);
        Ok(())
    }

    /// The value under a key, as it is committed or as this branch has written it; None if there is none. From here on
    /// no other branch can change it. What is going to be written is better read by [`Work::get_for_update`]: of two
    /// branches that have both read a key, neither can write it before the other has ended.
    ///
    /// Errors: [`Error::LockConflict`] if another branch is changing it and doesn't end within the store's
    /// [`lock_wait`](super::Options::lock_wait); [`Error::Value`] if it is of another type.
    pub async fn get<T: DeserializeOwned>(&mut self, key: impl AsRef<[u8]> + Send) -> Result<Option<T>, Error> {
        let key = key.as_ref();
        self.lock(key, Mode::Shared).await?;
        self.read(key)
    }

    /// The value under a key, to be written next: from here on no other branch can read or change it.
    ///
    /// Errors: as for [`Work::get`].
    pub async fn get_for_update<T: DeserializeOwned>(
        &mut self,
        key: impl AsRef<[u8]> + Send,
    ) -> Result<Option<T>, Error> {
        let key = key.as_ref();
        self.lock(key, Mode::Exclusive).await?;
        self.read(key)
    }

    fn read<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, Error> {
        match self.writes.get(key) {
            Some(Some(bytes)) => super::kv::from_json(key, bytes).map(Some),
            Some(None) => Ok(None),
            None => self.core.read(key),
        }
    }

    /// Writes a value; it appears when the branch commits. From here on no other branch can read or change it.
    ///
    /// Errors: [`Error::LockConflict`] as for [`Work::get`]; [`Error::Value`] if it can't be written as JSON.
    pub async fn put<T: Serialize + Sync + ?Sized>(
        &mut self,
        key: impl AsRef<[u8]> + Send,
        value: &T,
    ) -> Result<(), Error> {
        let key = key.as_ref();
        let value =
            serde_json::to_vec(value).map_err(|cause| Error::Value { key: show(key), cause: cause.to_string() })?;
        self.lock(key, Mode::Exclusive).await?;
        self.writes.insert(key.to_vec(), Some(value));
        Ok(())
    }

    /// Deletes a key when the branch commits.
    ///
    /// Errors: [`Error::LockConflict`] as for [`Work::get`].
    pub async fn delete(&mut self, key: impl AsRef<[u8]> + Send) -> Result<(), Error> {
        let key = key.as_ref();
        self.lock(key, Mode::Exclusive).await?;
        self.writes.insert(key.to_vec(), None);
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.core.locks.free(self.owner, self.locks.keys());
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("writes", &self.writes.len())
            .field("locks", &self.locks.len())
            .finish_non_exhaustive()
    }
}
