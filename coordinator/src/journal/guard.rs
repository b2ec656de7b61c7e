//! Notices when the log's files are deleted, replaced or truncated while this process has them open.
//!
//! A thread looks every 200 ms whether each path still leads to the file that was opened. With each sync, and before
//! anything of it is reported, the writer compares the file of the database's newest writes with what it was: whether it is still
//! linked, its length, its allocated blocks, and its last bytes. It also asks whether the lock is still where it was
//! taken: a second process reads the log only after it has taken the lock, and so finds all that was synced before.
//!
//! # Invariants
//!
//! - The watermark is written only after its log was found whole.
//! - After the first difference nothing is found whole any more.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::fs::{SeekFrom, seek};

use super::{Error, OnFatal, chain::Tip, folder::Folder, mark::Mark, place};

/// How often the paths are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// So many bytes at the end of what was synced are compared. A record of the database ends in them, which isn't all zeros.
const TAIL: u64 = 64;

/// Which file a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(found: &fs::Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

/// How far a file reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extent {
    links: u64,
    bytes: u64,
    /// Of 512 bytes.
    blocks: u64,
}

impl Extent {
    fn of(found: &fs::Metadata) -> Self {
        Self { links: found.nlink(), bytes: found.len(), blocks: found.blocks() }
    }

    fn covers(self, bytes: u64) -> bool {
        self.blocks.saturating_mul(512) >= bytes
    }
}

/// What a file's present extent says, compared with that of the last sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Whole,
    /// It has no name any more.
    Deleted,
    /// It is shorter than what was synced.
    Truncated,
    /// Fewer blocks than what was synced had: there is a hole in it, or the file system has compressed it.
    FewerBlocks,
}

/// Judges a file of the log. Pure.
fn judge(synced: Extent, now: Extent) -> Verdict {
    if now.links == 0 {
        Verdict::Deleted
    } else if now.bytes < synced.bytes {
        Verdict::Truncated
    } else if synced.covers(synced.bytes) && !now.covers(synced.bytes) {
        Verdict::FewerBlocks
    } else {
        Verdict::Whole
    }
}

/// A file that is watched by its path.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    id: FileId,
}

impl Watched {
    fn new(path: PathBuf) -> Result<Self, Error> {
        let found = fs::metadata(&path).map_err(Error::io("look at", &path))?;
        Ok(Self { id: FileId::of(&found), path })
    }

    /// A file that this process has open: the path may lead elsewhere already.
    fn held(path: PathBuf, file: &File) -> Result<Self, Error> {
        let found = file.metadata().map_err(Error::io("look at", &path))?;
        Ok(Self { id: FileId::of(&found), path })
    }

    /// Fails if the path leads to another file by now, or to none.
    fn check(&self) -> Result<(), Error> {
        match fs::metadata(&self.path) {
            Ok(found) if FileId::of(&found) == self.id => Ok(()),
            Ok(_) => Err(changed(&self.path, "replaced by another file")),
            Err(_) => Err(changed(&self.path, "deleted or moved")),
        }
    }
}

fn changed(path: &Path, how: &'static str) -> Error {
    Error::ChangedOutside { path: path.to_owned(), how }
}

/// The file to which the database writes now: the one with the highest number.
#[derive(Debug)]
struct Wal {
    watched: Watched,
    number: u64,
    file: File,
    /// As it was at the last sync.
    synced: Extent,
    /// The bytes before the end that it had then.
    tail: Vec<u8>,
}

impl Wal {
    /// Opens the newest one whose number is higher; None if there is none.
    fn newer(database: &Path, than: Option<u64>) -> Result<Option<Self>, Error> {
        let mut newest = None;
        for entry in fs::read_dir(database).map_err(Error::io("read", database))? {
            let name = entry.map_err(Error::io("read", database))?.file_name();
            newest = newest.max(name.to_str().and_then(number));
        }
        let Some(number) = newest.filter(|number| than.is_none_or(|than| *number > than)) else { return Ok(None) };
        let path = database.join(format!("{number:06}.log"));
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let watched = Watched::held(path, &file)?;
        Ok(Some(Self { watched, number, file, synced: Extent::default(), tail: vec![] }))
    }

    fn extent(&self) -> Result<Extent, Error> {
        self.file.metadata().map(|found| Extent::of(&found)).map_err(Error::io("look at", &self.watched.path))
    }

    /// Fails if what was synced isn't in it any more.
    fn check(&self, now: Extent) -> Result<(), Error> {
        let how = match judge(self.synced, now) {
            Verdict::Whole => None,
            Verdict::Deleted => Some("deleted"),
            Verdict::Truncated => Some("truncated"),
            Verdict::FewerBlocks => self.has_hole().then_some("truncated, and written on behind a hole"),
        };
        match how {
            Some(how) => Err(changed(&self.watched.path, how)),
            None if self.tail_of(self.synced.bytes)? == self.tail => Ok(()),
            None => Err(changed(&self.watched.path, "overwritten, or truncated and written on")),
        }
    }

    /// Takes note of a sync.
    fn synced(&mut self, now: Extent) -> Result<(), Error> {
        self.tail = self.tail_of(now.bytes)?;
        self.synced = now;
        Ok(())
    }

    /// Where the file system says where holes are, it says so for one of these: what compresses has fewer blocks and no hole.
    fn has_hole(&self) -> bool {
        // An offset of its own: the file is read by position only.
        seek(&self.file, SeekFrom::Hole(0)).is_ok_and(|hole| hole < self.synced.bytes)
    }

    fn tail_of(&self, bytes: u64) -> Result<Vec<u8>, Error> {
        let length = bytes.min(TAIL);
        let mut tail = vec![0; usize::try_from(length).unwrap_or_default()];
        let path = &self.watched.path;
        match self.file.read_exact_at(&mut tail, bytes - length) {
            Ok(()) => Ok(tail),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(changed(path, "truncated")),
            Err(error) => Err(Error::io("read the end of", path)(error)),
        }
    }
}

/// The number of a file of the database's newest writes.
fn number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".log")?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

#[derive(Debug)]
struct State {
    database: PathBuf,
    lock: Watched,
    others: Vec<Watched>,
    wal: Wal,
    mark: Mark,
    /// What the watermark was last set to.
    tip: Tip,
    /// A difference was found, or the watch has ended.
    ended: bool,
}

impl State {
    /// After a sync: fails unless the log holds what was synced.
    fn check_synced(&mut self) -> Result<(), Error> {
        self.lock.check()?;
        let now = self.wal.extent()?;
        if now.bytes <= self.wal.synced.bytes || now.links == 0 {
            return self.check_next(now);
        }
        self.wal.check(now)?;
        self.wal.synced(now)
    }

    /// The file that was the newest was not written to, or has no name any more: the database has begun a newer one, or the file
    /// was tampered with.
    fn check_next(&mut self, last: Extent) -> Result<(), Error> {
        const ELSEWHERE: &str = "replaced: what was synced is in another file";
        self.check_others()?;
        let Some(mut next) = Wal::newer(&self.database, Some(self.wal.number))? else {
            self.wal.check(last)?;
            return Err(changed(&self.wal.watched.path, ELSEWHERE));
        };
        let now = next.extent()?;
        // The last one may have been written to, and all of it be in the database's tables by now.
        if now.bytes == 0 && last.bytes <= self.wal.synced.bytes {
            return Err(changed(&next.watched.path, ELSEWHERE));
        }
        next.synced(now)?;
        self.wal = next;
        Ok(())
    }

    fn check_others(&self) -> Result<(), Error> {
        self.lock.check()?;
        self.others.iter().try_for_each(Watched::check)
    }

    /// Looks at everything.
    fn check_all(&mut self) -> Result<(), Error> {
        self.check_others()?;
        self.check_mark()?;
        let current = self.database.join("CURRENT");
        if fs::metadata(&current).is_err() {
            return Err(changed(&current, "deleted or moved"));
        }
        let now = self.wal.extent()?;
        let found = self.wal.watched.check();
        if now.links > 0 && found.is_ok() {
            return self.wal.check(now);
        }
        // The database removes it when all of it is in its tables; then there is a newer one.
        match Wal::newer(&self.database, Some(self.wal.number))? {
            Some(next) => {
                self.wal = next;
                self.wal.watched.check()
            }
            None => found.and_then(|()| self.wal.check(now)),
        }
    }

    /// Only this process writes the mark, and only under the lock that is held here.
    fn check_mark(&self) -> Result<(), Error> {
        let path = self.mark.path();
        match Mark::read(path, self.mark.coordinator()) {
            Ok(tip) if tip == self.tip => Ok(()),
            Ok(_) | Err(_) => Err(changed(path, "changed by somebody else")),
        }
    }
}

/// Watches the files of an open log.
#[derive(Debug)]
pub(super) struct Guard(Mutex<State>);

impl Guard {
    /// Watches the log in this folder, whose database is open and has been written to; `tip` is what stands in the mark.
    pub(super) fn new(folder: &Folder, mark: Mark, tip: Tip) -> Result<Self, Error> {
        let database = folder.database();
        let (path, file) = folder.lock();
        let lock = Watched::held(path, file)?;
        let paths = [database.join("LOCK"), folder.format(), place::path(folder.path())];
        let mut others = paths.into_iter().map(Watched::new).collect::<Result<Vec<_>, _>>()?;
        others.push(Watched::held(mark.path().to_owned(), mark.file())?);
        let missing = || Error::DatabaseMissing { path: database.clone() };
        let wal = Wal::newer(&database, None)?.ok_or_else(missing)?;
        let mut state = State { lock, others, wal, mark, tip, ended: false, database };
        state.check_synced()?;
        Ok(Self(Mutex::new(state)))
    }

    /// After a sync up to this record: fails unless the log is whole; else moves the watermark there.
    pub(super) fn synced(&self, tip: Tip) -> Result<(), Error> {
        self.with(|state| {
            state.check_synced()?;
            state.mark.write(tip).map_err(Error::io("write", state.mark.path()))?;
            state.tip = tip;
            Ok(())
        })
    }

    /// Makes the watermark durable, and looks no further.
    pub(super) fn close(&self) -> Result<(), Error> {
        let closed = self.with(|state| state.mark.sync().map_err(Error::io("sync", state.mark.path())));
        self.lock().ended = true;
        closed
    }

    /// Looks at everything, as every 200 ms.
    pub(super) fn look(&self) -> Result<(), Error> {
        self.with(State::check_all)
    }

    /// Fails unless the log is this process's own: lock and files are those that it has open, and the watermark is the one
    /// that it wrote last. What it finds is left to the next look, which ends the process.
    pub(super) fn confirm(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if state.ended { Err(Error::Ended) } else { state.check_all() }
    }

    fn with(&self, check: impl FnOnce(&mut State) -> Result<(), Error>) -> Result<(), Error> {
        let mut state = self.lock();
        if state.ended {
            return Err(Error::Ended);
        }
        let checked = check(&mut state);
        state.ended = checked.is_err();
        checked
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is told at most once: the first fault ends the process.
pub(super) struct Fatal(Mutex<Option<OnFatal>>);

impl Fatal {
    pub(super) fn new(on_fatal: OnFatal) -> Self {
        Self(Mutex::new(Some(on_fatal)))
    }

    pub(super) fn tell(&self, error: Error) {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(on_fatal) = first {
            on_fatal(error);
        }
    }
}

/// The thread that looks every 200 ms.
#[derive(Debug)]
pub(super) struct Lookout {
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Lookout {
    pub(super) fn start(guard: Arc<Guard>, fatal: Arc<Fatal>) -> std::io::Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::Builder::new().name("log-guard".to_owned()).spawn(move || {
            while !ended.load(Ordering::Acquire) {
                thread::park_timeout(LOOK);
                match guard.look() {
                    Ok(()) => {}
                    Err(Error::Ended) => return,
                    Err(error) => return fatal.tell(error),
                }
            }
        })?;
        Ok(Self { end, thread })
    }

    /// Ends it, and waits for that.
    pub(super) fn stop(self) {
        self.end.store(true, Ordering::Release);
        self.thread.thread().unpark();
        // The last handle may be dropped by a callback, on that thread.
        if self.thread.thread().id() != thread::current().id() {
            let _ = self.thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::{FallocateFlags, fallocate};

    use super::*;

    fn extent(links: u64, bytes: u64, blocks: u64) -> Extent {
        Extent { links, bytes, blocks }
    }

    #[test]
    fn verdict_on_each_change_of_an_extent() {
        let synced = extent(1, 10_000, 24);
        for (now, verdict) in [
            (extent(1, 10_000, 24), Verdict::Whole),
            (extent(1, 20_000, 40), Verdict::Whole),
            // What was allocated ahead was given back.
            (extent(1, 10_000, 20), Verdict::Whole),
            (extent(0, 20_000, 40), Verdict::Deleted),
            (extent(1, 9_999, 24), Verdict::Truncated),
            (extent(1, 0, 0), Verdict::Truncated),
            (extent(1, 10_000, 0), Verdict::FewerBlocks),
            (extent(1, 20_000, 16), Verdict::FewerBlocks),
        ] {
            assert_eq!(judge(synced, now), verdict, "{now:?}");
        }
    }

    #[test]
    fn blocks_that_never_covered_the_length_do_not_count() {
        let compressed = extent(1, 10_000, 8);
        assert_eq!(judge(compressed, extent(1, 20_000, 4)), Verdict::Whole);
        assert_eq!(judge(extent(1, 0, 0), extent(1, 100, 0)), Verdict::Whole);
    }

    /// A file such as the database writes, which a writer has open and goes on writing to where it was.
    struct Fake {
        dir: tempfile::TempDir,
        writer: File,
        wal: Wal,
    }

    impl Fake {
        /// Of so many bytes.
        fn new(bytes: usize) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = File::create_new(dir.path().join("000007.log")).unwrap();
            fs::write(dir.path().join("000006.log"), "an older one").unwrap();
            fs::write(dir.path().join("LOG"), "for people").unwrap();
            write(&mut writer, bytes);
            let mut wal = Wal::newer(dir.path(), None).unwrap().unwrap();
            assert_eq!(wal.number, 7);
            let now = wal.extent().unwrap();
            wal.check(now).unwrap();
            wal.synced(now).unwrap();
            Self { dir, writer, wal }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("000007.log")
        }

        fn how(&self) -> Option<&'static str> {
            match self.wal.check(self.wal.extent().unwrap()) {
                Ok(()) => None,
                Err(Error::ChangedOutside { how, .. }) => Some(how),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn write(writer: &mut File, bytes: usize) {
        writer.write_all(&vec![7; bytes]).unwrap();
        writer.sync_all().unwrap();
    }

    #[test]
    fn file_that_grows_is_whole() {
        let mut fake = Fake::new(10);
        for bytes in [1, 100, 10_000, 1_000_000] {
            write(&mut fake.writer, bytes);
            assert_eq!(fake.how(), None);
            let now = fake.wal.extent().unwrap();
            fake.wal.synced(now).unwrap();
            assert_eq!(fake.how(), None);
        }
    }

    #[test]
    fn file_truncated_to_nothing_is_noticed_at_any_length() {
        for bytes in [1, 63, 64, 65, 4_000, 5_000, 1_000_000] {
            for further in [0, 1, 100, 10_000] {
                let mut fake = Fake::new(bytes);
                fs::File::options().write(true).open(fake.path()).unwrap().set_len(0).unwrap();
                if further > 0 {
                    write(&mut fake.writer, further);
                }
                assert!(fake.how().is_some_and(|how| how.contains("truncated")), "{bytes} and {further} more");
            }
        }
    }

    #[test]
    fn file_truncated_and_grown_again_is_noticed() {
        for (bytes, left) in [(10, 0), (10, 5), (100_000, 0), (100_000, 50_000), (100_000, 99_999)] {
            let fake = Fake::new(bytes);
            let file = fs::File::options().write(true).open(fake.path()).unwrap();
            file.set_len(left).unwrap();
            file.set_len(bytes as u64).unwrap();
            assert!(fake.how().is_some_and(|how| how.contains("truncated")), "{bytes}, {left}");
        }
    }

    #[test]
    fn file_with_its_middle_punched_out_is_noticed() {
        let fake = Fake::new(100_000);
        let file = fs::File::options().write(true).open(fake.path()).unwrap();
        match fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8192, 16_384) {
            Ok(()) => assert!(fake.how().is_some_and(|how| how.contains("hole"))),
            // Not every file system can do it.
            Err(_) => assert_eq!(fake.how(), None),
        }
    }

    #[test]
    fn deleted_file_is_noticed_and_a_replaced_one_by_its_path() {
        let fake = Fake::new(1000);
        let aside = fake.dir.path().join("aside");
        fs::rename(fake.path(), &aside).unwrap();
        assert!(fake.wal.watched.check().is_err(), "it was moved");
        fs::copy(&aside, fake.path()).unwrap();
        assert!(fake.wal.watched.check().is_err(), "it was replaced");
        assert_eq!(fake.how(), None, "it has a name");
        fs::remove_file(aside).unwrap();
        assert_eq!(fake.how(), Some("deleted"));
    }

    #[test]
    fn newest_file_is_the_one_with_the_highest_number() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["000009.log", "000010.log", "1000000.log", "LOG", "000011.sst", "a.log", ".log", "12.log.1"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        assert_eq!(Wal::newer(dir.path(), None).unwrap().unwrap().number, 1_000_000);
        assert!(Wal::newer(dir.path(), Some(1_000_000)).unwrap().is_none());
    }
}
