//! MongoDB away for longer than the retries: what is read goes to the local spool, and comes back in order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod load;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up_within, fold, wait_until};
use load::{Load, TABLES, create_tables};
use mysql_async::prelude::Queryable;

const SOON: Duration = Duration::from_secs(30);

/// To work off what came in during an outage.
const BACKLOG: Duration = Duration::from_secs(120);

const STREAMING: &str = "Connected to MySQL";

async fn start_servers() -> (Arc<Mysqld>, Mongod) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    create_tables(&mysqld).await;
    (Arc::new(mysqld), mongod)
}

/// A breaker that opens and tries again soon.
fn settings(mysqld: &Mysqld, mongod: &Mongod, spool: &Path) -> Settings {
    let uri = format!("{}&serverSelectionTimeoutMS=500", mongod.uri());
    Settings::new(mysqld, mongod)
        .set("MONGO_URI", uri)
        .set("BATCH_SIZE", 50)
        .set("RETRY_MAX_DELAY", "1s")
        .set("BREAKER_FAILURES", 2)
        .set("BREAKER_OPEN", "1s")
        .set("SPOOL_DIR", spool.display())
}

fn count(daemon: &Daemon, text: &str) -> usize {
    daemon
        .logs()
        .iter()
        .filter(|line| line.contains(text))
        .count()
}

async fn assert_exact_then_stop(
    daemon: &Daemon,
    mysqld: &Mysqld,
    mongod: &Mongod,
    settings: &Settings,
) {
    caught_up_within(mysqld, mongod, settings.database(), BACKLOG).await;
    fold::assert_exact(mysqld, mongod, settings.database(), &TABLES).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_an_outage_are_spooled_and_committed_in_order_when_it_is_over() {
    let (mysqld, mongod) = start_servers().await;
    let scratch = common::servers::Scratch::new("spool");
    let settings = settings(&mysqld, &mongod, scratch.path());
    let daemon = Daemon::start(&settings);
    let load = Load::start(&mysqld, 2);
    daemon.wait_for_log(STREAMING, SOON).await;
    load.more(100).await;
    for round in 1..=2 {
        mongod.kill();
        wait_until("batches are spooled", SOON, async || {
            count(&daemon, "spooling") == round
        })
        .await;
        load.more(500).await;
        // While MongoDB is away, what is spooled needs no binlog any more.
        mongod.start_again().await;
        wait_until("the spool is drained", BACKLOG, async || {
            count(&daemon, "the spool is empty again") == round
        })
        .await;
        load.more(50).await;
    }
    load.stop().await;
    assert_eq!(count(&daemon, "circuit breaker open: "), 2);
    assert_eq!(count(&daemon, "circuit breaker closed"), 2);
    assert_exact_then_stop(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_and_started_while_mongodb_is_away_goes_on_spooling() {
    let (mysqld, mongod) = start_servers().await;
    let scratch = common::servers::Scratch::new("spool");
    let settings = settings(&mysqld, &mongod, scratch.path());
    let daemon = Daemon::start(&settings);
    let load = Load::start(&mysqld, 2);
    daemon.wait_for_log(STREAMING, SOON).await;
    load.more(100).await;
    mongod.kill();
    daemon.wait_for_log("spooling", SOON).await;
    load.more(200).await;
    daemon.kill9();
    let daemon = Daemon::start(&settings);
    daemon
        .wait_for_log("Resuming from the spool's GTID", SOON)
        .await;
    daemon.wait_for_log(STREAMING, SOON).await;
    load.more(200).await;
    load.stop().await;
    // What is spooled is as good as recorded: the binlog may go.
    let executed = mysqld.executed_gtid().await;
    daemon.signal(Signal::TERM);
    assert_eq!(
        daemon.wait_exit(SOON).await.0,
        0,
        "the spool takes what a flush holds"
    );
    mysqld
        .root()
        .await
        .query_drop("FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY")
        .await
        .unwrap();
    mongod.start_again().await;
    let daemon = Daemon::start(&settings);
    daemon
        .wait_for_log("the spool goes on from the saved GTID", SOON)
        .await;
    eprintln!("executed when the binlog was purged: {executed}");
    assert_exact_then_stop(&daemon, &mysqld, &mongod, &settings).await;
}
