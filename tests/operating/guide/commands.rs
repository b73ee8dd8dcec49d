//! The commands of the guide as an administrator calls them: beside a daemon that runs, and after one that crashed.

use std::fs;

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use mysql_async::Row;

use super::shell::{is_there, lines};
use super::{Block, SOON, block, blocks};
use crate::common::servers::{Scratch, free_port};
use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, wait_until};

/// Runs a block; each of its commands says that all is well, or that something deserves a look.
fn answered(block: &Block, settings: &Settings) -> Vec<String> {
    let answers = lines(block, settings);
    let place = &block.place;
    answers
        .into_iter()
        .map(|(line, code, printed)| {
            assert!(code == 0 || code == 1, "{place}: {line}: {code}\n{printed}");
            assert!(!printed.is_empty(), "{place}: {line} says nothing");
            printed
        })
        .collect()
}

async fn stop(daemon: &Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

/// Connections and files, as the guide's "Sizing" has them.
fn assert_is_as_small_as_said(metrics: &str) {
    let figure = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value
            .unwrap_or_else(|| panic!("no {name} in {metrics}"))
            .parse()
            .unwrap()
    };
    assert!(figure("process_open_fds") < 100.0);
    assert!(figure("sdl_store_connections{state=\"open\"}") < 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_guide_answer() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    let metrics = format!("127.0.0.1:{}", free_port());
    let settings = Settings::new(&mysqld, mongod)
        .set("SOURCE_ID", "shop")
        .set("METRICS_ADDR", &metrics);
    mysqld
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, price INT); \
             CREATE TABLE shop.items (order_id INT, item INT, PRIMARY KEY (order_id, item)); \
             INSERT INTO shop.orders VALUES (1, 1), (2, 2); INSERT INTO shop.items VALUES (1, 3); \
             DELETE FROM shop.orders WHERE id = 2",
        )
        .await;
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    for name in ["first-look", "collect"] {
        if is_there("curl") {
            let block = block("host", name).with("127.0.0.1:9750", &metrics);
            let answers = answered(&block, &settings);
            if name == "collect" {
                assert_is_as_small_as_said(answers.last().unwrap());
                let query =
                    "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'sdl'";
                let to_mysql: u64 = mysqld.query_one(query).await;
                assert!((1..=3).contains(&to_mysql), "{to_mysql}");
            }
        } else {
            eprintln!("skipped: there is no curl here");
        }
    }
    for name in ["check", "status"] {
        let answers = answered(&block("commands", name), &settings);
        serde_json::from_str::<serde_json::Value>(&answers[1]).unwrap();
    }
    if is_there("jq") {
        answered(&block("commands", "remedies"), &settings);
    } else {
        eprintln!("skipped: there is no jq here");
    }

    let words = block("commands", "tail").text;
    let words: Vec<&str> = words.split_whitespace().skip(1).collect();
    let tail = Daemon::start_with(&settings, &words, "");
    tail.wait_for_log("orders", SOON).await;
    tail.signal(Signal::INT);
    assert_eq!(tail.wait_exit(SOON).await.0, 0);
    let look = block("commands", "look").with("2026-11-21T10:30", "2099-01-01T00:00");
    let look = answered(&look, &settings);
    assert_eq!(look[0].matches("orders").count(), 1, "{}", look[0]);
    assert!(look[1].lines().count() >= 6, "{}", look[1]);
    stop(&daemon).await;
    assert_eq!(blocks("host").len(), 2);

    mysqld.exec("INSERT INTO shop.orders VALUES (3, 3)").await;
    let crashing = Daemon::start(&settings.clone().set("FAILPOINTS", "before-commit=return"));
    assert_eq!(crashing.wait_exit(SOON).await.0, 134);
    let database = mongod.database(settings.database()).await;
    let staging: Collection<Document> = database.collection(mongo::STAGING);
    let staged = staging.find_one(doc! {}).await.unwrap().unwrap();
    let number = staged.get_i64("batch").unwrap().to_string();
    let staging = block("commands", "staging").with("BATCH", &number);
    let answers = answered(&staging, &settings);
    assert!(answers[0].contains(&number), "{}", answers[0]);
    assert_eq!(mongo::pending(&database).await, 0);
    caught_up(&mysqld, mongod, settings.database()).await;
    assert_eq!(blocks("commands").len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_closed_from_copies_of_binlogs() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let insert = async || {
        for _ in 0..3 {
            mysqld.exec("INSERT INTO shop.t VALUES ()").await;
        }
    };
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY)")
        .await;
    insert().await;
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    insert().await;
    mysqld.exec("FLUSH BINARY LOGS").await;
    insert().await;
    mysqld.exec("FLUSH BINARY LOGS").await;
    let scratch = Scratch::new("backup");
    let all: Vec<Row> = mysqld.query("SHOW BINARY LOGS").await;
    let names: Vec<String> = all.iter().filter_map(|row| row.get(0)).collect();
    let copies: Vec<String> = names[names.len() - 3..names.len() - 1]
        .iter()
        .map(|name| {
            let copy = scratch.path().join(name);
            fs::copy(mysqld.datadir().join(name), &copy).unwrap();
            copy.display().to_string()
        })
        .collect();
    wait_until("they are purged", SOON, async || {
        mysqld.exec("PURGE BINARY LOGS BEFORE '2037-01-01'").await;
        mysqld.query::<Row>("SHOW BINARY LOGS").await.len() == 1
    })
    .await;
    let gap = Daemon::start(&settings);
    assert_eq!(gap.wait_exit(SOON).await.0, 3);
    assert!(gap.has_logged("binlog gap"));
    for name in ["dry-run", "record"] {
        let replay = block("replay", name)
            .with("/backup/binlogs/binlog.000007", &copies[0])
            .with("/backup/binlogs/binlog.000008", &copies[1]);
        for (line, code, printed) in lines(&replay, &settings) {
            assert_eq!(code, 0, "{line}: {printed}");
        }
    }
    let daemon = Daemon::start(&settings);
    // All is recorded already, so that it could be told to stop before it listens.
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &["shop.t"]).await;
}
