//! What is larger than a batch, a document or a packet: one transaction of a million rows, values of up to 64 MiB, rows of
//! many large values, statements of megabytes.
//!
//! Memory is bounded whatever the size of a transaction; nothing MySQL accepts is too large; what a document cannot hold
//! stands in pieces beside it, and reads back byte for byte. The figures are printed (`--nocapture`).
use std::time::{Duration, Instant};

use crate::common::{
    Daemon, Mongod, Mysqld, Settings, caught_up, caught_up_within, mongo, wait_until,
};
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};
use mysql_async::prelude::Queryable;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

const MIB: usize = 1 << 20;

/// What the daemon may have resident at most, whatever the transaction.
const MEMORY_LIMIT: u64 = 160 * MIB as u64;

/// The rows of the large transaction.
const ROWS: i64 = 1_000_000;

/// A server for the tests of large values.
async fn shared_mysqld() -> &'static Mysqld {
    static SHARED: OnceCell<Mysqld> = OnceCell::const_new();
    SHARED.get_or_init(Mysqld::start).await
}

#[tokio::test]
async fn a_transaction_of_a_million_rows_fits_160_mib_and_survives_a_kill_in_the_middle() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    mysqld
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.digit (d INT PRIMARY KEY);
             INSERT INTO shop.digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9);
             CREATE TABLE shop.big (id INT PRIMARY KEY, amount DECIMAL(10,2), note VARCHAR(40));",
        )
        .await;
    let settings = Settings::new(&mysqld, &mongod);
    let target = mongod.database(settings.database()).await;
    let changes: Collection<Document> = target.collection(mongo::CHANGES);
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, &mongod, settings.database()).await;
    let before = mongo::offset(&target).await.unwrap().get_i64("n").unwrap();

    mysqld
        .exec(
            "USE shop; INSERT INTO big SELECT a.d * 100000 + b.d * 10000 + c.d * 1000 + d.d * 100 + e.d * 10 + f.d, b.d / 4,
                 CONCAT('note ', a.d, b.d, c.d, d.d, e.d, f.d)
             FROM digit a, digit b, digit c, digit d, digit e, digit f",
        )
        .await;
    let started = Instant::now();
    wait_until(
        "a part of the transaction is committed",
        Duration::from_secs(120),
        async || {
            partial_rows(&target)
                .await
                .is_some_and(|rows| rows > ROWS / 3)
        },
    )
    .await;
    let first_peak = daemon.peak_memory();
    daemon.kill9();
    let rows_before_the_kill = partial_rows(&target)
        .await
        .expect("killed in the middle of the transaction");
    assert!(rows_before_the_kill < ROWS);

    let daemon = Daemon::start(&settings);
    caught_up_within(
        &mysqld,
        &mongod,
        settings.database(),
        Duration::from_secs(300),
    )
    .await;
    let elapsed = started.elapsed();
    let second_peak = daemon.peak_memory();
    println!(
        "1,000,000 rows in {:.1} s ({:.0} rows/s), killed after {rows_before_the_kill}; peak memory {} MiB, then {} MiB",
        elapsed.as_secs_f64(),
        ROWS as f64 / elapsed.as_secs_f64(),
        first_peak >> 20,
        second_peak >> 20
    );
    assert!(
        first_peak < MEMORY_LIMIT && second_peak < MEMORY_LIMIT,
        "{first_peak} and {second_peak} bytes"
    );

    // Every row once, in order, each saying that it is a part.
    let summary = doc! { "$group": {
        "_id": null,
        "count": { "$sum": 1_i64 },
        "partial": { "$sum": { "$cond": ["$meta.partial", 1_i64, 0_i64] } },
        "first": { "$min": "$meta.row" },
        "last": { "$max": "$meta.row" },
        "out_of_order": { "$sum": { "$cond": [{ "$eq": [{ "$subtract": ["$n", "$meta.row"] }, before + 1] }, 0_i64, 1_i64] } },
        "ids": { "$sum": { "$toLong": "$after.id" } },
        "squares": { "$sum": { "$multiply": [{ "$toLong": "$after.id" }, { "$toLong": "$after.id" }] } },
        "queries": { "$sum": { "$cond": [{ "$gt": ["$meta.query", null] }, 1_i64, 0_i64] } },
        "transactions": { "$addToSet": "$meta.gtid" },
    } };
    let mut cursor = changes
        .aggregate([
            doc! { "$match": { "meta.tbl": "big", "op": "insert" } },
            summary,
        ])
        .await
        .unwrap();
    assert!(cursor.advance().await.unwrap());
    let found = cursor.deserialize_current().unwrap();
    for (name, expected) in [
        ("count", ROWS),
        ("partial", ROWS),
        ("first", 0),
        ("last", ROWS - 1),
        ("out_of_order", 0),
        ("ids", ROWS * (ROWS - 1) / 2),
        ("squares", (ROWS - 1) * ROWS * (2 * ROWS - 1) / 6),
        ("queries", 1),
    ] {
        assert_eq!(found.get_i64(name).unwrap(), expected, "{name} in {found}");
    }
    assert_eq!(found.get_array("transactions").unwrap().len(), 1);
    let offset = mongo::offset(&target).await.unwrap();
    assert_eq!(
        (offset.get("partial"), offset.get_i64("n").unwrap()),
        (Some(&Bson::Null), before + ROWS)
    );
    assert_eq!(mongo::pending(&target).await, 0);
}

/// `offset.partial.rows`: rows of the unfinished transaction that are committed.
async fn partial_rows(target: &Database) -> Option<i64> {
    let offset = mongo::offset(target).await?;
    offset.get_document("partial").ok()?.get_i64("rows").ok()
}

// --- large values

#[tokio::test]
async fn values_of_up_to_64_mib_read_back_byte_for_byte() {
    let (mysqld, mongod) = tokio::join!(shared_mysqld(), Mongod::shared());
    mysqld.exec("CREATE DATABASE huge; CREATE TABLE huge.t (id INT PRIMARY KEY, small INT, b LONGBLOB, x LONGTEXT, j JSON)").await;
    let settings = Settings::new(mysqld, mongod)
        .set("START_FROM", "current")
        .set("INCLUDE_REGEX", r"^huge\.");
    let target = mongod.database(settings.database()).await;
    let daemon = Daemon::start(&settings);
    daemon
        .wait_for_log("Starting from current position", Duration::from_secs(30))
        .await;

    let mut random = fastrand::Rng::with_seed(7);
    let blob: Vec<u8> = std::iter::repeat_with(|| random.u64(..).to_le_bytes())
        .take(64 * MIB / 8)
        .flatten()
        .collect();
    let letters: Vec<char> = "abcdefgh äöü ß€ 世界 🦀 \\ \" ' \n \0".chars().collect();
    let mut text = String::new();
    while text.len() <= 17 * MIB {
        text.push(letters[random.usize(..letters.len())]);
    }
    let mut json = String::from("[");
    while json.len() <= 18 * MIB {
        json.push_str(&format!(
            r#"{{"number": {}, "text": "é {}"}}, "#,
            random.u32(..),
            random.u64(..)
        ));
    }
    json.push_str("null]");

    let mut session = mysqld.root().await;
    // As variables, so that the statement's own text stays small; the server refuses packets over its own limit.
    session
        .exec_drop("SET @b = ?, @x = ?, @j = ?", (&blob, &text, &json))
        .await
        .unwrap();
    let started = Instant::now();
    session.query_drop("INSERT INTO huge.t VALUES (1, 1, @b, NULL, NULL), (2, 1, NULL, @x, NULL), (3, 1, NULL, NULL, @j)").await.unwrap();
    session
        .query_drop("UPDATE huge.t SET small = 2 WHERE id = 1")
        .await
        .unwrap();
    session
        .query_drop("DELETE FROM huge.t WHERE id = 2")
        .await
        .unwrap();
    let printed: Option<String> = session
        .query_first("SELECT CAST(j AS CHAR) FROM huge.t WHERE id = 3")
        .await
        .unwrap();
    let printed = printed.unwrap();
    caught_up(mysqld, mongod, settings.database()).await;
    println!(
        "rows with 64, 17 and 18 MiB in {:.1} s; peak memory {} MiB",
        started.elapsed().as_secs_f64(),
        daemon.peak_memory() >> 20
    );

    let changes = mongo::changes(&target).await;
    let rows: Vec<_> = changes
        .iter()
        .filter(|change| change.get_document("meta").unwrap().get_str("db").unwrap() == "huge")
        .collect();
    let [with_blob, with_text, with_json, update, delete] = &rows[..] else {
        panic!("{} documents", rows.len())
    };
    for (row, image, column, kind, expected) in [
        (with_blob, "after", "b", "binary", &blob[..]),
        (with_text, "after", "x", "string", text.as_bytes()),
        (with_json, "after", "j", "json", printed.as_bytes()),
        (update, "before", "b", "binary", &blob),
        (update, "after", "b", "binary", &blob),
        (delete, "before", "x", "string", text.as_bytes()),
    ] {
        let value = row
            .get_document(image)
            .unwrap()
            .get_document(column)
            .unwrap();
        assert_eq!(
            value.keys().collect::<Vec<_>>(),
            ["$value", "bytes", "type"]
        );
        assert_eq!(value.get_str("type").unwrap(), kind);
        assert!(
            read_back(&target, value).await == expected,
            "{image}.{column} does not read back"
        );
    }
    assert_eq!(
        update.get_array("changed").unwrap(),
        &vec![Bson::from("small")]
    );
    // Pieces of 8 MiB, and a value that stands in four images is there once.
    let pieces: Collection<Document> = target.collection(mongo::VALUES);
    assert_eq!(
        pieces.count_documents(doc! {}).await.unwrap(),
        8 + 3 + u64::try_from(printed.len().div_ceil(8 * MIB)).unwrap()
    );
    let digest = sha256(&blob);
    let first = pieces
        .find_one(doc! { "_id": format!("{digest}#0") })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.get_str("value").unwrap(), digest);
    assert_eq!(first.get_i64("piece").unwrap(), 0);
    assert!(first.get_binary_generic("data").unwrap()[..] == blob[..8 * MIB]);
}

#[tokio::test]
async fn many_values_that_are_too_large_together_leave_until_the_document_is_small() {
    let (mysqld, mongod) = tokio::join!(shared_mysqld(), Mongod::shared());
    let columns: Vec<String> = (0..12)
        .map(|column| format!("c{column:02} MEDIUMTEXT"))
        .collect();
    mysqld
        .exec(format!(
            "CREATE DATABASE medium; CREATE TABLE medium.t (id INT PRIMARY KEY, {})",
            columns.join(", ")
        ))
        .await;
    let settings = Settings::new(mysqld, mongod)
        .set("START_FROM", "current")
        .set("INCLUDE_REGEX", r"^medium\.");
    let target = mongod.database(settings.database()).await;
    let daemon = Daemon::start(&settings);
    daemon
        .wait_for_log("Starting from current position", Duration::from_secs(30))
        .await;
    // Each below MAX_VALUE_BYTES; 8.5 MB in one image, 17 MB in an update's two.
    let size = |column: usize| 650_000 + 10_000 * column;
    let value = |column: usize, letter: char| letter.to_string().repeat(size(column));
    let values: Vec<String> = (0..12)
        .map(|column| format!("REPEAT('a', {})", size(column)))
        .collect();
    let updates: Vec<String> = (0..12)
        .map(|column| format!("c{column:02} = REPEAT('b', {})", size(column)))
        .collect();
    mysqld
        .exec(format!(
            "INSERT INTO medium.t VALUES (1, {}); UPDATE medium.t SET {}",
            values.join(", "),
            updates.join(", ")
        ))
        .await;
    caught_up(mysqld, mongod, settings.database()).await;

    let changes = mongo::changes(&target).await;
    let rows: Vec<_> = changes
        .iter()
        .filter(|change| change.get_document("meta").unwrap().get_str("db").unwrap() == "medium")
        .collect();
    let [insert, update] = &rows[..] else {
        panic!("{} documents", rows.len())
    };
    for (row, images) in [
        (insert, &[("after", 'a')][..]),
        (update, &[("before", 'a'), ("after", 'b')][..]),
    ] {
        let size = mongodb::bson::serialize_to_vec(*row).unwrap().len();
        assert!(size <= 4 * MIB + 4096, "the document has {size} bytes");
        let mut inline = 0;
        for (image, letter) in images {
            let image = row.get_document(image).unwrap();
            assert_eq!(image.len(), 13);
            for column in 0..12 {
                match image.get(format!("c{column:02}")).unwrap() {
                    Bson::String(text) => {
                        assert!(*text == value(column, *letter));
                        inline += 1;
                    }
                    Bson::Document(reference) => {
                        assert!(
                            read_back(&target, reference).await
                                == value(column, *letter).as_bytes()
                        );
                    }
                    other => panic!("{:?}", other.element_type()),
                }
            }
        }
        assert!(inline >= 2, "what fits stays readable in its place");
    }
    assert!(
        matches!(
            insert.get_document("after").unwrap().get("c00"),
            Some(Bson::String(_))
        ),
        "the largest leave first"
    );
    assert!(matches!(
        insert.get_document("after").unwrap().get("c11"),
        Some(Bson::Document(_))
    ));
    assert_eq!(update.get_array("changed").unwrap().len(), 12);
}

#[tokio::test]
async fn a_statement_of_megabytes_stands_in_pieces_too() {
    let (mysqld, mongod) = tokio::join!(shared_mysqld(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE texts; CREATE TABLE texts.t (id INT PRIMARY KEY, v VARCHAR(10000))")
        .await;
    let settings = Settings::new(mysqld, mongod)
        .set("START_FROM", "current")
        .set("INCLUDE_REGEX", r"^texts\.");
    let target = mongod.database(settings.database()).await;
    let daemon = Daemon::start(&settings);
    daemon
        .wait_for_log("Starting from current position", Duration::from_secs(30))
        .await;
    let values: Vec<String> = (0..300)
        .map(|id| format!("({id}, '{}')", "é".repeat(4_000)))
        .collect();
    let insert = format!("INSERT INTO texts.t VALUES {}", values.join(","));
    let comment = format!(
        "ALTER TABLE texts.t ADD COLUMN a INT /* {} */",
        "x".repeat(3 * MIB / 2)
    );
    mysqld.exec(&insert).await;
    mysqld.exec(&comment).await;
    caught_up(mysqld, mongod, settings.database()).await;

    let changes = mongo::changes(&target).await;
    let of_texts =
        |change: &&Document| change.get_document("meta").unwrap().get_str("db").unwrap() == "texts";
    let rows: Vec<_> = changes.iter().filter(of_texts).collect();
    assert_eq!(rows.len(), 301);
    let query = |row: &Document| row.get_document("meta").unwrap().get("query").cloned();
    for (index, row) in rows.iter().enumerate() {
        match (index, query(row)) {
            (0, Some(Bson::Document(reference))) => {
                assert_eq!(reference.get_str("type").unwrap(), "string");
                assert!(read_back(&target, &reference).await == insert.as_bytes());
            }
            (300, Some(Bson::Document(reference))) => {
                // The server adds its own comment behind a schema change's text.
                let text = read_back(&target, &reference).await;
                assert!(text.starts_with(comment.as_bytes()));
            }
            (1..=299, None) => {}
            (index, other) => panic!(
                "document {index} has {:?}",
                other.map(|other| other.element_type())
            ),
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The value that `{ $value, bytes, type }` stands for, put together from its pieces as any client would.
async fn read_back(target: &Database, reference: &Document) -> Vec<u8> {
    let digest = reference.get_str("$value").unwrap();
    let pieces: Collection<Document> = target.collection(mongo::VALUES);
    let mut bytes = Vec::new();
    for piece in 0.. {
        let Some(piece) = pieces
            .find_one(doc! { "_id": format!("{digest}#{piece}") })
            .await
            .unwrap()
        else {
            break;
        };
        bytes.extend_from_slice(piece.get_binary_generic("data").unwrap());
    }
    assert_eq!(
        reference.get_i64("bytes").unwrap(),
        i64::try_from(bytes.len()).unwrap()
    );
    assert_eq!(sha256(&bytes), digest);
    bytes
}
