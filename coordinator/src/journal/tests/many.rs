//! More unfinished transactions than are read as one part: they come back as they were, and a fault among them is found
//! whichever part it is in.

use std::path::Path;

use super::{
    rules::change,
    story::{Log, NOW, View, id, story},
};
use crate::journal::{
    Entry, Error,
    encoding::{self, Change, Table},
    format,
    recovery::Tables,
    rocks,
};

/// 4,000 transactions, all of them decided; so many that their records make several parts. Some hundred in the middle have
/// finished, so that the decisions of the others are apart.
fn entries() -> Vec<Entry> {
    let finishing = id(500)..id(800);
    let mut entries = story(4_000);
    entries.retain(|entry| match entry {
        Entry::Record { id, index, .. } => *index < 4 || finishing.contains(id),
        Entry::Finished { id, .. } => finishing.contains(id),
        Entry::Checkpoint | Entry::HigherEpoch { .. } | Entry::Suspect { .. } => true,
        Entry::Amended { .. } | Entry::Trusted { .. } => false,
    });
    entries.push(Entry::Checkpoint);
    entries
}

fn write(dir: &Path, entries: &[Entry]) {
    let log = Log::open(dir).unwrap();
    for (at, batch) in entries.chunks(500).enumerate() {
        log.append(at * 500 + 1, batch);
    }
    log.wait_written(entries.len());
}

#[test]
fn all_that_is_unfinished_comes_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let entries = entries();
    write(dir.path(), &entries);
    let log = Log::open(dir.path()).unwrap();
    assert!(log.view(7 * 4_000).unwrap() == View::of_entries(&entries));
    assert!(log.recovered.live.iter().is_sorted_by_key(|(id, _)| *id));
}

#[test]
fn of_two_missing_records_the_first_is_told() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &entries());
    let missing = |n| Change::Delete(Table::Live, encoding::live_key(id(n), 1));
    change(dir.path(), |_| vec![missing(3_000), missing(1_500)]);
    let error = rocks::open(dir.path(), NOW, rand::random).err().unwrap();
    assert!(matches!(error, Error::Transaction { id: of, .. } if of == id(1_500)), "{error}");
}

#[test]
fn a_decision_that_the_forced_records_lack_is_refused_though_a_checkpoint_follows_it() {
    for n in [0, 495, 801, 2_000, 3_998] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &entries());
        change(dir.path(), |database| {
            let value = database.get(Table::Live, &encoding::live_key(id(n), 3)).unwrap().unwrap();
            let number: u64 = format::number_of_live_row(&value).unwrap();
            assert!(number > 0);
            vec![Change::Delete(Table::Outcomes, encoding::outcome_key(number))]
        });
        let error = rocks::open(dir.path(), NOW, rand::random).err().unwrap();
        assert!(matches!(error, Error::Transaction { id: of, .. } if of == id(n)), "{n}: {error}");
    }
}
