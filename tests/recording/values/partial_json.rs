//! JSON that the binlog has as changes only.

use super::{json, run, stored_rows};
use crate::common::Mysqld;
use fastrand::Rng;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

const ROWS: usize = 20;
const UPDATES: usize = 600;

/// A value that is long enough for the server to write changes instead of the whole.
const START: &str = r#"'{"a": [1, 2, {"b": "x"}], "o": {"p q": {"z": 1}, "é\\"": null}, "pad": "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"}'"#;

const PATHS: [&str; 16] = [
    "$.a[0]",
    "$.a[1]",
    "$.a[2].b",
    "$.a[2].c",
    "$.a[7]",
    "$.o.\"p q\".z",
    "$.o.\"p q\"",
    "$.o.\"é\\\\\"\"",
    "$.o.new",
    "$.n",
    "$.\"\"",
    "$.\"$d.o\"",
    "$.n.m",
    "$.n[0]",
    "$.o.\"p q\".\"y\\\\\\\\z\"",
    "$.a",
];

fn change(random: &mut Rng, column: &str) -> String {
    let path = PATHS[random.usize(..PATHS.len())];
    match random.u8(..6) {
        0 => format!("{column} = JSON_REMOVE({column}, '{path}')"),
        1 => format!(
            "{column} = JSON_INSERT({column}, '{path}', {})",
            json::literal(random)
        ),
        2 => format!(
            "{column} = JSON_REPLACE({column}, '{path}', {})",
            json::literal(random)
        ),
        _ => format!(
            "{column} = JSON_SET({column}, '{path}', {})",
            json::literal(random)
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_that_came_as_changes_is_the_whole_value() {
    let seed = super::seed();
    let mut random = Rng::with_seed(seed);
    let mysqld = Mysqld::start().await;
    mysqld.exec("CREATE DATABASE p; CREATE TABLE p.t (id INT PRIMARY KEY, k INT, a JSON, b JSON, c JSON)").await;
    let mut expected: Vec<Vec<[Option<String>; 3]>> = vec![Vec::new(); ROWS];
    let stored = stored_rows(&mysqld, "p", async |connection: &mut Conn| {
        run(
            connection,
            "SET binlog_row_value_options = PARTIAL_JSON, sql_mode = ''",
        )
        .await;
        for id in 0..ROWS {
            run(
                connection,
                &format!("INSERT INTO p.t VALUES ({id}, 0, {START}, {START}, NULL)"),
            )
            .await;
        }
        for update in 0..UPDATES {
            let id = random.usize(..ROWS);
            let mut changes = vec![format!("k = {}", update + 1)];
            for column in ["a", "b"] {
                match random.u8(..16) {
                    0 => changes.push(format!("{column} = {START}")),
                    1..9 => changes.push(change(&mut random, column)),
                    _ => {}
                }
            }
            let sql = format!("UPDATE p.t SET {} WHERE id = {id}", changes.join(", "));
            // Some changes nest deeper than the server's 100 levels.
            if connection.query_drop(sql).await.is_err() {
                continue;
            }
            let columns = ["a", "b", "c"]
                .map(|column| format!("CAST({column} AS CHAR CHARACTER SET utf8mb4)"));
            let sql = format!("SELECT {} FROM p.t WHERE id = {id}", columns.join(", "));
            let (a, b, c) = connection.query_first(sql).await.unwrap().unwrap();
            expected[id].push([a, b, c]);
        }
    })
    .await;
    // The events were what this test is about.
    let log: Vec<mysql_async::Row> = mysqld.query("SHOW BINLOG EVENTS").await;
    let partial = log
        .iter()
        .filter(|row| row.get::<String, _>(2).unwrap() == "Update_rows_partial")
        .count();
    assert!(partial > UPDATES / 2, "{partial} partial updates");

    for (id, states) in expected.iter().enumerate() {
        let history = &stored[&("t".to_owned(), id as i64)];
        assert_eq!(history.len(), states.len() + 1, "row {id}");
        for (document, texts) in history[1..].iter().zip(states) {
            let after = document.get_document("after").unwrap();
            for (column, text) in ["a", "b", "c"].iter().zip(texts) {
                let stored = after.get(column).unwrap();
                let text = text.as_deref().unwrap_or("null");
                assert!(
                    json::matches(text, stored),
                    "SDL_SEED={seed} row {id}.{column}: {text}, stored {stored}"
                );
            }
        }
        for pair in history.windows(2) {
            assert_eq!(pair[0].get("after"), pair[1].get("before"), "row {id}");
        }
    }
}
