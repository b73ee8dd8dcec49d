//! The log: what must never be in it, at any level and in any form, and that programs can read it.

use std::time::Duration;

use mongodb::bson::doc;

use crate::common::{Daemon, Mongod, Settings, Signal, audit, caught_up};

const SOON: Duration = Duration::from_secs(30);

/// In every password and every value; the second is how a program prints bytes.
const PLANTED: [&str; 3] = [
    "planted",
    "112, 108, 97, 110, 116, 101, 100",
    "706c616e746564",
];

/// The log of a run at the finest level there is, with `planted` in passwords and rows.
async fn traced(format: &str) -> Vec<String> {
    let (mysqld, mongod) = tokio::join!(audit::shared_mysqld(), Mongod::shared());
    let database = format!("planted_by_{format}");
    mysqld
        .exec(format!(
            "CREATE USER 'log_{format}'@'%' IDENTIFIED BY 'planted in mysql';
             GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'log_{format}'@'%';
             CREATE DATABASE logs_{format};
             CREATE TABLE logs_{format}.t (id VARCHAR(60) PRIMARY KEY, t TEXT, b BLOB, j JSON)"
        ))
        .await;
    let user = format!("log_{format}");
    mongod
        .admin(doc! { "createUser": &user, "pwd": "planted-in-mongodb", "roles": ["root"] })
        .await;
    let uri = mongod.uri().replacen(
        "mongodb://",
        &format!("mongodb://{user}:planted-in-mongodb@"),
        1,
    );
    let settings = Settings::new(mysqld, mongod)
        .set("MYSQL_USER", &user)
        .set("MYSQL_PASS", "planted in mysql")
        .set("MONGO_URI", format!("{uri}&authSource=admin"))
        .set("MONGO_DB", &database)
        .set("START_FROM", "current")
        .set("INCLUDE_REGEX", format!("^logs_{format}"))
        .set("LOG_FORMAT", format)
        .set("RUST_LOG", "trace");
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    mysqld
        .exec(format!(
            r#"INSERT INTO logs_{format}.t VALUES ('planted key', 'a planted text', 'planted bytes', '{{"planted": "in JSON"}}');
               UPDATE logs_{format}.t SET t = 'another planted text', j = NULL;
               DELETE FROM logs_{format}.t"#
        ))
        .await;
    caught_up(mysqld, mongod, &database).await;
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("reloaded", SOON).await;
    daemon.signal(Signal::TERM);
    daemon.wait_exit(SOON).await;
    // Other tests use the server too; their accounts are DDL of no table.
    let changes = mongod.changes(&database).await;
    let rows = changes.iter().filter(|change| {
        let meta = change.get_document("meta").expect("meta");
        meta.get_str("tbl").is_ok_and(|table| table == "t")
    });
    assert_eq!(rows.count(), 3, "the rows were recorded: {changes:#?}");
    daemon.logs()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_and_no_value_of_a_row_is_in_the_text_at_any_level() {
    assert_clean(&traced("text").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_json_is_json_and_holds_none_of_them() {
    let lines = traced("json").await;
    assert_clean(&lines);
    for line in &lines {
        let read: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "message", "target"] {
            assert!(read[field].is_string(), "no {field}: {line}");
        }
    }
}

fn assert_clean(lines: &[String]) {
    for told in ["sdl starts", "committed", "Shutdown complete"] {
        assert!(lines.iter().any(|line| line.contains(told)), "no {told}");
    }
    // The database that a test writes to is named after it, and is no secret.
    let spoken = |line: &&String| {
        let line = line.replace("planted_by_", "");
        PLANTED.iter().any(|planted| line.contains(planted))
    };
    let found: Vec<_> = lines.iter().filter(spoken).collect();
    assert!(found.is_empty(), "{found:#?}");
}
