//! Statements that change rows in more ways than one: what each leaves.

use std::fs;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, WhiteListFsHandler};

use crate::common::audit::run;
use crate::recorded::notation::{Recorded, on_both_flavors};

on_both_flavors! {
    insert_on_duplicate_key_update_is_an_insert_or_an_update: "on_duplicate",
    replace_is_a_delete_and_an_insert_or_an_update: "replaced",
    ignore_records_what_was_done_and_not_what_was_left_out: "ignored",
    what_changes_nothing_leaves_nothing: "unchanged",
    one_statement_over_several_tables_is_one_statement: "joined",
    rows_made_by_a_query_are_recorded_as_rows: "queried",
    an_autoincrement_and_a_default_are_recorded_as_the_values_they_became: "filled",
    rows_changed_through_a_view_are_rows_of_its_table: "views",
    load_data_is_an_insert_of_each_line: "loaded",
}

async fn insert_on_duplicate_key_update_is_an_insert_or_an_update(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT, u INT UNIQUE)",
                "INSERT INTO t VALUES (1, 10, 100), (2, 20, 200)",
            ],
            &[
                "INSERT INTO t VALUES (1, 0, 0), (3, 30, 300) ON DUPLICATE KEY UPDATE v = v + 1",
                // By another key than the primary one: the row that stood in the way is the one that changes.
                "INSERT INTO t VALUES (9, 0, 200) ON DUPLICATE KEY UPDATE id = 9, v = v + 1",
                // What sets a column to what it was is no change.
                "INSERT INTO t VALUES (1, 0, 0) ON DUPLICATE KEY UPDATE v = v",
            ],
            "
            --
            0.0 update t 1 {id: 1, v: 10, u: 100} → {id: 1, v: 11, u: 100} (v) | INSERT INTO t VALUES (1, 0, 0), (3, 30, 300) ON DUPLICATE KEY UPDATE v = v + 1
            0.1 insert t 3 + {id: 3, v: 30, u: 300}
            --
            0.0 update t 2 {id: 2, v: 20, u: 200} → {id: 9, v: 21, u: 200} (id, v) | INSERT INTO t VALUES (9, 0, 200) ON DUPLICATE KEY UPDATE id = 9, v = v + 1
            ",
        )
        .await;
    recorded.assert_exact(&["t"]).await;
}

async fn replace_is_a_delete_and_an_insert_or_an_update(mut recorded: Recorded) {
    // The server itself decides: where the row in its way collides in the table's last unique key, it changes that row.
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT, u INT UNIQUE)",
                "INSERT INTO t VALUES (1, 10, 100), (2, 20, 200), (3, 30, 300)",
                "CREATE TABLE one (id INT PRIMARY KEY, v INT)",
                "INSERT INTO one VALUES (1, 1)",
            ],
            &[
                "REPLACE INTO t VALUES (1, 11, 101)",
                "REPLACE INTO t VALUES (5, 50, 101)",
                "REPLACE INTO t VALUES (2, 99, 300)",
                "REPLACE INTO t VALUES (7, 70, 700)",
                "REPLACE INTO one VALUES (1, 2), (2, 3)",
            ],
            "
            --
            0.0 delete t 1 - {id: 1, v: 10, u: 100} | REPLACE INTO t VALUES (1, 11, 101)
            0.1 insert t 1 + {id: 1, v: 11, u: 101}
            --
            0.0 update t 1 {id: 1, v: 11, u: 101} → {id: 5, v: 50, u: 101} (id, v) | REPLACE INTO t VALUES (5, 50, 101)
            --
            0.0 delete t 2 - {id: 2, v: 20, u: 200} | REPLACE INTO t VALUES (2, 99, 300)
            0.1 update t 3 {id: 3, v: 30, u: 300} → {id: 2, v: 99, u: 300} (id, v)
            --
            0.0 insert t 7 + {id: 7, v: 70, u: 700} | REPLACE INTO t VALUES (7, 70, 700)
            --
            0.0 update one 1 {id: 1, v: 1} → {id: 1, v: 2} (v) | REPLACE INTO one VALUES (1, 2), (2, 3)
            0.1 insert one 2 + {id: 2, v: 3}
            ",
        )
        .await;
    recorded.assert_exact(&["t", "one"]).await;
}

async fn ignore_records_what_was_done_and_not_what_was_left_out(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT, u INT UNIQUE)",
                "INSERT INTO t VALUES (1, 10, 100), (2, 20, 200)",
            ],
            &[
                "INSERT IGNORE INTO t VALUES (2, 0, 0), (3, 30, 300)",
                "UPDATE IGNORE t SET u = 100, v = v + 1",
                "DELETE IGNORE FROM t WHERE id = 3",
            ],
            "
            --
            0.0 insert t 3 + {id: 3, v: 30, u: 300} | INSERT IGNORE INTO t VALUES (2, 0, 0), (3, 30, 300)
            --
            0.0 update t 1 {id: 1, v: 10, u: 100} → {id: 1, v: 11, u: 100} (v) | UPDATE IGNORE t SET u = 100, v = v + 1
            --
            0.0 delete t 3 - {id: 3, v: 30, u: 300} | DELETE IGNORE FROM t WHERE id = 3
            ",
        )
        .await;
    recorded.assert_exact(&["t"]).await;
}

async fn what_changes_nothing_leaves_nothing(mut recorded: Recorded) {
    let outside = recorded.server.datadir().join("unchanged.txt");
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
                "INSERT INTO t VALUES (1, 10)",
            ],
            &[
                "UPDATE t SET v = 10",
                "UPDATE t SET v = v",
                "DELETE FROM t WHERE id = 7",
                "INSERT INTO t SELECT * FROM t WHERE id = 7",
                "SELECT v INTO @v FROM t",
                &format!("SELECT * FROM t INTO OUTFILE '{}'", outside.display()),
                "SELECT * FROM t FOR UPDATE",
                "HANDLER t OPEN",
                "HANDLER t READ FIRST",
                "HANDLER t CLOSE",
                "LOCK TABLES t WRITE",
                "UNLOCK TABLES",
                "SET @x = 1",
                "DO 1 + 1",
                "CHECK TABLE t",
                "SHOW TABLES",
            ],
            "",
        )
        .await;
}

async fn one_statement_over_several_tables_is_one_statement(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
                "CREATE TABLE w (id INT PRIMARY KEY, t_id INT, note VARCHAR(9))",
                "INSERT INTO t VALUES (5, 50), (6, 60)",
                "INSERT INTO w VALUES (1, 5, 'a'), (2, 5, 'b'), (3, 6, 'c')",
            ],
            &[
                "UPDATE t STRAIGHT_JOIN w ON t.id = w.t_id SET t.v = t.v + 1, w.note = 'x'",
                "DELETE t, w FROM t STRAIGHT_JOIN w ON t.id = w.t_id WHERE t.id = 5",
            ],
            // The server decides the order of the tables; a row is changed once, however many partners it has.
            "
                --
                0.0 update t 5 {id: 5, v: 50} → {id: 5, v: 51} (v) | UPDATE t STRAIGHT_JOIN w ON t.id = w.t_id SET t.v = t.v + 1, w.note = 'x'
                0.1 update t 6 {id: 6, v: 60} → {id: 6, v: 61} (v)
                0.2 update w 1 {id: 1, t_id: 5, note: 'a'} → {id: 1, t_id: 5, note: 'x'} (note)
                0.3 update w 2 {id: 2, t_id: 5, note: 'b'} → {id: 2, t_id: 5, note: 'x'} (note)
                0.4 update w 3 {id: 3, t_id: 6, note: 'c'} → {id: 3, t_id: 6, note: 'x'} (note)
                --
                0.0 delete t 5 - {id: 5, v: 51} | DELETE t, w FROM t STRAIGHT_JOIN w ON t.id = w.t_id WHERE t.id = 5
                0.1 delete w 1 - {id: 1, t_id: 5, note: 'x'}
                0.2 delete w 2 - {id: 2, t_id: 5, note: 'x'}
                ",
        )
        .await;
    recorded.assert_exact(&["t", "w"]).await;
}

async fn rows_made_by_a_query_are_recorded_as_rows(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(40))",
                "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
            ],
            &[
                "INSERT INTO t SELECT id + 10, UPPER(v) FROM t WHERE id = 2",
                "INSERT INTO t SELECT id + 100, v FROM t WHERE id = 1 UNION SELECT 300, REPEAT('z', 3)",
                "DELETE FROM t WHERE id IN (SELECT * FROM (WITH big AS (SELECT id FROM t WHERE id > 100) SELECT id FROM big) AS big)",
                "UPDATE t SET v = (SELECT COUNT(*) FROM (SELECT * FROM t) AS copy) ORDER BY id DESC LIMIT 1",
            ],
            "
            --
            0.0 insert t 12 + {id: 12, v: 'B'} | INSERT INTO t SELECT id + 10, UPPER(v) FROM t WHERE id = 2
            --
            0.0 insert t 101 + {id: 101, v: 'a'} | INSERT INTO t SELECT id + 100, v FROM t WHERE id = 1 UNION SELECT 300, REPEAT('z', 3)
            0.1 insert t 300 + {id: 300, v: 'zzz'}
            --
            0.0 delete t 101 - {id: 101, v: 'a'} | DELETE FROM t WHERE id IN (SELECT * FROM (WITH big AS (SELECT id FROM t WHERE id > 100) SELECT id FROM big) AS big)
            0.1 delete t 300 - {id: 300, v: 'zzz'}
            --
            0.0 update t 12 {id: 12, v: 'B'} → {id: 12, v: '3'} (v) | UPDATE t SET v = (SELECT COUNT(*) FROM (SELECT * FROM t) AS copy) ORDER BY id DESC LIMIT 1
            ",
        )
        .await;
    recorded.assert_exact(&["t"]).await;
}

async fn an_autoincrement_and_a_default_are_recorded_as_the_values_they_became(
    mut recorded: Recorded,
) {
    recorded
        .records(
            &["CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, at DATETIME DEFAULT '2020-01-01 00:00:00', e INT DEFAULT (1 + 1), u VARCHAR(9) DEFAULT NULL)"],
            &[
                "INSERT INTO t VALUES ()",
                "INSERT INTO t (e) VALUES (5), (6)",
                "INSERT INTO t (id) VALUES (100)",
                "ALTER TABLE t AUTO_INCREMENT = 500",
                "INSERT INTO t (id, u) VALUES (0, LEFT(DATABASE(), 3)), (NULL, DEFAULT)",
            ],
            "
            --
            0.0 insert t 1 + {id: 1, at: '2020-01-01 00:00:00', e: 2, u: null} | INSERT INTO t VALUES ()
            --
            0.0 insert t 2 + {id: 2, at: '2020-01-01 00:00:00', e: 5, u: null} | INSERT INTO t (e) VALUES (5), (6)
            0.1 insert t 3 + {id: 3, at: '2020-01-01 00:00:00', e: 6, u: null}
            --
            0.0 insert t 100 + {id: 100, at: '2020-01-01 00:00:00', e: 2, u: null} | INSERT INTO t (id) VALUES (100)
            --
            0.0 ddl t | ALTER TABLE t AUTO_INCREMENT = 500
            --
            0.0 insert t 500 + {id: 500, at: '2020-01-01 00:00:00', e: 2, u: 'fil'} | INSERT INTO t (id, u) VALUES (0, LEFT(DATABASE(), 3)), (NULL, DEFAULT)
            0.1 insert t 501 + {id: 501, at: '2020-01-01 00:00:00', e: 2, u: null}
            ",
        )
        .await;
    recorded.assert_exact(&["t"]).await;
}

async fn rows_changed_through_a_view_are_rows_of_its_table(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, v INT, hidden INT DEFAULT 1)",
                "CREATE VIEW seen AS SELECT id AS number, v FROM t WHERE v > 0 WITH CHECK OPTION",
                "INSERT INTO t VALUES (1, 1, 1), (2, -2, 1)",
            ],
            &[
                "INSERT INTO seen VALUES (3, 3)",
                "UPDATE seen SET v = 7",
                "DELETE FROM seen WHERE number = 3",
            ],
            "
            --
            0.0 insert t 3 + {id: 3, v: 3, hidden: 1} | INSERT INTO seen VALUES (3, 3)
            --
            0.0 update t 1 {id: 1, v: 1, hidden: 1} → {id: 1, v: 7, hidden: 1} (v) | UPDATE seen SET v = 7
            0.1 update t 3 {id: 3, v: 3, hidden: 1} → {id: 3, v: 7, hidden: 1} (v)
            --
            0.0 delete t 3 - {id: 3, v: 7, hidden: 1} | DELETE FROM seen WHERE number = 3
            ",
        )
        .await;
    recorded.assert_exact(&["t"]).await;
}

async fn load_data_is_an_insert_of_each_line(mut recorded: Recorded) {
    let file = recorded.daemon.directory().join("lines.txt");
    fs::write(&file, "1\ta\n2\tb\n").unwrap();
    let path = file.display();
    recorded
        .run(&["CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(9), w INT)"])
        .await;
    let from = recorded.mark().await;
    // A file of the client's, then one of the server's.
    recorded.server.exec("SET GLOBAL local_infile = ON").await;
    let options = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(recorded.server.port())
        .user(Some("root"))
        .db_name(Some(recorded.schema))
        .local_infile_handler(Some(WhiteListFsHandler::new([file.clone()])));
    let mut session = Conn::new(options).await.unwrap();
    let local =
        format!("LOAD DATA LOCAL INFILE '{path}' INTO TABLE t CHARACTER SET utf8mb4 (id, v)");
    session.query_drop(&local).await.unwrap();
    fs::write(&file, "2,B,20\n3,C,30\n").unwrap();
    let replacing =
        format!("LOAD DATA INFILE '{path}' REPLACE INTO TABLE t FIELDS TERMINATED BY ','");
    let ignoring = format!(
        "LOAD DATA INFILE '{path}' IGNORE INTO TABLE t FIELDS TERMINATED BY ',' (id, v, @w) SET id = id + 1, w = @w * 2"
    );
    run(&mut session, &[&replacing, &ignoring]).await;
    let expected = format!(
        "
        --
        0.0 insert t 1 + {{id: 1, v: 'a', w: null}} | {local}
        0.1 insert t 2 + {{id: 2, v: 'b', w: null}}
        --
        0.0 update t 2 {{id: 2, v: 'b', w: null}} → {{id: 2, v: 'B', w: 20}} (v, w) | {replacing}
        0.1 insert t 3 + {{id: 3, v: 'C', w: 30}}
        --
        0.0 insert t 4 + {{id: 4, v: 'C', w: 60}} | {ignoring}
        "
    );
    recorded.expect_from(from, &expected).await;
    recorded.assert_exact(&["t"]).await;
}
