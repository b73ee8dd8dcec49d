//! What stands together, what is undone, and what no transaction holds.

use mongodb::bson::{Document, doc};
use mysql_async::prelude::Queryable;

use crate::common::Flavor;
use crate::common::mongo;
use crate::recorded::notation::{Recorded, on_both_flavors, on_flavor};

on_both_flavors! {
    savepoints_leave_what_was_kept: "savepoints",
    a_transaction_across_databases_is_one: "across",
    xa_transactions_across_databases_and_without_changes: "xa_more",
    engines_without_transactions: "engines",
    temporary_tables_leave_nothing: "temporary",
    a_session_that_does_not_log_leaves_nothing: "unlogged",
}

on_flavor! {
    only_on_mysql, Mysql,
    texts_stand_on_the_first_document_of_each_statement_however_many_rows: "texts_once",
    a_blackhole_records_what_it_is_given: "holes",
}

on_flavor! {
    only_on_mariadb, Mariadb10,
    engines_with_and_without_transactions_in_one_transaction: "engines_mixed",
}

async fn savepoints_leave_what_was_kept(mut recorded: Recorded) {
    recorded
        .records(
            &["CREATE TABLE t (id INT PRIMARY KEY)"],
            &[
                "SET autocommit = OFF",
                "INSERT INTO t VALUES (1)",
                "SAVEPOINT a",
                "INSERT INTO t VALUES (2)",
                "SAVEPOINT b",
                "INSERT INTO t VALUES (3)",
                "ROLLBACK TO b",
                "INSERT INTO t VALUES (4)",
                "ROLLBACK TO a",
                "INSERT INTO t VALUES (5)",
                "COMMIT AND CHAIN",
                "INSERT INTO t VALUES (6)",
                "COMMIT",
                "SET autocommit = ON",
            ],
            "
            --
            0.0 insert t 1 + {id: 1} | INSERT INTO t VALUES (1)
            1.1 insert t 5 + {id: 5} | INSERT INTO t VALUES (5)
            --
            0.0 insert t 6 + {id: 6} | INSERT INTO t VALUES (6)
            ",
        )
        .await;
    recorded.assert_exact(&["t"]).await;
}

async fn a_transaction_across_databases_is_one(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
                "CREATE DATABASE across__too",
                "CREATE TABLE across__too.t (id VARCHAR(9) PRIMARY KEY)",
            ],
            &[
                "BEGIN",
                "INSERT INTO t VALUES (1, 1)",
                "INSERT INTO across__too.t VALUES ('one')",
                "USE across__too",
                "UPDATE across.t SET v = 2",
                "USE across",
                "COMMIT",
            ],
            "
            --
            0.0 insert t 1 + {id: 1, v: 1} | INSERT INTO t VALUES (1, 1)
            1.1 insert across__too.t 'one' + {id: 'one'} | INSERT INTO across__too.t VALUES ('one')
            2.2 update t 1 {id: 1, v: 1} → {id: 1, v: 2} (v) | UPDATE across.t SET v = 2
            ",
        )
        .await;
}

async fn texts_stand_on_the_first_document_of_each_statement_however_many_rows(
    mut recorded: Recorded,
) {
    const ROWS: i64 = 3000;
    // Rows of several events (8 KiB each) and several batches.
    recorded
        .run(&[
            "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200))",
            "BEGIN",
        ])
        .await;
    let values: Vec<String> = (0..ROWS)
        .map(|id| format!("({id}, REPEAT('x', 100))"))
        .collect();
    let statements = [
        format!("INSERT INTO t VALUES {}", values.join(", ")),
        "UPDATE t SET v = REPEAT('y', 100) ORDER BY id".to_owned(),
        "DELETE FROM t ORDER BY id DESC".to_owned(),
    ];
    for statement in &statements {
        recorded.run(&[statement.as_str()]).await;
    }
    recorded.run(&["COMMIT"]).await;
    let mut documents = recorded.documents().await;
    documents.retain(|document| document.get_str("op").unwrap() != "ddl");
    assert_eq!(documents.len(), 3 * ROWS as usize);
    for (index, document) in documents.iter().enumerate() {
        let meta = document.get_document("meta").unwrap();
        let index = i64::try_from(index).unwrap();
        assert_eq!(meta.get_i64("row").unwrap(), index);
        assert_eq!(meta.get_i64("stmt").unwrap(), index / ROWS);
        let text = (index % ROWS == 0).then(|| statements[(index / ROWS) as usize].as_str());
        assert_eq!(meta.get_str("query").ok(), text);
    }
    // A statement is found again by its first document, and all of it by its number.
    let changes = recorded.target.collection::<Document>(mongo::CHANGES);
    let first = changes
        .find_one(doc! { "meta.query": &statements[1] })
        .await
        .unwrap()
        .unwrap();
    let meta = first.get_document("meta").unwrap();
    let whole = doc! { "meta.gtid": meta.get_str("gtid").unwrap(), "meta.stmt": meta.get_i64("stmt").unwrap(), "op": "update" };
    assert_eq!(
        changes.count_documents(whole).await.unwrap(),
        u64::try_from(ROWS).unwrap()
    );
}

async fn xa_transactions_across_databases_and_without_changes(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY)",
                "CREATE DATABASE xa_more__too",
                "CREATE TABLE xa_more__too.t (id INT PRIMARY KEY)",
            ],
            &[
                "XA START 'both'",
                "INSERT INTO t VALUES (1)",
                "SAVEPOINT s",
                "INSERT INTO t VALUES (2)",
                "ROLLBACK TO s",
                "INSERT INTO xa_more__too.t VALUES (1)",
                "XA END 'both'",
                "XA PREPARE 'both'",
                "XA COMMIT 'both'",
                "XA START 'empty'",
                "SELECT * FROM t",
                "XA END 'empty'",
                "XA PREPARE 'empty'",
                "XA COMMIT 'empty'",
                // Never prepared, so never logged.
                "XA START 'dropped'",
                "INSERT INTO t VALUES (3)",
                "XA END 'dropped'",
                "XA ROLLBACK 'dropped'",
                recorded.pick("SET binlog_transaction_compression = ON", "SET @unused = 1"),
                "XA START 'small'",
                "INSERT INTO t VALUES (4)",
                "XA END 'small'",
                "XA PREPARE 'small'",
                "XA ROLLBACK 'small'",
            ],
            "
            --
            0.0 insert t 1 + {id: 1} xid='X'626f7468',X'',1' | INSERT INTO t VALUES (1)
            1.1 insert xa_more__too.t 1 + {id: 1} xid='X'626f7468',X'',1' | INSERT INTO xa_more__too.t VALUES (1)
            --
            0.0 xa_commit xid='X'626f7468',X'',1' | XA COMMIT X'626f7468',X'',1
            --
            0.0 insert t 4 + {id: 4} xid='X'736d616c6c',X'',1' | INSERT INTO t VALUES (4)
            --
            0.0 xa_rollback xid='X'736d616c6c',X'',1' | XA ROLLBACK X'736d616c6c',X'',1
            ",
        )
        .await;
}

async fn engines_without_transactions(mut recorded: Recorded) {
    // With GTIDs, MySQL refuses to change such a table inside a transaction that has changed another.
    recorded
        .run(&[
            "CREATE TABLE t (id INT PRIMARY KEY)",
            "CREATE TABLE my (id INT PRIMARY KEY) ENGINE=MyISAM",
            "CREATE TABLE mem (id INT PRIMARY KEY) ENGINE=MEMORY",
            "CREATE TABLE lines_of (id INT NOT NULL) ENGINE=CSV",
        ])
        .await;
    let from = recorded.mark().await;
    recorded
        .run(&[
            "INSERT INTO my VALUES (1)",
            "INSERT INTO mem VALUES (1)",
            "INSERT INTO lines_of VALUES (1)",
            // What stands is recorded, rolled back or not.
            "BEGIN",
            "INSERT INTO my VALUES (2)",
            "INSERT INTO t VALUES (2)",
            "ROLLBACK",
        ])
        .await;
    recorded
        .session
        .query_drop("INSERT INTO my VALUES (3), (1), (4)")
        .await
        .unwrap_err();
    recorded
        .expect_from(
            from,
            "
            --
            0.0 insert my 1 + {id: 1} | INSERT INTO my VALUES (1)
            --
            0.0 insert mem 1 + {id: 1} | INSERT INTO mem VALUES (1)
            --
            0.0 insert lines_of + {id: 1} | INSERT INTO lines_of VALUES (1)
            --
            0.0 insert my 2 + {id: 2} | INSERT INTO my VALUES (2)
            --
            0.0 insert my 3 + {id: 3} | INSERT INTO my VALUES (3), (1), (4)
            ",
        )
        .await;
    recorded.assert_exact(&["my", "mem", "lines_of", "t"]).await;
}

async fn a_blackhole_records_what_it_is_given(mut recorded: Recorded) {
    // Nothing is ever found in it to change.
    recorded
        .records(
            &["CREATE TABLE t (id INT PRIMARY KEY) ENGINE=BLACKHOLE"],
            &[
                "INSERT INTO t VALUES (1)",
                "UPDATE t SET id = 2",
                "DELETE FROM t",
            ],
            "
            --
            0.0 insert t 1 + {id: 1} | INSERT INTO t VALUES (1)
            ",
        )
        .await;
}

async fn engines_with_and_without_transactions_in_one_transaction(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY)",
                "CREATE TABLE my (id INT PRIMARY KEY) ENGINE=MyISAM",
                "CREATE TABLE ar (id INT PRIMARY KEY) ENGINE=Aria TRANSACTIONAL=1",
            ],
            &[
                "BEGIN",
                "INSERT INTO t VALUES (1)",
                "INSERT INTO my VALUES (1)",
                "INSERT INTO ar VALUES (1)",
                "INSERT INTO t VALUES (2)",
                "COMMIT",
                "BEGIN",
                "INSERT INTO t VALUES (3)",
                "INSERT INTO my VALUES (3)",
                "ROLLBACK",
                "BEGIN",
                "INSERT INTO t VALUES (4)",
                "SAVEPOINT s",
                "INSERT INTO my VALUES (4)",
                "INSERT INTO t VALUES (5)",
                "ROLLBACK TO s",
                "INSERT INTO t VALUES (6)",
                "COMMIT",
            ],
            // Rows that no rollback takes back are transactions of their own, before the one they stood in.
            "
            --
            0.0 insert my 1 + {id: 1}
            --
            0.0 insert ar 1 + {id: 1}
            --
            0.0 insert t 1 + {id: 1}
            1.1 insert t 2 + {id: 2}
            --
            0.0 insert my 3 + {id: 3}
            --
            0.0 insert my 4 + {id: 4}
            --
            0.0 insert t 4 + {id: 4}
            3.3 insert t 6 + {id: 6}
            ",
        )
        .await;
    recorded.assert_exact(&["t", "my", "ar"]).await;
}

#[tokio::test]
async fn a_memory_table_that_a_restart_emptied_is_a_truncate() {
    emptied_by_a_restart(Recorded::with(Flavor::Mysql, &[], "emptied").await).await;
}

#[tokio::test]
async fn a_memory_table_that_a_restart_of_mariadb_emptied_is_a_statement() {
    emptied_by_a_restart(Recorded::with(Flavor::Mariadb10, &[], "emptied").await).await;
}

async fn emptied_by_a_restart(mut recorded: Recorded) {
    recorded
        .run(&[
            "CREATE TABLE mem (id INT PRIMARY KEY) ENGINE=MEMORY",
            "INSERT INTO mem VALUES (1)",
        ])
        .await;
    let from = recorded.mark().await;
    recorded.server.kill();
    recorded.server.start_again().await;
    // The server logs it when the table is first used.
    recorded
        .server
        .exec("INSERT INTO emptied.mem VALUES (2)")
        .await;
    recorded
        .expect_from(
            from,
            recorded.pick(
                "
                --
                0.0 ddl mem | TRUNCATE TABLE `emptied`.`mem` /* generated by server, implicitly emptying in-memory table */
                --
                0.0 insert mem 2 + {id: 2} | INSERT INTO emptied.mem VALUES (2)
                ",
                "
                --
                0.0 ddl mem | TRUNCATE TABLE `emptied`.`mem` /* generated by server for memory table after a restart */
                --
                0.0 insert mem 2 + {id: 2}
                ",
            ),
        )
        .await;
}

async fn temporary_tables_leave_nothing(mut recorded: Recorded) {
    recorded
        .records(
            &["CREATE TABLE t (id INT PRIMARY KEY, v INT)"],
            &[
                "CREATE TEMPORARY TABLE passing (id INT PRIMARY KEY, v INT)",
                "INSERT INTO passing VALUES (1, 1), (2, 2)",
                "ALTER TABLE passing ADD w INT",
                "TRUNCATE TABLE passing",
                "INSERT INTO passing VALUES (3, 3, 3)",
                "INSERT INTO t SELECT id, v FROM passing",
                "UPDATE t JOIN passing USING (id) SET t.v = 4, passing.v = 5",
                "CREATE TEMPORARY TABLE another SELECT * FROM t",
                "DROP TEMPORARY TABLE passing",
                "DROP TABLE another",
            ],
            "
            --
            0.0 insert t 3 + {id: 3, v: 3} | INSERT INTO t SELECT id, v FROM passing
            --
            0.0 update t 3 {id: 3, v: 3} → {id: 3, v: 4} (v) | UPDATE t JOIN passing USING (id) SET t.v = 4, passing.v = 5
            ",
        )
        .await;
}

async fn a_session_that_does_not_log_leaves_nothing(mut recorded: Recorded) {
    // The next change of the row shows that something happened: its `before` is not the `after` before it.
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
                "INSERT INTO t VALUES (1, 1)",
            ],
            &[
                "SET sql_log_bin = OFF",
                "UPDATE t SET v = 7",
                "INSERT INTO t VALUES (2, 2)",
                "ALTER TABLE t ADD w INT",
                "SET sql_log_bin = ON",
                "UPDATE t SET v = 8 WHERE id = 1",
                "DELETE FROM t WHERE id = 2",
            ],
            "
            --
            0.0 update t 1 {id: 1, v: 7, w: null} → {id: 1, v: 8, w: null} (v) | UPDATE t SET v = 8 WHERE id = 1
            --
            0.0 delete t 2 - {id: 2, v: 2, w: null} | DELETE FROM t WHERE id = 2
            ",
        )
        .await;
}
