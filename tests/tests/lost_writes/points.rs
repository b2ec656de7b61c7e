//! One run of a coordinator, and a loss of power at many moments of it: whatever it had told by then holds.

use std::fmt;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tempfile::TempDir;
use unanimous_tests::{
    binaries::{clone_folder, stand_for_the_original},
    coordinator::Coordinator,
    participant::{Act, Call, Participant},
    process::Setup,
    wait,
};

use crate::{
    disk::{Disk, Left},
    seed, setting,
    told::{Word, Words, contradictions, run_of},
    trace::{Change, Record},
    watched::{Fault, Watched},
};

/// A coordinator, two participants, and what was told, of one life of it.
struct Life {
    coordinator: Coordinator,
    participants: [Participant; 2],
    words: Words,
}

impl Life {
    async fn start(home: TempDir, watched: &Watched) -> Self {
        let words = Words::new(watched.trace());
        let participants = [participant(&words), participant(&words)];
        let mut coordinator = Coordinator::spawn_in(home, watched.setup());
        coordinator.ready().await;
        words.heard(Word::Epoch(coordinator.api.who().await));
        Self { coordinator, participants, words }
    }

    /// Four clients, so many transactions each.
    async fn work(&self, each: usize) {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (api, words) = (self.coordinator.api.clone(), self.words.clone());
                let urls = [self.participants[0].url(), self.participants[1].url()];
                tokio::spawn(async move {
                    for number in 0..each {
                        // One in four is refused.
                        let body = run_of(&urls, &json!({ "refuse": number % 4 == 3 }));
                        let whole = if number % 2 == 0 {
                            let key = format!("{client}-{number}-{:x}", rand::random::<u64>());
                            let answer = api.post_with("/v1/transactions", &[("idempotency-key", &key)], &body).await;
                            let whole = whole(answer.body);
                            let id = whole["id"].as_str().expect("a transaction has an id").to_owned();
                            words.heard(Word::Key { key, body, id });
                            whole
                        } else {
                            let id = api.begin(&json!({ "branches": body["branches"] })).await;
                            whole(api.commit(&id).await.body)
                        };
                        words.heard_transaction(&whole);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.expect("a client ends well");
        }
    }
}

/// The transaction in an answer.
fn whole(answer: Value) -> Value {
    if answer["transaction"].is_object() { answer["transaction"].clone() } else { answer }
}

/// One that notes what it is told.
fn participant(words: &Words) -> Participant {
    let words = words.clone();
    Participant::scripted(move |received| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = received.transaction().to_owned();
        words.heard(Word::Horizon(text(&received.body["coordinator"]["horizon"])));
        let decision = match received.call {
            Call::Prepare if received.body["payload"]["refuse"] == true => return Act::Refuse("it was asked to"),
            Call::Prepare => return Act::Obey,
            Call::Commit => unanimous_tests::history::Told::Committed,
            Call::Abort => unanimous_tests::history::Told::Aborted,
        };
        words.heard(Word::Decision { id, decision, sequence: None });
        Act::Obey
    })
}

/// A moment at which power is lost, and what is left.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// How much of the trace was written.
    cut: u64,
    left: Left,
    seed: u64,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "power is lost at {} of the trace, {:?} is left", self.cut, self.left)
    }
}

/// Starts a coordinator on what a loss of power has left, and holds it against what had been told.
async fn after(loss: Loss, disk: &Disk, words: &[Word]) -> Vec<String> {
    let home = tempfile::tempdir().expect("a folder can be made");
    let data = home.path().join("data");
    disk.leave(loss.left, &mut StdRng::seed_from_u64(loss.seed), &data);
    stand_for_the_original(&data);
    let mut coordinator = Coordinator::spawn_in(home, Setup::default());
    let started = wait::until("the coordinator serves, or has ended", async || {
        if coordinator.process.poll().is_some() {
            return Some(false);
        }
        let ready = coordinator.api.try_get("/readyz").await.is_ok_and(|answer| answer.status == 200);
        ready.then_some(true)
    })
    .await;
    if started {
        contradictions(&coordinator.api, words).await
    } else {
        vec![format!("no start: {}", coordinator.log())]
    }
}

/// Loses power at these moments, in their order, and says what is contradicted at each.
async fn lose_power_at(losses: &[Loss], mut disk: Disk, records: &[Record], words: &Words) -> Vec<(Loss, Vec<String>)> {
    let mut records = records.iter().peekable();
    let mut found = vec![];
    for loss in losses {
        while let Some(record) = records.next_if(|record| record.end <= loss.cut) {
            disk.apply(record);
        }
        let words = words.before(loss.cut);
        println!("{loss}: {} answers must hold", words.len());
        found.push((*loss, after(*loss, &disk, &words).await));
    }
    found
}

/// Whether it is a write of the mark, which says how far the log must reach.
fn is_mark(change: &Change) -> bool {
    matches!(change, Change::Write { data, .. } if data.starts_with(b"unmark"))
}

/// Whether anything was promised by it: a sync, or the mark.
fn promises(change: &Change) -> bool {
    matches!(change, Change::Sync { .. }) || is_mark(change)
}

/// Just after the first marks are on disk: what they promise is least then, and a start that promised too much shows.
fn first_marks(records: &[Record]) -> impl Iterator<Item = u64> {
    let marks = records.iter().enumerate().filter(|(_, record)| is_mark(&record.change)).take(3);
    let synced = |(at, _)| records[at..].iter().find(|record| matches!(record.change, Change::Sync { .. }));
    marks.filter_map(synced).map(|record| record.end)
}

/// Moments of this trace, in order, the last of them its end. Half of them are those just after a promise.
fn moments(count: u64, records: &[Record], random: &mut StdRng) -> Vec<Loss> {
    let promised: Vec<u64> =
        records.iter().filter(|record| promises(&record.change)).map(|record| record.end).collect();
    let mut cuts: Vec<_> = (1..count)
        .map(|number| {
            let after_promise = promised.choose(random).copied().filter(|_| number % 2 == 0);
            after_promise.unwrap_or_else(|| records.choose(random).expect("something happened").end)
        })
        .collect();
    cuts.push(records.last().expect("something happened").end);
    let left = |random: &mut StdRng| *Left::ALL.choose(random).expect("there are some");
    let mut losses: Vec<_> =
        cuts.into_iter().map(|cut| Loss { cut, left: left(random), seed: random.random() }).collect();
    losses.extend(first_marks(records).map(|cut| Loss { cut, left: Left::Nothing, seed: 0 }));
    losses.sort_by_key(|loss| loss.cut);
    losses
}

fn assert_none(found: Vec<(Loss, Vec<String>)>) {
    for (loss, contradictions) in found {
        assert!(contradictions.is_empty(), "{loss}:\n{}", contradictions.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn no_answer_is_contradicted_by_a_loss_of_power_at_any_moment() {
    let mut random = StdRng::seed_from_u64(seed("no_answer_is_contradicted"));
    let points = setting("UNANIMOUS_POINTS").unwrap_or(30);
    // From an empty folder on.
    let home = tempfile::tempdir().expect("a folder can be made");
    let watched = Watched::new(&home.path().join("data"));
    let mut life = Life::start(home, &watched).await;
    life.work(20).await;
    life.coordinator.kill();
    life.participants.iter_mut().for_each(Participant::down);
    let (disk, records) = watched.records();
    assert_none(lose_power_at(&moments(points, &records, &mut random), disk, &records, &life.words).await);

    // And while it starts on what is there, works a little, and ends.
    let home = tempfile::tempdir().expect("a folder can be made");
    clone_folder(&life.coordinator.data(), &home.path().join("data"));
    let watched = Watched::new(&home.path().join("data"));
    let mut again = Life::start(home, &watched).await;
    let before = life.words.before(u64::MAX);
    again.work(4).await;
    let _ = again.coordinator.stop().await;
    again.participants.iter_mut().for_each(Participant::down);
    again.words.held_before(before);
    let (disk, records) = watched.records();
    assert_none(lose_power_at(&moments(points / 2, &records, &mut random), disk, &records, &again.words).await);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn a_disk_that_lies_about_its_syncs_is_found_out() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let watched = Watched::new(&home.path().join("data"));
    let mut life = Life::start(home, &watched).await;
    life.work(4).await;
    watched.has(Fault::SyncsLie);
    life.work(4).await;
    life.coordinator.kill();
    life.participants.iter_mut().for_each(Participant::down);
    let (disk, records) = watched.records();
    let cut = records.last().expect("something happened").end;
    // If nothing is dropped, the lie does no harm, and nothing is found: it is the dropping that finds it.
    let losses = [Left::Everything, Left::Nothing].map(|left| Loss { cut, left, seed: 0 });
    let found = lose_power_at(&losses, disk, &records, &life.words).await;
    assert!(found[0].1.is_empty(), "nothing was lost, and yet: {:#?}", found[0].1);
    let contradictions = &found[1].1;
    let told = |what: &str| contradictions.iter().any(|found| found.contains(what));
    assert!(told("ToldIsFinal"), "decisions were lost, and nobody has noticed: {contradictions:#?}");
    assert!(told("in the order of outcomes"), "{contradictions:#?}");
    assert!(told("key "), "{contradictions:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn the_library_sees_every_change() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let watched = Watched::new(&home.path().join("data"));
    let mut life = Life::start(home, &watched).await;
    life.work(5).await;
    let _ = life.coordinator.stop().await;
    let (mut disk, records) = watched.records();
    for record in &records {
        disk.apply(record);
    }
    let copy = tempfile::tempdir().expect("a folder can be made");
    disk.leave(Left::Everything, &mut StdRng::seed_from_u64(0), copy.path());
    crate::disk::assert_same(&life.coordinator.data(), copy.path());
}
