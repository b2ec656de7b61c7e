//! SIGKILL on a participant's store at any moment: every vote that was told is there again, with its locks; no commit
//! that was told is lost; what was told to be aborted or never told is not half there.
#![cfg(feature = "store")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

mod common;

use common::{Served, committed, prepared};
use unanimous_sdk::prelude::*;

const FOLDER: &str = "UNANIMOUS_KILL_TEST_FOLDER";
const ACCOUNTS: u32 = 8;

/// Not a test of its own: the process that is killed. It tells on its standard output what it has answered.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let served = Served::start(KvStore::open(&folder).unwrap()).await;
        let held: BTreeSet<u32> = {
            let listed: serde_json::Value =
                served.http.get(format!("{}/branches", served.url)).send().await.unwrap().json().await.unwrap();
            let number = |item: &serde_json::Value| {
                u32::from_str_radix(&item["transaction"].as_str().unwrap()[28..], 16).unwrap()
            };
            listed["items"].as_array().unwrap().iter().map(number).collect()
        };
        let say = |what: String| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{what}").unwrap();
            out.flush().unwrap();
        };
        say(format!("#held {}", held.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")));
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        let mut numbers = line.split_whitespace().map(|n| n.parse::<u32>().unwrap());
        let first = numbers.next().unwrap();
        // What was in doubt here, or is for who sent the decisions.
        let open: BTreeSet<u32> = held.into_iter().chain(numbers).collect();
        let served = std::sync::Arc::new(served);
        let workers: Vec<_> = (0..ACCOUNTS)
            .map(|worker| {
                let (served, open) = (served.clone(), open.clone());
                tokio::spawn(async move {
                    for n in open.into_iter().filter(|n| n % ACCOUNTS == worker) {
                        finish(&served, n).await;
                    }
                    for n in (first..).filter(|n| n % ACCOUNTS == worker) {
                        let answer = served.prepare(n, &format!("account{worker}"), 1).await;
                        assert_eq!(answer, prepared());
                        println!("#voted {n}");
                        finish(&served, n).await;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
    });
}

/// Tells the decision. A vote that was lost would show here: its commit would be unknown.
async fn finish(served: &Served, n: u32) {
    let (answer, expected, what) = if commits(n) {
        (served.commit(n).await, committed(), "committed")
    } else {
        (served.abort(n).await, common::aborted(), "aborted")
    };
    let what = if answer == expected { what.to_owned() } else { format!("failed {answer:?}") };
    println!("#{what} {n}");
}

/// Even rounds of a worker commit, odd ones abort.
fn commits(n: u32) -> bool {
    (n / ACCOUNTS).is_multiple_of(2)
}

#[test]
fn no_vote_and_no_commit_that_was_told_is_lost_to_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = KvStore::open(folder.path()).unwrap();
        for account in 0..ACCOUNTS {
            store.put(format!("account{account}"), &0i64).await.unwrap();
        }
    });
    let rounds: u32 = std::env::var("UNANIMOUS_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let (mut voted, mut ended) = (BTreeSet::new(), BTreeMap::new());
    let mut saw_doubt = 0;
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("#held")).expect("it starts");
        let held: BTreeSet<u32> =
            line.split("#held").nth(1).unwrap().split_whitespace().map(|n| n.parse().unwrap()).collect();
        saw_doubt += held.len();
        for n in &held {
            assert!(
                !ended.get(n).is_some_and(|ended| *ended),
                "round {round}: {n} was committed, and is in doubt again"
            );
        }
        let open: Vec<String> = voted.iter().filter(|n| !ended.contains_key(*n)).map(u32::to_string).collect();
        writeln!(child.stdin.take().unwrap(), "{} {}", (round + 1) * 100_000, open.join(" ")).unwrap();
        // After so many answers, wherever that is: between a vote and its commit as well as within a write.
        let most = 40 + (round * 37) % 300;
        for (count, line) in lines.by_ref().enumerate() {
            note(&line, &mut voted, &mut ended);
            if count >= most as usize {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            note(&line, &mut voted, &mut ended);
        }
    }
    assert!(saw_doubt > 0, "no kill met a branch between its vote and its end: the test tests nothing");
    runtime.block_on(async {
        let store = KvStore::open(folder.path()).unwrap();
        let served = Served::start(store.clone()).await;
        let mut undecided = BTreeSet::new();
        for n in voted.iter().filter(|n| !ended.contains_key(n)) {
            undecided.insert(*n);
        }
        for n in undecided {
            finish(&served, n).await;
            ended.insert(n, commits(n));
        }
        let told: i64 = ended.values().filter(|committed| **committed).count().try_into().unwrap();
        let sum: i64 = store.scan::<i64>("account").unwrap().iter().map(|(_, cents)| cents).sum();
        assert_eq!(sum, told);
    });
}

fn note(line: &str, voted: &mut BTreeSet<u32>, ended: &mut BTreeMap<u32, bool>) {
    let Some((_, said)) = line.split_once('#') else { return };
    let Some((what, n)) = said.split_once(' ') else { return };
    assert!(what != "failed", "a vote that was told is lost: {said}");
    // A line is one write to the pipe, so it is there whole or not at all.
    let Ok(n) = n.parse() else { return };
    match what {
        "voted" => {
            voted.insert(n);
        }
        "committed" | "aborted" => {
            ended.insert(n, what == "committed");
        }
        _ => {}
    }
}
