//! The engine with a real log, a real network and a real clock.
//!
//! Always true: entries reach the log in the order of their numbers, because they are appended under the engine's lock;
//! nothing waits while it holds that lock.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{runtime::Handle, sync::Notify};
use tracing::{error, info, warn};
use unanimous_sdk::{
    failpoint,
    protocol::{BranchName, Coordinator, Epoch, Outcome, ParticipantUrl, TransactionId, UnixMillis},
};

use super::{Ended, Engine, Inquiry, Now, Output, Refused, Seldom, Superseded, Told, View, late::Late, suspect::ROW};
use crate::{
    journal::{Journal, Progress},
    metrics::{Metrics, Seen},
    transaction::{Barrier, Call, Transaction},
    transport::{Http, Request},
};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Service(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) engine: Mutex<Engine>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) transport: Http,
    clock: Clock,
    metrics: Metrics,
    pub(super) runtime: Handle,
    /// When the timer task wakes up; it is notified when that is too late.
    wakes_at: AtomicU64,
    sooner: Notify,
    ended: AtomicBool,
    pub(super) late: Late,
    higher_epochs: Seldom,
}

/// Milliseconds since the process started, and the time of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The present.
    pub fn now(self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Now { mono: ms(self.0.elapsed()), wall: UnixMillis(ms(wall)) }
    }
}

impl Service {
    /// Carries out what the engine asks for, from [`Service::start`] on.
    pub fn new(engine: Engine, journal: Arc<dyn Journal>, transport: Http, clock: Clock, metrics: Metrics) -> Self {
        let inner = Inner {
            engine: Mutex::new(engine),
            journal,
            transport,
            clock,
            metrics,
            runtime: Handle::current(),
            wakes_at: AtomicU64::new(u64::MAX),
            sooner: Notify::new(),
            ended: AtomicBool::new(false),
            late: Late::default(),
            higher_epochs: Seldom::default(),
        };
        Self(Arc::new(inner))
    }

    /// Starts what recovery has left to do. From now on the log's progress must come to [`Service::progress`].
    pub fn start(&self) {
        self.0.runtime.spawn(self.clone().keep_time());
    }

    /// Does nothing further by itself.
    pub fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.sooner.notify_one();
    }

    /// Does something with the engine, and then what follows from it.
    pub fn with<R>(&self, work: impl FnOnce(&mut Engine, Now) -> R) -> R {
        let mut engine = self.lock();
        let result = work(&mut engine, self.0.clock.now());
        let mut entries = vec![];
        let mut first = None;
        let mut rest = vec![];
        for output in engine.take_outputs() {
            match output {
                Output::Append(lsn, entry) => {
                    first.get_or_insert(lsn);
                    entries.push(entry);
                }
                other => rest.push(other),
            }
        }
        if let Some(first) = first {
            self.0.metrics.appended(&entries);
            self.0.journal.append(first, entries);
        }
        if engine.take_hurry() {
            self.0.journal.hurry();
        }
        let next = engine.next_timer().unwrap_or(u64::MAX);
        drop(engine);
        if next < self.0.wakes_at.load(Ordering::Acquire) {
            self.0.sooner.notify_one();
        }
        for output in rest {
            match output {
                Output::Append(..) => {}
                Output::Send(request) => self.send(request),
                Output::Decided(told) => {
                    self.0.metrics.decided(&told);
                    log_decision(&told);
                }
                Output::Finished(ended) => {
                    self.0.metrics.finished(ended.id);
                    log_end(&ended);
                }
                Output::ConfirmOwnership => self.confirm_ownership(),
                Output::HigherEpoch(epoch, participant) => self.log_higher_epoch(epoch, &participant),
                Output::Superseded(superseded) => log_superseded(&superseded),
                Output::Suspect(participant) => error!(
                    %participant,
                    "a participant answered unknown-branch to {ROW} commits in a row: further commits to it are held. Does it run on an \
                     empty or a wrong volume? Give it its data back: one commit is tried every 30 s, and all are sent once it knows one"
                ),
                Output::Trusted(participant) => {
                    info!(%participant, "a participant knows its branches again: the commits that were held are sent");
                }
                Output::AnsweredLate { id, branch, answer } => {
                    self.0.runtime.spawn(self.clone().answered_late(id, branch, answer));
                }
            }
        }
        result
    }

    /// The log has come further.
    pub fn progress(&self, progress: Progress) {
        self.with(|engine, now| engine.progress(now, progress));
    }

    /// Waits until the log has come as far as this.
    pub async fn reached(&self, barrier: Barrier) {
        if barrier != Barrier::NONE {
            // It is dropped only when the process ends.
            let _ = self.with(|engine, now| engine.reached(now, barrier)).await;
        }
    }

    /// The present horizon included.
    pub fn coordinator(&self) -> Coordinator {
        self.lock().coordinator()
    }

    /// A transaction as it may be seen now, live or finished; None if neither the engine nor the log knows it.
    pub fn view(&self, id: TransactionId) -> Result<Option<View>, Refused> {
        if let Some(view) = self.with(|engine, now| {
            engine.look(now, id);
            engine.view(id)
        }) {
            return Ok(Some(view));
        }
        Ok(self.finished(id)?.map(|transaction| View::of_finished(id, transaction)))
    }

    /// A transaction that has finished.
    pub fn finished(&self, id: TransactionId) -> Result<Option<Transaction>, Refused> {
        Ok(super::lookup::blocking(|| self.0.journal.finished(id))?)
    }

    /// Answers a participant in doubt.
    pub fn inquire(&self, inquiry: &Inquiry) -> Result<(Outcome, bool, Coordinator), Refused> {
        let answer = self.view(inquiry.transaction).and_then(|known| {
            if let Some(view) = &known {
                self.abort_once_more(view, inquiry);
            }
            self.with(|engine, now| {
                engine.heard_inquiry(now, inquiry);
                let (outcome, presumed) = engine.answer(inquiry, known.as_ref())?;
                Ok((outcome, presumed, engine.coordinator()))
            })
        });
        self.0.metrics.inquired(answer.as_ref().map(|(outcome, presumed, _)| (*outcome, *presumed)));
        answer
    }

    /// Returns how long the payload of a branch may be so that it surely fits into a prepare. None as name: it is not
    /// known yet.
    pub fn max_payload_bytes(&self, branch: Option<&BranchName>) -> usize {
        self.0.transport.max_payload_bytes(branch)
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// All that is counted, as Prometheus reads it.
    pub fn scrape(&self) -> String {
        let seen = self.with(|engine, _| Seen {
            undecided: engine.undecided(),
            live: engine.live(),
            disk_full: engine.is_disk_full(),
            horizon_held_by: engine.horizon_held_by(),
            suspects: engine.suspects().count(),
        });
        self.0.metrics.render(self.0.clock.now().wall, &seen)
    }

    fn send(&self, request: Request) {
        for message in &request.messages {
            self.0.metrics.calls(&request.participant, message);
        }
        let service = self.clone();
        self.0.runtime.spawn(async move {
            let (before, after) = match request.messages.first().map(|message| message.call) {
                Some(Call::Prepare) | None => ("before-prepare-call", "after-prepare-answer"),
                Some(Call::Commit) => ("before-commit-call", "after-commit-answer"),
                Some(Call::Abort) => ("before-abort-call", "after-abort-answer"),
            };
            failpoint::hit(before);
            let returned = service.0.transport.call(&request).await;
            failpoint::hit(after);
            for (message, (_, attempt)) in request.messages.iter().zip(&returned.attempts) {
                service.0.metrics.called(message, attempt);
            }
            service.with(|engine, now| engine.answered(now, returned));
        });
    }

    /// Does what is due, when it is due.
    async fn keep_time(self) {
        while !self.0.ended.load(Ordering::Acquire) {
            let (next, now) = self.with(|engine, now| {
                engine.tick(now);
                (engine.next_timer().unwrap_or(u64::MAX), now.mono)
            });
            self.0.wakes_at.store(next, Ordering::Release);
            // Set between the two lines above, a timer would have been missed.
            if self.lock().next_timer().unwrap_or(u64::MAX) < next {
                continue;
            }
            let pause = Duration::from_millis(next.saturating_sub(now).min(3_600_000));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.0.sooner.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        // A panic under the lock may have left half a change: nothing it says could be believed.
        self.0.engine.lock().unwrap_or_else(|_: PoisonError<_>| {
            error!("the engine's state can't be trusted after a panic; the process ends and recovers from its log");
            std::process::abort()
        })
    }
}

impl Service {
    /// Finds out whether the log is still this process's. (It reads from the disk, so not under the engine's lock.)
    fn confirm_ownership(&self) {
        let service = self.clone();
        self.0.runtime.spawn_blocking(move || {
            let lost = service.0.journal.confirm_ownership().err().map(|error| error.to_string());
            service.with(|engine, now| engine.confirmed(now, lost.as_deref()));
        });
    }

    fn log_higher_epoch(&self, epoch: Epoch, participant: &ParticipantUrl) {
        if let Some(left_out) = self.0.higher_epochs.may() {
            warn!(
                %participant, %epoch, left_out,
                "stale-epoch: a participant knows a higher epoch of this coordinator. The log is still this process's, so everybody else is \
                 served; the next start has a greater epoch, and this participant takes its messages again"
            );
        }
    }
}

fn log_superseded(Superseded { epoch, witnesses, lost }: &Superseded) {
    let named_by: Vec<_> = witnesses.iter().map(|witness| witness.participant.as_str()).collect();
    if let Some(lost) = lost {
        error!(
            %epoch, ?named_by, lost,
            "superseded: a participant knows a higher epoch of this coordinator, and the log is not this process's any more. It takes no \
             further action: stop it"
        );
    } else {
        error!(
            %epoch, ?named_by,
            "superseded: two participants know the same higher epoch of this coordinator, so a second one runs on a copy of its log. This \
             process takes no further action: stop one of the two"
        );
    }
}

fn log_decision(Told { id, decided, branches }: &Told) {
    let sequence = decided.sequence;
    match &decided.reason {
        None => info!(transaction = %id, sequence, branches, "commit"),
        Some(reason) => {
            let branch = reason.branch.as_ref().map(tracing::field::display);
            info!(transaction = %id, sequence, branches, reason = ?reason.code, branch, detail = reason.detail, "abort");
        }
    }
}

fn log_end(Ended { id, heuristic }: &Ended) {
    if *heuristic {
        warn!(transaction = %id, "a branch ended against the decision, or nobody knows how: see GET /v1/transactions/{id}");
    }
}
