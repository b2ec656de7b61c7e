//! An HTTP server on hyper, for participants and null coordinators: as lean as hyper allows, so that floors are low.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header, response::Builder};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What is sent back.
pub type Answer = Response<Full<Bytes>>;

/// Serves for ever. `answer` gets where a request goes, and its whole body.
pub async fn serve<F, R>(listen: SocketAddr, answer: F) -> Result<(), String>
where
    F: Fn(Uri, Bytes) -> R + Clone + Send + 'static,
    R: Future<Output = Answer> + Send,
{
    let listener = TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let answer = answer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = match body.collect().await {
                    Ok(body) => body.to_bytes(),
                    Err(_) => return Ok(json(StatusCode::BAD_REQUEST, "{}")),
                };
                Ok::<_, Infallible>(answer(head.uri, body).await)
            }
        });
        tokio::spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with(Response::builder().status(status), body)
}

/// The same, with headers.
pub fn with(head: Builder, body: impl Into<Bytes>) -> Answer {
    let answer = head.header(header::CONTENT_TYPE, "application/json").body(Full::new(body.into()));
    // Only a malformed header could fail, and all of them stand in this folder.
    answer.unwrap_or_default()
}
