//! Foreign keys that change rows of other tables.
//!
//! Until MySQL 9.5, and in MariaDB, InnoDB does that below the server and none of it reaches the binlog. From 9.6 on the
//! server does it, and logs the child rows first, each level before the one above it. The others are in [`crate::recorded::unlogged`].

use crate::recorded::notation::{Recorded, on_flavor};

on_flavor! {
    on_mysql, Mysql,
    a_cascade_is_recorded_with_the_statement_that_caused_it: "cascades",
    a_cascade_through_one_table_and_across_databases: "cascades_far",
    a_cascade_of_other_statements_than_delete_and_update: "cascades_of",
}

async fn a_cascade_is_recorded_with_the_statement_that_caused_it(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE p (id INT PRIMARY KEY, v INT)",
                "CREATE TABLE c (id INT PRIMARY KEY, p_id INT, FOREIGN KEY (p_id) REFERENCES p (id) ON DELETE CASCADE ON UPDATE CASCADE)",
                "CREATE TABLE g (id INT PRIMARY KEY, c_id INT, FOREIGN KEY (c_id) REFERENCES c (id) ON DELETE SET NULL)",
                "INSERT INTO p VALUES (1, 1), (2, 2)",
                "INSERT INTO c VALUES (10, 1), (20, 2), (21, 2)",
                "INSERT INTO g VALUES (100, 10), (200, 20), (201, 21)",
            ],
            &[
                "DELETE FROM p WHERE id = 2",
                "UPDATE p SET id = 5",
                // Nothing is checked, and nothing follows.
                "SET foreign_key_checks = OFF",
                "DELETE FROM c",
                "SET foreign_key_checks = ON",
            ],
            "
            --
            0.0 delete c 20 - {id: 20, p_id: 2} | DELETE FROM p WHERE id = 2
            0.1 update g 200 {id: 200, c_id: 20} → {id: 200, c_id: null} (c_id)
            0.2 delete c 21 - {id: 21, p_id: 2}
            0.3 update g 201 {id: 201, c_id: 21} → {id: 201, c_id: null} (c_id)
            0.4 delete p 2 - {id: 2, v: 2}
            --
            0.0 update c 10 {id: 10, p_id: 1} → {id: 10, p_id: 5} (p_id) | UPDATE p SET id = 5
            0.1 update p 1 {id: 1, v: 1} → {id: 5, v: 1} (id)
            --
            0.0 delete c 10 - {id: 10, p_id: 5} | DELETE FROM c
            ",
        )
        .await;
    recorded.assert_exact(&["p", "c", "g"]).await;
}

async fn a_cascade_through_one_table_and_across_databases(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE tree (id INT PRIMARY KEY, up INT, FOREIGN KEY (up) REFERENCES tree (id) ON DELETE CASCADE)",
                "INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, 3)",
                "CREATE DATABASE cascades_far__too",
                "CREATE TABLE cascades_far__too.leaf (id INT PRIMARY KEY, at INT, FOREIGN KEY (at) REFERENCES cascades_far.tree (id) ON DELETE CASCADE)",
                "INSERT INTO cascades_far__too.leaf VALUES (7, 3)",
            ],
            &["DELETE FROM tree WHERE id = 1"],
            "
            --
            0.0 delete tree 2 - {id: 2, up: 1} | DELETE FROM tree WHERE id = 1
            0.1 delete tree 3 - {id: 3, up: 2}
            0.2 delete tree 4 - {id: 4, up: 3}
            0.3 delete cascades_far__too.leaf 7 - {id: 7, at: 3}
            0.4 delete tree 1 - {id: 1, up: null}
            ",
        )
        .await;
}

async fn a_cascade_of_other_statements_than_delete_and_update(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE p (id INT PRIMARY KEY, u INT UNIQUE)",
                "CREATE TABLE c (id INT PRIMARY KEY, u INT, FOREIGN KEY (u) REFERENCES p (u) ON DELETE SET NULL ON UPDATE CASCADE)",
                "INSERT INTO p VALUES (1, 100), (2, 200), (3, 300)",
                "INSERT INTO c VALUES (1, 100), (2, 200), (3, 300)",
            ],
            &[
                // The key that is referred to is there again: nothing follows.
                "REPLACE INTO p VALUES (9, 100)",
                "REPLACE INTO p VALUES (2, 222)",
                "INSERT INTO p VALUES (3, 0) ON DUPLICATE KEY UPDATE u = 333",
                "DELETE p FROM p JOIN c USING (u) WHERE c.id = 3",
            ],
            "
            --
            0.0 delete p 1 - {id: 1, u: 100} | REPLACE INTO p VALUES (9, 100)
            0.1 insert p 9 + {id: 9, u: 100}
            --
            0.0 update c 2 {id: 2, u: 200} → {id: 2, u: null} (u) | REPLACE INTO p VALUES (2, 222)
            0.1 delete p 2 - {id: 2, u: 200}
            0.2 insert p 2 + {id: 2, u: 222}
            --
            0.0 update c 3 {id: 3, u: 300} → {id: 3, u: 333} (u) | INSERT INTO p VALUES (3, 0) ON DUPLICATE KEY UPDATE u = 333
            0.1 update p 3 {id: 3, u: 300} → {id: 3, u: 333} (u)
            --
            0.0 update c 3 {id: 3, u: 333} → {id: 3, u: null} (u) | DELETE p FROM p JOIN c USING (u) WHERE c.id = 3
            0.1 delete p 3 - {id: 3, u: 333}
            ",
        )
        .await;
    recorded.assert_exact(&["p", "c"]).await;
}
