//! A moment as an administrator says it: `10m`, `today`, `10:30`, `2026-11-21`, `2026-11-21T10:00`, in TZ unless it says otherwise.

use bson::DateTime;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

/// What a help text says about it.
pub const FORMS: &str = "a duration until now (90s, 10m, 2h, 3d), now, today, yesterday, a time of today (10:30), a date or a date and time \
                         in TZ (2026-11-21, 2026-11-21T10:30), or with an offset (2026-11-21T10:30:00Z)";

/// A moment, before TZ is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// So long before now.
    Ago(SignedDuration),
    /// The beginning of the day so many days before this one.
    DaysAgo(i64),
    /// A time of today.
    Clock(Time),
    /// What a clock and a calendar show.
    Civil(jiff::civil::DateTime),
    /// A moment that needs no zone.
    Exact(Timestamp),
}

impl When {
    /// Reads one of the [`FORMS`].
    ///
    /// # Errors
    /// What is expected, where it is none of them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let found = match text {
            "now" => Some(Self::Ago(SignedDuration::ZERO)),
            "today" => Some(Self::DaysAgo(0)),
            "yesterday" => Some(Self::DaysAgo(1)),
            _ => ago(text)
                .map(Self::Ago)
                .or_else(|| text.parse().ok().map(Self::Exact))
                .or_else(|| clock(text).map(Self::Clock))
                .or_else(|| civil(text).map(Self::Civil)),
        };
        found.ok_or_else(|| format!("expected {FORMS}"))
    }

    /// The moment, seen from `now`, whose zone is TZ.
    ///
    /// # Errors
    /// Where a calendar has no such moment.
    pub fn at(&self, now: &Zoned) -> Result<DateTime, String> {
        let zone = now.time_zone();
        let moment = match self {
            Self::Ago(duration) => now.timestamp().checked_sub(*duration),
            Self::DaysAgo(days) => now
                .date()
                .checked_sub(SignedDuration::from_hours(24 * days))
                .and_then(|date| in_zone(date.at(0, 0, 0, 0), zone)),
            Self::Clock(time) => in_zone(now.date().to_datetime(*time), zone),
            Self::Civil(civil) => in_zone(*civil, zone),
            Self::Exact(timestamp) => Ok(*timestamp),
        };
        moment
            .map(|moment| DateTime::from_millis(moment.as_millisecond()))
            .map_err(|error| error.to_string())
    }
}

fn in_zone(civil: jiff::civil::DateTime, zone: &TimeZone) -> Result<Timestamp, jiff::Error> {
    Ok(civil.to_zoned(zone.clone())?.timestamp())
}

fn ago(text: &str) -> Option<SignedDuration> {
    let unit = text.chars().last()?;
    let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return None,
    };
    let seconds = number
        .checked_mul(seconds)
        .filter(|seconds| *seconds >= 0)?;
    Some(SignedDuration::from_secs(seconds))
}

/// Nothing but a time: the parser would take one out of a date and time as well.
fn clock(text: &str) -> Option<Time> {
    let is_time = text.contains(':') && !text.contains(['-', 'T', ' ']);
    is_time.then(|| text.parse().ok()).flatten()
}

fn civil(text: &str) -> Option<jiff::civil::DateTime> {
    match text.parse::<Date>() {
        Ok(date) if !text.contains([':', 'T']) => Some(date.at(0, 0, 0, 0)),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_the_moment_it_says() {
        let now: Zoned = "2026-11-21T10:30:00+01:00[Europe/Berlin]".parse().unwrap();
        for (text, expected) in [
            ("now", "2026-11-21T09:30:00Z"),
            ("90s", "2026-11-21T09:28:30Z"),
            ("10m", "2026-11-21T09:20:00Z"),
            ("2h", "2026-11-21T07:30:00Z"),
            ("3d", "2026-11-18T09:30:00Z"),
            ("today", "2026-11-20T23:00:00Z"),
            ("yesterday", "2026-11-19T23:00:00Z"),
            ("08:15", "2026-11-21T07:15:00Z"),
            ("2026-07-01", "2026-06-30T22:00:00Z"),
            ("2026-11-21T10:00", "2026-11-21T09:00:00Z"),
            ("2026-11-21 10:00:05", "2026-11-21T09:00:05Z"),
            ("2026-11-21T10:00:05Z", "2026-11-21T10:00:05Z"),
            ("2026-11-21T10:00:05.250+03:00", "2026-11-21T07:00:05.25Z"),
        ] {
            let moment = When::parse(text).unwrap().at(&now).unwrap();
            assert_eq!(
                moment,
                DateTime::parse_rfc3339_str(expected).unwrap(),
                "{text}"
            );
        }
        for wrong in [
            "",
            "10",
            "-5m",
            "10x",
            "tomorrow",
            "2026-13-01",
            "2026-11-21T25:00",
            "ten",
        ] {
            let error = When::parse(wrong).unwrap_err();
            assert!(error.contains("yesterday"), "{wrong}: {error}");
        }
    }
}
