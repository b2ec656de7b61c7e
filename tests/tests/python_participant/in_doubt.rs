//! What the Python participant asks about a branch in doubt, which answers it obeys, what it reports afterwards, and how
//! an operator ends such a branch.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use unanimous_tests::{
    bank::{OPENING, account},
    server::Server,
    wait,
};

use crate::service::{
    COORDINATOR, NOWHERE, Service, id, id_ahead, is_python_there, message, state, vote, with_payload,
};

/// A call of a participant to its coordinator. An acknowledgement has a body.
#[derive(Clone, Debug)]
struct Received {
    transaction: String,
    branch: String,
    query: BTreeMap<String, String>,
    body: Value,
    headers: HeaderMap,
}

type Script = Box<dyn Fn(&Received) -> Response + Send + Sync>;

struct Shared {
    script: Mutex<Script>,
    received: Mutex<Vec<Received>>,
}

/// A coordinator inside the test that answers inquiries and acknowledgements as its script says.
struct Coordinator {
    shared: Arc<Shared>,
    server: Server,
}

impl Coordinator {
    fn scripted(script: impl Fn(&Received) -> Response + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared { script: Mutex::new(Box::new(script)), received: Mutex::default() });
        let router = Router::new()
            .route("/v1/transactions/{id}/decision", get(inquiry))
            .route("/v1/transactions/{id}/branches/{branch}/acknowledge", post(acknowledgement))
            .with_state(shared.clone());
        Self { shared, server: Server::start(router) }
    }

    /// From now on it follows another script.
    fn script(&self, script: impl Fn(&Received) -> Response + Send + Sync + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    fn inquiries(&self) -> Vec<Received> {
        lock(&self.shared.received).iter().filter(|received| received.body.is_null()).cloned().collect()
    }

    fn acknowledgements(&self) -> Vec<Received> {
        lock(&self.shared.received).iter().filter(|received| !received.body.is_null()).cloned().collect()
    }

    /// Returns the message about branch `b` of the nth transaction from this coordinator.
    fn message(&self, number: u32) -> Value {
        let mut message = message(number);
        message["coordinator"]["url"] = json!(self.server.url());
        message
    }

    /// Has the bank prepare the nth transaction, on the account of that number.
    async fn prepare(&self, bank: &Service, number: u32) {
        self.prepare_under(bank, number, 2).await;
    }

    /// Does the same under the epoch of this number.
    async fn prepare_under(&self, bank: &Service, number: u32, epoch: u32) {
        let account = account(usize::try_from(number).expect("it is small"));
        let mut prepare = with_payload(self.message(number), &account, -5);
        prepare["coordinator"]["epoch"] = json!(id(epoch));
        assert_eq!(vote(&bank.send("prepare", &prepare).await), (200, "prepared"));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn inquiry(
    State(shared): State<Arc<Shared>>,
    Path(transaction): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let branch = query.get("branch").cloned().unwrap_or_default();
    shared.answer(Received { transaction, branch, query, body: Value::Null, headers })
}

async fn acknowledgement(
    State(shared): State<Arc<Shared>>,
    Path((transaction, branch)): Path<(String, String)>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let body = serde_json::from_str(&body).unwrap_or_else(|_| json!("no JSON"));
    shared.answer(Received { transaction, branch, query: BTreeMap::new(), body, headers })
}

impl Shared {
    fn answer(&self, received: Received) -> Response {
        let answer = lock(&self.script)(&received);
        lock(&self.received).push(received);
        answer
    }
}

fn reply(status: u16, media: &str, body: String) -> Response {
    let status = StatusCode::from_u16(status).expect("it is a status");
    (status, [(header::CONTENT_TYPE, media.to_owned())], body).into_response()
}

fn json_reply(status: u16, body: &Value) -> Response {
    reply(status, "application/json", body.to_string())
}

fn problem(status: u16, name: &str) -> Response {
    json_reply(status, &json!({ "type": format!("/problems/{name}"), "status": status }))
}

fn unavailable(_: &Received) -> Response {
    problem(503, "not-ready")
}

/// Returns the answer to an inquiry that counts.
fn decided(received: &Received, decision: &str) -> Value {
    let epoch = received.query.get("epoch").cloned().unwrap_or_default();
    let coordinator = json!({ "id": COORDINATOR, "epoch": epoch, "url": NOWHERE, "horizon": id(0) });
    json!({
        "transaction": received.transaction, "branch": received.branch, "decision": decision, "presumed": false,
        "coordinator": coordinator,
    })
}

/// Returns the answer to an acknowledgement that counts.
fn acknowledged(received: &Received) -> Response {
    let state = &received.body["state"];
    json_reply(200, &json!({ "transaction": received.transaction, "branch": received.branch, "state": state }))
}

/// Answers inquiries with this decision, and takes acknowledgements.
fn decides(decision: &'static str) -> impl Fn(&Received) -> Response {
    move |received| match received.body {
        Value::Null => json_reply(200, &decided(received, decision)),
        _ => acknowledged(received),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_names_its_id_and_both_epochs_when_it_asks() {
    if !is_python_there() {
        return;
    }
    let coordinator = Coordinator::scripted(unavailable);
    let mut bank = Service::python_bank().await;
    coordinator.prepare(&bank, 1).await;
    let mut higher = coordinator.message(9);
    higher["coordinator"]["epoch"] = json!(id(3));
    let mine = bank.send("abort", &higher).await.expect(200).text("participant_id").to_owned();
    bank.restart().await;
    wait::until_so("it asks", async || !coordinator.inquiries().is_empty()).await;
    let asked = coordinator.inquiries().swap_remove(0);
    let expected = [
        ("branch", "b".to_owned()),
        ("coordinator", COORDINATOR.to_owned()),
        ("epoch", id(3)),
        ("participant_id", mine),
        ("prepared_epoch", id(2)),
    ];
    assert_eq!(asked.transaction, id(1));
    assert_eq!(asked.query, expected.map(|(name, value)| (name.to_owned(), value)).into());
    assert_eq!(asked.headers["cache-control"], "no-store");
    assert_eq!(asked.headers["unanimous-coordinator"], COORDINATOR);

    // A database of the first version has kept no epoch with the vote.
    let _ = bank.sql("UPDATE branches SET prepared_epoch = NULL").await;
    wait::until_so("it asks without that epoch", async || {
        coordinator.inquiries().iter().any(|asked| !asked.query.contains_key("prepared_epoch"))
    })
    .await;
}

/// How many ways there are in which an answer does not count.
const WRONG: u32 = 16;

/// Answers the inquiry about the nth of several transactions in the nth way that doesn't count. None: there is none.
fn wrong_answer(number: u32, received: &Received) -> Option<Response> {
    let right = decided(received, "commit");
    let with = |path: &str, value: Value| {
        let mut answer = right.clone();
        *answer.pointer_mut(path).expect("it is there") = value;
        answer
    };
    let answer = match number {
        1 => json_reply(201, &right),
        2 => json_reply(409, &right),
        3 => json_reply(200, &with("/transaction", json!(id(77)))),
        4 => json_reply(200, &with("/branch", json!("c"))),
        5 => json_reply(200, &with("/coordinator/id", json!("67e55044-10b1-426f-9247-000000000001"))),
        6 => json_reply(200, &with("/coordinator/epoch", json!(id(1)))),
        7 => json_reply(200, &with("/decision", json!("pending"))),
        8 => reply(200, "text/html", right.to_string()),
        9 => reply(200, "application/json", right.to_string().replace("\"branch\"", "\"branch\":\"b\",\"branch\"")),
        10 => reply(200, "application/json", right.to_string() + &" ".repeat(64 << 10)),
        11 => Redirect::temporary("/somewhere/else").into_response(),
        12 => problem(404, "unknown-transaction"),
        13 => problem(409, "not-my-log"),
        14 => problem(410, "forgotten"),
        15 => json_reply(200, &with("/coordinator", json!(null))),
        16 => json_reply(200, &with("/decision", json!("rollback"))),
        _ => return None,
    };
    Some(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_stays_in_doubt_at_answers_that_do_not_count() {
    if !is_python_there() {
        return;
    }
    let coordinator = Coordinator::scripted(|received| {
        let number = (1..=WRONG).find(|number| id(*number) == received.transaction);
        number.and_then(|number| wrong_answer(number, received)).unwrap_or_else(|| problem(503, "not-ready"))
    });
    let bank = Service::python_bank().await;
    for number in 1..=WRONG {
        coordinator.prepare(&bank, number).await;
    }
    wait::until_so("it has asked about each of them twice", async || {
        let inquiries = coordinator.inquiries();
        (1..=WRONG).all(|number| inquiries.iter().filter(|asked| asked.transaction == id(number)).count() > 1)
    })
    .await;
    assert_eq!(bank.in_doubt().await, WRONG as usize);
    coordinator.script(decides("commit"));
    bank.nothing_in_doubt().await;
    let accounts = bank.accounts().await;
    assert!((1..=WRONG as usize).all(|number| accounts[&account(number)] == OPENING - 5), "{accounts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_drops_an_answer_when_it_met_a_higher_epoch() {
    if !is_python_there() {
        return;
    }
    let coordinator = Coordinator::scripted(unavailable);
    let bank = Arc::new(Service::python_bank().await);
    coordinator.prepare(&bank, 1).await;
    let mut higher = coordinator.message(9);
    higher["coordinator"]["epoch"] = json!(id(3));
    // The higher epoch comes between the inquiry and its answer.
    let (handle, asked) = (tokio::runtime::Handle::current(), bank.clone());
    let first = Mutex::new(Some(higher));
    coordinator.script(move |received| {
        if let Some(higher) = lock(&first).take() {
            let (bank, handle) = (asked.clone(), handle.clone());
            let told = std::thread::spawn(move || handle.block_on(async move { bank.send("abort", &higher).await }));
            assert_eq!(told.join().expect("it is told").status, 200);
            return json_reply(200, &decided(received, "commit"));
        }
        problem(503, "not-ready")
    });
    wait::until_so("it asks again, under the higher epoch", async || {
        coordinator.inquiries().iter().any(|asked| asked.query["epoch"] == id(3))
    })
    .await;
    assert_eq!(bank.in_doubt().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_takes_no_horizon_from_an_answer() {
    if !is_python_there() {
        return;
    }
    let coordinator = Coordinator::scripted(|received| match received.body {
        Value::Null => {
            let mut answer = decided(received, "abort");
            answer["coordinator"]["horizon"] = json!(id(50));
            json_reply(200, &answer)
        }
        _ => acknowledged(received),
    });
    let bank = Service::python_bank().await;
    coordinator.prepare(&bank, 1).await;
    bank.nothing_in_doubt().await;
    assert_eq!(bank.accounts().await[&account(1)], OPENING);
    let again = with_payload(coordinator.message(1), &account(1), -5);
    assert_eq!(vote(&bank.send("prepare", &again).await), (409, "abort"), "it has aborted");
    assert_eq!(vote(&bank.prepare(2, &account(2), 1).await), (200, "prepared"), "nothing is below a horizon");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_keeps_what_is_forgotten_until_it_is_resolved() {
    if !is_python_there() {
        return;
    }
    let coordinator = Coordinator::scripted(|received| match received.body {
        Value::Null => problem(410, "forgotten"),
        _ => acknowledged(received),
    });
    let mut bank = Service::python_bank().await;
    for number in [1, 2] {
        coordinator.prepare(&bank, number).await;
    }
    wait::until_so("it asks again and again", async || coordinator.inquiries().len() > 5).await;
    let lines = |bank: &Service, number| bank.log().matches(&format!("transaction {} is in doubt", id(number))).count();
    assert_eq!((lines(&bank, 1), lines(&bank, 2)), (1, 1), "it says so once an hour:\n{}", bank.log());
    for part in
        ["older than the coordinator's retention", "called by", "Compare with the other", "participant.py resolve"]
    {
        assert!(bank.log().contains(part), "{part}:\n{}", bank.log());
    }
    assert_eq!(bank.in_doubt().await, 2);

    assert!(!bank.resolve(&id(1), "commit", "why").status.success(), "the database is in use");
    assert_eq!(bank.in_doubt().await, 2);
    bank.kill();
    for (number, decision, reason) in [(3, "commit", "why"), (1, "commit", " "), (1, "rollback", "why")] {
        assert!(!bank.resolve(&id(number), decision, reason).status.success(), "{number} {decision} {reason:?}");
    }
    assert!(bank.resolve(&id(1), "commit", "the other bank has committed").status.success());
    assert!(bank.resolve(&id(2), "abort", "nobody has committed").status.success());
    assert!(!bank.resolve(&id(1), "abort", "why").status.success(), "it has ended");
    bank.spawn_again();
    bank.ready().await;
    assert_eq!(bank.in_doubt().await, 0);
    let accounts = bank.accounts().await;
    assert_eq!((accounts[&account(1)], accounts[&account(2)]), (OPENING - 5, OPENING));

    // Neither the horizon nor a restart makes it forget what an operator did.
    let mut later = coordinator.message(9);
    later["coordinator"]["horizon"] = json!(id(9));
    let _ = bank.send("abort", &later).await.expect(200);
    let against = bank.send("abort", &coordinator.message(1)).await;
    assert_eq!(state(&against), (409, "heuristic_commit"));
    assert_eq!(against.text("detail"), "the other bank has committed");
    assert_eq!(state(&bank.send("commit", &coordinator.message(1)).await), (200, "committed"));
    let against = bank.send("commit", &coordinator.message(2)).await;
    assert_eq!(state(&against), (409, "heuristic_abort"));
    assert_eq!(against.text("detail"), "nobody has committed");
    assert_eq!(state(&bank.send("abort", &coordinator.message(2)).await), (200, "aborted"));
    assert_eq!(coordinator.acknowledgements().len(), 0, "its coordinator decided nothing of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_acknowledges_what_an_inquiry_ended() {
    if !is_python_there() {
        return;
    }
    let far = id_ahead(120);
    let count = Mutex::new(0);
    let coordinator = Coordinator::scripted(move |received| {
        let Value::Object(_) = received.body else { return json_reply(200, &decided(received, "commit")) };
        *lock(&count) += 1;
        let stale = |epoch: &str| {
            json_reply(412, &json!({ "type": "/problems/stale-epoch", "coordinator": COORDINATOR, "epoch": epoch }))
        };
        match *lock(&count) {
            1 => problem(503, "not-ready"),
            2 => stale(&far),
            3 => stale(&id(4)),
            4 => json_reply(200, &json!({ "transaction": id(77), "branch": "b", "state": "committed" })),
            _ => acknowledged(received),
        }
    });
    let mut bank = Service::python_bank().await;
    coordinator.prepare(&bank, 1).await;
    let mine = bank.api.get("/accounts").await.expect(200).body["participant_id"].clone();
    wait::until_so("it has acknowledged", async || coordinator.acknowledgements().len() == 5).await;
    bank.nothing_in_doubt().await;
    let told = coordinator.acknowledgements();
    let epochs: Vec<&str> = told.iter().filter_map(|told| told.body["coordinator"]["epoch"].as_str()).collect();
    assert_eq!(epochs, [&*id(2), &*id(2), &*id(2), &*id(4), &*id(4)], "only a plausible epoch is taken over");
    for told in &told {
        assert_eq!((&*told.transaction, &*told.branch), (&*id(1), "b"));
        assert_eq!((&told.body["state"], &told.body["participant_id"]), (&json!("committed"), &mine));
        assert_eq!(told.body["coordinator"]["id"], COORDINATOR);
        assert_eq!(told.headers["cache-control"], "no-store");
        assert_eq!(told.headers["unanimous-coordinator"], COORDINATOR);
        assert_eq!(told.headers["content-type"], "application/json");
    }
    let stale = bank.send("commit", &coordinator.message(1)).await.expect(412);
    assert_eq!(stale.text("epoch"), id(4), "it keeps the epoch that it was told");
    bank.restart().await;
    coordinator.prepare_under(&bank, 2, 4).await;
    wait::until_so("it acknowledges the second", async || {
        coordinator.acknowledgements().iter().any(|told| told.transaction == id(2))
    })
    .await;
    let of_first = coordinator.acknowledgements().iter().filter(|told| told.transaction == id(1)).count();
    assert_eq!(of_first, 5, "what was taken is not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_stops_acknowledging_at_404_and_409() {
    if !is_python_there() {
        return;
    }
    let coordinator = Coordinator::scripted(|received| match (&received.body, &*received.transaction) {
        (Value::Null, _) => json_reply(200, &decided(received, "abort")),
        (_, of) if of == id(1) => problem(404, "unknown-transaction"),
        (_, of) if of == id(2) => problem(409, "branch-conflict"),
        (_, of) if of == id(3) => reply(404, "text/html", "no page of this proxy".to_owned()),
        _ => problem(503, "not-ready"),
    });
    let mut bank = Service::python_bank().await;
    for number in 1..=4 {
        coordinator.prepare(&bank, number).await;
    }
    let told = |number| coordinator.acknowledgements().iter().filter(|told| told.transaction == id(number)).count();
    wait::until_so("it repeats what was not answered", async || told(3) > 2 && told(4) > 2).await;
    assert_eq!((told(1), told(2)), (1, 1));
    bank.restart().await;
    wait::until_so("it tells them once more after a start", async || told(1) == 2 && told(2) == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_bank_acknowledges_after_a_start_what_calls_ended() {
    if !is_python_there() {
        return;
    }
    let coordinator = Coordinator::scripted(decides("abort"));
    let mut bank = Service::python_bank().await;
    for number in [3, 4] {
        coordinator.prepare(&bank, number).await;
    }
    // These would be told first, as they are older.
    let refused = bank.send("prepare", &with_payload(coordinator.message(1), &account(3), -5)).await;
    assert_eq!(vote(&refused), (409, "abort"));
    assert_eq!(state(&bank.send("abort", &coordinator.message(2)).await), (200, "aborted"), "a tombstone");
    assert_eq!(state(&bank.send("commit", &coordinator.message(3)).await), (200, "committed"));
    assert_eq!(state(&bank.send("abort", &coordinator.message(4)).await), (200, "aborted"));
    bank.restart().await;
    wait::until_so("it has acknowledged both", async || coordinator.acknowledgements().len() > 1).await;
    let told = coordinator.acknowledgements();
    let told: Vec<_> = told.iter().map(|told| (&*told.transaction, told.body["state"].as_str())).collect();
    assert_eq!(told, [(&*id(3), Some("committed")), (&*id(4), Some("aborted"))], "of those that had voted");
}
