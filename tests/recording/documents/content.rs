//! What the documents hold whatever the operation: statements, text in any script, what filters leave out, schema versions.

use super::*;

#[tokio::test]
async fn a_change_logged_as_its_statement_is_recorded_as_its_statement() {
    let audit = Audit::of("statements").await;
    let mut session = audit.session().await;
    run(
        &mut session,
        &[
            "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
            "SET SESSION binlog_format = STATEMENT",
            "BEGIN",
            "INSERT INTO t VALUES (1, 1)",
            "UPDATE t SET v = v + 1",
            "COMMIT",
            "SET SESSION binlog_format = ROW",
            "INSERT INTO t VALUES (2, 2)",
        ],
    )
    .await;
    let documents = audit.rows().await;
    assert_eq!(
        documents.iter().map(op).collect::<Vec<_>>(),
        ["statement", "statement", "insert"]
    );
    for (index, text) in ["INSERT INTO t VALUES (1, 1)", "UPDATE t SET v = v + 1"]
        .into_iter()
        .enumerate()
    {
        let document = &documents[index];
        let index = i64::try_from(index).unwrap();
        assert_eq!(keys(document), ["_id", "n", "ts", "op", "meta"]);
        assert_eq!(keys(meta(document)), meta_keys(false, &["query"]));
        assert_eq!(meta(document).get_str("query").unwrap(), text);
        assert_eq!(
            (
                meta(document).get_i64("row").unwrap(),
                meta(document).get_i64("stmt").unwrap()
            ),
            (index, index)
        );
    }
    assert!(
        audit
            .daemon
            .has_logged("a data change was logged as its statement"),
        "an operator is told"
    );
    assert_ids(&documents);
}

#[tokio::test]
async fn text_in_any_script_and_character_set_reads_the_same() {
    let audit = Audit::of("scripts").await;
    let mut session = audit.session().await;
    let texts = [
        ("utf8mb4", "नमस्ते 世界 🦀 مرحبا Здравствуй"),
        ("utf8mb3", "ελληνικά"),
        ("latin1", "Käse für 5 €"),
        ("cp1251", "Привет"),
        ("koi8r", "Привет"),
        ("sjis", "こんにちは"),
        ("gbk", "你好"),
        ("big5", "你好"),
        ("euckr", "안녕하세요"),
        ("hebrew", "שלום"),
        ("utf16", "𝄞 clef"),
        ("ucs2", "Пример"),
        ("utf32", "🦀"),
    ];
    let columns: Vec<_> = texts
        .iter()
        .map(|(charset, _)| format!("`ü_{charset}` VARCHAR(60) CHARACTER SET {charset}"))
        .collect();
    run(
        &mut session,
        &[
            "SET NAMES utf8mb4",
            &format!(
                "CREATE TABLE `größe_表` (id INT PRIMARY KEY, {})",
                columns.join(", ")
            ),
        ],
    )
    .await;
    let values: Vec<_> = texts.iter().map(|(_, text)| format!("'{text}'")).collect();
    let statement = format!("INSERT INTO `größe_表` VALUES (1, {})", values.join(", "));
    run(&mut session, &[&statement]).await;
    let rows = audit.rows().await;
    assert_eq!(rows.len(), 1);
    let mut expected = doc! { "id": 1 };
    for (charset, text) in texts {
        expected.insert(format!("ü_{charset}"), text);
    }
    assert_eq!(rows[0].get_document("after").unwrap(), &expected);
    assert_eq!(meta(&rows[0]).get_str("tbl").unwrap(), "größe_表");
    assert_eq!(meta(&rows[0]).get_str("query").unwrap(), statement);
}

#[tokio::test]
async fn the_filters_leave_rows_out_and_change_nothing_of_the_others() {
    let audit = Audit::of("filters").await;
    audit.daemon.kill9();
    let mut session = audit.session().await;
    let start = audit.mysqld.executed_gtid().await;
    run(
        &mut session,
        &[
            "CREATE TABLE kept (id INT PRIMARY KEY)",
            "CREATE TABLE noise (id INT PRIMARY KEY)",
            "CREATE TABLE secret_kept (id INT PRIMARY KEY)",
            "BEGIN",
            "INSERT INTO noise VALUES (1), (2)",
            "INSERT INTO kept VALUES (1)",
            "INSERT INTO secret_kept VALUES (1)",
            "DELETE kept, noise FROM kept JOIN noise USING (id)",
            "COMMIT",
            "INSERT INTO noise VALUES (7)",
            "RENAME TABLE noise TO was_noise",
            "RENAME TABLE was_noise TO kept_now",
            "INSERT INTO kept_now VALUES (8)",
        ],
    )
    .await;
    // The same source, once with everything and once filtered, one after the other: two replicas of one name would cut
    // each other off.
    let everything = Settings::new(audit.mysqld, audit.mongod)
        .set("START_FROM", &start)
        .set("INCLUDE_REGEX", r"^filters\.");
    let filtered = Settings::new(audit.mysqld, audit.mongod)
        .set("START_FROM", &start)
        .set("INCLUDE_REGEX", r"^filters\..*kept")
        .set("EXCLUDE_REGEX", r"\.secret_");
    let mut found = Vec::new();
    for settings in [&everything, &filtered] {
        let daemon = Daemon::start(settings);
        caught_up(audit.mysqld, audit.mongod, settings.database()).await;
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait_exit(SOON).await.0, 0);
        let target = audit.mongod.database(settings.database()).await;
        let of_this_test = doc! { "meta.db": "filters" };
        found.push(
            mongo::find(
                &target.collection(mongo::CHANGES),
                of_this_test,
                doc! { "n": 1 },
            )
            .await,
        );
    }
    let [all, some] = &found[..] else {
        unreachable!()
    };
    let name = |document: &Document| {
        format!(
            "{} {}",
            op(document),
            meta(document).get_str("tbl").unwrap()
        )
    };
    assert_eq!(
        some.iter().map(name).collect::<Vec<_>>(),
        [
            "ddl kept",
            "insert kept",
            "delete kept",
            "ddl was_noise",
            "insert kept_now"
        ],
        "a rename is recorded when one of its names is"
    );
    // All but the number and the place of the statement's text is the same to the byte.
    let core = |document: &Document| {
        let mut document = document.clone();
        document.remove("n");
        document.get_document_mut("meta").unwrap().remove("query");
        document
    };
    let all: std::collections::BTreeMap<_, _> = all
        .iter()
        .map(|document| (document.get_str("_id").unwrap().to_owned(), core(document)))
        .collect();
    for document in some {
        assert_eq!(
            all.get(document.get_str("_id").unwrap()),
            Some(&core(document))
        );
    }
    assert!(
        all.len() >= some.len() + 5,
        "the other run did record what this one left out"
    );
    let inserted = some
        .iter()
        .find(|document| name(document) == "insert kept")
        .unwrap();
    assert_eq!(
        meta(inserted).get_i64("row").unwrap(),
        2,
        "the two filtered rows before it count"
    );
}

// --- what stands beside them

#[tokio::test]
async fn a_schema_version_stands_once_and_says_how_to_read_the_row() {
    let audit = Audit::of("versions").await;
    let mut session = audit.session().await;
    run(
        &mut session,
        &[
            "CREATE TABLE t (id BIGINT UNSIGNED, name VARCHAR(20) CHARACTER SET latin1, kind ENUM('a','ü') CHARACTER SET utf8mb4, \
             marks SET('x','y'), price DECIMAL(10,2), at TIMESTAMP(3) NULL, raw VARBINARY(8), extra JSON, PRIMARY KEY (name, id))",
            "CREATE TABLE bare (a TINYINT)",
            "INSERT INTO t (id, name) VALUES (1, 'a')",
            "INSERT INTO t (id, name) VALUES (2, 'b')",
            "INSERT INTO bare VALUES (1)",
        ],
    )
    .await;
    let rows = audit.rows().await;
    let schemas = mongo::find(&audit.target.collection(mongo::SCHEMAS), doc! {}, doc! {}).await;
    assert_eq!(
        schemas.len(),
        2,
        "one for each table, however many rows: {schemas:#?}"
    );
    let schema_of = |row: &Document| {
        let id = meta(row).get_str("schema").unwrap();
        schemas
            .iter()
            .find(|schema| schema.get_str("_id").unwrap() == id)
            .unwrap()
    };
    let of_t = schema_of(&rows[0]);
    assert_eq!(schema_of(&rows[1]), of_t);
    let id = of_t.get_str("_id").unwrap();
    assert!(
        id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id}"
    );
    assert_eq!(keys(of_t), ["_id", "columns", "key"]);
    let columns = vec![
        doc! { "name": "id", "type": "bigint", "unsigned": true },
        doc! { "name": "name", "type": "varchar(20)", "charset": "latin1" },
        doc! { "name": "kind", "type": "enum", "charset": "utf8mb4", "labels": ["a", "ü"] },
        doc! { "name": "marks", "type": "set", "charset": "utf8mb4", "labels": ["x", "y"] },
        doc! { "name": "price", "type": "decimal(10,2)" },
        doc! { "name": "at", "type": "timestamp(3)" },
        doc! { "name": "raw", "type": "varbinary(8)" },
        doc! { "name": "extra", "type": "json" },
    ];
    assert_eq!(
        of_t.get_array("columns").unwrap(),
        &columns.into_iter().map(Bson::Document).collect::<Vec<_>>()
    );
    assert_eq!(
        of_t.get_array("key").unwrap(),
        &vec![Bson::from("name"), Bson::from("id")]
    );
    let bare = schema_of(&rows[2]);
    assert_eq!(
        bare.get_array("columns").unwrap(),
        &vec![Bson::Document(doc! { "name": "a", "type": "tinyint" })]
    );
    assert!(bare.get_array("key").unwrap().is_empty());
}
