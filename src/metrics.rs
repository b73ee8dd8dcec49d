//! What is served at METRICS_ADDR: /metrics for Prometheus, /healthz and /readyz.
//!
//! It guarantees that nothing here can stop an audit, or holds a secret or a value of a row: a port that cannot be had is told once and
//! tried again, and all that is shown are figures, names of servers and files, and the reasons of [`health`](crate::health).
//!
//! The figures are read from the board at each scrape, so there is nothing to keep up to date. What is not known (the lag before the
//! first commit, a ping that got no answer) is left out: no number is better than a wrong one. Names and units follow Prometheus'
//! "Metric and label naming", the text is OpenMetrics 1.0 (prometheus-client). `process_…` are the names that every client library
//! gives them.

mod process;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::{Registry, Unit};
use serde_json::json;
use tokio::net::TcpListener;

use crate::board::{Facts, Role};
use crate::breaker;
use crate::health::{About, Monitor, Status, View, lag};
use crate::logging;
use process::Process;

/// From one attempt to take the port to the next.
const BIND_AGAIN: Duration = Duration::from_secs(30);

/// The type that Prometheus knows the text by.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until it is dropped; for ever waiting where METRICS_ADDR is off.
pub async fn serve(monitor: Arc<Monitor>) {
    let Some(address) = monitor.config.metrics_address else {
        return;
    };
    let mut is_told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                match listener.local_addr() {
                    Ok(address) => tracing::info!(%address, "Serving metrics"),
                    Err(error) => tracing::warn!(%error, "serving metrics at an unknown address"),
                }
                is_told = false;
                if let Err(error) = axum::serve(listener, routes(Arc::clone(&monitor))).await {
                    tracing::warn!(%error, "the server of metrics ended");
                }
            }
            Err(error) if !is_told => {
                is_told = true;
                tracing::error!(
                    %error,
                    again_in = ?BIND_AGAIN,
                    "metrics cannot be served at {address}: set METRICS_ADDR to an address of this host and a port that nobody has, \
                     or to off; sdl goes on without them"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

fn routes(monitor: Arc<Monitor>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "here are /metrics (Prometheus), /healthz (alive) and /readyz (streaming and committing)\n",
            )
        })
        .with_state(monitor)
}

async fn ready(State(monitor): State<Arc<Monitor>>) -> Response {
    let view = monitor.view();
    let code = match view.health.status.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = format!("{:#}\n", readiness(&monitor, &view));
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn readiness(monitor: &Monitor, view: &View) -> serde_json::Value {
    let facts = &view.facts;
    let headroom = view.measured.headroom(facts, view.now);
    let reasons: Vec<_> = view
        .health
        .reasons
        .iter()
        .map(|reason| reason.text.as_str())
        .collect();
    let holder = match &facts.role {
        Role::Standby { holder } => Some(holder),
        _ => None,
    };
    json!({
        "status": view.health.status.name(),
        "reasons": reasons,
        "role": role(facts),
        "lease_holder": holder,
        "source": monitor.config.source_id,
        "server": facts.source.connected,
        "circuit_breaker": facts.breaker.name(),
        "lag_seconds": lag(facts, &view.measured, view.now).map(|lag| lag.as_secs_f64()),
        "last_batch": facts.committed.as_ref().map(|committed| committed.batch),
        "last_n": facts.committed.as_ref().map(|committed| committed.n),
        "committed_events": facts.events_committed,
        "in_flight_events": facts.in_flight_events,
        "spooled_events": facts.spool.map(|spool| spool.events),
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "purge_headroom": headroom.as_ref().map(|(headroom, text)| json!({
            "seconds": headroom.remaining.map(|remaining| remaining.as_secs()),
            "share": headroom.share,
            "text": text,
        })),
    })
}

async fn metrics(State(monitor): State<Arc<Monitor>>) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures(monitor)));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn role(facts: &Facts) -> &'static str {
    match facts.role {
        Role::Starting => ROLES[0],
        Role::Standby { .. } => ROLES[1],
        Role::Active => ROLES[2],
        Role::Stopping => ROLES[3],
    }
}

const ROLES: [&str; 4] = ["starting", "standby", "active", "stopping"];

#[derive(Debug)]
struct Figures(Arc<Monitor>);

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.0.view();
        let mut page = Page(encoder);
        page.health(&view)?;
        page.delivery(&view)?;
        page.source(&view)?;
        page.binlogs(&view)?;
        page.store(&view)?;
        page.process(&self.0.config.source_id)
    }
}

/// The text as it grows.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        value: Option<f64>,
    ) -> fmt::Result {
        match value {
            Some(value) => self
                .0
                .encode_descriptor(name, help, unit, MetricType::Gauge)?
                .encode_gauge(&value),
            None => Ok(()),
        }
    }

    fn count(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.total(name, None, help, value as f64)
    }

    fn total(&mut self, name: &str, unit: Option<&Unit>, help: &str, value: f64) -> fmt::Result {
        let encoder = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) -> fmt::Result {
        self.gauge(name, None, help, Some(f64::from(u8::from(value))))
    }

    /// One series for each value that a state may have: 1 for those that hold.
    fn states(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        states: &[(&str, f64)],
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (state, value) in states {
            family
                .encode_family(&[(label, *state)])?
                .encode_gauge(value)?;
        }
        Ok(())
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Info)?
            .encode_info(&labels)
    }

    fn health(&mut self, view: &View) -> fmt::Result {
        let is = |condition| f64::from(u8::from(condition));
        let status = Status::ALL.map(|status| (status.name(), is(status == view.health.status)));
        self.states(
            "sdl_health",
            "What /readyz says, in one word",
            "status",
            &status,
        )?;
        let reasons = About::ALL.map(|about| {
            let holds = view
                .health
                .reasons
                .iter()
                .any(|reason| reason.about == about);
            (about.name(), is(holds))
        });
        self.states(
            "sdl_health_reason",
            "What is not as it should be",
            "about",
            &reasons,
        )?;
        let role = role(&view.facts);
        let roles = ROLES.map(|name| (name, is(name == role)));
        self.states(
            "sdl_role",
            "What this daemon does for its source",
            "role",
            &roles,
        )?;
        let lag = lag(&view.facts, &view.measured, view.now);
        self.gauge(
            "sdl_lag",
            Some(&Unit::Seconds),
            "Age of the last durable commit by the source's clock; on a quiet source, of its last word that there is nothing more",
            lag.map(|lag| lag.as_secs_f64()),
        )
    }

    fn delivery(&mut self, view: &View) -> fmt::Result {
        let facts = &view.facts;
        use breaker::State::{Closed, HalfOpen, Open};
        let states = [Closed, HalfOpen, Open]
            .map(|state| (state.name(), f64::from(u8::from(state == facts.breaker))));
        self.states(
            "sdl_breaker_state",
            "The circuit breaker round MongoDB",
            "state",
            &states,
        )?;
        self.count(
            "sdl_breaker_openings",
            "How often it opened",
            facts.breaker_opened,
        )?;
        self.count(
            "sdl_store_failures",
            "Failures of MongoDB that were tried again",
            facts.store_failures,
        )?;
        self.count(
            "sdl_committed_events",
            "Events committed since the start",
            facts.events_committed,
        )?;
        self.count(
            "sdl_committed_batches",
            "Batches committed since the start",
            facts.batches_committed,
        )?;
        self.count(
            "sdl_replayed_events",
            "Events that were there already when they were committed, and equal",
            facts.events_left_out,
        )?;
        self.count(
            "sdl_opaque_events",
            "Events whose content MongoDB refuses, stored as { $bson }",
            facts.events_opaque,
        )?;
        self.count(
            "sdl_undecodable_values",
            "Text values whose bytes are no text in their column's character set, recorded as Binary",
            facts.values_undecodable,
        )?;
        self.gauge(
            "sdl_recovered_batches",
            None,
            "Batches that this start found staged: its predecessor was killed, or could not flush",
            Some(facts.batches_recovered as f64),
        )?;
        self.gauge(
            "sdl_staging_pending_batches",
            None,
            "Batches in MongoDB's staging collection that are not committed",
            view.measured.pending.map(|pending| pending as f64),
        )?;
        let in_flight = facts.in_flight_events as f64;
        self.gauge(
            "sdl_in_flight_events",
            None,
            "Events read that are neither committed nor spooled",
            Some(in_flight),
        )?;
        let committed = facts.committed.as_ref();
        self.gauge(
            "sdl_last_batch",
            None,
            "Number of the last committed batch",
            committed.map(|last| last.batch as f64),
        )?;
        self.gauge(
            "sdl_last_n",
            None,
            "n of the last committed document",
            committed.map(|last| last.n as f64),
        )?;
        let timestamp = committed.and_then(|last| last.timestamp);
        self.gauge(
            "sdl_last_commit_timestamp",
            Some(&Unit::Seconds),
            "Commit time, on its server, of the last transaction that is committed here",
            timestamp.map(|time| time.timestamp_millis() as f64 / 1000.0),
        )?;
        let updated = committed.and_then(|last| SystemTime::now().checked_sub(last.at.elapsed()));
        let updated = updated.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        self.gauge(
            "sdl_offset_updated_timestamp",
            Some(&Unit::Seconds),
            "When the saved offset was last written; every 30 s at least, also where nothing changes",
            updated.map(|time| time.as_secs_f64()),
        )?;
        let Some(spool) = facts.spool else {
            return Ok(());
        };
        self.gauge(
            "sdl_spool_batches",
            None,
            "Batches in the spool",
            Some(spool.batches as f64),
        )?;
        self.gauge(
            "sdl_spool_events",
            None,
            "Events in the spool",
            Some(spool.events as f64),
        )?;
        self.gauge(
            "sdl_spool",
            Some(&Unit::Bytes),
            "Size of the spool on disk",
            Some(spool.bytes as f64),
        )?;
        self.gauge(
            "sdl_spool_limit",
            Some(&Unit::Bytes),
            "SPOOL_MAX_BYTES",
            Some(spool.max_bytes as f64),
        )?;
        self.flag(
            "sdl_spool_refusing",
            "Whether the spool takes nothing: it, or its disk, is full, or fails",
            spool.is_refusing,
        )
    }

    fn source(&mut self, view: &View) -> fmt::Result {
        let source = &view.facts.source;
        self.flag(
            "sdl_source_connected",
            "Whether a binlog stream is open",
            source.connected.is_some(),
        )?;
        self.count(
            "sdl_source_connections",
            "Streams opened since the start",
            source.connections,
        )?;
        let silence = source
            .heard_at
            .map(|heard| view.now.saturating_duration_since(heard));
        self.gauge(
            "sdl_source_silence",
            Some(&Unit::Seconds),
            "Since the last event of any kind, heartbeats included",
            silence.map(|silence| silence.as_secs_f64()),
        )?;
        self.ping(
            "source",
            "the server that is read",
            view.measured.source.as_ref(),
        )?;
        let clock = view.measured.source_clock;
        self.gauge(
            "sdl_source_clock_skew",
            Some(&Unit::Seconds),
            "How far the clock of the server that is read is ahead of this host's",
            clock.map(|clock| clock.ahead as f64 / 1000.0),
        )
    }

    /// `answer`: none while it was not asked.
    fn ping(
        &mut self,
        side: &str,
        server: &str,
        answer: Option<&crate::error::Result<Duration>>,
    ) -> fmt::Result {
        let Some(answer) = answer else { return Ok(()) };
        let help = format!("Whether {server} answered the last ping");
        self.flag(&format!("sdl_{side}_up"), &help, answer.is_ok())?;
        let help = format!("How long {server} took to answer it");
        let ping = answer.as_ref().ok().map(Duration::as_secs_f64);
        self.gauge(
            &format!("sdl_{side}_ping"),
            Some(&Unit::Seconds),
            &help,
            ping,
        )
    }

    fn binlogs(&mut self, view: &View) -> fmt::Result {
        let Some(binlogs) = &view.measured.binlogs else {
            return Ok(());
        };
        let headroom = view.measured.headroom(&view.facts, view.now);
        let headroom = headroom.as_ref().map(|(headroom, _)| headroom);
        self.gauge(
            "sdl_purge_headroom",
            Some(&Unit::Seconds),
            "Until the server may purge a binlog that is not recorded yet",
            headroom
                .and_then(|headroom| headroom.remaining)
                .map(|remaining| remaining.as_secs_f64()),
        )?;
        self.gauge(
            "sdl_purge_headroom",
            Some(&Unit::Other("ratio".to_owned())),
            "The same as a share of the retention, or of the limit of the total size where that is less",
            headroom.and_then(|headroom| headroom.share),
        )?;
        self.gauge(
            "sdl_binlog_retention",
            Some(&Unit::Seconds),
            "How long the server keeps binlogs; absent: for ever",
            binlogs
                .retention
                .map(|retention| retention.time.as_secs_f64()),
        )?;
        self.gauge(
            "sdl_binlogs",
            None,
            "Binlogs that the server has",
            Some(binlogs.files.len() as f64),
        )?;
        let bytes: u64 = binlogs.files.iter().map(|file| file.bytes).sum();
        self.gauge(
            "sdl_binlogs",
            Some(&Unit::Bytes),
            "Size of the binlogs that the server has, together",
            Some(bytes as f64),
        )?;
        match (binlogs.oldest(), binlogs.active()) {
            (Some(oldest), Some(active)) => {
                let labels = [
                    ("oldest", oldest.name.as_str()),
                    ("active", active.name.as_str()),
                    ("server", binlogs.server_uuid.as_str()),
                ];
                self.info(
                    "sdl_binlog",
                    "The oldest binlog that the server has, and the one that it writes",
                    &labels,
                )
            }
            _ => Ok(()),
        }
    }

    fn store(&mut self, view: &View) -> fmt::Result {
        self.ping("store", "MongoDB's primary", view.measured.store.as_ref())?;
        let clock = view.measured.store_clock;
        self.gauge(
            "sdl_store_clock_skew",
            Some(&Unit::Seconds),
            "How far the clock of MongoDB's primary is ahead of this host's",
            clock.map(|clock| clock.ahead as f64 / 1000.0),
        )?;
        let pool = view.facts.pool.figures();
        let states = [
            ("open", pool.open as f64),
            ("in use", pool.checked_out as f64),
        ];
        self.states(
            "sdl_store_connections",
            "Connections of the pipeline to MongoDB",
            "state",
            &states,
        )?;
        self.count(
            "sdl_store_connection_failures",
            "Operations that got no connection to MongoDB",
            pool.failures,
        )?;
        self.total(
            "sdl_store_connection_wait",
            Some(&Unit::Seconds),
            "What operations waited for a connection to MongoDB",
            pool.waited.as_secs_f64(),
        )
    }

    fn process(&mut self, source_id: &str) -> fmt::Result {
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("source", source_id),
        ];
        self.info(
            "sdl_build",
            "The program, and the source that it records",
            &labels,
        )?;
        let mut family = self.0.encode_descriptor(
            "sdl_log_messages",
            "Lines logged, by level",
            None,
            MetricType::Counter,
        )?;
        for (level, count) in logging::messages() {
            ConstCounter::new(count).encode(family.encode_family(&[("level", level)])?)?;
        }
        let process = Process::of_this();
        self.total(
            "process_cpu",
            Some(&Unit::Seconds),
            "Processor time used",
            process.cpu_seconds,
        )?;
        self.gauge(
            "process_start_time",
            Some(&Unit::Seconds),
            "When the process started",
            process.started,
        )?;
        self.gauge(
            "process_resident_memory",
            Some(&Unit::Bytes),
            "Resident memory",
            process.resident_bytes,
        )?;
        self.gauge(
            "process_open_fds",
            None,
            "Open file descriptors",
            process.open_files,
        )?;
        self.gauge(
            "process_max_fds",
            None,
            "The most file descriptors it may have",
            process.max_files,
        )
    }
}
