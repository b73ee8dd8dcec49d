//! Purge headroom: how long until the server purges a binlog that is still needed.
//!
//! It guarantees that the estimate is never too high. A server purges a binlog when its last write is older than the retention
//! (MySQL: binlog_expire_logs_seconds; MariaDB: the same, or expire_logs_days), and does so when it rotates or starts (`st_mtime <
//! purge_time` in `purge_logs_before_date`, sql/binlog.cc, MariaDB sql/log.cc). What is needed was committed after the last durable
//! transaction, so the file that holds it was last written after that. The active file is never purged. All times are the server's
//! own. MariaDB 11.4 and later may limit the total size besides (max_binlog_total_size, which purges the oldest file first). Neither
//! purges a file that a dump is reading; that is not counted on, since a connection can break at any time.
//!
//! Pure; [`pulse`](super::pulse) asks the server.

use std::time::Duration;

pub use crate::finding::span;
use crate::position::Flavor;

/// A warning below this share of the retention.
pub const HALF: f64 = 0.5;

/// An error below this one.
pub const TENTH: f64 = 0.1;

/// The shortest retention that is recommended: 14 days, in which somebody is back from holidays.
const RECOMMENDED: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What a server says of its binlogs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binlogs {
    /// The server, as the offset names it.
    pub server_uuid: String,
    /// Which kind it is.
    pub flavor: Flavor,
    /// How long it keeps them; none: they are not purged by age.
    pub retention: Option<Retention>,
    /// The largest total size; none: no limit.
    pub max_total_bytes: Option<u64>,
    /// The binlogs that it has, the oldest first and the active one last.
    pub files: Vec<Binlog>,
}

/// How long binlogs are kept, and which variable says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The variable.
    pub variable: &'static str,
    /// How long.
    pub time: Duration,
}

/// One binlog file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binlog {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// What of the binlogs is still needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// The file that it begins in, when it is known and this server's; it may begin in a later one.
    pub file: Option<String>,
    /// A moment before which nothing is needed any more, in milliseconds of the server's clock.
    pub since: Option<i64>,
}

/// What separates us from a gap.
#[derive(Debug, Clone, PartialEq)]
pub struct Headroom {
    /// Until a needed binlog may be purged for its age; none: it will not be, or that is unknown.
    pub remaining: Option<Duration>,
    /// What may be written until one is purged for the total size.
    pub remaining_bytes: Option<u64>,
    /// The smaller one of both as a share of its limit, 1 to 0; none: nothing is purged by itself, or it is unknown.
    pub share: Option<f64>,
    /// Whether the needed binlog has been purged already.
    pub is_gone: bool,
}

/// How much there is left.
pub fn headroom(binlogs: &Binlogs, needed: &Needed, now: i64) -> Headroom {
    let place = needed
        .file
        .as_ref()
        .map(|file| binlogs.files.iter().position(|binlog| binlog.name == *file));
    let is_gone = place == Some(None) && !binlogs.files.is_empty();
    if is_gone {
        return Headroom {
            remaining: Some(Duration::ZERO),
            remaining_bytes: binlogs.max_total_bytes.map(|_| 0),
            share: Some(0.0),
            is_gone,
        };
    }
    let place = place.flatten();
    let is_active = place.is_some_and(|place| place + 1 == binlogs.files.len());
    let by_age = binlogs.retention.and_then(|Retention { time, .. }| {
        if is_active {
            return Some((time, 1.0));
        }
        let age = now.saturating_sub(needed.since?);
        let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
        let remaining = time.saturating_sub(age);
        Some((remaining, remaining.as_secs_f64() / time.as_secs_f64()))
    });
    let by_size = binlogs.max_total_bytes.and_then(|limit| {
        if is_active {
            return Some((limit, 1.0));
        }
        let kept: u64 = binlogs.files[place?..].iter().map(|file| file.bytes).sum();
        let remaining = limit.saturating_sub(kept);
        Some((remaining, remaining as f64 / limit as f64))
    });
    let shares = [
        by_age.map(|(_, share)| share),
        by_size.map(|(_, share)| share),
    ];
    Headroom {
        remaining: by_age.map(|(remaining, _)| remaining),
        remaining_bytes: by_size.map(|(remaining, _)| remaining),
        share: shares.into_iter().flatten().reduce(f64::min),
        is_gone,
    }
}

impl Binlogs {
    /// The binlog that is written at the moment.
    pub fn active(&self) -> Option<&Binlog> {
        self.files.last()
    }

    /// The oldest one.
    pub fn oldest(&self) -> Option<&Binlog> {
        self.files.first()
    }

    /// Of two files the one that was written later, if the server has both; else the one that it has.
    pub fn later(&self, one: Option<String>, other: Option<String>) -> Option<String> {
        let place = |name: &Option<String>| {
            let name = name.as_ref()?;
            self.files.iter().position(|file| file.name == *name)
        };
        match (&one, &other) {
            (Some(_), Some(_)) if place(&other) > place(&one) => other,
            (None, _) => other,
            _ => one,
        }
    }

    /// In words, with the statement that mends it.
    pub fn describe(&self, needed: &Needed, headroom: &Headroom) -> String {
        let name = |file: Option<&Binlog>| file.map_or("?", |file| file.name.as_str()).to_owned();
        let begins = needed.file.as_ref().map_or(String::new(), |file| {
            format!("; what is needed begins in {file}")
        });
        let kept = format!(
            "the server has {} to {}{begins}",
            name(self.oldest()),
            name(self.active())
        );
        if headroom.is_gone {
            return format!(
                "the server has purged a binlog that is not recorded yet: {kept}; do not stop this sdl before it has recorded \
                 what it read, and keep binlogs longer: {}",
                self.keep_longer()
            );
        }
        let share = headroom.share.unwrap_or(1.0);
        let by_size = self
            .max_total_bytes
            .zip(headroom.remaining_bytes)
            .filter(|(limit, remaining)| *remaining as f64 / *limit as f64 <= share);
        match (by_size, self.retention, headroom.remaining) {
            (Some((limit, remaining)), _, _) => format!(
                "the server may purge what is not recorded yet after {remaining} more bytes of binlog ({:.0} % of \
                 max_binlog_total_size, {limit}): {kept}; keep more: SET GLOBAL max_binlog_total_size={}, and the same in my.cnf",
                share * 100.0,
                limit.saturating_mul(2)
            ),
            (None, Some(retention), Some(remaining)) => format!(
                "the server may purge what is not recorded yet in {} ({:.0} % of {}, {}): {kept}; keep binlogs longer: {}",
                span(remaining),
                share * 100.0,
                retention.variable,
                span(retention.time),
                self.keep_longer()
            ),
            _ => kept,
        }
    }

    /// The statement that keeps binlogs longer.
    pub fn keep_longer(&self) -> String {
        let time = self.retention.map_or(RECOMMENDED, |retention| {
            (2 * retention.time).max(RECOMMENDED)
        });
        let (variable, value) = match self.retention {
            Some(Retention {
                variable: "expire_logs_days",
                ..
            }) => ("expire_logs_days", time.as_secs().div_ceil(24 * 60 * 60)),
            _ => ("binlog_expire_logs_seconds", time.as_secs()),
        };
        match self.flavor {
            Flavor::Mysql => format!("SET PERSIST {variable}={value}"),
            Flavor::Mariadb => format!("SET GLOBAL {variable}={value}, and the same in my.cnf"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn binlogs() -> Binlogs {
        Binlogs {
            server_uuid: "3e11fa47-71ca-11e1-9e33-c80aa9429562".to_owned(),
            flavor: Flavor::Mysql,
            retention: Some(Retention {
                variable: "binlog_expire_logs_seconds",
                time: Duration::from_secs(10 * 86_400),
            }),
            max_total_bytes: None,
            files: (1..=4)
                .map(|number| Binlog {
                    name: format!("binlog.00000{number}"),
                    bytes: 100,
                })
                .collect(),
        }
    }

    fn needed(file: &str, since: i64) -> Needed {
        Needed {
            file: Some(file.to_owned()),
            since: Some(since),
        }
    }

    #[test]
    fn it_is_what_is_left_of_the_retention_after_the_last_durable_commit() {
        let now = 100 * DAY;
        for (days, share) in [(0, 1.0), (4, 0.6), (6, 0.4), (10, 0.0), (30, 0.0)] {
            let headroom = headroom(&binlogs(), &needed("binlog.000002", now - days * DAY), now);
            assert!((headroom.share.unwrap() - share).abs() < 1e-9, "{days}");
            let remaining = Duration::from_secs(86_400 * u64::try_from(10 - days).unwrap_or(0));
            assert_eq!(headroom.remaining, Some(remaining));
        }
    }

    #[test]
    fn the_active_file_is_in_no_danger_however_old_the_last_commit_is() {
        let old = needed("binlog.000004", 0);
        assert_eq!(headroom(&binlogs(), &old, 100 * DAY).share, Some(1.0));
    }

    #[test]
    fn a_file_that_is_not_there_any_more_leaves_nothing() {
        let mut forever = binlogs();
        forever.retention = None;
        let gone = needed("binlog.000000", 100 * DAY);
        let headroom = headroom(&forever, &gone, 100 * DAY);
        assert!(headroom.is_gone);
        assert_eq!(headroom.share, Some(0.0));
        assert!(
            forever
                .describe(&gone, &headroom)
                .contains("SET PERSIST binlog_expire_logs_seconds=1209600")
        );
    }

    #[test]
    fn without_a_retention_or_without_a_commit_nothing_is_claimed() {
        let mut forever = binlogs();
        forever.retention = None;
        let old = needed("binlog.000001", 0);
        assert_eq!(headroom(&forever, &old, 100 * DAY).share, None);
        let unknown = Needed::default();
        assert_eq!(headroom(&binlogs(), &unknown, 100 * DAY).share, None);
    }

    #[test]
    fn a_limit_of_the_total_size_counts_what_is_needed_and_newer() {
        let mut limited = binlogs();
        limited.flavor = Flavor::Mariadb;
        limited.max_total_bytes = Some(500);
        let now = 100 * DAY;
        let needed = needed("binlog.000003", now - DAY);
        let headroom = headroom(&limited, &needed, now);
        assert_eq!(headroom.remaining_bytes, Some(300));
        assert!((headroom.share.unwrap() - 0.6).abs() < 1e-9);
        let text = limited.describe(&needed, &headroom);
        assert!(text.contains("300 more bytes"), "{text}");
        assert!(text.contains("SET GLOBAL max_binlog_total_size=1000"));
    }

    #[test]
    fn a_clock_that_is_behind_the_commit_is_no_loss() {
        let headroom = headroom(&binlogs(), &needed("binlog.000002", 101 * DAY), 100 * DAY);
        assert_eq!(headroom.share, Some(1.0));
    }

    #[test]
    fn the_message_has_the_figures_and_the_statement() {
        let now = 100 * DAY;
        let needed = needed("binlog.000002", now - 6 * DAY);
        let headroom = headroom(&binlogs(), &needed, now);
        assert_eq!(
            binlogs().describe(&needed, &headroom),
            "the server may purge what is not recorded yet in 4 d 0 h (40 % of binlog_expire_logs_seconds, 10 d 0 h): the server \
             has binlog.000001 to binlog.000004; what is needed begins in binlog.000002; keep binlogs longer: SET PERSIST \
             binlog_expire_logs_seconds=1728000"
        );
    }

    #[test]
    fn the_later_of_two_files_is_the_one_that_is_needed() {
        let binlogs = binlogs();
        let name = |number: u32| Some(format!("binlog.00000{number}"));
        assert_eq!(binlogs.later(name(1), name(3)), name(3));
        assert_eq!(binlogs.later(name(3), name(1)), name(3));
        assert_eq!(binlogs.later(name(0), name(1)), name(1));
        assert_eq!(binlogs.later(name(2), None), name(2));
        assert_eq!(binlogs.later(None, None), None);
    }
}
