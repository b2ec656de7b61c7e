//! The client and the reading of answers, against servers that do what a script says.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json, value::RawValue};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use unanimous_sdk::protocol::{
    Coordinator, MAX_CALL_BYTES, ParticipantId, PrepareAnswer, TransactionId, UnixMillis, Vote,
};

use super::{client::Client, size::max_payload_bytes, *};
use crate::transaction::Call;

const LIMIT: Duration = Duration::from_millis(400);

/// A try that nothing lets end.
const LONG: Duration = Duration::from_mins(2);

const STORE: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
const OTHER_STORE: &str = "77e55044-10b1-426f-9247-bb680e5fe0c8";

/// What came.
#[derive(Clone, Debug)]
struct Seen {
    /// On which connection, from 0.
    connection: usize,
    head: String,
    body: Value,
}

/// What a server does with a request.
enum Say {
    Answer(u16, Value),
    /// With a header.
    With(&'static str, u16, Value),
    /// This text, as the whole answer's body.
    Text(u16, String),
    Nothing,
    Close,
}

type Script = dyn Fn(&Seen) -> Say + Send + Sync;

struct Server {
    url: ParticipantUrl,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    /// Connections that the client has closed.
    closed: Arc<AtomicUsize>,
}

impl Server {
    async fn start(script: impl Fn(&Seen) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<AtomicUsize>::default());
        let closed = Arc::<AtomicUsize>::default();
        let (script, all, count): (Arc<Script>, _, _) = (Arc::new(script), seen.clone(), connections.clone());
        let ends = closed.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = count.fetch_add(1, Ordering::Relaxed);
                let (script, all, ends) = (script.clone(), all.clone(), ends.clone());
                tokio::spawn(async move {
                    if serve(stream, connection, script, all).await.is_ok_and(|by_client| by_client) {
                        ends.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { url, seen, connections, closed }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Serves a connection; whether the client has closed it.
async fn serve(
    stream: TcpStream,
    connection: usize,
    script: Arc<Script>,
    all: Arc<Mutex<Vec<Seen>>>,
) -> io::Result<bool> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(true);
            }
        }
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await?;
        let seen = Seen { connection, head, body: serde_json::from_slice(&body).unwrap_or_default() };
        all.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
        let (header, status, body) = match script(&seen) {
            Say::Answer(status, body) => ("x: y", status, body.to_string()),
            Say::With(header, status, body) => (header, status, body.to_string()),
            Say::Text(status, body) => ("x: y", status, body),
            Say::Nothing => std::future::pending().await,
            Say::Close => return Ok(false),
        };
        let answer = format!(
            "HTTP/1.1 {status} S\r\ncontent-type: application/json\r\n{header}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

fn coordinator() -> Coordinator {
    Coordinator {
        id: "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap(),
        epoch: "01890a5d-0000-7000-8000-000000000002".parse().unwrap(),
        url: "http://127.0.0.1:7070".to_owned(),
        horizon: TransactionId::NIL,
    }
}

fn transaction(number: u128) -> TransactionId {
    TransactionId::from_uuid(uuid::Uuid::from_u128(0x0189_0a5d_0000_7000_8000_0000_0000_0000 + number))
}

fn message(number: u128, call: Call) -> Message {
    Message {
        call,
        transaction: transaction(number),
        at: 0,
        branch: "debit".parse().unwrap(),
        participant_id: None,
        payload: None,
        deadline: UnixMillis(1_770_000_000_000),
        remaining_ms: 60_000,
        horizon: TransactionId::NIL,
        traceparent: None,
    }
}

fn request(server: &Server, messages: Vec<Message>) -> Request {
    let phase = messages.first().unwrap().call.phase();
    Request { participant: server.url.clone(), phase, messages, batch: BatchContext::default() }
}

fn http(limit: Duration) -> Http {
    Http::with_call_timeout(coordinator(), limit).unwrap()
}

/// What comes of one call.
async fn call(http: &Http, server: &Server, message: Message) -> Attempt {
    http.call(&request(server, vec![message])).await.attempts.remove(0).1
}

async fn attempts(http: &Http, server: &Server, messages: Vec<Message>) -> (Vec<Attempt>, Option<usize>) {
    let returned = http.call(&request(server, messages)).await;
    (returned.attempts.into_iter().map(|(_, attempt)| attempt).collect(), returned.max_batch)
}

fn committed() -> Attempt {
    Attempt::Commit(CommitAnswer::Committed, None)
}

fn yes(seen: &Seen) -> Say {
    let one = json!({ "status": 200, "body": { "state": "committed" } });
    match seen.body["messages"].as_array() {
        Some(messages) => Say::Answer(200, json!({ "answers": vec![one; messages.len()] })),
        None => Say::Answer(200, json!({ "state": "committed" })),
    }
}

// ----------------------------------------------------------------------------------------------------- connections

/// A server with three connections that a client keeps, and a switch that makes them dead; later ones work.
async fn three_kept(http: &Http, how: fn() -> Say) -> (Server, Arc<AtomicBool>) {
    let dead = Arc::<AtomicBool>::default();
    let switch = dead.clone();
    let server = Server::start(
        move |seen| {
            if seen.connection < 3 && switch.load(Ordering::Relaxed) { how() } else { yes(seen) }
        },
    )
    .await;
    let calls = (0..3).map(|_| {
        let post = client::Post {
            url: server.url.as_str(),
            body: bytes::Bytes::default(),
            traceparent: None,
            max_answer_bytes: 1024,
            remaining: None,
        };
        async move { http.client.post(post).await.unwrap() }
    });
    // None is given back before all are there.
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(server.connections(), 3);
    drop(answers);
    dead.store(true, Ordering::Relaxed);
    (server, dead)
}

async fn is_made_once_more(how: fn() -> Say, limit: Duration) {
    let http = http(limit);
    let (server, _) = three_kept(&http, how).await;
    assert_eq!(call(&http, &server, message(1, Call::Commit)).await, committed());
    assert_eq!(server.connections(), 4, "one fresh connection");
    let made: Vec<_> = server.seen().into_iter().skip(3).collect();
    assert_eq!(made.iter().map(|seen| seen.connection >= 3).collect::<Vec<_>>(), [false, true]);
    assert_eq!(made[0].body, made[1].body, "the same body");
    // The other two are not tried any more.
    assert_eq!(call(&http, &server, message(2, Call::Commit)).await, committed());
    assert_eq!((server.connections(), server.seen().len()), (4, 6));
    let both_closed = async {
        while server.closed.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, both_closed).await.expect("the other two are closed");
}

#[tokio::test]
async fn call_on_a_silent_kept_connection_is_made_once_more() {
    is_made_once_more(|| Say::Nothing, LIMIT).await;
}

#[tokio::test]
async fn call_on_a_broken_kept_connection_is_made_once_more() {
    is_made_once_more(|| Say::Close, LONG).await;
}

#[tokio::test]
async fn call_on_a_fresh_connection_is_made_once() {
    let server = Server::start(|_| Say::Nothing).await;
    let attempt = call(&http(LIMIT), &server, message(1, Call::Commit)).await;
    assert!(matches!(attempt, Attempt::Silence(_)), "{attempt:?}");
    let server = Server::start(|_| Say::Close).await;
    let attempt = call(&http(LONG), &server, message(1, Call::Commit)).await;
    assert!(matches!(attempt, Attempt::NoAnswer(_)), "{attempt:?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn prepare_ends_at_the_deadline_and_is_not_repeated() {
    let http = http(Duration::from_secs(4));
    let (server, _) = three_kept(&http, || Say::Nothing).await;
    let late = Message { remaining_ms: 1_200, ..message(1, Call::Prepare) };
    let attempt = call(&http, &server, late).await;
    assert!(matches!(attempt, Attempt::Silence(_)), "{attempt:?}");
    assert_eq!(server.seen().len(), 4, "nothing is sent after the deadline");
    // The dead ones are closed all the same.
    assert_eq!(call(&http, &server, message(2, Call::Commit)).await, committed());
    assert_eq!((server.connections(), server.seen().len()), (4, 5));
}

#[tokio::test]
async fn connection_that_is_too_old_is_not_used_again() {
    let server = Server::start(yes).await;
    let young = http(LONG);
    let mut client = Client::new(LONG).unwrap();
    client.max_age = Duration::ZERO;
    let old = Http { client, coordinator: coordinator() };
    for (http, connections) in [(young, 1), (old, 1 + 3)] {
        for number in 0..3 {
            assert_eq!(call(&http, &server, message(number, Call::Commit)).await, committed());
        }
        assert_eq!(server.connections(), connections);
    }
}

#[tokio::test]
async fn calls_tell_gateways_to_keep_nothing() {
    let server = Server::start(yes).await;
    let http = http(LONG);
    call(&http, &server, message(1, Call::Commit)).await;
    attempts(&http, &server, vec![message(1, Call::Commit), message(2, Call::Commit)]).await;
    let heads: Vec<_> = server.seen().into_iter().map(|seen| seen.head).collect();
    assert_eq!(heads.len(), 2);
    for head in heads {
        assert!(head.contains("\r\ncache-control: no-store\r\n"), "{head}");
        assert!(
            head.contains(&format!("\r\nhost: {}\r\n", server.url.as_str().trim_start_matches("http://"))),
            "{head}"
        );
    }
}

// ------------------------------------------------------------------------------------------------ who answers what

#[tokio::test]
async fn answer_to_another_call_closes_its_connection() {
    let other = [
        (200, json!({ "state": "committed", "transaction": transaction(9), "branch": "debit" })),
        (200, json!({ "state": "committed", "transaction": transaction(1), "branch": "credit" })),
        (409, json!({ "state": "heuristic_abort", "branch": "credit" })),
        (404, json!({ "type": "/problems/unknown-branch", "transaction": transaction(9) })),
        (421, json!({ "type": "/problems/misdirected", "branch": "credit" })),
        (
            412,
            json!({ "type": "/problems/stale-epoch", "coordinator": coordinator().id, "branch": "credit",
                "epoch": "01890a5d-0000-7000-8000-000000000003" }),
        ),
    ];
    for (status, body) in other {
        let answer = body.clone();
        let server = Server::start(move |_| Say::With("unanimous-batch: 9", status, answer.clone())).await;
        let http = http(LONG);
        let (mut attempts, max_batch) = attempts(&http, &server, vec![message(1, Call::Commit)]).await;
        let attempt = attempts.remove(0);
        assert!(matches!(attempt, Attempt::NoAnswer(_)), "{body}: {attempt:?}");
        assert_eq!(max_batch, None, "{body}");
        call(&http, &server, message(1, Call::Commit)).await;
        assert_eq!(server.connections(), 2, "{body}");
    }
}

#[tokio::test]
async fn answer_that_names_its_call_counts() {
    let server = Server::start(|seen| {
        let (transaction, branch) = (&seen.body["transaction"], &seen.body["branch"]);
        Say::Answer(200, json!({ "state": "committed", "transaction": transaction, "branch": branch, "more": 1 }))
    })
    .await;
    let http = http(LONG);
    for number in 0..2 {
        assert_eq!(call(&http, &server, message(number, Call::Commit)).await, committed());
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn batch_with_an_answer_to_another_call_counts_for_none() {
    let server = Server::start(|_| {
        let answer =
            |number| json!({ "status": 200, "body": { "state": "committed", "transaction": transaction(number) } });
        Say::Answer(200, json!({ "answers": [answer(1), answer(9)] }))
    })
    .await;
    let http = http(LONG);
    for connections in 1..3 {
        let (attempts, _) = attempts(&http, &server, vec![message(1, Call::Commit), message(2, Call::Commit)]).await;
        assert_eq!(attempts, vec![Attempt::NotTaken(BatchFailure::OtherCall); 2]);
        assert_eq!(server.connections(), connections, "its connection is closed");
    }
}

#[tokio::test]
async fn answer_of_another_store_is_none() {
    let (mine, other): (ParticipantId, ParticipantId) = (STORE.parse().unwrap(), OTHER_STORE.parse().unwrap());
    let (vote, state) = (json!({ "vote": "prepared" }), json!({ "state": "committed" }));
    let misdirected = json!({ "type": "/problems/misdirected" });
    let other_store = |participant_id| Attempt::OtherStore { participant_id };
    let expected = [
        (Some(mine), Some(mine), (200, &state), Attempt::Commit(CommitAnswer::Committed, Some(mine))),
        (Some(mine), Some(other), (200, &state), other_store(Some(other))),
        (Some(mine), None, (200, &state), other_store(None)),
        (None, Some(other), (200, &state), Attempt::Commit(CommitAnswer::Committed, Some(other))),
        (None, Some(mine), (200, &vote), Attempt::Prepare(PrepareAnswer::Vote(Vote::Prepared), Some(mine))),
        (Some(mine), Some(other), (421, &misdirected), other_store(Some(other))),
        (Some(mine), None, (421, &misdirected), other_store(None)),
    ];
    for (named, answered, (status, body), attempt) in expected {
        let mut body = body.clone();
        if let Some(answered) = answered {
            body["participant_id"] = json!(answered);
        }
        let server = Server::start(move |seen| match seen.body["messages"].as_array() {
            Some(messages) => {
                let answer = json!({ "status": status, "body": body });
                Say::Answer(200, json!({ "answers": vec![answer; messages.len()] }))
            }
            None => Say::Answer(status, body.clone()),
        })
        .await;
        let kind = if matches!(attempt, Attempt::Prepare(..)) { Call::Prepare } else { Call::Commit };
        let message = Message { participant_id: named, ..message(1, kind) };
        let http = http(LONG);
        assert_eq!(call(&http, &server, message.clone()).await, attempt);
        let (batch, _) = attempts(&http, &server, vec![message.clone(), message]).await;
        assert_eq!(batch, [attempt.clone(), attempt]);
        let seen = server.seen();
        for sent in [&seen[0].body, &seen[1].body["messages"][1]] {
            assert_eq!(sent.get("participant_id").cloned(), named.map(|id| json!(id)), "{sent}");
        }
    }
}

#[tokio::test]
async fn higher_epoch_comes_with_the_store_that_named_it() {
    let server = Server::start(|_| {
        let (id, epoch) = (coordinator().id, "01890a5d-0000-7000-8000-000000000003");
        Say::Answer(
            412,
            json!({ "type": "/problems/stale-epoch", "coordinator": id, "epoch": epoch, "participant_id": STORE }),
        )
    })
    .await;
    let stale = Attempt::Stale("01890a5d-0000-7000-8000-000000000003".parse().unwrap(), Some(STORE.parse().unwrap()));
    let http = http(LONG);
    assert_eq!(call(&http, &server, message(1, Call::Commit)).await, stale);
    let (batch, _) = attempts(&http, &server, vec![message(1, Call::Commit), message(2, Call::Commit)]).await;
    assert_eq!(batch, [stale.clone(), stale]);
}

#[tokio::test]
async fn answer_that_names_a_member_twice_is_none() {
    let (transaction, mine) = (transaction(1), STORE);
    let twice = [
        (Call::Prepare, 200, r#"{"vote":"prepared","vote":"prepared"}"#.to_owned()),
        (Call::Prepare, 409, r#"{"vote":"abort","reason":"a","reason":"a"}"#.to_owned()),
        (Call::Commit, 200, r#"{"state":"committed","state":"committed"}"#.to_owned()),
        (Call::Commit, 409, r#"{"state":"heuristic_abort","detail":"a","detail":"b"}"#.to_owned()),
        (Call::Commit, 404, r#"{"type":"/problems/unknown-branch","type":"/problems/unknown-branch"}"#.to_owned()),
        (Call::Abort, 200, r#"{"state":"aborted","branch":"debit","branch":"debit"}"#.to_owned()),
        (
            Call::Abort,
            200,
            format!(r#"{{"state":"aborted","transaction":"{transaction}","transaction":"{transaction}"}}"#),
        ),
        (Call::Abort, 200, format!(r#"{{"participant_id":"{mine}","state":"aborted","participant_id":"{mine}"}}"#)),
    ];
    for (kind, status, body) in twice {
        let (alone, inside) = (body.clone(), format!(r#"{{"status":{status},"body":{body}}}"#));
        let server = Server::start(move |seen| match seen.body["messages"].as_array() {
            Some(_) => Say::Text(200, format!(r#"{{"answers":[{inside},{inside}]}}"#)),
            None => Say::Text(status, alone.clone()),
        })
        .await;
        let http = http(LONG);
        let mut all = vec![call(&http, &server, message(1, kind)).await];
        all.extend(attempts(&http, &server, vec![message(1, kind), message(1, kind)]).await.0);
        assert!(all.iter().all(|attempt| matches!(attempt, Attempt::NoAnswer(_))), "{body}: {all:?}");
    }
    let answer = r#"{"status":200,"body":{"state":"committed"}}"#;
    for batch in [
        format!(r#"{{"answers":[{answer},{answer}],"answers":[{answer},{answer}]}}"#),
        r#"{"answers":[{"status":200,"status":200,"body":{"state":"committed"}},{"body":{"state":"committed"},"status":200,"body":{"state":"committed"}}]}"#.to_owned(),
    ] {
        let server = Server::start(move |_| Say::Text(200, batch.clone())).await;
        let (attempts, _) = attempts(&http(LONG), &server, vec![message(1, Call::Commit), message(2, Call::Commit)]).await;
        assert!(attempts.iter().all(|attempt| matches!(attempt, Attempt::NoAnswer(_))), "{attempts:?}");
    }
}

// -------------------------------------------------------------------------------------------------------- batches

#[tokio::test]
async fn status_of_a_batch_says_why_it_was_not_taken() {
    let refused = Attempt::NotTaken(BatchFailure::Unsupported);
    let expected = [
        (404, refused.clone(), None),
        (405, refused.clone(), None),
        (415, refused.clone(), None),
        (501, refused, None),
        (413, Attempt::NotTaken(BatchFailure::TooLarge), Some(7)),
    ];
    for (status, attempt, max_batch) in expected {
        let server = Server::start(move |_| Say::With("unanimous-batch: 7", status, json!({}))).await;
        let http = http(LONG);
        let both = vec![message(1, Call::Commit), message(2, Call::Commit)];
        assert_eq!(attempts(&http, &server, both).await, (vec![attempt.clone(), attempt], max_batch), "{status}");
        let alone = call(&http, &server, message(1, Call::Commit)).await;
        assert!(matches!(alone, Attempt::NoAnswer(_)), "{status}: {alone:?}");
    }
}

#[tokio::test]
async fn answer_in_a_batch_is_no_longer_than_a_single_one() {
    let server = Server::start(|_| {
        let answer = |bytes: usize| {
            let body = json!({ "state": "heuristic_abort", "detail": "x".repeat(bytes) });
            json!({ "status": 409, "body": body })
        };
        Say::Answer(200, json!({ "answers": [answer(70_000), answer(60_000)] }))
    })
    .await;
    let (attempts, _) = attempts(&http(LONG), &server, vec![message(1, Call::Commit), message(2, Call::Commit)]).await;
    assert!(matches!(attempts[0], Attempt::NoAnswer(_)), "{:?}", attempts[0]);
    assert!(attempts[1].is_answer());
}

#[tokio::test]
async fn header_of_any_answer_says_how_many_calls_are_taken() {
    for (header, max_batch) in [
        ("unanimous-batch: 100", Some(100)),
        ("unanimous-batch: 1", Some(1)),
        ("unanimous-batch: 0", Some(0)),
        ("unanimous-batch: 99999999999999999999999", Some(usize::MAX)),
        ("unanimous-batch: many", None),
        ("unanimous-batch: -3", None),
        ("x: y", None),
    ] {
        for status in [200, 503] {
            let server = Server::start(move |_| Say::With(header, status, json!({ "state": "committed" }))).await;
            let answered = attempts(&http(LONG), &server, vec![message(1, Call::Commit)]).await;
            assert_eq!(answered.1, max_batch, "{header}");
        }
    }
}

#[tokio::test]
async fn batch_carries_the_lowest_horizon_of_its_messages() {
    let server = Server::start(yes).await;
    let of = |number| Message { horizon: transaction(number), ..message(10 + number, Call::Commit) };
    attempts(&http(LONG), &server, vec![of(5), of(3), of(4)]).await;
    assert_eq!(server.seen()[0].body["coordinator"]["horizon"], json!(transaction(3)));
}

/// A message as large as can be for its payload.
fn largest(payload: usize) -> Message {
    let payload = RawValue::from_string(format!("\"{}\"", "x".repeat(payload - 2))).unwrap();
    Message {
        branch: "b".repeat(64).parse().unwrap(),
        participant_id: Some(STORE.parse().unwrap()),
        payload: Some(payload.into()),
        deadline: UnixMillis(u64::MAX),
        remaining_ms: u64::MAX,
        traceparent: Some("\"\u{1}".repeat(30).into()),
        ..message(1, Call::Prepare)
    }
}

#[tokio::test]
async fn bodies_are_never_longer_than_their_bounds() {
    let url = "http://a\"b\u{1}.test/path";
    let http = Http::with_call_timeout(Coordinator { url: url.to_owned(), ..coordinator() }, LONG).unwrap();
    for count in [1, 2, 3] {
        // Three messages that fill a batch to the last byte of its bound.
        let room = max_batch_bytes(url);
        let empty = largest(2).max_bytes() - 2;
        let messages = vec![largest(room / count - empty); count];
        assert!(messages.iter().map(Message::max_bytes).sum::<usize>() <= room);
        let body = http.batch_body(&messages).unwrap();
        assert!(body.len() <= MAX_CALL_BYTES, "{} bytes in a batch of {count}", body.len());
        assert!(body.len() + 300 > MAX_CALL_BYTES, "the bound is far from what is sent: {} bytes", body.len());
    }
    let longest = largest(max_payload_bytes(url, None));
    assert!(http.single_body(&longest).unwrap().len() <= MAX_CALL_BYTES);
    assert!(max_payload_bytes("http://127.0.0.1:7070", None) >= MAX_CALL_BYTES - 8 * 1024);
}
