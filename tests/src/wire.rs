//! A line between two processes, which carries bytes and can be cut, blocked, slowed and mended.
//!
//! Always true: what was sent arrives in order or not at all, as TCP has it; what is held back while the line is blocked
//! arrives when it is mended, even if whoever sent it has given up long ago. (Lost and doubled messages are [`crate::proxy`]'s.)

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::server::free_port;

/// What the line is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Everything goes through.
    Good,
    /// Connections are taken, and stay; nothing goes through in either direction, and nobody is told.
    Blocked,
    /// What is said goes through; answers don't, and nobody is told.
    AnswersBlocked,
    /// A byte after the other, each after this.
    Dripping(Duration),
    /// Everything arrives later by this.
    Late(Duration),
    /// An answer is cut off after so many bytes, and the connection with it.
    CutsAnswers(usize),
    /// Every connection is closed, and every new one, too.
    Cut,
}

/// See the module.
pub struct Wire {
    url: String,
    /// Where it leads: host and port.
    target: Arc<Mutex<Option<String>>>,
    /// That of new connections.
    line: Arc<Mutex<watch::Sender<Line>>>,
    /// Connections that were there then are silent.
    forgotten: Mutex<Vec<watch::Sender<Line>>>,
    listens: JoinHandle<()>,
}

impl Wire {
    /// A good line to the server at this URL.
    pub async fn to(url: &str) -> Self {
        let wire = Self::start().await;
        wire.lead_to(url);
        wire
    }

    /// A line that leads nowhere yet.
    pub async fn start() -> Self {
        let listener = loop {
            // Another process may have taken it meanwhile.
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", free_port())).await {
                break listener;
            }
        };
        let url = format!("http://{}", listener.local_addr().expect("a listener has an address"));
        let line = Arc::new(Mutex::new(watch::channel(Line::Good).0));
        let target = Arc::<Mutex<Option<String>>>::default();
        let (present, leads_to) = (line.clone(), target.clone());
        let listens = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let target = lock(&leads_to).clone();
                if let Some(target) = target {
                    let line = lock(&present).subscribe();
                    tokio::spawn(carry(near, target, line));
                }
            }
        });
        Self { url, target, line, forgotten: Mutex::default(), listens }
    }

    /// From now on, new connections lead to the server at this URL.
    pub fn lead_to(&self, url: &str) {
        let target = url.strip_prefix("http://").expect("a test's URL is http").to_owned();
        *lock(&self.target) = Some(target);
    }

    /// The URL at this end.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// What it is like from now on.
    pub fn becomes(&self, line: Line) {
        lock(&self.line).send_replace(line);
    }

    /// Forgets all connections, as a failover does: what is sent on them arrives nowhere, and nobody is told. New ones
    /// are good.
    pub fn forget(&self) {
        let old = std::mem::replace(&mut *lock(&self.line), watch::channel(Line::Good).0);
        old.send_replace(Line::Blocked);
        lock(&self.forgotten).push(old);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.listens.abort();
        lock(&self.line).send_replace(Line::Cut);
        for line in lock(&self.forgotten).drain(..) {
            line.send_replace(Line::Cut);
        }
    }
}

async fn carry(near: TcpStream, target: String, mut line: watch::Receiver<Line>) {
    // Whoever is behind a blocked line doesn't hear of a connection.
    let _ = line.wait_for(|line| *line != Line::Blocked).await;
    let Ok(far) = TcpStream::connect(target).await else { return };
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let (there, back) = (pump(near_in, far_out, line.clone(), false), pump(far_in, near_out, line.clone(), true));
    tokio::select! {
        _ = async { tokio::try_join!(there, back) } => {}
        _ = line.wait_for(|line| *line == Line::Cut) => {}
    }
}

/// Carries one direction until its end. Err: the whole connection is to be closed.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    answers: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let said = from.read(&mut buffer).await?;
        let blocked = |line: &Line| *line == Line::Blocked || (answers && *line == Line::AnswersBlocked);
        let now = *line.wait_for(|line| !blocked(line)).await.map_err(io::Error::other)?;
        match now {
            Line::CutsAnswers(most) if answers => {
                to.write_all(&buffer[..said.min(most)]).await?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Line::Cut => return Err(io::ErrorKind::ConnectionReset.into()),
            Line::Dripping(pause) => {
                for byte in &buffer[..said] {
                    tokio::time::sleep(pause).await;
                    to.write_all(std::slice::from_ref(byte)).await?;
                }
            }
            Line::Late(by) => {
                tokio::time::sleep(by).await;
                to.write_all(&buffer[..said]).await?;
            }
            Line::Good | Line::Blocked | Line::AnswersBlocked | Line::CutsAnswers(_) => {
                to.write_all(&buffer[..said]).await?;
            }
        }
        if said == 0 {
            return to.shutdown().await;
        }
    }
}
