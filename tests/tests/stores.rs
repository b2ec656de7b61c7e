//! Which store answers, asks and acknowledges, which log is meant, and what was forgotten: P-3.37, P-3.38, P-4.46, P-5.11 to
//! P-5.14.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use reqwest::Method;
use serde_json::{Value, json};
use unanimous_tests::{
    api::Answer,
    coordinator::Coordinator,
    participant::{Act, Call, Participant},
    process::Setup,
    wait,
};

const STORE: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
const OTHER: &str = "00000000-0000-4000-8000-00000000000b";

async fn coordinator(flags: &[&str]) -> Coordinator {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let home = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::spawn_in(home, Setup { flags, ..Setup::default() });
    coordinator.ready().await;
    coordinator
}

/// A participant with a store of its own that votes, and answers nothing in phase two.
fn silent_after_its_vote() -> Participant {
    Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Say(200, json!({ "vote": "prepared", "participant_id": STORE })),
        Call::Commit | Call::Abort => Act::Say(503, json!({})),
    })
}

/// Commits one branch "a" of this participant, and returns the transaction's id.
async fn commit(coordinator: &Coordinator, participant: &Participant) -> String {
    let branches = json!([{ "participant": participant.url(), "branch": "a", "payload": {} }]);
    coordinator.api.run(&branches).await.expect(200).text("id").to_owned()
}

async fn acknowledge(coordinator: &Coordinator, id: &str, state: &str, store: Option<&str>) -> Answer {
    let who = coordinator.api.who().await;
    acknowledge_as(coordinator, id, &json!({ "state": state, "participant_id": store, "coordinator": named(&who) }))
        .await
}

async fn acknowledge_as(coordinator: &Coordinator, id: &str, body: &Value) -> Answer {
    coordinator.api.post(&format!("/v1/transactions/{id}/branches/a/acknowledge"), body).await
}

fn named(who: &Value) -> Value {
    json!({ "id": who["id"], "epoch": who["epoch"] })
}

async fn ask(coordinator: &Coordinator, id: &str, more: &str) -> Answer {
    let who = coordinator.api.who().await;
    let (who, epoch) = (who["id"].as_str().unwrap(), who["epoch"].as_str().unwrap());
    let path = format!("/v1/transactions/{id}/decision?coordinator={who}&epoch={epoch}&branch=a{more}");
    coordinator.api.get(&path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_its_log_and_is_kept_by_nobody() {
    let coordinator = coordinator(&[]).await;
    let id = coordinator.api.who().await["id"].as_str().unwrap().to_owned();
    for path in
        ["/v1/transactions", "/v1/transactions/nonsense", "/readyz", "/healthz", "/problems/forgotten", "/nowhere"]
    {
        let answer = coordinator.api.get(path).await;
        assert_eq!(answer.headers["unanimous-coordinator"], id, "{path}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_another_log_changes_nothing() {
    let coordinator = coordinator(&[]).await;
    let mine = coordinator.api.who().await["id"].as_str().unwrap().to_owned();
    for (header, problem) in [(OTHER, "not-my-log"), ("nonsense", "malformed")] {
        let headers = [("unanimous-coordinator", header), ("idempotency-key", "order-1")];
        let refused = coordinator.api.post_with("/v1/transactions", &headers, &json!({})).await;
        assert_eq!(refused.problem(), problem);
    }
    let (id, unknown) = (coordinator.api.begin(&json!({})).await, "01890a5d-ac96-774b-bcce-b302099a8057");
    for id in [id.as_str(), unknown] {
        let headers = [("unanimous-coordinator", OTHER)];
        let path = format!("/v1/transactions/{id}/commit");
        assert_eq!(coordinator.api.post_with(&path, &headers, &json!({})).await.problem(), "not-my-log");
    }
    let items = coordinator.api.get("/v1/transactions").await.body["items"].as_array().unwrap().len();
    assert_eq!(items, 1, "nothing was begun");
    assert_eq!(coordinator.api.transaction(&id).await["state"], "active", "and nothing committed");
    let headers = [("unanimous-coordinator", mine.as_str())];
    let _ = coordinator.api.post_with("/v1/transactions", &headers, &json!({})).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_at_the_address_makes_nothing_heuristic() {
    let coordinator = coordinator(&[]).await;
    let wrong = Arc::new(AtomicBool::new(true));
    let answers = [
        (421, json!({ "type": "/problems/misdirected", "status": 421, "participant_id": OTHER })),
        (404, json!({ "type": "/problems/unknown-branch", "status": 404, "participant_id": OTHER })),
        (404, json!({ "type": "/problems/unknown-branch", "status": 404 })),
        (200, json!({ "state": "committed", "participant_id": OTHER })),
        (200, json!({ "state": "committed" })),
    ];
    for (status, answer) in answers {
        wrong.store(true, Ordering::Relaxed);
        let (is_wrong, said) = (Arc::clone(&wrong), answer.clone());
        let participant = Participant::scripted(move |received| match received.call {
            Call::Prepare => Act::Say(200, json!({ "vote": "prepared", "participant_id": STORE })),
            Call::Commit | Call::Abort if is_wrong.load(Ordering::Relaxed) => Act::Say(status, said.clone()),
            Call::Commit | Call::Abort => Act::Say(200, json!({ "state": "committed", "participant_id": STORE })),
        });
        let id = commit(&coordinator, &participant).await;
        wait::until_so("it is shown that another store answers", async || {
            let branch = coordinator.api.transaction(&id).await["branches"][0].clone();
            assert_eq!(
                (&branch["state"], &branch["participant_id"]),
                (&"committing".into(), &STORE.into()),
                "{answer}"
            );
            branch["last_error"].as_str().is_some_and(|error| error.contains("another participant"))
        })
        .await;
        let commit = participant.received().into_iter().find(|received| received.call == Call::Commit).unwrap();
        assert_eq!(commit.body["participant_id"], STORE, "its messages name the store");
        wrong.store(false, Ordering::Relaxed);
        let finished = coordinator.api.finished(&id).await;
        assert_eq!((&finished["state"], &finished["heuristic"]), (&"committed".into(), &false.into()));
        assert_eq!(finished["branches"][0]["acknowledged"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inquiry_by_another_store_gets_abort_for_a_commit() {
    let coordinator = coordinator(&[]).await;
    let participant = silent_after_its_vote();
    let id = commit(&coordinator, &participant).await;
    let mine = ask(&coordinator, &id, &format!("&participant_id={STORE}")).await.expect(200);
    assert_eq!((mine.text("decision"), mine.text("transaction"), mine.text("branch")), ("commit", &*id, "a"));
    let other = ask(&coordinator, &id, &format!("&participant_id={OTHER}")).await.expect(200);
    assert_eq!((other.text("decision"), &other.body["presumed"]), ("abort", &false.into()));
    assert_eq!(ask(&coordinator, &id, "").await.problem(), "branch-conflict");
    assert_eq!(ask(&coordinator, &id, "&participant_id=nonsense").await.problem(), "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_survives_a_kill_after_its_answer() {
    let mut coordinator = coordinator(&[]).await;
    let participant = silent_after_its_vote();
    let id = commit(&coordinator, &participant).await;
    let answer = acknowledge(&coordinator, &id, "committed", Some(STORE)).await.expect(200);
    assert_eq!((answer.text("transaction"), answer.text("branch"), answer.text("state")), (&*id, "a", "committed"));
    coordinator.kill();
    coordinator.restart().await;
    let finished = coordinator.api.finished(&id).await;
    assert_eq!((&finished["state"], &finished["branches"][0]["acknowledged"]), (&"committed".into(), &true.into()));
    let _ = acknowledge(&coordinator, &id, "committed", Some(STORE)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_fits_nothing_is_refused() {
    let coordinator = coordinator(&[]).await;
    let participant = silent_after_its_vote();
    let id = commit(&coordinator, &participant).await;
    for (state, store) in [("aborted", Some(STORE)), ("committed", Some(OTHER)), ("committed", None)] {
        let refused = acknowledge(&coordinator, &id, state, store).await;
        assert_eq!(refused.problem(), "branch-conflict", "{state} {store:?}");
    }
    let who = coordinator.api.who().await;
    let old = json!({ "id": who["id"], "epoch": "01890a5d-ac96-774b-bcce-b302099a8057" });
    let stale = acknowledge_as(&coordinator, &id, &json!({ "state": "committed", "coordinator": old })).await;
    assert_eq!((stale.problem(), &stale.body["epoch"]), ("stale-epoch", &who["epoch"]));
    let foreign = json!({ "id": OTHER, "epoch": who["epoch"] });
    let refused = acknowledge_as(&coordinator, &id, &json!({ "state": "committed", "coordinator": foreign })).await;
    assert_eq!(refused.problem(), "not-my-log");
    let refused = acknowledge_as(&coordinator, &id, &json!({ "state": "prepared", "coordinator": named(&who) })).await;
    assert_eq!(refused.problem(), "malformed");
    assert_eq!(acknowledge_as(&coordinator, &id, &json!({ "state": "committed" })).await.problem(), "malformed");
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(acknowledge(&coordinator, unknown, "aborted", None).await.problem(), "unknown-transaction");
    let open =
        coordinator.api.begin(&json!({ "branches": [{ "participant": participant.url(), "branch": "a" }] })).await;
    assert_eq!(acknowledge(&coordinator, &open, "aborted", None).await.problem(), "not-decided");
    let path = format!("/v1/transactions/{open}/branches/nobody/acknowledge");
    let body = json!({ "state": "aborted", "coordinator": named(&who) });
    assert_eq!(coordinator.api.post(&path, &body).await.problem(), "unknown-branch");
    assert_eq!(coordinator.api.transaction(&id).await["state"], "committing", "nothing has changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_dropped_is_forgotten_and_not_presumed() {
    let mut coordinator = coordinator(&["--retain", "1s"]).await;
    let participant = Participant::start();
    let id = commit(&coordinator, &participant).await;
    coordinator.api.finished(&id).await;
    wait::until_so("it is dropped", async || {
        commit(&coordinator, &participant).await;
        coordinator.api.get(&format!("/v1/transactions/{id}")).await.status == 404
    })
    .await;
    assert_eq!(ask(&coordinator, &id, "").await.problem(), "forgotten");
    coordinator.kill();
    coordinator.restart().await;
    assert_eq!(ask(&coordinator, &id, "").await.problem(), "forgotten", "it is in the log");
    // What was never begun here is above all that was dropped.
    let later = "ffffffff-ffff-7fff-bfff-ffffffffffff";
    let presumed = ask(&coordinator, later, "").await.expect(200);
    assert_eq!((presumed.text("decision"), &presumed.body["presumed"]), ("abort", &true.into()));
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_prepared_under_a_lost_epoch_is_not_my_log() {
    let coordinator = coordinator(&[]).await;
    let unknown = "ffffffff-ffff-7fff-bfff-ffffffffffff";
    let lost = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(ask(&coordinator, unknown, &format!("&prepared_epoch={lost}")).await.problem(), "not-my-log");
    let who = coordinator.api.who().await;
    let present = who["epoch"].as_str().unwrap();
    let presumed = ask(&coordinator, unknown, &format!("&prepared_epoch={present}")).await.expect(200);
    assert_eq!(presumed.text("decision"), "abort");
    let refused = coordinator
        .api
        .call(Method::GET, &format!("/v1/transactions/{unknown}/decision?prepared_epoch=x"), &[], None)
        .await;
    assert_eq!(refused.unwrap().problem(), "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_and_aborts_never_run_out_of_keys() {
    let coordinator = coordinator(&[]).await;
    let participant = silent_after_its_vote();
    let id = commit(&coordinator, &participant).await;
    for n in 0..1_100 {
        let key = format!("commit-{n}");
        let path = format!("/v1/transactions/{id}/commit");
        let _ = coordinator.api.post_with(&path, &[("idempotency-key", &key)], &json!({})).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_enlistments_are_bounded_and_refuse_no_commit() {
    let coordinator = coordinator(&[]).await;
    let participant = Participant::start();
    let id = coordinator.api.begin(&json!({})).await;
    let (enlist, branch) =
        (format!("/v1/transactions/{id}/branches"), json!({ "participant": participant.url(), "branch": "a" }));
    for n in 0..1_024 {
        let key = format!("enlist-{n}");
        let answer = coordinator.api.post_with(&enlist, &[("idempotency-key", &key)], &branch).await;
        assert_eq!(answer.status, if n == 0 { 201 } else { 200 }, "{n}: {}", answer.body);
    }
    let one_more = coordinator.api.post_with(&enlist, &[("idempotency-key", "one-more")], &branch).await.expect(422);
    assert!(one_more.text("detail").contains("1024"), "{}", one_more.body);
    let repeat = coordinator.api.post_with(&enlist, &[("idempotency-key", "enlist-7")], &branch).await.expect(200);
    assert!(repeat.headers.contains_key("idempotency-replayed"));
    let path = format!("/v1/transactions/{id}/abort");
    let _ = coordinator.api.post_with(&path, &[("idempotency-key", "abort")], &json!({})).await.expect(200);
}
