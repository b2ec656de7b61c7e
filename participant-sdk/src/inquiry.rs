//! Asks about what is in doubt, for as long as it is.
//!
//! Always true: only a 200 counts, of the coordinator whose branch it is, that names transaction and branch, and only if no
//! higher epoch is known by then than the one that was named; nothing in doubt is decided here, or forgotten; the answer's
//! horizon is not looked at.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    branch::{BranchKey, Event, State},
    failpoint,
    http::Backoff,
    participant::Participant,
    protocol::{Decision, Epoch, InquiryAnswer, Outcome, ProblemType},
    server::{How, Inner},
};

const LONG: Duration = Duration::from_mins(1);

/// Why an inquiry has no answer.
enum NoAnswer {
    /// The coordinator has forgotten whether the transaction was committed.
    Forgotten(String),
    Other(String),
}

impl From<String> for NoAnswer {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

/// Watches over a branch that is prepared: asks after `patience`, until it has ended.
pub(crate) fn start<P: Participant>(inner: &Arc<Inner<P>>, key: BranchKey, patience: Duration) {
    tokio::spawn(watch(Arc::downgrade(inner), key, patience));
}

async fn watch<P: Participant>(inner: Weak<Inner<P>>, key: BranchKey, patience: Duration) {
    tokio::time::sleep(patience).await;
    let Some(asking) = inner.upgrade().filter(|inner| inner.is_in_doubt(&key)) else { return };
    drop(asking);
    // Boxed, since few come to it: each prepared branch keeps this task for as long as its patience lasts.
    Box::pin(ask_on(&inner, &key)).await;
    if let Some(inner) = inner.upgrade() {
        inner.doubts.end(&key);
    }
}

async fn ask_on<P: Participant>(inner: &Weak<Inner<P>>, key: &BranchKey) {
    let (since, mut pauses, mut is_long, mut is_forgotten) = (Instant::now(), Backoff::default(), false, false);
    loop {
        let Some(inner) = inner.upgrade() else { return };
        if !inner.is_in_doubt(key) {
            return;
        }
        let unanswered = inner.ask(key).await.err();
        if !inner.is_in_doubt(key) {
            return;
        }
        if let Some(NoAnswer::Forgotten(_)) = &unanswered {
            if !std::mem::replace(&mut is_forgotten, true) {
                inner.doubts.count_forgotten();
            }
            inner.doubts.say_forgotten(key);
        }
        let why = match &unanswered {
            Some(NoAnswer::Forgotten(why) | NoAnswer::Other(why)) => why,
            None => "its decision is pending",
        };
        inner.doubts.note(key, why);
        if since.elapsed() > LONG && !is_long {
            is_long = true;
            inner.long_in_doubt.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(branch = %key, why, "a branch is in doubt for over a minute; it is kept, and its coordinator is asked on");
        } else {
            tracing::debug!(branch = %key, why, "a branch is in doubt");
        }
        drop(inner);
        tokio::time::sleep(pauses.next()).await;
    }
}

impl<P: Participant> Inner<P> {
    fn is_in_doubt(&self, key: &BranchKey) -> bool {
        // While the application carries a decision out it is known, so nothing need be asked.
        self.desk().is_some_and(|desk| desk.book.branch(key).is_some_and(|branch| branch.state == State::Prepared))
    }

    /// Asks once, and obeys. Err: there was no answer, and why.
    async fn ask(self: &Arc<Self>, key: &BranchKey) -> Result<(), NoAnswer> {
        let found = self.desk().and_then(|desk| {
            let known = desk.book.coordinator(key.coordinator)?.clone();
            Some((known, desk.book.branch(key)?.epoch))
        });
        let (known, prepared_epoch) = found.ok_or_else(|| "its coordinator isn't known".to_owned())?;
        let url = self.check_coordinator(&known.url).map_err(|problem| problem.detail)?;
        let decision = {
            let _turn = self.asking.acquire().await;
            failpoint::hit("before-inquiry");
            self.inquire(url.as_str(), key, known.epoch, prepared_epoch).await?
        };
        let decision = match decision {
            Outcome::Commit => Decision::Commit,
            Outcome::Abort => Decision::Abort,
            Outcome::Pending => return Ok(()),
        };
        tracing::info!(branch = %key, ?decision, "the coordinator was asked, and has told the decision");
        failpoint::hit("after-inquiry");
        let event = Event::Learned { key: key.clone(), asked: known.epoch, decision };
        let obeyed = self.carry_out(event, None, How::default()).await;
        // Whoever sent the inquiry may not be called any more: at the address that the coordinator knows is another one.
        crate::acknowledge::start(self, key.clone());
        match obeyed {
            Ok(_) => Ok(()),
            Err(stuck) => Err(format!("the decision is known, and can't be carried out yet: {stuck:?}").into()),
        }
    }

    async fn inquire(
        &self,
        url: &str,
        key: &BranchKey,
        epoch: Epoch,
        prepared_epoch: Epoch,
    ) -> Result<Outcome, NoAnswer> {
        let mut url = format!(
            "{url}/v1/transactions/{}/decision?coordinator={}&epoch={epoch}&branch={}&prepared_epoch={prepared_epoch}",
            key.transaction, key.coordinator, key.branch
        );
        if let Some(participant_id) = self.origin().participant_id {
            url.push_str("&participant_id=");
            url.push_str(&participant_id.to_string());
        }
        let request = crate::http::meant_for(self.http.client().get(&url), Some(key.coordinator));
        let response = request.send().await.map_err(|error| crate::http::explain(&error))?;
        let status = response.status().as_u16();
        let body = crate::http::read(response).await.map_err(|why| format!("{url}: {why}"))?;
        if status != 200 {
            let why = format!("{url} answered {status}: {}", String::from_utf8_lossy(&body[..body.len().min(300)]));
            let kind = crate::client::problem(status, &body).kind;
            let is_forgotten = (status, kind) == (410, ProblemType::Forgotten);
            return Err(if is_forgotten { NoAnswer::Forgotten(why) } else { NoAnswer::Other(why) });
        }
        let answer: InquiryAnswer = serde_json::from_slice(&body).map_err(|error| format!("{url}: {error}"))?;
        if answer.transaction != key.transaction || answer.branch.as_ref() != Some(&key.branch) {
            self.http.close();
            return Err(format!("{url} gave the answer to another call").into());
        }
        if answer.coordinator.id != key.coordinator || answer.coordinator.epoch < epoch {
            return Err(format!("{url} answered as another coordinator, or an older one").into());
        }
        Ok(answer.decision)
    }
}
