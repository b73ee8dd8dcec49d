//! What a session can set for itself: other row images, other formats, no texts.

use crate::recorded::notation::{Recorded, on_both_flavors, on_flavor};

on_both_flavors! {
    a_minimal_image_has_the_key_and_what_was_set: "minimal",
    a_minimal_image_of_a_table_without_a_primary_key: "minimal_keyless",
    an_image_without_blobs_leaves_them_out_where_they_did_not_change: "noblob",
    a_statement_that_is_logged_as_text_is_recorded_as_text: "as_text",
    a_mixed_session_logs_text_where_it_is_safe: "mixed",
}

// MariaDB has none of this.
on_flavor! {
    only_on_mysql, Mysql,
    changes_of_json_without_the_value_before_are_kept_as_changes: "json_changes",
    compressed_and_tagged_transactions_are_like_all_others: "tagged",
    a_session_without_texts_has_no_query: "no_texts",
}

on_flavor! {
    on_mariadb_11, Mariadb11,
    an_image_without_duplicates_has_after_it_what_changed: "nodup",
}

async fn an_image_without_duplicates_has_after_it_what_changed(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, a INT, b TEXT)",
                "SET SESSION binlog_row_image = FULL_NODUP",
            ],
            &[
                "INSERT INTO t VALUES (1, 1, 'text')",
                "UPDATE t SET a = 2",
                "UPDATE t SET id = 7, b = NULL",
                "DELETE FROM t",
            ],
            "
            --
            0.0 insert t 1 + {id: 1, a: 1, b: 'text'}
            --
            0.0 update t 1 {id: 1, a: 1, b: 'text'} → {a: 2} (a)
            --
            0.0 update t 1 {id: 1, a: 2, b: 'text'} → {id: 7, b: null} (id, b)
            --
            0.0 delete t 7 - {id: 7, a: 2, b: null}
            ",
        )
        .await;
}

async fn a_minimal_image_has_the_key_and_what_was_set(mut recorded: Recorded) {
    // A column that is not in the `before` is in `changed` when the statement set it: whether it differed is not known.
    let expected = "
            --
            0.0 insert t 3 + {id: 3, a: 1} | INSERT INTO t (id, a) VALUES (3, 1)
            --
            0.0 update t 1 {id: 1} → {a: 5} (a) | UPDATE t SET a = 5 WHERE id = 1
            --
            0.0 update t 2 {id: 2} → {b: 'new', n: null} (b, n) | UPDATE t SET b = 'new', n = NULL WHERE id = 2
            --
            0.0 update t 1 {id: 1} → {id: 11} (id) | UPDATE t SET id = 11 WHERE id = 1
            --
            0.0 delete t 2 - {id: 2} | DELETE FROM t WHERE id = 2
            --
            0.0 update t 11 {id: 11} → {id: 11, a: 5, b: 'text', n: 77} (a, b, n) | INSERT INTO t (id, n) VALUES (11, 0) ON DUPLICATE KEY UPDATE n = 77
            --
            0.0 update t 11 {id: 11} → {id: 11, a: 9, b: 'r', n: 9} (a, b, n) | REPLACE INTO t VALUES (11, 9, 'r', 9)
            --
            0.0 update k {b: 2, a: 1} {a: 1, b: 2} → {a: 7} (a) | UPDATE k SET a = 7
            --
            0.0 update k {b: 2, a: 7} {a: 7, b: 2} → {d: 8} (d) | UPDATE k SET d = 8
            --
            0.0 update g 1 {id: 1} → {a: 2, v: 3, s: 4} (a, v, s) | UPDATE g SET a = 2
            ";
    // MariaDB leaves out more: what a statement did not set, and what is computed where it is read.
    let expected = recorded.pick(
        expected.to_owned(),
        expected
            .replace(
                "{id: 11, a: 5, b: 'text', n: 77} (a, b, n)",
                "{id: 11, n: 77} (n)",
            )
            .replace("{a: 2, v: 3, s: 4} (a, v, s)", "{a: 2, s: 4} (a, s)"),
    );
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, a INT, b TEXT, n INT DEFAULT 5)",
                "INSERT INTO t VALUES (1, 1, 'text', 1), (2, 2, 'text', 2)",
                "CREATE TABLE k (a INT, b INT, c TEXT, d INT, PRIMARY KEY (b, a))",
                "INSERT INTO k VALUES (1, 2, 'x', 0)",
                "CREATE TABLE g (id INT PRIMARY KEY, a INT, v INT AS (a + 1) VIRTUAL, s INT AS (a + 2) STORED)",
                "INSERT INTO g (id, a) VALUES (1, 1)",
                "SET SESSION binlog_row_image = MINIMAL",
            ],
            &[
                "INSERT INTO t (id, a) VALUES (3, 1)",
                "UPDATE t SET a = 5 WHERE id = 1",
                // The key is not in the image after it.
                "UPDATE t SET b = 'new', n = NULL WHERE id = 2",
                // The key itself changes.
                "UPDATE t SET id = 11 WHERE id = 1",
                "DELETE FROM t WHERE id = 2",
                "INSERT INTO t (id, n) VALUES (11, 0) ON DUPLICATE KEY UPDATE n = 77",
                "REPLACE INTO t VALUES (11, 9, 'r', 9)",
                "UPDATE k SET a = 7",
                "UPDATE k SET d = 8",
                "UPDATE g SET a = 2",
            ],
            &expected,
        )
        .await;
}

async fn a_minimal_image_of_a_table_without_a_primary_key(mut recorded: Recorded) {
    let after = recorded.pick("{a: 2} (a)", "{a: 2, b: 2} (a)");
    recorded
        .records(
            &[
                "CREATE TABLE none (a INT, b INT)",
                "INSERT INTO none VALUES (1, 2)",
                "CREATE TABLE stands_in (a INT NOT NULL UNIQUE, b INT, c INT)",
                "INSERT INTO stands_in VALUES (1, 1, 1)",
                "SET SESSION binlog_row_image = MINIMAL",
            ],
            &[
                "UPDATE none SET a = 2",
                "DELETE FROM none",
                "UPDATE stands_in SET b = 2",
                "UPDATE stands_in SET a = 3",
                "DELETE FROM stands_in",
            ],
            &format!(
                "
            --
            0.0 update none {{a: 1, b: 2}} → {after} | UPDATE none SET a = 2
            --
            0.0 delete none - {{a: 2, b: 2}} | DELETE FROM none
            --
            0.0 update stands_in 1 {{a: 1}} → {{b: 2}} (b) | UPDATE stands_in SET b = 2
            --
            0.0 update stands_in 1 {{a: 1}} → {{a: 3}} (a) | UPDATE stands_in SET a = 3
            --
            0.0 delete stands_in 3 - {{a: 3}} | DELETE FROM stands_in
            "
            ),
        )
        .await;
}

async fn an_image_without_blobs_leaves_them_out_where_they_did_not_change(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, a INT, b TEXT)",
                "INSERT INTO t VALUES (1, 1, 'text')",
                "SET SESSION binlog_row_image = NOBLOB",
            ],
            &[
                "INSERT INTO t VALUES (2, 2, 'other')",
                "UPDATE t SET a = 6 WHERE id = 1",
                "UPDATE t SET b = 'zzz' WHERE id = 1",
                "DELETE FROM t WHERE id = 1",
            ],
            "
            --
            0.0 insert t 2 + {id: 2, a: 2, b: 'other'} | INSERT INTO t VALUES (2, 2, 'other')
            --
            0.0 update t 1 {id: 1, a: 1} → {id: 1, a: 6} (a) | UPDATE t SET a = 6 WHERE id = 1
            --
            0.0 update t 1 {id: 1, a: 6} → {id: 1, a: 6, b: 'zzz'} (b) | UPDATE t SET b = 'zzz' WHERE id = 1
            --
            0.0 delete t 1 - {id: 1, a: 6} | DELETE FROM t WHERE id = 1
            ",
        )
        .await;
}

async fn changes_of_json_without_the_value_before_are_kept_as_changes(mut recorded: Recorded) {
    // With the value before (tests/values has every form) the changes are applied to it.
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, j JSON, n INT)",
                r#"INSERT INTO t VALUES (1, '{"a": 1, "b": [1, 2, {"c": "a long text so that changes are shorter"}]}', 1)"#,
                "SET SESSION binlog_row_value_options = PARTIAL_JSON",
            ],
            &[
                "UPDATE t SET j = JSON_SET(j, '$.a', 99)",
                "SET SESSION binlog_row_image = MINIMAL",
                "UPDATE t SET j = JSON_REMOVE(j, '$.b[0]')",
                "UPDATE t SET j = JSON_SET(j, '$.b[0]', 'x', '$.a', NULL), n = 2",
                "UPDATE t SET n = 3",
            ],
            "
            --
            0.0 update t 1 {id: 1, j: {a: 1, b: [1, 2, {c: 'a long text so that changes are shorter'}]}, n: 1} → {id: 1, j: {a: 99, b: [1, 2, {c: 'a long text so that changes are shorter'}]}, n: 1} (j) | UPDATE t SET j = JSON_SET(j, '$.a', 99)
            --
            0.0 update t 1 {id: 1} → {j: {$jsonDiff: [{op: 'remove', path: '$.b[0]'}]}} (j) | UPDATE t SET j = JSON_REMOVE(j, '$.b[0]')
            --
            0.0 update t 1 {id: 1} → {j: {$jsonDiff: [{op: 'replace', path: '$.b[0]', value: 'x'}, {op: 'replace', path: '$.a', value: {$json: 'null'}}]}, n: 2} (j, n) | UPDATE t SET j = JSON_SET(j, '$.b[0]', 'x', '$.a', NULL), n = 2
            --
            0.0 update t 1 {id: 1} → {n: 3} (n) | UPDATE t SET n = 3
            ",
        )
        .await;
}

async fn a_statement_that_is_logged_as_text_is_recorded_as_text(mut recorded: Recorded) {
    // The values that the text refers to (@v, RAND(), the next id, the file) are not recorded; an operator is warned.
    let file = recorded.daemon.directory().join("lines.txt");
    std::fs::write(&file, "l1\nl2\n").unwrap();
    let load = format!("LOAD DATA INFILE '{}' INTO TABLE t (v)", file.display());
    recorded
        .run(&[
            "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(100))",
            "SET SESSION binlog_format = STATEMENT",
            "SET @v = 'käse'",
        ])
        .await;
    let from = recorded.mark().await;
    recorded
        .run(&[
            "INSERT INTO t (v) VALUES (@v), (RAND())",
            "BEGIN",
            "INSERT INTO t (v) VALUES ('b')",
            "SAVEPOINT a",
            "INSERT INTO t (v) VALUES ('c')",
            "ROLLBACK TO a",
            "DELETE FROM t WHERE v = 'd'",
            "COMMIT",
            &load,
            "CREATE TABLE s SELECT 1 AS a",
            "CREATE TEMPORARY TABLE passing (id INT)",
            "INSERT INTO passing VALUES (1)",
            "DROP TEMPORARY TABLE passing",
            "SET SESSION binlog_format = ROW",
        ])
        .await;
    let expected = format!(
        "
        --
        0.0 statement | INSERT INTO t (v) VALUES (@v), (RAND())
        --
        0.0 statement | INSERT INTO t (v) VALUES ('b')
        1.1 statement | DELETE FROM t WHERE v = 'd'
        --
        0.0 statement | LOAD DATA INFILE '{}' INTO TABLE `t` FIELDS TERMINATED BY '\\t' ENCLOSED BY '' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' (`v`)
        --
        0.0 ddl s | CREATE TABLE s SELECT 1 AS a
        --
        0.0 ddl passing | CREATE TEMPORARY TABLE passing (id INT)
        --
        0.0 statement | INSERT INTO passing VALUES (1)
        --
        0.0 ddl passing | DROP TEMPORARY TABLE `passing` /* generated by server */
        ",
        file.display()
    );
    recorded.expect_from(from, &expected).await;
    assert!(
        recorded
            .daemon
            .has_logged("a data change was logged as its statement")
    );
}

async fn a_mixed_session_logs_text_where_it_is_safe(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40))",
                "SET SESSION binlog_format = MIXED",
            ],
            &[
                "INSERT INTO t (v) VALUES ('plain')",
                "BEGIN",
                "INSERT INTO t (v) VALUES ('again')",
                "INSERT INTO t (v) SELECT SLEEP(0)",
                "UPDATE t SET v = 'end' WHERE id = 1",
                "COMMIT",
            ],
            "
            --
            0.0 statement | INSERT INTO t (v) VALUES ('plain')
            --
            0.0 statement | INSERT INTO t (v) VALUES ('again')
            1.1 insert t 3 + {id: 3, v: '0'} | INSERT INTO t (v) SELECT SLEEP(0)
            2.2 statement | UPDATE t SET v = 'end' WHERE id = 1
            ",
        )
        .await;
}

async fn a_session_without_texts_has_no_query(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY)",
                "SET binlog_rows_query_log_events = OFF",
            ],
            &[
                "BEGIN",
                "INSERT INTO t VALUES (1), (2)",
                "DELETE FROM t WHERE id = 1",
                "COMMIT",
                "ALTER TABLE t ADD v INT",
            ],
            "
            --
            0.0 insert t 1 + {id: 1}
            0.1 insert t 2 + {id: 2}
            1.2 delete t 1 - {id: 1}
            --
            0.0 ddl t | ALTER TABLE t ADD v INT
            ",
        )
        .await;
}

async fn compressed_and_tagged_transactions_are_like_all_others(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
                "SET SESSION binlog_transaction_compression = ON",
                "SET gtid_next = 'AUTOMATIC:audit'",
            ],
            &[
                "BEGIN",
                "INSERT INTO t VALUES (1, 1), (2, 2)",
                "UPDATE t SET v = 3 WHERE id = 2",
                "COMMIT",
                "SET SESSION binlog_transaction_compression = OFF",
                "DELETE FROM t WHERE id = 1",
                "ALTER TABLE t ADD w INT",
                "SET gtid_next = 'AUTOMATIC'",
                "DELETE FROM t",
            ],
            "
            --
            0.0 insert t 1 + {id: 1, v: 1} | INSERT INTO t VALUES (1, 1), (2, 2)
            0.1 insert t 2 + {id: 2, v: 2}
            1.2 update t 2 {id: 2, v: 2} → {id: 2, v: 3} (v) | UPDATE t SET v = 3 WHERE id = 2
            --
            0.0 delete t 1 - {id: 1, v: 1} | DELETE FROM t WHERE id = 1
            --
            0.0 ddl t | ALTER TABLE t ADD w INT
            --
            0.0 delete t 2 - {id: 2, v: 3, w: null} | DELETE FROM t
            ",
        )
        .await;
}
