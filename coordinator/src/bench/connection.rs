//! A client's connection: as little as HTTP/1.1 with keep-alive takes, so that the load leaves the processors to what is
//! measured. It reads what the servers of this program send (a length in every answer), and no more.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One connection, one call at a time.
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

/// What is looked at of an answer.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Answer {
    pub status: u16,
    /// The last segment of the Location.
    pub location: Option<String>,
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    answer: Answer,
    /// With the empty line.
    length: usize,
    body: usize,
}

impl Connection {
    /// Connects.
    pub async fn open(to: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(to).await.map_err(|error| format!("no connection to {to}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self { stream, read: Vec::with_capacity(4096) })
    }

    /// Sends a whole request and reads the whole answer.
    pub async fn call(&mut self, request: &[u8]) -> Result<Answer, String> {
        let broken = |error: std::io::Error| format!("the connection broke: {error}");
        self.stream.write_all(request).await.map_err(broken)?;
        self.read.clear();
        let mut head: Option<Head> = None;
        loop {
            if self.stream.read_buf(&mut self.read).await.map_err(broken)? == 0 {
                return Err("the connection was closed before the answer was whole".to_owned());
            }
            if head.is_none() {
                head = parse(&self.read)?;
            }
            if let Some(head) = head.take_if(|head| self.read.len() >= head.length + head.body) {
                return Ok(head.answer);
            }
        }
    }

    /// The body of the last answer, and its head.
    pub fn last(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

/// Reads a head; None if it isn't whole yet.
pub fn parse(read: &[u8]) -> Result<Option<Head>, String> {
    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&read[..end]).map_err(|_| "the answer's head isn't text".to_owned())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| format!("this isn't an answer of HTTP/1.1: {head}"))?;
    let (mut location, mut body) = (None, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            body = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("location") {
            location = value.trim().rsplit('/').next().map(str::to_owned);
        }
    }
    let body = body.ok_or_else(|| format!("the answer has no length: {head}"))?;
    Ok(Some(Head { answer: Answer { status, location }, length: end + 4, body }))
}

/// A whole request.
pub fn post(to: SocketAddr, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}
