//! A small transactional key-value store on `RocksDB`: a service's own data, and its votes.
//!
//! Always true: readers outside a branch see committed values only; a key that a prepared branch has touched stays
//! locked until it ends, over any restart; a vote, the work it stands for and its locks are one entry.
//!
//! What it assumes: a disk that holds what it has confirmed. Damage is found by `RocksDB`'s checksums and refused; but a
//! log whose end was cut off can't be told from one that was never written further.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rocksdb::{DB, Direction, IteratorMode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use super::{
    Change, Entry, Error, Store, Work, folder,
    folder::family,
    format::{Coordinator, decode_branch, decode_coordinator},
    locks::{Locks, Owner},
    staged::{decode_key, decode_staged, encode_staged, show},
    writer::{Job, Writer, Written},
};
use crate::{
    branch::{BranchKey, Lsn, Saved, State},
    protocol::{CoordinatorId, ParticipantId},
};

/// How a store behaves.
///
/// ```
/// use std::time::Duration;
/// let options = unanimous_sdk::store::Options::default();
/// assert_eq!(options.lock_wait, Duration::from_millis(50));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a branch waits for a key that another one holds, before it is a conflict. Default: 50 ms.
    pub lock_wait: Duration,
    /// Gives the store a new participant id. For one start of a copy that is to run beside its original, as a participant
    /// of its own: a copy has the id of its original, and two stores with one id can't be told apart. For every other
    /// start it stays false, since a branch that was prepared under an id obeys its coordinator under that id only; one
    /// that is in doubt in the copy asks, and is told abort, as the vote is the original's. Default: false.
    pub new_participant_id: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { lock_wait: Duration::from_millis(50), new_participant_id: false }
    }
}

/// What the store, the work in it and nobody else share.
pub(super) struct Core {
    db: Arc<DB>,
    folder: String,
    participant_id: ParticipantId,
    pub(super) locks: Locks,
    pub(super) options: Options,
    owners: AtomicU64,
}

/// Keys and their values.
type Rows<T> = Vec<(Box<[u8]>, T)>;

pub(super) fn from_json<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|cause| Error::Value { key: show(key), cause: cause.to_string() })
}

impl Core {
    pub(super) fn new_owner(&self) -> Owner {
        Owner(self.owners.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn read<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, Error> {
        let bytes = self
            .db
            .get_pinned_cf(family(&self.db, folder::DATA), key)
            .map_err(|cause| self.failed("reading", &cause))?;
        bytes.map(|bytes| from_json(key, &bytes)).transpose()
    }

    fn failed(&self, doing: &'static str, cause: &dyn ToString) -> Error {
        Error::Failed { folder: self.folder.clone(), doing, cause: cause.to_string() }
    }

    fn damaged(&self, what: String) -> Error {
        Error::Damaged { folder: self.folder.clone(), what }
    }

    /// All of a column family, read as what it should hold.
    fn all<T>(&self, name: &str, read: impl Fn(&[u8]) -> Result<T, String>) -> Result<Rows<T>, Error> {
        let rows = self.db.iterator_cf(family(&self.db, name), IteratorMode::Start);
        rows.map(|row| {
            let (key, value) = row.map_err(|cause| self.failed("loading", &cause))?;
            let value = read(&value).map_err(|what| self.damaged(format!("in {name:?} {what}")))?;
            Ok((key, value))
        })
        .collect()
    }
}

struct Inner {
    // Dropped first: ends the writer's thread, after it has written all it was given.
    writer: Writer,
    core: Arc<Core>,
    staged: Mutex<HashMap<BranchKey, Work>>,
    /// The last entry of which the writer knows, or is about to be told, that somebody waits for it.
    forced: AtomicU64,
}

/// A service's data and votes, in a folder of its own. Cheap to clone. Closed when the last clone and the last
/// [`Work`] are gone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), unanimous_sdk::store::Error> {
/// use unanimous_sdk::store::KvStore;
/// let folder = tempfile::tempdir().unwrap();
/// let store = KvStore::open(folder.path())?;
/// store.put("account/alice", &100).await?;
/// store.put("account/bob", &50).await?;
/// assert_eq!(store.get::<u64>("account/alice")?, Some(100));
/// let all: Vec<(Vec<u8>, u64)> = store.scan("account/")?;
/// assert_eq!(all.iter().map(|(_, cents)| cents).sum::<u64>(), 150);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct KvStore(Arc<Inner>);

impl KvStore {
    /// Opens the store in a folder, which is made if it isn't there. Blocks while its log is read.
    ///
    /// Errors: [`Error::InUse`], [`Error::Foreign`], [`Error::Newer`], [`Error::Damaged`], [`Error::Failed`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(folder, Options::default())
    }

    /// Opens it with options.
    ///
    /// Errors: as [`KvStore::open`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use unanimous_sdk::store::{KvStore, Options};
    /// let folder = tempfile::tempdir().unwrap();
    /// let options = Options { lock_wait: Duration::from_millis(5), ..Options::default() };
    /// let store = KvStore::open_with(folder.path(), options).unwrap();
    /// // Another one can't open it meanwhile.
    /// assert!(KvStore::open(folder.path()).unwrap_err().to_string().contains("is open in another process"));
    /// ```
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let (path, locks) = (path.as_ref(), Locks::default());
        let (db, participant_id) = folder::open(path, options.new_participant_id)?;
        let (db, folder) = (Arc::new(db), path.display().to_string());
        let core = Arc::new(Core { db: db.clone(), folder, participant_id, locks, options, owners: AtomicU64::new(0) });
        // The locks are there before anybody can touch a key.
        let mut staged = HashMap::new();
        for (key, value) in core.all(folder::STAGED, decode_staged)? {
            let key = decode_key(&key).map_err(|what| core.damaged(what))?;
            let work = Work::restore(core.clone(), value).map_err(|what| core.damaged(what))?;
            staged.insert(key, work);
        }
        let writer = Writer::start(db).map_err(|cause| core.failed("starting its thread", &cause))?;
        Ok(Self(Arc::new(Inner { writer, core, staged: Mutex::new(staged), forced: AtomicU64::new(0) })))
    }

    /// Returns the id of the store, which was minted when it was created. A copy has the same one.
    ///
    /// ```
    /// use unanimous_sdk::store::{KvStore, Options};
    /// let folder = tempfile::tempdir().unwrap();
    /// let id = KvStore::open(folder.path()).unwrap().participant_id();
    /// assert_eq!(KvStore::open(folder.path()).unwrap().participant_id(), id);
    /// // A copy that is to run beside its original, at its first start:
    /// let copy = KvStore::open_with(folder.path(), Options { new_participant_id: true, ..Options::default() }).unwrap();
    /// assert_ne!(copy.participant_id(), id);
    /// ```
    pub fn participant_id(&self) -> ParticipantId {
        self.0.core.participant_id
    }

    /// The committed value under a key; None if there is none.
    ///
    /// Errors: [`Error::Value`] if it is of another type, [`Error::Failed`].
    pub fn get<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>, Error> {
        self.0.core.read(key.as_ref())
    }

    /// All committed keys that begin so, with their values, in order of the bytes, as they are at one moment: a branch's
    /// writes are all in it, or none.
    ///
    /// Errors: as [`KvStore::get`].
    pub fn scan<T: DeserializeOwned>(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, T)>, Error> {
        let (core, prefix) = (&self.0.core, prefix.as_ref());
        let rows = core.db.iterator_cf(family(&core.db, folder::DATA), IteratorMode::From(prefix, Direction::Forward));
        let mut found = Vec::new();
        for row in rows {
            let (key, value) = row.map_err(|cause| core.failed("scanning", &cause))?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push((key.to_vec(), from_json(&key, &value)?));
        }
        Ok(found)
    }

    /// Writes a value outside of any transaction: for setting up. Durable when it returns.
    ///
    /// Errors: [`Error::LockConflict`] if a branch holds the key, [`Error::Value`], [`Error::Failed`].
    pub async fn put<T: Serialize + Sync + ?Sized>(
        &self,
        key: impl AsRef<[u8]> + Send,
        value: &T,
    ) -> Result<(), Error> {
        let mut work = Work::new(self.0.core.clone());
        work.put(key, value).await?;
        let (done, written) = oneshot::channel();
        self.0.writer.send(Job::Put { work, done });
        written.await.map_err(|cause| self.0.core.failed("writing", &cause))
    }

    /// How often the disk was told to sync since it was opened: less than votes and commits, when they come together.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// let store = unanimous_sdk::store::KvStore::open(folder.path()).unwrap();
    /// assert_eq!(store.syncs(), 0);
    /// ```
    pub fn syncs(&self) -> u64 {
        self.0.writer.syncs()
    }

    fn staged(&self) -> MutexGuard<'_, HashMap<BranchKey, Work>> {
        self.0.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_all(&self) -> Result<Saved, Error> {
        let core = &self.0.core;
        let mut saved = Saved { participant_id: Some(core.participant_id), ..Saved::default() };
        for (id, coordinator) in core.all(folder::COORDINATORS, decode_coordinator)? {
            let id =
                uuid::Uuid::from_slice(&id).map_err(|_| core.damaged("a coordinator's id can't be read".to_owned()))?;
            let id = CoordinatorId::from_uuid(id);
            match coordinator {
                Coordinator::Known(known) => drop(saved.coordinators.insert(id, known)),
                Coordinator::Former(former) => drop(saved.former.insert(id, former)),
            }
        }
        for (key, branch) in core.all(folder::BRANCHES, decode_branch)? {
            let key = decode_key(&key).map_err(|what| core.damaged(what))?;
            if !branch.state.is_saved() || !saved.coordinators.contains_key(&key.coordinator) {
                return Err(core.damaged(format!("the branch {key} stands there as {}", branch.state.name())));
            }
            saved.branches.insert(key, branch);
        }
        let staged = self.staged();
        let prepared = saved.branches.iter().filter(|(_, branch)| branch.state == State::Prepared);
        if let Some((key, _)) = prepared.clone().find(|(key, _)| !staged.contains_key(key)) {
            return Err(core.damaged(format!("the branch {key} is prepared, and its work is missing")));
        }
        if let Some(key) = staged.keys().find(|key| saved.branches.get(key).is_none_or(|b| b.state != State::Prepared))
        {
            return Err(core.damaged(format!("there is work of the branch {key}, which isn't prepared")));
        }
        Ok(saved)
    }
}

impl Store for KvStore {
    type Work = Work;

    async fn load(&self) -> Result<Saved, Error> {
        let store = self.clone();
        let loaded = tokio::task::spawn_blocking(move || store.read_all()).await;
        loaded.map_err(|cause| self.0.core.failed("loading", &cause))?
    }

    fn work(&self, _: &BranchKey) -> Work {
        Work::new(self.0.core.clone())
    }

    fn has_writes(work: &Work) -> bool {
        !work.writes().is_empty()
    }

    fn append(&self, entry: Entry<Work>) {
        let Entry { lsn, records, forced, change } = entry;
        if forced {
            self.0.forced.fetch_max(lsn.0, Ordering::Relaxed);
        }
        let send = |change| self.0.writer.send(Job::Entry { lsn, records, forced, change });
        match change {
            Change::None => send(Written::None),
            Change::Stage(key, work) => {
                let bytes = encode_staged(&work.staged());
                self.staged().insert(key.clone(), work);
                send(Written::Stage(key, bytes));
            }
            Change::Publish(key) => match self.staged().remove(&key) {
                Some(work) => send(Written::Publish(key, work)),
                None => send(Written::None),
            },
            Change::Discard(key) => {
                // Its locks are let go only now that what follows is written after it.
                let work = self.staged().remove(&key);
                send(if work.is_some() { Written::Discard(key) } else { Written::None });
                drop(work);
            }
        }
    }

    async fn durable(&self, lsn: Lsn) -> Result<(), Error> {
        if self.0.forced.fetch_max(lsn.0, Ordering::Relaxed) < lsn.0 {
            self.0.writer.send(Job::Sync);
        }
        let reached = self.0.writer.durable.clone().wait_for(|durable| *durable >= lsn).await.map(|_| ());
        reached.map_err(|cause| self.0.core.failed("writing", &cause))
    }
}

impl fmt::Debug for KvStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvStore").field("folder", &self.0.core.folder).finish_non_exhaustive()
    }
}
