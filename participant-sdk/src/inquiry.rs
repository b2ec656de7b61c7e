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
    protocol::{Decision, Epoch, InquiryAnswer, Outcome},
    server::{How, Inner},
};

const LONG: Duration = Duration::from_mins(1);

/// Watches over a branch that is prepared: asks after `patience`, until it has ended.
pub(crate) fn start<P: Participant>(inner: &Arc<Inner<P>>, key: BranchKey, patience: Duration) {
    tokio::spawn(watch(Arc::downgrade(inner), key, patience));
}

async fn watch<P: Participant>(inner: Weak<Inner<P>>, key: BranchKey, patience: Duration) {
    let (since, mut pauses, mut is_long) = (Instant::now(), Backoff::default(), false);
    tokio::time::sleep(patience).await;
    loop {
        let Some(inner) = inner.upgrade() else { return };
        if !inner.is_in_doubt(&key) {
            return;
        }
        // Boxed, since few come to it: each prepared branch keeps this task for as long as its patience lasts.
        let unanswered = Box::pin(inner.ask(&key)).await.err();
        if !inner.is_in_doubt(&key) {
            return;
        }
        let why = unanswered.as_deref().unwrap_or("its decision is pending");
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
    async fn ask(self: &Arc<Self>, key: &BranchKey) -> Result<(), String> {
        let known = self.desk().and_then(|desk| desk.book.coordinator(key.coordinator).cloned());
        let known = known.ok_or("its coordinator isn't known")?;
        let url = self.check_coordinator(&known.url).map_err(|problem| problem.detail)?;
        let decision = {
            let _turn = self.asking.acquire().await;
            failpoint::hit("before-inquiry");
            self.inquire(url.as_str(), key, known.epoch).await?
        };
        let decision = match decision {
            Outcome::Commit => Decision::Commit,
            Outcome::Abort => Decision::Abort,
            Outcome::Pending => return Ok(()),
        };
        tracing::info!(branch = %key, ?decision, "the coordinator was asked, and has told the decision");
        failpoint::hit("after-inquiry");
        let event = Event::Learned { key: key.clone(), asked: known.epoch, decision };
        match self.carry_out(event, None, How::default()).await {
            Ok(_) => Ok(()),
            Err(stuck) => Err(format!("the decision is known, and can't be carried out yet: {stuck:?}")),
        }
    }

    async fn inquire(&self, url: &str, key: &BranchKey, epoch: Epoch) -> Result<Outcome, String> {
        let mut url = format!(
            "{url}/v1/transactions/{}/decision?coordinator={}&epoch={epoch}&branch={}",
            key.transaction, key.coordinator, key.branch
        );
        if let Some(participant_id) = self.origin().participant_id {
            url += &format!("&participant_id={participant_id}");
        }
        let request = crate::http::meant_for(self.http.client().get(&url), Some(key.coordinator));
        let response = request.send().await.map_err(|error| crate::http::explain(&error))?;
        let status = response.status().as_u16();
        let body = crate::http::read(response).await.map_err(|why| format!("{url}: {why}"))?;
        if status != 200 {
            return Err(format!("{url} answered {status}: {}", String::from_utf8_lossy(&body[..body.len().min(300)])));
        }
        let answer: InquiryAnswer = serde_json::from_slice(&body).map_err(|error| format!("{url}: {error}"))?;
        if answer.transaction != key.transaction || answer.branch.as_ref() != Some(&key.branch) {
            self.http.close();
            return Err(format!("{url} gave the answer to another call"));
        }
        if answer.coordinator.id != key.coordinator || answer.coordinator.epoch < epoch {
            return Err(format!("{url} answered as another coordinator, or an older one"));
        }
        Ok(answer.decision)
    }
}
