//! Each message in a request of its own.

use std::sync::Arc;

use bytes::Bytes;
use unanimous_sdk::protocol::Coordinator;

use super::null::{Message, name};
use crate::transaction::Call;

/// Sends messages alone. Cheap to clone.
#[derive(Clone)]
pub struct Single {
    client: reqwest::Client,
    coordinator: Arc<Coordinator>,
}

impl Single {
    /// Sends as this coordinator.
    pub fn new(client: reqwest::Client, coordinator: Coordinator) -> Self {
        Self { client, coordinator: Arc::new(coordinator) }
    }

    /// The status and the body of the answer, if there is one.
    pub async fn send(&self, participant: &str, call: Call, message: Message<'_>) -> Option<(u16, Bytes)> {
        let body = serde_json::to_vec(&Message { coordinator: Some(&self.coordinator), ..message }).ok()?;
        let request = self.client.post(format!("{participant}/{}", name(call)));
        let request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.bytes().await.ok()?))
    }
}
