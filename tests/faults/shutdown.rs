//! Stopping: what a signal does to the daemon, at any moment, with its servers in any state.
//!
//! A clean stop commits everything that was read and is over within two seconds. A stop that cannot be clean, because MongoDB
//! does not answer or an operator is in a hurry, ends in time all the same; then the next start must find everything, in
//! staging or in the binlog. A signal that comes while a server is not there yet finds a daemon that waits, and ends it.
use std::sync::Arc;
use std::time::Duration;

use crate::common::load::{Load, TABLES, create_tables};
use crate::common::servers::free_port;
use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, wait_until};

/// The contract: a stop under load is over within this.
const CLEAN_STOP: Duration = Duration::from_secs(2);

/// "At once": no wait of any kind fits into it, a process on a busy machine does.
const AT_ONCE: Duration = Duration::from_millis(500);

/// For a daemon to say something that it says within moments.
const SOON: Duration = Duration::from_secs(30);

const STREAMING: &str = "Connected to MySQL";

/// The N of `Flushing N remaining events`.
fn flushed(daemon: &Daemon) -> u64 {
    let lines = daemon.logs();
    let line = lines
        .iter()
        .find(|line| line.contains("Flushing "))
        .expect("the daemon logged what it flushes");
    line.split("Flushing ")
        .nth(1)
        .and_then(|rest| rest.strip_suffix(" remaining events"))
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("the line is not `Flushing N remaining events`: {line}"))
}

/// Documents and offset agree at every moment, also when nobody is running.
async fn assert_consistent(mongod: &Mongod, database: &str) {
    let database = mongod.database(database).await;
    let changes = mongo::changes(&database).await;
    assert_eq!(fold::sequence(&changes), Vec::<String>::new());
    let offset = mongo::offset(&database).await.expect("an offset");
    assert_eq!(offset.get_i64("n").expect("n"), changes.len() as i64);
}

async fn start_servers() -> (Arc<Mysqld>, Mongod) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    create_tables(&mysqld).await;
    (Arc::new(mysqld), mongod)
}

/// A daemon that streams while clients write, with something committed already.
async fn under_load(mysqld: &Arc<Mysqld>, settings: &Settings) -> (Daemon, Load) {
    let daemon = Daemon::start(settings);
    let load = Load::start(mysqld, 3);
    daemon.wait_for_log(STREAMING, SOON).await;
    load.more(200).await;
    (daemon, load)
}

/// The next start, without faults: it must have lost nothing and doubled nothing.
async fn assert_next_start_is_exact(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) {
    let daemon = Daemon::start(settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(mysqld, mongod, settings.database()).await;
    fold::assert_exact(mysqld, mongod, settings.database(), &TABLES).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(CLEAN_STOP).await.0, 0);
}

#[tokio::test]
async fn sigterm_and_sigint_under_load_commit_what_was_read_and_end_in_two_seconds() {
    let (mysqld, mongod) = start_servers().await;
    let settings = Settings::new(&mysqld, &mongod);
    for signal in [Signal::TERM, Signal::INT] {
        let (daemon, load) = under_load(&mysqld, &settings).await;
        daemon.signal(signal);
        let (code, elapsed) = daemon.wait_exit(SOON).await;
        eprintln!(
            "{signal:?}: {elapsed:?}, {} events flushed",
            flushed(&daemon)
        );
        assert_eq!(code, 0);
        assert!(elapsed < CLEAN_STOP, "{signal:?} took {elapsed:?}");
        assert!(daemon.has_logged("Shutdown complete"));
        let database = mongod.database(settings.database()).await;
        assert_eq!(
            mongo::pending(&database).await,
            0,
            "a clean stop leaves nothing staged"
        );
        assert_consistent(&mongod, settings.database()).await;
        load.stop().await;
    }
    assert_next_start_is_exact(&mysqld, &mongod, &settings).await;
}

/// With a backlog the daemon has read more than it has committed, whatever the moment.
#[tokio::test]
async fn sigterm_in_a_backlog_flushes_what_is_on_its_way() {
    let (mysqld, mongod) = start_servers().await;
    mysqld
        .exec(
            "SET SESSION cte_max_recursion_depth = 1000000;
             INSERT INTO load_test.plain WITH RECURSIVE number AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM number WHERE i < 500)
             SELECT i, i, REPEAT('b', 100) FROM number",
        )
        .await;
    for round in 0..60 {
        mysqld
            .exec(format!("UPDATE load_test.plain SET v = v + {}", round + 1))
            .await;
    }
    let settings = Settings::new(&mysqld, &mongod);
    let daemon = Daemon::start(&settings);
    let database = mongod.database(settings.database()).await;
    wait_until("the first documents", SOON, async || {
        matches!(mongo::offset(&database).await, Some(offset) if offset.get_i64("n").is_ok_and(|n| n > 0))
    })
    .await;
    daemon.signal(Signal::TERM);
    let (code, elapsed) = daemon.wait_exit(SOON).await;
    let events = flushed(&daemon);
    eprintln!("in a backlog: {elapsed:?}, {events} events flushed");
    assert_eq!(code, 0);
    assert!(elapsed < CLEAN_STOP, "the stop took {elapsed:?}");
    assert!(events > 0, "in a backlog something is always on its way");
    assert!(daemon.has_logged("Shutdown complete"));
    assert_eq!(mongo::pending(&database).await, 0);
    assert_consistent(&mongod, settings.database()).await;
    assert_next_start_is_exact(&mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_loses_nothing() {
    let (mysqld, mongod) = start_servers().await;
    let settings = Settings::new(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    mongod.pause();
    load.more(50).await;
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("Flushing ", SOON).await;
    assert!(
        flushed(&daemon) > 0,
        "with MongoDB standing still the flush has something to wait for"
    );
    assert!(daemon.is_running(), "the flush waits for MongoDB");
    daemon.signal(Signal::TERM);
    let (code, elapsed) = daemon.wait_exit(SOON).await;
    eprintln!("second signal: {elapsed:?}");
    assert_eq!(code, 1, "it was no clean stop");
    assert!(elapsed < AT_ONCE, "the second signal took {elapsed:?}");
    assert!(!daemon.has_logged("Shutdown complete"));
    mongod.resume();
    load.stop().await;
    assert_next_start_is_exact(&mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn mongodb_that_stands_still_during_the_flush_holds_it_up_no_longer_than_the_timeout() {
    let (mysqld, mongod) = start_servers().await;
    let settings = Settings::new(&mysqld, &mongod).set("SHUTDOWN_TIMEOUT", "3s");
    let (daemon, load) = under_load(&mysqld, &settings).await;
    mongod.pause();
    load.more(50).await;
    daemon.signal(Signal::TERM);
    assert_ends_in_time(&daemon).await;
    mongod.resume();
    load.stop().await;
    assert_next_start_is_exact(&mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn mongodb_that_is_killed_during_the_flush_holds_it_up_no_longer_than_the_timeout() {
    let (mysqld, mongod) = start_servers().await;
    let settings = Settings::new(&mysqld, &mongod).set("SHUTDOWN_TIMEOUT", "3s");
    let (daemon, load) = under_load(&mysqld, &settings).await;
    // Standing still first, so that the flush has surely begun and not ended when the server dies.
    mongod.pause();
    load.more(50).await;
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("Flushing ", SOON).await;
    mongod.kill();
    assert_ends_in_time(&daemon).await;
    mongod.start_again().await;
    load.stop().await;
    assert_next_start_is_exact(&mysqld, &mongod, &settings).await;
}

/// The daemon, with SHUTDOWN_TIMEOUT=3s and a MongoDB that takes nothing, ends in time and says why it was not clean.
async fn assert_ends_in_time(daemon: &Daemon) {
    let (code, elapsed) = daemon.wait_exit(SOON).await;
    eprintln!(
        "without MongoDB: {elapsed:?}, {} events to flush",
        flushed(daemon)
    );
    assert!(flushed(daemon) > 0, "there was nothing to wait for");
    assert_eq!(
        code, 1,
        "what was read is not committed, so it was no clean stop"
    );
    assert!(
        elapsed < Duration::from_millis(3_500),
        "SHUTDOWN_TIMEOUT is 3 s, the stop took {elapsed:?}"
    );
    assert!(daemon.has_logged("shutdown flush failed"));
    assert!(!daemon.has_logged("Shutdown complete"));
}

/// A flush that MongoDB only holds up for a moment is a clean one.
#[tokio::test]
async fn mongodb_that_comes_back_during_the_flush_makes_it_a_clean_stop() {
    let (mysqld, mongod) = start_servers().await;
    let settings = Settings::new(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    mongod.pause();
    load.more(50).await;
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("Flushing ", SOON).await;
    mongod.resume();
    let (code, elapsed) = daemon.wait_exit(SOON).await;
    eprintln!("after MongoDB came back: {elapsed:?}");
    assert_eq!(code, 0);
    assert!(daemon.has_logged("Shutdown complete"));
    let database = mongod.database(settings.database()).await;
    assert_eq!(mongo::pending(&database).await, 0);
    assert_consistent(&mongod, settings.database()).await;
    load.stop().await;
    assert_next_start_is_exact(&mysqld, &mongod, &settings).await;
}

// --- signals while a server is not there

/// Ends a daemon that waits for a server: cleanly, and without finishing the wait.
async fn assert_stops_while_it_waits(daemon: &Daemon) {
    assert!(daemon.is_running(), "it waits");
    daemon.signal(Signal::TERM);
    let (code, elapsed) = daemon.wait_exit(SOON).await;
    eprintln!("while it waited: {elapsed:?}");
    assert_eq!(code, 0);
    assert!(elapsed < CLEAN_STOP, "the stop took {elapsed:?}");
    assert!(daemon.has_logged("Shutdown complete"));
}

#[tokio::test]
async fn sigterm_while_mysql_is_not_there_ends_cleanly() {
    let mongod = Mongod::start().await;
    let mysqld = Mysqld::start().await;
    let settings = Settings::new(&mysqld, &mongod);
    mysqld.kill();
    // Never read before: it waits for the server to choose a position.
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("connect to mysql", SOON).await;
    assert_stops_while_it_waits(&daemon).await;

    // Read before: it waits as a reader that lost its server.
    mysqld.start_again().await;
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    mysqld.kill();
    daemon.wait_for_log("trying again", SOON).await;
    assert_stops_while_it_waits(&daemon).await;

    // A server that takes the connection and never says a word.
    mysqld.start_again().await;
    mysqld.pause();
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Resuming from saved GTID", SOON).await;
    assert_stops_while_it_waits(&daemon).await;
    mysqld.resume();
}

#[tokio::test]
async fn sigterm_while_mongodb_is_not_there_ends_cleanly() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    let nobody = format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", free_port());
    let settings = Settings::new(&mysqld, &mongod);

    let daemon = Daemon::start(&settings.clone().set("MONGO_URI", &nobody));
    daemon.wait_for_log("sdl starts", SOON).await;
    assert_stops_while_it_waits(&daemon).await;

    // Between two attempts instead of in one.
    let impatient = format!("{nobody}&serverSelectionTimeoutMS=100");
    let patient = settings
        .clone()
        .set("MONGO_URI", impatient)
        .set("RETRY_INITIAL", "1m")
        .set("RETRY_MAX_DELAY", "1m");
    let daemon = Daemon::start(&patient);
    daemon.wait_for_log("trying again", SOON).await;
    assert_stops_while_it_waits(&daemon).await;

    // A server that takes the connection and never says a word.
    mongod.pause();
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("sdl starts", SOON).await;
    assert_stops_while_it_waits(&daemon).await;
    mongod.resume();
}
