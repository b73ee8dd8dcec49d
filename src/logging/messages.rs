//! How many errors and warnings were logged, for metrics: an alert on them needs no access to the log.
//!
//! Counted are the lines that are logged, so not those that RUST_LOG leaves out.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

static ERRORS: AtomicU64 = AtomicU64::new(0);
static WARNINGS: AtomicU64 = AtomicU64::new(0);

/// Counts what passes.
pub(super) struct Tally;

impl<S: Subscriber> Layer<S> for Tally {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let counter = match *event.metadata().level() {
            Level::ERROR => &ERRORS,
            Level::WARN => &WARNINGS,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The level's name and its lines since the start.
pub fn messages() -> [(&'static str, u64); 2] {
    [("error", &ERRORS), ("warn", &WARNINGS)]
        .map(|(level, counter)| (level, counter.load(Ordering::Relaxed)))
}
