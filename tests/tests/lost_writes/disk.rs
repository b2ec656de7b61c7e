//! What a disk may hold after a loss of power, worked out from a trace.
//!
//! What a sync of a file has reported is there; of each file's other changes any may be there or not, in units of a page of
//! 4 KiB, or of a sector of 512 bytes where a write is torn. Names (files made, renamed, removed) are durable once a folder
//! that they are in was synced; they survive in the order in which they were made, as in the journal of ext4, XFS or Btrfs.
//! A sync of a new file alone doesn't keep its name. (On ext4 it does: what is tried here is the stricter reading.)
//!
//! Always true: whatever the seed, what was reported as synced is there; with [`Left::Everything`] it is what the process
//! saw.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
};

use rand::{RngExt, rngs::StdRng};

use crate::trace::{Change, Record};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// What is left of changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Nothing,
    Everything,
    /// Of each file the first changes, the last of them torn.
    Torn,
    /// Of each page of each file the first changes, another number for each.
    Pages,
    /// Any of these for each file.
    Mixed,
}

impl Left {
    pub const ALL: [Self; 5] = [Self::Nothing, Self::Everything, Self::Torn, Self::Pages, Self::Mixed];
}

/// Where in the list of nodes.
type Id = usize;
type Names = HashMap<Id, BTreeMap<String, Id>>;

#[derive(Debug)]
enum Node {
    Folder,
    File(File),
}

#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    unsynced: Vec<(u64, Edit)>,
}

#[derive(Debug)]
enum Edit {
    Write { offset: usize, data: Vec<u8> },
    Size(usize),
}

#[derive(Debug)]
enum Naming {
    Set { to: (Id, String), node: Id },
    Unset { from: (Id, String) },
    Move { from: (Id, String), to: (Id, String) },
}

/// See the module.
#[derive(Debug)]
pub struct Disk {
    nodes: Vec<Node>,
    inodes: HashMap<u64, Id>,
    /// As the process sees them.
    names: Names,
    durable_names: Names,
    unsynced_names: Vec<(u64, Naming)>,
}

impl Disk {
    /// A disk that holds what is in this folder, all of it durable.
    pub fn of(folder: &Path) -> Self {
        let root = fs::metadata(folder).expect("a folder can be looked at").ino();
        let mut disk = Self {
            nodes: vec![Node::Folder],
            inodes: HashMap::from([(root, 0)]),
            names: HashMap::from([(0, BTreeMap::new())]),
            durable_names: HashMap::new(),
            unsynced_names: vec![],
        };
        disk.take(0, folder);
        disk.durable_names = disk.names.clone();
        disk
    }

    fn take(&mut self, into: Id, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder can be read") {
            let entry = entry.expect("a folder can be read");
            let (found, path) = (entry.metadata().expect("an entry can be looked at"), entry.path());
            let node = if found.is_dir() {
                Node::Folder
            } else {
                Node::File(File { durable: fs::read(&path).expect("a file can be read"), unsynced: vec![] })
            };
            let id = self.add(found.ino(), node);
            self.names.entry(into).or_default().insert(entry.file_name().to_string_lossy().into_owned(), id);
            if found.is_dir() {
                self.take(id, &path);
            }
        }
    }

    fn add(&mut self, inode: u64, node: Node) -> Id {
        let id = self.nodes.len();
        if matches!(node, Node::Folder) {
            self.names.insert(id, BTreeMap::new());
        }
        self.nodes.push(node);
        self.inodes.insert(inode, id);
        id
    }

    /// One more change, or sync.
    pub fn apply(&mut self, record: &Record) {
        let at = record.at;
        match &record.change {
            Change::Create { inode, path } => self.make(at, *inode, path, Node::File(File::default())),
            Change::MakeFolder { inode, path } => self.make(at, *inode, path, Node::Folder),
            Change::Write { inode, offset, data } => {
                self.edit(at, *inode, Edit::Write { offset: *offset, data: data.clone() });
            }
            Change::Size { inode, size } => self.edit(at, *inode, Edit::Size(*size)),
            Change::Sync { inode, upto } => self.sync(*inode, *upto),
            Change::Rename { from, to } => {
                let naming = Naming::Move { from: self.place(from), to: self.place(to) };
                self.name(at, naming);
            }
            Change::Remove { path } => {
                let naming = Naming::Unset { from: self.place(path) };
                self.name(at, naming);
            }
            Change::Link { from, to } => {
                let (folder, name) = self.place(from);
                let node = self.names[&folder][&name];
                let naming = Naming::Set { to: self.place(to), node };
                self.name(at, naming);
            }
        }
    }

    fn make(&mut self, at: u64, inode: u64, path: &str, node: Node) {
        if path.is_empty() {
            return;
        }
        let node = self.add(inode, node);
        let naming = Naming::Set { to: self.place(path), node };
        self.name(at, naming);
    }

    fn name(&mut self, at: u64, naming: Naming) {
        naming.carry_out(&mut self.names);
        self.unsynced_names.push((at, naming));
    }

    fn edit(&mut self, at: u64, inode: u64, edit: Edit) {
        if let Some(Node::File(file)) = self.inodes.get(&inode).map(|id| &mut self.nodes[*id]) {
            file.unsynced.push((at, edit));
        } else {
            panic!("the trace changes inode {inode}, which is no file in it");
        }
    }

    fn sync(&mut self, inode: u64, upto: u64) {
        let id = self.inodes[&inode];
        match &mut self.nodes[id] {
            Node::File(file) => {
                let synced = file.unsynced.partition_point(|(at, _)| *at < upto);
                for (_, edit) in file.unsynced.drain(..synced) {
                    edit.carry_out(&mut file.durable);
                }
            }
            Node::Folder => {
                let last = self.unsynced_names.iter().rposition(|(at, naming)| *at < upto && naming.touches(id));
                for (_, naming) in self.unsynced_names.drain(..last.map_or(0, |last| last + 1)) {
                    naming.carry_out(&mut self.durable_names);
                }
            }
        }
    }

    /// The folder that a path's last name is in, as the process sees it now, and that name.
    fn place(&self, path: &str) -> (Id, String) {
        let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let name = parts.pop().expect("a path has a name");
        let folder = parts.into_iter().fold(0, |folder, part| self.names[&folder][part]);
        (folder, name.to_owned())
    }

    /// Writes what a loss of power now would leave into this folder, which is to be empty.
    pub fn leave(&self, left: Left, random: &mut StdRng, to: &Path) {
        let mut names = self.durable_names.clone();
        let most = self.unsynced_names.len();
        let kept = match left {
            Left::Nothing => 0,
            Left::Everything => most,
            Left::Torn | Left::Pages | Left::Mixed => random.random_range(0..=most),
        };
        for (_, naming) in &self.unsynced_names[..kept] {
            naming.carry_out(&mut names);
        }
        self.leave_folder(&names, 0, left, random, to);
    }

    fn leave_folder(&self, names: &Names, folder: Id, left: Left, random: &mut StdRng, to: &Path) {
        fs::create_dir_all(to).expect("a folder can be made");
        for (name, id) in names.get(&folder).into_iter().flatten() {
            let path = to.join(name);
            match &self.nodes[*id] {
                Node::Folder => self.leave_folder(names, *id, left, random, &path),
                Node::File(file) => fs::write(&path, file.left(left, random)).expect("a file can be written"),
            }
        }
    }
}

impl Naming {
    fn carry_out(&self, names: &mut Names) {
        match self {
            Self::Set { to: (folder, name), node } => {
                names.entry(*folder).or_default().insert(name.clone(), *node);
            }
            Self::Unset { from: (folder, name) } => {
                names.entry(*folder).or_default().remove(name);
            }
            Self::Move { from: (folder, name), to: (into, as_name) } => {
                if let Some(node) = names.entry(*folder).or_default().remove(name) {
                    names.entry(*into).or_default().insert(as_name.clone(), node);
                }
            }
        }
    }

    fn touches(&self, id: Id) -> bool {
        match self {
            Self::Set { to: (folder, _), .. } | Self::Unset { from: (folder, _) } => *folder == id,
            Self::Move { from: (folder, _), to: (into, _) } => *folder == id || *into == id,
        }
    }
}

impl Edit {
    fn carry_out(&self, content: &mut Vec<u8>) {
        match self {
            Self::Size(size) => content.resize(*size, 0),
            Self::Write { offset, data } => {
                let end = offset + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(data);
            }
        }
    }

    /// The same, cut off at the end of a sector.
    fn carry_out_torn(&self, content: &mut Vec<u8>, random: &mut StdRng) {
        if let Self::Write { offset, data } = self {
            let cut = (offset + random.random_range(0..=data.len())) / SECTOR * SECTOR;
            let data = data[..cut.saturating_sub(*offset)].to_vec();
            if !data.is_empty() {
                Self::Write { offset: *offset, data }.carry_out(content);
            }
        }
    }
}

impl File {
    fn left(&self, left: Left, random: &mut StdRng) -> Vec<u8> {
        let most = self.unsynced.len();
        match left {
            Left::Nothing => self.after(0),
            Left::Everything => self.after(most),
            Left::Torn => {
                let kept = random.random_range(0..=most);
                let mut content = self.after(kept);
                if let Some((_, edit)) = self.unsynced.get(kept) {
                    edit.carry_out_torn(&mut content, random);
                }
                content
            }
            Left::Pages => self.pages(random),
            Left::Mixed => {
                let left = [Left::Nothing, Left::Everything, Left::Torn, Left::Pages][random.random_range(0..4)];
                self.left(left, random)
            }
        }
    }

    fn after(&self, edits: usize) -> Vec<u8> {
        let mut content = self.durable.clone();
        for (_, edit) in &self.unsynced[..edits] {
            edit.carry_out(&mut content);
        }
        content
    }

    /// Each page as it was at a moment of its own. What lies between pages that are there is zeros.
    fn pages(&self, random: &mut StdRng) -> Vec<u8> {
        let most = self.unsynced.len();
        let moments: BTreeMap<usize, Vec<usize>> = self.touched().into_iter().fold(BTreeMap::new(), |mut all, page| {
            all.entry(random.random_range(0..=most)).or_default().push(page);
            all
        });
        let mut content = self.durable.clone();
        let (mut now, mut done) = (self.durable.clone(), 0);
        for (moment, pages) in moments {
            for (_, edit) in &self.unsynced[done..moment] {
                edit.carry_out(&mut now);
            }
            done = moment;
            for page in pages {
                let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(now.len()));
                if start < end {
                    content.resize(content.len().max(end), 0);
                    content[start..end].copy_from_slice(&now[start..end]);
                }
            }
        }
        content
    }

    fn touched(&self) -> BTreeSet<usize> {
        let mut pages = BTreeSet::new();
        for (_, edit) in &self.unsynced {
            if let Edit::Write { offset, data } = edit {
                pages.extend(offset / PAGE..(offset + data.len()).div_ceil(PAGE));
            }
        }
        pages
    }
}

/// Fails if a folder and what was worked out of it are not the same. What is not written through libc's functions, and
/// holds nothing, is left out: the log's reserve.
pub fn assert_same(folder: &Path, worked_out: &Path) {
    let names = |folder: &Path| -> BTreeSet<String> {
        let entries =
            fs::read_dir(folder).expect("a folder can be read").map(|entry| entry.expect("an entry is there"));
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names(folder), names(worked_out), "in {}", folder.display());
    for name in names(folder) {
        let (found, other) = (folder.join(&name), worked_out.join(&name));
        if found.is_dir() {
            assert_same(&found, &other);
        } else if name != "RESERVE" {
            let same = fs::read(&found).expect("a file can be read") == fs::read(&other).expect("a file can be read");
            assert!(same, "{} was changed in a way that the library doesn't see", found.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const FILE: u64 = 1_000_001;

    /// A disk with a folder that is empty, and the records of a process there.
    fn after(changes: Vec<Change>) -> Disk {
        let home = tempfile::tempdir().unwrap();
        let mut disk = Disk::of(home.path());
        let root = fs::metadata(home.path()).unwrap().ino();
        for (number, change) in changes.into_iter().enumerate() {
            let at = number as u64;
            let change = match change {
                Change::Sync { inode: 0, upto } => Change::Sync { inode: root, upto },
                other => other,
            };
            disk.apply(&Record { at, end: at + 1, change });
        }
        disk
    }

    fn create(path: &str) -> Change {
        Change::Create { inode: FILE, path: path.to_owned() }
    }

    fn write(offset: usize, data: &[u8]) -> Change {
        Change::Write { inode: FILE, offset, data: data.to_vec() }
    }

    fn left(disk: &Disk, left: Left, seed: u64) -> BTreeMap<String, Vec<u8>> {
        let to = tempfile::tempdir().unwrap();
        disk.leave(left, &mut StdRng::seed_from_u64(seed), to.path());
        let files = fs::read_dir(to.path()).unwrap().map(Result::unwrap);
        files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
    }

    #[test]
    fn what_was_synced_is_there_and_what_was_not_may_vanish() {
        let synced = [Change::Sync { inode: FILE, upto: 2 }, Change::Sync { inode: 0, upto: 3 }];
        let mut changes = vec![create("a"), write(0, b"told")];
        changes.extend(synced);
        changes.push(write(4, b" not"));
        let disk = after(changes);
        assert_eq!(left(&disk, Left::Nothing, 0)["a"], b"told");
        assert_eq!(left(&disk, Left::Everything, 0)["a"], b"told not");
        for seed in 0..200 {
            for kind in Left::ALL {
                assert!(left(&disk, kind, seed)["a"].starts_with(b"told"), "{kind:?} {seed}");
            }
        }
    }

    #[test]
    fn what_was_written_while_a_sync_was_under_way_is_not_synced_by_it() {
        let changes = vec![
            create("a"),
            write(0, b"1"),
            write(1, b"2"),
            Change::Sync { inode: FILE, upto: 2 },
            Change::Sync { inode: 0, upto: 1 },
        ];
        assert_eq!(left(&after(changes), Left::Nothing, 0)["a"], b"1");
    }

    #[test]
    fn a_name_is_durable_only_when_its_folder_was_synced() {
        let disk = after(vec![create("a"), write(0, b"1"), Change::Sync { inode: FILE, upto: 2 }]);
        assert!(left(&disk, Left::Nothing, 0).is_empty());
        let renamed = Change::Rename { from: "a".to_owned(), to: "b".to_owned() };
        let disk = after(vec![create("a"), Change::Sync { inode: 0, upto: 1 }, renamed]);
        assert!(left(&disk, Left::Nothing, 0).contains_key("a"));
        assert!(left(&disk, Left::Everything, 0).contains_key("b"));
        for seed in 0..50 {
            assert_eq!(left(&disk, Left::Mixed, seed).len(), 1, "a rename is whole or not at all");
        }
    }

    #[test]
    fn a_write_over_many_pages_can_be_torn_and_have_holes() {
        let disk = after(vec![create("a"), Change::Sync { inode: 0, upto: 1 }, write(0, &[7; 5 * PAGE])]);
        let lengths = |kind| (0..100).map(|seed| left(&disk, kind, seed)["a"].clone()).collect::<Vec<_>>();
        assert!(lengths(Left::Torn).iter().any(|file| !file.is_empty() && file.len() < 5 * PAGE));
        assert!(lengths(Left::Torn).iter().all(|file| file.len().is_multiple_of(SECTOR)));
        assert!(lengths(Left::Pages).iter().any(|file| file.contains(&0) && file.contains(&7)));
    }
}
