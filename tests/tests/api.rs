//! The API: what each call does, what it answers, and what it refuses.

use axum::Router;
use reqwest::Method;
use serde_json::{Value, json};
use unanimous_coordinator::api::{AllowList, App, RequestLimits, router};
use unanimous_tests::{
    api::{Answer, Api},
    coordinator::Coordinator,
    local::Local,
    participant::{Act, Branch, Call, Participant},
    server::Server,
    wait,
};

const UNKNOWN: &str = "01890a5d-1111-7000-8000-000000000001";

fn branch(participant: &Participant) -> Value {
    json!({ "participant": participant.url(), "payload": {} })
}

/// Votes when it is let, and not before.
fn slow_to_vote() -> Participant {
    Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    })
}

async fn post_text(api: &Api, path: &str, body: &str) -> Answer {
    let headers = [("content-type", "application/json")];
    api.call(Method::POST, path, &headers, Some(body.to_owned())).await.expect("a POST is answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_begins_takes_branches_and_commits() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let (a, b) = (Participant::start(), Participant::start());
    let begun = api.post("/v1/transactions", &json!({ "metadata": { "order": "17" } })).await.expect(201);
    let id = begun.text("id");
    assert_eq!(begun.headers["location"], format!("/v1/transactions/{id}").as_str());
    assert_eq!(begun.body["state"], "active");
    assert_eq!(begun.body["metadata"], json!({ "order": "17" }));
    assert_eq!(begun.body["decision"], Value::Null);

    let first = api.enlist(id, &branch(&a)).await.expect(201);
    assert_eq!(first.body["branch"], "1");
    assert_eq!(first.body["coordinator"]["id"], api.who().await["id"]);
    let named = json!({ "participant": b.url(), "branch": "stock", "payload": { "item": 3 } });
    let _ = api.enlist(id, &named).await.expect(201);
    assert_eq!(api.enlist(id, &named).await.expect(200).body["branch"], "stock", "the same branch again");
    let other = json!({ "participant": b.url(), "branch": "stock", "payload": { "item": 4 } });
    let conflict = api.enlist(id, &other).await.expect(409);
    assert_eq!(conflict.problem(), "branch-conflict");
    assert_eq!(conflict.body["transaction"]["id"], id, "a 409 about a transaction carries it");

    let committed = api.commit(id).await.expect(200);
    assert_eq!(committed.body["decision"], "commit");
    assert_eq!(committed.body["sequence"], 1);
    let finished = api.finished(id).await;
    assert_eq!(finished["state"], "committed");
    assert_eq!(finished["heuristic"], false);
    assert_eq!(finished["branches"][1]["state"], "committed");
    assert_eq!(b.received()[0].body["payload"], json!({ "item": 3 }));
    assert_eq!((a.branch(id, "1"), b.branch(id, "stock")), (Some(Branch::Committed), Some(Branch::Committed)));

    assert_eq!(api.commit(id).await.expect(200).body["decision"], "commit", "a repeat learns the same");
    let too_late = api.abort(id).await.expect(409);
    assert_eq!(too_late.problem(), "committed");
    assert_eq!(too_late.body["transaction"]["state"], "committed");
    assert_eq!(api.enlist(id, &branch(&a)).await.expect(409).problem(), "not-active");
    a.assert_respected();
    b.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_vote_to_abort_aborts_all_and_says_whose_it_was() {
    let coordinator = Local::start().await;
    let (willing, unwilling) = (Participant::start(), Participant::scripted(|_| Act::Refuse("overdrawn")));
    let branches = json!([
        { "participant": willing.url(), "branch": "credit", "payload": {} },
        { "participant": unwilling.url(), "branch": "debit", "payload": {} },
    ]);
    let answer = coordinator.api.run(&branches).await.expect(409);
    assert_eq!(answer.problem(), "aborted");
    let id = answer.body["transaction"]["id"].as_str().unwrap();
    assert_eq!(answer.headers["location"], format!("/v1/transactions/{id}").as_str());
    let reason = json!({ "code": "refused", "detail": "overdrawn", "branch": "debit" });
    assert_eq!(answer.body["transaction"]["reason"], reason);
    assert_eq!(coordinator.api.finished(id).await["branches"][1]["state"], "refused");
    assert_eq!(willing.branch(id, "credit"), Some(Branch::Aborted));
    assert_eq!(coordinator.api.commit(id).await.expect(409).problem(), "aborted", "a repeat learns the same");
    let _ = coordinator.api.abort(id).await.expect(200);
    willing.assert_respected();
    unwilling.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initiator_may_abort_until_the_decision() {
    let coordinator = Local::start().await;
    let participant = Participant::start();
    let id = coordinator.api.begin(&json!({ "branches": [branch(&participant)] })).await;
    let body = json!({ "reason": "changed my mind" });
    let aborted = coordinator.api.post(&format!("/v1/transactions/{id}/abort"), &body).await.expect(200);
    assert_eq!(aborted.body["reason"], json!({ "code": "initiator", "detail": "changed my mind", "branch": null }));
    coordinator.api.finished(&id).await;
    assert_eq!(participant.branch(&id, "1"), Some(Branch::Aborted));
    assert_eq!(coordinator.api.commit(&id).await.expect(409).problem(), "aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_vote_stands_and_a_vote_counts_only_under_the_present_epoch() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let participant = Participant::start();
    let who = api.who().await;
    let id = api.begin(&json!({ "branches": [{ "participant": participant.url(), "branch": "b" }] })).await;
    participant.prepare(&id, "b");

    let mut earlier = who.clone();
    earlier["epoch"] = json!(UNKNOWN);
    let stale = api.vote(&id, "b", "prepared", &earlier).await.expect(412);
    assert_eq!(stale.problem(), "stale-epoch");
    assert_eq!(stale.body["epoch"], who["epoch"]);
    assert_eq!(
        api.vote(UNKNOWN, "b", "prepared", &earlier).await.expect(412).problem(),
        "stale-epoch",
        "checked first"
    );
    let mut other = who.clone();
    other["id"] = json!("67e55044-10b1-426f-9247-bb680e5fe0c8");
    assert_eq!(api.vote(&id, "b", "prepared", &other).await.expect(409).problem(), "not-my-log");

    let _ = api.vote(&id, "b", "prepared", &who).await.expect(200);
    let _ = api.vote(&id, "b", "prepared", &who).await.expect(200);
    assert_eq!(api.vote(&id, "b", "read_only", &who).await.expect(409).problem(), "branch-conflict");
    assert_eq!(api.vote(&id, "c", "prepared", &who).await.expect(404).problem(), "unknown-branch");
    let _ = api.commit(&id).await.expect(200);
    api.finished(&id).await;
    let _ = api.vote(&id, "b", "prepared", &who).await.expect(200);
    assert_eq!(participant.count(Call::Prepare), 0, "no prepare follows an unsolicited vote");
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inquiry_is_answered_from_the_log_and_never_guessed() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let who = api.who().await;
    let (willing, held) = (Participant::start(), slow_to_vote());
    let ask = async |id: &str, who: &Value, branch: &str| api.inquire(id, who, branch).await.unwrap();

    let id = api.begin(&json!({ "branches": [branch(&willing), branch(&held)] })).await;
    assert_eq!(ask(&id, &who, "1").await.expect(200).body["decision"], "pending");
    assert_eq!(ask(&id, &who, "never").await.expect(200).body["decision"], "pending", "it may still be enlisted");
    let commit = api.commit_in_background(&id);
    api.in_state(&id, "preparing").await;
    assert_eq!(ask(&id, &who, "1").await.expect(200).body["decision"], "pending");
    held.release();
    let _ = commit.await.unwrap().unwrap().expect(200);
    let told = ask(&id, &who, "1").await.expect(200);
    assert_eq!((&told.body["decision"], &told.body["presumed"]), (&json!("commit"), &json!(false)));
    assert_eq!(ask(&id, &who, "never").await.expect(200).body["decision"], "abort", "it never was enlisted");

    let presumed = ask(UNKNOWN, &who, "1").await.expect(200);
    assert_eq!((&presumed.body["decision"], &presumed.body["presumed"]), (&json!("abort"), &json!(true)));
    let other_log = json!({ "id": "67e55044-10b1-426f-9247-bb680e5fe0c8", "epoch": who["epoch"] });
    assert_eq!(ask(UNKNOWN, &other_log, "1").await.expect(409).problem(), "not-my-log");
    let other_epoch = json!({ "id": who["id"], "epoch": UNKNOWN });
    assert_eq!(ask(UNKNOWN, &other_epoch, "1").await.expect(409).problem(), "not-my-log");
    assert_eq!(
        ask(&id, &other_epoch, "1").await.expect(200).body["decision"],
        "commit",
        "what is in the log may be told"
    );
    let nobody = api.get(&format!("/v1/transactions/{UNKNOWN}/decision")).await.expect(404);
    assert_eq!(nobody.problem(), "unknown-transaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn until_the_log_is_loaded_everything_but_healthz_is_503() {
    let limits =
        RequestLimits { body_bytes: 1 << 20, branches: 256, default_timeout_ms: 30_000, max_timeout_ms: 60_000 };
    let loading: Router = router(App::new(AllowList::default(), limits));
    let server = Server::start(loading);
    let api = Api::new(&server.url());
    let _ = api.get("/healthz").await.expect(200);
    let who = json!({ "id": "67e55044-10b1-426f-9247-bb680e5fe0c8", "epoch": UNKNOWN });
    let answers = [
        api.get("/readyz").await,
        api.get("/v1/coordinator").await,
        api.get(&format!("/v1/transactions/{UNKNOWN}")).await,
        api.inquire(UNKNOWN, &who, "1").await.unwrap(),
        api.post("/v1/transactions", &json!({})).await,
        api.commit(UNKNOWN).await,
        api.abort(UNKNOWN).await,
        api.enlist(UNKNOWN, &json!({ "participant": "http://127.0.0.1:1" })).await,
        api.vote(UNKNOWN, "1", "prepared", &who).await,
        api.get("/nothing/here").await,
    ];
    for answer in answers {
        assert_eq!((answer.status, answer.problem()), (503, "not-ready"), "{answer:?}");
        assert!(answer.headers.contains_key("retry-after"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn once_it_is_loaded_it_says_that_it_lives_serves_and_who_it_is() {
    let coordinator = Local::start_with(&["--advertise", "http://pay.example:7070/"]).await;
    let api = &coordinator.api;
    let _ = api.get("/healthz").await.expect(200);
    let _ = api.get("/readyz").await.expect(200);
    let who = api.who().await;
    assert_eq!(who["url"], "http://pay.example:7070");
    assert_eq!(who["horizon"], "00000000-0000-0000-0000-000000000000", "before the first transaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_names_the_field_and_nothing_changes() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let begin = "/v1/transactions";
    let fields = [
        (r#"{"timeout_ms": "soon"}"#, 400, "malformed", "timeout_ms"),
        (r#"{"timeout_ms": 0}"#, 422, "invalid", "timeout_ms"),
        (r#"{"timeout": 5}"#, 400, "malformed", "timeout"),
        (r#"{"respond": "never"}"#, 400, "malformed", "respond"),
        (r#"{"branches": [{"payload": {}}]}"#, 400, "malformed", "participant"),
        (r#"{"branches": [{"participant": "not a url"}]}"#, 400, "malformed", "branches[0].participant"),
        (
            r#"{"branches": [{"participant": "http://127.0.0.1:1", "branch": "a b"}]}"#,
            400,
            "malformed",
            "branches[0].branch",
        ),
        (
            r#"{"branches": [{"participant": "http://127.0.0.1:1", "vote": "prepared"}]}"#,
            400,
            "malformed",
            "branches[0].vote",
        ),
        (
            r#"{"branches": [{"participant": "http://127.0.0.1:1", "branch": "a"}, {"participant": "http://127.0.0.1:1", "branch": "a"}]}"#,
            400,
            "malformed",
            "branch",
        ),
        (
            r#"{"branches": [{"participant": "http://10.1.2.3:80"}]}"#,
            403,
            "forbidden-participant",
            "branches[0].participant",
        ),
        (r#"{"metadata": {"a": 1}}"#, 400, "malformed", "metadata"),
        ("[]", 400, "malformed", "object"),
        ("{", 400, "malformed", "EOF"),
    ];
    for (body, status, kind, field) in fields {
        let answer = post_text(api, begin, body).await;
        assert_eq!((answer.status, answer.problem()), (status, kind), "{body}: {answer:?}");
        assert!(answer.text("detail").contains(field), "{body}: {answer:?}");
    }
    let wrong_id = api.get("/v1/transactions/17").await.expect(400);
    assert!(wrong_id.text("detail").contains("`id`"), "{wrong_id:?}");
    let unknown = api.get(&format!("/v1/transactions/{UNKNOWN}")).await.expect(404);
    assert_eq!(unknown.problem(), "unknown-transaction");
    assert!(unknown.body["retained_since"].is_string(), "{unknown:?}");
    assert_eq!(api.commit(UNKNOWN).await.expect(404).problem(), "unknown-transaction");
    assert_eq!(api.get("/v1/nothing").await.expect(404).problem(), "not-found");
    let wrong_method = api.call(Method::DELETE, begin, &[], None).await.unwrap();
    assert_eq!((wrong_method.status, wrong_method.problem()), (405, "method-not-allowed"));
    let text = api.call(Method::POST, begin, &[("content-type", "text/plain")], Some("hello".into())).await.unwrap();
    assert_eq!((text.status, text.problem()), (415, "unsupported-media-type"));
    let large = post_text(api, begin, &format!(r#"{{"metadata": {{"a": "{}"}}}}"#, "x".repeat(1 << 20))).await;
    assert_eq!((large.status, large.problem()), (413, "too-large"));
    let vote = api.post(&format!("/v1/transactions/{UNKNOWN}/branches/1/vote"), &json!({ "vote": "prepared" })).await;
    assert_eq!((vote.status, vote.problem()), (400, "malformed"), "a vote names the coordinator");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_outlasts_its_wait_is_202_and_goes_on() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let held = slow_to_vote();
    let id = api.begin(&json!({ "branches": [branch(&held)] })).await;
    let commit = format!("/v1/transactions/{id}/commit");
    let early = api.post_with(&commit, &[("prefer", "wait=0")], &json!({})).await.expect(202);
    assert_eq!((&early.body["state"], &early.body["decision"]), (&json!("preparing"), &Value::Null));
    let look = api.call(Method::GET, &format!("/v1/transactions/{id}"), &[("prefer", "wait=0")], None).await.unwrap();
    assert_eq!(look.expect(200).body["state"], "preparing");
    held.release();
    let _ = api.commit(&id).await.expect(200);
    let waited =
        api.call(Method::GET, &format!("/v1/transactions/{id}"), &[("prefer", "wait=60")], None).await.unwrap();
    assert_eq!(waited.expect(200).body["state"], "committed", "a GET with a wait is answered at the end");
    assert_eq!(held.count(Call::Prepare), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn respond_says_whether_a_commit_is_answered_at_the_decision_or_at_the_end() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let held = Participant::scripted(|received| match received.call {
        Call::Commit => Act::Hold,
        Call::Prepare | Call::Abort => Act::Obey,
    });
    let begin = |respond: &str| json!({ "branches": [branch(&held)], "commit": true, "respond": respond });
    let decided = api.post("/v1/transactions", &begin("decided")).await.expect(200);
    assert_eq!(decided.body["state"], "committing");
    let ran_out = api.post_with("/v1/transactions", &[("prefer", "wait=1")], &begin("finished")).await.expect(200);
    assert_eq!((&ran_out.body["state"], &ran_out.body["decision"]), (&json!("committing"), &json!("commit")));
    held.release();
    let finished = api.post("/v1/transactions", &begin("finished")).await.expect(200);
    assert_eq!(finished.body["state"], "committed");
    api.finished(decided.text("id")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_context_of_the_commit_is_carried_to_every_participant() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let (a, b) = (Participant::start(), Participant::start());
    let id = api.begin(&json!({ "branches": [branch(&a), branch(&b)] })).await;
    let commit = format!("/v1/transactions/{id}/commit");
    let _ = api.post_with(&commit, &[("traceparent", TRACE)], &json!({})).await.expect(200);
    api.finished(&id).await;
    let carried: Vec<_> = a.received().into_iter().chain(b.received()).map(|received| received.traceparent).collect();
    assert_eq!(carried, vec![Some(TRACE.to_owned()); 4]);
    let nonsense = json!({ "branches": [branch(&a)], "commit": true });
    let _ = api.post_with("/v1/transactions", &[("traceparent", "nonsense")], &nonsense).await.expect(200);
    assert_eq!(a.received().last().unwrap().traceparent, None, "what isn't one is not carried");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_been_superseded_only_answers_what_is_in_its_log() {
    let mut coordinator = Coordinator::start().await;
    let api = coordinator.api.clone();
    let who = api.who().await;
    let participant = Participant::start();
    let earlier = api.run(&json!([branch(&participant)])).await.expect(200).text("id").to_owned();
    api.finished(&earlier).await;
    let undecided = api.begin(&json!({})).await;

    let higher = epoch_in(60);
    // One alone stops nobody: two that name the same epoch have met a second coordinator.
    let second = Participant::scripted(stale(&who, &higher));
    participant.script(stale(&who, &higher));
    let both = json!([branch(&participant), branch(&second)]);
    let id = api.begin(&json!({ "branches": both, "timeout_ms": 60_000 })).await;
    let commit = api.commit_in_background(&id);
    wait::until_so("it is superseded", async || api.get("/readyz").await.status == 503).await;

    assert_eq!(commit.await.unwrap().unwrap().expect(503).problem(), "superseded", "who waits is told");
    let refused = api.get("/readyz").await.expect(503);
    assert_eq!(refused.problem(), "superseded");
    for witness in [&participant, &second] {
        assert!(refused.text("detail").contains(&witness.url()), "it says who told it: {refused:?}");
    }
    for answer in [
        api.post("/v1/transactions", &json!({})).await,
        api.commit(&undecided).await,
        api.abort(&undecided).await,
        api.enlist(&undecided, &branch(&participant)).await,
        api.vote(&undecided, "1", "prepared", &who).await,
        api.inquire(UNKNOWN, &who, "1").await.unwrap(),
        api.inquire(&undecided, &who, "1").await.unwrap(),
    ] {
        assert_eq!((answer.status, answer.problem()), (503, "superseded"), "{answer:?}");
    }
    let _ = api.get("/healthz").await.expect(200);
    assert_eq!(api.transaction(&earlier).await["state"], "committed", "reads are answered");
    let told = api.inquire(&earlier, &who, "1").await.unwrap().expect(200);
    assert_eq!(told.body["decision"], "commit", "and decisions that are in the log");

    coordinator.kill();
    coordinator.restart().await;
    let now = api.who().await;
    assert_eq!(now["id"], who["id"]);
    assert!(now["epoch"].as_str().unwrap() > higher.as_str(), "its epoch is greater than the one it was told");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_from_far_ahead_or_of_another_coordinator_is_not_believed() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let who = api.who().await;
    let participant = Participant::start();
    let other = json!({ "id": "67e55044-10b1-426f-9247-bb680e5fe0c8" });
    for script in [stale(&who, &epoch_in(2 * 3600)), stale(&other, &epoch_in(60))] {
        participant.script(script);
        let body = json!({ "branches": [branch(&participant)], "timeout_ms": 300 });
        let id = api.begin(&body).await;
        let aborted = api.commit(&id).await.expect(409);
        assert_eq!(aborted.body["transaction"]["reason"]["code"], "participant_error", "it is no answer");
        let _ = api.get("/readyz").await.expect(200);
    }
}

/// An epoch so many seconds ahead of the clock.
fn epoch_in(seconds: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, now + seconds, 0)).to_string()
}

/// Answers that this epoch of the coordinator is known already.
fn stale(coordinator: &Value, epoch: &str) -> impl Fn(&unanimous_tests::participant::Received) -> Act + use<> {
    let problem =
        json!({ "type": "/problems/stale-epoch", "status": 412, "epoch": epoch, "coordinator": coordinator["id"] });
    move |_| Act::Say(412, problem.clone())
}
