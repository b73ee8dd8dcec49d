//! sdl as a service: what systemd is told while it runs, and what a reload does.
//!
//! It guarantees that `systemctl start` returns when changes are recorded (or another daemon records them and this one stands by), that
//! the status line of `systemctl status` is at most [`STATUS_INTERVAL`] old and follows a change at once, and that the watchdog is fed
//! for exactly as long as every task of the pipeline comes back from its work ([`beats`]): from the runtime that does this work, so one
//! that stands still feeds nothing. A server that is away is no hang.
//!
//! While a server is waited for at the start, systemd is asked for more time again and again: a host that boots before its MongoDB must
//! find the daemon waiting, and not given up. The same for a stop, by SHUTDOWN_TIMEOUT, whatever TimeoutStopSec says.
//!
//! Without a systemd ([`notify`]) all of this is silent.

pub mod beats;
mod notify;
mod reload;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::board::{Facts, Role};
use crate::health::{Monitor, View};
use notify::Notifier;
pub use reload::Reload;
use status::Line;

/// From one look to the next, and so the longest that a change waits to be told.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How old figures in the status line may become.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// What a start asks for at a time: long enough that a busy host does not miss it, short enough that a start which hangs is ended.
const START_EXTENSION: Duration = Duration::from_secs(60);

/// How often it asks.
const START_EXTENSION_INTERVAL: Duration = Duration::from_secs(10);

/// What a stop may take beyond SHUTDOWN_TIMEOUT: the lease is released, the spool is closed.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// How long a task may give no sign where no watchdog says so: then it is logged, and nothing else.
const SILENCE: Duration = Duration::from_secs(60);

/// The service as systemd sees it.
#[derive(Debug)]
pub struct Service {
    notifier: Option<Notifier>,
    /// How long systemd waits for a sign of life.
    watchdog: Option<Duration>,
    is_ready: AtomicBool,
    is_stopping: AtomicBool,
}

impl Service {
    /// As the environment says.
    pub fn from_environment() -> Self {
        Self {
            notifier: Notifier::from_environment(),
            watchdog: notify::watchdog(),
            is_ready: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// Tells systemd how it goes, until the task is aborted.
    pub fn accompany(self: &Arc<Self>, monitor: Arc<Monitor>) -> JoinHandle<()> {
        tokio::spawn(Arc::clone(self).follow(monitor))
    }

    /// Tells that it stops, and how long that may take.
    pub fn stopping(&self, timeout: Duration) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.tell(&format!(
            "STOPPING=1\nSTATUS=stopping: flushing what was read\n{}",
            extension(timeout + STOP_MARGIN)
        ));
    }

    /// Does what a reload is, and tells when it begins and ends.
    pub fn reload(&self, reload: impl FnOnce()) {
        let now = notify::monotonic_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
        reload();
        // A start is over when it is over, whoever asks for a reload meanwhile.
        if self.is_ready.load(Ordering::Relaxed) {
            self.tell("READY=1");
        }
    }

    async fn follow(self: Arc<Self>, monitor: Arc<Monitor>) {
        let look = self.look();
        let limit = self.watchdog.map_or(SILENCE, |watchdog| watchdog / 2);
        let limit = limit.max(beats::PERIOD * 2);
        let mut told = Told::default();
        let mut silent_looks: u32 = 0;
        loop {
            tokio::time::sleep(look).await;
            if let Some((task, silence)) = monitor.board.beats.longest_silence()
                && silence > limit
            {
                silent_looks = silent_looks.saturating_add(1);
                // The first look after the whole process stood still finds everybody silent.
                if silent_looks == 2 {
                    tracing::error!(
                        task,
                        seconds = silence.as_secs(),
                        "a task hangs; the watchdog is fed no longer"
                    );
                }
                continue;
            }
            silent_looks = 0;
            let news = self.news(&monitor.view(), &mut told);
            if !news.is_empty() && !self.is_stopping.load(Ordering::Relaxed) {
                self.tell(&news.join("\n"));
            }
        }
    }

    /// From one look to the next.
    fn look(&self) -> Duration {
        match self.watchdog {
            Some(watchdog) => (watchdog / 8).min(LOOK_INTERVAL),
            None => LOOK_INTERVAL,
        }
    }

    /// What there is to tell now.
    fn news(&self, view: &View, told: &mut Told) -> Vec<String> {
        let is_due = |at: Option<Instant>, interval| at.is_none_or(|at| at.elapsed() >= interval);
        let now = Some(Instant::now());
        let line = Line::of(view);
        let mut news = Vec::new();
        let is_other = told.line.as_ref().is_none_or(|last| last.is_other(&line));
        if is_other || is_due(told.line_at, STATUS_INTERVAL) {
            news.push(format!("STATUS={line}"));
            (told.line, told.line_at) = (Some(line), now);
        }
        if self.is_ready.load(Ordering::Relaxed) {
            // Twice as often as it must be, as sd_watchdog_enabled(3) wants it, whatever the next look's delay.
            if let Some(watchdog) = self.watchdog
                && is_due(told.fed_at, watchdog / 2 - self.look())
            {
                news.push("WATCHDOG=1".to_owned());
                told.fed_at = now;
            }
        } else if is_ready(&view.facts) {
            self.is_ready.store(true, Ordering::Relaxed);
            news.push("READY=1\nWATCHDOG=1".to_owned());
            told.fed_at = now;
        } else if is_due(told.extended_at, START_EXTENSION_INTERVAL) {
            news.push(extension(START_EXTENSION));
            told.extended_at = now;
        }
        news
    }

    fn tell(&self, assignments: &str) {
        if let Some(notifier) = &self.notifier {
            notifier.tell(assignments);
        }
    }
}

/// What was told last, and when.
#[derive(Debug, Default)]
struct Told {
    line: Option<Line>,
    line_at: Option<Instant>,
    fed_at: Option<Instant>,
    extended_at: Option<Instant>,
}

/// Whether the start is over: it has streamed, so the checks of both servers have passed; or another daemon records.
fn is_ready(facts: &Facts) -> bool {
    match facts.role {
        Role::Starting | Role::Stopping => false,
        Role::Standby { .. } => true,
        Role::Active => facts.source.connected.is_some(),
    }
}

fn extension(time: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", time.as_micros())
}
