//! Values, names, servers and hands that are hostile to the stream: stored, readable, and the stream goes on; or it stops and
//! says what to do.
//!
//! First what BSON or MongoDB cannot hold as it is (keys with `$`, dots and NUL, deep JSON, odd names, undecodable text,
//! documents that a validator refuses); then forms of the binlog that few servers use (tagged GTIDs, compressed
//! transactions, no checksum, rotation); then an operator who sets the offset back; last, that neither a secret nor a row
//! value ever reaches the log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{
    Daemon, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, mysql, values, wait_until,
};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, RawBsonRef, RawDocumentBuf, doc};
use mongodb::{Collection, Database};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::sync::OnceCell;

const SOON: Duration = Duration::from_secs(30);

/// A server for the tests that only write tables of their own.
async fn shared_mysqld() -> &'static Mysqld {
    static SHARED: OnceCell<Mysqld> = OnceCell::const_new();
    SHARED.get_or_init(Mysqld::start).await
}

/// A daemon that records one database from now on.
struct Audit {
    mysqld: &'static Mysqld,
    mongod: &'static Mongod,
    schema: &'static str,
    settings: Settings,
    daemon: Daemon,
    target: Database,
    session: Conn,
}

impl Audit {
    async fn of(schema: &'static str) -> Self {
        let (mysqld, mongod) = tokio::join!(shared_mysqld(), Mongod::shared());
        mysqld.exec(format!("CREATE DATABASE {schema}")).await;
        let settings = Settings::new(mysqld, mongod)
            .set("START_FROM", "current")
            .set("INCLUDE_REGEX", format!(r"^{schema}\."));
        let daemon = Daemon::start(&settings);
        daemon
            .wait_for_log("Starting from current position", SOON)
            .await;
        let target = mongod.database(settings.database()).await;
        let mut session = mysqld.root().await;
        session.query_drop(format!("USE {schema}")).await.unwrap();
        Self {
            mysqld,
            mongod,
            schema,
            settings,
            daemon,
            target,
            session,
        }
    }

    async fn run(&mut self, statements: &[&str]) {
        for statement in statements {
            let done = self.session.query_drop(*statement).await;
            done.unwrap_or_else(|error| panic!("{error}\nin: {statement}"));
        }
    }

    /// The rows' documents of this database, once everything executed is recorded.
    async fn rows(&self) -> Vec<Document> {
        caught_up(self.mysqld, self.mongod, self.settings.database()).await;
        rows_of(&self.target, self.schema).await
    }
}

async fn rows_of(target: &Database, schema: &str) -> Vec<Document> {
    let filter = doc! { "meta.db": schema, "op": { "$in": ["insert", "update", "delete"] } };
    mongo::find(&target.collection(mongo::CHANGES), filter, doc! { "n": 1 }).await
}

fn meta(document: &Document) -> &Document {
    document
        .get_document("meta")
        .unwrap_or_else(|error| panic!("{error}: {document}"))
}

fn after(document: &Document) -> &Document {
    document
        .get_document("after")
        .unwrap_or_else(|error| panic!("{error}: {document}"))
}

/// What a binary literal in MongoDB is.
fn binary(bytes: &[u8]) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    })
}

async fn stop(daemon: &Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

async fn set_validator(database: &Database, validator: Document) {
    database
        .run_command(doc! { "collMod": mongo::CHANGES, "validator": validator })
        .await
        .unwrap();
}

/// Sets fields of the offset document, as an operator would in mongosh.
async fn set_offset(database: &Database, fields: Document) {
    let offsets: Collection<Document> = database.collection(mongo::OFFSETS);
    let updated = offsets
        .update_one(doc! {}, doc! { "$set": fields })
        .await
        .unwrap();
    assert_eq!(updated.matched_count, 1);
}

// --- what BSON or MongoDB cannot hold as it is

#[tokio::test]
async fn json_with_hostile_keys_is_stored_and_found() {
    let mut audit = Audit::of("json_keys").await;
    let cases = [
        (
            r#"{"$where": 1, "a.b": {"$": [null]}, "": true, "_id": 0, ".": "", "$$": {"$set": {"x.$[]": 1}}}"#,
            true,
        ),
        (r#"["$ref", {"$ref": "c", "$id": 1, "$db": "d"}]"#, true),
        (
            r#"{"__proto__": 1, "constructor": 2, "ключ": 3, "日本": {"🦀": 4}}"#,
            true,
        ),
        // A NUL in a value is text like any other; in a key BSON has no way to say it.
        ("{\"a\": \"x\\u0000y\"}", true),
        ("{\"a\\u0000b\": 1}", false),
        ("{\"outer\": [{\"in\\u0000ner\": 1}]}", false),
    ];
    audit
        .run(&["CREATE TABLE t (id INT PRIMARY KEY, j JSON)"])
        .await;
    for (id, (json, _)) in cases.iter().enumerate() {
        audit
            .session
            .exec_drop("INSERT INTO t VALUES (?, ?)", (id, json))
            .await
            .unwrap();
    }
    let rows = audit.rows().await;
    assert_eq!(rows.len(), cases.len());
    let texts: Vec<String> = audit
        .session
        .query("SELECT CAST(j AS CHAR) FROM t ORDER BY id")
        .await
        .unwrap();
    let selected = values::select(&mut audit.session, "SELECT * FROM t ORDER BY id").await;
    for (index, (row, (_, native))) in rows.iter().zip(cases).enumerate() {
        let found = after(row).get("j").unwrap();
        if native {
            let expected = selected[index].get("j").unwrap();
            assert_eq!(values::canonical(found), values::canonical(expected));
        } else {
            assert_eq!(
                found,
                &Bson::Document(doc! { "$json": &texts[index] }),
                "text, as MySQL prints it"
            );
        }
        assert!(!meta(row).contains_key("opaque"));
    }
    // MongoDB itself finds what is under such a key.
    let changes: Collection<Document> = audit.target.collection(mongo::CHANGES);
    let under_dollar = doc! { "$expr": { "$eq": [{ "$getField": { "field": { "$literal": "$where" }, "input": "$after.j" } }, 1] } };
    assert_eq!(changes.count_documents(under_dollar).await.unwrap(), 1);
}

#[tokio::test]
async fn json_of_a_hundred_levels_is_stored_whatever_mongodb_takes() {
    let mut audit = Audit::of("levels").await;
    audit
        .run(&["CREATE TABLE t (id INT PRIMARY KEY, j JSON)"])
        .await;
    let nested = |levels: usize, open: &str, close: &str| {
        format!("{}1{}", open.repeat(levels), close.repeat(levels))
    };
    for levels in [1, 85, 89, 90, 91, 95, 100] {
        for (id, json) in [
            (levels, nested(levels, "[", "]")),
            (levels + 1000, nested(levels, r#"{"a": "#, "}")),
        ] {
            audit
                .session
                .exec_drop("INSERT INTO t VALUES (?, ?)", (id, json))
                .await
                .unwrap();
        }
    }
    // Deep and changed: both images have it.
    audit
        .run(&[
            "UPDATE t SET j = JSON_ARRAY(j) WHERE id = 89",
            "DELETE FROM t WHERE id = 1100",
        ])
        .await;
    caught_up(audit.mysqld, audit.mongod, audit.settings.database()).await;
    let rows = raw_rows(&audit.target, audit.schema).await;
    assert_eq!(rows.len(), 16);
    for row in &rows {
        let op = row.get_str("op").unwrap();
        for name in ["before", "after"] {
            let Ok(image) = row.get_document(name) else {
                continue;
            };
            let id = usize::try_from(image.get_i32("id").unwrap()).unwrap();
            let levels = id % 1000 + usize::from(op == "update" && name == "after");
            let (open, close) = if id < 1000 {
                ("[", "]")
            } else {
                (r#"{"a": "#, "}")
            };
            let value = image.get("j").unwrap().unwrap();
            match value
                .as_document()
                .and_then(|text| text.get_str("$json").ok())
            {
                Some(text) => {
                    assert!(levels > 90, "{levels} levels fit");
                    assert_eq!(text, nested(levels, open, close));
                }
                None => {
                    assert!(levels <= 90, "{levels} levels do not fit");
                    assert_eq!(depth(value), levels);
                }
            }
        }
    }

    // The rare paths, on which the daemon takes documents apart, bear such depths too: a refusal, and a replay.
    set_validator(&audit.target, doc! { "after.id": { "$ne": 2090 } }).await;
    audit
        .session
        .exec_drop("INSERT INTO t VALUES (2090, ?)", (nested(90, "[", "]"),))
        .await
        .unwrap();
    caught_up(audit.mysqld, audit.mongod, audit.settings.database()).await;
    let before = raw_rows(&audit.target, audit.schema).await;
    let last = before.last().unwrap();
    assert!(
        last.get_document("meta")
            .unwrap()
            .get_bool("opaque")
            .unwrap()
    );
    let image = last
        .get_document("after")
        .unwrap()
        .get_binary("$bson")
        .unwrap()
        .bytes
        .to_vec();
    let image = RawDocumentBuf::from_bytes(image).unwrap();
    assert_eq!(
        (
            image.get_i32("id").unwrap(),
            depth(image.get("j").unwrap().unwrap())
        ),
        (2090, 90)
    );
    stop(&audit.daemon).await;
    set_validator(&audit.target, doc! {}).await;
    let start = before[0]
        .get_document("meta")
        .unwrap()
        .get_str("gtid")
        .unwrap();
    let (uuid, number) = start.split_once(':').unwrap();
    let replayed = format!("{uuid}:1-{}", number.parse::<u64>().unwrap() - 1);
    set_offset(&audit.target, doc! { "gtid": replayed }).await;
    let daemon = Daemon::start(&audit.settings);
    caught_up(audit.mysqld, audit.mongod, audit.settings.database()).await;
    assert!(daemon.has_logged("left out"));
    assert!(raw_rows(&audit.target, audit.schema).await == before);
}

/// Documents as bytes: to build a [`Document`] of ninety levels takes more stack than a test's thread has.
async fn raw_rows(target: &Database, schema: &str) -> Vec<RawDocumentBuf> {
    let filter = doc! { "meta.db": schema, "op": { "$in": ["insert", "update", "delete"] } };
    let changes: Collection<RawDocumentBuf> = target.collection(mongo::CHANGES);
    let mut cursor = changes.find(filter).sort(doc! { "n": 1 }).await.unwrap();
    let mut rows = Vec::new();
    while cursor.advance().await.unwrap() {
        rows.push(cursor.current().to_owned());
    }
    rows
}

/// How many arrays and documents stand around the innermost value.
fn depth(mut value: RawBsonRef<'_>) -> usize {
    for levels in 0.. {
        value = match value {
            RawBsonRef::Array(items) => items.get(0).unwrap().unwrap(),
            RawBsonRef::Document(members) => members.get("a").unwrap().unwrap(),
            RawBsonRef::Int32(1) => return levels,
            other => panic!("{other:?} was not written"),
        };
    }
    unreachable!()
}

#[tokio::test]
async fn names_of_columns_and_tables_may_be_anything() {
    let mut audit = Audit::of("names").await;
    let columns = [
        "$a.b", "a.b", "$", "it's", "\"q\"", "ba``ck", "größe", "列", "_id", "n", "$value", "a b",
        ".",
    ];
    let definitions: Vec<_> = columns
        .iter()
        .map(|name| format!("`{name}` VARCHAR(40)"))
        .collect();
    let table = "`my.table $x ``é`";
    audit
        .run(&[
            "SET NAMES utf8mb4",
            &format!(
                "CREATE TABLE {table} (`k.1` INT, `$k` VARCHAR(9), {}, PRIMARY KEY (`$k`, `k.1`))",
                definitions.join(", ")
            ),
            "CREATE TABLE `$single` (`$pk` JSON, `x.y` INT PRIMARY KEY)",
        ])
        .await;
    let texts: Vec<_> = columns
        .iter()
        .map(|name| format!("'{}'", name.replace('\'', "''").replace("``", "`")))
        .collect();
    audit
        .run(&[
            &format!("INSERT INTO {table} VALUES (1, 'k', {})", texts.join(", ")),
            &format!("UPDATE {table} SET `$a.b` = 'x\\0y', `.` = NULL"),
            &format!("DELETE FROM {table}"),
            "INSERT INTO `$single` VALUES ('{}', 7)",
        ])
        .await;
    let rows = audit.rows().await;
    assert_eq!(
        rows.iter()
            .map(|row| row.get_str("op").unwrap())
            .collect::<Vec<_>>(),
        ["insert", "update", "delete", "insert"]
    );
    let mut expected = doc! { "k.1": 1, "$k": "k" };
    for name in columns {
        let name = name.replace("``", "`");
        expected.insert(name.clone(), name);
    }
    assert_eq!(after(&rows[0]), &expected);
    assert_eq!(meta(&rows[0]).get_str("tbl").unwrap(), "my.table $x `é");
    assert_eq!(
        meta(&rows[0]).get("pk"),
        Some(&Bson::Document(doc! { "$k": "k", "k.1": 1 }))
    );
    assert_eq!(rows[1].get_document("before").unwrap(), &expected);
    expected.insert("$a.b", "x\0y");
    expected.insert(".", Bson::Null);
    assert_eq!(after(&rows[1]), &expected);
    assert_eq!(
        rows[1].get_array("changed").unwrap(),
        &vec![Bson::from("$a.b"), Bson::from(".")]
    );
    assert_eq!(rows[2].get_document("before").unwrap(), &expected);
    assert_eq!(after(&rows[3]), &doc! { "$pk": {}, "x.y": 7 });
    assert!(
        rows.iter().all(|row| !meta(row).contains_key("opaque")),
        "MongoDB takes such names as they are"
    );
    // The schema versions have them too.
    let schemas: Collection<Document> = audit.target.collection(mongo::SCHEMAS);
    assert_eq!(
        schemas
            .count_documents(doc! { "columns.name": "$a.b" })
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn text_without_characters_is_binary_and_text_with_nul_is_text() {
    let mut audit = Audit::of("texts").await;
    audit.run(&["CREATE TABLE t (id INT PRIMARY KEY, u VARCHAR(9) CHARACTER SET ucs2, x VARCHAR(40), b BLOB)"]).await;
    audit
        .run(&[
            // A lone surrogate: a code, not a character.
            "INSERT INTO t VALUES (1, _ucs2 X'0061D800', 'a\\0b', X'00')",
            "INSERT INTO t VALUES (2, _ucs2 X'0061', '\\0', '')",
        ])
        .await;
    let rows = audit.rows().await;
    assert_eq!(
        after(&rows[0]),
        &doc! { "id": 1, "u": binary(b"\0a\xd8\0"), "x": "a\0b", "b": binary(b"\0") }
    );
    assert_eq!(
        after(&rows[1]),
        &doc! { "id": 2, "u": "a", "x": "\0", "b": binary(b"") }
    );
}

#[tokio::test]
async fn a_document_that_mongodb_refuses_is_stored_opaque_and_the_stream_goes_on() {
    let mut audit = Audit::of("refused").await;
    audit
        .run(&["CREATE TABLE t (id INT PRIMARY KEY, forbidden VARCHAR(40))"])
        .await;
    audit.rows().await;
    set_validator(&audit.target, doc! { "after.forbidden": { "$in": [null, "fine"] }, "before.forbidden": { "$in": [null, "fine"] } }).await;
    audit
        .run(&[
            "BEGIN",
            "INSERT INTO t VALUES (1, 'fine')",
            "INSERT INTO t VALUES (2, 'planted-value')",
            "INSERT INTO t VALUES (3, 'fine')",
            "INSERT INTO t VALUES (4, 'planted-value')",
            "COMMIT",
            "UPDATE t SET forbidden = 'fine' WHERE id = 2",
            "DELETE FROM t WHERE id = 4",
            "INSERT INTO t VALUES (5, 'fine')",
        ])
        .await;
    let rows = audit.rows().await;
    let expected: [(&str, Option<Document>, Option<Document>, bool); 7] = [
        (
            "insert",
            None,
            Some(doc! { "id": 1, "forbidden": "fine" }),
            false,
        ),
        (
            "insert",
            None,
            Some(doc! { "id": 2, "forbidden": "planted-value" }),
            true,
        ),
        (
            "insert",
            None,
            Some(doc! { "id": 3, "forbidden": "fine" }),
            false,
        ),
        (
            "insert",
            None,
            Some(doc! { "id": 4, "forbidden": "planted-value" }),
            true,
        ),
        (
            "update",
            Some(doc! { "id": 2, "forbidden": "planted-value" }),
            Some(doc! { "id": 2, "forbidden": "fine" }),
            true,
        ),
        (
            "delete",
            Some(doc! { "id": 4, "forbidden": "planted-value" }),
            None,
            true,
        ),
        (
            "insert",
            None,
            Some(doc! { "id": 5, "forbidden": "fine" }),
            false,
        ),
    ];
    assert_eq!(rows.len(), expected.len());
    for (row, (op, before, after, opaque)) in rows.iter().zip(&expected) {
        assert_eq!(row.get_str("op").unwrap(), *op);
        assert_eq!(
            meta(row).get("opaque"),
            opaque.then_some(&Bson::Boolean(true)),
            "{row}"
        );
        for (name, image) in [("before", before), ("after", after)] {
            let found = row.get_document(name).ok().map(|found| {
                if *opaque {
                    unpack(found)
                } else {
                    found.clone()
                }
            });
            assert_eq!(found.as_ref(), image.as_ref(), "{name} of {row}");
        }
    }
    assert_eq!(
        fold::sequence(&mongo::changes(&audit.target).await),
        [""; 0]
    );
    let told = audit
        .daemon
        .logs()
        .iter()
        .filter(|line| line.contains("WARN") && line.contains("meta.opaque"))
        .count();
    assert_eq!(told, 4, "{:#?}", audit.daemon.logs());
    assert!(
        !audit.daemon.has_logged("planted-value"),
        "MongoDB's own message quotes the document; the log does not"
    );
}

/// The image inside `{ $bson: Binary }`.
fn unpack(image: &Document) -> Document {
    assert_eq!(image.keys().collect::<Vec<_>>(), ["$bson"]);
    let bytes = image.get_binary_generic("$bson").unwrap();
    mongodb::bson::deserialize_from_slice(bytes).unwrap()
}

#[tokio::test]
async fn a_collection_that_refuses_everything_stops_the_daemon_and_nothing_is_lost() {
    let mut audit = Audit::of("refusing").await;
    audit
        .run(&["CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(40))"])
        .await;
    audit.rows().await;
    set_validator(&audit.target, doc! { "impossible": true }).await;
    audit
        .run(&["INSERT INTO t VALUES (1, 'planted-value'), (2, 'planted-value')"])
        .await;
    assert_eq!(audit.daemon.wait_exit(SOON).await.0, 3);
    let logs = audit.daemon.logs();
    let error = logs
        .iter()
        .find(|line| line.contains("ERROR") && line.contains("exit=3"));
    let error = error.unwrap_or_else(|| panic!("{logs:#?}"));
    for part in ["refused", "validator", "getCollectionInfos"] {
        assert!(error.contains(part), "{error} does not say {part}");
    }
    assert!(!logs.iter().any(|line| line.contains("planted-value")));
    // Still refused at the next start: the same answer, and the batch stays where it is.
    let again = Daemon::start(&audit.settings);
    assert_eq!(again.wait_exit(SOON).await.0, 3);
    assert_eq!(mongo::pending(&audit.target).await, 1);
    // Mended as the message says.
    set_validator(&audit.target, doc! {}).await;
    let daemon = Daemon::start(&audit.settings);
    let rows = audit.rows().await;
    let ids: Vec<_> = rows
        .iter()
        .map(|row| after(row).get_i32("id").unwrap())
        .collect();
    assert_eq!(ids, [1, 2]);
    assert!(daemon.is_running());
    assert_eq!(mongo::pending(&audit.target).await, 0);
}

// --- forms of the binlog

#[tokio::test]
async fn tagged_transactions_are_recorded_and_resumed() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        .await;
    let settings = Settings::new(&mysqld, mongod);
    let mut session = mysqld.root().await;
    let mut insert = async |tag: &str, id: i32| {
        session
            .query_drop(format!("SET gtid_next = '{tag}'"))
            .await
            .unwrap();
        session
            .query_drop(format!("INSERT INTO shop.t VALUES ({id})"))
            .await
            .unwrap();
    };
    let uuid: String = mysqld.query_one("SELECT @@server_uuid").await;
    let daemon = Daemon::start(&settings);
    insert("AUTOMATIC:tag1", 1).await;
    insert("AUTOMATIC", 2).await;
    insert("AUTOMATIC:tag1", 3).await;
    insert("AUTOMATIC:other", 4).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    // Once in order, once killed.
    stop(&daemon).await;
    insert("AUTOMATIC:tag1", 5).await;
    let daemon = Daemon::start(&settings);
    insert("AUTOMATIC", 6).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    daemon.kill9();
    insert("AUTOMATIC:new", 7).await;
    insert("AUTOMATIC:tag1", 8).await;
    let _daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.t"]).await;
    let target = mongod.database(settings.database()).await;
    let rows = rows_of(&target, "shop").await;
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                after(row).get_i32("id").unwrap(),
                meta(row).get_str("gtid").unwrap().to_owned(),
            )
        })
        .collect();
    let expected = [
        (1, "tag1:1"),
        (2, "3"),
        (3, "tag1:2"),
        (4, "other:1"),
        (5, "tag1:3"),
        (6, "4"),
        (7, "new:1"),
        (8, "tag1:4"),
    ];
    assert_eq!(
        found,
        expected.map(|(id, rest)| (id, format!("{uuid}:{rest}")))
    );
}

#[tokio::test]
async fn compressed_transactions_without_checksums_across_rotations_are_exact() {
    let (mysqld, mongod) = tokio::join!(
        Mysqld::start_with(&["--log-bin-trust-function-creators=ON"]),
        Mongod::shared()
    );
    mysqld
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(200), j JSON);
             CREATE TABLE shop.digit (d INT PRIMARY KEY); INSERT INTO shop.digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)",
        )
        .await;
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    let mut next = 0;
    for checksum in ["CRC32", "NONE", "CRC32", "NONE"] {
        mysqld
            .exec(format!("SET GLOBAL binlog_checksum = {checksum}"))
            .await;
        for compression in ["ON", "OFF"] {
            next += 10_000;
            let sql = format!(
                "USE shop; SET SESSION binlog_transaction_compression = {compression};
                 INSERT INTO shop.t VALUES ({next}, REPEAT('a', 200), '{{\"k\": [1, 2]}}');
                 BEGIN; UPDATE shop.t SET v = REPEAT('b', 100); DELETE FROM shop.t WHERE id = {next} - 10000; COMMIT;
                 INSERT INTO shop.t SELECT {next} + 1 + a.d * 100 + b.d * 10 + c.d, SHA2(RAND(1), 256), NULL
                     FROM shop.digit a, shop.digit b, shop.digit c;
                 FLUSH BINARY LOGS;
                 UPDATE shop.t SET j = JSON_OBJECT('v', v) WHERE id = {next}"
            );
            mysqld.exec(sql).await;
        }
    }
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(
        &mysqld,
        mongod,
        settings.database(),
        &["shop.t", "shop.digit"],
    )
    .await;
    let reconnects = daemon
        .logs()
        .iter()
        .filter(|line| line.contains("Connected to MySQL"))
        .count();
    assert_eq!(
        reconnects,
        1,
        "none of it broke the stream: {:#?}",
        daemon.logs()
    );

    // A large one, well over every buffer on the way; about 30 MB before compression.
    mysqld
        .exec(
            "USE shop; CREATE TABLE shop.large (id INT PRIMARY KEY, v VARCHAR(200));
             SET SESSION binlog_transaction_compression = ON;
             INSERT INTO shop.large SELECT a.d * 10000 + b.d * 1000 + c.d * 100 + d.d * 10 + e.d, REPEAT(SHA2(a.d, 256), 3)
                 FROM shop.digit a, shop.digit b, shop.digit c, shop.digit d, shop.digit e",
        )
        .await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let target = mongod.database(settings.database()).await;
    let changes: Collection<Document> = target.collection(mongo::CHANGES);
    let of_large = doc! { "meta.tbl": "large", "op": "insert", "meta.partial": true };
    assert_eq!(changes.count_documents(of_large).await.unwrap(), 100_000);
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.large"]).await;
    println!(
        "peak memory with a compressed transaction of 100,000 rows (20 MB): {} MiB",
        daemon.peak_memory() >> 20
    );
}

// --- an operator's hand

#[tokio::test]
async fn an_offset_set_back_by_hand_leaves_out_what_is_there_and_leaves_no_gap() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(40))")
        .await;
    let settings = Settings::new(&mysqld, mongod).set("BATCH_SIZE", 7);
    let target = mongod.database(settings.database()).await;
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    let older = mongo::offset(&target).await.unwrap();
    for id in 0..20 {
        mysqld
            .exec(format!("INSERT INTO shop.t VALUES ({id}, 'x')"))
            .await;
    }
    // Larger than a batch, so it is cut.
    mysqld.exec("UPDATE shop.t SET v = 'y'").await;
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    let before = mongo::changes(&target).await;

    set_offset(&target, doc! { "gtid": older.get_str("gtid").unwrap() }).await;
    mysqld.exec("INSERT INTO shop.t VALUES (100, 'new')").await;
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    let after = mongo::changes(&target).await;
    assert_eq!(
        after[..before.len()],
        before[..],
        "not one of them was written again"
    );
    assert_eq!(after.len(), before.len() + 1);
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.t"]).await;
    let left_out: usize = daemon
        .logs()
        .iter()
        .filter(|line| line.contains("left out"))
        .filter_map(|line| {
            line.split("left_out=")
                .nth(1)?
                .split(' ')
                .next()?
                .parse::<usize>()
                .ok()
        })
        .sum();
    assert_eq!(left_out, 40, "{:#?}", daemon.logs());
    stop(&daemon).await;

    // All fields set back, as who restores an old offset document does: n and batch are older, too.
    set_offset(
        &target,
        doc! { "gtid": older.get_str("gtid").unwrap(), "batch": older.get_i64("batch").unwrap() },
    )
    .await;
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    assert_eq!(mongo::changes(&target).await, after);
    stop(&daemon).await;

    // One that is there and differs is no replay.
    let changes: Collection<Document> = target.collection(mongo::CHANGES);
    let victim = before.last().unwrap().get_str("_id").unwrap();
    changes
        .update_one(
            doc! { "_id": victim },
            doc! { "$set": { "after.v": "planted-value" } },
        )
        .await
        .unwrap();
    set_offset(&target, doc! { "gtid": older.get_str("gtid").unwrap() }).await;
    let daemon = Daemon::start(&settings);
    assert_eq!(daemon.wait_exit(SOON).await.0, 3);
    let logs = daemon.logs();
    let error = logs
        .iter()
        .find(|line| line.contains("exit=3"))
        .unwrap_or_else(|| panic!("{logs:#?}"));
    assert!(
        error.contains(victim) && error.contains("differs"),
        "{error}"
    );
    assert!(
        !logs.iter().any(|line| line.contains("planted-value")),
        "{logs:#?}"
    );
    let still = mongo::changes(&target).await;
    assert_eq!(still.len(), after.len(), "nothing was written over it");
}

#[tokio::test]
async fn a_whole_old_offset_restored_is_told_apart_from_a_replay() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        .await;
    let settings = Settings::new(&mysqld, mongod);
    let target = mongod.database(settings.database()).await;
    let daemon = Daemon::start(&settings);
    mysqld.exec("INSERT INTO shop.t VALUES (1)").await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let older = mongo::offset(&target).await.unwrap();
    mysqld.exec("INSERT INTO shop.t VALUES (2), (3)").await;
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    let before = mongo::changes(&target).await;
    // With `n` set back as well: the documents are there, so their numbers are taken. Either it ends with the same documents
    // and goes on behind them, or it says what is wrong; never a second document, never a gap.
    set_offset(
        &target,
        doc! { "gtid": older.get_str("gtid").unwrap(), "batch": older.get_i64("batch").unwrap(), "n": older.get_i64("n").unwrap() },
    )
    .await;
    mysqld.exec("INSERT INTO shop.t VALUES (4)").await;
    let daemon = Daemon::start(&settings);
    wait_until("it goes on, or stops", SOON, async || {
        !daemon.is_running() || mongo::changes(&target).await.len() > before.len()
    })
    .await;
    let now = mongo::changes(&target).await;
    assert_eq!(now[..before.len()], before[..]);
    if daemon.is_running() {
        caught_up(&mysqld, mongod, settings.database()).await;
        fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.t"]).await;
    } else {
        assert_eq!(daemon.wait_exit(SOON).await.0, 3);
        let logs = daemon.logs();
        let error = logs
            .iter()
            .find(|line| line.contains("exit=3"))
            .unwrap_or_else(|| panic!("{logs:#?}"));
        assert!(error.contains("n = "), "{error}");
    }
    println!(
        "an old offset restored whole, n included: {}",
        if daemon.is_running() {
            "goes on"
        } else {
            "stops"
        }
    );
}

// --- what must not be seen

#[tokio::test]
async fn neither_a_secret_nor_a_row_value_is_ever_printed() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    const SECRET: &str = "planted-password";
    const VALUE: &str = "planted-value";
    mysqld
        .exec(format!(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(60), u VARCHAR(60) CHARACTER SET ucs2, j JSON);
             CREATE USER planted IDENTIFIED BY '{SECRET}'; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO planted"
        ))
        .await;
    let mut outputs = Vec::new();
    let settings = Settings::new(&mysqld, mongod)
        .set("MYSQL_USER", "planted")
        .set("MYSQL_PASS", SECRET)
        .set("RUST_LOG", "trace");
    let target = mongod.database(settings.database()).await;
    let daemon = Daemon::start(&settings);
    let work = |first: i32| {
        format!(
            "INSERT INTO shop.t VALUES ({first}, '{VALUE}', _ucs2 X'D800', '{{\"{VALUE}\": \"{VALUE}\"}}');
             UPDATE shop.t SET v = CONCAT(v, '{VALUE}') WHERE id = {first};
             SET SESSION binlog_format = STATEMENT; DELETE FROM shop.t WHERE v = '{VALUE}'; SET SESSION binlog_format = ROW;
             ALTER TABLE shop.t COMMENT '{VALUE} {first}';
             INSERT INTO shop.t VALUES ({first} + 1, '{VALUE}', NULL, NULL)"
        )
    };
    mysqld.exec(work(1)).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    // Its connection is cut, a validator gets in the way, it is killed and recovers.
    let dump: Option<u64> = mysqld
        .query("SELECT id FROM information_schema.processlist WHERE user = 'planted'")
        .await
        .into_iter()
        .next();
    mysqld.exec(format!("KILL {}", dump.unwrap())).await;
    set_validator(&target, doc! { "after.v": { "$ne": VALUE } }).await;
    mysqld.exec(work(11)).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    set_validator(&target, doc! { "impossible": true }).await;
    mysqld.exec(work(21)).await;
    assert_eq!(daemon.wait_exit(SOON).await.0, 3);
    outputs.extend(daemon.logs());
    set_validator(&target, doc! {}).await;
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Recovering", SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    outputs.extend(daemon.logs());

    // Refused, on either side; MongoDB's password stands in a URI.
    let mut refused = vec![
        settings
            .clone()
            .set("MYSQL_PASS", format!("wrong-{SECRET}")),
        settings.clone().set(
            "MONGO_URI",
            format!(
                "mongodb://auditor:{SECRET}@{}/?replicaSet=rs0&authSource=admin",
                mongod.addr()
            ),
        ),
        settings.clone().set(
            "MONGO_URI",
            format!(
                "mongodb://auditor:{SECRET}@{}/?replicaSet=rs0&tls=true&tlsInsecure=maybe",
                mongod.addr()
            ),
        ),
        settings.clone().set(
            "MONGO_URI",
            format!(
                "mongodb://auditor:{SECRET}@{}@x/?replicaSet=rs0",
                mongod.addr()
            ),
        ),
        settings.set("MYSQL_ADDR", format!("root:{SECRET}@{}", mysqld.addr())),
    ];
    for settings in refused.drain(..) {
        let daemon = Daemon::start(&settings);
        let (code, _) = daemon.wait_exit(SOON).await;
        assert!(code == 3 || code == 64, "{code}: {:#?}", daemon.logs());
        outputs.extend(daemon.logs());
    }
    assert!(
        outputs.len() > 50,
        "this was not quiet: {} lines",
        outputs.len()
    );
    for line in &outputs {
        for planted in [SECRET, VALUE, mysql::PASSWORD] {
            assert!(!line.contains(planted), "{line}");
        }
    }
}
