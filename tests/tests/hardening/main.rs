//! Bad input can do no harm: it is a 4xx that names the field, or a closed connection, and nothing else changes.

mod garbage;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use unanimous_tests::{coordinator::Coordinator, local::Local, participant::Participant, wait};

/// What came back; no status: the connection was closed without a word.
#[derive(Debug)]
struct Heard {
    status: Option<u16>,
    head: String,
    body: Vec<u8>,
}

/// What a client does when it has sent all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Listen,
    Close,
}

/// Sends bytes on a connection of their own, and hears until it is closed.
async fn send(address: &str, bytes: &[u8], then: Then) -> Heard {
    let mut stream = TcpStream::connect(address).await.expect("the coordinator listens");
    // It may close before all is sent.
    let _ = stream.write_all(bytes).await;
    if then == Then::Close {
        let _ = stream.shutdown().await;
    }
    hear(stream).await
}

async fn hear(mut stream: TcpStream) -> Heard {
    let mut all = vec![];
    let hearing = tokio::time::timeout(wait::BOUND, stream.read_to_end(&mut all)).await;
    // A connection that is reset has ended, too.
    let _ = hearing.expect("the connection is closed");
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").map_or(all.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
    let status = head.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok());
    Heard { status, head, body: all.split_off(end) }
}

/// A coordinator with a committed transaction and an active one, which garbage must leave as they are.
struct Target {
    coordinator: Local,
    address: String,
    active: String,
    before: (Value, u64),
    _participant: Participant,
}

impl Target {
    async fn start() -> Self {
        let (coordinator, participant) = (Local::start().await, Participant::start());
        let branch = json!({ "participant": participant.url(), "payload": {} });
        let whole = json!({ "branches": [branch], "commit": true, "respond": "finished" });
        let _ = coordinator.api.post("/v1/transactions", &whole).await.expect(200);
        let later = json!({ "branches": [branch], "timeout_ms": 86_400_000 });
        let active = coordinator.api.begin(&later).await;
        let address = coordinator.api.base().replace("http://", "");
        let mut target = Self { coordinator, address, active, before: (Value::Null, 0), _participant: participant };
        target.before = target.now().await;
        target
    }

    /// Everything that a coordinator has: its transactions, and how often its log was synced.
    async fn now(&self) -> (Value, u64) {
        let all = self.coordinator.api.get("/v1/transactions?limit=1000").await.expect(200).body;
        (all, self.coordinator.forced_writes())
    }

    async fn assert_unchanged(&self) {
        assert_eq!(self.now().await, self.before, "garbage has changed something");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_a_4xx_or_a_closed_connection_and_changes_nothing() {
    let target = Target::start().await;
    for (what, bytes) in garbage::below_http() {
        let heard = send(&target.address, &bytes, Then::Close).await;
        let refused = heard.status.is_none_or(|status| (400..500).contains(&status));
        assert!(refused, "{what}: {heard:?}");
    }
    target.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_to_any_call_is_a_problem_that_names_the_field_and_changes_nothing() {
    let target = Target::start().await;
    let mut faults = vec![];
    for bad in garbage::requests(&target.active) {
        let heard = send(&target.address, &bad.bytes(), Then::Listen).await;
        let problem: Value = serde_json::from_slice(&heard.body).unwrap_or_default();
        let status = heard.status.unwrap_or_default();
        let is_problem = heard.head.contains("content-type: application/problem+json") && problem["status"] == status;
        let names = problem["detail"].as_str().is_some_and(|detail| detail.contains(bad.names));
        if !(400..500).contains(&status) || !is_problem || !names {
            let body = String::from_utf8_lossy(&bad.body[..bad.body.len().min(200)]);
            faults
                .push(format!("{} {:.200} {body} must name {:?}: {status} {problem}", bad.method, bad.path, bad.names));
        }
    }
    assert!(faults.is_empty(), "{} bad answers:\n{}", faults.len(), faults.join("\n"));
    target.assert_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_too_slowly_is_cut_off() {
    let target = Target::start().await;
    let partly = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&target.address).await.expect("the coordinator listens");
        stream.write_all(bytes).await.expect("it takes the beginning");
        hear(stream).await
    };
    let (line, headers, body) = tokio::join!(
        partly(b"POST /v1/trans"),
        partly(b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-"),
        partly(
            b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{\"commit\""
        ),
    );
    for heard in [line, headers, body] {
        assert!(heard.status.is_none_or(|status| (400..500).contains(&status)), "{heard:?}");
    }
    target.assert_unchanged().await;
}

/// Sends all that is bad, again and again, to a process of its own, and says what it has in memory: after the first
/// round, after each of the others, and how many calls a round has.
async fn resident_after(rounds: usize) -> (u64, Vec<u64>, u64) {
    let coordinator = Coordinator::start().await;
    let address = coordinator.api.base().replace("http://", "");
    let active = coordinator.api.begin(&json!({ "timeout_ms": 86_400_000 })).await;
    let all: Vec<Vec<u8>> = garbage::requests(&active).iter().map(garbage::Bad::bytes).collect();
    let mut resident = vec![];
    for _ in 0..=rounds {
        for bytes in &all {
            send(&address, bytes, Then::Listen).await;
        }
        resident.push(coordinator.process.resident_bytes());
    }
    assert_eq!(coordinator.api.transaction(&active).await["state"], "active");
    (resident.remove(0), resident, all.len() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_leaves_nothing_in_memory() {
    let (_, resident, calls) = resident_after(48).await;
    // Until then the allocator fills its arenas, one for each thread, whatever the calls leave behind.
    let (warm, others) = resident.split_at(24);
    let calls = calls * others.len() as u64;
    assert!(calls > 10_000, "{calls} are too few to tell");
    let grown = others[others.len() - 1].saturating_sub(warm[warm.len() - 1]);
    // Their bodies alone have 10 KiB on average.
    assert!(grown < calls * 1024, "{calls} calls have left {grown} bytes behind: {warm:?}, then {others:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, which takes minutes; it prints what it finds"]
async fn a_hundred_thousand_bad_calls_measured() {
    let (first, others, calls) = resident_after(220).await;
    println!("{calls} calls: {first} bytes");
    for (at, resident) in others.iter().enumerate().filter(|(at, _)| (at + 1) % 20 == 0) {
        println!("{} calls: {resident} bytes", calls * (at as u64 + 2));
    }
}
