//! A disk that runs full under the log: new work is refused, what is under way is carried through, nothing that was told
//! is contradicted, and new work is taken again as soon as there is room.
//!
//! Always true: the disk is a small file system of the test's own.

mod disk;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use unanimous_tests::{
    api::{Answer, Api},
    coordinator::Coordinator,
    history::{Attempt, History, Told},
    participant::{Act, Call, Participant},
    wait,
};

use self::disk::on_each_disk;

fn branches(participant: &Participant) -> Value {
    json!([{ "participant": participant.url(), "branch": "a", "payload": { "work": 1 } }])
}

/// A begin that stays open as long as the test runs.
fn begin(participant: &Participant, metadata: &Value) -> Value {
    json!({ "branches": branches(participant), "timeout_ms": 3_600_000, "metadata": metadata })
}

/// Waits until new work is refused because the disk is full.
async fn refused(api: &Api) -> Answer {
    wait::until("new work is refused", async || refusal(api).await).await
}

/// What new work is answered, if it isn't taken.
async fn refusal(api: &Api) -> Option<Answer> {
    let answer = api.post("/v1/transactions", &json!({})).await;
    (answer.status != 201).then_some(answer)
}

fn assert_disk_full(answer: &Answer) {
    assert_eq!((answer.status, answer.problem()), (503, "disk-full"), "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
}

/// Waits until new work is taken, and does some.
async fn works_again(api: &Api, participant: &Participant) {
    wait::until_so("new work is taken again", async || api.post("/v1/transactions", &json!({})).await.status == 201)
        .await;
    let _ = api.run(&branches(participant)).await.expect(200);
}

/// What clients were told, to be held against what the coordinator shows in the end.
#[derive(Clone, Default)]
struct Tally(Arc<Mutex<Vec<Attempt>>>);

impl Tally {
    fn note(&self, transaction: &str, answer: Option<&Answer>) {
        let told = match answer.map(|answer| answer.status) {
            Some(200) => Told::Committed,
            Some(409) => Told::Aborted,
            _ => Told::Unknown,
        };
        let attempt = Attempt { transaction: transaction.to_owned(), moves: vec![], told: vec![told] };
        self.0.lock().unwrap().push(attempt);
    }

    fn committed(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|attempt| attempt.told == [Told::Committed]).count()
    }

    /// Everything has ended as it was told.
    async fn assert_kept(&self, api: &Api) {
        let mut history = History { attempts: self.0.lock().unwrap().clone(), ..History::default() };
        for attempt in &history.attempts {
            history.shown.insert(attempt.transaction.clone(), api.finished(&attempt.transaction).await);
        }
        history.assert_sound();
    }
}

/// Clients that commit one transaction after the other, whatever happens.
struct Clients {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(api: &Api, participant: &Participant, tally: &Tally) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = |_| {
            let (api, branches, tally, stop) = (api.clone(), branches(participant), tally.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let body = json!({ "branches": branches, "commit": true });
                while !stop.load(Ordering::Relaxed) {
                    match api.try_post("/v1/transactions", &body).await {
                        Ok(answer) if answer.status == 200 => tally.note(answer.text("id"), Some(&answer)),
                        Ok(answer) if answer.status != 503 => panic!("neither done nor refused: {answer:?}"),
                        Ok(_) | Err(_) => {}
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        };
        Self { tasks: (0..4).map(task).collect(), stop }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a client ends well");
        }
    }
}

#[test]
fn on_a_full_disk_new_work_is_refused_and_what_is_under_way_is_carried_through() {
    let name = "on_a_full_disk_new_work_is_refused_and_what_is_under_way_is_carried_through";
    on_each_disk(name, 100, async |disk| {
        let (participant, tally) = (Participant::start(), Tally::default());
        let mut coordinator = disk.with_coordinator().await;
        let api = coordinator.api.clone();
        let body = begin(&participant, &json!({}));
        let mut open = vec![];
        for _ in 0..40 {
            open.push(api.begin(&body).await);
        }
        let key = [("idempotency-key", "the-same")];
        let first = api.post_with("/v1/transactions", &key, &body).await.expect(201);
        let clients = Clients::start(&api, &participant, &tally);
        wait::until_so("clients have committed", async || tally.committed() >= 50).await;
        // What the log itself had no more use for may have come free behind the filler.
        let full = wait::until("new work is refused", async || {
            disk.fill();
            refusal(&api).await
        });
        assert_disk_full(&full.await);
        assert_eq!(api.metric("unanimous_disk_full").await, Some(1.0));

        let new = json!({ "participant": participant.url(), "branch": "b", "payload": {} });
        assert_disk_full(&api.enlist(&open[0], &new).await);
        let _ = api.enlist(&open[0], &branches(&participant)[0]).await.expect(200);
        let again = api.post_with("/v1/transactions", &key, &body).await.expect(201);
        assert_eq!(again.text("id"), first.text("id"), "a repeat has its answer");
        assert_eq!(api.who().await["id"].as_str().map(str::len), Some(36));
        for id in &open[..10] {
            tally.note(id, Some(&api.commit(id).await.expect(200)));
        }
        for id in &open[10..20] {
            let _ = api.abort(id).await.expect(200);
        }
        for id in &open[..20] {
            assert_eq!(api.finished(id).await["heuristic"], false, "it is acknowledged, too");
        }
        assert_eq!(api.inquire(&open[0], &api.who().await, "a").await.unwrap().body["decision"], "commit");
        assert_eq!(api.transaction(&open[20]).await["state"], "active");

        // Its end and its start change nothing of that.
        coordinator.kill();
        coordinator.restart().await;
        assert_disk_full(&refused(&api).await);
        for id in &open[20..] {
            assert_eq!(api.finished(id).await["state"], "aborted", "what wasn't decided is aborted");
        }
        disk.free();
        works_again(&api, &participant).await;
        assert_eq!(api.metric("unanimous_disk_full").await, Some(0.0));
        clients.end().await;
        tally.assert_kept(&api).await;
        participant.assert_respected();
        let log = coordinator.log();
        assert!(log.contains("the disk is full") && log.contains("there is room on the disk again"), "{log}");
    });
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_at_once_stops_nothing_that_is_under_way() {
    let name = "a_disk_that_is_full_to_the_last_byte_at_once_stops_nothing_that_is_under_way";
    on_each_disk(name, 100, async |disk| {
        let (participant, tally) = (Participant::start(), Tally::default());
        let mut coordinator = disk.with_coordinator().await;
        let api = coordinator.api.clone();
        let mut open = vec![];
        for _ in 0..100 {
            open.push(api.begin(&begin(&participant, &json!({}))).await);
        }
        coordinator.process.signal(Signal::SIGSTOP);
        disk.fill();
        let commits: Vec<_> = open.iter().map(|id| api.commit_in_background(id)).collect();
        coordinator.process.signal(Signal::SIGCONT);
        for (id, commit) in open.iter().zip(commits) {
            tally.note(id, Some(&commit.await.unwrap().unwrap().expect(200)));
        }
        assert_disk_full(&refused(&api).await);
        disk.free();
        works_again(&api, &participant).await;
        tally.assert_kept(&api).await;
        participant.assert_respected();
    });
}

#[test]
fn with_no_room_left_at_all_the_process_ends_with_a_message_and_keeps_what_it_told() {
    let name = "with_no_room_left_at_all_the_process_ends_with_a_message_and_keeps_what_it_told";
    on_each_disk(name, 100, async |disk| {
        let (participant, tally) = (Participant::start(), Tally::default());
        let mut coordinator = disk.with_coordinator().await;
        let api = coordinator.api.clone();
        // Decisions that, all together, are larger than what the log has allocated ahead.
        let metadata: Value = (0..16).map(|n| (n.to_string(), "x".repeat(1024))).collect();
        let body = begin(&participant, &metadata);
        let mut open = vec![];
        for _ in 0..600 {
            open.push(api.begin(&body).await);
        }
        // It ends here already if it is just then writing to a file what it held in memory.
        let process = &mut coordinator.process;
        wait::until_so("the reserve is given up", async || {
            disk.fill();
            disk.files("data", "RESERVE") == 0 || process.poll().is_some()
        })
        .await;
        // Somebody takes that, too.
        disk.fill();
        for ids in open.chunks(50) {
            let commits: Vec<_> = ids.iter().map(|id| api.commit_in_background(id)).collect();
            for (id, commit) in ids.iter().zip(commits) {
                tally.note(id, commit.await.unwrap().ok().as_ref());
            }
        }
        let _ = coordinator.process.ended().await;
        ended_for_want_of_room(&coordinator.log());

        coordinator.spawn_again(None);
        let ended = wait::until("it is ready or has ended", async || {
            let ready = api.try_get("/readyz").await.is_ok_and(|answer| answer.status == 200);
            coordinator.process.poll().map(Some).or(ready.then_some(None))
        })
        .await;
        match ended {
            Some(status) => assert!(!status.success()),
            None => coordinator.kill(),
        }
        ended_for_want_of_room(&coordinator.log());
        disk.free();
        coordinator.restart().await;
        works_again(&api, &participant).await;
        tally.assert_kept(&api).await;
        participant.assert_respected();
    });
}

fn ended_for_want_of_room(log: &str) {
    let last = log.lines().last().unwrap_or_default();
    assert!(log.contains("No space left on device") && log.contains("start again"), "it says what to do: {last}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_disk_that_ran_full_behind_a_dead_coordinator_has_room_for_its_start() {
    let name = "a_disk_that_ran_full_behind_a_dead_coordinator_has_room_for_its_start";
    on_each_disk(name, 100, async |disk| {
        let (mut participant, tally) = (Participant::start(), Tally::default());
        let mut coordinator = disk.with_coordinator().await;
        let api = coordinator.api.clone();
        let open = api.begin(&begin(&participant, &json!({}))).await;
        let decided = api.begin(&begin(&participant, &json!({}))).await;
        participant.script(|received| if received.call == Call::Commit { Act::Hold } else { Act::Obey });
        tally.note(&decided, Some(&api.commit(&decided).await.expect(200)));
        coordinator.kill();
        participant.down();
        disk.fill();
        coordinator.restart().await;
        assert_disk_full(&refused(&api).await);
        participant.script(|_| Act::Obey);
        participant.up();
        tally.assert_kept(&api).await;
        assert_eq!(api.finished(&open).await["state"], "aborted");
        disk.free();
        works_again(&api, &participant).await;
        participant.assert_respected();
    });
}

#[test]
fn no_log_is_begun_where_there_is_no_room() {
    on_each_disk("no_log_is_begun_where_there_is_no_room", 64, async |disk| {
        let participant = Participant::start();
        let mut coordinator = Coordinator::start().await;
        disk.take(&mut coordinator);
        disk.fill();
        coordinator.spawn_again(None);
        assert_eq!(coordinator.process.ended().await.code(), Some(1));
        let log = coordinator.log();
        assert!(log.contains("No space left on device") && !log.contains("panicked"), "{log}");
        disk.free();
        coordinator.restart().await;
        works_again(&coordinator.api, &participant).await;
    });
}

#[test]
fn a_small_disk_is_not_full_of_what_the_log_itself_allocates() {
    on_each_disk("a_small_disk_is_not_full_of_what_the_log_itself_allocates", 64, async |disk| {
        let participant = Participant::start();
        let mut coordinator = disk.with_coordinator().await;
        let api = coordinator.api.clone();
        let metadata: Value = (0..16).map(|n| (n.to_string(), "x".repeat(1024))).collect();
        let body = json!({ "branches": branches(&participant), "metadata": metadata, "commit": true });
        for rounds in [40, 4, 4] {
            // Several times what the log may hold in memory, and in one file of what is written ahead.
            for _ in 0..rounds {
                let call = |_| {
                    let (api, body) = (api.clone(), body.clone());
                    tokio::spawn(async move { api.post("/v1/transactions", &body).await })
                };
                for call in (0..25).map(call).collect::<Vec<_>>() {
                    let _ = call.await.unwrap().expect(200);
                }
            }
            coordinator.kill();
            coordinator.restart().await;
        }
        assert!(!coordinator.log().contains("the disk is full"));
        assert_eq!(disk.files("data", "RESERVE"), 1);
    });
}
