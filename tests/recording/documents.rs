//! Documents as designed are a contract: this file pins their shape, field by field, against a real server.
//!
//! It goes through everything that sdl writes: the audit document of each operation (names, order and BSON types of its
//! fields, what is absent when), its `_id` as anybody may compute it, the schema versions, the offset, the staged batch,
//! the indexes and what they let expire; then the words in the log that operators search for.
//!
//! The tests share one MySQL server where they do not hurt each other. Each has a database of its own on either side, so
//! what it looks at is picked by `meta.db`: statements about no table (CREATE DATABASE) are recorded whatever the filters.
mod bookkeeping;
mod content;

use std::time::{Duration, SystemTime};

use crate::common::audit::{Audit, run, shared_mysqld};
use crate::common::{
    Daemon, Mongod, Mysqld, Settings, Signal, caught_up, mongo, mysql, wait_until,
};
use mongodb::bson::spec::ElementType;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::{Collection, Database};
use mysql_async::prelude::Queryable;
use sha2::{Digest, Sha256};

const SOON: Duration = Duration::from_secs(30);

/// The fields of `meta` that every row's document has, in order, up to those that depend on the change.
const META: [&str; 10] = [
    "source",
    "db",
    "tbl",
    "gtid",
    "row",
    "stmt",
    "file",
    "pos",
    "server_id",
    "thread_id",
];

fn keys(document: &Document) -> Vec<&str> {
    document.keys().map(String::as_str).collect()
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}

fn meta(document: &Document) -> &Document {
    document
        .get_document("meta")
        .unwrap_or_else(|error| panic!("{error}: {document}"))
}

fn op(document: &Document) -> &str {
    document
        .get_str("op")
        .unwrap_or_else(|error| panic!("{error}: {document}"))
}

fn types(document: &Document) -> Vec<(&str, ElementType)> {
    document
        .iter()
        .map(|(name, value)| (name.as_str(), value.element_type()))
        .collect()
}

/// The names of [`META`] with further ones: `pk` in its place, the others at the end.
fn meta_keys<'a>(with_key: bool, further: &[&'a str]) -> Vec<&'a str> {
    let mut names = META.to_vec();
    if with_key {
        names.insert(3, "pk");
    }
    names.extend(further);
    names
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `_id` as the contract says it: the commit second, then the hash of source id, GTID and row.
fn expected_id(source: &str, gtid: &str, row: i64, ts: DateTime) -> String {
    let digest = Sha256::digest(format!("{source}\0{gtid}\0{row}"));
    format!(
        "{:08x}{}",
        ts.timestamp_millis() / 1000,
        &hex(&digest)[..32]
    )
}

fn assert_ids(documents: &[Document]) {
    for document in documents {
        let meta = meta(document);
        let expected = expected_id(
            meta.get_str("source").unwrap(),
            meta.get_str("gtid").unwrap(),
            meta.get_i64("row").unwrap(),
            *document.get_datetime("ts").unwrap(),
        );
        assert_eq!(document.get_str("_id").unwrap(), expected, "{document}");
    }
}

// --- audit documents

#[tokio::test]
async fn insert_update_and_delete_have_exactly_the_fields_of_the_contract() {
    let audit = Audit::of("shapes").await;
    let mut session = audit.session().await;
    run(
        &mut session,
        &["CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20), note VARCHAR(20))"],
    )
    .await;
    let thread: i64 = session
        .query_first("SELECT CONNECTION_ID()")
        .await
        .unwrap()
        .unwrap();
    let before = DateTime::from(SystemTime::now());
    // The statement's own clock is set back: `ts` is when the transaction was committed, not that.
    run(&mut session, &["SET timestamp = 1000000000"]).await;
    const GTIDS: [&str; 3] = [
        "11111111-1111-1111-1111-111111111111:7",
        "11111111-1111-1111-1111-111111111111:9",
        "22222222-1111-1111-1111-111111111111:1",
    ];
    let statements = [
        "INSERT INTO t VALUES (1, 'a', NULL), (2, 'b', 'x')",
        "UPDATE t SET name = 'c', note = 'y' WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
    ];
    for (gtid, statement) in GTIDS.iter().zip(statements) {
        run(
            &mut session,
            &[&format!("SET gtid_next = '{gtid}'"), statement],
        )
        .await;
    }
    run(&mut session, &["SET gtid_next = 'AUTOMATIC'"]).await;
    let documents = audit.rows().await;
    let after = DateTime::from(SystemTime::now());

    assert_eq!(
        documents.iter().map(op).collect::<Vec<_>>(),
        ["insert", "insert", "update", "delete"]
    );
    let [first, second, update, delete] = &documents[..] else {
        unreachable!()
    };
    assert_eq!(keys(first), ["_id", "n", "ts", "op", "meta", "after"]);
    assert_eq!(keys(second), keys(first));
    assert_eq!(
        keys(update),
        ["_id", "n", "ts", "op", "meta", "before", "after", "changed"]
    );
    assert_eq!(keys(delete), ["_id", "n", "ts", "op", "meta", "before"]);
    for document in [first, update, delete] {
        assert_eq!(
            keys(meta(document)),
            meta_keys(true, &["schema", "query"]),
            "{document}"
        );
    }
    assert_eq!(
        keys(meta(second)),
        meta_keys(true, &["schema"]),
        "the statement's text stands with its first row only"
    );

    assert_eq!(
        types(update),
        [
            ("_id", ElementType::String),
            ("n", ElementType::Int64),
            ("ts", ElementType::DateTime),
            ("op", ElementType::String),
            ("meta", ElementType::EmbeddedDocument),
            ("before", ElementType::EmbeddedDocument),
            ("after", ElementType::EmbeddedDocument),
            ("changed", ElementType::Array),
        ]
    );
    assert_eq!(
        types(meta(first)),
        [
            ("source", ElementType::String),
            ("db", ElementType::String),
            ("tbl", ElementType::String),
            ("pk", ElementType::Int32),
            ("gtid", ElementType::String),
            ("row", ElementType::Int64),
            ("stmt", ElementType::Int64),
            ("file", ElementType::String),
            ("pos", ElementType::Int64),
            ("server_id", ElementType::Int64),
            ("thread_id", ElementType::Int64),
            ("schema", ElementType::String),
            ("query", ElementType::String),
        ]
    );

    // What they say.
    let source = format!("mysql://{}", audit.mysqld.addr());
    let expected = [
        (GTIDS[0], 0_i64, 1),
        (GTIDS[0], 1, 2),
        (GTIDS[1], 0, 1),
        (GTIDS[2], 0, 2),
    ];
    for (document, (gtid, row, key)) in documents.iter().zip(expected) {
        let meta = meta(document);
        assert_eq!(meta.get_str("source").unwrap(), source);
        assert_eq!(
            (meta.get_str("db").unwrap(), meta.get_str("tbl").unwrap()),
            ("shapes", "t")
        );
        assert_eq!(
            (meta.get_str("gtid").unwrap(), meta.get_i64("row").unwrap()),
            (gtid, row)
        );
        assert_eq!(meta.get("pk"), Some(&Bson::Int32(key)));
        assert_eq!(meta.get_i64("stmt").unwrap(), 0);
        assert_eq!(
            (
                meta.get_i64("server_id").unwrap(),
                meta.get_i64("thread_id").unwrap()
            ),
            (1, thread)
        );
        let ts = *document.get_datetime("ts").unwrap();
        assert!(
            before <= ts && ts <= after,
            "{ts} is not when it was committed: {before} to {after}"
        );
        // File and position lead to the very event.
        let (file, position) = (meta.get_str("file").unwrap(), meta.get_i64("pos").unwrap());
        let event: Option<mysql_async::Row> = session
            .query_first(format!(
                "SHOW BINLOG EVENTS IN '{file}' FROM {position} LIMIT 1"
            ))
            .await
            .unwrap();
        let (at, kind): (i64, String) = event
            .map(|row| (row.get("Pos").unwrap(), row.get("Event_type").unwrap()))
            .unwrap();
        let expected = match op(document) {
            "insert" => "Write_rows",
            "update" => "Update_rows",
            _ => "Delete_rows",
        };
        assert_eq!((at, kind.as_str()), (position, expected));
    }
    for (document, text) in [
        (first, statements[0]),
        (update, statements[1]),
        (delete, statements[2]),
    ] {
        assert_eq!(meta(document).get_str("query").unwrap(), text);
    }
    assert_eq!(
        first.get_document("after").unwrap(),
        &doc! { "id": 1, "name": "a", "note": Bson::Null }
    );
    assert_eq!(
        second.get_document("after").unwrap(),
        &doc! { "id": 2, "name": "b", "note": "x" }
    );
    assert_eq!(
        update.get_document("before").unwrap(),
        first.get_document("after").unwrap()
    );
    assert_eq!(
        update.get_document("after").unwrap(),
        &doc! { "id": 1, "name": "c", "note": "y" }
    );
    assert_eq!(
        update.get_array("changed").unwrap(),
        &vec![Bson::from("name"), Bson::from("note")]
    );
    assert_eq!(
        delete.get_document("before").unwrap(),
        second.get_document("after").unwrap()
    );
    assert_ids(&documents);
}

#[tokio::test]
async fn the_key_is_a_value_a_document_in_key_order_or_absent() {
    let audit = Audit::of("pks").await;
    let mut session = audit.session().await;
    run(
        &mut session,
        &[
            "CREATE TABLE one (a INT, id BIGINT, PRIMARY KEY (id))",
            "CREATE TABLE text (name VARCHAR(40) PRIMARY KEY)",
            "CREATE TABLE several (a INT, b VARCHAR(9), c BIGINT UNSIGNED, PRIMARY KEY (c, a))",
            "CREATE TABLE prefix (id INT, name VARCHAR(40), PRIMARY KEY (name(3), id))",
            "CREATE TABLE none (a INT, UNIQUE (a))",
            "INSERT INTO one VALUES (1, 5)",
            "INSERT INTO text VALUES ('naïve')",
            "INSERT INTO several VALUES (1, 'x', 18446744073709551615)",
            "INSERT INTO prefix VALUES (1, 'longer than three')",
            "INSERT INTO none VALUES (1)",
            "UPDATE one SET id = 6",
            "DELETE FROM several",
        ],
    )
    .await;
    let rows = audit.rows().await;
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                op(row),
                meta(row).get_str("tbl").unwrap(),
                meta(row).get("pk").cloned(),
            )
        })
        .collect();
    let large: mongodb::bson::Decimal128 = "18446744073709551615".parse().unwrap();
    let several = Bson::Document(doc! { "c": large, "a": 1 });
    assert_eq!(
        found,
        [
            ("insert", "one", Some(Bson::Int64(5))),
            ("insert", "text", Some(Bson::from("naïve"))),
            ("insert", "several", Some(several.clone())),
            (
                "insert",
                "prefix",
                Some(Bson::Document(
                    doc! { "name": "longer than three", "id": 1 }
                ))
            ),
            ("insert", "none", None),
            // The row as the statement found it.
            ("update", "one", Some(Bson::Int64(5))),
            ("delete", "several", Some(several)),
        ]
    );
    let Some(Bson::Document(key)) = meta(&rows[2]).get("pk") else {
        unreachable!()
    };
    assert_eq!(
        keys(key),
        ["c", "a"],
        "in the order of the key, not of the table"
    );
    assert_eq!(
        rows[5].get_array("changed").unwrap(),
        &vec![Bson::from("id")]
    );
}

#[tokio::test]
async fn rows_count_across_tables_and_statements_and_the_text_stands_once() {
    let audit = Audit::of("counting").await;
    let mut session = audit.session().await;
    run(
        &mut session,
        &[
            "CREATE TABLE a (id INT PRIMARY KEY, v INT)",
            "CREATE TABLE b (id INT PRIMARY KEY, v INT)",
            "BEGIN",
            "INSERT INTO a VALUES (1, 0), (2, 0), (3, 0)",
            "INSERT INTO b SELECT * FROM a",
            "UPDATE a JOIN b USING (id) SET a.v = 1, b.v = 2 /* both */",
            "DELETE FROM b WHERE id = 3",
            "COMMIT",
        ],
    )
    .await;
    let rows = audit.rows().await;
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                meta(row).get_i64("row").unwrap(),
                meta(row).get_i64("stmt").unwrap(),
                op(row),
                meta(row).get_str("query").ok(),
            )
        })
        .collect();
    let texts = [
        "INSERT INTO a VALUES (1, 0), (2, 0), (3, 0)",
        "INSERT INTO b SELECT * FROM a",
        "UPDATE a JOIN b USING (id) SET a.v = 1, b.v = 2 /* both */",
        "DELETE FROM b WHERE id = 3",
    ];
    let mut expected = Vec::new();
    for (statement, (operation, count)) in
        [("insert", 3), ("insert", 3), ("update", 6), ("delete", 1)]
            .into_iter()
            .enumerate()
    {
        for index in 0..count {
            let row = i64::try_from(expected.len()).unwrap();
            expected.push((
                row,
                i64::try_from(statement).unwrap(),
                operation,
                (index == 0).then_some(texts[statement]),
            ));
        }
    }
    assert_eq!(found, expected);
    let gtids: std::collections::BTreeSet<_> = rows
        .iter()
        .map(|row| meta(row).get_str("gtid").unwrap())
        .collect();
    assert_eq!(gtids.len(), 1, "one transaction");
    let tables: Vec<_> = rows[6..12]
        .iter()
        .map(|row| meta(row).get_str("tbl").unwrap())
        .collect();
    assert!(
        tables.contains(&"a") && tables.contains(&"b"),
        "one statement, two tables: {tables:?}"
    );
    let numbers: Vec<_> = rows.iter().map(|row| row.get_i64("n").unwrap()).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{numbers:?}"
    );
    assert_ids(&rows);
}

#[tokio::test]
async fn what_was_rolled_back_leaves_nothing_and_takes_no_number() {
    let audit = Audit::of("rollbacks").await;
    let mut session = audit.session().await;
    run(
        &mut session,
        &[
            "CREATE TABLE t (id INT PRIMARY KEY)",
            "BEGIN",
            "INSERT INTO t VALUES (1)",
            "ROLLBACK",
            "BEGIN",
            "INSERT INTO t VALUES (2)",
            "SAVEPOINT a",
            "INSERT INTO t VALUES (3)",
            "ROLLBACK TO a",
            "INSERT INTO t VALUES (4)",
            "RELEASE SAVEPOINT a",
            "COMMIT",
            // A temporary table makes a transaction one that the server cannot undo altogether.
            "BEGIN",
            "INSERT INTO t VALUES (5)",
            "CREATE TEMPORARY TABLE passing (a INT)",
            "SAVEPOINT b",
            "INSERT INTO t VALUES (6)",
            "ROLLBACK TO b",
            "COMMIT",
            "BEGIN",
            "INSERT INTO t VALUES (7)",
            "DROP TEMPORARY TABLE passing",
            "ROLLBACK",
        ],
    )
    .await;
    // A statement that fails half-way is a rollback too.
    session
        .query_drop("INSERT INTO t VALUES (8), (2)")
        .await
        .unwrap_err();
    run(&mut session, &["INSERT INTO t VALUES (9)"]).await;
    let rows = audit.rows().await;
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.get_document("after").unwrap().get_i32("id").unwrap(),
                meta(row).get_i64("row").unwrap(),
            )
        })
        .collect();
    assert_eq!(found, [(2, 0), (4, 1), (5, 0), (9, 0)]);
    // Of everything up to here: databases that other tests make on this server meanwhile take numbers, too.
    let last = rows[3].get_i64("n").unwrap();
    let numbers: Vec<_> = mongo::changes(&audit.target)
        .await
        .iter()
        .map(|change| change.get_i64("n").unwrap())
        .take_while(|n| *n <= last)
        .collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_schema_change_is_its_text_and_who_ran_it_where_the_server_tells() {
    let audit = Audit::of("ddls").await;
    let mut session = audit.session().await;
    let thread: i64 = session
        .query_first("SELECT CONNECTION_ID()")
        .await
        .unwrap()
        .unwrap();
    let texts = [
        ("CREATE TABLE t (id INT PRIMARY KEY) COMMENT 'größe'", "t"),
        ("ALTER TABLE `t` ADD COLUMN (a INT, b INT)", "t"),
        ("CREATE INDEX i ON ddls.t (a)", "t"),
        ("RENAME TABLE t TO u", "t"),
        ("TRUNCATE u", "u"),
        ("DROP TABLE u", "u"),
    ];
    for (text, _) in texts {
        run(&mut session, &[text]).await;
    }
    run(&mut session, &["CREATE PROCEDURE p() SELECT 1"]).await;
    let documents = audit.documents().await;
    assert_eq!(documents.len(), texts.len() + 1, "{documents:#?}");
    for (document, (text, table)) in documents.iter().zip(texts) {
        assert_eq!(keys(document), ["_id", "n", "ts", "op", "meta"]);
        assert_eq!(op(document), "ddl");
        let meta = meta(document);
        assert_eq!(keys(meta), meta_keys(false, &["query"]));
        // The server completes some statements with words of its own.
        let query = meta.get_str("query").unwrap();
        assert!(
            query.starts_with(text) || (text.starts_with("DROP") && query.contains("`u`")),
            "{query}"
        );
        assert_eq!(meta.get_str("tbl").unwrap(), table);
        assert_eq!(meta.get_i64("row").unwrap(), 0);
        assert_eq!(meta.get_i64("thread_id").unwrap(), thread);
    }
    let procedure = meta(&documents[texts.len()]);
    assert_eq!(keys(procedure), meta_keys(false, &["user", "query"]));
    assert!(
        procedure.get_str("user").unwrap().starts_with("root@"),
        "{procedure}"
    );
    assert!(
        procedure.get_str("query").unwrap().contains("PROCEDURE"),
        "{procedure}"
    );
    assert_ids(&documents);
}

#[tokio::test]
async fn create_table_select_is_a_schema_change_and_its_rows_in_one_transaction() {
    let audit = Audit::of("ctas").await;
    let mut session = audit.session().await;
    run(
        &mut session,
        &[
            "CREATE TABLE source (id INT PRIMARY KEY, name VARCHAR(9))",
            "INSERT INTO source VALUES (1, 'a'), (2, 'b')",
            "CREATE TABLE copy SELECT * FROM source",
        ],
    )
    .await;
    let documents = audit.documents().await;
    let copied = &documents[documents.len() - 3..];
    assert_eq!(
        copied.iter().map(op).collect::<Vec<_>>(),
        ["ddl", "insert", "insert"]
    );
    assert!(
        copied
            .iter()
            .all(|document| meta(document).get_str("tbl").unwrap() == "copy")
    );
    let rows: Vec<_> = copied
        .iter()
        .map(|document| meta(document).get_i64("row").unwrap())
        .collect();
    let statements: Vec<_> = copied
        .iter()
        .map(|document| meta(document).get_i64("stmt").unwrap())
        .collect();
    assert_eq!((rows, statements), (vec![0, 1, 2], vec![0, 1, 1]));
    assert!(
        copied
            .windows(2)
            .all(|pair| meta(&pair[0]).get("gtid") == meta(&pair[1]).get("gtid"))
    );
    let ddl = meta(&copied[0]).get_str("query").unwrap();
    assert!(ddl.starts_with("CREATE TABLE `copy` ("), "{ddl}");
    assert_eq!(
        meta(&copied[1]).get_str("query").unwrap(),
        "CREATE TABLE copy SELECT * FROM source"
    );
    assert!(!meta(&copied[2]).contains_key("query"));
    assert_eq!(
        copied[2].get_document("after").unwrap(),
        &doc! { "id": 2, "name": "b" }
    );
    assert_ids(&documents);
}

#[tokio::test]
async fn xa_rows_stand_at_prepare_and_what_became_of_them_follows() {
    let audit = Audit::of("xa").await;
    let mut session = audit.session().await;
    run(
        &mut session,
        &[
            "CREATE TABLE t (id INT PRIMARY KEY)",
            "XA START 'kept','q',7",
            "INSERT INTO t VALUES (1), (2)",
            "XA END 'kept','q',7",
            "XA PREPARE 'kept','q',7",
            "XA COMMIT 'kept','q',7",
            "XA START 'dropped'",
            "INSERT INTO t VALUES (3)",
            "XA END 'dropped'",
            "XA PREPARE 'dropped'",
            "XA ROLLBACK 'dropped'",
            "XA START 'at once'",
            "INSERT INTO t VALUES (4)",
            "XA END 'at once'",
            "XA COMMIT 'at once' ONE PHASE",
        ],
    )
    .await;
    let documents = audit.rows().await;
    assert_eq!(
        documents.iter().map(op).collect::<Vec<_>>(),
        [
            "insert",
            "insert",
            "xa_commit",
            "insert",
            "xa_rollback",
            "insert",
            "xa_commit"
        ],
        "{documents:#?}"
    );
    let [first, second, commit, third, rollback, fourth, at_once] = &documents[..] else {
        unreachable!()
    };
    // As the server writes it: X'gtrid',X'bqual',formatID.
    let kept = format!("X'{}',X'71',7", hex(b"kept"));
    let dropped = format!("X'{}',X'',1", hex(b"dropped"));
    for (document, xid) in [
        (first, &kept),
        (second, &kept),
        (commit, &kept),
        (third, &dropped),
        (rollback, &dropped),
    ] {
        assert_eq!(
            meta(document).get_str("xid").unwrap_or_default(),
            xid,
            "{document}"
        );
    }
    assert_eq!(
        keys(meta(first)),
        meta_keys(true, &["schema", "query", "xid"])
    );
    assert_eq!(keys(meta(second)), meta_keys(true, &["schema", "xid"]));
    assert_eq!(keys(commit), ["_id", "n", "ts", "op", "meta"]);
    assert_eq!(keys(meta(commit)), meta_keys(false, &["query", "xid"]));
    assert_eq!(
        meta(commit).get_str("query").unwrap(),
        format!("XA COMMIT {kept}")
    );
    assert_eq!(
        meta(rollback).get_str("query").unwrap(),
        format!("XA ROLLBACK {dropped}")
    );
    assert_ne!(
        meta(first).get("gtid"),
        meta(commit).get("gtid"),
        "prepare and commit are two transactions"
    );
    assert_eq!(fourth.get_document("after").unwrap(), &doc! { "id": 4 });
    assert_eq!(meta(fourth).get("xid"), meta(at_once).get("xid"));
    assert_eq!(meta(fourth).get("gtid"), meta(at_once).get("gtid"));
    assert_eq!(
        meta(at_once).get_str("query").unwrap(),
        format!("XA COMMIT X'{}',X'',1 ONE PHASE", hex(b"at once"))
    );
    assert_ids(&documents);
}
