//! Connections that the server ends, and packets larger than its limits.

use super::*;
use mysql_async::Row;
use mysql_async::prelude::Queryable;

/// Ends every dump, as a DBA does; how many there were.
pub(super) async fn kill_dumps(mysqld: &Mysqld) -> usize {
    let mut connection = mysqld.root().await;
    let rows: Vec<Row> = connection.query("SHOW PROCESSLIST").await.unwrap();
    let mut killed = 0;
    for row in rows {
        let command: String = row.get("Command").unwrap();
        let id: u64 = row.get("Id").unwrap();
        if command.starts_with("Binlog Dump") {
            // It may have ended by itself.
            killed += usize::from(connection.query_drop(format!("KILL {id}")).await.is_ok());
        }
    }
    killed
}

/// Again and again, under load: the daemon stays with its server, and reads every change once.
#[tokio::test]
async fn dump_threads_killed_again_and_again_are_exact_and_no_reason_to_leave_the_server() {
    let (primary, replica, mongod) = primary_and_replica(Flavor::Mysql).await;
    replica.exec("STOP REPLICA").await;
    follow(&replica, &primary).await;
    let settings = settings(mongod, &[&primary, &replica]).set("RETRY_MAX_DELAY", "100ms");
    let daemon = Daemon::start(&settings);
    let load = Load::start(&primary, 2);
    daemon.wait_for_log(STREAMING, SOON).await;
    for _ in 0..10 {
        load.more(30).await;
        let connections = lines(&daemon, STREAMING).len();
        assert!(kill_dumps(&primary).await > 0);
        streams_from(&daemon, &primary, connections + 1).await;
    }
    load.stop().await;
    caught_up(&primary, mongod, settings.database()).await;
    fold::assert_exact(&primary, mongod, settings.database(), &TABLES).await;
    assert!(!daemon.has_logged(PASSED_OVER));
}

/// MongoDB stands still for longer than everything between it and the server can hold: the reader stops reading, the server is stuck
/// in its write (for net_write_timeout, which sdl sets to 600 s), and at last cuts the connection.
#[tokio::test]
async fn a_reader_that_stood_still_and_was_cut_off_is_exact() {
    const ROWS: u64 = 160;
    const BYTES: u64 = 500_000;
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v LONGTEXT)")
        .await;
    let proxy = Proxy::start(mysqld.port());
    let settings = settings(&mongod, &[&mysqld])
        .set("MYSQL_ADDR", proxy.addr())
        .set("BATCH_BYTES", "1MiB");
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, &mongod, settings.database()).await;
    mongod.pause();
    let before = proxy.received();
    mysqld
        .exec(format!(
            "INSERT INTO shop.t WITH RECURSIVE seq (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < {ROWS})
             SELECT n, REPEAT('x', {BYTES}) FROM seq"
        ))
        .await;
    // Stuck: what the proxy takes from the server does not become more, and it is not all.
    let mut taken = before;
    wait_until("the server is stuck in its write", SOON, async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        taken == std::mem::replace(&mut taken, proxy.received()) && taken > before
    })
    .await;
    assert!(taken - before < ROWS * BYTES, "all of it was sent: {taken}");
    assert_eq!(kill_dumps(&mysqld).await, 1);
    mongod.resume();
    wait_until("it connects again", VERDICT, async || {
        lines(&daemon, STREAMING).len() > 1
    })
    .await;
    caught_up_within(&mysqld, &mongod, settings.database(), VERDICT).await;
    fold::assert_exact(&mysqld, &mongod, settings.database(), &[TABLE]).await;
}

/// A row of several packets (16 MiB each at most), on servers whose limits are far below it by the time it is read.
#[tokio::test]
async fn rows_larger_than_a_packet_and_than_the_servers_limits_are_read() {
    let (primary, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    primary
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v LONGBLOB)")
        .await;
    // Just below, at and above the largest packet, and a row of three.
    for (id, bytes) in [
        (1, 16_777_100),
        (2, 16_777_215),
        (3, 16_777_300),
        (4, 40_000_000),
    ] {
        primary
            .exec(format!(
                "INSERT INTO shop.t VALUES ({id}, REPEAT('x', {bytes}))"
            ))
            .await;
    }
    primary
        .exec("SET GLOBAL max_allowed_packet = 1048576; SET GLOBAL replica_max_allowed_packet = 1048576")
        .await;
    let settings = settings(mongod, &[&primary]);
    let daemon = Daemon::start(&settings);
    caught_up(&primary, mongod, settings.database()).await;
    let database = mongod.database(settings.database()).await;
    let documents = mongo::changes(&database).await;
    let sizes: Vec<i64> = documents
        .iter()
        .filter_map(|document| {
            let after = document.get_document("after").ok()?;
            let value = after.get_document("v").ok()?;
            let bytes = value.get("bytes")?;
            bytes.as_i64().or_else(|| bytes.as_i32().map(i64::from))
        })
        .collect();
    assert_eq!(sizes, [16_777_100, 16_777_215, 16_777_300, 40_000_000]);
    assert_eq!(lines(&daemon, STREAMING).len(), 1, "in one go");
}
