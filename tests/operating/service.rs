//! sdl as a service of a systemd that really boots: the units of deploy/, what systemctl does to it, and what the journal has of it.
//!
//! Each test boots a system of its own, which takes a second. Where none can be booted the tests say so and are left out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::common::load::{Load, TABLES, create_tables};
use crate::common::systemd::{System, settings_file};
use crate::common::{Mongod, Mysqld, Settings, audit, caught_up, fold};

const UNIT: &str = "sdl.service";

/// For what happens within moments.
const SOON: Duration = Duration::from_secs(30);

/// Longer than the limits of [`SHORT`].
const LONGER: Duration = Duration::from_secs(5);

/// Shorter than the unit's, so that the tests do not wait for them.
const SHORT: &str = "[Service]\nRestartSec=100ms\nWatchdogSec=4s\nTimeoutStartSec=4s\n";

/// A system with sdl installed, as the package does it.
async fn installed() -> Option<System> {
    let system = System::boot().await?;
    system.copy(Path::new(env!("CARGO_BIN_EXE_sdl")), "/usr/bin/sdl");
    for unit in ["sdl.service", "sdl@.service"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("deploy")
            .join(unit);
        system.copy(&file, &format!("/lib/systemd/system/{unit}"));
        drop_in(&system, unit, "short", SHORT);
    }
    let user = "adduser --quiet --system --group --no-create-home --home /var/lib/sdl sdl";
    let user: Vec<_> = user.split(' ').collect();
    system.output(&user).await;
    system.output(&["systemctl", "daemon-reload"]).await;
    Some(system)
}

fn drop_in(system: &System, unit: &str, name: &str, content: &str) {
    system.write(
        &format!("/etc/systemd/system/{unit}.d/{name}.conf"),
        content,
    );
}

/// Writes /etc/sdl/NAME.env with these settings, the password as a credential.
async fn configure(system: &System, name: &str, settings: &Settings) {
    let password = settings.get("MYSQL_PASS").expect("a password").to_owned();
    let credentials = format!("/etc/sdl/{name}.credentials");
    system.write(&format!("{credentials}/MYSQL_PASS"), password + "\n");
    system.set_mode(&credentials, 0o700);
    let file = format!("/etc/sdl/{name}.env");
    system.write(&file, settings_file(&settings.clone().unset("MYSQL_PASS")));
    system.set_mode(&file, 0o640);
    system.output(&["chgrp", "sdl", &file]).await;
}

async fn restarts(system: &System) -> u32 {
    let restarts = system.property(UNIT, "NRestarts").await;
    restarts.parse().expect("a number")
}

/// Waits until systemd has started it once more than `before`, and it records.
async fn restarted(system: &System, before: u32) {
    system
        .wait_for_property(UNIT, "NRestarts", SOON, |now| {
            now.parse().is_ok_and(|now: u32| now > before)
        })
        .await;
    system
        .wait_for_property(UNIT, "ActiveState", SOON, |state| state == "active")
        .await;
}

/// The N of the last `Flushing N remaining events`.
async fn flushed(system: &System) -> u64 {
    let lines = system.journal(UNIT, &[]).await;
    let last = lines.iter().rev().find_map(|line| {
        let rest = line.split("Flushing ").nth(1)?;
        rest.strip_suffix(" remaining events")?.parse().ok()
    });
    last.unwrap_or_else(|| panic!("no line `Flushing N remaining events`: {lines:#?}"))
}

/// The life of a service: a start that waits, load, every way to be stopped, and nothing lost or doubled in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_stops_and_comes_back_under_load_and_loses_nothing() {
    let Some(system) = installed().await else {
        return;
    };
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    let mysqld = Arc::new(mysqld);
    create_tables(&mysqld).await;
    // An outage is known within seconds.
    let uri = format!("{}&serverSelectionTimeoutMS=1000", mongod.uri());
    let settings = Settings::new(&mysqld, &mongod)
        .set("MONGO_URI", uri)
        .set("BREAKER_FAILURES", 1)
        .set("BREAKER_OPEN", "1s")
        .set("SPOOL_DIR", "/var/lib/sdl");
    let database = settings.database();
    configure(&system, "sdl", &settings).await;

    // A server that is not there yet is waited for, longer than TimeoutStartSec.
    mongod.kill();
    let began = Instant::now();
    system
        .output(&["systemctl", "--no-block", "start", UNIT])
        .await;
    let status = system
        .wait_for_property(UNIT, "StatusText", SOON, |text| text.contains("mongodb"))
        .await;
    assert!(status.starts_with("starting"), "{status}");
    tokio::time::sleep_until(began + LONGER).await;
    assert_eq!(system.property(UNIT, "ActiveState").await, "activating");
    mongod.start_again().await;
    system
        .wait_for_property(UNIT, "ActiveState", SOON, |state| state == "active")
        .await;
    assert_eq!(restarts(&system).await, 0);
    let connected = system.journal(UNIT, &["--grep=^Connected to MySQL"]).await;
    assert_eq!(connected.len(), 1, "ready means that it streams");

    // The status line follows.
    let load = Load::start(&mysqld, 2);
    load.more(50).await;
    let uuid: String = mysqld.query_one("SELECT @@server_uuid").await;
    let gtid = format!("last GTID {}…:", &uuid[..8]);
    let recording = format!("recording from {}; lag ", mysqld.addr());
    let status = system
        .wait_for_property(UNIT, "StatusText", SOON, |text| text.contains(&gtid))
        .await;
    assert!(status.starts_with(&recording), "{status}");

    // Stopped under load, and started again.
    system.output(&["systemctl", "stop", UNIT]).await;
    assert_eq!(system.property(UNIT, "Result").await, "success");
    flushed(&system).await;
    let lines = system.journal(UNIT, &[]).await;
    assert!(
        lines.last().is_some_and(|line| line == "Shutdown complete"),
        "{lines:#?}"
    );
    system.output(&["systemctl", "start", UNIT]).await;
    load.more(50).await;
    system.output(&["systemctl", "restart", UNIT]).await;
    load.more(50).await;

    // Killed: systemd brings it back.
    let before = restarts(&system).await;
    system
        .output(&["systemctl", "kill", "--signal=KILL", UNIT])
        .await;
    restarted(&system, before).await;
    load.more(50).await;

    // The whole process stands still: the watchdog ends it.
    let before = restarts(&system).await;
    system
        .output(&["systemctl", "kill", "--signal=STOP", UNIT])
        .await;
    restarted(&system, before).await;
    let reasons = system
        .output(&["journalctl", "--unit", UNIT, "--grep=Watchdog timeout"])
        .await;
    assert!(reasons.contains("Watchdog timeout"), "{reasons}");
    load.more(50).await;

    // One task of it does not come back, all the others run: the same.
    drop_in(
        &system,
        UNIT,
        "hang",
        "[Service]\nEnvironment=FAILPOINTS=after-decode=sleep(600000)\n",
    );
    system.output(&["systemctl", "daemon-reload"]).await;
    system.output(&["systemctl", "restart", UNIT]).await;
    let before = restarts(&system).await;
    system
        .wait_for_log(
            UNIT,
            "a task hangs; the watchdog is fed no longer task=\"pipeline\"",
            SOON,
        )
        .await;
    drop_in(&system, UNIT, "hang", "");
    system.output(&["systemctl", "daemon-reload"]).await;
    restarted(&system, before).await;

    load.stop().await;
    caught_up(&mysqld, &mongod, database).await;
    // MongoDB is away for longer than the watchdog waits: that is no hang.
    let before = restarts(&system).await;
    let began = Instant::now();
    mongod.kill();
    mysqld
        .exec("INSERT INTO load_test.plain VALUES (0, 0, 'away')")
        .await;
    system
        .wait_for_property(UNIT, "StatusText", SOON, |text| text.contains("; spooling"))
        .await;
    tokio::time::sleep_until(began + LONGER).await;
    mongod.start_again().await;
    caught_up(&mysqld, &mongod, database).await;
    assert_eq!(restarts(&system).await, before);
    system.output(&["systemctl", "stop", UNIT]).await;
    fold::assert_exact(&mysqld, &mongod, database, &TABLES).await;
}

/// Wrong settings, and what an operator must decide, are not tried again; both are errors in the journal, and only errors are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restart_does_not_mend_is_not_restarted() {
    let Some(system) = installed().await else {
        return;
    };
    let (mysqld, mongod) = tokio::join!(audit::shared_mysqld(), Mongod::shared());
    let failed = async |status: &str| {
        let done = system.run(&["systemctl", "start", UNIT]).await;
        assert_eq!(done.code, 1, "{done:?}");
        assert_eq!(system.property(UNIT, "SubState").await, "failed");
        assert_eq!(system.property(UNIT, "ExecMainStatus").await, status);
        assert_eq!(restarts(&system).await, 0);
    };
    let settings = Settings::new(mysqld, mongod);
    configure(&system, "sdl", &settings.clone().set("BATCH_SIZE", "many")).await;
    failed("64").await;
    let errors = system.journal(UNIT, &["--priority=err"]).await;
    assert!(
        errors.iter().any(|line| line.contains("BATCH_SIZE")),
        "{errors:#?}"
    );

    mysqld
        .exec("CREATE USER 'no_rights'@'%' IDENTIFIED BY 'sdl-secret'")
        .await;
    configure(&system, "sdl", &settings.set("MYSQL_USER", "no_rights")).await;
    failed("3").await;
    let errors = system.journal(UNIT, &["--priority=err"]).await;
    let last = errors.last().expect("an error");
    assert!(last.contains("REPLICATION SLAVE"), "{errors:#?}");
    let all = system.journal(UNIT, &[]).await;
    assert!(
        all.iter().any(|line| line.starts_with("sdl starts")),
        "{all:#?}"
    );
    assert!(
        !errors.iter().any(|line| line.starts_with("sdl starts")),
        "{errors:#?}"
    );
}

/// Fields in the journal, a reload, and two sources on one host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_have_settings_and_journals_of_their_own_and_can_be_reloaded() {
    let Some(system) = installed().await else {
        return;
    };
    let (mysqld, mongod) = tokio::join!(audit::shared_mysqld(), Mongod::shared());
    let (shop, bank) = ("sdl@shop.service", "sdl@bank.service");
    let database = Settings::new(mysqld, mongod).database().to_owned();
    for (name, source, format) in [
        ("shop", "shop", "text"),
        ("spare", "shop", "text"),
        ("bank", "bank", "json"),
    ] {
        let settings = Settings::new(mysqld, mongod)
            .set("MONGO_DB", &database)
            .set("START_FROM", "current")
            .set("SOURCE_ID", source)
            .set("LEASE", "on")
            .set("LOG_FORMAT", format)
            .set("SPOOL_DIR", format!("/var/lib/sdl/{name}"));
        configure(&system, name, &settings).await;
    }
    system.output(&["systemctl", "start", shop, bank]).await;

    // The line as operators know it, and its fields by themselves.
    let entry = async |unit: &str, grep: &str| -> serde_json::Value {
        let words = [
            "journalctl",
            "--quiet",
            "--output=json",
            "--unit",
            unit,
            "--grep",
            grep,
        ];
        let entries = system.output(&words).await;
        let last = entries
            .lines()
            .last()
            .unwrap_or_else(|| panic!("no {grep} in {unit}"));
        serde_json::from_str(last).expect("a line of JSON")
    };
    let line = entry(shop, "^sdl starts").await;
    let message = line["MESSAGE"].as_str().expect("a message");
    assert!(message.starts_with("sdl starts version="), "{message}");
    assert!(message.contains("source=\"shop\""), "{message}");
    assert_eq!(line["SDL_SOURCE"], "shop");
    assert_eq!(line["PRIORITY"], "6");
    assert_eq!(line["SYSLOG_IDENTIFIER"], "sdl");
    assert_eq!(line["_SYSTEMD_UNIT"], shop);
    let line = entry(shop, "^Connected to MySQL").await;
    assert!(line["SDL_GTID"].is_string(), "{line:#}");
    // JSON stays JSON, and has the priority too.
    let line = entry(bank, "Connected to MySQL").await;
    assert_eq!(line["PRIORITY"], "6");
    let message = line["MESSAGE"].as_str().expect("a message");
    let message: serde_json::Value = serde_json::from_str(message).expect("JSON");
    assert_eq!(message["message"], "Connected to MySQL");

    // RUST_LOG counts at once; what does not is named, and no value is.
    let file = system.path("/etc/sdl/shop.env");
    let settings = std::fs::read_to_string(&file).expect("the settings");
    let changed = settings.clone() + "RUST_LOG=debug\nBATCH_SIZE=777\n";
    std::fs::write(&file, changed).expect("the settings");
    system.output(&["systemctl", "reload", shop]).await;
    system
        .wait_for_log(
            shop,
            "in force after a restart only settings=\"BATCH_SIZE\"",
            SOON,
        )
        .await;
    mysqld.exec("CREATE DATABASE reloaded").await;
    system.wait_for_log(shop, "committed batch=", SOON).await;
    assert_eq!(system.property(shop, "ActiveState").await, "active");
    std::fs::write(&file, settings + "BATCH_SIZE=many\n").expect("the settings");
    system.output(&["systemctl", "reload", shop]).await;
    system
        .wait_for_log(shop, "reload: nothing is changed", SOON)
        .await;
    assert_eq!(system.property(shop, "ActiveState").await, "active");
    let lines = system.journal(bank, &["--grep=committed"]).await;
    assert!(lines.is_empty(), "the other one is as it was: {lines:#?}");

    // An administrator's command sees what the service sees.
    let help = system
        .run(&["sdl", "--env-file", "/etc/sdl/shop.env", "check"])
        .await;
    assert!(!help.stderr.contains("is not set"), "{help:?}");

    // One that stands by is ready too, and takes over where the other one stops.
    let spare = "sdl@spare.service";
    system.output(&["systemctl", "start", spare]).await;
    let status = system.property(spare, "StatusText").await;
    assert!(status.starts_with("standby: "), "{status}");
    system.output(&["systemctl", "stop", shop, bank]).await;
    system
        .wait_for_property(spare, "StatusText", SOON, |text| {
            text.starts_with("recording from ")
        })
        .await;
    system.output(&["systemctl", "stop", spare]).await;
}

/// The unit is as shut as it is said to be, and systemd understands every line of it.
#[tokio::test]
async fn the_units_are_sound_and_shut() {
    let Some(system) = installed().await else {
        return;
    };
    for unit in ["sdl.service", "sdl@one.service"] {
        let verified = system
            .run(&["systemd-analyze", "verify", "--man=no", unit])
            .await;
        assert_eq!(
            (verified.code, verified.stderr.as_str()),
            (0, ""),
            "{verified:?}"
        );
        // In tenths.
        let words = [
            "systemd-analyze",
            "security",
            "--no-pager",
            "--threshold=15",
            unit,
        ];
        let judged = system.run(&words).await;
        assert_eq!(judged.code, 0, "{}", judged.stdout);
    }
    // A stop may flush for SHUTDOWN_TIMEOUT, which is 25 s, and starts are not counted.
    assert_eq!(system.property(UNIT, "TimeoutStopUSec").await, "45s");
    assert_eq!(system.property(UNIT, "StartLimitIntervalUSec").await, "0");
}
