//! A service that finds itself called within somebody's transaction: it enlists itself, and does its work in a branch.
//!
//! Always true: only coordinators on the allow-list are enlisted with; an answer counts only if it names the call; each time the branch has a fresh name; a branch
//! that was neither held nor voted for ends at its deadline, or when its [`InTransaction`] is dropped.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    extract::{FromRef, FromRequestParts},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{
    branch::{Act, BranchKey, Call, Event, Refusal, Reply},
    http::Backoff,
    participant::Participant,
    protocol::{
        BranchName, CoordinatorId, CoordinatorRef, EnlistAnswer, Epoch, Problem, ProblemType, TRANSACTION_HEADER,
        TransactionId, Vote, VoteAnswer,
    },
    server::{How, Inner, Service, Stuck, now, problem_response, refused},
    store::Store,
};

/// How long calls to the coordinator are repeated while it can't be reached.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a service can't work in a transaction, or its vote wasn't taken. As an HTTP response it is this problem.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", problem.detail)]
pub struct JoinError {
    /// What happened, and what to do.
    pub problem: Problem,
}

impl JoinError {
    fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self { problem: Problem::new(kind, detail) }
    }
}

impl From<Stuck> for JoinError {
    fn from(stuck: Stuck) -> Self {
        Self::new(ProblemType::NotReady, format!("the branch can't be worked in: {stuck:?}"))
    }
}

impl IntoResponse for JoinError {
    fn into_response(self) -> Response {
        problem_response(&self.problem)
    }
}

/// A branch of the transaction that the request is part of: taken from its `Unanimous-Transaction` header.
///
/// ```no_run
/// # use unanimous_sdk::prelude::*;
/// # struct Orders;
/// # impl Participant for Orders {
/// #     type Store = KvStore;
/// #     async fn prepare(&self, _: &BranchContext, _: &mut Work) -> Result<Vote, Refusal> { Ok(Vote::Prepared) }
/// # }
/// use axum::{Router, routing::post};
///
/// async fn order(mut branch: InTransaction<Orders>) -> Result<(), axum::http::StatusCode> {
///     branch.work().put("order/1", "two apples").await.map_err(|_| axum::http::StatusCode::CONFLICT)?;
///     // Durable, and the coordinator knows: it need not ask for the vote any more.
///     branch.prepared().await.map_err(|_| axum::http::StatusCode::CONFLICT)
/// }
///
/// # fn app(service: Service<Orders>) -> Router {
/// Router::new().route("/orders", post(order)).with_state(service.clone()).merge(service.router())
/// # }
/// ```
pub struct InTransaction<P: Participant> {
    inner: Arc<Inner<P>>,
    key: BranchKey,
    /// The transaction's URL.
    url: String,
    /// None once it is given away with the vote.
    work: Option<<P::Store as Store>::Work>,
}

impl<P: Participant> Service<P> {
    /// Enlists this service in a transaction, by its URL, and opens a branch to work in.
    ///
    /// Errors: `malformed`, `forbidden-coordinator` (the coordinator isn't on the allow-list), what the coordinator says
    /// against it (such as `not-active`), `not-ready` if it can't be reached within 5 s.
    ///
    /// ```no_run
    /// # async fn f<P: unanimous_sdk::participant::Participant>(service: unanimous_sdk::server::Service<P>)
    /// # -> Result<(), unanimous_sdk::extract::JoinError> {
    /// let url = "http://127.0.0.1:7070/v1/transactions/01890a5d-ac96-774b-bcce-b302099a8057";
    /// let branch = service.join(url).await?;
    /// println!("working as {}", branch.branch());
    /// # Ok(()) }
    /// ```
    pub async fn join(&self, transaction_url: &str) -> Result<InTransaction<P>, JoinError> {
        let inner = &self.0;
        let (url, transaction) = inner.parse_transaction(transaction_url)?;
        if let Some(why) = inner.not_ready() {
            return Err(JoinError::new(ProblemType::NotReady, why));
        }
        let Some(participant) = &inner.options.url else {
            let what = "this service can't enlist itself: set `ServiceOptions::url` to where coordinators reach it";
            return Err(JoinError::new(ProblemType::NotReady, what));
        };
        // A fresh name each time: under an older one, work might be missing.
        let branch = BranchName::unique();
        let body = serde_json::json!({ "participant": participant, "branch": branch });
        let is_mine = |answer: &EnlistAnswer| answer.transaction == transaction && answer.branch == branch;
        let EnlistAnswer { coordinator, remaining_ms, .. } =
            inner.post(&format!("{url}/branches"), &body, None, is_mine).await?;
        inner.check_coordinator(&coordinator.url).map_err(|problem| JoinError { problem })?;
        let key = BranchKey { coordinator: coordinator.id, transaction, branch: branch.clone() };
        let remaining = Duration::from_millis(remaining_ms);
        let (call, meant_for) = (Call::Open, None);
        let event = Event::Told { from: coordinator, transaction, branch, call, meant_for, now: now() };
        let told = inner.carry_out(event, None, How { remaining, ..How::default() }).await?;
        match told {
            Ok(Reply::Work) => {}
            Err(refusal @ (Refusal::Implausible { .. } | Refusal::TooManyCoordinators)) => {
                let Problem { kind, detail, .. } = refused(&refusal);
                // Its caller has said nothing wrong: it is the coordinator's answer that isn't taken.
                let kind = if kind == ProblemType::Implausible { ProblemType::NotReady } else { kind };
                return Err(JoinError::new(kind, detail));
            }
            Ok(_) | Err(_) => {
                let what = format!("no work can begin in the transaction: {told:?}");
                return Err(JoinError::new(ProblemType::NotActive, what));
            }
        }
        let (late, of) = (Arc::downgrade(inner), key.clone());
        tokio::spawn(async move {
            tokio::time::sleep(remaining).await;
            if let Some(inner) = late.upgrade() {
                let act = Act::GiveUp("its deadline has passed");
                let _ = inner.carry_out(Event::Own { key: of, act }, None, How::default()).await;
            }
        });
        let work = Some(inner.store.work(&key));
        Ok(InTransaction { inner: inner.clone(), key, url, work })
    }
}

impl<P: Participant> InTransaction<P> {
    /// The transaction.
    pub fn transaction(&self) -> TransactionId {
        self.key.transaction
    }

    /// The name this service has in it.
    pub fn branch(&self) -> &BranchName {
        &self.key.branch
    }

    /// The header that carries the transaction on, to be set on calls to further services.
    pub fn header(&self) -> (&'static str, String) {
        (TRANSACTION_HEADER, self.url.clone())
    }

    /// Reads and writes: they appear when the transaction commits.
    pub fn work(&mut self) -> &mut <P::Store as Store>::Work {
        self.work.get_or_insert_with(|| self.inner.store.work(&self.key))
    }

    /// Ends the work; the vote is given when the coordinator asks for it. A restart before that loses the work, and the
    /// transaction is aborted.
    ///
    /// Errors: the transaction was aborted meanwhile, or its deadline has passed.
    pub async fn hold(mut self) -> Result<(), JoinError> {
        self.end(Act::Hold(Vote::Prepared)).await.map(|_| ())
    }

    /// Ends the work, makes it durable and votes to commit, unasked: saves the coordinator the question.
    ///
    /// Errors: the transaction was aborted meanwhile; or the work is durable and prepared, but the vote couldn't be
    /// delivered: then the coordinator asks for it, and the branch obeys whatever is decided.
    pub async fn prepared(mut self) -> Result<(), JoinError> {
        self.vote(Vote::Prepared).await
    }

    /// Ends the work without having changed anything, and lets its locks go at once. Where something was written after
    /// all, or the reads must still hold at the commit, it is [`InTransaction::prepared`] that is meant.
    ///
    /// Errors: as for `prepared`.
    pub async fn read_only(mut self) -> Result<(), JoinError> {
        let vote = if self.work.as_ref().is_some_and(P::Store::has_writes) { Vote::Prepared } else { Vote::ReadOnly };
        self.vote(vote).await
    }

    async fn end(&mut self, act: Act) -> Result<Reply, JoinError> {
        let work = self.work.take().unwrap_or_else(|| self.inner.store.work(&self.key));
        match self.inner.carry_out(Event::Own { key: self.key.clone(), act }, Some(work), How::default()).await? {
            Ok(reply) => Ok(reply),
            Err(Refusal::IsAborted { why }) => {
                Err(JoinError::new(ProblemType::Aborted, format!("the branch {} is aborted: {why}", self.key)))
            }
            Err(other) => Err(JoinError::new(
                ProblemType::NotActive,
                format!("the branch {} can't be ended: {other:?}", self.key),
            )),
        }
    }

    async fn vote(&mut self, vote: Vote) -> Result<(), JoinError> {
        if self.end(Act::Vote(vote)).await? != Reply::Voted(vote) {
            return Err(JoinError::new(ProblemType::Aborted, format!("the branch {} was aborted", self.key)));
        }
        let (url, id) = (format!("{}/branches/{}/vote", self.url, self.key.branch), self.key.coordinator);
        loop {
            let epoch = self.inner.desk().and_then(|desk| desk.book.coordinator(id).map(|known| known.epoch));
            let Some(epoch) = epoch else {
                return Err(Stuck::NotReady("the coordinator isn't known".to_owned()).into());
            };
            let mut body = serde_json::json!({ "vote": vote, "coordinator": CoordinatorRef { id, epoch } });
            if let Some(participant_id) = self.inner.origin().participant_id {
                body["participant_id"] = serde_json::json!(participant_id);
            }
            let is_mine = |answer: &VoteAnswer| {
                answer.transaction == self.key.transaction
                    && answer.branch == self.key.branch
                    && answer.coordinator.id == id
            };
            let Err(error) = self.inner.post(&url, &body, Some(id), is_mine).await else { return Ok(()) };
            // It has opened its log anew: the vote counts only under the present epoch, which is kept, and named.
            let present = error.problem.members.get("epoch").and_then(|epoch| epoch.as_str()?.parse::<Epoch>().ok());
            match present {
                Some(present) if error.problem.kind == ProblemType::StaleEpoch && present > epoch => {
                    let superseded = Event::Superseded { coordinator: id, epoch: present, now: now() };
                    let kept = self.inner.carry_out(superseded, None, How::default()).await?;
                    if let Err(refusal) = kept {
                        return Err(JoinError::new(ProblemType::NotReady, refused(&refusal).detail));
                    }
                }
                Some(_) | None => return Err(error),
            }
        }
    }
}

impl<P: Participant> Drop for InTransaction<P> {
    fn drop(&mut self) {
        // Without a runtime the process ends, and the work with it.
        if self.work.take().is_some()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (inner, key) = (self.inner.clone(), self.key.clone());
            runtime.spawn(async move {
                let act = Act::GiveUp("the service has let it go");
                let _ = inner.carry_out(Event::Own { key, act }, None, How::default()).await;
            });
        }
    }
}

impl<P: Participant> fmt::Debug for InTransaction<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InTransaction").field("key", &self.key).field("url", &self.url).finish_non_exhaustive()
    }
}

impl<P: Participant, S: Send + Sync> FromRequestParts<S> for InTransaction<P>
where
    Service<P>: FromRef<S>,
{
    type Rejection = JoinError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, JoinError> {
        let Some(url) = parts.headers.get(TRANSACTION_HEADER).and_then(|value| value.to_str().ok()) else {
            let what = "this call is part of a transaction: its header Unanimous-Transaction is the transaction's URL";
            return Err(JoinError::new(ProblemType::Malformed, what));
        };
        Service::<P>::from_ref(state).join(url).await
    }
}

impl<P: Participant> Inner<P> {
    fn parse_transaction(&self, url: &str) -> Result<(String, TransactionId), JoinError> {
        let wrong = || {
            let what = "the header Unanimous-Transaction is a URL such as http://127.0.0.1:7070/v1/transactions/ID";
            JoinError::new(ProblemType::Malformed, what)
        };
        let (base, id) = url.trim().rsplit_once("/v1/transactions/").ok_or_else(wrong)?;
        let id: TransactionId = id.trim_end_matches('/').parse().map_err(|_| wrong())?;
        let base = self.check_coordinator(base).map_err(|problem| JoinError { problem })?;
        Ok((format!("{base}/v1/transactions/{id}"), id))
    }

    /// Posts to a coordinator, again if it can't be reached: what is posted here may come twice. `is_mine`: whether an
    /// answer is that of this call. `id`: whose log it is meant for, if that is known.
    async fn post<T: DeserializeOwned>(
        &self,
        url: &str,
        body: &serde_json::Value,
        mut id: Option<CoordinatorId>,
        is_mine: impl Fn(&T) -> bool,
    ) -> Result<T, JoinError> {
        let (until, mut pauses) = (Instant::now() + PATIENCE, Backoff::default());
        loop {
            let request = crate::http::meant_for(self.http.client().post(url), id);
            let error = match request.json(body).send().await {
                Ok(response) => {
                    let status = response.status();
                    // A repeat is meant for the log that the first answer came from, whatever has its address by then.
                    id = id.or(crate::http::coordinator_of(&response));
                    match crate::http::read(response).await {
                        Ok(body) if status.is_success() => match serde_json::from_slice::<T>(&body) {
                            Ok(answer) if is_mine(&answer) => return Ok(answer),
                            Ok(_) => {
                                self.http.close();
                                Problem::new(ProblemType::NotReady, format!("{url} gave the answer to another call"))
                            }
                            Err(error) => {
                                Problem::new(ProblemType::NotReady, format!("{url} can't be understood: {error}"))
                            }
                        },
                        Ok(body) => crate::client::problem(status.as_u16(), &body),
                        Err(why) => Problem::new(ProblemType::NotReady, why),
                    }
                }
                Err(error) => Problem::new(ProblemType::NotReady, crate::http::explain(&error)),
            };
            if error.kind.status() != 503 || Instant::now() >= until {
                return Err(JoinError { problem: error });
            }
            tokio::time::sleep(pauses.next()).await;
        }
    }
}
