//! All messages that wait for a participant in one request, sent by the coordinator's own client.
//!
//! Always true: at most [`AT_ONCE`] requests of a kind (prepares, decisions) are under way to a participant; nothing
//! waits unless that many are.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use unanimous_sdk::protocol::Coordinator;

use super::null::{Message, name};
use crate::{
    transaction::Call,
    transport::client::{Client, Post},
};

const AT_ONCE: usize = 2;

/// The most messages of a request; the body's limit is looked at with room for one of the largest.
const MOST: usize = 1024;
const MOST_BYTES: usize = 900_000;
const MOST_ANSWER_BYTES: usize = 1 << 20;

/// Status and body.
type Told = (u16, Bytes);

/// Sends messages together.
pub struct Lanes {
    client: Client,
    /// What a body starts with.
    head: Vec<u8>,
    by_participant: Mutex<HashMap<Box<str>, [Arc<Lane>; 2]>>,
}

/// What goes to one participant, of one kind.
struct Lane {
    url: String,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    under_way: usize,
    /// In order; the last one takes more.
    waiting: Vec<Batch>,
}

#[derive(Default)]
struct Batch {
    /// Written already, but for what surrounds them.
    messages: Vec<u8>,
    tell: Vec<oneshot::Sender<Told>>,
}

#[derive(Deserialize)]
struct Answers<'a> {
    #[serde(borrow)]
    answers: Vec<Answer<'a>>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    status: u16,
    #[serde(borrow)]
    body: &'a RawValue,
}

impl Lanes {
    /// Sends as this coordinator.
    pub fn new(client: Client, coordinator: &Coordinator) -> Self {
        let coordinator = serde_json::to_string(coordinator).unwrap_or_default();
        let head = format!(r#"{{"coordinator":{coordinator},"messages":["#).into_bytes();
        Self { client, head, by_participant: Mutex::default() }
    }

    /// The status and the body of the answer, if there is one.
    pub async fn send(this: &Arc<Self>, participant: &str, call: Call, message: Message<'_>) -> Option<Told> {
        let lane = this.lane(participant, call);
        let (tell, told) = oneshot::channel();
        let batch = {
            let mut queue = lock(&lane.queue);
            queue.add(&Message { call: Some(name(call)), ..message }, tell)?;
            queue.next()
        };
        if let Some(batch) = batch {
            tokio::spawn(Arc::clone(this).deliver(lane, batch));
        }
        told.await.ok()
    }

    fn lane(&self, participant: &str, call: Call) -> Arc<Lane> {
        let mut lanes = lock(&self.by_participant);
        let kind = usize::from(call != Call::Prepare);
        if let Some(both) = lanes.get(participant) {
            return Arc::clone(&both[kind]);
        }
        let url = format!("{participant}/batch");
        let new = || Arc::new(Lane { url: url.clone(), queue: Mutex::default() });
        Arc::clone(&lanes.entry(participant.into()).or_insert_with(|| [new(), new()])[kind])
    }

    /// Delivers one batch after the other, as long as there are any.
    async fn deliver(self: Arc<Self>, lane: Arc<Lane>, mut batch: Batch) {
        loop {
            if self.deliver_one(&lane, batch).await.is_none() {
                eprintln!("{} didn't answer as it should", lane.url);
            }
            let mut queue = lock(&lane.queue);
            queue.under_way -= 1;
            match queue.next() {
                Some(next) => batch = next,
                None => return,
            }
        }
    }

    async fn deliver_one(&self, lane: &Lane, batch: Batch) -> Option<()> {
        let mut body = Vec::with_capacity(self.head.len() + batch.messages.len() + 2);
        body.extend_from_slice(&self.head);
        body.extend_from_slice(&batch.messages);
        body.extend_from_slice(b"]}");
        let post = Post {
            url: &lane.url,
            body: body.into(),
            traceparent: None,
            max_answer_bytes: MOST_ANSWER_BYTES,
            remaining: None,
        };
        let answer = self.client.post(post).await.ok()?;
        if answer.status != 200 {
            return None;
        }
        let body = Bytes::from(answer.body);
        let Answers { answers } = serde_json::from_slice(&body).ok()?;
        if answers.len() != batch.tell.len() {
            return None;
        }
        for (Answer { status, body: one }, tell) in answers.into_iter().zip(batch.tell) {
            let _ = tell.send((status, body.slice_ref(one.get().as_bytes())));
        }
        Some(())
    }
}

impl Queue {
    fn add(&mut self, message: &Message<'_>, tell: oneshot::Sender<Told>) -> Option<()> {
        let full = |batch: &Batch| batch.tell.len() >= MOST || batch.messages.len() >= MOST_BYTES;
        if self.waiting.last().is_none_or(full) {
            self.waiting.push(Batch::default());
        }
        let batch = self.waiting.last_mut()?;
        if !batch.messages.is_empty() {
            batch.messages.push(b',');
        }
        serde_json::to_writer(&mut batch.messages, message).ok()?;
        batch.tell.push(tell);
        Some(())
    }

    /// What may be sent now.
    fn next(&mut self) -> Option<Batch> {
        if self.under_way >= AT_ONCE || self.waiting.is_empty() {
            return None;
        }
        self.under_way += 1;
        Some(if self.waiting.len() == 1 { mem::take(&mut self.waiting).pop()? } else { self.waiting.remove(0) })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
