//! The place of a data folder: which files it was recorded with, so that a copy is recognised at its start.
//!
//! `log/PLACE` holds inode and birth time of `log/FORMAT`, which is made once and never written again, and its own. A copy has other
//! files. Each start writes a new PLACE, so that files copied back over those of the original don't match it either:
//! such a PLACE holds the inode and the birth time of an earlier one.
//!
//! The number of the device is not recorded: it changes when a volume is attached elsewhere.

use std::{
    fs::{self, File, Metadata},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use rustix::fs::statfs;
use unanimous_sdk::protocol::CoordinatorId;
use xxhash_rust::xxh3::xxh3_64;

use super::Error;

const HEAD: &str = "unanimous place 1\n";

/// File systems that give an inode a new number at each mount: FUSE, FAT and exFAT.
const NUMBERS_ANEW: [u32; 3] = [0x6573_5546, 0x4d44, 0x2011_bab0];

/// What a file system keeps of a file for ever; None is what it doesn't keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    inode: Option<u64>,
    born: Option<Duration>,
}

impl FileIdentity {
    fn of(found: &Metadata, numbers_anew: bool) -> Self {
        let born = found.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Self { inode: (!numbers_anew).then(|| found.ino()), born }
    }

    /// Returns whether this may be the file that was recorded: what was recorded is the same now.
    fn matches(self, recorded: Self) -> bool {
        let same_inode = recorded.inode.is_none() || recorded.inode == self.inode;
        same_inode && (recorded.born.is_none() || recorded.born == self.born)
    }

    fn text(self) -> String {
        let inode = self.inode.map_or_else(|| "-".to_owned(), |inode| inode.to_string());
        let born = self.born.map_or_else(|| "-".to_owned(), |born| born.as_nanos().to_string());
        format!("inode {inode} born {born}")
    }

    fn parse(text: &str) -> Option<Self> {
        let (inode, born) = text.strip_prefix("inode ")?.split_once(" born ")?;
        let given = |text| if text == "-" { Some(None) } else { str::parse::<u64>(text).ok().map(Some) };
        Some(Self { inode: given(inode)?, born: given(born)?.map(Duration::from_nanos) })
    }
}

/// What PLACE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    coordinator: CoordinatorId,
    format: FileIdentity,
    place: FileIdentity,
}

impl Record {
    fn text(self) -> String {
        let Self { coordinator, format, place } = self;
        let content = format!("{HEAD}coordinator {coordinator}\nFORMAT {}\nPLACE {}\n", format.text(), place.text());
        format!("{content}checksum {:016x}\n", xxh3_64(content.as_bytes()))
    }

    fn parse(text: &str) -> Option<Self> {
        let (content, checksum) = text.rsplit_once("checksum ")?;
        if checksum != format!("{:016x}\n", xxh3_64(content.as_bytes())) {
            return None;
        }
        let mut lines = content.strip_prefix(HEAD)?.lines();
        Some(Self {
            coordinator: lines.next()?.strip_prefix("coordinator ")?.parse().ok()?,
            format: FileIdentity::parse(lines.next()?.strip_prefix("FORMAT ")?)?,
            place: FileIdentity::parse(lines.next()?.strip_prefix("PLACE ")?)?,
        })
    }
}

/// How a log's folder stands to the place that is recorded in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It has the files that were recorded.
    Same,
    /// It has others: it was copied, moved to another file system, or copied over.
    Other,
    /// The record can't be read, or is of another coordinator.
    Damaged,
    /// There is none: the log is new, or of a release that recorded none; or the record was removed.
    Missing,
}

/// Compares the folder `log` with what is recorded in it.
pub(super) fn look(log: &Path, coordinator: CoordinatorId) -> Result<Place, Error> {
    let path = path(log);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Missing),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    let recorded = String::from_utf8(bytes).ok().and_then(|text| Record::parse(&text));
    let Some(recorded) = recorded.filter(|recorded| recorded.coordinator == coordinator) else {
        return Ok(Place::Damaged);
    };
    let numbers_anew = numbers_anew(log)?;
    let matches = |path: &Path, recorded| {
        let found = fs::metadata(path).map_err(Error::io("look at", path))?;
        Ok::<_, Error>(FileIdentity::of(&found, numbers_anew).matches(recorded))
    };
    let same = matches(&log.join("FORMAT"), recorded.format)? && matches(&path, recorded.place)?;
    Ok(if same { Place::Same } else { Place::Other })
}

/// Records that the folder `log` is at its place. When this returns it is on disk; after a crash before that, what was
/// recorded before is there as it was.
pub(super) fn record(log: &Path, coordinator: CoordinatorId) -> Result<(), Error> {
    let (path, new) = (path(log), log.join("PLACE.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &new)(error)),
        Ok(()) | Err(_) => {}
    }
    let numbers_anew = numbers_anew(log)?;
    let format = log.join("FORMAT");
    let format = fs::metadata(&format).map_err(Error::io("look at", &format))?;
    let mut file = File::create_new(&new).map_err(Error::io("create", &new))?;
    let place = file.metadata().map_err(Error::io("look at", &new))?;
    let record = Record {
        coordinator,
        format: FileIdentity::of(&format, numbers_anew),
        place: FileIdentity::of(&place, numbers_anew),
    };
    let written = file.write_all(record.text().as_bytes()).and_then(|()| file.sync_all());
    written.map_err(Error::io("write", &new))?;
    fs::rename(&new, &path).map_err(Error::io("rename the new record to", &path))?;
    File::open(log).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", log))
}

pub(super) fn path(log: &Path) -> PathBuf {
    log.join("PLACE")
}

fn numbers_anew(log: &Path) -> Result<bool, Error> {
    let found = statfs(log).map_err(|errno| Error::io("find out the file system of", log)(errno.into()))?;
    // As the kernel compares them: the lower half of the word.
    Ok(NUMBERS_ANEW.iter().any(|magic| i128::from(found.f_type) & 0xffff_ffff == i128::from(*magic)))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn coordinator() -> CoordinatorId {
        CoordinatorId::from_uuid(Uuid::from_u128(0x4000_8000_0000_0000_0001))
    }

    fn log() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("FORMAT"), "format").unwrap();
        assert_eq!(look(dir.path(), coordinator()).unwrap(), Place::Missing);
        record(dir.path(), coordinator()).unwrap();
        assert_eq!(look(dir.path(), coordinator()).unwrap(), Place::Same);
        dir
    }

    #[test]
    fn recorded_place_survives_renaming_the_folder() {
        let dir = log();
        let renamed = dir.path().with_extension("renamed");
        fs::rename(dir.path(), &renamed).unwrap();
        assert_eq!(look(&renamed, coordinator()).unwrap(), Place::Same);
        fs::remove_dir_all(&renamed).unwrap();
    }

    #[test]
    fn replaced_format_or_place_is_another_place() {
        for name in ["FORMAT", "PLACE"] {
            let dir = log();
            let path = dir.path().join(name);
            let copy = dir.path().join("copy");
            fs::copy(&path, &copy).unwrap();
            fs::rename(&copy, &path).unwrap();
            assert_eq!(look(dir.path(), coordinator()).unwrap(), Place::Other, "{name}");
        }
    }

    #[test]
    fn earlier_record_copied_over_a_later_one_is_another_place() {
        let dir = log();
        let earlier = fs::read(dir.path().join("PLACE")).unwrap();
        record(dir.path(), coordinator()).unwrap();
        fs::write(dir.path().join("PLACE"), earlier).unwrap();
        assert_eq!(look(dir.path(), coordinator()).unwrap(), Place::Other);
    }

    #[test]
    fn what_a_crash_while_recording_leaves_is_no_obstacle() {
        let dir = log();
        fs::write(dir.path().join("PLACE.new"), "unanimous pl").unwrap();
        assert_eq!(look(dir.path(), coordinator()).unwrap(), Place::Same);
        record(dir.path(), coordinator()).unwrap();
        assert_eq!(look(dir.path(), coordinator()).unwrap(), Place::Same);
        assert!(!dir.path().join("PLACE.new").exists());
    }

    #[test]
    fn changed_record_or_one_of_another_coordinator_is_damaged() {
        let dir = log();
        let path = dir.path().join("PLACE");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(look(dir.path(), CoordinatorId::from_uuid(Uuid::from_u128(7))).unwrap(), Place::Damaged);
        fs::write(&path, text.replacen("inode", "inodf", 1)).unwrap();
        assert_eq!(look(dir.path(), coordinator()).unwrap(), Place::Damaged);
        fs::write(&path, "").unwrap();
        assert_eq!(look(dir.path(), coordinator()).unwrap(), Place::Damaged);
    }

    #[test]
    fn what_a_file_system_does_not_keep_is_not_compared() {
        let of = |inode, born: Option<u64>| FileIdentity { inode, born: born.map(Duration::from_nanos) };
        assert!(of(Some(1), Some(2)).matches(of(None, None)));
        assert!(of(Some(1), Some(2)).matches(of(Some(1), None)));
        assert!(of(None, Some(2)).matches(of(None, Some(2))));
        assert!(!of(Some(1), None).matches(of(Some(2), None)));
        assert!(!of(None, Some(1)).matches(of(None, Some(2))));
        assert!(!of(None, None).matches(of(Some(1), None)), "it was moved to another file system");
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        for (inode, born) in [(None, None), (Some(u64::MAX), Some(u64::MAX)), (Some(5), None), (None, Some(0))] {
            let place = FileIdentity { inode, born: born.map(Duration::from_nanos) };
            let format = FileIdentity { inode: Some(9), born: None };
            let record = Record { coordinator: coordinator(), format, place };
            assert_eq!(Record::parse(&record.text()), Some(record));
        }
    }
}
