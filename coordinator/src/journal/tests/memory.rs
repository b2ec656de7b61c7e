//! The log in memory keeps the same contract, at every loss.

use proptest::prelude::*;

use super::story::{NOW, View, coordinator, story};
use crate::journal::{Entry, Journal, Lsn, Memory, Progress, Recovered, memory::Loss};

/// What may happen next.
#[derive(Clone, Debug)]
enum Act {
    Append(usize),
    WriteOne,
    WriteAll,
    Sync,
    Pump,
    Kill,
    CutWhole,
    CutTail(usize),
    Close,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1..6usize).prop_map(Act::Append),
        3 => Just(Act::WriteOne),
        2 => Just(Act::WriteAll),
        2 => Just(Act::Sync),
        2 => Just(Act::Pump),
        1 => Just(Act::Kill),
        1 => Just(Act::CutWhole),
        2 => (0..8usize).prop_map(Act::CutTail),
        1 => Just(Act::Close),
    ]
}

/// A log in memory, and what is known of it: the entries it holds as long as nothing is lost.
struct Run {
    memory: Memory,
    recovered: Recovered,
    /// Of the story, by this process and those before it.
    held: Vec<Entry>,
    /// How many of `held` earlier processes wrote.
    before: usize,
    progress: Progress,
}

impl Run {
    fn new() -> Self {
        let (memory, recovered) = Memory::create(coordinator(), NOW, 1).unwrap();
        Self { memory, recovered, held: Vec::new(), before: 0, progress: Progress::default() }
    }

    fn append(&mut self, story: &[Entry], count: usize) {
        let entries = story[self.held.len()..].iter().take(count).cloned().collect::<Vec<_>>();
        let first = self.held.len() - self.before + 1;
        self.held.extend(entries.iter().cloned());
        self.memory.append(Lsn(first as u64), entries);
    }

    fn at(&self, lsn: Lsn) -> usize {
        self.before + usize::try_from(lsn.0).unwrap()
    }

    /// The next process's log must hold just the first `kept` entries.
    fn reopened(&mut self, (memory, recovered): (Memory, Recovered), kept: usize) {
        self.held.truncate(kept);
        assert_eq!(View::of_log(&memory, &recovered, 400).unwrap(), View::of_entries(&self.held));
        assert!(recovered.epoch > self.recovered.epoch);
        assert!(recovered.epochs.is_superset(&self.recovered.epochs));
        *self = Self {
            memory,
            recovered,
            held: std::mem::take(&mut self.held),
            before: kept,
            progress: Progress::default(),
        };
    }

    fn act(&mut self, act: &Act, story: &[Entry]) {
        let durable = self.at(self.progress.durable);
        match act {
            Act::Append(count) => self.append(story, *count),
            Act::WriteOne => self.progress = self.memory.write_one().unwrap(),
            Act::WriteAll => self.progress = self.memory.write_all().unwrap(),
            Act::Sync => self.progress = self.memory.sync(),
            Act::Pump => {
                let waiting = self.held.len() - self.memory.waiting();
                let forced = self.held[durable..].iter().any(Entry::is_forced);
                self.progress = self.memory.pump().unwrap();
                assert!(waiting <= self.held.len() && self.at(self.progress.written) == self.held.len());
                assert!(!forced || self.progress.durable == self.progress.written, "a forced entry is synced");
            }
            Act::Kill => {
                let kept = self.at(self.progress.written);
                self.reopened(self.memory.kill(NOW, 2).unwrap(), kept);
            }
            Act::CutWhole => self.reopened(self.memory.power_cut(Loss::Whole, NOW, 3).unwrap(), durable),
            Act::CutTail(most) => {
                let kept = durable + self.memory.unsynced().min(*most);
                self.reopened(self.memory.power_cut(Loss::Tail(*most), NOW, 4).unwrap(), kept);
            }
            Act::Close => {
                self.memory.close().unwrap();
                self.reopened(self.memory.power_cut(Loss::Whole, NOW, 5).unwrap(), self.held.len());
            }
        }
        assert!(self.progress.durable <= self.progress.written);
        assert!(self.at(self.progress.durable) >= durable.min(self.held.len()), "durable never goes back");
    }
}

proptest! {
    #[test]
    fn what_is_reported_durable_survives_every_loss_and_what_survives_is_a_beginning(acts in prop::collection::vec(act(), 1..60)) {
        let story = story(50);
        let mut run = Run::new();
        for act in &acts {
            run.act(act, &story);
        }
    }
}

#[test]
fn a_kill_takes_what_was_appended_and_not_written() {
    let story = story(1);
    let mut run = Run::new();
    run.append(&story, 5);
    run.progress = run.memory.write_one().unwrap();
    assert_eq!(run.progress, Progress { written: Lsn(1), durable: Lsn(0) });
    run.reopened(run.memory.kill(NOW, 9).unwrap(), 1);
}

#[test]
fn a_power_cut_takes_what_was_written_and_not_synced_in_whole_or_from_the_tail() {
    let story = story(1);
    for (loss, kept) in [(Loss::Whole, 2), (Loss::Tail(0), 2), (Loss::Tail(2), 4), (Loss::Tail(9), 5)] {
        let mut run = Run::new();
        run.append(&story, 2);
        run.memory.write_all().unwrap();
        assert_eq!(run.memory.sync(), Progress { written: Lsn(2), durable: Lsn(2) });
        run.append(&story, 3);
        run.memory.write_all().unwrap();
        run.reopened(run.memory.power_cut(loss, NOW, 9).unwrap(), kept);
    }
}

#[test]
fn a_log_whose_process_is_gone_takes_nothing() {
    let story = story(1);
    let mut run = Run::new();
    run.append(&story, 2);
    let (next, _) = run.memory.kill(NOW, 9).unwrap();
    run.append(&story, 2);
    assert!(run.memory.write_all().is_err());
    assert_eq!(run.memory.sync(), Progress::default());
    assert_eq!(next.unsynced(), 0);
}
