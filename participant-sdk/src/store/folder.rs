//! The folder of a store, opened.
//!
//! Always true: a folder that isn't a store of this format is refused by name and left as it was; one store is open
//! once.

use std::{collections::BTreeSet, path::Path};

use rocksdb::{ColumnFamilyDescriptor, DB, DBRecoveryMode, Options};

use super::Error;
use crate::protocol::ParticipantId;

pub(super) const DATA: &str = "data";
pub(super) const STAGED: &str = "staged";
pub(super) const BRANCHES: &str = "branches";
pub(super) const COORDINATORS: &str = "coordinators";
const META: &str = "meta";
const FAMILIES: [&str; 5] = [DATA, STAGED, BRANCHES, COORDINATORS, META];

const FORMAT_KEY: &str = "format";
const FORMAT: &str = "unanimous participant store 2";
/// Without a participant's id, and with values that this version reads, too.
const FORMAT_1: &str = "unanimous participant store 1";
const PARTICIPANT_KEY: &str = "participant_id";

/// Opens the store in a folder, and returns the id that it has from now on.
pub(super) fn open(path: &Path, new_participant_id: bool) -> Result<(DB, ParticipantId), Error> {
    let folder = path.display().to_string();
    let foreign = |what: String| Error::Foreign { folder: folder.clone(), what };
    let failed =
        |doing, cause: &dyn ToString| Error::Failed { folder: folder.clone(), doing, cause: cause.to_string() };
    std::fs::create_dir_all(path).map_err(|cause| failed("making the folder", &cause))?;
    let is_new = !path.join("CURRENT").exists();
    if is_new {
        // RocksDB's own first files may be there, if it was killed at its very start.
        let ours = |name: &str| {
            name == "LOCK"
                || name == "LOG"
                || name == "IDENTITY"
                || name.starts_with("MANIFEST-")
                || name.starts_with("LOG.old.")
                || Path::new(name).extension().is_some_and(|extension| extension == "dbtmp" || extension == "log")
        };
        for file in std::fs::read_dir(path).map_err(|cause| failed("reading the folder", &cause))? {
            let name = file.map_err(|cause| failed("reading the folder", &cause))?.file_name();
            if !ours(&name.to_string_lossy()) {
                return Err(foreign(format!("it is not empty (there is {})", name.display())));
            }
        }
    } else {
        let found = DB::list_cf(&Options::default(), path).map_err(|cause| failed("listing what is in it", &cause))?;
        let known: BTreeSet<&str> = FAMILIES.into_iter().chain(["default"]).collect();
        if let Some(other) = found.iter().find(|name| !known.contains(name.as_str())) {
            return Err(foreign(format!("it is a RocksDB database with a column family {other:?}")));
        }
    }
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // What was read at a start is durable before the first answer: RocksDB writes the replayed log out when it opens.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_keep_log_file_num(4);
    options.set_max_total_wal_size(64 << 20);
    let families = FAMILIES.map(|name| {
        let mut options = Options::default();
        options.set_compression_type(rocksdb::DBCompressionType::Lz4);
        ColumnFamilyDescriptor::new(name, options)
    });
    let db = DB::open_cf_descriptors(&options, path, families).map_err(|cause| {
        let text = cause.to_string();
        if text.contains("LOCK") || text.contains("lock hold by") {
            Error::InUse { folder: folder.clone() }
        } else {
            failed("opening it", &cause)
        }
    })?;
    let meta = family(&db, META);
    let kept = match db.get_cf(meta, FORMAT_KEY).map_err(|cause| failed("reading its format", &cause))? {
        Some(found) if found == FORMAT.as_bytes() => {
            let bytes = db.get_cf(meta, PARTICIPANT_KEY).map_err(|cause| failed("reading its id", &cause))?;
            let id = bytes.and_then(|bytes| uuid::Uuid::from_slice(&bytes).ok());
            let id = id.ok_or_else(|| Error::Damaged {
                folder: folder.clone(),
                what: "its participant id can't be read".to_owned(),
            })?;
            Some(ParticipantId::from_uuid(id))
        }
        Some(found) if found == FORMAT_1.as_bytes() => None,
        Some(found) => {
            return Err(Error::Newer { folder, found: String::from_utf8_lossy(&found).into_owned(), expected: FORMAT });
        }
        // Without a mark it is new, or was killed while it was: then nothing is in it.
        None => {
            for name in FAMILIES.into_iter().chain(["default"]) {
                if db.iterator_cf(family(&db, name), rocksdb::IteratorMode::Start).next().is_some() {
                    return Err(foreign(format!("it has no format mark, and data in {name:?}")));
                }
            }
            None
        }
    };
    if let Some(id) = kept
        && !new_participant_id
    {
        return Ok((db, id));
    }
    // Version 7, as everywhere here; 74 of its bits are random.
    let id = ParticipantId::from_uuid(uuid::Uuid::now_v7());
    let mut batch = rocksdb::WriteBatch::default();
    batch.put_cf(family(&db, META), PARTICIPANT_KEY, id.uuid().as_bytes());
    batch.put_cf(family(&db, META), FORMAT_KEY, FORMAT);
    let mut durable = rocksdb::WriteOptions::default();
    durable.set_sync(true);
    db.write_opt(batch, &durable).map_err(|cause| failed("marking its format", &cause))?;
    Ok((db, id))
}

/// A column family that [`open`] has opened.
pub(super) fn family<'a>(db: &'a DB, name: &str) -> &'a rocksdb::ColumnFamily {
    db.cf_handle(name).expect("every family is opened with the folder")
}
