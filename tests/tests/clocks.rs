//! A wall clock that is wrong, at a start or for a moment: nothing is lost by it, and nobody is shut out.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use unanimous_tests::{coordinator::Coordinator, participant::Participant, process::Setup, wait};

const DAY: i64 = 86_400;
const HOUR_MS: u64 = 3_600_000;

/// A wall clock that can be set, for the processes of one coordinator.
struct WallClock {
    file: File,
    path: PathBuf,
    _home: TempDir,
}

impl WallClock {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("clock");
        let file = File::create_new(&path).unwrap();
        let clock = Self { file, path, _home: home };
        clock.set(0);
        clock
    }

    /// By how many seconds it is ahead from now on.
    fn set(&self, ahead: i64) {
        self.file.write_all_at(&ahead.to_ne_bytes(), 0).unwrap();
    }

    fn environment(&self) -> Vec<(String, String)> {
        let library = option_env!("WALL_CLOCK_LIBRARY").unwrap_or_default();
        vec![
            ("LD_PRELOAD".to_owned(), library.to_owned()),
            ("WALL_CLOCK".to_owned(), self.path.to_str().unwrap().to_owned()),
        ]
    }
}

async fn start(clock: &WallClock, flags: &[&str]) -> Coordinator {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let setup = Setup { flags, environment: clock.environment() };
    let mut coordinator = Coordinator::spawn_in(tempfile::tempdir().unwrap(), setup);
    coordinator.ready().await;
    coordinator
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The time in an id or epoch.
fn id_ms(id: &Value) -> u64 {
    let text = id.as_str().unwrap().replace('-', "");
    u64::from_str_radix(&text[..12], 16).unwrap()
}

fn body(participant: &Participant) -> Value {
    json!({ "commit": true, "respond": "finished", "branches": [{ "participant": participant.url(), "payload": {} }] })
}

/// Commits, under this key.
async fn commit(coordinator: &Coordinator, participant: &Participant, key: &str) -> Value {
    let answer = coordinator.api.post_with("/v1/transactions", &[("idempotency-key", key)], &body(participant)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

async fn is_there(coordinator: &Coordinator, transaction: &Value) -> bool {
    let id = transaction["id"].as_str().unwrap();
    coordinator.api.get(&format!("/v1/transactions/{id}")).await.status == 200
}

async fn retained_since(coordinator: &Coordinator) -> String {
    let unknown = coordinator.api.get("/v1/transactions/01890000-0000-7000-8000-000000000000").await;
    unknown.text("retained_since").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn start_under_a_clock_ahead_keeps_history_and_keys() {
    let (clock, participant) = (WallClock::new(), Participant::start());
    let mut coordinator = start(&clock, &["--retain", "7d"]).await;
    let since = retained_since(&coordinator).await;
    let first = commit(&coordinator, &participant, "order-1").await;
    for ahead in [30 * DAY, 3_650 * DAY, -30 * DAY] {
        assert!(coordinator.stop().await.success());
        clock.set(ahead);
        coordinator.restart().await;
        wait::until_so("the clock is doubted", async || {
            coordinator.api.metric("unanimous_clock_implausible").await == Some(1.0)
        })
        .await;
        assert!(is_there(&coordinator, &first).await);
        assert!(coordinator.log().contains("WARN the wall clock has jumped"), "{}", coordinator.log());
    }
    assert!(coordinator.stop().await.success());
    clock.set(0);
    coordinator.restart().await;
    wait::until_so("the clock is believed", async || {
        coordinator.api.metric("unanimous_clock_implausible").await == Some(0.0)
    })
    .await;
    assert!(is_there(&coordinator, &first).await);
    assert_eq!(retained_since(&coordinator).await, since, "nothing was dropped");
    let again = commit(&coordinator, &participant, "order-1").await;
    assert_eq!(again["id"], first["id"], "the order ran once");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn jump_in_a_running_process_is_warned_of_until_it_is_over() {
    let (clock, participant) = (WallClock::new(), Participant::start());
    let coordinator = start(&clock, &["--retain", "1h"]).await;
    let first = commit(&coordinator, &participant, "order-1").await;
    for ahead in [365 * DAY, -365 * DAY] {
        clock.set(ahead);
        wait::until_so("the clock is doubted", async || {
            coordinator.api.metric("unanimous_clock_implausible").await == Some(1.0)
        })
        .await;
        assert!(is_there(&coordinator, &first).await);
        clock.set(0);
        wait::until_so("the clock is believed", async || {
            coordinator.api.metric("unanimous_clock_implausible").await == Some(0.0)
        })
        .await;
    }
    assert!(is_there(&coordinator, &first).await);
    assert!(coordinator.log().contains("WARN the wall clock has jumped"), "{}", coordinator.log());
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn shown_times_are_the_clock_s_after_it_was_ahead_once() {
    let (clock, participant) = (WallClock::new(), Participant::start());
    let mut coordinator = start(&clock, &[]).await;
    let before = commit(&coordinator, &participant, "before").await;
    coordinator.stop().await;
    clock.set(400 * DAY);
    coordinator.restart().await;
    let ahead = commit(&coordinator, &participant, "ahead").await;
    coordinator.stop().await;
    clock.set(0);
    coordinator.restart().await;
    let after = commit(&coordinator, &participant, "after").await;
    let year = |transaction: &Value, name: &str| transaction[name].as_str().unwrap()[..7].to_owned();
    for name in ["created_at", "deadline", "decided_at", "finished_at"] {
        assert_eq!(year(&before, name), year(&after, name), "{name}: {after}");
        assert_ne!(year(&before, name), year(&ahead, name), "{name}: {ahead}");
    }
    // Lists are in the order of begin, and their times are the shown ones.
    let list = async |query: &str| {
        let page = coordinator.api.get(&format!("/v1/transactions{query}")).await;
        let ids = page.body["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect::<Vec<_>>();
        (ids, page.body["next_cursor"].clone())
    };
    let id = |transaction: &Value| transaction["id"].clone();
    assert_eq!(list("").await.0, [id(&after), id(&ahead), id(&before)]);
    let (since, until) = (ahead["created_at"].as_str().unwrap(), after["created_at"].as_str().unwrap());
    assert_eq!(list(&format!("?since={since}")).await, (vec![id(&ahead)], Value::Null));
    assert_eq!(list(&format!("?until={since}")).await, (vec![id(&after), id(&before)], Value::Null));
    assert_eq!(list(&format!("?until={until}")).await, (vec![id(&before)], Value::Null));
    assert_eq!(list(&format!("?since={until}")).await, (vec![id(&after), id(&ahead)], Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn clock_ahead_once_stops_no_retention() {
    let (clock, participant) = (WallClock::new(), Participant::start());
    let mut coordinator = start(&clock, &["--retain", "2s"]).await;
    commit(&coordinator, &participant, "before").await;
    coordinator.stop().await;
    clock.set(400 * DAY);
    coordinator.restart().await;
    commit(&coordinator, &participant, "ahead").await;
    coordinator.stop().await;
    clock.set(0);
    coordinator.restart().await;
    let later = commit(&coordinator, &participant, "later").await;
    wait::until_so("what has finished is dropped", async || !is_there(&coordinator, &later).await).await;
    let again = commit(&coordinator, &participant, "later").await;
    assert_ne!(again["id"], later["id"], "its key has gone with it");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn clock_ahead_at_many_starts_makes_no_epoch_that_is_refused() {
    let (clock, participant) = (WallClock::new(), Participant::start());
    let mut coordinator = start(&clock, &[]).await;
    commit(&coordinator, &participant, "before").await;
    coordinator.stop().await;
    clock.set(30 * DAY);
    for _ in 0..5 {
        coordinator.restart().await;
        let begun = commit(&coordinator, &participant, "ahead").await;
        assert!(id_ms(&begun["id"]) <= now_ms() + HOUR_MS, "{begun}");
        coordinator.kill();
    }
    clock.set(0);
    coordinator.restart().await;
    let who = coordinator.api.who().await;
    assert!(id_ms(&who["epoch"]) <= now_ms() + HOUR_MS, "{who}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(has_cc), ignore = "there is no cc")]
async fn accepted_clock_is_followed_and_warned_of_at_each_start() {
    let (clock, participant) = (WallClock::new(), Participant::start());
    let mut coordinator = start(&clock, &[]).await;
    let first = commit(&coordinator, &participant, "before").await;
    coordinator.stop().await;
    clock.set(30 * DAY);
    for starts in 1..3 {
        coordinator.restart_with(&["--accept-clock"]).await;
        assert_eq!(coordinator.log().matches("WARN --accept-clock").count(), starts);
        let who = coordinator.api.who().await;
        assert!(id_ms(&who["epoch"]) > now_ms() + 29 * 24 * HOUR_MS, "{who}");
        coordinator.kill();
    }
    coordinator.restart().await;
    // What was kept before the clock was accepted is old by it.
    wait::until_so("it is dropped", async || !is_there(&coordinator, &first).await).await;
}
