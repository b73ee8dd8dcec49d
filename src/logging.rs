//! Log lines: to standard error, as text or JSON, times in the operator's zone; under systemd to the journal.
//!
//! The journal gets the same text by its own protocol (systemd's documentation, "Native Journal Protocol"), with the priority, and each
//! field of the line once more by itself: `gtid` as `SDL_GTID`, so that `journalctl SDL_GTID=…` and `-o json` find it. What the journal
//! does not take this way (a line larger than a datagram) goes to standard error, whose priority is a leading `<n>` (sd-daemon(3)). So
//! does the last line before an exit for an error, and what is wrong with the settings: the journal files a datagram under its unit by
//! asking for the sender, who is gone then; standard error is a stream that it knows.
//!
//! Row values and secrets never reach a log: what is logged is named field by field. The drivers log too, and know both; of them and of
//! whatever else is in this process nothing finer than [`FOREIGN`] is taken, whatever RUST_LOG asks for.

mod messages;

use std::fmt::{self, Write as _};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use jiff::tz::TimeZone;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, filter, reload};

pub use messages::messages;

use crate::config::{Config, DEFAULT_FILTER, LogFormat};

/// What a command logs that prints something else: nothing but what is wrong.
const QUIET: &str = "warn";

/// The finest level that is taken of other crates.
const FOREIGN: Level = Level::INFO;

/// The target of the last line before an exit.
pub const LAST_WORDS: &str = "sdl::last_words";

/// Where the journal takes datagrams.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// The filter in force, which a reload replaces.
#[derive(Debug)]
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Filters by these directives from now on.
    pub fn set(&self, directives: &str) {
        if let Err(error) = self.0.reload(parsed(directives)) {
            tracing::error!(%error, "the log's filter cannot be replaced");
        }
    }
}

/// Begins to log as the settings say; with `quietly`, less than that where they say nothing else than the default. To be called once.
pub fn start(config: &Config, quietly: bool) -> Filter {
    let directives = match quietly && config.log_filter == DEFAULT_FILTER {
        true => QUIET,
        false => &config.log_filter,
    };
    let (filter, handle) = reload::Layer::new(parsed(directives));
    let clock = Clock(config.time_zone.clone());
    let journal = is_journal();
    let layer = tracing_subscriber::fmt::layer().with_writer(StandardError);
    let lines = match (config.log_format, journal.then(Journal::open).flatten()) {
        (LogFormat::Json, _) => layer
            .json()
            .flatten_event(true)
            .with_timer(clock)
            .map_event_format(|format| Prioritized { format, journal })
            .boxed(),
        (LogFormat::Text, Some(journal)) => journal.boxed(),
        (LogFormat::Text, None) => layer
            .with_ansi(false)
            .event_format(Line { clock, journal })
            .boxed(),
    };
    let ours = filter::filter_fn(|metadata| is_ours(metadata) || *metadata.level() <= FOREIGN);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines.with_filter(ours))
        .with(messages::Tally)
        .init();
    // The message of a panic may repeat a part of what was worked on; its place says enough.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panicked; please report this");
    }));
    Filter(handle)
}

fn parsed(directives: &str) -> EnvFilter {
    EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER))
}

/// Whether this program logs it, and not a crate that it uses.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target == "sdl" || target.starts_with("sdl::")
}

/// Tells what is wrong before anything can be logged.
pub fn complain(text: &str) {
    let priority = match is_journal() {
        true => format!("<{}>", priority(Level::ERROR)),
        false => String::new(),
    };
    for line in text.lines() {
        eprintln!("{priority}{line}");
    }
}

/// Whether standard error is the journal's: JOURNAL_STREAM is its device and inode (systemd.exec(5)), and a child may have inherited
/// the variable and not the stream.
fn is_journal() -> bool {
    let stream = || {
        let file = std::fs::File::from(std::io::stderr().as_fd().try_clone_to_owned().ok()?);
        let metadata = file.metadata().ok()?;
        Some(format!("{}:{}", metadata.dev(), metadata.ino()))
    };
    std::env::var("JOURNAL_STREAM").is_ok_and(|named| stream() == Some(named))
}

/// The journal, by its own protocol.
struct Journal(UnixDatagram);

impl Journal {
    fn open() -> Option<Self> {
        std::fs::metadata(JOURNAL_SOCKET).ok()?;
        UnixDatagram::unbound().ok().map(Self)
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let priority = priority(*metadata.level());
        let mut text = String::new();
        let _ = DefaultFields::new().format_fields(Writer::new(&mut text), event);
        let mut entry = Entry(Vec::with_capacity(512));
        entry.put("PRIORITY", &priority.to_string());
        entry.put("SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
        entry.put("SDL_TARGET", metadata.target());
        entry.put("MESSAGE", &text);
        event.record(&mut entry);
        if metadata.target() == LAST_WORDS || self.0.send_to(&entry.0, JOURNAL_SOCKET).is_err() {
            let mut lines = String::new();
            for line in text.lines() {
                let _ = writeln!(lines, "<{priority}>{line}");
            }
            let _ = std::io::stderr().write_all(lines.as_bytes());
        }
    }
}

/// One entry as the journal reads it: `NAME=value` a line; a value of several lines by its length.
struct Entry(Vec<u8>);

impl Entry {
    fn put(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0
                .extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // The message is there; `log.…` is where a record of the log crate comes from.
        if field.name() != "message" && !field.name().starts_with("log.") {
            let name: String = field
                .name()
                .chars()
                .map(|letter| match letter.is_ascii_alphanumeric() {
                    true => letter.to_ascii_uppercase(),
                    false => '_',
                })
                .collect();
            self.put(&format!("SDL_{name}"), &format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // Without the quotes of its Debug form.
        self.record_debug(field, &format_args!("{value}"));
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

/// Lines of another format, each behind its priority where the journal takes that off again.
struct Prioritized<F> {
    format: F,
    journal: bool,
}

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        self.format.format_event(context, writer, event)
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
