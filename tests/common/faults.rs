//! What the tests of faults have in common: a daemon that streams while clients write, and the end that each of them must come to.

#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use mongodb::Database;
use mongodb::bson::doc;
use mysql_async::Row;
use mysql_async::prelude::Queryable;

use crate::common::load::{Load, TABLES, create_tables};
use crate::common::{
    Daemon, Deployment, Mongod, Mysqld, Proxy, Settings, Signal, caught_up_within, fold, mongo,
    wait_until,
};

pub const SOON: Duration = Duration::from_secs(30);

/// What only a silence of tens of seconds tells: a line that is half open.
pub const LATER: Duration = Duration::from_secs(90);

/// To work off what came in during an outage.
pub const BACKLOG: Duration = Duration::from_secs(120);

pub const STREAMING: &str = "Connected to MySQL";

pub const BREAKER_OPEN: &str = "circuit breaker open: mongodb is away";

pub const BREAKER_CLOSED: &str = "circuit breaker closed: mongodb is back";

pub async fn start_servers() -> (Arc<Mysqld>, Mongod) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    create_tables(&mysqld).await;
    (Arc::new(mysqld), mongod)
}

/// Batches small enough that there are many of them on their way, and no long pauses between two attempts.
pub fn settings(mysqld: &Mysqld, deployment: &dyn Deployment) -> Settings {
    Settings::new(mysqld, deployment)
        .set("BATCH_SIZE", 50)
        .set("RETRY_MAX_DELAY", "1s")
}

/// A daemon that streams while clients write.
pub async fn under_load(mysqld: &Arc<Mysqld>, settings: &Settings) -> (Daemon, Load) {
    let daemon = Daemon::start(settings);
    let load = Load::start(mysqld, 2);
    daemon.wait_for_log(STREAMING, SOON).await;
    load.more(100).await;
    (daemon, load)
}

pub fn times_logged(daemon: &Daemon, text: &str) -> usize {
    daemon
        .logs()
        .iter()
        .filter(|line| line.contains(text))
        .count()
}

/// It has logged so many lines with this text.
pub async fn logged_times(daemon: &Daemon, text: &str, times: usize, timeout: Duration) {
    wait_until(
        &format!("sdl logs {text:?}, {times} times"),
        timeout,
        async || times_logged(daemon, text) >= times,
    )
    .await;
}

/// Waits until the offset has moved from where it is now.
pub async fn commits_more(mongod: &Mongod, database: &str) {
    let database = mongod.database(database).await;
    let before = batch(&database).await;
    wait_until("the daemon commits again", LATER, async || {
        batch(&database).await > before
    })
    .await;
}

/// Number of the last batch that is committed.
pub async fn batch(database: &Database) -> i64 {
    mongo::offset(database)
        .await
        .map_or(0, |offset| offset.get_i64("batch").expect("batch"))
}

/// The very daemon that met the fault catches up, and stops cleanly.
pub async fn assert_goes_on_exactly(
    daemon: &Daemon,
    mysqld: &Mysqld,
    mongod: &Mongod,
    settings: &Settings,
) {
    caught_up_within(mysqld, mongod, settings.database(), BACKLOG).await;
    fold::assert_exact(mysqld, mongod, settings.database(), &TABLES).await;
    stops(daemon).await;
}

/// A clean stop.
pub async fn stops(daemon: &Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0, "a clean stop");
}

/// Gives the one member of a replica set the address of a proxy in front of it, where drivers will go from now on.
pub async fn put_behind(mongod: &Mongod, proxy: &Proxy) {
    let answer = mongod.admin(doc! { "replSetGetConfig": 1 }).await;
    let config = answer.get_document("config").expect("a configuration");
    let version = config.get_i32("version").expect("its version");
    let config = doc! {
        "_id": "rs0",
        "version": version + 1,
        "members": [{ "_id": 0, "host": proxy.addr() }],
    };
    mongod
        .admin(doc! { "replSetReconfig": config, "force": true })
        .await;
    wait_until("it is primary under its new name", SOON, async || {
        let hello = mongod.admin(doc! { "hello": 1 }).await;
        let is_primary = hello.get_bool("isWritablePrimary").unwrap_or_default();
        is_primary && hello.get_str("me").is_ok_and(|me| me == proxy.addr())
    })
    .await;
}

/// Cuts every replica off, as `KILL` by a DBA does; how many there were.
pub async fn kill_dump_threads(mysqld: &Mysqld) -> mysql_async::Result<usize> {
    let mut connection = mysqld.connect("root", "").await?;
    let rows: Vec<Row> = connection.query("SHOW PROCESSLIST").await?;
    let mut killed = 0;
    for row in rows {
        let command: Option<String> = row.get("Command").flatten();
        let id: u64 = row.get("Id").expect("Id");
        if command.is_some_and(|command| command.starts_with("Binlog Dump")) {
            // One that has ended by itself meanwhile is gone as well.
            let _ = connection.query_drop(format!("KILL {id}")).await;
            killed += 1;
        }
    }
    Ok(killed)
}
