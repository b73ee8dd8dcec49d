//! `sdl staging`: what waits is listed, shown and committed; what was set aside is shown and stays aside.
#![cfg(feature = "failpoints")]

use std::time::Duration;

use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};

use crate::common::command::{parsed, relaxed, sdl};
use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, wait_until};

const SOON: Duration = Duration::from_secs(30);

const STREAMING: &str = "Connected to MySQL";

async fn insert(mysqld: &Mysqld, count: usize) {
    for _ in 0..count {
        mysqld.exec("INSERT INTO shop.t (v) VALUES ('row')").await;
    }
}

/// A daemon that has staged and not committed, and is killed; gives what it has staged.
async fn killed(settings: &Settings, staging: &Collection<Document>) -> Document {
    let settings = settings
        .clone()
        .set("FAILPOINTS", "before-transaction=return");
    let daemon = Daemon::start(&settings);
    assert_eq!(daemon.wait_exit(SOON).await.0, 134);
    let pending = staging.find_one(doc! {}).await.unwrap();
    pending.expect("a pending batch")
}

/// A batch as another number, that does not follow the offset.
async fn copy(staging: &Collection<Document>, pending: &Document, number: i64) -> Document {
    let mut other = pending.clone();
    other.insert(
        "_id",
        format!("{}#{number}", pending.get_str("source").unwrap()),
    );
    other.insert("batch", number);
    staging.insert_one(&other).await.unwrap();
    other
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_batches_are_committed_once_and_archived_ones_stay() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))")
        .await;
    let settings = Settings::new(&mysqld, mongod);
    let database = mongod.database(settings.database()).await;
    let staging: Collection<Document> = database.collection(mongo::STAGING);
    let staging_command =
        async |arguments: &[&str]| sdl(&settings, &[&["staging"], arguments].concat()).await;

    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    assert!(
        staging_command(&["list"])
            .await
            .ok()
            .starts_with("nothing is staged of mysql://")
    );
    assert_eq!(
        staging_command(&["retry"]).await.ok(),
        "nothing is pending\n"
    );
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    insert(&mysqld, 3).await;
    let pending = killed(&settings, &staging).await;

    // What waits.
    let number = pending.get_i64("batch").unwrap();
    let foreign = copy(&staging, &pending, number + 5).await;
    let listed = staging_command(&["list", "--json"]).await.ok();
    let listed: Vec<Document> = listed.lines().map(parsed).collect();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].get_str("status").unwrap(), "pending");
    assert_eq!(
        relaxed(listed[0].get("count").unwrap().clone()),
        pending.get("count").unwrap().clone()
    );
    let table = sdl(&settings.clone().set("COLUMNS", 60), &["staging", "list"])
        .await
        .ok();
    assert!(
        table.contains("BATCH") && table.contains("pending"),
        "{table}"
    );
    assert!(
        table.lines().all(|line| line.chars().count() <= 60),
        "{table}"
    );
    let number_text = number.to_string();
    let shown = staging_command(&["show", &number_text]).await.ok();
    for part in [
        &format!("batch {number}: pending, "),
        "checksum:  holds",
        "goes on from:",
        "leads to:",
        "insert shop.t ",
        "    id: 1, v: \"row\"",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let shown = parsed(
        &staging_command(&["--json", "show", &number_text])
            .await
            .ok(),
    );
    let mut expected = pending.clone();
    expected.insert("problem", Bson::Null);
    assert_eq!(relaxed(shown.into()), relaxed(expected.into()));
    let missing = staging_command(&["show", "999"]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (1, ""));

    // The server notices that the killed one has gone.
    insert(&mysqld, 3).await;
    let retried = staging_command(&["retry"]).await;
    let lines: Vec<_> = retried.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{retried:?}");
    assert!(lines[0].ends_with(": committed"), "{retried:?}");
    assert!(
        lines[1].contains(": archived: batch") && lines[1].contains("never staged"),
        "{retried:?}"
    );
    assert_eq!(retried.code, 0);
    let changes = mongod.changes(settings.database()).await;
    assert_eq!(
        changes.len(),
        2 + usize::try_from(pending.get_i64("count").unwrap()).unwrap()
    );

    // What was set aside.
    let archived = (number + 5).to_string();
    let shown = staging_command(&["show", &archived]).await.ok();
    assert!(
        shown.contains(": archived, ") && shown.contains("note:      batch"),
        "{shown}"
    );
    let damaged = doc! { "$set": { "events.0.after.v": "other" } };
    staging
        .update_one(doc! { "_id": foreign.get_str("_id").unwrap() }, damaged)
        .await
        .unwrap();
    let shown = staging_command(&["show", &archived]).await.ok();
    assert!(
        shown.contains("checksum:  not intact: checksum does not hold"),
        "{shown}"
    );
    assert_eq!(staging_command(&["retry", "--json"]).await.ok(), "");

    // While a daemon runs, nothing is taken from it.
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    copy(&staging, &pending, number + 99).await;
    let epoch = mongo::offset(&database)
        .await
        .unwrap()
        .get_i64("epoch")
        .unwrap();
    let writes = async {
        loop {
            insert(&mysqld, 1).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let refused = tokio::select! {
        refused = staging_command(&["retry"]) => refused,
        () = writes => unreachable!(),
    };
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("stop sdl first"), "{refused:?}");
    assert_eq!(
        mongo::offset(&database)
            .await
            .unwrap()
            .get_i64("epoch")
            .unwrap(),
        epoch
    );
    assert!(daemon.is_running());
    caught_up(&mysqld, mongod, settings.database()).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    staging
        .delete_one(doc! { "batch": number + 99 })
        .await
        .unwrap();
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.t"]).await;
    for (wrong, code) in [
        (&["show"][..], 64),
        (&["show", "x"], 64),
        (&["commit"], 64),
        (&[], 64),
        (&["show", "--help"], 0),
    ] {
        assert_eq!(staging_command(wrong).await.code, code, "{wrong:?}");
    }
}

/// A batch of 16 KiB and more is one binary in mongosh; `sdl staging show` shows what is in it, and a start commits that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packed_batch_is_shown_as_it_is_and_committed_and_a_damaged_one_is_read_again() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))")
        .await;
    let settings = Settings::new(&mysqld, mongod).set("INCLUDE_REGEX", "^shop[.]t$");
    let database = mongod.database(settings.database()).await;
    let staging: Collection<Document> = database.collection(mongo::STAGING);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    let before = mongod.changes(settings.database()).await.len();
    let insert_many = "INSERT INTO shop.t (v) WITH RECURSIVE c AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM c WHERE n < 300) \
                       SELECT CONCAT('row ', n) FROM c";

    for is_damaged in [false, true] {
        mysqld.exec(insert_many).await;
        let pending = killed(&settings, &staging).await;
        let count = pending.get_i64("count").unwrap();
        let packed = pending.get_document("events").expect("packed events");
        let names: Vec<&String> = packed.keys().collect();
        assert_eq!(names, ["$zstd", "bytes"]);
        let frame = packed.get_binary_generic("$zstd").unwrap();
        let bytes = usize::try_from(packed.get_i64("bytes").unwrap()).unwrap();
        assert!(frame.len() * 4 < bytes, "{} of {bytes}", frame.len());

        let number = pending.get_i64("batch").unwrap().to_string();
        let shown = sdl(&settings, &["staging", "show", "--json", &number]).await;
        let shown = parsed(&shown.ok());
        let events = shown.get_array("events").unwrap().clone();
        assert_eq!(events.len(), usize::try_from(count).unwrap());
        if is_damaged {
            let mut bytes = frame.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
            let subtype = mongodb::bson::spec::BinarySubtype::Generic;
            let mut damaged = packed.clone();
            damaged.insert("$zstd", mongodb::bson::Binary { subtype, bytes });
            let update = doc! { "$set": { "events": damaged } };
            staging.update_one(doc! {}, update).await.unwrap();
        }

        let daemon = Daemon::start(&settings);
        daemon
            .wait_for_log("Recovering 1 pending batches", SOON)
            .await;
        if is_damaged {
            let told = daemon.wait_for_log("archived a staged batch", SOON).await;
            assert!(told.contains("not intact"), "{told}");
        }
        caught_up(&mysqld, mongod, settings.database()).await;
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait_exit(SOON).await.0, 0);
        let changes = mongod.changes(settings.database()).await;
        let round = 1 + usize::from(is_damaged);
        assert_eq!(changes.len(), before + 300 * round);
        // The batch may have begun with what leaves no row; its documents are the first ones of this round.
        let recorded: Vec<Bson> = changes[before + 300 * (round - 1)..][..events.len()]
            .iter()
            .map(|change| relaxed(change.clone().into()))
            .collect();
        assert_eq!(relaxed(events.into()), Bson::Array(recorded));
        // Its place is taken by what was read again.
        assert_eq!(staging.count_documents(doc! {}).await.unwrap(), 0);
    }
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.t"]).await;
}

/// With LEASE=on the lease says whether a daemon runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_lease_is_left_alone_and_a_dead_one_taken_and_given_back() {
    let (mysqld, mongod) = tokio::join!(crate::common::audit::shared_mysqld(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE leased; CREATE TABLE leased.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))")
        .await;
    let settings = Settings::new(mysqld, mongod)
        .set("INCLUDE_REGEX", "^leased[.]")
        .set("LEASE", "on")
        .set("LEASE_TTL", "2s");
    let database = mongod.database(settings.database()).await;
    let staging: Collection<Document> = database.collection(mongo::STAGING);
    let pending = killed(&settings, &staging).await;
    let retried = sdl(&settings, &["staging", "retry", "--json"]).await.ok();
    assert!(retried.contains("\"became\":\"committed\""), "{retried}");
    let offset = mongo::offset(&database).await.unwrap();
    assert_eq!(offset.get("lease"), Some(&Bson::Null));

    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    copy(&staging, &pending, 999).await;
    let refused = sdl(&settings, &["staging", "retry"]).await;
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("holds the lease"), "{refused:?}");
    let rows: Collection<Document> = database.collection(mongo::CHANGES);
    wait_until("the daemon goes on", SOON, async || {
        mysqld.exec("INSERT INTO leased.t (v) VALUES ('row')").await;
        let recorded = rows.count_documents(doc! { "meta.tbl": "t", "op": "insert" });
        recorded.await.unwrap() > 5
    })
    .await;
    assert!(daemon.is_running());
}
