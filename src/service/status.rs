//! The status line of `systemctl status`: role, server, lag, last GTID, and what is out of the ordinary. Pure.

use std::fmt;

use crate::board::Role;
use crate::breaker::State;
use crate::health::{View, lag};
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
        let trouble = || match view.health.reasons.first() {
            Some(reason) => format!("; {}", reason.text),
            None => String::new(),
        };
        let headline = match &facts.role {
            Role::Starting => {
                figures.extend(view.health.reasons.iter().map(|reason| reason.text.clone()));
                "starting".to_owned()
            }
            Role::Stopping => "stopping".to_owned(),
            Role::Standby { holder } => format!("standby: {holder} records{}", trouble()),
            Role::Active => {
                let lag = lag(facts, &view.measured, view.now);
                figures.extend(lag.map(|lag| format!("lag {}", span(lag))));
                let durable = facts.spooled.as_ref().or(facts.committed.as_ref());
                let gtid = durable.and_then(|durable| durable.gtid.as_ref());
                figures.extend(gtid.map(|gtid| format!("last GTID {}", short(&gtid.to_string()))));
                match &facts.source.connected {
                    Some(address) => format!("recording from {address}"),
                    None => "recording; no connection to mysql".to_owned(),
                }
            }
        };
        let mut headline = headline;
        if facts.breaker != State::Closed {
            headline.push_str(&format!(
                "; mongodb is away, breaker {}",
                facts.breaker.name()
            ));
        }
        if let Some(spool) = facts.spool.filter(|spool| spool.batches > 0) {
            headline.push_str("; spooling");
            figures.push(format!("spool {} events", spool.events));
            if spool.is_refusing {
                headline.push_str(", spool full");
            }
        }
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
    use super::*;

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
