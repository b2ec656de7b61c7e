//! What the Python participant makes of each message: who may speak, what is kept, and what every answer says.

use reqwest::Method;
use serde_json::{Value, json};
use unanimous_tests::{
    api::Answer,
    bank::{OPENING, account},
};

use crate::service::{
    COORDINATOR, NOWHERE, Service, id, id_ahead, is_python_there, message, run_sql, state, tempdir, vote, with_payload,
};

/// Returns the id of the nth of several coordinators.
fn coordinator(number: u32) -> String {
    format!("67e55044-10b1-426f-9247-{number:012x}")
}

/// Returns the message about the nth transaction from a coordinator of the same number.
fn message_of(number: u32) -> Value {
    let mut message = message(number);
    message["coordinator"]["id"] = json!(coordinator(number));
    message
}

/// Returns the message about the nth transaction from a coordinator of the same number, as a prepare for that account.
fn prepare_of(number: u32) -> Value {
    with_payload(message_of(number), &account(usize::try_from(number).expect("it is small")), 1)
}

fn assert_implausible(answer: Answer, field: &str) {
    let answer = answer.expect(400);
    assert_eq!((answer.problem(), answer.text("field")), ("implausible", field));
    assert!(answer.text("detail").contains(field), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_refuses_epoch_far_ahead_and_keeps_nothing() {
    if !is_python_there() {
        return;
    }
    let mut bank = Service::python_bank().await;
    for far in ["ffffffff-ffff-7fff-bfff-ffffffffffff", &id_ahead(61)] {
        let mut forged = with_payload(message(3), &account(1), 1);
        forged["coordinator"]["epoch"] = json!(far);
        for call in ["prepare", "commit", "abort"] {
            assert_implausible(bank.send(call, &forged).await, "coordinator.epoch");
        }
        assert_eq!(bank.sql("SELECT id FROM coordinators").await, json!([]), "not even the id is kept");
    }
    assert_eq!(vote(&bank.prepare(3, &account(1), 1).await), (200, "prepared"), "the real coordinator is obeyed");
    let mut near = message(3);
    near["coordinator"]["epoch"] = json!(id_ahead(59));
    assert_eq!(state(&bank.send("commit", &near).await), (200, "committed"), "an epoch within the hour is taken");

    // The clock was set back by two hours since this epoch became known.
    let known = id_ahead(120);
    bank.sql(&format!("UPDATE coordinators SET epoch = '{known}'")).await;
    near["coordinator"]["epoch"] = json!(known);
    assert_eq!(state(&bank.send("commit", &near).await), (200, "committed"), "what is known is not measured again");
    near["coordinator"]["epoch"] = json!(id_ahead(121));
    assert_implausible(bank.send("commit", &near).await, "coordinator.epoch");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_refuses_horizon_above_its_transaction() {
    if !is_python_there() {
        return;
    }
    let mut bank = Service::python_bank().await;
    let _ = bank.prepare(3, &account(1), -5).await.expect(200);
    let _ = bank.commit(3).await.expect(200);
    for call in ["prepare", "commit", "abort"] {
        let mut forged = with_payload(message(4), &account(2), 1);
        forged["coordinator"]["epoch"] = json!(id(7));
        forged["coordinator"]["horizon"] = json!(id(5));
        assert_implausible(bank.send(call, &forged).await, "coordinator.horizon");
    }
    let kept = bank.sql("SELECT epoch, horizon FROM coordinators").await;
    assert_eq!(kept, json!([[id(2), id(0)]]), "neither the horizon nor the epoch is kept");
    assert_eq!(state(&bank.commit(3).await), (200, "committed"), "nothing was forgotten");
    assert_eq!(bank.commit(4).await.expect(404).problem(), "unknown-branch", "nothing was done");
    let equal = bank.told("abort", 6, 2, 6, &json!({})).await;
    assert_eq!(state(&equal), (200, "aborted"), "a horizon may be the transaction itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_serves_but_keeps_no_horizon_far_ahead() {
    if !is_python_there() {
        return;
    }
    let mut bank = Service::python_bank().await;
    let _ = bank.prepare(3, &account(1), -5).await.expect(200);
    let _ = bank.commit(3).await.expect(200);
    let mut ahead = with_payload(message(4), &account(2), 1);
    ahead["transaction"] = json!(id_ahead(63));
    ahead["coordinator"]["horizon"] = json!(id_ahead(62));
    assert_eq!(vote(&bank.send("prepare", &ahead).await), (200, "prepared"));
    assert_eq!(bank.sql("SELECT horizon FROM coordinators").await, json!([[id(0)]]));
    assert_eq!(state(&bank.commit(3).await), (200, "committed"), "nothing was forgotten");
    assert_eq!(vote(&bank.prepare(5, &account(3), 1).await), (200, "prepared"), "nothing is below it");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_knows_at_most_16_coordinators_with_branches() {
    if !is_python_there() {
        return;
    }
    let mut bank = Service::python_bank().await;
    for number in 1..=16 {
        let mut prepare = prepare_of(number);
        prepare["coordinator"]["epoch"] = json!(id(number));
        prepare["coordinator"]["horizon"] = json!(id(number));
        assert_eq!(vote(&bank.send("prepare", &prepare).await), (200, "prepared"));
    }
    for call in ["prepare", "commit", "abort"] {
        let further = bank.send(call, &prepare_of(17)).await.expect(403);
        assert_eq!(further.problem(), "forbidden-coordinator");
        assert!(further.text("detail").contains("COORDINATOR"), "it names the setting: {further:?}");
    }
    let known = bank.sql(&format!("SELECT count(*), sum(id = '{}') FROM coordinators", coordinator(17))).await;
    assert_eq!(known, json!([[16, 0]]), "nothing is kept of it");

    // What is committed holds the place, too. What is aborted holds none.
    let mut end = message_of(1);
    end["coordinator"]["epoch"] = json!(id(1));
    assert_eq!(state(&bank.send("commit", &end).await), (200, "committed"));
    assert_eq!(bank.send("prepare", &prepare_of(17)).await.expect(403).problem(), "forbidden-coordinator");
    let mut end = message_of(9);
    end["coordinator"]["epoch"] = json!(id(9));
    assert_eq!(state(&bank.send("abort", &end).await), (200, "aborted"));
    assert_eq!(vote(&bank.send("prepare", &prepare_of(17)).await), (200, "prepared"), "it has the place of the ninth");

    // The ninth comes back when there is a place. Its epoch and its horizon were kept.
    let mut end = message_of(10);
    end["coordinator"]["epoch"] = json!(id(10));
    assert_eq!(state(&bank.send("abort", &end).await), (200, "aborted"));
    let mut ninth = prepare_of(9);
    ninth["coordinator"]["epoch"] = json!(id(8));
    let stale = bank.send("prepare", &ninth).await.expect(412);
    assert_eq!((stale.problem(), stale.text("epoch")), ("stale-epoch", &*id(9)));
    ninth["coordinator"]["epoch"] = json!(id(9));
    ninth["transaction"] = json!(id(8));
    assert_eq!(vote(&bank.send("prepare", &ninth).await), (409, "abort"), "it is below the horizon");
    let places = bank.sql("SELECT id FROM coordinators WHERE place = 0").await;
    assert_eq!(places, json!([[coordinator(10)]]), "one of 17 has no place");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_lets_forged_tombstones_lock_out_nobody() {
    if !is_python_there() {
        return;
    }
    let mut bank = Service::python_bank().await;
    for number in 1..=16 {
        // The commits of unknown branches leave nothing, the aborts tombstones.
        let call = if number == 7 || number == 5 { "commit" } else { "abort" };
        let _ = bank.send(call, &message_of(number)).await;
    }
    let _ = bank.send("commit", &message_of(5)).await.expect(404);
    let without_place = "SELECT id FROM coordinators WHERE place = 0 ORDER BY id";
    assert_eq!(vote(&bank.send("prepare", &prepare_of(17)).await), (200, "prepared"));
    assert_eq!(bank.sql(without_place).await, json!([[coordinator(7)]]), "who has no tombstone goes first");
    assert_eq!(state(&bank.send("abort", &message_of(18)).await), (200, "aborted"));
    let gone = json!([[coordinator(5)], [coordinator(7)]]);
    assert_eq!(bank.sql(without_place).await, gone, "and of those the one longest unused");
    let further = bank.send("abort", &message_of(19)).await.expect(403);
    assert_eq!(further.problem(), "forbidden-coordinator", "one tombstone gives no place to another");
    assert_eq!(state(&bank.send("abort", &message_of(1)).await), (200, "aborted"), "a repeat is a use");
    assert_eq!(vote(&bank.send("prepare", &prepare_of(20)).await), (200, "prepared"), "but it gives it to work");
    let gone = json!([[coordinator(2)], [coordinator(5)], [coordinator(7)]]);
    assert_eq!(bank.sql(without_place).await, gone);
    let left = bank.sql(&format!("SELECT count(*) FROM branches WHERE id = '{}'", coordinator(2))).await;
    assert_eq!(left, json!([[0]]), "its tombstones go with its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_keeps_epochs_of_10_000_former_coordinators() {
    if !is_python_there() {
        return;
    }
    let mut bank = Service::python_bank().await;
    let former = format!(
        "WITH RECURSIVE n(n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM n WHERE n < 10099) INSERT INTO coordinators \
         (id, epoch, url, horizon, place) SELECT printf('67e55044-10b1-426f-9247-%012x', n), '{}', '{NOWHERE}', '{}', 0 FROM n",
        id(9),
        id(0)
    );
    bank.sql(&former).await;
    for number in 1..=17 {
        let _ = bank.send("commit", &message_of(number)).await.expect(404);
    }
    let kept = bank.sql("SELECT count(*), min(id) FROM coordinators WHERE place = 0").await;
    assert_eq!(kept, json!([[10_000, coordinator(1)]]));
    assert_eq!(bank.send("abort", &message_of(101)).await.expect(412).problem(), "stale-epoch", "the latest are kept");
    assert_eq!(state(&bank.send("abort", &message_of(100)).await), (200, "aborted"), "the first one is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_obeys_named_coordinators_alone() {
    if !is_python_there() {
        return;
    }
    let named = "https://coordinator.example:7070/tx";
    let bank = Service::python_bank_in(tempdir(), &["http://127.0.0.1:7070", &format!("{named}/")]).await;
    let mut other = message(3);
    for url in [NOWHERE, "https://coordinator.example:7070", "https://coordinator.example:7070/tx/2"] {
        other["coordinator"]["url"] = json!(url);
        assert_eq!(bank.send("abort", &other).await.expect(403).problem(), "forbidden-coordinator", "{url}");
    }
    for number in 1..=20 {
        let mut message = prepare_of(number);
        message["coordinator"]["url"] = json!(named);
        assert_eq!(vote(&bank.send("prepare", &message).await), (200, "prepared"), "without a bound");
    }
}

/// Asserts that an answer says which store gave it, is about this branch, and may not be kept by a gateway.
fn assert_signed(answer: &Answer, participant_id: &Value, branch: Option<(&str, &str)>) {
    let (transaction, name) = branch.unzip();
    assert_eq!(answer.body["participant_id"], *participant_id, "{answer:?}");
    assert_eq!(answer.body["transaction"], json!(transaction), "{answer:?}");
    assert_eq!(answer.body["branch"], json!(name), "{answer:?}");
    assert_eq!(answer.headers["cache-control"], "no-store", "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_mints_one_id_and_names_call_and_store() {
    if !is_python_there() {
        return;
    }
    let (mut bank, other) = (Service::python_bank().await, Service::python_bank().await);
    let mine = bank.api.get("/accounts").await.expect(200).body["participant_id"].clone();
    assert!(mine.as_str().is_some_and(|id| uuid::Uuid::parse_str(id).is_ok()), "{mine}");
    assert_ne!(other.api.get("/accounts").await.expect(200).body["participant_id"], mine);
    bank.restart().await;

    let about = |answer: Answer, status, transaction: u32| {
        assert_signed(&answer.expect(status), &mine, Some((&id(transaction), "b")));
    };
    about(bank.prepare(3, &account(1), -1).await, 200, 3);
    about(bank.prepare(3, &account(1), -2).await, 422, 3);
    about(bank.prepare(4, &account(1), -1).await, 409, 4);
    about(bank.commit(3).await, 200, 3);
    about(bank.abort(3).await, 409, 3);
    about(bank.abort(5).await, 200, 5);
    about(bank.commit(6).await, 404, 6);
    about(bank.told("abort", 7, 1, 0, &json!({})).await, 412, 7);
    about(bank.told("abort", 7, 2, 8, &json!({})).await, 400, 7);
    about(bank.told("abort", 7, 2, 0, &json!({ "participant_id": id(1) })).await, 421, 7);
    about(bank.told("abort", 7, 2, 0, &json!({ "coordinator": null })).await, 400, 7);
    let mut remote = message(7);
    remote["coordinator"]["url"] = json!("http://10.0.0.1:7070");
    about(bank.send("abort", &remote).await, 403, 7);

    let of_no_branch = [
        bank.api.get("/branches?state=prepared").await.expect(200),
        bank.api.post("/batch", &json!({})).await.expect(404),
        bank.api.get("/prepare").await.expect(405),
        bank.api.post("/prepare", &json!({ "transaction": 17, "branch": "b" })).await.expect(400),
        bank.api.post("/prepare", &json!({ "payload": "x".repeat(1 << 20) })).await.expect(413),
    ];
    for answer in of_no_branch {
        assert_signed(&answer, &mine, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_refuses_what_is_meant_for_another_store() {
    if !is_python_there() {
        return;
    }
    let mut bank = Service::python_bank().await;
    let prepared = bank.prepare(3, &account(1), -5).await.expect(200);
    let another = "67e55044-10b1-426f-9247-000000000000";
    // It is judged first: each of these messages has another fault, too.
    let mut faults = [message(3), message(3), message(3), message(3)];
    faults[1]["coordinator"]["url"] = json!("http://10.0.0.1:7070");
    faults[2]["coordinator"]["epoch"] = json!(id_ahead(120));
    faults[3]["coordinator"]["epoch"] = json!(id(1));
    for mut message in faults {
        message["participant_id"] = json!(another);
        for call in ["prepare", "commit", "abort"] {
            let answer = bank.send(call, &with_payload(message.clone(), &account(1), -5)).await.expect(421);
            assert_eq!(answer.problem(), "misdirected");
        }
    }
    let mut higher = message(3);
    higher["participant_id"] = json!(another);
    higher["coordinator"]["epoch"] = json!(id(8));
    let _ = bank.send("commit", &higher).await.expect(421);
    let kept = bank.sql("SELECT state, epoch FROM branches JOIN coordinators USING (id)").await;
    assert_eq!(kept, json!([["prepared", id(2)]]), "nothing has changed");
    let mut mine = message(3);
    mine["participant_id"] = prepared.body["participant_id"].clone();
    assert_eq!(state(&bank.send("commit", &mine).await), (200, "committed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_names_the_field_that_is_malformed() {
    if !is_python_there() {
        return;
    }
    let mut bank = Service::python_bank().await;
    let whole = with_payload(message(3), &account(1), 1);
    for (path, wrong) in [
        ("transaction", json!("17")),
        ("transaction", json!(id(3).to_uppercase())),
        ("branch", json!("a b")),
        ("branch", json!("b".repeat(65))),
        ("coordinator", json!([])),
        ("coordinator.id", json!(null)),
        ("coordinator.epoch", json!(2)),
        ("coordinator.url", json!("ftp://127.0.0.1")),
        ("coordinator.horizon", json!("")),
        ("participant_id", json!("me")),
        ("remaining_ms", json!("1000")),
        ("remaining_ms", json!(true)),
        ("remaining_ms", json!(null)),
    ] {
        let mut message = whole.clone();
        match path.split_once('.') {
            Some((outer, inner)) => message[outer][inner] = wrong.clone(),
            None => message[path] = wrong.clone(),
        }
        let answer = bank.send("prepare", &message).await.expect(400);
        assert_eq!(answer.problem(), "malformed");
        assert!(answer.text("detail").contains(path), "{path} {wrong}: {answer:?}");
    }

    let with = |payload: &str| {
        let text = whole.to_string();
        text.replacen("{\"account\"", &format!("{{\"more\":{payload},\"account\""), 1)
    };
    let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    for body in [
        with("{\"twice\":1,\"twice\":1}"),
        with("\"\\ud800\""),
        with("NaN"),
        with("1e999"),
        with("[1,]"),
        with(&nested(99)),
        with(&nested(100_000)),
        format!("[{whole}]"),
        whole.to_string().replace("\"branch\":", "\"branch\":\"b\",\"branch\":"),
        String::new(),
    ] {
        let answer = post(&bank, "/prepare", &[("content-type", "application/json")], &body).await.expect(400);
        assert_eq!(answer.problem(), "malformed", "{}", &body[..body.len().min(200)]);
    }
    assert_eq!(bank.sql("SELECT count(*) FROM branches").await, json!([[0]]), "nothing was changed");
    let deepest = post(&bank, "/prepare", &[], &with(&nested(98))).await;
    assert_eq!(vote(&deepest), (200, "prepared"), "100 levels in all, unknown members, no Content-Type");
}

async fn post(bank: &Service, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    bank.api.call(Method::POST, path, headers, Some(body.to_owned())).await.expect("a POST is answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_takes_only_plain_json_of_up_to_1_mib() {
    if !is_python_there() {
        return;
    }
    let bank = Service::python_bank().await;
    let abort = message(3).to_string();
    for headers in [
        [("content-type", "text/plain"), ("content-encoding", "identity")],
        [("content-type", "application/jsonp"), ("content-encoding", "identity")],
        [("content-type", "application/json"), ("content-encoding", "gzip")],
    ] {
        let answer = post(&bank, "/abort", &headers, &abort).await.expect(415);
        assert_eq!(answer.problem(), "unsupported-media-type");
    }
    for media in ["application/json", "application/json; charset=utf-8", "application/cloudevents+json"] {
        assert_eq!(
            state(&post(&bank, "/abort", &[("content-type", media)], &abort).await),
            (200, "aborted"),
            "{media}"
        );
    }
    let full = abort.clone() + &" ".repeat((1 << 20) - abort.len());
    assert_eq!(state(&post(&bank, "/abort", &[], &full).await), (200, "aborted"));
    assert_eq!(post(&bank, "/abort", &[], &format!("{full} ")).await.expect(413).problem(), "too-large");
    let method = bank.api.call(Method::PUT, "/abort", &[], None).await.expect("a PUT is answered").expect(405);
    assert_eq!(method.problem(), "method-not-allowed");
    assert_eq!(method.headers["allow"], "POST");
}

/// Makes the tables of the first version, in which a branch is prepared, one is committed, and one has a tombstone.
fn first_version(home: &std::path::Path) {
    let (coordinator, posting) = (COORDINATOR, json!({ "account": account(1), "cents": -5 }));
    let row = |number, state, payload: &str| {
        let transaction = id(number);
        format!(
            "; INSERT INTO branches (id, xid, branch, state, payload) VALUES ('{coordinator}', '{transaction}', 'b', \
             '{state}', {payload})"
        )
    };
    let tables = format!(
        "PRAGMA journal_mode=WAL; CREATE TABLE accounts (account TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0)); \
         CREATE TABLE coordinators (id TEXT PRIMARY KEY, epoch TEXT, url TEXT, horizon TEXT); \
         CREATE TABLE branches (id TEXT, xid TEXT, branch TEXT, state TEXT, payload TEXT, reason TEXT, \
         account TEXT AS (json_extract(payload, '$.account')), added INTEGER AS (json_extract(payload, '$.cents')), \
         since TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ')), PRIMARY KEY (id, xid, branch)); \
         CREATE UNIQUE INDEX locks ON branches (account) WHERE state = 'prepared'; \
         INSERT INTO accounts VALUES ('{}', 50); \
         INSERT INTO coordinators VALUES ('{coordinator}', '{}', '{NOWHERE}', '{}')",
        account(1),
        id(2),
        id(0)
    );
    let payload = format!("'{posting}'");
    let rows = [row(3, "prepared", &payload), row(4, "commit", &payload), row(5, "abort", "NULL")];
    let _ = run_sql(home, &format!("{tables}{}", rows.concat()));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_goes_on_with_a_database_of_version_one() {
    if !is_python_there() {
        return;
    }
    let home = tempdir();
    first_version(home.path());
    let mut bank = Service::python_bank_in(home, &[]).await;
    let minted = bank.api.get("/accounts").await.expect(200).body["participant_id"].clone();
    assert!(minted.is_string(), "it gets an id at its first start");
    bank.restart().await;
    assert_eq!(bank.api.get("/accounts").await.expect(200).body["participant_id"], minted, "and keeps it");
    assert_eq!(bank.in_doubt().await, 1);
    assert_eq!(bank.told("commit", 3, 1, 0, &json!({})).await.expect(412).problem(), "stale-epoch");
    assert_eq!(state(&bank.commit(3).await), (200, "committed"));
    assert_eq!(bank.accounts().await[&account(1)], 45);
    assert_eq!(state(&bank.commit(4).await), (200, "committed"));
    assert_eq!(vote(&bank.prepare(5, &account(2), 1).await), (409, "abort"), "its tombstone is there");
    assert_eq!(vote(&bank.prepare(6, &account(2), 1).await), (200, "prepared"));
    assert_eq!(bank.accounts().await[&account(2)], OPENING);
}
