//! Log lines: to standard error, as text or JSON, times in the operator's zone.
//!
//! Under systemd standard error goes to the journal, which takes a line's priority from a leading `<n>` (sd-daemon(3)), so
//! that `journalctl -p err` works. Row values and secrets never reach a log: what is logged is named field by field.

mod messages;

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

use jiff::tz::TimeZone;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

pub use messages::messages;

use crate::config::{Config, DEFAULT_FILTER, LogFormat};

/// What a command logs that prints something else: nothing but what is wrong.
const QUIET: &str = "warn";

/// Begins to log as the settings say; with `quietly`, less than that where they say nothing else than the default. To be called once.
pub fn start(config: &Config, quietly: bool) {
    let filter = match quietly && config.log_filter == DEFAULT_FILTER {
        true => QUIET,
        false => &config.log_filter,
    };
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(StandardError);
    let clock = Clock(config.time_zone.clone());
    // JOURNAL_STREAM is set where systemd reads standard error itself; it keeps the time, and takes the priority.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    match config.log_format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_timer(clock)
            .finish()
            .with(messages::Tally)
            .init(),
        LogFormat::Text => builder
            .with_ansi(false)
            .event_format(Line { clock, journal })
            .finish()
            .with(messages::Tally)
            .init(),
    }
}

/// One line: priority or time, level, message, fields.
struct Line {
    clock: Clock,
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.journal {
            write!(writer, "<{}>", priority(level))?;
        } else {
            self.clock.format_time(&mut writer)?;
            write!(writer, " {level:>5} ")?;
        }
        context
            .field_format()
            .format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// syslog(3)'s priorities.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// The time of a log line, RFC 3339 in the zone of TZ.
struct Clock(TimeZone);

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = jiff::Timestamp::now().to_zoned(self.0.clone());
        write!(writer, "{}", now.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z"))
    }
}

/// Standard error that does not mind being closed: a daemon outlives whoever reads its log.
struct StandardError;

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = Quiet;

    fn make_writer(&'a self) -> Quiet {
        Quiet
    }
}

/// What is done around the writing of a line.
type Around = Box<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

static AROUND: OnceLock<Around> = OnceLock::new();

/// From now on each line is written by a function that `around` is given: what else stands in the terminal makes room for it. To be
/// called once.
pub fn around_lines(around: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) {
    let _ = AROUND.set(Box::new(around));
}

struct Quiet;

impl Write for Quiet {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut write = || {
            let _ = std::io::stderr().write_all(line);
        };
        match AROUND.get() {
            Some(around) => around(&mut write),
            None => write(),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
