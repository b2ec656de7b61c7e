//! A transaction that has begun.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Error, Info, Outcome,
    builder::branch,
    calls::{Calls, Names, Post, expect, outcome},
};
use crate::protocol::{BranchName, EnlistAnswer, TRANSACTION_HEADER, TransactionId};

/// A transaction that has begun. Dropping it does nothing: it is aborted at its deadline unless it is committed.
///
/// ```no_run
/// # async fn f(client: unanimous_sdk::client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let transaction = client.begin().start().await?;
/// // A service that takes part by itself: it is told by a header which transaction it works in.
/// let (name, value) = transaction.header();
/// let placed = reqwest::Client::new().post("http://127.0.0.1:8083/orders").header(name, value).send().await?;
/// let outcome = if placed.status().is_success() {
///     transaction.commit().await?
/// } else {
///     transaction.abort("the order was refused").await?
/// };
/// println!("{:?}", outcome.info().decision);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Transaction {
    calls: Arc<Calls>,
    id: TransactionId,
}

impl Transaction {
    pub(super) fn new(calls: Arc<Calls>, id: TransactionId) -> Self {
        Self { calls, id }
    }

    /// Its id.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.calls.url(&format!("/{}", self.id))
    }

    /// The header by which a called service learns of the transaction: name and value.
    pub fn header(&self) -> (&'static str, String) {
        (TRANSACTION_HEADER, self.url())
    }

    /// Gives a participant work, which it does when the commit is asked for. The branch gets a name of its own.
    ///
    /// Errors: [`Error`].
    pub async fn enlist(&self, participant: &str, payload: &(impl Serialize + ?Sized)) -> Result<EnlistAnswer, Error> {
        // Named here, so that a repeat is the same branch.
        self.enlist_named(BranchName::unique().as_str(), participant, payload).await
    }

    /// The same, under a name that is chosen here.
    ///
    /// Errors: [`Error`].
    pub async fn enlist_named(
        &self,
        name: &str,
        participant: &str,
        payload: &(impl Serialize + ?Sized),
    ) -> Result<EnlistAnswer, Error> {
        let body = branch(Some(name), participant, payload)?;
        let branch = name.parse()?;
        let names = Names { branch: Some(&branch), ..self.names() };
        let path = format!("/{}/branches", self.id);
        let answer = self.calls.post(Post { path, body: &body, key: None, waits: false, names }).await?;
        expect("enlist", &[200, 201], &answer)
    }

    /// Commits it, or learns that it can't be. May be repeated for ever: the decision never changes.
    ///
    /// Errors: [`Error`]. After one, the transaction may have either outcome: ask again.
    pub async fn commit(&self) -> Result<Outcome, Error> {
        self.decide("commit", &json!({}), format!("commit-{}", self.id)).await
    }

    /// Commits it, and waits until every branch has acknowledged that.
    ///
    /// Errors: as for [`Transaction::commit`].
    pub async fn commit_and_finish(&self) -> Result<Outcome, Error> {
        let body = json!({ "respond": "finished" });
        self.decide("commit", &body, format!("commit-finished-{}", self.id)).await
    }

    /// Aborts it, or learns that it is committed. May be repeated for ever.
    ///
    /// Errors: as for [`Transaction::commit`].
    pub async fn abort(&self, reason: &str) -> Result<Outcome, Error> {
        let body = json!({ "reason": reason });
        // A key stands for one body.
        let digest = xxhash_rust::xxh3::xxh3_128(reason.as_bytes());
        self.decide("abort", &body, format!("abort-{}-{digest:032x}", self.id)).await
    }

    fn names(&self) -> Names<'static> {
        Names { transaction: Some(self.id), branch: None }
    }

    /// Commits or aborts, under the one key that all such calls of the transaction share, from whatever process: the
    /// coordinator keeps no key for each repeat.
    async fn decide(&self, call: &str, body: &Value, key: String) -> Result<Outcome, Error> {
        let (path, waits) = (format!("/{}/{call}", self.id), call == "commit");
        let post = Post { path, body, key: Some(key), waits, names: self.names() };
        outcome(call, &self.calls.post(post).await?)
    }

    /// How it stands now.
    ///
    /// Errors: [`Error`].
    pub async fn info(&self) -> Result<Info, Error> {
        let answer = self.calls.get(&format!("/{}", self.id), self.names()).await?;
        expect("get", &[200], &answer)
    }
}
