//! What commands print: text for a person at a terminal, JSON for a program.
//!
//! It guarantees what people know of other tools: a reader that has gone (`sdl tail | head`) ends the command quietly; colours are left
//! out in a pipe, with NO_COLOR or TERM=dumb; times are in TZ. What was not printed for another reason, a full disk under a redirected
//! output, is an error. Only results go to standard output; messages and the log go to standard error.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use bson::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;

use crate::error::{Error, Kind};

/// As it should be; something that was added.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Worth a look; something that was changed.
pub const WARNING: Style = AnsiColor::Yellow.on_default();
/// Not as it should be; something that was removed.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What a line is about.
pub const HEADING: Style = Style::new().bold();
/// What is there for whoever looks for it.
pub const DIM: Style = Style::new().dimmed();

/// Columns of a table that goes to a file or a pipe, or to a terminal that does not say how wide it is.
const DEFAULT_WIDTH: u16 = 100;

/// Narrower than this a table cannot be read, so it may be cut off there.
const LEAST_WIDTH: u16 = 40;

/// Why a command ends before it is done.
#[derive(Debug)]
pub enum Failure {
    /// Whoever read its output has gone; nothing is wrong.
    Closed,
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(Error::new(
                Kind::Internal,
                format!("write to standard output: {error}"),
            )),
        }
    }
}

/// What a command comes to: its exit code, or why it ended early.
pub type Outcome = Result<u8, Failure>;

/// Standard output, as results are printed to it.
#[derive(Debug)]
pub struct Terminal {
    zone: TimeZone,
}

impl Terminal {
    /// Times are printed in `zone`.
    pub fn new(zone: TimeZone) -> Self {
        Self { zone }
    }

    /// Whether a person may be looking.
    pub fn is_interactive(&self) -> bool {
        std::io::stdout().is_terminal()
    }

    /// How many columns a line may have: what COLUMNS says, else what the terminal has.
    pub fn width(&self) -> u16 {
        columns()
            .or_else(|| {
                terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| width.0)
            })
            .unwrap_or(DEFAULT_WIDTH)
            .max(LEAST_WIDTH)
    }

    /// Where lines are cut; None in a file or a pipe, unless COLUMNS says how wide it is.
    pub fn cut_at(&self) -> Option<u16> {
        (self.is_interactive() || columns().is_some()).then(|| self.width())
    }

    /// Finds out whether the reader has gone, for who prints nothing for a while.
    ///
    /// # Errors
    /// [`Failure::Closed`] when it has.
    pub fn check_reader(&self) -> Result<(), Failure> {
        let stdout = std::io::stdout();
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        let told = rustix::event::poll(&mut polled, Some(&Timespec::default()));
        let gone = PollFlags::ERR | PollFlags::HUP;
        match told.is_ok() && polled[0].revents().intersects(gone) {
            true => Err(Failure::Closed),
            false => Ok(()),
        }
    }

    /// Prints one line; the styles in it are left out where nobody sees them.
    ///
    /// # Errors
    /// Where it could not be printed.
    pub fn line(&self, text: impl Display) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(())
    }

    /// Prints one JSON text on one line.
    ///
    /// # Errors
    /// Where it could not be printed.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value)
            .map_err(|error| Error::new(Kind::Internal, format!("the JSON text: {error}")))?;
        self.line(text)
    }

    /// Now, in TZ.
    pub fn now(&self) -> Zoned {
        Timestamp::now().to_zoned(self.zone.clone())
    }

    /// A time of MongoDB in TZ, with milliseconds.
    pub fn time(&self, time: DateTime) -> String {
        Timestamp::from_millisecond(time.timestamp_millis()).map_or_else(
            |_| time.to_string(),
            |time| {
                time.to_zoned(self.zone.clone())
                    .strftime("%Y-%m-%d %H:%M:%S%.3f %:z")
                    .to_string()
            },
        )
    }
}

/// COLUMNS, as watch(1) and shells set it.
fn columns() -> Option<u16> {
    std::env::var("COLUMNS").ok()?.parse().ok()
}

/// `text` in a style.
pub fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}
