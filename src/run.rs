//! The daemon: source, batcher and delivery, joined by bounded channels; an active loop and a draining loop.
//!
//! It guarantees that at any time everything read is in one of these places and nowhere else: the channel from the reader,
//! the batcher, the delivery. Each is bounded, so memory is: a delivery that has enough in hand stops the loop from taking
//! chunks, a full channel stops the reader, and a reader that does not read stops the server.
//!
//! Progress has three marks, named by what they guarantee: *received* (in the batcher), *staged* or *spooled* (survives this
//! process), *committed* (visible, with the offset). They only move in this order.
//!
//! It resumes, at start and whenever a delivery wants to begin again, from the offset in MongoDB and what the spool holds beyond it.
//!
//! [`replay`] is the same with binlog files for a source.

pub mod replay;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::batch::{Batch, Batcher, Item};
use crate::board::{Board, Committed, Role};
use crate::breaker::Breaker;
use crate::config::{Config, SpoolSettings, StartFrom};
use crate::delivery::{self, Ended, Tally};
use crate::error::{Error, Kind, Result};
use crate::failpoint::crash_point;
use crate::health;
use crate::offset::Offset;
use crate::recovery::{recover, settle_spool};
use crate::service::Service;
use crate::source::{self, Chunk};
use crate::store::{Committer, Patience, Spool, Store};

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

/// Longest time a change waits for its batch to fill while batches go to the spool: few enough fsyncs, and few enough transactions
/// when it is committed later.
const SPOOL_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the daemon until `shutdown` resolves or something happens that an operator must decide.
///
/// # Errors
/// Only what a restart by itself would not mend, and a flush that did not end within SHUTDOWN_TIMEOUT.
pub async fn run(
    config: Config,
    service: &Arc<Service>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let config = Arc::new(config);
    let board = Arc::new(Board::default());
    let breaker = Breaker::new(config.breaker, Arc::clone(&board));
    let (monitor, health) = health::start(Arc::clone(&config), Arc::clone(&board));
    let telling = service.accompany(monitor);
    let shutdown = async {
        shutdown.await;
        service.stopping(config.shutdown_timeout);
    };
    let running = run_until(&config, &board, &breaker, shutdown);
    let result = board.beats.watch("pipeline", running).await;
    telling.abort();
    health.abort();
    result
}

async fn run_until(
    config: &Arc<Config>,
    board: &Arc<Board>,
    breaker: &Breaker,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    tokio::pin!(shutdown);
    let mut delays = config.retry.delays();
    let mut without_spool = false;
    loop {
        let beginning = tokio::select! {
            biased;
            () = &mut shutdown => break,
            beginning = begin(config, breaker, without_spool) => beginning,
        };
        let (is_asked, ended) = match beginning {
            Ok(beginning) => {
                let read = |offset, chunks, stopped| {
                    let beats = &board.beats;
                    let (config, board) = (Arc::clone(config), Arc::clone(board));
                    let reading = read_on(config, board, offset, chunks, stopped);
                    tokio::spawn(beats.watch("reader", reading))
                };
                let daemon = Daemon::new(config, board, breaker, beginning, read);
                daemon.run(shutdown.as_mut()).await
            }
            Err(error) => (false, Err(error)),
        };
        match ended {
            Ok(Ended::Flushed) => return Ok(()),
            Ok(Ended::BeginAgain {
                without_spool: without,
            }) => without_spool = without,
            // Another daemon records; what this one held is in the binlog.
            Err(error) if error.kind() == Kind::Fenced && config.lease_ttl.is_some() => {
                tracing::warn!(%error, "the lease is lost");
            }
            Err(error) => return Err(error),
        }
        if is_asked {
            return Ok(());
        }
        board.update(|facts| {
            facts.role = Role::Starting;
            facts.source.connected = None;
        });
        let delay = delays.next().unwrap_or(config.retry.max_delay);
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = tokio::time::sleep(delay) => {}
        }
    }
    tracing::info!("Flushing 0 remaining events");
    tracing::info!("Shutdown complete");
    Ok(())
}

/// From where a run goes on.
struct Beginning {
    /// None: MongoDB is away, and the spool goes on.
    committer: Option<Committer>,
    /// After this the binlog is read.
    offset: Offset,
    /// Whether it is that of the spool.
    is_spooled: bool,
    spool: Option<Spool>,
}

/// Finds out where to go on: behind what the spool holds, if that continues what MongoDB has, or if MongoDB is away.
async fn begin(config: &Config, breaker: &Breaker, without_spool: bool) -> Result<Beginning> {
    let spool = match &config.spool {
        Some(settings) if !without_spool => open_spool(settings, &config.source_id).await,
        _ => None,
    };
    let (spool, last) = match spool {
        Some((spool, Some(last))) => (spool, last),
        nothing => {
            let (committer, offset) = connect(config, breaker).await?;
            return Ok(Beginning {
                committer: Some(committer),
                offset,
                is_spooled: false,
                spool: nothing.map(|(spool, _)| spool),
            });
        }
    };
    let (committer, offset) = tokio::select! {
        biased;
        connected = connect(config, breaker) => connected?,
        () = opened_at_start(breaker) => {
            tracing::info!(
                gtid = %last.position.gtid,
                batch = last.batch,
                "Resuming from the spool's GTID: mongodb is away"
            );
            return Ok(Beginning { committer: None, offset: last, is_spooled: true, spool: Some(spool) });
        }
    };
    let (end, spool) = match settle_spool(&offset, &spool).await {
        Ok(end) => (end, Some(spool)),
        Err(error) => {
            tracing::error!(%error, "the spool cannot be used; going on from the saved offset");
            (None, None)
        }
    };
    let is_spooled = end.is_some();
    let offset = match end {
        Some(end) => {
            tracing::info!(
                gtid = %end.position.gtid,
                batches = end.batch - offset.batch,
                "the spool goes on from the saved GTID; it is committed first"
            );
            Offset {
                epoch: committer.epoch(),
                ..end
            }
        }
        None => offset,
    };
    Ok(Beginning {
        committer: Some(committer),
        offset,
        is_spooled,
        spool,
    })
}

/// Waits until the breaker opens; for ever for a standby, which has nothing to go on with.
async fn opened_at_start(breaker: &Breaker) {
    breaker.opened().await;
    let is_standby = breaker
        .board()
        .update(|facts| matches!(facts.role, Role::Standby { .. }));
    if is_standby {
        std::future::pending::<()>().await;
    }
}

/// Opens the spool; gives the offset after its last batch with it. A spool that cannot be used costs only what it would be good for.
async fn open_spool(settings: &SpoolSettings, source_id: &str) -> Option<(Spool, Option<Offset>)> {
    let opened = async {
        let spool = Spool::open(settings, source_id).await?;
        let ends = match spool.ends().await {
            Err(error) if error.kind() == Kind::SpoolDamaged => {
                let path = spool.set_aside(&error.to_string()).await?;
                tracing::error!(%error, file = %path.display(), "what the spool holds is set aside; it is read again from the binlog");
                None
            }
            ends => ends?,
        };
        Ok::<_, Error>((spool, ends.map(|(_, last)| last.next)))
    };
    match opened.await {
        Ok(opened) => Some(opened),
        Err(error) => {
            tracing::error!(%error, "the spool cannot be used");
            None
        }
    }
}

/// Connects to MongoDB, finishes what a crash left there, and finds out where to go on.
async fn connect(config: &Config, breaker: &Breaker) -> Result<(Committer, Offset)> {
    let store = Store::connect(config, breaker).await?;
    tracing::info!(
        hosts = config.mongo_hosts,
        database = config.mongo_database,
        "Connected to MongoDB"
    );
    loop {
        if let Some((committer, offset)) = recover(&store, Patience::Wait).await? {
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

struct Daemon {
    config: Arc<Config>,
    board: Arc<Board>,
    batcher: Batcher,
    /// Closed batches that wait to be delivered.
    closed: VecDeque<Batch>,
    sent: Tally,
    safe: watch::Receiver<Tally>,
    spooling: watch::Receiver<bool>,
    /// None once everything is handed over.
    to_delivery: Option<mpsc::Sender<Batch>>,
    hurry: watch::Sender<bool>,
    delivery: JoinHandle<Result<Ended>>,
    chunks: mpsc::Receiver<Chunk>,
    stop_source: watch::Sender<bool>,
    source: JoinHandle<Result<()>>,
    /// Whether the source has come to its end; a server never does.
    is_read: bool,
    /// Whether the source has been heard since the offset was last touched.
    heard: bool,
}

impl Daemon {
    fn new(
        config: &Arc<Config>,
        board: &Arc<Board>,
        breaker: &Breaker,
        beginning: Beginning,
        read: impl FnOnce(Offset, mpsc::Sender<Chunk>, watch::Receiver<bool>) -> JoinHandle<Result<()>>,
    ) -> Self {
        let (chunk_sender, chunks) = mpsc::channel(CHUNK_QUEUE);
        let (stop_source, stopped) = watch::channel(false);
        let from = beginning.offset.clone();
        let delivery =
            delivery::start(config, board, breaker, beginning.spool, beginning.committer);
        board.update(|facts| {
            facts.role = Role::Active;
            // What the spool holds is safe, and not committed.
            let durable = Committed::of(&from, from.n);
            if beginning.is_spooled {
                facts.spooled = Some(durable);
            } else {
                facts.committed = Some(durable);
            }
        });
        Self {
            batcher: Batcher::new(beginning.offset, config.batch_size, config.batch_bytes),
            closed: VecDeque::new(),
            sent: Tally::default(),
            safe: delivery.safe,
            spooling: delivery.spooling,
            to_delivery: Some(delivery.batches),
            hurry: delivery.hurry,
            delivery: delivery.task,
            chunks,
            stop_source,
            source: read(from, chunk_sender, stopped),
            is_read: false,
            heard: false,
            board: Arc::clone(board),
            config: Arc::clone(config),
        }
    }

    /// How it ended, and whether that is because it was asked to stop.
    async fn run(mut self, shutdown: Pin<&mut impl Future<Output = ()>>) -> (bool, Result<Ended>) {
        let stopped = self.active(shutdown).await;
        let is_asked = stopped.is_ok();
        let result = match stopped {
            Ok(()) => self.drain().await.map(|()| Ended::Flushed),
            // The source cannot go on, but what it read before is good.
            Err(Stopped::Source(error)) => {
                tracing::error!(%error, "the source cannot go on");
                self.drain().await.and(Err(error))
            }
            Err(Stopped::Delivery(ended)) => ended,
        };
        self.source.abort();
        self.delivery.abort();
        // It holds the spool, which the next one opens. One that is finished may have been waited for already.
        if !self.delivery.is_finished() {
            let _ = (&mut self.delivery).await;
        }
        (is_asked, result)
    }

    /// Reads, batches and delivers until it is told to stop.
    async fn active(
        &mut self,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> std::result::Result<(), Stopped> {
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        let mut touch = tokio::time::interval(TOUCH_INTERVAL);
        for interval in [&mut progress, &mut touch] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval.reset();
        }
        let mut flush_at: Option<Instant> = None;
        loop {
            // While the spool is written, larger batches cost fewer fsyncs now and fewer transactions later.
            let spooling = *self.spooling.borrow();
            // Low latency when quiet: nobody is committing, and nothing more is ready to join this batch.
            if !spooling
                && self.in_flight().batches == 0
                && self.closed.is_empty()
                && self.batcher.has_complete_events()
                && self.chunks.is_empty()
            {
                self.close();
                continue;
            }
            if self.is_read && self.closed.is_empty() && self.in_flight().batches == 0 {
                return Ok(());
            }
            let room = self.has_room();
            let place = self.place();
            if !self.batcher.has_complete_events() {
                flush_at = None;
            } else if flush_at.is_none() {
                let interval = self.config.flush_interval;
                let interval = if spooling {
                    interval.max(SPOOL_INTERVAL)
                } else {
                    interval
                };
                flush_at = Some(Instant::now() + interval);
            }
            tokio::select! {
                biased;
                // 1: a stop goes before everything else.
                () = &mut shutdown => return Ok(()),
                // 2: a delivery that ended has failed, or wants to begin again.
                ended = &mut self.delivery => return Err(Stopped::Delivery(joined(ended))),
                // 3: a closed batch goes on its way, as soon as there is a place.
                place = place => self.send(place),
                // 4: a commit makes room.
                _ = self.safe.changed() => {}
                // 5: what was read.
                chunk = self.chunks.recv(), if room && !self.is_read => match chunk {
                    Some(chunk) => self.receive(chunk).map_err(Stopped::Source)?,
                    None => {
                        joined((&mut self.source).await).map_err(Stopped::Source)?;
                        self.is_read = true;
                        self.close();
                    }
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
                // 8: a sign of life; the spool needs none.
                _ = touch.tick(), if room && !spooling => {
                    if std::mem::take(&mut self.heard) && let Some(batch) = self.batcher.touch() {
                        self.closed.push_back(batch);
                    }
                }
            }
        }
    }

    /// Stops the source, then delivers everything complete that was read, within SHUTDOWN_TIMEOUT; what is not committed at half of
    /// it goes to the spool.
    async fn drain(&mut self) -> Result<()> {
        self.board.update(|facts| facts.role = Role::Stopping);
        let limit = self.config.shutdown_timeout;
        let hurry = self.hurry.clone();
        let flushed = tokio::time::timeout(limit, async {
            let flush = self.flush();
            tokio::pin!(flush);
            if let Ok(flushed) = tokio::time::timeout(limit / 2, &mut flush).await {
                return flushed;
            }
            hurry.send_replace(true);
            flush.await
        });
        match flushed.await {
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
                ended = &mut self.delivery => return joined(ended).map(|_| ()),
                place = place => self.send(place),
            }
        }
        self.to_delivery = None;
        // One that would begin again leaves to the next start what it has in hand.
        joined((&mut self.delivery).await).map(|_| ())
    }

    /// Puts the items of a chunk into the batcher.
    fn receive(&mut self, chunk: Chunk) -> Result<()> {
        crash_point("after-decode");
        self.heard = true;
        let mut is_idle = false;
        for item in chunk.items {
            let is_end = matches!(item, Item::End(_));
            is_idle = matches!(item, Item::Heartbeat);
            let closed = self
                .batcher
                .push(item)
                .map_err(|error| Error::new(Kind::SourceCorrupt, error.to_string()))?;
            self.closed.extend(closed);
            if is_end {
                crash_point("after-batch");
            }
        }
        let (in_flight, spooling) = (self.in_flight(), *self.spooling.borrow());
        is_idle &= in_flight.batches == 0 && self.closed.is_empty() && !self.batcher.has_progress();
        let now = std::time::Instant::now();
        self.board.update(|facts| {
            facts.in_flight_events = in_flight.events;
            facts.source.heard_at = Some(now);
            if is_idle {
                facts.safe_at = Some(now);
            }
            if is_idle && facts.spooled.is_none() && !spooling {
                facts.idle_at = Some(now);
            }
        });
        Ok(())
    }

    /// Closes the batch that is building up, if it holds anything complete.
    fn close(&mut self) {
        let closed = self.batcher.take_complete();
        self.closed.extend(closed);
    }

    fn in_flight(&self) -> Tally {
        self.sent.minus(*self.safe.borrow())
    }

    fn has_room(&self) -> bool {
        let limit = (IN_FLIGHT_BATCH_BYTES * self.config.batch_bytes) as u64;
        self.closed.is_empty() && self.in_flight().bytes < limit
    }

    /// Waits for a place with the delivery for the next closed batch; for ever when there is none.
    fn place(&self) -> impl Future<Output = Option<mpsc::OwnedPermit<Batch>>> + use<> {
        let sender = self.to_delivery.clone().filter(|_| !self.closed.is_empty());
        async move {
            match sender {
                Some(sender) => sender.reserve_owned().await.ok(),
                None => std::future::pending().await,
            }
        }
    }

    /// Hands the next closed batch over. Without a place the delivery has ended, which its own branch reports.
    fn send(&mut self, place: Option<mpsc::OwnedPermit<Batch>>) {
        if let Some(place) = place
            && let Some(batch) = self.closed.pop_front()
        {
            self.sent.add(&batch);
            place.send(batch);
        }
    }
}

/// Reads a server, which has no end: one that was not asked for must not pass for a clean stop.
async fn read_on(
    config: Arc<Config>,
    board: Arc<Board>,
    offset: Offset,
    chunks: mpsc::Sender<Chunk>,
    stopped: watch::Receiver<bool>,
) -> Result<()> {
    let is_asked = stopped.clone();
    source::read(config, board, offset, chunks, stopped).await?;
    match *is_asked.borrow() {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Internal,
            "a task of the pipeline ended by itself",
        )),
    }
}

/// Why the active loop ended by itself.
enum Stopped {
    Source(Error),
    Delivery(Result<Ended>),
}

/// What a task ended with.
fn joined<T>(ended: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    ended.unwrap_or_else(|_| Err(panicked()))
}

/// Its message may repeat a row, so it is not in the error.
fn panicked() -> Error {
    Error::new(
        Kind::Internal,
        "a task of the pipeline panicked; nothing was committed after that; please report the message above",
    )
}

/// Sleeps until `at`; for ever without one.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
