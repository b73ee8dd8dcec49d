//! Values: what stands in the audit documents is what SELECT returns, for every type, and for every value that a type has.
//!
//! Rows of random values, extremes and NULLs among them, are inserted, updated and deleted on a real server while the daemon
//! runs. The server itself is asked for each value as text, and the text is compared with the stored BSON value by rules of the
//! test's own. The images of one row meet every state: `after` of the insert, `before` and `after` of the update, `before`
//! of the delete. A failure prints the seed; `SDL_SEED` repeats it.
//!
//! Next to it: every code of every character set against MySQL's own conversion; JSON that came as changes
//! (`binlog_row_value_options=PARTIAL_JSON`, MySQL only); an independent decoder, mysql_cdc, on the types that it supports, and what it
//! drops (docs/decisions.md).
mod charsets;
mod columns;
mod independent;
mod json;
mod partial_json;
mod tables;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Settings, caught_up_within, mongo, on_every_server,
};
use columns::Column;
use fastrand::Rng;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tables::tables;

/// Rows of each of the four tables: 6,000 in all, each in up to four images.
const ROWS: usize = 1500;

/// Rows of one INSERT.
const ROWS_OF_A_STATEMENT: usize = 50;

/// For a debug build on a busy machine.
const CATCH_UP: Duration = Duration::from_secs(300);

/// The audit documents of one row, in order.
type History = Vec<Document>;

/// What SELECT returns for one row: each column's text, or NULL.
type Texts = Vec<Option<String>>;

/// Starts servers and daemon, runs `workload`, and gives back the audit documents of every row of `database`, by table and
/// key: the one place that knows where stored rows come from.
async fn stored_rows(
    mysqld: &Mysqld,
    database: &str,
    workload: impl AsyncFnOnce(&mut Conn),
) -> BTreeMap<(String, i64), History> {
    let mongod = Mongod::shared().await;
    let settings = Settings::new(mysqld, mongod).set("START_FROM", "current");
    let settings = settings.set("INCLUDE_REGEX", format!(r"^{database}\."));
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Connected to MySQL", CATCH_UP).await;
    let mut connection = mysqld.root().await;
    workload(&mut connection).await;
    caught_up_within(mysqld, mongod, settings.database(), CATCH_UP).await;
    assert!(daemon.is_running());
    let mut stored: BTreeMap<(String, i64), History> = BTreeMap::new();
    // Read raw: serde takes a member "$numberLong" of somebody's JSON for extended JSON.
    let changes = mongod
        .database(settings.database())
        .await
        .collection::<RawDocumentBuf>(mongo::CHANGES);
    let mut cursor = changes.find(doc! {}).sort(doc! { "n": 1 }).await.unwrap();
    while cursor.advance().await.unwrap() {
        let document = Document::try_from(cursor.current()).unwrap();
        let meta = document.get_document("meta").unwrap();
        if let Some(key) = meta.get("pk") {
            let key = (meta.get_str("tbl").unwrap().to_owned(), key_number(key));
            stored.entry(key).or_default().push(document);
        }
    }
    stored
}

/// The number of a row: its key is one INT column.
fn key_number(key: &mongodb::bson::Bson) -> i64 {
    i64::from(
        key.as_i32()
            .unwrap_or_else(|| panic!("a key that is no Int32: {key}")),
    )
}

fn seed() -> u64 {
    std::env::var("SDL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..))
}

async fn run(connection: &mut Conn, sql: &str) {
    let shortened: String = sql.chars().take(2000).collect();
    connection
        .query_drop(sql)
        .await
        .unwrap_or_else(|error| panic!("the server refused: {error}\nin: {shortened}"));
}

/// The values of one row as SQL, in the order of the columns.
fn literals(columns: &[Column], random: &mut Rng) -> Vec<String> {
    columns
        .iter()
        .map(|column| {
            if column.nullable && random.u8(..10) == 0 {
                "NULL".to_owned()
            } else {
                (column.literal)(random)
            }
        })
        .collect()
}

async fn select(connection: &mut Conn, table: &str, columns: &[Column]) -> BTreeMap<i64, Texts> {
    let expressions: Vec<String> = columns
        .iter()
        .map(|column| column.shown.expression(&column.name))
        .collect();
    let sql = format!("SELECT id, {} FROM {table}", expressions.join(", "));
    let rows: Vec<Row> = connection
        .query(&sql)
        .await
        .unwrap_or_else(|error| panic!("{error}\nin: {sql}"));
    rows.into_iter()
        .map(|mut row| {
            let id: i64 = row.take(0).unwrap();
            let text = |index: usize| {
                row.take_opt::<Option<Vec<u8>>, _>(index + 1)
                    .unwrap()
                    .unwrap()
            };
            let texts: Vec<Option<Vec<u8>>> = (0..columns.len()).map(text).collect();
            (
                id,
                texts
                    .into_iter()
                    .map(|text| text.map(|bytes| String::from_utf8(bytes).unwrap()))
                    .collect(),
            )
        })
        .collect()
}

fn create_table(name: &str, columns: &[Column]) -> String {
    let definitions: Vec<String> = columns
        .iter()
        .map(|column| format!("`{}` {}", column.name, column.definition))
        .collect();
    format!(
        "CREATE TABLE {name} (id INT PRIMARY KEY, {}) CHARACTER SET utf8mb4",
        definitions.join(", ")
    )
}

async fn insert(connection: &mut Conn, table: &str, columns: &[Column], random: &mut Rng) {
    let written: Vec<Column> = columns
        .iter()
        .filter(|column| !column.is_generated())
        .cloned()
        .collect();
    let names: Vec<String> = written
        .iter()
        .map(|column| format!("`{}`", column.name))
        .collect();
    for first in (0..ROWS).step_by(ROWS_OF_A_STATEMENT) {
        let rows: Vec<String> = (first..first + ROWS_OF_A_STATEMENT)
            .map(|id| format!("({id}, {})", literals(&written, random).join(", ")))
            .collect();
        run(
            connection,
            &format!(
                "INSERT INTO {table} (id, {}) VALUES {}",
                names.join(", "),
                rows.join(", ")
            ),
        )
        .await;
    }
}

async fn update(connection: &mut Conn, table: &str, columns: &[Column], random: &mut Rng) {
    let written: Vec<Column> = columns
        .iter()
        .filter(|column| !column.is_generated())
        .cloned()
        .collect();
    run(connection, "BEGIN").await;
    for id in (0..ROWS).step_by(2) {
        let values = written.iter().zip(literals(&written, random));
        // Not every column changes: `changed` has something to tell.
        let assignments: Vec<String> = values
            .filter(|_| random.bool())
            .map(|(column, value)| format!("`{}` = {value}", column.name))
            .chain(["id = id".to_owned()])
            .collect();
        run(
            connection,
            &format!(
                "UPDATE {table} SET {} WHERE id = {id}",
                assignments.join(", ")
            ),
        )
        .await;
    }
    run(connection, "COMMIT").await;
}

/// What differs between an image and what SELECT said.
fn differences(columns: &[Column], texts: &Texts, image: &Document) -> Vec<String> {
    let names: Vec<&str> = image.keys().map(String::as_str).collect();
    let expected: Vec<&str> = ["id"]
        .into_iter()
        .chain(columns.iter().map(|column| column.name.as_str()))
        .collect();
    assert_eq!(names, expected, "the columns of an image, in table order");
    let columns = columns.iter().zip(texts);
    columns
        .filter_map(|(column, text)| {
            let stored = image.get(&column.name).unwrap();
            let same = column.shown.matches(text.as_deref(), stored);
            let (name, definition) = (&column.name, &column.definition);
            (!same)
                .then(|| format!("{name} {definition}: SELECT says {text:?}, stored is {stored:?}"))
        })
        .collect()
}

on_every_server! { every_value_of_every_type_is_what_select_returns }

async fn every_value_of_every_type_is_what_select_returns(flavor: Flavor) {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let mysqld = Mysqld::start_as(flavor, &["--explicit-defaults-for-timestamp=ON"]).await;
    mysqld.exec("CREATE DATABASE v").await;
    let tables = tables(flavor, &mut mysqld.root().await).await;
    let mut inserted = BTreeMap::new();
    let mut updated = BTreeMap::new();
    let stored = stored_rows(&mysqld, "v", async |connection: &mut Conn| {
        // Zero dates and ENUM's '' are values too; what is out of range is brought into it by the server.
        run(connection, "SET SESSION sql_mode = '', NAMES utf8mb4").await;
        run(connection, "USE v").await;
        for (name, columns) in &tables {
            run(connection, &create_table(name, columns)).await;
            insert(connection, name, columns, &mut random).await;
            inserted.insert(*name, select(connection, name, columns).await);
            update(connection, name, columns, &mut random).await;
            updated.insert(*name, select(connection, name, columns).await);
            run(connection, &format!("DELETE FROM {name}")).await;
        }
    })
    .await;

    let mut images = 0;
    let mut wrong = Vec::new();
    for (name, columns) in &tables {
        for (id, inserted) in &inserted[name] {
            let updated = &updated[name][id];
            let history = stored
                .get(&((*name).to_owned(), *id))
                .unwrap_or_else(|| panic!("no document of {name} {id}"));
            let ops: Vec<&str> = history
                .iter()
                .map(|document| document.get_str("op").unwrap())
                .collect();
            // An update that changes nothing is not in the binlog.
            assert!(
                ops == ["insert", "update", "delete"] || ops == ["insert", "delete"],
                "{name} {id}: {ops:?}"
            );
            for document in history {
                let states = match document.get_str("op").unwrap() {
                    "insert" => vec![("after", inserted)],
                    "update" => vec![("before", inserted), ("after", updated)],
                    _ => vec![("before", updated)],
                };
                for (image, texts) in states {
                    images += 1;
                    wrong.extend(differences(
                        columns,
                        texts,
                        document.get_document(image).unwrap(),
                    ));
                }
                if document.get_str("op").unwrap() == "update" {
                    assert_changed(columns, inserted, updated, document);
                }
            }
        }
    }
    assert!(
        images > 2 * ROWS * tables.len(),
        "{images} images of {ROWS} rows in each table"
    );
    let mut shown = BTreeMap::new();
    for difference in &wrong {
        // One of each column.
        let column = difference.split(' ').next();
        shown.entry(column).or_insert(difference);
    }
    let shown: Vec<_> = shown.values().take(30).collect();
    assert!(
        wrong.is_empty(),
        "SDL_SEED={seed}: {} values differ, the first: {shown:#?}",
        wrong.len()
    );
}

/// `changed` names the columns that differ, all and no other.
fn assert_changed(columns: &[Column], inserted: &Texts, updated: &Texts, document: &Document) {
    let changed: Vec<&str> = document
        .get_array("changed")
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    for ((column, inserted), updated) in columns.iter().zip(inserted).zip(updated) {
        let differs = inserted != updated;
        assert_eq!(
            changed.contains(&column.name.as_str()),
            differs,
            "{} in {document}",
            column.name
        );
    }
}
