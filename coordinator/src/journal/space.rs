//! Room on the disk: a reserve for what is under way when the disk runs full.
//!
//! ```text
//!   free room, in sizes of the reserve      0 ·· ⅛ ····· ½ ······· 1 ················ 2 ·····
//!   the reserve is there, work is taken                  │ no new work is taken
//!   the reserve is there, no work is taken       │ given up, when    │ work is taken
//!   the reserve is gone, no work is taken        │ nobody fills on                   │ it is made anew, work is taken
//! ```
//!
//! Whatever fills the disk would take the reserve as well if it were given up at once: until the other one has met the
//! end of the disk, the log lives on what it has allocated ahead.
//!
//! Always true: no new work is taken while the reserve isn't there, and it stays so over restarts; what giving it up
//! leaves free is less than what making it takes, so that nothing swings to and fro.

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
/// After so many looks without more being filled nobody fills on.
const STILL: u32 = 5;

/// What a file system has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    total: u64,
    free: u64,
}

impl Room {
    fn of(path: &Path) -> Result<Self, Error> {
        let found =
            statvfs(path).map_err(|errno| Error::io("find out how much room there is in", path)(errno.into()))?;
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

/// What is known of the room, from look to look. Pure.
#[derive(Clone, Copy, Debug, Default)]
struct Outlook {
    full: bool,
    free_before: u64,
    /// For how many looks the room has hardly shrunk.
    still: u32,
}

impl Outlook {
    fn see(&mut self, there: bool, room: Room) -> Due {
        let size = room.reserve();
        let shrunk = self.free_before.saturating_sub(room.free);
        self.still = if shrunk > size / 64 { 0 } else { self.still.saturating_add(1) };
        self.free_before = room.free;
        self.full = !there || room.free < if self.full { size } else { size / 2 };
        if !there && room.free >= size.saturating_mul(2) {
            Due::Make
        } else if there && room.free < size / 8 && self.still >= STILL {
            Due::GiveUp
        } else {
            Due::Nothing
        }
    }
}

/// How large the reserve on the file system of this path is, in bytes. What the log needs at once is cut to fit into it.
pub(super) fn reserve_bytes(path: &Path) -> Result<u64, Error> {
    Ok(Room::of(path)?.reserve())
}

/// Before a log is opened to be written: gives the reserve of this data folder up if there may not be room enough for that.
pub(super) fn make_way(dir: &Path) -> Result<(), Error> {
    let reserve = Reserve::of(dir);
    let room = Room::of(dir)?;
    if reserve.is_there(room)? && room.free < room.reserve() { reserve.give_up() } else { Ok(()) }
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
    outlook: Outlook,
    /// Why the reserve could not be seen to when it was last looked at.
    failed: Option<String>,
}

impl Watch {
    /// Looks for the first time. The log in this data folder must be open.
    pub fn start(dir: &Path) -> Self {
        let mut watch = Self { reserve: Reserve::of(dir), outlook: Outlook::default(), failed: None };
        watch.look();
        watch
    }

    /// Whether the disk counted as full when it was last looked at: then no new work may be taken.
    pub fn is_full(&self) -> bool {
        self.outlook.full
    }

    /// Looks, and gives the reserve up or makes it anew. Where that can't be done, the disk counts as full. To be called
    /// some five times a second.
    pub fn look(&mut self) {
        let was_full = self.outlook.full;
        let failed = self.see_to_it().err().map(|error| error.to_string());
        self.outlook.full |= failed.is_some();
        let data_dir = self.reserve.dir.display();
        if self.outlook.full && !was_full {
            warn!(
                %data_dir,
                "the disk is full: no new work is taken; what is under way is carried through in room that was kept for it; \
                 free some, and new work is taken again"
            );
        } else if was_full && !self.outlook.full {
            info!(%data_dir, "there is room on the disk again: new work is taken");
        }
        if let Some(error) = failed.as_ref().filter(|_| self.failed != failed) {
            warn!(error, "room can't be kept in reserve, so the disk counts as full");
        }
        self.failed = failed;
    }

    fn see_to_it(&mut self) -> Result<(), Error> {
        let room = Room::of(&self.reserve.dir)?;
        let there = self.reserve.is_there(room)?;
        match self.outlook.see(there, room) {
            Due::Nothing => {}
            Due::GiveUp => self.reserve.give_up()?,
            Due::Make => {
                self.reserve.make(room.reserve())?;
                self.outlook.full = false;
            }
        }
        Ok(())
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

    /// What is due after looks at this much free room, in MiB, of a large disk; and whether it is full.
    fn seen(there: bool, looks: &[u64]) -> (Due, bool) {
        let mut outlook = Outlook::default();
        let due = looks.iter().map(|free| outlook.see(there, room(1000, *free))).last();
        (due.unwrap(), outlook.full)
    }

    #[test]
    fn new_work_is_refused_below_half_the_reserve_and_taken_again_from_a_whole_one_on() {
        assert_eq!(seen(true, &[32]), (Due::Nothing, false));
        assert_eq!(seen(true, &[31]), (Due::Nothing, true));
        assert_eq!(seen(true, &[31, 63]), (Due::Nothing, true));
        assert_eq!(seen(true, &[31, 64]), (Due::Nothing, false));
    }

    #[test]
    fn the_reserve_is_not_given_up_to_what_still_fills_the_disk() {
        assert_eq!(seen(true, &[100, 60, 40, 20, 7, 5, 3, 1]), (Due::Nothing, true));
        assert_eq!(seen(true, &[100, 60, 40, 20, 0, 0, 0, 0, 0]), (Due::Nothing, true));
        assert_eq!(seen(true, &[100, 60, 40, 20, 0, 0, 0, 0, 0, 0]), (Due::GiveUp, true));
        assert_eq!(seen(true, &[8, 8, 8, 8, 8, 8, 8]), (Due::Nothing, true), "there is room enough for now");
    }

    #[test]
    fn no_new_work_is_taken_without_a_reserve_which_is_made_at_twice_its_size() {
        assert_eq!(seen(false, &[127]), (Due::Nothing, true));
        assert_eq!(seen(false, &[128]).0, Due::Make);
    }

    #[test]
    fn what_was_given_up_is_not_made_at_once_and_what_was_made_is_not_given_up_at_once() {
        for total in [16, 64, 200, 640, 5000] {
            let size = room(total, 0).reserve();
            for free in 0..total {
                let now = room(total, free);
                let mut outlook = Outlook { still: STILL, ..Outlook::default() };
                if outlook.see(true, now) == Due::GiveUp {
                    assert_eq!(outlook.see(false, Room { free: now.free + size, ..now }), Due::Nothing);
                    assert!(outlook.full);
                }
                let mut outlook = Outlook { full: true, still: STILL, ..Outlook::default() };
                if outlook.see(false, now) == Due::Make {
                    assert_eq!(outlook.see(true, Room { free: now.free - size, ..now }), Due::Nothing);
                    assert!(!outlook.full);
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
