//! How much an event takes on disk and in the oplog: the table in docs/operations.md, "Sizing".
//!
//!     cargo bench --bench sizes

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

use std::time::Duration;

use common::{Daemon, Mongod, Mysqld, Settings, caught_up_within, mongo};
use mongodb::bson::{Document, doc};

const SOON: Duration = Duration::from_secs(60);

const ROWS: u64 = 20_000;

/// Name, columns, and the values of row `n`.
const TABLES: [(&str, &str, &str); 2] = [
    (
        "wide (10 columns)",
        "id BIGINT PRIMARY KEY, customer INT UNSIGNED NOT NULL, status ENUM('new', 'paid') NOT NULL, total DECIMAL(12,2) NOT NULL, \
         currency CHAR(3) NOT NULL, email VARCHAR(100) NOT NULL, note VARCHAR(255), weight DOUBLE, created DATETIME(6) NOT NULL, \
         updated TIMESTAMP(3) NOT NULL",
        "n, RAND() * 100000, 'new', RAND() * 10000, 'EUR', CONCAT('c', n, '@example.com'), LEFT(SHA2(n, 256), 12), RAND() * 100, NOW(6), NOW(3)",
    ),
    (
        "narrow (3 columns)",
        "id BIGINT PRIMARY KEY, account INT NOT NULL, amount DECIMAL(12,2) NOT NULL",
        "n, RAND() * 100000, RAND() * 10000",
    ),
];

/// For each kind of change: one table, `ROWS` transactions of one row or few of many.
#[tokio::main]
async fn main() {
    println!("| rows | change | data | disk, snappy | disk, zstd | indexes | oplog |");
    println!("|---|---|---|---|---|---|---|");
    for (name, columns, values) in TABLES {
        let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
        mysqld
            .exec(format!("SET SESSION cte_max_recursion_depth = 1000000; CREATE DATABASE shop; CREATE TABLE shop.t ({columns})"))
            .await;
        let column = if columns.contains("total") {
            "total"
        } else {
            "amount"
        };
        let changes = [
            (
                "insert",
                format!(
                    "INSERT INTO shop.t WITH RECURSIVE c AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM c WHERE n < {ROWS}) SELECT {values} FROM c"
                ),
            ),
            (
                "update",
                format!("UPDATE shop.t SET {column} = {column} + 1"),
            ),
            ("delete", "DELETE FROM shop.t".to_owned()),
        ];
        for (change, statement) in changes {
            let settings = Settings::new(&mysqld, &mongod).set("START_FROM", "current");
            let daemon = Daemon::start(&settings);
            daemon
                .wait_for_log("Starting from current position", SOON)
                .await;
            daemon.wait_for_log("Connected to MySQL", SOON).await;
            let database = mongod.database(settings.database()).await;
            let local = mongod.database("local").await;
            let sum = async |since: mongodb::bson::DateTime| -> i64 {
                let pipeline = [
                    doc! { "$match": { "wall": { "$gte": since } } },
                    doc! { "$group": { "_id": null, "bytes": { "$sum": { "$bsonSize": "$$ROOT" } } } },
                ];
                let mut found = local
                    .collection::<Document>("oplog.rs")
                    .aggregate(pipeline)
                    .await
                    .unwrap();
                if !found.advance().await.unwrap() {
                    return 0;
                }
                let found = found.deserialize_current().unwrap();
                found
                    .get_i64("bytes")
                    .or_else(|_| found.get_i32("bytes").map(i64::from))
                    .unwrap()
            };
            let since = mongodb::bson::DateTime::now();
            mysqld
                .exec(format!(
                    "SET SESSION cte_max_recursion_depth = 1000000; {statement}"
                ))
                .await;
            caught_up_within(&mysqld, &mongod, settings.database(), SOON * 5).await;
            let oplog = sum(since).await;
            daemon.kill9();
            let zstd = doc! { "create": "z", "storageEngine": { "wiredTiger": { "configString": "block_compressor=zstd" } } };
            database.run_command(zstd).await.unwrap();
            let mut copied = database
                .collection::<Document>(mongo::CHANGES)
                .aggregate([doc! { "$merge": "z" }])
                .await
                .unwrap();
            while copied.advance().await.unwrap() {}
            mongod.admin(doc! { "fsync": 1 }).await;
            let of = async |name: &str| {
                database
                    .run_command(doc! { "collStats": name })
                    .await
                    .unwrap()
            };
            let (snappy, zstd) = (of(mongo::CHANGES).await, of("z").await);
            let figure = |stats: &Document, name: &str| -> f64 {
                let value = stats.get(name).unwrap();
                value
                    .as_i32()
                    .map(f64::from)
                    .or(value.as_i64().map(|value| value as f64))
                    .or(value.as_f64())
                    .unwrap()
            };
            let count = figure(&snappy, "count");
            println!(
                "| {name} | {change} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
                figure(&snappy, "size") / count,
                figure(&snappy, "storageSize") / count,
                figure(&zstd, "storageSize") / count,
                figure(&snappy, "totalIndexSize") / count,
                oplog as f64 / count,
            );
        }
    }
}
