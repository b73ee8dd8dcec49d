//! What no binlog holds: that it is indeed not recorded, and that the daemon says so when it starts.

use std::time::Duration;

use crate::common::{Daemon, Flavor, Mongod, Mysqld, Settings, caught_up, mongo, mysql};
use crate::recorded::notation::Recorded;

const SOON: Duration = Duration::from_secs(30);

/// What a daemon warns of a server, in order.
async fn warnings(server: &Mysqld, settings: Settings) -> Vec<String> {
    let daemon = Daemon::start(&settings.set("RUST_LOG", "sdl=debug"));
    warnings_of(&daemon, &server.addr()).await
}

async fn warnings_of(daemon: &Daemon, address: &str) -> Vec<String> {
    let asked = format!("asked what the binlog leaves out address={address}");
    daemon.wait_for_log(&asked, SOON).await;
    assert!(daemon.is_running());
    let about = format!("address={address}");
    daemon
        .logs()
        .iter()
        .filter(|line| line.contains(&about))
        .filter_map(|line| line.split_once("may not hold every change: "))
        .map(|(_, warning)| warning.replace(&format!(" {about}"), ""))
        .collect()
}

#[tokio::test]
async fn a_server_that_logs_everything_is_warned_of_nothing() {
    let (server, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    server
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.p (id INT PRIMARY KEY);
             CREATE TABLE shop.c (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES shop.p (id) ON DELETE CASCADE)",
        )
        .await;
    let found = warnings(&server, Settings::new(&server, mongod)).await;
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn cascades_inside_innodb_are_not_recorded_and_their_tables_are_named() {
    // As MySQL before 9.6 does them.
    let options = ["--innodb-native-foreign-keys=ON"];
    let recorded = Recorded::with(Flavor::Mysql, &options, "below").await;
    cascades_below_the_binlog(
        recorded,
        "start mysqld with innodb_native_foreign_keys=OFF, and they are",
    )
    .await;
}

#[tokio::test]
async fn cascades_of_mariadb_are_not_recorded_and_their_tables_are_named() {
    let recorded = Recorded::with(Flavor::Mariadb10, &[], "below").await;
    recorded
        .server
        .exec(format!("GRANT REFERENCES ON *.* TO {}", mysql::USER))
        .await;
    let remedy = "change these rows by statements of your own before those they refer to";
    cascades_below_the_binlog(recorded, remedy).await;
}

async fn cascades_below_the_binlog(mut recorded: Recorded, remedy: &str) {
    recorded
        .records(
            &[
                "CREATE TABLE p (id INT PRIMARY KEY)",
                "CREATE TABLE c (id INT PRIMARY KEY, p_id INT, FOREIGN KEY (p_id) REFERENCES p (id) ON DELETE CASCADE ON UPDATE CASCADE)",
                "CREATE TABLE n (id INT PRIMARY KEY, p_id INT, FOREIGN KEY (p_id) REFERENCES p (id) ON DELETE SET NULL)",
                "CREATE TABLE stays (id INT PRIMARY KEY, p_id INT, FOREIGN KEY (p_id) REFERENCES p (id))",
                "CREATE DATABASE other",
                "CREATE TABLE other.c (id INT PRIMARY KEY, p_id INT, FOREIGN KEY (p_id) REFERENCES below.p (id) ON DELETE CASCADE)",
                "INSERT INTO p VALUES (1), (2)",
                "INSERT INTO c VALUES (10, 1), (20, 2)",
                "INSERT INTO n VALUES (100, 1)",
            ],
            &["DELETE FROM p WHERE id = 1", "UPDATE p SET id = 3"],
            "
            --
            0.0 delete p 1 - {id: 1} | DELETE FROM p WHERE id = 1
            --
            0.0 update p 2 {id: 2} → {id: 3} (id) | UPDATE p SET id = 3
            ",
        )
        .await;
    let left = recorded
        .server
        .query_one::<String>("SELECT GROUP_CONCAT(p_id) FROM below.c")
        .await;
    assert_eq!(left, "3", "and yet they happened");
    recorded.daemon.kill9();
    let found = warnings(&recorded.server, recorded.settings.clone()).await;
    assert_eq!(
        found,
        [format!(
            "rows that a foreign key deletes or changes by itself (CASCADE, SET NULL) are not recorded, in below.c, below.n; {remedy}"
        )]
    );
}

#[tokio::test]
async fn an_account_that_sees_no_table_is_told_that_it_cannot_look() {
    cannot_look(Flavor::Mysql).await;
}

#[tokio::test]
async fn an_account_that_sees_no_table_of_mariadb_is_told_that_it_cannot_look() {
    cannot_look(Flavor::Mariadb10).await;
}

async fn cannot_look(flavor: Flavor) {
    let (server, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    server
        .exec(format!(
            "REVOKE SELECT ON *.* FROM {0}; CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY) ENGINE=MEMORY",
            mysql::USER
        ))
        .await;
    let settings = Settings::new(&server, mongod);
    let found = warnings(&server, settings.clone()).await;
    assert!(
        matches!(&found[..], [one] if one.contains("GRANT REFERENCES ON *.* TO MYSQL_USER shows definitions")),
        "{found:#?}"
    );
    // What it says helps.
    server
        .exec(format!("GRANT REFERENCES ON *.* TO {}", mysql::USER))
        .await;
    let found = warnings(&server, settings).await;
    assert_eq!(
        found,
        [
            "of MEMORY tables the rows that a restart of the server takes away are not recorded, only that the table was \
          emptied: shop.t"
        ]
    );
}

#[tokio::test]
async fn settings_and_engines_that_keep_changes_out_of_the_binlog_are_told() {
    let options = [
        "--binlog-ignore-db=left_out",
        "--sync-binlog=0",
        "--binlog-error-action=IGNORE_ERROR",
        "--log-replica-updates=OFF",
    ];
    let (server, mongod) = tokio::join!(Mysqld::start_with(&options), Mongod::shared());
    server
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.hole (id INT PRIMARY KEY) ENGINE=BLACKHOLE;
             CREATE DATABASE left_out; CREATE TABLE left_out.t (id INT PRIMARY KEY);
             INSERT INTO left_out.t VALUES (1);
             CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1;
             CHANGE REPLICATION FILTER REPLICATE_IGNORE_DB = (noise), REPLICATE_WILD_DO_TABLE = ('shop.%')",
        )
        .await;
    let settings = Settings::new(&server, mongod);
    let found = warnings(&server, settings.clone()).await;
    let starts = [
        "of BLACKHOLE tables only what is inserted is recorded; an UPDATE or DELETE finds no rows: shop.hole",
        "the server does not log the databases left_out (binlog_ignore_db)",
        "the server is a replica and does not log what it receives (log_replica_updates=OFF)",
        "the server is a replica that leaves changes of its source out (replicate_ignore_db=noise, \
         replicate_wild_do_table=shop.%)",
        "sync_binlog is 0",
        "binlog_error_action is IGNORE_ERROR",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found}");
    }
    // And indeed the row is not there.
    let _daemon = Daemon::start(&settings);
    caught_up(&server, mongod, settings.database()).await;
    let changes = mongod.changes(settings.database()).await;
    let operations: Vec<&str> = changes
        .iter()
        .map(|change| change.get_str("op").unwrap())
        .collect();
    assert!(
        operations.contains(&"ddl") && !operations.contains(&"insert"),
        "{changes:#?}"
    );
}

#[tokio::test]
async fn settings_of_mariadb_that_keep_changes_out_of_the_binlog_are_told() {
    let options = [
        "--binlog-do-db=shop",
        "--sync-binlog=0",
        "--log-slave-updates=OFF",
        "--replicate-ignore-table=shop.noise",
    ];
    let (server, mongod) = tokio::join!(
        Mysqld::start_as(Flavor::Mariadb10, &options),
        Mongod::shared()
    );
    server
        .exec(format!(
            "SET GLOBAL gtid_slave_pos = '7-7-7'; GRANT REFERENCES ON *.* TO {}; CREATE DATABASE shop",
            mysql::USER
        ))
        .await;
    let found = warnings(&server, Settings::new(&server, mongod)).await;
    let starts = [
        "the server logs the databases shop and no others (binlog_do_db)",
        "the server is a replica and does not log what it receives (log_replica_updates=OFF)",
        "the server is a replica that leaves changes of its source out (replicate_ignore_table=shop.noise)",
        "sync_binlog is 0",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found}");
    }
}

#[tokio::test]
async fn the_next_server_is_looked_at_when_the_first_one_dies() {
    let native = ["--innodb-native-foreign-keys=ON"];
    let (first, next, mongod) = tokio::join!(
        Mysqld::start(),
        Mysqld::start_with(&native),
        Mongod::shared()
    );
    next.exec(
        "SET sql_log_bin = OFF; CREATE DATABASE shop; CREATE TABLE shop.p (id INT PRIMARY KEY);
         CREATE TABLE shop.c (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES shop.p (id) ON DELETE CASCADE)",
    )
    .await;
    first.exec("CREATE DATABASE shop").await;
    let executed = first.executed_gtid().await;
    next.exec(format!("SET GLOBAL gtid_purged = '{executed}'"))
        .await;
    let settings = Settings::new(&first, mongod)
        .set("MYSQL_ADDR", format!("{},{}", first.addr(), next.addr()))
        .set("RUST_LOG", "sdl=debug");
    let daemon = Daemon::start(&settings);
    assert_eq!(
        warnings_of(&daemon, &first.addr()).await,
        Vec::<String>::new()
    );
    caught_up(&first, mongod, settings.database()).await;
    // The same server again is no news.
    first.kill();
    let found = warnings_of(&daemon, &next.addr()).await;
    assert!(
        matches!(&found[..], [one] if one.contains("are not recorded, in shop.c;")),
        "{found:#?}"
    );
    let target = mongod.database(settings.database()).await;
    assert!(mongo::saved_gtid(&target).await.is_some());
}
