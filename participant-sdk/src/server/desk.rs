//! Where events meet the branch machine, and what it asks for is done.
//!
//! Always true: a step and the handing of its entry to the store are one moment under one lock, which is held over no
//! wait; for a branch at most one piece of the application's code runs.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::AbortHandle, time::Instant};

use super::Inner;
use crate::{
    branch::{Act, Book, Branch, BranchKey, Call, Event, Fate, Refusal, Reply, State, Step},
    http::Backoff,
    participant::{BranchContext, Participant},
    protocol::{Decision, Vote},
    store::{Change, Entry, Store},
};

/// How long a call waits for the application. Shorter than a coordinator does, so that it hears why.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

type WorkOf<P> = <<P as Participant>::Store as Store>::Work;

pub(crate) struct Desk<P: Participant> {
    pub(crate) book: Book,
    /// Work that is done, and not voted for yet.
    works: HashMap<BranchKey, WorkOf<P>>,
    /// The application's code that runs for a branch.
    running: HashMap<BranchKey, Running>,
}

struct Running {
    task: AbortHandle,
    /// Says when it has ended: true if the application failed.
    ended: watch::Sender<Option<bool>>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stuck {
    /// The store isn't loaded, or has failed.
    NotReady(String),
    /// The application panicked.
    Failed,
    /// The application takes long.
    Busy,
}

/// What is to be waited for.
enum Next {
    Answer(Step),
    Await(watch::Receiver<Option<bool>>),
    /// The application's own calls do the work.
    Opened(Step),
}

impl<P: Participant> Desk<P> {
    pub(crate) fn new(book: Book) -> Self {
        Self { book, works: HashMap::new(), running: HashMap::new() }
    }
}

fn key_of(event: &Event) -> Option<BranchKey> {
    match event {
        Event::Told { from, transaction, branch, call: _ } => {
            Some(BranchKey { coordinator: from.id, transaction: *transaction, branch: branch.clone() })
        }
        Event::Learned { key, .. } | Event::Own { key, .. } => Some(key.clone()),
        Event::Superseded { .. } => None,
    }
}

impl<P: Participant> Inner<P> {
    pub(crate) fn desk(&self) -> Option<MutexGuard<'_, Desk<P>>> {
        Some(self.desk.get()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Carries an event out to its end: steps it, lets the application do what follows, and returns what is to be said
    /// when it may be said. `remaining`: until the deadline, for a prepare.
    pub(crate) async fn carry_out(
        self: &Arc<Self>,
        event: Event,
        work: Option<WorkOf<P>>,
        remaining: Duration,
    ) -> Result<Result<Reply, Refusal>, Stuck> {
        let until = Instant::now() + ANSWER_WITHIN;
        let mut work = work;
        loop {
            match self.step(&event, work.take(), remaining)? {
                Next::Answer(step) | Next::Opened(step) => {
                    self.store.durable(step.after).await.map_err(|error| Stuck::NotReady(error.to_string()))?;
                    return Ok(step.answer);
                }
                Next::Await(mut ended) => {
                    // Closed without a word: something else runs for the branch now.
                    let ended = tokio::time::timeout_at(until, ended.wait_for(Option::is_some)).await;
                    match ended {
                        Ok(Ok(failed)) if *failed == Some(true) => return Err(Stuck::Failed),
                        Ok(Ok(_) | Err(_)) => {}
                        Err(_) => return Err(Stuck::Busy),
                    }
                }
            }
        }
    }

    fn step(self: &Arc<Self>, event: &Event, work: Option<WorkOf<P>>, remaining: Duration) -> Result<Next, Stuck> {
        let mut desk = self.desk().ok_or_else(|| Stuck::NotReady(self.not_ready().unwrap_or_default()))?;
        self.step_at(&mut desk, event, work, remaining)
    }

    fn step_at(
        self: &Arc<Self>,
        desk: &mut Desk<P>,
        event: &Event,
        work: Option<WorkOf<P>>,
        remaining: Duration,
    ) -> Result<Next, Stuck> {
        let step = desk.take(&self.store, event.clone(), work);
        let Some(key) = key_of(event) else { return Ok(Next::Answer(step)) };
        if step.fate == Fate::Stage {
            crate::inquiry::start(self, key.clone(), self.options.patience);
        }
        match &step.answer {
            Ok(Reply::Work) => match event {
                Event::Told { call: Call::Open { .. }, .. } => Ok(Next::Opened(step)),
                Event::Told { .. } | Event::Learned { .. } | Event::Own { .. } | Event::Superseded { .. } => {
                    let context = desk.context(&key, Some(remaining));
                    let running = desk.running.entry(key).insert_entry(self.run_work(context, remaining));
                    Ok(Next::Await(running.get().ended.subscribe()))
                }
            },
            Ok(Reply::Effect(decision)) => {
                let context = desk.context(&key, None);
                if let Some(before) = desk.running.remove(&key) {
                    before.task.abort();
                }
                let running = desk.running.entry(key).insert_entry(self.run_effect(context, *decision));
                Ok(Next::Await(running.get().ended.subscribe()))
            }
            Ok(Reply::Wait) => match desk.running.get(&key) {
                Some(running) => Ok(Next::Await(running.ended.subscribe())),
                None => Err(Stuck::Busy),
            },
            Ok(Reply::Voted(_) | Reply::Refused(_) | Reply::Committed | Reply::Aborted | Reply::Nothing) | Err(_) => {
                Ok(Next::Answer(step))
            }
        }
    }

    /// Runs the application's prepare, then reports how it went, whoever still waits for it.
    fn run_work(self: &Arc<Self>, context: BranchContext, remaining: Duration) -> Running {
        let (inner, ended) = (self.clone(), watch::channel(None).0);
        let key = context.key.clone();
        let app = tokio::spawn(async move {
            let mut work = inner.store.work(&context.key);
            let prepared = inner.participant.prepare(&context, &mut work);
            let result = tokio::time::timeout(remaining, prepared).await;
            (result, work)
        });
        let running = Running { task: app.abort_handle(), ended };
        let inner = self.clone();
        tokio::spawn(async move {
            let (act, work) = match app.await {
                Ok((Ok(Ok(vote)), work)) => {
                    // What was written must not get lost over a vote that says there is nothing.
                    let vote = if P::Store::has_writes(&work) { Vote::Prepared } else { vote };
                    (Act::Worked(Ok(vote)), Some(work))
                }
                Ok((Ok(Err(refusal)), work)) => (Act::Worked(Err(refusal.to_string())), Some(work)),
                Ok((Err(_), _)) => (Act::GiveUp("its deadline has passed"), None),
                Err(error) if error.is_panic() => {
                    tracing::error!(branch = %key, "the application panicked in prepare: no answer is given, the coordinator asks again");
                    (Act::Failed, None)
                }
                // Aborted meanwhile: that goes on by itself.
                Err(_) => return,
            };
            inner.report(&key, act, work);
        });
        running
    }

    /// Runs the application's commit or abort until it has done it.
    fn run_effect(self: &Arc<Self>, context: BranchContext, decision: Decision) -> Running {
        let (inner, ended) = (self.clone(), watch::channel(None).0);
        let task = tokio::spawn(async move {
            let mut pauses = Backoff::default();
            loop {
                let (app, of) = (inner.clone(), context.clone());
                let effect = tokio::spawn(async move {
                    match decision {
                        Decision::Commit => app.participant.commit(&of).await,
                        Decision::Abort => app.participant.abort(&of).await,
                    }
                });
                let why = match effect.await {
                    Ok(Ok(())) => break,
                    Ok(Err(retry)) => retry.to_string(),
                    Err(error) => error.to_string(),
                };
                tracing::warn!(branch = %context.key, ?decision, why, "the application couldn't carry a decision out; it will be asked again");
                tokio::time::sleep(pauses.next()).await;
            }
            inner.report(&context.key, Act::Effected, None);
        });
        Running { task: task.abort_handle(), ended }
    }

    /// Steps what the application's code has come to, and tells who waits.
    fn report(self: &Arc<Self>, key: &BranchKey, act: Act, work: Option<WorkOf<P>>) {
        let Some(mut desk) = self.desk() else { return };
        let (failed, of) =
            (act == Act::Failed, |branch: &Branch| matches!(branch.state, State::Committing | State::Aborting(_)));
        let next = self.step_at(&mut desk, &Event::Own { key: key.clone(), act }, work, Duration::ZERO);
        // What runs now, because of this step or of one before, tells of itself.
        if matches!(next, Ok(Next::Await(_))) || desk.book.branch(key).is_some_and(of) {
            return;
        }
        if let Some(running) = desk.running.remove(key) {
            running.ended.send_replace(Some(failed));
        }
    }
}

impl<P: Participant> Desk<P> {
    /// One step, and its entry handed to the store. Work that the step doesn't take is dropped, unless its branch holds it.
    fn take(&mut self, store: &P::Store, event: Event, work: Option<WorkOf<P>>) -> Step {
        let key = key_of(&event);
        if let (Some(key), Some(work)) = (&key, work) {
            self.works.insert(key.clone(), work);
        }
        let mut step = self.book.step(event);
        if let Some(lsn) = step.lsn {
            let change = match (&key, step.fate) {
                (Some(key), Fate::Stage) => {
                    Change::Stage(key.clone(), self.works.remove(key).unwrap_or_else(|| store.work(key)))
                }
                (Some(key), Fate::Publish) => Change::Publish(key.clone()),
                (Some(key), Fate::Discard) if !self.works.contains_key(key) => Change::Discard(key.clone()),
                (_, Fate::Unchanged | Fate::Stage | Fate::Publish | Fate::Discard) => Change::None,
            };
            let records = std::mem::take(&mut step.records);
            store.append(Entry { lsn, records, forced: step.forced, change });
            self.log(key.as_ref(), &step);
        }
        if let Some(key) = &key {
            let holds = |branch: &Branch| matches!(branch.state, State::Held(_));
            if !self.book.branch(key).is_some_and(holds) {
                // Only after the entry, so that what takes its locks is written after it.
                self.works.remove(key);
            }
        }
        step
    }

    fn log(&self, key: Option<&BranchKey>, step: &Step) {
        let Some(key) = key else { return };
        let name = self.book.branch(key).map_or("forgotten", |branch| branch.state.name());
        match &step.answer {
            Ok(Reply::Refused(why)) => tracing::info!(branch = %key, why, "voted abort"),
            Ok(Reply::Voted(vote)) => tracing::debug!(branch = %key, ?vote, "voted"),
            Ok(Reply::Committed | Reply::Aborted) => tracing::info!(branch = %key, "{name}"),
            Ok(Reply::Work | Reply::Effect(_) | Reply::Wait | Reply::Nothing) => {}
            Err(refusal) => tracing::warn!(branch = %key, ?refusal, "a call was refused"),
        }
    }

    fn context(&self, key: &BranchKey, remaining: Option<Duration>) -> BranchContext {
        let payload = self.book.branch(key).and_then(|branch| branch.payload.clone());
        BranchContext { key: key.clone(), payload, remaining }
    }
}
