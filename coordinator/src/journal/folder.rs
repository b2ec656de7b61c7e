//! The data folder: whose it is, that it is held by one process, and how it comes to be.
//!
//! ```text
//!   LOCK          held as long as the log is open
//!   RESERVE       room, to be given up when the disk is full
//!   log/FORMAT    text: what this is, its format, its coordinator; never changes
//!   log/PLACE     text: which files FORMAT and itself are, so that a copy is recognised
//!   log/MARK      how far the log must reach
//!   log/db/       RocksDB
//! ```
//!
//! Always true: `log` is there whole or not at all: it is built beside, synced, and then renamed. What is foreign, newer
//! or damaged is refused by name, and nothing in it is touched.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use unanimous_sdk::protocol::{CoordinatorId, UnixMillis};
use xxhash_rust::xxh3::xxh3_64;

use super::{Error, mark::Mark, place, recovery::Identity};

/// The format this program writes, and the only one it reads.
const FORMAT: u64 = 1;
const FORMAT_HEAD: &str = "unanimous log, format ";
/// What may stand in a folder that a log is to be created in: our own, and what file systems put there.
const HARMLESS: [&str; 3] = ["LOCK", "log.new", "lost+found"];

/// A data folder that this process holds.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) identity: Identity,
    log: PathBuf,
    lock: File,
}

impl Folder {
    /// Takes the folder, and creates the log if there is none; `create_database` makes an empty one at this path.
    pub(super) fn open(
        dir: &Path,
        now: UnixMillis,
        random: u128,
        create_database: impl FnOnce(&Path, CoordinatorId) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let log = dir.join("log");
        if dir.exists() && !dir.is_dir() {
            return Err(Error::NotAFolder { path: dir.to_owned() });
        }
        fs::create_dir_all(dir).map_err(Error::io("create the data folder", dir))?;
        refuse_foreign(dir)?;
        let lock = lock(&dir.join("LOCK"))?;
        if !log.exists() {
            let coordinator =
                CoordinatorId::from_uuid(uuid::Builder::from_random_bytes(random.to_le_bytes()).into_uuid());
            create(dir, Identity { coordinator, created_at: now }, create_database)?;
        }
        let identity = read_format(&log.join("FORMAT"))?;
        Ok(Self { identity, log, lock })
    }

    /// Takes the folder of a log that must be there.
    pub(super) fn open_existing(dir: &Path) -> Result<Self, Error> {
        let log = dir.join("log");
        let identity = read_format(&log.join("FORMAT"))?;
        Ok(Self { identity, log, lock: lock(&dir.join("LOCK"))? })
    }

    /// Compares the folder with the place that is recorded in it.
    pub(super) fn place(&self) -> Result<place::Place, Error> {
        place::look(&self.log, self.identity.coordinator)
    }

    /// Records that the folder is at its place.
    pub(super) fn record_place(&self) -> Result<(), Error> {
        place::record(&self.log, self.identity.coordinator)
    }

    /// The lock, and where it was taken.
    pub(super) fn lock(&self) -> (PathBuf, &File) {
        (self.log.with_file_name("LOCK"), &self.lock)
    }

    pub(super) fn format(&self) -> PathBuf {
        self.log.join("FORMAT")
    }

    /// The folder `log` itself.
    pub(super) fn path(&self) -> &Path {
        &self.log
    }

    pub(super) fn mark(&self) -> PathBuf {
        self.log.join("MARK")
    }

    pub(super) fn database(&self) -> PathBuf {
        self.log.join("db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The death of the process unlocks it too. But a child just forked holds a copy of the file until it executes.
        let _ = self.lock.unlock();
    }
}

fn refuse_foreign(dir: &Path) -> Result<(), Error> {
    if dir.join("log").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(Error::io("read the data folder", dir))? {
        let name = entry.map_err(Error::io("read the data folder", dir))?.file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            return Err(Error::ForeignFolder { path: dir.to_owned(), found: name.to_string_lossy().into_owned() });
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, Error> {
    let open = || File::options().create(true).truncate(false).write(true).open(path).map_err(Error::io("open", path));
    let lock = open()?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let path = path.parent().unwrap_or(path).to_owned();
            return Err(Error::Locked { path });
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
    }
    // Some file systems grant every lock. Then a second one is granted here as well.
    match open()?.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(lock),
        Ok(()) => Err(Error::DoesNotLock { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
    }
}

fn create(
    dir: &Path,
    identity: Identity,
    create_database: impl FnOnce(&Path, CoordinatorId) -> Result<(), Error>,
) -> Result<(), Error> {
    let new = dir.join("log.new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &new)(error)),
        Ok(()) | Err(_) => {}
    }
    let database = new.join("db");
    fs::create_dir_all(&database).map_err(Error::io("create", &database))?;
    write_format(&new.join("FORMAT"), identity)?;
    Mark::create(&new.join("MARK"), identity.coordinator)?;
    create_database(&database, identity.coordinator)?;
    sync_all(&database)?;
    sync(&new)?;
    let log = dir.join("log");
    fs::rename(&new, &log).map_err(Error::io("rename the new log to", &log))?;
    sync(dir)?;
    if let Some(parent) = dir.canonicalize().map_err(Error::io("find", dir))?.parent() {
        sync(parent)?;
    }
    Ok(())
}

fn sync_all(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        sync(&entry.map_err(Error::io("read", dir))?.path())?;
    }
    sync(dir)
}

fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("sync", path))
}

fn write_format(path: &Path, identity: Identity) -> Result<(), Error> {
    let content =
        format!("{FORMAT_HEAD}{FORMAT}\ncoordinator {}\ncreated {}\n", identity.coordinator, identity.created_at);
    let text = format!("{content}checksum {:016x}\n", xxh3_64(content.as_bytes()));
    let mut file = File::create_new(path).map_err(Error::io("create", path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}

fn read_format(path: &Path) -> Result<Identity, Error> {
    let foreign = || Error::ForeignFormat { path: path.to_owned() };
    let damaged = |what| Error::DamagedFormat { path: path.to_owned(), what };
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|_| foreign())?;
    let (head, rest) = text.split_once('\n').ok_or_else(foreign)?;
    let found: u64 = head.strip_prefix(FORMAT_HEAD).and_then(|number| number.parse().ok()).ok_or_else(foreign)?;
    match found {
        FORMAT => {}
        0 => return Err(foreign()),
        _ => return Err(Error::NewerFormat { path: path.to_owned(), found, known: FORMAT }),
    }
    let (content, checksum) = text.rsplit_once("checksum ").ok_or_else(|| damaged("its checksum is missing"))?;
    if checksum != format!("{:016x}\n", xxh3_64(content.as_bytes())) {
        return Err(damaged("its checksum is wrong"));
    }
    let mut lines = rest.lines();
    let mut member = |name: &str| lines.next().and_then(|line| line.strip_prefix(name));
    let coordinator = member("coordinator ").and_then(|id| id.parse().ok());
    let created_at = member("created ").and_then(UnixMillis::parse);
    match (coordinator, created_at) {
        (Some(coordinator), Some(created_at)) => Ok(Identity { coordinator, created_at }),
        (None, _) => Err(damaged("it names no coordinator id")),
        (_, None) => Err(damaged("it names no time of creation")),
    }
}
