//! Health, metrics and purge headroom of the built daemon, against real servers that go away and come back.
pub(crate) mod page;

use std::net::TcpListener;
use std::time::Duration;

use crate::common::servers::{Scratch, free_port};
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Settings, Signal, caught_up_within, fold, mysql,
    on_both_flavors, wait_until,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

/// Longer than anything here takes: what is waited for has limits of its own, and a busy machine adds to them.
const PATIENCE: Duration = Duration::from_secs(120);

const TABLES: [&str; 1] = ["shop.t"];

/// In a row, and so in no answer.
const VALUE: &str = "confidential-row-value";

struct Fixture {
    mysqld: Mysqld,
    mongod: Mongod,
    settings: Settings,
}

impl Fixture {
    async fn start(flavor: Flavor, options: &[&str]) -> Self {
        let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, options), Mongod::start());
        mysqld
            .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, v TEXT)")
            .await;
        let uri = format!("{}&serverSelectionTimeoutMS=500", mongod.uri());
        let settings = Settings::new(&mysqld, &mongod)
            .set("MONGO_URI", uri)
            .set("RETRY_MAX_DELAY", "1s")
            .set("BREAKER_FAILURES", 2)
            .set("BREAKER_OPEN", "1s");
        Self {
            mysqld,
            mongod,
            settings,
        }
    }

    async fn insert(&self) {
        let insert = format!("INSERT INTO shop.t (v) VALUES ('{VALUE}')");
        self.mysqld.exec(insert).await;
    }

    async fn caught_up(&self) {
        caught_up_within(
            &self.mysqld,
            &self.mongod,
            self.settings.database(),
            PATIENCE,
        )
        .await;
    }

    /// It is healthy in the end, has everything once, and stops cleanly.
    async fn assert_ends_well(&self, daemon: &Daemon, address: &str) {
        self.caught_up().await;
        says(address, "healthy", "").await;
        fold::assert_exact(
            &self.mysqld,
            &self.mongod,
            self.settings.database(),
            &TABLES,
        )
        .await;
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    }
}

/// Waits until /readyz has the status, and a reason that contains `reason`.
async fn says(address: &str, status: &str, reason: &str) -> Value {
    let mut last = Value::Null;
    let description = format!("/readyz says {status}: {reason}");
    wait_until(&description, PATIENCE, async || {
        last = page::ready(address).await.1;
        last["status"] == status && (reason.is_empty() || has_reason(&last, reason))
    })
    .await;
    last
}

fn has_reason(answer: &Value, part: &str) -> bool {
    let reasons = answer["reasons"].as_array().expect("a list of reasons");
    reasons
        .iter()
        .any(|reason| reason.as_str().expect("a text").contains(part))
}

fn assert_logged(daemon: &Daemon, text: &str, times: usize) {
    let lines: Vec<_> = daemon
        .logs()
        .into_iter()
        .filter(|line| line.contains(text))
        .collect();
    assert_eq!(lines.len(), times, "{text:?}: {lines:#?}");
}

on_both_flavors! {
    what_is_served_is_well_formed_and_holds_no_value_and_no_secret,
    a_binlog_that_will_be_purged_is_told_of_at_half_and_at_a_tenth_of_the_retention,
}

async fn what_is_served_is_well_formed_and_holds_no_value_and_no_secret(flavor: Flavor) {
    let fixture = Fixture::start(flavor, &[]).await;
    let daemon = Daemon::start(&fixture.settings);
    let address = page::address(&daemon).await;
    for _ in 0..3 {
        fixture.insert().await;
    }
    fixture.caught_up().await;
    let answer = says(&address, "healthy", "").await;
    assert_eq!(answer["role"], "active");
    assert_eq!(answer["server"], fixture.mysqld.addr());
    wait_until("the monitor has looked at the binlogs", SOON, async || {
        page::metrics(&address).await.contains_key("sdl_binlogs")
    })
    .await;

    let series = page::metrics(&address).await;
    let value = |name: &str| {
        *series
            .get(name)
            .unwrap_or_else(|| panic!("{name}: {series:#?}"))
    };
    // CREATE DATABASE, CREATE TABLE, three rows.
    assert_eq!(value("sdl_committed_events_total"), 5.0);
    assert_eq!(value("sdl_last_n"), 5.0);
    assert_eq!(value("sdl_source_connections_total"), 1.0);
    for one in [
        "sdl_health{status=\"healthy\"}",
        "sdl_role{role=\"active\"}",
        "sdl_breaker_state{state=\"closed\"}",
        "sdl_source_connected",
        "sdl_source_up",
        "sdl_store_up",
    ] {
        assert_eq!(value(one), 1.0, "{one}");
    }
    assert!(value("sdl_breaker_state{state=\"open\"}") == 0.0);
    assert!(value("sdl_lag_seconds") < 60.0);
    assert!(value("sdl_source_ping_seconds") < 5.0);
    assert!(value("sdl_store_ping_seconds") < 5.0);
    assert!(value("sdl_store_connections{state=\"open\"}") >= 1.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!(value("sdl_last_commit_timestamp_seconds") > 1.7e9);
    if flavor == Flavor::Mysql {
        // 30 days, the server's default; MariaDB's is to keep them.
        assert_eq!(value("sdl_binlog_retention_seconds"), 2_592_000.0);
        assert_eq!(value("sdl_purge_headroom_ratio"), 1.0, "the active binlog");
    }

    assert_eq!(page::get(&address, "/healthz").await.0, 200);
    let (code, _, body) = page::get(&address, "/elsewhere").await;
    assert_eq!(code, 404);
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert!(body.contains(path), "{body}");
        let (_, _, body) = page::get(&address, path).await;
        for secret in [VALUE, mysql::PASSWORD] {
            assert!(!body.contains(secret), "{path} holds {secret}: {body}");
        }
    }
    fixture.assert_ends_well(&daemon, &address).await;
}

/// MongoDB stands still and there is no spool, so what is needed stays needed; the server closes the binlog that holds it. Between
/// the two marks lie 32 seconds: each look at the servers waits up to 5 for MongoDB, and this machine may be busy.
async fn a_binlog_that_will_be_purged_is_told_of_at_half_and_at_a_tenth_of_the_retention(
    flavor: Flavor,
) {
    let fixture = Fixture::start(flavor, &["--binlog-expire-logs-seconds=80"]).await;
    let daemon = Daemon::start(&fixture.settings);
    let address = page::address(&daemon).await;
    fixture.insert().await;
    fixture.caught_up().await;
    says(&address, "healthy", "").await;
    fixture.mongod.pause();
    fixture.insert().await;
    fixture.mysqld.exec("FLUSH BINARY LOGS").await;

    let statement = match flavor {
        Flavor::Mysql => "SET PERSIST binlog_expire_logs_seconds=1209600",
        _ => "SET GLOBAL binlog_expire_logs_seconds=1209600",
    };
    let half = "degraded: the server may purge what is not recorded yet";
    let line = daemon.wait_for_log(half, PATIENCE).await;
    assert!(line.contains(statement), "{line}");
    assert!(
        line.contains("% of binlog_expire_logs_seconds, 1 min 20 s"),
        "{line}"
    );
    let tenth = "unhealthy: the server may purge what is not recorded yet";
    let line = daemon.wait_for_log(tenth, PATIENCE).await;
    assert!(line.contains(statement), "{line}");
    let answer = says(&address, "unhealthy", "may purge").await;
    assert!(
        answer["purge_headroom"]["share"].as_f64().unwrap() < 0.1,
        "{answer}"
    );
    let series = page::metrics(&address).await;
    assert!(series["sdl_purge_headroom_seconds"] < 8.0);
    assert!(series["sdl_purge_headroom_ratio"] < 0.1);

    fixture.mongod.resume();
    daemon.wait_for_log("over: purge headroom", PATIENCE).await;
    for line in [half, tenth, "over: purge headroom"] {
        assert_logged(&daemon, line, 1);
    }
    fixture.assert_ends_well(&daemon, &address).await;
}

#[tokio::test]
async fn an_outage_of_mongodb_with_a_spool_is_degraded_and_without_one_unhealthy() {
    let fixture = Fixture::start(Flavor::Mysql, &[]).await;
    let spool = Scratch::new("spool");
    for with_spool in [true, false] {
        let settings = match with_spool {
            true => fixture
                .settings
                .clone()
                .set("SPOOL_DIR", spool.path().display()),
            false => fixture.settings.clone(),
        };
        let daemon = Daemon::start(&settings);
        let address = page::address(&daemon).await;
        fixture.caught_up().await;
        says(&address, "healthy", "").await;
        fixture.mongod.kill();
        fixture.insert().await;
        if with_spool {
            says(
                &address,
                "degraded",
                "events in 1 batches wait in the spool",
            )
            .await;
            let series = page::metrics(&address).await;
            assert_eq!(series["sdl_spool_events"], 1.0);
            assert_eq!(series["sdl_breaker_state{state=\"closed\"}"], 0.0);
            assert!(series["sdl_breaker_openings_total"] >= 1.0);
        } else {
            says(&address, "unhealthy", "there is no spool (SPOOL_DIR)").await;
        }
        let line = match with_spool {
            true => "degraded: mongodb is away",
            false => "unhealthy: mongodb is away",
        };
        daemon.wait_for_log(line, PATIENCE).await;
        fixture.mongod.start_again().await;
        daemon.wait_for_log("over: circuit breaker", PATIENCE).await;
        assert_logged(&daemon, line, 1);
        assert_logged(&daemon, "over: circuit breaker", 1);
        fixture.assert_ends_well(&daemon, &address).await;
    }
}

#[tokio::test]
async fn an_outage_of_mysql_is_a_reconnect_first_and_not_ready_after_30_seconds() {
    let fixture = Fixture::start(Flavor::Mysql, &[]).await;
    let daemon = Daemon::start(&fixture.settings);
    let address = page::address(&daemon).await;
    fixture.insert().await;
    fixture.caught_up().await;
    says(&address, "healthy", "").await;
    fixture.mysqld.kill();
    says(&address, "degraded", "no binlog stream from mysql for").await;
    let answer = says(&address, "unhealthy", "no binlog stream from mysql for").await;
    assert_eq!(answer["server"], Value::Null);
    says(&address, "unhealthy", "mysql does not answer").await;
    daemon
        .wait_for_log("unhealthy: no binlog stream", SOON)
        .await;
    assert_eq!(page::get(&address, "/healthz").await.0, 200, "it is alive");
    fixture.mysqld.start_again().await;
    daemon.wait_for_log("over: stream", PATIENCE).await;
    for line in [
        "degraded: no binlog stream",
        "unhealthy: no binlog stream",
        "over: stream",
    ] {
        assert_logged(&daemon, line, 1);
    }
    fixture.insert().await;
    fixture.assert_ends_well(&daemon, &address).await;
}

#[tokio::test]
async fn a_start_without_mongodb_is_not_ready_and_says_why() {
    let fixture = Fixture::start(Flavor::Mysql, &[]).await;
    fixture.mongod.kill();
    let daemon = Daemon::start(&fixture.settings);
    let address = page::address(&daemon).await;
    says(&address, "unhealthy", "mongodb").await;
    assert_eq!(page::get(&address, "/healthz").await.0, 200);
    fixture.mongod.start_again().await;
    fixture.insert().await;
    fixture.assert_ends_well(&daemon, &address).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_once_and_taken_when_it_is_free() {
    let fixture = Fixture::start(Flavor::Mysql, &[]).await;
    let address = format!("127.0.0.1:{}", free_port());
    let listener = TcpListener::bind(&address).expect("a free port");
    let settings = fixture.settings.clone().set("METRICS_ADDR", &address);
    let daemon = Daemon::start(&settings);
    let line = daemon.wait_for_log("metrics cannot be served", SOON).await;
    assert!(line.contains("set METRICS_ADDR"), "{line}");
    fixture.insert().await;
    fixture.caught_up().await;
    drop(listener);
    assert_eq!(page::address(&daemon).await, address);
    assert_logged(&daemon, "metrics cannot be served", 1);
    fixture.assert_ends_well(&daemon, &address).await;
}
