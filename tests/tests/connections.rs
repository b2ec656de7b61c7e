//! Connections to participants that die while they are kept, and answers that come on the wrong one.

use serde_json::json;
use unanimous_tests::{
    local::Local,
    participant::{Act, Branch, Call, Participant},
    wire::Wire,
};

const UNKNOWN: &str = "01890a5d-1111-7000-8000-000000000001";

#[tokio::test(flavor = "multi_thread")]
async fn dead_kept_connections_abort_no_transaction() {
    let coordinator = Local::start().await;
    let participant = Participant::start();
    let wire = Wire::to(&participant.url()).await;
    // Several branches at one participant: several connections are kept.
    let many: Vec<_> = (0..6).map(|_| json!({ "participant": wire.url(), "payload": {} })).collect();
    let answer = coordinator.api.run(&json!(many)).await.expect(200);
    coordinator.api.finished(answer.text("id")).await;
    wire.forget();
    // Its deadline would be over after the second of these connections.
    let body = json!({ "branches": [many[0]], "timeout_ms": 19_000, "commit": true });
    let answer = coordinator.api.post("/v1/transactions", &body).await.expect(200);
    let id = answer.text("id");
    let ended = coordinator.api.finished(id).await;
    assert_eq!(ended["state"], "committed");
    assert_eq!(participant.branch(id, "1"), Some(Branch::Committed));
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_to_another_call_is_no_vote() {
    let coordinator = Local::start().await;
    let participant = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Say(200, json!({ "vote": "prepared", "transaction": UNKNOWN })),
        Call::Commit | Call::Abort => Act::Obey,
    });
    let branches = json!([{ "participant": participant.url(), "payload": {} }]);
    let body = json!({ "branches": branches, "timeout_ms": 600, "commit": true });
    let answer = coordinator.api.post("/v1/transactions", &body).await.expect(409);
    assert_eq!(answer.body["transaction"]["reason"]["code"], "participant_error");
    assert_eq!(participant.count(Call::Commit), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_that_names_its_call_is_a_vote() {
    let coordinator = Local::start().await;
    let participant = Participant::scripted(|received| match received.call {
        Call::Prepare => {
            let (transaction, branch) = (received.transaction(), received.branch());
            Act::Say(200, json!({ "vote": "read_only", "transaction": transaction, "branch": branch }))
        }
        Call::Commit | Call::Abort => Act::Obey,
    });
    let _ = coordinator.api.run(&json!([{ "participant": participant.url(), "payload": {} }])).await.expect(200);
}
