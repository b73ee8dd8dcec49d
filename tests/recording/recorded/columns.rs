//! Columns, keys and names of every kind: what the images hold, and what `meta.pk` is.

use mongodb::bson::{Document, doc};

use crate::common::mongo;
use crate::recorded::notation::{Recorded, on_both_flavors, on_flavor, value};

on_both_flavors! {
    generated_and_invisible_columns_are_in_the_images: "computed",
    tables_without_a_primary_key: "keyless",
    as_many_columns_as_a_table_can_have: "wide",
    names_of_the_greatest_length_in_any_script: "long_names",
}

// MariaDB has none of this.
on_flavor! {
    only_on_mysql, Mysql,
    what_an_index_computes_is_not_recorded: "indexed",
    a_primary_key_that_the_server_invents_is_the_key: "invented",
    a_primary_key_that_is_computed_is_the_key: "computed_key",
}

async fn generated_and_invisible_columns_are_in_the_images(mut recorded: Recorded) {
    recorded
        .records(
            &[
                "CREATE TABLE t (id INT PRIMARY KEY, a INT, v INT AS (a + 1) VIRTUAL, s INT AS (a * 2) STORED, i INT INVISIBLE DEFAULT 9)",
            ],
            &[
                "INSERT INTO t (id, a) VALUES (1, 10)",
                "UPDATE t SET a = 11",
                "UPDATE t SET i = 8",
                "DELETE FROM t",
            ],
            "
            --
            0.0 insert t 1 + {id: 1, a: 10, v: 11, s: 20, i: 9} | INSERT INTO t (id, a) VALUES (1, 10)
            --
            0.0 update t 1 {id: 1, a: 10, v: 11, s: 20, i: 9} → {id: 1, a: 11, v: 12, s: 22, i: 9} (a, v, s) | UPDATE t SET a = 11
            --
            0.0 update t 1 {id: 1, a: 11, v: 12, s: 22, i: 9} → {id: 1, a: 11, v: 12, s: 22, i: 8} (i) | UPDATE t SET i = 8
            --
            0.0 delete t 1 - {id: 1, a: 11, v: 12, s: 22, i: 8} | DELETE FROM t
            ",
        )
        .await;
}

async fn tables_without_a_primary_key(mut recorded: Recorded) {
    // A UNIQUE key of columns that are NOT NULL stands in for a primary key, as it does in the server itself.
    recorded
        .records(
            &[
                "CREATE TABLE none (a INT, b VARCHAR(9))",
                "CREATE TABLE stands_in (b INT, a INT NOT NULL UNIQUE)",
                "CREATE TABLE does_not (a INT, b INT, UNIQUE (a, b))",
            ],
            &[
                "INSERT INTO none VALUES (1, 'x'), (1, 'x'), (2, NULL)",
                "UPDATE none SET b = 'y' WHERE a = 1",
                "DELETE FROM none WHERE a = 1 LIMIT 1",
                "INSERT INTO stands_in VALUES (1, 7)",
                "UPDATE stands_in SET b = 2",
                "INSERT INTO does_not VALUES (1, NULL), (1, NULL)",
                "DELETE FROM does_not",
            ],
            "
            --
            0.0 insert none + {a: 1, b: 'x'} | INSERT INTO none VALUES (1, 'x'), (1, 'x'), (2, NULL)
            0.1 insert none + {a: 1, b: 'x'}
            0.2 insert none + {a: 2, b: null}
            --
            0.0 update none {a: 1, b: 'x'} → {a: 1, b: 'y'} (b) | UPDATE none SET b = 'y' WHERE a = 1
            0.1 update none {a: 1, b: 'x'} → {a: 1, b: 'y'} (b)
            --
            0.0 delete none - {a: 1, b: 'y'} | DELETE FROM none WHERE a = 1 LIMIT 1
            --
            0.0 insert stands_in 7 + {b: 1, a: 7} | INSERT INTO stands_in VALUES (1, 7)
            --
            0.0 update stands_in 7 {b: 1, a: 7} → {b: 2, a: 7} (b) | UPDATE stands_in SET b = 2
            --
            0.0 insert does_not + {a: 1, b: null} | INSERT INTO does_not VALUES (1, NULL), (1, NULL)
            0.1 insert does_not + {a: 1, b: null}
            --
            0.0 delete does_not - {a: 1, b: null} | DELETE FROM does_not
            0.1 delete does_not - {a: 1, b: null}
            ",
        )
        .await;
    recorded
        .assert_exact(&["none", "stands_in", "does_not"])
        .await;
}

async fn what_an_index_computes_is_not_recorded(mut recorded: Recorded) {
    // An index on an expression, or on the members of a JSON array, adds a hidden column to the table. The binlog does not
    // have it, whatever its type is.
    recorded
        .records(
            &[
                "CREATE TABLE e (id INT PRIMARY KEY, name VARCHAR(20), INDEX ((UPPER(name))), INDEX ((id + 1)), UNIQUE ((name + 0), id))",
                "CREATE TABLE m (id INT PRIMARY KEY, j JSON, z INT, INDEX ((CAST(j->'$.tags' AS CHAR(20) ARRAY)), z),
                 INDEX ((CAST(j->'$.n' AS DECIMAL(10,2) ARRAY))), INDEX ((CAST(j->'$.d' AS DATETIME(3) ARRAY))),
                 INDEX ((CAST(j->'$.u' AS UNSIGNED ARRAY))))",
                r#"INSERT INTO m VALUES (1, '{"tags": ["a", "b"], "n": [1.5, 2], "d": ["2020-01-01 10:00:00"], "u": [3]}', 7)"#,
            ],
            &[
                "INSERT INTO e VALUES (1, '12')",
                "UPDATE e SET name = '13'",
                "DELETE FROM e",
                "UPDATE m SET z = 8, j = JSON_REMOVE(j, '$.n', '$.d')",
                "UPDATE m SET j = NULL",
                "DELETE FROM m",
            ],
            "
            --
            0.0 insert e 1 + {id: 1, name: '12'} | INSERT INTO e VALUES (1, '12')
            --
            0.0 update e 1 {id: 1, name: '12'} → {id: 1, name: '13'} (name) | UPDATE e SET name = '13'
            --
            0.0 delete e 1 - {id: 1, name: '13'} | DELETE FROM e
            --
            0.0 update m 1 {id: 1, j: {d: ['2020-01-01 10:00:00'], n: [1.5, 2], u: [3], tags: ['a', 'b']}, z: 7} → {id: 1, j: {u: [3], tags: ['a', 'b']}, z: 8} (j, z) | UPDATE m SET z = 8, j = JSON_REMOVE(j, '$.n', '$.d')
            --
            0.0 update m 1 {id: 1, j: {u: [3], tags: ['a', 'b']}, z: 8} → {id: 1, j: null, z: 8} (j) | UPDATE m SET j = NULL
            --
            0.0 delete m 1 - {id: 1, j: null, z: 8} | DELETE FROM m
            ",
        )
        .await;
}

async fn a_primary_key_that_the_server_invents_is_the_key(mut recorded: Recorded) {
    recorded
        .records(
            &["SET sql_generate_invisible_primary_key = ON"],
            &[
                "CREATE TABLE t (a INT)",
                "INSERT INTO t VALUES (5), (6)",
                "UPDATE t SET a = 7 WHERE a = 6",
            ],
            "
            --
            0.0 ddl t | CREATE TABLE `t` ( `my_row_id` bigint unsigned NOT NULL AUTO_INCREMENT /*!80023 INVISIBLE */, `a` int DEFAULT NULL, PRIMARY KEY (`my_row_id`) )
            --
            0.0 insert t 1 + {my_row_id: 1, a: 5} | INSERT INTO t VALUES (5), (6)
            0.1 insert t 2 + {my_row_id: 2, a: 6}
            --
            0.0 update t 2 {my_row_id: 2, a: 6} → {my_row_id: 2, a: 7} (a) | UPDATE t SET a = 7 WHERE a = 6
            ",
        )
        .await;
}

async fn a_primary_key_that_is_computed_is_the_key(mut recorded: Recorded) {
    recorded
        .records(
            &["CREATE TABLE t (a INT, b INT AS (a * 10) STORED PRIMARY KEY)"],
            &["INSERT INTO t (a) VALUES (3)", "UPDATE t SET a = 4"],
            "
            --
            0.0 insert t 30 + {a: 3, b: 30} | INSERT INTO t (a) VALUES (3)
            --
            0.0 update t 30 {a: 3, b: 30} → {a: 4, b: 40} (a, b) | UPDATE t SET a = 4
            ",
        )
        .await;
}

async fn as_many_columns_as_a_table_can_have(mut recorded: Recorded) {
    // 4096 is MySQL's limit, 1017 InnoDB's; MariaDB's is 64 KiB for the whole definition.
    let widest = recorded.pick(4096, 2500);
    let define = |columns: usize| -> String {
        let columns: Vec<String> = (1..columns).map(|n| format!("c{n:04} SMALLINT")).collect();
        columns.join(", ")
    };
    recorded
        .run(&[
            &format!(
                "CREATE TABLE widest (id INT PRIMARY KEY, {}) ENGINE=MyISAM",
                define(widest)
            ),
            &format!("CREATE TABLE wide (id INT PRIMARY KEY, {})", define(1017)),
        ])
        .await;
    for (table, last) in [("widest", widest - 1), ("wide", 1016)] {
        let values: Vec<String> = (1..=last)
            .map(|n| {
                if n % 7 == 0 {
                    "NULL".to_owned()
                } else {
                    n.to_string()
                }
            })
            .collect();
        recorded
            .run(&[
                &format!(
                    "INSERT INTO {table} VALUES (1, {}), (2, {0})",
                    values.join(", ")
                ),
                &format!("UPDATE {table} SET c{last} = -1, c0007 = 7 WHERE id = 2"),
                &format!("DELETE FROM {table} WHERE id = 1"),
            ])
            .await;
    }
    recorded.assert_exact(&["widest", "wide"]).await;
    let documents = recorded.documents().await;
    let update = documents
        .iter()
        .find(|document| document.get_str("op").unwrap() == "update")
        .unwrap();
    assert_eq!(update.get_document("after").unwrap().len(), widest);
    let changed: Vec<_> = update
        .get_array("changed")
        .unwrap()
        .iter()
        .map(value)
        .collect();
    assert_eq!(
        changed,
        ["'c0007'".to_owned(), format!("'c{}'", widest - 1)]
    );
}

async fn names_of_the_greatest_length_in_any_script(mut recorded: Recorded) {
    // 64 characters each (file systems allow no more than that of databases and tables); and what has a meaning elsewhere:
    // quotes, dots, spaces, `$`.
    let long = "ж".repeat(64 - 12);
    let database = format!("long_names__{long}");
    let odd_database = "long_names__it's a \"$db\".`x`";
    let table = format!("$t.{}", "é".repeat(61));
    let column = format!("k.{}$", "列".repeat(61));
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    let key = quoted(&column);
    for database in [database.as_str(), odd_database] {
        let table = format!("{}.{}", quoted(database), quoted(&table));
        recorded
            .run(&[
                &format!("CREATE DATABASE {}", quoted(database)),
                &format!("CREATE TABLE {table} ({key} INT PRIMARY KEY, `$set` INT, `a.b` INT)"),
                &format!("INSERT INTO {table} VALUES (1, 2, 3)"),
                &format!("UPDATE {table} SET {key} = 4, `a.b` = 5"),
                &format!("TRUNCATE TABLE {table}"),
            ])
            .await;
    }
    let documents = recorded.documents().await;
    for database in [database.as_str(), odd_database] {
        let of_database: Vec<&Document> = documents
            .iter()
            .filter(|document| {
                document
                    .get_document("meta")
                    .unwrap()
                    .get_str("db")
                    .unwrap()
                    == database
            })
            .collect();
        let found: Vec<_> = of_database
            .iter()
            .map(|document| {
                let meta = document.get_document("meta").unwrap();
                (
                    document.get_str("op").unwrap(),
                    meta.get_str("tbl").unwrap(),
                    meta.get("pk").map(value),
                )
            })
            .collect();
        let one = Some("1".to_owned());
        assert_eq!(
            found,
            [
                ("ddl", "", None),
                ("ddl", table.as_str(), None),
                ("insert", table.as_str(), one.clone()),
                ("update", table.as_str(), one),
                ("ddl", table.as_str(), None),
            ]
        );
        let update = of_database[3];
        assert_eq!(
            update.get_document("after").unwrap(),
            &doc! { &column: 4, "$set": 2, "a.b": 5 }
        );
        assert_eq!(
            update
                .get_array("changed")
                .unwrap()
                .iter()
                .map(value)
                .collect::<Vec<_>>(),
            [format!("'{column}'"), "'a.b'".to_owned()]
        );
    }
    // They are found as everything is; only a path cannot say a dot or a `$` in a name, $getField can.
    let changes = recorded.target.collection::<Document>(mongo::CHANGES);
    let field =
        |name: &str| doc! { "$getField": { "field": { "$literal": name }, "input": "$after" } };
    for (filter, expected) in [
        (
            doc! { "meta.db": odd_database, "meta.tbl": &table, "meta.pk": 1 },
            2,
        ),
        (doc! { "changed": &column }, 2),
        (doc! { "$expr": { "$eq": [field(&column), 4] } }, 2),
        (
            doc! { "$expr": { "$eq": [field("$set"), 2] }, "op": "insert" },
            2,
        ),
        (doc! { "$expr": { "$eq": [field("a.b"), 5] } }, 2),
    ] {
        assert_eq!(
            changes.count_documents(filter.clone()).await.unwrap(),
            expected,
            "{filter}"
        );
    }
}
