//! The disk under the program: what a loss of power leaves of a folder.
//!
//! Always true: what was synced is kept, whole; of what was appended to a file after that, a head of any length, perhaps
//! none, perhaps all; a small file that was written over is the old or the new one.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rand::{RngExt, rngs::StdRng};

/// What is preloaded.
pub struct Library {
    path: PathBuf,
}

/// A folder on that disk.
pub struct Disk {
    home: PathBuf,
    number: u32,
}

impl Library {
    /// Compiles it.
    pub fn build(folder: &Path) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lost_writes/lost_writes.c");
        let path = folder.join("liblost_writes.so");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let built = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&path)
            .arg(source)
            .args(["-ldl", "-pthread"])
            .status();
        assert!(built.as_ref().is_ok_and(std::process::ExitStatus::success), "{compiler} can't compile it: {built:?}");
        Self { path }
    }
}

impl Disk {
    /// An empty one.
    pub fn new(home: &Path) -> Self {
        let disk = Self { home: home.to_owned(), number: 0 };
        disk.prepare();
        disk
    }

    fn prepare(&self) {
        fs::create_dir_all(self.folder()).expect("a folder can be made");
        fs::create_dir_all(self.kept().join("inode")).expect("a folder can be made");
    }

    /// What the program sees.
    pub fn folder(&self) -> PathBuf {
        self.home.join(format!("disk-{}", self.number))
    }

    fn kept(&self) -> PathBuf {
        self.home.join(format!("kept-{}", self.number))
    }

    /// The variables under which a program writes to it.
    pub fn variables(&self, library: &Library) -> Vec<String> {
        vec![
            format!("LD_PRELOAD={}", library.path.display()),
            format!("LOST_WRITES_DIR={}", self.folder().display()),
            format!("LOST_WRITES_KEPT={}", self.kept().display()),
        ]
    }

    /// From now on, syncs fail.
    pub fn fail(&self) {
        fs::write(self.kept().join("fail"), "").expect("a file can be written");
    }

    /// The power is gone: the folder is another one now, with what is left. No process may use it.
    pub fn cut(&mut self, random: &mut StdRng) {
        let (old, kept) = (self.folder(), self.kept());
        self.number += 1;
        self.prepare();
        let names = Names::read(&kept.join("names"));
        let root = inode(&old);
        let mut left = Left { kept, random };
        names.copy(root, &old, &self.folder(), &mut left);
        let mut lines = String::new();
        self.keep(&self.folder(), &mut lines);
        fs::write(self.kept().join("names"), lines).expect("a file can be written");
    }

    /// What is there after a loss of power is durable.
    fn keep(&self, folder: &Path, names: &mut String) {
        let entries = || fs::read_dir(folder).expect("a folder can be read").map(|e| e.expect("it can be read").path());
        let name = |path: &Path| path.file_name().expect("it has a name").to_string_lossy().into_owned();
        let _ = writeln!(names, "dir {}", inode(folder));
        for path in entries() {
            let _ = writeln!(names, "has {} {}", name(&path), inode(&path));
        }
        for path in entries() {
            if path.is_dir() {
                self.keep(&path, names);
            } else {
                let copy = self.kept().join("inode").join(key(inode(&path), &name(&path)));
                fs::copy(&path, copy).expect("a file can be copied");
            }
        }
    }
}

/// What a file is left with.
struct Left<'a> {
    kept: PathBuf,
    random: &'a mut StdRng,
}

impl Left<'_> {
    /// `present`: the file as the program saw it last, if it still is there under that name.
    fn content(&mut self, inode: u64, name: &str, present: &Path) -> Option<Vec<u8>> {
        let mut content = fs::read(self.kept.join("inode").join(key(inode, name))).ok()?;
        let present = fs::read(present).unwrap_or_default();
        // What was written over may have come to the disk by itself: all of it, if it is less than a sector.
        if present.len() == content.len() && present.len() < 512 {
            return Some(if self.random.random() { present } else { content });
        }
        if present.len() > content.len() && present.starts_with(&content) && self.random.random_bool(0.7) {
            // What lies behind the end in blocks that were allocated beforehand is zeros: that end counts.
            let end = present.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1).max(content.len());
            let more = self.random.random_range(content.len()..=end);
            content = present[..more].to_vec();
        }
        Some(content)
    }
}

/// The durable names of each folder.
#[derive(Default)]
struct Names(BTreeMap<u64, BTreeMap<String, u64>>);

impl Names {
    fn read(path: &Path) -> Self {
        let mut names = Self::default();
        let mut folder = 0;
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().expect("an inode is a number");
            match words[0] {
                "dir" => {
                    folder = number(1);
                    names.0.insert(folder, BTreeMap::new());
                }
                "has" => {
                    names.0.entry(folder).or_default().insert(words[1].to_owned(), number(2));
                }
                _ => {
                    names.0.entry(number(1)).or_default().insert(words[2].to_owned(), number(3));
                }
            }
        }
        names
    }

    fn copy(&self, folder: u64, old: &Path, new: &Path, left: &mut Left<'_>) {
        for (name, inode) in self.0.get(&folder).into_iter().flatten() {
            let (from, to) = (old.join(name), new.join(name));
            if self.0.contains_key(inode) || from.is_dir() {
                fs::create_dir_all(&to).expect("a folder can be made");
                self.copy(*inode, &from, &to, left);
            } else if let Some(content) = left.content(*inode, name, &from) {
                fs::write(&to, content).expect("a file can be written");
            } else {
                // Its name is on disk, and nothing else of it.
                fs::write(&to, "").expect("a file can be written");
            }
        }
    }
}

/// Where a file's durable content is.
fn key(inode: u64, name: &str) -> String {
    let grows = name.strip_suffix(".log").is_some_and(|number| !number.is_empty()) || name.starts_with("MANIFEST");
    if grows { format!("{inode}-{name}") } else { inode.to_string() }
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).expect("it is there").ino()
}
