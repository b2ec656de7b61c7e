//! Batches: as large as the participant and what stands in front of it take, and no larger.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use unanimous_tests::{api::Answer, local::Local, server::Server, wait};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A request that came.
#[derive(Clone, Debug)]
struct Came {
    batch: bool,
    calls: usize,
    bytes: usize,
    status: u16,
}

struct Shared {
    /// What each answer says of batches.
    max: AtomicUsize,
    /// A larger body is answered 413 by what stands in front of it.
    max_body: AtomicUsize,
    /// So many batches are answered 404.
    refuse: AtomicUsize,
    came: Mutex<Vec<Came>>,
    held: watch::Sender<bool>,
}

/// A participant that votes to commit, obeys, and takes batches.
struct Participant {
    shared: Arc<Shared>,
    server: Server,
}

impl Participant {
    fn start(max: usize) -> Self {
        let shared = Arc::new(Shared {
            max: AtomicUsize::new(max),
            max_body: AtomicUsize::new(MIB),
            refuse: AtomicUsize::new(0),
            came: Mutex::default(),
            held: watch::channel(false).0,
        });
        let router = Router::new().route("/{call}", post(serve)).with_state(shared.clone());
        Self { shared, server: Server::start(router) }
    }

    /// What came since it was last asked.
    fn came(&self) -> Vec<Came> {
        std::mem::take(&mut *lock(&self.shared.came))
    }

    fn branch(&self, bytes: usize) -> Value {
        json!({ "participant": self.server.url(), "payload": "x".repeat(bytes) })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(State(shared): State<Arc<Shared>>, Path(call): Path<String>, body: Body) -> Response {
    let body = to_bytes(body, 16 * MIB).await.unwrap_or_default();
    let _ = shared.held.subscribe().wait_for(|held| !held).await;
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (batch, calls) = (call == "batch", value["messages"].as_array().map_or(1, Vec::len));
    let refused = |n: usize| n.checked_sub(1);
    let (status, answer) = if body.len() > shared.max_body.load(Ordering::Relaxed) {
        (413, json!("too large"))
    } else if batch && shared.refuse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, refused).is_ok() {
        (404, json!("nothing here"))
    } else if let Some(messages) = value["messages"].as_array() {
        let one = |message: &Value| json!({ "status": 200, "body": yes(message["call"].as_str().unwrap_or_default()) });
        (200, json!({ "answers": messages.iter().map(one).collect::<Vec<_>>() }))
    } else {
        (200, yes(&call))
    };
    lock(&shared.came).push(Came { batch, calls, bytes: body.len(), status });
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, axum::Json(answer)).into_response();
    if status == StatusCode::OK {
        response.headers_mut().insert("unanimous-batch", shared.max.load(Ordering::Relaxed).into());
    }
    response
}

fn yes(call: &str) -> Value {
    match call {
        "prepare" => json!({ "vote": "prepared" }),
        "commit" => json!({ "state": "committed" }),
        _ => json!({ "state": "aborted" }),
    }
}

/// Commits transactions of one branch with payloads of these sizes. All of them wait for the participant together.
async fn together(coordinator: &Local, participant: &Participant, sizes: &[usize]) {
    participant.shared.held.send_replace(true);
    let mut commits = vec![];
    for bytes in sizes {
        let body = json!({ "branches": [participant.branch(*bytes)], "timeout_ms": 110_000 });
        let id = coordinator.api.begin(&body).await;
        commits.push((id.clone(), coordinator.api.commit_in_background(&id)));
        coordinator.api.in_state(&id, "preparing").await;
    }
    participant.shared.held.send_replace(false);
    for (id, commit) in commits {
        let _ = commit.await.unwrap().unwrap().expect(200);
        coordinator.api.finished(&id).await;
    }
}

/// A coordinator that knows that this participant takes batches.
async fn start(max: usize) -> (Local, Participant) {
    let (coordinator, participant) = (Local::start().await, Participant::start(max));
    together(&coordinator, &participant, &[1]).await;
    participant.came();
    (coordinator, participant)
}

fn batches(came: &[Came]) -> Vec<usize> {
    came.iter().filter(|came| came.batch).map(|came| came.calls).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_never_has_more_than_a_mebibyte() {
    let (coordinator, participant) = start(100).await;
    let sizes = [1, 1, 600 * KIB, 500 * KIB, 400 * KIB, 300 * KIB, 1, 200 * KIB, 900 * KIB, 120 * KIB, 1, 1];
    together(&coordinator, &participant, &sizes).await;
    let came = participant.came();
    assert!(came.iter().all(|came| came.status == 200 && came.bytes <= MIB), "{came:?}");
    assert!(came.iter().any(|came| came.batch && came.bytes > 600 * KIB), "{came:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_answered_413_goes_out_in_halves() {
    let (coordinator, participant) = start(100).await;
    participant.shared.max_body.store(200 * KIB, Ordering::Relaxed);
    together(&coordinator, &participant, &[60 * KIB; 14]).await;
    let refused = |came: &[Came]| came.iter().filter(|came| came.status == 413).count();
    let came = participant.came();
    assert!((1..=6).contains(&refused(&came)), "{came:?}");
    // What was learned holds for the next ones.
    together(&coordinator, &participant, &[60 * KIB; 14]).await;
    let came = participant.came();
    assert_eq!(refused(&came), 0, "{came:?}");
    assert!(batches(&came).iter().any(|calls| *calls > 1), "{came:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_header_bounds_a_batch() {
    let (coordinator, participant) = start(100).await;
    together(&coordinator, &participant, &[1; 12]).await;
    assert!(batches(&participant.came()).iter().any(|calls| *calls > 3));
    participant.shared.max.store(3, Ordering::Relaxed);
    together(&coordinator, &participant, &[1]).await;
    participant.came();
    together(&coordinator, &participant, &[1; 12]).await;
    let came = participant.came();
    assert!(batches(&came).contains(&3) && batches(&came).iter().all(|calls| *calls <= 3), "{came:?}");
    participant.shared.max.store(1, Ordering::Relaxed);
    together(&coordinator, &participant, &[1]).await;
    participant.came();
    together(&coordinator, &participant, &[1; 12]).await;
    assert_eq!(batches(&participant.came()), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_batches_are_sent_again_after_a_header() {
    let (coordinator, participant) = start(100).await;
    // What stands in front of it was away for a moment.
    participant.shared.refuse.store(1, Ordering::Relaxed);
    together(&coordinator, &participant, &[1; 20]).await;
    let came = participant.came();
    assert!(came.iter().any(|came| came.status == 404), "{came:?}");
    together(&coordinator, &participant, &[1; 12]).await;
    let came = participant.came();
    assert!(batches(&came).iter().any(|calls| *calls > 1), "{came:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_that_fits_into_no_prepare_is_413() {
    let large = ["--max-body-bytes", "8388608"];
    for (flags, bytes) in [(&large[..0], MIB - 150), (&large[..], MIB), (&large[..], 3 * MIB)] {
        let coordinator = Local::start_with(flags).await;
        let participant = Participant::start(1);
        let id = coordinator.api.begin(&json!({})).await;
        let enlisted = coordinator.api.enlist(&id, &participant.branch(bytes)).await;
        assert_too_large(&enlisted, "`payload`");
        let body = json!({ "branches": [participant.branch(1), participant.branch(bytes - 100)] });
        if bytes >= MIB {
            assert_too_large(&coordinator.api.post("/v1/transactions", &body).await, "`branches[1].payload`");
        }
        let _ = coordinator.api.enlist(&id, &participant.branch(MIB - 8 * KIB)).await.expect(201);
        let _ = coordinator.api.commit(&id).await.expect(200);
        let most = participant.came().into_iter().map(|came| came.bytes).max();
        assert!(most.is_some_and(|most| (MIB - 8 * KIB..=MIB).contains(&most)), "{most:?}");
    }
}

fn assert_too_large(answer: &Answer, field: &str) {
    assert_eq!((answer.status, answer.problem()), (413, "too-large"));
    assert!(answer.text("detail").contains(field), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_that_just_fits_is_taken_and_prepared() {
    let coordinator = Local::start_with(&["--max-body-bytes", "8388608"]).await;
    let participant = Participant::start(1);
    // The longest that is taken.
    let (mut fits, mut too_long) = (MIB - 8 * KIB, MIB);
    while too_long - fits > 1 {
        let middle = usize::midpoint(fits, too_long);
        let id = coordinator.api.begin(&json!({})).await;
        match coordinator.api.enlist(&id, &participant.branch(middle)).await.status {
            201 => fits = middle,
            _ => too_long = middle,
        }
        let _ = coordinator.api.abort(&id).await;
    }
    participant.came();
    let _ = coordinator.api.run(&json!([participant.branch(fits)])).await.expect(200);
    wait::until_so("it was prepared", async || !lock(&participant.shared.came).is_empty()).await;
    assert!(participant.came().iter().all(|came| came.bytes <= MIB));
}
