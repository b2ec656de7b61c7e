//! Lists over many finished transactions: whole, in order, and by an index: what a page costs doesn't grow with the log.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use serde_json::{Value, json};
use unanimous_coordinator::{
    config::{Cli, Command},
    journal::{Entry, Find, Journal, Lsn, RocksDb, Tag, rocks},
    serve::{self, Running},
    transaction::{Branch, BranchState, Decided, Key, KeyedCall, State, Transaction},
};
use unanimous_sdk::protocol::{Decision, TransactionId, UnixMillis, Vote};
use unanimous_tests::{api::Api, participant::Participant};
use uuid::Uuid;

/// Enough for a scan to be seen.
const MANY: u64 = 20_000;

/// Every so many has it: an abort, another participant, an order that nobody else has.
const ABORTED: u64 = 10;
const RARE: u64 = 1_000;

/// When the first was begun: an hour ago, a millisecond before the next. (All of a test have the same idea of now.)
struct Story {
    first_ms: u64,
    count: u64,
}

impl Story {
    fn new(count: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis();
        Self { first_ms: u64::try_from(now).expect("a time fits") - 3_600_000 - count, count }
    }

    fn id(&self, n: u64) -> TransactionId {
        let ms = u128::from(self.first_ms + n) << 80;
        TransactionId::from_uuid(Uuid::from_u128(ms | 0x7000_8000_0000_0000_0000 | u128::from(n)))
    }

    fn time(&self, n: u64) -> String {
        UnixMillis(self.first_ms + n).to_string()
    }

    fn transaction(&self, n: u64) -> Transaction {
        let at = UnixMillis(self.first_ms + n);
        let aborted = n.is_multiple_of(ABORTED);
        let branch = |name: &str, participant: String| Branch {
            participant_id: None,
            voted_late: false,
            given_up: false,
            name: name.parse().expect("a name"),
            participant: participant.parse().expect("a URL"),
            payload_digest: Some(u128::from(n)),
            state: if aborted { BranchState::Aborted } else { BranchState::Committed },
            vote: (!aborted).then_some(Vote::Prepared),
            detail: None,
            payload: None,
            heard: None,
            attempts: 1,
        };
        let second = if n.is_multiple_of(RARE) { "rare" } else { "south" };
        Transaction {
            state: if aborted { State::Aborted } else { State::Committed },
            branches: vec![
                branch("1", "http://127.0.0.1:9/north".to_owned()),
                branch("2", format!("http://127.0.0.1:9/{second}")),
            ],
            decided: Some(Decided {
                decision: if aborted { Decision::Abort } else { Decision::Commit },
                sequence: None,
                reason: None,
                at,
                lsn: Lsn::default(),
                before: State::Preparing,
            }),
            metadata: Arc::new(BTreeMap::from([
                ("order".to_owned(), n.to_string()),
                ("parity".to_owned(), (if n.is_multiple_of(2) { "even" } else { "odd" }).to_owned()),
            ])),
            created_at: at,
            deadline: at,
            finished_at: Some(at),
            keys: vec![Key { text: format!("key-{n}").into(), call: KeyedCall::Begin, body: 1 }],
            records: 0,
        }
    }

    /// Writes them to a new log in this folder.
    fn write(&self, folder: &Path) {
        let (journal, written) = open(folder, UnixMillis(self.first_ms));
        for first in (0..self.count).step_by(1000) {
            let last = (first + 1000).min(self.count);
            let finished = |n| Entry::Finished { id: self.id(n), transaction: Arc::new(self.transaction(n)) };
            journal.append(Lsn(first + 1), (first..last).map(finished).collect());
            let (lock, told) = &*written;
            // No more waits in memory than a batch.
            drop(told.wait_while(lock.lock().unwrap(), |written| *written < last).unwrap());
        }
        journal.close().expect("the log can be closed");
    }
}

type Written = Arc<(Mutex<u64>, Condvar)>;

fn open(folder: &Path, now: UnixMillis) -> (RocksDb, Written) {
    let (opened, _) = rocks::open(folder, now, || Uuid::now_v7().as_u128()).expect("the log opens");
    let written = Written::default();
    let teller = Arc::clone(&written);
    let on_progress = move |progress: unanimous_coordinator::journal::Progress| {
        *teller.0.lock().unwrap() = progress.written.0;
        teller.1.notify_all();
    };
    let journal = opened.start(Box::new(on_progress), Box::new(|error| panic!("{error}")));
    (journal.expect("the log starts"), written)
}

async fn serve(folder: &Path) -> (Running, Api) {
    let folder = folder.to_str().expect("a path is text");
    let flags = ["unanimous", "serve", "--listen", "127.0.0.1:0", "--data-dir", folder];
    let Command::Serve(config) = Cli::try_parse_from(flags).expect("the flags are right").command else {
        panic!("serve was meant")
    };
    let running = serve::start(config).await.expect("a coordinator starts");
    let api = Api::new(&format!("http://{}", running.address));
    (running, api)
}

/// The numbers of the transactions of a page, and where the next begins.
async fn page(api: &Api, query: &str) -> (Vec<u64>, Option<String>) {
    let page = api.get(&format!("/v1/transactions?{query}")).await.expect(200).body;
    let order = |item: &Value| item["metadata"]["order"].as_str().and_then(|order| order.parse().ok());
    let items = page["items"].as_array().expect("a page has items");
    (items.iter().filter_map(order).collect(), page["next_cursor"].as_str().map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_gives_what_it_says_newest_first_out_of_many() {
    let folder = tempfile::tempdir().unwrap();
    let story = Story::new(MANY);
    story.write(folder.path());
    let (running, api) = serve(folder.path()).await;
    let newest = |fits: &dyn Fn(u64) -> bool, most: usize| -> Vec<u64> {
        (0..MANY).rev().filter(|n| fits(*n)).take(most).collect()
    };
    let between = format!("since={}&until={}&limit=1000", story.time(100), story.time(130));
    let cases: [(&str, Vec<u64>); 12] = [
        ("", newest(&|_| true, 50)),
        ("limit=1000", newest(&|_| true, 1000)),
        ("state=aborted", newest(&|n| n % ABORTED == 0, 50)),
        ("state=committed,aborted&limit=7", newest(&|_| true, 7)),
        ("state=active,preparing,committing,aborting", vec![]),
        ("heuristic=true", vec![]),
        ("heuristic=false&limit=3", newest(&|_| true, 3)),
        ("participant=http://127.0.0.1:9/rare/", newest(&|n| n % RARE == 0, 50)),
        ("participant=http://127.0.0.1:9/north&metadata.order=17", vec![17]),
        ("idempotency_key=key-12345", vec![12345]),
        ("metadata.parity=odd&state=aborted", vec![]),
        (&between, newest(&|n| (100..130).contains(&n), 1000)),
    ];
    for (query, expected) in cases {
        assert_eq!(page(&api, query).await.0, expected, "{query}");
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_would_cost_too_much_ends_early_and_says_where_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    // Many are odd, many are aborted, and none is both.
    let story = Story::new(3 * MANY);
    story.write(folder.path());
    let (running, api) = serve(folder.path()).await;
    let (mut pages, mut cursor) = (0, String::new());
    loop {
        let (some, next) = page(&api, &format!("metadata.parity=odd&state=aborted{cursor}")).await;
        assert!(some.is_empty(), "none is both, but {some:?}");
        pages += 1;
        assert!(pages < 100, "it gets nowhere");
        let Some(next) = next else { break };
        cursor = format!("&cursor={next}");
    }
    assert!(pages > 1, "the first page looked at all of them");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_no_gap_and_no_repeat_while_transactions_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let story = Story::new(2_000);
    story.write(folder.path());
    let (running, api) = serve(folder.path()).await;
    let participant = Participant::start();
    let work = json!({ "branches": [{ "participant": participant.url(), "payload": {} }], "commit": true });
    let (mut seen, mut cursor) = (vec![], String::new());
    loop {
        let _ = api.post("/v1/transactions", &work).await.expect(200);
        let (some, next) = page(&api, &format!("limit=300{cursor}")).await;
        seen.extend(some);
        let Some(next) = next else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, (0..2_000).rev().collect::<Vec<_>>());
    running.stop().await.unwrap();
}

/// What finding the first of a list costs: how many keys RocksDB has compared, and how many bytes it has read.
fn cost(journal: &RocksDb, find: &Find, most: usize) -> (u64, usize) {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    let mut found = 0;
    let each = &mut |_, _| {
        found += 1;
        found < most
    };
    journal.find(find, each).expect("the log can be read");
    let compared = context.metric(PerfMetric::UserKeyComparisonCount);
    set_perf_stats(PerfStatsLevel::Disable);
    (compared, found)
}

/// The filters of a list, as the log is asked for them.
fn finds(story: &Story) -> Vec<(&'static str, Find)> {
    let by = |groups| Find { groups, ..Find::default() };
    let participant = |name: &str| vec![Tag::participant(&format!("http://127.0.0.1:9/{name}").parse().unwrap())];
    let half = Some(story.id(story.count / 2));
    vec![
        ("all", by(vec![])),
        ("a page in the middle", Find { before: half, ..Find::default() }),
        ("until the middle, by state", Find { before: half, ..by(vec![vec![Tag::state(State::Aborted)]]) }),
        ("by state", by(vec![vec![Tag::state(State::Aborted)]])),
        ("by two states", by(vec![vec![Tag::state(State::Aborted), Tag::state(State::Committed)]])),
        ("by a state that none has", by(vec![vec![]])),
        ("heuristic", by(vec![vec![Tag::heuristic()]])),
        ("by a participant of all", by(vec![participant("north")])),
        ("by a participant of none", by(vec![participant("nobody")])),
        ("by an order", by(vec![vec![Tag::metadata("order", "17")]])),
        ("by a key", by(vec![vec![Tag::key("key-17")]])),
        ("by a participant and an order", by(vec![participant("north"), vec![Tag::metadata("order", "17")]])),
        ("by state and participant", by(vec![vec![Tag::state(State::Aborted)], participant("north")])),
    ]
}

#[test]
fn what_a_page_costs_does_not_grow_with_the_log() {
    let costs = |count| {
        let folder = tempfile::tempdir().unwrap();
        let story = Story::new(count);
        story.write(folder.path());
        let (journal, _) = open(folder.path(), UnixMillis(story.first_ms));
        let costs: Vec<_> = finds(&story).iter().map(|(name, find)| (*name, cost(&journal, find, 50))).collect();
        journal.close().unwrap();
        costs
    };
    let (few, many) = (costs(MANY / 20), costs(MANY));
    for ((name, (less, found)), (_, (more, found_too))) in few.into_iter().zip(many) {
        assert_eq!(found, found_too, "{name}");
        // Looking one up compares as many keys as the logarithm says; walking over all would compare twenty times as many.
        assert!(more < 3 * less + 1_000, "{name}: {less} keys compared in a log, {more} in one twenty times as long");
        assert!(more < MANY, "{name}: {more} keys compared");
    }
}

/// A measurement: how long pages take out of a million (or `UNANIMOUS_MEASURE_COUNT`) finished transactions.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, which takes minutes; it prints what it finds"]
async fn a_million_finished_transactions_measured() {
    let count = std::env::var("UNANIMOUS_MEASURE_COUNT").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let folder = tempfile::tempdir().unwrap();
    let story = Story::new(count);
    let began = Instant::now();
    story.write(folder.path());
    println!("{count} written in {:.1?}", began.elapsed());
    let began = Instant::now();
    let (running, api) = serve(folder.path()).await;
    println!("started on them in {:.1?}", began.elapsed());
    let middle = story.id(count / 2);
    let range = format!("since={}&until={}", story.time(count / 2), story.time(count / 2 + 500));
    let queries = [
        "limit=50".to_owned(),
        "limit=1000".to_owned(),
        format!("limit=50&cursor={middle}"),
        range,
        "state=committed".to_owned(),
        "state=aborted".to_owned(),
        "state=active".to_owned(),
        "heuristic=true".to_owned(),
        "heuristic=false".to_owned(),
        "participant=http://127.0.0.1:9/north".to_owned(),
        "participant=http://127.0.0.1:9/rare".to_owned(),
        "participant=http://127.0.0.1:9/rare&state=aborted".to_owned(),
        "participant=http://127.0.0.1:9/nobody".to_owned(),
        "metadata.parity=odd".to_owned(),
        format!("metadata.order={}", count / 3),
        format!("idempotency_key=key-{}", count / 3),
        "metadata.parity=odd&state=aborted".to_owned(),
    ];
    println!("{:>10} {:>10} {:>10} {:>6}  query", "first", "median", "slowest", "items");
    for query in queries {
        let mut times = vec![];
        let mut items = 0;
        for _ in 0..21 {
            let began = Instant::now();
            items = page(&api, &query).await.0.len();
            times.push(began.elapsed());
        }
        let first = times.remove(0);
        times.sort();
        println!("{first:>10.1?} {:>10.1?} {:>10.1?} {items:>6}  {query}", times[10], times[19]);
    }
    running.stop().await.unwrap();
}
