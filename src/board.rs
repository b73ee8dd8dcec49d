//! What the parts of the daemon tell of themselves, for metrics, health and status: each writes its own part, nobody waits.
//!
//! Nothing here decides anything. It is written once a batch or less often, so a plain lock costs nothing, and it is held only to
//! copy values in or out.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bson::DateTime;

use crate::breaker::State;
use crate::offset::Offset;
use crate::position::Gtid;
use crate::service::beats::Beats;

/// The facts, shared by all parts of one process.
#[derive(Debug, Default)]
pub struct Board {
    facts: Mutex<Facts>,
    /// The signs of life of its tasks.
    pub beats: Beats,
}

/// What is known at one moment.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What this daemon does for its source.
    pub role: Role,
    /// The circuit breaker round MongoDB.
    pub breaker: State,
    /// How often the breaker opened.
    pub breaker_opened: u64,
    /// Failures of MongoDB that were tried again.
    pub store_failures: u64,
    /// What waits on disk; none: there is no spool.
    pub spool: Option<SpoolFigures>,
    /// Text values read by this run whose bytes are no text in their column's character set, recorded as Binary.
    pub values_undecodable: u64,
    /// Events read that are neither committed nor spooled.
    pub in_flight_events: u64,
    /// The last commit: of this run, or as the saved offset told it at the start.
    pub committed: Option<Committed>,
    /// The last batch in the spool, while it holds any.
    pub spooled: Option<Committed>,
    /// Events committed by this run.
    pub events_committed: u64,
    /// Those that were there already, and equal: a replay after the offset was set back by hand.
    pub events_left_out: u64,
    /// Those whose content MongoDB refuses, stored as `{ $bson }`.
    pub events_opaque: u64,
    /// Batches committed by this run.
    pub batches_committed: u64,
    /// Batches that this start found staged: its predecessor was killed, or could not flush.
    pub batches_recovered: u64,
    /// When the source last said that it has nothing more, while everything read was committed.
    pub idle_at: Option<Instant>,
    /// The same, while everything read was committed or spooled.
    pub safe_at: Option<Instant>,
    /// The server that is read.
    pub source: Source,
    /// The connections to MongoDB.
    pub pool: Arc<Pool>,
}

/// What this daemon does for its source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Role {
    /// It connects, or recovers.
    #[default]
    Starting,
    /// Another daemon records; this one waits for its lease.
    Standby {
        /// Who holds the lease.
        holder: String,
    },
    /// It records.
    Active,
    /// It was asked to stop.
    Stopping,
}

/// How far something has come: the last commit, the end of the spool.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Number of the batch.
    pub batch: i64,
    /// `n` of the last document.
    pub n: i64,
    /// The last transaction that is covered.
    pub gtid: Option<Gtid>,
    /// Its commit time, on its server.
    pub timestamp: Option<DateTime>,
    /// The binlog file that reading would resume in.
    pub file: String,
    /// The server that the file is of, as the offset names it.
    pub server_uuid: String,
    /// When it was durable.
    pub at: Instant,
}

impl Committed {
    /// Durable up to `offset`, whose last document is `n`.
    pub fn of(offset: &Offset, n: i64) -> Self {
        Self {
            batch: offset.batch,
            n,
            gtid: offset.last.as_ref().map(|last| last.gtid.clone()),
            timestamp: offset.last.as_ref().map(|last| last.timestamp),
            file: offset.position.file.clone(),
            server_uuid: offset.server_uuid.clone(),
            at: Instant::now(),
        }
    }
}

/// The connections of the pipeline's client to MongoDB. The driver tells of each operation, so these are counted without a lock.
#[derive(Debug, Default)]
pub struct Pool {
    open: AtomicI64,
    checked_out: AtomicI64,
    failures: AtomicU64,
    waited_micros: AtomicU64,
    longest_wait_micros: AtomicU64,
}

impl Pool {
    /// A connection was made, or is gone.
    pub fn opened(&self, by: i64) {
        self.open.fetch_add(by, Ordering::Relaxed);
    }

    /// An operation waited for a connection and has one.
    pub fn checked_out(&self, waited: Duration) {
        self.checked_out.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.waited_micros.fetch_add(micros, Ordering::Relaxed);
        self.longest_wait_micros
            .fetch_max(micros, Ordering::Relaxed);
    }

    /// It gave it back.
    pub fn checked_in(&self) {
        self.checked_out.fetch_sub(1, Ordering::Relaxed);
    }

    /// An operation got no connection.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The figures.
    pub fn figures(&self) -> PoolFigures {
        PoolFigures {
            open: self.open.load(Ordering::Relaxed),
            checked_out: self.checked_out.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            waited: Duration::from_micros(self.waited_micros.load(Ordering::Relaxed)),
        }
    }

    /// The longest wait for a connection since the last call.
    pub fn take_longest_wait(&self) -> Duration {
        Duration::from_micros(self.longest_wait_micros.swap(0, Ordering::Relaxed))
    }
}

/// What is counted of the connections to MongoDB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Connections there are.
    pub open: i64,
    /// Those in use.
    pub checked_out: i64,
    /// Operations that got none.
    pub failures: u64,
    /// What all operations together waited for theirs.
    pub waited: Duration,
}

/// What waits in the spool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolFigures {
    /// Batches.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// SPOOL_MAX_BYTES.
    pub max_bytes: u64,
    /// Whether it takes no more at the moment: it, or the disk, is full, or the disk fails.
    pub is_refusing: bool,
}

/// The server that is read.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The address of the server that was read last; none: none was.
    pub address: Option<String>,
    /// The same, while the stream is open.
    pub connected: Option<String>,
    /// Since when it has been connected, or not.
    pub since: Option<Instant>,
    /// How often a stream was opened.
    pub connections: u64,
    /// When the last event of any kind was received, heartbeats too.
    pub heard_at: Option<Instant>,
}

impl Board {
    /// Writes a part.
    pub fn update<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        change(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All of it, as it is now.
    pub fn facts(&self) -> Facts {
        self.update(|facts| facts.clone())
    }
}
