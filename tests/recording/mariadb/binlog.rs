//! Other ways in which MariaDB writes a binlog: events compressed one by one, files encrypted, a transaction that becomes a
//! file of its own.

use super::{Reading, event_types, op, query};
use crate::common::servers::Scratch;
use crate::common::{Flavor, fold, on_every_mariadb};
use mysql_async::Row;

on_every_mariadb! {
    compressed_events_are_read_like_the_others,
    an_encrypted_binlog_is_read_like_another,
    a_transaction_larger_than_the_commit_threshold_is_read,
    checksums_can_be_off,
    the_server_ends_and_comes_back_under_the_daemon,
}

/// `log_bin_compress`: rows of every size above the limit and below it, and statements.
async fn compressed_events_are_read_like_the_others(flavor: Flavor) {
    let options = [
        "--log-bin-compress=ON",
        "--log-bin-compress-min-len=10",
        "--binlog-row-event-max-size=4096",
    ];
    let reading = Reading::of(flavor, &options).await;
    let comment = "long ".repeat(300);
    reading
        .mysqld
        .exec(format!(
            "CREATE DATABASE c; CREATE TABLE c.t (id INT PRIMARY KEY, v LONGTEXT, b LONGBLOB) COMMENT '{comment}';
             USE c;
             INSERT INTO t VALUES (1, '', NULL), (2, 'short', x'00'), (3, REPEAT('x', 3000), NULL), (4, REPEAT('ü', 70000), REPEAT(x'00', 66000));
             INSERT INTO t SELECT 10 + seq, CONCAT(seq, REPEAT('ab', seq)), NULL FROM seq_1_to_900;
             INSERT INTO t VALUES (1001, REPEAT('0123456789', 1800000), NULL);
             UPDATE t SET v = CONCAT(v, '!') WHERE id < 500;
             UPDATE t SET b = RANDOM_BYTES(1000) WHERE id % 7 = 0;
             DELETE FROM t WHERE id % 3 = 0;
             DELETE FROM t WHERE id = 1001"
        ))
        .await;
    // Bytes that do not shrink, more than a packet of 16 MiB holds.
    for part in 0..17 {
        reading
            .mysqld
            .exec(format!(
                "USE c; INSERT INTO t (id, b) SELECT {}, CONCAT_WS('', GROUP_CONCAT(RANDOM_BYTES(1024) SEPARATOR '')) FROM seq_1_to_900",
                2000 + part
            ))
            .await;
    }
    reading
        .mysqld
        .exec(
            "SET SESSION group_concat_max_len = 1 << 30; INSERT INTO c.t (id, b) SELECT 3000, GROUP_CONCAT(b SEPARATOR '') FROM c.t WHERE id >= 2000",
        )
        .await;
    let types = event_types(&reading.mysqld).await;
    for expected in [
        "Write_rows_compressed_v1",
        "Update_rows_compressed_v1",
        "Delete_rows_compressed_v1",
        "Query_compressed",
        "Write_rows_v1",
    ] {
        assert!(types.contains_key(expected), "no {expected}: {types:?}");
    }
    // It stands beside its document, under the hash of its content.
    let (sum, bytes): (String, i64) = reading
        .mysqld
        .query_one("SELECT SHA2(b, 256), LENGTH(b) FROM c.t WHERE id = 3000")
        .await;
    reading.mysqld.exec("DELETE FROM c.t WHERE id = 3000").await;
    reading.assert_exact(&["c.t"]).await;
    let documents = reading.documents().await;
    let large = documents.last().unwrap().get_document("before").unwrap();
    let large = large.get_document("b").unwrap();
    assert_eq!(large.get_str("$value").unwrap(), sum);
    assert_eq!(large.get_i64("bytes").unwrap(), bytes);
    let created = &documents[1];
    assert_eq!(op(created), "ddl");
    assert!(query(created).contains(&comment), "the whole statement");
}

/// The key stays on the server: what it sends is plain. But it begins each file with an event of its own.
async fn an_encrypted_binlog_is_read_like_another(flavor: Flavor) {
    let scratch = Scratch::new("key");
    let key = scratch.path().join("keys");
    std::fs::write(&key, format!("1;{}\n", "0123456789abcdef".repeat(4))).unwrap();
    let filename = format!("--file-key-management-filename={}", key.display());
    let reading = Reading::of(
        flavor,
        &[
            "--plugin-load-add=file_key_management",
            &filename,
            "--encrypt-binlog=ON",
        ],
    )
    .await;
    reading
        .mysqld
        .exec("CREATE DATABASE e; CREATE TABLE e.t (id INT PRIMARY KEY, v LONGTEXT); INSERT INTO e.t VALUES (1, 'a'); FLUSH BINARY LOGS")
        .await;
    reading
        .mysqld
        .exec("UPDATE e.t SET v = REPEAT('b', 100000); INSERT INTO e.t VALUES (2, 'c')")
        .await;
    assert!(
        event_types(&reading.mysqld)
            .await
            .contains_key("Start_encryption")
    );
    reading.assert_exact(&["e.t"]).await;
}

/// 11.7 and later: such a transaction's cache file becomes the binlog (`binlog_large_commit_threshold`, 10 MiB at least).
async fn a_transaction_larger_than_the_commit_threshold_is_read(flavor: Flavor) {
    let reading = Reading::of(flavor, &["--loose-binlog-large-commit-threshold=10485760"]).await;
    reading
        .mysqld
        .exec(
            "CREATE DATABASE l; CREATE TABLE l.t (id INT PRIMARY KEY, v LONGTEXT); INSERT INTO l.t VALUES (0, 'before');
             USE l; INSERT INTO t SELECT seq, REPEAT(CHAR(65 + seq % 26), 200000) FROM seq_1_to_100;
             INSERT INTO t VALUES (1000, 'after'); DELETE FROM t WHERE id BETWEEN 1 AND 80; INSERT INTO t VALUES (1001, 'after')",
        )
        .await;
    let files = reading.mysqld.query::<Row>("SHOW BINARY LOGS").await.len();
    assert_eq!(
        files > 1,
        flavor == Flavor::Mariadb11,
        "{files} binlog files: whether such a transaction got one of its own"
    );
    reading.assert_exact(&["l.t"]).await;
}

async fn checksums_can_be_off(flavor: Flavor) {
    let reading = Reading::of(flavor, &["--binlog-checksum=NONE"]).await;
    reading
        .mysqld
        .exec(
            "CREATE DATABASE k; CREATE TABLE k.t (id INT PRIMARY KEY); INSERT INTO k.t VALUES (1)",
        )
        .await;
    // Each change of it begins a new file, and a reader is told.
    reading
        .mysqld
        .exec("SET GLOBAL binlog_checksum = CRC32; INSERT INTO k.t VALUES (2)")
        .await;
    reading
        .mysqld
        .exec("SET GLOBAL binlog_checksum = NONE; INSERT INTO k.t VALUES (3)")
        .await;
    reading.assert_exact(&["k.t"]).await;
    let problems = fold::sequence(&reading.documents().await);
    assert!(problems.is_empty(), "{problems:?}");
}

/// A clean end of the server is a clean end of the stream too, and not the end of the daemon.
async fn the_server_ends_and_comes_back_under_the_daemon(flavor: Flavor) {
    let reading = Reading::of(flavor, &[]).await;
    reading
        .mysqld
        .exec("CREATE DATABASE r; CREATE TABLE r.t (id INT AUTO_INCREMENT PRIMARY KEY)")
        .await;
    for clean in [true, false] {
        reading.mysqld.exec("INSERT INTO r.t VALUES ()").await;
        reading.assert_exact(&["r.t"]).await;
        reading.mysqld.exec("INSERT INTO r.t VALUES ()").await;
        if clean {
            reading.mysqld.restart().await;
        } else {
            reading.mysqld.kill();
            reading.mysqld.start_again().await;
        }
        reading.mysqld.exec("INSERT INTO r.t VALUES ()").await;
        reading.assert_exact(&["r.t"]).await;
        assert!(reading.daemon.is_running());
    }
}
