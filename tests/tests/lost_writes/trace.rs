//! What the preloaded library (`lost_writes.c`) has noted, read.
//!
//! Always true: records are in the order in which the kernel made the changes. A last record that is not whole is none: who
//! made that change was killed before it could learn of it.

/// A record, and where in the trace it begins and ends, in bytes.
#[derive(Debug)]
pub struct Record {
    pub at: u64,
    pub end: u64,
    pub change: Change,
}

/// Paths are below the folder that is watched.
#[derive(Debug)]
pub enum Change {
    Create {
        inode: u64,
        path: String,
    },
    Write {
        inode: u64,
        offset: usize,
        data: Vec<u8>,
    },
    Size {
        inode: u64,
        size: usize,
    },
    /// The disk has said that it has all of it that was in the trace up to this place.
    Sync {
        inode: u64,
        upto: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        path: String,
    },
    MakeFolder {
        inode: u64,
        path: String,
    },
    Link {
        from: String,
        to: String,
    },
}

const HEAD: usize = 32;

/// All whole records.
pub fn read(trace: &[u8]) -> Vec<Record> {
    let mut records = vec![];
    let mut at = 0;
    while let Some((change, end)) = record(trace, at) {
        records.push(Record { at: at as u64, end: end as u64, change });
        at = end;
    }
    records
}

fn record(trace: &[u8], at: usize) -> Option<(Change, usize)> {
    let head = trace.get(at..at + HEAD)?;
    let four = |at: usize| head[at..at + 4].try_into().map(u32::from_ne_bytes).expect("four bytes are four");
    let eight = |at: usize| head[at..at + 8].try_into().map(u64::from_ne_bytes).expect("eight bytes are eight");
    let (kind, first, second, inode, number) = (four(0), four(4) as usize, four(8) as usize, eight(16), eight(24));
    let middle = at + HEAD + first;
    let end = middle + second;
    let (first, second) = (trace.get(at + HEAD..middle)?, trace.get(middle..end)?);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("our paths are text");
    let place = usize::try_from(number).expect("a place in a file fits");
    let change = match kind {
        1 => Change::Create { inode, path: text(first) },
        2 => Change::Write { inode, offset: place, data: first.to_vec() },
        3 => Change::Size { inode, size: place },
        4 => Change::Sync { inode, upto: number },
        5 => Change::Rename { from: text(first), to: text(second) },
        6 | 8 => Change::Remove { path: text(first) },
        7 => Change::MakeFolder { inode, path: text(first) },
        9 => Change::Link { from: text(first), to: text(second) },
        other => panic!("a record of kind {other} at {at} in the trace"),
    };
    Some((change, end))
}
