//! One HTTP/1.1 connection to a participant. Its machine has no task of its own: whoever makes a call drives it, which
//! saves a change of tasks for everything that is read and written.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub(super) type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// See the module.
pub(super) struct Connection {
    /// Scheme, host and port.
    pub(super) origin: Arc<str>,
    /// Host and port, as they stand in each request.
    host: HeaderValue,
    sender: SendRequest<Full<Bytes>>,
    driver: Pin<Box<http1::Connection<Stream, Full<Bytes>>>>,
    ended: bool,
    /// From then on it takes no further request, so that a changed address of a name is followed.
    pub(super) retires_at: Instant,
}

/// An answer, whole.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// The connection broke, or what came on it is no HTTP.
    Broken(hyper::Error),
    /// The answer has more bytes than may be read.
    TooLong(StatusCode),
}

impl Connection {
    /// Speaks HTTP on a stream to an origin.
    pub(super) async fn on(
        stream: Stream,
        origin: Arc<str>,
        host: HeaderValue,
        retires_at: Instant,
    ) -> hyper::Result<Self> {
        let (sender, driver) = http1::handshake(stream).await?;
        Ok(Self { origin, host, sender, driver: Box::pin(driver), ended: false, retires_at })
    }

    /// Sends a request, whose URL is a path, and reads at most so many bytes of the answer's body. Afterwards
    /// [`Connection::is_usable`] says whether it may be used again.
    ///
    /// # Cancel safety
    ///
    /// A call that is given up leaves the connection in the middle of it: it must be dropped.
    pub(super) async fn call(&mut self, mut request: Request<Full<Bytes>>, most: usize) -> Result<Answer, Failure> {
        request.headers_mut().insert(HOST, self.host.clone());
        let Self { sender, driver, ended, .. } = self;
        let mut exchange = pin!(exchange(sender, request, most));
        poll_fn(|context| {
            // First what is to be sent, then the connection, then what it has read.
            if let Poll::Ready(answer) = exchange.as_mut().poll(context) {
                return Poll::Ready(answer);
            }
            *ended = *ended || driver.as_mut().poll(context).is_ready();
            exchange.as_mut().poll(context)
        })
        .await
    }

    /// Returns whether a request may be sent: nothing of an earlier one is left, the other side has not closed the
    /// connection, as far as is known here, and it is not too old.
    pub(super) async fn is_usable(&mut self) -> bool {
        if self.ended || Instant::now() >= self.retires_at {
            return false;
        }
        let Self { driver, ended, .. } = self;
        poll_fn(|context| {
            *ended = driver.as_mut().poll(context).is_ready();
            Poll::Ready(())
        })
        .await;
        !self.ended && self.sender.is_ready()
    }
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    most: usize,
) -> Result<Answer, Failure> {
    let (head, mut rest) = sender.send_request(request).await.map_err(Failure::Broken)?.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = rest.frame().await {
        let Ok(chunk) = frame.map_err(Failure::Broken)?.into_data() else { continue };
        if body.len() + chunk.len() > most {
            return Err(Failure::TooLong(head.status));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status: head.status, headers: head.headers, body })
}

/// Splits a URL into its origin, its host with the port, and its path. None: it is no absolute URL of http or https.
pub(super) fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let start = url.find("://")? + 3;
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    Some((&url[..end], &url[start..end], if end == url.len() { "/" } else { &url[end..] }))
}

/// Returns where to connect for an origin.
pub(super) fn address(origin: &str) -> Option<Uri> {
    origin.parse().ok()
}
