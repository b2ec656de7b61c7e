//! A data folder of a process under test, with all that happens to it.
//!
//! Always true: what was in the folder when the watch began counts as durable; the library knows of every change since.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::rngs::StdRng;
use tempfile::TempDir;
use unanimous_tests::{binaries::stand_for_the_original, process::Setup};

use crate::{
    disk::{Disk, Left},
    trace::{self, Record},
};

/// What the disk does from now on.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A sync does nothing, and says that it has.
    SyncsLie,
    /// A sync fails with EIO.
    SyncsFail,
    /// A write fails with ENOSPC.
    WritesFail,
}

/// See the module.
pub struct Watched {
    folder: PathBuf,
    control: TempDir,
    before: Disk,
}

impl Watched {
    /// Watches this folder, which is made if it isn't there. Its process isn't running yet.
    pub fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("a folder can be made");
        let folder = folder.canonicalize().expect("a folder has a path");
        let control = tempfile::tempdir().expect("a folder can be made");
        Self { before: Disk::of(&folder), folder, control }
    }

    /// What the process is to be started with.
    pub fn setup(&self) -> Setup {
        let text = |path: &Path| path.to_str().expect("a path is text").to_owned();
        let variable = |name: &str, value| (name.to_owned(), value);
        let environment = vec![
            variable("LD_PRELOAD", option_env!("LOST_WRITES_LIBRARY").unwrap_or_default().to_owned()),
            variable("LOST_WRITES_BELOW", text(&self.folder)),
            variable("LOST_WRITES_CONTROL", text(self.control.path())),
        ];
        Setup { environment, ..Setup::default() }
    }

    pub fn has(&self, fault: Fault) {
        fs::write(self.switch(fault), "").expect("a file can be written");
    }

    pub fn has_no(&self, fault: Fault) {
        fs::remove_file(self.switch(fault)).expect("a file can be removed");
    }

    fn switch(&self, fault: Fault) -> PathBuf {
        self.control.path().join(match fault {
            Fault::SyncsLie => "syncs-lie",
            Fault::SyncsFail => "syncs-fail",
            Fault::WritesFail => "writes-fail",
        })
    }

    pub fn trace(&self) -> Trace {
        Trace(self.control.path().join("trace"))
    }

    /// All that happened, once its process is dead, and the disk as it was before.
    pub fn records(self) -> (Disk, Vec<Record>) {
        let records = self.trace().read();
        (self.before, records)
    }

    /// Its process is dead, and the power was lost: leaves in the folder what the disk may hold, and watches on.
    pub fn lose_power(&mut self, left: Left, random: &mut StdRng) {
        for record in self.trace().read() {
            self.before.apply(&record);
        }
        fs::remove_dir_all(&self.folder).expect("a folder can be removed");
        self.before.leave(left, random, &self.folder);
        stand_for_the_original(&self.folder);
        fs::write(self.trace().0, "").expect("a file can be emptied");
        self.before = Disk::of(&self.folder);
    }
}

/// The library's notes, which grow as long as the process runs.
#[derive(Clone)]
pub struct Trace(PathBuf);

impl Trace {
    /// How long they are now: whatever the process has said to anybody by now, it did what it says before this.
    pub fn len(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |found| found.len())
    }

    fn read(&self) -> Vec<Record> {
        trace::read(&fs::read(&self.0).expect("the library has noted something"))
    }
}
