//! Lines that are blocked, slow, cut in the middle or one-way, and processes that stand still: nothing of it changes an
//! outcome, and when it is over, everything ends.
//!
//! The lines are between real processes: from the coordinator to each bank, and from the banks to the coordinator, which they
//! ask about what is in doubt. `UNANIMOUS_ROUNDS` sets how often the lines change under the tellers (default 20),
//! `UNANIMOUS_SEED` how (default: a fresh one, printed).

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use unanimous_tests::{
    bank::{Bank, OPENING, account, holdings, posting, transfer},
    coordinator::Coordinator,
    history::History,
    participant::{Act, Call, Participant},
    process::Setup,
    proxy::Proxy,
    tellers::Tellers,
    wait,
    wire::{Line, Wire},
};

/// Longer than a call may take, PROTOCOL §4, and than any timeout that a transaction is given here.
const LONGER_THAN_ALL: Duration = Duration::from_secs(11);

/// A coordinator, two banks, and the lines between them.
struct Town {
    coordinator: Coordinator,
    banks: [Bank; 2],
    /// To each bank.
    out: [Wire; 2],
    /// To the coordinator.
    back: Wire,
}

impl Town {
    async fn start() -> Self {
        let back = Wire::start().await;
        let setup = Setup { flags: vec!["--advertise".to_owned(), back.url()], ..Setup::default() };
        let mut coordinator = Coordinator::spawn_in(tempfile::tempdir().expect("a folder can be made"), setup);
        back.lead_to(coordinator.api.base());
        coordinator.ready().await;
        let banks = [Bank::start().await, Bank::start().await];
        let out = [Wire::to(&banks[0].url()).await, Wire::to(&banks[1].url()).await];
        Self { coordinator, banks, out, back }
    }

    /// A transfer of 5 cents from the first bank to the second, with so much time.
    fn transfer(&self, timeout_ms: u64) -> Value {
        json!({ "branches": transfer(&self.out[0].url(), &self.out[1].url(), 5), "timeout_ms": timeout_ms })
    }

    /// Waits until a transfer has moved its cents, or none.
    async fn comes_to(&self, moved: i64) {
        self.banks[0].comes_to_hold(&account(1), OPENING - moved).await;
        self.banks[1].comes_to_hold(&account(1), OPENING + moved).await;
        for bank in &self.banks {
            bank.nothing_in_doubt().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_from_one_participant_aborts_at_the_deadline_and_costs_the_others_nothing() {
    let town = Town::start().await;
    town.out[0].becomes(Line::Blocked);
    let id = town.coordinator.api.begin(&town.transfer(1_500)).await;
    let commit = town.coordinator.api.commit_in_background(&id);
    // Meanwhile those that can be reached work on.
    let here =
        json!([posting(&town.out[1].url(), "in", &account(2), 7), posting(&town.out[1].url(), "out", &account(3), -7)]);
    let _ = town.coordinator.api.run(&here).await.expect(200);
    assert!(!commit.is_finished(), "it waits for the other side of the partition");
    let answer = commit.await.expect("a call ends").expect("it is answered").expect(409);
    assert_eq!(answer.body["transaction"]["reason"]["code"], "deadline");
    // The prepare is still on its way, and arrives now.
    town.out[0].becomes(Line::Good);
    assert_eq!(town.coordinator.api.finished(&id).await["decision"], "abort");
    wait::a_while().await;
    town.comes_to(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_that_the_line_holds_back_beyond_the_deadline_does_not_count() {
    let town = Town::start().await;
    town.out[0].becomes(Line::AnswersBlocked);
    let id = town.coordinator.api.begin(&town.transfer(1_500)).await;
    let answer = town.coordinator.api.commit(&id).await.expect(409);
    assert_eq!(answer.body["transaction"]["reason"]["code"], "deadline");
    assert_eq!(answer.body["transaction"]["reason"]["branch"], "debit", "it had prepared, and its vote was not heard");
    town.out[0].becomes(Line::Good);
    let ended = town.coordinator.api.finished(&id).await;
    assert_eq!((&ended["decision"], &ended["heuristic"]), (&json!("abort"), &json!(false)));
    town.comes_to(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_in_doubt_behind_a_partition_learns_the_decision_by_whichever_line_is_mended_first() {
    for mended in ["its own line", "the coordinator's"] {
        let town = Town::start().await;
        // Votes last, so that the lines can be blocked when the banks have voted.
        let last = Participant::scripted(|received| match received.call {
            Call::Prepare => Act::Hold,
            Call::Commit | Call::Abort => Act::Obey,
        });
        let mut body = town.transfer(60_000);
        body["branches"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "participant": last.url(), "branch": "last", "payload": {} }));
        let id = town.coordinator.api.begin(&body).await;
        let commit = town.coordinator.api.commit_in_background(&id);
        wait::until_so("a bank is in doubt", async || town.banks[0].in_doubt().await == 1).await;
        wait::until_so("a vote is counted", async || {
            let shown = town.coordinator.api.transaction(&id).await;
            let branches = shown["branches"].as_array().unwrap();
            branches.iter().filter(|branch| branch["vote"] == "prepared").count() == 2
        })
        .await;
        town.out[0].becomes(Line::Blocked);
        town.back.becomes(Line::Blocked);
        last.release();
        let _ = commit.await.expect("a call ends").expect("it is answered").expect(200);
        town.banks[1].comes_to_hold(&account(1), OPENING + 5).await;
        wait::a_while().await;
        assert_eq!(town.banks[0].in_doubt().await, 1, "nobody could tell it, and it must not decide alone");
        match mended {
            "its own line" => town.back.becomes(Line::Good),
            _ => town.out[0].becomes(Line::Good),
        }
        town.comes_to(5).await;
        town.out[0].becomes(Line::Good);
        assert_eq!(town.coordinator.api.finished(&id).await["heuristic"], false, "{mended}");
        town.comes_to(5).await;
        last.assert_respected();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_in_the_middle_is_none() {
    // In the head of the answer, and in its body.
    for bytes in [20, 130] {
        let town = Town::start().await;
        town.out[0].becomes(Line::CutsAnswers(bytes));
        let id = town.coordinator.api.begin(&town.transfer(1_000)).await;
        let answer = town.coordinator.api.commit(&id).await.expect(409);
        assert_eq!(answer.body["transaction"]["reason"]["code"], "participant_error", "{bytes}");
        town.out[0].becomes(Line::Good);
        town.coordinator.api.finished(&id).await;
        town.comes_to(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_a_byte_after_the_other_arrives() {
    let town = Town::start().await;
    for wire in &town.out {
        wire.becomes(Line::Dripping(Duration::from_millis(2)));
    }
    let id = town.coordinator.api.begin(&town.transfer(60_000)).await;
    let _ = town.coordinator.api.commit(&id).await.expect(200);
    town.coordinator.api.finished(&id).await;
    town.comes_to(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stands_still_longer_than_every_timeout_everything_ends_as_it_was_told() {
    let mut random = StdRng::seed_from_u64(seed("whoever_stands_still"));
    let mut town = Town::start().await;
    let opening = holdings(&town.banks).await;
    let urls = [town.out[0].url(), town.out[1].url()];
    let tellers = Tellers::start(6, &town.coordinator.api, urls, &mut random);
    tellers.try_more(30).await;
    // A bank; then the coordinator as well; then the coordinator alone.
    town.banks[0].process.pause().await;
    tokio::time::sleep(LONGER_THAN_ALL / 2).await;
    town.coordinator.process.pause().await;
    tokio::time::sleep(LONGER_THAN_ALL / 2).await;
    town.banks[0].process.go_on();
    tokio::time::sleep(LONGER_THAN_ALL / 2).await;
    town.coordinator.process.go_on();
    tellers.try_more(30).await;
    let history = tellers.end(&town.banks, opening).await;
    history.assert_sound();
    report(&history);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_lines_do_everything_ends_and_no_answer_is_contradicted() {
    let mut random = StdRng::seed_from_u64(seed("whatever_the_lines_do"));
    let town = Town::start().await;
    let opening = holdings(&town.banks).await;
    // Behind the lines, messages are also lost, doubled and late.
    let proxies = [0, 1].map(|number| Proxy::bad(&town.banks[number].url(), random.random(), 10));
    for (wire, proxy) in town.out.iter().zip(&proxies) {
        wire.lead_to(&proxy.url());
    }
    let urls = [town.out[0].url(), town.out[1].url()];
    let tellers = Tellers::start(6, &town.coordinator.api, urls, &mut random);
    let rounds = setting("UNANIMOUS_ROUNDS").unwrap_or(20);
    for round in 1..=rounds {
        let lines: Vec<Line> = (0..3).map(|_| line(&mut random)).collect();
        println!("round {round}: {} transfers so far; {lines:?}", tellers.tried());
        for (wire, line) in town.out.iter().chain([&town.back]).zip(lines) {
            wire.becomes(line);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..700))).await;
    }
    for wire in town.out.iter().chain([&town.back]) {
        wire.becomes(Line::Good);
    }
    let history = tellers.end(&town.banks, opening).await;
    history.assert_sound();
    report(&history);
}

/// One of the ways a line can be; every second one is good.
fn line(random: &mut StdRng) -> Line {
    match random.random_range(0..12) {
        0 => Line::Blocked,
        1 => Line::AnswersBlocked,
        2 => Line::Dripping(Duration::from_millis(1)),
        3 => Line::Late(Duration::from_millis(random.random_range(1..300))),
        4 => Line::CutsAnswers(random.random_range(0..200)),
        5 => Line::Cut,
        _ => Line::Good,
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seed of a test, which it prints.
fn seed(test: &str) -> u64 {
    let seed = setting("UNANIMOUS_SEED").unwrap_or_else(|| rand::rng().random());
    println!("again: UNANIMOUS_SEED={seed} cargo test --release --workspace --test partitions -- {test}");
    seed
}

/// Says what happened, and fails if too little did for the test to mean anything.
fn report(history: &History) {
    let decided = |how: &str| history.shown.values().filter(|shown| shown["decision"] == how).count();
    let (committed, aborted) = (decided("commit"), decided("abort"));
    println!("{} transfers: {committed} committed, {aborted} aborted", history.attempts.len());
    assert!(committed > 20, "hardly anything was committed");
    assert!(aborted > 0, "nothing was in anybody's way");
}
