//! Small file systems, mounted where only the present test sees them, so that nothing stays mounted however it ends.
//!
//! Always true: a test runs on every kind there may be mounted here: ext4 in a file, and one in memory; where it may mount
//! nothing at all, it says so and is skipped.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use unanimous_tests::coordinator::Coordinator;

/// Set inside the mount namespace of a test: a file that shows that the test has run there.
const INSIDE: &str = "UNANIMOUS_TEST_HAS_OWN_MOUNTS";

/// Ways to get mounts of one's own: as root, and as anybody.
const WAYS: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];

/// Visible although the test passes.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Runs the test of this name, which is the present one, on each kind of disk there is here.
pub fn on_each_disk(test: &str, megabytes: u64, run: impl AsyncFn(Disk)) {
    if let Some(seen) = env::var_os(INSIDE) {
        fs::write(seen, "").expect("a file can be written");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
        let disks: Vec<Disk> = ["ext4", "tmpfs"].iter().filter_map(|kind| Disk::mount(kind, megabytes)).collect();
        assert!(!disks.is_empty(), "a file system in memory could be mounted a moment ago");
        for disk in disks {
            println!("on {}", disk.kind);
            runtime.block_on(run(disk));
        }
        return;
    }
    let home = tempfile::tempdir().expect("a folder can be made");
    let may_mount = |way: &&&[&str]| {
        let mut mount = Command::new("unshare");
        mount.args(**way).args(["mount", "-t", "tmpfs", "-o", "size=1m", "none"]).arg(home.path());
        succeeds(&mut mount)
    };
    let Some(way) = WAYS.iter().find(may_mount) else {
        return say(&format!("test {test}: SKIPPED, nothing may be mounted here, not even as `unshare --user`"));
    };
    let seen = home.path().join("seen");
    let mut inside = Command::new("unshare");
    inside.args(*way).arg(env::current_exe().expect("a test knows where it is"));
    let inside = inside.args(["--exact", test, "--nocapture"]).env(INSIDE, &seen).stderr(Stdio::inherit());
    let ended = inside.output().expect("unshare runs");
    // Not as it stands: what counts the results of test programs would take it for one.
    let said = String::from_utf8_lossy(&ended.stdout).replace('\n', "\n  | ");
    assert!(ended.status.success(), "it failed in its own mount namespace:{said}");
    assert!(seen.exists(), "there is no test {test}:{said}");
}

/// A small file system.
pub struct Disk {
    kind: &'static str,
    home: TempDir,
}

impl Disk {
    fn mount(kind: &'static str, megabytes: u64) -> Option<Self> {
        let home = tempfile::tempdir().expect("a folder can be made");
        let (image, at) = (home.path().join("image"), home.path().join("disk"));
        fs::create_dir(&at).expect("a folder can be made");
        let mut mount = Command::new("mount");
        if kind == "ext4" {
            let file = fs::File::create(&image).expect("a file can be made");
            file.set_len(megabytes << 20).expect("a file can have holes");
            let made = succeeds(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
            mount.args(["-o", "loop"]).arg(&image).arg(&at);
            if !made || !succeeds(&mut mount) {
                say("no ext4 can be made and mounted here: tried in memory alone");
                return None;
            }
        } else {
            mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"]).arg(&at);
            if !succeeds(&mut mount) {
                return None;
            }
        }
        Some(Self { kind, home })
    }

    pub fn path(&self) -> PathBuf {
        self.home.path().join("disk")
    }

    /// Fills what room there is up to the last byte.
    pub fn fill(&self) {
        let filler = self.path().join("filler");
        let mut file = fs::File::options().create(true).append(true).open(filler).expect("a file can be made");
        for size in [1 << 20, 4096, 1] {
            let chunk = vec![7; size];
            while file.write_all(&chunk).is_ok() {}
        }
        let _ = file.sync_all();
    }

    /// Gives all of that back.
    pub fn free(&self) {
        fs::remove_file(self.path().join("filler")).expect("a file can be removed");
    }

    /// How many files in a folder have names that end so.
    pub fn files(&self, folder: &str, end: &str) -> usize {
        let files = fs::read_dir(self.path().join(folder)).expect("a folder can be read");
        files.filter(|file| file.as_ref().is_ok_and(|file| file.file_name().to_string_lossy().ends_with(end))).count()
    }

    /// Puts a coordinator's data folder there, which is new.
    pub fn take(&self, coordinator: &mut Coordinator) {
        coordinator.kill();
        fs::remove_dir_all(coordinator.data()).expect("a folder can be removed");
        let data = self.path().join("data");
        fs::create_dir(&data).expect("a folder can be made");
        symlink(data, coordinator.data()).expect("a link can be made");
    }

    pub async fn with_coordinator(&self) -> Coordinator {
        let mut coordinator = Coordinator::start().await;
        self.take(&mut coordinator);
        coordinator.restart().await;
        coordinator
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        succeeds(Command::new("umount").arg("--lazy").arg(self.path()));
    }
}
