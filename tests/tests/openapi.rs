//! The API against its own description: every call, with good and bad input, is answered as `/openapi.json` says.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use unanimous_coordinator::api::{AllowList, App, RequestLimits, router};
use unanimous_tests::{
    api::{Answer, Api},
    local::Local,
    openapi::Description,
    participant::{Act, Call, Participant},
    server::Server,
    wait,
};

const UNKNOWN: &str = "01890a5d-1111-7000-8000-000000000001";
const OTHER_LOG: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
const JSON: (&str, &str) = ("content-type", "application/json");

/// Makes calls, and holds every answer against the description.
struct Held {
    api: Api,
    description: Description,
    seen: BTreeSet<String>,
}

impl Held {
    async fn call(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        let sent = self.api.call(method.clone(), path, headers, body.map(str::to_owned)).await;
        let answer = sent.expect("a call is answered");
        let which = self.description.fits(&method, path, &answer).unwrap_or_else(|fault| panic!("{fault}"));
        self.seen.insert(which);
        answer
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], None).await
    }

    async fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, &[JSON], Some(&body.to_string())).await
    }

    /// What every POST refuses in the same way.
    async fn post_badly(&mut self, path: &str) {
        let large = format!(r#"{{"reason": "{}"}}"#, "x".repeat(1 << 20));
        let _ = self.call(Method::POST, path, &[JSON], Some(&large)).await.expect(413);
        let _ = self.call(Method::POST, path, &[("content-type", "text/plain")], Some("{}")).await.expect(415);
        let _ = self.call(Method::POST, path, &[JSON], Some("{")).await.expect(400);
    }

    /// The same Idempotency-Key with two bodies.
    async fn post_twice(&mut self, path: &str, key: &str, first: &Value, second: &Value) {
        let headers = [JSON, ("idempotency-key", key)];
        let once = self.call(Method::POST, path, &headers, Some(&first.to_string())).await;
        let again = self.call(Method::POST, path, &headers, Some(&first.to_string())).await;
        assert!(once.status < 400 && again.headers.contains_key("idempotency-replayed"), "{once:?} {again:?}");
        let other = self.call(Method::POST, path, &headers, Some(&second.to_string())).await.expect(422);
        assert_eq!(other.problem(), "key-reused");
    }

    async fn begin(&mut self, branches: &Value) -> String {
        self.post("/v1/transactions", &json!({ "branches": branches })).await.expect(201).text("id").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_one_that_is_described_and_every_described_answer_is_given() {
    let coordinator = Local::start().await;
    let description = coordinator.api.get("/openapi.json").await.expect(200).body;
    let mut held =
        Held { api: coordinator.api.clone(), description: Description::new(description), seen: BTreeSet::new() };
    whole(&mut held).await;
    transactions(&mut held).await;
    branches(&mut held).await;
    lists_and_inquiries(&mut held).await;
    acknowledgements(&mut held).await;
    meant_for_another_log(&mut held).await;
    drop(coordinator);
    forgotten(&mut held).await;
    before_the_log_is_loaded(&mut held).await;
    let missing: Vec<String> = held.description.answers().difference(&held.seen).cloned().collect();
    assert!(missing.is_empty(), "described, but never given here: {missing:#?}");
}

/// What is about the coordinator itself.
async fn whole(held: &mut Held) {
    for path in ["/openapi.json", "/v1/coordinator", "/healthz", "/readyz", "/metrics", "/problems/malformed"] {
        let _ = held.get(path).await.expect(200);
    }
    let page = held.call(Method::GET, "/problems/malformed", &[("accept", "text/html")], None).await.expect(200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let _ = held.get("/problems/none").await.expect(404);
    let _ = held.get("/problems/%ff").await.expect(400);
    let _ = held.get("/v1/nothing").await.expect(404);
    let _ = held.call(Method::DELETE, "/v1/transactions", &[], None).await.expect(405);
}

async fn transactions(held: &mut Held) {
    let (begin, nobody) = ("/v1/transactions", format!("/v1/transactions/{UNKNOWN}"));
    let (willing, unwilling) = (Participant::start(), Participant::scripted(|_| Act::Refuse("overdrawn")));
    let silent = Participant::scripted(|_| Act::Hold);
    let on = |participant: &Participant| json!([{ "participant": participant.url(), "payload": {} }]);
    let whole = json!({ "branches": on(&willing), "commit": true, "respond": "finished", "metadata": { "a": "b" } });
    let committed = held.post(begin, &whole).await.expect(200).text("id").to_owned();
    let _ = held.post(begin, &json!({ "branches": on(&unwilling), "commit": true })).await.expect(409);
    let hurried = [JSON, ("prefer", "wait=0")];
    let waits = json!({ "branches": on(&silent), "commit": true }).to_string();
    let preparing = held.call(Method::POST, begin, &hurried, Some(&waits)).await.expect(202).text("id").to_owned();
    held.post_badly(begin).await;
    let elsewhere = json!({ "branches": [{ "participant": "http://10.1.2.3" }] });
    let _ = held.post(begin, &elsewhere).await.expect(403);
    held.post_twice(begin, "begin", &json!({}), &json!({ "timeout_ms": 5 })).await;

    let _ = held.get(&format!("{begin}/{committed}")).await.expect(200);
    let _ = held.get(&format!("{begin}/{preparing}")).await.expect(200);
    let _ = held.get(&nobody).await.expect(404);
    let _ = held.get("/v1/transactions/17").await.expect(400);

    let path = |id: &str, what: &str| format!("{begin}/{id}/{what}");
    let id = held.begin(&on(&willing)).await;
    held.post_twice(&path(&id, "commit"), "commit", &json!({}), &json!({ "respond": "finished" })).await;
    let _ = held.call(Method::POST, &path(&preparing, "commit"), &hurried, Some("{}")).await.expect(202);
    let id = held.begin(&on(&unwilling)).await;
    let _ = held.post(&path(&id, "commit"), &json!({})).await.expect(409);
    let _ = held.post(&path(UNKNOWN, "commit"), &json!({})).await.expect(404);
    held.post_badly(&path(&committed, "commit")).await;

    let _ = held.post(&path(&preparing, "abort"), &json!({ "reason": "too slow" })).await.expect(200);
    let id = held.begin(&on(&willing)).await;
    held.post_twice(&path(&id, "abort"), "abort", &json!({}), &json!({ "reason": "other" })).await;
    let _ = held.post(&path(&committed, "abort"), &json!({})).await.expect(409);
    let _ = held.post(&path(UNKNOWN, "abort"), &json!({})).await.expect(404);
    held.post_badly(&path(&committed, "abort")).await;
    silent.release();
}

async fn branches(held: &mut Held) {
    let participant = Participant::start();
    let who = held.get("/v1/coordinator").await.expect(200).body;
    let mut earlier = who.clone();
    earlier["epoch"] = json!(UNKNOWN);
    let id = held.begin(&json!([])).await;
    let enlist = format!("/v1/transactions/{id}/branches");
    let branch = json!({ "participant": participant.url(), "branch": "b", "payload": [1, "two", null] });
    let _ = held.post(&enlist, &branch).await.expect(201);
    let _ = held.post(&enlist, &branch).await.expect(200);
    let other = json!({ "participant": participant.url(), "branch": "b", "payload": 2 });
    let _ = held.post(&enlist, &other).await.expect(409);
    let _ = held.post(&enlist, &json!({ "participant": "http://10.1.2.3" })).await.expect(403);
    let stale = json!({ "participant": participant.url(), "branch": "c", "vote": "prepared", "coordinator": earlier });
    let _ = held.post(&enlist, &stale).await.expect(412);
    let _ = held.post(&format!("/v1/transactions/{UNKNOWN}/branches"), &branch).await.expect(404);
    held.post_badly(&enlist).await;
    let (first, second) = (json!({ "participant": participant.url() }), json!({ "participant": "http://[::1]:9" }));
    held.post_twice(&enlist, "enlist", &first, &second).await;

    let vote = |branch: &str| format!("/v1/transactions/{id}/branches/{branch}/vote");
    let prepared = json!({ "vote": "prepared", "coordinator": who });
    let read_only = json!({ "vote": "read_only", "coordinator": who });
    participant.prepare(&id, "b");
    held.post_twice(&vote("b"), "vote", &prepared, &read_only).await;
    let _ = held.post(&vote("b"), &read_only).await.expect(409);
    let _ = held.post(&vote("nobody"), &prepared).await.expect(404);
    let _ = held.post(&vote("b"), &json!({ "vote": "prepared", "coordinator": earlier })).await.expect(412);
    held.post_badly(&vote("b")).await;
    let _ = held.post(&format!("/v1/transactions/{id}/abort"), &json!({})).await.expect(200);
}

async fn lists_and_inquiries(held: &mut Held) {
    let all = held.get("/v1/transactions").await.expect(200).body;
    assert!(all["items"].as_array().is_some_and(|items| items.len() > 5), "{all}");
    let queries = ["limit=2", "state=committed,aborted&heuristic=false", "metadata.a=b", "idempotency_key=commit"];
    for query in queries {
        let page = held.get(&format!("/v1/transactions?{query}")).await.expect(200).body;
        assert!(!page["items"].as_array().is_some_and(Vec::is_empty), "{query}: {page}");
    }
    let _ = held.get("/v1/transactions?colour=red").await.expect(400);
    let _ = held.get("/v1/transactions?limit=0").await.expect(422);

    let who = held.get("/v1/coordinator").await.expect(200).body;
    let (id, epoch) = (who["id"].as_str().unwrap_or_default(), who["epoch"].as_str().unwrap_or_default());
    let decision = format!("/v1/transactions/{UNKNOWN}/decision");
    let presumed = held.get(&format!("{decision}?coordinator={id}&epoch={epoch}&branch=1")).await.expect(200);
    assert_eq!((&presumed.body["decision"], &presumed.body["presumed"]), (&json!("abort"), &json!(true)));
    let _ = held.get(&format!("{decision}?coordinator={OTHER_LOG}&epoch={epoch}&branch=1")).await.expect(409);
    let _ = held.get(&decision).await.expect(404);
    let _ = held.get(&format!("{decision}?epoch=yesterday")).await.expect(400);
}

async fn acknowledgements(held: &mut Held) {
    let silent = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Obey,
        Call::Commit | Call::Abort => Act::Say(503, json!({})),
    });
    let who = held.get("/v1/coordinator").await.expect(200).body;
    let me = json!({ "id": who["id"], "epoch": who["epoch"] });
    let whole = json!({ "branches": [{ "participant": silent.url(), "payload": {} }], "commit": true });
    let id = held.post("/v1/transactions", &whole).await.expect(200).text("id").to_owned();
    let path = |id: &str, branch: &str| format!("/v1/transactions/{id}/branches/{branch}/acknowledge");
    let aborted = json!({ "state": "aborted", "coordinator": me });
    let _ = held.post(&path(&id, "1"), &aborted).await.expect(409);
    let stale = json!({ "state": "committed", "coordinator": { "id": who["id"], "epoch": UNKNOWN } });
    let _ = held.post(&path(&id, "1"), &stale).await.expect(412);
    let _ = held.post(&path(UNKNOWN, "1"), &aborted).await.expect(404);
    held.post_badly(&path(&id, "1")).await;
    let committed = json!({ "state": "committed", "coordinator": me });
    let _ = held.post(&path(&id, "1"), &committed).await.expect(200);
}

/// Every call can be meant for another log.
async fn meant_for_another_log(held: &mut Held) {
    let all: Vec<String> = held.description.answers().into_iter().filter(|answer| answer.ends_with(" 409")).collect();
    assert!(all.len() > 10, "{all:?}");
    for call in all {
        let mut words = call.split(' ');
        let method = words.next().unwrap_or_default().to_uppercase();
        let path = words.next().unwrap_or_default().replace("{id}", UNKNOWN).replace("{branch}", "1");
        let path = path.replace("{name}", "malformed");
        let method = Method::from_bytes(method.as_bytes()).expect("a method is described");
        let headers = [JSON, ("unanimous-coordinator", OTHER_LOG)];
        assert_eq!(held.call(method, &path, &headers, None).await.expect(409).problem(), "not-my-log", "{path}");
    }
}

/// A transaction that retention has dropped.
async fn forgotten(held: &mut Held) {
    let coordinator = Local::start_with(&["--retain", "1s"]).await;
    held.api = coordinator.api.clone();
    let id = held.begin(&json!([])).await;
    let _ = held.post(&format!("/v1/transactions/{id}/abort"), &json!({})).await.expect(200);
    wait::until_so("it is dropped", async || {
        coordinator.api.begin(&json!({})).await;
        coordinator.api.get(&format!("/v1/transactions/{id}")).await.status == 404
    })
    .await;
    let who = held.get("/v1/coordinator").await.expect(200).body;
    let (log, epoch) = (who["id"].as_str().unwrap_or_default(), who["epoch"].as_str().unwrap_or_default());
    let path = format!("/v1/transactions/{id}/decision?coordinator={log}&epoch={epoch}&branch=1");
    let _ = held.get(&path).await.expect(410);
}

async fn before_the_log_is_loaded(held: &mut Held) {
    let limits =
        RequestLimits { body_bytes: 1 << 20, branches: 256, default_timeout_ms: 30_000, max_timeout_ms: 60_000 };
    let loading = Server::start(router(App::new(AllowList::default(), limits)));
    held.api = Api::new(&loading.url());
    let all: Vec<String> = held.description.answers().into_iter().filter(|answer| answer.ends_with(" 503")).collect();
    assert!(all.len() > 10, "{all:?}");
    for call in all {
        let mut words = call.split(' ');
        let method = words.next().unwrap_or_default().to_uppercase();
        let path = words.next().unwrap_or_default().replace("{id}", UNKNOWN).replace("{branch}", "1");
        let method = Method::from_bytes(method.as_bytes()).expect("a method is described");
        let answer = held.call(method, &path, &[JSON], None).await.expect(503);
        assert_eq!(answer.problem(), "not-ready");
        assert!(answer.headers.contains_key("retry-after"));
    }
}
