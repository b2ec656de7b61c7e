//! Values of the log's tables that a disk, or another program, has changed: read as what they say, or refused; never a panic.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::story::story;
use crate::journal::{Entry, format, reads_as_written};

/// One damage.
#[derive(Clone, Debug)]
enum Damage {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = prop_oneof![
        // A length that is not to be believed.
        1 => Just(vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        1 => Just(vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        3 => prop::collection::vec(any::<u8>(), 1..12),
    ];
    prop_oneof![
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, to)| Damage::Set(at, to)),
        1 => any::<prop::sample::Index>().prop_map(Damage::Cut),
        2 => (any::<prop::sample::Index>(), bytes).prop_map(|(at, more)| Damage::Insert(at, more)),
    ]
}

fn damaged(mut value: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        match damage {
            Damage::Insert(at, more) => {
                let at = at.index(value.len() + 1);
                value.splice(at..at, more.iter().copied());
            }
            Damage::Set(..) | Damage::Cut(_) if value.is_empty() => {}
            Damage::Set(at, to) => {
                let at = at.index(value.len());
                value[at] = *to;
            }
            Damage::Cut(at) => value.truncate(at.index(value.len())),
        }
    }
    value
}

/// Every value that a story leaves in the log.
static VALUES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let value = |entry| match entry {
        Entry::Record { record, .. } => format::live_row(7, &record).ok(),
        Entry::Finished { transaction, .. } | Entry::Amended { transaction, .. } => {
            format::finished_row(&transaction).ok()
        }
        Entry::Checkpoint | Entry::HigherEpoch { .. } | Entry::Suspect { .. } | Entry::Trusted { .. } => None,
    };
    story(5).into_iter().filter_map(value).collect()
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_value_is_refused_or_read_and_never_a_panic(
        which in any::<prop::sample::Index>(),
        damages in prop::collection::vec(damage(), 0..4),
    ) {
        prop_assert_eq!(reads_as_written(&damaged(which.get(&VALUES).clone(), &damages)), Ok(()));
    }

    #[test]
    fn any_bytes_are_refused_or_read_and_never_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        prop_assert_eq!(reads_as_written(&bytes), Ok(()));
        for version in 1..=2 {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            prop_assert_eq!(reads_as_written(&bytes), Ok(()));
        }
    }
}
