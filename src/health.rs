//! Health: whether the audit keeps up, and if not, why; in the log, at /readyz and in the metrics.
//!
//! It guarantees that a trouble is told when it begins and once when it is over, never again while it is the same, and that asking
//! costs the pipeline nothing: the monitor has connections of its own, and reads of the pipeline only what stands on the
//! [`board`](crate::board). It resumes from nothing; what it last measured is all that it keeps.
//!
//! [`judge`] is the whole judgement and pure: facts and measurements in, status and reasons out. It is made anew for each answer of
//! [`metrics`](crate::metrics), so that these show the breaker as it is now, and the servers as they were at most [`INTERVAL`] ago.

mod judge;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

pub use judge::{About, Clock, Floor, Health, Measured, Reason, Status, judge, lag};

use crate::board::{Board, Facts, Role};
use crate::config::Config;
use crate::error::Kind;
use crate::metrics;
use crate::source;
use crate::source::headroom::Binlogs;
use crate::store;

/// From one look at the servers to the next: as often as the server's heartbeats, so that what is served is never older than what
/// the stream itself knows.
const INTERVAL: Duration = Duration::from_secs(10);

/// The same while something is wrong: an operator who mends it wants to see that soon.
const INTERVAL_IN_TROUBLE: Duration = Duration::from_secs(2);

/// Longest time between two questions for the binlogs. They are counted in hours, and a server opens each of them for the answer.
const BINLOGS_INTERVAL: Duration = Duration::from_secs(60);

/// Starts the monitor, and serves what it knows at METRICS_ADDR; both until the task is aborted.
pub fn start(config: Arc<Config>, board: Arc<Board>) -> (Arc<Monitor>, JoinHandle<()>) {
    let monitor = Arc::new(Monitor {
        config,
        board,
        measured: Mutex::default(),
    });
    let (watches, serves) = (Arc::clone(&monitor), Arc::clone(&monitor));
    let task = tokio::spawn(async move {
        tokio::join!(watches.watch(), metrics::serve(serves));
    });
    (monitor, task)
}

/// What is known of health.
#[derive(Debug)]
pub struct Monitor {
    /// The settings of the run.
    pub config: Arc<Config>,
    /// What the parts tell.
    pub board: Arc<Board>,
    measured: Mutex<Measured>,
}

/// What is known at one moment.
#[derive(Debug)]
pub struct View {
    /// What the parts told.
    pub facts: Facts,
    /// What the monitor measured.
    pub measured: Measured,
    /// What that means.
    pub health: Health,
    /// The moment.
    pub now: Instant,
}

impl Monitor {
    /// All of it.
    pub fn view(&self) -> View {
        let (facts, measured, now) = (self.board.facts(), self.measured(), Instant::now());
        View {
            health: judge(&facts, &measured, now),
            facts,
            measured,
            now,
        }
    }

    fn measured(&self) -> Measured {
        self.update(|measured| measured.clone())
    }

    fn update<T>(&self, change: impl FnOnce(&mut Measured) -> T) -> T {
        change(&mut self.measured.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn watch(self: Arc<Self>) {
        let mut store = store::pulse::Pulse::new(Arc::clone(&self.config));
        let mut source = Source {
            pulse: source::pulse::Pulse::new(Arc::clone(&self.config)),
            refused: None,
            binlogs_at: None,
        };
        let mut told = Vec::new();
        loop {
            let facts = self.board.facts();
            if facts.role == Role::Active {
                self.update(|measured| {
                    measured.active_since.get_or_insert_with(Instant::now);
                });
            }
            tokio::join!(
                self.look_at_store(&mut store),
                self.look_at_source(&mut source, &facts)
            );
            self.look_at_pool();
            let view = self.view();
            tell(&mut told, &view.health);
            tokio::time::sleep(match view.health.status {
                Status::Healthy | Status::Standby => INTERVAL,
                _ => INTERVAL_IN_TROUBLE,
            })
            .await;
        }
    }

    async fn look_at_store(&self, pulse: &mut store::pulse::Pulse) {
        let beat = pulse.beat().await;
        self.update(|measured| {
            if let Ok(beat) = &beat
                && let Some(clock) = beat.clock
            {
                measured.store_clock = Some(Clock::new(clock, beat.at, beat.ping));
            }
            measured.pending = beat.as_ref().ok().and_then(|beat| beat.pending);
            measured.store = Some(beat.map(|beat| beat.ping));
        });
    }

    async fn look_at_source(&self, source: &mut Source, facts: &Facts) {
        let Some(address) = source.address(facts) else {
            return;
        };
        let beat = source.pulse.beat(&address).await;
        if let Err(error) = &beat
            && error.kind() == Kind::Privilege
        {
            source.refused = Some(facts.source.connections);
        }
        let is_there = beat.is_ok();
        self.update(|measured| {
            if let Ok(beat) = &beat {
                measured.source_clock = Some(Clock::new(beat.clock, beat.at, beat.ping));
            }
            measured.source = Some(beat.map(|beat| beat.ping));
        });
        if is_there && source.wants_binlogs(&address, &self.measured()) {
            self.look_at_binlogs(source, &address, facts).await;
        }
    }

    async fn look_at_binlogs(&self, source: &mut Source, address: &str, facts: &Facts) {
        let asked_at = Instant::now();
        match source.pulse.binlogs(address).await {
            Ok(binlogs) => {
                source.binlogs_at = Some((asked_at, address.to_owned()));
                self.update(|measured| measured.note_binlogs(binlogs, asked_at, facts));
            }
            Err(error) => {
                let text = error.to_string();
                let is_news = self.update(|measured| {
                    measured.binlogs = None;
                    measured.binlogs_refused.replace(text.clone()) != Some(text)
                });
                source.binlogs_at = Some((asked_at, address.to_owned()));
                if is_news && error.kind() == Kind::Privilege {
                    tracing::warn!(%error, "the purge headroom is unknown: the account may not list the binlogs");
                }
            }
        }
    }

    fn look_at_pool(&self) {
        let pool = self.board.facts().pool;
        let (figures, longest_wait) = (pool.figures(), pool.take_longest_wait());
        self.update(|measured| {
            measured.new_pool_failures = figures.failures.saturating_sub(measured.pool_failures);
            measured.pool_failures = figures.failures;
            measured.longest_pool_wait = longest_wait;
        });
    }
}

/// The monitor's side of the server that is read.
struct Source {
    pulse: source::pulse::Pulse,
    /// How often a stream had been opened when the account was refused.
    refused: Option<u64>,
    /// When its binlogs were last asked for, and of which server.
    binlogs_at: Option<(Instant, String)>,
}

impl Source {
    /// Whom to ask: only a server that the reader got into, and after a refusal not before it does so again.
    fn address(&self, facts: &Facts) -> Option<String> {
        let is_refused = self.refused == Some(facts.source.connections);
        facts.source.address.clone().filter(|_| !is_refused)
    }

    /// Often enough to see a short retention run down, and seldom enough to cost a server with a long one nothing.
    fn wants_binlogs(&self, address: &str, measured: &Measured) -> bool {
        let interval = measured
            .binlogs
            .as_ref()
            .and_then(|binlogs: &Binlogs| binlogs.retention)
            .map_or(BINLOGS_INTERVAL, |retention| {
                (retention.time / 100).min(BINLOGS_INTERVAL)
            });
        self.binlogs_at
            .as_ref()
            .is_none_or(|(at, of)| at.elapsed() >= interval || of != address)
    }
}

/// Logs what is new against what was `told`, and what is over.
fn tell(told: &mut Vec<Reason>, health: &Health) {
    if health.status == Status::Stopping {
        return;
    }
    let is_in = |reasons: &[Reason], reason: &Reason| {
        reasons
            .iter()
            .any(|other| other.about == reason.about && other.is_grave == reason.is_grave)
    };
    for reason in &health.reasons {
        if !is_in(told, reason) {
            match reason.is_grave {
                true => tracing::error!(about = reason.about.name(), "unhealthy: {}", reason.text),
                false => tracing::warn!(about = reason.about.name(), "degraded: {}", reason.text),
            }
        }
    }
    for reason in told.iter() {
        if !health
            .reasons
            .iter()
            .any(|other| other.about == reason.about)
        {
            tracing::info!("over: {}", reason.about.name());
        }
    }
    if !told.is_empty() && health.status == Status::Healthy {
        tracing::info!("healthy again");
    }
    told.clone_from(&health.reasons);
}
