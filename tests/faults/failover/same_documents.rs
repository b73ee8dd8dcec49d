//! What is recorded does not depend on the server that it was read from.

use super::*;
use mongodb::bson::Document;
use mysql_async::prelude::Queryable;

on_both_flavors! {
    a_history_read_from_the_primary_and_from_a_replica_gives_the_same_documents,
    a_history_read_by_turns_gives_the_same_documents,
}

/// A bit of everything whose document could depend on the server: statements of several rows, several tables in one transaction,
/// schema changes, a tag, XA, text of statements, rows of a trigger, savepoints, a transaction larger than many batches.
async fn history(mysqld: &Mysqld) {
    let mut session = mysqld.root().await;
    let statements = [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40), at TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6))",
        "CREATE TABLE shop.log (t INT, what TEXT, j JSON)",
        "CREATE TRIGGER shop.after_t AFTER UPDATE ON shop.t FOR EACH ROW INSERT INTO shop.log VALUES (NEW.id, NEW.v, JSON_OBJECT('v', NEW.v))",
        "INSERT INTO shop.t (v) VALUES ('a'), ('b'), ('c')",
        "BEGIN",
        "UPDATE shop.t SET v = CONCAT(v, v) ORDER BY id DESC",
        "SAVEPOINT s",
        "DELETE FROM shop.t",
        "ROLLBACK TO s",
        "INSERT INTO shop.t (v) VALUES ('d')",
        "DELETE FROM shop.log WHERE t = 2",
        "COMMIT",
        "SET gtid_next = 'AUTOMATIC:tagged'",
        "REPLACE INTO shop.t VALUES (1, 'replaced', '2026-01-01 00:00:00.123456')",
        "SET gtid_next = 'AUTOMATIC'",
        "ALTER TABLE shop.t ADD COLUMN n DECIMAL(10, 2) NOT NULL DEFAULT 1.5, ALGORITHM = INPLACE",
        "UPDATE shop.t SET n = n + id",
        "CREATE TABLE shop.copy (PRIMARY KEY (id)) SELECT * FROM shop.t",
        "XA START 'x', 'y', 7",
        "INSERT INTO shop.t (v) VALUES ('xa')",
        "XA END 'x', 'y', 7",
        "XA PREPARE 'x', 'y', 7",
        "XA COMMIT 'x', 'y', 7",
        "CREATE USER nobody@localhost IDENTIFIED BY 'x'",
        "TRUNCATE shop.log",
        "INSERT INTO shop.log (t, what) WITH RECURSIVE seq (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < 900)
             SELECT n, REPEAT('x', 300) FROM seq",
        "UPDATE shop.log SET t = t + 1",
        "RENAME TABLE shop.log TO shop.renamed",
        "DROP TABLE shop.copy",
    ];
    for statement in statements {
        if mysqld.flavor().is_mariadb() && statement.starts_with("SET gtid_next") {
            continue;
        }
        if let Err(error) = session.query_drop(statement).await {
            panic!("{error}: {statement}");
        }
    }
}

/// Without what says where it was read, and without what a replica logs of itself: `meta.thread_id` is its applier's, and `meta.user` is
/// missing with some statements (CREATE TRIGGER, for one).
fn comparable(mut document: Document) -> Document {
    let meta = document.get_document_mut("meta").unwrap();
    for field in ["file", "pos"] {
        assert!(meta.remove(field).is_some(), "no meta.{field} in {meta}");
    }
    meta.remove("user");
    meta.remove("thread_id");
    // A MariaDB replica logs `DROP TABLE IF EXISTS` for `DROP TABLE` (slave_ddl_exec_mode=IDEMPOTENT).
    if let Ok(query) = meta.get_str("query") {
        let query = query.replace("DROP TABLE IF EXISTS", "DROP TABLE");
        meta.insert("query", query);
    }
    document
}

async fn a_history_read_from_the_primary_and_from_a_replica_gives_the_same_documents(
    flavor: Flavor,
) {
    let (primary, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    let replica = replica_of(&primary).await;
    history(&primary).await;
    in_sync(&replica, &primary).await;
    let mut recorded = Vec::new();
    for server in [&primary, &replica] {
        let settings = settings(mongod, &[server]);
        let daemon = Daemon::start(&settings);
        caught_up(&primary, mongod, settings.database()).await;
        stop(&daemon).await;
        let database = mongod.database(settings.database()).await;
        let documents = mongo::changes(&database).await;
        recorded.push(documents.into_iter().map(comparable).collect::<Vec<_>>());
    }
    assert!(recorded[0].len() > 1800, "{}", recorded[0].len());
    for (from_primary, from_replica) in recorded[0].iter().zip(&recorded[1]) {
        assert_eq!(from_primary, from_replica);
    }
    assert_eq!(recorded[0].len(), recorded[1].len());
}

/// The exception: a session that logs its statement, or a part of each row. A replica logs again what it applied, by its own settings, so
/// there they are whole rows; identity and order stay the same.
#[tokio::test]
async fn what_a_session_did_not_log_as_whole_rows_a_replica_does() {
    let (primary, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    primary.exec(CREATE).await;
    insert(&primary, 3).await;
    let replica = replica_of(&primary).await;
    let mut session = primary.root().await;
    for statement in [
        "SET SESSION binlog_format = STATEMENT",
        "UPDATE shop.t SET v = 'by statement' WHERE id = 2",
        "SET SESSION binlog_format = ROW, binlog_row_image = MINIMAL",
        "UPDATE shop.t SET v = 'minimal' WHERE id = 3",
    ] {
        session.query_drop(statement).await.unwrap();
    }
    in_sync(&replica, &primary).await;
    let mut recorded = Vec::new();
    for server in [&primary, &replica] {
        let settings = settings(mongod, &[server]);
        let _daemon = Daemon::start(&settings);
        caught_up(&primary, mongod, settings.database()).await;
        let documents = mongod.changes(settings.database()).await;
        recorded.push(documents[documents.len() - 2..].to_vec());
    }
    let [from_primary, from_replica] = &recorded[..] else {
        unreachable!()
    };
    for (one, other) in from_primary.iter().zip(from_replica) {
        for field in ["_id", "n", "ts"] {
            assert_eq!(one.get(field), other.get(field), "{one} {other}");
        }
        assert_eq!(other.get_str("op").unwrap(), "update");
        assert_eq!(other.get_document("before").unwrap().len(), 2, "{other}");
    }
    assert_eq!(from_primary[0].get_str("op").unwrap(), "statement");
    assert_eq!(from_primary[1].get_document("before").unwrap().len(), 1);
}

/// Half of it read from one server, half from the other, switching back and forth: the very same documents.
async fn a_history_read_by_turns_gives_the_same_documents(flavor: Flavor) {
    let (primary, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    let replica = replica_of(&primary).await;
    history(&primary).await;
    in_sync(&replica, &primary).await;
    let whole = settings(mongod, &[&primary]);
    let daemon = Daemon::start(&whole);
    caught_up(&primary, mongod, whole.database()).await;
    stop(&daemon).await;

    // Each time the line is cut, the next connection goes to the other server.
    let proxies = [Proxy::start(primary.port()), Proxy::start(replica.port())];
    let by_turns = settings(mongod, &[&primary])
        .set(
            "MYSQL_ADDR",
            format!("{},{}", proxies[0].addr(), proxies[1].addr()),
        )
        .set("BATCH_SIZE", 5);
    for proxy in &proxies {
        proxy.delay(Duration::from_millis(15));
    }
    let daemon = Daemon::start(&by_turns);
    let database = mongod.database(by_turns.database()).await;
    let mut turns = 0;
    loop {
        let streams = lines(&daemon, STREAMING).len();
        let n = count(&database).await;
        wait_until("it goes on", SOON, async || {
            !lines(&daemon, STREAMING).is_empty()
                && (count(&database).await > n + 40 || is_all(&primary, &database).await)
        })
        .await;
        if is_all(&primary, &database).await {
            break;
        }
        let (off, on) = if turns % 2 == 0 {
            (&proxies[0], &proxies[1])
        } else {
            (&proxies[1], &proxies[0])
        };
        on.accept().await;
        off.refuse().await;
        turns += 1;
        wait_until("the other server is read", SOON, async || {
            lines(&daemon, STREAMING).len() > streams
        })
        .await;
    }
    assert!(turns >= 3, "only {turns} turns");
    caught_up(&primary, mongod, by_turns.database()).await;
    let recorded = async |settings: &Settings| {
        let database = mongod.database(settings.database()).await;
        let documents = mongo::changes(&database).await;
        documents
            .into_iter()
            .map(comparable)
            .map(without_partial)
            .collect::<Vec<_>>()
    };
    let (expected, found) = (recorded(&whole).await, recorded(&by_turns).await);
    assert_eq!(expected.len(), found.len());
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected, found);
    }
}

/// Which documents are cut depends on BATCH_SIZE, and the two runs differ in it.
fn without_partial(mut document: Document) -> Document {
    document.get_document_mut("meta").unwrap().remove("partial");
    document
}

async fn count(database: &mongodb::Database) -> u64 {
    database
        .collection::<Document>(mongo::CHANGES)
        .estimated_document_count()
        .await
        .unwrap()
}

async fn is_all(mysqld: &Mysqld, database: &mongodb::Database) -> bool {
    let Some(saved) = mongo::saved_gtid(database).await else {
        return false;
    };
    mysqld
        .gtid_subset(&mysqld.executed_gtid().await, &saved)
        .await
}

/// A replica that applied two transactions in another order than the primary: the one that sdl has not read stands before the one by
/// which it recognizes the history.
#[tokio::test]
async fn a_replica_with_another_order_of_commits_is_recognized() {
    let (primary, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    primary.exec(CREATE).await;
    insert(&primary, 3).await;
    let replica = replica_of(&primary).await;
    let proxy = Proxy::start(primary.port());
    let settings = settings(mongod, &[&primary, &replica])
        .set("MYSQL_ADDR", format!("{},{}", proxy.addr(), replica.addr()));
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    replica.exec("STOP REPLICA").await;
    // The last that sdl reads, and one that it does not.
    insert(&primary, 1).await;
    caught_up(&primary, mongod, settings.database()).await;
    proxy.stall();
    insert(&primary, 1).await;
    let uuid: String = primary.query_one("SELECT @@server_uuid").await;
    let last: u64 = {
        let executed = primary.executed_gtid().await;
        executed.rsplit(['-', ':']).next().unwrap().parse().unwrap()
    };
    // Applied in the other order; with its commit time, as an applier would (its statements do the same).
    let binlog = format!("{}/tests-order.sql", primary.datadir().display());
    let mysqlbinlog = crate::common::servers::binaries()
        .mysql
        .with_file_name("mysqlbinlog");
    let dump = |gtid: u64| {
        let output = std::process::Command::new(&mysqlbinlog)
            .args([
                "--read-from-remote-server",
                "--host=127.0.0.1",
                "--user=root",
            ])
            .arg(format!("--port={}", primary.port()))
            .arg(format!("--include-gtids={uuid}:{gtid}"))
            .args(["--to-last-log", "binlog.000001"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    for gtid in [last, last - 1] {
        std::fs::write(&binlog, dump(gtid)).unwrap();
        let status = std::process::Command::new(&crate::common::servers::binaries().mysql)
            .args(["--host=127.0.0.1", "--user=root"])
            .arg(format!("--port={}", replica.port()))
            .stdin(std::fs::File::open(&binlog).unwrap())
            .status()
            .unwrap();
        assert!(status.success());
    }
    has_executed(&replica, &primary.executed_gtid().await).await;
    primary.kill();
    proxy.refuse().await;
    streams_from(&daemon, &replica, 2).await;
    insert(&replica, 1).await;
    caught_up(&replica, mongod, settings.database()).await;
    assert!(!daemon.has_logged("comes a second time"));
    fold::assert_exact(&replica, mongod, settings.database(), &[TABLE]).await;
}
