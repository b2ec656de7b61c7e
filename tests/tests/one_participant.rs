//! One participant's word, silence or loss of data must not stop or harm the others: P-4.18, P-4.19, P-4.31, P-4.32.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use unanimous_tests::{
    coordinator::Coordinator,
    participant::{Act, Call, Participant},
    process::Setup,
    server::free_port,
    wait,
};

async fn coordinator(flags: &[&str]) -> Coordinator {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let home = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::spawn_in(home, Setup { flags, ..Setup::default() });
    coordinator.ready().await;
    coordinator
}

fn branches(participant: &Participant) -> Value {
    json!([{ "participant": participant.url(), "branch": "a", "payload": {} }])
}

/// An epoch so many milliseconds ahead of the clock.
fn epoch_ahead(ms: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let at = u64::try_from(now).unwrap() + ms;
    uuid::Uuid::from_u128((u128::from(at) << 80) | (0x7 << 76) | (0x2 << 62)).to_string()
}

/// A participant that demands an epoch above this one.
fn demanding(epoch: &str) -> Participant {
    let epoch = epoch.to_owned();
    Participant::scripted(move |received| {
        let coordinator = &received.body["coordinator"];
        if coordinator["epoch"].as_str().unwrap() > epoch.as_str() {
            return Act::Obey;
        }
        let problem =
            json!({ "type": "/problems/stale-epoch", "status": 412, "epoch": epoch, "coordinator": coordinator["id"] });
        Act::Say(412, problem)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_412_stops_only_its_participant_until_the_next_start() {
    let mut coordinator = coordinator(&[]).await;
    let (fooled, sound) = (demanding(&epoch_ahead(600_000)), Participant::start());
    let begun = coordinator.api.begin(&json!({ "branches": branches(&fooled), "timeout_ms": 120_000 })).await;
    let waits = coordinator.api.commit_in_background(&begun);
    wait::until_so("the 412 is shown", async || {
        let error = coordinator.api.transaction(&begun).await["branches"][0]["last_error"].clone();
        error.as_str().is_some_and(|error| error.contains("stale-epoch") && error.contains("next start"))
    })
    .await;
    let _ = coordinator.api.get("/readyz").await.expect(200);
    let _ = coordinator.api.run(&branches(&sound)).await.expect(200);
    assert!(coordinator.log().contains(&fooled.url()), "the log line names the participant");
    assert!(
        coordinator.api.metric(r#"unanimous_participant_calls_total{call="prepare",result="stale_epoch"}"#).await
            > Some(0.0)
    );
    coordinator.kill();
    drop(waits);
    coordinator.restart().await;
    let _ = coordinator.api.run(&branches(&fooled)).await.expect(200);
    sound.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_participants_of_one_epoch_stop_a_superseded_one() {
    let coordinator = coordinator(&[]).await;
    let epoch = epoch_ahead(600_000);
    let (one, other) = (demanding(&epoch), demanding(&epoch));
    for participant in [&one, &other] {
        let body = json!({ "branches": branches(participant), "timeout_ms": 120_000 });
        let id = coordinator.api.begin(&body).await;
        drop(coordinator.api.commit_in_background(&id));
    }
    wait::until_so("it is superseded", async || coordinator.api.get("/readyz").await.status == 503).await;
    let refused = coordinator.api.post("/v1/transactions", &json!({})).await;
    assert_eq!(refused.problem(), "superseded");
    let detail = refused.text("detail");
    assert!(detail.contains(&one.url()) && detail.contains(&other.url()), "{detail}");
    let _ = coordinator.api.get("/v1/transactions").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_url_holds_the_horizon_for_a_while_only() {
    let mut coordinator = coordinator(&["--give-up-abort", "1s"]).await;
    let sound = Participant::start();
    let nobody = format!("http://127.0.0.1:{}/mistyped", free_port());
    let body = json!({ "branches": [{ "participant": nobody, "branch": "a", "payload": {} }], "timeout_ms": 300, "commit": true });
    let id = coordinator.api.post("/v1/transactions", &body).await.expect(409).body["transaction"]["id"].clone();
    let id = id.as_str().unwrap();
    let held_by = coordinator.api.who().await["horizon_held_by"].clone();
    assert_eq!((&held_by["participant"], &held_by["transaction"]), (&nobody.as_str().into(), &id.into()));
    let gauge = format!("unanimous_horizon_held_seconds{{participant=\"{nobody}\"}}");
    assert!(coordinator.api.metric(&gauge).await.is_some());
    wait::until_so("the horizon passes it", async || {
        let _ = coordinator.api.run(&branches(&sound)).await.expect(200);
        coordinator.api.who().await["horizon"].as_str().unwrap() > id
    })
    .await;
    let given_up = coordinator.api.transaction(id).await;
    let branch = &given_up["branches"][0];
    assert_eq!((&given_up["state"], &branch["state"]), (&"aborted".into(), &"aborted".into()));
    assert_eq!(branch["acknowledged"], false);
    coordinator.kill();
    coordinator.restart().await;
    assert_eq!(coordinator.api.transaction(id).await["branches"][0]["acknowledged"], false, "it is in the log");
    sound.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_up_abort_outlives_retention_until_it_is_acknowledged() {
    let coordinator = coordinator(&["--give-up-abort", "1s", "--retain", "1s"]).await;
    let sound = Participant::start();
    let nobody = format!("http://127.0.0.1:{}/mistyped", free_port());
    let body = json!({ "branches": [{ "participant": nobody, "branch": "a", "payload": {} }], "timeout_ms": 300, "commit": true });
    let id = coordinator.api.post("/v1/transactions", &body).await.expect(409).body["transaction"]["id"].clone();
    let id = id.as_str().unwrap();
    coordinator.api.finished(id).await;
    let later = coordinator.api.run(&branches(&sound)).await.expect(200).text("id").to_owned();
    let dropped = async |id: &str| {
        let _ = coordinator.api.run(&branches(&sound)).await.expect(200);
        coordinator.api.get(&format!("/v1/transactions/{id}")).await.status == 404
    };
    wait::until_so("one that came later is dropped", async || dropped(&later).await).await;
    assert!(!dropped(id).await, "nobody has heard how it ended");
    let who = coordinator.api.who().await;
    let told = json!({ "state": "aborted", "coordinator": { "id": who["id"], "epoch": who["epoch"] } });
    let path = format!("/v1/transactions/{id}/branches/a/acknowledge");
    let _ = coordinator.api.post(&path, &told).await.expect(200);
    wait::until_so("it is dropped, too", async || dropped(id).await).await;
    sound.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inquiry_for_a_given_up_branch_brings_the_abort_again() {
    let coordinator = coordinator(&["--give-up-abort", "1s"]).await;
    let mut away = Participant::start();
    let url = away.url();
    away.down();
    let body = json!({ "branches": [{ "participant": url, "branch": "a", "payload": {} }], "timeout_ms": 300, "commit": true });
    let id = coordinator.api.post("/v1/transactions", &body).await.expect(409).body["transaction"]["id"].clone();
    let id = id.as_str().unwrap();
    coordinator.api.finished(id).await;
    away.up();
    let who = coordinator.api.who().await;
    // One inquiry is enough, also right after the end.
    let answer = coordinator.api.inquire(id, &who, "a").await.unwrap().expect(200);
    assert_eq!((answer.text("decision"), &answer.body["presumed"]), ("abort", &false.into()));
    wait::until_so("its participant has acknowledged it after all", async || {
        coordinator.api.transaction(id).await["branches"][0]["acknowledged"] == true
    })
    .await;
    assert_eq!(away.count(Call::Abort), 1);
    away.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_that_lost_its_data_loses_ten_branches() {
    let mut coordinator = coordinator(&[]).await;
    let lost = Arc::new(AtomicBool::new(true));
    let is_lost = Arc::clone(&lost);
    let participant = Participant::scripted(move |received| match received.call {
        Call::Commit if is_lost.load(Ordering::Relaxed) => {
            Act::Say(404, json!({ "type": "/problems/unknown-branch", "status": 404 }))
        }
        _ => Act::Obey,
    });
    let mut ids = vec![];
    for _ in 0..20 {
        ids.push(coordinator.api.run(&branches(&participant)).await.expect(200).text("id").to_owned());
    }
    wait::until_so("one of the rest is held", async || {
        let shown = coordinator.api.transaction(ids.last().unwrap()).await;
        shown["branches"][0]["last_error"].as_str().is_some_and(|error| error.contains("held"))
    })
    .await;
    coordinator.kill();
    coordinator.restart().await;
    let mut unknown = 0;
    for id in &ids {
        let state = coordinator.api.transaction(id).await["branches"][0]["state"].clone();
        unknown += usize::from(state == "heuristic_unknown");
        assert!(state == "heuristic_unknown" || state == "committing", "{state}");
    }
    assert_eq!(unknown, 10);
    assert_eq!(coordinator.log().matches("unknown-branch to 10 commits").count(), 1, "one error is logged");
    // Its volume is back. A participant in doubt asks, and its branch is tried at once.
    lost.store(false, Ordering::Relaxed);
    let newest = ids.last().unwrap();
    let who = coordinator.api.who().await;
    wait::until_so("the one that is known releases the others", async || {
        let _ = coordinator.api.inquire(newest, &who, "a").await.unwrap().expect(200);
        coordinator.api.transaction(newest).await["state"] == "committed"
    })
    .await;
    let mut committed = 0;
    for id in &ids {
        committed += usize::from(coordinator.api.finished(id).await["branches"][0]["state"] == "committed");
    }
    assert_eq!(committed, 10);
}
