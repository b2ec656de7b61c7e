//! Messages that are lost, doubled, late or out of order, and participants and initiators that are away: none of it
//! changes an outcome, and what waits goes out as soon as it can.

use serde_json::{Value, json};
use unanimous_tests::{
    api::Api,
    bank::{ACCOUNTS, Bank, account, holdings, named, posting},
    coordinator::Coordinator,
    history::{Attempt, History, Move, Told},
    local::Local,
    participant::{Act, Branch, Call, Participant},
    proxy::{LATEST, Proxy},
    wait,
};

/// Moves the number's cents from one bank to the other, from and to accounts that no other number of that time uses.
async fn transfer(api: Api, banks: [String; 2], number: usize) -> Attempt {
    let (from, to, cents) = (number % 2, (number + 1) % 2, i64::try_from(number).unwrap() + 1);
    let (debit, credit) = (account(1 + number % ACCOUNTS), account(1 + (number + 1) % ACCOUNTS));
    let branches =
        json!([posting(&banks[from], "debit", &debit, -cents), posting(&banks[to], "credit", &credit, cents)]);
    let answer = api.run(&branches).await;
    let (transaction, told) = match answer.status {
        200 => (answer.text("id").to_owned(), Told::Committed),
        409 => (answer.body["transaction"]["id"].as_str().unwrap().to_owned(), Told::Aborted),
        _ => panic!("{answer:?}"),
    };
    let moves = vec![Move { account: named(from, &debit), cents: -cents }, Move { account: named(to, &credit), cents }];
    Attempt { transaction, moves, told: vec![told] }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_lost_doubled_late_or_out_of_order_change_no_outcome() {
    const TRANSFERS: usize = 120;
    let coordinator = Coordinator::start().await;
    let banks = [Bank::start().await, Bank::start().await];
    let proxies = [Proxy::bad(&banks[0].url(), 1, 60), Proxy::bad(&banks[1].url(), 2, 60)];
    let urls = [proxies[0].url(), proxies[1].url()];
    let mut history = History { opening: holdings(&banks).await, ..History::default() };
    let numbers: Vec<usize> = (0..TRANSFERS).collect();
    for together in numbers.chunks(ACCOUNTS) {
        let transfers =
            together.iter().map(|number| tokio::spawn(transfer(coordinator.api.clone(), urls.clone(), *number)));
        for transfer in transfers.collect::<Vec<_>>() {
            history.attempts.push(transfer.await.unwrap());
        }
    }
    for attempt in &history.attempts {
        let ended = coordinator.api.finished(&attempt.transaction).await;
        history.shown.insert(attempt.transaction.clone(), ended);
    }
    // What is late may still come, and must change nothing.
    tokio::time::sleep(2 * LATEST).await;
    for bank in &banks {
        bank.nothing_in_doubt().await;
    }
    history.closing = holdings(&banks).await;
    history.assert_sound();
    let messages = proxies.iter().map(Proxy::messages).sum::<u64>();
    assert!(messages > 4 * TRANSFERS as u64, "only {messages} messages: nothing was lost, so nothing was tested");
    let committed = history.shown.values().filter(|shown| shown["decision"] == "commit").count();
    assert!(committed > TRANSFERS / 4, "only {committed} of {TRANSFERS} were committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initiator_that_dies_leaves_an_abort_at_the_deadline() {
    let coordinator = Coordinator::start().await;
    let participant = Participant::start();
    let who = coordinator.api.who().await;
    let id = coordinator.api.begin(&json!({ "timeout_ms": 700 })).await;
    participant.prepare(&id, "b");
    let voted = json!({ "participant": participant.url(), "branch": "b", "vote": "prepared", "coordinator": who });
    let _ = coordinator.api.enlist(&id, &voted).await.expect(201);
    // Nobody asks for the commit, nor for anything else.
    wait::until_so("the participant is told", async || participant.branch(&id, "b") == Some(Branch::Aborted)).await;
    let ended = coordinator.api.finished(&id).await;
    assert_eq!(ended["reason"]["code"], "deadline");
    assert_eq!(coordinator.api.commit(&id).await.expect(409).problem(), "aborted");
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_the_initiator_that_is_lost_can_be_asked_for_again() {
    let coordinator = Coordinator::start().await;
    let participant = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    });
    let id = coordinator.api.begin(&json!({ "branches": [{ "participant": participant.url(), "payload": {} }] })).await;
    let lost = coordinator.api.commit_in_background(&id);
    wait::until_so("it is under way", async || participant.count(Call::Prepare) == 1).await;
    lost.abort();
    assert!(lost.await.unwrap_err().is_cancelled());
    participant.release();
    assert_eq!(coordinator.api.commit(&id).await.expect(200).body["decision"], "commit");
    coordinator.api.finished(&id).await;
    assert_eq!(participant.count(Call::Prepare), 1, "it was not begun again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_that_is_back_gets_all_that_waits_and_was_tried_with_one_message_at_a_time() {
    const MANY: usize = 200;
    let coordinator = Local::start().await;
    let who = coordinator.api.who().await;
    let mut participant = Participant::start();
    let mut ids = vec![];
    for _ in 0..MANY {
        let id = coordinator.api.begin(&json!({ "timeout_ms": 120_000 })).await;
        participant.prepare(&id, "b");
        let voted = json!({ "participant": participant.url(), "branch": "b", "vote": "prepared", "coordinator": who });
        let _ = coordinator.api.enlist(&id, &voted).await.expect(201);
        ids.push(id);
    }
    participant.down();
    for id in &ids {
        let _ = coordinator.api.commit(id).await.expect(200);
    }
    let attempts = async |id: &str| coordinator.api.transaction(id).await["branches"][0]["attempts"].as_u64().unwrap();
    wait::until_so("it was tried in vain", async || {
        let mut most = 0;
        for id in &ids {
            most = attempts(id).await.max(most);
        }
        most > 0
    })
    .await;
    // Back, but slow to answer: the first message goes alone.
    participant.script(|_| Act::Hold);
    participant.up();
    wait::until_so("it is tried again", async || participant.count(Call::Commit) > 0).await;
    wait::a_while().await;
    assert_eq!(participant.count(Call::Commit), 1, "more than one message to a participant that may still be down");
    participant.release();
    for id in &ids {
        coordinator.api.finished(id).await;
        assert_eq!(participant.branch(id, "b"), Some(Branch::Committed));
    }
    // All went out at once, none at a time of its own: each was delivered the first time it was tried after that.
    assert_eq!(participant.count(Call::Commit), MANY);
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_back_and_asks_gets_what_waits_for_it() {
    let coordinator = Local::start().await;
    let who = coordinator.api.who().await;
    let mut participant = Participant::start();
    let mut ids = vec![];
    for _ in 0..20 {
        let id = coordinator.api.begin(&json!({ "timeout_ms": 120_000 })).await;
        participant.prepare(&id, "b");
        let voted = json!({ "participant": participant.url(), "branch": "b", "vote": "prepared", "coordinator": who });
        let _ = coordinator.api.enlist(&id, &voted).await.expect(201);
        ids.push(id);
    }
    participant.down();
    for id in &ids {
        let _ = coordinator.api.commit(id).await.expect(200);
    }
    participant.up();
    let told = coordinator.api.inquire(&ids[0], &who, "b").await.unwrap().expect(200);
    assert_eq!(told.body["decision"], "commit");
    for id in &ids {
        coordinator.api.finished(id).await;
    }
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dead_participant_costs_only_its_own_branches() {
    let coordinator = Local::start().await;
    let (mut dead, alive) = (Participant::start(), [Participant::start(), Participant::start()]);
    dead.down();
    let branch = |p: &Participant| json!({ "participant": p.url(), "payload": {} });
    let waiting = json!({ "branches": [branch(&dead), branch(&alive[0])], "timeout_ms": 120_000 });
    let waiting = coordinator.api.begin(&waiting).await;
    let commit = coordinator.api.commit_in_background(&waiting);
    coordinator.api.in_state(&waiting, "preparing").await;
    for _ in 0..50 {
        let _ = coordinator.api.run(&json!([branch(&alive[0]), branch(&alive[1])])).await.expect(200);
    }
    assert!(!commit.is_finished());
    dead.up();
    let _ = commit.await.unwrap().unwrap().expect(200);
    coordinator.api.finished(&waiting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_what_a_participant_has_no_trace_of_is_shown_and_not_asked_for_again() {
    let coordinator = Local::start().await;
    let unknown = json!({ "type": "/problems/unknown-branch", "title": "", "status": 404 });
    let forgetful = Participant::scripted(move |received| match received.call {
        Call::Prepare => Act::Say(200, json!({ "vote": "prepared" })),
        Call::Commit => Act::Say(404, unknown.clone()),
        Call::Abort => Act::Obey,
    });
    let answer = coordinator.api.run(&json!([{ "participant": forgetful.url(), "payload": {} }])).await.expect(200);
    let ended = coordinator.api.finished(answer.text("id")).await;
    assert_eq!(ended["heuristic"], true);
    assert_eq!(ended["branches"][0]["state"], "heuristic_unknown");
    assert_eq!(forgetful.count(Call::Commit), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_that_is_gone_for_good_is_shown_with_attempts_and_its_last_error() {
    let coordinator = Local::start().await;
    let who = coordinator.api.who().await;
    let mut gone = Participant::start();
    let id = coordinator.api.begin(&json!({})).await;
    gone.prepare(&id, "b");
    let voted = json!({ "participant": gone.url(), "branch": "b", "vote": "prepared", "coordinator": who });
    let _ = coordinator.api.enlist(&id, &voted).await.expect(201);
    gone.down();
    let _ = coordinator.api.commit(&id).await.expect(200);
    let shown: Value = wait::until("it was tried three times", async || {
        let shown = coordinator.api.transaction(&id).await;
        (shown["branches"][0]["attempts"].as_u64() >= Some(3)).then_some(shown)
    })
    .await;
    assert_eq!(shown["state"], "committing", "it is not given up");
    let error = shown["branches"][0]["last_error"].as_str().expect("it says what is wrong");
    assert!(error.contains("refused"), "{error}");
}
