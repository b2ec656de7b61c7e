//! Random histories: any order, repeats, lost power. What was told must hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What the outside has been told of a branch.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools)]
struct Told {
    voted: bool,
    committed: bool,
    aborted: bool,
    /// Told a vote to abort after one to commit. (The other way round a crash may have lost the refusal: that is safe.)
    contradicted: bool,
    epoch: u8,
}

#[derive(Clone, Debug)]
enum Move {
    Event(Event),
    Crash(usize),
    Sync,
}

/// The decision of each transaction is fixed, as the coordinator's is; 1 and 2 commit if they are voted for, 3 aborts.
fn decision(n: u8) -> Call {
    if n == 3 { Call::Abort } else { Call::Commit }
}

fn any_move() -> impl Strategy<Value = Move> {
    let n = 1..=3u8;
    let call = prop_oneof![
        3 => (any::<bool>(), 1..=2u8).prop_map(|(late, of)| Call::Prepare { payload: payload(of), late: late && of == 2 }),
        1 => Just(prepare(None)),
        1 => Just(Call::Open),
    ];
    let act = prop_oneof![
        3 => Just(worked(Vote::Prepared)),
        1 => Just(worked(Vote::ReadOnly)),
        1 => Just(Act::Worked(Err("no".to_owned()))),
        1 => Just(Act::Failed),
        1 => Just(Act::Hold(Vote::Prepared)),
        2 => Just(Act::Vote(Vote::Prepared)),
        1 => Just(Act::GiveUp("late")),
        4 => Just(Act::Effected),
    ];
    prop_oneof![
        6 => (n.clone(), 1..=3u8, call).prop_map(|(n, e, call)| Move::Event(told_under(coordinator(e, TransactionId::NIL), n, call))),
        6 => (n.clone(), act).prop_map(|(n, act)| Move::Event(own(n, act))),
        4 => (n.clone(), 1..=3u8).prop_map(|(n, e)| Move::Event(told_under(coordinator(e, TransactionId::NIL), n, decision(n)))),
        2 => (n, 1..=3u8).prop_map(|(n, asked)| {
            let decision = if n == 3 { Decision::Abort } else { Decision::Commit };
            Move::Event(learned(n, asked, decision))
        }),
        2 => (0..4usize).prop_map(Move::Crash),
        1 => Just(Move::Sync),
    ]
}

/// As [`World`], but syncs only when it is said to, and delivers answers only when what they wait for is synced.
struct Slow {
    book: Book,
    disk: Saved,
    unsynced: Vec<(Lsn, Vec<Record>)>,
    synced: Lsn,
    waiting: Vec<(u8, u8, Lsn, Result<Reply, Refusal>)>,
    told: BTreeMap<u8, Told>,
}

impl Slow {
    fn deliver(&mut self) {
        let synced = self.synced;
        let (ready, waiting): (Vec<_>, _) = self.waiting.drain(..).partition(|(_, _, after, _)| *after <= synced);
        self.waiting = waiting;
        for (n, under, _, answer) in ready {
            let told = self.told.entry(n).or_default();
            match answer {
                Ok(Reply::Voted(Vote::Prepared)) => told.voted = true,
                Ok(Reply::Committed) => told.committed = true,
                Ok(Reply::Aborted) | Err(Refusal::IsAborted { .. }) => told.aborted = true,
                Ok(Reply::Refused(_)) => told.contradicted |= told.voted && n != 3,
                _ => {}
            }
            told.epoch = told.epoch.max(under);
        }
    }

    fn sync(&mut self) {
        for (lsn, records) in self.unsynced.drain(..) {
            self.synced = lsn;
            for record in records {
                self.disk.apply(record);
            }
        }
        self.deliver();
    }

    fn crash(&mut self, kept: usize) {
        let kept = kept.min(self.unsynced.len());
        for (_, records) in self.unsynced.drain(..).take(kept) {
            for record in records {
                self.disk.apply(record);
            }
        }
        // Answers that had not left are lost.
        self.waiting.clear();
        self.synced = Lsn::default();
        self.book = Book::restore(self.disk.clone());
    }

    fn step(&mut self, event: &Event) {
        let (n, under) = match event {
            Event::Told { from, transaction: of, .. } => {
                ((1..=3).find(|n| transaction(*n) == *of).unwrap(), (1..=3).find(|e| epoch(*e) == from.epoch).unwrap())
            }
            Event::Learned { key: of, .. } | Event::Own { key: of, .. } => {
                ((1..=3).find(|n| key(*n) == *of).unwrap(), 0)
            }
            Event::Announced { .. } | Event::Superseded { .. } => return,
        };
        let step = self.book.step(event.clone());
        if let Some(lsn) = step.lsn {
            self.unsynced.push((lsn, step.records));
        }
        if let Err(Refusal::StaleEpoch { .. }) = step.answer {
            return;
        }
        self.waiting.push((n, under, step.after, step.answer));
        self.deliver();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_told_holds_whatever_is_lost_repeated_or_late(moves in prop::collection::vec(any_move(), 1..60)) {
        let mut slow = Slow {
            book: Book::restore(Saved::default()),
            disk: Saved::default(),
            unsynced: Vec::new(),
            synced: Lsn::default(),
            waiting: Vec::new(),
            told: BTreeMap::new(),
        };
        for one in moves {
            match one {
                Move::Event(event) => slow.step(&event),
                Move::Crash(kept) => slow.crash(kept),
                Move::Sync => slow.sync(),
            }
            let highest = slow.book.coordinator(key(1).coordinator).map(|known| known.epoch);
            for (n, told) in &slow.told {
                let state = slow.book.branch(&key(*n)).map(|branch| branch.state.clone());
                if told.voted {
                    // It is there, or ended as was decided.
                    let fits = match state.as_ref() {
                        Some(State::Prepared) => true,
                        Some(State::Committing | State::Committed) => *n != 3,
                        Some(State::Aborting(_) | State::Aborted(_)) => *n == 3,
                        _ => false,
                    };
                    prop_assert!(fits, "told prepared, now {state:?}");
                    prop_assert!(!told.contradicted, "told a vote to commit, then one to abort");
                }
                if told.committed && told.voted {
                    prop_assert_eq!(state, Some(State::Committed));
                }
                prop_assert!(!(told.committed && told.aborted && told.voted), "told committed and aborted");
                prop_assert!(told.epoch == 0 || highest >= Some(epoch(told.epoch)), "an epoch it answered under is forgotten");
            }
        }
    }
}
