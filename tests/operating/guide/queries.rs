//! The queries of the guide, by a real mongosh, on what two daemons wrote into one database: each answers what the database holds, and
//! costs what the guide says.

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::SOON;
use super::shell::{Answer, mongosh};
use super::{Block, blocks};
use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, mongo, wait_until};

/// What an extended-JSON number is.
fn number(value: &Value) -> i64 {
    value
        .as_i64()
        .or_else(|| value["$numberLong"].as_str()?.parse().ok())
        .or_else(|| Some(value["$numberDouble"].as_str()?.parse::<f64>().ok()? as i64))
        .unwrap_or_else(|| panic!("not a number: {value}"))
}

fn rows(answer: &Answer) -> &Vec<Value> {
    answer.value.as_array().unwrap()
}

/// The sum of a field over all rows.
fn sum(answer: &Answer, field: &str) -> i64 {
    rows(answer).iter().map(|row| number(&row[field])).sum()
}

/// What the guide says a query costs: the last of the three words in the paragraph before it.
fn cost(block: &Block) -> Option<&'static str> {
    ["index", "range", "scan"]
        .into_iter()
        .find(|cost| block.before.contains(&format!("(*{cost}*")))
}

fn assert_costs_what_is_said(block: &Block, answer: &Answer) {
    let Some(said) = cost(block) else { return };
    // The others hold a document for each source, or what is in flight.
    let on_changes: Vec<_> = answer
        .plans
        .iter()
        .filter(|(collection, _)| collection == mongo::CHANGES)
        .collect();
    let scans = on_changes.iter().any(|(_, plan)| plan.contains("COLLSCAN"));
    if said == "scan" {
        let is_small = block.text.contains("row_changes_staging");
        assert!(scans || is_small, "{}: {:?}", block.place, answer.plans);
    } else {
        assert!(!scans, "{}: {:?}", block.place, answer.plans);
        let is_asked = block.text.contains("db.row_changes.");
        assert_eq!(!on_changes.is_empty(), is_asked, "{}", block.place);
    }
    if said == "range" {
        assert!(
            on_changes.iter().all(|(_, plan)| plan.contains("ts: ")),
            "{}: {:?}",
            block.place,
            answer.plans
        );
    }
}

/// A daemon that reads everything and stops.
async fn record(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) {
    let daemon = Daemon::start(settings);
    caught_up_as(mysqld, mongod, settings).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

/// The offset of this source covers what MySQL has executed.
async fn caught_up_as(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) {
    let database = mongod.database(settings.database()).await;
    let offsets: Collection<Document> = database.collection(mongo::OFFSETS);
    let executed = mysqld.executed_gtid().await;
    wait_until("everything is recorded", SOON, async || {
        let source = doc! { "_id": settings.get("SOURCE_ID").unwrap() };
        let offset = offsets.find_one(source).await.unwrap();
        match offset.and_then(|offset| Some(offset.get_str("gtid").ok()?.to_owned())) {
            Some(gtid) => mysqld.gtid_subset(&executed, &gtid).await,
            None => false,
        }
    })
    .await;
}

/// Leaves a batch staged and not committed.
async fn leave_staged(settings: &Settings) {
    let crashing = Daemon::start(&settings.clone().set("FAILPOINTS", "before-commit=return"));
    assert_eq!(crashing.wait_exit(SOON).await.0, 134);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queries_answer_and_cost_what_the_guide_says() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    let shop = Settings::new(&mysqld, mongod).set("SOURCE_ID", "shop");
    let other = Settings::new(&mysqld, mongod)
        .set("SOURCE_ID", "other")
        .set("MONGO_DB", shop.database());
    let database = mongod.database(shop.database()).await;
    let changes: Collection<Document> = database.collection(mongo::CHANGES);
    let staging: Collection<Document> = database.collection(mongo::STAGING);

    mysqld
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, price DECIMAL(10,2)); \
             INSERT INTO shop.orders VALUES (1, 1.5), (2, 2); UPDATE shop.orders SET price = price + 1; \
             DELETE FROM shop.orders WHERE id = 2; \
             CREATE TABLE shop.dotted (id INT PRIMARY KEY, `a.b` INT); INSERT INTO shop.dotted VALUES (1, 5)",
        )
        .await;
    record(&mysqld, mongod, &shop).await;
    mysqld.exec("INSERT INTO shop.orders VALUES (3, 3)").await;
    leave_staged(&shop).await;
    let mut stray = staging.find_one(doc! {}).await.unwrap().unwrap();
    stray.insert("_id", "shop#1000");
    stray.insert("batch", 1000_i64);
    staging.insert_one(stray).await.unwrap();
    record(&mysqld, mongod, &shop).await;
    mysqld.exec("INSERT INTO shop.orders VALUES (4, 4)").await;
    leave_staged(&shop).await;
    // One that runs, so that there is something to see.
    let running = Daemon::start(&other);
    caught_up_as(&mysqld, mongod, &other).await;

    let newest = changes.find_one(doc! { "meta.source": "shop" });
    let newest = newest.sort(doc! { "n": -1 }).await.unwrap().unwrap();
    let gtid = newest
        .get_document("meta")
        .unwrap()
        .get_str("gtid")
        .unwrap();
    let mut asked: Vec<Block> = blocks("audit");
    for block in &mut asked {
        match block.name.as_str() {
            "gaps" => *block = block.with("SOURCE_ID", "shop"),
            "transaction" => *block = block.with("GTID", gtid),
            _ => {}
        }
    }
    let mut recorded = blocks("recorded");
    for (index, block) in recorded.iter_mut().enumerate() {
        block.name = format!("recorded {index}");
    }
    asked.append(&mut recorded);
    let uri = mongod.uri();
    let Some(answers) = mongosh(&uri, shop.database(), &asked) else {
        return;
    };
    for block in &asked {
        assert_costs_what_is_said(block, &answers[&block.name]);
    }

    let all = i64::try_from(changes.count_documents(doc! {}).await.unwrap()).unwrap();
    let answer = |name: &str| &answers[name];
    let count = |name: &str| rows(answer(name)).len();
    assert_eq!(count("offset"), 2);
    assert_eq!(count("offset-age"), 2);
    assert!(number(&rows(answer("offset-age"))[0]["seconds"]) >= 0);
    assert_eq!(count("newest"), 1);
    assert!(number(&rows(answer("newest"))[0]["n"]) > 0);
    assert!(number(&answer("last-minutes").value) <= all);
    for name in ["by-minute", "by-day", "by-table", "by-op"] {
        assert_eq!(sum(answer(name), "events"), all, "{name}");
    }
    let kinds: Vec<&str> = rows(answer("by-op"))
        .iter()
        .map(|row| row["_id"].as_str().unwrap())
        .collect();
    for kind in ["insert", "update", "delete", "ddl"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    assert!(number(&rows(answer("batch-size"))[0]["average"]) >= 1);
    assert_eq!(number(&answer("staging-backlog").value), 1);
    assert_eq!(count("staging-oldest"), 1);
    assert_eq!(count("staged-size"), 2);
    assert_eq!(sum(answer("staged-size"), "largest"), 2);
    assert_eq!(count("archived"), 1);
    assert!(rows(answer("archived"))[0]["note"].is_string());
    let expires = rows(answer("indexes"))
        .iter()
        .find(|index| index.get("expireAfterSeconds").is_some())
        .unwrap();
    assert_eq!(expires["partialFilterExpression"]["status"], "archived");
    assert_eq!(count("complete"), 2);
    assert_eq!(sum(answer("complete"), "missing"), 0);
    assert_eq!(sum(answer("complete"), "count"), all);
    for row in rows(answer("complete")) {
        assert_eq!(number(&row["last"]), number(&row["offset"]), "{row}");
        assert_eq!(number(&row["first"]), 1, "{row}");
    }
    for name in ["gaps", "duplicates", "accepted", "silences", "reservations"] {
        assert_eq!(count(name), 0, "{name}: {:?}", answer(name));
    }
    // Row 1, inserted and updated, of two sources.
    assert_eq!(count("history"), 4);
    assert_eq!(count("transaction"), 2);
    assert!(count("deletes") >= 8);
    assert_eq!(count("storage"), 5);
    // A figure that MongoDB keeps beside the documents: a transaction that a crash cut off may be in it.
    assert!(number(&rows(answer("storage"))[0]["documents"]) >= all);
    assert_eq!(rows(answer("replica-set"))[0]["state"], "PRIMARY");
    assert!(answer("oplog").value["logSizeMB"].is_number());
    assert!(count("operations") > 0);
    assert_eq!(count("recorded 0"), 2);

    // What must be empty is not, when there is something to see.
    let before = changes
        .find_one_and_delete(doc! { "meta.source": "shop", "n": 3_i64 })
        .await
        .unwrap()
        .unwrap();
    let twice = changes
        .find_one(doc! { "meta.source": "shop", "n": 4_i64 })
        .await
        .unwrap();
    let mut twice = twice.unwrap();
    twice.insert("_id", "twice");
    twice.insert("n", 1000_i64);
    twice.insert("op", "gap");
    let mut early = before.clone();
    let back = before.get_datetime("ts").unwrap().timestamp_millis() - 600_000;
    early.insert("ts", mongodb::bson::DateTime::from_millis(back));
    early.insert("n", 1001_i64);
    changes.insert_many([twice, early]).await.unwrap();
    let of_faults = [
        "complete",
        "gaps",
        "duplicates",
        "accepted",
        "silences",
        "reservations",
    ];
    asked.retain(|block| of_faults.contains(&block.name.as_str()));
    let answers = mongosh(&uri, shop.database(), &asked).unwrap();
    assert!(sum(&answers["complete"], "missing") > 900);
    assert_eq!(rows(&answers["gaps"]).len(), 2, "{:?}", answers["gaps"]);
    for name in ["duplicates", "accepted", "silences", "reservations"] {
        assert_eq!(rows(&answers[name]).len(), 1, "{:?}", answers[name]);
    }
    running.signal(Signal::TERM);
    assert_eq!(running.wait_exit(SOON).await.0, 0);
}
