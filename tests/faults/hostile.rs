//! Values, names, servers and hands that are hostile to the stream: stored, readable, and the stream goes on; or it stops and
//! says what to do.
//!
//! First what BSON or MongoDB cannot hold as it is (keys with `$`, dots and NUL, deep JSON, odd names, undecodable text,
//! documents that a validator refuses); then forms of the binlog that few servers use (tagged GTIDs, compressed
//! transactions, no checksum, rotation); then an operator who sets the offset back; last, that neither a secret nor a row
//! value ever reaches the log; and damage on the wire, which stops the stream with its place.
mod damage;
mod servers_and_hands;
mod wire;

use std::time::Duration;

use crate::common::audit::Audit;
use crate::common::{
    Daemon, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, mysql, values, wait_until,
};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, RawBsonRef, RawDocumentBuf, doc};
use mongodb::{Collection, Database};
use mysql_async::prelude::Queryable;

const SOON: Duration = Duration::from_secs(30);

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
