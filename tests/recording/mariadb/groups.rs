//! What each kind of statement leaves in the binlog of MariaDB, and so in the audit.

use super::{Reading, meta, op, ops, query};
use crate::common::audit::Audit;
use crate::common::fold::Tables;
use crate::common::{Flavor, fold, on_every_mariadb};
use mongodb::bson::{Bson, Document, doc};

on_every_mariadb! {
    every_schema_change_is_one_document,
    an_alter_in_two_phases_is_one_document_when_it_took_effect,
    rows_of_create_table_select_follow_their_table,
    tables_without_transactions_are_recorded_as_they_are,
    rows_undone_by_a_savepoint_are_not_in_the_fold,
    xa_rows_stand_at_prepare_and_what_became_of_them_follows,
    a_sequence_is_recorded_each_time_it_reserves_numbers,
    a_system_versioned_table_shows_its_history_rows,
    keys_of_mariadbs_own_types_are_text,
    statements_of_every_kind_fold_to_the_tables,
    a_statement_that_was_not_logged_as_rows_is_its_text,
    images_that_a_session_made_smaller_leave_columns_out,
}

fn after(document: &Document) -> &Document {
    document.get_document("after").unwrap()
}

fn gtid(document: &Document) -> &str {
    meta(document).get_str("gtid").unwrap()
}

async fn every_schema_change_is_one_document(flavor: Flavor) {
    let mut audit = Audit::on(flavor, "changes").await;
    let statements = [
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "ALTER TABLE t ADD COLUMN v INT",
        "CREATE OR REPLACE TABLE t (id INT PRIMARY KEY, w INT)",
        "CREATE VIEW seen AS SELECT id FROM t",
        "CREATE SEQUENCE s",
        "CREATE TRIGGER late BEFORE INSERT ON t FOR EACH ROW SET NEW.w = 7",
        "CREATE INDEX i ON t (w)",
        "RENAME TABLE t TO u",
        "TRUNCATE TABLE u",
        "DROP TABLE u",
    ];
    audit.run(&statements).await;
    let documents = audit.documents().await;
    let found: Vec<&str> = documents.iter().map(query).collect();
    assert_eq!(documents.len(), statements.len(), "{found:#?}");
    for (document, statement) in documents.iter().zip(statements) {
        assert_eq!(op(document), "ddl");
        let names = statement.split_whitespace().next().unwrap();
        assert!(
            query(document).starts_with(names),
            "{} for {statement}",
            query(document)
        );
        assert_eq!(meta(document).get_str("db").unwrap(), "changes");
        assert_eq!(
            meta(document)
                .get_i32("row")
                .map(i64::from)
                .or_else(|_| meta(document).get_i64("row"))
                .unwrap(),
            0
        );
    }
    let mut gtids: Vec<&str> = documents.iter().map(gtid).collect();
    gtids.dedup();
    assert_eq!(gtids.len(), statements.len(), "each is a transaction");
}

/// `binlog_alter_two_phase`: an ALTER TABLE is logged when it begins and again when it is done, or given up.
async fn an_alter_in_two_phases_is_one_document_when_it_took_effect(flavor: Flavor) {
    let reading = Reading::of(flavor, &["--binlog-alter-two-phase=ON"]).await;
    reading
        .mysqld
        .exec(
            "CREATE DATABASE a; USE a; CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1, 5), (2, 5);
             ALTER TABLE t ADD COLUMN w INT DEFAULT 3",
        )
        .await;
    // Begun, and given up for the two rows of one value: it never was.
    reading
        .mysqld
        .try_exec("ALTER TABLE a.t ADD UNIQUE (v)")
        .await
        .expect_err("there are two of them");
    reading
        .mysqld
        .exec("INSERT INTO a.t VALUES (3, 6, 4); ALTER TABLE a.t DROP COLUMN v")
        .await;
    let documents = reading.documents().await;
    let changes: Vec<&str> = documents
        .iter()
        .filter(|document| op(document) == "ddl")
        .map(query)
        .filter(|query| query.starts_with("ALTER"))
        .collect();
    assert_eq!(
        changes,
        [
            "ALTER TABLE t ADD COLUMN w INT DEFAULT 3",
            "ALTER TABLE a.t DROP COLUMN v"
        ]
    );
    let effect = |tables: &mut Tables, change: &Document| {
        let table = tables.entry("a.t".to_owned()).or_default();
        if query(change).contains("ADD COLUMN") {
            table.alter(|row| drop(row.insert("w", 3)));
        } else if query(change).contains("DROP COLUMN") {
            table.alter(|row| drop(row.remove("v")));
        }
    };
    fold::assert_exact_with(
        &reading.mysqld,
        reading.mongod,
        reading.settings.database(),
        &["a.t"],
        &effect,
    )
    .await;
}

async fn rows_of_create_table_select_follow_their_table(flavor: Flavor) {
    let mut audit = Audit::on(flavor, "made").await;
    audit
        .run(&[
            "CREATE TABLE source (id INT PRIMARY KEY, v VARCHAR(20))",
            "INSERT INTO source VALUES (1, 'one'), (2, 'two')",
            "CREATE TABLE i ENGINE=InnoDB AS SELECT * FROM source",
            "CREATE TABLE a ENGINE=Aria AS SELECT * FROM source",
            "CREATE TABLE m ENGINE=MyISAM AS SELECT * FROM source",
            "CREATE OR REPLACE TABLE i (PRIMARY KEY (id)) AS SELECT * FROM source WHERE id > 1",
            // No row.
            "CREATE TABLE none AS SELECT * FROM source WHERE id > 9",
        ])
        .await;
    let documents = audit.documents().await;
    let made: Vec<(&str, usize)> = vec![("i", 2), ("a", 2), ("m", 2), ("i", 1), ("none", 0)];
    let mut rest = &documents[3..];
    for (table, rows) in made {
        let (statement, others) = rest.split_first().unwrap();
        assert_eq!(op(statement), "ddl");
        assert!(
            query(statement).contains(&format!("`{table}`")),
            "{}",
            query(statement)
        );
        assert!(
            !query(statement).contains("SELECT"),
            "the table as it was made: {}",
            query(statement)
        );
        let (inserted, others) = others.split_at(rows);
        for document in inserted {
            assert_eq!(op(document), "insert", "{document}");
            assert_eq!(meta(document).get_str("tbl").unwrap(), table);
            assert_eq!(gtid(document), gtid(statement), "one transaction");
        }
        rest = others;
    }
    assert!(rest.is_empty(), "{rest:#?}");
    let folded = fold::fold(&documents);
    assert!(folded.problems.is_empty(), "{:#?}", folded.problems);
    for table in ["i", "a", "m"] {
        let name = format!("made.{table}");
        let differences =
            folded.tables[&name].differences(&fold::table_now(audit.mysqld, &name).await);
        assert!(differences.is_empty(), "{name}: {differences:#?}");
    }
}

/// MyISAM and Aria: what was written stays, whatever becomes of the transaction or the rest of the statement.
async fn tables_without_transactions_are_recorded_as_they_are(flavor: Flavor) {
    let reading = Reading::of(flavor, &[]).await;
    reading
        .mysqld
        .exec(
            "CREATE DATABASE n; USE n;
             CREATE TABLE m (id INT PRIMARY KEY, v INT) ENGINE=MyISAM;
             CREATE TABLE a (id INT PRIMARY KEY, v INT) ENGINE=Aria;
             CREATE TABLE at (id INT PRIMARY KEY, v INT) ENGINE=Aria TRANSACTIONAL=1;
             CREATE TABLE mem (id INT PRIMARY KEY, v INT) ENGINE=MEMORY;
             CREATE TABLE i (id INT PRIMARY KEY, v INT)",
        )
        .await;
    for table in ["m", "a", "at", "mem"] {
        reading
            .mysqld
            .exec(format!(
                "USE n; INSERT INTO {table} VALUES (1, 1), (2, 2), (3, 3); UPDATE {table} SET v = v * 10 WHERE id < 3;
                 DELETE FROM {table} WHERE id = 3;
                 BEGIN; INSERT INTO i VALUES (1, 1); INSERT INTO {table} VALUES (11, 1); INSERT INTO i VALUES (2, 2); ROLLBACK;
                 BEGIN; INSERT INTO {table} VALUES (12, 1); REPLACE INTO i VALUES (3, 3); INSERT INTO {table} VALUES (13, 1); COMMIT"
            ))
            .await;
        // The rows before the one that is there already stay.
        reading
            .mysqld
            .try_exec(format!(
                "INSERT INTO n.{table} VALUES (21, 1), (22, 1), (1, 1), (23, 1)"
            ))
            .await
            .expect_err("a duplicate key");
    }
    let kept: u32 = reading.mysqld.query_one("SELECT COUNT(*) FROM n.m").await;
    assert_eq!(kept, 7);
    reading
        .assert_exact(&["n.m", "n.a", "n.at", "n.mem", "n.i"])
        .await;
}

/// With a table without transactions in between, MariaDB logs what is undone, and that it is undone.
async fn rows_undone_by_a_savepoint_are_not_in_the_fold(flavor: Flavor) {
    let reading = Reading::of(flavor, &["--log-bin-compress-min-len=10"]).await;
    reading
        .mysqld
        .exec(
            "CREATE DATABASE n; USE n; CREATE TABLE m (id INT PRIMARY KEY) ENGINE=MyISAM; CREATE TABLE i (id INT PRIMARY KEY, v TEXT);
             BEGIN; INSERT INTO i VALUES (1, 'kept'); INSERT INTO m VALUES (1); SAVEPOINT one; INSERT INTO i VALUES (2, 'undone');
             UPDATE i SET v = 'undone' WHERE id = 1; SAVEPOINT two; DELETE FROM i WHERE id = 1; ROLLBACK TO two;
             ROLLBACK TO one; INSERT INTO i VALUES (3, 'kept too'); COMMIT",
        )
        .await;
    reading.assert_exact(&["n.i", "n.m"]).await;
    let documents = reading.documents().await;
    assert!(
        !documents
            .iter()
            .any(|document| document.to_string().contains("undone")),
        "{documents:#?}"
    );
}

async fn xa_rows_stand_at_prepare_and_what_became_of_them_follows(flavor: Flavor) {
    let mut audit = Audit::on(flavor, "xa").await;
    audit
        .run(&[
            "CREATE TABLE t (id INT PRIMARY KEY)",
            "XA START 'kept','q',7",
            "INSERT INTO t VALUES (1), (2)",
            "XA END 'kept','q',7",
            "XA PREPARE 'kept','q',7",
            "XA COMMIT 'kept','q',7",
            "XA START 'dropped'",
            "INSERT INTO t VALUES (3)",
            "XA END 'dropped'",
            "XA PREPARE 'dropped'",
            "XA ROLLBACK 'dropped'",
            "XA START 'at once'",
            "INSERT INTO t VALUES (4)",
            "XA END 'at once'",
            "XA COMMIT 'at once' ONE PHASE",
        ])
        .await;
    let documents = audit.rows().await;
    assert_eq!(
        ops(&documents),
        [
            "insert",
            "insert",
            "xa_commit",
            "insert",
            "xa_rollback",
            "insert"
        ],
        "{documents:#?}"
    );
    // As MySQL writes it too: X'gtrid',X'bqual',formatID.
    let kept = "X'6b657074',X'71',7";
    let dropped = "X'64726f70706564',X'',1";
    for (document, xid) in documents.iter().zip([kept, kept, kept, dropped, dropped]) {
        assert_eq!(meta(document).get_str("xid").unwrap(), xid, "{document}");
    }
    assert_eq!(query(&documents[2]), format!("XA COMMIT {kept}"));
    assert_eq!(query(&documents[4]), format!("XA ROLLBACK {dropped}"));
    assert!(meta(&documents[5]).get("xid").is_none());
    assert_ne!(
        gtid(&documents[0]),
        gtid(&documents[2]),
        "prepare and commit are two transactions"
    );
}

/// NEXTVAL writes the sequence's only row when the numbers that it reserved are used up.
async fn a_sequence_is_recorded_each_time_it_reserves_numbers(flavor: Flavor) {
    let mut audit = Audit::on(flavor, "counted").await;
    audit
        .run(&[
            "CREATE SEQUENCE s START WITH 5 CACHE 2",
            "CREATE TABLE t (id BIGINT DEFAULT NEXTVAL(s) PRIMARY KEY, v INT)",
            "DO NEXTVAL(s)",
            "DO NEXTVAL(s)",
            "INSERT INTO t (v) VALUES (1), (2)",
            "DO SETVAL(s, 100)",
        ])
        .await;
    let documents = audit.rows().await;
    let next: Vec<Option<i64>> = documents
        .iter()
        .filter(|document| meta(document).get_str("tbl").unwrap() == "s")
        .map(|document| after(document).get_i64("next_not_cached_value").ok())
        .collect();
    assert_eq!(next, [Some(7), Some(9), Some(101)], "{documents:#?}");
    let ids: Vec<i64> = documents
        .iter()
        .filter(|document| meta(document).get_str("tbl").unwrap() == "t")
        .map(|document| after(document).get_i64("id").unwrap())
        .collect();
    assert_eq!(ids, [7, 8]);
}

/// What MariaDB logs: an update changes the row and adds what it was; a delete is an update of the row's end.
async fn a_system_versioned_table_shows_its_history_rows(flavor: Flavor) {
    let mut audit = Audit::on(flavor, "versioned").await;
    audit
        .run(&[
            "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20)) WITH SYSTEM VERSIONING",
            "INSERT INTO t VALUES (1, 'a')",
            "UPDATE t SET v = 'b'",
            "DELETE FROM t",
            "DELETE HISTORY FROM t",
        ])
        .await;
    let documents = audit.rows().await;
    assert_eq!(
        ops(&documents),
        ["insert", "update", "insert", "update", "delete", "delete"],
        "{documents:#?}"
    );
    let value = |document: &Document, image: &str| {
        let image = document.get_document(image).unwrap();
        (
            image.get_str("v").unwrap().to_owned(),
            image.get_str("row_end").unwrap().to_owned(),
        )
    };
    let open = if flavor == Flavor::Mariadb11 {
        "2106-02-07T06:28:15.999999Z"
    } else {
        "2038-01-19T03:14:07.999999Z"
    };
    assert_eq!(value(&documents[0], "after"), ("a".into(), open.into()));
    assert_eq!(value(&documents[1], "before"), ("a".into(), open.into()));
    assert_eq!(value(&documents[1], "after"), ("b".into(), open.into()));
    let (v, end) = value(&documents[2], "after");
    assert_eq!(v, "a");
    assert!(end.as_str() < open && end.as_str() > "2020", "{end}");
    assert_eq!(value(&documents[3], "before"), ("b".into(), open.into()));
    let (v, end) = value(&documents[3], "after");
    assert_eq!(v, "b");
    assert!(end.as_str() < open, "{end}");
}

async fn keys_of_mariadbs_own_types_are_text(flavor: Flavor) {
    let mut audit = Audit::on(flavor, "own_types").await;
    audit
        .run(&[
            "CREATE TABLE u (id UUID PRIMARY KEY, v INT)",
            "CREATE TABLE n (a INET6, b INET4, PRIMARY KEY (a, b))",
            // A binary(16) beside it looks the same in the binlog.
            "CREATE TABLE b (id BINARY(16) PRIMARY KEY)",
            "INSERT INTO u VALUES ('123e4567-e89b-12d3-a456-426614174000', 1)",
            "UPDATE u SET v = 2",
            "INSERT INTO n VALUES ('::', '0.0.0.0'), ('2001:DB8::0:1', '192.0.2.0')",
            "INSERT INTO b VALUES (x'123e4567e89b12d3a456426614174000')",
        ])
        .await;
    let documents = audit.rows().await;
    let keys: Vec<&Bson> = documents
        .iter()
        .map(|document| meta(document).get("pk").unwrap())
        .collect();
    let uuid = Bson::from("123e4567-e89b-12d3-a456-426614174000");
    let zero = Bson::from(doc! { "a": "::", "b": "0.0.0.0" });
    let other = Bson::from(doc! { "a": "2001:db8::1", "b": "192.0.2.0" });
    assert_eq!(keys[..4], [&uuid, &uuid, &zero, &other]);
    let Bson::Binary(binary) = keys[4] else {
        panic!("{} for a BINARY(16)", keys[4])
    };
    assert_eq!(binary.bytes.len(), 16);
    assert_eq!(after(&documents[1]).get("id"), Some(&uuid));
}

async fn statements_of_every_kind_fold_to_the_tables(flavor: Flavor) {
    let reading = Reading::of(flavor, &["--secure-file-priv="]).await;
    let file = reading.mysqld.datadir().join("rows.csv");
    std::fs::write(&file, "101,from a file\n102,from a file\n").unwrap();
    reading
        .mysqld
        .exec(format!(
            "CREATE DATABASE k; USE k;
             CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(40), n INT DEFAULT 3, twice INT AS (n * 2) STORED, thrice INT AS (n * 3) VIRTUAL,
                             hidden INT INVISIBLE DEFAULT 5);
             CREATE TABLE log (at INT, what VARCHAR(20));
             CREATE TABLE child (id INT PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES t (id) ON DELETE SET NULL);
             CREATE TRIGGER after_update AFTER UPDATE ON t FOR EACH ROW INSERT INTO log VALUES (NEW.id, 'updated');
             CREATE PROCEDURE many(n INT) BEGIN DECLARE i INT DEFAULT 0; WHILE i < n DO INSERT INTO t (v) VALUES (i); SET i = i + 1; END WHILE; END;
             INSERT INTO t (v) VALUES ('a'), ('b'), ('c') RETURNING id;
             INSERT INTO t (id, v) VALUES (1, 'x') ON DUPLICATE KEY UPDATE v = 'merged';
             REPLACE INTO t (id, v) VALUES (2, 'replaced'), (9, 'new');
             INSERT IGNORE INTO t (id, v) VALUES (1, 'no'), (10, 'yes');
             CALL many(3);
             UPDATE t JOIN (SELECT 3 AS three) x ON t.id = x.three SET v = 'joined';
             UPDATE t SET hidden = 6, v = CONCAT(v, 'ü') WHERE id < 4 ORDER BY id DESC;
             LOAD DATA INFILE '{}' INTO TABLE t FIELDS TERMINATED BY ',' (id, v);
             DELETE FROM t WHERE id = 101 RETURNING v;
             DELETE t, log FROM t JOIN log ON t.id = log.at WHERE t.id = 3;
             CREATE TEMPORARY TABLE gone (id INT); INSERT INTO gone VALUES (1); DROP TEMPORARY TABLE gone;
             SET STATEMENT max_statement_time = 100 FOR INSERT INTO t (v) VALUES ('timed');
             INSERT INTO log VALUES (0, 'wiped'); TRUNCATE TABLE log; INSERT INTO log VALUES (1, 'left');
             CREATE TABLE `we``ird.näme` (`a.b` INT PRIMARY KEY, `$x` INT); INSERT INTO `we``ird.näme` VALUES (1, 2)",
            file.display()
        ))
        .await;
    // Invisible columns are in the images, and in no `SELECT *`.
    let documents = reading.documents().await;
    let hidden: Vec<i32> = documents
        .iter()
        .filter(|document| {
            op(document) == "update" && meta(document).get_str("tbl").unwrap() == "t"
        })
        .filter_map(|document| after(document).get_i32("hidden").ok())
        .collect();
    assert_eq!(
        hidden.iter().filter(|value| **value == 6).count(),
        3,
        "{hidden:?}"
    );
    reading
        .mysqld
        .exec("ALTER TABLE k.t MODIFY hidden INT DEFAULT 5")
        .await;
    reading.assert_exact(&["k.t", "k.log", "k.child"]).await;
    let strange: Vec<&Document> = documents
        .iter()
        .filter(|document| meta(document).get_str("tbl").ok() == Some("we`ird.näme"))
        .filter(|document| op(document) == "insert")
        .collect();
    assert_eq!(after(strange[0]), &doc! { "a.b": 1, "$x": 2 });
}

async fn a_statement_that_was_not_logged_as_rows_is_its_text(flavor: Flavor) {
    let mut audit = Audit::on(flavor, "text").await;
    audit
        .run(&[
            "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
            "SET SESSION binlog_format = STATEMENT",
            "INSERT INTO t VALUES (1, 2)",
            "UPDATE t SET v = 3",
            "SET SESSION binlog_format = ROW",
            "INSERT INTO t VALUES (2, 2)",
        ])
        .await;
    let documents = audit.rows().await;
    assert_eq!(ops(&documents), ["statement", "statement", "insert"]);
    assert_eq!(query(&documents[0]), "INSERT INTO t VALUES (1, 2)");
    assert_eq!(query(&documents[1]), "UPDATE t SET v = 3");
}

async fn images_that_a_session_made_smaller_leave_columns_out(flavor: Flavor) {
    let mut audit = Audit::on(flavor, "images").await;
    audit
        .run(&["CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT, c BLOB)"])
        .await;
    let full = doc! { "id": 1, "a": 1, "b": 2, "c": null };
    let mut cases = vec![
        (
            "MINIMAL",
            doc! { "id": 1, "a": 1 },
            doc! { "id": 1 },
            doc! { "a": 3 },
        ),
        (
            "NOBLOB",
            doc! { "id": 1, "a": 1, "b": null },
            doc! { "id": 1, "a": 1, "b": null },
            doc! { "id": 1, "a": 3, "b": null },
        ),
    ];
    if flavor == Flavor::Mariadb11 {
        // The image after holds what differs from the one before.
        cases.push(("FULL_NODUP", full.clone(), full, doc! { "a": 3 }));
    }
    for (image, inserted, before, after) in cases {
        let insert = if image == "FULL_NODUP" {
            "INSERT INTO t (id, a, b) VALUES (1, 1, 2)"
        } else {
            "INSERT INTO t (id, a) VALUES (1, 1)"
        };
        audit
            .run(&[
                &format!("SET SESSION binlog_row_image = {image}"),
                insert,
                "UPDATE t SET a = 3",
                "DELETE FROM t",
            ])
            .await;
        let documents = audit.rows().await;
        let [insert, update, delete] = &documents[documents.len() - 3..] else {
            unreachable!()
        };
        for document in [insert, update, delete] {
            assert_eq!(
                meta(document).get("pk"),
                Some(&Bson::Int32(1)),
                "{image}: {document}"
            );
        }
        assert_eq!(insert.get_document("after").unwrap(), &inserted, "{image}");
        assert_eq!(update.get_document("before").unwrap(), &before, "{image}");
        assert_eq!(update.get_document("after").unwrap(), &after, "{image}");
        assert_eq!(
            update.get_array("changed").unwrap(),
            &[Bson::from("a")],
            "{image}: {update}"
        );
        assert_eq!(
            delete.get_document("before").unwrap().get("id"),
            Some(&Bson::Int32(1))
        );
    }
}
