//! Forms of the binlog that few servers use, an operator who sets the offset back, and what must never be printed.

use super::*;

// --- forms of the binlog

#[tokio::test]
async fn tagged_transactions_are_recorded_and_resumed() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        .await;
    let settings = Settings::new(&mysqld, mongod);
    let mut session = mysqld.root().await;
    let mut insert = async |tag: &str, id: i32| {
        session
            .query_drop(format!("SET gtid_next = '{tag}'"))
            .await
            .unwrap();
        session
            .query_drop(format!("INSERT INTO shop.t VALUES ({id})"))
            .await
            .unwrap();
    };
    let uuid: String = mysqld.query_one("SELECT @@server_uuid").await;
    let daemon = Daemon::start(&settings);
    insert("AUTOMATIC:tag1", 1).await;
    insert("AUTOMATIC", 2).await;
    insert("AUTOMATIC:tag1", 3).await;
    insert("AUTOMATIC:other", 4).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    // Once in order, once killed.
    stop(&daemon).await;
    insert("AUTOMATIC:tag1", 5).await;
    let daemon = Daemon::start(&settings);
    insert("AUTOMATIC", 6).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    daemon.kill9();
    insert("AUTOMATIC:new", 7).await;
    insert("AUTOMATIC:tag1", 8).await;
    let _daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.t"]).await;
    let target = mongod.database(settings.database()).await;
    let rows = rows_of(&target, "shop").await;
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                after(row).get_i32("id").unwrap(),
                meta(row).get_str("gtid").unwrap().to_owned(),
            )
        })
        .collect();
    let expected = [
        (1, "tag1:1"),
        (2, "3"),
        (3, "tag1:2"),
        (4, "other:1"),
        (5, "tag1:3"),
        (6, "4"),
        (7, "new:1"),
        (8, "tag1:4"),
    ];
    assert_eq!(
        found,
        expected.map(|(id, rest)| (id, format!("{uuid}:{rest}")))
    );
}

#[tokio::test]
async fn compressed_transactions_without_checksums_across_rotations_are_exact() {
    let (mysqld, mongod) = tokio::join!(
        Mysqld::start_with(&["--log-bin-trust-function-creators=ON"]),
        Mongod::shared()
    );
    mysqld
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(200), j JSON);
             CREATE TABLE shop.digit (d INT PRIMARY KEY); INSERT INTO shop.digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)",
        )
        .await;
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    let mut next = 0;
    for checksum in ["CRC32", "NONE", "CRC32", "NONE"] {
        mysqld
            .exec(format!("SET GLOBAL binlog_checksum = {checksum}"))
            .await;
        for compression in ["ON", "OFF"] {
            next += 10_000;
            let sql = format!(
                "USE shop; SET SESSION binlog_transaction_compression = {compression};
                 INSERT INTO shop.t VALUES ({next}, REPEAT('a', 200), '{{\"k\": [1, 2]}}');
                 BEGIN; UPDATE shop.t SET v = REPEAT('b', 100); DELETE FROM shop.t WHERE id = {next} - 10000; COMMIT;
                 INSERT INTO shop.t SELECT {next} + 1 + a.d * 100 + b.d * 10 + c.d, SHA2(RAND(1), 256), NULL
                     FROM shop.digit a, shop.digit b, shop.digit c;
                 FLUSH BINARY LOGS;
                 UPDATE shop.t SET j = JSON_OBJECT('v', v) WHERE id = {next}"
            );
            mysqld.exec(sql).await;
        }
    }
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(
        &mysqld,
        mongod,
        settings.database(),
        &["shop.t", "shop.digit"],
    )
    .await;
    let reconnects = daemon
        .logs()
        .iter()
        .filter(|line| line.contains("Connected to MySQL"))
        .count();
    assert_eq!(
        reconnects,
        1,
        "none of it broke the stream: {:#?}",
        daemon.logs()
    );

    // A large one, well over every buffer on the way; about 30 MB before compression.
    mysqld
        .exec(
            "USE shop; CREATE TABLE shop.large (id INT PRIMARY KEY, v VARCHAR(200));
             SET SESSION binlog_transaction_compression = ON;
             INSERT INTO shop.large SELECT a.d * 10000 + b.d * 1000 + c.d * 100 + d.d * 10 + e.d, REPEAT(SHA2(a.d, 256), 3)
                 FROM shop.digit a, shop.digit b, shop.digit c, shop.digit d, shop.digit e",
        )
        .await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let target = mongod.database(settings.database()).await;
    let changes: Collection<Document> = target.collection(mongo::CHANGES);
    let of_large = doc! { "meta.tbl": "large", "op": "insert", "meta.partial": true };
    assert_eq!(changes.count_documents(of_large).await.unwrap(), 100_000);
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.large"]).await;
    println!(
        "peak memory with a compressed transaction of 100,000 rows (20 MB): {} MiB",
        daemon.peak_memory() >> 20
    );
}

// --- an operator's hand

#[tokio::test]
async fn an_offset_set_back_by_hand_leaves_out_what_is_there_and_leaves_no_gap() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(40))")
        .await;
    let settings = Settings::new(&mysqld, mongod).set("BATCH_SIZE", 7);
    let target = mongod.database(settings.database()).await;
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    let older = mongo::offset(&target).await.unwrap();
    for id in 0..20 {
        mysqld
            .exec(format!("INSERT INTO shop.t VALUES ({id}, 'x')"))
            .await;
    }
    // Larger than a batch, so it is cut.
    mysqld.exec("UPDATE shop.t SET v = 'y'").await;
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    let before = mongo::changes(&target).await;

    set_offset(&target, doc! { "gtid": older.get_str("gtid").unwrap() }).await;
    mysqld.exec("INSERT INTO shop.t VALUES (100, 'new')").await;
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    let after = mongo::changes(&target).await;
    assert_eq!(
        after[..before.len()],
        before[..],
        "not one of them was written again"
    );
    assert_eq!(after.len(), before.len() + 1);
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.t"]).await;
    let left_out: usize = daemon
        .logs()
        .iter()
        .filter(|line| line.contains("left out"))
        .filter_map(|line| {
            line.split("left_out=")
                .nth(1)?
                .split(' ')
                .next()?
                .parse::<usize>()
                .ok()
        })
        .sum();
    assert_eq!(left_out, 40, "{:#?}", daemon.logs());
    stop(&daemon).await;

    // All fields set back, as who restores an old offset document does: n and batch are older, too.
    set_offset(
        &target,
        doc! { "gtid": older.get_str("gtid").unwrap(), "batch": older.get_i64("batch").unwrap() },
    )
    .await;
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    assert_eq!(mongo::changes(&target).await, after);
    stop(&daemon).await;

    // One that is there and differs is no replay.
    let changes: Collection<Document> = target.collection(mongo::CHANGES);
    let victim = before.last().unwrap().get_str("_id").unwrap();
    changes
        .update_one(
            doc! { "_id": victim },
            doc! { "$set": { "after.v": "planted-value" } },
        )
        .await
        .unwrap();
    set_offset(&target, doc! { "gtid": older.get_str("gtid").unwrap() }).await;
    let daemon = Daemon::start(&settings);
    assert_eq!(daemon.wait_exit(SOON).await.0, 3);
    let logs = daemon.logs();
    let error = logs
        .iter()
        .find(|line| line.contains("exit=3"))
        .unwrap_or_else(|| panic!("{logs:#?}"));
    assert!(
        error.contains(victim) && error.contains("differs"),
        "{error}"
    );
    assert!(
        !logs.iter().any(|line| line.contains("planted-value")),
        "{logs:#?}"
    );
    let still = mongo::changes(&target).await;
    assert_eq!(still.len(), after.len(), "nothing was written over it");
}

#[tokio::test]
async fn a_whole_old_offset_restored_is_told_apart_from_a_replay() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        .await;
    let settings = Settings::new(&mysqld, mongod);
    let target = mongod.database(settings.database()).await;
    let daemon = Daemon::start(&settings);
    mysqld.exec("INSERT INTO shop.t VALUES (1)").await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let older = mongo::offset(&target).await.unwrap();
    mysqld.exec("INSERT INTO shop.t VALUES (2), (3)").await;
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    let before = mongo::changes(&target).await;
    // With `n` set back as well: the documents are there, so their numbers are taken. Either it ends with the same documents
    // and goes on behind them, or it says what is wrong; never a second document, never a gap.
    set_offset(
        &target,
        doc! { "gtid": older.get_str("gtid").unwrap(), "batch": older.get_i64("batch").unwrap(), "n": older.get_i64("n").unwrap() },
    )
    .await;
    mysqld.exec("INSERT INTO shop.t VALUES (4)").await;
    let daemon = Daemon::start(&settings);
    wait_until("it goes on, or stops", SOON, async || {
        !daemon.is_running() || mongo::changes(&target).await.len() > before.len()
    })
    .await;
    let now = mongo::changes(&target).await;
    assert_eq!(now[..before.len()], before[..]);
    if daemon.is_running() {
        caught_up(&mysqld, mongod, settings.database()).await;
        fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.t"]).await;
    } else {
        assert_eq!(daemon.wait_exit(SOON).await.0, 3);
        let logs = daemon.logs();
        let error = logs
            .iter()
            .find(|line| line.contains("exit=3"))
            .unwrap_or_else(|| panic!("{logs:#?}"));
        assert!(error.contains("n = "), "{error}");
    }
    println!(
        "an old offset restored whole, n included: {}",
        if daemon.is_running() {
            "goes on"
        } else {
            "stops"
        }
    );
}

// --- what must not be seen

#[tokio::test]
async fn neither_a_secret_nor_a_row_value_is_ever_printed() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    const SECRET: &str = "planted-password";
    const VALUE: &str = "planted-value";
    mysqld
        .exec(format!(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(60), u VARCHAR(60) CHARACTER SET ucs2, j JSON);
             CREATE USER planted IDENTIFIED BY '{SECRET}'; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO planted"
        ))
        .await;
    let mut outputs = Vec::new();
    let settings = Settings::new(&mysqld, mongod)
        .set("MYSQL_USER", "planted")
        .set("MYSQL_PASS", SECRET)
        .set("RUST_LOG", "trace");
    let target = mongod.database(settings.database()).await;
    let daemon = Daemon::start(&settings);
    let work = |first: i32| {
        format!(
            "INSERT INTO shop.t VALUES ({first}, '{VALUE}', _ucs2 X'D800', '{{\"{VALUE}\": \"{VALUE}\"}}');
             UPDATE shop.t SET v = CONCAT(v, '{VALUE}') WHERE id = {first};
             SET SESSION binlog_format = STATEMENT; DELETE FROM shop.t WHERE v = '{VALUE}'; SET SESSION binlog_format = ROW;
             ALTER TABLE shop.t COMMENT '{VALUE} {first}';
             INSERT INTO shop.t VALUES ({first} + 1, '{VALUE}', NULL, NULL)"
        )
    };
    mysqld.exec(work(1)).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    // Its connection is cut, a validator gets in the way, it is killed and recovers.
    let dump: Option<u64> = mysqld
        .query("SELECT id FROM information_schema.processlist WHERE user = 'planted'")
        .await
        .into_iter()
        .next();
    mysqld.exec(format!("KILL {}", dump.unwrap())).await;
    set_validator(&target, doc! { "after.v": { "$ne": VALUE } }).await;
    mysqld.exec(work(11)).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    set_validator(&target, doc! { "impossible": true }).await;
    mysqld.exec(work(21)).await;
    assert_eq!(daemon.wait_exit(SOON).await.0, 3);
    outputs.extend(daemon.logs());
    set_validator(&target, doc! {}).await;
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Recovering", SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    outputs.extend(daemon.logs());

    // Refused, on either side; MongoDB's password stands in a URI.
    let mut refused = vec![
        settings
            .clone()
            .set("MYSQL_PASS", format!("wrong-{SECRET}")),
        settings.clone().set(
            "MONGO_URI",
            format!(
                "mongodb://auditor:{SECRET}@{}/?replicaSet=rs0&authSource=admin",
                mongod.addr()
            ),
        ),
        settings.clone().set(
            "MONGO_URI",
            format!(
                "mongodb://auditor:{SECRET}@{}/?replicaSet=rs0&tls=true&tlsInsecure=maybe",
                mongod.addr()
            ),
        ),
        settings.clone().set(
            "MONGO_URI",
            format!(
                "mongodb://auditor:{SECRET}@{}@x/?replicaSet=rs0",
                mongod.addr()
            ),
        ),
        settings.set("MYSQL_ADDR", format!("root:{SECRET}@{}", mysqld.addr())),
    ];
    for settings in refused.drain(..) {
        let daemon = Daemon::start(&settings);
        let (code, _) = daemon.wait_exit(SOON).await;
        assert!(code == 3 || code == 64, "{code}: {:#?}", daemon.logs());
        outputs.extend(daemon.logs());
    }
    assert!(
        outputs.len() > 50,
        "this was not quiet: {} lines",
        outputs.len()
    );
    for line in &outputs {
        for planted in [SECRET, VALUE, mysql::PASSWORD] {
            assert!(!line.contains(planted), "{line}");
        }
    }
}
