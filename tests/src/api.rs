//! A client of a coordinator (or of anything that speaks JSON over HTTP), as blunt as curl.
//!
//! Always true: nothing is repeated, no connection is used twice: an error is what happened to this very call.

use std::sync::LazyLock;

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

use crate::{openapi::Description, wait};

/// Made once: it is large.
static OURS: LazyLock<Description> = LazyLock::new(Description::ours);

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    http: reqwest::Client,
    described: bool,
}

/// An answer, whole.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// Null if it isn't JSON.
    pub body: Value,
}

impl Answer {
    /// The problem it is, such as `not-active`; panics if it is none.
    pub fn problem(&self) -> &str {
        let media = self.headers.get("content-type").and_then(|value| value.to_str().ok());
        assert_eq!(media, Some("application/problem+json"), "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        let kind = self.body["type"].as_str().and_then(|kind| kind.strip_prefix("/problems/"));
        kind.unwrap_or_else(|| panic!("a problem has a type: {self:?}"))
    }

    /// A text in it; panics if there is none of this name.
    pub fn text(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_else(|| panic!("there is no text {name} in {self:?}"))
    }

    /// The same, if its status is this one.
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

impl Api {
    /// A client of the server at this URL.
    pub fn new(base: &str) -> Self {
        let http =
            reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client can be made");
        Self { base: base.to_owned(), http, described: true }
    }

    /// The server's URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// One call.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Answer, reqwest::Error> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await?;
        let answer = Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or_default() };
        if path.starts_with("/v1/") && self.described {
            // Whatever a test is about: what it is answered is described.
            OURS.fits(&method, path, &answer).unwrap_or_else(|why| panic!("{why}"));
        }
        Ok(answer)
    }

    /// The same of a server that isn't a coordinator, or one whose answers are made worse on their way.
    #[must_use]
    pub fn undescribed(mut self) -> Self {
        self.described = false;
        self
    }

    /// A POST that may fail.
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<Answer, reqwest::Error> {
        self.call(Method::POST, path, &[("content-type", "application/json")], Some(body.to_string())).await
    }

    /// A GET that may fail.
    pub async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.call(Method::GET, path, &[], None).await
    }

    /// A POST with headers.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        self.call(Method::POST, path, &all, Some(body.to_string())).await.expect("a POST is answered")
    }

    /// A POST.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_post(path, body).await.expect("a POST is answered")
    }

    /// A GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.expect("a GET is answered")
    }

    /// Begins a transaction with this body; its id.
    pub async fn begin(&self, body: &Value) -> String {
        self.post("/v1/transactions", body).await.expect(201).text("id").to_owned()
    }

    /// Commits, with what comes of it.
    pub async fn commit(&self, id: &str) -> Answer {
        self.post(&format!("/v1/transactions/{id}/commit"), &json!({})).await
    }

    /// The same, perhaps in vain.
    pub async fn try_commit(&self, id: &str) -> Result<Answer, reqwest::Error> {
        self.try_post(&format!("/v1/transactions/{id}/commit"), &json!({})).await
    }

    /// Commits without waiting for what comes of it.
    pub fn commit_in_background(&self, id: &str) -> tokio::task::JoinHandle<Result<Answer, reqwest::Error>> {
        let (api, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move { api.try_commit(&id).await })
    }

    /// Begins and commits in one call.
    pub async fn run(&self, branches: &Value) -> Answer {
        self.post("/v1/transactions", &json!({ "branches": branches, "commit": true })).await
    }

    /// Aborts.
    pub async fn abort(&self, id: &str) -> Answer {
        self.post(&format!("/v1/transactions/{id}/abort"), &json!({})).await
    }

    /// Enlists a branch.
    pub async fn enlist(&self, id: &str, branch: &Value) -> Answer {
        self.post(&format!("/v1/transactions/{id}/branches"), branch).await
    }

    /// Votes, unasked, in the name of a branch.
    pub async fn vote(&self, id: &str, branch: &str, vote: &str, coordinator: &Value) -> Answer {
        let body = json!({ "vote": vote, "coordinator": coordinator });
        self.post(&format!("/v1/transactions/{id}/branches/{branch}/vote"), &body).await
    }

    /// A transaction as it is now.
    pub async fn transaction(&self, id: &str) -> Value {
        self.get(&format!("/v1/transactions/{id}")).await.expect(200).body
    }

    /// Who the coordinator is.
    pub async fn who(&self) -> Value {
        self.get("/v1/coordinator").await.expect(200).body
    }

    /// Waits until a transaction has finished.
    pub async fn finished(&self, id: &str) -> Value {
        wait::until(&format!("transaction {id} has finished"), async || {
            let answer = self.try_get(&format!("/v1/transactions/{id}")).await.ok()?;
            let state = answer.body["state"].as_str()?;
            matches!(state, "committed" | "aborted").then_some(answer.body)
        })
        .await
    }

    /// Waits until a transaction is in this state.
    pub async fn in_state(&self, id: &str, state: &str) -> Value {
        wait::until(&format!("transaction {id} is {state}"), async || {
            let answer = self.try_get(&format!("/v1/transactions/{id}")).await.ok()?;
            (answer.body["state"] == state).then_some(answer.body)
        })
        .await
    }

    /// What `/metrics` says under this name, labels included; None if there is no such line.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.http.get(format!("{}/metrics", self.base)).send().await.ok()?.text().await.ok()?;
        metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// What a participant in doubt is told.
    pub async fn inquire(&self, id: &str, coordinator: &Value, branch: &str) -> Result<Answer, reqwest::Error> {
        let text = |name: &str| coordinator[name].as_str().expect("a coordinator has an id and an epoch").to_owned();
        let (who, epoch) = (text("id"), text("epoch"));
        self.try_get(&format!("/v1/transactions/{id}/decision?coordinator={who}&epoch={epoch}&branch={branch}")).await
    }
}
