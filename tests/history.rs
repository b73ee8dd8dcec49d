//! A server whose binlog does not continue what is recorded: the daemon stops with exit 3, names the missing transactions,
//! and skips nothing.
//!
//! Purged binlogs, a reset, another server behind the same address, one that lacks transactions of somebody else: each of
//! them would be streamed by MySQL without a word, from wherever it can. Each is met twice: at a start, and by a daemon that
//! is running and comes back after a cut. The first position (START_FROM) is here too: it is chosen once, and kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, wait_until};
use mongodb::bson::Document;
use mysql_async::Row;
use mysql_async::prelude::Queryable;

const SOON: Duration = Duration::from_secs(30);

/// For a daemon to notice that it must not go on; on a quiet connection it asks every half minute.
const VERDICT: Duration = Duration::from_secs(60);

const STREAMING: &str = "Connected to MySQL";

const TABLE: &str = "shop.t";

const CREATE: &str =
    "CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))";

async fn start_mysqld() -> Mysqld {
    let mysqld = Mysqld::start().await;
    mysqld.exec(CREATE).await;
    insert(&mysqld, 3).await;
    mysqld
}

/// So many transactions of one row.
async fn insert(mysqld: &Mysqld, count: usize) {
    for _ in 0..count {
        mysqld.exec("INSERT INTO shop.t (v) VALUES ('row')").await;
    }
}

/// Reads everything, then stops: an offset is saved that covers all the server has.
async fn read_all_and_stop(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) {
    let daemon = Daemon::start(settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
}

async fn stop(daemon: &Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

/// What must not move while the daemon refuses to go on: where it stands, and every document.
async fn recorded(mongod: &Mongod, database: &str) -> (Document, Vec<Document>) {
    let database = mongod.database(database).await;
    let offset = mongo::offset(&database).await.expect("an offset");
    let mut place = Document::new();
    for field in ["gtid", "n", "partial"] {
        place.insert(field, offset.get(field).cloned());
    }
    (place, mongo::changes(&database).await)
}

/// The daemon ends with exit 3, and its last error says all of `parts`.
async fn assert_refuses(daemon: &Daemon, parts: &[&str]) {
    let (code, _) = daemon.wait_exit(VERDICT).await;
    assert_eq!(code, 3, "{:#?}", daemon.logs());
    let lines = daemon.logs();
    let verdict = lines
        .iter()
        .rev()
        .find(|line| line.contains("exit=3"))
        .expect("the last word before exit 3");
    for part in parts {
        assert!(verdict.contains(part), "{part:?} is not in: {verdict}");
    }
}

/// Refused at every start, with nothing skipped.
async fn assert_start_is_refused(mongod: &Mongod, settings: &Settings, parts: &[&str]) {
    let before = recorded(mongod, settings.database()).await;
    for _ in 0..2 {
        assert_refuses(&Daemon::start(settings), parts).await;
        assert_eq!(
            recorded(mongod, settings.database()).await,
            before,
            "nothing is skipped"
        );
    }
}

/// The number of transactions of the server's own that it has executed.
async fn last_own_gno(mysqld: &Mysqld) -> u64 {
    let executed = mysqld.executed_gtid().await;
    let own = server_uuid(mysqld).await;
    let set = executed
        .split(',')
        .find(|set| set.starts_with(&own))
        .unwrap_or_default();
    set.rsplit(['-', ':'])
        .next()
        .and_then(|last| last.parse().ok())
        .expect("a set such as uuid:1-5")
}

async fn server_uuid(mysqld: &Mysqld) -> String {
    mysqld.query_one("SELECT @@server_uuid").await
}

/// Everything that a client wrote so far goes to binlogs that are no longer there.
const PURGE: &str = "FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE '2037-01-01'";

// --- purged binlogs

#[tokio::test]
async fn binlogs_purged_past_the_offset_while_the_daemon_is_down_are_a_gap() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let (uuid, last) = (server_uuid(&mysqld).await, last_own_gno(&mysqld).await);
    insert(&mysqld, 4).await;
    mysqld.exec(PURGE).await;
    insert(&mysqld, 2).await;
    let missing = format!("4 transaction(s), {uuid}:{}-{};", last + 1, last + 4);
    assert_start_is_refused(mongod, &settings, &["binlog gap", &missing]).await;
}

#[tokio::test]
async fn a_gap_of_one_transaction_is_found_too() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let (uuid, last) = (server_uuid(&mysqld).await, last_own_gno(&mysqld).await);
    insert(&mysqld, 1).await;
    mysqld.exec(PURGE).await;
    assert_start_is_refused(
        mongod,
        &settings,
        &["binlog gap", &format!(": {uuid}:{};", last + 1)],
    )
    .await;
}

/// The connection is cut while the daemon stands still, so that it has not read what is purged meanwhile.
#[tokio::test]
async fn binlogs_purged_while_a_running_daemon_is_cut_off_are_a_gap() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let (uuid, last) = (server_uuid(&mysqld).await, last_own_gno(&mysqld).await);
    let before = recorded(mongod, settings.database()).await;
    daemon.signal(Signal::STOP);
    kill_dump_threads(&mysqld).await;
    insert(&mysqld, 4).await;
    mysqld.exec(PURGE).await;
    insert(&mysqld, 2).await;
    daemon.signal(Signal::CONT);
    let missing = format!("{uuid}:{}-{};", last + 1, last + 4);
    assert_refuses(&daemon, &["binlog gap", &missing]).await;
    assert_eq!(
        recorded(mongod, settings.database()).await,
        before,
        "nothing is skipped"
    );
}

/// The server restarts, writes and purges before it lets anybody in.
#[tokio::test]
async fn binlogs_purged_while_mysql_restarts_under_a_running_daemon_are_a_gap() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let (uuid, last) = (server_uuid(&mysqld).await, last_own_gno(&mysqld).await);
    let before = recorded(mongod, settings.database()).await;
    mysqld.kill();
    let script = mysqld.datadir().join("before-anybody.sql");
    std::fs::write(
        &script,
        "INSERT INTO shop.t (v) VALUES ('unseen');\nFLUSH BINARY LOGS;\nPURGE BINARY LOGS BEFORE '2037-01-01';\n",
    )
    .expect("a file in target/tmp");
    mysqld
        .start_again_with(&[&format!("--init-file={}", script.display())])
        .await;
    assert_refuses(&daemon, &["binlog gap", &format!("{uuid}:{}", last + 1)]).await;
    assert_eq!(
        recorded(mongod, settings.database()).await,
        before,
        "nothing is skipped"
    );
}

/// The offset follows transactions that leave no document, or a purge would overtake it.
#[tokio::test]
async fn a_purge_of_transactions_that_the_filters_leave_out_is_no_gap() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod).set("INCLUDE_REGEX", r"^shop\.audited$");
    read_all_and_stop(&mysqld, mongod, &settings).await;
    mysqld.exec(PURGE).await;
    mysqld
        .exec("CREATE TABLE shop.audited (id INT PRIMARY KEY); INSERT INTO shop.audited VALUES (1)")
        .await;
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.audited"]).await;
}

// --- reset

#[tokio::test]
async fn a_reset_while_the_daemon_is_down_is_refused() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let (uuid, last) = (server_uuid(&mysqld).await, last_own_gno(&mysqld).await);
    mysqld.exec("RESET BINARY LOGS AND GTIDS").await;
    assert_start_is_refused(
        mongod,
        &settings,
        &["behind the saved position", &format!("{uuid}:1-{last};")],
    )
    .await;
    // Some of the numbers are given a second time.
    insert(&mysqld, 2).await;
    assert_start_is_refused(
        mongod,
        &settings,
        &["behind the saved position", &format!("{uuid}:3-{last};")],
    )
    .await;
}

/// The server says nothing of it to a replica that is connected: its dump sends heartbeats, and nothing else until the new
/// binlog is longer than the old one was.
#[tokio::test]
async fn a_reset_under_a_running_daemon_is_refused() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let last = last_own_gno(&mysqld).await;
    let before = recorded(mongod, settings.database()).await;
    mysqld.exec("RESET BINARY LOGS AND GTIDS").await;
    insert(&mysqld, 2).await;
    let uuid = server_uuid(&mysqld).await;
    assert_refuses(
        &daemon,
        &["behind the saved position", &format!("{uuid}:3-{last};")],
    )
    .await;
    assert_eq!(
        recorded(mongod, settings.database()).await,
        before,
        "nothing is skipped"
    );
}

/// Cut off by the reset in the end, the daemon comes back to a server that has given every recorded name a second time.
#[tokio::test]
async fn a_reset_under_a_running_daemon_that_is_followed_by_many_transactions_is_refused() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let uuid = server_uuid(&mysqld).await;
    let last = usize::try_from(last_own_gno(&mysqld).await).expect("a small number");
    let before = recorded(mongod, settings.database()).await;
    mysqld.exec("RESET BINARY LOGS AND GTIDS").await;
    insert(&mysqld, last + 20).await;
    // By the missing names, or by the first one that it meets a second time: that depends on when it came back.
    assert_refuses(&daemon, &[&format!("{uuid}:")]).await;
    assert_eq!(
        recorded(mongod, settings.database()).await,
        before,
        "nothing is skipped"
    );
}

/// The trap of GTIDs: after a reset the server gives the same names to other transactions. Once it has given as many as are
/// recorded, its set contains the saved one, and only the binlog itself can tell.
#[tokio::test]
async fn a_reset_whose_new_transactions_outnumber_the_recorded_ones_is_refused() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let uuid = server_uuid(&mysqld).await;
    let last = usize::try_from(last_own_gno(&mysqld).await).expect("a small number");
    mysqld.exec("RESET BINARY LOGS AND GTIDS").await;
    insert(&mysqld, last + 5).await;
    let reused = format!("another history than the recorded one: transaction {uuid}:{last} ");
    assert_start_is_refused(mongod, &settings, &[&reused, "RESET BINARY LOGS AND GTIDS"]).await;
}

// --- another server

#[tokio::test]
async fn another_server_behind_the_same_address_is_refused() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let executed = mysqld.executed_gtid().await;
    let before = recorded(mongod, settings.database()).await;
    mysqld.kill();
    let other = Mysqld::start_at(mysqld.port(), &[]).await;
    other.exec(CREATE).await;
    insert(&other, 20).await;
    // By the daemon that was running, and by the next start.
    assert_refuses(&daemon, &["behind the saved position", &executed]).await;
    assert_eq!(
        recorded(mongod, settings.database()).await,
        before,
        "nothing is skipped"
    );
    assert_start_is_refused(mongod, &settings, &["behind the saved position", &executed]).await;

    // The right one is back, with more: it goes on as if nothing had happened.
    drop(other);
    mysqld.start_again().await;
    insert(&mysqld, 2).await;
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &[TABLE]).await;
}

/// A server restored from a backup that is older than the offset.
#[tokio::test]
async fn a_server_restored_from_an_older_backup_is_refused() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let (uuid, last) = (server_uuid(&mysqld).await, last_own_gno(&mysqld).await);
    mysqld.stop().await;
    let restored = Mysqld::start_at(mysqld.port(), &[]).await;
    restored
        .exec(format!("SET GLOBAL gtid_purged = '{uuid}:1-{}'", last - 2))
        .await;
    restored.exec(CREATE).await;
    let missing = format!("2 transaction(s), {uuid}:{}-{last};", last - 1);
    assert_start_is_refused(mongod, &settings, &["behind the saved position", &missing]).await;
}

/// MySQL itself only notices missing transactions that carry its own UUID (field notes); these carry somebody else's.
#[tokio::test]
async fn a_server_that_lacks_transactions_of_another_servers_uuid_is_refused() {
    const ERRANT: &str = "11111111-2222-3333-4444-555555555555";
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let uuid = server_uuid(&mysqld).await;
    mysqld
        .exec(format!(
            "SET gtid_next = '{ERRANT}:1'; INSERT INTO shop.t (v) VALUES ('errant'); SET gtid_next = 'AUTOMATIC'"
        ))
        .await;
    insert(&mysqld, 1).await;
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let last = last_own_gno(&mysqld).await;
    mysqld.stop().await;
    let promoted = Mysqld::start_at(mysqld.port(), &[]).await;
    promoted
        .exec(format!("SET GLOBAL gtid_purged = '{uuid}:1-{last}'"))
        .await;
    promoted.exec(CREATE).await;
    insert(&promoted, 2).await;
    let missing = format!("1 transaction(s), {ERRANT}:1;");
    assert_start_is_refused(mongod, &settings, &["behind the saved position", &missing]).await;
}

/// The counterpart: a promoted replica that has everything is the same source.
#[tokio::test]
async fn a_promoted_replica_that_has_everything_is_read_on() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let executed = mysqld.executed_gtid().await;
    stop(&daemon).await;
    mysqld.kill();
    let promoted = Mysqld::start_with(&[]).await;
    promoted.exec(format!("SET SESSION sql_log_bin = 0; {CREATE}; INSERT INTO shop.t (v) VALUES ('row'), ('row'), ('row')")).await;
    promoted
        .exec(format!("SET GLOBAL gtid_purged = '{executed}'"))
        .await;
    // Failover moves the address; the source keeps its name.
    let settings = settings
        .set("SOURCE_ID", format!("mysql://{}", mysqld.addr()))
        .set(
            "MYSQL_ADDR",
            format!("{},{}", mysqld.addr(), promoted.addr()),
        );
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    insert(&promoted, 2).await;
    caught_up(&promoted, mongod, settings.database()).await;
    fold::assert_exact(&promoted, mongod, settings.database(), &[TABLE]).await;
}

// --- the first position

#[tokio::test]
async fn start_from_current_records_what_comes_and_nothing_before() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    let daemon = Daemon::start(&settings);
    daemon
        .wait_for_log("Starting from current position", SOON)
        .await;
    // Reads from here on, whether it is connected yet or not.
    mysqld
        .exec(
            "CREATE TABLE shop.later (id INT PRIMARY KEY); INSERT INTO shop.later VALUES (1), (2)",
        )
        .await;
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.later"]).await;
    assert_eq!(
        mongod.changes(settings.database()).await.len(),
        3,
        "the CREATE TABLE and two rows"
    );
}

#[tokio::test]
async fn start_from_earliest_records_what_the_server_still_has() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    mysqld.exec(PURGE).await;
    mysqld
        .exec("CREATE TABLE shop.kept (id INT PRIMARY KEY); INSERT INTO shop.kept VALUES (1), (2)")
        .await;
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "earliest");
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Starting from GTID", SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.kept"]).await;
    assert_eq!(
        mongod.changes(settings.database()).await.len(),
        3,
        "the CREATE TABLE and two rows"
    );
}

#[tokio::test]
async fn start_from_a_gtid_set_records_exactly_what_is_behind_it() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let before = mysqld.executed_gtid().await;
    mysqld.exec("CREATE TABLE shop.behind (id INT PRIMARY KEY); INSERT INTO shop.behind VALUES (1), (2)").await;
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", &before);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Starting from GTID", SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.behind"]).await;
    assert_eq!(
        mongod.changes(settings.database()).await.len(),
        3,
        "the CREATE TABLE and two rows"
    );
}

/// A position that the server does not have, or no longer has, is refused before anything is written.
#[tokio::test]
async fn start_from_a_gtid_set_that_the_server_cannot_serve_is_refused() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let (uuid, last) = (server_uuid(&mysqld).await, last_own_gno(&mysqld).await);
    mysqld.exec(PURGE).await;
    let cases = [
        (
            format!("{uuid}:1-{}", last + 7),
            "behind the saved position",
            format!("{uuid}:{}-{};", last + 1, last + 7),
        ),
        (
            format!("{uuid}:1-{}", last - 1),
            "binlog gap",
            format!("{uuid}:{last};"),
        ),
    ];
    for (start, what, missing) in cases {
        let settings = Settings::new(&mysqld, mongod).set("START_FROM", start);
        assert_refuses(&Daemon::start(&settings), &[what, &missing]).await;
        let database = mongod.database(settings.database()).await;
        assert_eq!(
            mongo::offset(&database).await,
            None,
            "a position that cannot be served is not saved"
        );
    }
}

/// Killed as soon as the position is there: whatever happens before the next start is recorded.
#[tokio::test]
async fn the_first_position_is_saved_before_anything_is_read() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    let daemon = Daemon::start(&settings);
    let database = mongod.database(settings.database()).await;
    wait_until("the first offset", SOON, async || {
        mongo::offset(&database).await.is_some()
    })
    .await;
    daemon.kill9();
    mysqld.exec("CREATE TABLE shop.meanwhile (id INT PRIMARY KEY); INSERT INTO shop.meanwhile VALUES (1), (2)").await;
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Resuming from saved GTID", SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.meanwhile"]).await;
    assert!(
        !daemon.has_logged("Starting from"),
        "START_FROM is for a source that was never read"
    );
}

// --- helpers

/// Cuts every replica off, as `KILL` by a DBA does; there must be one.
async fn kill_dump_threads(mysqld: &Mysqld) {
    let mut connection = mysqld.root().await;
    let dumps = async |connection: &mut mysql_async::Conn| -> Vec<u64> {
        let rows: Vec<Row> = connection
            .query("SHOW PROCESSLIST")
            .await
            .expect("SHOW PROCESSLIST");
        rows.iter()
            .filter(|row| {
                row.get::<Option<String>, _>("Command")
                    .flatten()
                    .is_some_and(|command| command.starts_with("Binlog Dump"))
            })
            .map(|row| row.get("Id").expect("Id"))
            .collect()
    };
    let found = dumps(&mut connection).await;
    assert!(!found.is_empty(), "no dump thread in SHOW PROCESSLIST");
    for id in found {
        connection
            .query_drop(format!("KILL {id}"))
            .await
            .expect("KILL");
    }
    wait_until("the dump threads are gone", SOON, async || {
        dumps(&mut mysqld.root().await).await.is_empty()
    })
    .await;
}
