//! The status line of `systemctl status`: role, server, lag, last GTID, and what is out of the ordinary. Pure.

use std::fmt;

use crate::board::Role;
use crate::breaker::State;
use crate::health::{About, View, lag};
use crate::source::headroom::span;

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    /// What an operator is to see at once when it changes.
    headline: String,
    /// Figures, which change all the time.
    figures: Vec<String>,
}

impl Line {
    pub(super) fn of(view: &View) -> Self {
        let facts = &view.facts;
        let mut figures = Vec::new();
        let mut headline = match &facts.role {
            Role::Starting => "starting".to_owned(),
            Role::Stopping => "stopping".to_owned(),
            Role::Standby { holder } => format!("standby: {holder} records"),
            Role::Active => {
                let lag = lag(facts, &view.measured, view.now);
                figures.extend(lag.map(|lag| format!("lag {}", span(lag))));
                let durable = facts.spooled.as_ref().or(facts.committed.as_ref());
                let gtid = durable.and_then(|durable| durable.gtid.as_ref());
                figures.extend(gtid.map(|gtid| format!("last GTID {}", short(&gtid.to_string()))));
                match &facts.source.connected {
                    Some(address) => format!("recording from {address}"),
                    None if facts.source.connections == 0 => "connecting to mysql".to_owned(),
                    None => "recording; no connection to mysql".to_owned(),
                }
            }
        };
        if facts.breaker != State::Closed {
            headline.push_str(&format!(
                "; mongodb is away, breaker {}",
                facts.breaker.name()
            ));
        }
        if let Some(spool) = facts.spool.filter(|spool| spool.batches > 0) {
            headline.push_str(match facts.breaker {
                State::Closed => "; working off the spool",
                State::Open | State::HalfOpen => "; spooling",
            });
            figures.push(format!("spool {} events", spool.events));
            if spool.is_refusing {
                headline.push_str(", spool full");
            }
        }
        let told = [About::Stream, About::Breaker, About::Lag];
        let reasons = view.health.reasons.iter();
        let untold = reasons.filter(|reason| !told.contains(&reason.about));
        figures.extend(untold.map(|reason| reason.text.clone()));
        Self { headline, figures }
    }

    /// Whether more than figures differs.
    pub(super) fn is_other(&self, next: &Self) -> bool {
        self.headline != next.headline
    }
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.headline.clone();
        for figure in &self.figures {
            line.push_str("; ");
            line.push_str(figure);
        }
        // One assignment is one line.
        formatter.write_str(&line.replace('\n', " "))
    }
}

/// A GTID with the first eight digits of its server's UUID, which tell servers apart at a glance; MariaDB's is short.
fn short(gtid: &str) -> String {
    match gtid.split_once(':') {
        Some((server, number)) => format!("{}…:{number}", server.get(..8).unwrap_or(server)),
        None => gtid.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bson::DateTime;

    use super::*;
    use crate::board::{Committed, Facts, SpoolFigures};
    use crate::health::{Measured, judge};

    fn line(facts: Facts) -> Line {
        let (measured, now) = (Measured::default(), Instant::now());
        Line::of(&View {
            health: judge(&facts, &measured, now),
            facts,
            measured,
            now,
        })
    }

    fn recording() -> Facts {
        let mut facts = Facts {
            role: Role::Active,
            ..Facts::default()
        };
        facts.source.connections = 1;
        facts.source.connected = Some("db1:3306".to_owned());
        facts.committed = Some(Committed {
            batch: 7,
            n: 70,
            gtid: "3e11fa47-71ca-11e1-9e33-c80aa9429562:23".parse().ok(),
            timestamp: Some(DateTime::now()),
            file: "binlog.000001".to_owned(),
            server_uuid: "3e11fa47-71ca-11e1-9e33-c80aa9429562".to_owned(),
            at: Instant::now(),
        });
        facts
    }

    #[test]
    fn a_line_says_what_is_done_how_far_it_is_and_what_is_wrong() {
        assert_eq!(line(Facts::default()).to_string(), "starting");
        let quiet = line(recording());
        assert_eq!(
            quiet.to_string(),
            "recording from db1:3306; lag 0 s; last GTID 3e11fa47…:23"
        );
        let mut facts = recording();
        facts.breaker = State::Open;
        facts.spool = Some(SpoolFigures {
            batches: 2,
            events: 30,
            bytes: 4096,
            max_bytes: 1 << 30,
            is_refusing: false,
        });
        let away = line(facts);
        assert_eq!(
            away.to_string(),
            "recording from db1:3306; mongodb is away, breaker open; spooling; lag 0 s; last GTID 3e11fa47…:23; spool 30 events"
        );
        assert!(quiet.is_other(&away) && !quiet.is_other(&line(recording())));
        let standby = line(Facts {
            role: Role::Standby {
                holder: "other (process 7)".to_owned(),
            },
            ..Facts::default()
        });
        assert_eq!(standby.to_string(), "standby: other (process 7) records");
    }

    #[test]
    fn a_gtid_is_short_and_still_tells_its_server() {
        for (gtid, told) in [
            ("3e11fa47-71ca-11e1-9e33-c80aa9429562:23", "3e11fa47…:23"),
            (
                "3e11fa47-71ca-11e1-9e33-c80aa9429562:tag:23",
                "3e11fa47…:tag:23",
            ),
            ("0-1-4711", "0-1-4711"),
        ] {
            assert_eq!(short(gtid), told);
        }
    }
}
