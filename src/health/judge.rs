//! What facts and measurements mean. Pure.

use std::time::{Duration, Instant};

use crate::board::{Committed, Facts, Role, SpoolFigures};
use crate::breaker::State;
use crate::error::Result;
use crate::finding::SKEW;
use crate::source::headroom::{Binlogs, HALF, Headroom, Needed, TENTH, headroom, span};

/// How long no stream may be open: a reconnect takes milliseconds, a failover or a restart of the server less than this.
const SOURCE_AWAY: Duration = Duration::from_secs(30);

/// How long what was read may wait while nothing becomes durable and no outage explains it: twice what the retries of one batch
/// take.
const COMMIT_STALLED: Duration = Duration::from_secs(60);

/// A ping of this length slows every commit down.
const SLOW_PING: Duration = Duration::from_secs(1);

/// A lag that somebody who looks for a change of a minute ago notices.
const LAG: Duration = Duration::from_secs(60);

/// Waiting so long for a connection to MongoDB slows every commit down.
const POOL_WAIT: Duration = Duration::from_secs(1);

/// A spool that is fuller than this has little time left.
const SPOOL_FILLING: f64 = 0.8;

/// How it is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It connects, or recovers; nothing was streamed yet.
    Starting,
    /// Another daemon records.
    Standby,
    /// It streams and commits.
    Healthy,
    /// It streams and makes durable, but something needs a look.
    Degraded,
    /// It does not, or will lose the ability to.
    Unhealthy,
    /// It was asked to stop.
    Stopping,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Starting,
        Self::Standby,
        Self::Healthy,
        Self::Degraded,
        Self::Unhealthy,
        Self::Stopping,
    ];

    /// As /readyz and the metrics say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Stopping => "stopping",
        }
    }

    /// Whether it streams and commits, or spools.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }
}

/// What a reason is about: two with the same are the same trouble, whatever their figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// No stream is open.
    Stream,
    /// MySQL does not answer the monitor, or slowly.
    SourcePing,
    /// The clock of MySQL's host.
    SourceClock,
    /// MongoDB does not answer the monitor, or slowly.
    StorePing,
    /// The clock of MongoDB's host.
    StoreClock,
    /// The circuit breaker is not closed.
    Breaker,
    /// The spool is nearly full, or takes nothing.
    SpoolRoom,
    /// The spool is being worked off.
    SpoolBacklog,
    /// Nothing is committed.
    Commit,
    /// The audit is behind.
    Lag,
    /// Binlogs will be purged.
    Headroom,
    /// Connections to MongoDB are short.
    Pool,
}

impl About {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Stream,
        Self::SourcePing,
        Self::SourceClock,
        Self::StorePing,
        Self::StoreClock,
        Self::Breaker,
        Self::SpoolRoom,
        Self::SpoolBacklog,
        Self::Commit,
        Self::Lag,
        Self::Headroom,
        Self::Pool,
    ];

    /// As logs and metrics say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::SourcePing => "mysql ping",
            Self::SourceClock => "mysql clock",
            Self::StorePing => "mongodb ping",
            Self::StoreClock => "mongodb clock",
            Self::Breaker => "circuit breaker",
            Self::SpoolRoom => "spool room",
            Self::SpoolBacklog => "spool backlog",
            Self::Commit => "commit",
            Self::Lag => "lag",
            Self::Headroom => "purge headroom",
            Self::Pool => "connection pool",
        }
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What it is about.
    pub about: About,
    /// Whether it makes the whole unhealthy, and not degraded only.
    pub is_grave: bool,
    /// In words, with its figure.
    pub text: String,
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// In one word.
    pub status: Status,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// Another host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// What it showed, in milliseconds since 1970.
    millis: i64,
    /// When.
    at: Instant,
    /// How far it was ahead of this host's, in milliseconds; half of the ping is the error.
    pub ahead: i64,
}

impl Clock {
    /// A clock that was read in the middle of a question which took `ping` and ended at `at`.
    pub fn new(millis: i64, at: Instant, ping: Duration) -> Self {
        let here = bson::DateTime::now().timestamp_millis() - milliseconds(at.elapsed());
        let half = milliseconds(ping / 2);
        Self {
            millis: millis + half,
            at,
            ahead: millis + half - here,
        }
    }

    /// What it shows at `moment`. Its own pace is taken for this host's, so a clock that is set meanwhile is noticed at the next
    /// look only.
    fn shows(&self, moment: Instant) -> i64 {
        let since = milliseconds(moment.saturating_duration_since(self.at));
        self.millis + since - milliseconds(self.at.saturating_duration_since(moment))
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// What the monitor has measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// The last ping of MongoDB; none: it was not asked yet.
    pub store: Option<Result<Duration>>,
    /// Its clock.
    pub store_clock: Option<Clock>,
    /// Batches staged there and not committed.
    pub pending: Option<u64>,
    /// The last ping of the server that is read; none: nothing was read yet.
    pub source: Option<Result<Duration>>,
    /// Its clock.
    pub source_clock: Option<Clock>,
    /// Its binlogs.
    pub binlogs: Option<Binlogs>,
    /// Why they could not be listed.
    pub binlogs_refused: Option<String>,
    /// When they were listed, and which file was active then.
    pub(super) listed: Option<Floor>,
    /// The last file of which is known that nothing before it is needed.
    pub(super) floor: Option<Floor>,
    /// Since when it has recorded.
    pub active_since: Option<Instant>,
    /// Operations that ever got no connection to MongoDB.
    pub pool_failures: u64,
    /// Those since the last look but one.
    pub new_pool_failures: u64,
    /// The longest wait for a connection in that time.
    pub longest_pool_wait: Duration,
}

/// The file that was active on a server at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floor {
    server_uuid: String,
    file: String,
    at: Instant,
}

impl Measured {
    /// Takes a new list of binlogs. A file that was active before a moment at which all was safe is the oldest that is needed
    /// since: on a quiet server the last commit may be of a file that has long been purged.
    pub fn note_binlogs(&mut self, binlogs: Binlogs, asked_at: Instant, facts: &Facts) {
        if let Some(listed) = self.listed.take()
            && facts.safe_at.is_some_and(|safe| safe > listed.at)
        {
            self.floor = Some(listed);
        }
        self.listed = binlogs.active().map(|active| Floor {
            server_uuid: binlogs.server_uuid.clone(),
            file: active.name.clone(),
            at: asked_at,
        });
        self.binlogs_refused = None;
        self.binlogs = Some(binlogs);
    }

    /// What is still needed of the binlogs.
    pub fn needed(&self, facts: &Facts) -> Option<(&Binlogs, Needed)> {
        let binlogs = self.binlogs.as_ref()?;
        let durable = facts.spooled.as_ref().or(facts.committed.as_ref());
        let begins = durable
            .filter(|durable| durable.server_uuid == binlogs.server_uuid)
            .map(|durable| durable.file.clone())
            .filter(|file| !file.is_empty());
        let floor = self
            .floor
            .as_ref()
            .filter(|floor| floor.server_uuid == binlogs.server_uuid)
            .map(|floor| floor.file.clone());
        let needed = Needed {
            file: binlogs.later(begins, floor),
            since: self.since(durable, facts.safe_at),
        };
        Some((binlogs, needed))
    }

    /// How long until the server purges a binlog that is needed.
    pub fn headroom(&self, facts: &Facts, now: Instant) -> Option<(Headroom, String)> {
        let (binlogs, needed) = self.needed(facts)?;
        let headroom = headroom(binlogs, &needed, self.server_time(now));
        let text = binlogs.describe(&needed, &headroom);
        Some((headroom, text))
    }

    /// The time of the server that is read; this host's, while that was never asked.
    fn server_time(&self, moment: Instant) -> i64 {
        match &self.source_clock {
            Some(clock) => clock.shows(moment),
            None => bson::DateTime::now().timestamp_millis() - milliseconds(moment.elapsed()),
        }
    }

    /// The moment, of the server's clock, up to which everything is durable.
    fn since(&self, durable: Option<&Committed>, idle_at: Option<Instant>) -> Option<i64> {
        let commit = durable.and_then(|durable| durable.timestamp);
        let idle = idle_at.map(|idle| self.server_time(idle));
        commit.map(bson::DateTime::timestamp_millis).max(idle)
    }
}

/// The age of the last durable commit against the source's clock. When the source said that it has nothing more, and all was
/// committed, it counts from that moment: so it stays small on a quiet server, and grows when the stream dies.
pub fn lag(facts: &Facts, measured: &Measured, now: Instant) -> Option<Duration> {
    let since = measured.since(facts.committed.as_ref(), facts.idle_at)?;
    let lag = measured.server_time(now).saturating_sub(since);
    Some(Duration::from_millis(u64::try_from(lag).unwrap_or(0)))
}

/// The judgement.
pub fn judge(facts: &Facts, measured: &Measured, now: Instant) -> Health {
    let mut reasons = Reasons(Vec::new());
    let status = match &facts.role {
        Role::Stopping => {
            return Health {
                status: Status::Stopping,
                reasons: Vec::new(),
            };
        }
        Role::Starting => {
            reasons.servers(measured);
            match reasons.0.is_empty() {
                true => Status::Starting,
                false => Status::Unhealthy,
            }
        }
        Role::Standby { .. } => {
            reasons.servers(measured);
            Status::Standby
        }
        Role::Active => {
            let since = measured.active_since.unwrap_or(now);
            reasons.stream(facts, since, now);
            reasons.servers(measured);
            reasons.delivery(facts, since, now);
            reasons.behind(facts, measured, now);
            reasons.pool(measured);
            if reasons.0.iter().any(|reason| reason.is_grave) {
                Status::Unhealthy
            } else if facts.source.connections == 0 {
                Status::Starting
            } else if reasons.0.is_empty() {
                Status::Healthy
            } else {
                Status::Degraded
            }
        }
    };
    Health {
        status,
        reasons: reasons.0,
    }
}

struct Reasons(Vec<Reason>);

impl Reasons {
    fn add(&mut self, about: About, is_grave: bool, text: String) {
        self.0.push(Reason {
            about,
            is_grave,
            text,
        });
    }

    /// Whether a stream is open.
    fn stream(&mut self, facts: &Facts, active_since: Instant, now: Instant) {
        if facts.source.connected.is_some() {
            return;
        }
        let since = facts
            .source
            .since
            .map_or(active_since, |since| since.max(active_since));
        let away = now.saturating_duration_since(since);
        // The first connection of a run is no trouble before it takes long.
        if facts.source.connections > 0 || away >= SOURCE_AWAY {
            let text = format!("no binlog stream from mysql for {}", span(away));
            self.add(About::Stream, away >= SOURCE_AWAY, text);
        }
    }

    /// What both servers answered.
    fn servers(&mut self, measured: &Measured) {
        match &measured.store {
            Some(Err(error)) => {
                self.add(
                    About::StorePing,
                    false,
                    format!("mongodb does not answer: {error}"),
                );
            }
            answer => self.slow(About::StorePing, "mongodb", answer.as_ref()),
        }
        match &measured.source {
            Some(Err(error)) => {
                self.add(
                    About::SourcePing,
                    false,
                    format!("mysql does not answer: {error}"),
                );
            }
            answer => self.slow(About::SourcePing, "mysql", answer.as_ref()),
        }
        self.clock(About::StoreClock, "mongodb", measured.store_clock);
        self.clock(About::SourceClock, "mysql", measured.source_clock);
    }

    fn slow(&mut self, about: About, name: &str, answer: Option<&Result<Duration>>) {
        if let Some(Ok(ping)) = answer
            && *ping > SLOW_PING
        {
            let text = format!("{name} takes {:.1} s to answer a ping", ping.as_secs_f64());
            self.add(about, false, text);
        }
    }

    fn clock(&mut self, about: About, name: &str, clock: Option<Clock>) {
        let Some(clock) = clock else { return };
        let differs = Duration::from_millis(clock.ahead.unsigned_abs());
        if differs > SKEW {
            let direction = if clock.ahead > 0 {
                "ahead of"
            } else {
                "behind"
            };
            let text = format!(
                "the clock of {name} is {} {direction} this host's: set both by NTP",
                span(differs)
            );
            self.add(about, false, text);
        }
    }

    /// The way to MongoDB.
    fn delivery(&mut self, facts: &Facts, active_since: Instant, now: Instant) {
        let has_room = facts.spool.is_some_and(|spool| !spool.is_refusing);
        match (facts.breaker, facts.spool) {
            (State::Closed, _) => self.closed(facts, active_since, now),
            (state, Some(spool)) => {
                let text = format!(
                    "mongodb is away (circuit breaker {}); {}{}",
                    state.name(),
                    waiting(&spool),
                    if has_room {
                        ""
                    } else {
                        ", which takes no more: reading waits"
                    }
                );
                self.add(About::Breaker, !has_room, text);
            }
            (state, None) => {
                let text = format!(
                    "mongodb is away (circuit breaker {}) and there is no spool (SPOOL_DIR): reading waits",
                    state.name()
                );
                self.add(About::Breaker, true, text);
            }
        }
        let Some(spool) = facts.spool else { return };
        let share = spool.bytes as f64 / (spool.max_bytes.max(1)) as f64;
        if share > SPOOL_FILLING && has_room {
            let text = format!(
                "the spool holds {:.0} % of SPOOL_MAX_BYTES ({} of {} bytes)",
                share * 100.0,
                spool.bytes,
                spool.max_bytes
            );
            self.add(About::SpoolRoom, false, text);
        } else if !has_room && facts.breaker == State::Closed {
            let text = "the spool takes nothing: the log says why".to_owned();
            self.add(About::SpoolRoom, false, text);
        }
    }

    /// MongoDB is there: something must move.
    fn closed(&mut self, facts: &Facts, active_since: Instant, now: Instant) {
        let spooled = facts.spool.map_or(0, |spool| spool.batches);
        if let Some(spool) = facts.spool.filter(|_| spooled > 0) {
            self.add(
                About::SpoolBacklog,
                false,
                format!("{} and is being worked off", waiting(&spool)),
            );
        }
        let marks = [&facts.committed, &facts.spooled];
        let moved = marks
            .iter()
            .filter_map(|mark| mark.as_ref().map(|mark| mark.at));
        let moved = moved.chain(facts.safe_at).fold(active_since, Instant::max);
        let stalled = now.saturating_duration_since(moved);
        if facts.in_flight_events > 0 && stalled >= COMMIT_STALLED {
            let text = format!(
                "{} events were read and nothing was committed for {}",
                facts.in_flight_events,
                span(stalled)
            );
            self.add(About::Commit, true, text);
        }
    }

    /// How far behind, and how long that may last.
    fn behind(&mut self, facts: &Facts, measured: &Measured, now: Instant) {
        if let Some(lag) = lag(facts, measured, now).filter(|lag| *lag > LAG) {
            let text = format!("the audit is {} behind the source", span(lag));
            self.add(About::Lag, false, text);
        }
        if let Some((headroom, text)) = measured.headroom(facts, now)
            && let Some(share) = headroom.share.filter(|share| *share < HALF)
        {
            self.add(About::Headroom, share < TENTH, text);
        }
    }

    fn pool(&mut self, measured: &Measured) {
        let (failures, wait) = (measured.new_pool_failures, measured.longest_pool_wait);
        if failures > 0 || wait > POOL_WAIT {
            let text = format!(
                "operations waited up to {:.1} s for a connection to mongodb, and {failures} got none",
                wait.as_secs_f64()
            );
            self.add(About::Pool, false, text);
        }
    }
}

fn waiting(spool: &SpoolFigures) -> String {
    format!(
        "{} events in {} batches wait in the spool",
        spool.events, spool.batches
    )
}
