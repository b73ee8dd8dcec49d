//! What was seen, as JSON for a program and as a table for a person.

use bson::DateTime;
use serde_json::{Value, json};

use super::Seen;
use super::verdict::Verdict;
use crate::commands::daemon::Answer;
use crate::commands::list::{self, Row};
use crate::config::Config;
use crate::error::EXIT_CLEAN;
use crate::finding::{size, span};
use crate::store::inspect::progress::{RATE_OVER, Saved};
use crate::terminal::{BAD, DIM, Failure, GOOD, HEADING, Terminal, WARNING, styled};

impl Seen {
    /// What the daemon of this source says.
    fn ready(&self, source: &str) -> Option<&Value> {
        match &self.daemon {
            Some(Answer::Daemon(ready)) if ready["source"] == source => Some(ready),
            _ => None,
        }
    }

    fn saved(&self) -> Option<&Saved> {
        self.store.as_ref().ok()?.saved.as_ref()
    }

    /// The server that is read, or else the first that answers.
    fn server(&self, ready: Option<&Value>) -> Option<&super::Standing> {
        let read = ready.and_then(|ready| ready["server"].as_str());
        let of = |address: &str| read.is_none_or(|read| read == address);
        self.servers
            .iter()
            .find_map(|(address, server)| server.as_ref().ok().filter(|_| of(address)))
    }

    /// In seconds, as the daemon measures it; else by the last transaction that is recorded.
    fn lag(&self, ready: Option<&Value>) -> Option<f64> {
        ready
            .and_then(|ready| ready["lag_seconds"].as_f64())
            .or_else(|| self.server(ready)?.seconds)
    }

    /// Time left, share, and words.
    fn headroom(&self, ready: Option<&Value>) -> Option<(Option<u64>, Option<f64>, String)> {
        if let Some(headroom) = ready.map(|ready| &ready["purge_headroom"])
            && let Some(text) = headroom["text"].as_str()
        {
            let (seconds, share) = (headroom["seconds"].as_u64(), headroom["share"].as_f64());
            return Some((seconds, share, text.to_owned()));
        }
        let (remaining, share, text) = self.server(ready)?.headroom.as_ref()?;
        Some((remaining.map(|time| time.as_secs()), *share, text.clone()))
    }

    /// Events a second, by the documents of the last minutes.
    fn rate(&self) -> Option<f64> {
        let events = self.store.as_ref().ok()?.recent_events?;
        Some(events as f64 / RATE_OVER.as_secs_f64())
    }
}

pub(super) fn json(config: &Config, seen: &Seen, verdict: &Verdict) -> Value {
    let ready = seen.ready(&config.source_id);
    let servers: Vec<Value> = seen
        .servers
        .iter()
        .map(|(address, server)| match server {
            Ok(server) => json!({
                "address": address,
                "version": server.version,
                "transactions_behind": server.transactions,
                "refused": server.refusal.as_ref().map(ToString::to_string),
            }),
            Err(error) => json!({ "address": address, "error": error.to_string() }),
        })
        .collect();
    let headroom = seen.headroom(ready);
    let store = seen.store.as_ref();
    json!({
        "status": verdict.status,
        "exit": verdict.exit,
        "reasons": verdict.reasons,
        "source": config.source_id,
        "daemon": ready.map(|ready| json!({
            "pid": ready["pid"],
            "version": ready["version"],
            "role": ready["role"],
            "server": ready["server"],
            "circuit_breaker": ready["circuit_breaker"],
            "in_flight_events": ready["in_flight_events"],
            "committed_events": ready["committed_events"],
        })),
        "lag": {
            "seconds": seen.lag(ready),
            "transactions": seen.server(ready).and_then(|server| server.transactions),
        },
        "offset": seen.saved().map(|saved| json!({
            "gtid": saved.offset.position.gtid.to_string(),
            "file": saved.offset.position.file,
            "pos": saved.offset.position.position,
            "batch": saved.offset.batch,
            "n": saved.offset.n,
            "epoch": saved.offset.epoch,
            "partial": saved.offset.position.partial.as_ref().map(|partial| json!({
                "gtid": partial.gtid.to_string(), "rows": partial.rows,
            })),
            "ts": saved.offset.last.as_ref().map(|last| utc(last.timestamp)),
            "updated_at": saved.updated_at.map(utc),
        })),
        "lease_holder": holder(seen, ready),
        "staging": store.ok().map(|store| json!({
            "pending": store.staging.pending,
            "oldest": store.staging.oldest.map(utc),
            "archived": store.staging.archived,
        })),
        "spool": seen.spool.as_ref().map(|spool| match spool {
            Ok(glance) => json!(glance),
            Err(error) => json!({ "error": error.to_string() }),
        }),
        "events_per_second": seen.rate(),
        "purge_headroom": headroom.map(|(seconds, share, text)| json!({
            "seconds": seconds, "share": share, "text": text,
        })),
        "servers": servers,
        "mongodb": json!({
            "hosts": config.mongo_hosts,
            "error": store.err().map(ToString::to_string),
        }),
    })
}

fn utc(time: DateTime) -> Value {
    json!(time.try_to_rfc3339_string().ok())
}

fn holder(seen: &Seen, ready: Option<&Value>) -> Option<String> {
    let told = ready.and_then(|ready| ready["lease_holder"].as_str().map(str::to_owned));
    told.or_else(|| seen.saved()?.lease_holder.clone())
}

pub(super) fn table(
    config: &Config,
    seen: &Seen,
    verdict: &Verdict,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let ready = seen.ready(&config.source_id);
    let style = match verdict.status.as_str() {
        _ if verdict.exit == EXIT_CLEAN => GOOD,
        "degraded" | "starting" | "stopping" => WARNING,
        _ => BAD,
    };
    terminal.line(format!(
        "{} {}",
        styled(HEADING, &config.source_id),
        styled(style, &verdict.status)
    ))?;
    for reason in &verdict.reasons {
        terminal.line(format!("  {}", styled(style, reason)))?;
    }
    let mut rows = Rows(Vec::new());
    if let Some(ready) = ready {
        rows.daemon(ready);
    }
    rows.progress(seen, ready, terminal);
    rows.waiting(seen, ready, terminal);
    rows.servers(config, seen);
    list::print(&rows.0, terminal)
}

struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, name: &'static str, text: impl Into<String>) {
        self.0.push(Row {
            cells: vec![(DIM, name.to_owned())],
            text: text.into(),
        });
    }

    fn daemon(&mut self, ready: &Value) {
        let text = |name: &str| ready[name].as_str().unwrap_or("none").to_owned();
        self.add(
            "daemon",
            format!(
                "{}, process {}, version {}",
                text("role"),
                ready["pid"],
                text("version")
            ),
        );
        self.add("reads", text("server"));
        self.add("circuit breaker", text("circuit_breaker"));
        self.add(
            "events",
            format!(
                "{} committed since its start, {} in hand",
                ready["committed_events"], ready["in_flight_events"]
            ),
        );
    }

    fn progress(&mut self, seen: &Seen, ready: Option<&Value>, terminal: &Terminal) {
        let mut lag = Vec::new();
        if let Some(transactions) = seen.server(ready).and_then(|server| server.transactions) {
            lag.push(format!("{transactions} transactions"));
        }
        if let Some(seconds) = seen.lag(ready) {
            lag.push(format!("{seconds:.1} s"));
        }
        self.add("lag", or_unknown(lag.join(", ")));
        if let Some(rate) = seen.rate() {
            let over = span(RATE_OVER);
            self.add("rate", format!("{rate:.2} events/s over the last {over}"));
        }
        match (seen.saved(), &seen.store) {
            (Some(saved), _) => self.offset(saved, terminal),
            (None, Ok(_)) => self.add("offset", "none: the source was never read"),
            (None, Err(_)) => self.add("offset", "unknown: mongodb does not answer"),
        }
        if let Some(holder) = holder(seen, ready) {
            self.add("lease", holder);
        }
    }

    fn offset(&mut self, saved: &Saved, terminal: &Terminal) {
        let offset = &saved.offset;
        let position = &offset.position;
        self.add("gtid", position.gtid.to_string());
        self.add("place", format!("{} {}", position.file, position.position));
        if let Some(partial) = &position.partial {
            self.add(
                "partly recorded",
                format!("{}, {} rows of it", partial.gtid, partial.rows),
            );
        }
        self.add(
            "offset",
            format!(
                "batch {}, n {}, epoch {}",
                offset.batch, offset.n, offset.epoch
            ),
        );
        if let Some(last) = &offset.last {
            self.add("last commit", terminal.time(last.timestamp));
        }
        if let Some(at) = saved.updated_at {
            self.add("updated", terminal.time(at));
        }
    }

    fn waiting(&mut self, seen: &Seen, ready: Option<&Value>, terminal: &Terminal) {
        if let Ok(store) = &seen.store {
            let staging = &store.staging;
            let oldest = staging.oldest.map_or(String::new(), |oldest| {
                format!(", the oldest since {}", terminal.time(oldest))
            });
            self.add(
                "staging",
                format!(
                    "{} pending{oldest}; {} archived",
                    staging.pending, staging.archived
                ),
            );
        }
        match &seen.spool {
            None => {}
            Some(Err(error)) => self.add("spool", error.to_string()),
            Some(Ok(None)) => self.add("spool", "empty: there is no file"),
            Some(Ok(Some(spool))) => {
                let sizes = format!("{} of {}", size(spool.bytes), size(spool.max_bytes));
                self.add(
                    "spool",
                    match (spool.first_batch, spool.last_batch) {
                        (Some(first), Some(last)) => format!(
                            "{} events in {} batches ({first} to {last}), {sizes}, since {}; {} to {}",
                            spool.events,
                            spool.batches,
                            spool.oldest.as_deref().unwrap_or("?"),
                            spool.first_gtid.as_deref().unwrap_or("?"),
                            spool.last_gtid.as_deref().unwrap_or("?"),
                        ),
                        _ => format!("empty, {sizes}"),
                    },
                );
            }
        }
        let headroom = match seen.headroom(ready) {
            None => "unknown".to_owned(),
            Some((_, None, _)) => "nothing is purged by itself".to_owned(),
            Some((seconds, Some(share), _)) => {
                let left = seconds.map_or(String::new(), |seconds| {
                    format!(", {}", span(std::time::Duration::from_secs(seconds)))
                });
                format!("{:.0} %{left}", share * 100.0)
            }
        };
        self.add("purge headroom", headroom);
    }

    fn servers(&mut self, config: &Config, seen: &Seen) {
        for (address, server) in &seen.servers {
            self.add(
                "mysql",
                match server {
                    Ok(server) => match &server.refusal {
                        None => format!("{address}: {}", server.version),
                        Some(refusal) => format!("{address}: {refusal}"),
                    },
                    Err(error) => format!("{address}: {error}"),
                },
            );
        }
        self.add(
            "mongodb",
            match &seen.store {
                Ok(_) => config.mongo_hosts.clone(),
                Err(error) => format!("{}: {error}", config.mongo_hosts),
            },
        );
    }
}

fn or_unknown(text: String) -> String {
    match text.is_empty() {
        true => "unknown".to_owned(),
        false => text,
    }
}
