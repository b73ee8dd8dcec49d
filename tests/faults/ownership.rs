//! Two daemons on one source: the older stops with exit 3, and nothing is written twice.
//!
//! The offset's epoch is the fence; these tests bring the two daemons together in every order: both awake under load, both
//! idle, started in the same moment, and as a zombie, a daemon that stood still in the middle of whatever it was doing while
//! another one took over, and then wakes up and goes on.
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::load::{Load, TABLES, create_tables};
use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, wait_until};

const SOON: Duration = Duration::from_secs(30);

/// The contract: from process start to streaming, also when the predecessor left a transaction open.
const RECOVERY: Duration = Duration::from_secs(5);

const STREAMING: &str = "Connected to MySQL";

async fn start_servers() -> (Arc<Mysqld>, Mongod) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    create_tables(&mysqld).await;
    (Arc::new(mysqld), mongod)
}

/// It stops with exit 3 and says that another daemon took over.
async fn assert_fenced(daemon: &Daemon) {
    let (code, elapsed) = daemon.wait_exit(SOON).await;
    eprintln!("fenced after {elapsed:?}");
    assert_eq!(code, 3);
    assert!(
        daemon.has_logged("fenced: another sdl took the source"),
        "it does not say why it stopped"
    );
    assert!(!daemon.has_logged("Shutdown complete"));
}

/// Waits until the offset says that a daemon of at least this epoch has committed more.
async fn committed_more(mongod: &Mongod, database: &str, epoch: i64) {
    let database = mongod.database(database).await;
    let progress = async || {
        let offset = mongo::offset(&database).await.expect("an offset");
        (
            offset.get_i64("epoch").expect("epoch"),
            offset.get_i64("n").expect("n"),
        )
    };
    let (_, before) = progress().await;
    wait_until("the new owner commits", SOON, async || {
        let (owner, n) = progress().await;
        owner >= epoch && n > before
    })
    .await;
}

async fn epoch(mongod: &Mongod, database: &str) -> i64 {
    let database = mongod.database(database).await;
    mongo::offset(&database)
        .await
        .expect("an offset")
        .get_i64("epoch")
        .expect("epoch")
}

/// Exact, and staging is empty, after one more start that finds whatever the loser left behind.
async fn assert_exact_after_a_restart(
    daemon: Daemon,
    mysqld: &Mysqld,
    mongod: &Mongod,
    settings: &Settings,
) {
    caught_up(mysqld, mongod, settings.database()).await;
    daemon.signal(Signal::TERM);
    assert_eq!(
        daemon.wait_exit(SOON).await.0,
        0,
        "the owner is not disturbed"
    );
    let daemon = Daemon::start(settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(mysqld, mongod, settings.database()).await;
    fold::assert_exact(mysqld, mongod, settings.database(), &TABLES).await;
}

#[tokio::test]
async fn a_second_daemon_under_load_takes_over_and_the_first_stops() {
    let (mysqld, mongod) = start_servers().await;
    let settings = Settings::new(&mysqld, &mongod).set("BATCH_SIZE", 20);
    let load = Load::start(&mysqld, 3);
    let mut owner = Daemon::start(&settings);
    owner.wait_for_log(STREAMING, SOON).await;
    // The same environment twice, as two units of one configuration have it, and with a server id of its own.
    for next in [
        settings.clone(),
        settings.clone().set("MYSQL_SERVER_ID", 99_999),
    ] {
        load.more(100).await;
        let older = std::mem::replace(&mut owner, Daemon::start(&next));
        assert_fenced(&older).await;
        owner.wait_for_log(STREAMING, SOON).await;
        assert!(owner.is_running(), "the newer one goes on");
    }
    load.more(100).await;
    load.stop().await;
    assert_exact_after_a_restart(owner, &mysqld, &mongod, &settings).await;
}

/// Nothing passes, so nobody runs into the fence by committing; still the older must notice and say why it stops.
#[tokio::test]
async fn a_second_daemon_on_a_quiet_source_takes_over_and_the_first_stops() {
    let (mysqld, mongod) = start_servers().await;
    let settings = Settings::new(&mysqld, &mongod);
    let older = Daemon::start(&settings);
    older.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, &mongod, settings.database()).await;
    let newer = Daemon::start(&settings);
    assert_fenced(&older).await;
    mysqld
        .exec("INSERT INTO load_test.plain VALUES (1, 1, 'after the change of owner')")
        .await;
    assert!(newer.is_running(), "the newer one goes on");
    assert_exact_after_a_restart(newer, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn two_daemons_started_in_the_same_moment_leave_one_owner() {
    let (mysqld, mongod) = start_servers().await;
    let settings = Settings::new(&mysqld, &mongod).set("BATCH_SIZE", 20);
    let load = Load::start(&mysqld, 3);
    load.more(100).await;
    let daemons = [Daemon::start(&settings), Daemon::start(&settings)];
    wait_until("one of the two stops", SOON, async || {
        daemons.iter().any(|daemon| !daemon.is_running())
    })
    .await;
    let [first, second] = daemons;
    let (loser, owner) = if first.is_running() {
        (second, first)
    } else {
        (first, second)
    };
    assert_fenced(&loser).await;
    load.more(100).await;
    load.stop().await;
    assert!(owner.is_running(), "one of them goes on");
    assert_exact_after_a_restart(owner, &mysqld, &mongod, &settings).await;
}

/// Stopped at random moments, so also between the statements of a commit and with a transaction open.
#[tokio::test]
async fn a_zombie_that_wakes_up_after_a_take_over_stops_and_writes_nothing() {
    let (mysqld, mongod) = start_servers().await;
    let settings = Settings::new(&mysqld, &mongod).set("BATCH_SIZE", 20);
    let load = Load::start(&mysqld, 3);
    let mut owner = Daemon::start(&settings);
    owner.wait_for_log(STREAMING, SOON).await;
    for round in 1..=6 {
        load.more(30 + fastrand::u64(..20)).await;
        owner.signal(Signal::STOP);
        let before = epoch(&mongod, settings.database()).await;
        let zombie = std::mem::replace(&mut owner, Daemon::start(&settings));
        let started = Instant::now();
        owner.wait_for_log(STREAMING, SOON).await;
        let recovery = started.elapsed();
        eprintln!("round {round}: streaming {recovery:?} after the start");
        assert!(
            recovery < RECOVERY,
            "the zombie's open transaction held the new owner up for {recovery:?}"
        );
        committed_more(&mongod, settings.database(), before + 1).await;
        zombie.signal(Signal::CONT);
        assert_fenced(&zombie).await;
    }
    load.stop().await;
    assert_exact_after_a_restart(owner, &mysqld, &mongod, &settings).await;
}
