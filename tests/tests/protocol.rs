//! Rules of the wire protocol that no other test shows: what a message looks like, what is an answer and what isn't,
//! keys, lists and limits. `participant-sdk/PROTOCOL.md` names the tests of each rule.

use std::{collections::BTreeSet, path::Path};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect},
    routing::post,
};
use reqwest::Method;
use serde_json::{Value, json};
use unanimous_tests::{
    api::{Answer, Api},
    binaries::binary,
    local::Local,
    participant::{Act, Branch, Call, Participant},
    process::Process,
    server::{Server, free_port},
    wait,
};

const BEGIN: &str = "/v1/transactions";

fn branch(participant: &Participant) -> Value {
    json!({ "participant": participant.url(), "payload": {} })
}

fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object.as_object().expect("it is an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_shows_these_members_and_its_id_is_a_uuid_of_version_7() {
    let coordinator = Local::start().await;
    let participant = Participant::start();
    let answer = coordinator.api.run(&json!([branch(&participant)])).await.expect(200);
    let shown = coordinator.api.finished(answer.text("id")).await;
    let members = [
        "branches",
        "created_at",
        "deadline",
        "decided_at",
        "decision",
        "finished_at",
        "heuristic",
        "id",
        "metadata",
        "reason",
        "sequence",
        "state",
    ];
    assert_eq!(names(&shown), members);
    let of_a_branch = [
        "acknowledged",
        "attempts",
        "branch",
        "last_error",
        "next_attempt_at",
        "participant",
        "participant_id",
        "state",
        "vote",
    ];
    assert_eq!(names(&shown["branches"][0]), of_a_branch);
    let id = shown["id"].as_str().unwrap();
    let uuid = uuid::Uuid::parse_str(id).unwrap();
    assert_eq!((uuid.get_version_num(), uuid.hyphenated().to_string().as_str()), (7, id));
    for time in ["created_at", "deadline", "decided_at", "finished_at"] {
        let text = shown[time].as_str().unwrap();
        assert!(unanimous_sdk::protocol::UnixMillis::parse(text).is_some() && text.ends_with('Z'), "{time}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branchs_name_has_its_form_and_a_participants_url_is_compared_normalised() {
    let coordinator = Local::start().await;
    let id = coordinator.api.begin(&json!({})).await;
    let enlist = async |name: &str, participant: &str| {
        coordinator.api.enlist(&id, &json!({ "participant": participant, "branch": name })).await
    };
    let longest = "a".repeat(64);
    for name in ["a", "7", "A-z_0.9", &longest] {
        let _ = enlist(name, "http://127.0.0.1:9/bank").await.expect(201);
    }
    for name in ["", ".a", "-a", "_a", "a b", "a/b", "é", &"a".repeat(65)] {
        assert_eq!(enlist(name, "http://127.0.0.1:9/bank").await.expect(400).problem(), "malformed", "{name:?}");
    }
    let _ = enlist("default-port", "http://localhost/bank").await.expect(201);
    let _ = enlist("default-port", "HTTP://LocalHost:80/bank/").await.expect(200);
    assert_eq!(enlist("default-port", "http://localhost:81/bank").await.expect(409).problem(), "branch-conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_numbered_from_one_without_gaps_commits_and_aborts_alike() {
    let coordinator = Local::start().await;
    let (willing, unwilling) = (Participant::start(), Participant::scripted(|_| Act::Refuse("no")));
    let runs = (0..12).map(|number| {
        let (api, last) =
            (coordinator.api.clone(), if number % 3 == 0 { branch(&unwilling) } else { branch(&willing) });
        let first = branch(&willing);
        tokio::spawn(async move { api.run(&json!([first, last])).await })
    });
    let mut numbers = BTreeSet::new();
    for run in runs.collect::<Vec<_>>() {
        let answer = run.await.unwrap();
        let shown = if answer.status == 200 { &answer.body } else { &answer.body["transaction"] };
        numbers.insert(shown["sequence"].as_u64().expect("a decision has its number"));
    }
    assert_eq!(numbers, (1..=12).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn null_is_absent_and_no_body_is_an_empty_object() {
    let coordinator = Local::start().await;
    let api = &coordinator.api;
    let begun = api.call(Method::POST, BEGIN, &[], None).await.unwrap().expect(201);
    let nulls = json!({ "timeout_ms": null, "metadata": null, "branches": null, "commit": null, "respond": null });
    let _ = api.post(BEGIN, &nulls).await.expect(201);
    let id = begun.text("id");
    let enlisted = json!({ "participant": "http://127.0.0.1:9", "branch": "b", "payload": null });
    let _ = api.enlist(id, &enlisted).await.expect(201);
    let _ = api.enlist(id, &json!({ "participant": "http://127.0.0.1:9", "branch": "b" })).await.expect(200);
    let _ = api.call(Method::POST, &format!("{BEGIN}/{id}/abort"), &[], None).await.unwrap().expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_at_an_enlistment_names_its_branch_and_its_coordinator() {
    let coordinator = Local::start().await;
    let (api, participant) = (&coordinator.api, Participant::start());
    let who = api.who().await;
    let id = api.begin(&json!({})).await;
    let voted = |branch: Value, coordinator: Value| json!({ "participant": participant.url(), "branch": branch, "vote": "prepared", "coordinator": coordinator });
    for (body, field) in [(voted(Value::Null, who.clone()), "branch"), (voted(json!("b"), Value::Null), "coordinator")]
    {
        let refused = api.enlist(&id, &body).await.expect(400);
        assert!(refused.text("detail").contains(field), "{refused:?}");
    }
    let mut stale = who.clone();
    stale["epoch"] = json!("01890a5d-1111-7000-8000-000000000001");
    let refused = api.enlist(&id, &voted(json!("b"), stale)).await.expect(412);
    assert_eq!((refused.problem(), &refused.body["epoch"]), ("stale-epoch", &who["epoch"]));
    assert!(
        api.transaction(&id).await["branches"].as_array().unwrap().is_empty(),
        "nothing of that has changed anything"
    );
    let _ = api.enlist(&id, &voted(json!("b"), who)).await.expect(201);
    assert_eq!(api.transaction(&id).await["branches"][0]["vote"], "prepared");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_says_whose_it_is_and_a_prepare_how_long_there_is() {
    let coordinator = Local::start().await;
    let who = coordinator.api.who().await;
    let participant = Participant::start();
    let work = json!({ "participant": participant.url(), "branch": "b", "payload": { "n": 1 } });
    let body = json!({ "timeout_ms": 60_000, "branches": [work], "commit": true });
    let answer = coordinator.api.post(BEGIN, &body).await.expect(200);
    coordinator.api.finished(answer.text("id")).await;
    let received = participant.received();
    let [prepare, commit] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!(
        names(&prepare.body),
        ["branch", "coordinator", "deadline", "payload", "remaining_ms", "transaction"],
        "{prepare:?}"
    );
    assert_eq!(names(&commit.body), ["branch", "coordinator", "transaction"], "{commit:?}");
    for message in [prepare, commit] {
        assert_eq!((message.transaction(), message.branch()), (answer.text("id"), "b"));
        let from = &message.body["coordinator"];
        assert_eq!(names(from), ["epoch", "horizon", "id", "url"]);
        assert_eq!((&from["id"], &from["epoch"], &from["url"]), (&who["id"], &who["epoch"], &who["url"]));
    }
    assert_eq!(prepare.body["deadline"], answer.body["deadline"]);
    assert!((1..=60_000).contains(&prepare.body["remaining_ms"].as_u64().unwrap()), "{prepare:?}");
}

/// How a transaction is shown whose participant answers every prepare like this: once that has counted, or it was asked
/// again.
async fn answered(coordinator: &Local, answer: impl IntoResponse + Clone + Send + Sync + 'static) -> Value {
    let prepare = post(async move || answer.clone());
    let obeys = Router::new()
        .route("/prepare", prepare)
        .route("/abort", post(async || ([(header::CONTENT_TYPE, "application/json")], r#"{"state": "aborted"}"#)));
    let (server, api) = (Server::start(obeys), &coordinator.api);
    let body = json!({ "timeout_ms": 120_000, "branches": [{ "participant": server.url(), "payload": {} }] });
    let id = api.begin(&body).await;
    let commit = api.commit_in_background(&id);
    let shown = wait::until("there is an answer, or it is asked again", async || {
        let shown = api.transaction(&id).await;
        (shown["decision"] != Value::Null || shown["branches"][0]["attempts"].as_u64() > Some(1)).then_some(shown)
    })
    .await;
    let _ = api.abort(&id).await.expect(200);
    let _ = commit.await.unwrap().unwrap().expect(409);
    api.finished(&id).await;
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_exactly_an_answer_is_none_and_no_redirect_is_followed() {
    const JSON: &str = "application/json";
    let coordinator = Local::start().await;
    let (ok, yes) = (StatusCode::OK, r#"{"vote": "prepared"}"#);
    let long = format!(r#"{{"vote": "prepared", "more": "{}"}}"#, "x".repeat(64 * 1024));
    let answers = [
        (StatusCode::CREATED, JSON, yes),
        (StatusCode::INTERNAL_SERVER_ERROR, JSON, yes),
        (StatusCode::CONFLICT, JSON, yes),
        (ok, JSON, r#"{"vote": "abort"}"#),
        (ok, JSON, r#"{"vote": "yes"}"#),
        (ok, JSON, r#"["prepared"]"#),
        (ok, JSON, ""),
        (ok, "text/plain", yes),
        (ok, JSON, long.as_str()),
    ];
    let is_none = |shown: &Value| {
        let branch = &shown["branches"][0];
        assert_eq!((&shown["state"], &branch["vote"]), (&json!("preparing"), &Value::Null), "{shown}");
        assert!(branch["last_error"].is_string(), "it is said what was wrong: {shown}");
    };
    for (status, media, body) in answers {
        let answer = (status, [(header::CONTENT_TYPE, media.to_owned())], body.to_owned());
        is_none(&answered(&coordinator, answer).await);
    }
    let elsewhere = Participant::start();
    is_none(&answered(&coordinator, Redirect::temporary(&format!("{}/prepare", elsewhere.url()))).await);
    assert_eq!(elsewhere.received().len(), 0);
    // Members it doesn't know, and another kind of JSON, make no difference.
    let odd = (
        StatusCode::CONFLICT,
        [(header::CONTENT_TYPE, "application/vnd.bank+json; charset=utf-8")],
        r#"{"vote": "abort", "reason": "no", "x": 1}"#,
    );
    assert_eq!(answered(&coordinator, odd).await["reason"]["code"], "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_that_is_not_unknown_branch_is_a_misrouted_call_and_no_answer() {
    let coordinator = Local::start().await;
    let participant = Participant::scripted(|received| match received.call {
        Call::Commit => Act::Say(404, json!({ "type": "/problems/not-found", "status": 404 })),
        Call::Prepare | Call::Abort => Act::Obey,
    });
    let id = coordinator.api.run(&json!([branch(&participant)])).await.expect(200).text("id").to_owned();
    wait::until_so("it is asked again", async || participant.count(Call::Commit) > 1).await;
    assert_eq!(coordinator.api.transaction(&id).await["state"], "committing");
    participant.script(|_| Act::Obey);
    assert_eq!(coordinator.api.finished(&id).await["heuristic"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_is_given_up_and_made_again() {
    let coordinator = Local::start().await;
    let participant = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    });
    let id = coordinator.api.begin(&json!({ "branches": [branch(&participant)], "timeout_ms": 120_000 })).await;
    let commit = coordinator.api.commit_in_background(&id);
    wait::until_so("it is asked again", async || participant.count(Call::Prepare) == 2).await;
    participant.release();
    let _ = commit.await.unwrap().unwrap().expect(200);
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxies_of_the_environment_are_not_used() {
    let (home, port, participant) = (tempfile::tempdir().unwrap(), free_port(), Participant::start());
    let (program, listen) = (binary("unanimous"), format!("127.0.0.1:{port}"));
    let data = home.path().join("data");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let args = [
        "http_proxy=http://127.0.0.1:9",
        "HTTP_PROXY=http://127.0.0.1:9",
        "ALL_PROXY=http://127.0.0.1:9",
        &text(&program),
        "serve",
        "--listen",
        &listen,
        "--data-dir",
        &text(&data),
    ];
    let _process = Process::start(Path::new("env"), &args, None, &home.path().join("log"));
    let api = Api::new(&format!("http://{listen}"));
    wait::until_so("it is ready", async || api.try_get("/readyz").await.is_ok_and(|answer| answer.status == 200)).await;
    let _ = api.run(&json!([branch(&participant)])).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_participants_on_the_allow_list_are_enlisted_by_whole_segments() {
    let coordinator = Local::start_with(&["--allow-participant", "http://127.0.0.1:9/pay"]).await;
    let id = coordinator.api.begin(&json!({})).await;
    let enlist = async |url: &str| coordinator.api.enlist(&id, &json!({ "participant": url })).await;
    for url in ["http://127.0.0.1:9/pay", "http://127.0.0.1:9/pay/eu/", "HTTP://127.0.0.1:9/pay"] {
        let _ = enlist(url).await.expect(201);
    }
    for url in [
        "http://127.0.0.1:9",
        "http://127.0.0.1:9/payments",
        "http://127.0.0.1:10/pay",
        "https://127.0.0.1:9/pay",
        "http://localhost:9/pay",
        "http://[::1]:9/pay",
    ] {
        assert_eq!(enlist(url).await.expect(403).problem(), "forbidden-participant", "{url}");
    }
    for url in [
        "http://127.0.0.1:9/pay/../admin",
        "http://127.0.0.1:9/pay/%2e%2e/admin",
        "http://127.0.0.1:9/pay%2fx",
        "http://me@127.0.0.1:9/pay",
        "http://127.0.0.1:9/pay?x=1",
        "http://127.0.0.1:9/pay#x",
        "ftp://127.0.0.1:9/pay",
    ] {
        assert_eq!(enlist(url).await.expect(400).problem(), "malformed", "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_a_limit_nothing_changes_and_the_field_is_named() {
    let coordinator = Local::start_with(&["--max-branches", "3", "--max-undecided", "1"]).await;
    let api = &coordinator.api;
    let branch = json!({ "participant": "http://127.0.0.1:9" });
    let many_keys: serde_json::Map<String, Value> = (0..17).map(|n| (format!("k{n}"), json!("v"))).collect();
    for (body, field) in [
        (json!({ "timeout_ms": 86_400_001 }), "timeout_ms"),
        (json!({ "metadata": many_keys }), "metadata"),
        (json!({ "metadata": { ("k".repeat(129)): "v" } }), "metadata"),
        (json!({ "metadata": { "k": "v".repeat(1025) } }), "metadata"),
        (json!({ "branches": [branch, branch, branch, branch] }), "branches"),
    ] {
        let refused = api.post(BEGIN, &body).await.expect(422);
        assert_eq!(refused.problem(), "invalid");
        assert!(refused.text("detail").contains(field), "{refused:?}");
    }
    let id = api.begin(&json!({ "branches": [branch, branch], "timeout_ms": 86_400_000 })).await;
    let _ = api.enlist(&id, &branch).await.expect(201);
    assert_eq!(api.enlist(&id, &branch).await.expect(422).problem(), "invalid");
    let long = json!({ "reason": "x".repeat(1025) });
    assert_eq!(api.post(&format!("{BEGIN}/{id}/abort"), &long).await.expect(422).problem(), "invalid");
    let overloaded = api.post(BEGIN, &json!({})).await.expect(503);
    assert_eq!(overloaded.problem(), "overloaded");
    assert!(overloaded.headers.contains_key("retry-after"));
    let items = api.get(BEGIN).await.expect(200).body["items"].as_array().unwrap().len();
    assert_eq!(items, 1, "nothing of all that was begun");
    // What only waits for acknowledgements doesn't count.
    let _ = api.abort(&id).await.expect(200);
    let _ = api.post(BEGIN, &json!({})).await.expect(201);
}

async fn keyed(api: &Api, path: &str, key: &str, body: &Value) -> Answer {
    api.post_with(path, &[("idempotency-key", key)], body).await
}

fn is_replayed(answer: &Answer) -> bool {
    answer.headers.get("idempotency-replayed").is_some_and(|value| value == "true")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_under_its_key_is_answered_with_the_transaction_as_it_is_now() {
    let coordinator = Local::start().await;
    let (api, participant) = (&coordinator.api, Participant::start());
    let body = json!({ "metadata": { "a": "1", "b": "2" } });
    let begun = keyed(api, BEGIN, "k", &body).await.expect(201);
    assert!(!is_replayed(&begun));
    let id = begun.text("id");
    let path = format!("{BEGIN}/{id}/branches");
    let first = keyed(api, &path, "k", &branch(&participant)).await.expect(201);
    let again = keyed(api, &path, "k", &branch(&participant)).await.expect(201);
    assert_eq!((&first.body["branch"], is_replayed(&again)), (&again.body["branch"], true), "no second branch");
    let commit = format!("{BEGIN}/{id}/commit");
    let _ = keyed(api, &commit, "k", &json!({})).await.expect(200);
    api.finished(id).await;
    assert!(is_replayed(&keyed(api, &commit, "k", &json!({})).await.expect(200)));
    // Equal is what differs in order and spelling only. A begin stays 201, and shows what has become of it.
    let spelled = r#"{ "metadata": {"b": "\u0032", "a": "1"}, "timeout_ms": null }"#.to_owned();
    let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
    let repeat = api.call(Method::POST, BEGIN, &headers, Some(spelled)).await.unwrap().expect(201);
    assert_eq!((repeat.text("id"), repeat.text("state"), is_replayed(&repeat)), (id, "committed", true));
    let listed = api.get(&format!("{BEGIN}?idempotency_key=k")).await.expect(200);
    assert_eq!((listed.body["items"].as_array().unwrap().len(), &listed.body["items"][0]["id"]), (1, &json!(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_another_body_is_refused_and_a_refused_call_binds_none() {
    let coordinator = Local::start().await;
    let (api, participant) = (&coordinator.api, Participant::start());
    let who = api.who().await;
    assert_eq!(keyed(api, BEGIN, "k", &json!({ "timeout_ms": 0 })).await.expect(422).problem(), "invalid");
    let begun = keyed(api, BEGIN, "k", &json!({})).await.expect(201);
    assert!(!is_replayed(&begun), "a refused call has bound nothing");
    assert_eq!(keyed(api, BEGIN, "k", &json!({ "timeout_ms": 5 })).await.expect(422).problem(), "key-reused");
    let id = begun.text("id");
    participant.prepare(id, "b");
    let enlisted = json!({ "participant": participant.url(), "branch": "b" });
    let _ = api.enlist(id, &enlisted).await.expect(201);
    let vote = format!("{BEGIN}/{id}/branches/b/vote");
    let _ = keyed(api, &vote, "v", &json!({ "vote": "prepared", "coordinator": who })).await.expect(200);
    let with_less = json!({ "vote": "prepared", "coordinator": { "id": who["id"], "epoch": who["epoch"] } });
    assert!(is_replayed(&keyed(api, &vote, "v", &with_less).await.expect(200)), "its coordinator is no part of it");
    let other = json!({ "vote": "read_only", "coordinator": who });
    assert_eq!(keyed(api, &vote, "v", &other).await.expect(422).problem(), "key-reused");
    for key in ["a b", &"k".repeat(256)] {
        let refused = keyed(api, BEGIN, key, &json!({})).await.expect(400);
        assert!(refused.text("detail").contains("Idempotency-Key"), "{refused:?}");
    }
    let _ = keyed(api, BEGIN, &"k".repeat(255), &json!({})).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_that_come_at_the_same_time_are_one_transaction() {
    let coordinator = Local::start().await;
    let participant = Participant::start();
    let body = json!({ "branches": [branch(&participant)], "commit": true, "respond": "finished" });
    let runs = (0..8).map(|_| {
        let (api, body) = (coordinator.api.clone(), body.clone());
        tokio::spawn(async move { keyed(&api, BEGIN, "k", &body).await.expect(200) })
    });
    let mut ids = BTreeSet::new();
    let mut replayed = 0;
    for run in runs.collect::<Vec<_>>() {
        let answer = run.await.unwrap();
        assert_eq!(answer.text("state"), "committed", "a repeat waits as the first does");
        replayed += usize::from(is_replayed(&answer));
        ids.insert(answer.text("id").to_owned());
    }
    assert_eq!((ids.len(), replayed, participant.received().len()), (1, 7, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_newest_first_and_takes_these_filters() {
    let coordinator = Local::start().await;
    let (api, willing, unwilling) =
        (&coordinator.api, Participant::start(), Participant::scripted(|_| Act::Refuse("no")));
    let run = async |order: &str, of: &Participant| {
        let body =
            json!({ "metadata": { "order": order }, "branches": [branch(of)], "commit": true, "respond": "finished" });
        let answer = api.post(BEGIN, &body).await;
        let shown = if answer.status == 200 { &answer.body } else { &answer.body["transaction"] };
        let id = shown["id"].as_str().unwrap().to_owned();
        api.finished(&id).await;
        id
    };
    let ids =
        [run("1", &willing).await, run("2", &unwilling).await, run("1", &willing).await, api.begin(&json!({})).await];
    let [first, aborted, third, active] = [&ids[0], &ids[1], &ids[2], &ids[3]];
    let list = async |query: &str| {
        let answer = api.get(&format!("{BEGIN}?{query}")).await.expect(200);
        let items = answer.body["items"].as_array().unwrap().iter();
        (
            items.map(|item| item["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>(),
            answer.body["next_cursor"].clone(),
        )
    };
    let created = api.transaction(third).await["created_at"].as_str().unwrap().to_owned();
    let participant = format!("participant={}", unwilling.url());
    let (since, until) = (format!("since={created}"), format!("until={created}"));
    for (query, expected) in [
        ("", vec![active, third, aborted, first]),
        ("state=committed,aborted", vec![third, aborted, first]),
        ("state=aborted", vec![aborted]),
        ("heuristic=true", vec![]),
        ("heuristic=false&metadata.order=1", vec![third, first]),
        ("metadata.order=1&state=aborted", vec![]),
        (participant.as_str(), vec![aborted]),
        (since.as_str(), vec![active, third]),
        (until.as_str(), vec![aborted, first]),
    ] {
        let (found, cursor) = list(query).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query}");
        assert_eq!(cursor, Value::Null, "{query}");
    }
    // A page at a time, while others begin.
    let (mut found, mut cursor) = list("limit=1").await;
    while let Some(next) = cursor.as_str().map(str::to_owned) {
        api.begin(&json!({})).await;
        let (more, after) = list(&format!("limit=1&cursor={next}")).await;
        found.extend(more);
        cursor = after;
    }
    assert_eq!(found.iter().collect::<Vec<_>>(), [active, third, aborted, first]);
    for (query, status) in
        [("nonsense=1", 400), ("state=nonsense", 400), ("limit=x", 400), ("limit=0", 422), ("limit=1001", 422)]
    {
        let refused = api.get(&format!("{BEGIN}?{query}")).await.expect(status);
        assert!(refused.text("detail").contains(query.split('=').next().unwrap()), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heuristic_end_is_final_named_and_never_a_clean_commit() {
    let coordinator = Local::start().await;
    let stubborn = Participant::scripted(|received| match received.call {
        Call::Commit => Act::Say(409, json!({ "state": "heuristic_abort", "detail": "the till was closed" })),
        Call::Prepare | Call::Abort => Act::Obey,
    });
    let other = Participant::start();
    let id = coordinator.api.run(&json!([branch(&stubborn), branch(&other)])).await.expect(200).text("id").to_owned();
    let ended = coordinator.api.finished(&id).await;
    assert_eq!((&ended["state"], &ended["heuristic"]), (&json!("committed"), &json!(true)));
    let shown = &ended["branches"][0];
    assert_eq!((&shown["state"], &shown["detail"]), (&json!("heuristic_abort"), &json!("the till was closed")));
    assert_eq!(other.branch(&id, "2"), Some(Branch::Committed));
    assert_eq!(stubborn.count(Call::Commit), 1, "it is not asked again");
    let listed = coordinator.api.get(&format!("{BEGIN}?heuristic=true")).await.expect(200);
    assert_eq!(listed.body["items"][0]["id"], json!(id));
}
