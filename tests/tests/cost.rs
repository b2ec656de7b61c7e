//! What a transaction costs: calls to participants and forced writes of the coordinator's log, counted.

use serde_json::json;
use unanimous_tests::{
    api::Api,
    local::Local,
    participant::{Act, Call, Participant},
};

/// All calls that came to these participants.
fn calls(participants: &[Participant]) -> usize {
    participants.iter().map(|participant| participant.received().len()).sum()
}

async fn commits_over(branches: usize) -> usize {
    let coordinator = Local::start().await;
    let participants: Vec<Participant> = (0..branches).map(|_| Participant::start()).collect();
    let given: Vec<_> = participants.iter().map(|p| json!({ "participant": p.url(), "payload": {} })).collect();
    let before = coordinator.forced_writes();
    let answer = coordinator.api.run(&json!(given)).await.expect(200);
    coordinator.api.finished(answer.text("id")).await;
    assert_eq!(coordinator.forced_writes() - before, 1, "one forced write for {branches} branches");
    participants.iter().for_each(Participant::assert_respected);
    calls(&participants)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_over_n_branches_costs_2n_calls_and_one_forced_write() {
    for branches in [1, 2, 3, 7] {
        assert_eq!(commits_over(branches).await, 2 * branches, "{branches} branches");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_unsolicited_votes_it_costs_n_calls_and_one_forced_write() {
    let coordinator = Local::start().await;
    let who = coordinator.api.who().await;
    let participants: Vec<Participant> = (0..3).map(|_| Participant::start()).collect();
    let before = coordinator.forced_writes();
    let id = coordinator.api.begin(&json!({})).await;
    for (at, participant) in participants.iter().enumerate() {
        let name = format!("own-{at}");
        participant.prepare(&id, &name);
        let voted = json!({ "participant": participant.url(), "branch": name, "vote": "prepared", "coordinator": who });
        let _ = coordinator.api.enlist(&id, &voted).await.expect(201);
    }
    let _ = coordinator.api.commit(&id).await.expect(200);
    coordinator.api.finished(&id).await;
    assert_eq!(calls(&participants), 3);
    assert_eq!(coordinator.forced_writes() - before, 1);
    participants.iter().for_each(Participant::assert_respected);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_read_only_branch_saves_one_call() {
    let coordinator = Local::start().await;
    let reader = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Vote("read_only"),
        Call::Commit | Call::Abort => Act::Obey,
    });
    let writers = [Participant::start(), Participant::start()];
    let before = coordinator.forced_writes();
    let branches = json!([
        { "participant": reader.url(), "payload": {} },
        { "participant": writers[0].url(), "payload": {} },
        { "participant": writers[1].url(), "payload": {} },
    ]);
    let answer = coordinator.api.run(&branches).await.expect(200);
    coordinator.api.finished(answer.text("id")).await;
    assert_eq!(reader.received().len() + calls(&writers), 2 * 3 - 1);
    assert_eq!(coordinator.forced_writes() - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_nothing_costs_no_forced_write() {
    let coordinator = Local::start().await;
    let reader = Participant::scripted(|_| Act::Vote("read_only"));
    let before = coordinator.forced_writes();
    let empty = coordinator.api.run(&json!([])).await.expect(200);
    assert!(empty.body["sequence"].is_null(), "{empty:?}");
    let read = coordinator.api.run(&json!([{ "participant": reader.url(), "payload": {} }])).await.expect(200);
    assert!(read.body["sequence"].is_null(), "{read:?}");
    coordinator.api.finished(read.text("id")).await;
    assert_eq!(reader.received().len(), 1);
    assert_eq!(coordinator.forced_writes() - before, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_is_one_forced_write_too() {
    let coordinator = Local::start().await;
    let (willing, unwilling) = (Participant::start(), Participant::scripted(|_| Act::Refuse("no")));
    let before = coordinator.forced_writes();
    let branches =
        json!([{ "participant": willing.url(), "payload": {} }, { "participant": unwilling.url(), "payload": {} }]);
    let answer = coordinator.api.run(&branches).await.expect(409);
    coordinator.api.finished(answer.body["transaction"]["id"].as_str().unwrap()).await;
    assert_eq!(coordinator.forced_writes() - before, 1);
    assert_eq!(unwilling.received().len(), 1, "who refused is told nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_decide_at_the_same_moment_share_a_forced_write() {
    const MANY: usize = 64;
    let coordinator = Local::start().await;
    let who = coordinator.api.who().await;
    let participant = Participant::start();
    let mut ids = vec![];
    for _ in 0..MANY {
        let id = coordinator.api.begin(&json!({})).await;
        participant.prepare(&id, "1");
        let voted = json!({ "participant": participant.url(), "branch": "1", "vote": "prepared", "coordinator": who });
        let _ = coordinator.api.enlist(&id, &voted).await.expect(201);
        ids.push(id);
    }
    let before = coordinator.forced_writes();
    let commit = async |api: Api, id: String| {
        let _ = api.commit(&id).await.expect(200);
    };
    let commits: Vec<_> = ids.iter().map(|id| tokio::spawn(commit(coordinator.api.clone(), id.clone()))).collect();
    for commit in commits {
        commit.await.unwrap();
    }
    let shared = coordinator.forced_writes() - before;
    assert!(shared < MANY as u64, "{MANY} commits cost {shared} forced writes");
    for id in &ids {
        coordinator.api.finished(id).await;
    }
    participant.assert_respected();
}
