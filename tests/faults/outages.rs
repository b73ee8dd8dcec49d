//! A server that is not there yet, goes away, stands still, or cuts the connection: the daemon waits and goes on, exactly.
//!
//! In none of these may it exit, skip or double anything; each test ends with the fold. "Goes on" is a line of the log that
//! comes once more, and an offset that reaches what MySQL has executed.
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::faults::{
    BACKLOG, SOON, STREAMING, assert_goes_on_exactly, kill_dump_threads, settings, start_servers,
    times_logged, under_load,
};
use crate::common::load::create_tables;
use crate::common::servers::free_port;
use crate::common::{
    Daemon, Mongod, Mysqld, Settings, Signal, caught_up_within, fold, mongo, wait_until,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const WAITING: &str = "trying again";

/// It has connected to MySQL so many times.
async fn streams_again(daemon: &Daemon, times: usize) {
    wait_until("the daemon streams again", SOON, async || {
        times_logged(daemon, STREAMING) >= times
    })
    .await;
}

// --- not there yet

#[tokio::test]
async fn a_daemon_started_before_mysql_waits_for_it() {
    let mongod = Mongod::shared().await;
    let port = free_port();
    let settings = {
        let elsewhere = Mysqld::start().await;
        settings(&elsewhere, mongod).set("MYSQL_ADDR", format!("127.0.0.1:{port}"))
    };
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(WAITING, SOON).await;
    let mysqld = Mysqld::start_at(port, &[]).await;
    create_tables(&mysqld).await;
    mysqld
        .exec("INSERT INTO load_test.keyed VALUES (1, 1, 'one')")
        .await;
    daemon.wait_for_log(STREAMING, SOON).await;
    assert_goes_on_exactly(&daemon, &mysqld, mongod, &settings).await;
}

#[tokio::test]
async fn a_daemon_started_before_mongodb_waits_for_it() {
    let (mysqld, mongod) = start_servers().await;
    mongod.kill();
    let uri = format!("{}&serverSelectionTimeoutMS=500", mongod.uri());
    let settings = settings(&mysqld, &mongod).set("MONGO_URI", uri);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(WAITING, SOON).await;
    mysqld
        .exec("INSERT INTO load_test.keyed VALUES (1, 1, 'one')")
        .await;
    mongod.start_again().await;
    daemon.wait_for_log(STREAMING, SOON).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

// --- MySQL

#[tokio::test]
async fn mysql_killed_in_the_middle_of_the_load_is_read_on_when_it_is_back() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    for round in 2..=4 {
        mysqld.kill();
        mysqld.start_again().await;
        streams_again(&daemon, round).await;
        load.more(50).await;
    }
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn mysql_restarted_in_the_middle_of_the_load_is_read_on() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    for round in 2..=3 {
        mysqld.restart().await;
        streams_again(&daemon, round).await;
        load.more(50).await;
    }
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn a_killed_dump_thread_is_replaced() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    for round in 2..=6 {
        assert!(
            kill_dump_threads(&mysqld).await.expect("SHOW PROCESSLIST") > 0,
            "the daemon has a dump thread"
        );
        streams_again(&daemon, round).await;
        load.more(20).await;
    }
    load.stop().await;
    // Quiet now: cut off again and again without a transaction in between, it must not take that for damage.
    for round in 7..=9 {
        assert!(
            kill_dump_threads(&mysqld).await.expect("SHOW PROCESSLIST") > 0,
            "the daemon has a dump thread"
        );
        streams_again(&daemon, round).await;
    }
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// The connection stays open and nothing comes, not even a heartbeat: nobody but the daemon notices.
#[tokio::test]
async fn mysql_that_stands_still_is_taken_for_dead_and_read_on_when_it_wakes_up() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    mysqld.pause();
    daemon
        .wait_for_log("not even a heartbeat", Duration::from_secs(60))
        .await;
    mysqld.resume();
    streams_again(&daemon, 2).await;
    load.more(50).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

// --- MongoDB

#[tokio::test]
async fn mongodb_killed_in_the_middle_of_the_load_gets_everything_when_it_is_back() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    for round in 1..=3 {
        mongod.kill();
        load.more(50).await;
        mongod.start_again().await;
        commits_more(&mongod, settings.database()).await;
        assert!(daemon.is_running(), "round {round}");
    }
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn mongodb_restarted_in_the_middle_of_the_load_gets_everything() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    mongod.restart().await;
    commits_more(&mongod, settings.database()).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn mongodb_that_stands_still_for_seconds_gets_everything_when_it_wakes_up() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    mongod.pause();
    // The length of the outage is the fault itself.
    tokio::time::sleep(Duration::from_secs(6)).await;
    mongod.resume();
    commits_more(&mongod, settings.database()).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// A commit conflicts, loses its answer, or is told to come again: the errors that MongoDB itself can be asked to give.
#[tokio::test]
async fn commits_whose_outcome_is_unknown_or_that_must_be_tried_again_are_in_once() {
    let mysqld = Arc::new(Mysqld::start().await);
    let mongod = Mongod::start_with(&["--setParameter", "enableTestCommands=1"]).await;
    create_tables(&mysqld).await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    let faults = [
        // The answer to a commit is lost: the connection closes, before or after it took effect.
        (
            "commitTransaction",
            mongodb::bson::doc! { "closeConnection": true },
        ),
        // It took effect, and the majority is said to be unreachable.
        (
            "commitTransaction",
            mongodb::bson::doc! { "writeConcernError": { "code": 91, "errmsg": "shutting down" } },
        ),
        (
            "commitTransaction",
            mongodb::bson::doc! { "errorCode": 251, "errorLabels": ["TransientTransactionError"] },
        ),
        (
            "insert",
            mongodb::bson::doc! { "errorCode": 112, "errorLabels": ["TransientTransactionError"] },
        ),
        ("insert", mongodb::bson::doc! { "closeConnection": true }),
        ("update", mongodb::bson::doc! { "errorCode": 189 }),
        ("delete", mongodb::bson::doc! { "closeConnection": true }),
        (
            "abortTransaction",
            mongodb::bson::doc! { "closeConnection": true },
        ),
    ];
    for (command, fault) in faults {
        let before = hits(&mongod, "failCommand").await;
        let mut data = mongodb::bson::doc! { "failCommands": [command], "appName": "sdl" };
        data.extend(fault.clone());
        if command == "abortTransaction" {
            // There must be something to abort.
            data.insert("failCommands", vec!["insert", "abortTransaction"]);
        }
        mongod
            .admin(mongodb::bson::doc! { "configureFailPoint": "failCommand", "mode": { "times": 3 }, "data": data })
            .await;
        wait_until(&format!("{command} failed: {fault}"), SOON, async || {
            hits(&mongod, "failCommand").await >= before + 3
        })
        .await;
        mongod
            .admin(mongodb::bson::doc! { "configureFailPoint": "failCommand", "mode": "off" })
            .await;
        commits_more(&mongod, settings.database()).await;
        assert!(daemon.is_running(), "after {command} failed: {fault}");
    }
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

// --- in the middle of a transaction larger than a batch

/// 60 MB in one transaction of 3000 rows, 10 rows a batch. The daemon's buffers and the sockets hold a fifth of it at most, so
/// whatever happens while the first hundreds of rows are committed happens in the middle of reading it.
async fn large_transaction(mysqld: &Mysqld) {
    mysqld
        .exec(
            "SET SESSION cte_max_recursion_depth = 100000;
             CREATE TABLE load_test.wide (id INT, t MEDIUMTEXT);
             INSERT INTO load_test.wide WITH RECURSIVE number AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM number WHERE i < 3000)
             SELECT i, REPEAT(CHAR(65 + i % 26), 20000) FROM number",
        )
        .await;
}

/// A transaction that takes longer to arrive than the daemon waits before it asks a quiet server what is the matter.
#[tokio::test]
async fn a_large_transaction_over_a_slow_line_is_read_in_one_go() {
    /// 60 MB take 48 s.
    const BYTES_A_SECOND: usize = 1_250_000;
    let (mysqld, mongod) = start_servers().await;
    large_transaction(&mysqld).await;
    let line = slow_line(&mysqld, BYTES_A_SECOND).await;
    let settings = settings(&mysqld, &mongod).set("MYSQL_ADDR", line);
    let daemon = Daemon::start(&settings);
    let started = Instant::now();
    caught_up_within(&mysqld, &mongod, settings.database(), BACKLOG).await;
    assert!(
        started.elapsed() > Duration::from_secs(40),
        "the line was not slow: {:?}",
        started.elapsed()
    );
    fold::assert_exact(&mysqld, &mongod, settings.database(), &["load_test.wide"]).await;
    assert_eq!(
        times_logged(&daemon, STREAMING),
        1,
        "it was cut off on the way"
    );
}

/// The address of a line to the server that passes so many bytes a second from it, a little at a time.
async fn slow_line(mysqld: &Mysqld, bytes_a_second: usize) -> String {
    const TICK: Duration = Duration::from_millis(50);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = mysqld.addr();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.expect("the server");
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = tokio::io::copy(&mut from_client, &mut to_server);
                let down = async {
                    let mut piece = vec![0; bytes_a_second / 20];
                    loop {
                        let length = from_server.read(&mut piece).await?;
                        if length == 0 {
                            return Ok(0);
                        }
                        to_client.write_all(&piece[..length]).await?;
                        // The line itself, not a wait for anything.
                        tokio::time::sleep(TICK.mul_f64(length as f64 / piece.len() as f64)).await;
                    }
                };
                // Either end has gone: so has the line.
                let _: std::io::Result<u64> = tokio::select! { up = up => up, down = down => down };
            });
        }
    });
    address
}

/// Waits until rows of the open transaction are committed, and says how many.
async fn in_the_middle(mongod: &Mongod, database: &str, at_least: i64) -> i64 {
    let database = mongod.database(database).await;
    let mut rows = 0;
    wait_until(
        "the large transaction is committed in part",
        SOON,
        async || {
            let offset = mongo::offset(&database).await;
            rows = offset
                .as_ref()
                .and_then(|offset| offset.get_document("partial").ok())
                .map_or(0, |partial| partial.get_i64("rows").expect("rows"));
            rows >= at_least
        },
    )
    .await;
    assert!(
        rows < 1500,
        "too late for the middle: {rows} rows are committed"
    );
    rows
}

#[tokio::test]
async fn a_disconnect_in_the_middle_of_a_large_transaction_is_exact() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod).set("BATCH_SIZE", 10);
    large_transaction(&mysqld).await;
    let daemon = Daemon::start(&settings);
    let rows = in_the_middle(&mongod, settings.database(), 1).await;
    assert!(
        kill_dump_threads(&mysqld).await.expect("SHOW PROCESSLIST") > 0,
        "the dump was still going on"
    );
    streams_again(&daemon, 2).await;
    eprintln!("the dump thread was killed after {rows} rows");
    let rows = in_the_middle(&mongod, settings.database(), rows + 1).await;
    mysqld.kill();
    mysqld.start_again().await;
    streams_again(&daemon, 3).await;
    eprintln!("mysqld was killed after {rows} rows");
    assert_large_is_exact(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn mongodb_killed_in_the_middle_of_a_large_transaction_gets_every_row_once() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod).set("BATCH_SIZE", 10);
    large_transaction(&mysqld).await;
    let daemon = Daemon::start(&settings);
    let rows = in_the_middle(&mongod, settings.database(), 1).await;
    mongod.kill();
    mongod.start_again().await;
    in_the_middle(&mongod, settings.database(), rows + 1).await;
    assert_large_is_exact(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn a_daemon_killed_in_the_middle_of_a_large_transaction_goes_on_behind_the_last_row() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod).set("BATCH_SIZE", 10);
    large_transaction(&mysqld).await;
    let mut daemon = Daemon::start(&settings);
    let mut rows = 0;
    for _ in 0..3 {
        rows = in_the_middle(&mongod, settings.database(), rows + 1).await;
        daemon.kill9();
        daemon = Daemon::start(&settings);
    }
    daemon.wait_for_log(STREAMING, SOON).await;
    assert_large_is_exact(&daemon, &mysqld, &mongod, &settings).await;
}

async fn assert_large_is_exact(
    daemon: &Daemon,
    mysqld: &Mysqld,
    mongod: &Mongod,
    settings: &Settings,
) {
    caught_up_within(mysqld, mongod, settings.database(), BACKLOG).await;
    fold::assert_exact(mysqld, mongod, settings.database(), &["load_test.wide"]).await;
    let changes = mongod.changes(settings.database()).await;
    let partial = changes
        .iter()
        .filter(|change| {
            change
                .get_document("meta")
                .is_ok_and(|meta| meta.get_bool("partial").unwrap_or(false))
        })
        .count();
    assert_eq!(
        partial, 3000,
        "every document of a transaction that was cut says so"
    );
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

// --- helpers

/// Waits until the offset has moved from where it is now.
async fn commits_more(mongod: &Mongod, database: &str) {
    let database = mongod.database(database).await;
    let batch = async || {
        mongo::offset(&database)
            .await
            .expect("an offset")
            .get_i64("batch")
            .expect("batch")
    };
    let before = batch().await;
    wait_until("the daemon commits again", SOON, async || {
        batch().await > before
    })
    .await;
}

/// How often a fail point of MongoDB has struck.
async fn hits(mongod: &Mongod, name: &str) -> i64 {
    let parameter = format!("failpoint.{name}");
    let answer = mongod
        .admin(mongodb::bson::doc! { "getParameter": 1, &parameter: 1 })
        .await;
    let state = answer
        .get_document(&parameter)
        .unwrap_or_else(|error| panic!("no {parameter} ({error}): {answer}"));
    state
        .get_i64("timesEntered")
        .or_else(|_| state.get_i32("timesEntered").map(i64::from))
        .expect("timesEntered")
}
