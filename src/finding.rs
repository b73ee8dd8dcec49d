//! What one check found: the row that `sdl check` prints. A value; who looks is in `source`, `store` and `commands`.
//!
//! A finding says what it is about, what was found, and where that is not as it should be, what is expected, why, and what mends it. What could
//! not be asked is [`Level::Skipped`] with the reason, so that nobody takes silence for health.

use std::time::Duration;

use serde::Serialize;

use crate::error::Error;

/// How it is. In order: the worst one decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Not asked, or not answered, for the reason that is told.
    Skipped,
    /// sdl runs, and something of what it promises is weaker, or will be.
    Warn,
    /// sdl would not start, or would stop.
    Fail,
}

impl Level {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, the same in every call.
    pub check: &'static str,
    /// How it is.
    pub status: Level,
    /// What was found; of a skipped one, why it was not looked at.
    pub found: String,
    /// What should be found, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn new(check: &'static str, status: Level, found: impl Into<String>) -> Self {
        Self {
            check,
            status,
            found: found.into(),
            expected: None,
            remedy: None,
        }
    }

    /// It is as it should be.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, found)
    }

    /// It was not looked at.
    pub fn skipped(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Level::Skipped, why)
    }

    /// It weakens what sdl promises.
    pub fn warn(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Warn, found)
    }

    /// sdl cannot run with it.
    pub fn fail(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Fail, found)
    }

    /// What should be found.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// What mends it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// An error of sdl: its messages end with what mends them, behind the last semicolon.
    pub fn of(check: &'static str, status: Level, error: &Error) -> Self {
        Self::told(check, status, &error.to_string())
    }

    /// A sentence that ends with what mends it.
    pub fn told(check: &'static str, status: Level, text: &str) -> Self {
        match text.split_once("; ") {
            Some((found, remedy)) => Self::new(check, status, found).remedy(remedy),
            None => Self::new(check, status, text),
        }
    }
}

/// The findings about one thing: the settings, one server, this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// `settings`, `mysql`, `mongodb`, `host`.
    pub name: &'static str,
    /// Which server; none: there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The findings, in the order in which they were made.
    pub findings: Vec<Finding>,
}

impl Group {
    /// How it is: its worst finding.
    pub fn worst(&self) -> Level {
        self.findings
            .iter()
            .map(|finding| finding.status)
            .max()
            .unwrap_or(Level::Ok)
    }
}

/// A size in the largest unit of which it has at least one.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// A length of time in its two largest units.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// How far a clock is from this host's.
pub fn clock(check: &'static str, ahead_millis: i64) -> Finding {
    let seconds = ahead_millis.unsigned_abs() as f64 / 1000.0;
    let side = if ahead_millis < 0 {
        "behind"
    } else {
        "ahead of"
    };
    let found = format!("{seconds:.1} s {side} this host's");
    if ahead_millis.unsigned_abs() <= u64::try_from(SKEW.as_millis()).unwrap_or(u64::MAX) {
        return Finding::ok(check, found);
    }
    Finding::warn(check, found)
        .expected(format!(
            "at most {} s: times in documents and logs are compared with each other",
            SKEW.as_secs()
        ))
        .remedy("timedatectl set-ntp true, on the host whose clock is wrong")
}

/// Clocks that differ by more make the times in documents and logs misleading, and the archive's expiry with them.
pub const SKEW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_decides_and_what_was_skipped_is_worse_than_well() {
        let mut levels = [Level::Fail, Level::Ok, Level::Warn, Level::Skipped];
        levels.sort_unstable();
        assert_eq!(levels.map(Level::name), ["ok", "skipped", "warn", "fail"]);
    }

    #[test]
    fn a_message_is_parted_into_what_was_found_and_what_mends_it() {
        let finding = Finding::told("x", Level::Warn, "a is 0; SET GLOBAL a=1; and in my.cnf");
        assert_eq!(finding.found, "a is 0");
        assert_eq!(
            finding.remedy.as_deref(),
            Some("SET GLOBAL a=1; and in my.cnf")
        );
        assert_eq!(Finding::told("x", Level::Warn, "away").remedy, None);
    }

    #[test]
    fn sizes_have_a_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (12 << 30, "12.0 GiB"),
            (5 << 50, "5.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_clock_that_is_a_minute_off_is_worth_a_word() {
        assert_eq!(clock("clock", 59_000).status, Level::Ok);
        assert_eq!(clock("clock", -59_000).found, "59.0 s behind this host's");
        assert_eq!(clock("clock", -61_000).status, Level::Warn);
    }
}
