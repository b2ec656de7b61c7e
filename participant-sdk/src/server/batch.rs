//! Several messages in one request.
//!
//! Always true: each is carried out at the same time as the others and waits for none of them; one that isn't well-formed
//! spoils no other. All that they have made is forced to disk once, then all are answered.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use futures_util::future::join_all;
use serde_json::value::RawValue;

use super::{
    How, Inner,
    answer::{Answer, Fault, JSON, json_response, shorten_answer, status},
    body::{Received, message, object},
    calls::{Settled, refused},
    now,
};
use crate::{
    branch::{Event, Lsn},
    participant::Participant,
    protocol::{
        BatchAnswer, BatchAnswers, BatchMessage, BatchRequest, Coordinator, MAX_BATCH_ANSWER_BYTES, Problem,
        ProblemType,
    },
};

/// The most messages that a service can be told to take: so many answers fit into one, whatever they are.
pub(super) const MOST: usize = 1024;

/// Room for what stands in an answer beside its text.
const BESIDE_TEXT: usize = 640;

/// A character needs at most so many bytes in JSON.
const BYTES_OF_CHARACTER: usize = 6;

pub(super) async fn batch<P: Participant>(
    State(inner): State<Arc<Inner<P>>>,
    received: Result<Received, Fault>,
) -> Result<Response, Fault> {
    let answered = match received {
        Ok(received) => answer(&inner, &received).await,
        Err(fault) => Err(fault),
    };
    answered.map_err(|fault| fault.of(&inner.origin()))
}

async fn answer<P: Participant>(inner: &Arc<Inner<P>>, received: &Received) -> Result<Response, Fault> {
    let BatchRequest { coordinator, messages } = object::<BatchRequest<&RawValue>>("batch", &received.body)?;
    let most = inner.options.batch_max();
    if messages.len() > most {
        let what = format!("the batch has {} messages; {most} are taken at most", messages.len());
        return Err(Problem::new(ProblemType::TooLarge, what).into());
    }
    inner.check_coordinator(&coordinator.url)?;
    let messages: Vec<_> = messages.into_iter().map(|text| message("message", text.get().as_bytes())).collect();
    inner.announce(&coordinator, &messages).await?;
    let settled = join_all(messages.into_iter().map(|message| settle(inner, &coordinator, message))).await;
    let last = settled.iter().flatten().map(|settled| settled.after).max();
    inner.durable(last.unwrap_or(Lsn(0))).await?;
    let mut answers = Vec::with_capacity(settled.len());
    for settled in settled {
        match settled.and_then(Settled::answer) {
            // The same for all of them, whichever noticed it.
            Err(Fault::Problem(mut stale)) if stale.kind == ProblemType::StaleEpoch => {
                stale.members.remove("transaction");
                stale.members.remove("branch");
                return Err(stale.into());
            }
            answer => answers.push(answer),
        }
    }
    let mut body = write(&answers);
    if body.len() > MAX_BATCH_ANSWER_BYTES {
        let room = (MAX_BATCH_ANSWER_BYTES / answers.len().max(1)).saturating_sub(BESIDE_TEXT) / BYTES_OF_CHARACTER;
        for answer in &mut answers {
            shorten_answer(answer, room);
        }
        body = write(&answers);
    }
    Ok(json_response(200, JSON, body).into_response())
}

impl<P: Participant> Inner<P> {
    /// Refuses a batch whole, before any of it is carried out: its coordinator is stale, or says what can't be true.
    async fn announce(
        self: &Arc<Self>,
        from: &Coordinator,
        messages: &[Result<BatchMessage<'_>, Problem>],
    ) -> Result<(), Fault> {
        let lowest = messages.iter().flatten().map(|message| message.transaction).min();
        let event = Event::Announced { from: from.clone(), lowest, now: now() };
        let judged = self.carry_out(event, None, How::default()).await?;
        judged.map_or_else(|refusal| Err(refused(&refusal).into()), |_| Ok(()))
    }
}

async fn settle<P: Participant>(
    inner: &Arc<Inner<P>>,
    from: &Coordinator,
    message: Result<BatchMessage<'_>, Problem>,
) -> Result<Settled, Fault> {
    let message = message.map_err(|problem| Fault::from(problem).of(&inner.origin()))?;
    let traceparent = message.traceparent.as_deref().map(Into::into);
    let how = How { traceparent, is_one_of_many: true, ..How::default() };
    inner.settle_message(from.clone(), message, how).await
}

fn write(answers: &[Answer]) -> Vec<u8> {
    let answers = answers.iter().map(|answer| BatchAnswer { status: status(answer), body: Body(answer) }).collect();
    serde_json::to_vec(&BatchAnswers { answers }).unwrap_or_default()
}

/// The body of an answer, without the word of its being `Ok` or `Err`.
struct Body<'a>(&'a Answer);

impl serde::Serialize for Body<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Ok(said) => said.serialize(to),
            Err(fault) => fault.serialize(to),
        }
    }
}
