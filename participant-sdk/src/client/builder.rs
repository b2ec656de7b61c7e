//! A transaction that is about to begin.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Error, Info, Outcome, Transaction,
    calls::{Calls, Names, Post, expect, outcome},
};
use crate::protocol::{BranchName, ParticipantUrl};

/// A transaction that is about to begin. Nothing has happened yet.
///
/// ```no_run
/// # async fn f(client: unanimous_sdk::client::Client) -> Result<(), unanimous_sdk::client::Error> {
/// use std::time::Duration;
/// let outcome = client
///     .begin()
///     .timeout(Duration::from_secs(5))
///     .metadata("transfer", "17")
///     .named_branch("debit", "http://127.0.0.1:8081", &("alice", -500))
///     .named_branch("credit", "http://127.0.0.1:8082", &("bob", 500))
///     .commit()
///     .await?;
/// println!("{:?}", outcome.info().decision);
/// # Ok(()) }
/// ```
#[must_use = "it has not begun before `start` or `commit`"]
#[derive(Debug)]
pub struct Begin {
    calls: Arc<Calls>,
    body: Map<String, Value>,
    metadata: Map<String, Value>,
    branches: Vec<Value>,
    wrong: Option<Error>,
}

/// A branch with its work, as it stands in a call.
pub(super) fn branch(
    name: Option<&str>,
    participant: &str,
    payload: &(impl Serialize + ?Sized),
) -> Result<Value, Error> {
    let participant: ParticipantUrl = participant.parse()?;
    let mut branch = json!({ "participant": participant, "payload": serde_json::to_value(payload)? });
    if let Some(name) = name {
        branch["branch"] = json!(name.parse::<BranchName>()?);
    }
    Ok(branch)
}

/// A call that begins: its answer names a transaction that nobody knows before.
fn post(body: &Value, waits: bool) -> Post<'_> {
    Post { path: String::new(), body, key: None, waits, names: Names::default() }
}

impl Begin {
    pub(super) fn new(calls: Arc<Calls>) -> Self {
        Self { calls, body: Map::new(), metadata: Map::new(), branches: Vec::new(), wrong: None }
    }

    /// How long it may stay undecided: then it is aborted. 1 ms to 24 h; the coordinator's default is 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.body.insert("timeout_ms".to_owned(), ms.into());
        self
    }

    /// A text that is kept with it, for people.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), Value::String(value.into()));
        self
    }

    /// Answers a commit only when every branch has acknowledged it, not as soon as the decision is durable.
    pub fn respond_when_finished(mut self) -> Self {
        self.body.insert("respond".to_owned(), "finished".into());
        self
    }

    /// Work for a participant, by its base URL. What is wrong with it is told by `start` or `commit`.
    pub fn branch(mut self, participant: &str, payload: &(impl Serialize + ?Sized)) -> Self {
        self.add(branch(None, participant, payload));
        self
    }

    /// The same, under a name that is chosen here: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub fn named_branch(mut self, name: &str, participant: &str, payload: &(impl Serialize + ?Sized)) -> Self {
        self.add(branch(Some(name), participant, payload));
        self
    }

    fn add(&mut self, branch: Result<Value, Error>) {
        match branch {
            Ok(branch) => self.branches.push(branch),
            Err(error) => self.wrong = self.wrong.take().or(Some(error)),
        }
    }

    fn body(&mut self) -> Result<Value, Error> {
        if let Some(error) = self.wrong.take() {
            return Err(error);
        }
        let mut body = std::mem::take(&mut self.body);
        if !self.metadata.is_empty() {
            body.insert("metadata".to_owned(), Value::Object(std::mem::take(&mut self.metadata)));
        }
        if !self.branches.is_empty() {
            body.insert("branches".to_owned(), Value::Array(std::mem::take(&mut self.branches)));
        }
        Ok(Value::Object(body))
    }

    /// Begins it. One that is begun in vain is aborted at its deadline.
    ///
    /// Errors: [`Error`].
    pub async fn start(mut self) -> Result<Transaction, Error> {
        // It matters with the commit only.
        self.body.remove("respond");
        let body = self.body()?;
        let answer = self.calls.post(post(&body, false)).await?;
        let info: Info = expect("begin", &[200, 201], &answer)?;
        Ok(Transaction::new(self.calls, info.id))
    }

    /// Begins it and commits the branches given, in one call. A lost answer is asked for again: it runs once.
    ///
    /// Errors: [`Error::Unknown`] if the coordinator couldn't be reached again in time after that: then nobody here can
    /// tell whether it ran, and to begin another one could do the work twice. Where that matters, use [`Begin::start`]
    /// and [`Transaction::commit`], which can be repeated for ever. Others: [`Error`].
    pub async fn commit(mut self) -> Result<Outcome, Error> {
        let mut body = self.body()?;
        body["commit"] = true.into();
        let answer = self.calls.post(post(&body, true)).await?;
        outcome("commit", &answer)
    }
}
