//! What the parts of the daemon tell of themselves, for metrics, health and status: each writes its own part, nobody waits.
//!
//! Nothing here decides anything. It is written once a batch or less often, so a plain lock costs nothing, and it is held only to
//! copy values in or out.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bson::DateTime;

use crate::breaker::State;

/// The facts, shared by all parts of one process.
#[derive(Debug, Default)]
pub struct Board(Mutex<Facts>);

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
    /// Events read that are neither committed nor spooled.
    pub in_flight_events: u64,
    /// The last commit of this run.
    pub committed: Option<Committed>,
    /// Events committed by this run.
    pub events_committed: u64,
    /// Batches committed by this run.
    pub batches_committed: u64,
    /// When the source last said that it has nothing more, while everything read was durable.
    pub idle_at: Option<Instant>,
    /// The server that is read.
    pub source: Source,
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

/// The last commit.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Number of the batch.
    pub batch: i64,
    /// `n` of the last document.
    pub n: i64,
    /// Commit time, on its server, of the last transaction that is covered.
    pub timestamp: Option<DateTime>,
    /// The binlog file that reading would resume in.
    pub file: String,
    /// When MongoDB had acknowledged it.
    pub at: Instant,
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
    /// Its address, while the stream is open.
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
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All of it, as it is now.
    pub fn facts(&self) -> Facts {
        self.update(|facts| facts.clone())
    }
}
