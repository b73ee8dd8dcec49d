//! From a closed batch to the committed offset, through whatever MongoDB does meanwhile.
//!
//! It guarantees that batches become durable in the order of their numbers, each once, and that what it calls safe survives this
//! process: committed in MongoDB, or in the spool on disk. One task, with two ways to go:
//!
//! - *forward*: batches are staged up to PIPELINE_DEPTH ahead and committed in order: whenever a commit begins, all that are staged by
//!   then, as far as [`GROUP_BYTES`] goes, and with a [`HEAD_START`] before more is staged. What the spool holds goes first; while it
//!   holds more than is on its way, what comes goes to its end.
//! - *away*: the breaker is open. What was not committed goes to the spool, and so does what comes. Without a spool, or while it
//!   takes nothing, batches stay in hand and nothing more is taken, so reading pauses. MongoDB is tried again every BREAKER_OPEN,
//!   and as soon as one of its hosts answers again.
//!
//! What is under way when the breaker opens is given up, not waited for: the batches themselves are still in hand, and the fence in
//! the offset tells later which of them had gone in.

mod shelf;

use std::collections::VecDeque;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::batch::Batch;
use crate::board::{Board, Committed};
use crate::breaker::{Breaker, State};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::failpoint::crash_point;
use crate::offset::Offset;
use crate::recovery::{Reconciled, recover};
use crate::retry::Failures;
use crate::store::{Anchor, CommitOutcome, Committer, Patience, Spool, Store};
use shelf::Shelf;

/// How long a fenced daemon may take to withdraw what it staged; the new owner does not need it.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes that several batches are committed together with, 2 MiB: three batches of a busy source, which share the round trips and
/// the wait for the journal. Larger groups gained nothing when measured, and each is in memory about five times on its way.
const GROUP_BYTES: usize = 2 * 1024 * 1024;

/// How far a commit is ahead before more is staged beside it, 3 ms: its fence is set then, and its changes are sent. Encoding a batch
/// takes a thread for 2 ms, and several begin at once when a group leaves the lane: the commit, which all wait for, would wait for
/// them instead, 7 ms of 70 when measured.
const HEAD_START: Duration = Duration::from_millis(3);

/// How long a daemon that stops may take to release its lease; the lease ends by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// What went a certain way: batches, events in them, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Batches.
    pub batches: u64,
    /// Events.
    pub events: u64,
    /// [`Batch::bytes`].
    pub bytes: u64,
}

impl Tally {
    /// Counts one batch.
    pub fn add(&mut self, batch: &Batch) {
        self.batches += 1;
        self.events += batch.events.len() as u64;
        self.bytes += batch.bytes as u64;
    }

    /// What is in `self` and not in `other`, which is a part of it.
    pub fn minus(self, other: Self) -> Self {
        Self {
            batches: self.batches - other.batches,
            events: self.events - other.events,
            bytes: self.bytes - other.bytes,
        }
    }
}

/// How a delivery ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was handed to it is safe.
    Flushed,
    /// What it has in hand does not continue what is recorded, or is damaged: begin again from the saved offset.
    BeginAgain {
        /// Whether what the spool holds is to be left alone, since it cannot even be set aside.
        without_spool: bool,
    },
}

/// The parts of a delivery that its caller holds on to.
#[derive(Debug)]
pub struct Handle {
    /// Closed batches, in order; dropped to flush.
    pub batches: mpsc::Sender<Batch>,
    /// What is safe.
    pub safe: watch::Receiver<Tally>,
    /// Whether batches go to the spool, or nowhere, for the moment.
    pub spooling: watch::Receiver<bool>,
    /// Set when a stop is running out of time: what is not committed by then is spooled.
    pub hurry: watch::Sender<bool>,
    /// The task.
    pub task: JoinHandle<Result<Ended>>,
}

/// Starts the task; without a committer MongoDB has not been reached yet.
pub fn start(
    config: &Arc<Config>,
    board: &Arc<Board>,
    breaker: &Breaker,
    spool: Option<Spool>,
    committer: Option<Committer>,
) -> Handle {
    let (batches, input) = mpsc::channel(1);
    let (safe_sender, safe) = watch::channel(Tally::default());
    let (spooling_sender, spooling) = watch::channel(false);
    let (hurry, hurry_receiver) = watch::channel(false);
    let delivery = Delivery {
        config: Arc::clone(config),
        board: Arc::clone(board),
        breaker: breaker.clone(),
        spool: Shelf::new(config, Arc::clone(board), spool),
        input: Some(input),
        hurry: hurry_receiver,
        safe: safe_sender,
        spooling: spooling_sender,
        hand: VecDeque::new(),
        lane: VecDeque::new(),
        committing: 0,
        anchor: None,
    };
    Handle {
        batches,
        safe,
        spooling,
        hurry,
        task: tokio::spawn(board.beats.watch("delivery", delivery.run(committer))),
    }
}

struct Delivery {
    config: Arc<Config>,
    board: Arc<Board>,
    breaker: Breaker,
    spool: Shelf,
    /// None once the sender is gone and everything was taken.
    input: Option<mpsc::Receiver<Batch>>,
    hurry: watch::Receiver<bool>,
    safe: watch::Sender<Tally>,
    spooling: watch::Sender<bool>,
    /// Batches that were taken and are on no way yet; they follow those of the spool and of the lane.
    hand: VecDeque<Arc<Batch>>,
    /// Batches on their way, the next one to commit first.
    lane: VecDeque<Underway>,
    /// How many of them, from the first one on, are in the transaction that is under way.
    committing: usize,
    /// The last committer; none before MongoDB was reached for the first time.
    anchor: Option<Anchor>,
}

/// A batch that is being staged, or waits for its commit.
struct Underway {
    batch: Arc<Batch>,
    /// Taken when its commit begins.
    staging: Option<Staging>,
    is_spooled: bool,
}

/// A task that stages; it ends when nobody wants it any more.
struct Staging(JoinHandle<Result<()>>);

impl Staging {
    /// Waits until it has ended.
    async fn ended(mut self) -> Result<()> {
        (&mut self.0).await.unwrap_or_else(|_| {
            // The message of the panic may repeat a row, so it is not in the error.
            Err(Error::new(
                Kind::Internal,
                "a task that stages panicked; nothing was committed after that; please report the message above",
            ))
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where to go next.
enum Way {
    Forward(Box<Committer>),
    Away,
    Ended(Ended),
}

/// A trial whether MongoDB takes writes again: a committer, and the offset where this process sees it for the first time.
type Trial = Pin<Box<dyn Future<Output = Result<(Committer, Option<Offset>)>> + Send>>;

impl Delivery {
    async fn run(mut self, committer: Option<Committer>) -> Result<Ended> {
        let mut way = match committer {
            Some(committer) => Way::Forward(Box::new(committer)),
            None => Way::Away,
        };
        let result = loop {
            let next = match way {
                Way::Forward(committer) => self.forward(committer).await,
                Way::Away => self.away().await,
                Way::Ended(ended) => break Ok(ended),
            };
            match next {
                Ok(next) => way = next,
                Err(error) => break Err(error),
            }
        };
        self.stop_staging().await;
        if let (Err(error), Some(anchor)) = (&result, &self.anchor)
            && error.kind() == Kind::Fenced
        {
            let withdrawn = tokio::time::timeout(WITHDRAW_TIMEOUT, anchor.withdraw()).await;
            tracing::debug!(?withdrawn, "withdrew what was staged");
        }
        result
    }

    /// Waits until no task stages any more: what it stages must not appear behind the back of whoever comes next.
    async fn stop_staging(&mut self) {
        self.committing = 0;
        for underway in self.lane.drain(..) {
            if let Some(mut staging) = underway.staging {
                staging.0.abort();
                let _ = (&mut staging.0).await;
            }
        }
    }

    fn is_flushing(&self) -> bool {
        self.input.is_none() && self.hand.is_empty()
    }

    // --- forward

    async fn forward(&mut self, mut committer: Box<Committer>) -> Result<Way> {
        let way = self.commit_all(&mut committer).await;
        if let Ok(Way::Ended(Ended::Flushed)) = way {
            let released = tokio::time::timeout(RELEASE_TIMEOUT, committer.release_lease()).await;
            tracing::debug!(?released, "released the lease");
        }
        way
    }

    async fn commit_all(&mut self, committer: &mut Committer) -> Result<Way> {
        let renewal = committer.lease_renewal();
        let mut renew_at = renewal.map(|renewal| Instant::now() + renewal);
        let (store, epoch) = (committer.store().clone(), committer.epoch());
        let breaker = self.breaker.clone();
        self.anchor = Some(committer.anchor());
        self.spool.read_after(committer.last_batch());
        loop {
            if !self.is_front_staged()
                && let Some(ended) = self.load(&store, epoch).await?
            {
                return Ok(Way::Ended(ended));
            }
            // What is spooled is safe where it is; the next start commits it.
            if self.is_flushing() && self.lane.iter().all(|underway| underway.is_spooled) {
                return Ok(Way::Ended(Ended::Flushed));
            }
            let Some(front) = self.lane.front_mut() else {
                tokio::select! {
                    biased;
                    () = breaker.opened() => return Ok(Way::Away),
                    error = store.refused() => return Err(error),
                    () = take(&mut self.input, &mut self.hand) => {}
                    // Between commits only, so that it is never in the way of this daemon's own transaction.
                    renewed = renew(committer, renew_at) => {
                        renewed?;
                        renew_at = renewal.map(|renewal| Instant::now() + renewal);
                    }
                }
                continue;
            };
            if let Some(staging) = front.staging.take() {
                let staged = self.meanwhile(&store, epoch, Duration::ZERO, staging.ended());
                match staged.await? {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(way) => return Ok(way),
                }
            }
            let group = self.staged_group().await?;
            self.committing = group.len();
            // Where nothing waits behind it, what comes is staged at once: that is the next commit.
            let head_start = match self.lane.len() > self.committing {
                true => HEAD_START,
                false => Duration::ZERO,
            };
            let committed = self.meanwhile(&store, epoch, head_start, committer.commit(group));
            let outcome = match committed.await? {
                ControlFlow::Continue(outcome) => outcome,
                ControlFlow::Break(way) => return Ok(way),
            };
            renew_at = renewal.map(|renewal| Instant::now() + renewal);
            self.committed(committer, outcome).await;
        }
    }

    /// Whether the next batch to commit is staged.
    fn is_front_staged(&self) -> bool {
        self.lane.front().is_some_and(|front| {
            let staging = front.staging.as_ref();
            staging.is_none_or(|staging| staging.0.is_finished())
        })
    }

    /// Waits for `doing`, and meanwhile takes what comes and, after `head_start`, sends it on its way. Breaks off when there is another
    /// way to go.
    async fn meanwhile<T>(
        &mut self,
        store: &Store,
        epoch: i64,
        head_start: Duration,
        doing: impl Future<Output = Result<T>>,
    ) -> Result<ControlFlow<Way, T>> {
        let breaker = self.breaker.clone();
        let mut is_ahead = head_start.is_zero();
        let head_start = tokio::time::sleep(head_start);
        tokio::pin!(doing, head_start);
        loop {
            let has_room = self.hand.is_empty() && self.input.is_some();
            let can_spool = self.spool.is_there();
            tokio::select! {
                biased;
                () = breaker.opened() => return Ok(ControlFlow::Break(Way::Away)),
                error = store.refused() => return Err(error),
                done = &mut doing => return done.map(ControlFlow::Continue),
                () = hurried(&mut self.hurry), if can_spool => return Ok(ControlFlow::Break(Way::Away)),
                () = &mut head_start, if !is_ahead => is_ahead = true,
                () = take(&mut self.input, &mut self.hand), if has_room => {}
            }
            if is_ahead && let Some(ended) = self.load(store, epoch).await? {
                return Ok(ControlFlow::Break(Way::Ended(ended)));
            }
        }
    }

    /// The first batch of the lane, which is staged, and those behind it that are staged as well, as far as one transaction takes
    /// them.
    async fn staged_group(&mut self) -> Result<Vec<Arc<Batch>>> {
        let mut group = Vec::new();
        let mut bytes = 0;
        for underway in &mut self.lane {
            bytes += underway.batch.bytes;
            if !group.is_empty() && bytes > GROUP_BYTES.min(self.config.batch_bytes) {
                break;
            }
            match underway.staging.take_if(|staging| staging.0.is_finished()) {
                Some(staging) => staging.ended().await?,
                None if underway.staging.is_some() => break,
                None => {}
            }
            group.push(Arc::clone(&underway.batch));
        }
        Ok(group)
    }

    /// Sends batches on their way while there is room: those of the spool first. Ends when the spool is damaged.
    async fn load(&mut self, store: &Store, epoch: i64) -> Result<Option<Ended>> {
        while self.lane.len() < self.config.pipeline_depth + self.committing.max(1) {
            let (batch, is_spooled) = match self.spool.read_next().await {
                Ok(Some(batch)) => (Arc::new(batch), true),
                Ok(None) => match self.hand.pop_front() {
                    Some(batch) => (batch, false),
                    None => break,
                },
                Err(error) => {
                    let is_set_aside = self.spool.give_up(&error).await;
                    return Ok(Some(Ended::BeginAgain {
                        without_spool: !is_set_aside,
                    }));
                }
            };
            let staging = stage(store.clone(), epoch, Arc::clone(&batch));
            let staging = Staging(tokio::spawn(self.board.beats.watch("staging", staging)));
            self.lane.push_back(Underway {
                batch,
                staging: Some(staging),
                is_spooled,
            });
        }
        let has_unread = self.spool.has_unread();
        if has_unread {
            self.spool_hand(epoch).await?;
        }
        self.spooling
            .send_if_modified(|spooling| std::mem::replace(spooling, has_unread) != has_unread);
        Ok(None)
    }

    /// Notes that the batches at the front of the lane are committed.
    async fn committed(&mut self, committer: &Committer, outcome: CommitOutcome) {
        self.anchor = Some(committer.anchor());
        let group: Vec<Underway> = self
            .lane
            .drain(..std::mem::take(&mut self.committing))
            .collect();
        for underway in &group {
            let batch = &underway.batch;
            if underway.is_spooled {
                self.spool.committed(batch.number()).await;
            } else {
                self.safe.send_modify(|tally| tally.add(batch));
            }
            tracing::debug!(
                batch = batch.number(),
                events = batch.events.len(),
                bytes = batch.bytes,
                together = group.len(),
                spooled = underway.is_spooled,
                "committed"
            );
        }
        self.board.update(|facts| {
            facts.events_committed += outcome.inserted as u64;
            facts.events_left_out += outcome.left_out as u64;
            facts.events_opaque += outcome.opaque as u64;
            facts.batches_committed += group.len() as u64;
            if let Some(last) = group.last() {
                facts.committed = Some(Committed::of(&last.batch.next, committer.last_n()));
            }
        });
    }

    // --- away

    async fn away(&mut self) -> Result<Way> {
        self.take_back().await;
        self.spooling.send_replace(true);
        let epoch = self.anchor.as_ref().map_or(0, Anchor::epoch);
        let mut trial: Option<(Instant, Trial)> = None;
        let mut again_at = match self.breaker.state() {
            State::Open => Instant::now() + self.breaker.settings().open,
            // Only a stop is in a hurry: where the spool takes nothing, MongoDB still may.
            State::Closed | State::HalfOpen => Instant::now(),
        };
        loop {
            self.spool_hand(epoch).await?;
            if self.is_flushing() {
                return Ok(Way::Ended(Ended::Flushed));
            }
            let has_room = self.hand.is_empty();
            let spool_again_at = self.spool.again_at();
            let store = self.anchor.as_ref().map(|anchor| anchor.store().clone());
            let is_trying = trial.is_some();
            tokio::select! {
                biased;
                outcome = finished(&mut trial) => match outcome {
                    (_, Ok((committer, offset))) => {
                        self.breaker.succeeded();
                        return self.back(committer, offset).await;
                    }
                    (began, Err(error)) if error.is_transient() => {
                        self.breaker.failed(began, &error, false);
                        again_at = Instant::now() + self.breaker.settings().open;
                    }
                    (_, Err(error)) => return Err(error),
                },
                error = refused(store.as_ref()) => return Err(error),
                () = due(again_at, store.as_ref()), if !is_trying => {
                    self.breaker.try_again();
                    trial = Some((Instant::now(), self.trial()));
                }
                () = take(&mut self.input, &mut self.hand), if has_room => {}
                () = sleep_until(spool_again_at), if spool_again_at.is_some() => self.spool.try_again(),
            }
        }
    }

    /// Takes back what was on its way and is not in the spool, in order.
    async fn take_back(&mut self) {
        let unsafe_ones: Vec<Arc<Batch>> = self
            .lane
            .iter()
            .filter(|underway| !underway.is_spooled)
            .map(|underway| Arc::clone(&underway.batch))
            .collect();
        self.stop_staging().await;
        for batch in unsafe_ones.into_iter().rev() {
            self.hand.push_front(batch);
        }
    }

    /// Puts what is in hand into the spool, as far as it takes it.
    async fn spool_hand(&mut self, epoch: i64) -> Result<()> {
        while let Some(batch) = self.hand.front() {
            if !self.spool.append(batch, epoch).await? {
                break;
            }
            if let Some(batch) = self.hand.pop_front() {
                self.safe.send_modify(|tally| tally.add(&batch));
            }
        }
        Ok(())
    }

    fn trial(&self) -> Trial {
        let breaker = self.breaker.clone();
        let attempt: Trial = match self.anchor.clone() {
            Some(anchor) => Box::pin(async move { Ok((Committer::resume(anchor).await?, None)) }),
            None => {
                let config = Arc::clone(&self.config);
                let breaker = breaker.clone();
                Box::pin(async move {
                    let (committer, offset) = first_contact(&config, &breaker).await?;
                    Ok((committer, Some(offset)))
                })
            }
        };
        Box::pin(async move {
            tokio::select! {
                biased;
                outcome = attempt => outcome,
                // Some call of the attempt failed, and was counted.
                () = breaker.opened() => Err(Error::new(Kind::StoreUnavailable, "mongodb is still away")),
            }
        })
    }

    /// MongoDB is back.
    async fn back(&mut self, committer: Committer, offset: Option<Offset>) -> Result<Way> {
        crash_point("after-return");
        if let Some(offset) = offset {
            // It was not reached before: what is recorded there was not known when reading began.
            let Ok(Reconciled::GoesOn) = self.spool.reconcile(&offset).await else {
                tracing::warn!(
                    gtid = %offset.position.gtid,
                    "mongodb holds something else than the spool goes on from; beginning again from the saved offset"
                );
                return Ok(Way::Ended(Ended::BeginAgain {
                    without_spool: false,
                }));
            };
        }
        Ok(Way::Forward(Box::new(committer)))
    }
}

/// Connects to a MongoDB that this process has not reached before, and finishes what is staged there.
async fn first_contact(config: &Config, breaker: &Breaker) -> Result<(Committer, Offset)> {
    let store = Store::connect(config, breaker).await?;
    recover(&store, Patience::NoWait).await?.ok_or_else(|| {
        Error::new(
            Kind::StoreRefused,
            "mongodb holds no offset of this source, but the spool holds batches that go on from one; restore the offset from a \
             backup, or move the spool's file away to begin anew",
        )
    })
}

/// Takes a batch in hand, or notes that none will come any more.
async fn take(input: &mut Option<mpsc::Receiver<Batch>>, hand: &mut VecDeque<Arc<Batch>>) {
    let Some(receiver) = input else {
        return std::future::pending().await;
    };
    match receiver.recv().await {
        Some(batch) => hand.push_back(Arc::new(batch)),
        None => *input = None,
    }
}

/// Makes one batch durable in MongoDB, for as long as it takes.
async fn stage(store: Store, epoch: i64, batch: Arc<Batch>) -> Result<()> {
    crash_point("before-stage");
    let doing = format!("stage batch {}", batch.number());
    let mut failures = Failures::new(store.retry(), &doing);
    loop {
        match store.stage(&batch, epoch).await {
            Ok(()) => break,
            Err(error) if error.is_transient() => failures.wait(&error).await,
            Err(error) => return Err(error),
        }
    }
    failures.over();
    crash_point("after-stage");
    Ok(())
}

/// Gives a sign of the lease's holder when it is due; never where there is no lease.
async fn renew(committer: &Committer, at: Option<Instant>) -> Result<()> {
    sleep_until(at).await;
    committer.renew_lease().await
}

/// Resolves when a stop is running out of time.
async fn hurried(hurry: &mut watch::Receiver<bool>) {
    if hurry.wait_for(|hurry| *hurry).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for the trial that is under way, and takes it out; for ever when there is none.
async fn finished(
    trial: &mut Option<(Instant, Trial)>,
) -> (Instant, Result<(Committer, Option<Offset>)>) {
    let Some((began, running)) = trial else {
        return std::future::pending().await;
    };
    let outcome = (*began, running.await);
    *trial = None;
    outcome
}

async fn refused(store: Option<&Store>) -> Error {
    match store {
        Some(store) => store.refused().await,
        None => std::future::pending().await,
    }
}

/// Waits until MongoDB is to be tried again: after BREAKER_OPEN, or when one of its hosts answers again.
async fn due(at: Instant, store: Option<&Store>) {
    tokio::select! {
        () = tokio::time::sleep_until(at) => {}
        () = async {
            match store {
                Some(store) => store.answers_again().await,
                None => std::future::pending().await,
            }
        } => {}
    }
}

/// Sleeps until `at`; for ever without one.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
