//! One POST, and its whole answer: hyper's client, which takes about half of the processor time of reqwest's for a call.
//!
//! Always true: redirects are not followed, the environment's proxies are not used, and no more of an answer is read than
//! an answer may have. A request that may have left is not repeated here.

use std::{
    error::Error as StdError,
    fmt::Write as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Uri,
    header::{CONTENT_TYPE, USER_AGENT},
};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tower_service::Service;
use unanimous_sdk::protocol::BATCH_HEADER;

use super::{Attempt, Offer};

/// A call times out after this, PROTOCOL §4.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that isn't there by then, its name looked up and its keys agreed on, can't be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection is kept for so long after its last call, and at most so many to one participant.
const IDLE: Duration = Duration::from_secs(90);
const MOST_IDLE: usize = 512;

/// Why calls can't be made at all: what this machine trusts could not be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(#[from] std::io::Error);

/// Makes requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client(legacy::Client<Connector, Full<Bytes>>);

/// Connects within [`CONNECT_TIMEOUT`], all of it: hyper's own limit is for TCP alone.
#[derive(Clone, Debug)]
struct Connector(HttpsConnector<HttpConnector>);

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, Box<dyn StdError + Send + Sync>>> + Send>>;

impl Service<Uri> for Connector {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.0.call(to));
        Box::pin(async { connecting.await.map_err(|_| "no connection within 5 s")? })
    }
}

/// An HTTP answer, whole.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    pub(crate) offer: Option<Offer>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn new() -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let tls = HttpsConnectorBuilder::new().try_with_platform_verifier().map_err(std::io::Error::other)?;
        let connector = Connector(tls.https_or_http().enable_http1().wrap_connector(tcp));
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MOST_IDLE)
            .build(connector);
        Ok(Self(client))
    }

    /// Sends JSON, and reads at most so many bytes of what comes back.
    pub(crate) async fn post(
        &self,
        url: String,
        body: Vec<u8>,
        traceparent: Option<&str>,
        most: usize,
    ) -> Result<Response, Attempt> {
        let mut request = Request::post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static(concat!("unanimous/", env!("CARGO_PKG_VERSION"))));
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let request = request.body(Full::from(body));
        let request = request.map_err(|error| Attempt::NoAnswer(format!("the call could not be made: {error}")))?;
        match tokio::time::timeout(TIMEOUT, self.exchange(request, most)).await {
            Ok(answered) => answered,
            Err(_) => Err(Attempt::Silence(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, most: usize) -> Result<Response, Attempt> {
        let answer = self.0.request(request).await.map_err(|error| {
            let text = causes(&error);
            if error.is_connect() { Attempt::Unreachable(text) } else { Attempt::NoAnswer(text) }
        })?;
        let (head, mut rest) = answer.into_parts();
        let status = head.status.as_u16();
        let mut body = Vec::new();
        while let Some(frame) = rest.frame().await {
            let frame = frame.map_err(|error| Attempt::NoAnswer(causes(&error)))?;
            let Ok(chunk) = frame.into_data() else { continue };
            if body.len() + chunk.len() > most {
                return Err(Attempt::NoAnswer(format!("{status}, with more than {most} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        let text = |name| header(&head.headers, name);
        let content_type = text(CONTENT_TYPE.as_str()).map(str::to_owned);
        let offer = text(BATCH_HEADER).and_then(|most| most.parse().ok()).filter(|most| *most > 1).map(Offer::Most);
        Ok(Response { status, content_type, offer, body })
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An error, and what it came from.
fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
