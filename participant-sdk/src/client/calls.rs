//! Calls to the coordinator, repeated until they are answered.
//!
//! # Invariants
//! - All repeats of a call carry one Idempotency-Key: whatever was lost on the way, it is carried out once.
//! - Every call is meant for the log of the coordinator that was met first; the answer of another log is an error, never an
//!   outcome.
//! - An answer that names another transaction or branch than the call is none.
//! - "Nothing was done" is said only if that is certain: no connection was ever made, or the coordinator itself said 503.

use std::{sync::OnceLock, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;

use super::{Aborted, ClientOptions, Committed, Error, Info, Outcome, Undecided};
use crate::{
    http::{Backoff, Connections, coordinator_of, explain, meant_for, read},
    protocol::{BranchName, CoordinatorId, ParticipantUrl, Problem, ProblemType, TransactionId},
};

#[derive(Debug)]
pub(super) struct Calls {
    pub(super) base: ParticipantUrl,
    pub(super) http: Connections,
    pub(super) options: ClientOptions,
    /// The coordinator that was met first.
    pub(super) met: OnceLock<CoordinatorId>,
}

/// An answer's status and body.
pub(super) type Answer = (u16, Vec<u8>);

/// A call that changes something.
pub(super) struct Post<'a> {
    pub(super) path: String,
    pub(super) body: &'a Value,
    /// The Idempotency-Key; None for one that this call alone has.
    pub(super) key: Option<String>,
    /// Whether it waits for a decision, as long as the options say.
    pub(super) waits: bool,
    pub(super) names: Names<'a>,
}

/// What an answer to a call may name, and nothing else.
#[derive(Clone, Copy, Default)]
pub(super) struct Names<'a> {
    pub(super) transaction: Option<TransactionId>,
    pub(super) branch: Option<&'a BranchName>,
}

/// What an answer names: a transaction has its `id`, other answers have `transaction` and `branch`.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    id: Option<TransactionId>,
    #[serde(default)]
    transaction: Option<NamedTransaction>,
    #[serde(default)]
    branch: Option<BranchName>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NamedTransaction {
    Id(TransactionId),
    Whole { id: TransactionId },
}

impl Names<'_> {
    /// Returns whether an answer can be that of the call. What can't be read names nothing.
    fn fit(self, body: &[u8]) -> bool {
        if self.transaction.is_none() && self.branch.is_none() {
            return true;
        }
        let Ok(Named { id, transaction, branch }) = serde_json::from_slice(body) else { return true };
        let transaction = transaction.map(|named| match named {
            NamedTransaction::Id(id) | NamedTransaction::Whole { id } => id,
        });
        let is_other = |named: Option<TransactionId>| {
            self.transaction.is_some() && named.is_some_and(|it| Some(it) != self.transaction)
        };
        let is_other_branch = self.branch.is_some() && branch.as_ref().is_some_and(|it| Some(it) != self.branch);
        !is_other(id) && !is_other(transaction) && !is_other_branch
    }
}

/// Why a call has no answer, and whether it is certain that nothing was done.
struct NoAnswer {
    why: String,
    is_certain: bool,
}

impl Calls {
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/v1/transactions{path}", self.base)
    }

    pub(super) async fn get(&self, path: &str, names: Names<'_>) -> Result<Answer, Error> {
        let url = self.url(path);
        self.send(format!("GET {url}"), names, || self.http.client().get(&url)).await
    }

    pub(super) async fn post(&self, post: Post<'_>) -> Result<Answer, Error> {
        let Post { path, body, key, waits, names } = post;
        let (url, key) = (self.url(&path), key.unwrap_or_else(|| uuid::Uuid::now_v7().to_string()));
        self.send(format!("POST {url}"), names, || {
            let request = self.http.client().post(&url).header("idempotency-key", &key).json(body);
            if waits {
                let wait = self.options.wait.as_secs().min(300);
                request.header("prefer", format!("wait={wait}")).timeout(Duration::from_secs(wait + 10))
            } else {
                request
            }
        })
        .await
    }

    async fn send(
        &self,
        call: String,
        names: Names<'_>,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Answer, Error> {
        let (until, mut pauses) = (Instant::now() + self.options.retry_for, Backoff::default());
        // Once an answer was lost, no later refusal to connect makes it certain that nothing was done.
        let mut lost = false;
        loop {
            let NoAnswer { why, is_certain } = match self.send_once(names, &request).await {
                Ok((409, body)) if kind_of(&body) == Some(ProblemType::NotMyLog) => {
                    let problem = problem(409, &body);
                    return Err(Error::OtherCoordinator { call, met: self.met.get().copied(), why: problem.detail });
                }
                Ok(answer) => return Ok(answer),
                Err(no_answer) => no_answer,
            };
            lost |= !is_certain;
            if Instant::now() >= until {
                return Err(if lost { Error::Unknown { call, why } } else { Error::Unreachable { call, why } });
            }
            tokio::time::sleep(pauses.next()).await;
        }
    }

    async fn send_once(
        &self,
        names: Names<'_>,
        request: &impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Answer, NoAnswer> {
        // Else the first answer that is lost would be asked for again at whatever answers there by then.
        let met = match self.met.get() {
            Some(met) => *met,
            None => self.meet().await.map_err(|why| NoAnswer { why, is_certain: true })?,
        };
        let lost = |why| NoAnswer { why, is_certain: false };
        let sent = meant_for(request(), Some(met)).send().await;
        let response = sent.map_err(|error| NoAnswer { why: explain(&error), is_certain: error.is_connect() })?;
        let (status, from) = (response.status().as_u16(), coordinator_of(&response));
        let body = read(response).await.map_err(lost)?;
        if status >= 500 {
            // Only its own 503 says that nothing was done; one of something in between doesn't.
            let is_certain = status == 503 && kind_of(&body).is_some();
            return Err(NoAnswer { why: problem(status, &body).detail, is_certain });
        }
        let is_of_other_log = from.is_some_and(|from| from != met) && kind_of(&body) != Some(ProblemType::NotMyLog);
        if is_of_other_log || !names.fit(&body) {
            self.http.close();
            return Err(lost("the answer to another call has come".to_owned()));
        }
        Ok((status, body))
    }

    /// Asks whose log it is.
    async fn meet(&self) -> Result<CoordinatorId, String> {
        #[derive(Deserialize)]
        struct Identity {
            id: CoordinatorId,
        }
        let url = format!("{}/v1/coordinator", self.base);
        let response = self.http.client().get(&url).send().await.map_err(|error| explain(&error))?;
        let status = response.status().as_u16();
        let body = read(response).await?;
        if status != 200 {
            return Err(problem(status, &body).detail);
        }
        let Identity { id } =
            serde_json::from_slice(&body).map_err(|error| format!("{url} doesn't say who it is: {error}"))?;
        Ok(*self.met.get_or_init(|| id))
    }
}

/// Returns which problem of the protocol an answer is.
fn kind_of(body: &[u8]) -> Option<ProblemType> {
    #[derive(Deserialize)]
    struct Type<'a> {
        #[serde(borrow)]
        r#type: std::borrow::Cow<'a, str>,
    }
    let Type { r#type } = serde_json::from_slice(body).ok()?;
    kind_named(&r#type)
}

/// Returns the problem that a `type` names. What stands before `/problems/` is where the coordinator serves its page.
fn kind_named(text: &str) -> Option<ProblemType> {
    let reference = &text[text.rfind("/problems/")?..];
    ProblemType::ALL.iter().find(|kind| kind.reference() == reference).copied()
}

/// What an answer that isn't the expected one says, as a problem.
pub(crate) fn problem(status: u16, body: &[u8]) -> Problem {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(kind) = value["type"].as_str().and_then(kind_named) else {
        let text = String::from_utf8_lossy(&body[..body.len().min(300)]);
        return Problem::new(ProblemType::NotReady, format!("an answer that isn't the protocol's: {status} {text}"));
    };
    let mut problem = Problem::new(kind, value["detail"].as_str().unwrap_or_default());
    if let Value::Object(members) = value {
        let further = |name: &str| !matches!(name, "type" | "title" | "status" | "detail");
        problem.members.extend(members.into_iter().filter(|(name, _)| further(name)));
    }
    problem
}

pub(super) fn refused(call: impl Into<String>, (status, body): &Answer) -> Error {
    Error::Refused { call: call.into(), problem: problem(*status, body) }
}

/// The body of an answer with one of these statuses.
pub(super) fn expect<T: DeserializeOwned>(call: &str, statuses: &[u16], answer: &Answer) -> Result<T, Error> {
    if !statuses.contains(&answer.0) {
        return Err(refused(call, answer));
    }
    serde_json::from_slice(&answer.1)
        .map_err(|error| Error::Unknown { call: call.to_owned(), why: format!("the answer can't be read: {error}") })
}

/// What an answer to commit or abort says of the transaction: the decision it names counts, never the status alone.
pub(super) fn outcome(call: &str, answer: &Answer) -> Result<Outcome, Error> {
    use crate::protocol::Decision;
    let info: Box<Info> = match answer.0 {
        200 | 202 => expect(call, &[200, 202], answer)?,
        409 => {
            let told = problem(answer.0, &answer.1);
            let is_decided = matches!(told.kind, ProblemType::Aborted | ProblemType::Committed);
            let info = told.members.get("transaction").cloned().and_then(|value| serde_json::from_value(value).ok());
            match info {
                Some(info) if is_decided => info,
                Some(_) | None => return Err(refused(call, answer)),
            }
        }
        _ => return Err(refused(call, answer)),
    };
    Ok(match info.decision {
        Some(Decision::Commit) => Outcome::Committed(Committed { info }),
        Some(Decision::Abort) => Outcome::Aborted(Aborted { info }),
        None => Outcome::Undecided(Undecided { info }),
    })
}
