//! Where events meet the branch machine, and what it asks for is done.
//!
//! Always true: a step and the handing of its entry to the store are one moment under one lock, which is held over no
//! wait; for a branch at most one piece of the application's code runs.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use super::Inner;
use crate::{
    branch::{Act, Book, Branch, BranchKey, Call, Event, Fate, Lsn, Refusal, Reply, State, Step},
    http::Backoff,
    participant::{BranchContext, Participant},
    protocol::{Decision, Vote},
    store::{Change, Entry, Store},
};

/// How long a call waits for the application. Shorter than a coordinator does, so that it hears why.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// The same where the answers to others wait with it: who isn't done by then is to be asked for again.
const ANSWER_MANY_WITHIN: Duration = Duration::from_secs(2);

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

/// What comes with an event, and is no matter of the branch machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct How {
    /// Until the deadline, for a prepare.
    pub(crate) remaining: Duration,
    /// The `traceparent` of the call.
    pub(crate) traceparent: Option<Arc<str>>,
    /// Its answer leaves together with others: nothing is forced to disk on its way, but all of it once at the end.
    pub(crate) is_one_of_many: bool,
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
        Event::Told { from, transaction, branch, .. } => {
            Some(BranchKey { coordinator: from.id, transaction: *transaction, branch: branch.clone() })
        }
        Event::Learned { key, .. } | Event::Own { key, .. } => Some(key.clone()),
        Event::Superseded { .. } | Event::Announced { .. } => None,
    }
}

impl<P: Participant> Inner<P> {
    pub(crate) fn desk(&self) -> Option<MutexGuard<'_, Desk<P>>> {
        Some(self.desk.get()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Carries an event out to its end: steps it, lets the application do what follows, and returns what is to be said
    /// when it may be said.
    pub(crate) async fn carry_out(
        self: &Arc<Self>,
        event: Event,
        work: Option<WorkOf<P>>,
        how: How,
    ) -> Result<Result<Reply, Refusal>, Stuck> {
        let step = self.settle(event, work, how).await?;
        self.durable(step.after).await?;
        Ok(step.answer)
    }

    /// Returns when an entry is durable.
    pub(crate) async fn durable(&self, lsn: Lsn) -> Result<(), Stuck> {
        if lsn == Lsn::default() {
            return Ok(());
        }
        self.store.durable(lsn).await.map_err(|error| Stuck::NotReady(error.to_string()))
    }

    /// Carries an event out up to its last step, whose answer may be told when its entry `after` is durable.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        event: Event,
        mut work: Option<WorkOf<P>>,
        how: How,
    ) -> Result<Step, Stuck> {
        let until = Instant::now() + if how.is_one_of_many { ANSWER_MANY_WITHIN } else { ANSWER_WITHIN };
        loop {
            match self.step(&event, work.take(), &how)? {
                Next::Answer(step) | Next::Opened(step) => return Ok(step),
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

    fn step(self: &Arc<Self>, event: &Event, work: Option<WorkOf<P>>, how: &How) -> Result<Next, Stuck> {
        let mut desk = self.desk().ok_or_else(|| Stuck::NotReady(self.not_ready().unwrap_or_default()))?;
        self.step_at(&mut desk, event, work, how)
    }

    fn step_at(
        self: &Arc<Self>,
        desk: &mut Desk<P>,
        event: &Event,
        work: Option<WorkOf<P>>,
        how: &How,
    ) -> Result<Next, Stuck> {
        let step = desk.take(&self.store, event.clone(), work, how);
        let Some(key) = key_of(event) else { return Ok(Next::Answer(step)) };
        if step.fate == Fate::Stage {
            crate::inquiry::start(self, key.clone(), self.options.patience);
        }
        match &step.answer {
            Ok(Reply::Work) => match event {
                Event::Told { call: Call::Open, .. } => Ok(Next::Opened(step)),
                Event::Told { .. }
                | Event::Learned { .. }
                | Event::Own { .. }
                | Event::Announced { .. }
                | Event::Superseded { .. } => {
                    let context = desk.context(&key, Some(how.remaining), how);
                    let running = desk.running.entry(key).insert_entry(self.run_work(context, how.clone()));
                    Ok(Next::Await(running.get().ended.subscribe()))
                }
            },
            Ok(Reply::Effect(decision)) => {
                let context = desk.context(&key, None, how);
                if let Some(before) = desk.running.remove(&key) {
                    before.task.abort();
                }
                let running = desk.running.entry(key).insert_entry(self.run_effect(context, *decision, how.clone()));
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
    fn run_work(self: &Arc<Self>, context: BranchContext, how: How) -> Running {
        let (inner, ended) = (self.clone(), watch::channel(None).0);
        let task = tokio::spawn(async move {
            let mut work = inner.store.work(&context.key);
            let app = async { inner.participant.prepare(&context, &mut work).await };
            let prepared = tokio::time::timeout(how.remaining, AssertUnwindSafe(app).catch_unwind()).await;
            let (act, work) = match prepared {
                Ok(Ok(Ok(vote))) => {
                    // What was written must not get lost over a vote that says there is nothing.
                    let vote = if P::Store::has_writes(&work) { Vote::Prepared } else { vote };
                    (Act::Worked(Ok(vote)), Some(work))
                }
                Ok(Ok(Err(refusal))) => (Act::Worked(Err(refusal.to_string())), Some(work)),
                Ok(Err(_panic)) => {
                    tracing::error!(branch = %context.key, "the application panicked in prepare: no answer is given, the coordinator asks again");
                    drop(work);
                    (Act::Failed, None)
                }
                Err(_) => {
                    drop(work);
                    (Act::GiveUp("its deadline has passed"), None)
                }
            };
            inner.report(&context.key, act, work, &how);
        });
        Running { task: task.abort_handle(), ended }
    }

    /// Runs the application's commit or abort until it has done it.
    fn run_effect(self: &Arc<Self>, context: BranchContext, decision: Decision, how: How) -> Running {
        let (inner, ended) = (self.clone(), watch::channel(None).0);
        let task = tokio::spawn(async move {
            let mut pauses = Backoff::default();
            loop {
                let app = async {
                    match decision {
                        Decision::Commit => inner.participant.commit(&context).await,
                        Decision::Abort => inner.participant.abort(&context).await,
                    }
                };
                let why = match AssertUnwindSafe(app).catch_unwind().await {
                    Ok(Ok(())) => break,
                    Ok(Err(retry)) => retry.to_string(),
                    Err(_panic) => "it panicked".to_owned(),
                };
                tracing::warn!(branch = %context.key, ?decision, why, "the application couldn't carry a decision out; it will be asked again");
                tokio::time::sleep(pauses.next()).await;
            }
            inner.report(&context.key, Act::Effected, None, &how);
        });
        Running { task: task.abort_handle(), ended }
    }

    /// Steps what the application's code has come to, and tells who waits.
    fn report(self: &Arc<Self>, key: &BranchKey, act: Act, work: Option<WorkOf<P>>, how: &How) {
        let Some(mut desk) = self.desk() else { return };
        let (failed, of) =
            (act == Act::Failed, |branch: &Branch| matches!(branch.state, State::Committing | State::Aborting(_)));
        let next = self.step_at(&mut desk, &Event::Own { key: key.clone(), act }, work, how);
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
    fn take(&mut self, store: &P::Store, event: Event, work: Option<WorkOf<P>>, how: &How) -> Step {
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
            let forced = step.forced && !how.is_one_of_many;
            store.append(Entry { lsn, records, forced, change });
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

    fn context(&self, key: &BranchKey, remaining: Option<Duration>, how: &How) -> BranchContext {
        let payload = self.book.branch(key).and_then(|branch| branch.payload.clone());
        BranchContext { key: key.clone(), payload, remaining, traceparent: how.traceparent.clone() }
    }
}
