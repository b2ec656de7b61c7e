//! What a coordinator has told anybody, and whether another one, on what is left of its disk, contradicts it.
//!
//! Always true: an answer is noted with how long the trace was when it had come: it must hold after every loss of power
//! from there on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use unanimous_tests::{
    api::Api,
    history::{Attempt, History, Rule, Told},
};

use crate::watched::Trace;

/// Something that was told.
#[derive(Clone, Debug)]
pub enum Word {
    /// How a transaction ended, and its place in the order of outcomes if that was told.
    Decision { id: String, decision: Told, sequence: Option<u64> },
    /// The transaction of an idempotency key, which is decided.
    Key { key: String, body: Value, id: String },
    /// Who the coordinator is, and its epoch.
    Epoch(Value),
    /// All below this has finished.
    Horizon(String),
}

/// All that was told during one life of a coordinator. Cheap to clone.
#[derive(Clone)]
pub struct Words {
    trace: Trace,
    words: Arc<Mutex<Vec<(u64, Word)>>>,
}

impl Words {
    pub fn new(trace: Trace) -> Self {
        Self { trace, words: Arc::default() }
    }

    /// Notes it, after it has come.
    pub fn heard(&self, word: Word) {
        let at = self.trace.len();
        self.words.lock().unwrap_or_else(PoisonError::into_inner).push((at, word));
    }

    /// These had been told before the trace began.
    pub fn held_before(&self, words: Vec<Word>) {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).extend(words.into_iter().map(|word| (0, word)));
    }

    /// Notes what a whole transaction in an answer says.
    pub fn heard_transaction(&self, shown: &Value) {
        let decision = match shown["decision"].as_str() {
            Some("commit") => Told::Committed,
            Some("abort") => Told::Aborted,
            _ => return,
        };
        let id = shown["id"].as_str().expect("a transaction has an id").to_owned();
        self.heard(Word::Decision { id, decision, sequence: shown["sequence"].as_u64() });
    }

    /// All that had been told before this place in the trace.
    pub fn before(&self, cut: u64) -> Vec<Word> {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.iter().filter(|(at, _)| *at <= cut).map(|(_, word)| word.clone()).collect()
    }
}

/// Every contradiction between what was told and what this coordinator says, whose participants are away.
pub async fn contradictions(api: &Api, words: &[Word]) -> Vec<String> {
    let shown = shown(api).await;
    let mut found = against_history(words, &shown);
    let unfinished = |shown: &&Value| !matches!(shown["state"].as_str(), Some("committed" | "aborted"));
    let first_unfinished = shown.values().filter(unfinished).filter_map(|shown| shown["id"].as_str()).min();
    let horizon =
        words.iter().filter_map(|word| if let Word::Horizon(at) = word { Some(at.as_str()) } else { None }).max();
    if let Some((horizon, first)) = horizon.zip(first_unfinished).filter(|(horizon, first)| first < horizon) {
        found.push(format!("all below {horizon} had finished, and {first} has not"));
    }
    let now = api.who().await;
    let mut asked = BTreeSet::new();
    for word in words.iter().rev() {
        match word {
            Word::Decision { id, sequence: Some(told), .. } => {
                let sequence = shown.get(id).and_then(|shown| shown["sequence"].as_u64());
                if sequence != Some(*told) {
                    found.push(format!("{id} was number {told} in the order of outcomes, and is {sequence:?}"));
                }
            }
            Word::Epoch(told) => found.extend(against_epoch(api, told, &now).await),
            // Each costs a call: the last ones are those that may be lost.
            Word::Key { key, body, id } if asked.len() < 10 => {
                asked.insert(key);
                let headers = [("idempotency-key", key.as_str()), ("prefer", "wait=0")];
                let answer = api.post_with("/v1/transactions", &headers, body).await;
                let whole = if answer.status == 409 { &answer.body["transaction"] } else { &answer.body };
                if whole["id"] != **id {
                    found.push(format!("key {key} was {id}, and is {}", whole["id"]));
                }
            }
            Word::Decision { .. } | Word::Horizon(_) | Word::Key { .. } => {}
        }
    }
    found
}

/// All transactions that it knows.
async fn shown(api: &Api) -> BTreeMap<String, Value> {
    let page = api.get("/v1/transactions?limit=1000").await.expect(200);
    assert!(page.body["next_cursor"].is_null(), "more than a page of them");
    let items = page.body["items"].as_array().expect("a list has items").iter();
    items.map(|item| (item["id"].as_str().expect("it has an id").to_owned(), item.clone())).collect()
}

/// What the checker of histories finds. That all is finished can't be asked for: the participants are away.
fn against_history(words: &[Word], shown: &BTreeMap<String, Value>) -> Vec<String> {
    let attempts = words.iter().filter_map(|word| match word {
        Word::Decision { id, decision, .. } => {
            Some(Attempt { transaction: id.clone(), moves: vec![], told: vec![*decision] })
        }
        Word::Key { .. } | Word::Epoch(_) | Word::Horizon(_) => None,
    });
    let mut seen = BTreeSet::new();
    // Several were told of the same one.
    let attempts =
        attempts.filter(|attempt| seen.insert((attempt.transaction.clone(), attempt.told == [Told::Committed])));
    let history = History { attempts: attempts.collect(), shown: shown.clone(), ..History::default() };
    let broken = history.broken().into_iter();
    broken.filter(|broken| broken.rule == Rule::ToldIsFinal).map(|broken| broken.to_string()).collect()
}

async fn against_epoch(api: &Api, told: &Value, now: &Value) -> Option<String> {
    if told["id"] != now["id"] {
        return Some(format!("it was coordinator {}, and is {}", told["id"], now["id"]));
    }
    if now["epoch"].as_str() <= told["epoch"].as_str() {
        return Some(format!("its epoch was {}, and is {}", told["epoch"], now["epoch"]));
    }
    let id = told["epoch"].as_str().expect("an epoch is text");
    let answer = api.inquire(id, told, "a").await.expect("an inquiry is answered");
    // Of its form, an epoch could be an id, too: one that this log doesn't know.
    (answer.status != 200).then(|| format!("an inquiry under epoch {id} gets {}", answer.body))
}

/// A begin with commit of one branch at each of these participants.
pub fn run_of(participants: &[String], payload: &Value) -> Value {
    let branch = |(number, url): (usize, &String)| json!({ "participant": url, "branch": format!("b{number}"), "payload": payload });
    let branches: Vec<Value> = participants.iter().enumerate().map(branch).collect();
    json!({ "branches": branches, "commit": true })
}
