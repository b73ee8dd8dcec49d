//! One word for all of it, and the exit code. Pure.

use std::time::Duration;

use bson::DateTime;

use super::Seen;
use crate::commands::daemon::Answer;
use crate::error::{EXIT_CLEAN, EXIT_FAILURE, EXIT_OPERATOR, Error};

/// An offset that is older was not written by a daemon that runs: `updatedAt` moves every 10 s, and no less than every 30 s.
const FRESH: Duration = Duration::from_secs(60);

/// The judgement.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What the daemon says at /readyz; `not running`; without METRICS_ADDR, `recording` or `not recording`.
    pub(super) status: String,
    /// Why it is not better.
    pub(super) reasons: Vec<String>,
    pub(super) exit: u8,
}

pub(super) fn of(seen: &Seen, source: &str, now: DateTime) -> Verdict {
    match &seen.daemon {
        Some(Answer::Daemon(ready)) if ready["source"] == source => {
            let status = ready["status"].as_str().unwrap_or("unknown").to_owned();
            let reasons = ready["reasons"].as_array().cloned().unwrap_or_default();
            let is_well = matches!(status.as_str(), "healthy" | "standby");
            Verdict {
                status,
                reasons: reasons
                    .iter()
                    .filter_map(|reason| reason.as_str().map(str::to_owned))
                    .collect(),
                exit: if is_well { EXIT_CLEAN } else { EXIT_FAILURE },
            }
        }
        Some(Answer::Daemon(ready)) => not_running(
            seen,
            "not running",
            format!(
                "the sdl at METRICS_ADDR records another source, {}",
                ready["source"].as_str().unwrap_or("unknown")
            ),
        ),
        Some(Answer::Other(what)) => not_running(
            seen,
            "not running",
            format!("no daemon answers at METRICS_ADDR: {what}"),
        ),
        Some(Answer::Nobody(what)) => not_running(
            seen,
            "not running",
            format!("no daemon answers at METRICS_ADDR: {what}"),
        ),
        None if is_fresh(seen, now) => Verdict {
            status: "recording".to_owned(),
            reasons: Vec::new(),
            exit: EXIT_CLEAN,
        },
        None => not_running(
            seen,
            "not recording",
            "METRICS_ADDR names no port, so only the offset tells, and it has not moved for a minute"
                .to_owned(),
        ),
    }
}

/// Of a daemon that does not run, what would keep it from doing so.
fn not_running(seen: &Seen, status: &str, why: String) -> Verdict {
    let mut reasons = vec![why];
    let refusals: Vec<Option<&Error>> = seen
        .servers
        .iter()
        .map(|(_, server)| match server {
            Ok(standing) => standing.refusal.as_ref(),
            Err(error) => Some(error),
        })
        .collect();
    // One that can be read is enough.
    let mut is_refused = !refusals.is_empty();
    for refusal in &refusals {
        is_refused &= refusal.is_some_and(|error| !error.is_transient());
    }
    let store = seen.store.as_ref().err();
    let is_operators = is_refused || store.is_some_and(|error| !error.is_transient());
    for ((address, _), refusal) in seen.servers.iter().zip(&refusals) {
        reasons.extend(refusal.map(|error| format!("{address}: {error}")));
    }
    reasons.extend(store.map(ToString::to_string));
    Verdict {
        status: status.to_owned(),
        reasons,
        exit: if is_operators {
            EXIT_OPERATOR
        } else {
            EXIT_FAILURE
        },
    }
}

fn is_fresh(seen: &Seen, now: DateTime) -> bool {
    let saved = seen
        .store
        .as_ref()
        .ok()
        .and_then(|store| store.saved.as_ref());
    saved
        .and_then(|saved| saved.updated_at)
        .is_some_and(|at| now.timestamp_millis() - at.timestamp_millis() < FRESH.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Kind;
    use crate::source::inspect::Standing;

    fn away() -> Error {
        Error::new(Kind::SourceUnavailable, "away")
    }

    fn seen(daemon: Option<Answer>, refusals: Vec<Option<Error>>) -> Seen {
        let standing = |refusal| Standing {
            version: "mysql 9.7.4".to_owned(),
            transactions: Some(0),
            seconds: Some(0.0),
            headroom: None,
            refusal,
        };
        Seen {
            daemon,
            store: Err(Error::new(Kind::StoreUnavailable, "mongodb is away")),
            servers: refusals
                .into_iter()
                .map(|refusal| ("db:3306".to_owned(), Ok(standing(refusal))))
                .collect(),
            spool: None,
        }
    }

    fn verdict(seen: &Seen) -> (String, u8) {
        let verdict = of(seen, "mysql://db:3306", DateTime::now());
        (verdict.status, verdict.exit)
    }

    fn ready(status: &str) -> Option<Answer> {
        Some(Answer::Daemon(json!({
            "source": "mysql://db:3306", "status": status, "reasons": ["a reason"],
        })))
    }

    #[test]
    fn a_running_daemon_speaks_for_itself() {
        for (status, exit) in [
            ("healthy", 0),
            ("standby", 0),
            ("degraded", 1),
            ("unhealthy", 1),
            ("starting", 1),
        ] {
            let seen = seen(ready(status), vec![None]);
            assert_eq!(verdict(&seen), (status.to_owned(), exit));
        }
    }

    #[test]
    fn one_that_does_not_run_is_an_operators_when_no_server_can_be_read() {
        let nobody = || Some(Answer::Nobody("nobody listens".to_owned()));
        let gap = || Some(Error::new(Kind::Gap, "binlog gap"));
        for (refusals, exit) in [
            (vec![None], 1),
            (vec![gap()], 3),
            (vec![gap(), None], 1),
            (vec![gap(), Some(away())], 1),
            (vec![gap(), gap()], 3),
        ] {
            let seen = seen(nobody(), refusals);
            assert_eq!(verdict(&seen), ("not running".to_owned(), exit));
        }
    }

    #[test]
    fn the_daemon_of_another_source_is_not_this_one() {
        let other = Answer::Daemon(json!({ "source": "other", "status": "healthy" }));
        let verdict = of(
            &seen(Some(other), vec![None]),
            "mysql://db:3306",
            DateTime::now(),
        );
        assert_eq!((verdict.status.as_str(), verdict.exit), ("not running", 1));
        assert!(verdict.reasons[0].contains("other"), "{verdict:?}");
    }
}
