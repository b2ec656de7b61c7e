//! Calls to the coordinator, repeated until they are answered.
//!
//! Always true: each call has an Idempotency-Key of its own, which its repeats carry: whatever was lost on the way, it is
//! carried out once. "Nothing was done" is said only if that is certain: no connection was ever made, or the coordinator
//! itself said 503.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::{Aborted, ClientOptions, Committed, Error, Info, Outcome, Undecided};
use crate::{
    http::{Backoff, Connections, explain, read},
    protocol::{ParticipantUrl, Problem, ProblemType},
};

#[derive(Debug)]
pub(super) struct Calls {
    pub(super) base: ParticipantUrl,
    pub(super) http: Connections,
    pub(super) options: ClientOptions,
}

/// An answer's status and body.
pub(super) type Answer = (u16, Vec<u8>);

impl Calls {
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/v1/transactions{path}", self.base)
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, Error> {
        let url = self.url(path);
        self.send(format!("GET {url}"), || self.http.client().get(&url)).await
    }

    /// Posts; `waits` for a decision as long as the options say.
    pub(super) async fn post(&self, path: &str, body: &Value, waits: bool) -> Result<Answer, Error> {
        let (url, key) = (self.url(path), uuid::Uuid::now_v7().to_string());
        self.send(format!("POST {url}"), || {
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

    async fn send(&self, call: String, request: impl Fn() -> reqwest::RequestBuilder) -> Result<Answer, Error> {
        let (until, mut pauses) = (Instant::now() + self.options.retry_for, Backoff::default());
        // Once an answer was lost, no later refusal to connect makes it certain that nothing was done.
        let mut lost = false;
        loop {
            let (why, is_certain) = match request().send().await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    match read(response).await {
                        Ok(body) if status < 500 => return Ok((status, body)),
                        Ok(body) => {
                            let problem = problem(status, &body);
                            // Only its own 503 says that nothing was done; one of something in between doesn't.
                            (problem.detail, status == 503 && is_problem(&body))
                        }
                        Err(why) => (why, false),
                    }
                }
                Err(error) => (explain(&error), error.is_connect()),
            };
            lost |= !is_certain;
            if Instant::now() >= until {
                return Err(if lost { Error::Unknown { call, why } } else { Error::Unreachable { call, why } });
            }
            tokio::time::sleep(pauses.next()).await;
        }
    }
}

fn is_problem(body: &[u8]) -> bool {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    value["type"].as_str().is_some_and(|kind| ProblemType::ALL.iter().any(|known| known.reference() == kind))
}

/// What an answer that isn't the expected one says, as a problem.
pub(crate) fn problem(status: u16, body: &[u8]) -> Problem {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let known = value["type"].as_str().and_then(|kind| ProblemType::ALL.iter().find(|known| known.reference() == kind));
    let Some(kind) = known else {
        let text = String::from_utf8_lossy(&body[..body.len().min(300)]);
        return Problem::new(ProblemType::NotReady, format!("an answer that isn't the protocol's: {status} {text}"));
    };
    let mut problem = Problem::new(*kind, value["detail"].as_str().unwrap_or_default());
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
