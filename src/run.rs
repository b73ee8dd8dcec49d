//! The daemon: source, batcher and store, joined by bounded channels; an active loop and a draining loop.
//!
//! It guarantees that at any time everything read is in one of these places and nowhere else: the channel from the reader,
//! the batcher, a staging task, the committer. Each is bounded, so memory is: a full committer stops the loop from taking
//! chunks, a full channel stops the reader, and a reader that does not read stops the server.
//!
//! Progress has three marks, named by what they guarantee: *received* (in the batcher), *staged* (survives this process),
//! *committed* (visible, with the offset). They only move in this order.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::batch::{Batch, Batcher, Item};
use crate::config::{Config, StartFrom};
use crate::error::{Error, Kind, Result};
use crate::failpoint::crash_point;
use crate::offset::Offset;
use crate::recovery::recover;
use crate::retry::Failures;
use crate::source::{self, Chunk};
use crate::store::{Committer, Store};

/// Chunks between reader and batcher. A chunk is about 256 KiB, so this is about 1 MiB: enough that neither waits for the
/// other's scheduling.
const CHUNK_QUEUE: usize = 4;

/// Batches' worth of bytes that may be between the batcher and the committed offset, as a multiple of BATCH_BYTES: one in
/// the commit, one staged, one being staged. Small batches are bounded by PIPELINE_DEPTH before this.
const IN_FLIGHT_BATCH_BYTES: usize = 3;

/// How soon the offset follows transactions that leave no document (filtered, or empty).
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How often the offset's `updatedAt` moves while the source is alive and quiet. The contract says every 30 s at least.
const TOUCH_INTERVAL: Duration = Duration::from_secs(10);

/// How long a fenced daemon may take to withdraw what it staged; the new owner does not need it.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the daemon until `shutdown` resolves or something happens that an operator must decide.
///
/// # Errors
/// Only what a restart by itself would not mend, and a flush that did not end within SHUTDOWN_TIMEOUT.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<()> {
    let config = Arc::new(config);
    tokio::pin!(shutdown);
    let started = tokio::select! {
        biased;
        () = &mut shutdown => None,
        started = start(&config) => Some(started?),
    };
    let Some((committer, offset)) = started else {
        tracing::info!("Flushing 0 remaining events");
        tracing::info!("Shutdown complete");
        return Ok(());
    };
    Daemon::new(config, committer, offset).run(shutdown).await
}

/// Connects to MongoDB, finishes what a crash left, and finds out where to go on.
async fn start(config: &Config) -> Result<(Committer, Offset)> {
    let store = Store::connect(config).await?;
    tracing::info!(
        hosts = config.mongo_hosts,
        database = config.mongo_database,
        "Connected to MongoDB"
    );
    loop {
        if let Some((committer, offset)) = recover(&store).await? {
            tracing::info!(
                gtid = %offset.position.gtid,
                batch = offset.batch,
                n = offset.n,
                epoch = offset.epoch,
                partial = offset.position.partial.as_ref().map(|partial| partial.gtid.to_string()),
                "Resuming from saved GTID"
            );
            return Ok((committer, offset));
        }
        let first = source::first_offset(config).await?;
        // Written before the first event is read, so that a crash a second later does not move it.
        store
            .retry()
            .persist("write the first offset", || store.create_offset(&first))
            .await?;
        match config.start_from {
            StartFrom::Current => {
                tracing::info!(gtid = %first.position.gtid, "Starting from current position")
            }
            StartFrom::Earliest | StartFrom::Gtid(_) => {
                tracing::info!(gtid = %first.position.gtid, "Starting from GTID")
            }
        }
        crash_point("after-first-offset");
    }
}

/// What is on its way from the batcher to the committed offset.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    batches: u64,
    events: u64,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, events: usize, bytes: usize) {
        self.batches += 1;
        self.events += events as u64;
        self.bytes += bytes as u64;
    }

    fn minus(self, other: Self) -> Self {
        Self {
            batches: self.batches - other.batches,
            events: self.events - other.events,
            bytes: self.bytes - other.bytes,
        }
    }
}

type Staging = JoinHandle<Result<Batch>>;

struct Daemon {
    config: Arc<Config>,
    store: Store,
    epoch: i64,
    batcher: Batcher,
    /// Closed batches that wait for a place in the pipeline.
    closed: VecDeque<Batch>,
    sent: Tally,
    committed: watch::Receiver<Tally>,
    to_committer: Option<mpsc::Sender<Staging>>,
    committer: JoinHandle<Result<()>>,
    chunks: mpsc::Receiver<Chunk>,
    stop_source: watch::Sender<bool>,
    source: JoinHandle<Result<()>>,
    /// Whether the source has been heard since the offset was last touched.
    heard: bool,
}

impl Daemon {
    fn new(config: Arc<Config>, committer: Committer, offset: Offset) -> Self {
        let (chunk_sender, chunks) = mpsc::channel(CHUNK_QUEUE);
        let (stop_source, stopped) = watch::channel(false);
        let (to_committer, staged) = mpsc::channel(config.pipeline_depth);
        let (committed_sender, committed) = watch::channel(Tally::default());
        let store = committer.store().clone();
        let epoch = committer.epoch();
        let from = offset.clone();
        Self {
            batcher: Batcher::new(offset, config.batch_size, config.batch_bytes),
            store,
            epoch,
            closed: VecDeque::new(),
            sent: Tally::default(),
            committed,
            to_committer: Some(to_committer),
            committer: tokio::spawn(commit_in_order(committer, staged, committed_sender)),
            chunks,
            stop_source,
            source: tokio::spawn(source::read(
                Arc::clone(&config),
                epoch,
                from,
                chunk_sender,
                stopped,
            )),
            heard: false,
            config,
        }
    }

    async fn run(mut self, shutdown: Pin<&mut impl Future<Output = ()>>) -> Result<()> {
        let ended = self.active(shutdown).await;
        let result = match ended {
            Ok(()) => self.drain().await,
            // The source cannot go on, but what it read before is good.
            Err(Ended::Source(error)) => {
                tracing::error!(%error, "the source cannot go on");
                self.drain().await.and(Err(error))
            }
            Err(Ended::Store(error)) => Err(error),
        };
        if let Err(error) = &result
            && error.kind() == Kind::Fenced
        {
            let withdrawn =
                tokio::time::timeout(WITHDRAW_TIMEOUT, self.store.withdraw(self.epoch)).await;
            tracing::debug!(?withdrawn, "withdrew what was staged");
        }
        self.source.abort();
        self.committer.abort();
        result
    }

    /// Reads, batches and commits until it is told to stop.
    async fn active(
        &mut self,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> std::result::Result<(), Ended> {
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        let mut touch = tokio::time::interval(TOUCH_INTERVAL);
        for interval in [&mut progress, &mut touch] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval.reset();
        }
        let mut flush_at: Option<Instant> = None;
        loop {
            // Low latency when quiet: nobody is committing, and nothing more is ready to join this batch.
            if self.in_flight().batches == 0
                && self.closed.is_empty()
                && self.batcher.has_complete_events()
                && self.chunks.is_empty()
            {
                self.close();
                continue;
            }
            let room = self.has_room();
            let place = self.place();
            if !self.batcher.has_complete_events() {
                flush_at = None;
            } else if flush_at.is_none() {
                flush_at = Some(Instant::now() + self.config.flush_interval);
            }
            tokio::select! {
                biased;
                // 1: a stop goes before everything else.
                () = &mut shutdown => return Ok(()),
                // 2: a committer that ended can only have failed.
                ended = &mut self.committer => return Err(Ended::Store(failure(ended))),
                // and a store that refuses every connection is not waited for.
                error = self.store.refused() => return Err(Ended::Store(error)),
                // 3: a closed batch goes on its way, as soon as there is a place.
                place = place => self.send(place),
                // 4: a commit makes room.
                _ = self.committed.changed() => {}
                // 5: what was read.
                chunk = self.chunks.recv(), if room => match chunk {
                    Some(chunk) => self.receive(chunk).map_err(Ended::Source)?,
                    None => return Err(Ended::Source(failure((&mut self.source).await))),
                },
                // 6: the batch has waited long enough.
                () = sleep_until(flush_at), if room && flush_at.is_some() => {
                    self.close();
                    flush_at = None;
                }
                // 7: the offset follows what leaves no document.
                _ = progress.tick(), if room => {
                    if self.batcher.has_progress() && !self.batcher.has_complete_events() {
                        self.close();
                    }
                }
                // 8: a sign of life.
                _ = touch.tick(), if room => {
                    if std::mem::take(&mut self.heard) && let Some(batch) = self.batcher.touch() {
                        self.closed.push_back(batch);
                    }
                }
            }
        }
    }

    /// Stops the source, then commits everything complete that was read, within SHUTDOWN_TIMEOUT.
    async fn drain(&mut self) -> Result<()> {
        let limit = self.config.shutdown_timeout;
        match tokio::time::timeout(limit, self.flush()).await {
            Ok(Ok(())) => {
                tracing::info!("Shutdown complete");
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::new(
                Kind::StoreUnavailable,
                format!(
                    "shutdown flush failed: mongodb did not take {} events within SHUTDOWN_TIMEOUT ({} s); they are staged or \
                     still in the binlog, and the next start goes on with them",
                    self.in_flight().events,
                    limit.as_secs()
                ),
            )),
        }
    }

    async fn flush(&mut self) -> Result<()> {
        // The receiver may be gone with a source that ended by itself.
        let _ = self.stop_source.send(true);
        while let Some(chunk) = self.chunks.recv().await {
            self.receive(chunk)?;
        }
        self.close();
        let waiting: usize = self.closed.iter().map(|batch| batch.events.len()).sum();
        tracing::info!(
            "Flushing {} remaining events",
            self.in_flight().events + waiting as u64
        );
        while !self.closed.is_empty() {
            let place = self.place();
            tokio::select! {
                biased;
                ended = &mut self.committer => return Err(failure(ended)),
                place = place => self.send(place),
            }
        }
        self.to_committer = None;
        match (&mut self.committer).await {
            Ok(result) => result,
            Err(panic) => Err(panicked(&panic)),
        }
    }

    /// Puts the items of a chunk into the batcher.
    fn receive(&mut self, chunk: Chunk) -> Result<()> {
        crash_point("after-decode");
        self.heard = true;
        for item in chunk.items {
            let is_end = matches!(item, Item::End(_));
            let closed = self
                .batcher
                .push(item)
                .map_err(|error| Error::new(Kind::SourceCorrupt, error.to_string()))?;
            self.closed.extend(closed);
            if is_end {
                crash_point("after-batch");
            }
        }
        Ok(())
    }

    /// Closes the batch that is building up, if it holds anything complete.
    fn close(&mut self) {
        let closed = self.batcher.take_complete();
        self.closed.extend(closed);
    }

    fn in_flight(&self) -> Tally {
        self.sent.minus(*self.committed.borrow())
    }

    fn has_room(&self) -> bool {
        let limit = (IN_FLIGHT_BATCH_BYTES * self.config.batch_bytes) as u64;
        self.closed.is_empty() && self.in_flight().bytes < limit
    }

    /// Waits for a place in the pipeline for the next closed batch; for ever when there is none.
    fn place(&self) -> impl Future<Output = Option<mpsc::OwnedPermit<Staging>>> + use<> {
        let sender = self
            .to_committer
            .clone()
            .filter(|_| !self.closed.is_empty());
        async move {
            match sender {
                Some(sender) => sender.reserve_owned().await.ok(),
                None => std::future::pending().await,
            }
        }
    }

    /// Starts to stage the next closed batch. Without a place the committer has ended, which its own branch reports.
    fn send(&mut self, place: Option<mpsc::OwnedPermit<Staging>>) {
        if let Some(place) = place
            && let Some(batch) = self.closed.pop_front()
        {
            self.sent.add(batch.events.len(), batch.bytes);
            place.send(tokio::spawn(stage(self.store.clone(), self.epoch, batch)));
        }
    }
}

/// Why the active loop ended by itself.
enum Ended {
    Source(Error),
    Store(Error),
}

/// Makes one batch durable, for as long as it takes.
async fn stage(store: Store, epoch: i64, batch: Batch) -> Result<Batch> {
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
    Ok(batch)
}

/// Commits staged batches one after the other; ends when the sender is gone and all are committed, or at the first failure.
async fn commit_in_order(
    mut committer: Committer,
    mut staged: mpsc::Receiver<Staging>,
    committed: watch::Sender<Tally>,
) -> Result<()> {
    let mut result = Ok(());
    while let Some(staging) = staged.recv().await {
        result = commit_one(&mut committer, staging, &committed).await;
        if result.is_err() {
            break;
        }
    }
    // After a failure: batches that are still being staged must not appear behind the back of whoever comes next.
    staged.close();
    while let Some(staging) = staged.recv().await {
        staging.abort();
        let _ = staging.await;
    }
    result
}

async fn commit_one(
    committer: &mut Committer,
    staging: Staging,
    committed: &watch::Sender<Tally>,
) -> Result<()> {
    let batch = match staging.await {
        Ok(staged) => staged?,
        Err(panic) => return Err(panicked(&panic)),
    };
    let (number, events, bytes) = (batch.number(), batch.events.len(), batch.bytes);
    let gtid = batch
        .next
        .position
        .partial
        .as_ref()
        .map(|partial| partial.gtid.to_string());
    let outcome = committer.commit(batch).await?;
    tracing::debug!(
        batch = number,
        events,
        bytes,
        left_out = outcome.left_out,
        opaque = outcome.opaque,
        partial = gtid,
        "committed"
    );
    committed.send_modify(|tally| tally.add(events, bytes));
    Ok(())
}

/// What a task that should have gone on ended with.
fn failure(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => Error::new(Kind::Internal, "a task of the pipeline ended by itself"),
        Err(panic) => panicked(&panic),
    }
}

fn panicked(error: &tokio::task::JoinError) -> Error {
    Error::new(
        Kind::Internal,
        format!(
            "a task of the pipeline panicked ({error}); nothing was committed after that; please report the message above"
        ),
    )
}

/// Sleeps until `at`; for ever without one.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
