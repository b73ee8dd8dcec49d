//! `sdl status`: of a daemon that runs, that lost MongoDB, that was stopped, and that cannot go on; and that whoever reads it may leave.
use std::time::Duration;

use serde_json::Value;

use crate::common::command::{sdl, shell};
use crate::common::servers::{Scratch, free_port};
use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up, wait_until};

/// Longer than anything here takes: what is waited for has limits of its own, and a busy machine adds to them.
const PATIENCE: Duration = Duration::from_secs(120);

const INSERT: &str = "INSERT INTO shop.t (v) VALUES ('confidential-row-value')";

/// The exit code and what `sdl status --json` says.
async fn status(settings: &Settings) -> (i32, Value) {
    let done = sdl(settings, &["status", "--json"]).await;
    let said: Value =
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"));
    assert_eq!(said["exit"], done.code, "{said:#}");
    assert!(!done.stdout.contains("confidential"), "{done:?}");
    (done.code, said)
}

/// Waits until it says what is wanted.
async fn says(settings: &Settings, description: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    wait_until(description, PATIENCE, async || {
        last = status(settings).await.1;
        wanted(&last)
    })
    .await;
    last
}

#[tokio::test]
async fn a_daemon_is_shown_running_cut_off_stopped_and_at_a_gap() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    mysqld
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT)",
        )
        .await;
    let scratch = Scratch::new("status");
    let settings = Settings::new(&mysqld, &mongod)
        .set(
            "MONGO_URI",
            format!("{}&serverSelectionTimeoutMS=500", mongod.uri()),
        )
        .set("RETRY_MAX_DELAY", "1s")
        .set("BREAKER_FAILURES", 2)
        .set("BREAKER_OPEN", "1s")
        .set("LEASE", "on")
        .set("TZ", "Asia/Tokyo")
        .set("SPOOL_DIR", scratch.path().join("spool").display())
        .set("METRICS_ADDR", format!("127.0.0.1:{}", free_port()));

    let (code, said) = status(&settings).await;
    assert_eq!(
        (code, &said["status"]),
        (1, &"not running".into()),
        "{said:#}"
    );
    assert!(
        said["offset"].is_null() && said["daemon"].is_null(),
        "{said:#}"
    );
    assert!(
        said["reasons"][0]
            .as_str()
            .unwrap()
            .contains("METRICS_ADDR")
    );

    let daemon = Daemon::start(&settings);
    mysqld.exec(INSERT).await;
    caught_up(&mysqld, &mongod, settings.database()).await;
    let said = says(&settings, "healthy, with nothing to come", |said| {
        said["status"] == "healthy" && said["lag"]["transactions"] == 0
    })
    .await;
    assert_eq!(said["exit"], 0);
    assert_eq!(said["daemon"]["pid"], daemon.pid());
    assert_eq!(said["daemon"]["role"], "active");
    assert_eq!(said["daemon"]["circuit_breaker"], "closed");
    assert_eq!(
        said["offset"]["gtid"],
        mysqld.executed_gtid().await.as_str()
    );
    assert!(said["offset"]["n"].as_i64().unwrap() >= 1, "{said:#}");
    assert!(said["lag"]["seconds"].as_f64().unwrap() < 60.0);
    assert!(
        said["events_per_second"].as_f64().unwrap() > 0.0,
        "{said:#}"
    );
    assert_eq!(said["staging"]["pending"], 0);
    assert!(said["purge_headroom"]["share"].as_f64().unwrap() > 0.9);
    let holder = said["lease_holder"].as_str().unwrap();
    assert!(holder.contains(&daemon.pid().to_string()), "{holder}");
    let table = sdl(&settings, &["status"]).await;
    assert_eq!(table.code, 0);
    assert!(table.stdout.contains("+09:00"), "{}", table.stdout);
    assert!(!table.stdout.contains('\u{1b}'), "{}", table.stdout);
    let terminal = "TERM=xterm script -qefc 'stty rows 24 cols 70; \"$SDL\" status' /dev/null";
    let coloured = shell(&settings, terminal).await.stdout;
    assert!(coloured.contains("\u{1b}[32mhealthy"), "{coloured}");
    let plain = shell(&settings.clone().set("NO_COLOR", 1), terminal)
        .await
        .stdout;
    assert!(!plain.contains("\u{1b}[3"), "{plain}");

    // Who reads a part of it and leaves, once and of several.
    for (call, lines) in [("status", 1), ("status --watch 1 --json", 2)] {
        let script = format!("\"$SDL\" {call} | head -{lines}; echo ${{PIPESTATUS[0]}}");
        let done = shell(&settings, &script).await;
        assert_eq!(done.stdout.lines().count(), lines + 1, "{done:?}");
        assert_eq!(done.stdout.lines().last(), Some("0"), "{done:?}");
        assert_eq!(done.stderr, "");
    }

    // Without MongoDB the rest is shown, and the spool while the daemon has it open.
    mongod.kill();
    mysqld.exec(INSERT).await;
    let said = says(&settings, "it spools", |said| said["spool"]["events"] == 1).await;
    assert_eq!(said["exit"], 1);
    assert!(
        said["mongodb"]["error"].is_string() && said["offset"].is_null(),
        "{said:#}"
    );
    assert!(said["daemon"]["pid"].is_number());
    assert!(said["servers"][0]["version"].is_string());
    let table = sdl(&settings, &["status"]).await;
    assert!(
        table.stdout.contains("1 events in 1 batches"),
        "{}",
        table.stdout
    );
    mongod.start_again().await;
    says(&settings, "healthy, the spool empty", |said| {
        said["status"] == "healthy"
            && said["spool"]["events"] == 0
            && said["lag"]["transactions"] == 0
    })
    .await;

    // Stopped, with something to come.
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(PATIENCE).await.0, 0);
    for _ in 0..3 {
        mysqld.exec(INSERT).await;
    }
    let (code, said) = status(&settings).await;
    assert_eq!(
        (code, &said["status"]),
        (1, &"not running".into()),
        "{said:#}"
    );
    assert_eq!(said["lag"]["transactions"], 3);
    assert!(said["lag"]["seconds"].as_f64().is_some(), "{said:#}");
    assert!(said["offset"]["gtid"].is_string() && said["lease_holder"].is_null());

    mysqld.exec("FLUSH BINARY LOGS").await;
    let logs: Vec<(String, u64, String)> = mysqld.query("SHOW BINARY LOGS").await;
    let active = &logs.last().unwrap().0;
    mysqld
        .exec(format!("PURGE BINARY LOGS TO '{active}'"))
        .await;
    let (code, said) = status(&settings).await;
    assert_eq!(code, 3, "{said:#}");
    assert!(
        said["reasons"].to_string().contains("binlog gap"),
        "{said:#}"
    );

    mysqld.kill();
    let (code, said) = status(&settings).await;
    assert_eq!(code, 1, "{said:#}");
    assert!(said["servers"][0]["error"].is_string());
    assert!(said["offset"]["gtid"].is_string(), "{said:#}");
    let off = sdl(&settings.set("METRICS_ADDR", "off"), &["status", "--json"]).await;
    assert!(off.stdout.contains("recording"), "{off:?}");

    let help = sdl(&Settings::empty(), &["status", "--help"]).await;
    for part in ["Exit codes", "Examples", "--watch"] {
        assert!(help.stdout.contains(part), "{}", help.stdout);
    }
}
