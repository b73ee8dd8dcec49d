//! The repairs of the guide, done as it says: a backup taken and restored, an offset that does not fit, a gap, a spool, old documents
//! moved away. What counts is what is recorded afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use mysql_async::Row;
use serde_json::Value;

use super::shell::{is_there, mongosh, shell};
use super::{Block, SOON, block, blocks};
use crate::common::servers::Scratch;
use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, wait_until};

const TABLE: &str = "shop.t";

async fn insert(mysqld: &Mysqld, count: usize) {
    for _ in 0..count {
        mysqld.exec("INSERT INTO shop.t (v) VALUES ('row')").await;
    }
}

async fn stop(daemon: &Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

struct Shop {
    mysqld: Mysqld,
    mongod: Mongod,
    settings: Settings,
}

impl Shop {
    async fn start() -> Self {
        let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
        mysqld
            .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))")
            .await;
        insert(&mysqld, 5).await;
        let settings = Settings::new(&mysqld, &mongod).set("SOURCE_ID", "shop");
        Self {
            mysqld,
            mongod,
            settings,
        }
    }

    /// A daemon that records everything, and stops; all that it said.
    async fn record(&self) -> Vec<String> {
        let daemon = Daemon::start(&self.settings);
        daemon.wait_for_log("Connected to MySQL", SOON).await;
        caught_up(&self.mysqld, &self.mongod, self.settings.database()).await;
        stop(&daemon).await;
        daemon.logs()
    }

    async fn changes(&self) -> Collection<Document> {
        let database = self.mongod.database(self.settings.database()).await;
        database.collection(mongo::CHANGES)
    }

    async fn offsets(&self) -> Collection<Document> {
        let database = self.mongod.database(self.settings.database()).await;
        database.collection(mongo::OFFSETS)
    }

    async fn ids(&self) -> BTreeSet<String> {
        let changes = self.mongod.changes(self.settings.database()).await;
        let ids = changes
            .iter()
            .map(|change| change.get_str("_id").unwrap().to_owned());
        ids.collect()
    }

    async fn assert_exact(&self) {
        let database = self.settings.database();
        fold::assert_exact(&self.mysqld, &self.mongod, database, &[TABLE]).await;
    }

    /// One block in mongosh.
    fn ask(&self, block: &Block) -> Option<Value> {
        let uri = self.mongod.uri();
        let answers = mongosh(&uri, self.settings.database(), std::slice::from_ref(block))?;
        Some(answers[&block.name].value.clone())
    }

    /// What the guide's first check says of the source: last, offset, missing.
    fn complete(&self) -> (i64, i64, i64) {
        let answer = self.ask(&block("audit", "complete")).unwrap();
        let number = |name: &str| {
            let value = &answer[0][name];
            value
                .as_i64()
                .or_else(|| value["$numberLong"].as_str()?.parse().ok())
                .unwrap_or_else(|| panic!("{name} in {answer}"))
        };
        (number("last"), number("offset"), number("missing"))
    }

    fn set_back(&self, gtid: &str) {
        let block = block("offset", "set")
            .with("SOURCE_ID", "shop")
            .with("GTID_SET", gtid);
        let answer = self.ask(&block).unwrap();
        assert_eq!(answer["matchedCount"], 1, "{answer}");
    }

    /// Where the server keeps its data.
    async fn data(&self) -> PathBuf {
        let options = self.mongod.admin(doc! { "getCmdLineOpts": 1 }).await;
        let parsed = options.get_document("parsed").unwrap();
        let storage = parsed.get_document("storage").unwrap();
        PathBuf::from(storage.get_str("dbPath").unwrap())
    }
}

const LEFT_OUT: &str = "documents of a replay are there already and were left out";

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_and_an_offset_that_does_not_fit_is_set_back() {
    let shop = Shop::start().await;
    shop.record().await;
    let scratch = Scratch::new("backup");
    let backup = scratch.path().display().to_string();
    let data = shop.data().await;
    let here = |block: Block| {
        block
            .with("/backup", &backup)
            .with("/var/lib/mongodb", &data.display().to_string())
    };

    // As of one moment, while nothing is written.
    let Some(locked) = shop.ask(&block("backup", "lock")) else {
        return;
    };
    assert_eq!(locked["ok"], 1, "{locked}");
    shell(&here(block("backup", "copy")), &shop.settings);
    let unlocked = shop.ask(&block("backup", "unlock")).unwrap();
    assert_eq!(unlocked["ok"], 1, "{unlocked}");
    insert(&shop.mysqld, 5).await;
    shop.record().await;
    let (last, _, _) = shop.complete();

    shop.mongod.stop().await;
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    shell(&here(block("backup", "restore")), &shop.settings);
    shop.mongod.start_again().await;
    let (restored, offset, missing) = shop.complete();
    assert_eq!((restored, missing), (offset, 0));
    assert_eq!(restored, last - 5);
    shop.record().await;
    shop.assert_exact().await;

    // The documents are younger than the offset.
    let saved = shop.ask(&block("offset", "save")).unwrap();
    assert!(saved.is_null(), "it prints: {saved}");
    let older = shop
        .offsets()
        .await
        .find_one(doc! {})
        .await
        .unwrap()
        .unwrap();
    insert(&shop.mysqld, 3).await;
    shop.record().await;
    shop.offsets()
        .await
        .replace_one(doc! {}, &older)
        .await
        .unwrap();
    let (last, offset, missing) = shop.complete();
    assert_eq!((last, missing), (offset + 3, 0));
    insert(&shop.mysqld, 1).await;
    let unset = Daemon::start(&shop.settings);
    assert_eq!(unset.wait_exit(SOON).await.0, 3);
    assert!(unset.has_logged("is taken"), "{:#?}", unset.logs());
    shop.set_back(older.get_str("gtid").unwrap());
    let logs = shop.record().await;
    assert!(logs.iter().any(|line| line.contains(LEFT_OUT)), "{logs:#?}");
    shop.assert_exact().await;

    // Documents are missing that the offset says are there.
    let ids = shop.ids().await;
    let changes = shop.changes().await;
    let lost = doc! { "n": { "$in": [4_i64, last, last + 1] } };
    assert_eq!(changes.delete_many(lost).await.unwrap().deleted_count, 3);
    let (last, offset, missing) = shop.complete();
    assert_eq!((last, missing), (offset - 2, 1));
    shop.record().await;
    assert_ne!(shop.ids().await, ids, "nothing tells it, as the guide says");
    let purged = shop
        .mysqld
        .query_one::<String>("SELECT @@global.gtid_purged")
        .await;
    shop.set_back(&purged);
    let logs = shop.record().await;
    assert!(logs.iter().any(|line| line.contains(LEFT_OUT)), "{logs:#?}");
    assert_eq!(shop.ids().await, ids);

    // The offset is gone altogether.
    shop.offsets().await.delete_many(doc! {}).await.unwrap();
    let daemon = Daemon::start(&shop.settings.clone().set("START_FROM", "earliest"));
    daemon.wait_for_log("Starting from GTID", SOON).await;
    stop(&daemon).await;
    let set = block("offset", "set")
        .with("SOURCE_ID", "shop")
        .with("gtid: \"GTID_SET\", partial: null, ", "");
    assert_eq!(shop.ask(&set).unwrap()["matchedCount"], 1);
    insert(&shop.mysqld, 1).await;
    shop.record().await;
    let now = shop.ids().await;
    assert!(now.is_superset(&ids) && now.len() == ids.len() + 1);

    if is_there("mongodump") && is_there("mongorestore") {
        let both = block("mongodump", "").with("/backup", &backup);
        shell(&both, &shop.settings);
        assert_eq!(shop.ids().await, now);
    } else {
        eprintln!("skipped: there is no mongodump here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_is_looked_at_and_a_gap_is_gone_behind() {
    let shop = Shop::start().await;
    let scratch = Scratch::new("spool");
    let spooling = Shop {
        settings: shop
            .settings
            .clone()
            .set("SPOOL_DIR", scratch.path().display())
            .set("RETRY_INITIAL", "10ms")
            .set("RETRY_MAX_ATTEMPTS", "2")
            .set("BREAKER_FAILURES", "1")
            .set("BREAKER_OPEN", "200ms"),
        ..shop
    };
    let daemon = Daemon::start(&spooling.settings);
    caught_up(
        &spooling.mysqld,
        &spooling.mongod,
        spooling.settings.database(),
    )
    .await;
    spooling.mongod.kill();
    insert(&spooling.mysqld, 3).await;
    daemon.wait_for_log("spooling", SOON).await;
    if is_there("sqlite3") {
        let look = block("spool", "").with("/var/lib/sdl", &scratch.path().display().to_string());
        wait_until("the spool holds them", SOON, async || {
            let shown = shell(&look, &spooling.settings);
            let gtids = shown.lines().filter(|line| line.contains(':')).count();
            gtids > 0
        })
        .await;
    } else {
        eprintln!("skipped: there is no sqlite3 here");
    }
    spooling.mongod.start_again().await;
    caught_up(
        &spooling.mysqld,
        &spooling.mongod,
        spooling.settings.database(),
    )
    .await;
    stop(&daemon).await;
    spooling.assert_exact().await;

    insert(&spooling.mysqld, 2).await;
    spooling.mysqld.exec("FLUSH BINARY LOGS").await;
    wait_until("one binlog is left", SOON, async || {
        spooling
            .mysqld
            .exec("PURGE BINARY LOGS BEFORE '2037-01-01'")
            .await;
        spooling.mysqld.query::<Row>("SHOW BINARY LOGS").await.len() == 1
    })
    .await;
    insert(&spooling.mysqld, 1).await;
    let gap = Daemon::start(&spooling.settings);
    assert_eq!(gap.wait_exit(SOON).await.0, 3);
    assert!(gap.has_logged("binlog gap"));
    let accepted = shell(&block("gap", ""), &spooling.settings);
    assert!(
        accepted.contains("accepted: 2 transaction(s)"),
        "{accepted}"
    );
    spooling.record().await;
    let changes = spooling.mongod.changes(spooling.settings.database()).await;
    assert!(fold::sequence(&changes).is_empty());

    // What the guide says not to do with MongoDB.
    let database = spooling.mongod.database(spooling.settings.database()).await;
    let expire = doc! { "keyPattern": { "ts": 1 }, "expireAfterSeconds": 1_000_000 };
    let change = doc! { "collMod": mongo::CHANGES, "index": expire };
    database.run_command(change).await.unwrap();
    let refused = Daemon::start(&spooling.settings);
    assert_eq!(refused.wait_exit(SOON).await.0, 3);
    assert!(
        refused.has_logged("create the indexes"),
        "{:#?}",
        refused.logs()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn old_documents_are_moved_away_and_no_others() {
    let mongod = Mongod::shared().await;
    let name = format!("archive_{}", std::process::id());
    let database = mongod.database(&name).await;
    let changes: Collection<Document> = database.collection(mongo::CHANGES);
    let of = |year: i32, n: i64| {
        let ts = format!("{year}-12-31T23:59:59Z");
        doc! { "_id": n.to_string(), "n": n, "ts": mongodb::bson::DateTime::parse_rfc3339_str(ts).unwrap() }
    };
    changes
        .insert_many([of(2022, 1), of(2023, 2), of(2024, 3), of(2025, 4)])
        .await
        .unwrap();
    let mut move_away = block("archive", "");
    move_away.name = "archive".to_owned();
    let Some(answers) = mongosh(&mongod.uri(), &name, &[move_away]) else {
        return;
    };
    assert_eq!(answers["archive"].value["deletedCount"], 2);
    assert_eq!(changes.count_documents(doc! {}).await.unwrap(), 2);
    let kept: Collection<Document> = database.collection("row_changes_2023");
    assert_eq!(kept.count_documents(doc! {}).await.unwrap(), 2);
    assert_eq!(blocks("archive").len(), 1);
}
