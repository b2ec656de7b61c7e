//! Room on the disk: a reserve that is given up when the disk runs full, for what is under way then.
//!
//! ```text
//!            free room   0 ······ ½ ·································· 2 ······  (in sizes of the reserve)
//!   the reserve is there │ given up │ kept                                      new work is taken
//!   the reserve is gone  │ as it is                                   │ made anew   until then it is refused
//! ```
//!
//! Always true: the disk counts as full exactly as long as the reserve isn't there, also over restarts; the room that
//! giving it up leaves is less than what making it takes, so that nothing swings to and fro.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use rand::RngExt;
use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};
use tracing::{info, warn};

use super::Error;

/// A file in the data folder that holds nothing but room.
const NAME: &str = "RESERVE";
/// The reserve is at most this large, and at most a tenth of the file system.
const MOST_BYTES: u64 = 64 << 20;

/// What a file system has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    total: u64,
    free: u64,
}

impl Room {
    fn of(path: &Path) -> Result<Self, Error> {
        let found = statvfs(path).map_err(|errno| Error::io("find out how much room there is in", path)(errno.into()))?;
        if found.f_blocks == 0 {
            // It doesn't say, as some file systems on a network don't.
            return Ok(Self { total: u64::MAX, free: u64::MAX });
        }
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Self { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
    }

    fn reserve(self) -> u64 {
        MOST_BYTES.min(self.total / 10)
    }
}

/// What is to be done about the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    GiveUp,
    Make,
}

fn due(there: bool, room: Room) -> Due {
    let size = room.reserve();
    if there && room.free < size / 2 {
        Due::GiveUp
    } else if !there && room.free >= size.saturating_mul(2) {
        Due::Make
    } else {
        Due::Nothing
    }
}

/// How large the reserve on the file system of this path is, in bytes. What the log needs at once is cut to fit into it.
pub(super) fn reserve_bytes(path: &Path) -> Result<u64, Error> {
    Ok(Room::of(path)?.reserve())
}

/// Before a log is opened to be written: gives the reserve of this data folder up if the disk is full.
pub(super) fn make_way(dir: &Path) -> Result<(), Error> {
    let reserve = Reserve::of(dir);
    let room = Room::of(dir)?;
    if due(reserve.is_there(room)?, room) == Due::GiveUp { reserve.give_up() } else { Ok(()) }
}

#[derive(Debug)]
struct Reserve {
    dir: PathBuf,
    path: PathBuf,
}

impl Reserve {
    fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), path: dir.join(NAME) }
    }

    /// Does what is due. Whether it is there then.
    fn see_to(&self) -> Result<bool, Error> {
        let room = Room::of(&self.dir)?;
        let there = self.is_there(room)?;
        match due(there, room) {
            Due::Nothing => Ok(there),
            Due::GiveUp => self.give_up().map(|()| false),
            Due::Make => self.make(room.reserve()).map(|()| true),
        }
    }

    /// Whether it is there, whole. By its length: a file system that compresses tells too few blocks.
    fn is_there(&self, room: Room) -> Result<bool, Error> {
        match fs::metadata(&self.path) {
            Ok(found) => Ok(found.len() >= room.reserve()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("look at", &self.path)(error)),
        }
    }

    fn give_up(&self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(Error::io("give up the reserve", &self.path))
    }

    fn make(&self, size: u64) -> Result<(), Error> {
        let made = File::create(&self.path).and_then(|file| fill(&file, size).and_then(|()| file.sync_all()));
        made.map_err(|error| {
            // Half a reserve would only be in the way.
            let _ = fs::remove_file(&self.path);
            Error::io("make the reserve", &self.path)(error)
        })
    }
}

/// Gives a file this length, and the blocks for it.
fn fill(file: &File, size: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_noise(file, size),
        other => Ok(other?),
    }
}

/// What can't be compressed takes up room everywhere.
fn write_noise(mut file: &File, size: u64) -> io::Result<()> {
    let mut noise = rand::rng();
    let mut chunk = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        noise.fill(&mut chunk[..]);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        file.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// Watches the room for one open log. Says in the process's own log, once, when the disk runs full and when there is room
/// again.
#[derive(Debug)]
pub struct Watch {
    reserve: Reserve,
    full: bool,
    /// Why the reserve could not be seen to when it was last looked at.
    failed: Option<String>,
}

impl Watch {
    /// Looks for the first time. The log in this data folder must be open.
    pub fn start(dir: &Path) -> Self {
        let mut watch = Self { reserve: Reserve::of(dir), full: false, failed: None };
        watch.look();
        watch
    }

    /// Whether the disk counted as full when it was last looked at: then no new work may be taken.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Looks, and gives the reserve up or makes it anew. Where that can't be done, the disk counts as full.
    pub fn look(&mut self) {
        let (there, failed) = match self.reserve.see_to() {
            Ok(there) => (there, None),
            Err(error) => (false, Some(error.to_string())),
        };
        let data_dir = self.reserve.dir.display();
        if !there && !self.full {
            warn!(
                %data_dir,
                "the disk is full: no new work is taken; what is under way is decided and carried through in what was kept \
                 in reserve; free space, and new work is taken again"
            );
        } else if there && self.full {
            info!(%data_dir, "there is room on the disk again: new work is taken");
        }
        if let Some(error) = failed.as_ref().filter(|_| self.failed != failed) {
            warn!(error, "room can't be kept in reserve, so the disk counts as full");
        }
        (self.full, self.failed) = (!there, failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn room(total: u64, free: u64) -> Room {
        Room { total: total * MIB, free: free * MIB }
    }

    #[test]
    fn the_reserve_is_a_tenth_of_a_small_file_system_and_64_mib_of_a_large_one() {
        assert_eq!(room(100, 100).reserve(), 10 * MIB);
        assert_eq!(room(640, 0).reserve(), 64 * MIB);
        assert_eq!(room(1 << 20, 0).reserve(), 64 * MIB);
        assert_eq!(Room { total: u64::MAX, free: u64::MAX }.reserve(), 64 * MIB);
    }

    #[test]
    fn the_reserve_is_given_up_below_half_its_size_and_made_at_twice_its_size() {
        assert_eq!(due(true, room(1000, 31)), Due::GiveUp);
        assert_eq!(due(true, room(1000, 32)), Due::Nothing);
        assert_eq!(due(false, room(1000, 127)), Due::Nothing);
        assert_eq!(due(false, room(1000, 128)), Due::Make);
    }

    #[test]
    fn what_was_given_up_is_not_made_at_once_and_what_was_made_is_not_given_up_at_once() {
        for total in [16, 64, 200, 640, 5000] {
            let size = room(total, 0).reserve();
            for free in 0..total {
                let now = room(total, free);
                match due(true, now) {
                    Due::GiveUp => assert_eq!(due(false, Room { free: now.free + size, ..now }), Due::Nothing),
                    other => assert_eq!(other, Due::Nothing),
                }
                match due(false, now) {
                    Due::Make => assert_eq!(due(true, Room { free: now.free - size, ..now }), Due::Nothing),
                    other => assert_eq!(other, Due::Nothing),
                }
            }
        }
    }

    #[test]
    fn a_reserve_takes_up_room_whether_it_is_allocated_or_written() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        reserve.make(3 * MIB + 5).unwrap();
        let made = fs::metadata(&reserve.path).unwrap();
        assert_eq!(made.len(), 3 * MIB + 5);
        assert!(made.blocks() * 512 >= made.len(), "{made:?}");
        let other = dir.path().join("written");
        let file = File::create(&other).unwrap();
        write_noise(&file, 3 * MIB + 5).and_then(|()| file.sync_all()).unwrap();
        let written = fs::metadata(&other).unwrap();
        assert_eq!(written.len(), 3 * MIB + 5);
        assert!(written.blocks() * 512 >= written.len(), "{written:?}");
    }

    #[test]
    fn a_reserve_that_is_too_small_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        let now = room(100, 50);
        assert!(!reserve.is_there(now).unwrap());
        reserve.make(now.reserve() - 1).unwrap();
        assert!(!reserve.is_there(now).unwrap());
        reserve.make(now.reserve()).unwrap();
        assert!(reserve.is_there(now).unwrap());
        reserve.give_up().unwrap();
        assert!(!reserve.is_there(now).unwrap());
    }

    #[test]
    fn where_no_reserve_can_be_kept_the_disk_counts_as_full() {
        let dir = tempfile::tempdir().unwrap();
        // Whatever the room there is: no file can be made under this name.
        fs::create_dir_all(dir.path().join(NAME).join("in the way")).unwrap();
        assert!(Watch::start(dir.path()).is_full());
        assert!(Watch::start(&dir.path().join("not there")).is_full());
    }
}
