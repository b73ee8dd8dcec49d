//! A server whose binlog does not continue what is recorded: the daemon stops with exit 3, names the missing transactions,
//! and skips nothing.
//!
//! Purged binlogs, a reset, another server behind the same address, one that lacks transactions of somebody else: each of
//! them would be streamed by a server without a word, from wherever it can. Each is met twice: at a start, and by a daemon that
//! is running and comes back after a cut. The first position (START_FROM) is here too: it is chosen once, and kept.
use std::time::Duration;

use crate::common::servers::free_port;
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, on_both_flavors,
    wait_until,
};
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

async fn start_mysqld(flavor: Flavor) -> Mysqld {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
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

/// The transactions that a server has written itself, all in one row, and how a refusal names them.
struct Own {
    flavor: Flavor,
    /// MySQL: the server's UUID. MariaDB: domain and server id.
    name: String,
    /// The number of the newest.
    last: u64,
}

impl Own {
    async fn of(mysqld: &Mysqld) -> Self {
        let flavor = mysqld.flavor();
        let name: String = mysqld
            .query_one(if flavor.is_mariadb() {
                "SELECT CONCAT(@@gtid_domain_id, '-', @@server_id)"
            } else {
                "SELECT @@server_uuid"
            })
            .await;
        let executed = mysqld.executed_gtid().await;
        let last = executed
            .split(',')
            .find(|part| part.starts_with(&name))
            .and_then(|part| part.rsplit(['-', ':']).next()?.parse().ok())
            .expect("a set such as uuid:1-5 or 0-1-5");
        Self { flavor, name, last }
    }

    /// All up to a number, as a setting or a statement takes it.
    fn up_to(&self, last: u64) -> String {
        let name = &self.name;
        if self.flavor.is_mariadb() {
            format!("{name}-{last}")
        } else {
            format!("{name}:1-{last}")
        }
    }

    /// What the server no longer has.
    fn purged(&self, first: u64, last: u64) -> String {
        let name = &self.name;
        if self.flavor.is_mariadb() {
            format!(
                "the transactions after {name}-{} up to {name}-{last}",
                first - 1
            )
        } else if first == last {
            format!("1 transaction(s), {name}:{first};")
        } else {
            format!(
                "{} transaction(s), {name}:{first}-{last};",
                last - first + 1
            )
        }
    }

    /// What the server does not know, though it is recorded. MariaDB's newest transaction stands for those before it.
    fn unknown(&self, first: u64, last: u64) -> String {
        if self.flavor.is_mariadb() {
            format!("transaction(s) {}-{last};", self.name)
        } else {
            self.purged(first, last)
        }
    }
}

/// Everything that a client wrote so far goes to binlogs that are no longer there.
async fn purge(mysqld: &Mysqld) {
    mysqld.exec("FLUSH BINARY LOGS").await;
    wait_until("one binlog is left", SOON, async || {
        // MariaDB keeps a binlog until InnoDB has on disk what is in it, which is not yet so as soon as it is closed.
        mysqld.exec("PURGE BINARY LOGS BEFORE '2037-01-01'").await;
        mysqld.query::<Row>("SHOW BINARY LOGS").await.len() == 1
    })
    .await;
}

/// The server begins its binlog anew.
async fn reset(mysqld: &Mysqld) {
    mysqld.exec(reset_statement(mysqld.flavor())).await;
}

fn reset_statement(flavor: Flavor) -> &'static str {
    if flavor.is_mariadb() {
        "RESET MASTER"
    } else {
        "RESET BINARY LOGS AND GTIDS"
    }
}

/// A server at `port` that was made from a backup: it has executed `set`, and nothing of it is in its binlog.
async fn restored_at(flavor: Flavor, port: u16, set: &str) -> Mysqld {
    // As members of one replication they have different server ids.
    let mysqld = Mysqld::start_as_at(flavor, port, &["--server-id=2"]).await;
    if flavor.is_mariadb() {
        mysqld
            .exec(format!("SET GLOBAL gtid_binlog_state = '{set}'"))
            .await;
        // So that the first binlog says where it begins.
        purge(&mysqld).await;
    } else {
        mysqld
            .exec(format!("SET GLOBAL gtid_purged = '{set}'"))
            .await;
    }
    mysqld
}

on_both_flavors! {
    binlogs_purged_past_the_offset_while_the_daemon_is_down_are_a_gap,
    a_gap_of_one_transaction_is_found_too,
    binlogs_purged_while_a_running_daemon_is_cut_off_are_a_gap,
    binlogs_purged_while_mysql_restarts_under_a_running_daemon_are_a_gap,
    a_purge_of_transactions_that_the_filters_leave_out_is_no_gap,
    a_reset_while_the_daemon_is_down_is_refused,
    a_reset_under_a_running_daemon_is_refused,
    a_reset_under_a_running_daemon_that_is_followed_by_many_transactions_is_refused,
    a_reset_whose_new_transactions_outnumber_the_recorded_ones_is_refused,
    another_server_behind_the_same_address_is_refused,
    a_server_restored_from_an_older_backup_is_refused,
    a_server_that_lacks_transactions_of_somebody_else_is_refused,
    a_promoted_replica_that_has_everything_is_read_on,
    start_from_current_records_what_comes_and_nothing_before,
    start_from_earliest_records_what_the_server_still_has,
    start_from_a_gtid_set_records_exactly_what_is_behind_it,
    start_from_a_gtid_set_that_the_server_cannot_serve_is_refused,
    the_first_position_is_saved_before_anything_is_read,
}

// --- purged binlogs

async fn binlogs_purged_past_the_offset_while_the_daemon_is_down_are_a_gap(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let own = Own::of(&mysqld).await;
    insert(&mysqld, 4).await;
    purge(&mysqld).await;
    insert(&mysqld, 2).await;
    let missing = own.purged(own.last + 1, own.last + 4);
    assert_start_is_refused(mongod, &settings, &["binlog gap", &missing]).await;
}

async fn a_gap_of_one_transaction_is_found_too(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let own = Own::of(&mysqld).await;
    insert(&mysqld, 1).await;
    purge(&mysqld).await;
    assert_start_is_refused(
        mongod,
        &settings,
        &["binlog gap", &own.purged(own.last + 1, own.last + 1)],
    )
    .await;
}

/// The connection is cut while the daemon stands still, so that it has not read what is purged meanwhile.
async fn binlogs_purged_while_a_running_daemon_is_cut_off_are_a_gap(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let own = Own::of(&mysqld).await;
    let before = recorded(mongod, settings.database()).await;
    daemon.signal(Signal::STOP);
    kill_dump_threads(&mysqld).await;
    insert(&mysqld, 4).await;
    purge(&mysqld).await;
    insert(&mysqld, 2).await;
    daemon.signal(Signal::CONT);
    let missing = own.purged(own.last + 1, own.last + 4);
    assert_refuses(&daemon, &["binlog gap", &missing]).await;
    assert_eq!(
        recorded(mongod, settings.database()).await,
        before,
        "nothing is skipped"
    );
}

/// The server restarts, writes and purges before it lets anybody in.
async fn binlogs_purged_while_mysql_restarts_under_a_running_daemon_are_a_gap(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let own = Own::of(&mysqld).await;
    let before = recorded(mongod, settings.database()).await;
    mysqld.kill();
    let script = mysqld.datadir().join("before-anybody.sql");
    let purge = if flavor.is_mariadb() {
        // MariaDB keeps a binlog until InnoDB has on disk what is in it: as often as it takes.
        "BEGIN NOT ATOMIC REPEAT PURGE BINARY LOGS BEFORE '2037-01-01'; \
         UNTIL BINLOG_GTID_POS('binlog.000001', 4) IS NULL AND BINLOG_GTID_POS('binlog.000002', 4) IS NULL END REPEAT; END"
    } else {
        "PURGE BINARY LOGS BEFORE '2037-01-01'"
    };
    std::fs::write(
        &script,
        format!("INSERT INTO shop.t (v) VALUES ('unseen');\nFLUSH BINARY LOGS;\n{purge};\n"),
    )
    .expect("a file in target/tmp");
    mysqld
        .start_again_with(&[&format!("--init-file={}", script.display())])
        .await;
    assert_refuses(
        &daemon,
        &["binlog gap", &own.purged(own.last + 1, own.last + 1)],
    )
    .await;
    assert_eq!(
        recorded(mongod, settings.database()).await,
        before,
        "nothing is skipped"
    );
}

/// The offset follows transactions that leave no document, or a purge would overtake it.
async fn a_purge_of_transactions_that_the_filters_leave_out_is_no_gap(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod).set("INCLUDE_REGEX", r"^shop\.audited$");
    read_all_and_stop(&mysqld, mongod, &settings).await;
    purge(&mysqld).await;
    mysqld
        .exec("CREATE TABLE shop.audited (id INT PRIMARY KEY); INSERT INTO shop.audited VALUES (1)")
        .await;
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.audited"]).await;
}

// --- reset

async fn a_reset_while_the_daemon_is_down_is_refused(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let own = Own::of(&mysqld).await;
    reset(&mysqld).await;
    assert_start_is_refused(
        mongod,
        &settings,
        &["behind the saved position", &own.unknown(1, own.last)],
    )
    .await;
    // Some of the numbers are given a second time.
    insert(&mysqld, 2).await;
    assert_start_is_refused(
        mongod,
        &settings,
        &["behind the saved position", &own.unknown(3, own.last)],
    )
    .await;
}

/// The server says nothing of it to a replica that is connected: its dump sends heartbeats, and nothing else until the new
/// binlog is longer than the old one was.
async fn a_reset_under_a_running_daemon_is_refused(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let own = Own::of(&mysqld).await;
    let before = recorded(mongod, settings.database()).await;
    reset(&mysqld).await;
    insert(&mysqld, 2).await;
    assert_refuses(
        &daemon,
        &["behind the saved position", &own.unknown(3, own.last)],
    )
    .await;
    assert_eq!(
        recorded(mongod, settings.database()).await,
        before,
        "nothing is skipped"
    );
}

/// Cut off by the reset in the end, the daemon comes back to a server that has given every recorded name a second time.
async fn a_reset_under_a_running_daemon_that_is_followed_by_many_transactions_is_refused(
    flavor: Flavor,
) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let own = Own::of(&mysqld).await;
    let before = recorded(mongod, settings.database()).await;
    next_second(&mysqld).await;
    reset(&mysqld).await;
    insert(&mysqld, own.last as usize + 20).await;
    // By the missing names, or by the first one that it meets a second time: that depends on when it came back.
    assert_refuses(&daemon, &[&own.name]).await;
    assert_eq!(
        recorded(mongod, settings.database()).await,
        before,
        "nothing is skipped"
    );
}

/// The trap of GTIDs: after a reset the server gives the same names to other transactions. Once it has given as many as are
/// recorded, its set contains the saved one, and only the binlog itself can tell.
async fn a_reset_whose_new_transactions_outnumber_the_recorded_ones_is_refused(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let own = Own::of(&mysqld).await;
    next_second(&mysqld).await;
    reset(&mysqld).await;
    insert(&mysqld, own.last as usize + 5).await;
    let last = if flavor.is_mariadb() {
        own.up_to(own.last)
    } else {
        format!("{}:{}", own.name, own.last)
    };
    let reused = format!("another history than the recorded one: transaction {last} ");
    assert_start_is_refused(mongod, &settings, &[&reused, reset_statement(flavor)]).await;
}

// --- another server

async fn another_server_behind_the_same_address_is_refused(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let executed = mysqld.executed_gtid().await;
    let before = recorded(mongod, settings.database()).await;
    mysqld.kill();
    let other = Mysqld::start_as_at(flavor, mysqld.port(), &["--server-id=2"]).await;
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
async fn a_server_restored_from_an_older_backup_is_refused(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let own = Own::of(&mysqld).await;
    mysqld.stop().await;
    let restored = restored_at(flavor, mysqld.port(), &own.up_to(own.last - 2)).await;
    restored.exec(CREATE).await;
    let missing = own.unknown(own.last - 1, own.last);
    assert_start_is_refused(mongod, &settings, &["behind the saved position", &missing]).await;
}

/// MySQL itself only notices missing transactions that carry its own UUID (field notes); these carry somebody else's. In
/// MariaDB they are in another domain.
async fn a_server_that_lacks_transactions_of_somebody_else_is_refused(flavor: Flavor) {
    const ERRANT: &str = "11111111-2222-3333-4444-555555555555";
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let (next, back, missing) = if flavor.is_mariadb() {
        (
            "gtid_domain_id = 77".to_owned(),
            "gtid_domain_id = 0",
            "transaction(s) 77-1-1;".to_owned(),
        )
    } else {
        (
            format!("gtid_next = '{ERRANT}:1'"),
            "gtid_next = 'AUTOMATIC'",
            format!("1 transaction(s), {ERRANT}:1;"),
        )
    };
    mysqld
        .exec(format!(
            "SET SESSION {next}; INSERT INTO shop.t (v) VALUES ('errant'); SET SESSION {back}"
        ))
        .await;
    insert(&mysqld, 1).await;
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let own = Own::of(&mysqld).await;
    mysqld.stop().await;
    let promoted = restored_at(flavor, mysqld.port(), &own.up_to(own.last)).await;
    promoted.exec(CREATE).await;
    insert(&promoted, 2).await;
    assert_start_is_refused(mongod, &settings, &["behind the saved position", &missing]).await;
}

/// The counterpart: a promoted replica that has everything is the same source.
async fn a_promoted_replica_that_has_everything_is_read_on(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let executed = mysqld.executed_gtid().await;
    stop(&daemon).await;
    mysqld.kill();
    let promoted = restored_at(flavor, free_port(), &executed).await;
    promoted.exec(format!("SET SESSION sql_log_bin = 0; {CREATE}; INSERT INTO shop.t (v) VALUES ('row'), ('row'), ('row')")).await;
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

async fn start_from_current_records_what_comes_and_nothing_before(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
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

async fn start_from_earliest_records_what_the_server_still_has(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    purge(&mysqld).await;
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

async fn start_from_a_gtid_set_records_exactly_what_is_behind_it(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
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
async fn start_from_a_gtid_set_that_the_server_cannot_serve_is_refused(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let own = Own::of(&mysqld).await;
    purge(&mysqld).await;
    let cases = [
        (
            own.up_to(own.last + 7),
            "behind the saved position",
            own.unknown(own.last + 1, own.last + 7),
        ),
        (
            own.up_to(own.last - 1),
            "binlog gap",
            own.purged(own.last, own.last),
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
async fn the_first_position_is_saved_before_anything_is_read(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
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

/// Waits until the server's clock shows another second than at its last commit: MariaDB has no finer time of a commit.
async fn next_second(mysqld: &Mysqld) {
    let now = async || -> u64 { mysqld.query_one("SELECT UNIX_TIMESTAMP()").await };
    let before = now().await;
    wait_until("the next second", SOON, async || now().await > before).await;
}

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
