//! One POST, and its whole answer, on a connection of the pool or on a fresh one.
//!
//! Redirects are not followed, the environment's proxies are not used, and no more of an answer is read than an answer
//! may have. A call whose kept connection is dead (a failover, a NAT that forgot it) is made once more on a fresh one, so
//! that dead connections cost no transaction. So a participant may get a call twice.

use std::{
    error::Error as StdError,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Uri,
    header::{CACHE_CONTROL, CONTENT_TYPE, USER_AGENT},
};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tower_service::Service;
use unanimous_sdk::protocol::BATCH_HEADER;

use super::{
    Attempt,
    connection::{Answer, Connection, Failure, Stream, address, parts},
    pool::{Lease, Pool},
};

/// A try of a call ends after this.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that isn't there by then, its name looked up and its keys agreed on, can't be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// So old a connection may get: a changed address of a name is followed by then. Connections that were made together end
/// at different times, up to the second earlier.
const MAX_AGE: Duration = Duration::from_secs(30);
const AGE_SPREAD: Duration = Duration::from_secs(5);

/// The other side of an idle connection is asked after this whether it is there, and again after the pauses.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_PAUSE: Duration = Duration::from_secs(5);

/// Why calls can't be made at all: what this machine trusts could not be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(#[from] std::io::Error);

/// Makes requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    connector: HttpsConnector<HttpConnector>,
    pool: Arc<Pool>,
    call_timeout: Duration,
    /// So old a connection may get.
    pub(super) max_age: Duration,
}

/// A request: JSON to a URL.
#[derive(Clone, Debug)]
pub(crate) struct Post<'a> {
    pub(crate) url: &'a str,
    pub(crate) body: Bytes,
    pub(crate) traceparent: Option<&'a str>,
    /// So much is read of what comes back.
    pub(crate) max_answer_bytes: usize,
    /// The time until which an answer is of use; None: for ever.
    pub(crate) remaining: Option<Duration>,
}

/// An HTTP answer, whole.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    /// How many calls the participant takes in one request, if it says so.
    pub(crate) max_batch: Option<usize>,
    pub(crate) body: Vec<u8>,
    /// The connection; it is kept when this is dropped.
    pub(crate) lease: Lease,
}

/// A call that was made for less than this shows nothing of its connection.
const MIN_EVIDENCE: Duration = Duration::from_secs(1);

/// Why a try has no answer.
enum Missed {
    /// It says nothing about the connection.
    Finally(Attempt),
    /// The connection is dead.
    Dead(Attempt),
}

impl Missed {
    fn attempt(self) -> Attempt {
        let (Self::Finally(attempt) | Self::Dead(attempt)) = self;
        attempt
    }
}

impl Client {
    /// Makes calls whose tries end after the time limit.
    pub(crate) fn new(call_timeout: Duration) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE_PAUSE));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(call_timeout));
        let tls = HttpsConnectorBuilder::new().try_with_platform_verifier().map_err(std::io::Error::other)?;
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        Ok(Self { connector, pool: Arc::default(), call_timeout, max_age: MAX_AGE })
    }

    /// Makes a call. If the connection is a kept one and turns out to be dead, all that are kept to that host are closed,
    /// and the call is made once more on a fresh one.
    pub(crate) async fn post(&self, post: Post<'_>) -> Result<Response, Attempt> {
        let until = post.remaining.map(|remaining| Instant::now() + remaining);
        let not_made = |why: &str| Attempt::NoAnswer(format!("the call could not be made: {why}"));
        let (origin, host, path) = parts(post.url).ok_or_else(|| not_made("the URL is not absolute"))?;
        let path: Uri = path.parse().map_err(|error| not_made(&format!("{error}")))?;
        let Some(kept) = self.pool.take(origin).await else {
            return self.fresh(origin, host, &path, &post, until).await.map_err(Missed::attempt);
        };
        match self.exchange(kept, Instant::now(), &path, &post, until).await {
            Ok(response) => Ok(response),
            Err(Missed::Finally(why)) => Err(why),
            Err(Missed::Dead(why)) => {
                self.pool.close_idle(origin);
                if until.is_some_and(|until| Instant::now() >= until) {
                    return Err(why);
                }
                self.fresh(origin, host, &path, &post, until).await.map_err(Missed::attempt)
            }
        }
    }

    /// Makes a call on a connection of its own.
    async fn fresh(
        &self,
        origin: &str,
        host: &str,
        path: &Uri,
        post: &Post<'_>,
        until: Option<Instant>,
    ) -> Result<Response, Missed> {
        let begun = Instant::now();
        let stream = self.connect(origin).await.map_err(|why| Missed::Finally(Attempt::Unreachable(why)))?;
        let unreachable = |error: &dyn StdError| Missed::Finally(Attempt::Unreachable(causes(error)));
        let host = HeaderValue::from_str(host).map_err(|error| unreachable(&error))?;
        let retires_at = begun + self.max_age.saturating_sub(AGE_SPREAD.mul_f32(rand::random()));
        let connection = Connection::on(stream, origin.into(), host, retires_at).await;
        self.exchange(connection.map_err(|error| unreachable(&error))?, begun, path, post, until).await
    }

    async fn connect(&self, origin: &str) -> Result<Stream, String> {
        let to = address(origin).ok_or("the URL has no host")?;
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connector.clone().call(to)).await;
        match connecting {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(causes(&*error)),
            Err(_) => Err(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())),
        }
    }

    /// Makes a call on a connection, as a try that has begun then.
    async fn exchange(
        &self,
        mut connection: Connection,
        begun: Instant,
        path: &Uri,
        post: &Post<'_>,
        until: Option<Instant>,
    ) -> Result<Response, Missed> {
        let request = request(path, post).map_err(Missed::Finally)?;
        let end = begun + self.call_timeout;
        let by_deadline = until.filter(|until| *until < end);
        let limit = by_deadline.unwrap_or(end).saturating_duration_since(Instant::now());
        let silence = || {
            Attempt::Silence(match by_deadline {
                Some(_) => "no answer before the deadline".to_owned(),
                None => format!("no answer within {:?}", self.call_timeout),
            })
        };
        if limit.is_zero() {
            return Err(Missed::Finally(silence()));
        }
        let answer = match tokio::time::timeout(limit, connection.call(request, post.max_answer_bytes)).await {
            Ok(answer) => answer.map_err(missed)?,
            Err(_) if limit < MIN_EVIDENCE.min(self.call_timeout / 2) => {
                return Err(Missed::Finally(silence()));
            }
            Err(_) => return Err(Missed::Dead(silence())),
        };
        let usable = connection.is_usable().await;
        let Answer { status, headers, body } = answer;
        let content_type = header(&headers, CONTENT_TYPE.as_str()).map(str::to_owned);
        let max_batch = header(&headers, BATCH_HEADER).and_then(count);
        let lease = self.pool.lease(usable.then_some(connection));
        Ok(Response { status: status.as_u16(), content_type, max_batch, body, lease })
    }
}

fn request(path: &Uri, post: &Post<'_>) -> Result<Request<Full<Bytes>>, Attempt> {
    let mut request = Request::post(path.clone())
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .header(USER_AGENT, HeaderValue::from_static(concat!("unanimous/", env!("CARGO_PKG_VERSION"))));
    if let Some(traceparent) = post.traceparent {
        request = request.header("traceparent", traceparent);
    }
    let request = request.body(Full::from(post.body.clone()));
    request.map_err(|error| Attempt::NoAnswer(format!("the call could not be made: {error}")))
}

fn missed(failure: Failure) -> Missed {
    match failure {
        Failure::Broken(error) => Missed::Dead(Attempt::NoAnswer(causes(&error))),
        Failure::TooLong(status) => {
            Missed::Finally(Attempt::NoAnswer(format!("{}, with more bytes than an answer may have", status.as_u16())))
        }
    }
}

/// Reads how many calls a participant takes in one request. None: it is no number.
fn count(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(usize::MAX))
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
