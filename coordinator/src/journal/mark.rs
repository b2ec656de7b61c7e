//! The mark: a small side file that says how far the log must reach.
//!
//! Always true: it is written only after the disk has said that it has the forced record named here. So it may lag
//! behind the log (its own writes aren't synced), and never leads it. It is one write of fewer bytes than a disk sector.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use unanimous_sdk::protocol::CoordinatorId;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::{Error, chain::Tip};

const MAGIC: [u8; 8] = *b"unmark 1";
/// Magic, coordinator id, number, chain, checksum of all before.
const LEN: usize = 8 + 16 + 8 + 16 + 8;

/// The open mark.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    file: File,
    coordinator: CoordinatorId,
}

impl Mark {
    /// The mark of a new log, synced.
    pub(super) fn create(path: &Path, coordinator: CoordinatorId) -> Result<(), Error> {
        let file = File::create_new(path).map_err(Error::io("create", path))?;
        let mark = Self { path: path.to_owned(), file, coordinator };
        mark.write(Tip::genesis(coordinator)).and_then(|()| mark.sync()).map_err(Error::io("write", path))
    }

    /// Reads it, without changing it.
    pub(super) fn read(path: &Path, coordinator: CoordinatorId) -> Result<Tip, Error> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::MarkMissing { path: path.to_owned() });
            }
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let (of, tip) = parse(&bytes).ok_or_else(|| Error::MarkDamaged { path: path.to_owned() })?;
        if of == coordinator {
            Ok(tip)
        } else {
            Err(Error::MarkOfAnother { path: path.to_owned(), found: of, expected: coordinator })
        }
    }

    /// Opens it to be written.
    pub(super) fn open(path: &Path, coordinator: CoordinatorId) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
        Ok(Self { path: path.to_owned(), file, coordinator })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn coordinator(&self) -> CoordinatorId {
        self.coordinator
    }

    /// Moves it on. Not synced.
    pub(super) fn write(&self, tip: Tip) -> io::Result<()> {
        self.file.write_all_at(&bytes(self.coordinator, tip), 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

pub(super) fn bytes(coordinator: CoordinatorId, tip: Tip) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(coordinator.uuid().as_bytes());
    bytes.extend_from_slice(&tip.number.to_be_bytes());
    bytes.extend_from_slice(&tip.chain.to_be_bytes());
    let checksum = xxh3_64(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

pub(super) fn parse(bytes: &[u8]) -> Option<(CoordinatorId, Tip)> {
    let (content, checksum) = bytes.split_last_chunk::<8>()?;
    if bytes.len() != LEN || xxh3_64(content) != u64::from_be_bytes(*checksum) {
        return None;
    }
    let rest = content.strip_prefix(&MAGIC)?;
    let (id, rest) = rest.split_first_chunk::<16>()?;
    let (number, chain) = rest.split_first_chunk::<8>()?;
    let tip = Tip { number: u64::from_be_bytes(*number), chain: u128::from_be_bytes(chain.try_into().ok()?) };
    Some((CoordinatorId::from_uuid(Uuid::from_bytes(*id)), tip))
}
