//! MariaDB: what differs from MySQL. What does not is tested on both, by the tests of the pipeline (values, fold, schema
//! changes, history).
//!
//! Each test runs on 10.11 and on 11.8: in between, the GTID event got further fields, events inside a transaction lost their
//! end position, and the default collations got numbers above 255.
mod binlog;
mod domains;
mod groups;
mod refusals;

use std::time::Duration;

use crate::common::{Daemon, Flavor, Mongod, Mysqld, Settings, caught_up, fold, on_every_mariadb};
use mongodb::bson::Document;

/// For one step of a server or a daemon, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

const STREAMING: &str = "Connected to MySQL";

/// A daemon that reads a server of its own from the server's first binlog on.
struct Reading {
    mysqld: Mysqld,
    mongod: &'static Mongod,
    settings: Settings,
    daemon: Daemon,
}

impl Reading {
    async fn of(flavor: Flavor, options: &[&str]) -> Self {
        let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, options), Mongod::shared());
        let settings = Settings::new(&mysqld, mongod);
        let daemon = Daemon::start(&settings);
        daemon.wait_for_log(STREAMING, SOON).await;
        Self {
            mysqld,
            mongod,
            settings,
            daemon,
        }
    }

    async fn documents(&self) -> Vec<Document> {
        caught_up(&self.mysqld, self.mongod, self.settings.database()).await;
        self.mongod.changes(self.settings.database()).await
    }

    async fn assert_exact(&self, tables: &[&str]) {
        caught_up(&self.mysqld, self.mongod, self.settings.database()).await;
        fold::assert_exact(&self.mysqld, self.mongod, self.settings.database(), tables).await;
    }
}

fn meta(document: &Document) -> &Document {
    document.get_document("meta").unwrap()
}

fn op(document: &Document) -> &str {
    document.get_str("op").unwrap()
}

fn query(document: &Document) -> &str {
    meta(document).get_str("query").unwrap()
}

fn ops(documents: &[Document]) -> Vec<&str> {
    documents.iter().map(op).collect()
}

/// How often each type of event is in the server's binlogs, by the server's own names.
async fn event_types(mysqld: &Mysqld) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for log in mysqld.query::<mysql_async::Row>("SHOW BINARY LOGS").await {
        let file: String = log.get(0).unwrap();
        for event in mysqld
            .query::<mysql_async::Row>(format!("SHOW BINLOG EVENTS IN '{file}'"))
            .await
        {
            *counts
                .entry(event.get::<String, _>("Event_type").unwrap())
                .or_default() += 1;
        }
    }
    counts
}

on_every_mariadb! { the_servers_of_these_tests_are_what_they_say }

/// The harness itself: another version or another option would make every test of this file mean something else.
async fn the_servers_of_these_tests_are_what_they_say(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &["--gtid-domain-id=7"]).await;
    let version: String = mysqld.query_one("SELECT VERSION()").await;
    let mut numbers = version
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    let branch = numbers.next().unwrap() * 100 + numbers.next().unwrap();
    let branches = match flavor {
        Flavor::Mariadb10 => 1006..1100,
        _ => 1104..10_000,
    };
    assert!(
        version.contains("MariaDB") && branches.contains(&branch),
        "{version}"
    );

    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        .await;
    assert_eq!(mysqld.executed_gtid().await, "7-1-2");
    mysqld.exec("INSERT INTO shop.t VALUES (1)").await;
    mysqld.kill();
    mysqld.start_again().await;
    assert_eq!(mysqld.executed_gtid().await, "7-1-3");
    mysqld.restart().await;
    assert_eq!(mysqld.query_one::<u32>("SELECT id FROM shop.t").await, 1);
    assert!(mysqld.gtid_subset("7-1-2", "7-1-3").await);
    assert!(!mysqld.gtid_subset("7-1-4", "7-1-3").await);
    assert!(!mysqld.gtid_subset("7-1-2,8-1-1", "7-1-3").await);
}
