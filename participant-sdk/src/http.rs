//! What all callers share: connections that take no detours, and pauses between attempts.
//!
//! Always true: no proxy of the environment is used, no redirect is followed; every call says that its answer is not to be
//! kept; a connection on which an answer to another call came is not used again.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::header::{CACHE_CONTROL, HeaderMap, HeaderValue};

use crate::protocol::{COORDINATOR_HEADER, CoordinatorId};

/// The longest that a call may take, where it doesn't wait for a decision.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Connections to coordinators.
#[derive(Debug)]
pub(crate) struct Connections(Mutex<reqwest::Client>);

impl Connections {
    pub(crate) fn new() -> reqwest::Result<Self> {
        Ok(Self(Mutex::new(client()?)))
    }

    /// Returns the client whose connections are used now. Not to be kept: see [`Connections::close`].
    pub(crate) fn client(&self) -> reqwest::Client {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes all connections once the calls on them have ended: an answer has come that belongs to another call.
    pub(crate) fn close(&self) {
        match client() {
            Ok(fresh) => *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fresh,
            Err(error) => tracing::error!(%error, "the connections to coordinators can't be closed"),
        }
    }
}

fn client() -> reqwest::Result<reqwest::Client> {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .default_headers(headers)
        .connect_timeout(TIMEOUT.min(Duration::from_secs(5)))
        .timeout(TIMEOUT)
        .build()
}

/// Says for which coordinator's log a call is meant.
pub(crate) fn meant_for(request: reqwest::RequestBuilder, id: Option<CoordinatorId>) -> reqwest::RequestBuilder {
    match id {
        Some(id) => request.header(COORDINATOR_HEADER, id.to_string()),
        None => request,
    }
}

/// Returns whose log answered, where the answer says so.
pub(crate) fn coordinator_of(response: &reqwest::Response) -> Option<CoordinatorId> {
    response.headers().get(COORDINATOR_HEADER)?.to_str().ok()?.parse().ok()
}

/// The largest answer that is read: a transaction with all its branches.
const LARGEST: usize = 4 << 20;

/// Reads an answer's body.
pub(crate) async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| explain(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST {
            return Err(format!("the answer is larger than {LARGEST} bytes"));
        }
    }
    Ok(body)
}

/// An error with what caused it: reqwest's own text leaves that out.
pub(crate) fn explain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Pauses that double from 100 ms to 30 s; each is drawn between half of that and all of it.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(100))
    }
}

impl Backoff {
    const MOST: Duration = Duration::from_secs(30);

    pub(crate) fn next(&mut self) -> Duration {
        let whole = self.0;
        self.0 = (whole * 2).min(Self::MOST);
        whole.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most_and_are_jittered() {
        let mut pauses = Backoff::default();
        for whole in [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000] {
            let pause = pauses.next();
            assert!(pause <= Duration::from_millis(whole) && pause >= Duration::from_millis(whole / 2), "{pause:?}");
        }
    }
}
