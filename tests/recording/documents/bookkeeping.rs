//! What stands beside the audit documents: the offset, the staged batch, the indexes, and the words in the log.

use super::*;

#[tokio::test]
async fn the_offset_has_its_shape_and_moves_with_what_is_filtered_and_when_nothing_happens() {
    // A server of its own: it must be idle.
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec("CREATE DATABASE kept; CREATE DATABASE noise; CREATE TABLE kept.t (id INT); CREATE TABLE noise.t (id INT)").await;
    let settings = Settings::new(&mysqld, mongod).set("INCLUDE_REGEX", r"^kept\.");
    let daemon = Daemon::start(&settings);
    mysqld.exec("INSERT INTO kept.t VALUES (1), (2)").await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let target = mongod.database(settings.database()).await;
    let first = mongo::offset(&target).await.unwrap();
    assert_eq!(
        sorted(keys(&first)),
        sorted(vec![
            "_id",
            "gtid",
            "file",
            "pos",
            "server_uuid",
            "flavor",
            "batch",
            "n",
            "epoch",
            "partial",
            "ts",
            "last_gtid",
            "updatedAt",
            "session"
        ])
    );
    let kinds: std::collections::BTreeMap<_, _> = types(&first).into_iter().collect();
    for name in ["_id", "gtid", "file", "server_uuid", "flavor", "last_gtid"] {
        assert_eq!(kinds[name], ElementType::String, "{name}");
    }
    for name in ["pos", "batch", "n", "epoch"] {
        assert_eq!(kinds[name], ElementType::Int64, "{name}");
    }
    for name in ["ts", "updatedAt"] {
        assert_eq!(kinds[name], ElementType::DateTime, "{name}");
    }
    assert_eq!(
        (kinds["partial"], kinds["session"]),
        (ElementType::Null, ElementType::EmbeddedDocument)
    );
    assert_eq!(
        first.get_str("_id").unwrap(),
        format!("mysql://{}", mysqld.addr())
    );
    assert_eq!(first.get_str("gtid").unwrap(), mysqld.executed_gtid().await);
    assert_eq!(first.get_str("flavor").unwrap(), "mysql");
    assert_eq!(
        first.get_str("server_uuid").unwrap(),
        mysqld.query_one::<String>("SELECT @@server_uuid").await
    );
    let documents = mongo::changes(&target).await;
    let last = documents.last().unwrap();
    assert_eq!(first.get("n"), last.get("n"));
    assert_eq!(first.get("ts"), last.get("ts"));
    assert_eq!(
        first.get_i64("n").unwrap(),
        i64::try_from(documents.len()).unwrap()
    );
    let (file, position): (String, i64) = {
        let row: mysql_async::Row = mysqld.query_one("SHOW BINARY LOG STATUS").await;
        (row.get(0).unwrap(), row.get(1).unwrap())
    };
    assert_eq!(
        (
            first.get_str("file").unwrap(),
            first.get_i64("pos").unwrap()
        ),
        (file.as_str(), position)
    );

    // What leaves no document moves it all the same, within a second or two.
    mysqld.exec("INSERT INTO noise.t VALUES (1)").await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let second = mongo::offset(&target).await.unwrap();
    assert!(second.get_datetime("updatedAt").unwrap() > first.get_datetime("updatedAt").unwrap());
    assert!(second.get_i64("pos").unwrap() > first.get_i64("pos").unwrap());
    assert_eq!(second.get("n"), first.get("n"));
    assert_eq!(mongo::changes(&target).await.len(), documents.len());

    // And so does time alone; 30 s are promised.
    wait_until(
        "updatedAt moves on an idle source",
        Duration::from_secs(30),
        async || {
            let now = mongo::offset(&target).await.unwrap();
            now.get_datetime("updatedAt").unwrap() > second.get_datetime("updatedAt").unwrap()
        },
    )
    .await;
    let third = mongo::offset(&target).await.unwrap();
    assert_eq!(
        (third.get("gtid"), third.get("n")),
        (second.get("gtid"), second.get("n"))
    );
    assert!(daemon.is_running());
}

#[tokio::test]
async fn a_staged_batch_has_its_shape_is_recovered_and_an_archived_one_says_why() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        .await;
    let settings = Settings::new(&mysqld, mongod).set("SOURCE_ID", "the source");
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    let target = mongod.database(settings.database()).await;
    let before = mongo::offset(&target).await.unwrap();

    // A collection that takes nothing: what is staged stays staged.
    set_validator(&target, doc! { "impossible": true }).await;
    mysqld.exec("INSERT INTO shop.t VALUES (1), (2)").await;
    assert_eq!(daemon.wait_exit(SOON).await.0, 3);
    let collection: Collection<Document> = target.collection(mongo::STAGING);
    let staged = mongo::find(&collection, doc! {}, doc! {}).await;
    assert_eq!(staged.len(), 1);
    let staged = &staged[0];
    for name in [
        "_id",
        "source",
        "batch",
        "status",
        "createdAt",
        "count",
        "events",
        "next",
        "sha256",
    ] {
        assert!(staged.contains_key(name), "{name} is missing");
    }
    assert!(!staged.contains_key("note"), "a note is for archived ones");
    let batch = before.get_i64("batch").unwrap() + 1;
    assert_eq!(
        staged.get_str("_id").unwrap(),
        format!("the source#{batch}")
    );
    assert_eq!(
        (
            staged.get_str("source").unwrap(),
            staged.get_i64("batch").unwrap()
        ),
        ("the source", batch)
    );
    assert_eq!(
        (
            staged.get_str("status").unwrap(),
            staged.get_i64("count").unwrap()
        ),
        ("pending", 2)
    );
    assert!(matches!(staged.get("createdAt"), Some(Bson::DateTime(_))));
    let next = staged.get_document("next").unwrap();
    assert_eq!(next.get_str("gtid").unwrap(), mysqld.executed_gtid().await);
    assert_eq!(
        (next.get_i64("batch").unwrap(), next.get_i64("n").unwrap()),
        (batch, before.get_i64("n").unwrap() + 2)
    );
    let events: Vec<_> = staged
        .get_array("events")
        .unwrap()
        .iter()
        .map(|event| event.as_document().unwrap().clone())
        .collect();
    let mut digest = Sha256::new();
    for event in &events {
        digest.update(mongodb::bson::serialize_to_vec(event).unwrap());
    }
    assert_eq!(
        staged.get_str("sha256").unwrap(),
        hex(&digest.finalize()),
        "over the documents, in order"
    );

    // The next start finishes it, and the documents are the staged ones.
    set_validator(&target, doc! {}).await;
    let daemon = Daemon::start(&settings);
    daemon
        .wait_for_log("Recovering 1 pending batches", SOON)
        .await;
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 0);
    let documents = mongo::changes(&target).await;
    assert_eq!(documents[documents.len() - 2..], events[..]);
    caught_up(&mysqld, mongod, settings.database()).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);

    // One that is covered already is set aside, with the reason, and nothing is written twice.
    collection.insert_one(staged).await.unwrap();
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    let archived = mongo::find(&collection, doc! {}, doc! {}).await;
    assert_eq!(archived.len(), 1);
    assert_eq!(archived[0].get_str("status").unwrap(), "archived");
    assert!(
        archived[0]
            .get_str("note")
            .unwrap()
            .starts_with("covered by the offset"),
        "{}",
        archived[0]
    );
    assert_eq!(
        archived[0].get_array("events").unwrap(),
        staged.get_array("events").unwrap()
    );
    assert_eq!(mongo::changes(&target).await, documents);
}

#[tokio::test]
async fn the_indexes_are_the_designed_ones_and_only_archived_batches_expire() {
    // A server of its own: its TTL thread is told to hurry.
    let (mysqld, mongod) = tokio::join!(
        shared_mysqld(),
        Mongod::start_with(&["--setParameter", "ttlMonitorSleepSecs=1"])
    );
    let settings = Settings::new(mysqld, &mongod).set("START_FROM", "current");
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    let target = mongod.database(settings.database()).await;
    let names: Vec<_> = sorted_names(target.list_collection_names().await.unwrap());
    assert_eq!(
        names,
        [
            "binlog_offsets",
            "row_changes",
            "row_changes_schemas",
            "row_changes_staging",
            "row_changes_values"
        ]
    );
    let id = doc! { "key": { "_id": 1 } };
    assert_eq!(
        indexes(&target, mongo::CHANGES).await,
        [
            id.clone(),
            doc! { "key": { "meta.pk": 1, "meta.db": 1, "meta.tbl": 1 } },
            doc! { "key": { "meta.source": 1, "n": 1 }, "unique": true },
            doc! { "key": { "ts": 1 } },
        ]
    );
    assert_eq!(
        indexes(&target, mongo::STAGING).await,
        [
            id.clone(),
            doc! { "key": { "createdAt": 1 }, "expireAfterSeconds": 604_800, "partialFilterExpression": { "status": "archived" } },
            doc! { "key": { "status": 1 } },
        ]
    );
    for name in [mongo::SCHEMAS, mongo::VALUES, mongo::OFFSETS] {
        assert_eq!(
            indexes(&target, name).await,
            std::slice::from_ref(&id),
            "{name}"
        );
    }

    // The index means what it says: of two old ones the pending one stays.
    let collection: Collection<Document> = target.collection(mongo::STAGING);
    let long_ago = DateTime::from(SystemTime::now() - Duration::from_secs(8 * 24 * 60 * 60));
    let old = |id: &str, status: &str| doc! { "_id": id, "source": "another", "status": status, "createdAt": long_ago };
    collection
        .insert_many([old("a", "archived"), old("p", "pending")])
        .await
        .unwrap();
    wait_until(
        "the archived batch expires",
        Duration::from_secs(90),
        async || {
            collection
                .count_documents(doc! { "_id": "a" })
                .await
                .unwrap()
                == 0
        },
    )
    .await;
    assert_eq!(
        collection
            .count_documents(doc! { "_id": "p" })
            .await
            .unwrap(),
        1
    );
}

fn sorted_names(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

/// The indexes of a collection, by key, without what MongoDB adds by itself.
async fn indexes(database: &Database, collection: &str) -> Vec<Document> {
    let answer = database
        .run_command(doc! { "listIndexes": collection })
        .await
        .unwrap();
    let batch = answer
        .get_document("cursor")
        .unwrap()
        .get_array("firstBatch")
        .unwrap();
    let mut found: Vec<_> = batch
        .iter()
        .map(|index| index.as_document().unwrap().clone())
        .collect();
    for index in &mut found {
        index.remove("v");
        index.remove("name");
    }
    found.sort_by_key(|index| index.get_document("key").unwrap().keys().next().cloned());
    // The order of an index's own fields is MongoDB's.
    for index in &mut found {
        *index = index
            .clone()
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_iter()
            .collect();
        if let Some(key) = index.remove("key") {
            let rest = std::mem::take(index);
            index.insert("key", key);
            index.extend(rest);
        }
        if let Some(Bson::Int64(seconds)) = index.get("expireAfterSeconds").cloned() {
            index.insert("expireAfterSeconds", i32::try_from(seconds).unwrap());
        }
    }
    found
}

async fn set_validator(database: &Database, validator: Document) {
    database
        .run_command(doc! { "collMod": mongo::CHANGES, "validator": validator })
        .await
        .unwrap();
}

// --- the log

#[tokio::test]
async fn operators_find_the_words_they_search_for() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        .await;
    let earliest = Settings::new(&mysqld, mongod).set("SOURCE_ID", "earliest");
    let current = Settings::new(&mysqld, mongod)
        .set("SOURCE_ID", "current")
        .set("START_FROM", "current");

    let daemon = Daemon::start(&current);
    let line = daemon
        .wait_for_log("Starting from current position", SOON)
        .await;
    assert!(
        line.contains(" INFO Starting from current position"),
        "{line}"
    );
    assert!(line.contains(&mysqld.executed_gtid().await), "{line}");
    daemon.wait_for_log(" INFO Connected to MySQL", SOON).await;
    drop(daemon);

    let daemon = Daemon::start(&earliest);
    for words in [
        "Connected to MongoDB",
        "Starting from GTID",
        "Resuming from saved GTID",
        "Connected to MySQL",
    ] {
        let line = daemon.wait_for_log(words, SOON).await;
        let (time, message) = line.split_once(' ').unwrap();
        assert!(
            message.trim_start().starts_with(&format!("INFO {words}")),
            "{line}"
        );
        // RFC 3339, in the zone of TZ.
        assert!(
            time.len() == "2026-01-01T00:00:00.000+00:00".len() && time.as_bytes()[10] == b'T',
            "{time}"
        );
    }
    assert!(!daemon.has_logged("Starting from current position"));
    mysqld.exec("INSERT INTO shop.t VALUES (1); ALTER TABLE shop.t ADD COLUMN a INT FIRST; INSERT INTO shop.t VALUES (1, 2)").await;
    let line = daemon.wait_for_log("Schema changed", SOON).await;
    assert!(line.contains("shop.t"), "{line}");
    // And back: that is a change too, to a version that was there before.
    mysqld
        .exec("ALTER TABLE shop.t DROP COLUMN a; INSERT INTO shop.t VALUES (3)")
        .await;
    caught_up(&mysqld, mongod, earliest.database()).await;
    let changes = daemon
        .logs()
        .iter()
        .filter(|line| line.contains("Schema changed"))
        .count();
    assert_eq!(changes, 2, "{:#?}", daemon.logs());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    // Everything is in MongoDB by now, but the daemon may not have been told yet.
    let flushes =
        |line: &&String| line.contains("INFO Flushing ") && line.contains(" remaining events");
    assert_eq!(
        daemon.logs().iter().filter(flushes).count(),
        1,
        "{:#?}",
        daemon.logs()
    );
    assert!(daemon.has_logged("Shutdown complete"));

    // The next start goes on where the first ended: the position is named, and nothing is chosen anew.
    let daemon = Daemon::start(&earliest.clone().set("TZ", "Asia/Kolkata"));
    let line = daemon.wait_for_log("Resuming from saved GTID", SOON).await;
    assert!(line.contains(&mysqld.executed_gtid().await), "{line}");
    assert!(
        line.split(' ').next().unwrap().ends_with("+05:30"),
        "{line}"
    );
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    assert!(!daemon.has_logged("Starting from"), "{:#?}", daemon.logs());
    drop(daemon);

    // As JSON, for machines: the same words.
    let daemon = Daemon::start(&earliest.set("LOG_FORMAT", "json"));
    let line = daemon.wait_for_log("Connected to MySQL", SOON).await;
    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&parsed["message"], &parsed["level"]),
        (&"Connected to MySQL".into(), &"INFO".into())
    );
    assert_eq!(
        parsed["version"],
        serde_json::Value::from(mysqld.query_one::<String>("SELECT @@version").await)
    );
    let user = mysql::USER;
    assert!(
        !daemon
            .logs()
            .iter()
            .any(|line| line.contains(mysql::PASSWORD)),
        "the password of {user} is no news"
    );
}
